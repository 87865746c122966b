"""Send results to one destination: follow the worklist, and deliver what is due, one at a time.

Each destination has a lane, a thread of its own, so that one that is down or slow holds up no other. A lane
never has more than one delivery under way, so a destination that is down is probed, not hammered.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from pipeline.errors import StoreError, place_of
from pipeline.judge import read_verdict
from pipeline.names import key_hash
from pipeline.outgoing.delivery import (
    Awaiting,
    Delivery,
    Destination,
    DestinationDown,
    NothingToSend,
    Refused,
    TryAgain,
)
from pipeline.outgoing.queue import DeliveryState, Entry, Followed, OutgoingQueue
from pipeline.ports import Store
from pipeline.running.background import Background
from pipeline.settings.tables import Rule
from pipeline.worklist.sqlite import SqliteIndex

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0  # between two looks when there is nothing to do
_SWEEP_SECONDS = 3600.0  # between two looks for X-rays that were forgotten elsewhere
_AT_ONCE = 500  # rows of the worklist


class Lane:
    """Send the verdicts that a rule covers to a destination."""

    def __init__(
        self,
        destination: Destination,
        rule: Rule,
        queue: OutgoingQueue,
        index: SqliteIndex,
        store: Store,
        log_key: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._destination, self._rule, self._log_key = destination, rule, log_key
        self._queue, self._index, self._store, self._clock = queue, index, store, clock
        self._swept: float | None = None

    @property
    def name(self) -> str:
        """Return the destination's name."""
        return self._destination.name

    def run(self, stopping: threading.Event) -> None:
        """Follow and deliver until `stopping` is set. Raises StoreError when index or queue fail."""
        while not stopping.is_set():
            self.follow()
            if not self.deliver_next():
                stopping.wait(_LOOK_SECONDS)

    def follow(self) -> None:
        """Take all changes of the worklist since the last look into the queue."""
        place = self._queue.place(self.name)
        if not self._index.is_whole():
            return  # it is being filled
        while True:
            file = self._index.identity()
            if file != place.file:
                place = Followed(place.since, file, 0, 0)
            rows = self._index.changed_since(place.change, place.row, _AT_ONCE)
            if self._index.identity() != file:
                continue
            if rows:
                number, last = rows[-1]
                found = [
                    (row.key, row.verdict_etag)
                    for _, row in rows
                    if row.verdict_etag and row.finished_at and row.finished_at >= place.since
                    if self._rule.covers(row)
                ]
                place = Followed(place.since, file, last.change, number)
                self._queue.take_in(self.name, found, place)
            if len(rows) < _AT_ONCE:
                break
        if self._swept is None or self._clock() - self._swept >= _SWEEP_SECONDS:
            self._swept = self._clock()
            self._sweep()

    def deliver_next(self) -> bool:
        """Deliver what is due; return whether there was anything."""
        entry = self._queue.due(self.name)
        if entry is None:
            return False
        try:
            if entry.state == "sent":
                raise TryAgain("it has the result, but did not confirm that it keeps it: can it reach us?")
            delivery = self._current(entry)
        except TryAgain as error:
            self._fail(entry, str(error))
        except NothingToSend as error:
            self._queue.close_off(entry, str(error))
        else:
            if delivery:
                self._deliver(entry, delivery)
            else:
                self._queue.drop(entry)
        return True

    def _deliver(self, entry: Entry, delivery: Delivery) -> None:
        self._queue.begin(entry)
        try:
            answer = self._destination.deliver(delivery)
        except DestinationDown as error:
            self._fail(entry, str(error))
            self._pause(str(error))
            return
        except NothingToSend as error:
            self._queue.close_off(entry, str(error) or None)
            return
        except StoreError as error:
            self._fail(entry, f"the X-ray or its verdict cannot be read: {place_of(error)}")
            return
        except (TryAgain, Refused) as error:
            self._fail(entry, str(error), isinstance(error, Refused))
        except Exception as error:  # noqa: BLE001  a defect must not hold up the other deliveries
            self._fail(entry, f"an error of this program, {place_of(error)}")
            return
        else:
            if isinstance(answer, Awaiting):
                self._queue.note_sent(entry, answer.transaction)
            else:
                self._queue.finish(entry)
            log.info("%s: sent to %s", self._shown(entry), self.name)
        if self._queue.resume(self.name):
            log.warning("%s takes results again", self.name)

    def _pause(self, why: str) -> None:
        failures, died = self._queue.pause(self.name, why)
        if failures == 1:
            log.warning("%s takes no results at present; they wait: %s", self.name, why)
        if died:
            log.error("%d results could not be delivered to %s: %s", died, self.name, why)

    def _current(self, entry: Entry) -> Delivery | None:
        """Return the delivery, unless its verdict was replaced or forgotten since it was noted."""
        row = self._index.get(entry.key)
        if row is None or row.verdict_key is None:
            if self._index.is_whole():
                return None
            raise TryAgain("the worklist is being rebuilt")
        try:
            seen = read_verdict(self._store, row.verdict_key)
        except StoreError as error:
            raise TryAgain(f"its verdict cannot be read: {place_of(error)}") from error
        if seen.etag != entry.wanted:
            return None
        if seen.verdict is None:
            raise NothingToSend("its verdict cannot be read by this release")
        return Delivery(entry.key, entry.wanted, seen.verdict)

    def _fail(self, entry: Entry, why: str, is_final: bool = False) -> None:
        is_dead = self._queue.fail(entry, why, is_final)
        level = logging.ERROR if is_dead else logging.INFO
        said = "could not be delivered" if is_dead else "was not delivered yet"
        log.log(level, "%s: the result %s to %s: %s", self._shown(entry), said, self.name, why)

    def _sweep(self) -> None:
        """Remove X-rays that are in no worklist any more: another machine may have forgotten them."""
        file = self._index.identity()
        if not self._index.is_whole():
            return
        gone = [key for key in self._queue.keys(self.name) if self._index.get(key) is None]
        if gone and self._index.is_whole() and self._index.identity() == file:
            for key in gone:
                self._queue.forget(key)
            self._queue.erase_traces()

    def _shown(self, entry: Entry) -> str:
        return key_hash(entry.key, self._log_key)


class Outgoing:
    """Show the queue of the configured destinations, and send again what people ask for."""

    def __init__(self, queue: OutgoingQueue, lanes: Iterable[Lane], index: SqliteIndex) -> None:
        self.queue, self.lanes, self._index = queue, tuple(lanes), index

    @property
    def names(self) -> list[str]:
        """Return the names of the destinations."""
        return [lane.name for lane in self.lanes]

    def start(self, background: Background) -> None:
        """Run a lane for each destination."""
        for lane in self.lanes:
            background.start(f"sending to {lane.name}", partial(lane.run, background.stopping))

    def close(self) -> None:
        """Close the queue, once its lanes have ended."""
        self.queue.close()

    def counts(self) -> dict[str, dict[DeliveryState, int]]:
        """Return for each destination how many deliveries there are in each state."""
        return {name: self.queue.counts(name) for name in self.names}

    def entries(self, key: str) -> list[Entry]:
        """Return the deliveries of an X-ray to these destinations; none while the queue cannot be read."""
        with suppress(StoreError):
            return self._entries(key)
        return []

    def _entries(self, key: str) -> list[Entry]:
        return [entry for entry in self.queue.entries(key) if entry.destination in self.names]

    def problems(self) -> list[str]:
        """Return a sentence for each destination with results that could not be delivered."""
        try:
            found = [dead for dead in map(self.queue.dead, self.names) if dead]
        except StoreError as error:
            return [f"Whether results could be delivered is not known: {error}."]
        return [
            f"{dead.count} result{'s' * (dead.count > 1)} could not be delivered to {dead.destination} since "
            f"{dead.since:%A, {dead.since.day} %B, %H:%M} UTC: {dead.said}."
            for dead in found
        ]

    def send_again(self, key: str | None = None, destination: str | None = None) -> int:
        """Send again what is dead, or the present verdict of one X-ray; return how many results that is.

        With `destination` only to that one.
        """
        names = [name for name in self.names if destination in (None, name)]
        if key is None:
            return sum(map(self.queue.revive, names))
        row = self._index.get(key)
        if row is None or row.verdict_etag is None:
            return 0
        for name in names:
            self.queue.send_again(name, key, row.verdict_etag)
        return len(names)
