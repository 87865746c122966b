"""Reach a host on another machine: jobs go to its worker through SSH."""

import time
from collections.abc import Iterable, Iterator

from ec2_runner.reach.route import Route
from ec2_runner.reach.ssh import ConnectFailed, Connection, NobodyListens
from ec2_runner.reach.worker_client import ByteStream, StreamBroken, remaining, submit
from pipeline.errors import HostError, HostNotReady
from pipeline.records import Job, Outcome
from pipeline.verdict import Release

BATCH_SECONDS = 80.0  # for a batch, including the connection: less than the function's 120
_CONNECT_SECONDS = 20.0
_RESTART_SECONDS = 30.0  # for a crashed worker to come back
_LOOK_SECONDS = 0.25  # between checks for that
_SOON = 10.0


class RemoteHost:
    """Judge jobs on the host at the end of a route; the connection is kept from batch to batch."""

    def __init__(self, route: Route, port: int, release: Release, token: str | None = None) -> None:
        """Use the worker's `port` on the loopback of its machine, and its secret `token`, if it has one."""
        self._route, self._port, self._release, self._token = route, port, release, token
        self._connection: Connection | None = None

    @property
    def is_connected(self) -> bool:
        """Return whether the connection is alive, as far as this end knows."""
        return bool(self._connection and self._connection.is_alive)

    def reach(self) -> None:
        """Connect to the worker, if it is not connected; raise HostNotReady where that is impossible."""
        self._stream(time.monotonic() + _CONNECT_SECONDS).close()

    def run(self, jobs: Iterable[Job], deadline: float | None = None) -> Iterator[Outcome]:
        """Yield one outcome for each job, in the order in which they finish.

        `deadline` is that of the batch, on the monotonic clock. When the worker breaks off, the unanswered
        jobs are tried one by one: if one image of a batch ends the worker, only that one fails.
        """
        deadline = deadline or time.monotonic() + BATCH_SECONDS
        left = {job.key: job for job in jobs}
        alone = len(left) == 1
        try:
            for outcome in self._submit(list(left.values()), deadline):
                del left[outcome.key]
                yield outcome
        except StreamBroken:
            if alone and self.is_connected:
                raise  # so the worker broke off, at this job
            yield from self._one_by_one(left.values(), deadline)

    def abandon(self) -> None:
        """Abort work in progress, by ending the connection."""
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _one_by_one(self, jobs: Iterable[Job], deadline: float) -> Iterator[Outcome]:
        for job in jobs:
            try:
                self._wait_for_worker(deadline)
                yield from self._submit([job], deadline)
            except (StreamBroken, HostNotReady) as error:
                # Not postponed: the same batch would break off again, and nobody would count how often.
                yield Outcome(job.key, "failed", str(error))

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
            self._connection = self._route.open(min(deadline, time.monotonic() + _CONNECT_SECONDS))
            return self._connection.open(self._port)
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
            raise HostError("the batch took too long") from error
