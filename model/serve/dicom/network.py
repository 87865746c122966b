"""Say which objects of a DICOM network can be judged, and identify one that was received."""

import hashlib
import struct
import zlib

from model.serve.dicom.dictionary import TAGS
from model.serve.dicom.elements import (
    FAILED_SOP_SEQUENCE,
    REFERENCED_SOP_SEQUENCE,
    CutShortError,
    Elements,
    OvergrownError,
    fill_elements,
    read_header,
)
from pipeline.dicom.commitment import CommitmentReport
from pipeline.errors import InputRejected

_CLASS = "1.2.840.10008.5.1.4.1.1."
# Computed and digital radiographs (for presentation, and raw ones, which get a warning), spot films, and
# secondary captures of gray or colour.
RADIOGRAPHS = frozenset(_CLASS + number for number in ("1", "1.1", "1.1.1", "12.2", "7", "7.2", "7.3", "7.4"))
_SYNTAX, _DEFLATED, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
# Those that `model.serve.dicom.file` decodes, the best first: uncompressed, lossless, lossy.
SYNTAXES = tuple(
    _SYNTAX + number
    for number in (
        *(".1", "", ".1.99", ".1.98", ".2"),
        *(".5", ".4.70", ".4.57", ".4.80", ".4.90", ".4.201", ".4.202"),
        *(".4.81", ".4.91", ".4.203", ".4.50", ".4.51"),
    )
)
_TAG = b"\xe0\x7f\x10\0"  # of the pixels
_INFLATED = 1 << 22  # bytes of a deflated data set that are read to identify it

# What makes an object with the same pixels another one: patient and study. It is hashed, and not kept.
_PATIENT = (0x00080050, 0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x0020000D, 0x0020000E)
_CONTENT = frozenset((*TAGS.values(), *_PATIENT))
_STUDY, _MEDIA_CLASS, _MEDIA_INSTANCE = 0x0020000D, 0x00020002, 0x00020003
_ANNOUNCED = frozenset((_MEDIA_CLASS, _MEDIA_INSTANCE, TAGS["TransferSyntaxUID"]))
_MANUFACTURER, _OURS = 0x00080070, b"CXR Inbox"  # a result of this program, which a PACS may send back
_NAMES = frozenset((TAGS["SOPClassUID"], TAGS["SOPInstanceUID"], TAGS["PixelData"], _STUDY, _MANUFACTURER))

_TRANSACTION, _INSTANCE = 0x00081195, 0x00081155  # of a report of storage commitment
_REPORTED = frozenset((_TRANSACTION, _INSTANCE, FAILED_SOP_SEQUENCE, REFERENCED_SOP_SEQUENCE))


def announce(start: bytes) -> tuple[str, str, str, int]:
    """Return the SOP class, instance and transfer syntax in a file's header, and where its data set begins.

    `start` is the beginning of the file. Raises InputRejected.
    """
    try:
        header, rest = read_header(start, _ANNOUNCED)
    except (ValueError, struct.error):
        raise InputRejected("unreadable", "the file's header is damaged") from None
    sop_class, instance = (_uid(header, tag) for tag in (_MEDIA_CLASS, _MEDIA_INSTANCE))
    syntax = header.text("TransferSyntaxUID")
    if not (sop_class and instance and syntax):
        raise InputRejected("unreadable", "it is not a DICOM file with a header (PS3.10)")
    return sop_class, instance, syntax, len(start) - len(rest)


def _uid(elements: Elements, tag: int) -> str:
    value = elements.values.get(tag)
    return bytes(value.data[:128]).decode("ascii", "replace").strip(" \0") if value else ""


def identify(data: memoryview, syntax: str) -> tuple[str, str, str]:
    """Return the SOP class, instance and study that a data set states.

    Raises InputRejected if it is no X-ray.
    """
    if is_deflated := syntax == _DEFLATED:
        data = memoryview(_begin_of(data))
    elements = _read(data, syntax, _NAMES)
    if "PixelData" not in elements:
        raise InputRejected("unreadable", "the data set has no pixels")
    if not is_deflated and _is_cut(data, elements):
        raise InputRejected("unreadable", "the data set is incomplete: its end is missing")
    maker = elements.values.get(_MANUFACTURER)
    if maker and bytes(maker.data[:64]).strip(b" \0") == _OURS:
        raise InputRejected("not_a_chest_xray", "it is a result of this program: do not route those here")
    return elements.text("SOPClassUID"), elements.text("SOPInstanceUID"), _uid(elements, _STUDY)


def fingerprint(data: bytes) -> bytes:
    """Return a digest of a file's pixels, of the tags that are read, and of patient and study.

    It does not depend on how an uncompressed file writes its elements. Raises InputRejected.
    """
    header, rest = read_header(data)
    syntax = header.text("TransferSyntaxUID")
    digest = hashlib.sha256()
    if syntax == _DEFLATED:
        digest.update(rest)
    else:
        _add(digest, _read(rest, syntax, _CONTENT))
    return digest.digest()


def read_report(data: memoryview, syntax: str) -> CommitmentReport:
    """Read a report of storage commitment; raise InputRejected for anything else."""
    elements = _read(data, syntax, _REPORTED)
    if _TRANSACTION not in elements.values:
        raise InputRejected("unreadable", "the report names no transaction")
    kept, failed = (
        tuple(_uid(item, _INSTANCE) for item in elements.sequences.get(tag, ()))
        for tag in (REFERENCED_SOP_SEQUENCE, FAILED_SOP_SEQUENCE)
    )
    return CommitmentReport(_uid(elements, _TRANSACTION), kept, failed)


def _add(digest: "hashlib._Hash", elements: Elements) -> None:
    for tag, value in sorted(elements.values.items()):
        digest.update(struct.pack("<LQ?", tag, len(value.data), value.has_length))
        digest.update(value.data)
    for tag, items in sorted(elements.sequences.items()):
        digest.update(struct.pack("<LQ", tag, len(items)))
        for item in items:
            _add(digest, item)


def _read(data: memoryview, syntax: str, tags: frozenset[int]) -> Elements:
    elements = Elements()
    try:
        fill_elements(elements, data, syntax == _BIG_ENDIAN, tags)
    except CutShortError:
        raise InputRejected("unreadable", "the data set is incomplete: its end is missing") from None
    except OvergrownError:
        raise InputRejected("unreadable", "the data set has more elements than any X-ray") from None
    except (ValueError, struct.error):
        raise InputRejected("unreadable", "the data set is damaged") from None
    return elements


def _is_cut(data: memoryview, elements: Elements) -> bool:
    """Return whether the data end before the pixels do, in little endian with a stated length."""
    pixels = elements.values[TAGS["PixelData"]]
    place = len(data) - len(pixels.data) - 4  # of the length, if nothing follows the pixels
    before = bytes(data[max(place - 8, 0) : place])
    if (
        not pixels.has_length
        or elements.order == ">"
        or not (before.startswith(_TAG) or before.endswith(_TAG))
    ):
        return False
    return bool(struct.unpack_from("<L", data, place)[0] > len(pixels.data))


def _begin_of(data: memoryview) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _INFLATED)
    except zlib.error:
        raise InputRejected("unreadable", "the data set cannot be inflated") from None
