"""Measure C-STORE: the same files sent to our DICOM node and to DCMTK's `storescp`, in turn.

Run with `python -m bench.dicom`; needs Debian's dcmtk. DCMTK's `storescu` sends them, in one association.
Both receivers write files on the same disk; only the node flushes each to the disk before it answers, and
gives it its name. Nothing is judged meanwhile.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.support import dicoms
from tests.support.machines import Process, free_port, listens, stopped_at_end, wait_for

_KINDS = {"10 MB": ((2048, 2500), 30), "160 kB": ((256, 320), 100)}  # pixels of 16 bits, and files
_SEED = 7


@dataclass(frozen=True)
class Received:
    """Hold megabytes and objects per second, medians of the rounds."""

    kind: str
    node_mb: float
    node_objects: float
    storescp_mb: float
    storescp_objects: float
    ratio: float  # of the node to storescp, median of the rounds' ratios


def measure(rounds: int = 5) -> list[Received]:
    """Measure both receivers in turn, for each size of files."""
    with TemporaryDirectory(prefix="cxr-bench-") as folder:
        return [_measured(kind, Path(folder) / kind.replace(" ", ""), rounds) for kind in _KINDS]


def _measured(kind: str, folder: Path, rounds: int) -> Received:
    sent, ours, theirs = folder / "sent", folder / "ours", folder / "theirs"
    for path in (sent, ours / "inbox", theirs):
        path.mkdir(parents=True)
    size, number = _KINDS[kind]
    _draw(sent, size, number)
    ports = free_port(), free_port()
    node = Process([sys.executable, "-m", "tests.support.node_main", str(ours), str(ports[0])], folder / "a")
    storescp = Process(["storescp", "-od", str(theirs), str(ports[1])], folder / "b")
    with stopped_at_end(_Ended(node), _Ended(storescp)):
        wait_for(lambda: all(map(listens, ports)), 20, "the receivers")
        seconds: list[tuple[float, float]] = []
        for _ in range(rounds):
            seconds.append((_seconds(ports[0], sent, ours / "inbox"), _seconds(ports[1], sent, theirs)))
    megabytes = sum(path.stat().st_size for path in sent.iterdir()) / 1e6
    node_s, storescp_s = (statistics.median(taken) for taken in zip(*seconds, strict=True))
    ratio = statistics.median(other / own for own, other in seconds)
    rates = [rate for taken in (node_s, storescp_s) for rate in (megabytes / taken, number / taken)]
    return Received(kind, *rates, ratio)


class _Ended:
    """End a process as `stopped_at_end` asks."""

    def __init__(self, process: Process) -> None:
        self.stop = process.kill


def _draw(folder: Path, size: tuple[int, int], number: int) -> None:
    """Write objects of noise, which no file system makes smaller."""
    chance = np.random.default_rng(_SEED)
    for place in range(number):
        pixels = chance.integers(0, 4096, size).astype(np.uint16)
        (folder / f"{place}.dcm").write_bytes(dicoms.dicom(pixels, SOPInstanceUID=f"1.2.3.{place}"))


def _seconds(port: int, sent: Path, received: Path) -> float:
    """Send all files once, see that they came, and remove them."""
    os.sync()
    began = time.perf_counter()
    subprocess.run(["storescu", "-aec", "CXR-INBOX", "127.0.0.1", str(port), "+sd", sent], check=True)
    taken = time.perf_counter() - began
    names = list(received.iterdir())
    if len(names) != len(list(sent.iterdir())):
        raise RuntimeError(f"{len(names)} objects came")
    shutil.rmtree(received)
    received.mkdir()
    return taken


def lines(seen: list[Received]) -> list[str]:
    """Return the lines to print."""
    return [
        f"objects of {one.kind}: node {one.node_mb:.0f} MB/s, {one.node_objects:.0f} a second; storescp "
        f"{one.storescp_mb:.0f} MB/s, {one.storescp_objects:.0f} a second; ratio {one.ratio:.2f}"
        for one in seen
    ]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines(measure(*map(int, sys.argv[1:])))) + "\n")
