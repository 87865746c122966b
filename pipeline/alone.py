"""One program at a time on a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import UsageError


@contextmanager
def alone(path: Path, what: str, where: str) -> Iterator[None]:
    """Hold the lock file `path` meanwhile; UsageError says where `what` runs already, if it does.

    The lock goes with its process, however that ends; `where` is written beside it for the next one.
    """
    note = path.with_suffix(".running")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path, timeout=0):
            note.write_text(f"{where}, process {os.getpid()}", encoding="utf-8")
            try:
                yield
            finally:
                note.unlink(missing_ok=True)
    except Timeout as error:
        raise UsageError(
            f"{what} runs on this folder already, {_said(note)}: use it, or end it first"
        ) from error


def _said(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "in another process"
