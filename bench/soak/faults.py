"""Cause faults under a running `cxr up`: `python -m bench.soak.faults [SECONDS]`; `make faults`.

The disk is full; the worklist is locked, damaged or deleted; judging processes are killed; the watcher fails.
X-rays are dropped meanwhile. Afterwards each must have the verdict of its bytes, and a row that agrees,
without a restart. The small disk is in memory, and only root can make one; otherwise that fault is left out.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError, URLError

from bench.images import SAMPLES, paths_of
from tests.support.machines import Process, descendants, free_port

_DISK = 96_000_000  # bytes of the disk in memory
_HEAL_SECONDS = 120.0  # after a fault, for everything to recover
_KILLS = 20


@dataclass(frozen=True)
class Seen:
    """Hold the result of one fault."""

    fault: str
    dropped: int
    wrong: int  # X-rays without their verdict or its row
    healed: float  # seconds from the end of the fault to full recovery
    said: bool  # whether /healthz ever answered anything but 200


class Up:
    """Run a `cxr up` and drop X-rays into its inbox."""

    def __init__(self, root: Path, *options: str, **env: str) -> None:
        self.root, self.port = root, free_port()
        for name in ("inbox", "staging"):
            (root / name).mkdir()
        self._command = [sys.executable, "-m", "tests.support.up_main", "up", *options]
        self._command += ["--root", str(root), "--port", str(self.port)]
        self._env = {**os.environ, **env}
        self.log = root.parent / f"{root.name}.log"
        self._images = [path.read_bytes() for path in paths_of(SAMPLES)]
        self.dropped: dict[str, str] = {}  # name to SHA-256
        self.index = root / ".cxr" / "index.sqlite"
        self.start()

    def start(self) -> None:
        """Start it, again after it has ended; return when it is healthy."""
        self.process = Process(self._command, self.log, self._env)
        _until(lambda: self.health() == 200, 60)

    def stop(self) -> None:
        """Ask it to end, and wait; kill it when it does not end."""
        os.kill(self.process.pid, signal.SIGTERM)
        try:
            _until(lambda: self.process.exit_code() is not None, 20)
        finally:
            self.process.kill()

    def stage(self, count: int) -> list[str]:
        """Prepare X-rays with distinct bytes, on the same disk as the inbox."""
        names = []
        for _ in range(count):
            number = len(self.dropped)
            data, name = self._images[number % len(self._images)] + b"%d" % number, f"{number}.jpeg"
            (self.root / "staging" / name).write_bytes(data)
            self.dropped[name] = hashlib.sha256(data).hexdigest()
            names.append(name)
        return names

    def drop(self, name: str) -> None:
        """Move one into the inbox, which needs no disk space."""
        (self.root / "staging" / name).rename(self.root / "inbox" / name)

    def health(self) -> int:
        """Return the status of /healthz, 0 when there is no answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except (URLError, OSError):
            return 0

    def wrong(self) -> int:
        """Return how many X-rays lack the verdict of their bytes, or a row that agrees."""
        verdicts = {name: self._verdict(name) for name in self.dropped}
        try:
            with closing(sqlite3.connect(f"file:{self.index}?mode=ro", uri=True, timeout=1)) as database:
                rows = dict(database.execute("SELECT key, etag FROM rows WHERE waiting_since IS NULL"))
        except sqlite3.Error:
            return len(self.dropped)
        return sum(
            verdict is None or verdict[0] != self.dropped[name] or rows.get(f"inbox/{name}") != verdict[1]
            for name, verdict in verdicts.items()
        )

    def _verdict(self, name: str) -> tuple[str, str] | None:
        try:
            verdict = json.loads((self.root / "outbox" / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return None
        if verdict["status"] != "classified":
            return None
        return verdict["source"]["sha256"], verdict["source"]["etag"]


@contextmanager
def full_disk(up: Up, seconds: float) -> Iterator[None]:
    """Fill the disk."""
    filler = up.root / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 20)):
            pass
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(512)):
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def locked_index(up: Up, seconds: float) -> Iterator[None]:
    """Lock the worklist's file, as another program would."""
    with closing(sqlite3.connect(up.index, isolation_level=None, timeout=30)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.execute("ROLLBACK")


@contextmanager
def damaged_index(up: Up, seconds: float) -> Iterator[None]:
    """Overwrite half of the worklist's file."""
    with up.index.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size // 4)
        file.write(random.Random(0).randbytes(size // 2))
    yield


@contextmanager
def deleted_index(up: Up, seconds: float) -> Iterator[None]:
    """Delete the worklist's files."""
    for path in up.index.parent.glob("index.sqlite*"):
        path.unlink(missing_ok=True)
    yield


@contextmanager
def killed_judges(up: Up, seconds: float) -> Iterator[None]:
    """Kill judging processes, 20 times in all, while X-rays come."""
    chance = random.Random(1)

    def kill() -> None:
        for _ in range(_KILLS):
            time.sleep(chance.uniform(0, 2 * seconds / _KILLS))
            with suppress(IndexError, ProcessLookupError):
                os.kill(chance.choice(descendants(up.process.pid)), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()


@contextmanager
def failing_watcher(up: Up, seconds: float) -> Iterator[None]:
    """Make the watcher's thread raise again and again."""
    mark = up.root / "watcher-fails"
    mark.touch()
    yield
    mark.unlink()


FAULTS: list[Callable[[Up, float], object]] = [
    *(full_disk, locked_index, damaged_index, deleted_index, killed_judges, failing_watcher)
]


def measure(seconds: float, folder: Path, number: int = 20) -> list[Seen]:
    """Cause each fault for so many seconds while `number` X-rays are dropped, all in one `cxr up`."""
    with disk(folder, _DISK) as (root, is_small):
        up = Up(root)
        try:
            return [
                _try(up, fault, seconds, number) for fault in FAULTS if is_small or fault is not full_disk
            ]
        finally:
            up.stop()


def _try(up: Up, fault: Callable[[Up, float], object], seconds: float, number: int) -> Seen:
    names, said = up.stage(number), False
    with fault(up, seconds):  # type: ignore[attr-defined]
        began = time.monotonic()
        for place, name in enumerate(names):
            up.drop(name)
            while time.monotonic() < began + seconds * (place + 1) / number:
                said |= up.health() != 200
                time.sleep(0.1)
    ended = time.monotonic()
    with suppress(TimeoutError):
        _until(lambda: not up.wrong() and up.health() == 200, _HEAL_SECONDS)
    return Seen(fault.__name__, number, up.wrong(), time.monotonic() - ended, said)


@contextmanager
def disk(folder: Path, size: int) -> Iterator[tuple[Path, bool]]:
    """Yield a folder on a disk in memory, of `size` bytes, and whether it is one: only root can make it."""
    root = folder / "root"
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "cxr-faults", str(root)]
    is_small = (
        shutil.which("mount") is not None and not subprocess.run(command, capture_output=True).returncode
    )
    try:
        yield root, is_small
    finally:
        if is_small:
            subprocess.run(["umount", "-l", str(root)], check=True)


def _until(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.2)


def main(seconds: float = 40) -> int:
    """Measure and print; return 1 when an X-ray lacks its verdict."""
    with TemporaryDirectory(prefix="cxr-faults-") as folder:
        found = measure(seconds, Path(folder))
    for seen in found:
        line = f"{seen.fault:16} {seen.dropped} dropped, {seen.wrong} wrong, healed in {seen.healed:.1f} s"
        sys.stdout.write(f"{line}, /healthz {'reported it' if seen.said else 'stayed healthy'}\n")
    return int(any(seen.wrong for seen in found))


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
