"""Judge on several hosts: as many as the queue asks for, each taking jobs as fast as it judges them."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from ec2_runner.reach.remote import BATCH_SECONDS
from pipeline.errors import CxrError, HostError, HostNotDone, HostNotReady, place_of
from pipeline.intake import CountFigure
from pipeline.records import Job, Outcome

log = logging.getLogger(__name__)

_FEW = 8  # jobs of a batch, for which no more hosts are used than are wanted
_ASKED_SECONDS = 15.0  # between two looks at the queue
_USUAL_RATE = 600.0  # images a minute of one host until they are measured; `stack.cost` assumes the same
_MEASURING_SECONDS = 90.0  # of uninterrupted work, before the last minute says what a host can do
_GAP_SECONDS = 60.0  # between two looks, in which there may have been no work
_LEAST_RATE = 20.0  # below this, a host waits for something else than its own work
_GRACE_SECONDS = 10.0  # beyond the batch's deadline, within which each host ends by itself
_SOON = 10.0
_MOMENT = 2.0  # seconds in which a thread without work has ended
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
        self._behind_since: float | None = None  # since when each look has found jobs waiting and at work

    def hosts(self) -> int:
        """Return a number between 1 and the most that the stack may have; 1 where it cannot be known."""
        now = self._now()
        if now - self._asked_at >= _ASKED_SECONDS:
            if now - self._asked_at > _GAP_SECONDS:
                self._behind_since = None
            self._asked_at = now
            try:
                self._hosts = self._for(self._queue.backlog(), now)
            except CxrError as error:
                log.warning("one host is used, as the number needed is not known: %s", error)
                self._hosts = 1
        return self._hosts

    def _for(self, waiting: int, now: float) -> int:
        rate = max(self._measured.rates(), default=0.0) if waiting else 0.0
        if not rate:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        # A host that had nothing to do for a part of the last minute is faster than its figure.
        is_measured = self._behind_since is not None and now - self._behind_since > _MEASURING_SECONDS
        rate = rate if is_measured and rate >= _LEAST_RATE else _USUAL_RATE
        return min(max(math.ceil(waiting / (rate * _PATIENCE_MINUTES)), 1), self._most)


class Pool:
    """Share each batch among the hosts that are ready; implements `ports.Host`.

    Each host takes the next few jobs when it has finished the last, so that a slow one holds up nobody. A
    host that is not ready is found, started and connected to while the others work, if need be from batch to
    batch. The jobs of a host that goes away go to the others.
    """

    def __init__(
        self, hosts: list[Reachable], demand: Demand, count: CountFigure = lambda name, value: None
    ) -> None:
        """Take one host for each slot, and what says how many of them are wanted now."""
        self._hosts, self._demand, self._count = hosts, demand, count
        self._at_work: dict[int, threading.Thread] = {}
        self._reaching: set[int] = set()  # slots that are being found, started or connected to
        self._refused: dict[int, tuple[float, HostNotReady]] = {}  # until when a slot is left alone, and why

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Reach a host, then return an iterator over one outcome for each job, see `ports.Host`.

        Raises HostNotReady when no host is left for the jobs that are.
        """
        deadline = time.monotonic() + BATCH_SECONDS
        taken = sorted(jobs, key=lambda job: -job.tries)
        chosen = self._chosen(len(taken))
        if not chosen:
            raise self._why_none()
        batch = _Batch(taken, deadline, len(chosen))
        for number in chosen:
            self._reaching.add(number)
            self._at_work[number] = threading.Thread(target=self._work, args=(number, batch), daemon=True)
            self._at_work[number].start()
        batch.wait_reached()
        return batch.outcomes()

    def abandon(self) -> None:
        """Abort work in progress, by ending the connections."""
        for host in self._hosts:
            host.abandon()

    def _chosen(self, jobs: int) -> list[int]:
        """Return the slots for a batch: as many as are wanted, and those that are connected all the same.

        Fewer are wanted as the queue empties. The others then help until it is empty, and power themselves
        off; jobs that arrive one by one do not keep them from that, unless no wanted host is connected.
        """
        wanted = list(range(self._demand.hosts()))
        connected = [number for number, host in enumerate(self._hosts) if host.is_connected]
        if not set(wanted) & set(connected):
            wanted += connected[:1]
        helping = connected if jobs > _FEW else []
        now = time.monotonic()
        return [
            number
            for number in sorted({*wanted, *helping})
            if not self._is_at_work(number) and now >= self._refused.get(number, (0.0, None))[0]
        ]

    def _why_none(self) -> HostNotReady:
        now = time.monotonic()
        left = [(until - now, error) for until, error in self._refused.values() if until > now]
        if not left:
            return HostNotReady("the hosts are being reached", _SOON)
        wait, error = min(left, key=lambda one: one[0])
        return HostNotReady(str(error), max(wait, 1.0), error.is_fault)

    def _is_at_work(self, number: int) -> bool:
        """Return whether a host is still busy for an earlier batch, mostly because it is being reached."""
        work = self._at_work.get(number)
        if work and number not in self._reaching:
            work.join(_MOMENT)  # its batch is over
        return work is not None and work.is_alive()

    def _work(self, number: int, batch: "_Batch") -> None:
        """Have one host do jobs until none is left, or it goes away."""
        end: HostNotReady | None = None
        host = self._hosts[number]
        try:
            try:
                host.reach()
            finally:
                self._reaching.discard(number)
            batch.note_reached()
            while share := batch.take():
                batch.do(host, share)
        except HostNotReady as error:
            end = error
        except Exception as error:  # noqa: BLE001  one host that cannot be used must not end the batch
            end = HostNotReady(str(error) if isinstance(error, HostError) else place_of(error))
        finally:
            if end and not isinstance(end, HostNotDone):
                self._refused[number] = (time.monotonic() + end.retry_after, end)
                level = logging.ERROR if end.is_fault else logging.INFO
                log.log(level, "host %s is not ready: %s", number + 1, end)
                if end.is_fault:
                    self._count("HostFault", 1.0)
            batch.end(end)


class _Batch:
    """Hold the jobs of a batch, and what became of them. Its threads agree by `_changed`."""

    def __init__(self, jobs: list[Job], deadline: float, hosts: int) -> None:
        self._todo, self._left, self._deadline = deque(jobs), len(jobs), deadline
        self._tries = {job.key: job.tries for job in jobs}
        self._hosts = hosts  # whose threads have not ended
        self._found: deque[Outcome] = deque()
        self._ends: list[HostNotReady] = []
        self._changed = threading.Condition()
        self._is_reached = self._is_begun = self._is_over = False

    def wait_reached(self) -> None:
        """Wait until a host is reached; raise HostNotReady when none can be."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_reached or not self._hosts, self._seconds())
            if not self._is_reached:
                self._is_over = True
                raise self._why()

    def note_reached(self) -> None:
        """Note that a host is ready."""
        with self._changed:
            self._is_reached = True
            self._changed.notify_all()

    def take(self) -> list[Job]:
        """Return the next jobs for a host, once there are some; none when all are done, or the time is over.

        A job that was tried before is given alone: it may be one that ends the worker. Half of the batch's
        time has to be left, so that an image is not called slow that had no time.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (self._is_begun and self._todo) or not self._left or self._is_over, self._seconds()
            )
            if self._is_over or not self._todo or not self._has_time():
                return []
            if self._todo[0].tries:
                return [self._todo.popleft()]
            count = len(self._todo)
            if self._hosts > 1:  # the last few jobs are shared, too
                count = math.ceil(count / (2 * self._hosts))
            return [self._todo.popleft() for _ in range(count)]

    def do(self, host: Reachable, share: list[Job]) -> None:
        """Have a host do jobs; those that it does not answer go back when it goes away."""
        left = {job.key: job for job in share}
        try:
            for outcome in host.run(share, self._deadline):
                del left[outcome.key]
                self._note([outcome])
        except HostNotReady as error:
            tried = error.tried if isinstance(error, HostNotDone) else ()
            with self._changed:
                self._todo.extend(replace(job, tries=job.tries + (key in tried)) for key, job in left.items())
                self._changed.notify_all()
            raise
        except Exception as error:  # noqa: BLE001  the others must learn what became of these jobs
            why = str(error) if isinstance(error, HostError) else place_of(error)
            self._note([Outcome(key, "failed", why) for key in left])

    def end(self, error: HostNotReady | None) -> None:
        """Note that a thread has ended."""
        with self._changed:
            self._hosts -= 1
            if error is None and self._left:
                error = HostNotDone("no time was left for the other jobs", _SOON)
            if error:
                self._ends.append(error)
            self._changed.notify_all()

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcomes until every job has one; raise HostNotReady when no host is left.

        No job begins before the first outcome is asked for.
        """
        try:
            with self._changed:
                answered, total, self._is_begun = 0, self._left, True
                self._changed.notify_all()
            while answered < total:
                with self._changed:
                    self._changed.wait_for(lambda: self._found or not self._hosts, self._seconds())
                    if not self._found:
                        raise self._why()
                    found = self._found.popleft()
                answered += 1
                yield found
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _note(self, outcomes: list[Outcome]) -> None:
        with self._changed:
            self._found.extend(outcomes)
            self._left -= len(outcomes)
            self._changed.notify_all()

    def _has_time(self) -> bool:
        return self._deadline - time.monotonic() > BATCH_SECONDS / 2

    def _seconds(self) -> float:
        return max(self._deadline + _GRACE_SECONDS - time.monotonic(), 0.0)

    def _why(self) -> HostNotReady:
        """Return one error for all hosts: the first reason, the shortest wait, and which jobs were tried."""
        if not self._ends:
            return HostNotDone("no time was left for the other jobs", _SOON)
        soon = min(end.retry_after for end in self._ends)
        is_fault = any(end.is_fault for end in self._ends)
        tried = {job.key for job in self._todo if job.tries > self._tries[job.key]}
        if tried or any(isinstance(end, HostNotDone) for end in self._ends):
            return HostNotDone(str(self._ends[0]), soon, is_fault, tried)
        return HostNotReady(str(self._ends[0]), soon, is_fault)
