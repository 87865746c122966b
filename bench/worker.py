"""Measure how much of the machine's speed the worker uses: `python -m bench.worker [FOLDER]`.

Decoding, inference and writing are timed separately, each on all cores; one after the other they would do
`bound` images per second. Then a real `cxr worker` judges as many, from inbox to verdict, previews and maps
included. Both run in turn, because a machine's speed drifts; what counts is the median of the ratios.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.images import SAMPLES, Images, paths_of
from bench.running import BATCH, CORES, Worker, worker
from model.serve.engine import Engine, encode_preview, prepare
from model.serve.files.decode import decode
from pipeline.judge import examine
from pipeline.names import preview_key, verdict_key
from pipeline.store.folder import FolderStore
from pipeline.verdict import Release, Source

STEPS = ("fetch", "decode", "infer", "write")  # steps of a verdict's `timing_ms`
_MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Throughput:
    """Hold images per second, medians of `rounds` rounds of `images` images."""

    decode: float
    infer: float
    write: float
    bound: float
    worker: float
    share: float  # worker / bound, the median of the rounds' shares
    timing_ms: dict[str, float]  # means of one image in the worker
    thread_ms: float  # total time of a worker thread for one image
    images: int
    rounds: int


def measure(paths: list[Path], number: int, rounds: int) -> Throughput:
    """Measure bound and worker in turn, `number` images each time."""
    images, engine, seen = Images(paths), Engine(), []
    with worker() as running, TemporaryDirectory(prefix="cxr-bench-") as folder:
        alone = Alone(engine, FolderStore(Path(folder)))
        alone.rates(images.take(BATCH))
        _judge(running, images, BATCH)  # warm-up of both
        timing: list[dict[str, float]] = []
        for _ in range(rounds):
            rates = alone.rates(images.take(number))
            seconds, timings = _judge(running, images, number)
            seen.append({**rates, "worker": number / seconds})
            timing += timings
    median = {name: statistics.median(one[name] for one in seen) for name in seen[0]}
    share = statistics.median(one["worker"] / one["bound"] for one in seen)
    steps = {step: statistics.mean(one[step] for one in timing) for step in STEPS}
    thread_ms = 1000 * CORES / median["worker"]
    return Throughput(
        **median, share=share, timing_ms=steps, thread_ms=thread_ms, images=number, rounds=rounds
    )


class Alone:
    """Run the steps of an image separately, each on all cores."""

    def __init__(self, engine: Engine, store: FolderStore) -> None:
        self._engine, self._store, self._pool = engine, store, ThreadPoolExecutor(CORES)

    def rates(self, files: list[bytes]) -> dict[str, float]:
        """Return the images per second of each step, and of all of them one after the other."""
        size = self._engine.calibration.size
        decoded = [decode(data, _MAX_PIXELS) for data in files[:BATCH]]
        pixels = [prepare(gray, facts, size)[0] for gray, facts, _ in decoded]
        verdicts = [self._verdict(data) for data in files[:BATCH]]
        steps: dict[str, Callable[[int], object]] = {
            "decode": lambda at: self._decode(files[at]),
            "infer": lambda at: self._engine.outputs(pixels[at % BATCH]),
            "write": lambda at: self._write(files[at], decoded[at % BATCH][0], verdicts[at % BATCH]),
        }
        rates = {name: len(files) / self._seconds(step, range(len(files))) for name, step in steps.items()}
        return {**rates, "bound": 1 / sum(1 / rate for rate in rates.values())}

    def _seconds(self, step: Callable[[int], object], over: Iterable[int]) -> float:
        began = time.perf_counter()
        list(self._pool.map(step, over))
        return time.perf_counter() - began

    def _decode(self, data: bytes) -> None:
        gray, facts, _ = decode(data, _MAX_PIXELS)
        prepare(gray, facts, self._engine.calibration.size)

    def _verdict(self, data: bytes) -> bytes:
        source = Source(bucket="bench", key="inbox/x.jpeg", etag="0" * 32, size=len(data))
        return examine(data, source, self._engine, Release(), datetime.now(UTC))[0].to_json()

    def _write(self, data: bytes, gray: object, verdict: bytes) -> None:
        key = f"inbox/{data[-8:].decode()}.jpeg"
        self._store.put(preview_key(key, "0" * 32), encode_preview(gray), None)
        self._store.put(verdict_key(key), verdict, None)


def _judge(running: Worker, images: Images, number: int) -> tuple[float, list[dict[str, float]]]:
    """Return the seconds for so many images, and the timings in their verdicts."""
    keys = images.drop(running.root, number)
    seconds = running.seconds_for(keys)
    verdicts = [running.root / verdict_key(key) for key in keys]
    return seconds, [json.loads(path.read_bytes())["timing_ms"] for path in verdicts]


def lines(seen: Throughput) -> list[str]:
    """Return the lines to print."""
    return [
        f"{seen.images} images, {seen.rounds} rounds, {CORES} cores; images per second",
        *(
            f"{name:16} {getattr(seen, name):7.1f}"
            for name in ("decode", "infer", "write", "bound", "worker")
        ),
        f"share of bound   {seen.share:7.1%}",
        "one image in the worker, ms: "
        + ", ".join(f"{step} {seen.timing_ms[step]:.1f}" for step in STEPS)
        + f", all {seen.thread_ms:.1f}",
    ]


def main(folder: Path, number: int = 256, rounds: int = 5) -> None:
    """Measure and print."""
    sys.stdout.write("\n".join(lines(measure(paths_of(folder), number, rounds))) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES, *map(int, sys.argv[2:]))
