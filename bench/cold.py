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
# The names of all modules that this start imports, in their order.
_NAMES = "; import sys; print(*sys.modules)"
# Import modules by name; some are not there as files.
_IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
"""
_OURS = ("ec2_runner", "handlers", "pipeline")
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
    """Hold the medians of five starts, in seconds, and a median of ratios."""

    classify: float  # `cxr classify` with one file
    worker: float  # `cxr worker`, until /healthz answers
    function: float  # the Lambda function's imports and adapters
    imports: float  # how many times as long the function's imports take as those of its libraries alone


def measure(paths: list[Path]) -> Cold:
    """Measure each start five times."""
    classify = [sys.executable, "-m", "cxr", "classify", str(paths[0])]
    function = [sys.executable, "-c", _LAMBDA]
    return Cold(
        classify=_median(lambda: _run(classify)),
        worker=_median(_worker),
        function=_median(lambda: _run(function, _OF_A_STACK)),
        imports=_imports(),
    )


def _imports() -> float:
    """Compare the function's imports with those of its libraries, in turn."""
    said = subprocess.run(
        [sys.executable, "-c", _LAMBDA + _NAMES],
        env={**os.environ, **_OF_A_STACK},
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout.decode()
    names = [name for name in said.split() if name != "__main__"]
    others = [name for name in names if name.partition(".")[0] not in _OURS]
    commands = [[sys.executable, "-c", _IMPORT, *some] for some in (names, others)]
    return _median(lambda: _run(commands[0]) / _run(commands[1]))


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
        f"its imports, to its libraries'  {seen.imports:5.2f} times",
    ]


def main(folder: Path) -> None:
    """Measure and print."""
    sys.stdout.write("\n".join(lines(measure(paths_of(folder)))) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
