"""Make the objects of a soak, and what people and programs do with them, from one seed."""

import hashlib
import io
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from PIL import Image

from bench.images import SAMPLES
from tests.support import dicoms
from tests.support.fuzz import WHOLE, damaged

PATIENT = "Beeblebrox"  # in each file's name: must not be in any log
_SIDE = 512  # pixels of the longer side: small files, so that many fit on the small disk
_FRESH, _HOSTILE = 0.85, 0.15
_MOST_ALIVE = 400  # objects that later deeds choose from


class Place(Protocol):
    """Describe where objects are dropped."""

    def write(self, name: str, data: bytes) -> None:
        """Write an object, or replace it."""

    def write_slowly(self, name: str, data: bytes) -> None:
        """Write an object in pieces, where the place lets others see them."""

    def delete(self, name: str) -> None:
        """Delete an object; an error means that it may still be there."""


class Images:
    """Make the bytes of X-rays, each different, and of files that harm a decoder."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._number = chance, 0
        self._xrays = [_small(path) for path in sorted(SAMPLES.glob("*.jpeg"))]
        self._whole = {name: make() for name, make in WHOLE.items()}

    def any(self) -> bytes:
        """Return the bytes of one more object, mostly an X-ray."""
        return self.xray() if self._chance.random() < _FRESH else self.hostile()

    def xray(self) -> bytes:
        """Return one more X-ray."""
        self._number += 1
        return self._chance.choice(self._xrays) + b"%09d" % self._number

    def hostile(self) -> bytes:
        """Return one more damaged file."""
        self._number += 1
        return damaged(self._chance.randrange(1 << 30), self._number, self._whole)[1]

    def dicom(self) -> tuple[str, bytes]:
        """Return the instance UID of one more DICOM object, and its file."""
        self._number += 1
        instance, study = f"1.2.77.{self._number}", f"1.2.55.{self._number}"
        more = {"PatientName": f"{PATIENT}^Zaphod", "PatientID": f"Z{self._number:09}", "PatientAge": "040Y"}
        return instance, dicoms.dicom(
            dicoms.gray(),
            SOPInstanceUID=instance,
            StudyInstanceUID=study,
            SeriesInstanceUID=f"{study}.1",
            **more,
        )


def _small(path: Path) -> bytes:
    image, buffer = Image.open(path).convert("L"), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE))
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


@dataclass
class Load:
    """Do things to a place, about `rate` a second, until stopped; `done` counts them by kind.

    `held` is what the inbox must hold in the end: SHA-256 by name, or None where a fault prevented a deed, so
    that nobody can tell.
    """

    place: Place
    images: Images
    chance: random.Random
    rate: float
    done: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)  # that a fault prevented, by error
    held: dict[str, str | None] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._alive: list[tuple[str, bytes]] = []
        self._deeds: dict[str, tuple[float, Callable[[], None]]] = {
            "new": (60, self._add),
            "new, written slowly": (6, self._add_slowly),
            "replaced": (10, self._replace),
            "replaced twice at once": (2, self._replace_twice),
            "written again with the same bytes": (5, self._rewrite),
            "deleted": (4, self._delete),
            "deleted and dropped again": (2, self._return),
        }

    def add(self, name: str, weight: float, deed: Callable[[], None]) -> None:
        """Do this, too."""
        self._deeds[name] = (weight, deed)

    def run(self) -> None:
        """Work until `stopping` is set; a deed that a fault prevents is counted and left."""
        names = list(self._deeds)
        weights = [self._deeds[name][0] for name in names]
        due = time.monotonic()
        while not self.stopping.wait(max(due - time.monotonic(), 0)):
            due = max(due + self.chance.expovariate(self.rate), time.monotonic() - 5)
            (name,) = self.chance.choices(names, weights)
            try:
                self._deeds[name][1]()
                self.done[name] += 1
            except Exception as error:  # noqa: BLE001  a full disk, say; nothing was promised then
                self.missed[type(error).__name__] += 1

    def _new_name(self) -> str:
        number = sum(self.done.values()) + sum(self.missed.values())
        folder = self.chance.choice(("", "ward 3/", "ward 3/night/", "été/"))
        return f"{folder}{PATIENT} {number}{self.chance.choice(('.jpeg', '.JPG', '.dcm', '', ' (copy).png'))}"

    def _remember(self, name: str, data: bytes) -> None:
        self._alive.append((name, data))
        if len(self._alive) > _MOST_ALIVE:
            self._alive.pop(self.chance.randrange(len(self._alive)))

    def _write(self, name: str, data: bytes, slowly: bool = False) -> None:
        self.held[name] = None
        (self.place.write_slowly if slowly else self.place.write)(name, data)
        self.held[name] = hashlib.sha256(data).hexdigest()

    def _unlink(self, name: str) -> None:
        self.held[name] = None
        self.place.delete(name)
        del self.held[name]

    def _add(self) -> None:
        name, data = self._new_name(), self.images.any()
        self._write(name, data)
        self._remember(name, data)

    def _add_slowly(self) -> None:
        name, data = self._new_name(), self.images.any()
        self._write(name, data, slowly=True)
        self._remember(name, data)

    def _one(self) -> int:
        if not self._alive:
            self._add()
        return self.chance.randrange(len(self._alive))

    def _replace(self) -> None:
        at, data = self._one(), self.images.any()
        name, _ = self._alive[at]
        self._write(name, data)
        self._alive[at] = name, data

    def _replace_twice(self) -> None:
        self._replace()
        at, data = self._one(), self.images.any()
        name, _ = self._alive[at]
        self._write(name, self.images.any())
        self._write(name, data)
        self._alive[at] = name, data

    def _rewrite(self) -> None:
        self._write(*self._alive[self._one()])

    def _delete(self) -> None:
        self._unlink(self._alive.pop(self._one())[0])

    def _return(self) -> None:
        name, data = self._alive[self._one()]
        self._unlink(name)
        self._write(name, data)
