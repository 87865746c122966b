"""Watch a stack for the page, which reads the last known state and never waits for AWS."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from ec2_runner.reach.fleet import Instance
from ec2_runner.reach.observe import Observer
from pipeline.errors import CxrError, place_of
from pipeline.records import HostState, HostStatus, Operations, QueueStatus
from pipeline.running.service import WorkerStatus

log = logging.getLogger(__name__)

_STEP_SECONDS = 10.0
_LONGEST_PAUSE = 60.0  # seconds, while AWS does not answer
_BELIEVED = timedelta(seconds=90)  # a worker reports twice a minute: older reports are out of date
_BOOT = timedelta(minutes=15)  # after its start, a host may still be installing
_FIGURE = timedelta(minutes=5)  # how long a measured wait counts: CloudWatch shows it late
_STATES: dict[str, HostState] = {  # states of the host by those of an instance without a worker
    "pending": "starting",
    "stopping": "stopping",
    "shutting-down": "stopping",
    "stopped": "off",
    "terminated": "off",
}
_LEADING: list[HostState] = ["busy", "ready", "starting", "stopping", "unknown", "off"]
_NEVER = datetime.min.replace(tzinfo=UTC)
_NOT_YET = "The first status check is still running."
_SILENT = "The host is running but does not report its status: `cxr status` shows where its log is."


class StackMonitor:
    """Report the state of a stack's host and queue as `run` saw it last; implements `ports.Monitor`."""

    def __init__(self, observer: Observer, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._observer, self._now = observer, now
        unknown = HostStatus("unknown", detail=_NOT_YET), QueueStatus(None, detail=_NOT_YET)
        self._seen = Operations(*unknown, now())

    def look(self) -> Operations:
        """Return their state at the last step."""
        return self._seen

    def step(self) -> bool:
        """Look anew; return whether everything could be read.

        A part that cannot be read becomes unknown, with the reason.
        """
        now = self._now()
        host, queue = self._host(now), self._queue(now)
        before, self._seen = self._seen, Operations(host, queue, now)
        for detail in {host.detail, queue.detail} - {before.host.detail, before.queue.detail, ""}:
            log.warning("the page cannot read the state of the stack: %s", detail)
        return not (host.detail or queue.detail)

    def run(self, stop: threading.Event) -> None:
        """Step until `stop` is set; the pauses grow while something cannot be read."""
        pause = 0.0
        while not stop.wait(pause):
            pause = _STEP_SECONDS if self.step() else min(max(2 * pause, _STEP_SECONDS), _LONGEST_PAUSE)

    def _host(self, now: datetime) -> HostStatus:
        try:
            instances = self._observer.instances()
            return together([host_status(one, self._observer.status(one), now) for one in instances])
        except Exception as error:  # noqa: BLE001  the page must not show an old state forever
            return HostStatus("unknown", detail=_why(error))

    def _queue(self, now: datetime) -> QueueStatus:
        try:
            depth = sum(self._observer.depth(self._observer.names.jobs).values())
            wait = self._observer.wait(now) if depth else None  # each request to CloudWatch costs money
        except Exception as error:  # noqa: BLE001  as above
            return QueueStatus(None, detail=_why(error))
        if wait is None or now - wait.at > _FIGURE:
            return QueueStatus(depth)
        return QueueStatus(depth, wait.at - timedelta(seconds=wait.seconds))


def together(hosts: list[HostStatus]) -> HostStatus:
    """Return one state for all hosts: that of the most active, with the work of all."""
    if not hosts:
        return HostStatus("off")
    lead = min(hosts, key=lambda host: _LEADING.index(host.state))
    troubled = max(hosts, key=lambda host: (host.last_error is not None, host.last_error_at or _NEVER))
    return replace(
        lead,
        active=sum(host.active for host in hosts),
        jobs_a_minute=sum(host.jobs_a_minute for host in hosts),
        hosts=sum(host.state != "off" for host in hosts),
        last_error=troubled.last_error,
        last_error_at=troubled.last_error_at,
        detail=next((host.detail for host in hosts if host.detail), ""),
    )


def host_status(instance: Instance, said: WorkerStatus | None, now: datetime) -> HostStatus:
    """Return the host's state, from EC2's description of its instance and its worker's last report."""
    launched = datetime.fromtimestamp(instance.launched_at, UTC) if instance.launched_at else None
    if said and launched and said.at < launched:
        said = None  # from before the last start
    if instance.state == "running" and said and now - said.at < _BELIEVED:
        return said.host()
    heard = said.at if said else launched
    if instance.state == "running" and heard and (_in_work(said) or now - heard > _BOOT):
        return HostStatus("unknown", since=heard, detail=_SILENT)
    state = _STATES.get(instance.state, "starting")
    since = heard if said or state == "starting" else None
    last = said.host() if said else HostStatus(state)
    return replace(last, state=state, since=since, active=0, jobs_a_minute=0)


def _in_work(said: WorkerStatus | None) -> bool:
    """Return whether a worker's last report says that it runs; one that stops for an update comes back."""
    return said is not None and said.state != "stopping"


def _why(error: Exception) -> str:
    """Return an error as a sentence without a key."""
    said = str(error) if isinstance(error, CxrError) else place_of(error)
    return f"{said[:1].upper()}{said[1:]}."
