"""Patient and study go from the source into the result: in every character set, and whatever is wrong."""

import tracemalloc
import zlib
from pathlib import Path

import pytest
from pydicom import Dataset, uid

from model.results.belonging import belonging_of
from pipeline.errors import NoResult
from tests.support import dicoms
from tests.support.results import UIDS, classified, complaints, opened, refused, results, source

JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
NAMES: dict[str, tuple[object, str]] = {
    "ASCII": (None, "Doe^Jane^M^Dr^Jr"),
    "Latin 1": ("ISO_IR 100", "Müller^Jürgen"),
    "UTF-8": ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
    "Japanese": (["", "ISO 2022 IR 87"], JAPANESE),
    "Japanese with half-width kana": (
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "Chinese": ("GB18030", "Wang^XiaoDong=王^小东"),
    "Cyrillic": ("ISO_IR 144", "Юшин^Ждан"),
    "Greek": ("ISO_IR 126", "Διονυσιος^Θ"),
}


@pytest.mark.whole
@pytest.mark.parametrize("which", NAMES)
def test_a_name_stays_as_it_is(which: str, tmp_path: Path) -> None:
    terms, name = NAMES[which]
    tags = {"SpecificCharacterSet": terms, "ReferringPhysicianName": name, "StudyDescription": name[:9]}
    data = source(PatientName=name, StudyTime="1011", StudyID="1", StudyDate="20261126", **tags)
    (report,) = results(data, refused("rejected", "unreadable"))
    read = opened(report)
    assert str(read.PatientName) == str(read.ReferringPhysicianName) == name
    assert read.StudyDescription == name[:9]
    assert read.get("SpecificCharacterSet") == terms
    assert complaints(report, tmp_path) == []


@pytest.mark.parametrize(
    ("stated", "written", "name", "result"),
    [
        (None, "utf-8", "Müller", "ISO_IR 192"),
        (None, "latin-1", "Müller", "ISO_IR 192"),
        ("UTF-8", "utf-8", "Müller", "ISO_IR 192"),
        ("ISO_IR 192", "latin-1", "Müller", "ISO_IR 192"),
        ("ISO_IR 100", "utf-8", "Müller", "ISO_IR 100"),  # as every reader of the source takes it
        ("Zaphod", "ascii", "Mueller", None),
        ("ISO_IR 100", "ascii", "Mueller", "ISO_IR 100"),
    ],
)
def test_a_wrong_character_set(stated: str | None, written: str, name: str, result: str | None) -> None:
    data = source(PatientName="X" * 8, SpecificCharacterSet=stated and "Y" * len(stated))
    encoded = name.encode(written)
    data = data.replace(b"X" * 8, encoded.ljust(8)[:8])
    if stated:
        data = data.replace(b"Y" * len(stated), stated.encode())
    made = opened(results(data, refused("rejected", "unreadable"))[0])
    shown = name if result != "ISO_IR 100" else encoded.decode("latin-1")
    assert str(made.PatientName) == shown
    assert made.get("SpecificCharacterSet") == result


INVALID: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "missing": (
        {"PatientName": None, "PatientID": None, "PatientAge": None},
        {"PatientName": "", "PatientID": "", "PatientAge": None, "StudyDate": "", "AccessionNumber": ""},
    ),
    "invalid": (
        {
            "PatientSex": "Q",
            "PatientBirthDate": "2017.02.03",
            "PatientAge": "3 years",
            "StudyDate": "99999999",
            "StudyTime": "25:00",
            "TimezoneOffsetFromUTC": "west",
            "PatientIdentityRemoved": "MAYBE",
        },
        {
            "PatientSex": "",
            "PatientBirthDate": "20170203",
            "PatientAge": None,
            "StudyDate": "",
            "StudyTime": "",
            "TimezoneOffsetFromUTC": None,
            "PatientIdentityRemoved": None,
        },
    ),
    "many values": (
        {"PatientName": "A\\B", "PatientID": "1\\2", "IssuerOfPatientID": "I", "StudyID": "1\\2"},
        {"PatientName": "A", "PatientID": "", "IssuerOfPatientID": None, "StudyID": "1"},
    ),
    "control characters": (
        {"PatientName": "A\nB^\x07C", "PatientID": "1\x00"},
        {"PatientName": "AB^C", "PatientID": "1"},
    ),
    "long": (
        {"PatientName": "A" * 100 + "^B", "PatientID": "1" * 70, "AccessionNumber": "2" * 20},
        {"PatientName": "A" * 64, "PatientID": "", "AccessionNumber": "2" * 16},
    ),
    "long of two bytes": (
        {"PatientName": "ü" * 100, "SpecificCharacterSet": "ISO_IR 192", "StudyDescription": "ü" * 65},
        {"PatientName": "ü" * 32, "StudyDescription": "ü" * 32},
    ),
    "many parts": (
        {"PatientName": "A^B^C^D^E^F^G=1=2=3"},
        {"PatientName": "A^B^C^D^E=1=2"},
    ),
    "anonymous": (
        {"PatientName": "", "PatientID": "", "PatientIdentityRemoved": "YES"},
        {"PatientName": "", "PatientID": "", "DeidentificationMethod": "As in the source image"},
    ),
    "a class of its maker": ({"SOPClassUID": "1.2.3.4.5"}, {}),
}


@pytest.mark.whole
@pytest.mark.parametrize("which", INVALID)
def test_what_is_missing_or_invalid_makes_no_invalid_result(which: str, tmp_path: Path) -> None:
    tags, expected = INVALID[which]
    made = results(source(**tags), classified() if which == "long" else refused("rejected", "unreadable"))
    for one in made:
        assert complaints(one, tmp_path) == []
        read = opened(one)
        assert {word: read.get(word) if word in read else None for word in expected} == expected


@pytest.mark.parametrize(
    ("offset", "date", "time"),
    [("+0900", "20261127", "083012.345678"), ("-0330", "20261126", "200012.345678")],
)
def test_a_date_is_in_the_time_zone_of_the_source(offset: str, date: str, time: str) -> None:
    read = opened(results(source(TimezoneOffsetFromUTC=offset), classified())[0])
    assert (read.ContentDate, read.ContentTime, read.TimezoneOffsetFromUTC) == (date, time, offset)


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian],
)
def test_values_of_every_uncompressed_syntax(syntax: str) -> None:
    data = dicoms.dicom(syntax=syntax, **UIDS, PatientName="Doe^Jane")
    belonging = belonging_of(data)
    assert {word: belonging[word] for word in UIDS} == UIDS
    assert (belonging["PatientName"], belonging["SOPClassUID"]) == ("Doe^Jane", dicoms.DIGITAL_XRAY)


def test_a_damaged_file_will_do_if_it_names_its_study_before() -> None:
    whole = source()
    belonging = belonging_of(whole[:-3000])
    assert belonging["StudyInstanceUID"] == "1.2.3"
    for length in range(0, whole.index(b"1.2.3.1\0"), 7):
        with pytest.raises(NoResult):
            belonging_of(whole[:length])


def test_a_name_in_a_sequence_is_another_persons() -> None:
    inner = Dataset()
    inner.PatientName, inner.PatientID, inner.StudyInstanceUID = "Other^One", "99", "9.9"
    data = source(ReferencedPatientSequence=[inner], PatientName=None, PatientID=None)
    assert (belonging_of(data)["PatientName"], belonging_of(data)["PatientID"]) == ("", "")


def test_a_bomb_is_not_inflated() -> None:
    file = dicoms.dicom(syntax=uid.DeflatedExplicitVRLittleEndian, **UIDS)
    header = file[: 144 + int.from_bytes(file[140:144], "little")]
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    element = b"\x09\0\x10\0OB\0\0" + (1 << 26).to_bytes(4, "little")  # one, of zeros
    bomb = header + packer.compress(element + bytes(1 << 26)) + packer.flush()
    tracemalloc.start()
    with pytest.raises(NoResult):
        belonging_of(bomb)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 40_000_000


def test_a_result_has_no_result() -> None:
    for made in results(source(), classified()):
        with pytest.raises(NoResult, match="itself a result"):
            belonging_of(made.data)
