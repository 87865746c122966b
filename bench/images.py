"""Provide the images to measure with, and fill an inbox with them."""

import os
import random
from itertools import count, cycle, islice
from pathlib import Path

from pipeline.names import INBOX

SAMPLES = Path(__file__).parents[1] / "events" / "samples"
_SUFFIXES = (".jpeg", ".jpg", ".png")
_SEED = 7


def paths_of(folder: Path, limit: int | None = None) -> list[Path]:
    """Return at most `limit` images of a folder, always shuffled alike, since by name large ones are
    adjacent.
    """
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES]
    if folder == SAMPLES:
        found = [path for path in found if "photograph" not in path.name]  # which is refused
    random.Random(_SEED).shuffle(found)
    if not found:
        raise SystemExit(f"{folder} holds no image: name a folder of X-rays, as in make bench IMAGES=folder")
    return found[:limit]


class Images:
    """Hold images in memory and return them repeatedly, each time with other bytes at the end, so no ETag
    repeats.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.files = [path.read_bytes() for path in paths]
        self._numbers, self._next = count(), cycle(self.files)

    def take(self, number: int) -> list[bytes]:
        """Return `number` more images."""
        return [data + b"%08d" % next(self._numbers) for data in islice(self._next, number)]

    def drop(self, root: Path, number: int) -> list[str]:
        """Write `number` more images into the inbox of a root; return their keys.

        They are flushed to disk, because later writes by the system would take time from the measurement.
        """
        keys = []
        for data in self.take(number):
            keys.append(f"{INBOX}{data[-8:].decode()}.jpeg")
            (root / keys[-1]).write_bytes(data)
        os.sync()
        return keys
