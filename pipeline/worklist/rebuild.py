"""Rebuild the worklist from the outbox: on request, and automatically when its file is new."""

import logging
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.errors import IndexNotReady, StoreError, place_of
from pipeline.intake import mark_source, record_verdict
from pipeline.names import INBOX, OUTBOX, is_review, is_verdict, printable, review_prefix
from pipeline.ports import FullStore, Index
from pipeline.reviews.kept import record_reviews
from pipeline.worklist.sqlite import SqliteIndex

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0  # between two looks at whether the file is filled
_PAUSE_SECONDS = 5.0  # after a failure
_CHECK_SECONDS = 60.0  # between two checks for damage, at least
_CHECK_FACTOR = 100  # and at least so many durations of a check, which reads the whole file


@dataclass(frozen=True)
class Rebuilt:
    """Count the verdicts of the outbox, and list its objects that are not verdicts or cannot be read."""

    verdicts: int
    unreadable: list[str]


def rebuild_index(store: FullStore, index: Index, stopping: threading.Event | None = None) -> Rebuilt:
    """Make the worklist again: a row for each verdict, no others, its reviews, and which sources exist.

    Unreadable objects are left out. Raises IndexNotReady when the worklist fails or `stopping` is set; it
    does not count as filled then.
    """
    unreadable = []
    with index.filling():
        found, reviewed = set(), set()  # verdicts, and folders of reviews
        for job in store.names(OUTBOX):
            if is_verdict(job.key):
                found.add(job.key)
            elif is_review(job.key):
                reviewed.add(f"{job.key.rpartition('/')[0]}/")
        for key in found | set(index.verdict_keys()):
            if not _is_recorded(key, store, index) and key in found:
                unreadable.append(key)
            _go_on(stopping)
        present = {printable(job.key) for job in store.names(INBOX)}
        for row in list(index.all()):
            if row.source == "present" and row.key not in present:
                _mark(row.key, store, index)
            if row.review_of or review_prefix(row.key, row.verdict_etag or "") in reviewed:
                _record_reviews(row.key, store, index)
            _go_on(stopping)
    return Rebuilt(len(found) - len(unreadable), sorted(unreadable))


def keep_whole(store: FullStore, index: SqliteIndex, stopping: threading.Event) -> None:
    """Fill the worklist whenever its file is new, and look for damage at times, until `stopping` is set."""
    due, pause = time.monotonic() + _CHECK_SECONDS, 0.0
    while not stopping.wait(pause):
        pause = _LOOK_SECONDS
        try:
            began = time.monotonic()
            if began >= due:
                due = began + _CHECK_SECONDS
                index.check()
                due = max(due, began + _CHECK_FACTOR * (time.monotonic() - began))
            if not index.is_filled():
                found = rebuild_index(store, index, stopping)
                log.info("the worklist was rebuilt from %d verdicts", found.verdicts)
        except StoreError as error:
            why = error if isinstance(error, IndexNotReady) else place_of(error)
            log.warning("the worklist is not complete yet: %s", why)
            pause = _PAUSE_SECONDS


def _is_recorded(key: str, store: FullStore, index: Index) -> bool:
    try:
        return record_verdict(key, store, index) is not None
    except IndexNotReady:
        raise
    except StoreError:
        return False


def _mark(key: str, store: FullStore, index: Index) -> None:
    try:
        mark_source(key, store, index, datetime.now(UTC))
    except IndexNotReady:
        raise
    except StoreError:
        log.warning("cannot tell whether a source still exists; check the permissions of the inbox")


def _record_reviews(key: str, store: FullStore, index: Index) -> None:
    try:
        record_reviews(key, store, index)
    except IndexNotReady:
        raise
    except StoreError:
        log.warning("the reviews of an X-ray cannot be read; check the permissions of the outbox")


def _go_on(stopping: threading.Event | None) -> None:
    if stopping and stopping.is_set():
        raise IndexNotReady("the worklist was not rebuilt completely: the program is stopping")
