"""Read and write the messages of an association: PDUs (PS3.8, section 9.3) and commands (PS3.7, section 9.3).

Everything here comes from the network: a message that breaks the rules raises ProtocolError and nothing else.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import CxrError

ASSOCIATE_RQ, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, ABORT = 1, 3, 4, 5, 7
MOST_BYTES = 1 << 17  # of a PDU, as we tell the sender; also DCMTK's most
RELEASED = struct.pack(">BxL4x", 6, 4)
ECHO, STORE, CANCEL, EVENT = (
    0x0030,
    0x0001,
    0x0FFF,
    0x0100,
)  # fields of a request's command; 0x8000 is added in the answer

_APPLICATION, _IMPLEMENTATION = b"1.2.840.10008.3.1.1.1", b"2.25.191204157013410164325463817430281146073"
_VERSION = b"CXR-INBOX"
_CONTEXT, _ABSTRACT, _TRANSFER, _USER, _LENGTH, _ROLE = 0x20, 0x30, 0x40, 0x50, 0x51, 0x54
_ACCEPTED, _NO_CLASS, _NO_SYNTAX = 0, 3, 4
_MOST_CONTEXTS = 128  # of a request: its ids are the odd numbers of a byte
_NO_DATA, _LEAST_LENGTH = 0x0101, 128
_FIXED = 68  # bytes of a request before its items
_UID = re.compile(r"[0-9.]{1,64}")


class ProtocolError(CxrError):
    """Report a message that breaks the rules; the text says which, and quotes nothing."""


@dataclass(frozen=True)
class Proposed:
    """Hold a presentation context: a class of objects, and the transfer syntaxes that the sender can use."""

    number: int
    sop_class: str
    syntaxes: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """Hold what a sender asks for when it opens an association."""

    called: str
    calling: str
    contexts: tuple[Proposed, ...]
    most_bytes: int  # that it accepts in a PDU; 0 for any
    fixed: bytes  # to be repeated in the answer
    providers: frozenset[str]  # classes for which the sender is the provider (SCP)

    @classmethod
    def read(cls, body: memoryview) -> "Request":
        """Read the body of an A-ASSOCIATE-RQ."""
        if len(body) < _FIXED:
            raise ProtocolError("the request is too short")
        contexts, most, providers = [], 0, frozenset[str]()
        for kind, value in _items(body[_FIXED:]):
            if kind == _CONTEXT:
                contexts.append(_proposed(value))
            elif kind == _USER:
                most = next((_long(inner) for number, inner in _items(value) if number == _LENGTH), 0)
                roles = [inner for number, inner in _items(value) if number == _ROLE]
                providers |= {_text(role[2:-2]) for role in roles if len(role) > 4 and role[-1]}
        numbers = {context.number for context in contexts}
        if len(contexts) > _MOST_CONTEXTS or len(numbers) < len(contexts):
            raise ProtocolError("its presentation contexts are not numbered")
        called, calling = (_text(body[place : place + 16]) for place in (4, 20))
        return cls(called, calling, tuple(contexts), most, bytes(body[:_FIXED]), providers)


@dataclass(frozen=True)
class Command:
    """Hold a command that a sender gives."""

    field: int
    message: int
    has_data: bool
    sop_class: str
    instance: str
    event: int | None = None  # type of an event that is reported

    @classmethod
    def read(cls, data: bytes) -> "Command":
        """Read a command set, which is always in implicit little endian."""
        values, place = dict[int, bytes](), 0
        while place < len(data):
            if place + 8 > len(data):
                raise ProtocolError("a command is cut short")
            group, element, length = struct.unpack_from("<HHL", data, place)
            if group != 0 or place + 8 + length > len(data):
                raise ProtocolError("a command is damaged")
            values[element] = data[place + 8 : place + 8 + length]
            place += 8 + length
        numbers = [_number(values.get(element)) for element in (0x0100, 0x0110, 0x0800)]
        field, message, kind = numbers
        if field is None or kind is None or (message is None and field != CANCEL):
            raise ProtocolError("a command lacks a number")
        sop_class, instance = (_text(memoryview(values.get(element, b""))) for element in (0x0002, 0x1000))
        event = _number(values.get(0x1002)) if field == EVENT else None
        return cls(field, message or 0, kind != _NO_DATA, sop_class, instance, event)

    @property
    def names_an_object(self) -> bool:
        """Return whether the command names a class and an instance by valid UIDs."""
        return is_uid(self.sop_class) and is_uid(self.instance)

    def answer(self, status: int, comment: str = "") -> bytes:
        """Return the command set that answers this command."""
        elements = [
            (0x0002, _even(self.sop_class.encode("ascii", "replace")[:64], b"\0")),
            (0x0100, struct.pack("<H", self.field | 0x8000)),
            (0x0120, struct.pack("<H", self.message)),
            (0x0800, struct.pack("<H", _NO_DATA)),
            (0x0900, struct.pack("<H", status)),
            (0x0902, _even(comment.encode("ascii")[:64], b" ")),
            (0x1000, _even(self.instance.encode("ascii", "replace")[:64], b"\0")),
            (0x1002, b"" if self.event is None else struct.pack("<H", self.event)),
        ]
        encoded = b"".join(
            struct.pack("<HHL", 0, number, len(value)) + value for number, value in elements if value
        )
        return struct.pack("<HHLL", 0, 0, 4, len(encoded)) + encoded


def is_uid(text: str) -> bool:
    """Return whether a text can be a UID."""
    return bool(_UID.fullmatch(text))


def agreed(
    request: Request, classes: frozenset[str], syntaxes: tuple[str, ...], provided: frozenset[str]
) -> tuple[bytes, dict[int, str]]:
    """Return the A-ASSOCIATE-AC, and the transfer syntax of each context that it accepts.

    The first of our syntaxes that the sender can use is chosen; an object that is none of the classes is
    refused. The sender may be the provider (SCP) of the `provided` classes.
    """
    chosen, items = dict[int, str](), [_item(0x10, _APPLICATION)]
    for context in request.contexts:
        syntax = next((one for one in syntaxes if one in context.syntaxes), None)
        result = _NO_CLASS if context.sop_class not in classes else _ACCEPTED if syntax else _NO_SYNTAX
        if result == _ACCEPTED and syntax:
            chosen[context.number] = syntax
        # A refused context names a syntax too, which the sender ignores.
        named = _item(_TRANSFER, (syntax or syntaxes[0]).encode("ascii"))
        items.append(_item(0x21, bytes((context.number, 0, result, 0)) + named))
    ours = _item(_LENGTH, struct.pack(">L", MOST_BYTES)) + _item(0x52, _IMPLEMENTATION)
    for name in sorted(provided & request.providers):
        ours += _item(_ROLE, struct.pack(">H", len(name)) + name.encode("ascii") + b"\0\1")
    items.append(_item(_USER, ours + _item(0x55, _VERSION)))
    return pdu(2, b"\0\1\0\0" + request.fixed[4:] + b"".join(items)), chosen


def rejection(result: int, source: int, reason: int) -> bytes:
    """Return an A-ASSOCIATE-RJ (PS3.8, table 9-21)."""
    return pdu(ASSOCIATE_RJ, bytes((0, result, source, reason)))


def abortion(reason: int = 0, source: int = 2) -> bytes:
    """Return an A-ABORT (PS3.8, table 9-26), by default of the service provider."""
    return pdu(ABORT, bytes((0, 0, source, reason)))


def pdu(kind: int, body: bytes) -> bytes:
    """Return a PDU."""
    return struct.pack(">BxL", kind, len(body)) + body


def pieces(body: memoryview) -> Iterator[tuple[int, bool, bool, memoryview]]:
    """Yield the fragments in a P-DATA-TF: context, whether it is a command, whether it is the last, data."""
    place = 0
    while place < len(body):
        if place + 6 > len(body):
            raise ProtocolError("a fragment is cut short")
        length, context, flags = struct.unpack_from(">LBB", body, place)
        if length < 2 or place + 4 + length > len(body):
            raise ProtocolError("a fragment is longer than its message")
        yield context, bool(flags & 1), bool(flags & 2), body[place + 6 : place + 4 + length]
        place += 4 + length


def command_pdus(context: int, command: bytes, most: int) -> bytes:
    """Return a command as P-DATA-TF, in several if the receiver accepts only short ones."""
    room = max(most, _LEAST_LENGTH) - 6 if most else len(command)
    found = b""
    for start in range(0, len(command), room):
        part, flags = command[start : start + room], 1 if start + room < len(command) else 3
        found += pdu(P_DATA, struct.pack(">LBB", len(part) + 2, context, flags) + part)
    return found


def file_header(sop_class: str, instance: str, syntax: str) -> bytes:
    """Return what stands before a data set in a file (PS3.10); the same object has the same header."""
    elements = (
        (1, b"OB", b"\0\1"),
        (2, b"UI", sop_class.encode("ascii")),
        (3, b"UI", instance.encode("ascii")),
        (0x10, b"UI", syntax.encode("ascii")),
        (0x12, b"UI", _IMPLEMENTATION),
        (0x13, b"SH", _VERSION),
    )
    encoded = b""
    for number, kind, value in elements:
        value = _even(value, b" " if kind == b"SH" else b"\0")
        size = struct.pack("<2xL" if kind == b"OB" else "<H", len(value))
        encoded += struct.pack("<HH", 2, number) + kind + size + value
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(encoded)) + encoded


def _proposed(value: memoryview) -> Proposed:
    if len(value) < 4:
        raise ProtocolError("a presentation context is cut short")
    names = list(_items(value[4:]))
    classes = [_text(inner) for kind, inner in names if kind == _ABSTRACT]
    syntaxes = tuple(_text(inner) for kind, inner in names if kind == _TRANSFER)
    if not value[0] % 2 or len(classes) != 1 or not syntaxes:
        raise ProtocolError("a presentation context is incomplete")
    return Proposed(value[0], classes[0], syntaxes)


def _items(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    place = 0
    while place < len(body):
        if place + 4 > len(body):
            raise ProtocolError("an item is cut short")
        kind, length = struct.unpack_from(">BxH", body, place)
        if place + 4 + length > len(body):
            raise ProtocolError("an item is longer than its message")
        yield kind, body[place + 4 : place + 4 + length]
        place += 4 + length


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _text(value: memoryview) -> str:
    return bytes(value[:256]).decode("ascii", "replace").strip(" \0")


def _number(value: bytes | None) -> int | None:
    return struct.unpack("<H", value)[0] if value is not None and len(value) == 2 else None


def _long(value: memoryview) -> int:
    if len(value) != 4:
        raise ProtocolError("the length of its messages is not a number")
    return int(struct.unpack(">L", value)[0])


def _even(value: bytes, padding: bytes) -> bytes:
    return value + padding * (len(value) % 2)
