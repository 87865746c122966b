"""Catch lost notifications: queue the X-rays in the inbox that have no verdict.

It compares three lists, those of the inbox, the outbox and the worklist, and reads only the verdicts for
which the worklist differs from the outbox. An X-ray whose message still waits in the queue is not lost: it
is left alone until the queue has brought everything that was sent before. The worklist shows what is queued
here as waiting, and the next look leaves that alone, too.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile

from pipeline.errors import ConditionFailed, IndexNotReady, NotQueued, StoreError
from pipeline.intake import PATIENCE, mark_source, record_verdict
from pipeline.names import (
    BOOKMARK,
    INBOX,
    OUTBOX,
    PREVIEWS,
    REVIEWS,
    UNUSABLE,
    inbox_key,
    is_review,
    is_unfinished,
    is_verdict,
    printable,
    review_prefix,
    verdict_key,
)
from pipeline.ports import FullStore, Index, Queue, Store
from pipeline.records import Job, ObjectInfo, Row
from pipeline.reviews.kept import record_reviews

log = logging.getLogger(__name__)

MINIMUM_AGE = timedelta(minutes=15)  # until then, a notification may be on its way, or its job at work
_LATE = timedelta(minutes=5)  # a notification that comes later than this may be taken for a lost one
MOST_AT_ONCE = 100_000  # X-rays that one run of a function compares; they need about 100 MB
_CHUNK = 1000  # keys that are queued together
_BOOKMARK_LIMIT = 10_000


@dataclass(frozen=True)
class Reconciled:
    """Count the objects queued, and those without a verdict of their bytes, with the age of the oldest."""

    queued: int
    waiting: int
    oldest_seconds: float
    after: str = ""  # a further look begins after this key; empty where this one came to the end


def reconcile_inbox(
    store: FullStore,
    index: Index,
    queue: Queue,
    now: datetime,
    minimum_age: timedelta = MINIMUM_AGE,
    failed: bool = False,
    ignores: Callable[[str], bool] = is_unfinished,
    after: str = "",
    most: int | None = None,
    seconds_left: Callable[[], float] = lambda: float("inf"),
) -> Reconciled:
    """Queue the objects that have no finished verdict of their bytes, and correct the worklist.

    Its rows are corrected by the outbox, and its sources by the inbox. Objects younger than `minimum_age` are
    left alone, and so are those whose job still waits, as far as the queue tells. So are verdicts that say
    `failed`, unless `failed` is set: otherwise they would be tried for ever. Keys that `ignores` accepts are
    not judged. Raises StoreError.

    Compares at most `most` objects, those after the key `after`, in memory for a line of each, and ends early
    when no seconds are left; `Reconciled.after` says where to go on. Both need a store that lists in order.
    """
    look = _Look(store, index, now, minimum_age, failed, ignores, after)
    look.read_queue(queue)
    look.read_inbox(most, seconds_left)
    look.read_outbox()
    look.read_worklist(seconds_left)
    is_done = look.correct(seconds_left) and look.send(queue, seconds_left)
    return Reconciled(look.queued, look.waiting, look.oldest_seconds, look.end if is_done else after)


def next_look(store: Store) -> str:
    """Return the key after which the last look of `reconcile_inbox` ended; empty where it saw everything."""
    found = store.get(BOOKMARK, _BOOKMARK_LIMIT)
    try:
        return str(json.loads(found[1])["after"]) if found else ""
    except (ValueError, KeyError, TypeError):
        return ""


def note_next_look(store: Store, after: str) -> None:
    """Keep for `next_look` where this look ended."""
    found = store.head(BOOKMARK)
    if found is None and not after:
        return
    try:
        store.put(BOOKMARK, json.dumps({"after": after}).encode(), found.etag if found else None)
    except ConditionFailed:
        return  # another run knows better


class _Look:
    """Compare a part of the inbox once: that between two keys, or all of it."""

    def __init__(
        self,
        store: FullStore,
        index: Index,
        now: datetime,
        minimum_age: timedelta,
        failed: bool,
        ignores: Callable[[str], bool],
        after: str,
    ) -> None:
        self._after, self.end = after, ""  # the keys before and at the end of this part; empty for all
        self._store, self._index, self._now = store, index, now
        self._minimum_age, self._failed, self._ignores = minimum_age, failed, ignores
        self._inbox: dict[str, ObjectInfo] = {}  # by the keys of their rows; later only those without a row
        self._outbox: dict[str, str | None] = {}  # ETags by the keys of verdicts; later those without a row
        self._wrong: list[tuple[str, Row, ObjectInfo | None]] = []  # rows that do not show their verdict
        self._reviews = Counter[str]()  # objects by the folders of reviews
        self._wrong_reviews: list[str] = []  # keys of rows
        self._wrong_sources: list[tuple[str, datetime]] = []
        self._due: list[str] = []
        self.queued = self.waiting = 0
        self.oldest_seconds = 0.0

    def read_queue(self, queue: Queue) -> None:
        """Ask the queue how far it is, before anything is listed."""
        oldest = queue.oldest_sent(self._now)
        self._brought_until = min(oldest or self._now, self._now)
        # A job that waits for a host is sent again and again, and ends by itself if no message was lost.
        self._wait = PATIENCE + self._minimum_age if oldest else self._minimum_age

    def read_inbox(self, most: int | None, seconds_left: Callable[[], float]) -> None:
        """List objects; this part ends with the last one where there may be more."""
        enough = seconds_left() * 2 / 3
        for info in self._store.list(INBOX, self._after):
            self._inbox[printable(info.key)] = info
            is_full = most is not None and len(self._inbox) >= most
            if is_full or (len(self._inbox) % _CHUNK == 0 and seconds_left() < enough):
                self.end = info.key
                return

    def read_outbox(self) -> None:
        """List the verdicts of these objects, and all reviews, whose names do not tell their part."""
        for job in self._outbox_names():
            if is_verdict(job.key) and self._has_verdict(job.key):
                self._outbox[job.key] = job.etag
        for job in self._store.names(REVIEWS):
            if is_review(job.key):
                self._reviews[f"{job.key.rpartition('/')[0]}/"] += 1

    def read_worklist(self, seconds_left: Callable[[], float]) -> None:
        """Compare each row with the lists, and drop from them what needs no more work."""
        for number, row in enumerate(self._index.part(self._after, self.end)):
            if number % _CHUNK == 0 and seconds_left() < 0:
                raise StoreError("the worklist is too long to be compared in the time of one run")
            info = self._inbox.pop(row.key, None)
            place = row.verdict_key or verdict_key(row.key)
            if self._has_verdict(place):
                is_listed = place in self._outbox
                etag = self._outbox.pop(place, None)
                if is_listed != bool(row.verdict_key) or etag not in (None, row.verdict_etag):
                    self._wrong.append((place, row, info))
                    continue
            self._compare(row, info)

    def _outbox_names(self) -> Iterator[Job]:
        """List the verdicts' names of this part; a part that is not all passes over previews and reviews."""
        if not self._after and not self.end:
            yield from self._store.names(OUTBOX)
            return
        first = OUTBOX + self._after.removeprefix(INBOX)
        last = f"{OUTBOX}{self.end.removeprefix(INBOX)}.json" if self.end else ""
        # What is left out by `last`, or by the order of S3, is read again, and found to be right.
        for apart in (PREVIEWS, REVIEWS):
            if first < apart:
                yield from self._between(first, apart)
            first = max(first, apart.removesuffix("/") + chr(ord("/") + 1))
        rest = self._store.names(OUTBOX, first)
        yield from takewhile(lambda job: not last or job.key <= last, rest)
        if not self._after:
            yield from self._store.names(UNUSABLE)

    def _between(self, first: str, end: str) -> Iterator[Job]:
        return takewhile(lambda job: job.key < end, self._store.names(OUTBOX, first))

    def correct(self, seconds_left: Callable[[], float]) -> bool:
        """Bring the rows in line; return whether there was time for all of them."""
        for place, row, info in self._wrong:
            if seconds_left() < 0:
                return False
            self._record(place, row, info)
        for place in self._outbox:  # verdicts without a row
            if seconds_left() < 0:
                return False
            self._record(place, None, None)
        for key, waited in self._wrong_sources:
            if seconds_left() < 0:
                return False
            mark_source(key, self._store, self._index, waited)
        for key in self._wrong_reviews:
            if seconds_left() < 0:
                return False
            self._record_reviews(key)
        for info in self._inbox.values():
            self._see(info, None)
        return True

    def send(self, queue: Queue, seconds_left: Callable[[], float]) -> bool:
        """Queue what is due; return whether there was time for all of it."""
        left = iter(self._due)
        while keys := list(islice(left, _CHUNK)):
            # Noted first: a host may have written the verdict before a later note.
            self._index.wait(list(map(printable, keys)), self._now)
            try:
                queue.send([Job(key, since=self._now) for key in keys])
            except NotQueued as error:
                self.queued += len(keys) - len(error.jobs)
                raise
            self.queued += len(keys)
            if seconds_left() < 0:
                return self.queued == len(self._due)
        return True

    def _record(self, place: str, before: Row | None, info: ObjectInfo | None) -> None:
        """Bring one row up to date; an unreadable verdict counts as missing."""
        try:
            row = record_verdict(place, self._store, self._index)
        except IndexNotReady:
            raise
        except StoreError:  # concerns only this object
            row = before
        key = row.key if row else before.key if before else None
        info = info or self._inbox.pop(key or "", None)
        now = self._index.get(key) if key else None
        if now:
            self._compare(now, info, has_verdict=row is not None)
        elif info:
            self._see(info, None)

    def _record_reviews(self, key: str) -> None:
        try:
            record_reviews(key, self._store, self._index)
        except IndexNotReady:
            raise
        except StoreError:  # concerns only this object
            log.warning("the reviews of an X-ray cannot be read; check the permissions of the outbox")

    def _compare(self, row: Row, info: ObjectInfo | None, has_verdict: bool = True) -> None:
        """Compare a row that shows its verdict with the object of its key."""
        if not self._has(row.key):
            return
        if row.verdict_etag and has_verdict:
            kept = self._reviews[review_prefix(row.key, row.verdict_etag)]
            if kept != (row.review_count if row.review_of == row.verdict_etag else 0):
                self._wrong_reviews.append(row.key)
        waited = row.waiting_since or self._now
        if info is None:
            if row.source == "present" or row.waiting_since:
                self._wrong_sources.append((row.key, waited))
            return
        if row.source != "present":
            self._wrong_sources.append((info.key, waited))
        self._see(info, row, has_verdict)

    def _see(self, info: ObjectInfo, row: Row | None, has_verdict: bool = True) -> None:
        """Count an object, and note it where it is to be queued."""
        if info.key.endswith("/") or self._ignores(info.key):
            return
        age = max(self._now - info.modified, timedelta())  # a folder's times may lie in the future
        is_current = row is not None and bool(row.status) and has_verdict and row.etag == info.etag
        since = row.waiting_since if row else None
        if not is_current:
            self.waiting += 1
            self.oldest_seconds = max(self.oldest_seconds, age.total_seconds())
        elif row and not since and not (self._failed and row.status == "failed"):
            return
        if age < self._minimum_age:
            return
        if since:  # the queue brought it once: its job waits for a host, or a host has it
            is_due = self._now - since >= self._wait
        else:
            is_due = self._now - age + min(_LATE, self._minimum_age) <= self._brought_until
        if is_due:
            self._due.append(info.key)

    def _has(self, key: str) -> bool:
        """Return whether a key belongs to this part."""
        return self._after < key and (not self.end or key <= self.end)

    def _has_verdict(self, place: str) -> bool:
        """Return whether a verdict belongs to this part; those with hashed names belong to the first."""
        return not self._after if place.startswith(UNUSABLE) else self._has(inbox_key(place))
