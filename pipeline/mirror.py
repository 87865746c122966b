"""A copy of a bucket's worklist on the page's disk, so that search and order are built once, in SQLite."""

import logging
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pipeline.dynamodb import TOMBSTONE_LIFE, DynamoIndex
from pipeline.errors import StoreError
from pipeline.ports import Row
from pipeline.sqlite import SqliteIndex

log = logging.getLogger(__name__)

# The feed is eventually consistent, and dated by the clocks of several writers: this much is read again.
_OVERLAP = timedelta(minutes=5)
_CLOCK_ERROR = timedelta(minutes=15)  # of this machine, at most: AWS refuses requests that are further off
_STEP_SECONDS = 1.0
_LONGEST_PAUSE = 60.0  # seconds, while the table does not answer


class Mirror:
    """Makes `target` follow `source`; a row that is the same already is not written."""

    def __init__(
        self,
        source: DynamoIndex,
        target: SqliteIndex,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._source, self._target, self._now = source, target, now

    def step(self) -> None:
        """Take over what changed since the last step; everything, at first and after a long absence.

        StoreError when the source does not answer.
        """
        until = self._target.mirrored_until()
        if until is None or self._now() - until > TOMBSTONE_LIFE - _OVERLAP:
            return self._copy()
        latest = until
        for change in self._source.changes(until - _OVERLAP):
            self._take(change.key, change.row)
            latest = max(latest, change.at)
        if latest > until:
            self._target.set_mirrored_until(latest)
        return None

    def run(self, stop: threading.Event) -> None:
        """Step until `stop` is set; an error is logged, and the pauses grow."""
        pause = _STEP_SECONDS
        while not stop.wait(pause):
            try:
                self.step()
                pause = _STEP_SECONDS
            except (StoreError, sqlite3.Error) as error:
                log.warning("the worklist is not up to date: %s", error)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _copy(self) -> None:
        began = self._now() - _CLOCK_ERROR  # the feed is dated by other clocks
        rows = {row.key: row for row in self._source.all()}
        for key, row in rows.items():
            self._take(key, row)
        for row in list(self._target.all()):
            if row.key not in rows:
                self._target.drop(row.key)
        self._target.set_mirrored_until(began)

    def _take(self, key: str, row: Row | None) -> None:
        known = self._target.get(key)
        if row is None:
            if known:
                self._target.drop(key)
        elif known is None or replace(known, change=0) != row:
            self._target.put(row)
