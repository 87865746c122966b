"""Measure how long a start takes, as whole processes including Python's own start.

Usage: `python -m bench.cold [FOLDER]`.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.images import SAMPLES, paths_of
from bench.running import worker

_TIMES = 5
# Work of the AWS runtime for a function's first event, before it runs.
_LAMBDA = "import handlers.ingest; from handlers import wiring; wiring.ports()"
_OF_A_STACK = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "CXR_BUCKET": "bench",
    "CXR_HOST": "ec2",
    "CXR_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/jobs",
    "CXR_SUBNETS": "subnet-1",
    "CXR_INSTANCE_TYPES": "t3.medium",
}


@dataclass(frozen=True)
class Cold:
    """Hold the medians of five starts, in seconds."""

    classify: float  # `cxr classify` with one file
    worker: float  # `cxr worker`, until /healthz answers
    function: float  # the Lambda function's imports and adapters


def measure(paths: list[Path]) -> Cold:
    """Measure each start five times."""
    classify = [sys.executable, "-m", "cxr", "classify", str(paths[0])]
    function = [sys.executable, "-c", _LAMBDA]
    return Cold(
        classify=_median(lambda: _run(classify)),
        worker=_median(_worker),
        function=_median(lambda: _run(function, _OF_A_STACK)),
    )


def _median(start: Callable[[], float]) -> float:
    return statistics.median(start() for _ in range(_TIMES))


def _run(command: list[str], env: dict[str, str] | None = None) -> float:
    began = time.perf_counter()
    subprocess.run(command, env={**os.environ, **(env or {})}, check=True, capture_output=True, timeout=60)
    return time.perf_counter() - began


def _worker() -> float:
    began = time.perf_counter()
    with worker():
        return time.perf_counter() - began


def lines(seen: Cold) -> list[str]:
    """Return the lines to print."""
    return [
        f"cxr classify, one file          {seen.classify:5.2f} s",
        f"cxr worker, until it answers    {seen.worker:5.2f} s",
        f"the Lambda function's start     {seen.function:5.2f} s",
    ]


def main(folder: Path) -> None:
    """Measure and print."""
    sys.stdout.write("\n".join(lines(measure(paths_of(folder)))) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
