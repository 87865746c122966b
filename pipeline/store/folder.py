"""Keep S3's promises in a folder, for local mode: several processes and people may work on one root.

An object is a file under `inbox/` or `outbox/`. Its ETag is the MD5 of the bytes that were read, as S3's is
for a plain upload. A new object is a finished temporary file, linked into place: at no moment can half of it
be seen, and of two creators one fails. A replacement is checked and swapped under a lock that all our
processes share.
"""

import errno
import hashlib
import os
import stat
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from filelock import FileLock

from pipeline.errors import (
    ConditionFailed,
    KeyNotUsable,
    ObjectTooLarge,
    ObjectUnreadable,
    StoreError,
    UsageError,
)
from pipeline.names import INBOX, MAX_NAME_BYTES, OUTBOX
from pipeline.records import Job, ObjectInfo
from pipeline.store.files import (
    NO_SUCH_FILE,
    Forbidden,
    Place,
    at,
    beneath,
    finish,
    open_beneath,
    remove,
    rename,
    same,
    shared,
    signature,
    sync_folder,
    write_new,
)
from pipeline.store.walk import keys

PRIVATE_FOLDER = ".cxr"  # beside inbox/ and outbox/: temporary files, locks, the index
_LOCKS = 64  # lock files, shared by keys: that costs some waiting, but is correct
_CHUNK = 1 << 20
_STABLE_READS = 5  # tries to read a file that is being written to
# A file this young may change without a trace: within one clock tick, or because it was preallocated.
_RACY_NS = 10_000_000_000
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_CACHE = 65_536  # ETags kept, about 20 MB
_EARLIEST, _LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)  # in any time zone


class FolderStore:
    """Store the objects of local mode in the folder `root`, which is made if it is missing.

    Keys begin with one of `folders`; those of a foreign archive may be anything. A store that is not
    `writable` makes nothing in its folder, and refuses `put`.
    """

    def __init__(self, root: Path, folders: tuple[str, ...] = (INBOX, OUTBOX), writable: bool = True) -> None:
        self.root = root.resolve()
        self._root = str(self.root)
        self.bucket = self.root.name
        self._folders, self._writable = folders, writable
        self._etags: OrderedDict[tuple[int, ...], str] = OrderedDict()
        self._guard = Lock()
        self._lock_mode = 0o600
        if writable:
            self._make_folders()
            self._lock_mode |= shared((self.root / PRIVATE_FOLDER).stat()) & 0o060
            self._sweep()

    def _make_folders(self) -> None:
        """Make missing folders, for this user alone; in a root that its group shares they are shared, too."""
        for name in (*self._folders, PRIVATE_FOLDER, f"{PRIVATE_FOLDER}/tmp", f"{PRIVATE_FOLDER}/locks"):
            path = self.root / name
            try:
                self.root.mkdir(0o700, parents=True, exist_ok=True)
                path.mkdir(0o700 | shared(self.root.stat()), exist_ok=True)
                if path.is_symlink():
                    raise UsageError(f"{path} is a link; name the folder that it leads to as --root")
                if name.startswith(PRIVATE_FOLDER):
                    with suppress(PermissionError):  # another user's folder, of an earlier release
                        path.chmod(path.stat().st_mode & (0o2700 | shared(path.stat())))
            except OSError as error:
                reason = f"{path} cannot be made: {error.strerror}; name another --root"
                raise UsageError(reason) from error

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's description, or None; the file is read only if its ETag is not known yet.

        A file that may not be read has an ETag that changes with its permissions.
        """
        try:
            return self._head(key)
        except Forbidden as error:
            return _info(key, f"unreadable-{error.state.st_ctime_ns}", error.state)

    def _head(self, key: str) -> ObjectInfo | None:
        for _ in range(_STABLE_READS):
            with self._opened(key) as file:
                if file is None:
                    return None
                before = os.fstat(file.fileno())
                etag = self._cached(before)
                if etag:
                    return _info(key, etag, before)
                digest = hashlib.md5(usedforsecurity=False)
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                if same(before, os.fstat(file.fileno())):
                    self._remember(before, digest.hexdigest())
                    return _info(key, digest.hexdigest(), before)
        raise StoreError("the file keeps changing while it is read; it will be tried again")

    def get(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """Return the object with its bytes, or None.

        Raises ObjectTooLarge, without reading it, when the object has more than `limit` bytes, and
        ObjectUnreadable when this process may not read it.
        """
        try:
            return self._get(key, limit)
        except Forbidden as error:
            info = _info(key, f"unreadable-{error.state.st_ctime_ns}", error.state)
            raise ObjectUnreadable(info) from None

    def _get(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        for _ in range(_STABLE_READS):
            with self._opened(key) as file:
                if file is None:
                    return None
                before = os.fstat(file.fileno())
                if before.st_size > limit:
                    info = self.head(key)
                    if info is None or info.size <= limit:
                        continue
                    raise ObjectTooLarge(info)
                data = file.read(before.st_size + 1)
                if same(before, os.fstat(file.fileno())) and len(data) == before.st_size:
                    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
                    self._remember(before, etag)
                    return _info(key, etag, before), data
        raise StoreError("the file keeps changing while it is read; it will be tried again")

    def put(self, key: str, data: bytes, expected: str | None) -> str:
        """Write on condition, see `ports.Store`; return the new ETag."""
        with self._writing(key) as parts:
            self._put(key, parts, data, expected)
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def put_file(self, key: str, path: Path) -> None:
        """Write a file of the same disk as a new object, see `ports.Landing`; it is moved, or linked."""
        with self._writing(key) as parts, beneath(self._root, parts, make=True) as place:
            finish(path, place)
            try:
                self._put_new(key, (str(path), None), place)
            finally:  # also where the object exists: it may have come a moment ago
                sync_folder(place)

    @contextmanager
    def _writing(self, key: str) -> Iterator[Sequence[str]]:
        """Yield the folders and the name of a key that can be written; translate the errors of writing."""
        parts = self._parts(key) if self._writable else None
        if parts is None or len(os.fsencode(parts[-1])) > MAX_NAME_BYTES:
            raise KeyNotUsable("this name cannot be a file in the folder")
        try:
            yield parts
        except OSError as error:
            if error.errno in NO_SUCH_FILE or isinstance(error, NotADirectoryError | FileExistsError):
                raise KeyNotUsable("a file or folder of the same name is in the way") from None
            raise StoreError(f"the folder cannot be written to: {error.strerror or 'it is locked'}") from None

    def _put(self, key: str, parts: Sequence[str], data: bytes, expected: str | None) -> None:
        if expected is not None:
            with self._lock(key):
                now = self.head(key)
                if now is None or now.etag != expected:
                    raise ConditionFailed("the object is not the one that was read")
                with self._written(parts, data) as (new, place):
                    rename(new, place)
            return
        with self._written(parts, data) as (new, place):
            self._put_new(key, new, place)

    def _put_new(self, key: str, new: Place, place: Place) -> None:
        try:  # without the lock, which guards replacing; a link is made only where nothing is
            os.link(new[0], place[0], src_dir_fd=new[1], dst_dir_fd=place[1], follow_symlinks=False)
        except FileExistsError:
            raise _in_the_way(place) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with self._lock(key):  # needed on some network shares
                if at(place):
                    raise _in_the_way(place) from None
                rename(new, place)

    @contextmanager
    def _written(self, parts: Sequence[str], data: bytes) -> Iterator[tuple[Place, Place]]:
        """Yield the place of a finished temporary file, and its destination, on the same disk."""
        name = [PRIVATE_FOLDER, "tmp", uuid.uuid4().hex]
        with beneath(self._root, parts, make=True) as place, beneath(self._root, name, make=True) as new:
            try:
                write_new(new, data, place)
                yield new, place
            finally:
                remove(new)

    def delete(self, key: str) -> None:
        """Remove the object, if it exists."""
        parts = self._parts(key)
        if parts is not None:
            gone = suppress(FileNotFoundError, NotADirectoryError)
            with self._lock(key), gone, beneath(self._root, parts) as place:
                remove(place)

    def names(self, prefix: str, after: str = "") -> Iterator[Job]:
        """Yield all files under a prefix, see `ports.FullStore`; also links, which are not objects."""
        return (Job(key) for key in keys(self.root, prefix) if key > after)

    def holds(self, key: str) -> bool:
        """Return whether there is such a file, or one in such a folder."""
        found = keys(self.root, key) if key.endswith("/") else [key]
        return any(self.head(one) for one in found)

    def purge(self, key: str) -> int:
        """Remove a file, or all files of a folder, see `ports.Store`; there are no other versions."""
        found = [info.key for info in self.list(key)] if key.endswith("/") else [key]
        found = [one for one in found if self.head(one)]
        for one in found:
            self.delete(one)
        return len(found)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Yield all objects under a prefix; a file that cannot be read now is left out."""
        for job in self.names(prefix, after):
            with suppress(StoreError):
                info = self.head(job.key)
                if info:
                    yield info

    def jobs(self, prefix: str) -> Iterator[Job]:
        """Yield all files under a prefix, see `ports.ArchiveSource`.

        No file is read, so there are no ETags. Links are listed too; they turn out not to be objects.
        """
        return (Job(key) for key in keys(self.root, prefix, strict=True))

    @contextmanager
    def _opened(self, key: str) -> Iterator[BinaryIO | None]:
        parts = self._parts(key)
        if parts is None:
            yield None
            return
        with open_beneath(self._root, parts) as file:
            yield file

    def _parts(self, key: str) -> Sequence[str] | None:
        """Return the folders and the name of a key; None for an invalid key."""
        parts = key.split("/")
        if parts[0] == PRIVATE_FOLDER or not key.startswith(self._folders):
            return None
        if "\0" in key or any(part in ("", ".", "..") for part in parts):
            return None
        try:
            os.fsencode(key)
        except UnicodeEncodeError:
            return None
        return parts

    def _lock(self, key: str) -> FileLock:
        stripe = int(hashlib.sha256(os.fsencode(key)).hexdigest()[:8], 16) % _LOCKS
        path = self.root / PRIVATE_FOLDER / "locks" / f"{stripe}.lock"
        return FileLock(path, timeout=60, mode=self._lock_mode, is_singleton=False)

    def _cached(self, state: os.stat_result) -> str | None:
        with self._guard:
            return self._etags.get(signature(state))

    def _remember(self, state: os.stat_result, etag: str) -> None:
        if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) < _RACY_NS:
            return
        with self._guard:
            self._etags[signature(state)] = etag
            if len(self._etags) > _CACHE:
                self._etags.popitem(last=False)

    def _sweep(self) -> None:
        """Remove half-written files that a killed process left an hour ago or more."""
        for path in (self.root / PRIVATE_FOLDER / "tmp").iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > 3600:
                    path.unlink()


def _in_the_way(place: Place) -> ConditionFailed | KeyNotUsable:
    """Return the error for a new object whose place is taken."""
    found = at(place)
    if found and not stat.S_ISREG(found.st_mode):
        return KeyNotUsable("a folder or a link of the same name is in the way")
    return ConditionFailed("the object exists already")


def _info(key: str, etag: str, state: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, etag, state.st_size, _moment(state.st_mtime))


def _moment(seconds: float) -> datetime:
    """Return the time of a file, which may be any number, as the nearest possible date."""
    try:
        return min(max(datetime.fromtimestamp(seconds, UTC), _EARLIEST), _LATEST)
    except (OverflowError, OSError, ValueError):
        return _LATEST if seconds > 0 else _EARLIEST
