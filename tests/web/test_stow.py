"""DICOMweb at the page: what STOW-RS takes into the inbox, and what it answers."""

import io
import json
import logging
import socket
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from dicomweb_client import DICOMwebClient
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as some
from pydicom import Dataset, dcmread
from waitress import wasyncore

from handlers import wiring
from model.results.objects import MAKER
from model.serve.dicom import network
from pipeline.dicom import arrivals
from pipeline.errors import InputRejected, StoreError
from pipeline.ports import Landing
from pipeline.running.serving import make_server
from pipeline.settings import Settings
from pipeline.store.folder import FolderStore
from pipeline.store.s3 import S3Store
from pipeline.worklist.sqlite import SqliteIndex
from tests.support import dicoms
from tests.support.dicom_senders import data_set, send, served
from tests.support.machines import wait_for
from tests.web.test_access import PASSWORD, USERS, basic
from web.access import Access
from web.app import create_page
from web.audit import Audit
from web.pacs import stow

CURL = [  # as in docs/pacs.md
    ["-H", "Content-Type: application/dicom", "--data-binary", "@xray.dcm"],
    [
        *("-H", 'Content-Type: multipart/related; type="application/dicom"'),
        *("-F", "a=@xray.dcm;type=application/dicom"),
    ],
]
STUDY, STUDIES = "1.2.77", "/dicom-web/studies"
LIMIT = 300_000


def xray(number: int = 1, **tags: object) -> bytes:
    whose = {"PatientName": "Zaphod^B", "PatientID": "42", "StudyInstanceUID": STUDY}
    return dicoms.dicom(**{**whose, "SOPInstanceUID": f"1.2.77.{number}", **tags})


class Site:
    """Hold a page that takes objects, and its inbox."""

    def __init__(self, root: Path, store: Landing, access: Access | None = None, **changes: object) -> None:
        known: dict[str, object] = {"root": root, "max_bytes": LIMIT, "log_key": "key", **changes}
        self.store, self.root = store, root
        self.arrivals = wiring.make_arrivals(Settings(**known), store)  # type: ignore[arg-type]
        self.index = SqliteIndex(root / "index.sqlite")
        audit = Audit(root / "audit.jsonl", "key")
        parts = {"arrivals": self.arrivals, "access": access, "audit": audit}
        self.app: Flask = create_page(store, self.index, LIMIT, **parts)  # type: ignore[arg-type]
        self.client: FlaskClient = self.app.test_client()

    def inbox(self) -> list[str]:
        return sorted(info.key for info in self.store.list("inbox/"))

    def left(self) -> list[Path]:
        """Return the temporary files."""
        return list(self.arrivals.folder.iterdir())

    def stow(self, *files: bytes, code: int = 200, study: str = "", **options: Any) -> Dataset:
        """Send files in one request; return the answer."""
        headers = {"Accept": "application/dicom+json", **options.pop("headers", {})}
        kind = options.pop("kind", 'multipart/related; type="application/dicom"; boundary=b0und')
        data = options.pop("data", body(*files))
        address = f"{STUDIES}/{study}" if study else STUDIES
        answer = self.client.post(address, data=data, content_type=kind, headers=headers, **options)
        assert answer.status_code == code, answer.get_data(as_text=True)
        assert answer.content_type == "application/dicom+json"
        assert self.left() == []
        return Dataset.from_json(answer.get_data(as_text=True))

    def refused(self, code: int, **options: Any) -> str:
        """Send a request that is refused as a whole; return the sentence."""
        kind = options.pop("kind", 'multipart/related; type="application/dicom"; boundary=b0und')
        answer = self.client.post(options.pop("path", STUDIES), content_type=kind, **options)
        assert answer.status_code == code, answer.get_data(as_text=True)
        assert self.left() == []
        return str(json.loads(answer.get_data())["error"])


def body(*files: bytes, kind: str = "application/dicom", end: bytes = b"\r\n--b0und--\r\n") -> bytes:
    head = f"\r\n--b0und\r\nContent-Type: {kind}\r\n\r\n".encode()
    return b"".join(head + one for one in files) + end


def stored(answer: Dataset) -> list[str]:
    return [str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence", [])]


def failures(answer: Dataset) -> list[tuple[str, int]]:
    failed, other = answer.get("FailedSOPSequence", []), answer.get("OtherFailuresSequence", [])
    return [
        (str(one.get("ReferencedSOPInstanceUID", "")), int(one.FailureReason)) for one in [*failed, *other]
    ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, FolderStore(tmp_path))
    yield site
    site.index.close()


def test_objects_arrive_as_they_were_sent(site: Site) -> None:
    sent = [xray(1), xray(2), dicoms.renamed(dicoms.SYNTAXES["JPEG 2000"][1](), "1.2.77.3")]
    answer = site.stow(*sent)
    assert stored(answer) == ["1.2.77.1", "1.2.77.2", "1.2.77.3"]
    assert answer.ReferencedSOPSequence[0].ReferencedSOPClassUID == dicoms.DIGITAL_XRAY
    assert failures(answer) == []
    found = [site.store.get(key, LIMIT) for key in site.inbox()]
    assert {data_set(one[1]) for one in found if one} == {data_set(one) for one in sent}
    assert not any("1.2.77" in key for key in site.inbox())


def test_the_same_again_changes_nothing_by_whichever_way(site: Site, tmp_path: Path) -> None:
    first = [xray(1), xray(2)]
    site.stow(*first)
    keys, heads = site.inbox(), [site.store.head(key) for key in site.inbox()]
    assert stored(site.stow(*first, first[0])) == ["1.2.77.1", "1.2.77.2", "1.2.77.1"]
    with served(tmp_path, site.store, log_key="key") as node:
        assert send(node.port, *first) == [0, 0]
    assert site.inbox() == keys
    assert [site.store.head(key) for key in keys] == heads


def test_other_pixels_under_one_uid_are_both_kept(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    other = xray(1, PatientAge="004Y")
    for _ in range(2):
        site.stow(xray(1), other)
    assert len(site.inbox()) == 2
    assert len([line for line in caplog.messages if "same UID" in line]) == 1


def test_good_and_bad_in_one_request(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    files = [
        xray(1),
        b"",
        b"not DICOM" * 100,
        xray(2, Manufacturer=MAKER),
        dicoms.written(dicoms.dataset(SOPClassUID="1.2.840.10008.5.1.4.1.1.2", SOPInstanceUID="1.2.77.3")),
        xray(4)[:-5000],
        xray(5, PatientComments="x" * LIMIT),
        xray(6).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"),
        xray(7).replace(b"1.2.77.7", b"1.2.77x7", 1),
        xray(8).replace(b"1.2.77.8", b"1.2.77.9", 1),
        xray(10),
    ]
    answer = site.stow(*files, code=202)
    assert stored(answer) == ["1.2.77.1", "1.2.77.10"]
    assert failures(answer) == [
        *(("1.2.77.2", 0xC000), ("1.2.77.3", 0x0122), ("1.2.77.4", 0xC000), ("1.2.77.5", 0xA700)),
        *(("1.2.77.6", 0xC122), ("1.2.77.9", 0xA900)),
        *(("", 0xC000), ("", 0xC000), ("", 0xC000)),
    ]
    said = [item[0x00000902].value for item in answer.FailedSOPSequence]
    assert said[0] == "it is a result of this program: do not route those here"
    assert "larger" in said[3]
    assert len(site.inbox()) == 2
    kept = caplog.text + (site.root / "audit.jsonl").read_text()
    assert not [word for word in ("1.2.77", "Zaphod", "not DICOM") if word in kept]
    lines = [json.loads(line) for line in (site.root / "audit.jsonl").read_text().splitlines()]
    assert [(line["action"], line["result"]) for line in lines] == [("upload", "done")] * 2


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (xray(1, Manufacturer=MAKER), 409, 0xC000),
        (xray(1, PatientComments="x" * LIMIT), 413, 0xA700),
        (dicoms.dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), 409, 0x0122),
    ],
)
def test_nothing_stored(site: Site, data: bytes, code: int, reason: int) -> None:
    answer = site.stow(data, data, code=code)
    assert [one[1] for one in failures(answer)] == [reason] * 2
    assert site.inbox() == []


def test_a_single_part(site: Site) -> None:
    kind = "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    assert stored(site.stow(data=xray(1), kind=kind)) == ["1.2.77.1"]
    assert stored(site.stow(data=xray(2), kind="application/dicom", study=STUDY)) == ["1.2.77.2"]
    site.stow(data=b"", kind="application/dicom", code=409)
    assert len(site.inbox()) == 2


def test_the_study_in_the_address_has_to_match(site: Site) -> None:
    answer = site.stow(xray(1), xray(2, StudyInstanceUID="1.2.78"), code=202, study=STUDY)
    assert (stored(answer), failures(answer)) == (["1.2.77.1"], [("1.2.77.2", 0xA900)])
    assert failures(site.stow(xray(3), code=409, study="1.2")) == [("1.2.77.3", 0xA900)]
    assert "Study Instance UID" in site.refused(400, path=f"{STUDIES}/ZAPHOD", data=body(xray(1)))
    assert len(site.inbox()) == 1


def test_bodies_that_are_cut_or_empty(site: Site) -> None:
    whole = body(xray(1), xray(2))
    answer = site.stow(data=whole[:-2000], code=202)
    assert (stored(answer), failures(answer)) == (["1.2.77.1"], [("", 0xC000)])
    assert len(site.inbox()) == 1
    assert "ends within a part" in site.refused(400, data=body(xray(3))[:-2000])
    assert "no object" in site.refused(400, data=b"--b0und--")
    assert "boundary" in site.refused(400, data=whole, kind="multipart/related; type=application/dicom")
    other = 'multipart/related; type="application/dicom"; boundary=other'
    assert "before its first part" in site.refused(400, data=whole, kind=other)
    assert "before its first part" in site.refused(400, data=b"")
    endless = b"--b0und\r\n" + b"A: b\r\n" * 10_000 + b"\r\n" + xray(4) + b"\r\n--b0und--"
    assert "too long" in site.refused(400, data=endless)
    assert len(site.inbox()) == 1


def test_other_types_are_refused_with_a_sentence(site: Site) -> None:
    for kind in (
        'multipart/related; type="application/dicom+json"; boundary=b0und',
        'multipart/related; type="application/dicom+xml"; boundary=b0und',
        "application/dicom+json",
        "application/json",
        "multipart/form-data; boundary=b0und",
        "",
    ):
        assert "whole DICOM files" in site.refused(415, data=body(xray()), kind=kind)
    answer = site.stow(data=body(b"{}", kind="application/dicom+json"), code=415)
    assert failures(answer) == [("", 0xC000)]
    mixed = body(xray(1), end=b"") + body(b"{}", kind="application/dicom+json")
    assert stored(site.stow(data=mixed, code=202)) == ["1.2.77.1"]
    encoded = body(b64encode(xray(2)), kind="application/dicom\r\nContent-Transfer-Encoding: base64")
    site.stow(data=encoded, code=409)
    gzip = {"Content-Encoding": "gzip"}
    assert "Content-Encoding" in site.refused(415, data=body(xray(2)), headers=gzip)
    for accept in ("application/dicom+xml", "text/html"):
        sentence = site.refused(406, data=body(xray(2)), headers={"Accept": accept})
        assert "application/dicom+json" in sentence
    site.stow(xray(1), headers={"Content-Encoding": "Identity"})
    for accept in (
        "*/*",
        "application/dicom+json; charset=utf-8",
        "application/dicom+xml;q=0.1, application/dicom+json",
    ):
        site.stow(xray(1), headers={"Accept": accept})
    for kind in (
        "multipart/related; type=application/dicom; boundary=b0und",  # unquoted, as Orthanc writes it
        'Multipart/Related;boundary="b0und";TYPE="application/dicom"',
        "multipart/related; boundary=b0und",
    ):
        site.stow(xray(1), kind=kind)
    assert len(site.inbox()) == 1


def test_too_much_in_one_request(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow, "_MOST_OBJECTS", 2)
    assert failures(site.stow(xray(1), xray(2))) == []
    answer = site.stow(xray(1), xray(2), xray(3), code=202)
    assert (len(stored(answer)), failures(answer)) == (2, [("", 0xA700)])
    assert "too large" in site.refused(413, data=body(bytes(4 * LIMIT + 1_000_000)))


def test_a_full_disk_is_told_and_loses_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("the folder cannot be written to: No space left on device")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def broken(*_: object) -> None:
        raise RuntimeError("Zaphod")

    for target, name, raising, code, reason in (
        (site.store, "put_file", full, 503, 0xA700),
        (arrivals.Arrival, "_append", full_disk, 503, 0xA700),
        (site.store, "put_file", broken, 500, 0x0110),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, raising)
            answer = site.stow(xray(1), xray(2), code=code)
        assert failures(answer) == [("1.2.77.1", reason), ("1.2.77.2", reason)]
    assert site.inbox() == []
    assert len(stored(site.stow(xray(1), xray(2)))) == 2


def test_who_may_send(tmp_path: Path) -> None:
    site = Site(tmp_path, FolderStore(tmp_path), Access(users=USERS))
    data = body(xray(1))
    assert "password" in site.refused(401, data=data)
    assert "password" in site.refused(401, data=data, headers=basic("ada", "wrong"))
    site.stow(xray(1), headers=basic("ada"))
    [line] = [line for line in (tmp_path / "audit.jsonl").read_text().splitlines() if "upload" in line]
    assert (json.loads(line)["user"], json.loads(line)["action"]) == ("ada", "upload")
    site.index.close()
    proxied = Site(tmp_path / "b", FolderStore(tmp_path / "b"), Access(header="X-User"))
    proxied.refused(403, data=data, headers={"X-User": "eve"})
    proxied.index.close()
    proxies = (ip_network("127.0.0.1"),)
    behind = Site(tmp_path / "c", FolderStore(tmp_path / "c"), Access(header="X-User", proxies=proxies))
    behind.refused(401, data=data)
    behind.stow(xray(1), headers={"X-User": "grace"})
    assert '"grace"' in (tmp_path / "c/audit.jsonl").read_text()
    behind.index.close()


def test_another_site_may_not_send_through_a_browser(site: Site) -> None:
    data = body(xray(1))
    assert "another site" in site.refused(403, data=data, headers={"Origin": "https://evil.example"})
    assert "another site" in site.refused(403, data=data, headers={"Sec-Fetch-Site": "cross-site"})
    assert "host name" in site.refused(400, data=data, headers={"Host": "evil.example"})
    answer = site.client.options(STUDIES, headers={"Origin": "https://evil.example"})
    assert answer.headers["Allow"].split(", ").count("POST") == 1
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
    assert site.inbox() == []


def test_what_is_not_offered_is_said(site: Site) -> None:
    for path in ("/dicom-web/", STUDIES, f"{STUDIES}/1.2/series", "/dicom-web/instances?PatientID=1"):
        answer = site.client.get(path)
        assert answer.status_code == 501
        assert "STOW-RS" in json.loads(answer.get_data())["error"]
    assert site.client.post("/dicom-web/instances", data=b"").status_code == 405
    assert site.client.delete(STUDIES).status_code == 405


def test_a_bucket(tmp_path: Path, s3_store: S3Store) -> None:
    site = Site(tmp_path, s3_store, bucket="cxr-test")
    other = xray(1, PatientAge="004Y")
    for _ in range(2):
        assert len(stored(site.stow(xray(1), other))) == 2
    assert len(site.inbox()) == 2
    site.index.close()
    site = Site(tmp_path, S3Store("no-bucket", s3_store._client), bucket="no-bucket")
    answer = site.stow(xray(1), code=503)
    assert failures(answer) == [("1.2.77.1", 0xA700)]
    site.index.close()


@pytest.mark.whole
def test_a_usual_client_and_a_stalling_one(tmp_path: Path) -> None:
    site = Site(tmp_path, FolderStore(tmp_path), Access(users=USERS))
    channels: dict[int, wasyncore.dispatcher] = {}
    server = make_server(site.app, "127.0.0.1", 0, 2, channels, request_seconds=1.0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.effective_port}/dicom-web"
        client = DICOMwebClient(url, headers=basic("ada"), chunk_size=10_000)  # which sends in chunks
        sets = [dcmread(io.BytesIO(xray(number))) for number in range(3)]
        assert len(stored(client.store_instances(sets))) == 3
        assert len(stored(client.store_instances(sets, study_instance_uid=STUDY))) == 3
        assert len(site.inbox()) == 3
        for number, words in enumerate(CURL):
            (tmp_path / "xray.dcm").write_bytes(xray(10 + number))
            command = ["curl", "-sS", "-u", f"ada:{PASSWORD}", *words, f"{url}/studies"]
            sent = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=20, check=True)
            assert stored(Dataset.from_json(sent.stdout.decode())) == [f"1.2.77.{10 + number}"]
        stalled(server.effective_port)
        wait_for(lambda: not site.left())
    finally:
        server.trigger.pull_trigger(lambda: wasyncore.close_all(channels, ignore_all=True))
        thread.join(10)
        server.task_dispatcher.shutdown(timeout=5)
        site.index.close()


def stalled(port: int) -> None:
    """Send a byte now and then until the server has had enough."""
    head = (
        f"POST {STUDIES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
        f"Authorization: {basic('ada', PASSWORD)['Authorization']}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.encode())
        began = time.monotonic()
        while time.monotonic() - began < 10:
            try:
                connection.sendall(b"x")
                time.sleep(0.1)
                connection.settimeout(0.01)
                if connection.recv(100) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    raise AssertionError("the connection was not closed")


@settings(max_examples=200, deadline=None)
@given(some.binary(max_size=64), some.integers(0, 400), some.integers(0, 64), some.booleans())
def test_no_header_of_a_file_raises_anything_else(junk: bytes, place: int, cut: int, is_cut: bool) -> None:
    whole = xray()[:1000]
    data = whole[:place] + junk + whole[place + cut :]
    with suppress(InputRejected):
        sop_class, instance, syntax, start = network.announce(data[:place] if is_cut else data)
        assert sop_class
        assert instance
        assert syntax
        assert 0 < start <= len(data)


def test_the_description_for_programs_knows_it(site: Site) -> None:
    described = json.loads(site.client.get("/api/openapi.json").data)
    posts = {path: entry["post"] for path, entry in described["paths"].items() if "dicom-web" in path}
    assert set(posts) == {STUDIES, f"{STUDIES}/{{study}}"}
    assert set(posts[STUDIES]["requestBody"]["content"]) == {"multipart/related", "application/dicom"}
    assert {"200", "202", "400", "406", "409", "413", "415", "503"} <= set(posts[STUDIES]["responses"])
