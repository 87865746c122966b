"""Read the structure of a JPEG stream before it is decoded, and decode it."""

import re
import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import simplejpeg

from model.serve.files.picture import AS_PNG, damaged
from pipeline.errors import InputRejected


@dataclass
class Jpeg:
    """Hold the frame and the scans of a JPEG stream."""

    process: int = 0  # the marker of its frame: 0xC0 baseline, 0xC2 progressive, ...
    bits: int = 0
    width: int = 0
    height: int = 0
    components: int = 0
    scans: int = 0
    exif: list[bytes] = field(default_factory=list)
    precision: dict[tuple[int, int], int] = field(default_factory=dict)  # missing bits
    parts: list[tuple[int, int]] = field(default_factory=list)  # byte ranges without metadata and thumbnails


_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not data, fill bytes or a restart
_MARKER_LS, _JPEG_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]"), 0xF7  # JPEG-LS: data go on below 0x80
_SOI, _EOI, _SOS, _APP1, _ALONE = 0xD8, 0xD9, 0xDA, 0xE1, 0x01
_NOTES = set(range(0xE1, 0xF0)) - {0xEE} | {0xFE}  # all but JFIF and Adobe, which define the colours
_PROGRESSIVE, _DCT = 0xC2, (0xC0, 0xC1, 0xC2)
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {_JPEG_LS}
_SEGMENTS, _FILLING, _EXIFS = 5_000, 1 << 16, 20
_SCANS = 100  # a progressive JPEG has about 10
_SCANNED = 1_000_000_000  # pixels times scans; takes a second or two


def read_jpeg(data: bytes) -> Jpeg:
    """Read the markers of a stream; raise InputRejected when it is truncated or would take too long."""
    found, place, filling, segments = Jpeg(), 2, 0, 0
    if not data.startswith(b"\xff\xd8"):
        raise damaged()
    in_scan, kept_from = False, 0
    while True:
        pattern = _MARKER_LS if in_scan and found.process == _JPEG_LS else _MARKER
        match = pattern.search(data, place)
        if not match:
            raise damaged()  # the end is missing
        if not in_scan:
            filling += match.start() - place
        marker, place = data[match.end() - 1], match.end()
        segments += 1
        if segments > _SEGMENTS or filling > _FILLING:
            raise damaged()
        if marker == _EOI:
            found.parts.append((kept_from, place))
            break
        if marker in (_SOI, _ALONE):
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        body = data[place + 2 : place + length]
        if marker < 0xC0 or length < 2 or len(body) < length - 2:
            raise damaged()
        place, in_scan = place + length, marker == _SOS
        if marker in _NOTES:
            found.parts.append((kept_from, match.start()))
            kept_from = place
        if marker in _FRAMES and not found.process:
            if len(body) < 6:
                raise damaged()
            found.process, (found.bits, found.height, found.width, found.components) = (
                marker,
                struct.unpack_from(">BHHB", body),
            )
        elif marker == _SOS:
            found.scans += 1
            _note_scan(found, body)
            if found.scans > min(_SCANS, max(_SCANNED // max(found.width * found.height, 1), 16)):
                message = f"The file has too many scans ({found.scans} or more). {AS_PNG}"
                raise InputRejected("unreadable", message)
        elif marker == _APP1 and body.startswith(b"Exif\0\0") and len(found.exif) < _EXIFS:
            found.exif.append(body[6:])
    if not found.process or not found.scans:
        raise damaged()
    if found.process in _DCT and not _is_complete(found):
        raise damaged()  # cut between two scans, then closed
    return found


def decode_gray(data: bytes, least_side: int = 1 << 16) -> npt.NDArray[np.uint8]:
    """Decode an 8-bit JPEG, gray or coloured, to its brightness, [h, w].

    It is halved during decoding up to three times, as long as its longer side keeps `least_side` pixels or
    more. Raises ValueError even for damage that libjpeg only warns of, since it then invents the missing data
    or skips excess data.
    """
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    share = 1
    while share < 8 and max(height, width) // (2 * share) >= least_side:
        share *= 2
    gray: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, "GRAY", min_height=-(-height // share), min_width=-(-width // share)
    )
    return gray[:, :, 0]


def check_decodes(data: bytes, components: int) -> None:
    """Raise ValueError when a JPEG that another decoder will show is damaged; see `decode_gray`."""
    if components == 4:
        simplejpeg.decode_jpeg(data, "CMYK", min_factor=8)
    else:
        decode_gray(data, 1)


def _note_scan(frame: Jpeg, body: bytes) -> None:
    """Record which coefficients of which components a scan brings, and at which precision."""
    count = body[0] if body else 0
    if len(body) != 4 + 2 * count or not count:
        raise damaged()
    first, last, exactness = body[-3:]
    if frame.process != _PROGRESSIVE:
        first = last = exactness = 0
    for component in body[1:-3:2]:
        for coefficient in range(first, min(last, 63) + 1):
            frame.precision[component, coefficient] = exactness & 15


def _is_complete(frame: Jpeg) -> bool:
    """Return whether every component is present, and each coefficient to its last bit."""
    came = {component for component, coefficient in frame.precision if coefficient == 0}
    return len(came) == frame.components and not any(frame.precision.values())
