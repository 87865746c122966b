"""Read from a DICOM file whose it is: the patient and the study, for the objects made of its verdict.

Nothing else of the program reads these elements. Here they go from the source straight into the result, and
are kept nowhere. They are read with our own reader, since the file is untrusted (docs/design.md).
"""

import re
import struct
import unicodedata
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta, timezone, tzinfo

from pydicom import charset
from pydicom.charset import decode_bytes, encode_string
from pydicom.valuerep import PersonName

from model.serve.dicom.elements import Elements, fill_elements, is_dicom, read_header
from model.serve.dicom.file import BIG_ENDIAN, DEFLATED
from pipeline.errors import NoResult

MAKER = "CXR Inbox"  # the manufacturer that our results state
UTF_8 = "ISO_IR 192"
_LATIN = "iso8859"  # pydicom's name of the default: what it takes for ASCII
# The tag and the type of every element that is read.
_ELEMENTS: Mapping[str, tuple[int, str]] = {
    "StudyDate": (0x00080020, "DA"),
    "StudyTime": (0x00080030, "TM"),
    "AccessionNumber": (0x00080050, "SH"),
    "ReferringPhysicianName": (0x00080090, "PN"),
    "Manufacturer": (0x00080070, "LO"),
    "TimezoneOffsetFromUTC": (0x00080201, "zone"),
    "StudyDescription": (0x00081030, "LO"),
    "PatientName": (0x00100010, "PN"),
    "PatientID": (0x00100020, "ID"),
    "IssuerOfPatientID": (0x00100021, "LO"),
    "PatientBirthDate": (0x00100030, "DA"),
    "PatientSex": (0x00100040, "sex"),
    "PatientAge": (0x00101010, "AS"),
    "PatientIdentityRemoved": (0x00120062, "flag"),
    "DeidentificationMethod": (0x00120063, "LO"),
    "StudyInstanceUID": (0x0020000D, "UI"),
    "SeriesInstanceUID": (0x0020000E, "UI"),
    "StudyID": (0x00200010, "SH"),
    "SOPClassUID": (0x00080016, "UI"),
    "SOPInstanceUID": (0x00080018, "UI"),
    "BurnedInAnnotation": (0x00280301, "flag"),
}
_CHARSET, _MEDIA_CLASS, _SYNTAX = 0x00080005, 0x00020002, "TransferSyntaxUID"
_TAGS = frozenset((_CHARSET, *(tag for tag, _ in _ELEMENTS.values())))
_LONGEST = {"SH": 16, "LO": 64, "ID": 64, "PN": 64}  # characters; of a name, of each of its three forms
_LONGEST_BYTES = 1 << 16
_MOST_INFLATED = 1 << 24  # bytes from the start of a deflated file: what is read stands there
_PATTERNS = {
    "UI": r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*",
    "AS": r"\d{3}[DWMY]",
    "sex": r"[MFO]",
    "flag": r"YES|NO",
    "zone": r"[+-](0\d|1[0-4])[0-5]\d",
    "TM": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
}


@dataclass(frozen=True)
class Belonging:
    """Hold the values that the result shares with its source, valid by the standard; absent ones are empty.

    `charset` holds the terms of SpecificCharacterSet in which all of them can be written.
    """

    values: Mapping[str, str]
    charset: tuple[str, ...]

    def __getitem__(self, word: str) -> str:
        return self.values[word]

    @property
    def zone(self) -> tzinfo | None:
        """Return the time zone in which the source writes its dates; None where it does not say."""
        text = self["TimezoneOffsetFromUTC"]
        if not text:
            return None
        minutes = int(text[1:3]) * 60 + int(text[3:])
        return timezone(timedelta(minutes=-minutes if text.startswith("-") else minutes))


def belonging_of(data: bytes) -> Belonging:
    """Return whose file this is.

    Raises NoResult when it is not DICOM, is a result itself, or does not say which study and instance it is.
    A damaged file will do if that comes before the damage.
    """
    if not is_dicom(data):
        raise NoResult("the X-ray is not a DICOM file: only a DICOM source has a DICOM result")
    found, media_class = _read(data)
    terms = tuple(term.strip() for term in _raw(found, _CHARSET).decode("ascii", "replace").split("\\"))
    is_known = all(term in charset.python_encoding for term in terms)
    values = {
        word: _cleaned(_raw(found, tag), kind, terms if is_known else ())
        for word, (tag, kind) in _ELEMENTS.items()
    }
    values["SOPClassUID"] = values["SOPClassUID"] or media_class
    for word, what in (
        ("StudyInstanceUID", "study"),
        ("SeriesInstanceUID", "series"),
        ("SOPInstanceUID", "instance"),
        ("SOPClassUID", "class"),
    ):
        if not values[word]:
            raise NoResult(
                f"the DICOM file does not say which {what} it is ({word}): a result cannot refer to it"
            )
    if values["Manufacturer"] == MAKER:
        raise NoResult("the DICOM file is itself a result of this program")
    if not values["PatientID"]:
        values["IssuerOfPatientID"] = ""
    return Belonging(values, _charset(values, terms if is_known and terms != ("",) else ()))


def _read(data: bytes) -> tuple[Elements, str]:
    """Return the elements that could be read, and the class that the file's own header states."""
    found, media_class = Elements(), ""
    with suppress(ValueError, struct.error, zlib.error, IndexError):  # it may be damaged further on
        header, rest = read_header(data)
        value = header.values.get(_MEDIA_CLASS)
        media_class = _cleaned(bytes(value.data[:128]), "UI", ()) if value else ""
        syntax = header.text(_SYNTAX)
        if syntax == DEFLATED:
            rest = memoryview(zlib.decompressobj(-zlib.MAX_WBITS).decompress(rest, _MOST_INFLATED))
        fill_elements(found, rest, syntax == BIG_ENDIAN, _TAGS)
    return found, media_class


def _raw(found: Elements, tag: int) -> bytes:
    value = found.values.get(tag)
    data = bytes(value.data[:_LONGEST_BYTES]) if value else b""
    return data.strip(b" \0\t\r\n")


def _cleaned(data: bytes, kind: str, terms: tuple[str, ...]) -> str:
    """Return a value that is valid by the standard; empty when it is missing or cannot be made so."""
    if kind in _LONGEST:
        return _text(_decoded(data, kind, terms), kind)
    text = data.decode("ascii", "replace")
    if kind == "DA":
        return _date(text)
    if kind == "TM":
        text = text.replace(":", "")  # as ACR-NEMA wrote them
    return text if re.fullmatch(_PATTERNS[kind], text) else ""


def _decoded(data: bytes, kind: str, terms: tuple[str, ...]) -> str:
    """Decode by what the file declares; else as UTF-8 or Latin-1, as undeclared texts usually are."""
    encodings = [charset.python_encoding[term] for term in terms]
    if encodings and b"\x1b" in data:
        with suppress(ValueError, LookupError):
            is_name = kind == "PN"
            text = str(PersonName(data, encodings)) if is_name else decode_bytes(data, encodings, set())
            if "\ufffd" not in text:
                return text
    for encoding in (*(one for one in encodings[:1] if one != _LATIN), "utf-8"):
        with suppress(UnicodeDecodeError):
            return data.decode(encoding)
    return data.decode("latin-1")


def _text(text: str, kind: str) -> str:
    """Return a text without control characters, backslashes and the end that exceeds the limit.

    An identifier that does not fit is left out, because a shortened one may be another patient's.
    """
    plain = "".join(letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cs")).strip()
    if kind == "ID":
        return plain if len(plain) <= _LONGEST[kind] and "\\" not in plain else ""
    plain = plain.partition("\\")[0]
    if kind == "PN":  # up to three forms of at most five parts: alphabetic, ideographic, phonetic
        forms = ["^".join(part.strip() for part in form.split("^")[:5]) for form in plain.split("=")[:3]]
        return "=".join(_shortened(form, _LONGEST[kind]).rstrip("^ ") for form in forms).rstrip("=")
    return _shortened(plain, _LONGEST[kind]).strip()


def _shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters; one that is shortened has at most as many bytes, too."""
    return text if len(text) <= most else text.encode()[:most].decode(errors="ignore")


def _date(text: str) -> str:
    digits = re.sub(r"[.\-/]", "", text)  # ACR-NEMA dates contain dots
    with suppress(ValueError):
        return f"{date.fromisoformat(digits):%Y%m%d}" if re.fullmatch(r"[12]\d{7}", digits, re.ASCII) else ""
    return ""


def _charset(values: Mapping[str, str], terms: tuple[str, ...]) -> tuple[str, ...]:
    """Return the source's own character sets if they can write all values, else UTF-8 unless all is ASCII."""
    texts = {word: values[word] for word, (_, kind) in _ELEMENTS.items() if kind in _LONGEST}
    if not terms:
        return () if all(text.isascii() for text in texts.values()) else (UTF_8,)
    encodings = [charset.python_encoding[term] for term in terms]
    for word, text in texts.items():
        if not _returns(text, _ELEMENTS[word][1], terms, encodings):
            return (UTF_8,)
    return terms


def _returns(text: str, kind: str, terms: tuple[str, ...], encodings: list[str]) -> bool:
    """Return whether a text, once written, is read as the same."""
    try:
        encoded = PersonName(text).encode(encodings) if kind == "PN" else encode_string(text, encodings)
    except (ValueError, LookupError):
        return False
    return _decoded(bytes(encoded), kind, terms) == text
