"""Remember on disk which files of the inbox were hinted and judged, so that a start looks only at changes.

It is a hint, too: where it is damaged, deleted, locked or of another release, files count as unknown and are
looked at again, which the judge answers with `current`. Changes are written about once a second, in one
transaction; a crash loses those of the last second, which again means to look at files once more.
"""

import logging
import os
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import StoreError
from pipeline.names import verdict_key
from pipeline.store.folder import PRIVATE_FOLDER
from pipeline.verdict import RELEASE
from pipeline.worklist.database import Database

log = logging.getLogger(__name__)

# A file may change without a trace so long after it was first seen: within one tick of its clock, or because
# it was preallocated. What was read by then is not final.
CERTAIN_SECONDS = 10.0
_BATCH = 500  # keys in one query
_MOST_PENDING = 20_000
_NOT_CURRENT = b""  # the delivery ended without a current verdict: to be looked at again at the next start

# `source` is the signature of the file as hinted, `since` when it was first seen, `verdict` the signature of
# the verdict's file when the delivery had ended; NULL before. `scan` numbers the scan that found the file.
# The comment makes a file of another release one of another schema, which is replaced.
_SCHEMA = """
CREATE TABLE seen ( -- by release {release}
    key BLOB PRIMARY KEY, source BLOB NOT NULL, since REAL NOT NULL, scan INTEGER NOT NULL, verdict BLOB
) WITHOUT ROWID;
"""


class Known(NamedTuple):
    """Hold what is known of a file."""

    source: bytes
    since: float
    scan: int
    verdict: bytes | None = None

    def is_open(self, now: float) -> bool:
        """Return whether a delivery that begins now is needed, and can be final."""
        return self.verdict is None and _is_final(self.since, now)


@dataclass(frozen=True)
class _Change:
    """Hold what is not written yet: first a new state or none, then the end of a delivery, or its undoing."""

    said: tuple[bytes, float] | None = None
    is_gone: bool = False
    ended: tuple[float, bytes] | None = None  # when the delivery began, and the verdict's signature
    is_undone: bool = False

    def over(self, earlier: "_Change | None") -> "_Change":
        """Return both changes as one."""
        if earlier is None or self.said or self.is_gone:
            return self
        ended = self.ended if self.ended or self.is_undone else earlier.ended
        return replace(earlier, ended=ended, is_undone=self.is_undone or earlier.is_undone)

    def applied(self, found: Known | None, scan: int) -> Known | None:
        """Return an entry after this change."""
        if self.is_gone:
            return None
        if self.said:
            source, since = self.said
            if found and found.source == source:
                since = found.since
            found = Known(source, since, found.scan if found else scan)
        if found and self.is_undone:
            found = found._replace(verdict=None)
        if found and self.ended and (self.ended[1] == _NOT_CURRENT or _is_final(found.since, self.ended[0])):
            found = found._replace(verdict=self.ended[1])
        return found


def packed(found: os.stat_result) -> bytes:
    """Return a signature: bytes that tell one state of a file from another; half of it is size and time."""
    numbers = found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns
    return struct.pack("<4Q", *(number & 0xFFFF_FFFF_FFFF_FFFF for number in numbers))


class Ledger:
    """Keep the ledger of the inbox of `root`; any thread may use it. No error of its file is raised."""

    def __init__(self, root: Path, release: int = RELEASE) -> None:
        self._root, self.path = root, ledger_path(root)
        self._schema = _SCHEMA.format(release=release)
        self._file: Database | None = None
        self._pending: dict[str, _Change] = {}
        self._writing: dict[str, _Change] = {}  # being written: older than those pending
        self._guard, self._flushing, self._opening = threading.Lock(), threading.Lock(), threading.Lock()
        self._scan = 0
        self._is_broken = False

    @property
    def is_full(self) -> bool:
        """Return whether so much waits to be written that a scan should add nothing."""
        return len(self._pending) + len(self._writing) > _MOST_PENDING

    def get(self, key: str) -> Known | None:
        """Return what is known of a file."""
        return self.find([key]).get(key)

    def find(self, keys: Sequence[str]) -> dict[str, Known]:
        """Return what is known of these files, of at most a few thousand."""
        with self._guard:  # before the file is read: a change that is written meanwhile applies twice
            changes = [
                (key, noted[key])
                for noted in (self._writing, self._pending)
                if noted
                for key in keys
                if key in noted
            ]
        found = dict(self._read(keys))
        for key, change in changes:
            if entry := change.applied(found.pop(key, None), self._scan):
                found[key] = entry
        return found

    def say(self, key: str, source: bytes, since: float) -> None:
        """Note that a file was hinted in this state, first seen at the time `since`."""
        self._note(key, _Change(said=(source, since)))

    def gone(self, key: str) -> None:
        """Note that a file is no longer there."""
        self._note(key, _Change(is_gone=True))

    def end(self, key: str, began: float, is_current: bool) -> None:
        """Note that a delivery that began at a time has ended; call it only where no newer hint waits.

        Without a current verdict, or where the file cannot be read, the file is looked at at the next start.
        """
        with suppress(OSError, ValueError):
            is_final = is_current and os.access(f"{self._root}/{key}", os.R_OK)
            verdict = self.verdict(key) if is_final else _NOT_CURRENT
            if verdict is not None:
                self._note(key, _Change(ended=(began, verdict)))

    def undo(self, key: str) -> None:
        """Forget that a file was judged."""
        self._note(key, _Change(is_undone=True))

    def verdict(self, key: str) -> bytes | None:
        """Return the signature of the verdict's file; None without one."""
        return state_of(self._root, verdict_key(key))

    def flush(self) -> None:
        """Write what changed; what cannot be written now is kept."""
        with self._flushing:
            with self._guard:
                self._writing, self._pending = self._pending, {}
            if not self._writing:
                return
            try:
                with self._database().writing() as database:
                    for key, change in self._writing.items():
                        name = os.fsencode(key)
                        if change.is_gone:
                            database.execute("DELETE FROM seen WHERE key = ?", (name,))
                        if change.said:
                            database.execute(_SAY, (name, *change.said, self._scan))
                        if change.is_undone:
                            database.execute("UPDATE seen SET verdict = NULL WHERE key = ?", (name,))
                        if change.ended:
                            began, verdict = change.ended
                            database.execute(
                                _END, (verdict, name, verdict, _NOT_CURRENT, began, CERTAIN_SECONDS)
                            )
                self._is_broken = False
            except StoreError as error:
                self._complain(error)
                with self._guard:
                    later = self._pending
                    self._pending = self._writing
                    for key, change in later.items():
                        self._pending[key] = change.over(self._pending.get(key))
                    self._writing = {}
            else:
                with self._guard:
                    self._writing = {}

    def begin_scan(self) -> int:
        """Return the number of a new scan: greater than that of all files found before."""
        self.flush()
        last = self._scan or next((row[0] for row in self._select("SELECT max(scan) FROM seen")), None) or 0
        self._scan = int(last) + 1
        return self._scan

    def count(self, scan: int) -> int:
        """Return how many files were found before a scan."""
        self.flush()
        return next(
            (int(row[0]) for row in self._select("SELECT count(*) FROM seen WHERE scan < ?", scan)), 0
        )

    def pages(self, prefix: str) -> Iterator[list[tuple[str, Known]]]:
        """Yield the known files of a folder, `prefix` with its slash, some at a time."""
        self.flush()
        after = os.fsencode(prefix)
        end = after[:-1] + b"0"  # which follows the slash
        query = f"SELECT * FROM seen WHERE key > ? AND key < ? ORDER BY key LIMIT {_BATCH}"
        while rows := list(self._select(query, after, end)):
            yield [_entry(row) for row in rows]
            after = bytes(rows[-1][0])

    def forget(self, key: str) -> int:
        """Remove a file of this name; return whether it was known, as a number."""
        with self._guard:
            self._pending.pop(key, None)
        self.flush()
        with self._database().writing() as database:
            return database.execute("DELETE FROM seen WHERE key = ?", (os.fsencode(key),)).rowcount

    def erase_traces(self) -> None:
        """Erase what is left of removed names; raise StoreError when that fails."""
        self._database().compact()

    def close(self) -> None:
        """Write what changed, and close the file."""
        self.flush()
        if self._file:
            self._file.close()

    def _note(self, key: str, change: _Change) -> None:
        with self._guard:
            self._pending[key] = change.over(self._pending.get(key))

    def _read(self, keys: Sequence[str]) -> Iterator[tuple[str, Known]]:
        for at in range(0, len(keys), _BATCH):
            names = [os.fsencode(key) for key in keys[at : at + _BATCH]]
            yield from map(_entry, self._select(_FIND.format(", ".join("?" * len(names))), *names))

    def _select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return list(self._database().select(query, *values))
        except StoreError as error:
            self._complain(error)
            return []

    def _database(self) -> Database:
        with self._opening:
            if self._file is None:
                self._file = Database(self.path, self._schema, "the list of known files")
            return self._file

    def _complain(self, error: StoreError) -> None:
        if not self._is_broken:
            log.warning("files of the inbox may be looked at again: %s", error)
        self._is_broken = True


_FIND = "SELECT * FROM seen WHERE key IN ({})"
_SAY = (
    "INSERT INTO seen (key, source, since, scan) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
    " since = CASE WHEN source = excluded.source THEN since ELSE excluded.since END,"
    " source = excluded.source, verdict = NULL"
)
_END = "UPDATE seen SET verdict = ? WHERE key = ? AND (? = ? OR abs(? - since) > ?)"


def ledger_path(root: Path) -> Path:
    """Return the file of a root's ledger."""
    return root / PRIVATE_FOLDER / "seen.sqlite"


def state_of(root: Path, key: str) -> bytes | None:
    """Return the signature of the file of a key; None where there is none, or one that may not be seen."""
    with suppress(OSError, ValueError):
        found = os.lstat(f"{root}/{key}")
        if stat.S_ISREG(found.st_mode):
            return packed(found)
    return None


def _is_final(since: float, began: float) -> bool:
    return abs(began - since) > CERTAIN_SECONDS  # or the clock was set


def _entry(row: tuple[Any, ...]) -> tuple[str, Known]:
    key, *values = row
    return os.fsdecode(key), Known(*values)
