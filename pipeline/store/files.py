"""Open files beneath a root without following links out of it, even links that are created meanwhile.

Each folder on the path is opened in the one before it, without following a link, and the last part is used in
the folder that was reached. Where a system cannot do that, the path is checked first.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import StoreError

BY_DESCRIPTOR = {os.open, os.stat, os.mkdir, os.link, os.unlink, os.rename} <= os.supports_dir_fd
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
# NONBLOCK: opening a pipe without a writer would wait forever.
_READING = os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_MAKING = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | getattr(os, "O_BINARY", 0)
_LISTING = os.O_RDONLY | _NO_LINK | getattr(os, "O_DIRECTORY", 0)
_PASSING = getattr(os, "O_PATH", os.O_RDONLY) | _NO_LINK | getattr(os, "O_DIRECTORY", 0)
NO_SUCH_FILE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO)
_HELD = 16  # folders that one `Tree` keeps open

Place = tuple[str, int | None]  # a name, and the folder that holds it as `dir_fd`


class Forbidden(StoreError):
    """Report a file that exists but may not be opened."""

    def __init__(self, state: os.stat_result) -> None:
        super().__init__("a file may not be read")
        self.state = state


def signature(state: os.stat_result) -> tuple[int, ...]:
    """Return numbers that tell one state of a file from another, without reading it."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def same(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether an open file did not change in between.

    Its inode is not compared: an open file stays the same one, and some network shares renumber it.
    """
    return signature(before)[2:] == signature(after)[2:]


@contextmanager
def beneath(root: str, parts: Sequence[str], make: bool = False) -> Iterator[Place]:
    """Yield the place of a file beneath a root, for functions that take a `dir_fd`.

    Raises OSError when a folder on the path is a link, or is missing and not to be made.
    """
    if not BY_DESCRIPTOR:
        yield _looked_up(root, parts, make), None
        return
    folder = open_folder(root, parts[:-1], make)
    try:
        yield parts[-1], folder
    finally:
        os.close(folder)


def open_folder(root: str | int, parts: Sequence[str], make: bool = False, flags: int = _PASSING) -> int:
    """Open a folder beneath a root or another open folder, see `beneath`; the caller closes it."""
    last = len(parts) - 1
    way = (flags if last < 0 else _PASSING) & ~_NO_LINK
    folder = os.open(root, way) if isinstance(root, str) else os.open(".", way, dir_fd=root)
    try:
        for number, part in enumerate(parts):
            way = flags if number == last else _PASSING
            try:
                inner = os.open(part, way, dir_fd=folder)
            except FileNotFoundError:
                if not make:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700 | shared(os.fstat(folder)), dir_fd=folder)
                inner = os.open(part, way, dir_fd=folder)
            os.close(folder)
            folder = inner
    except BaseException:
        os.close(folder)
        raise
    return folder


class Tree:
    """List the folders beneath a root, one at a time; parents of the last stay open, as the next is near."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._held: list[tuple[Sequence[str], int]] = []  # outermost first

    @contextmanager
    def listed(self, parts: Sequence[str]) -> Iterator[Iterator[os.DirEntry[str]]]:
        """Yield the entries of a folder, valid until the next is listed; raise OSError as `beneath` does."""
        if not BY_DESCRIPTOR:
            with os.scandir(_looked_up(self._root, [*parts, ""])) as entries:
                yield entries
            return
        while self._held and self._held[-1][0] != parts[: len(self._held[-1][0])]:
            os.close(self._held.pop()[1])
        near, start = self._held[-1] if self._held else ((), self._root)
        folder = open_folder(start, parts[len(near) :], flags=_LISTING)
        self._held.append((parts, folder))
        if len(self._held) > _HELD:
            os.close(self._held.pop(0)[1])
        with os.scandir(folder) as entries:
            yield entries

    def close(self) -> None:
        """Close the folders that are still open."""
        while self._held:
            os.close(self._held.pop()[1])


def shared(folder: os.stat_result) -> int:
    """Return the permissions of the group for new files in a folder: none, as for all others.

    But a folder with the set-group-ID bit is shared by a department.
    """
    return 0o070 if folder.st_mode & stat.S_ISGID else 0


def write_new(new: Place, data: bytes, place: Place) -> None:
    """Write a new file to be moved to another place, see `shared`; raise FileExistsError if it exists."""
    folder = None if place[1] is None else os.fstat(place[1])
    group = shared(folder) & 0o060 if folder else 0
    descriptor = os.open(new[0], _MAKING, 0o600 | group, dir_fd=new[1])
    with os.fdopen(descriptor, "wb") as file:
        if folder and group:
            with suppress(OSError):  # a share without groups
                os.fchown(descriptor, -1, folder.st_gid)
        file.write(data)


def finish(path: Path, place: Place) -> None:
    """Make a written file, which is to be moved to another place, safe from a power cut; see `shared`."""
    folder = None if place[1] is None else os.fstat(place[1])
    with path.open("rb+") as file:
        if folder and (group := shared(folder) & 0o060):
            with suppress(OSError):  # a share without groups
                os.fchown(file.fileno(), -1, folder.st_gid)
                os.fchmod(file.fileno(), 0o600 | group)
        os.fsync(file.fileno())


def sync_folder(place: Place) -> None:
    """Make the names in the folder of a place safe from a power cut, where the system can do that."""
    if place[1] is None:
        return
    folder = os.open(".", _LISTING, dir_fd=place[1])
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder)


def rename(old: Place, new: Place) -> None:
    """Move a file, replacing one that exists there."""
    os.replace(old[0], new[0], src_dir_fd=old[1], dst_dir_fd=new[1])


def remove(place: Place) -> None:
    """Remove a file, if it exists."""
    with suppress(FileNotFoundError):
        os.unlink(place[0], dir_fd=place[1])


def at(place: Place) -> os.stat_result | None:
    """Return the status of the file at a place, or None; a link is not followed."""
    try:
        return os.stat(place[0], dir_fd=place[1], follow_symlinks=False)
    except FileNotFoundError:
        return None


def state(root: str, parts: Sequence[str]) -> os.stat_result | None:
    """Return the status of a file beneath a root, or None; a link is not followed."""
    with suppress(OSError, ValueError), beneath(root, parts) as place:
        return at(place)
    return None


@contextmanager
def open_beneath(root: str, parts: Sequence[str]) -> Iterator[BinaryIO | None]:
    """Open a regular file for reading, without following a link; yield None where there is none."""
    descriptor = _descriptor(root, parts)
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


def _descriptor(root: str, parts: Sequence[str]) -> int | None:
    try:
        with beneath(root, parts) as (name, folder):
            return os.open(name, _READING, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in NO_SUCH_FILE:
            return None
        found = state(root, parts)
        if found and not stat.S_ISREG(found.st_mode):
            return None
        if found and error.errno in (errno.EACCES, errno.EPERM):
            raise Forbidden(found) from None
        raise StoreError(f"a file cannot be read: {error.strerror}") from None  # the cause would name it


def _looked_up(root: str, parts: Sequence[str], make: bool = False) -> str:
    """Return the path of a file, where folders on the path can only be checked and not be held open."""
    folder = Path(root, *parts[:-1])
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.resolve().is_relative_to(root):
        raise NotADirectoryError(errno.ENOTDIR, "a link leads out of the folder")
    return str(folder / parts[-1])
