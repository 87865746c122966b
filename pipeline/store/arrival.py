"""Tell whether a file has arrived as a whole, by its end and by the processes that have it open."""

import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_HEAD, _TAIL = 1 << 16, 1 << 10  # bytes that are read
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax
_PIXEL_DATA, _LAST_ITEM = b"\xe0\x7f\x10\x00", b"\xfe\xff\xdd\xe0"  # tags of DICOM
_OFFSETS, _COUNTS = (273, 324), (279, 325)  # tags of a TIFF's strips and tiles
_SHORT, _LONG = 3, 4

FileId = tuple[int, int]  # device and inode


def looks_whole(file: BinaryIO, size: int) -> bool:
    """Return whether a file ends as its format requires; true where that cannot be told.

    Space that was reserved but not written yet is full of zeros.
    """
    head = file.read(132)
    if head.startswith((b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP")):  # JPEG, JPEG 2000
        return b"\xff\xd9" in _tail(file, size)
    if head.startswith(b"\x89PNG"):
        return b"IEND" in _tail(file, size)
    if head.startswith(b"GIF8"):
        return _tail(file, size).rstrip(b"\0").endswith(b";")
    if head.startswith((b"RIFF", b"BM")) and len(head) >= 8:
        start, before = (4, 8) if head.startswith(b"RIFF") else (2, 0)
        return int.from_bytes(head[start : start + 4], "little") + before <= size
    if head.startswith((b"II*\0", b"MM\0*")):
        return _end_of_tiff(file, head) <= size
    if head[128:] == b"DICM" or (head.startswith((b"\2\0", b"\x08\0")) and head[3:4] == b"\0"):
        return _is_whole_dicom(file, head + file.read(_HEAD), size)
    return any(head) or any(file.read(_HEAD))


def still_written(files: Iterable[FileId]) -> set[FileId]:
    """Return which of these files a process has open for writing, as far as visible here; Linux only."""
    wanted, found = set(files), set()
    for process in Path("/proc").glob("[0-9]*/fd") if wanted else ():
        with suppress(OSError):  # another user's process, or one that ended meanwhile
            for entry in os.scandir(process):
                with suppress(OSError, ValueError):
                    state = entry.stat()
                    identity = state.st_dev, state.st_ino
                    if identity in wanted and _is_writing(process, entry.name):
                        found.add(identity)
    return found


def _is_writing(process: Path, descriptor: str) -> bool:
    lines = (process.parent / "fdinfo" / descriptor).read_text().splitlines()
    flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    return flags & os.O_ACCMODE != os.O_RDONLY


def _tail(file: BinaryIO, size: int) -> bytes:
    file.seek(max(size - _TAIL, 0))
    return file.read(_TAIL)


def _is_whole_dicom(file: BinaryIO, head: bytes, size: int) -> bool:
    at = head.rfind(_PIXEL_DATA)
    if _DEFLATED in head:
        return True  # its end cannot be found without decompression
    if at < 0:
        return size > len(head)  # its header is cut, or longer than the part that was read
    start = at + (8 if head[at + 4 : at + 6] in (b"OW", b"OB") else 4)
    length = int.from_bytes(head[start : start + 4], "little")
    if length == 0xFFFFFFFF:
        return _LAST_ITEM in _tail(file, size)
    return start + 4 + length <= size


def _end_of_tiff(file: BinaryIO, head: bytes) -> float:
    """Return where the first image's data ends; infinity when its directory has not arrived yet."""
    order, found = "<" if head[:2] == b"II" else ">", dict[int, tuple[int, ...]]()
    try:
        file.seek(struct.unpack(f"{order}I", head[4:8])[0])
        fields = file.read(12 * struct.unpack(f"{order}H", file.read(2))[0])
        for tag, kind, number, value in struct.iter_unpack(f"{order}HHI4s", fields):
            if tag in (*_OFFSETS, *_COUNTS) and kind in (_SHORT, _LONG) and number < _HEAD:
                width, letter = (2, "H") if kind == _SHORT else (4, "I")
                if width * number > 4:
                    file.seek(struct.unpack(f"{order}I", value)[0])
                    value = file.read(width * number)
                found[tag] = struct.unpack(f"{order}{number}{letter}", value[: width * number])
    except struct.error:
        return float("inf")
    pairs = [pair for tags in zip(_OFFSETS, _COUNTS, strict=True) for pair in _pairs(found, *tags)]
    return max((start + length for start, length in pairs), default=0)


def _pairs(found: dict[int, tuple[int, ...]], starts: int, lengths: int) -> Iterable[tuple[int, int]]:
    return zip(found.get(starts, ()), found.get(lengths, ()), strict=False)
