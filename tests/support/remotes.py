"""Serve a worker that answers at once over HTTP, and connect to it without SSH."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator

from ec2_runner.host.http import HttpServer
from ec2_runner.host.server import create_app
from ec2_runner.reach.ssh import NobodyListens
from ec2_runner.reach.worker_client import ByteStream
from pipeline.ports import Host
from pipeline.records import Job, Outcome
from pipeline.running.service import Service
from pipeline.verdict import Release
from tests.support.fakes import FakeEngine

RELEASE = Release(number=7, version="test")


class Echo:
    """Answer `classified` for every job, and break the connection at keys that say so."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.abort: Callable[[], None] = lambda: None

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        self.batches.append([job.key for job in jobs])
        for job in list(jobs):
            if "poison" in job.key:
                self.abort()
                time.sleep(0.2)
            yield Outcome(job.key, "classified")


class Served:
    """Serve a worker over HTTP on a loopback port, in this process."""

    def __init__(
        self, host: Host, release: Release = RELEASE, port: int = 0, token: str | None = None
    ) -> None:
        self.service = Service(host, FakeEngine.model, release)
        self._server = HttpServer(create_app(self.service, token), port)
        self.port, self.stop = self._server.port, self._server.stop

    def break_off(self) -> None:
        """Break all connections, as a crash does."""
        for channel in list(self._server._server.active_channels.values()):
            with contextlib.suppress(OSError):
                channel.socket.shutdown(socket.SHUT_RDWR)


class Plain:
    """Open streams to the loopback without SSH."""

    is_alive = True

    def open(self, port: int) -> ByteStream:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except ConnectionRefusedError as error:
            raise NobodyListens("nobody listens") from error

    def close(self) -> None:
        pass


class PlainRoute:
    def __init__(self) -> None:
        self.opened = 0

    def open(self, deadline: float) -> Plain:
        self.opened += 1
        return Plain()
