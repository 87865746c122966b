"""Send jobs to a worker over a byte stream and receive outcomes, as `ec2_runner.host.server` expects."""

import http.client
import io
import json
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

from pipeline.errors import HostError, HostNotReady
from pipeline.records import Job, Outcome

_UPDATE_SECONDS = 60  # for a worker of another release to be replaced
_RESTART_SECONDS = 30


class ByteStream(Protocol):
    """Carry bytes both ways: a socket, or a channel of SSH."""

    def settimeout(self, value: float | None) -> None: ...
    def sendall(self, data: bytes) -> None: ...
    def recv(self, size: int) -> bytes: ...
    def close(self) -> None: ...


class OutOfTime(HostError):
    """Report that the deadline came before every job was answered."""


class StreamBroken(HostError):
    """Report that the worker's end fell silent, or broke off, before every job was answered."""


def submit(
    stream: ByteStream, jobs: Iterable[Job], release: int, deadline: float, token: str | None = None
) -> Iterator[Outcome]:
    """Send jobs to a worker and yield its outcomes as they come; the stream is closed at the end.

    `deadline` is on the monotonic clock; `token` is the worker's secret, if it has one. Raises HostNotReady
    when the worker takes no jobs, OutOfTime or StreamBroken when it did not answer all of them.
    """
    connection = _Connection(stream, deadline)
    try:
        body = json.dumps({"release": release, "jobs": [job.key for job in jobs]})
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection.request("POST", "/jobs", body, headers)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise _refusal(response.status, response.read())
        for line in response:
            yield Outcome(**json.loads(line))
    except TimeoutError as error:
        if time.monotonic() < deadline:  # not ours: the network's
            raise StreamBroken("the worker broke off (TimeoutError)") from error
        raise OutOfTime("the batch took too long") from error
    except (OSError, EOFError, http.client.HTTPException, ValueError, TypeError) as error:
        raise StreamBroken(f"the worker broke off ({type(error).__name__})") from error
    finally:
        connection.close()
        stream.close()


def _refusal(status: int, body: bytes) -> HostError:
    if status == http.HTTPStatus.CONFLICT:
        return HostNotReady("the worker is of another release", _UPDATE_SECONDS)
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        return HostNotReady("the worker is stopping", _RESTART_SECONDS)
    if status == http.HTTPStatus.UNAUTHORIZED:
        reason = (
            "the worker does not know the caller: log in as its user or set CXR_WORKER_TOKEN on both sides"
        )
        return HostNotReady(reason, _UPDATE_SECONDS, is_fault=True)
    return StreamBroken(f"the worker answered {status}: {body[:200].decode(errors='replace')}")


class _Connection(http.client.HTTPConnection):
    """Speak HTTP over an open stream, with each step within the deadline."""

    def __init__(self, stream: ByteStream, deadline: float) -> None:
        super().__init__("localhost")
        self.sock = _Socket(stream, deadline)


class _Socket:
    """Provide the part of a socket that http.client uses."""

    def __init__(self, stream: ByteStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def sendall(self, data: bytes) -> None:
        self._stream.settimeout(remaining(self._deadline))
        self._stream.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Raw(self._stream, self._deadline))

    def close(self) -> None:
        """Do nothing yet: http.client closes its socket while it still reads from the file made of it."""


class _Raw(io.RawIOBase):
    def __init__(self, stream: ByteStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._stream.settimeout(remaining(self._deadline))
        data = self._stream.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def remaining(deadline: float) -> float:
    """Return the seconds until a time on the monotonic clock; raise TimeoutError when it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left
