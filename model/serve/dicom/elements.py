"""Read the requested elements of a DICOM file; skip all others without unpacking them.

A file may have a million elements, or sequences of a million items: a reader that makes an object of each
takes gigabytes for a file that deflates to a few kilobytes. Here a value is a view into the file's bytes.
"""

import struct
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from model.serve.dicom.dictionary import TAGS

ByteOrder = Literal["<", ">"]  # little or big endian

_PIXEL_DATA = TAGS["PixelData"]
_PREAMBLE = 132  # bytes, with DICM at their end
_UNDEFINED = 0xFFFFFFFF
_ITEM, _SEQUENCE_ENDS = (0xFFFE, 0xE000), ((0xFFFE, 0xE0DD), (0xFFFE, 0xE00D), (0, 0))  # last: seen in files
_MOST_STEPS = 1_000_000  # elements and items of one file; X-rays have a few hundred
_MOST_ITEMS, _MOST_DEPTH = 64, 32  # items of a requested sequence; nested sequences

_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT = frozenset(
    (
        *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH"),
        *(b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
    )
)

_READ = frozenset(TAGS.values())
# Of a report of storage commitment: the objects that are not kept, and those that are.
FAILED_SOP_SEQUENCE, REFERENCED_SOP_SEQUENCE = 0x00081198, 0x00081199
_SEQUENCES = frozenset(tag for word, tag in TAGS.items() if word.endswith("Sequence"))
_SEQUENCES |= {FAILED_SOP_SEQUENCE, REFERENCED_SOP_SEQUENCE}


class CutShortError(ValueError):
    """Report an element that claims to be longer than the rest of the file."""


class OvergrownError(ValueError):
    """Report more elements, or deeper sequences, than any X-ray has."""


@dataclass(frozen=True)
class Value:
    """Hold the bytes of an element, and its type if the file states it."""

    data: memoryview
    kind: bytes = b""
    has_length: bool = True  # pixel data without a length are compressed


@dataclass
class Elements:
    """Hold the requested values of a file, or of an item in it."""

    order: ByteOrder = "<"
    values: dict[int, Value] = field(default_factory=dict)
    sequences: dict[int, list["Elements"]] = field(default_factory=dict)

    def __contains__(self, word: str) -> bool:
        return TAGS[word] in self.values

    def items(self, word: str) -> list["Elements"]:
        """Return the first 64 items of a sequence."""
        return self.sequences.get(TAGS[word], [])

    def value(self, word: str) -> Value | None:
        """Return the value as stored in the file; None when it is missing or empty."""
        value = self.values.get(TAGS[word])
        return value if value and len(value.data) else None

    def texts(self, word: str) -> tuple[str, ...]:
        """Return the texts of an element, in capitals and without accents."""
        value = self.value(word)
        data = bytes(value.data[:1024]) if value else b""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = data.decode("latin-1")  # what most files declare when they are not ASCII
        plain = unicodedata.normalize("NFKD", text.upper()).encode("ascii", "ignore").decode()
        return tuple(part.strip(" \0\t\r\n") for part in plain.split("\\"))

    def text(self, word: str) -> str:
        """Return the first text of an element; empty when there is none."""
        return self.texts(word)[0]

    def decimals(self, word: str) -> list[float | None]:
        """Return numbers written as text, also with a decimal comma; None for each that is not a number."""
        return [_decimal(text) for text in self.texts(word)]

    def decimal(self, word: str) -> float | None:
        """Return the first of the decimals."""
        return self.decimals(word)[0]

    def integers(self, word: str, signed: bool = False) -> list[int]:
        """Return 16-bit integers; `signed` applies when the file does not state the type."""
        value = self.value(word)
        if not value:
            return []
        signed = value.kind == b"SS" or (signed and value.kind != b"US")
        count = len(value.data) // 2
        return list(struct.unpack_from(f"{self.order}{count}{'h' if signed else 'H'}", value.data))

    def integer(self, word: str, signed: bool = False) -> int | None:
        """Return the first of the integers; None when there is none."""
        return next(iter(self.integers(word, signed)), None)


def is_dicom(data: bytes) -> bool:
    """Return whether the bytes begin like a DICOM file, with its preamble or without."""
    if data[_PREAMBLE - 4 : _PREAMBLE] == b"DICM" or data.startswith(b"DICM"):
        return True
    if len(data) < 12 or data[:2] not in (b"\2\0", b"\x08\0", b"\0\x08"):
        return False
    if data[4:6] in _LONG | _SHORT:
        return data[4:6] in (b"UL", b"OB", b"UI", b"CS", b"DA", b"SH", b"LO")
    element, length = struct.unpack_from("<HI", data, 2)
    return data[0] != 0 and bool(element <= 0x0070 and length % 2 == 0 and length <= 128 <= len(data))


def read_header(data: bytes, tags: frozenset[int] = _READ) -> tuple[Elements, memoryview]:
    """Return elements of the file's own header (group 2), if it has one, and the rest of the file."""
    view = memoryview(data)
    if data[_PREAMBLE - 4 : _PREAMBLE] == b"DICM":
        view = view[_PREAMBLE:]
    elif data.startswith(b"DICM"):
        view = view[4:]
    header = Elements()
    reader, place = _Reader(view, "<", tags), 0
    if len(view) < 12:
        return header, view[:0]  # nothing follows the preamble
    while bytes(view[place : place + 2]) == b"\2\0":
        place = reader.element(
            place, len(view), bytes(view[place + 4 : place + 6]) not in _SHORT | _LONG, header
        )
    return header, view[place:]


def read_elements(view: memoryview, big_endian: bool) -> Elements:
    """Return the requested elements up to the pixels; the data show whether types are written.

    Raises CutShortError and OvergrownError for their reasons, and struct.error when the file ends early.
    """
    found = Elements()
    fill_elements(found, view, big_endian)
    return found


def fill_elements(found: Elements, view: memoryview, big_endian: bool, tags: frozenset[int] = _READ) -> None:
    """Read the elements with these tags into `found`, which keeps what precedes an error; see above."""
    found.order = ">" if big_endian or bytes(view[:2]) == b"\0\x08" else "<"
    implicit = bytes(view[4:6]) not in _LONG | _SHORT
    _Reader(view, found.order, tags).elements(0, len(view), implicit, found)


class _Reader:
    """Step from element to element."""

    def __init__(self, view: memoryview, order: ByteOrder, tags: frozenset[int] = _READ) -> None:
        self._view, self._order, self._tags = view, order, tags
        self._head = struct.Struct(f"{order}HHI").unpack_from
        self._long = struct.Struct(f"{order}I").unpack_from
        self._short = struct.Struct(f"{order}H").unpack_from
        self._steps = 0

    def elements(
        self, place: int, end: int, implicit: bool, found: Elements | None = None, depth: int = 0
    ) -> int:
        """Step over the elements of a file or an item, up to `end` or the delimiter of the item."""
        while place + 8 <= end:
            if depth and bytes(self._view[place : place + 2]) in (b"\xfe\xff", b"\xff\xfe"):
                return place + 8
            place = self.element(place, end, implicit, found, depth)
            if place < 0:
                return end
        if place < end and not depth:
            raise CutShortError("an element is incomplete")
        return end

    def element(self, place: int, end: int, implicit: bool, found: Elements | None, depth: int = 0) -> int:
        """Step over one element, and keep it if it is requested; return -1 behind the pixels."""
        self._count()
        group, number, length = self._head(self._view, place)
        tag, start, kind = group << 16 | number, place + 8, b""
        if not implicit:
            kind = bytes(self._view[place + 4 : place + 6])
            if kind in _LONG:
                length, start = self._long(self._view, place + 8)[0], place + 12
            elif kind.isalpha():
                length = self._short(self._view, place + 6)[0]
            # else the element has no type, as some devices write private ones
        wanted = found is not None and tag in self._tags
        if tag == _PIXEL_DATA and not depth and found is not None:
            stop = min(start + length, end) if length != _UNDEFINED else end
            found.values[tag] = Value(self._view[start:stop], kind, length != _UNDEFINED)
            return -1
        if length != _UNDEFINED and start + length > end:
            raise CutShortError("an element is longer than the rest")
        if length == _UNDEFINED or (wanted and tag in _SEQUENCES):
            stop = end if length == _UNDEFINED else start + length
            items = found.sequences.setdefault(tag, []) if wanted and found is not None else None
            is_open = length == _UNDEFINED
            stepped = self._sequence(start, stop, is_open, implicit or kind == b"UN", items, depth + 1)
            return stepped if is_open else stop
        if wanted and found is not None:
            found.values.setdefault(tag, Value(self._view[start : start + length], kind))
        return start + int(length)

    def _sequence(
        self, place: int, end: int, is_open: bool, implicit: bool, items: list[Elements] | None, depth: int
    ) -> int:
        """Step over the items of a sequence; with `is_open`, only a delimiter marks its end."""
        if depth > _MOST_DEPTH:
            raise OvergrownError("sequences are nested too deeply")
        while place + 8 <= end:
            self._count()
            group, number, length = self._head(self._view, place)
            if (group, number) in _SEQUENCE_ENDS:
                return place + 8
            if (group, number) != _ITEM:
                raise ValueError("an item was expected")
            is_kept = items is not None and len(items) < _MOST_ITEMS
            item = Elements(self._order) if is_kept else None
            start, stop = place + 8, end if length == _UNDEFINED else place + 8 + length
            if stop > end:
                raise CutShortError("an item is longer than its sequence")
            if length == _UNDEFINED or item is not None:
                place = self.elements(start, stop, implicit, item, depth)
            if length != _UNDEFINED:
                place = stop
            if item is not None and items is not None:
                items.append(item)
            elif not is_open:
                return end  # enough items are kept
        return end

    def _count(self) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise OvergrownError("too many elements")


def fragments(view: memoryview) -> Iterator[memoryview]:
    """Yield the fragments of compressed pixel data, including the offset table; the last may be cut short.

    They end where anything but an item follows, because the closing delimiter is often missing or wrong.
    """
    place, head = 0, struct.Struct("<HHI").unpack_from
    while place + 8 <= len(view):
        group, number, length = head(view, place)
        if (group, number) != _ITEM:
            return
        yield view[place + 8 : place + 8 + length]
        place += 8 + length


def _decimal(text: str) -> float | None:
    with suppress(ValueError):
        return float(text.replace(",", "."))
    return None
