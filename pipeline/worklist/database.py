"""Keep a SQLite file that holds only data that can be made again, and so repairs itself.

A small file is checked when it is opened, a large one only by `check`. A file that is damaged, of another
schema or not a database is replaced by an empty one; so is one that was deleted or moved while in use.
Callers that fill it ask `is_filled`. Every SQLite error is raised as IndexNotReady: the request may be
repeated.
"""

import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.errors import IndexNotReady
from pipeline.store.files import shared

_BUSY_SECONDS = 10
_LOCK_SECONDS = 60  # for another process to check the file, or to make it
_LARGE = 64 << 20  # bytes; to check more than these when opening would delay a start
_ENDINGS = ("", "-wal", "-shm")  # of the files of one database: sqlite.org/tempfiles.html
_OURS = """
CREATE TABLE fills (mark TEXT PRIMARY KEY, is_done INTEGER NOT NULL);
"""
# Sentences about the file, whose name comes before them.
_LOCKED = "is locked by another program; try again in a moment"
_FULL = "cannot be written: the disk is full"
_DAMAGED = "was damaged and is being rebuilt; try again in a moment"
_FAILED = "cannot be read or written now; try again in a moment"

_Files = tuple[tuple[int, int] | None, ...]  # device and inode of each


class Database:
    """Open the SQLite file `path` with the tables of `schema`, one connection per thread.

    Several processes may use the file. Raises IndexNotReady, whose message calls the file `what`.
    """

    def __init__(self, path: Path, schema: str, what: str = "the worklist") -> None:
        self._path, self._schema, self._what = path, schema + _OURS, what
        self._names = [f"{path}{ending}" for ending in _ENDINGS]
        self._local = threading.local()
        self._guard = threading.RLock()
        self._open: list[sqlite3.Connection] = []  # connections of all threads, to be closed
        self._sound: _Files | None = None  # the files that were found undamaged
        self._condemned: _Files | None = None  # the files to be replaced, whatever a check says
        self._is_closed = False
        with self._told():
            self._connection()

    def select(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Yield the rows that a query finds, as they are needed."""
        with self._told():
            yield from self._connection().execute(query, values)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Hold a transaction with the write lock from its start: nothing read in it is out of date."""
        with self._told():
            database = self._connection()
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Fill the file anew; it counts as filled if the block ends well and the file was not replaced."""
        mark = uuid.uuid4().hex
        with self.writing() as database:
            database.execute("INSERT INTO fills VALUES (?, 0)", (mark,))
        yield
        with self.writing() as database:
            database.execute("UPDATE fills SET is_done = 1 WHERE mark = ?", (mark,))
            database.execute("DELETE FROM fills WHERE is_done AND mark <> ?", (mark,))

    def is_filled(self) -> bool:
        """Return whether the file has been filled since it was made."""
        return next(self.select("SELECT 1 FROM fills WHERE is_done"), None) is not None

    def check(self) -> None:
        """Look for damage through a new connection, as those in use may remember what the disk has lost.

        Raises IndexNotReady when there is some; the file is then replaced.
        """
        with self._told():
            self._connection()  # handles another file, or none
            database = self._connect()
            try:
                _check(database)
            finally:
                database.close()

    def condemn(self) -> IndexNotReady:
        """Mark the file for replacement, because its content is impossible; return the error to raise."""
        held = getattr(self._local, "held", None)
        self._condemned = held[1] if held else None
        return self._not_ready(_DAMAGED)

    def _not_ready(self, why: str) -> IndexNotReady:
        return IndexNotReady(f"{self._what} {why}")

    def compact(self) -> None:
        """Rewrite the file without traces of deleted rows."""
        with self._told():
            database = self._connection()
            database.execute("VACUUM")
            (is_busy, *_) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise self._not_ready(_LOCKED)

    def close(self) -> None:
        """Close the connections of all threads; do not use the file afterwards."""
        with self._guard:
            self._is_closed = True
            for database in self._open:
                database.close()
            self._open.clear()

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection to the current file."""
        held: tuple[sqlite3.Connection, _Files] | None = getattr(self._local, "held", None)
        if held and held[1] == self._sound == self._files() and held[1] != self._condemned:
            return held[0]
        with self._guard:
            if self._is_closed:
                raise self._not_ready("is closed")
            if held:
                self._local.held = None
                with suppress(ValueError):
                    self._open.remove(held[0])
                held[0].close()
            sound = self._sound  # another thread may condemn it at any moment
            if sound is None or sound != self._files() or sound == self._condemned:
                database, sound = self._opened_anew()
            else:
                database = self._connect()
            self._open.append(database)
            self._local.held = database, sound
            return database

    def _opened_anew(self) -> tuple[sqlite3.Connection, _Files]:
        """Check the file, and replace it where it is damaged; one process at a time."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock", timeout=_LOCK_SECONDS, mode=0o600, is_singleton=False):
            if self._condemned and self._condemned == self._files():
                self._remove()
            try:
                return self._made()
            except sqlite3.Error as error:
                if not _is_damage(error, _UNSOUND):
                    raise
                self._remove()
                return self._made()

    def _made(self) -> tuple[sqlite3.Connection, _Files]:
        self._path.touch(0o600 | (shared(self._path.parent.stat()) & 0o060))  # its rows name patients
        database = self._connect()
        try:
            database.execute("PRAGMA journal_mode = WAL")
            if self._path.stat().st_size < _LARGE:
                _check(database)
            found = _tables(database)
            if found and found != _expected(self._schema):
                raise _Damaged("of another schema")
            if not found:
                database.execute("BEGIN IMMEDIATE")
                for statement in _statements(self._schema):
                    database.execute(statement)
                database.execute("COMMIT")
            _tables(database)  # creates all three files
        except BaseException:
            database.close()
            raise
        sound = self._files()
        self._sound, self._condemned = sound, None
        return database, sound

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA secure_delete = ON")  # a name may be a patient's
        database.execute("PRAGMA temp_store = MEMORY")
        return database

    def _remove(self) -> None:
        for name in self._names:
            Path(name).unlink(missing_ok=True)

    def _files(self) -> _Files:
        return tuple(map(_identity, self._names))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Translate SQLite's errors, and note what they say about the file."""
        try:
            yield
        except sqlite3.Error as error:
            primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise self._not_ready(_LOCKED) from error
            if primary == sqlite3.SQLITE_FULL:
                raise self._not_ready(_FULL) from error
            if _is_damage(error, _DAMAGE):
                raise self.condemn() from error
            self._sound = None  # check it again
            raise self._not_ready(_FAILED) from error
        except OSError as error:
            raise self._not_ready(f"cannot be opened: {error.strerror or 'try again in a moment'}") from error


class _Damaged(sqlite3.DatabaseError):
    """Report damage that a check found."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


# SQLite errors that only a new file repairs; besides these codes, text that its module cannot decode. Our
# writes break no constraint of a sound file, but a damaged index of substrings has reported one.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT)
_UNSOUND = (*_DAMAGE, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)


def _is_damage(error: sqlite3.Error, codes: tuple[int, ...]) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return type(error) is sqlite3.OperationalError
    return code in codes or code & 0xFF in codes


def _check(database: sqlite3.Connection) -> None:
    """Raise if the file is damaged: sqlite.org/pragma.html#pragma_quick_check, 0.3 s for 100,000 rows."""
    if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise _Damaged("damaged")


def _tables(database: sqlite3.Connection) -> set[tuple[object, ...]]:
    return set(database.execute("SELECT type, name, sql FROM sqlite_master"))


@cache
def _expected(schema: str) -> set[tuple[object, ...]]:
    database = sqlite3.connect(":memory:")
    database.executescript(schema)
    found = _tables(database)
    database.close()
    return found


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script; a trigger is one statement."""
    statement = ""
    for piece in script.split(";"):
        statement += f"{piece};"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _identity(path: str) -> tuple[int, int] | None:
    try:
        state = os.stat(path)  # noqa: PTH116  runs three times for each query
    except OSError:
        return None
    return state.st_dev, state.st_ino
