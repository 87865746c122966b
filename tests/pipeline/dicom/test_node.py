"""The DICOM node: what it takes into the inbox, under which name, and what it answers."""

import io
import logging
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, uid

from model.results.objects import MAKER
from model.serve.dicom import network
from model.serve.dicom.file import DicomFile, _packing
from pipeline.dicom import arrivals
from pipeline.errors import InputRejected, StoreError
from pipeline.store.folder import FolderStore
from pipeline.store.s3 import S3Store
from tests.support import dicoms
from tests.support.dicom_senders import Raw, Served, command, data_set, needs_dcmtk, send, served, storescu

PIXELS = 50_000_000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, FolderStore(tmp_path)) as running:
        yield running


def content(node: Served) -> list[bytes]:
    found = [node.store.get(key, 10_000_000) for key in node.inbox()]
    return [one[1] for one in found if one]


def shown(data: bytes) -> np.ndarray:
    return np.asarray(DicomFile(data, PIXELS, keep_uid=False).load())


STANDARD = {name: make for name, (_, make) in dicoms.SYNTAXES.items() if not name.startswith(("no ", "impl"))}


def test_every_syntax_that_we_read_arrives_as_it_was_sent(node: Served) -> None:
    sent = []
    for number, make in enumerate(STANDARD.values()):
        sent.append(dicoms.renamed(make(), f"1.2.3.{number}"))
    assert {send(node.port, one)[0] for one in sent} == {0}
    assert len(node.inbox()) == len(sent)
    there = {str(dcmread(io.BytesIO(data)).SOPInstanceUID): data for data in content(node)}
    for number, one in enumerate(sent):
        data = there[f"1.2.3.{number}"]
        assert data_set(data) == data_set(one)
        assert np.array_equal(shown(data), shown(one))


def test_the_agreed_syntaxes_are_those_that_the_reader_decodes() -> None:
    assert all(_packing(syntax) for syntax in network.SYNTAXES)
    known = {str(one) for one in uid.UID_dictionary if uid.UID_dictionary[one][1] == "Transfer Syntax"}
    current = {one for one in known if not uid.UID_dictionary[one][3]}  # not retired
    read = set()
    for one in current:
        try:
            read |= {one} if _packing(one) else set()
        except InputRejected:
            continue
    assert read <= set(network.SYNTAXES)
    with pytest.raises(InputRejected):
        _packing("1.2.3.4")


@needs_dcmtk
@pytest.mark.whole
def test_dcmtk_echoes_and_stores(node: Served, tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicoms.written(patient()))
    echo = ["echoscu", "-aec", "CXR-INBOX", "127.0.0.1", str(node.port)]
    assert subprocess.run(echo, timeout=20, check=False).returncode == 0
    for syntax in ("-xe", "-xi", "-xb", "-xd"):
        assert storescu(node.port, syntax, tmp_path / "a.dcm").returncode == 0
    # Big endian and deflated files cannot be compared with the first, and are kept beside it.
    assert 1 <= len(node.inbox()) <= 3


def patient(**tags: object) -> dicoms.Dataset:
    whose: dict[str, object] = {"PatientName": "A^B", "PatientID": "1", "StudyInstanceUID": "1.2"}
    return dicoms.dataset(**(whose | tags))


def test_the_same_object_again_changes_nothing(node: Served) -> None:
    data = dicoms.written(patient())
    assert send(node.port, data) == [0]
    [key] = node.inbox()
    first = node.store.head(key)
    implicit = dicoms.written(patient(), uid.ImplicitVRLittleEndian)
    assert send(node.port, data, data) == [0, 0]
    assert send(node.port, implicit) == [0]
    assert node.inbox() == [key]
    assert node.store.head(key) == first
    assert "1.2.3.4" not in key


def test_another_object_of_the_same_uid_is_kept_beside_it_and_told_once(
    node: Served, caplog: pytest.LogCaptureFixture
) -> None:
    others = [
        dicoms.written(patient()),
        dicoms.written(dicoms.dataset(dicoms.deep()[::-1].copy(), PatientName="A^B", PatientID="1")),
        dicoms.written(patient(AccessionNumber="another study")),
        dicoms.written(patient(PatientAge="004Y")),
    ]
    assert [send(node.port, one)[0] for one in others + others] == [0] * 8
    assert len(node.inbox()) == 4
    assert {data_set(one) for one in content(node)} == {data_set(one) for one in others}
    first = min(node.inbox(), key=len)
    assert all(key.startswith(first.removesuffix(".dcm")) for key in node.inbox())
    told = [line for line in caplog.messages if "same UID" in line]
    assert len(told) == 3


def test_an_object_that_a_person_deleted_comes_again(node: Served) -> None:
    data = dicoms.written(patient())
    send(node.port, data)
    [key] = node.inbox()
    node.store.delete(key)
    assert send(node.port, data) == [0]
    assert node.inbox() == [key]


def test_a_name_survives_a_restart(tmp_path: Path) -> None:
    names = []
    for root in (tmp_path / "a", tmp_path / "b", tmp_path / "a"):
        with served(root, FolderStore(root)) as node:
            send(node.port, dicoms.dicom())
            names.append(node.inbox())
        assert (root / ".cxr/dicom.key").stat().st_mode & 0o777 == 0o600
    assert names[0] == names[2]
    assert names[0] != names[1]  # another install has another secret
    for root in (tmp_path / "c", tmp_path / "d"):
        with served(root, FolderStore(root), log_key="shared") as node:
            send(node.port, dicoms.dicom())
            names.append(node.inbox())
    assert names[3] == names[4]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"not DICOM at all, but long enough to be looked at", 0xC000),
        (data_set(dicoms.dataset(SOPInstanceUID="1.2.3.5")), 0xA900),
        (data_set(dicoms.dataset(SOPClassUID=dicoms.SECONDARY_CAPTURE)), 0xA900),
        (data_set(dicoms.dataset())[:700], 0xC000),
        (data_set(dicoms.dataset(PixelData=None, Rows=None)), 0xC000),
        (data_set(dicoms.dataset(Manufacturer=MAKER)), 0xC000),  # a result that a PACS routes back
        (b"", 0xC000),
    ],
)
def test_a_wrong_data_set_is_refused_and_the_next_one_taken(node: Served, data: bytes, status: int) -> None:
    with Raw(node.port) as raw:
        assert raw.request() == 2
        raw.store()
        raw.data(data)
        assert raw.status() == status
        assert node.inbox() == []
        raw.store()
        raw.data(data_set(dicoms.dataset()))
        assert raw.status() == 0
    assert len(node.inbox()) == 1


def test_other_commands_are_answered(node: Served) -> None:
    with Raw(node.port) as raw:
        raw.request()
        raw.fragment(3, command(0x0020, dicoms.DIGITAL_XRAY, "", has_data=True))  # C-FIND
        raw.fragment(0, b"x" * 1000)
        raw.fragment(2, b"x")
        assert raw.status() == 0x0211
        raw.fragment(3, command(0x0FFF, dicoms.DIGITAL_XRAY, "", has_data=False))  # C-CANCEL: no answer
        raw.store("not a uid")
        raw.fragment(2, b"x")
        assert raw.status() == 0x0117
        raw.store(sop_class=dicoms.SECONDARY_CAPTURE)
        raw.fragment(2, b"x")
        assert raw.status() == 0x0122
        raw.fragment(3, command(0x0001, dicoms.DIGITAL_XRAY, "1.2", has_data=False))
        assert raw.status() == 0xC000
        raw.send(5, bytes(4))
        assert raw.answer()[0] == 6


def test_what_is_no_radiograph_is_refused_at_once_with_one_line(
    node: Served, caplog: pytest.LogCaptureFixture
) -> None:
    ct = dicoms.written(dicoms.dataset(SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT"))
    assert send(node.port, ct) == [-1]
    assert send(node.port, ct) == [-1]
    ours = [record for record in caplog.records if record.name.startswith("pipeline.")]
    lines = [record for record in ours if record.levelno == logging.WARNING]
    assert len(lines) == 1
    assert "class 1.2.840.10008.5.1.4.1.1.2" in lines[0].getMessage()
    with Raw(node.port) as raw:
        assert raw.request(syntax="1.2.3.private.77") == 2
        assert "transfer syntax (private)" in caplog.text
        raw.store()  # in a context that was refused
        assert raw.answer()[0] == 7


def test_an_object_over_the_limit_is_refused_and_takes_no_disk(tmp_path: Path) -> None:
    with served(tmp_path, FolderStore(tmp_path), max_bytes=200_000) as node:
        assert send(node.port, dicoms.written(patient(PatientComments="x" * 100_000))) == [0xA700]
        assert send(node.port, dicoms.written(patient())) == [0]
        with Raw(node.port) as raw:
            raw.request()
            raw.store("1.2.3.5")
            for _ in range(100):
                raw.fragment(0, bytes(100_000))
            kept = [path.stat().st_size for path in (tmp_path / ".cxr/dicom-up").iterdir()]
            assert sum(kept) <= 200_000
            raw.fragment(2, b"")
            assert raw.status() == 0xA700
    assert len(node.inbox()) == 1
    assert list((tmp_path / ".cxr/dicom-up").iterdir()) == []


def test_a_full_disk_is_told_and_loses_nothing(
    node: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StoreError("the folder cannot be written to: No space left on device")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    data = dicoms.dicom()
    with monkeypatch.context() as patch:
        patch.setattr(node.store, "put_file", full)
        assert send(node.port, data) == [0xA700]
    with monkeypatch.context() as patch:
        patch.setattr(arrivals.Arrival, "_append", full_disk)
        assert send(node.port, data) == [0xA700]
    assert node.inbox() == []
    assert len([line for line in caplog.messages if "No space left" in line]) == 2
    assert send(node.port, data) == [0]
    assert len(node.inbox()) == 1


def test_a_defect_is_answered_and_does_not_end_the_node(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Zaphod")

    with monkeypatch.context() as patch:
        patch.setattr(node.store, "put_file", broken)
        assert send(node.port, dicoms.dicom(), dicoms.dicom()) == [0x0110, 0x0110]
    assert send(node.port, dicoms.dicom()) == [0]


def test_sixteen_senders_at_once(node: Served) -> None:
    made = {
        (sender, number): dicoms.dicom(SOPInstanceUID=f"1.2.{sender}.{number}")
        for sender in range(16)
        for number in range(3)
    }
    statuses: list[int] = []

    def work(sender: int) -> None:
        mine = [made[sender, number] for number in range(3)]
        statuses.extend(send(node.port, *mine, made[0, 0]))

    threads = [threading.Thread(target=work, args=[sender]) for sender in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 64
    assert len(node.inbox()) == 48


def test_a_bucket(tmp_path: Path, s3_store: S3Store, caplog: pytest.LogCaptureFixture) -> None:
    with served(tmp_path, s3_store, bucket="cxr-test") as node:
        data = dicoms.written(patient())
        other = dicoms.written(patient(PatientAge="004Y"))
        assert send(node.port, data, data, other, other) == [0, 0, 0, 0]
        assert len(node.inbox()) == 2
        assert {data_set(one) for one in content(node)} == {data_set(data), data_set(other)}
    assert len([line for line in caplog.messages if "same UID" in line]) == 1
    with served(tmp_path, S3Store("no-bucket", s3_store._client), bucket="no-bucket") as node:
        assert send(node.port, data) == [0xA700]
