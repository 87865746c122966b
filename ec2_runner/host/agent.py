"""Attend to a worker on its machine: serve it, publish its state, and end it in time."""

import json
import logging
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from ec2_runner.host.http import HttpServer
from ec2_runner.host.server import create_app
from ec2_runner.reach.identity import READY, STATUS, Identity, place_of_host
from pipeline.errors import ConditionFailed, StoreError
from pipeline.ports import Store
from pipeline.running.service import Service, WorkerState

log = logging.getLogger(__name__)

HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key.pub")  # the key that an EC2 host publishes

_TICK_SECONDS = 1.0
_PUBLISH_SECONDS = 30.0  # between reports while nothing changes
_PAUSE_SECONDS = 10.0  # between any two reports: under load, the state changes every second
_DRAIN_SECONDS = 5.0  # time for running jobs on shutdown; a batch takes about 1 s


class Publisher:
    """Write a host's own state to its place in the bucket."""

    def __init__(self, store: Store, host_id: str) -> None:
        self._store, self._place = store, place_of_host(host_id)
        self._etags: dict[str, str | None] = {}

    def publish(self, name: str, content: dict[str, object]) -> bool:
        """Replace an object; return whether the bucket accepted it.

        A failure is logged, and worth another try.
        """
        key = self._place + name
        try:
            if key not in self._etags:
                found = self._store.head(key)
                self._etags[key] = found.etag if found else None
            data = json.dumps(content).encode()
            self._etags[key] = self._store.put(key, data, self._etags[key])
            return True
        except ConditionFailed:
            del self._etags[key]  # written before this host's restart: look again next time
        except StoreError as error:
            log.warning("the host could not publish its state: %s", error)
        return False


class Reports:
    """Decide when to report a worker's state: soon after a change, the last at once, not too often."""

    def __init__(self) -> None:
        self._said, self._at = "", float("-inf")

    def is_due(self, state: WorkerState, now: float) -> bool:
        """Return whether to report this state now; then it counts as reported."""
        pause = _PUBLISH_SECONDS if state == self._said else 0.0 if state == "stopping" else _PAUSE_SECONDS
        if now - self._at < pause:
            return False
        self._said, self._at = state, now
        return True


def serve(
    service: Service,
    port: int,
    publisher: Publisher | None = None,
    idle: timedelta | None = None,
    power_off: Callable[[], None] | None = None,
    host_key: Path | None = None,
    token: str | None = None,
) -> None:
    """Serve a worker on the loopback until it is closed or told to end, and let it finish its jobs.

    With `idle` it closes after so long without a job, and then calls `power_off`. Raises UsageError when the
    port is taken. `token` is the secret that callers have to know, see `ec2_runner.host.caller`.
    """
    server = HttpServer(create_app(service, token), port)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.close())
    identity = None
    if host_key:
        key = " ".join(host_key.read_text().split()[:2])  # without its comment
        identity = Identity(host_key=key, release=service.release.number)
    _attend(service, publisher, identity, idle)
    if not service.wait_finished(_DRAIN_SECONDS):
        service.abandon()
        service.wait_finished(_DRAIN_SECONDS)
    server.stop()
    service.abandon()
    if service.end == "idle" and power_off:
        try:
            power_off()
        except (OSError, subprocess.SubprocessError) as error:
            log.error("the machine could not power itself off: %s", type(error).__name__)


def _attend(
    service: Service, publisher: Publisher | None, identity: Identity | None, idle: timedelta | None
) -> None:
    """Publish the service's state, soon after each change and at intervals, until it is closed, or idle."""
    reports, closed = Reports(), False
    while True:
        if publisher and identity and publisher.publish(READY, identity.model_dump()):
            identity = None  # published
        status = service.status()
        if publisher and reports.is_due(status.state, time.monotonic()):
            publisher.publish(STATUS, status.model_dump(mode="json"))
        if closed:
            return
        closed = service.wait_closed(_TICK_SECONDS)
        if idle is not None:
            service.close_if_idle(idle)


def power_off() -> None:
    """Power this machine off; EC2 then shows it as `stopped`."""
    subprocess.run(["systemctl", "poweroff"], check=True, timeout=30)
