"""The notes in an ONNX file, changed without the library that writes networks.

A `ModelProto` is a list of fields; the notes are those of number 14, a key (1) and a value (2) each. See
github.com/onnx/onnx/blob/main/onnx/onnx.proto and protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator

_NOTE, _KEY, _VALUE = 14, 1, 2
_NUMBER, _EIGHT_BYTES, _CONTENT, _FOUR_BYTES = 0, 1, 2, 5  # how a field is written


def with_note(model: bytes, key: str, value: str) -> bytes:
    """Return the same network with one note set anew; ValueError when it is no ONNX file."""
    kept = (
        model[start:end]
        for number, start, content, end in _fields(model)
        if number != _NOTE or _key_of(model[content:end]) != key
    )
    note = _field(_KEY, key.encode()) + _field(_VALUE, value.encode())
    return b"".join([*kept, _field(_NOTE, note)])


def _key_of(note: bytes) -> str:
    found = (note[content:end] for number, _, content, end in _fields(note) if number == _KEY)
    return next(found, b"").decode(errors="replace")


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Each field: its number, and where it, its content and the next one begin."""
    place = 0
    while place < len(data):
        start = place
        tag, place = _number(data, place)
        kind, content = tag & 7, place
        if kind == _NUMBER:
            place = _number(data, place)[1]
        elif kind == _CONTENT:
            size, content = _number(data, place)
            place = content + size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError("no ONNX file")
        if place > len(data):
            raise ValueError("no ONNX file")
        yield tag >> 3, start, content, place


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first; and the place behind it."""
    value = shift = 0
    for byte in data[place : place + 10]:
        value |= (byte & 0x7F) << shift
        shift, place = shift + 7, place + 1
        if byte < 0x80:
            return value, place
    raise ValueError("no ONNX file")


def _field(number: int, content: bytes) -> bytes:
    return _written(number << 3 | _CONTENT) + _written(len(content)) + content


def _written(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
