"""Damage files at random and judge them, in a process that may be killed.

Run `make fuzz SECONDS=3600 SEED=1`. A finding is any exception other than InputRejected, a crash, more than 5
seconds or more than 1.5 GB; its file is kept in a folder. One seed and number always make the same file.
"""

import argparse
import json
import random
import re
import resource
import selectors
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support import dicoms, pictures

SLOW, LARGE, STUCK = 5.0, 1500, 20.0  # seconds of work, megabytes, seconds without a word
_LIMIT = 3 << 30  # bytes of data: an allocation beyond it is a MemoryError, which is a finding


def _picture(mode: str, kind: str, **options: object) -> bytes:
    image = pictures.sample().resize((160, 128))
    image = image.convert("RGB").quantize(64) if mode == "P" else image.convert("RGB").convert(mode)
    return pictures.encoded(image, kind, **options)


def _deep() -> np.ndarray:
    return np.asarray(pictures.sample().resize((160, 128)), np.uint16) * 16


WHOLE: dict[str, Callable[[], bytes]] = {
    "JPEG": partial(_picture, "L", "JPEG"),
    "JPEG of colours": partial(_picture, "RGB", "JPEG"),
    "JPEG with restarts": partial(_picture, "L", "JPEG", restart_marker_rows=1),
    "JPEG, progressive": partial(_picture, "RGB", "JPEG", progressive=True),
    "JPEG of CMYK": partial(_picture, "CMYK", "JPEG"),
    "JPEG with EXIF": pictures.rotated,
    "PNG of 1 bit": partial(_picture, "1", "PNG"),
    "PNG": partial(_picture, "L", "PNG"),
    "PNG of a palette": partial(_picture, "P", "PNG"),
    "PNG, transparent": partial(_picture, "RGBA", "PNG"),
    "PNG of 16 bits": lambda: pictures.deep_png(_deep(), 0),
    "PNG of 16 bits a colour": lambda: pictures.deep_png(_deep(), 2),
    "PNG of 16 bits and opacity": lambda: pictures.deep_png(_deep(), 4),
    "PNG, interlaced": lambda: pictures.interlaced(pictures.sample().resize((160, 128))),
    "TIFF": partial(_picture, "L", "TIFF"),
    "TIFF of LZW": partial(_picture, "RGB", "TIFF", compression="tiff_lzw"),
    "TIFF, deflated": partial(_picture, "L", "TIFF", compression="tiff_adobe_deflate"),
    "TIFF of JPEG": partial(_picture, "RGB", "TIFF", compression="jpeg"),
    "TIFF of PackBits": partial(_picture, "P", "TIFF", compression="packbits"),
    "TIFF of a fax": partial(_picture, "1", "TIFF", compression="group4"),
    "TIFF of floats": lambda: pictures.gray_tiff(_deep().astype(np.float32)),
    "TIFF, planar": lambda: pictures.deep_tiff(np.stack([_deep()] * 3, -1), ">", 8, True, None),
    "TIFF of 16 bits a colour": lambda: pictures.deep_tiff(np.stack([_deep()] * 3, -1), "<", 1, False, None),
    "TIFF in tiles": lambda: pictures.tiled_tiff(pictures.sample().resize((160, 128))),
    "TIFF of several": lambda: pictures.tiff_of(
        [(pictures.sample().resize((160, 128)), None), (Image.new("L", (20, 16)), 1)]
    ),
    "BMP": partial(_picture, "RGB", "BMP"),
    "BMP of a palette": partial(_picture, "P", "BMP"),
    "WebP": partial(_picture, "RGB", "WEBP"),
    "WebP, lossless": partial(_picture, "RGBA", "WEBP", lossless=True),
    "GIF": partial(_picture, "L", "GIF"),
    **{f"DICOM, {name}": make for name, (_, make) in dicoms.SYNTAXES.items()},
}
_INTERESTING = (0, 1, 2, 3, 4, 7, 8, 16, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def damaged(seed: int, number: int, whole: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the file with this number, and a description of how it was made."""
    chance = random.Random(f"{seed} {number}")
    name = chance.choice(list(whole))
    data = bytearray(whole[name])
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        chance.choice(_MUTATIONS)(chance, data, whole)
    return name, bytes(data)


def _place(chance: random.Random, data: bytearray) -> int:
    """Return a position, often among the first bytes, which say how to read the others."""
    reach = len(data) if chance.random() < 0.5 else min(len(data), 700)
    return chance.randrange(reach) if reach else 0


def _flip(chance: random.Random, data: bytearray, _: object) -> None:
    if data:
        data[_place(chance, data)] ^= 1 << chance.randrange(8)


def _overwrite(chance: random.Random, data: bytearray, _: object) -> None:
    place, size = _place(chance, data), chance.choice((1, 2, 4))
    value = chance.choice(_INTERESTING) if chance.random() < 0.7 else chance.getrandbits(32)
    data[place : place + size] = (value % (1 << 8 * size)).to_bytes(size, chance.choice(("little", "big")))


def _nudge(chance: random.Random, data: bytearray, _: object) -> None:
    """Change a number a little, such as a length or a size."""
    place, letter = _place(chance, data), chance.choice(("<H", ">H", "<I", ">I"))
    size = struct.calcsize(letter)
    if place + size <= len(data):
        (value,) = struct.unpack_from(letter, data, place)
        struct.pack_into(letter, data, place, (value + chance.randint(-16, 16)) % (1 << 8 * size))


def _cut(chance: random.Random, data: bytearray, _: object) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _remove(chance: random.Random, data: bytearray, _: object) -> None:
    place = _place(chance, data)
    del data[place : place + chance.choice((1, 2, 12, 100, 1000))]


def _repeat(chance: random.Random, data: bytearray, _: object) -> None:
    place, size = _place(chance, data), chance.choice((1, 2, 12, 100, 1000))
    data[place:place] = data[place : place + size] * chance.choice((1, 1, 2, 50))


def _splice(chance: random.Random, data: bytearray, whole: dict[str, bytes]) -> None:
    other = chance.choice(list(whole.values()))
    start, place = chance.randrange(len(other)), _place(chance, data)
    data[place : place + chance.choice((0, 50, 1000))] = other[start : start + chance.choice((4, 50, 1000))]


_MUTATIONS = (_flip, _flip, _overwrite, _overwrite, _nudge, _nudge, _cut, _remove, _repeat, _splice)


@dataclass
class Report:
    """Count the results of the files so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")
    findings: list[str] = field(default_factory=list)

    def add(self, said: dict[str, object]) -> bool:
        """Count one file; return whether it is a finding."""
        name, outcome = f"{said['number']} ({said['kind']})", str(said["outcome"])
        seconds, grown = float(str(said["seconds"])), int(str(said["grown"]))
        self.outcomes[outcome] += 1
        self.slowest = max(self.slowest, (seconds, name))
        self.largest = max(self.largest, (grown, name))
        is_finding = outcome.startswith("!") or seconds > SLOW or grown > LARGE
        if is_finding:
            self.findings.append(f"{name}: {outcome}, {seconds} s, {grown} MB")
        return is_finding

    def __str__(self) -> str:
        lines = [f"{count:8} {outcome}" for outcome, count in self.outcomes.most_common()]
        lines += [f"slowest: {self.slowest[0]:.2f} s, {self.slowest[1]}"]
        lines += [f"most memory: {self.largest[0]} MB, {self.largest[1]}"]
        return "\n".join([*lines, f"findings: {len(self.findings)}", *self.findings])


def fuzz(seconds: float, seed: int, folder: Path) -> Report:
    """Judge damaged files for a number of seconds; keep findings in the folder."""
    report, whole = Report(), {name: make() for name, make in WHOLE.items()}
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        for said in _said(seed, number, until):
            number = int(str(said["number"])) + 1
            if report.add(said):
                kind, data = damaged(seed, number - 1, whole)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{seed}-{number - 1}-{re.sub('[^A-Za-z0-9]+', '-', kind)}").write_bytes(data)
    return report


def _said(seed: int, first: int, until: float) -> Iterator[dict[str, object]]:
    """Yield a child's results file by file; if it dies or hangs, yield that result for it."""
    command = [sys.executable, "-m", "tests.support.fuzz", "--child", str(first), "--seed", str(seed)]
    number, begun = first, False
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child,
        selectors.DefaultSelector() as waiting,
    ):
        assert child.stdout
        waiting.register(child.stdout, selectors.EVENT_READ)
        buffer = b""
        try:
            while time.monotonic() < until:
                came = waiting.select(STUCK + (0 if begun else 60))
                read = child.stdout.read1(1 << 16) if came else b""
                if not read:
                    child.kill()
                    outcome = f"!crashed ({child.wait()})" if came else "!stuck"
                    yield {"number": number, "kind": "?", "outcome": outcome, "seconds": 0, "grown": 0}
                    return
                *lines, buffer = (buffer + read).split(b"\n")
                for line in lines:
                    said = json.loads(line)
                    number, begun = said["number"] + 1, True
                    yield said
        finally:
            child.kill()


def _judge(seed: int, number: int) -> None:
    from model.serve.engine import Engine
    from pipeline.errors import InputRejected

    resource.setrlimit(resource.RLIMIT_DATA, (_LIMIT, _LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    engine, whole = Engine(max_pixels=4_000_000), {name: make() for name, make in WHOLE.items()}
    engine.examine(pictures.SAMPLE.read_bytes())
    before = _memory()  # a finding of memory is told of its file and of all behind it
    while True:
        kind, data = damaged(seed, number, whole)
        began = time.process_time()
        try:
            outcome: str = engine.examine(data).finding.label
        except InputRejected as error:
            outcome = error.code
        except BaseException as error:  # noqa: BLE001  that is what is looked for
            outcome = f"!{type(error).__name__}"
        said = {"number": number, "kind": kind, "outcome": outcome, "grown": _memory() - before}
        said["seconds"] = round(time.process_time() - began, 3)
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        number += 1


def _memory() -> int:
    """Return the most resident memory so far, in MB; except on Linux, this includes the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s*(\d+)", status.read_text())
        return int(found[1]) // 1024 if found else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> int:
    """Fuzz from the command line; return 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "cxr-fuzz")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child is not None:
        _judge(asked.seed, asked.child)
    report = fuzz(asked.seconds, asked.seed, asked.folder)
    sys.stdout.write(f"{report}\n" + (f"kept in {asked.folder}\n" if report.findings else ""))
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
