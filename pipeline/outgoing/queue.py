"""Keep what is to be sent in SQLite: a row for each destination and X-ray, and where each destination stands.

The queue follows the worklist as that follows the outbox: each destination has a place in the worklist's
changes, and what is found there and the new place are written in one transaction. So nothing is lost by a
crash, and nothing has to be told to the queue.
"""

import json
import random
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.worklist.database import Database
from pipeline.worklist.rows import text

DeliveryState = Literal["waiting", "sent", "done", "nothing", "dead"]
LIFETIME = timedelta(days=1)  # of a delivery that does not succeed
CONFIRM_WITHIN = timedelta(minutes=15)
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 900.0  # seconds before another try
# Before a delivery is dead, whatever its age: the program may have been off for days, the clock may jump.
_GRACE = timedelta(minutes=15)
_FEWEST_TRIES = 20
_FAR = timedelta(minutes=20)  # no pause is as long: the clock was set back
_MOST_EARLY = 1_000  # confirmations that came before their delivery was noted as sent

# `wanted` is the ETag of the verdict to send, `done` that of the last one that was. `due_at` of a dead one is
# when it died. `since` of a destination is when it was first seen: earlier verdicts are not sent by
# themselves. While a destination is down, `due_at` is when it is tried next.
_SCHEMA = """
CREATE TABLE destinations (
    name TEXT PRIMARY KEY, since TEXT NOT NULL,
    file TEXT NOT NULL DEFAULT '', change INTEGER NOT NULL DEFAULT 0, row INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0, due_at TEXT NOT NULL DEFAULT '', said TEXT
) WITHOUT ROWID;
CREATE TABLE deliveries (
    destination TEXT NOT NULL, key TEXT NOT NULL, wanted TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
    first_at TEXT NOT NULL, due_at TEXT NOT NULL, said TEXT, token TEXT, done TEXT, done_at TEXT,
    PRIMARY KEY (destination, key)
) WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (destination, state, due_at);
CREATE INDEX deliveries_key ON deliveries (key);
CREATE INDEX deliveries_token ON deliveries (token) WHERE token IS NOT NULL;
"""
_COLUMNS = "destination, key, wanted, state, attempts, first_at, due_at, said, done, done_at"


@dataclass(frozen=True)
class Followed:
    """Mark how far a destination has followed the worklist, and since when its verdicts count."""

    since: datetime
    file: str
    change: int
    row: int


@dataclass(frozen=True)
class Entry:
    """Hold one row of the queue."""

    destination: str
    key: str
    wanted: str
    state: DeliveryState
    attempts: int
    first_at: datetime
    due_at: datetime
    said: str | None  # why the last try failed
    done: str | None
    done_at: datetime | None


@dataclass(frozen=True)
class Dead:
    """Count what could not be delivered to a destination."""

    destination: str
    count: int
    since: datetime
    said: str


class OutgoingQueue:
    """Keep the queue in the file `path`; several threads and processes may use it."""

    def __init__(
        self,
        path: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),
    ) -> None:
        self._file = Database(path, _SCHEMA, "the queue of results to send")
        self._memo = path.with_suffix(".json")  # when each destination was first seen
        self._now, self._jitter, self._began = now, jitter, now()
        self._guard = threading.Lock()
        self._set_back: dict[str, datetime] = {}  # since when destinations from the future count
        self._early: dict[str, str | None] = {}

    # How the queue is filled

    def place(self, destination: str) -> Followed:
        """Return how far a destination has followed the worklist; it is noted when it is first seen."""
        query = "SELECT since, file, change, row FROM destinations WHERE name = ?"
        found = next(self._file.select(query, destination), None)
        if found is None:
            with self._file.writing() as database:  # one at a time, also for the note beside the file
                database.execute(
                    "INSERT OR IGNORE INTO destinations (name, since) VALUES (?, ?)",
                    (destination, text(self._first_seen(destination))),
                )
                found = next(database.execute(query, (destination,)))
        since, file, change, row = found
        return Followed(self._until_now(destination, datetime.fromisoformat(since)), file, change, row)

    def take_in(self, destination: str, found: Iterable[tuple[str, str]], place: Followed) -> None:
        """Note keys with the ETag of the verdict to send, unless known, and how far the worklist was read."""
        with self._file.writing() as database:
            for key, etag in found:
                self._want(database, destination, key, etag)
            database.execute(
                "UPDATE destinations SET file = ?, change = ?, row = ? WHERE name = ?",
                (place.file, place.change, place.row, destination),
            )

    def send_again(self, destination: str, key: str, etag: str) -> None:
        """Send this verdict once more, or one from before the destination was first seen."""
        with self._file.writing() as database:
            database.execute("DELETE FROM deliveries WHERE destination = ? AND key = ?", (destination, key))
            self._want(database, destination, key, etag)
            self._hasten(database, destination)

    def revive(self, destination: str) -> int:
        """Send again what is dead, and at once what waits; return how many results were dead."""
        now = text(self._now())
        with self._file.writing() as database:
            count = database.execute(
                "UPDATE deliveries SET state = 'waiting', attempts = 0, first_at = ?, due_at = ?"
                " WHERE destination = ? AND state = 'dead'",
                (now, now, destination),
            ).rowcount
            database.execute(
                "UPDATE deliveries SET due_at = ? WHERE destination = ? AND state = 'waiting'",
                (now, destination),
            )
            self._hasten(database, destination)
        return count

    # How it is emptied

    def due(self, destination: str) -> Entry | None:
        """Return the next delivery that is due, unless its destination is down and to be left alone."""
        now, far = text(self._now()), text(self._now() + _FAR)
        query = (
            f"SELECT {_COLUMNS} FROM deliveries WHERE destination = ? AND state IN ('waiting', 'sent') AND"
            " (due_at <= ? OR due_at > ?) AND NOT EXISTS"
            " (SELECT 1 FROM destinations WHERE name = ? AND due_at > ? AND due_at <= ?)"
            " ORDER BY due_at LIMIT 1"
        )
        values = destination, now, far, destination, now, far
        return next(map(_entry, self._file.select(query, *values)), None)

    def begin(self, entry: Entry) -> None:
        """Note a try before it is made: what cannot be noted is not sent, and not again at once after it."""
        with self._file.writing() as database:
            database.execute(
                "UPDATE deliveries SET attempts = ?, due_at = ?"
                " WHERE destination = ? AND key = ? AND wanted = ?",
                (entry.attempts + 1, text(self._now() + self._pause(entry.attempts)), *_name(entry)),
            )

    def finish(self, entry: Entry) -> None:
        """Note that a delivery was made."""
        now = text(self._now())
        with self._file.writing() as database:
            self._done(database, now, "destination = ? AND key = ? AND wanted = ?", *_name(entry))
            database.execute(
                "UPDATE deliveries SET done = ?, done_at = ? WHERE destination = ? AND key = ?",
                (entry.wanted, now, entry.destination, entry.key),
            )

    def note_sent(self, entry: Entry, token: str) -> None:
        """Note that a delivery waits for the confirmation of a transaction, which may be here already."""
        due = text(self._now() + CONFIRM_WITHIN)
        with self._guard:
            with self._file.writing() as database:
                database.execute(
                    "UPDATE deliveries SET state = 'sent', attempts = ?, token = ?, due_at = ?, said = NULL"
                    " WHERE destination = ? AND key = ? AND wanted = ?",
                    (entry.attempts, token, due, *_name(entry)),
                )
            if token in self._early:
                self._settle(token, self._early.pop(token))

    def confirm(self, token: str, why_not: str | None = None) -> None:
        """Take the confirmation of a transaction, or why there is none; an unknown one may be noted soon."""
        with self._guard:
            if not self._settle(token, why_not):
                while len(self._early) >= _MOST_EARLY:
                    del self._early[next(iter(self._early))]
                self._early[token] = why_not

    def fail(self, entry: Entry, why: str, is_final: bool = False) -> bool:
        """Note that a delivery failed; return whether it is dead: that is final, or it took too long."""
        with self._file.writing() as database:
            return self._failed(database, entry, why, is_final)

    def close_off(self, entry: Entry, why: str | None) -> None:
        """Note that there is nothing to send of this verdict."""
        with self._file.writing() as database:
            database.execute(
                "UPDATE deliveries SET state = 'nothing', said = ?, token = NULL"
                " WHERE destination = ? AND key = ? AND wanted = ?",
                (why, *_name(entry)),
            )

    def drop(self, entry: Entry) -> None:
        """Send nothing: this verdict was replaced. A newer one may have been noted meanwhile."""
        with self._file.writing() as database:
            which = "destination = ? AND key = ? AND wanted = ?"
            database.execute(f"DELETE FROM deliveries WHERE {which} AND done IS NULL", _name(entry))
            database.execute(
                "UPDATE deliveries SET state = 'done', wanted = done, said = NULL, token = NULL"
                f" WHERE {which}",
                _name(entry),
            )

    def pause(self, destination: str, why: str) -> tuple[int, int]:
        """Leave a destination that is down alone for a while, which grows; its old deliveries die.

        Returns how often it failed in a row, and how many deliveries died.
        """
        now = self._now()
        with self._file.writing() as database:
            query = "SELECT failures FROM destinations WHERE name = ?"
            failures = int(next(database.execute(query, (destination,)), (0,))[0])
            due = text(now + self._pause(failures))
            database.execute(
                "UPDATE destinations SET failures = ?, due_at = ?, said = ? WHERE name = ?",
                (failures + 1, due, why, destination),
            )
            if now < self._began + _GRACE or failures + 1 < _FEWEST_TRIES:
                return failures + 1, 0
            died = database.execute(
                "UPDATE deliveries SET state = 'dead', due_at = ?, said = ?"
                " WHERE destination = ? AND state = 'waiting' AND first_at <= ?",
                (text(now), why, destination, text(now - LIFETIME)),
            )
            return failures + 1, died.rowcount

    def resume(self, destination: str) -> bool:
        """Note that a destination answers; return whether it was down."""
        query = "SELECT 1 FROM destinations WHERE name = ? AND failures > 0"
        if next(self._file.select(query, destination), None) is None:
            return False
        with self._file.writing() as database:
            database.execute(
                "UPDATE destinations SET failures = 0, due_at = '', said = NULL WHERE name = ?",
                (destination,),
            )
        return True

    # What is removed

    def keys(self, destination: str) -> list[str]:
        """Return the keys of all deliveries to a destination."""
        query = "SELECT key FROM deliveries WHERE destination = ?"
        return [str(key) for (key,) in self._file.select(query, destination)]

    def forget(self, key: str) -> int:
        """Remove an X-ray; return how many rows it had."""
        with self._file.writing() as database:
            return database.execute("DELETE FROM deliveries WHERE key = ?", (key,)).rowcount

    def erase_traces(self) -> None:
        """Erase what is left of removed rows."""
        self._file.compact()

    def close(self) -> None:
        """Close the file; do not use the queue afterwards."""
        self._file.close()

    # What is shown

    def entries(self, key: str) -> list[Entry]:
        """Return the deliveries of an X-ray; one that waits for a destination that is down says so."""
        query = f"SELECT {_COLUMNS} FROM deliveries WHERE key = ? ORDER BY destination"
        found, down = list(map(_entry, self._file.select(query, key))), self._down()
        return [_waiting_for(one, *down.get(one.destination, (0, None))) for one in found]

    def counts(self, destination: str) -> dict[DeliveryState, int]:
        """Return how many deliveries there are in each state."""
        query = "SELECT state, COUNT(*) FROM deliveries WHERE destination = ? GROUP BY state"
        found = dict(self._file.select(query, destination))
        return {state: found.get(state, 0) for state in get_args(DeliveryState)}

    def dead(self, destination: str) -> Dead | None:
        """Return what could not be delivered; None when nothing is dead."""
        query = (
            "SELECT COUNT(*), MIN(due_at), MAX(said) FROM deliveries WHERE destination = ? AND state = 'dead'"
        )
        count, since, said = next(self._file.select(query, destination))
        return Dead(destination, count, datetime.fromisoformat(since), said or "") if count else None

    def _want(self, database: sqlite3.Connection, destination: str, key: str, etag: str) -> None:
        now = text(self._now())
        database.execute(
            "INSERT INTO deliveries (destination, key, wanted, first_at, due_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (destination, key) DO UPDATE SET wanted = excluded.wanted, state = 'waiting',"
            " attempts = 0, first_at = excluded.first_at, due_at = excluded.due_at, said = NULL, token = NULL"
            " WHERE wanted <> excluded.wanted OR state = 'nothing'",  # its X-ray may be back
            (destination, key, etag, now, now),
        )

    def _settle(self, token: str, why_not: str | None) -> bool:
        with self._file.writing() as database:
            query = f"SELECT {_COLUMNS} FROM deliveries WHERE token = ?"
            entry = next(map(_entry, database.execute(query, (token,))), None)
            if entry is None:
                return False
            if why_not is None:
                self._done(database, text(self._now()), "token = ?", token)
            else:
                self._failed(database, entry, why_not, False)
            return True

    def _done(self, database: sqlite3.Connection, now: str, which: str, *values: str) -> None:
        database.execute(
            "UPDATE deliveries SET state = 'done', done = wanted, done_at = ?, said = NULL, token = NULL"
            f" WHERE {which}",
            (now, *values),
        )

    def _failed(self, database: sqlite3.Connection, entry: Entry, why: str, is_final: bool) -> bool:
        now = self._now()
        is_old = now >= max(entry.first_at + LIFETIME, self._began + _GRACE)
        is_dead = is_final or (is_old and entry.attempts + 1 >= _FEWEST_TRIES)
        changed = database.execute(
            "UPDATE deliveries SET state = ?, attempts = ?, due_at = ?, said = ?, token = NULL"
            " WHERE destination = ? AND key = ? AND wanted = ?",
            (
                "dead" if is_dead else "waiting",
                entry.attempts + 1,
                text(now if is_dead else now + self._pause(entry.attempts)),
                why,
                *_name(entry),
            ),
        )
        return is_dead and changed.rowcount > 0

    def _hasten(self, database: sqlite3.Connection, destination: str) -> None:
        database.execute("UPDATE destinations SET due_at = '' WHERE name = ?", (destination,))

    def _pause(self, failures: int) -> timedelta:
        seconds = min(_FIRST_PAUSE * 2 ** min(failures, 16), _LONGEST_PAUSE)
        return timedelta(seconds=seconds * self._jitter())

    def _down(self) -> dict[str, tuple[int, str | None]]:
        query = "SELECT name, failures, said FROM destinations WHERE failures > 0"
        return {name: (failures, said) for name, failures, said in self._file.select(query)}

    def _until_now(self, destination: str, since: datetime) -> datetime:
        """Return `since`; while it is in the future, for the clock was ahead, when that was noticed."""
        if since <= (now := self._now()):
            self._set_back.pop(destination, None)
            return since
        return min(self._set_back.setdefault(destination, now), now)

    def _first_seen(self, destination: str) -> datetime:
        """Return since when the verdicts of a destination count: now, or earlier if the queue was damaged.

        Then this file is new, and it is when the destination was first seen, at most a delivery's life ago.
        """
        known: dict[str, str] = {}
        with suppress(OSError, ValueError):
            found = json.loads(self._memo.read_text("utf-8"))
            known = found if isinstance(found, dict) else {}
        now = self._now()
        with suppress(KeyError, ValueError, TypeError):
            return min(max(datetime.fromisoformat(known[destination]), now - LIFETIME), now)
        fresh = self._memo.with_suffix(".new")
        with suppress(OSError):  # the queue works without it
            fresh.write_text(json.dumps({**known, destination: text(now)}), "utf-8")
            fresh.replace(self._memo)
        return now


def _name(entry: Entry) -> tuple[str, str, str]:
    return entry.destination, entry.key, entry.wanted


def _waiting_for(entry: Entry, failures: int, said: str | None) -> Entry:
    if entry.state != "waiting" or not failures:
        return entry
    return replace(entry, attempts=max(entry.attempts, failures), said=said)


def _entry(values: tuple[Any, ...]) -> Entry:
    destination, key, wanted, state, attempts, first_at, due_at, said, done, done_at = values
    first, due = map(datetime.fromisoformat, (first_at, due_at))
    finished = datetime.fromisoformat(done_at) if done_at else None
    return Entry(destination, key, wanted, state, attempts, first, due, said, done, finished)
