"""The structure of a JPEG stream: its frame, its scans, and whether all of them are there."""

import re
import struct
from dataclasses import dataclass, field

from model.picture import AS_PNG, damaged
from pipeline.errors import InputRejected


@dataclass
class Jpeg:
    """The frame and the scans of a JPEG stream."""

    process: int = 0  # the marker of its frame: 0xC0 baseline, 0xC2 progressive, ...
    bits: int = 0
    width: int = 0
    height: int = 0
    components: int = 0
    scans: int = 0
    blocks: int = 0  # the units of the picture, after so many of which a restart marker may stand
    restart_after: int = 0
    coded_until: int = 0  # where the compressed data of its last scan ends
    exif: list[bytes] = field(default_factory=list)
    precision: dict[tuple[int, int], int] = field(default_factory=dict)  # bits lacking
    parts: list[tuple[int, int]] = field(default_factory=list)  # what is left without notes and thumbnails

    @property
    def is_plain(self) -> bool:
        """Whether its one scan holds the picture from top to bottom."""
        return self.scans == 1 and self.process in (0xC0, 0xC1)


_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither data nor filling nor a restart
_MARKER_LS, _JPEG_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]"), 0xF7  # whose data may go on below 0x80
_SOI, _EOI, _SOS, _DRI, _APP1, _ALONE = 0xD8, 0xD9, 0xDA, 0xDD, 0xE1, 0x01
_NOTES = set(range(0xE1, 0xF0)) - {0xEE} | {0xFE}  # all but JFIF and Adobe, which say what colours mean
_PROGRESSIVE, _DCT = 0xC2, (0xC0, 0xC1, 0xC2)
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {_JPEG_LS}
_SEGMENTS, _FILLING, _EXIFS = 5_000, 1 << 16, 20
_SCANS = 100  # a progressive JPEG has about 10
_SCANNED = 1_000_000_000  # pixels times scans: takes a second or two


def read_jpeg(data: bytes) -> Jpeg:
    """Return what the markers of a stream say; InputRejected for one that is cut, or takes for ever."""
    found, place, filling, segments = Jpeg(), 2, 0, 0
    if not data.startswith(b"\xff\xd8"):
        raise damaged()
    in_scan, coded, kept_from = False, (0, 0), 0
    while True:
        pattern = _MARKER_LS if in_scan and found.process == _JPEG_LS else _MARKER
        match = pattern.search(data, place)
        if not match:
            raise damaged()  # its end is missing
        if in_scan:
            found.coded_until = match.start()
            while data[found.coded_until - 1] == 0xFF and found.coded_until > place:
                found.coded_until -= 1
            coded = (place, found.coded_until)
        else:
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
            found.blocks = _blocks(found, body[6:])
        elif marker == _DRI and len(body) == 2:
            found.restart_after = int.from_bytes(body, "big")
        elif marker == _SOS:
            found.scans += 1
            _note_scan(found, body)
            if found.scans > min(_SCANS, max(_SCANNED // max(found.width * found.height, 1), 16)):
                message = f"The file would have to be decoded {found.scans} times and more. {AS_PNG}"
                raise InputRejected("unreadable", message)
        elif marker == _APP1 and body.startswith(b"Exif\0\0") and len(found.exif) < _EXIFS:
            found.exif.append(body[6:])
    if not found.process or not found.scans:
        raise damaged()
    if found.process in _DCT and not _is_complete(found):
        raise damaged()  # cut between two scans, and closed again
    if found.restart_after and found.is_plain and not _has_restarts(found, data, *coded):
        raise damaged()
    return found


def _note_scan(frame: Jpeg, body: bytes) -> None:
    """Note which coefficients of which components a scan brings, and how exactly."""
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
    """Whether each component came, and each coefficient to its last bit."""
    came = {component for component, coefficient in frame.precision if coefficient == 0}
    return len(came) == frame.components and not any(frame.precision.values())


def _blocks(frame: Jpeg, components: bytes) -> int:
    """Return how many units of blocks a frame has; one colour alone has units of one block."""
    across, down = 1, 1
    if frame.components > 1:
        factors = components[1::3]
        across, down = max((f >> 4 for f in factors), default=1), max((f & 15 for f in factors), default=1)
    return -(-frame.width // (8 * across or 8)) * -(-frame.height // (8 * down or 8))


def _has_restarts(frame: Jpeg, data: bytes, start: int, end: int) -> bool:
    """Whether the restart markers of the one scan are all there, and in order."""
    expected = -(-frame.blocks // frame.restart_after) - 1
    count = 0
    for count, match in enumerate(_RESTART.finditer(data, start, end), 1):
        if count > expected or match[1][0] != 0xD0 + (count - 1) % 8:
            return False
    return count == expected
