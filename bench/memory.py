"""Measure the memory of a worker after 1,000 and after 10,000 images: `python -m bench.memory [FOLDER]`.

Whole files of the folder are used, each time with other bytes at the end, so that no ETag repeats; they and
their verdicts are removed in between.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.images import SAMPLES, Images, paths_of
from bench.running import BATCH, Worker, worker
from pipeline.names import INBOX, OUTBOX
from tests.support.machines import descendants

_AT_A_TIME = 8 * BATCH


@dataclass(frozen=True)
class Memory:
    """Hold the resident memory of a worker and its judging processes in MB, as Linux counts it."""

    images: tuple[int, int]
    resident_mb: tuple[float, float]
    growth: float  # relative growth


def measure(paths: list[Path], first: int, last: int) -> Memory:
    """Measure after `first` and after `last` images."""
    images, seen, done = Images(paths), [], 0
    with worker() as running:
        for goal in (first, last):
            while done < goal:
                number = min(_AT_A_TIME, goal - done)
                running.seconds_for(images.drop(running.root, number))
                _empty(running)
                done += number
            seen.append(sum(map(resident_mb, [running.pid, *descendants(running.pid)])))
    before, after = seen
    return Memory((first, last), (before, after), after / before - 1)


def _empty(running: Worker) -> None:
    for name in (INBOX, OUTBOX):
        shutil.rmtree(running.root / name)
        (running.root / name).mkdir()


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB, as Linux counts it."""
    status = Path("/proc", str(pid), "status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


def lines(seen: Memory) -> list[str]:
    """Return the lines to print."""
    after = [
        f"{mb:.0f} MB after {number:,} images"
        for mb, number in zip(seen.resident_mb, seen.images, strict=True)
    ]
    return [", ".join(after) + f": {seen.growth:+.1%}"]


def main(folder: Path, first: int = 1_000, last: int = 10_000) -> None:
    """Measure and print."""
    sys.stdout.write("\n".join(lines(measure(paths_of(folder), first, last))) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES, *map(int, sys.argv[2:]))
