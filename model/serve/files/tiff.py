"""Read a TIFF's directories, and give its decoder one that holds nothing but the X-ray.

A directory may chain to many others, share its data with itself, or ask for tiles larger than the picture or
for millions of strips; and a decoder turns, inverts and skips in its own ways. So a new, short directory is
written behind the file's data.
"""

import math
import struct
from dataclasses import dataclass

from model.serve.files.picture import Picture, damaged, unsupported

_SIZES = dict(zip((*range(1, 14), 16, 17, 18), map(int, "1124811248484888"), strict=True))  # bytes, by type
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # struct's letter of an integer, by type

_KIND, _OLD_KIND, _WIDTH, _HEIGHT, _BITS, _PACKING, _COLOURS = 254, 255, 256, 257, 258, 259, 262
_STRIPS, _TURNED, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANAR = 273, 274, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _EXTRA, _FORMAT = 322, 323, 324, 325, 338, 339
_PREDICTOR, _JPEG_TABLES, _JPEG = 317, 347, 7  # the last is a packing
_NEEDED = {
    *(_WIDTH, _HEIGHT, _BITS, _PACKING, _COLOURS, _STRIPS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANAR),
    *(_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _EXTRA, _FORMAT),
    # Fill order, fax options, predictor, palette, inks, and entries for JPEG and YCbCr.
    *(266, 292, 293, _PREDICTOR, 320, 332, _JPEG_TABLES, 512, 513, 514, 515, 517, 518, 519, 520, 521),
    *(529, 530, 531, 532),
}
_PACKINGS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000}  # those that Pillow's libtiff supports
_DIRECTORIES, _ENTRIES, _PIECES = 50, 1 << 15, 200_000
_TILE = 1 << 22  # pixels allowed in a tile of any picture
_LONG = 1 << 20  # bytes of an entry, except offsets of strips and tiles


@dataclass(frozen=True)
class _Entry:
    kind: int
    count: int
    raw: bytes  # its values


@dataclass(frozen=True)
class _Reader:
    """Read a TIFF's numbers in its byte order; raise InputRejected beyond its end."""

    data: bytes
    order: str
    is_big: bool

    def numbers(self, letters: str, place: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self.order + letters, self.data, place)
        except (struct.error, OverflowError):
            raise damaged() from None

    def directory(self, place: int) -> tuple[dict[int, _Entry], int]:
        """Return the needed entries of a directory and the offset of the next one, 0 for none."""
        entries: dict[int, _Entry] = {}
        (count,) = self.numbers("Q" if self.is_big else "H", place)
        if count > _ENTRIES:
            raise damaged()
        place, step, inline = place + (8 if self.is_big else 2), *((20, 8) if self.is_big else (12, 4))
        for at in range(place, place + count * step, step):
            tag, kind, many = self.numbers("HHQ" if self.is_big else "HHI", at)
            if tag not in _NEEDED | {_KIND, _OLD_KIND, _TURNED} or tag in entries or kind not in _SIZES:
                continue
            size, where = many * _SIZES[kind], at + step - inline
            if size > inline:
                (where,) = self.numbers("Q" if self.is_big else "I", where)
            if where + size > len(self.data) or size > (16 * _PIECES if tag in _PLACES else _LONG):
                if tag not in _PLACES:
                    raise damaged()
                size = max(min(size, 16 * _PIECES, len(self.data) - where), 0) // _SIZES[kind] * _SIZES[kind]
            entries[tag] = _Entry(kind, size // _SIZES[kind], self.data[where : where + size])
        try:
            (after,) = self.numbers("Q" if self.is_big else "I", place + count * step)
        except Exception:  # noqa: BLE001  cut right after the last directory, which is complete
            after = 0
        return entries, after

    def value(self, entries: dict[int, _Entry], tag: int, default: int) -> int:
        return self.values(entries, tag, (default,))[0]

    def values(self, entries: dict[int, _Entry], tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return up to sixteen integers."""
        entry = entries.get(tag)
        if not entry or not entry.count:
            return default
        if entry.kind not in _NUMBERS:
            raise damaged()
        return struct.unpack_from(f"{self.order}{min(entry.count, 16)}{_NUMBERS[entry.kind]}", entry.raw)

    def all_values(self, entries: dict[int, _Entry], tag: int) -> tuple[int, ...]:
        """Return all integers; none when the entry is missing."""
        entry = entries.get(tag)
        if not entry or entry.kind not in _NUMBERS:
            return ()
        return struct.unpack(f"{self.order}{entry.count}{_NUMBERS[entry.kind]}", entry.raw)


_PLACES = {_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES}


def orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data, which are a TIFF without a picture; 1 when they are damaged."""
    try:
        reader, first = _opened(exif)
        entries, _ = reader.directory(first)
        return reader.value(entries, _TURNED, 1)
    except Exception:  # noqa: BLE001  bad EXIF must not spoil a good picture
        return 1


def read_tiff(data: bytes) -> Picture:
    """Read the one picture of a TIFF; a smaller copy of it or a mask is not a second one."""
    reader, place = _opened(data)
    pictures: list[dict[int, _Entry]] = []
    others: list[dict[int, _Entry]] = []
    seen: set[int] = set()
    while place and place not in seen and len(pictures) < 2:
        seen.add(place)
        if len(seen) > _DIRECTORIES:
            raise damaged()
        entries, place = reader.directory(place) if not pictures else _later(reader, place)
        kind, old = reader.value(entries, _KIND, 0), reader.value(entries, _OLD_KIND, 1)
        (others if kind & 5 or old == 2 or _WIDTH not in entries else pictures).append(entries)
    entries = next(iter(pictures + others), {})
    width, height = reader.value(entries, _WIDTH, 0), reader.value(entries, _HEIGHT, 0)
    if not width or not height:
        raise damaged()
    if len(pictures) > 1:
        return Picture("TIFF", b"", width, height, 2)
    return _alone(reader, entries, width, height)


def _later(reader: _Reader, place: int) -> tuple[dict[int, _Entry], int]:
    """Read a directory after the picture's; damage there ends the chain."""
    try:
        return reader.directory(place)
    except Exception:  # noqa: BLE001  the picture itself is complete
        return {}, 0


def _opened(data: bytes) -> tuple[_Reader, int]:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if not order or len(data) < 8:
        raise damaged()
    reader = _Reader(data, order, is_big=data[2:4] in (b"+\0", b"\0+"))
    if reader.numbers("H", 2)[0] not in (42, 43):
        raise damaged()
    return reader, reader.numbers("Q", 8)[0] if reader.is_big else reader.numbers("I", 4)[0]


def _alone(reader: _Reader, entries: dict[int, _Entry], width: int, height: int) -> Picture:
    """Return the picture with a directory of its own, after checking the sizes of its parts."""
    samples = reader.value(entries, _SAMPLES, len(reader.values(entries, _BITS, (1,))))
    bits = reader.values(entries, _BITS, (1,))
    is_planar = reader.value(entries, _PLANAR, 1) == 2 and samples > 1
    if reader.value(entries, _PACKING, 1) not in _PACKINGS:
        raise unsupported("a TIFF with a rare compression")
    if not 1 <= samples <= 6:
        raise unsupported(f"a TIFF with {samples} values per pixel")
    pieces = _pieces(reader, entries, width, height)
    colours, form = reader.value(entries, _COLOURS, 0), reader.values(entries, _FORMAT, (1,))[0]
    kept = {tag: entry for tag, entry in entries.items() if tag in _NEEDED}
    for tag in _PLACES & set(kept):
        kept[tag] = _part(kept[tag], 0, pieces * (samples if is_planar else 1))
    if colours == 0:  # white is zero: inverted once, at the end, for any depth
        kept[_COLOURS] = _short(reader, 1)
    if not is_planar:
        kept[_PLANAR] = _short(reader, 1)
    extra = reader.value(entries, _EXTRA, 0)
    if colours < 2 and samples == 2:
        kept[_EXTRA] = _short(reader, extra)
    pairs = ""
    if colours < 2 and samples == 2 and not is_planar and set(bits) == {16} and _is_whole(reader, entries):
        pairs = reader.order
        kept |= {_BITS: _short(reader, 8, 8, 8, 8), _SAMPLES: _short(reader, 4), _COLOURS: _short(reader, 2)}
        kept[_EXTRA] = _short(reader, 2)
        kept.pop(_FORMAT, None)
    planes: tuple[bytes, ...] = ()
    if is_planar and colours == 2 and samples >= 3 and set(bits) == {16}:
        planes = tuple(_written(reader, _plane(reader, kept, number, pieces)) for number in range(3))
    is_jpeg = reader.value(entries, _PACKING, 1) == _JPEG
    return Picture(
        *("TIFF", _written(reader, kept), width, height, 1, reader.value(entries, _TURNED, 1), 0, planes),
        pairs=pairs,
        is_opaque=extra != 2,
        is_signed=form == 2,
        is_inverted=colours == 0,
        streams=_streams(reader, kept) if is_jpeg else (),
    )


def _streams(reader: _Reader, kept: dict[int, _Entry]) -> tuple[bytes, ...]:
    """Return each JPEG-packed strip or tile of a TIFF as a whole JPEG, with the shared tables."""
    tags = (_STRIPS, _STRIP_BYTES) if _STRIPS in kept else (_TILES, _TILE_BYTES)
    places, sizes = (reader.all_values(kept, tag) for tag in tags)
    sizes = sizes or (len(reader.data),)  # a single strip may omit its size
    if sum(sizes) > len(reader.data) or len(places) != len(sizes):
        raise damaged()
    tables = kept[_JPEG_TABLES].raw.removesuffix(b"\xff\xd9") if _JPEG_TABLES in kept else b"\xff\xd8"
    pieces = zip(places, sizes, strict=True)
    return tuple(tables + reader.data[place + 2 : place + size] for place, size in pieces)


def _pieces(reader: _Reader, entries: dict[int, _Entry], width: int, height: int) -> int:
    """Return the number of strips or tiles in a plane."""
    across, down = width, min(reader.value(entries, _STRIP_ROWS, height), height)
    if _TILES in entries and _STRIPS not in entries:
        across, down = reader.value(entries, _TILE_WIDTH, 0), reader.value(entries, _TILE_HEIGHT, 0)
        if across * down > max(4 * width * height, _TILE):
            raise damaged()
    elif _STRIPS not in entries:
        raise damaged()
    if not across or not down:
        raise damaged()
    pieces = math.ceil(width / across) * math.ceil(height / down)
    if pieces > _PIECES:
        raise unsupported("a TIFF with too many strips or tiles")
    return pieces


def _part(entry: _Entry, first: int, count: int) -> _Entry:
    size = _SIZES[entry.kind]
    raw = entry.raw[first * size : (first + count) * size]
    return _Entry(entry.kind, len(raw) // size, raw)


def _short(reader: _Reader, *values: int) -> _Entry:
    return _Entry(3, len(values), struct.pack(f"{reader.order}{len(values)}H", *values))


def _is_whole(reader: _Reader, entries: dict[int, _Entry]) -> bool:
    """Return whether values are stored directly, not as differences, which depend on the depth."""
    return reader.value(entries, _PREDICTOR, 1) == 1


def _plane(reader: _Reader, kept: dict[int, _Entry], number: int, pieces: int) -> dict[int, _Entry]:
    """Return the directory of one colour alone, as gray."""
    new = {tag: entry for tag, entry in kept.items() if tag not in (_EXTRA, _FORMAT)}
    new |= {_BITS: _short(reader, 16), _SAMPLES: _short(reader, 1)}
    new |= {_COLOURS: _short(reader, 1), _PLANAR: _short(reader, 1)}
    return new | {tag: _part(new[tag], number * pieces, pieces) for tag in _PLACES & set(new)}


def _written(reader: _Reader, entries: dict[int, _Entry]) -> bytes:
    """Return the file with these entries as its only directory, after all its data."""
    letter, inline = ("Q", 8) if reader.is_big else ("I", 4)
    header = 16 if reader.is_big else 8
    place = len(reader.data) + len(reader.data) % 2
    lines, behind = [], b""
    size = (16 if reader.is_big else 6) + len(entries) * (20 if reader.is_big else 12)
    for tag, entry in sorted(entries.items()):
        field = entry.raw.ljust(inline, b"\0")
        if len(entry.raw) > inline:
            field = struct.pack(reader.order + letter, place + size + len(behind))
            behind += entry.raw + b"\0" * (len(entry.raw) % 2)
        lines.append(struct.pack(f"{reader.order}HH{letter}", tag, entry.kind, entry.count) + field)
    count = struct.pack(reader.order + ("Q" if reader.is_big else "H"), len(lines))
    start = reader.data[: header - inline] + struct.pack(reader.order + letter, place)
    body = memoryview(reader.data)[header:]
    filling = b"\0" * (len(reader.data) % 2)
    return b"".join([start, body, filling, count, *lines, b"\0" * inline, behind])
