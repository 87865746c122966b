"""Keep the worklist in SQLite: one file that the page reads while several processes write to it (WAL).

It holds only data from the outbox: `pipeline.worklist.rebuild` makes it again. `pipeline.worklist.views`
reads it as people do.
"""

import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.names import INBOX, UNUSABLE, report_id
from pipeline.records import Reviewed, Row, SourceState
from pipeline.statistics.daily import PROPERTIES, counted
from pipeline.worklist.database import Database
from pipeline.worklist.rows import COLUMNS, FROM_REVIEWS, FROM_VERDICT, row_from, stored_value, text

# Searches look into `name`. `report` is the row's name for other systems. `state` is `Row.state`, and `at`
# orders the worklist: when the row got its verdict, or else began to wait. `change` is the cursor of live
# views. `tally` counts the rows of a state, by the hour of `at` and, under `all`, over all hours. `shelf` is
# where the walks of `views` find a row: its state, with a + while it waits although the last verdict was
# pneumonia. `review` is `Row.review`, or empty; `tally` counts it under the hour `review`.
# `counted` is what `statistics.daily` counts of the row; `daily` holds the counts, and those of reviews, by
# the day of the verdict.
# The index of substrings: sqlite.org/fts5.html#the_trigram_tokenizer
_SCHEMA = """
CREATE TABLE rows (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    report TEXT NOT NULL,
    status TEXT, label TEXT, probability REAL, normal_below REAL, pneumonia_above REAL,
    reason TEXT, message TEXT, warnings TEXT,
    etag TEXT, verdict_key TEXT, verdict_etag TEXT, preview_key TEXT,
    started_at TEXT, finished_at TEXT, waiting_since TEXT, asked_since TEXT,
    model TEXT, typicality REAL, aspect REAL, brightness REAL, contrast REAL, counted TEXT,
    at_work INTEGER NOT NULL DEFAULT 0,
    source TEXT NOT NULL DEFAULT 'present',
    review_of TEXT, review_said TEXT, readers TEXT, review_count INTEGER NOT NULL DEFAULT 0,
    change INTEGER NOT NULL DEFAULT 0,
    review TEXT GENERATED ALWAYS AS (CASE WHEN label IS NULL THEN ''
        WHEN review_of = verdict_etag THEN coalesce(review_said, 'unread') ELSE 'unread' END) STORED,
    state TEXT GENERATED ALWAYS AS (CASE
        WHEN waiting_since IS NULL THEN coalesce(label, nullif(status, 'classified'), 'unknown')
        WHEN at_work THEN 'working' ELSE 'waiting' END) STORED,
    shelf TEXT GENERATED ALWAYS AS (
        state || CASE WHEN waiting_since IS NOT NULL AND label = 'pneumonia' THEN '+' ELSE '' END) STORED,
    at TEXT GENERATED ALWAYS AS (coalesce(finished_at, asked_since, waiting_since, '')) STORED
);
CREATE INDEX rows_shelf ON rows (shelf, at, id, name);
CREATE INDEX rows_review ON rows (review, shelf, at, id, name);
CREATE INDEX rows_verdict ON rows (verdict_key);
CREATE INDEX rows_report ON rows (report);
CREATE INDEX rows_change ON rows (change);
CREATE VIRTUAL TABLE names USING fts5 (name, content = '', tokenize = 'trigram');
CREATE TABLE tally (
    hour TEXT NOT NULL, state TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (hour, state)
) WITHOUT ROWID;
CREATE TRIGGER row_made AFTER INSERT ON rows BEGIN
    INSERT INTO names (rowid, name) VALUES (new.id, new.name);
    INSERT INTO tally VALUES ('all', new.state, 1), (substr(new.at, 1, 13), new.state, 1),
        ('review', new.review, 1) ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER row_gone AFTER DELETE ON rows BEGIN
    INSERT INTO names (names, rowid, name) VALUES ('delete', old.id, old.name);
    UPDATE tally SET count = count - 1 WHERE state = old.state AND hour IN ('all', substr(old.at, 1, 13));
    UPDATE tally SET count = count - 1 WHERE state = old.review AND hour = 'review';
END;
CREATE TRIGGER row_reviewed AFTER UPDATE ON rows WHEN old.review <> new.review BEGIN
    UPDATE tally SET count = count - 1 WHERE state = old.review AND hour = 'review';
    INSERT INTO tally VALUES ('review', new.review, 1) ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER row_changed AFTER UPDATE ON rows WHEN old.state <> new.state OR old.at <> new.at BEGIN
    UPDATE tally SET count = count - 1 WHERE state = old.state AND hour IN ('all', substr(old.at, 1, 13));
    INSERT INTO tally VALUES ('all', new.state, 1), (substr(new.at, 1, 13), new.state, 1)
        ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TABLE daily ( -- BINS
    what TEXT NOT NULL, day TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (what, day)
) WITHOUT ROWID;
CREATE TRIGGER counted_made AFTER INSERT ON rows WHEN new.counted IS NOT NULL BEGIN
    INSERT INTO daily SELECT what, substr(new.finished_at, 1, 10), n FROM (
        SELECT key AS what, value AS n FROM json_each(new.counted) UNION ALL SELECT 'review ' || new.review, 1
    ) WHERE what <> 'review ' ON CONFLICT DO UPDATE SET count = count + excluded.count;
END;
CREATE TRIGGER counted_gone AFTER DELETE ON rows WHEN old.counted IS NOT NULL BEGIN
    INSERT INTO daily SELECT what, substr(old.finished_at, 1, 10), -n FROM (
        SELECT key AS what, value AS n FROM json_each(old.counted) UNION ALL SELECT 'review ' || old.review, 1
    ) WHERE what <> 'review ' ON CONFLICT DO UPDATE SET count = count + excluded.count;
END;
CREATE TRIGGER counted_changed AFTER UPDATE ON rows
WHEN old.counted IS NOT new.counted OR old.finished_at IS NOT new.finished_at OR old.review <> new.review
BEGIN
    INSERT INTO daily SELECT what, day, n FROM (
        SELECT key AS what, substr(old.finished_at, 1, 10) AS day, -value AS n FROM json_each(old.counted)
        UNION ALL SELECT 'review ' || old.review, substr(old.finished_at, 1, 10), -1
        UNION ALL SELECT key, substr(new.finished_at, 1, 10), value FROM json_each(new.counted)
        UNION ALL SELECT 'review ' || new.review, substr(new.finished_at, 1, 10), 1
    ) WHERE what <> 'review ' AND day IS NOT NULL
    ON CONFLICT DO UPDATE SET count = count + excluded.count;
END;
CREATE TABLE mirrored (until TEXT NOT NULL, copied TEXT NOT NULL);
CREATE TABLE changes (last INTEGER NOT NULL, file TEXT NOT NULL);
INSERT INTO changes VALUES (0, lower(hex(randomblob(16))));
""".replace("BINS", str([(one.name, one.low, one.width, one.bins) for one in PROPERTIES]))  # others: rebuilt


class SqliteIndex:
    """Keep the index in the file `path`, one connection per thread; several processes may use it."""

    def __init__(self, path: Path) -> None:
        self._file = Database(path, _SCHEMA)

    def wait(self, keys: Iterable[str], since: datetime, at_work: bool = False) -> None:
        """Note that these keys wait to be judged, or that a host works on them."""
        with self._file.writing() as database:
            change = _next_change(database)
            for key in keys:
                values = {"waiting_since": text(since), "at_work": at_work, "change": change}
                kept = "asked_since = coalesce(asked_since, excluded.asked_since)"
                _upsert(database, key, values, kept, first={"asked_since": text(since)})

    def settle(self, key: str, since: datetime) -> None:
        """End the wait noted at `since`, which left the verdict unchanged; a later note stays."""
        with self._file.writing() as database:
            seen = "key = ? AND waiting_since <= ?"
            database.execute(f"DELETE FROM rows WHERE {seen} AND status IS NULL", (key, text(since)))
            database.execute(
                "UPDATE rows SET waiting_since = NULL, asked_since = NULL, at_work = 0, change = ?"
                f" WHERE {seen}",
                (_next_change(database), key, text(since)),
            )

    def record(self, row: Row) -> None:
        """Store the content of a verdict; end any wait that began before it."""
        values = {name: stored_value(getattr(row, name)) for name in FROM_VERDICT}
        values["counted"] = counted(row)
        newer = "waiting_since > excluded.started_at"  # a wait that began after the verdict
        with self._file.writing() as database:
            _upsert(
                database,
                row.key,
                {**values, "change": _next_change(database)},
                f"waiting_since = CASE WHEN {newer} THEN waiting_since END",
                f"asked_since = CASE WHEN {newer} THEN asked_since END",
                f"at_work = CASE WHEN {newer} THEN at_work ELSE 0 END",
            )

    def review(self, key: str, found: Reviewed) -> None:
        """Store the summary of the reviews of a verdict; what is the same already changes nothing."""
        values = [stored_value(getattr(found, name)) for name in FROM_REVIEWS]
        differs = " OR ".join(f"{name} IS NOT ?" for name in FROM_REVIEWS)
        with self._file.writing() as database:
            database.execute(
                f"UPDATE rows SET {', '.join(f'{name} = ?' for name in FROM_REVIEWS)}, change = ?"
                f" WHERE key = ? AND status IS NOT NULL AND ({differs})",
                (*values, _next_change(database), key, *values),
            )

    def mark(self, key: str, source: SourceState) -> None:
        """Note whether the source still exists.

        Where there is neither source nor verdict, there is no row.
        """
        with self._file.writing() as database:
            if source == "deleted":
                database.execute("DELETE FROM rows WHERE key = ? AND status IS NULL", (key,))
            database.execute(
                "UPDATE rows SET source = ?, change = ? WHERE key = ? AND source <> ?",
                (source, _next_change(database), key, source),
            )

    def remove(self, verdict_key: str) -> None:
        """Remove the verdict; its row goes too, unless it waits for another."""
        emptied = ", ".join(f"{name} = NULL" for name in (*FROM_VERDICT, *FROM_REVIEWS[:-1], "counted"))
        with self._file.writing() as database:
            database.execute(
                "DELETE FROM rows WHERE verdict_key = ? AND waiting_since IS NULL", (verdict_key,)
            )
            database.execute(
                f"UPDATE rows SET {emptied}, review_count = 0, change = ? WHERE verdict_key = ?",
                (_next_change(database), verdict_key),
            )

    def get(self, key: str) -> Row | None:
        """Return the row of a key, or None."""
        return next((row for _, row in self.rows("key = ?", key)), None)

    def find(self, report: str) -> Row | None:
        """Return the row whose report has this name (`pipeline.names.report_id`), or None."""
        return next((row for _, row in self.rows("report = ?", report)), None)

    def all(self) -> Iterator[Row]:
        """Yield all rows, in no particular order."""
        return (row for _, row in self.rows("1"))

    def part(self, after: str, end: str) -> Iterator[Row]:
        """Yield the rows between two keys, see `ports.Index`."""
        hashed = "" if after else f"{UNUSABLE}%"
        condition = "(key > ? AND (? = '' OR key <= ?)) OR verdict_key LIKE ?"
        return (row for _, row in self.rows(condition, after, end, end, hashed))

    def rows(self, condition: str, *values: object) -> Iterator[tuple[int, Row]]:
        """Yield the rows that meet a condition, with their numbers; for `pipeline.worklist.views`."""
        query = f"SELECT id, {', '.join(COLUMNS)} FROM rows WHERE {condition}"
        for id_, *found in self.select(query, *values):
            try:
                row = row_from(dict(zip(COLUMNS, found, strict=True)))
            except (ValueError, TypeError) as error:  # bytes that we never wrote
                raise self._file.condemn() from error
            yield int(str(id_)), row

    def put(self, row: Row) -> None:
        """Store a whole row as it is in another index; see `pipeline.worklist.mirror`."""
        values = {name: stored_value(getattr(row, name)) for name in COLUMNS if name not in ("key", "change")}
        values["counted"] = counted(row)
        with self._file.writing() as database:
            _upsert(database, row.key, {**values, "change": _next_change(database)})

    def drop(self, key: str) -> None:
        """Remove a whole row."""
        with self._file.writing() as database:
            if database.execute("DELETE FROM rows WHERE key = ?", (key,)).rowcount:
                _next_change(database)

    def mirrored(self) -> tuple[datetime, datetime] | None:
        """Return the values of the last `set_mirrored`."""
        for until, copied in self.select("SELECT until, copied FROM mirrored"):
            return datetime.fromisoformat(str(until)), datetime.fromisoformat(str(copied))
        return None

    def set_mirrored(self, until: datetime, copied: datetime) -> None:
        """Note how far this file follows another index, and when it was last copied as a whole."""
        with self._file.writing() as database:
            database.execute("DELETE FROM mirrored")
            database.execute("INSERT INTO mirrored VALUES (?, ?)", (text(until), text(copied)))

    def verdict_keys(self) -> list[str]:
        """Return the verdict keys of all rows."""
        query = "SELECT verdict_key FROM rows WHERE verdict_key IS NOT NULL"
        return [str(key) for (key,) in self.select(query)]

    def present(self) -> Iterator[str]:
        """Yield the keys whose source existed when it was last looked at.

        Keys with an unusable name are left out: their row's key is not quite the name.
        """
        return self._keys("source = 'present' AND (verdict_key IS NULL OR verdict_key NOT LIKE ?)")

    def unsettled(self) -> Iterator[str]:
        """Yield the keys that wait or are at work; those with an unusable name are left out."""
        shelves = "'waiting', 'waiting+', 'working', 'working+'"
        return self._keys(f"shelf IN ({shelves}) AND (verdict_key IS NULL OR verdict_key NOT LIKE ?)")

    def _keys(self, condition: str) -> Iterator[str]:
        """Yield keys some at a time, as other threads may write in between."""
        query = f"SELECT key FROM rows WHERE key > ? AND {condition} ORDER BY key LIMIT 1000"
        after = ""
        while keys := [str(key) for (key,) in self.select(query, after, f"{UNUSABLE}%")]:
            yield from keys
            after = keys[-1]

    def last_change(self) -> int:
        """Return a number that grows with every change: a view with the same number is up to date."""
        return next(int(str(last)) for (last,) in self.select("SELECT last FROM changes"))

    def identity(self) -> str:
        """Return what this file is called: one that replaces it counts its changes anew."""
        return next(str(file) for (file,) in self.select("SELECT file FROM changes"))

    def changed_since(self, change: int, row: int, limit: int) -> list[tuple[int, Row]]:
        """Return the next rows, with their numbers, that changed after a row of this number and change."""
        condition = "(change, id) > (?, ?) ORDER BY change, id LIMIT ?"
        return list(self.rows(condition, change, row, limit))

    def select(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Query the file on this thread's connection; for `pipeline.worklist.views`."""
        return self._file.select(query, *values)

    def filling(self) -> AbstractContextManager[None]:
        """Mark the worklist as complete after the `with` block, see `ports.Index`."""
        return self._file.filling()

    def is_filled(self) -> bool:
        """Return whether the file was filled since it was made; otherwise fill it from the outbox."""
        return self._file.is_filled()

    def is_whole(self) -> bool:
        """Return whether the file has a row for each key: it was filled, or copied as a whole."""
        return self.is_filled() or self.mirrored() is not None

    def check(self) -> None:
        """Look for damage; raise IndexNotReady when there is some: the file is then started anew."""
        self._file.check()

    def erase_traces(self) -> None:
        """Erase what the file still holds of deleted rows, see `ports.Index`."""
        with self._file.writing() as database:  # erases the pieces of their names, too
            database.execute("INSERT INTO names (names) VALUES ('optimize')")
        self._file.compact()

    def close(self) -> None:
        """Close the file; do not use the index afterwards."""
        self._file.close()


def _next_change(database: sqlite3.Connection) -> int:
    return int(database.execute("UPDATE changes SET last = last + 1 RETURNING last").fetchone()[0])


def folded(name: str) -> str:
    """Return a name, or a search word, without differences of case and of how accents are encoded."""
    return unicodedata.normalize("NFC", name.casefold())


def _upsert(
    database: sqlite3.Connection,
    key: str,
    values: Mapping[str, object],
    *more: str,
    first: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Create or change a row; `first` holds values of a new row, `more` assignments that read the old one."""
    names = {"key": key, "name": folded(key.removeprefix(INBOX)), "report": report_id(key)}
    columns = {**names, **values, **first}
    changes = (*(f"{name} = excluded.{name}" for name in values), *more)
    database.execute(
        f"INSERT INTO rows ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        f" ON CONFLICT (key) DO UPDATE SET {', '.join(changes)}",
        list(columns.values()),
    )
