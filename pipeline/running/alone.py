"""Allow only one program at a time on a folder."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import UsageError

Tell = Callable[[str], None]  # takes the place where the program runs, for the next one's message


@contextmanager
def alone(path: Path, what: str) -> Iterator[Tell]:
    """Hold the lock file `path` in a `with` block; raise UsageError with the place where `what` runs already.

    The lock goes with its process, however that ends. The text passed to `Tell` is written beside it.
    """
    note, lock = path.with_suffix(".running"), FileLock(path, timeout=0, mode=0o600)
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        lock.acquire()
        _write(note, "starting")
    except Timeout as error:
        reason = f"{what} is already running on this folder, {_said(note)}: use it, or end it first"
        raise UsageError(reason) from error
    except OSError as error:
        lock.release()
        raise UsageError(f"{path} cannot be made: {error.strerror}; name another --root") from error
    try:
        yield partial(_write, note)
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _write(note: Path, where: str) -> None:
    note.write_text(f"{where}, process {os.getpid()}", encoding="utf-8")


def _said(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "in another process"
