"""Change the metadata of an ONNX file without the `onnx` library.

A `ModelProto` is a list of fields. Its metadata entries have field number 14; each holds a key (1) and a
value (2). See github.com/onnx/onnx/blob/main/onnx/onnx.proto and protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator

_NOTE, _KEY, _VALUE = 14, 1, 2
_NUMBER, _EIGHT_BYTES, _CONTENT, _FOUR_BYTES = 0, 1, 2, 5  # wire types


def with_note(model: bytes, key: str, value: str) -> bytes:
    """Return the same network with one metadata entry replaced; raise ValueError for another file."""
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
    """Yield each field: its number, and the offsets of the field, its content and the next field."""
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
            raise ValueError("not an ONNX file")
        if place > len(data):
            raise ValueError("not an ONNX file")
        yield tag >> 3, start, content, place


def _number(data: bytes, place: int) -> tuple[int, int]:
    """Read a varint (seven bits a byte, lowest first); return it and the offset behind it."""
    value = shift = 0
    for byte in data[place : place + 10]:
        value |= (byte & 0x7F) << shift
        shift, place = shift + 7, place + 1
        if byte < 0x80:
            return value, place
    raise ValueError("not an ONNX file")


def _field(number: int, content: bytes) -> bytes:
    return _written(number << 3 | _CONTENT) + _written(len(content)) + content


def _written(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
