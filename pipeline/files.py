"""Files as the folder store needs them: read without following a link, and made with their folders."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import StoreError

# NONBLOCK: opening a pipe without a writer would wait for ever.
_READING = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
NO_SUCH_FILE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO)


class Forbidden(StoreError):
    """The file is there and may not be opened."""

    def __init__(self, state: os.stat_result) -> None:
        super().__init__("a file may not be read")
        self.state = state


def signature(state: os.stat_result) -> tuple[int, ...]:
    """What tells one state of a file from another, without reading it."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def same(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a file did not change in between."""
    return signature(before) == signature(after)


def write(path: Path, data: bytes) -> None:
    """Write a file, and make its folder if that is missing."""
    try:
        path.write_bytes(data)
    except FileNotFoundError:  # somebody has tidied up
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def link(path: Path, target: Path) -> None:
    """Make a file another name of `target`, and its folder if that is missing; FileExistsError."""
    try:
        path.hardlink_to(target)
    except FileNotFoundError:  # the first in its folder
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(target)


@contextmanager
def opened(path: Path | None) -> Iterator[BinaryIO | None]:
    """A regular file opened for reading, without following a link; None when there is none such."""
    descriptor = _descriptor(path) if path else None
    if descriptor is None:
        yield None
        return
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        yield None
        return
    with os.fdopen(descriptor, "rb") as file:
        try:
            yield file
        except OSError as error:  # a damaged disk, or a share that went away
            raise StoreError(f"a file cannot be read: {error.strerror}") from None


def _descriptor(path: Path) -> int | None:
    try:
        return os.open(path, _READING)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in NO_SUCH_FILE:
            return None
        state = _state(path)
        if state and not stat.S_ISREG(state.st_mode):
            return None
        if state and error.errno in (errno.EACCES, errno.EPERM):
            raise Forbidden(state) from None
        raise StoreError(f"a file cannot be read: {error.strerror}") from None  # the cause would name it


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None
