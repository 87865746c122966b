"""Read the claims in a picture's file from its structure, before any decoder sees it.

A decoder trusts a file: it allocates what the file claims and does all the work that it asks for. So the
claims are read here first, with limits on time and memory, and parts that decoding does not need are left
out.
"""

import re
import struct
import zlib
from collections.abc import Callable

from model.serve.files.jpeg import read_jpeg
from model.serve.files.picture import Picture, damaged, unsupported
from model.serve.files.tiff import orientation, read_tiff

_PROCESSES = {0xC0, 0xC1, 0xC2, 0xC3}  # Huffman: baseline, extended, progressive, lossless


def _jpeg(data: bytes) -> Picture:
    """Read a JPEG; data after its end, such as a phone's smaller copies, are not a second image."""
    found = read_jpeg(data)
    if found.process not in _PROCESSES:
        raise unsupported("a JPEG of a rare kind (arithmetic or hierarchical coding)")
    if found.bits != 8:
        raise unsupported(f"a JPEG with {found.bits} bits per colour")
    if found.components not in (1, 3, 4):
        raise unsupported(f"a JPEG with {found.components} colours")
    # Pillow, which decodes CMYK, reads all metadata; libjpeg skips it.
    alone = data if found.components < 4 else b"".join(data[start:end] for start, end in found.parts)
    turned = orientation(b"".join(found.exif))
    return Picture("JPEG", alone, found.width, found.height, 1, turned, found.components)


_PNG, _CHUNKS = b"\x89PNG\r\n\x1a\n", 100_000
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colour type


def _png(data: bytes) -> Picture:
    """Read a PNG and keep only its pixels: no text, no profile, no further frames."""
    chunks: dict[bytes, list[memoryview]] = {}
    place, count, view = len(_PNG), 0, memoryview(data)
    while b"IEND" not in chunks:
        count += 1
        head = data[place : place + 8]
        if len(head) < 8 or count > _CHUNKS:
            raise damaged()
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        whole = view[place : place + length + 12]
        sound = len(whole) == length + 12 and zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big")
        is_needed = name in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS")
        if (is_needed and not sound) or len(whole) < length + 12 or not name.isalpha():
            raise damaged()
        if name[:1].isupper() and not is_needed:
            raise unsupported("a PNG of a rare kind") if sound else damaged()
        if (is_needed or name in (b"acTL", b"eXIf")) and sound:
            chunks.setdefault(name, []).append(whole)
        place += length + 12
    header = bytes(chunks.get(b"IHDR", [b""])[0][8:-4])
    if len(header) != 13 or b"IDAT" not in chunks:
        raise damaged()
    width, height, depth, colour, packing, filters, interlace = struct.unpack(">IIBBBBB", header)
    if depth not in _DEPTHS.get(colour, ()) or packing or filters or interlace > 1:
        raise damaged()
    if colour == 3 and b"PLTE" not in chunks:
        raise damaged()
    frames = int.from_bytes(chunks[b"acTL"][0][8:12], "big") if b"acTL" in chunks else 1
    exif = bytes(chunks[b"eXIf"][0][8:-4]) if b"eXIf" in chunks else b""
    first = [part for name in (b"IHDR", b"PLTE", b"tRNS") for part in chunks.get(name, [])[:1]]
    alone = b"".join([memoryview(_PNG), *first, *chunks[b"IDAT"], *chunks[b"IEND"]])
    return Picture(
        "PNG", alone, width, height, 2 if frames > 1 else 1, orientation(exif.removeprefix(b"Exif\0\0"))
    )


_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # values per pixel, by colour type
_WHOLE = ((0, 1, 0, 1),)  # rows and columns of a pass: start and step of each
_ADAM7 = (
    *((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)),
)
_PIECE, _INFLATED = 1 << 15, 1 << 20  # bytes, before and after


def check_rows(data: bytes) -> None:
    """Raise InputRejected for a PNG from `read_picture` that lacks rows, which Pillow would leave black.

    Raises zlib.error when it cannot be inflated.
    """
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, len(_PNG) + 8)
    lacking, place, inflater = 0, len(_PNG), zlib.decompressobj()
    for top, down, left, across in _ADAM7 if interlace else _WHOLE:
        rows, columns = -(-(height - top) // down), -(-(width - left) // across)
        if rows > 0 and columns > 0:
            lacking += rows * (1 + (columns * depth * _SAMPLES[colour] + 7) // 8)
    while lacking > 0:
        length, name = struct.unpack_from(">I4s", data, place)
        if name == b"IEND":
            raise damaged()
        for start in range(place + 8, place + 8 + length, _PIECE) if name == b"IDAT" else ():
            piece = data[start : min(start + _PIECE, place + 8 + length)]
            while piece and lacking > 0:
                lacking -= len(inflater.decompress(piece, _INFLATED))
                piece = inflater.unconsumed_tail
        place += length + 12


_STEPS = 1_000_000  # blocks of a GIF


def _gif(data: bytes) -> Picture:
    """Read a GIF, with its blocks as far as the second image."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    place, images, steps = 13 + _colours(flags), 0, 0
    while images < 2 and place < len(data) and steps < _STEPS:
        block = data[place]
        if block == 0x2C and place + 10 < len(data):
            images += 1
            left, top, across, down, flags = struct.unpack_from("<HHHHB", data, place + 1)
            width, height = max(width, left + across), max(height, top + down)
            place += 11 + _colours(flags)
        elif block == 0x21:
            place += 2
        else:
            break  # the end, or damage, which the decoder judges
        while place < len(data) and data[place] and steps < _STEPS:
            place, steps = place + data[place] + 1, steps + 1
        place, steps = place + 1, steps + 1
    if steps >= _STEPS or not images:
        raise damaged()
    return Picture("GIF", data, width, height, images)


def _colours(flags: int) -> int:
    """Return the size in bytes of a GIF's colour table."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> Picture:
    """Read a WebP; its decoder allocates the canvas as soon as it is opened."""
    end = 8 + int.from_bytes(data[4:8], "little")
    width = height = images = place = 0
    exif = b""
    if end > len(data) + 1:  # the last chunk may lack its padding byte
        raise damaged()
    for _ in range(_CHUNKS):
        name, length = data[12 + place : 16 + place], int.from_bytes(data[16 + place : 20 + place], "little")
        body, place = data[20 + place : 20 + place + length], place + 8 + length + length % 2
        if name == b"VP8X" and len(body) >= 10:
            width = 1 + int.from_bytes(body[4:7], "little")
            height = 1 + int.from_bytes(body[7:10], "little")
        elif name == b"VP8 " and len(body) >= 10:
            images += 1
            across, down = struct.unpack_from("<HH", body, 6)
            width, height = max(width, across & 0x3FFF), max(height, down & 0x3FFF)
        elif name == b"VP8L" and len(body) >= 5:
            images += 1
            packed = int.from_bytes(body[1:5], "little")
            width, height = max(width, 1 + (packed & 0x3FFF)), max(height, 1 + (packed >> 14 & 0x3FFF))
        elif name == b"ANMF":
            images += 1
        elif name == b"EXIF":
            exif = body
        if 12 + place >= end or images > 1:
            break
    if not width or not images:
        raise damaged()
    return Picture("WEBP", data, width, height, images, orientation(exif.removeprefix(b"Exif\0\0")))


_RUNS = 2_000_000  # pixels or bytes of a run-length BMP, which is slow to unpack


def _bmp(data: bytes) -> Picture:
    """Read a BMP."""
    size = int.from_bytes(data[14:18], "little")
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        packing = 0
    else:
        width, height, packing = *struct.unpack_from("<ii", data, 18), struct.unpack_from("<I", data, 30)[0]
        height = abs(height)
    if width < 1 or height < 1:
        raise damaged()
    if packing not in (0, 1, 2, 3, 6):
        raise unsupported("a BMP that contains another image format")
    if packing in (1, 2) and max(width * height, len(data)) > _RUNS:
        raise unsupported("a large compressed BMP")
    return Picture("BMP", data, width, height)


_READERS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Picture]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(rb"\x89PNG"), _png),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), read_tiff),
    (re.compile(rb"GIF8"), _gif),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    (re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), _bmp),
)


def read_picture(data: bytes) -> Picture | None:
    """Return the claims of a picture's file; None when the format is unknown.

    Raises InputRejected when the claims are impossible.
    """
    reader = next((reader for beginning, reader in _READERS if beginning.match(data)), None)
    try:
        return reader(data) if reader else None
    except struct.error:
        raise damaged() from None
