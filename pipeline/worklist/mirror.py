"""Copy a bucket's worklist to the page's disk, so that search and order are built once, in SQLite."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pipeline.errors import StoreError, place_of
from pipeline.records import Row
from pipeline.worklist.dynamodb import DynamoIndex
from pipeline.worklist.sqlite import SqliteIndex

log = logging.getLogger(__name__)

# The feed is eventually consistent, and dated by several writers' clocks: this much is read again.
_OVERLAP = timedelta(seconds=60)
# For changes that the feed misses: writes by a clock that was off by more than that, and a new table of the
# same name. It is well within the life of a tombstone.
_COPY_EVERY = timedelta(days=1)
_STEP_SECONDS = 1.0
_LONGEST_PAUSE = 60.0  # seconds, while the table does not answer


class Mirror:
    """Make `target` follow `source`; a row that is the same already is not written."""

    def __init__(
        self,
        source: DynamoIndex,
        target: SqliteIndex,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._source, self._target, self._now = source, target, now

    def step(self) -> None:
        """Copy the changes since the last step; copy everything at first and once a day.

        Raises StoreError when the source does not answer.
        """
        now, noted = self._now(), self._target.mirrored()
        if noted is None or not timedelta(0) <= now - noted[1] < _COPY_EVERY:
            return self._copy(now)
        until, copied = noted
        latest = until
        for change in self._source.changes(until - _OVERLAP):
            self._take(change.key, change.row)
            if change.at <= now:  # a writer whose clock is ahead must not make the mirror skip the others
                latest = max(latest, change.at)
        if latest > until:
            self._target.set_mirrored(latest, copied)
        return None

    def run(self, stop: threading.Event) -> None:
        """Step until `stop` is set; log errors, with growing pauses."""
        pause = _STEP_SECONDS
        while not stop.wait(pause):
            try:
                self.step()
                pause = _STEP_SECONDS
            except Exception as error:  # noqa: BLE001  the page must not show an old worklist forever
                said = error if isinstance(error, StoreError) else place_of(error)
                log.warning("the worklist is not up to date: %s", said)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _copy(self, now: datetime) -> None:
        # Use the feed's own last time: this machine's clock may be ahead of the writers' clocks.
        until = next((last.at for last in self._source.latest_changes(now, 1)), now - _COPY_EVERY)
        rows = {row.key: row for row in self._source.all()}
        for key, row in rows.items():
            self._take(key, row)
        for row in list(self._target.all()):
            if row.key not in rows:
                self._target.drop(row.key)
        self._target.erase_traces()  # of X-rays erased since the last copy
        self._target.set_mirrored(until, now)

    def _take(self, key: str, row: Row | None) -> None:
        known = self._target.get(key)
        if row is None:
            if known:
                self._target.drop(key)
        elif known is None or replace(known, change=0) != row:
            self._target.put(row)
