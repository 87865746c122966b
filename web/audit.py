"""The audit log of who did what: one JSON line for each action, without names of X-rays."""

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

_Action = Literal[
    "view", "preview", "list", "upload", "resubmit", "export", "send", "login", "review", "forget", "full"
]
_Result = Literal["done", "refused"]

_FILE_BYTES, _FILES = 10_000_000, 10  # the current file and nine older ones: about 500,000 lines


class Audit:
    """Keep the log in the file `path`, readable only by its owner; the oldest lines are dropped.

    `secret` keys the hash that stands for an X-ray's key, as in the other logs (`pipeline.names.key_hash`).
    """

    def __init__(self, path: Path, secret: str, file_bytes: int = _FILE_BYTES) -> None:
        self._secret = secret
        self._file = _PrivateFile(path, maxBytes=file_bytes, backupCount=_FILES - 1, delay=True)

    def note(
        self,
        action: _Action,
        key: str | None,
        result: _Result,
        user: str | None,
        address: str,
        count: int | None = None,
    ) -> None:
        """Add a line; `count` is the number of X-rays read at once.

        If the file cannot be written, this is reported on standard error.
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
    """Make this page's `note` write to the audit log."""
    app.extensions["audit"] = audit


def note(
    action: _Action,
    key: str | None = None,
    result: _Result = "done",
    user: str | None = None,
    count: int | None = None,
) -> None:
    """Note in the page's audit log, if there is one, what this request or another `user` did."""
    audit: Audit | None = current_app.extensions["audit"]
    if audit:
        address = g.get("address") or request.remote_addr or ""
        audit.note(action, key, result, user or g.get("user"), address, count)


class _PrivateFile(RotatingFileHandler):
    """Open the file for each line, so that several processes can write and one can start a new file."""

    def emit(self, record: LogRecord) -> None:
        super().emit(record)
        self.close()

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")
