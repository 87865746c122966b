"""Read what a compressed DICOM stream claims about itself, and check that it is complete.

A decoder allocates the size that a stream claims, and most decoders invent missing data or skip damaged data.
So both are checked here, before and after decoding.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Family = Literal["JPEG", "JPEG-LS", "JPEG 2000"]

_JPEG, _JPEG2000, _JP2 = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
_END = b"\xff\xd9"  # of a JPEG, a JPEG-LS and a JPEG 2000 stream
_HIERARCHY, _LOSSLESS, _LS, _TABLES, _SCAN, _RESTARTS = 0xDE, 0xC3, 0xF7, 0xC4, 0xDA, 0xDD  # markers
_BY_COSINES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: all Huffman-coded
_ALONE = (0x01, *range(0xD0, 0xDA))  # markers without a segment
_BAND = 256  # rows
_MOST_SCANS = 100  # a progressive JPEG has about ten; each costs as much as the whole image


@dataclass(frozen=True)
class Codestream:
    """Hold a compressed image and its claims about itself."""

    data: bytes
    family: Family
    columns: int
    rows: int
    components: int
    bits: int
    is_signed: bool = False
    marker: int = 0  # of a JPEG's frame: how it is coded
    says_colours: bool = True  # whether a JPEG itself states if its colours are RGB or YCbCr

    @property
    def is_lossless_jpeg(self) -> bool:
        """Return whether it is a JPEG coded by differences, not by cosines."""
        return self.marker == _LOSSLESS


def open_stream(data: bytes) -> Codestream:
    """Read the stream of a frame; raise ValueError or struct.error when it is not a whole stream."""
    if data.startswith(_JP2):
        data = data[max(data.find(_JPEG2000), 0) :]
    if data.startswith(_JPEG2000):
        return _jpeg2000(_whole(data))
    return _jpeg(_whole(data))


def is_stream(data: bytes) -> bool:
    """Return whether the bytes begin like one of the streams."""
    return data.startswith((_JPEG + b"\xff", _JPEG2000, _JP2))


def _whole(data: bytes) -> bytes:
    """Return the stream without the padding of its frame; raise ValueError when its end is missing."""
    end = data.rfind(_END)
    if end < 0 or data[end + 2 :].strip(b"\0\xff \n"):
        raise ValueError("the stream is cut short")
    return bytes(data[: end + 2])


def _jpeg2000(data: bytes) -> Codestream:
    right, bottom, left, top = struct.unpack_from(">4I", data, 8)
    components, depth = struct.unpack_from(">HB", data, 40)
    bits, is_signed = (depth & 0x7F) + 1, bool(depth & 0x80)
    return Codestream(data, "JPEG 2000", right - left, bottom - top, components, bits, is_signed)


def _jpeg(data: bytes) -> Codestream:
    if data.count(b"\xff\xda") > _MOST_SCANS:
        raise ValueError("more scans than an image needs")
    place, says_colours = len(_JPEG), False
    while data.startswith(_JPEG):
        start, marker, length = struct.unpack_from(">BBH", data, place)
        if start != 0xFF or marker == _HIERARCHY or marker in _ALONE[1:]:
            break
        if marker in (*_BY_COSINES, _LOSSLESS, _LS):
            bits, rows, columns, components = struct.unpack_from(">BHHB", data, place + 4)
            if bits > 16 or components not in (1, 3) or length != 8 + 3 * components:
                break
            family: Family = "JPEG-LS" if marker == _LS else "JPEG"
            return Codestream(data, family, columns, rows, components, bits, False, marker, says_colours)
        says_colours |= marker in (0xE0, 0xEE) and data[place + 4 : place + 8] in (b"JFIF", b"Adob")
        place += 1 if marker == 0xFF else 2 + length  # 0xFF bytes before a marker are fill bytes
    raise ValueError("not a readable stream")


def _scanned(data: bytes) -> bytes:
    """Return a stream without its end marker and the fill bytes before it."""
    return data.removesuffix(_END).rstrip(b"\xff")


@dataclass(frozen=True)
class Scan:
    """Hold the first scan of a Huffman-coded JPEG."""

    data: bytes
    header: bytes
    tables: dict[int, dict[int, int]]  # by number: the code length in bits of each symbol
    has_restarts: bool = False


def first_scan(stream: Codestream) -> Scan:
    """Find the first scan; raise ValueError when a part before it is missing, on which gdcm would end the
    process.
    """
    tables: dict[int, dict[int, int]] = {}
    place, has_restarts = len(_JPEG), False
    while True:
        start, marker, length = struct.unpack_from(">BBH", stream.data, place)
        segment = stream.data[place + 4 : place + 2 + length]
        if start != 0xFF or (marker != 0xFF and (marker < 0xC0 or len(segment) != length - 2)):
            raise ValueError("a segment does not begin where it should")
        if marker == _TABLES:
            tables |= dict(_code_lengths(segment))
        elif marker == _RESTARTS:
            has_restarts = any(segment)
        elif marker == _SCAN:
            break
        place += 1 if marker == 0xFF else 2 + length  # 0xFF bytes before a marker are fill bytes
    used = [number for byte in segment[2 : 2 + 2 * segment[0] : 2] for number in _numbers(byte, stream)]
    if len(segment) != 4 + 2 * segment[0] or not set(used) <= set(tables):
        raise ValueError("a table of codes is missing")
    return Scan(_scanned(stream.data)[place + 2 + length :], segment, tables, has_restarts)


def _numbers(byte: int, stream: Codestream) -> tuple[int, ...]:
    """Return the tables that a component uses: one in a lossless JPEG, else one for DC and one for AC."""
    return (byte >> 4,) if stream.is_lossless_jpeg else (byte >> 4, 0x10 | byte & 15)


def check_length(stream: Codestream, scan: Scan, planes: Sequence[npt.NDArray[np.integer[Any]]]) -> None:
    """Raise ValueError when a lossless JPEG is shorter or longer than its image, which a decoder hides.

    Its length follows from the pixels: each is a code for the size of its difference from its neighbours,
    then that many bits; the last byte is filled up. ITU-T T.81 annex H.
    """
    if scan.has_restarts or scan.header[0] != len(planes):
        return  # restarts within the image let a decoder notice missing parts
    needed, predictor, shift = 0, scan.header[-3], scan.header[-1] & 15
    for plane, table in zip(planes, scan.header[2 : 2 + 2 * len(planes) : 2], strict=True):
        for size, number in enumerate(_sizes(plane, predictor, shift, stream.bits)):
            needed += number * (scan.tables[table >> 4][size] + size % 16) if number else 0
    if not 0 <= 8 * (len(scan.data) - scan.data.count(b"\xff\0")) - needed < 8:
        raise ValueError("the stream's length does not match its image")


def _code_lengths(segment: bytes) -> Iterator[tuple[int, dict[int, int]]]:
    """Yield each table's number with the code length in bits of each symbol."""
    while segment:
        counts, lengths = segment[1:17], dict[int, int]()
        symbols = iter(segment[17 : 17 + sum(counts)])
        for bits, number in enumerate(counts, 1):
            lengths |= {symbol: bits for _, symbol in zip(range(number), symbols, strict=False)}
        if not 0 < sum(counts) <= 256 or len(segment) < 17 + sum(counts):
            raise ValueError("a table of codes is damaged")
        yield segment[0], lengths
        segment = segment[17 + sum(counts) :]


def _sizes(plane: npt.NDArray[np.integer[Any]], predictor: int, shift: int, bits: int) -> list[int]:
    """Return how often a difference has 0, 1, 2 … 16 bits."""
    found = np.zeros(17, np.int64)
    of = np.minimum(np.arange(1 << 16), (1 << 16) - np.arange(1 << 16))  # the magnitude, modulo 65536
    of = np.ceil(np.log2(of + 1)).astype(np.uint8)
    for start in range(0, len(plane), _BAND):
        rows = plane[max(start - 1, 0) : start + _BAND].astype(np.int32) >> shift
        left, above, corner = rows[1:, :-1], rows[:-1, 1:], rows[:-1, :-1]
        expected = (
            *(0, left, above, corner, left + above - corner),
            *(left + ((above - corner) >> 1), above + ((left - corner) >> 1), (left + above) >> 1),
        )[predictor]
        parts = [rows[1:, 1:] - expected, rows[1:, 0] - rows[:-1, 0]]
        if start == 0:
            parts += [np.diff(rows[0]), rows[0, :1] - (1 << (bits - shift - 1))]
        for part in parts:
            found += np.bincount(of[(part & 0xFFFF).ravel()], minlength=17)
    return [int(number) for number in found]
