"""Compressed pixels of DICOM: their own idea of their size, and the one packing that needs no plugin."""

import struct

import numpy as np
from PIL import Image

_JPEG, _JPEG2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_HIERARCHY = 0xDE  # a marker: several frames, each larger than the one before
_FRAME_HEADERS = (*set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}, 0xF7)  # markers: JPEG's, and JPEG-LS's


def coded_size(frame: bytes) -> tuple[int, int, int]:
    """Columns, rows and components, as a JPEG, JPEG-LS or JPEG 2000 stream says.

    Its decoder makes room for that, whatever the file around it says: so it is looked at before. ValueError
    or struct.error when it says nothing.
    """
    if frame.startswith(_JPEG2000):
        right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
        return right - left, bottom - top, struct.unpack_from(">H", frame, 40)[0]
    place = len(_JPEG)
    while frame.startswith(_JPEG):
        start, marker, length = struct.unpack_from(">BBH", frame, place)
        if start != 0xFF or marker == _HIERARCHY:
            break
        if marker in _FRAME_HEADERS:
            rows, columns, components = struct.unpack_from(">HHB", frame, place + 5)
            return columns, rows, components
        place += 1 if marker == 0xFF else 2 + length  # an 0xFF before a marker fills up
    raise ValueError("no stream that says its size")


def unpacked_runs(frame: bytes, pixels: int, samples: int, depth: int) -> bytes:
    """RLE (PS3.5 annex G) to little-endian values of `depth` bytes, one colour after the other.

    A segment holds one byte of every pixel, the most significant first. Pillow unpacks it: it makes no more
    of it than there are pixels, and is as fast as a plugin whose panics are no Exception. ValueError or
    struct.error when it is damaged.
    """
    number, *starts = struct.unpack_from("<16I", frame)
    if number != samples * depth:
        raise ValueError("another number of segments than the file says")
    ends = [*starts[1:number], len(frame)]
    planes = [
        Image.frombytes("L", (pixels, 1), frame[start:end], "packbits", "L").tobytes()
        for start, end in zip(starts[:number], ends, strict=True)
    ]
    ordered = np.frombuffer(b"".join(planes), np.uint8).reshape(samples, depth, pixels)
    return ordered[:, ::-1].transpose(0, 2, 1).tobytes()
