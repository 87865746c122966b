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
    note, lock = path.with_suffix(".running"), FileLock(path, timeout=0, mode=0o600)
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        lock.acquire()
        note.write_text(f"{where}, process {os.getpid()}", encoding="utf-8")
    except Timeout as error:
        reason = f"{what} runs on this folder already, {_said(note)}: use it, or end it first"
        raise UsageError(reason) from error
    except OSError as error:
        lock.release()
        raise UsageError(f"{path} cannot be made: {error.strerror}; name another --root") from error
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _said(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "in another process"
