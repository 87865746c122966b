"""The record of who did what: one JSON line for each, without names of X-rays."""

import json
import os
from datetime import UTC, datetime
from io import TextIOWrapper
from logging import LogRecord, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

from flask import Flask, current_app, g, request

from pipeline.names import key_hash

Action = Literal["view", "preview", "list", "upload", "resubmit", "export", "login"]
Result = Literal["done", "refused"]

_FILE_BYTES, _FILES = 10_000_000, 10  # a file and the older ones: about 500,000 lines


class Audit:
    """The record in the file `path`, which its owner alone may read; the oldest lines go when it is long.

    `secret` keys the hash that stands for an X-ray's key, as it does in the logs (`pipeline.names.key_hash`).
    """

    def __init__(self, path: Path, secret: str, file_bytes: int = _FILE_BYTES) -> None:
        self._secret = secret
        self._file = _PrivateFile(path, maxBytes=file_bytes, backupCount=_FILES - 1, delay=True)

    def note(
        self,
        action: Action,
        key: str | None,
        result: Result,
        user: str | None,
        address: str,
        count: int | None = None,
    ) -> None:
        """Add a line; `count` is how many X-rays were read at once.

        It says on standard error when it cannot be written.
        """
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "user": user,
            "address": address,
            "action": action,
            "result": result,
            "key": key and key_hash(key, self._secret),
            "count": count,
        }
        self._file.handle(makeLogRecord({"msg": json.dumps(line)}))


def keep(app: Flask, audit: Audit | None) -> None:
    """Have this page's `note` write into the audit."""
    app.extensions["audit"] = audit


def note(
    action: Action,
    key: str | None = None,
    result: Result = "done",
    user: str | None = None,
    count: int | None = None,
) -> None:
    """Note what this request did, in the page's audit if it keeps one: by its user, if not by another."""
    audit: Audit | None = current_app.extensions["audit"]
    if audit:
        address = g.get("address") or request.remote_addr or ""
        audit.note(action, key, result, user or g.get("user"), address, count)


class _PrivateFile(RotatingFileHandler):
    """Opened for each line, so that several processes may write, and one of them begin a new file."""

    def emit(self, record: LogRecord) -> None:
        super().emit(record)
        self.close()

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")
