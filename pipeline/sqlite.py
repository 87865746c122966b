"""The worklist in SQLite: one file, read by the page while handlers of several processes write to it (WAL).

It holds nothing that the outbox does not: `rebuild` makes it again.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pipeline.names import UNUSABLE
from pipeline.ports import Row, SourceState
from pipeline.rows import COLUMNS, FROM_VERDICT, row_from, stored, text

# `at` orders the worklist: when the row got its verdict, or else began to wait. `change` is the cursor of
# live views.
_VERSION = 3  # of the schema; a file of another one is emptied, and filled again from the outbox
_SCHEMA = f"""
DROP TABLE IF EXISTS rows;
DROP TABLE IF EXISTS changes;
CREATE TABLE rows (
    key TEXT PRIMARY KEY,
    status TEXT, label TEXT, probability REAL, reason TEXT, warnings TEXT,
    etag TEXT, verdict_key TEXT, verdict_etag TEXT, preview_key TEXT,
    started_at TEXT, finished_at TEXT, waiting_since TEXT,
    source TEXT NOT NULL DEFAULT 'present',
    change INTEGER NOT NULL DEFAULT 0,
    at TEXT GENERATED ALWAYS AS (coalesce(finished_at, waiting_since)) STORED
) WITHOUT ROWID;
CREATE INDEX rows_at ON rows (at DESC, key);
CREATE INDEX rows_verdict ON rows (verdict_key);
CREATE INDEX rows_state ON rows (waiting_since IS NOT NULL, status, label);
DROP TABLE IF EXISTS mirrored;
CREATE TABLE mirrored (until TEXT NOT NULL, copied TEXT NOT NULL);
CREATE TABLE changes (last INTEGER NOT NULL);
INSERT INTO changes VALUES (0);
PRAGMA user_version = {_VERSION}
"""
_BUSY_SECONDS = 30


class SqliteIndex:
    """The index in the file `path`. One connection for each thread; safe between processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._local = threading.local()
        self._guard = threading.Lock()
        self._open: list[sqlite3.Connection] = []  # of all threads, to be closed
        try:
            self._make()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # not SQLite's, or damaged: nothing is lost with it
            self.close()
            path.unlink()
            self._local = threading.local()
            self._make()

    def _make(self) -> None:
        self._database().execute("PRAGMA journal_mode = WAL")
        with self._write() as database:  # one transaction: another process may be making the same file
            (version,) = database.execute("PRAGMA user_version").fetchone()
            for statement in _SCHEMA.split(";") if version != _VERSION else ():
                database.execute(statement)

    def wait(self, keys: Iterable[str], since: datetime) -> None:
        """Note that these keys have work before them; their finished verdicts stay as they are."""
        with self._write() as database:
            change = _next_change(database)
            database.executemany(
                "INSERT INTO rows (key, waiting_since, change) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE"
                " SET waiting_since = excluded.waiting_since, change = excluded.change",
                [(key, text(since), change) for key in keys],
            )

    def settle(self, key: str, since: datetime) -> None:
        """The work noted at `since` is over, and left the verdict as it was; a later note stays."""
        with self._write() as database:
            database.execute(
                "UPDATE rows SET waiting_since = NULL, change = ? WHERE key = ? AND waiting_since <= ?",
                (_next_change(database), key, text(since)),
            )
            database.execute(
                "DELETE FROM rows WHERE key = ? AND waiting_since IS NULL AND status IS NULL", (key,)
            )

    def record(self, row: Row) -> None:
        """Set what the verdict says; ends a wait for anything that the verdict has already seen."""
        values = [stored(getattr(row, name)) for name in FROM_VERDICT]
        updates = ", ".join(f"{name} = excluded.{name}" for name in FROM_VERDICT)
        with self._write() as database:
            change = _next_change(database)
            database.execute(
                f"INSERT INTO rows (key, {', '.join(FROM_VERDICT)}, change)"
                f" VALUES (?, {', '.join('?' * len(values))}, ?) ON CONFLICT (key) DO UPDATE SET {updates},"
                " change = excluded.change, waiting_since ="
                " CASE WHEN waiting_since > excluded.started_at THEN waiting_since END",
                [row.key, *values, change],
            )

    def mark(self, key: str, source: SourceState) -> None:
        """Note whether the source is still there.

        Where there is neither source nor verdict, there is no row.
        """
        with self._write() as database:
            if source == "deleted":
                database.execute("DELETE FROM rows WHERE key = ? AND status IS NULL", (key,))
            database.execute(
                "UPDATE rows SET source = ?, change = ? WHERE key = ? AND source <> ?",
                (source, _next_change(database), key, source),
            )

    def remove(self, verdict_key: str) -> None:
        """Forget the verdict; its row goes too, unless it waits for another."""
        emptied = ", ".join(f"{name} = NULL" for name in FROM_VERDICT)
        with self._write() as database:
            database.execute(
                "DELETE FROM rows WHERE verdict_key = ? AND waiting_since IS NULL", (verdict_key,)
            )
            database.execute(
                f"UPDATE rows SET {emptied}, change = ? WHERE verdict_key = ?",
                (_next_change(database), verdict_key),
            )

    def get(self, key: str) -> Row | None:
        """The row of a key, or None."""
        found = (
            self._database()
            .execute(f"SELECT {', '.join(COLUMNS)} FROM rows WHERE key = ?", (key,))
            .fetchone()
        )
        return _row(found) if found else None

    def all(self) -> Iterator[Row]:
        """All rows, in no promised order."""
        return map(_row, self._database().execute(f"SELECT {', '.join(COLUMNS)} FROM rows"))

    def newest(self, limit: int = 100) -> list[Row]:
        """The worklist's first rows, newest first."""
        query = f"SELECT {', '.join(COLUMNS)} FROM rows ORDER BY at DESC, key LIMIT ?"
        return [_row(found) for found in self._database().execute(query, (limit,))]

    def put(self, row: Row) -> None:
        """Set a whole row, as it is elsewhere; see `pipeline.mirror`."""
        values = [stored(getattr(row, name)) for name in COLUMNS if name != "change"]
        names = [name for name in COLUMNS if name != "change"]
        with self._write() as database:
            database.execute(
                f"INSERT OR REPLACE INTO rows ({', '.join(names)}, change)"
                f" VALUES ({', '.join('?' * len(names))}, ?)",
                [*values, _next_change(database)],
            )

    def drop(self, key: str) -> None:
        """Remove a whole row."""
        with self._write() as database:
            if database.execute("DELETE FROM rows WHERE key = ?", (key,)).rowcount:
                _next_change(database)

    def mirrored(self) -> tuple[datetime, datetime] | None:
        """What `set_mirrored` was told last."""
        found = self._database().execute("SELECT until, copied FROM mirrored").fetchone()
        return (datetime.fromisoformat(found[0]), datetime.fromisoformat(found[1])) if found else None

    def set_mirrored(self, until: datetime, copied: datetime) -> None:
        """Note how far this file follows another index, and when it was last copied as a whole."""
        with self._write() as database:
            database.execute("DELETE FROM mirrored")
            database.execute("INSERT INTO mirrored VALUES (?, ?)", (text(until), text(copied)))

    def verdict_keys(self) -> list[str]:
        """Where the verdicts of all rows stand."""
        query = "SELECT verdict_key FROM rows WHERE verdict_key IS NOT NULL"
        return [key for (key,) in self._database().execute(query)]

    def present(self) -> list[str]:
        """The keys whose source was there when it was last looked at.

        Without those whose name was not usable: their row's key is not quite the name.
        """
        usable = "verdict_key IS NULL OR verdict_key NOT LIKE ?"
        query = f"SELECT key FROM rows WHERE source = 'present' AND ({usable})"
        return [key for (key,) in self._database().execute(query, (f"{UNUSABLE}%",))]

    def counts(self) -> dict[str, int]:
        """How many rows wait (`waiting`), and of the others how many have each label or status."""
        query = (
            "SELECT CASE WHEN waiting_since IS NOT NULL THEN 'waiting' ELSE coalesce(label, status) END"
            " AS state, count(*) FROM rows GROUP BY state"
        )
        return dict(self._database().execute(query).fetchall())

    def last_change(self) -> int:
        """A number that grows with every change: a view of the same number is up to date."""
        return int(self._database().execute("SELECT last FROM changes").fetchone()[0])

    def close(self) -> None:
        """Close the connections of all threads; the index is not to be used any more."""
        with self._guard:
            for database in self._open:
                database.close()
            self._open.clear()

    def _database(self) -> sqlite3.Connection:
        database: sqlite3.Connection | None = getattr(self._local, "database", None)
        if database is None:
            database = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            with self._guard:
                self._open.append(database)
            database.execute("PRAGMA synchronous = NORMAL")
            self._local.database = database
        return database

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its beginning: nothing read in it is out of date."""
        database = self._database()
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def _next_change(database: sqlite3.Connection) -> int:
    return int(database.execute("UPDATE changes SET last = last + 1 RETURNING last").fetchone()[0])


def _row(values: tuple[object, ...]) -> Row:
    return row_from(dict(zip(COLUMNS, values, strict=True)))
