"""Judge on several hosts: as many as the queue asks for, each taking jobs as fast as it judges them."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Protocol

from ec2_runner.reach.remote import BATCH_SECONDS
from pipeline.errors import CxrError, HostError, HostNotDone, HostNotReady, place_of
from pipeline.records import Job, Outcome

log = logging.getLogger(__name__)

_SHARE = 8  # jobs that a host takes at a time: a quarter of a batch
_ASKED_SECONDS = 15.0  # between two looks at the queue
_USUAL_RATE = (
    600.0  # images a minute of one host, before a rate was measured; a t3.medium judges ten a second
)
_MEASURING_SECONDS = 90.0  # of uninterrupted work, before the last minute says what a host can do
_LEAST_RATE = 20.0  # below this, a host waits for something else than its own work
_GRACE_SECONDS = 10.0  # beyond the batch's deadline, within which each host ends by itself
# More hosts come for work that would take longer than this: a first boot takes six minutes, a start two.
_PATIENCE_MINUTES = 10.0


class Reachable(Protocol):
    """Judge jobs on one host, which is reached first; see `remote.RemoteHost`."""

    @property
    def is_connected(self) -> bool: ...
    def reach(self) -> None: ...
    def run(self, jobs: Iterable[Job], deadline: float | None = None) -> Iterator[Outcome]: ...
    def abandon(self) -> None: ...


class Backlog(Protocol):
    """Count the jobs that wait; see `aws.sqs.SqsQueue`."""

    def backlog(self) -> int: ...


class Rates(Protocol):
    """Measure the hosts; see `observe.Observer`."""

    def rates(self) -> list[float]: ...


class Demand:
    """Say how many hosts the queue asks for: what waits in it, over what a host judges in ten minutes."""

    def __init__(
        self,
        queue: Backlog,
        hosts: Rates,
        most: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Choose at most `most` hosts."""
        self._queue, self._measured, self._most, self._now = queue, hosts, most, now
        self._asked_at, self._hosts = -math.inf, 1
        self._behind_since: float | None = None  # since when each look has found waiting jobs

    def hosts(self) -> int:
        """Return a number between 1 and the most that the stack may have; 1 where it cannot be known."""
        now = self._now()
        if now - self._asked_at >= _ASKED_SECONDS:
            self._asked_at = now
            try:
                self._hosts = self._for(self._queue.backlog(), now)
            except CxrError as error:
                log.warning("one host is used, as the number needed is not known: %s", error)
                self._hosts = 1
        return self._hosts

    def _for(self, waiting: int, now: float) -> int:
        if not waiting:
            self._behind_since = None
            return 1
        if self._behind_since is None:
            self._behind_since = now
        # A host that had nothing to do for a part of the last minute is faster than its figure.
        is_measured = now - self._behind_since > _MEASURING_SECONDS
        rates = [rate for rate in self._measured.rates() if rate >= _LEAST_RATE] if is_measured else []
        rate = sum(rates) / len(rates) if rates else _USUAL_RATE
        return min(max(math.ceil(waiting / (rate * _PATIENCE_MINUTES)), 1), self._most)


class Pool:
    """Share each batch among the hosts that are ready; implements `ports.Host`.

    Each host takes the next few jobs when it has finished the last, so that a slow one holds up nobody. A
    host that is not ready is found, started and connected to while the others work, if need be from batch to
    batch. The jobs of a host that goes away go to the others.
    """

    def __init__(self, hosts: list[Reachable], demand: Demand) -> None:
        """Take one host for each slot, and what says how many of them are wanted now."""
        self._hosts, self._demand = hosts, demand
        self._at_work: dict[int, threading.Thread] = {}

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Reach a host, then return an iterator over one outcome for each job, see `ports.Host`.

        Raises HostNotReady when no host is left for the jobs that are.
        """
        tried_first = sorted(jobs, key=lambda job: -job.tries)
        batch = _Batch(tried_first, time.monotonic() + BATCH_SECONDS)
        for number in self._chosen(len(batch.todo)):
            batch.hosts += 1
            work = threading.Thread(target=batch.work, args=(self._hosts[number],), daemon=True)
            self._at_work[number] = work
            work.start()
        outcomes = batch.outcomes()
        return outcomes if batch.is_reached() else iter(list(outcomes))  # the latter says why not

    def abandon(self) -> None:
        """Abort work in progress, by ending the connections."""
        for host in self._hosts:
            host.abandon()

    def _chosen(self, jobs: int) -> list[int]:
        """Return the slots for a batch: as many as are wanted, and those that are connected all the same.

        Fewer are wanted as the queue empties. The others then help until it is empty, and power themselves
        off; jobs that arrive one by one do not keep them from that.
        """
        wanted = self._demand.hosts()
        return [
            number
            for number, host in enumerate(self._hosts)
            if (number < wanted or (jobs > _SHARE and host.is_connected)) and not self._is_at_work(number)
        ]

    def _is_at_work(self, number: int) -> bool:
        """Return whether a host is still being reached for an earlier batch."""
        return number in self._at_work and self._at_work[number].is_alive()


class _Batch:
    """Hold the jobs of a batch, and what became of them."""

    def __init__(self, jobs: list[Job], deadline: float) -> None:
        self.todo, self.hosts = deque(jobs), 0
        self._left, self._deadline = len(jobs), deadline
        self._said: SimpleQueue[Outcome | HostNotReady | None] = SimpleQueue()
        self._reached: SimpleQueue[bool] = SimpleQueue()
        self._begun = threading.Event()

    def is_reached(self) -> bool:
        """Wait until a host is reached; return False when none was."""
        return any(self._reached.get() for _ in range(self.hosts))

    def work(self, host: Reachable) -> None:
        """Have one host do jobs until none is left, or it goes away."""
        end: HostNotReady | None = None
        try:
            host.reach()
            self._reached.put(True)
            self._begun.wait(max(self._deadline - time.monotonic(), 0))
            while share := self._share():
                self._do(host, share)
        except HostNotReady as error:
            end = error
        except Exception as error:  # noqa: BLE001  a host that cannot be used for any reason must not end the batch
            end = HostNotReady(str(error) if isinstance(error, HostError) else place_of(error))
        finally:
            self._said.put(end)
            self._reached.put(False)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcomes until every job has one; raise HostNotReady when no host is left."""
        ends: list[HostNotReady] = []
        self._begun.set()
        try:
            while self._left:
                if not self.hosts:
                    raise _together(ends)
                said = self._next()
                if isinstance(said, Outcome):
                    self._left -= 1
                    yield said
                    continue
                self.hosts -= 1
                if said:
                    ends.append(said)
                    level = logging.ERROR if said.is_fault else logging.INFO
                    log.log(level, "one of the hosts is not ready: %s", said)
        finally:
            self.todo.clear()

    def _next(self) -> Outcome | HostNotReady | None:
        try:
            return self._said.get(timeout=max(self._deadline + _GRACE_SECONDS - time.monotonic(), 0))
        except Empty as error:
            raise HostNotReady("the hosts took too long", 10) from error

    def _share(self) -> list[Job]:
        share: list[Job] = []
        while self.todo and len(share) < _SHARE:
            try:
                share.append(self.todo.popleft())
            except IndexError:  # another host was faster
                break
        return share

    def _do(self, host: Reachable, share: list[Job]) -> None:
        left = {job.key: job for job in share}
        try:
            for outcome in host.run(share, self._deadline):
                del left[outcome.key]
                self._said.put(outcome)
        except HostNotReady as error:
            tried = error.tried if isinstance(error, HostNotDone) else ()
            self.todo.extend(replace(job, tries=job.tries + (key in tried)) for key, job in left.items())
            raise
        except Exception as error:  # noqa: BLE001  the others must learn what became of these jobs
            why = str(error) if isinstance(error, HostError) else place_of(error)
            for key in left:
                self._said.put(Outcome(key, "failed", why))


def _together(ends: list[HostNotReady]) -> HostNotReady:
    """Return one error for all hosts: the reason of the first, and the shortest wait."""
    if not ends:
        return HostNotReady("the hosts are being reached", 10)
    soon, is_fault = min(end.retry_after for end in ends), any(end.is_fault for end in ends)
    at_work = [end for end in ends if isinstance(end, HostNotDone)]
    if at_work:
        return HostNotDone(str(at_work[0]), soon, is_fault, {key for end in at_work for key in end.tried})
    return HostNotReady(str(ends[0]), soon, is_fault)
