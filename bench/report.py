"""Run all measurements and write docs/benchmarks.md: `python -m bench.report [FOLDER] [--quick]`.

`make bench` runs it. Each result is saved to build/bench.json as it comes; with `--only`, the named parts are
measured again and the others stay as saved. `--quick` tries everything on few images, and writes into
build/quick instead.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import cold, compare, dicom, document, inference, latency, load, memory, page, ssh, worker
from bench.images import SAMPLES, paths_of
from bench.running import BATCH, CORES

ROOT = Path(__file__).parents[1]
_LIBRARIES = ("onnxruntime", "pillow", "numpy", "torch")
PARTS = ("worker", "compare", "load", "memory", "cold", "latency", "inference", "ssh", "page", "dicom")
Json = dict[str, Any]


def measure(paths: list[Path], quick: bool) -> dict[str, Callable[[], Any]]:
    """Return the functions that measure the parts."""
    number = 2 * BATCH if quick else 8 * BATCH
    return {
        "worker": lambda: worker.measure(paths, number, 1 if quick else 7),
        "compare": lambda: compare.measure(paths, number, 1 if quick else 5),
        "load": lambda: load.measure(paths, *((4, 1) if quick else (40, 5))),
        "memory": lambda: memory.measure(paths, *((64, 256) if quick else (1_000, 10_000))),
        "cold": lambda: cold.measure(paths),
        "latency": lambda: latency.measure(paths[:20] if quick else paths),
        "inference": inference.measure,
        "ssh": lambda: ssh.measure(2 if quick else ssh.ROUNDS),
        "page": lambda: page.measure(1_000 if quick else 100_000),
        "dicom": lambda: dicom.measure(1 if quick else 5),
    }


def facts(paths: list[Path]) -> Json:
    """Return the machine, the versions and the images used."""
    sizes = [path.stat().st_size for path in paths]
    memory_of = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": f"{_processor()}, {CORES} cores",
        "memory": f"{memory_of:.0f} GiB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "versions": ", ".join([f"Python {platform.python_version()}", *map(_version, _LIBRARIES)]),
        "images": f"{len(paths)}, {sum(sizes) / len(sizes) / 1e6:.2f} MB each on average",
    }


def _version(name: str) -> str:
    return f"{name} {version(name)}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main(folder: Path, quick: bool, only: list[str]) -> None:
    """Measure, save, and write the document."""
    paths, build = paths_of(folder), ROOT / "build"
    build.mkdir(exist_ok=True)
    kept = build / ("bench-quick.json" if quick else "bench.json")
    seen: Json = json.loads(kept.read_bytes()) if only and kept.exists() else {}
    seen["facts"] = facts(paths)
    for name, part in measure(paths, quick).items():
        if name in (only or PARTS):
            sys.stdout.write(f"{name} ...\n")
            sys.stdout.flush()
            found = part()
            seen[name] = [asdict(one) for one in found] if isinstance(found, list) else asdict(found)
            kept.write_text(json.dumps(seen, indent=1), encoding="utf-8")
    docs = build / "quick" if quick else ROOT / "docs"
    document.write(seen, docs)
    sys.stdout.write(f"written: {docs / document.NAME}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure, and write docs/benchmarks.md.")
    parser.add_argument("folder", type=Path, nargs="?", default=SAMPLES, help="folder of X-rays, not copied")
    parser.add_argument("--quick", action="store_true", help="try it on few images, into build/quick")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[], help="measure only these again")
    return parser.parse_args()


if __name__ == "__main__":
    main(**vars(_arguments()))
