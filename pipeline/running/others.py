"""Tell whether other programs serve the same bucket, by one small object that each of them keeps rewriting.

The object holds, for each program, a random id and a number that grows. A program counts while its number
grows: no clocks are compared, and one that crashed, or this one before a restart, is not taken for another.
"""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import ConditionFailed, ObjectTooLarge, StoreError, place_of
from pipeline.names import PAGES
from pipeline.ports import Store

log = logging.getLogger(__name__)

BEAT_SECONDS = 60.0
_BELIEVED = 3.5 * BEAT_SECONDS  # after this long without a new number, a program has ended
_TRIES = 3  # when others write at the same moment
_LIMIT = 10_000  # bytes: of some hundred programs; a larger or damaged object is replaced
_NUMBERS = TypeAdapter(dict[str, int])


@dataclass(frozen=True)
class _Seen:
    number: int
    at: float  # when it was seen first, on the clock
    moves: bool  # it appeared or grew while we looked; others may be left from a program that has ended


class Others:
    """Count the other programs that serve the bucket of `store`, while `run` runs."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._own, self._number = secrets.token_hex(8), 0
        self._seen: dict[str, _Seen] | None = None  # None before the first look

    def count(self) -> int:
        """Return how many there are."""
        return sum(one.moves and self._is_fresh(one) for one in (self._seen or {}).values())

    def step(self) -> None:
        """Look at the others, and show them that this program runs.

        Raises StoreError when the bucket does not answer, or refuses one of the two.
        """
        for _ in range(_TRIES):
            with suppress(ConditionFailed):
                self._number += 1
                return self._write({self._own: self._number})
        return None  # the others were faster each time; the next step comes soon

    def leave(self) -> None:
        """Let the others know that this program ends."""
        for _ in range(_TRIES):
            with suppress(ConditionFailed):
                return self._write({})
        return None

    def run(self, stop: threading.Event) -> None:
        """Step until `stop` is set, then leave; an error is logged once, since nothing depends on this."""
        said, pause = "", 0.0
        while not stop.wait(pause):
            before, pause = self.count(), BEAT_SECONDS
            why = self._attempt(self.step)
            if why and why != said:
                log.warning("this page and others of the bucket may not know of each other: %s", why)
            said = why
            if self.count() and not before:
                log.warning("another CXR Inbox serves this bucket")
        self._attempt(self.leave)

    @staticmethod
    def _attempt(work: Callable[[], None]) -> str:
        """Return why the work failed, or nothing."""
        try:
            work()
        except Exception as error:  # noqa: BLE001  the page must go on
            return str(error) if isinstance(error, StoreError) else place_of(error)
        return ""

    def _write(self, own: dict[str, int]) -> None:
        etag, found = self._read()
        before, now = self._seen, self._clock()
        self._seen = {}
        for name, number in found.items():
            known = before.get(name) if before else None
            if known is None or known.number != number:
                known = _Seen(number, now, moves=before is not None)
            self._seen[name] = known
        kept = {name: one.number for name, one in self._seen.items() if self._is_fresh(one)}
        if etag or own:
            self._store.put(PAGES, json.dumps(kept | own).encode(), etag)

    def _read(self) -> tuple[str | None, dict[str, int]]:
        """Return the object's ETag, or None where there is none, and the numbers of the others."""
        try:
            found = self._store.get(PAGES, _LIMIT)
        except ObjectTooLarge as error:
            return error.info.etag, {}
        if found is None:
            return None, {}
        info, data = found
        try:
            numbers = _NUMBERS.validate_json(data)
        except ValidationError:
            numbers = {}
        return info.etag, {name: number for name, number in numbers.items() if name != self._own}

    def _is_fresh(self, one: _Seen) -> bool:
        return self._clock() - one.at < _BELIEVED
