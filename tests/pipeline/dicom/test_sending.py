"""Sending results: by C-STORE to DCMTK and pynetdicom, with each answer that there is, and by STOW-RS."""

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt

from handlers import wiring
from pipeline.dicom import pdu, store_scu
from pipeline.dicom.commitment import COMMITMENT, COMMITMENT_INSTANCE, CommitmentReports, new_transaction
from pipeline.dicom.outbound import objects_of, tls_of
from pipeline.dicom.store_scu import Peer, StoreScu
from pipeline.dicom.stow_client import StowClient
from pipeline.errors import UsageError
from pipeline.judge import read_verdict
from pipeline.names import verdict_key
from pipeline.outgoing.delivery import Awaiting, Delivery, DestinationDown, NothingToSend, TryAgain
from pipeline.settings.tables import SendTo
from tests.support.dicom_senders import TITLE, Raw, command, served
from tests.support.fakes import MemoryStore
from tests.support.machines import Process, free_port, listens, wait_for
from tests.support.orthanc import Orthanc, needs_orthanc
from tests.support.results import KEY, classified, maker, source, stored


class Heard:
    """Note what is confirmed."""

    def __init__(self) -> None:
        self.said: dict[str, str | None] = {}
        self.reports = wiring._reports(self.confirm)

    def confirm(self, transaction: str, why_not: str | None) -> None:
        self.said[transaction] = why_not


@pytest.fixture
def store() -> MemoryStore:
    return stored(source(), classified())


def delivery(store: MemoryStore) -> Delivery:
    seen = store.get(verdict_key(KEY), 1_000_000)
    assert seen
    verdict = read_verdict(store, verdict_key(KEY)).verdict
    assert verdict
    return Delivery(KEY, seen[0].etag, verdict)


def scu(store: MemoryStore, port: int, reports: CommitmentReports | None = None, **more: Any) -> StoreScu:
    peer = Peer("PACS", "127.0.0.1", port, TITLE, **more)
    return StoreScu("PACS", peer, maker(store), reports)


class Pacs:
    """Store objects as told, and answer a request for commitment as told."""

    def __init__(self, offers: bool = True) -> None:
        self.ae = AE("PACS")
        self.ae.supported_contexts = AllStoragePresentationContexts
        if offers:
            self.ae.add_supported_context(COMMITMENT)
        self.statuses: list[int] = [0]
        self.answer = 0  # to a request for commitment
        self.got: list[str] = []
        self.asked: list[Dataset] = []
        self.on_asked: Callable[[Any], None] = lambda event: None
        self.port = 0

    @contextmanager
    def running(self, tls: ssl.SSLContext | None = None) -> Iterator["Pacs"]:
        opened: list[socket.socket] = []  # pynetdicom leaves them open when we close first
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._action),
            (evt.EVT_CONN_OPEN, lambda event: opened.append(event.assoc.dul.socket.socket)),
        ]
        address = ("127.0.0.1", 0)
        server = self.ae.start_server(address, block=False, evt_handlers=handlers, ssl_context=tls)
        assert server
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            server.shutdown()
            for connection in opened:
                connection.close()

    def _store(self, event: Any) -> int:
        self.got.append(event.dataset.Modality)
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def _action(self, event: Any) -> tuple[int, None]:
        self.asked.append(event.action_information)
        threading.Thread(target=self.on_asked, args=[event], daemon=True).start()
        return self.answer, None


def report(asked: Dataset, fails: int = 0) -> Dataset:
    """Return the report on what was asked for; the first objects are not kept."""
    said, objects = Dataset(), list(asked.ReferencedSOPSequence)
    said.TransactionUID = asked.TransactionUID
    if fails:
        said.FailedSOPSequence = objects[:fails]
        for one in said.FailedSOPSequence:
            one.FailureReason = 0x0112
    said.ReferencedSOPSequence = objects[fails:]
    return said


def tell(port: int, said: Dataset, event: int = 1, title: str = "PACS") -> int:
    """Report over an association of our own, as a PACS does; return the answer's status."""
    ae = AE(title)
    ae.add_requested_context(COMMITMENT)
    role = build_role(COMMITMENT, scp_role=True)
    association = ae.associate("127.0.0.1", port, ae_title=TITLE, ext_neg=[role])
    assert association.is_established
    try:
        answer, _ = association.send_n_event_report(said, event, COMMITMENT, COMMITMENT_INSTANCE)
        return int(answer.Status)
    finally:
        association.release()


@pytest.mark.skipif(not shutil.which("storescp"), reason="needs Debian's dcmtk")
def test_dcmtk_stores_both_objects(store: MemoryStore, tmp_path: Path) -> None:
    port = free_port()
    process = Process(["storescp", "-od", str(tmp_path), "-aet", "PACS", str(port)], tmp_path / "log")
    try:
        wait_for(lambda: listens(port), what="storescp")
        assert scu(store, port).deliver(delivery(store)) is None
        assert scu(store, port, Heard().reports).deliver(delivery(store)) is None  # it offers no commitment
    finally:
        process.kill()
    found = [dcmread(path) for path in tmp_path.iterdir() if path.name != "log"]
    assert sorted(str(one.Modality) for one in found) == ["OT", "SR"]
    assert {one.StudyInstanceUID for one in found} == {"1.2.3"}


@pytest.mark.parametrize(
    ("statuses", "error", "sentence"),
    [
        ([0xB000, 0xB007], None, ""),
        ([0x0111], None, ""),  # it is there already
        ([0xA700], DestinationDown, "it has no room (status A700)"),
        ([0x0000, 0x0110], TryAgain, "it refused the Secondary Capture Image Storage with status 0110"),
        ([0xC000], TryAgain, "it refused the Comprehensive SR Storage with status C000"),
    ],
)
def test_each_status_has_its_meaning(
    store: MemoryStore, statuses: list[int], error: type[TryAgain] | None, sentence: str
) -> None:
    pacs = Pacs()
    pacs.statuses = statuses
    with pacs.running():
        if error is None:
            assert scu(store, pacs.port).deliver(delivery(store)) is None
            return
        with pytest.raises(error) as raised:
            scu(store, pacs.port).deliver(delivery(store))
    assert (type(raised.value), str(raised.value)) == (error, sentence)


def test_a_pacs_that_does_not_know_us_or_the_class(store: MemoryStore) -> None:
    with pytest.raises(DestinationDown, match=r"^it does not answer$"):
        scu(store, free_port()).deliver(delivery(store))
    for name in ("nosuch.invalid", "a..b"):
        with pytest.raises(DestinationDown, match=r"^its name cannot be found$"):
            StoreScu("PACS", Peer("PACS", name, 104, TITLE), maker(store), None).deliver(delivery(store))
    pacs = Pacs()
    pacs.ae.require_calling_aet = ["ANOTHER"]
    with pacs.running(), pytest.raises(DestinationDown, match=f"Calling AE.*: enter {TITLE} there"):
        scu(store, pacs.port).deliver(delivery(store))
    pacs = Pacs()
    pacs.ae.supported_contexts = []
    pacs.ae.add_supported_context("1.2.840.10008.5.1.4.1.1.7")
    with (
        pacs.running(),
        pytest.raises(TryAgain, match="does not accept the class Comprehensive SR") as raised,
    ):
        scu(store, pacs.port).deliver(delivery(store))
    assert type(raised.value) is TryAgain


@pytest.mark.parametrize("accepts", [False, True])
def test_one_that_stalls_is_left(store: MemoryStore, monkeypatch: pytest.MonkeyPatch, accepts: bool) -> None:
    """It never answers, or stops to read in the middle of the data; the program may end meanwhile."""
    monkeypatch.setattr(store_scu, "_ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        began, started, start = time.monotonic(), [], threading.Thread.start

        def noted(thread: threading.Thread) -> None:
            started.append(thread.daemon)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", noted)
        if accepts:
            thread = threading.Thread(target=_accept_and_stall, args=[server], daemon=True)
            thread.start()
        with pytest.raises(DestinationDown):
            scu(store, server.getsockname()[1]).deliver(delivery(store))
        assert time.monotonic() - began < 8
        assert len(started) > 1
        assert all(started)


def _accept_and_stall(server: socket.socket) -> None:
    connection, _ = server.accept()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    head = connection.recv(6)
    body = b""
    while len(body) < int.from_bytes(head[2:], "big"):
        body += connection.recv(4096)
    classes = frozenset(("1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"))
    answer, _ = pdu.agreed(pdu.Request.read(memoryview(body)), classes, ("1.2.840.10008.1.2.1",), frozenset())
    connection.sendall(answer)
    time.sleep(5)
    connection.close()


def test_commitment_on_the_same_association(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_scu, "_REPORT_SECONDS", 20.0)  # it ends when the report comes
    heard, pacs = Heard(), Pacs()

    def answer(event: Any) -> None:
        time.sleep(0.05)
        event.assoc.send_n_event_report(report(pacs.asked[0]), 1, COMMITMENT, COMMITMENT_INSTANCE)

    pacs.on_asked = answer
    with pacs.running():
        sent = scu(store, pacs.port, heard.reports).deliver(delivery(store))
    assert isinstance(sent, Awaiting)
    assert heard.said == {sent.transaction: None}
    assert len(pacs.asked[0].ReferencedSOPSequence) == 2


def test_commitment_over_another_association(store: MemoryStore, tmp_path: Path) -> None:
    heard, pacs = Heard(), Pacs()
    with pacs.running():
        sent = scu(store, pacs.port, heard.reports).deliver(delivery(store))
    assert isinstance(sent, Awaiting)
    assert heard.said == {}
    with served(tmp_path, MemoryStore(), confirm=heard.confirm) as node:
        assert tell(node.port, report(pacs.asked[0])) == 0
        assert heard.said == {sent.transaction: None}
        assert tell(node.port, report(pacs.asked[0], fails=1), 2) == 0
        assert heard.said == {sent.transaction: "it did not keep 1 of the objects"}
        part = report(pacs.asked[0])
        part.ReferencedSOPSequence = part.ReferencedSOPSequence[:1]
        assert tell(node.port, part) == 0
        assert heard.said == {sent.transaction: "it confirmed other objects than it was sent"}


def test_one_that_refuses_commitment_to_us(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Count what it stored as delivered then."""
    heard, pacs = Heard(), Pacs()
    pacs.answer = 0x0124
    with pacs.running():
        refused = scu(store, pacs.port, heard.reports)
        with pytest.raises(TryAgain, match="status 0124 when it was asked"):
            refused.deliver(delivery(store))
        assert refused.deliver(delivery(store)) is None
        assert refused.deliver(delivery(store)) is None
        pacs.answer = 0
        assert isinstance(refused.deliver(delivery(store)), Awaiting)
    assert caplog.text.count("refuses storage commitment") == 1


@pytest.mark.parametrize("how", ["busy", "fails", "silent", "cut"])
def test_one_that_cannot_answer_about_commitment_now(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Nothing of that is a refusal, however often it happens."""
    monkeypatch.setattr(store_scu, "_ANSWER_SECONDS", 0.5 if how == "silent" else 5)
    pacs, done = Pacs(), threading.Event()
    pacs.answer = {"busy": 0x0213, "fails": 0x0110}.get(how, 0)

    def action(event: Any) -> tuple[int, None]:
        if how == "cut":
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        if how == "silent":
            done.wait(1)
        return pacs.answer, None

    monkeypatch.setattr(pacs, "_action", action)
    with pacs.running():
        busy = scu(store, pacs.port, Heard().reports)
        for _ in range(6 if how != "silent" else 3):
            with pytest.raises(TryAgain, match=r"when it was asked|broke off"):
                busy.deliver(delivery(store))
        done.set()


@needs_orthanc
def test_an_orthanc_that_does_not_know_us(store: MemoryStore, tmp_path: Path) -> None:
    with Orthanc(tmp_path, {}).running() as orthanc:
        unknown = scu(store, orthanc.dicom_port, Heard().reports)
        for _ in range(4):  # it aborts
            with pytest.raises(TryAgain, match="broke off when it was asked"):
                unknown.deliver(delivery(store))
        assert unknown.deliver(delivery(store)) is None
        assert orthanc.kinds() == [("1.2.3", "OT"), ("1.2.3", "SR")]


def test_reports_that_break_the_rules(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    with served(tmp_path, MemoryStore(), confirm=heard.confirm) as node:
        said = Dataset()
        said.PatientName = "Zaphod"
        assert tell(node.port, said) == 0x0110
        huge = Dataset()
        huge.TransactionUID, huge.TextValue = new_transaction(["1.2"]), "Zaphod" * 100_000
        assert tell(node.port, huge) == 0x0110
        with Raw(node.port) as raw:
            assert raw.request(COMMITMENT) == 2
            raw.fragment(3, command(0x0100, COMMITMENT, COMMITMENT_INSTANCE, has_data=True))
            raw.data(b"\x08\0\x95\x11UI\xff\xff1.2")
            assert raw.status() == 0x0110
            raw.store(sop_class=COMMITMENT)  # an object of that class
            raw.data(b"")
            assert raw.status() == 0x0211
            raw.fragment(3, command(0x0100, "1.2.3", COMMITMENT_INSTANCE, has_data=True))
            raw.data(b"")
            assert raw.status() == 0x0122
        assert node.inbox() == []
    assert heard.said == {}
    assert "Zaphod" not in caplog.text
    with served(tmp_path, MemoryStore()) as node, Raw(node.port) as raw:  # that sends nothing
        raw.request(COMMITMENT)
        raw.fragment(3, command(0x0100, COMMITMENT, COMMITMENT_INSTANCE, has_data=True))
        assert raw.answer()[0] == 7


def test_tls_with_certificates_on_both_sides(store: MemoryStore, tmp_path: Path) -> None:
    for name in ("pacs", "ours"):
        subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.pem"]
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        subprocess.run(["openssl", "req", *kind, *subject, *files], check=True, capture_output=True)
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "ours.pem")
    theirs.load_cert_chain(tmp_path / "pacs.pem", tmp_path / "pacs.key")
    theirs.verify_mode = ssl.CERT_REQUIRED
    pacs = Pacs()
    table = {"name": "PACS", "to": "dicoms://PACS@127.0.0.1", "ca": tmp_path / "pacs.pem"}
    known = SendTo(**table, certificate=tmp_path / "ours.pem", key=tmp_path / "ours.key")
    with pacs.running(theirs):
        assert scu(store, pacs.port, tls=tls_of(known)).deliver(delivery(store)) is None
        assert sorted(pacs.got) == ["OT", "SR"]
        with pytest.raises(DestinationDown):
            scu(store, pacs.port, tls=tls_of(SendTo(**table))).deliver(delivery(store))
        with pytest.raises(DestinationDown, match="certificate is not trusted"):
            scu(store, pacs.port, tls=ssl.create_default_context()).deliver(delivery(store))
    with pytest.raises(UsageError, match="cannot be used"):
        tls_of(SendTo(**{**table, "ca": tmp_path / "none.pem"}))


def test_there_is_nothing_to_send_of_other_files(store: MemoryStore) -> None:
    found = delivery(store)
    other = found.verdict.source.model_copy(update={"media_type": "image/jpeg"})
    jpeg = Delivery(KEY, found.verdict_etag, found.verdict.model_copy(update={"source": other}))
    with pytest.raises(NothingToSend):
        scu(store, 1).deliver(jpeg)
    with pytest.raises(TryAgain, match="replaced"):
        scu(store, 1).deliver(Delivery(KEY, "another", found.verdict))
    store.put(KEY, source(PatientID="18"), store.head(KEY).etag)  # type: ignore[union-attr]
    with pytest.raises(TryAgain, match="replaced after its verdict"):
        scu(store, 1).deliver(found)
    store.delete(KEY)
    with pytest.raises(NothingToSend, match="no longer in the inbox"):
        scu(store, 1).deliver(found)


class Web(BaseHTTPRequestHandler):
    """Answer a request as the test says."""

    answer: ClassVar[tuple[int, dict[str, str], bytes | None]] = (200, {}, None)
    confirms: ClassVar[bytes] = b""  # the answer without bytes of its own
    asked: ClassVar[list[tuple[str, dict[str, str], int]]] = []

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        got = len(self.rfile.read(size)) if size else self._chunks()
        self.asked.append((self.path, dict(self.headers), got))
        status, headers, given = self.answer
        body = self.confirms if given is None else given
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _chunks(self) -> int:
        total = 0
        while size := int(self.rfile.readline(), 16):
            total += len(self.rfile.read(size))
            self.rfile.readline()
        return total

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Web.asked.clear()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(10)


JSON = {"Content-Type": "application/dicom+json"}
UTF8 = {"Content-Type": "application/dicom+json;charset=UTF-8"}
UNSAID = "it did not say that it stored the objects: is the address right?"
OTHER = {"0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0x0110]}}]}}
XML = b'<?xml version="1.0"?><NativeDicomModel></NativeDicomModel>'


def said(store: MemoryStore, tag: str = "00081199", reason: int | None = None) -> bytes:
    """Return the answer that lists all objects of the verdict."""
    uids = [one.uid for one in objects_of(maker(store), delivery(store))]
    items: list[dict[str, Any]] = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in uids]
    for item in items if reason is not None else ():
        item["00081197"] = {"vr": "US", "Value": [reason]}
    return json.dumps({tag: {"vr": "SQ", "Value": items}}).encode()


PART = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA900]}}]}}
FULL = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA700]}}]}}


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        ((200, JSON, None), None, ""),
        ((200, UTF8, None), None, ""),
        ((200, JSON, b"{}"), TryAgain, UNSAID),
        ((200, {}, b""), TryAgain, UNSAID),
        ((200, {"Content-Type": "text/html"}, b"<html>Zaphod"), TryAgain, UNSAID),
        ((200, {"Content-Type": "application/dicom+xml"}, XML), TryAgain, UNSAID),
        ((202, UTF8, json.dumps(PART).encode()), TryAgain, "it refused 1 of the objects (reason A900)"),
        ((202, JSON, json.dumps(OTHER).encode()), TryAgain, "it refused 1 of the objects (reason 0110)"),
        ((409, JSON, b"{}"), TryAgain, "it refused the objects (HTTP 409)"),
        ((202, JSON, json.dumps(PART).encode()), TryAgain, "it refused 1 of the objects (reason A900)"),
        ((409, JSON, json.dumps(PART).encode()), TryAgain, "it refused 1 of the objects (reason A900)"),
        ((409, JSON, json.dumps(FULL).encode()), DestinationDown, "it has no room (reason A700)"),
        ((409, {}, b"Zaphod"), TryAgain, "it refused the objects (HTTP 409)"),
        ((401, {}, b"Zaphod"), DestinationDown, "it does not let us in (HTTP 401): check user,"),
        ((503, {}, b""), DestinationDown, "it cannot take anything now (HTTP 503)"),
        ((302, {"Location": "/b"}, b""), DestinationDown, "it redirects to another address: name that one"),
        ((200, JSON, b"{" * 3000), TryAgain, "its answer cannot be read ("),
        ((200, JSON, b" " * 2_000_000), DestinationDown, "the connection broke off, or it took"),
    ],
)
def test_each_answer_of_stow_has_its_meaning(
    store: MemoryStore,
    web: str,
    answer: tuple[int, dict[str, str], bytes | None],
    error: type[TryAgain] | None,
    sentence: str,
) -> None:
    Web.answer, Web.confirms = answer, said(store)
    client = StowClient(SendTo(name="web", to=f"{web}/dicom-web", user="Ada", password="é"), maker(store))
    if error is None:
        client.deliver(delivery(store))
    else:
        with pytest.raises(error) as raised:
            client.deliver(delivery(store))
        assert type(raised.value) is error
        assert str(raised.value).startswith(sentence)
    [(path, headers, size)] = Web.asked
    assert path == "/dicom-web/studies"
    assert headers["Authorization"].startswith("Basic QWRhOs")
    assert size > 100_000


def test_a_token_and_a_web_server_that_is_away(store: MemoryStore, web: str) -> None:
    Web.answer = 200, {}, said(store)
    StowClient(SendTo(name="web", to=web, token="t0ken"), maker(store)).deliver(delivery(store))
    assert Web.asked[0][1]["Authorization"] == "Bearer t0ken"
    with pytest.raises(DestinationDown, match="does not answer"):
        StowClient(SendTo(name="web", to=f"http://127.0.0.1:{free_port()}"), maker(store)).deliver(
            delivery(store)
        )


@pytest.mark.parametrize("status", [200, 202, 409])
def test_stow_to_one_that_has_the_objects_already(store: MemoryStore, web: str, status: int) -> None:
    client = StowClient(SendTo(name="web", to=web), maker(store))
    Web.answer = status, UTF8, said(store, "00081198", 0x0111)
    client.deliver(delivery(store))
    Web.answer = status, UTF8, said(store, "00081198", 0x0110)
    with pytest.raises(TryAgain, match=r"it refused 2 of the objects \(reason 0110\)"):
        client.deliver(delivery(store))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"to": "dicom://P@a..b:104"}, "its host is no name or address"),
        ({"to": "dicom://P@ho st:104"}, "its host is no name or address"),
        ({"to": f"https://{'h' * 64}/x"}, "its host is no name or address"),
        ({"to": f"dicom://P@{'h.' * 130}h"}, "its host is no name or address"),
        ({"to": "https://ho\nst/x"}, "line break or another control character"),
        ({"to": "https://:p@h/x"}, "user and password have settings of their own"),
        ({"to": "https://@h/x"}, "user and password have settings of their own"),
        ({"to": "dicom://P:@h"}, "write dicom://AETITLE@host:port"),
        ({"to": "https://h", "token": "a\nb"}, "write a token of ASCII letters"),
        ({"to": "https://h", "token": ""}, "write a token of ASCII letters"),
        ({"to": "https://h", "user": "", "password": "p"}, "it is empty, or holds a line break"),
        ({"to": "https://h", "user": "u", "password": "p\x00"}, "it is empty, or holds a line break"),
    ],
)
def test_addresses_and_secrets_that_cannot_be_used(table: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        SendTo(name="PACS", **table)


@pytest.mark.parametrize(
    "host", ["pacs", "pacs_1.example.", "10.1.2.3", "[::1]", "[fe80::1%25eth0]", "röntgen.de"]
)
def test_hosts_that_may_be_there(host: str) -> None:
    expected = host.strip("[]").replace("%25", "%")
    assert SendTo(name="PACS", to=f"dicom://P@{host}:104").peer == ("P", expected, 104)
