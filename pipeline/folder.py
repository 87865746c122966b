"""A folder that keeps S3's promises, for local mode: several processes and people may work on one root.

An object is a file under `inbox/` or `outbox/`. Its ETag is the MD5 of the bytes that were read, as S3's is
for a plain upload. A new object is a finished temporary file, linked into place: there is no moment at which
half of it can be seen, and of two creators one fails. A replacement is checked and swapped under a lock that
all our processes share.
"""

import errno
import hashlib
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from filelock import FileLock

from pipeline.errors import (
    ConditionFailed,
    KeyNotUsable,
    ObjectTooLarge,
    ObjectUnreadable,
    StoreError,
    UsageError,
)
from pipeline.files import NO_SUCH_FILE, Forbidden, link, opened, same, signature, write
from pipeline.names import INBOX, MAX_NAME_BYTES, OUTBOX, is_unfinished
from pipeline.ports import Job, ObjectInfo
from pipeline.walk import keys

PRIVATE = ".cxr"  # beside inbox/ and outbox/: temporary files, locks, the index
_LOCKS = 64  # lock files; keys share them, which costs a little waiting and no correctness
_CHUNK = 1 << 20
_STABLE_READS = 5  # tries to read a file that is being written to
# A file this young may change without a trace: within one tick of its clock, or preallocated.
_RACY_NS = 10_000_000_000
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_CACHE = 65_536  # ETags kept, about 20 MB


class FolderStore:
    """The store of local mode, in the folder `root`; made if it is missing.

    Keys begin with one of `folders`; those of another archive than ours may be anything. A store that is not
    `writable` makes nothing in its folder, and takes no `put`.
    """

    def __init__(self, root: Path, folders: tuple[str, ...] = (INBOX, OUTBOX), writable: bool = True) -> None:
        self.root = root.resolve()
        self._root, self._inside = str(self.root), os.path.join(self.root, "")  # noqa: PTH118
        self.bucket = self.root.name
        self._folders, self._writable = folders, writable
        self._etags: OrderedDict[tuple[int, ...], str] = OrderedDict()
        self._guard = Lock()
        if writable:
            self._make_folders()
            self._sweep()

    def _make_folders(self) -> None:
        for name in (*self._folders, f"{PRIVATE}/tmp", f"{PRIVATE}/locks"):
            try:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                reason = f"{self.root / name} cannot be made: {error.strerror}; name another --root"
                raise UsageError(reason) from error
            if not (self.root / name).resolve().is_relative_to(self.root):
                raise UsageError(f"{self.root / name} is a link; name the folder that it leads to as --root")

    def head(self, key: str) -> ObjectInfo | None:
        """The object's description, or None; reads the file only if its ETag is not known yet.

        One that may not be read has an ETag that changes with its permissions.
        """
        try:
            return self._head(key)
        except Forbidden as error:
            return _info(key, f"unreadable-{error.state.st_ctime_ns}", error.state)

    def _head(self, key: str) -> ObjectInfo | None:
        for _ in range(_STABLE_READS):
            with opened(self._path(key)) as file:
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
        raise StoreError("the file keeps changing while it is read; it will be looked at again")

    def get(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """The object with its bytes, or None; ObjectTooLarge, unread, when it has more than `limit` bytes.

        ObjectUnreadable when this process may not read it.
        """
        try:
            return self._get(key, limit)
        except Forbidden as error:
            info = _info(key, f"unreadable-{error.state.st_ctime_ns}", error.state)
            raise ObjectUnreadable(info) from None

    def _get(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        for _ in range(_STABLE_READS):
            with opened(self._path(key)) as file:
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
        raise StoreError("the file keeps changing while it is read; it will be looked at again")

    def put(self, key: str, data: bytes, expected: str | None) -> str:
        """Write on condition, see `ports.Store`; returns the new ETag."""
        path = self._path(key) if self._writable else None
        if path is None or len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            raise KeyNotUsable("this name cannot be a file of the folder")
        temporary = self.root / PRIVATE / "tmp" / uuid.uuid4().hex
        try:
            write(temporary, data)
            if expected is None:
                self._create(temporary, path, key)
            else:
                self._replace(temporary, path, key, expected)
            return hashlib.md5(data, usedforsecurity=False).hexdigest()
        except OSError as error:
            if error.errno in NO_SUCH_FILE or isinstance(error, NotADirectoryError | FileExistsError):
                raise KeyNotUsable("a file or folder of the same name is in the way") from None
            raise StoreError(f"the folder cannot be written to: {error.strerror or 'it is locked'}") from None
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        """Remove the object; absent is fine."""
        path = self._path(key)
        if path is not None:
            with self._lock(key), suppress(FileNotFoundError):
                path.unlink()

    def names(self, prefix: str) -> Iterator[Job]:
        """All files under a prefix, see `ports.FullStore`; links, too, which are no objects."""
        return map(Job, keys(self.root, prefix))

    def holds(self, key: str) -> bool:
        """Whether there is such a file, or one in such a folder."""
        found = keys(self.root, key) if key.endswith("/") else [key]
        return any(self.head(one) for one in found)

    def purge(self, key: str) -> int:
        """Remove a file, or those of a folder, see `ports.Store`; there are no other versions."""
        found = [info.key for info in self.list(key)] if key.endswith("/") else [key]
        found = [one for one in found if self.head(one)]
        for one in found:
            self.delete(one)
        return len(found)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects under a prefix; a file that cannot be read now is left out."""
        for key in keys(self.root, prefix):
            with suppress(StoreError):
                info = self.head(key)
                if info:
                    yield info

    def jobs(self, prefix: str) -> Iterator[Job]:
        """All that is to be judged under a prefix, see `ports.Source`: not what is hidden or unfinished.

        Reads no file, so there are no ETags; links are listed, and found to be no objects.
        """
        return (Job(key) for key in keys(self.root, prefix, strict=True) if not is_unfinished(key))

    def _create(self, temporary: Path, path: Path, key: str) -> None:
        """Without the lock: who holds it replaces what is there, and a link is made where nothing is."""
        try:
            link(path, temporary)
        except FileExistsError:
            raise _in_the_way(path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._create_without_links(temporary, path, key)

    def _create_without_links(self, temporary: Path, path: Path, key: str) -> None:
        """As some network shares need it; others of our processes that cannot link hold the lock, too."""
        with self._lock(key):
            if os.path.lexists(path):
                raise _in_the_way(path)
            temporary.replace(path)

    def _replace(self, temporary: Path, path: Path, key: str, expected: str) -> None:
        with self._lock(key):
            now = self.head(key)
            if now is None or now.etag != expected:
                raise ConditionFailed("the object is not the one that was read")
            temporary.replace(path)

    def _path(self, key: str) -> Path | None:
        """The file of a key; None for a key that is none, and where a link leads out of the root."""
        parts = key.split("/")
        if parts[0] == PRIVATE or not key.startswith(self._folders):
            return None
        if "\0" in key or any(part in ("", ".", "..") for part in parts):
            return None
        folder = os.path.join(self._root, *parts[:-1])  # noqa: PTH118  four times for each image
        with suppress(OSError):
            found = os.path.realpath(folder)
            if found == folder or found.startswith(self._inside):
                return Path(folder, parts[-1])
        return None

    def _lock(self, key: str) -> FileLock:
        stripe = int(hashlib.sha256(os.fsencode(key)).hexdigest()[:8], 16) % _LOCKS
        return FileLock(self.root / PRIVATE / "locks" / f"{stripe}.lock", timeout=60, is_singleton=False)

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
        """Remove what a killed process left half-written an hour ago or more."""
        for path in (self.root / PRIVATE / "tmp").iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > 3600:
                    path.unlink()


def _in_the_way(path: Path) -> ConditionFailed | KeyNotUsable:
    """What it means that a new object's place is taken."""
    if path.is_dir() or path.is_symlink():
        return KeyNotUsable("a folder or a link of the same name is in the way")
    return ConditionFailed("the object exists already")


def _info(key: str, etag: str, state: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, etag, state.st_size, datetime.fromtimestamp(state.st_mtime, UTC))
