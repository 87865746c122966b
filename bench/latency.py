"""Measure from file drop to verdict on disk, with `cxr up` warm: `python -m bench.latency [FOLDER]`.

Each image is renamed into the inbox once the previous one has its verdict. The same images are then judged in
this process, without watcher, queue, store or page; the ratio shows the overhead.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.images import SAMPLES, paths_of
from model.serve.engine import Engine

_MOST = 200  # images
_WARM_UP = 5
_DEADLINE = 30.0  # seconds for one verdict


@dataclass(frozen=True)
class Drops:
    """Hold median and 95th percentile in milliseconds."""

    images: int
    drop: tuple[float, float]  # from file drop to verdict on disk
    alone: tuple[float, float]  # judged in this process
    ratio: float  # of the medians


def measure(images: list[Path]) -> Drops:
    """Measure at most 200 images."""
    images = images[:_MOST]
    with TemporaryDirectory() as root:
        drops = sorted(_drops(Path(root), [*images[:_WARM_UP], *images])[_WARM_UP:])
    engine = Engine()
    alone = sorted(_seconds(partial(_judge, engine, path)) for path in images)
    ratio = statistics.median(drops) / statistics.median(alone)
    return Drops(len(images), _ms(drops), _ms(alone), ratio)


def main(folder: Path) -> None:
    """Measure and print."""
    seen = measure(paths_of(folder))
    lines = [
        f"{seen.images} images, one after the other, on {os.cpu_count()} cores",
        "drop to verdict   median {:6.1f} ms   p95 {:6.1f} ms".format(*seen.drop),
        "judged alone      median {:6.1f} ms   p95 {:6.1f} ms".format(*seen.alone),
        f"ratio of medians  {seen.ratio:.2f}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _drops(root: Path, images: list[Path]) -> list[float]:
    (root / "inbox").mkdir()
    command = [sys.executable, "-m", "cxr", "up", "--root", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            return [_drop(root, number, image) for number, image in enumerate(images)]
        finally:
            process.terminate()


def _drop(root: Path, number: int, image: Path) -> float:
    """Return the seconds from the rename to the verdict."""
    name = f"{number}{image.suffix}"
    verdict = root / "outbox" / f"{name}.json"
    shutil.copy(image, root / name)
    began = time.perf_counter()
    (root / name).rename(root / "inbox" / name)
    while not verdict.exists():
        if time.perf_counter() - began > _DEADLINE:
            raise TimeoutError(f"no verdict after {_DEADLINE:.0f} s")
        time.sleep(0.001)
    return time.perf_counter() - began


def _judge(engine: Engine, path: Path) -> None:
    engine.examine(path.read_bytes())


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _ms(values: list[float]) -> tuple[float, float]:
    """Return median and 95th percentile, in milliseconds, of sorted seconds."""
    median, p95 = (values[min(int(share * len(values)), len(values) - 1)] * 1000 for share in (0.5, 0.95))
    return median, p95


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
