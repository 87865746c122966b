"""The net under the notifications: what lies in the inbox without its verdict is queued again.

It compares two lists, that of the inbox and the worklist, and reads no object.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.names import INBOX, printable
from pipeline.ports import Index, ObjectInfo, Queue, Row, Store

_MINIMUM_AGE = timedelta(minutes=15)  # a younger object has an event on its way


@dataclass(frozen=True)
class Reconciled:
    """What was found."""

    queued: int
    waiting: int  # objects without their verdict, young ones too
    oldest_seconds: float  # the age of the oldest of them


def reconcile(
    store: Store,
    index: Index,
    queue: Queue,
    now: datetime,
    minimum_age: timedelta = _MINIMUM_AGE,
    failed: bool = False,
) -> Reconciled:
    """Queue every object of the inbox that has no verdict of its bytes and is of some age.

    Verdicts that say `failed` stand, or they would be tried for ever; with `failed` they are tried again.
    Rows whose source has gone, or has come back, are marked so.
    """
    rows = {row.key: row for row in index.all()}
    seen: set[str] = set()
    queued, ages = 0, [0.0]
    for info in _images(store):
        row = rows.get(printable(info.key))
        seen.add(printable(info.key))
        if row and row.source == "deleted":
            index.mark(row.key, "present")
        is_wanting = row is None or row.etag != info.etag
        if is_wanting:
            ages.append((now - info.modified).total_seconds())
        if (is_wanting or (failed and row and row.status == "failed")) and now - info.modified >= minimum_age:
            queue.send([info.key], now)
            queued += 1
    for row in rows.values():
        _mark_if_gone(row, seen, store, index)
    return Reconciled(queued, len(ages) - 1, max(ages))


def _images(store: Store) -> Iterator[ObjectInfo]:
    return (info for info in store.list(INBOX) if not info.key.endswith("/"))


def _mark_if_gone(row: Row, seen: set[str], store: Store, index: Index) -> None:
    if row.key not in seen and row.source == "present" and store.head(row.key) is None:
        index.mark(row.key, "deleted")
