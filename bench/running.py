"""Run a real `cxr worker` over a temporary folder, and send it requests."""

import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.verdict import RELEASE
from tests.support.machines import Process, descendants, free_port

BATCH = 32
CORES = os.cpu_count() or 1
_CONNECTIONS = 3
_START_SECONDS = 60.0
_ANSWER_SECONDS = 120.0
_END_SECONDS = 20.0


class Connection:
    """Keep an HTTP connection to the loopback open, as a client of a service does."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)

    def post(self, path: str, body: bytes, media_type: str = "application/json") -> bytes:
        """Return the answer; raise RuntimeError when the status is not 200."""
        self._http.request("POST", path, body, {"Content-Type": media_type})
        answer = self._http.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {data[:300].decode(errors='replace')}")
        return data

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


@dataclass(frozen=True)
class Worker:
    """Describe a running worker and its folder."""

    root: Path
    port: int
    pid: int

    def judge(self, keys: Sequence[str]) -> None:
        """Have keys judged as one batch on a new connection; raise RuntimeError unless all of them were."""
        body = json.dumps({"release": RELEASE, "jobs": keys}).encode()
        with closing(Connection(self.port)) as connection:
            lines = connection.post("/jobs", body).splitlines()
        done = sum(json.loads(line)["result"] in ("classified", "rejected") for line in lines)
        if done != len(keys):
            raise RuntimeError(f"the worker judged {done} of {len(keys)} images: {lines[:3]!r}")

    def seconds_for(self, keys: Sequence[str]) -> float:
        """Return the seconds to judge them all, in batches of 32, three batches in flight."""
        batches = [keys[at : at + BATCH] for at in range(0, len(keys), BATCH)]
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            began = time.perf_counter()
            list(pool.map(self.judge, batches))
            return time.perf_counter() - began


@contextmanager
def worker() -> Iterator[Worker]:
    """Run a `cxr worker` of this checkout, with its network loaded, until the block ends."""
    port = free_port()
    with TemporaryDirectory(prefix="cxr-bench-") as folder:
        env = {**os.environ, "CXR_ROOT": folder, "CXR_WORKER_PORT": str(port)}
        env["CXR_THREADS"] = str(CORES)
        with served([sys.executable, "-m", "cxr", "worker"], port, "/healthz", env) as pid:
            yield Worker(Path(folder), port, pid)


@contextmanager
def served(
    command: list[str], port: int, path: str, env: dict[str, str], seconds: float = _START_SECONDS
) -> Iterator[int]:
    """Yield the id of a process that answers HTTP; end it and all its children when the block ends.

    Raises RuntimeError with its last output line when it does not come up in time.
    """
    with TemporaryDirectory(prefix="cxr-bench-log-") as folder:
        process = Process(command, Path(folder) / "log", env)
        try:
            deadline = time.monotonic() + seconds
            while not answers(port, path):
                if process.exit_code() is not None or time.monotonic() > deadline:
                    words = " ".join(process.output().strip().splitlines()[-1:])
                    raise RuntimeError(f"it did not come up in {seconds:.0f} s: {words}")
                time.sleep(0.005)
            yield process.pid
        finally:
            _end(process)


@contextmanager
def halted(pid: int) -> Iterator[None]:
    """Halt a process started by `served` and all its children while the block runs."""
    everyone = [pid, *descendants(pid)]  # some have left its process group
    _signal(everyone, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(everyone, signal.SIGCONT)


def _signal(processes: list[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _end(process: Process) -> None:
    """Terminate the process if possible, and kill its remaining children."""
    deadline = time.monotonic() + _END_SECONDS
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)
    while process.exit_code() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()


def answers(port: int, path: str) -> bool:
    """Return whether a path on the loopback answers 200 now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
