"""A verdict as DICOM: valid, equal to the verdict, always the same, and no number where none is meant."""

import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from struct import pack
from typing import Any, get_args

import numpy as np
import pytest
from highdicom.sr import ComprehensiveSR, srread
from highdicom.sr.utils import find_content_items
from pydicom import Dataset, uid

from model.results.belonging import belonging_of
from model.results.make import ResultMaker
from model.results.objects import Names, concept
from pipeline.dicom import codes
from pipeline.errors import EngineFailed, HostError, NoResult, ObjectUnreadable, ResultFailed
from pipeline.names import preview_key, verdict_key
from pipeline.records import DicomObject, ObjectInfo
from pipeline.verdict import DOUBTS, Label, ReasonCode, Status, Verdict, Warning
from tests.support import dicoms
from tests.support.fakes import LIMIT, MemoryStore
from tests.support.results import (
    KEY,
    MOMENT,
    NETWORK,
    UIDS,
    classified,
    complaints,
    finding,
    maker,
    opened,
    preview,
    refused,
    results,
    said,
    source,
    stored,
)

VERDICTS: dict[str, Verdict] = {
    "pneumonia": classified(warnings=["age_unknown", "evidence_outside"]),
    "normal": classified(finding(0.0123)),
    "uncertain": classified(finding(0.5)),
    "no call": classified(finding(0.99, label="uncertain"), ["atypical", "not_frontal"]),
    "rejected": refused("rejected", "not_a_chest_xray"),
    "failed": refused("failed", "host_unavailable", model=None),
}


NO_CALL = {
    "uncertain": ["BETWEEN"],
    "no call": ["ATYPICAL"],
    "rejected": ["NOT-CHEST"],
    "failed": ["NO-HOST"],
}


@cache
def made_of(name: str) -> list[DicomObject]:
    return results(source(StudyDate="20261126", StudyTime="1011", StudyID="1"), VERDICTS[name])


def told(report: bytes) -> dict[str, object]:
    """Return what highdicom reads from a report, in the verdict's words."""
    read = srread(io.BytesIO(report))
    assert isinstance(read, ComprehensiveSR)
    (group,) = read.content.get_image_measurement_groups()
    (observer,) = read.content.get_observer_contexts()
    found = [(one.name.value, one.value.value) for one in group.get_qualitative_evaluations()]
    numbers = find_content_items(read, value_type="NUM", recursive=True)
    texts = [(one.name.meaning, one.value) for one in group[0].ContentSequence if one.ValueType == "TEXT"]

    def coded(name: str, table: Mapping[str, codes.Code]) -> list[str]:
        words = {code.value: word for word, code in table.items()}
        return [words.get(value, value) for said, value in found if said == name]

    return {
        "status": coded("STATUS", codes.STATUS_CODES),
        "label": [word for word, code in codes.LABEL_CODES.items() if concept(code) == group.finding_type],
        "warnings": coded("WARNING", codes.WARNING_CODES),
        "reason": coded("REASON", {}),
        "numbers": {one.name.value: one.value for one in numbers},
        "measured": [one.name.value for one in group.get_measurements()],
        "texts": texts,
        "device": observer.observer_identifying_attributes.serial_number,
        "sources": [(one.referenced_sop_class_uid, one.referenced_sop_instance_uid) for one in images(read)],
    }


def images(read: Dataset) -> list[Any]:
    return list(find_content_items(read, value_type="IMAGE", recursive=True))


@pytest.mark.parametrize("name", VERDICTS)
def test_the_report_read_by_highdicom_equals_the_verdict(name: str) -> None:
    verdict = VERDICTS[name]
    read, found, network = told(made_of(name)[0].data), verdict.finding, verdict.model
    assert read["status"] == [verdict.status]
    assert read["warnings"] == verdict.warnings
    assert read["label"] == ([found.label] if found else [])
    assert read["device"] == (network.sha256 if network else None)
    assert read["reason"] == NO_CALL.get(name, [])
    texts = dict(read["texts"])
    assert texts["Algorithm Name"] == (network.name if network else "CXR Inbox")
    assert texts["Algorithm Version"] == (network.version if network else "0.1.0")
    assert [text for _, text in read["texts"] if text.startswith("sha256")] == (
        [f"sha256 {network.sha256}"] if network else []
    )
    assert any(f"Not for diagnosis. {verdict.notice}" == text for _, text in read["texts"])
    assert (texts["Comment"] == "It is not one. Drop another.") == bool(verdict.reason)
    assert read["sources"] == [(dicoms.DIGITAL_XRAY, "1.2.3.1.1")] * 2
    if found and name != "no call":
        assert read["measured"] == ["PROBABILITY"]
        assert read["numbers"] == {
            "PROBABILITY": found.probability,
            "PREVALENCE": found.prevalence,
            "NORMAL-BELOW": found.thresholds.normal_below,
            "PNEUMONIA-ABOVE": found.thresholds.pneumonia_above,
        }
    else:
        assert read["numbers"] == {}


@pytest.mark.parametrize("word", get_args(Warning))
def test_a_warning_with_which_there_is_no_call_leaves_no_number(word: Warning) -> None:
    found = finding(0.99, label="uncertain") if word in DOUBTS else None
    store = stored(source(), classified(found, [word]))
    store.delete(preview_key(KEY, str(store.head(KEY).etag)))
    read = told(ResultMaker(store, LIMIT, lambda _: None).make(KEY)[0].data)
    assert bool(read["numbers"]) == (word not in DOUBTS)
    assert read["reason"] == ([codes.WARNING_CODES[word].value] if word in DOUBTS else [])


def test_every_word_of_the_verdict_has_a_code_that_fits() -> None:
    tables = (codes.STATUS_CODES, codes.LABEL_CODES, codes.WARNING_CODES, codes.REASON_CODES)
    assert [set(table) for table in tables] == [
        set(get_args(words)) for words in (Status, Label, Warning, ReasonCode)
    ]
    own = [code for code in vars(codes).values() if isinstance(code, codes.Code)]
    own += [code for table in tables for code in table.values()]
    assert max(len(code.value) for code in own) <= 16
    assert max(len(code.meaning) for code in own) <= 64
    assert len({(code.value, code.scheme) for code in own}) == len({id(code) for code in own})


@pytest.mark.whole
@pytest.mark.parametrize("name", VERDICTS)
def test_both_objects_are_valid_and_have_a_tree(name: str, tmp_path: Path) -> None:
    made = made_of(name)
    assert [one.kind for one in made] == (["report", "capture"] if VERDICTS[name].finding else ["report"])
    assert [complaints(one, tmp_path) for one in made] == [[] for _ in made]
    if name in ("pneumonia", "rejected"):
        trees = [said(tool, made[0].data, tmp_path) for tool in ("dcsrdump", "dsrdump")]
        assert [any("Status of the verdict" in line for line in tree) for tree in trees] == [True, True]
        assert not [line for tree in trees for line in tree if line.startswith(("W:", "E:", "F:", "Error"))]


def test_the_capture_is_derived_and_refers_to_its_source() -> None:
    report, capture = map(opened, made_of("pneumonia"))
    assert capture.SOPClassUID == uid.SecondaryCaptureImageStorage
    assert list(capture.ImageType) == ["DERIVED", "SECONDARY"]
    assert (capture.ConversionType, capture.BurnedInAnnotation) == ("WSD", "NO")
    (image,) = capture.SourceImageSequence
    assert (image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID) == (dicoms.DIGITAL_XRAY, "1.2.3.1.1")
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == ("1.2.3", "1.2.3.1")
    for made in (report, capture):
        assert made.StudyInstanceUID == "1.2.3"
        assert made.SeriesInstanceUID.startswith("2.25.")
        assert (made.PatientName, made.PatientID, made.PatientAge) == ("Doe^Jane", "17", "003Y")
        assert (made.ContentDate, made.ContentTime) == ("20261126", "233012.345678")
        assert made.DeviceSerialNumber == NETWORK.sha256
        assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    uids = {one for made in (report, capture) for one in (made.SeriesInstanceUID, made.SOPInstanceUID)}
    assert len(uids) == 4
    pixels = capture.pixel_array
    assert pixels.shape[1:] == (1000, 3)
    assert pixels[:74].max() > 200  # words are burned in above the picture
    assert np.ptp(pixels[100:800].astype(int), axis=2).max() > 40  # the map's colours


@pytest.mark.parametrize(
    ("tags", "warnings"), [({"BurnedInAnnotation": "YES"}, []), ({}, ["burned_in_text"])]
)
def test_a_capture_says_that_text_may_be_burned_into_its_source(
    tags: dict[str, str], warnings: list[Warning]
) -> None:
    made = results(source(**tags), classified(warnings=warnings))
    assert opened(made[1]).BurnedInAnnotation == "YES"


def test_an_xray_without_a_preview_is_drawn_anew() -> None:
    first = made_of("pneumonia")
    store = stored(source(StudyDate="20261126", StudyTime="1011", StudyID="1"), VERDICTS["pneumonia"])
    store.delete(preview_key(KEY, str(store.head(KEY).etag)))
    assert maker(store).make(KEY) == first


def test_doing_it_again_makes_the_same_bytes() -> None:
    again = results(source(StudyDate="20261126", StudyTime="1011", StudyID="1"), VERDICTS["pneumonia"])
    assert again == made_of("pneumonia")


def test_names_follow_source_network_and_answer() -> None:
    def names(verdict: Verdict, etag: str = "1", **tags: object) -> list[str]:
        told = verdict.model_copy(update={"source": verdict.source.model_copy(update={"etag": etag})})
        found = Names.of(told, belonging_of(source(**tags)))
        return [found.instance("report"), found.instance("capture"), found.tracking]

    first = names(VERDICTS["pneumonia"])
    later = classified(warnings=["age_unknown", "evidence_outside"], finished_at=MOMENT.replace(hour=1))
    assert names(later) == first  # judged again: the same answer
    others = [
        names(VERDICTS["pneumonia"], etag="2"),
        names(VERDICTS["pneumonia"], SOPInstanceUID="1.2.3.1.2"),
        names(classified(model=NETWORK.model_copy(update={"sha256": "cd" * 32}))),
        names(classified(finding(prevalence=0.1))),
        names(VERDICTS["normal"]),
    ]
    every = [*first, *(name for other in others for name in other)]
    assert len(set(every)) == len(every)
    assert all(uid.UID(name).is_valid for name in every)


def cut(word: str, value: bytes) -> tuple[bytes, bytes]:
    """Return a UID's element as it is in the source, and with another value."""
    tags = {"SOPInstanceUID": b"\x08\0\x18\0", "StudyInstanceUID": b"\x20\0\x0d\0"}
    head, old = tags.get(word, b"\x20\0\x0e\0") + b"UI", UIDS[word].encode()
    value += b"\0" * (len(value) % 2)
    old += b"\0" * (len(old) % 2)
    return head + pack("<H", len(old)) + old, head + pack("<H", len(value)) + value


def test_why_there_is_no_result() -> None:
    def refusal(store: MemoryStore) -> str:
        with pytest.raises(NoResult) as caught:
            maker(store).make(KEY)
        assert "\n" not in str(caught.value)
        assert "Doe" not in str(caught.value)
        return str(caught.value)

    verdict = VERDICTS["pneumonia"]
    assert "no verdict yet" in refusal(stored(source(), None))
    assert "not a DICOM file" in refusal(stored(preview(), verdict))
    damaged = stored(source(), None)
    damaged.put(verdict_key(KEY), b"{}", None)
    assert "cannot be read" in refusal(damaged)
    gone = stored(source(), verdict)
    gone.delete(KEY)
    assert "no longer in the inbox" in refusal(gone)
    replaced = stored(source(), verdict)
    replaced.objects[KEY] = source(PatientID="18")
    assert "replaced after its verdict" in refusal(replaced)
    large = stored(source(), verdict)
    large.objects[KEY] += b"\0" * LIMIT
    assert "cannot be read" in refusal(large)
    for word in UIDS:
        for value in (b"", b"Doe", b"1..2", b"1." * 40):
            data = source().replace(*cut(word, value))
            assert f"({word})" in refusal(stored(data, verdict))
    broken = stored(source(), verdict)
    broken.objects[preview_key(KEY, str(broken.head(KEY).etag))] = b"Doe"
    assert "preview" in refusal(broken)


@pytest.mark.parametrize(
    "fault", [EngineFailed("out_of_memory", "it needs more memory"), HostError("no process: more memory")]
)
def test_a_fault_that_may_pass_is_told_apart(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: bytes) -> None:
        raise fault

    store = stored(source(), VERDICTS["pneumonia"])
    info, get = store.head(KEY), store.get
    assert info
    store.delete(preview_key(KEY, str(info.etag)))
    with pytest.raises(ResultFailed, match="more memory"):
        ResultMaker(store, LIMIT, fail).make(KEY)

    def unreadable(key: str, most: int) -> tuple[ObjectInfo, bytes] | None:
        if key == KEY:
            raise ObjectUnreadable(info)
        return get(key, most)

    monkeypatch.setattr(store, "get", unreadable)
    with pytest.raises(ResultFailed, match="may not be read"):
        maker(store).make(KEY)


def test_no_message_of_a_library_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("Doe^Jane")

    monkeypatch.setattr("model.results.report.build_report", fail)
    with pytest.raises(NoResult, match=r"ValueError at \w+\.py:\d+") as caught:
        results(source(), VERDICTS["normal"])
    assert "Doe" not in str(caught.value)


def test_words_of_another_network_are_made_to_fit(tmp_path: Path) -> None:
    network = NETWORK.model_copy(update={"name": "Lungé\\n" * 30, "version": "3\\é", "sha256": "z" * 100})
    release = classified().release.model_copy(update={"version": "0.1-ß" * 30})
    verdict = classified(finding(0.02), model=network, release=release, notice="Für niemanden.")
    report, capture = results(source(), verdict)
    assert opened(capture).ManufacturerModelName == opened(report).ManufacturerModelName
    assert told(report.data)["label"] == ["normal"]
    assert max(len(opened(capture)[word].value) for word in ("DeviceSerialNumber", "SoftwareVersions")) == 64
