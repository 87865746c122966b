"""Catch lost notifications: queue the X-rays in the inbox that have no verdict.

It compares three lists, those of the inbox, the outbox and the worklist, and reads only the verdicts for
which the worklist differs from the outbox.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pipeline.errors import IndexNotReady, StoreError
from pipeline.intake import mark_source, record_verdict
from pipeline.names import INBOX, OUTBOX, is_unfinished, is_verdict, printable
from pipeline.ports import FullStore, Index, Queue
from pipeline.records import ObjectInfo, Row

MINIMUM_AGE = timedelta(minutes=15)  # until then, a notification may be on its way, or its job at work


@dataclass(frozen=True)
class Reconciled:
    """Count the objects queued, and those without a verdict of their bytes, with the age of the oldest."""

    queued: int
    waiting: int
    oldest_seconds: float


def reconcile_inbox(
    store: FullStore,
    index: Index,
    queue: Queue,
    now: datetime,
    minimum_age: timedelta = MINIMUM_AGE,
    failed: bool = False,
    ignores: Callable[[str], bool] = is_unfinished,
) -> Reconciled:
    """Queue the objects that have no finished verdict of their bytes, and correct the worklist.

    Its rows are corrected by the outbox, and its sources by the inbox. Objects younger than `minimum_age`, or
    taken up since then, are left alone. So are verdicts that say `failed`, unless `failed` is set: otherwise
    they would be tried for ever. Keys that `ignores` accepts are not judged. Raises StoreError. Needs memory
    for a line of each row.
    """
    look = _Look(store, index, now, minimum_age, failed, ignores)
    queue.send(look.due(), now)
    look.mark_gone()
    return Reconciled(look.queued, look.waiting, look.oldest_seconds)


@dataclass(frozen=True, slots=True)
class _Known:
    """Hold the part of a worklist row that matters here."""

    etag: str | None  # as in the verdict
    is_failed: bool
    is_present: bool
    waiting_since: datetime | None

    @classmethod
    def of(cls, row: Row) -> "_Known":
        """Build from a worklist row."""
        etag = row.etag if row.status else None
        return cls(etag, row.status == "failed", row.source == "present", row.waiting_since)


class _Look:
    """Compare the whole inbox once."""

    def __init__(
        self,
        store: FullStore,
        index: Index,
        now: datetime,
        minimum_age: timedelta,
        failed: bool,
        ignores: Callable[[str], bool],
    ) -> None:
        self._store, self._index, self._now = store, index, now
        self._minimum_age, self._failed, self._ignores = minimum_age, failed, ignores
        self._rows: dict[str, _Known] = {}
        seen: dict[str, Row] = {}  # rows by the keys of their verdicts
        for row in index.all():
            self._rows[row.key] = _Known.of(row)
            if row.verdict_key:
                seen[row.verdict_key] = row
        self._compare(seen)
        self.queued = self.waiting = 0
        self.oldest_seconds = 0.0

    def _compare(self, seen: dict[str, Row]) -> None:
        """Bring the rows in line with the outbox, which is listed after them."""
        for job in self._store.names(OUTBOX):
            if is_verdict(job.key):
                row = seen.pop(job.key, None)
                if row is None or job.etag not in (None, row.verdict_etag):
                    self._record(job.key, row)
        for key, row in seen.items():  # verdicts that were deleted
            self._record(key, row)

    def _record(self, verdict_key: str, before: Row | None) -> None:
        """Bring one row up to date; an unreadable verdict counts as missing."""
        try:
            row = record_verdict(verdict_key, self._store, self._index)
        except IndexNotReady:
            raise
        except StoreError:  # concerns only this object
            return
        known = row or before
        if known is None:
            return
        now = self._index.get(known.key)
        self._rows.pop(known.key, None)
        if now:
            self._rows[now.key] = _Known.of(now if row else replace(now, status=None))

    def due(self) -> Iterator[str]:
        """Yield the keys to be queued, while the inbox is listed."""
        for info in self._store.list(INBOX):
            known = self._rows.pop(printable(info.key), None)
            if info.key.endswith("/") or self._ignores(info.key):
                continue
            if known and not known.is_present:
                mark_source(info.key, self._store, self._index)
            if self._is_due(info, known):
                self.queued += 1
                yield info.key

    def mark_gone(self) -> None:
        """Mark the sources of rows whose key was not listed as gone; call it after `due`."""
        for key, known in self._rows.items():
            if (known.is_present or known.waiting_since) and mark_source(key, self._store, self._index):
                self._index.settle(key, known.waiting_since or self._now)

    def _is_due(self, info: ObjectInfo, known: _Known | None) -> bool:
        age = max(self._now - info.modified, timedelta())  # a folder's times may lie in the future
        if known is None or known.etag != info.etag:
            self.waiting += 1
            self.oldest_seconds = max(self.oldest_seconds, age.total_seconds())
            since = known.waiting_since if known else None
        elif known.waiting_since or (self._failed and known.is_failed):
            since = known.waiting_since  # of a newer hint, whose job may be lost
        else:
            return False
        is_at_work = since is not None and self._now - since < self._minimum_age
        return age >= self._minimum_age and not is_at_work
