"""Compare the worker with other ways to serve the same network: `python -m bench.compare [FOLDER]`.

All have the same images, network and outputs: a verdict or JSON with probability and map, and a preview on
disk. The peers are in `bench/peers` and run in `.venv/bench`; they receive the images over HTTP, 32 at a
time. Each server is measured in turn with the worker, because a machine's speed drifts; `times` is the median
of the ratios. A server is halted while the worker is measured, because LitServe's idle processes use a third
of a core.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.images import SAMPLES, Images, paths_of
from bench.running import BATCH, Connection, Worker, halted, served, worker
from model.serve.engine import Engine
from tests.support.machines import free_port

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv" / "bench" / "bin" / "python"  # `make bench` makes it
_PROCESSES = 5  # new processes; each takes seconds
_LOOP = 64  # images
_AGREE = 0.05  # of P; peers decode without shrinking first
_UP_SECONDS = 120.0
_BOUNDARY = b"image-of-the-bench"


@dataclass(frozen=True)
class Way:
    """Hold the result of one way to get an answer."""

    name: str
    rate: float | None  # images per second; None when it did not run
    times: float | None = None  # how many times faster the worker is
    note: str = ""


@dataclass(frozen=True)
class Server:
    """Describe a peer that answers HTTP."""

    name: str
    command: list[str]  # {port} and {out} are filled in
    ready: str  # a path that answers when it is up
    is_form: bool  # whether it takes a file as form data or as the body


SERVERS = (
    Server("LitServe", ["-m", "bench.peers.litserve_server", "{port}", "{out}"], "/health", is_form=True),
    Server(
        "BentoML",
        ["-m", "bentoml", "serve", "bench.peers.bentoml_service:Service", "--port", "{port}"],
        "/readyz",
        is_form=True,
    ),
    Server("Ray Serve", ["-m", "bench.peers.ray_serve", "{port}", "{out}"], "/-/healthz", is_form=False),
)


def measure(paths: list[Path], number: int, rounds: int) -> list[Way]:
    """Measure all ways, the worker last; for servers, the median of rounds of `number` images."""
    first = Engine().examine(paths[0].read_bytes()).finding.probability
    with worker() as running:
        own = Own(running, Images(paths), number)
        own.rate()  # warm-up
        own.rates.clear()
        kinds: list[tuple[str, Callable[[], tuple[float, float]]]] = [
            *((server.name, lambda server=server: _server(server, own, rounds, first)) for server in SERVERS),
            ("a warm loop in torch", lambda: own.beside(_loop(paths, first))),
            ("a process an image: cxr classify", lambda: own.beside(_classify(paths))),
            ("a process an image: torch", lambda: own.beside(_processes(paths, first))),
        ]
        ways = [_way(*kind) for kind in kinds]
        return [*reversed(ways), Way("cxr worker", statistics.median(own.rates or [own.rate()]))]


class Own:
    """Measure the worker whenever a peer is measured."""

    def __init__(self, running: Worker, images: Images, number: int) -> None:
        self._running, self.images, self.number = running, images, number
        self.rates: list[float] = []

    def rate(self) -> float:
        """Return the images per second of one round."""
        keys = self.images.drop(self._running.root, self.number)
        self.rates.append(self.number / self._running.seconds_for(keys))
        return self.rates[-1]

    def beside(self, rate: float) -> tuple[float, float]:
        """Return a peer's rate, and how much faster the worker is now."""
        return rate, self.rate() / rate


def _way(name: str, measured: Callable[[], tuple[float, float]]) -> Way:
    try:
        return Way(name, *measured())
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Way(name, None, note=f"did not run: {error}")


def _server(server: Server, own: Own, rounds: int, first: float) -> tuple[float, float]:
    images, number = own.images, own.number
    with _up(server) as (pid, port, out):
        with closing(Connection(port)) as connection:
            check = json.loads(connection.post("/predict", *_request(server, images.files[0])))
        _check(check[0] if isinstance(check, list) else check, first)
        _ask(server, port, images.take(BATCH))  # warm-up
        seen = []
        for _ in range(rounds):
            rate = number / _ask(server, port, images.take(number))
            with halted(pid):
                seen.append(own.beside(rate))
            _ask(server, port, images.take(BATCH))  # wakes it up
        _check_previews(out, 1 + BATCH + (number + BATCH) * rounds)
    rates, times = zip(*seen, strict=True)
    return statistics.median(rates), statistics.median(times)


@contextmanager
def _up(server: Server) -> Iterator[tuple[int, int, Path]]:
    """Start a server; yield process id, port and the folder of its previews."""
    port = free_port()
    with TemporaryDirectory(prefix="cxr-bench-") as folder:
        command = [_python(), *(part.format(port=port, out=folder) for part in server.command)]
        env = {**_environment(), "BENCH_OUT": folder, "BENTOML_HOME": f"{folder}/bentoml"}
        env["BENTOML_HOST"] = "127.0.0.1"
        with served(command, port, server.ready, env, _UP_SECONDS) as pid:
            yield pid, port, Path(folder)


def _ask(server: Server, port: int, files: list[bytes]) -> float:
    """Return the seconds until all are answered, 32 in flight."""
    requests = [_request(server, data) for data in files]

    def share(at: int) -> None:
        with closing(Connection(port)) as connection:
            for request in requests[at::BATCH]:
                connection.post("/predict", *request)

    os.sync()  # as before the worker's rounds
    with ThreadPoolExecutor(BATCH) as pool:
        began = time.perf_counter()
        list(pool.map(share, range(BATCH)))
        return time.perf_counter() - began


def _request(server: Server, data: bytes) -> tuple[bytes, str]:
    """Return body and media type."""
    if not server.is_form:
        return data, "application/octet-stream"
    head = b'Content-Disposition: form-data; name="image"; filename="x.jpeg"\r\nContent-Type: image/jpeg'
    body = b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (_BOUNDARY, head, data, _BOUNDARY)
    return body, f"multipart/form-data; boundary={_BOUNDARY.decode()}"


def _processes(paths: list[Path], first: float) -> float:
    """Measure the original project's way, a process for each image."""
    with TemporaryDirectory() as out:
        began = time.perf_counter()
        for number in range(_PROCESSES):
            said = _run([_python(), "-m", "bench.peers.torch_loop", out, str(paths[number % len(paths)])])
            if not number:
                _check(json.loads(said.splitlines()[0]), first)
        seconds = time.perf_counter() - began
        _check_previews(Path(out), _PROCESSES)
    return _PROCESSES / seconds


def _classify(paths: list[Path]) -> float:
    began = time.perf_counter()
    for number in range(_PROCESSES):
        _run([sys.executable, "-m", "cxr", "classify", str(paths[number % len(paths)])])
    return _PROCESSES / (time.perf_counter() - began)


def _loop(paths: list[Path], first: float) -> float:
    files = [str(paths[number % len(paths)]) for number in range(_LOOP + 1)]
    with TemporaryDirectory() as out:
        *answers, seconds = _run([_python(), "-m", "bench.peers.torch_loop", out, *files]).splitlines()
        _check_previews(Path(out), _LOOP + 1)
    _check(json.loads(answers[0]), first)
    return _LOOP / float(seconds)


def _check(answer: dict[str, object], first: float) -> None:
    """Raise RuntimeError unless a peer gives the network's answer about the first image, with its map."""
    if abs(float(str(answer["probability"])) - first) > _AGREE or not answer["map"]:
        raise RuntimeError(f"its P is {answer['probability']}, the worker's is {first}")


def _check_previews(out: Path, number: int) -> None:
    found = len(list(out.glob("*.jpg")))
    if found != number:
        raise RuntimeError(f"it wrote {found} of {number} previews")


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:  # leaves out the command, which names files
        raise RuntimeError(" ".join(done.stderr.strip().splitlines()[-1:]))
    return done.stdout


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENTOML_DO_NOT_TRACK": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _python() -> str:
    if not shutil.which(PYTHON):
        raise RuntimeError("the peers are not installed; run make bench")
    return str(PYTHON)


def lines(ways: list[Way]) -> list[str]:
    """Return the lines to print."""
    return [f"{way.name:36} {way.note or _figures(way)}" for way in ways]


def _figures(way: Way) -> str:
    beside = f"; cxr worker {way.times:.2f} times as fast" if way.times else ""
    return f"{way.rate:8.2f} images per second{beside}"


def main(folder: Path, number: int = 256, rounds: int = 3) -> None:
    """Measure and print."""
    sys.stdout.write("\n".join(lines(measure(paths_of(folder), number, rounds))) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES, *map(int, sys.argv[2:]))
