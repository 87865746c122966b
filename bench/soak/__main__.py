"""Run the soak: `python -m bench.soak [--minutes 10] [--seed 1] [--paths folder cloud]`; `make soak`."""

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.soak import cloud, folder
from bench.soak.run import STOPPING, Soaked

PATHS: dict[str, tuple[float, Callable[[float, int, float, Path], Soaked]]] = {
    "folder": (12.0, folder.run),  # objects a second
    "cloud": (1.5, cloud.run),
}


def main(minutes: float, seed: int, paths: list[str], keep: Path) -> int:
    """Soak the paths side by side, print what was found, and return 1 when that is anything."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: STOPPING.set())  # what was started has to be ended
    keep.mkdir(parents=True, exist_ok=True)
    is_clean = True
    with TemporaryDirectory(prefix="cxr-soak-") as place, ThreadPoolExecutor() as pool:
        running = {}
        for name in paths:
            (Path(place) / name).mkdir()
            rate, path = PATHS[name]
            running[pool.submit(path, 60 * minutes, seed, rate, Path(place) / name)] = name
        for one in as_completed(running):
            name = running[one]
            if error := one.exception():
                traceback.print_exception(error)
                is_clean = False
                continue
            soaked = one.result()
            report = vars(soaked) | {"checked": vars(soaked.checked)}
            (keep / f"{name}.json").write_text(json.dumps(report, indent=1), "utf-8")
            sys.stdout.write("\n".join([f"== {name}", *lines(soaked)]) + "\n")
            sys.stdout.flush()
            is_clean &= soaked.checked.is_clean and not soaked.waiting and soaked.checked.objects > 0
    sys.stdout.write(f"written: {keep}\n")
    return 0 if is_clean else 1


def lines(soaked: Soaked) -> list[str]:
    """Return the lines to print."""
    figures = soaked.checked.figures()
    return [
        f"{sum(soaked.deeds.values()):,} deeds and {sum(soaked.faults.values()):,} faults"
        f" in {soaked.seconds / 60:.1f} minutes; settled {soaked.settled:.0f} s later",
        *([f"still waiting: {soaked.waiting}"] if soaked.waiting else []),
        *(f"{count:8,} {name}" for name, count in soaked.deeds.most_common()),
        *(f"{count:8,} prevented: {name}" for name, count in soaked.missed.most_common()),
        *(f"{count:8,} fault: {name}" for name, count in soaked.faults.most_common()),
        *(f"{count:8,} fault not caused: {name}" for name, count in soaked.not_caused.most_common()),
        *(f"{value:8,} {name}" for name, value in {**soaked.more, **figures}.items()),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Break everything at random, and count what is lost.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--paths", nargs="+", choices=list(PATHS), default=list(PATHS))
    parser.add_argument("--keep", type=Path, default=Path("build/soak"), help="folder of the report")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(**vars(_arguments())))
