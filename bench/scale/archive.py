"""Measure `cxr backfill` over a large archive: `python -m bench.scale.archive IMAGES [--count 100000]`.

The archive has `count` names for the images of the folder IMAGES, 1,000 in a folder; they are hard links, or
with `--bucket` objects of a bucket of moto. Each is judged, and its verdict and preview written. Before and
afterwards a worker judges the same images, so that the two rates can be compared; the rest of the machine has
to be quiet. With `--engine ray`, Ray runs with its dashboard, if that is installed (it is in the environment
of `make bench`), and its figures are printed, too.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.images import Images, paths_of
from bench.memory import resident_mb
from bench.running import CORES, worker
from tests.support.machines import ACCESS_KEY, REGION, SECRET, Moto, aws_environment, descendants, free_port

_FOLDER = 1_000  # names in one
_BUCKET = "archive"
_COMPARED = 512  # images of the worker, each time
_DASHBOARD_SECONDS = 30.0  # between two looks
_HAS_DASHBOARD = find_spec("aiohttp") is not None  # in the environment of `make bench`


@dataclass(frozen=True)
class Run:
    """Hold one backfill: seconds since the start of its process, images a second, memory in MB."""

    images: int
    seconds: float
    first: float  # seconds until the first answer
    parts: tuple[float, ...]  # rate of each fifth of the images
    memory: tuple[float, ...]  # of all its processes, at the end of each fifth
    worker: tuple[float, float]  # the worker's rate before and afterwards
    verdicts: int  # found in the outbox
    dashboard: dict[str, Any] | None = None

    @property
    def rate(self) -> float:
        """Return the images a second, with the start."""
        return self.images / self.seconds

    @property
    def steady(self) -> float:
        """Return the images a second after the first answer."""
        return (self.images - 1) / (self.seconds - self.first)


def measure(folder: Path, count: int, engine: str, is_bucket: bool) -> Run:
    """Judge `count` images, between two measurements of the worker."""
    before = _worker_rate(folder)
    with (
        TemporaryDirectory(prefix="cxr-bench-") as place,
        _archive(folder, count, Path(place), is_bucket) as at,
    ):
        source, outbox, env, count_verdicts = at
        command = [sys.executable, "-m", "cxr", "backfill", source, outbox, "--json"]
        if engine == "ray":
            env = {**env, "RAY_AUTH_MODE": "disabled"}  # it is on the loopback alone
            with _ray(env) as port:
                options = ["--engine", "ray", "--address", "auto", "--workers", str(CORES)]
                run = _run([*command, *options], count, env, port)
        else:
            run = _run(command, count, env, None)
        verdicts = count_verdicts()
    after = _worker_rate(folder)
    return Run(**run, images=count, worker=(before, after), verdicts=verdicts)


def _run(command: list[str], count: int, env: dict[str, str], port: int | None) -> dict[str, Any]:
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    assert process.stdout
    times, memory, dashboard, due = [began], list[float](), None, began + _DASHBOARD_SECONDS
    first = 0.0
    for number, _ in enumerate(process.stdout, 1):
        now = time.perf_counter()
        if number == 1:
            first = now - began
            times[0] = now
        if number % max(count // 5, 1) == 0:
            times.append(now)
            memory.append(_memory(process.pid))
        if port and now > due:
            dashboard, due = _figures(port) or dashboard, now + _DASHBOARD_SECONDS
    if process.wait(60) not in (0, 1):
        raise RuntimeError(f"the backfill ended with exit code {process.returncode}")
    parts = tuple(count / 5 / (times[at + 1] - times[at]) for at in range(len(times) - 1))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "first": first,
        "parts": parts,
        "memory": tuple(memory),
        "dashboard": dashboard,
    }


def _memory(pid: int) -> float:
    total = 0.0
    for one in (pid, *descendants(pid)):
        with suppress(OSError, StopIteration):  # it has just ended
            total += resident_mb(one)
    return total


def _worker_rate(folder: Path) -> float:
    images = Images(paths_of(folder))
    with worker() as running:
        running.seconds_for(images.drop(running.root, 64))
        return _COMPARED / running.seconds_for(images.drop(running.root, _COMPARED))


@contextmanager
def _archive(
    folder: Path, count: int, place: Path, is_bucket: bool
) -> Iterator[tuple[str, str, dict[str, str], Any]]:
    """Yield the addresses of source and outbox, the environment, and what counts the verdicts."""
    paths = paths_of(folder)
    names = [f"{number // _FOLDER:04}/{number:07}.jpeg" for number in range(count)]
    if is_bucket:
        import boto3

        moto = Moto(place)
        env = {**os.environ, **aws_environment(moto)}
        s3 = boto3.client(
            "s3",
            endpoint_url=moto.url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET,
        )
        s3.create_bucket(Bucket=_BUCKET)
        for number, name in enumerate(names):
            s3.put_object(Bucket=_BUCKET, Key=f"scans/{name}", Body=paths[number % len(paths)].read_bytes())

        def listed() -> int:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix="verdicts/")
            return sum(one["Key"].endswith(".json") for page in pages for one in page.get("Contents", ()))

        try:
            yield f"s3://{_BUCKET}/scans", f"s3://{_BUCKET}/verdicts", env, listed
        finally:
            moto.stop()
        return
    scans, verdicts = place / "scans", place / "verdicts"
    own = []
    for number, path in enumerate(paths):  # on the same disk, for hard links
        own.append(place / f"{number}{path.suffix}")
        shutil.copyfile(path, own[-1])
    for number, name in enumerate(names):
        if number % _FOLDER == 0:
            (scans / name).parent.mkdir(parents=True)
        (scans / name).hardlink_to(own[number % len(own)])
    os.sync()
    yield str(scans), str(verdicts), dict(os.environ), lambda: sum(1 for _ in verdicts.rglob("*.json"))


@contextmanager
def _ray(env: dict[str, str]) -> Iterator[int]:
    """Run a cluster of one machine with its dashboard, until the block ends; yield the dashboard's port."""
    ray, port = str(Path(sys.executable).with_name("ray")), free_port()
    options = [
        "--head",
        f"--num-cpus={CORES}",
        f"--include-dashboard={_HAS_DASHBOARD}",
        f"--dashboard-port={port}",
    ]
    options += ["--node-ip-address=127.0.0.1", "--port=0", "--disable-usage-stats"]
    subprocess.run([ray, "start", *options], env=env, check=True, stdout=subprocess.DEVNULL, timeout=120)
    try:
        yield port
    finally:
        subprocess.run([ray, "stop", "--force"], check=False, stdout=subprocess.DEVNULL, timeout=120)


def _figures(port: int) -> dict[str, Any] | None:
    """Return what the dashboard shows of the machine and of Ray's workers."""
    try:
        (node,) = _asked(port, "/nodes?view=summary")["summary"]
        workers = _asked(port, f"/nodes/{node['raylet']['nodeId']}")["detail"]["workers"]
    except (OSError, ValueError, KeyError):
        return None
    busy = Counter[str]()
    for one in workers:
        busy[one["cmdline"][0]] += one["cpuPercent"]
    return {
        "cpu percent": node["cpu"],
        "memory in use, MB": round((node["mem"][0] - node["mem"][1]) / 1e6),
        "cpu percent of processes": {name: round(share) for name, share in busy.items() if share >= 1},
    }


def _asked(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)["data"]


def lines(seen: Run, engine: str) -> list[str]:
    """Return the lines to print."""
    before, after = seen.worker
    found = [
        f"{engine}: {seen.images:,} images in {seen.seconds:.0f} s, {seen.rate:.1f} a second;"
        f" first answer after {seen.first:.1f} s, then {seen.steady:.1f} a second",
        "fifths: " + ", ".join(f"{rate:.1f}" for rate in seen.parts) + " a second",
        "memory of all its processes: " + ", ".join(f"{mb:.0f}" for mb in seen.memory) + " MB",
        f"worker before and afterwards: {before:.1f} and {after:.1f} a second;"
        f" share {2 * seen.steady / (before + after):.1%}",
        f"{seen.verdicts:,} verdicts in the outbox",
    ]
    if seen.dashboard:
        found.append(f"Ray's dashboard: {json.dumps(seen.dashboard)}")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure a backfill of a large archive.")
    parser.add_argument("images", type=Path, help="folder of X-rays")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--bucket", action="store_true", help="in a bucket of moto")
    asked = parser.parse_args()
    seen = measure(asked.images, asked.count, asked.engine, asked.bucket)
    sys.stdout.write("\n".join(lines(seen, asked.engine)) + "\n")


if __name__ == "__main__":
    main()
