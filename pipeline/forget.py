"""Erase an X-ray: every version of it, verdict, previews, reviews, its row, and what is to be sent of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.errors import CxrError, StoreError, UsageError
from pipeline.names import BOOKMARK, preview_prefix, printable, review_prefix, verdict_key
from pipeline.outgoing.queue import OutgoingQueue
from pipeline.ports import FullStore, Index
from pipeline.store.ledger import Ledger

_PAUSE_SECONDS = 2.0  # between two looks
_TRIES = 5  # attempts, of several looks each, before giving up


def is_known(key: str, store: FullStore, index: Index) -> bool:
    """Return whether there is anything to erase for an inbox key."""
    return index.get(printable(key)) is not None or any(map(store.holds, _places(key)))


@dataclass
class Erased:
    """Hold what came of erasing several X-rays, by inbox key."""

    found: dict[str, bool] = field(default_factory=dict)  # erased; whether there was anything
    failed: dict[str, CxrError] = field(default_factory=dict)


def erase_xray(
    key: str,
    store: FullStore,
    index: Index,
    quiet: float = _PAUSE_SECONDS,
    outgoing: OutgoingQueue | None = None,
    ledger: Ledger | None = None,
) -> bool:
    """Erase an inbox key and everything made from it; return whether there was anything.

    Raises what `erase_xrays` reports.
    """
    erased = erase_xrays([key], store, index, quiet, outgoing, ledger=ledger)
    if key in erased.failed:
        raise erased.failed[key]
    return erased.found[key]


def erase_xrays(
    keys: Sequence[str],
    store: FullStore,
    index: Index,
    quiet: float = _PAUSE_SECONDS,
    outgoing: OutgoingQueue | None = None,
    seconds: float | None = None,
    ledger: Ledger | None = None,
) -> Erased:
    """Erase inbox keys and everything made from them; the failure of one does not keep the others.

    The X-ray goes first, so that no new work begins. Objects that a running job still writes are erased too,
    until nothing was written for `quiet` seconds. A StoreError says that this does not end, a UsageError that
    a key is a folder, whose whole content a store would erase. Keys that are not reached within `seconds`
    are left as they are.
    """
    erased, end = Erased(), time.monotonic() + seconds if seconds is not None else None
    for key in dict.fromkeys(keys):
        if key.endswith("/"):
            erased.failed[key] = UsageError("name one X-ray, not a folder")
        elif end is not None and time.monotonic() > end:
            erased.failed[key] = StoreError("there was no time left for it")
        else:
            _try(key, store, index, outgoing, ledger, erased)
    needed = max(1, round(quiet / _PAUSE_SECONDS))  # looks in a row that find nothing
    clean = dict.fromkeys(erased.found, 0)
    for _ in range(_TRIES * needed):
        if not clean:
            break
        time.sleep(min(quiet, _PAUSE_SECONDS))
        for key in list(clean):
            again = _try(key, store, index, outgoing, ledger, erased)
            clean[key] = 0 if again else clean[key] + 1
            if again is None or clean[key] == needed:
                del clean[key]
    for key in clean:
        del erased.found[key]
        sentence = "another program keeps writing it: stop that, then run the command again"
        erased.failed[key] = StoreError(sentence)
    if erased.found:
        try:
            index.erase_traces()
            if outgoing:
                outgoing.erase_traces()
            if ledger:
                ledger.erase_traces()
        except CxrError as error:
            erased.failed |= dict.fromkeys(
                erased.found, StoreError(f"its name may still be in a file: {error}")
            )
            erased.found.clear()
    return erased


def _try(
    key: str,
    store: FullStore,
    index: Index,
    outgoing: OutgoingQueue | None,
    ledger: Ledger | None,
    erased: Erased,
) -> bool | None:
    """Erase a key once and note what came of it; return whether there was anything, None after a failure."""
    try:
        found = _erase(key, store, index, outgoing, ledger)
    except (CxrError, OSError) as error:
        erased.found.pop(key, None)
        why = error if isinstance(error, CxrError) else StoreError(error.strerror or "it cannot be erased")
        erased.failed[key] = why
        return None
    erased.found.setdefault(key, found)
    return found


def _erase(
    key: str, store: FullStore, index: Index, outgoing: OutgoingQueue | None, ledger: Ledger | None
) -> bool:
    row = printable(key)
    known = index.get(row) is not None
    removed = sum(map(store.purge, _places(key)))
    store.purge(BOOKMARK)  # a version of it may name this X-ray; reconcile begins anew
    index.remove(verdict_key(key))
    index.mark(row, "deleted")
    if outgoing:  # after its row, from which it could be noted again
        removed += outgoing.forget(row)
    if ledger:
        removed += ledger.forget(key)
    return bool(removed) or known


def _places(key: str) -> tuple[str, ...]:
    """Return the keys of the X-ray, its verdict, its previews and its reviews."""
    return key, verdict_key(key), preview_prefix(key), review_prefix(key)
