"""Run load and faults side by side for a while."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.soak.checker import Checked
from bench.soak.load import Load

STOPPING = threading.Event()  # set when the soak is to end early


@dataclass(frozen=True)
class Fault:
    """Name a fault; `cause` causes it and ends it. A greater weight makes it more frequent."""

    name: str
    weight: float
    cause: Callable[[], None]


@dataclass
class Soaked:
    """Hold what was done, and what was found."""

    seconds: float
    deeds: Counter[str]
    missed: Counter[str]  # deeds that a fault prevented, by error
    faults: Counter[str]
    not_caused: Counter[str]  # faults that could not be caused, by name and error
    settled: float = 0.0  # seconds from the last fault until nothing waited any more
    waiting: str = ""  # what waited for too long
    checked: Checked = field(default_factory=Checked)
    more: dict[str, Any] = field(default_factory=dict)


def soak(load: Load, faults: list[Fault], seconds: float, pause: float, chance: random.Random) -> Soaked:
    """Run the load, and cause faults one after the other, with pauses of so many seconds on average."""
    caused, failed = Counter[str](), Counter[str]()
    working = threading.Thread(target=load.run, name="load")
    working.start()
    began = time.monotonic()
    try:
        while time.monotonic() < began + seconds and not STOPPING.is_set():
            time.sleep(chance.expovariate(1 / pause))
            (fault,) = chance.choices(faults, [one.weight for one in faults])
            try:
                fault.cause()
                caused[fault.name] += 1
            except Exception as error:  # noqa: BLE001  the next may work
                failed[f"{fault.name}: {type(error).__name__}"] += 1
    finally:
        load.stopping.set()
        working.join()
    return Soaked(time.monotonic() - began, load.done, load.missed, caused, failed)


def alive(pids: Iterable[int]) -> set[tuple[int, str]]:
    """Return those processes that run, each with the time of its start, since numbers are used again."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            words = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
            if words[0] not in "ZX":
                found.add((pid, words[19]))
    return found
