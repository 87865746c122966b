"""The images that are measured with, and an inbox full of them."""

import os
import random
from itertools import count, cycle, islice
from pathlib import Path

from pipeline.names import INBOX

SAMPLES = Path(__file__).parents[1] / "events" / "samples"
_SUFFIXES = (".jpeg", ".jpg", ".png")
_SEED = 7


def paths_of(folder: Path, limit: int | None = None) -> list[Path]:
    """The images of a folder, at most `limit`, shuffled, always alike: by name, large ones stand together."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES]
    random.Random(_SEED).shuffle(found)
    if not found:
        raise SystemExit(f"{folder} holds no image: name a folder of X-rays, as in make bench IMAGES=folder")
    return found[:limit]


class Images:
    """Images in memory, given as often as is wanted, each time with other bytes at the end: no ETag twice."""

    def __init__(self, paths: list[Path]) -> None:
        self.files = [path.read_bytes() for path in paths]
        self._numbers, self._next = count(), cycle(self.files)

    def take(self, number: int) -> list[bytes]:
        """So many more."""
        return [data + b"%08d" % next(self._numbers) for data in islice(self._next, number)]

    def drop(self, root: Path, number: int) -> list[str]:
        """Write so many more into the inbox of a root; their keys.

        They are on the disk then: what the system writes back later would take time of what is measured.
        """
        keys = []
        for data in self.take(number):
            keys.append(f"{INBOX}{data[-8:].decode()}.jpeg")
            (root / keys[-1]).write_bytes(data)
        os.sync()
        return keys
