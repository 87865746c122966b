"""Reach a host on another machine: jobs go to its worker through SSH."""

import time
from collections.abc import Iterable, Iterator

from ec2_runner.reach.route import Route
from ec2_runner.reach.ssh import ConnectFailed, Connection, NobodyListens
from ec2_runner.reach.worker_client import ByteStream, OutOfTime, StreamBroken, remaining, submit
from pipeline.errors import HostError, HostNotDone, HostNotReady
from pipeline.records import Job, Outcome
from pipeline.verdict import Release

BATCH_SECONDS = 80.0  # for a batch, including the connection: less than the function's 120
_CONNECT_SECONDS = 20.0
_RESTART_SECONDS = 30.0  # for a crashed worker to come back
_RENEWED_SECONDS = 780.0  # a tunnel is ended after 900, see `tunnel`
_LOOK_SECONDS = 0.25  # between checks for that
_SOON = 10.0


class RemoteHost:
    """Judge jobs on the host at the end of a route; the connection is kept from batch to batch."""

    def __init__(self, route: Route, port: int, release: Release, token: str | None = None) -> None:
        """Use the worker's `port` on the loopback of its machine, and its secret `token`, if it has one."""
        self._route, self._port, self._release, self._token = route, port, release, token
        self._connection: Connection | None = None
        self._connected_at = 0.0

    @property
    def is_connected(self) -> bool:
        """Return whether the connection is alive, as far as this end knows."""
        return bool(self._connection and self._connection.is_alive)

    def reach(self) -> None:
        """Connect to the worker, if it is not connected; raise HostNotReady where that is impossible."""
        self._renew()
        self._stream(time.monotonic() + _CONNECT_SECONDS).close()

    def run(self, jobs: Iterable[Job], deadline: float | None = None) -> Iterator[Outcome]:
        """Connect, then return an iterator over one outcome for each job, see `ports.Host`.

        Jobs that were tried before come first, one by one, the one with the most tries at the head; then the
        others together. So an image that ends the worker, or that never ends, fails alone. When the time is
        over, HostNotDone is raised: the rest is to be sent again, and has not failed. `deadline` is that of
        the batch, on the monotonic clock.
        """
        deadline = deadline or time.monotonic() + BATCH_SECONDS
        self._renew()
        if not self.is_connected:
            self._connect(deadline)
        has_full_time = deadline - time.monotonic() > BATCH_SECONDS - _CONNECT_SECONDS
        taken = sorted(jobs, key=lambda job: -job.tries)
        alone = [job for job in taken if job.tries or len(taken) == 1]
        return self._judged(alone, taken[len(alone) :], deadline, has_full_time)

    def abandon(self) -> None:
        """Abort work in progress, by ending the connection."""
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _renew(self) -> None:
        """End a connection whose tunnel would soon end, in the middle of a batch."""
        if time.monotonic() - self._connected_at > _RENEWED_SECONDS:
            self.close()

    def _judged(
        self, alone: list[Job], others: list[Job], deadline: float, has_full_time: bool
    ) -> Iterator[Outcome]:
        for number, job in enumerate(alone):
            if number:
                _check_time(deadline)
                self._wait_for_worker(deadline)
            yield self._tried_alone(job, deadline, is_first=has_full_time and not number)
        if not others:
            return
        if alone:
            _check_time(deadline)
        left = {job.key: job for job in others}
        try:
            for outcome in self._submit(others, deadline):
                del left[outcome.key]
                yield outcome
        except StreamBroken:
            yield from self._suspects(left, deadline)
        except OutOfTime as error:
            raise HostNotDone(str(error), _SOON, tried=left) from error

    def _tried_alone(self, job: Job, deadline: float, is_first: bool) -> Outcome:
        """Return the outcome of a job that the worker has for itself; no answer is a failure of this job.

        Raises HostNotReady while it was not given to a worker, HostNotDone when it had only a part of the
        time.
        """
        try:
            return self._answer(job, deadline)
        except OutOfTime as error:
            if not is_first:
                raise HostNotDone(str(error), _SOON, tried=(job.key,)) from error
            return Outcome(job.key, "failed", str(error))
        except StreamBroken as error:
            if self.is_connected:
                return Outcome(job.key, "failed", str(error))  # the worker broke off, at this job
        try:
            self._wait_for_worker(deadline)
            return self._answer(job, deadline)
        except HostError as error:  # not sent again: nobody would count how often
            return Outcome(job.key, "failed", str(error))

    def _suspects(self, left: dict[str, Job], deadline: float) -> Iterator[Outcome]:
        """Try the jobs of a batch that broke off one by one: one of them may have ended the worker.

        Those that it does not get to are to be tried alone the next time.
        """
        for job in list(left.values()):
            try:
                self._wait_for_worker(deadline)
                outcome = self._answer(job, deadline)
            except StreamBroken as error:
                outcome = Outcome(job.key, "failed", str(error))
            except HostNotReady as error:
                raise HostNotDone(str(error), error.retry_after, error.is_fault, left) from error
            except OutOfTime as error:
                raise HostNotDone(str(error), _SOON, tried=left) from error
            del left[job.key]
            yield outcome

    def _answer(self, job: Job, deadline: float) -> Outcome:
        (outcome,) = self._submit([job], deadline)
        return outcome

    def _submit(self, jobs: list[Job], deadline: float) -> Iterator[Outcome]:
        """Do the same as `submit`; raise StreamBroken also when it ends without having answered all jobs."""
        unanswered, stream = len(jobs), self._stream(deadline)
        for outcome in submit(stream, jobs, self._release.number, deadline, self._token):
            unanswered -= 1
            yield outcome
        if unanswered:
            raise StreamBroken("the worker did not answer every job")

    def _wait_for_worker(self, deadline: float) -> None:
        """Wait until the worker listens again; raise HostNotReady when it does not in time."""
        until = min(deadline, time.monotonic() + _RESTART_SECONDS)
        while self._connection and time.monotonic() + _LOOK_SECONDS < until:
            try:
                self._connection.open(self._port).close()
                return
            except NobodyListens:
                time.sleep(_LOOK_SECONDS)  # and check again: a new connection for each check would cost more
            except ConnectFailed:
                self.close()
        while True:
            try:
                self._stream(deadline).close()
                return
            except OutOfTime as error:
                raise HostNotDone(str(error), _SOON) from error
            except HostNotReady:
                if time.monotonic() + _LOOK_SECONDS > until:
                    raise
                time.sleep(_LOOK_SECONDS)

    def _stream(self, deadline: float) -> ByteStream:
        """Return a stream to the worker, through the previous connection where that is still alive.

        Where nobody listens at its end any more, the route is asked: it looks again, and reports the host.
        """
        crashed = False
        try:
            remaining(deadline)
            if self._connection:
                try:
                    return self._connection.open(self._port)
                except NobodyListens:
                    crashed = True
                    self.close()
                except ConnectFailed:
                    self.close()
            return self._connect(deadline).open(self._port)
        except HostNotReady as error:
            if crashed:  # it is usually back soon
                error.retry_after = min(error.retry_after, _SOON)
            raise
        except NobodyListens as error:
            raise HostNotReady(str(error), _SOON) from error
        except ConnectFailed as error:
            self.close()
            raise HostNotReady(str(error), _SOON) from error
        except TimeoutError as error:
            raise OutOfTime("the batch took too long") from error

    def _connect(self, deadline: float) -> Connection:
        self.close()
        self._connected_at = time.monotonic()
        self._connection = self._route.open(min(deadline, time.monotonic() + _CONNECT_SECONDS))
        return self._connection


def _check_time(deadline: float) -> None:
    """Raise HostNotDone when so little time is left that a slow image might not be finished."""
    if deadline - time.monotonic() < BATCH_SECONDS / 2:
        raise HostNotDone("no time was left for the other jobs", _SOON)
