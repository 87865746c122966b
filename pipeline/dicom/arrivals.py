"""Take DICOM objects from the network into the inbox: streamed to a file, checked, and put there for good."""

import hashlib
import hmac
import logging
import mmap
import os
import secrets
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from pipeline.dicom.pdu import file_header
from pipeline.errors import (
    ConditionFailed,
    InputRejected,
    ObjectTooLarge,
    ObjectUnreadable,
    StoreError,
    UsageError,
    place_of,
)
from pipeline.names import INBOX, key_hash
from pipeline.ports import Landing

log = logging.getLogger(__name__)

_TRIES = 3  # when the object that is in the way goes meanwhile
_CHUNK = 1 << 20
_MAKING = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class Reply(NamedTuple):
    """Hold the answer to a command (PS3.4, table B.2-1): a code, and a comment of at most 64 letters."""

    code: int
    comment: str = ""


DONE = Reply(0x0000)
NO_ROOM = Reply(0xA700, "the inbox cannot be written to now; send again later")
TOO_LARGE = Reply(0xA700, "the object is larger than this node accepts")
DEFECT = Reply(0x0110, "an error of this node; see its log")
_OTHER_OBJECT = Reply(0xA900, "the data set is not the object that was announced")
_OTHER_STUDY = Reply(0xA900, "the object belongs to another study than the address says")


@dataclass(frozen=True)
class Kinds:
    """Hold which objects are taken, and how a data set is read; it comes as bytes in a transfer syntax.

    `announce` returns what the header of a file states, of which it gets the beginning: the class, the
    instance, the transfer syntax, and where the data set begins. `identify` returns the class, the instance
    and the study that a data set states. Both raise InputRejected when that cannot be read. `fingerprint`
    returns a digest of a file's pixels and of all else that makes it another object.
    """

    classes: frozenset[str]
    syntaxes: tuple[str, ...]
    announce: Callable[[bytes], tuple[str, str, str, int]]
    identify: Callable[[memoryview, str], tuple[str, str, str]]
    fingerprint: Callable[[bytes], bytes]


def lasting_secret(path: Path) -> str:
    """Return the secret in a file, which is made at the first start; raise UsageError if that fails."""
    try:
        with suppress(FileNotFoundError):
            return path.read_text("ascii")
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        made = path.with_suffix(f".{uuid.uuid4().hex}")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(descriptor)
        made.replace(path)  # whole, whenever the process is killed
        return path.read_text("ascii")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged; delete it"
        raise UsageError(f"{path} cannot be used: {why}") from error


class Arrivals:
    """Take objects into the inbox of a store, through files in `folder`, which belongs to this process alone.

    `secret` keys the names in the inbox, and `log_key` the hashes in the log.
    """

    def __init__(
        self, store: Landing, folder: Path, kinds: Kinds, most_bytes: int, secret: str, log_key: str
    ) -> None:
        self._store, self.folder, self.kinds, self.most_bytes = store, folder, kinds, most_bytes
        self._secret, self._log_key = secret.encode(), log_key
        self._comparing = Lock()  # each comparison holds an object in memory
        try:
            folder.mkdir(0o700, parents=True, exist_ok=True)
            for left in folder.iterdir():  # by a killed process
                left.unlink()
        except OSError as error:
            raise UsageError(f"{folder} cannot be made: {error.strerror}; name another --root") from error

    def begin(self, sop_class: str, instance: str, syntax: str, study: str | None = None) -> "Arrival":
        """Begin to receive an object, which has to belong to `study` if that is given."""
        return Arrival(self, sop_class, instance, syntax, study)

    def shown(self, instance: str) -> str:
        """Return what the log shows for an object."""
        return key_hash(self._key(instance), self._log_key)

    def place(self, path: Path, instance: str) -> str:
        """Put a finished file into the inbox, unless the same object is there; return its key.

        Raises StoreError.
        """
        key = self._key(instance)
        for _ in range(_TRIES):
            with suppress(ConditionFailed):
                self._store.put_file(key, path)
                return key
            with self._comparing:
                same = self._is_same(key, path)
                digest = b"" if same else self._digest(path.read_bytes())
            if same:
                return key
            if same is False:
                variant = hmac.digest(self._secret, digest, "sha256").hex()[:12]
                return self._place_beside(path, instance, variant)
        raise StoreError("the object in the inbox keeps changing")

    def _place_beside(self, path: Path, instance: str, variant: str) -> str:
        """Put an object into the inbox whose UID another one there has, too."""
        beside = self._key(instance, variant)
        with suppress(ConditionFailed):  # it came before
            self._store.put_file(beside, path)
            log.warning(
                "%s: another object with the same UID came; both are kept and judged, the new one as %s",
                self.shown(instance),
                key_hash(beside, self._log_key),
            )
        return beside

    def _is_same(self, key: str, path: Path) -> bool | None:
        """Return whether the object in the inbox is that of the file; None if there is none any more."""
        there = self._store.head(key)
        if there is None:
            return None
        if there.etag == _md5(path):
            return True
        try:
            found = self._store.get(key, self.most_bytes)
        except (ObjectTooLarge, ObjectUnreadable):
            return False  # a person put it there
        return found and self._digest(found[1]) == self._digest(path.read_bytes())

    def _digest(self, data: bytes) -> bytes:
        """Return the fingerprint of a file; that of all its bytes where it cannot be read."""
        with suppress(InputRejected):
            return self.kinds.fingerprint(data)
        return hashlib.sha256(data).digest()

    def _key(self, instance: str, variant: str = "") -> str:
        name = hmac.digest(self._secret, f"dicom object {instance}".encode(), "sha256").hex()[:32]
        return f"{INBOX}{name}{variant and f'-{variant}'}.dcm"


class Arrival:
    """Receive one object; the first problem decides the answer, and what follows is thrown away.

    `key` is where the object is in the inbox, once it is there.
    """

    def __init__(
        self, arrivals: Arrivals, sop_class: str, instance: str, syntax: str, study: str | None
    ) -> None:
        self._arrivals, self._names, self._syntax = arrivals, (sop_class, instance), syntax
        self._study, self.key = study, ""
        self._path = arrivals.folder / uuid.uuid4().hex
        self._file = -1
        self._problem: Reply | None = None
        self._size = 0
        header = file_header(sop_class, instance, syntax)
        self._start = len(header)
        try:
            self._file = os.open(self._path, _MAKING, 0o600)
            self._append(memoryview(header))
        except OSError as error:
            self._fail(NO_ROOM, f"it cannot be written: {error.strerror}")

    def write(self, data: memoryview) -> None:
        """Append a part of the data set."""
        if self._problem:
            return
        if self._size + len(data) > self._arrivals.most_bytes:
            self._fail(TOO_LARGE, f"it has more than {self._arrivals.most_bytes} bytes (max_bytes)")
            return
        try:
            self._append(data)
        except OSError as error:
            self._fail(NO_ROOM, f"it cannot be written: {error.strerror}")

    def finish(self) -> Reply:
        """Check the object and put it into the inbox; return the answer to its sender."""
        try:
            if not self._problem:
                self._check()
            if not self._problem:
                self.key = self._arrivals.place(self._path, self._names[1])
                log.info("%s: received, %d bytes", self._shown, self._size)
        except StoreError as error:
            self._fail(NO_ROOM, str(error))
        except Exception as error:  # noqa: BLE001  the sender gets an answer, whatever happens
            self._fail(DEFECT, place_of(error))
        self.drop()
        return self._problem or DONE

    def drop(self) -> None:
        """Remove the file, if it is still here."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        with suppress(OSError):
            self._path.unlink()

    @property
    def _shown(self) -> str:
        return self._arrivals.shown(self._names[1])

    def _append(self, data: memoryview) -> None:
        self._size += len(data)
        while data:
            data = data[os.write(self._file, data) :]

    def _check(self) -> None:
        view = memoryview(mmap.mmap(self._file, 0, access=mmap.ACCESS_READ))  # goes with its last slice
        try:
            *names, study = self._arrivals.kinds.identify(view[self._start :], self._syntax)
        except InputRejected as error:
            self._fail(Reply(0xC000, str(error)), str(error))
            return
        if tuple(names) != self._names:
            self._fail(_OTHER_OBJECT, _OTHER_OBJECT.comment)
        elif self._study is not None and study != self._study:
            self._fail(_OTHER_STUDY, _OTHER_STUDY.comment)

    def _fail(self, status: Reply, why: str) -> None:
        self._problem = status
        log.warning("%s: refused with status %04X: %s", self._shown, status.code, why)
        if self._file >= 0:
            with suppress(OSError):
                os.ftruncate(self._file, 0)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
