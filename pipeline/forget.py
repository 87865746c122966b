"""Erase an X-ray: every version of it, verdict, previews, reviews, its row, and what is to be sent of it."""

import time

from pipeline.errors import StoreError, UsageError
from pipeline.names import BOOKMARK, preview_prefix, printable, review_prefix, verdict_key
from pipeline.outgoing.queue import OutgoingQueue
from pipeline.ports import FullStore, Index

_PAUSE_SECONDS = 2.0  # between two looks
_TRIES = 5  # attempts, of several looks each, before giving up


def is_known(key: str, store: FullStore, index: Index) -> bool:
    """Return whether there is anything to erase for an inbox key."""
    return index.get(printable(key)) is not None or any(map(store.holds, _places(key)))


def erase_xray(
    key: str,
    store: FullStore,
    index: Index,
    quiet: float = _PAUSE_SECONDS,
    outgoing: OutgoingQueue | None = None,
) -> bool:
    """Erase an inbox key and everything made from it; return whether there was anything.

    The X-ray goes first, so that no new work begins. Objects that a running job still writes are erased too,
    until nothing was written for `quiet` seconds. Raises StoreError when that does not end, and UsageError
    for a folder, whose whole content a store would erase.
    """
    if key.endswith("/"):
        raise UsageError("name one X-ray, not a folder")
    found = _erase(key, store, index, outgoing)
    needed = max(1, round(quiet / _PAUSE_SECONDS))  # looks in a row that find nothing
    clean = 0
    for _ in range(_TRIES * needed):
        time.sleep(min(quiet, _PAUSE_SECONDS))
        clean = 0 if _erase(key, store, index, outgoing) else clean + 1
        if clean == needed:
            index.erase_traces()
            if outgoing:
                outgoing.erase_traces()
            return found
    raise StoreError("another program keeps writing it: stop that, then run the command again")


def _erase(key: str, store: FullStore, index: Index, outgoing: OutgoingQueue | None) -> bool:
    row = printable(key)
    known = index.get(row) is not None
    removed = sum(map(store.purge, _places(key)))
    store.purge(BOOKMARK)  # a version of it may name this X-ray; reconcile begins anew
    index.remove(verdict_key(key))
    index.mark(row, "deleted")
    if outgoing:  # after its row, from which it could be noted again
        removed += outgoing.forget(row)
    return bool(removed) or known


def _places(key: str) -> tuple[str, ...]:
    """Return the keys of the X-ray, its verdict, its previews and its reviews."""
    return key, verdict_key(key), preview_prefix(key), review_prefix(key)
