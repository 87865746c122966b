"""Track the state of a worker: whether it takes jobs, what it did, and why it should end."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.errors import CxrError
from pipeline.ports import Host
from pipeline.records import HostStatus, Job, JobResult, Outcome
from pipeline.verdict import ModelRef, Release

WorkerState = Literal["ready", "busy", "stopping"]
End = Literal["told", "update", "idle"]  # reason for which a worker ends
_RATE = timedelta(minutes=1)
_JUDGED: tuple[JobResult, ...] = ("classified", "rejected", "failed")  # results that count as work done


class JobsRefused(CxrError):
    """Report that this worker does not take these jobs; `reason` is `stopping` or `release`."""

    def __init__(self, reason: Literal["stopping", "release"], message: str) -> None:
        super().__init__(message)
        self.reason = reason


class WorkerStatus(BaseModel):
    """Describe a worker at one moment. A host publishes it as `status.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: WorkerState
    since: datetime  # when the state last changed
    release: Release
    model: ModelRef
    started_at: datetime
    at: datetime
    last_job_at: datetime | None
    active: int  # jobs taken and not yet answered
    results: dict[JobResult, int]  # since it started
    jobs_a_minute: int
    last_error: str | None  # a sentence, never a key
    last_error_at: datetime | None

    def host(self) -> HostStatus:
        """Return the part shown on the page."""
        return HostStatus(
            state=self.state,
            since=self.since,
            active=self.active,
            jobs_a_minute=self.jobs_a_minute,
            model=self.model,
            release=self.release,
            last_error=self.last_error,
            last_error_at=self.last_error_at,
        )


class Service:
    """Wrap a host to count its jobs, and to close it: it then finishes its jobs and takes no new ones."""

    def __init__(
        self,
        host: Host,
        model: ModelRef,
        release: Release,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.release, self._host, self._model, self._now = release, host, model, now
        self._changed = threading.Condition()
        self._end: End | None = None
        self._active = 0
        self._results: Counter[JobResult] = Counter()
        self._recent: deque[datetime] = deque(maxlen=10_000)
        self._last_error: str | None = None
        self._last_error_at: datetime | None = None
        self._last_job_at: datetime | None = None
        self._started_at = self._since = now()

    def run(self, jobs: Iterable[Job], release: int | None = None) -> Generator[Outcome]:
        """Yield one outcome for each job, in the order in which they finish.

        Raises JobsRefused, before the first outcome, when it takes no jobs. `release` is that of the caller
        and has to be this worker's; None stands for a caller in this process. A newer one means that this
        worker is out of date: it ends, and is started again as the newer release.
        """
        taken = list(jobs)
        with self._taken(taken, self.release.number if release is None else release):
            for outcome in self._host.run(taken):
                self._count(outcome)
                yield outcome

    def close(self, end: End = "told") -> None:
        """Take no more jobs; the first reason given is kept."""
        with self._changing():
            self._end = self._end or end

    def close_if_idle(self, since: timedelta) -> None:
        """Close the service if it had no job for this long."""
        with self._changed:
            if not self._active and self._now() - (self._last_job_at or self._started_at) >= since:
                self.close("idle")

    def abandon(self) -> None:
        """Abort work in progress, and take no more; see `ports.Host`."""
        self._host.abandon()

    @property
    def end(self) -> End | None:
        """Return why it takes no more jobs; None while it takes them."""
        return self._end

    def wait_closed(self, timeout: float) -> bool:
        """Wait until it takes no more jobs; return whether that was within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._end is not None, timeout)

    def wait_finished(self, timeout: float) -> bool:
        """Wait until the jobs that it took are answered; return whether that was within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._active, timeout)

    def status(self) -> WorkerStatus:
        """Return its state now."""
        with self._changed:
            now = self._now()
            return WorkerStatus(
                state=self._state(),
                since=self._since,
                release=self.release,
                model=self._model,
                started_at=self._started_at,
                at=now,
                last_job_at=self._last_job_at,
                active=self._active,
                results=dict(self._results),
                jobs_a_minute=sum(moment > now - _RATE for moment in self._recent),
                last_error=self._last_error,
                last_error_at=self._last_error_at,
            )

    def _state(self) -> WorkerState:
        return "stopping" if self._end else "busy" if self._active else "ready"

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock, date a change of state, and wake the threads that wait."""
        with self._changed:
            before = self._state()
            yield
            if self._state() != before:
                self._since = self._now()
            self._changed.notify_all()

    @contextmanager
    def _taken(self, jobs: list[Job], release: int) -> Iterator[None]:
        with self._changing():
            if release > self.release.number:
                self.close("update")
            if release != self.release.number:
                raise JobsRefused("release", f"this worker is of release {self.release.number}")
            if self._end:
                raise JobsRefused("stopping", "this worker is stopping")
            self._active += len(jobs)
            self._last_job_at = self._now()
        try:
            yield
        finally:
            with self._changing():
                self._active -= len(jobs)
                self._last_job_at = self._now()

    def _count(self, outcome: Outcome) -> None:
        with self._changed:
            self._results[outcome.result] += 1
            if outcome.result in _JUDGED:
                self._recent.append(self._now())
            if outcome.result == "failed":
                self._last_error, self._last_error_at = outcome.detail, self._now()
