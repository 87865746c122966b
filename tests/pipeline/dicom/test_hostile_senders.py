"""Senders that stall, flood, break off or may not call: each costs little, and makes one line in the log."""

import logging
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as some

from pipeline.dicom import pdu
from pipeline.dicom.pdu import Command, ProtocolError, Request
from pipeline.errors import HostError, UsageError
from pipeline.running import background
from pipeline.running.background import Background
from pipeline.settings import Settings
from pipeline.store.folder import FolderStore
from tests.support import dicoms
from tests.support.dicom_senders import Raw, Served, needs_dcmtk, node_of, send, served, storescu
from tests.support.machines import listens, wait_for

IDLE = 0.4


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, FolderStore(tmp_path), dicom_idle_seconds=IDLE, dicom_associations=2) as running:
        yield running


def is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING and record.name.startswith("pipeline.")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if is_warning(record)]


def the_warning(caplog: pytest.LogCaptureFixture) -> str:
    """Wait for the one line of a warning."""
    wait_for(lambda: warnings(caplog), 5)
    [line] = warnings(caplog)
    return line


def test_another_ae_title_is_rejected(node: Served, caplog: pytest.LogCaptureFixture) -> None:
    with Raw(node.port) as raw:
        assert raw.request(called="ZAPHOD", calling="BEEBLEBROX") == 3
    line = the_warning(caplog)
    assert "enter CXR-INBOX" in line
    assert "127.0.0.1" in line
    assert "ZAPHOD" not in caplog.text
    assert "BEEBLEBROX" not in caplog.text


def test_only_listed_senders_may_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(tmp_path, FolderStore(tmp_path), calling_ae_titles=("CT 1", "XRAY")) as node:
        assert send(node.port, dicoms.dicom(), calling="XRAY") == [0]
        assert send(node.port, dicoms.dicom(), calling="OTHER") == [-1]
    assert "calling_ae_titles" in the_warning(caplog)


def test_only_listed_addresses_may_connect(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(tmp_path, FolderStore(tmp_path), dicom_callers=("10.1.2.0/24", "::1")) as node:
        for _ in range(3):
            with Raw(node.port) as raw:
                assert raw.answer()[0] == 0  # closed before it says a word
    assert "dicom_callers" in the_warning(caplog)


def test_the_limit_of_associations(node: Served, caplog: pytest.LogCaptureFixture) -> None:
    with Raw(node.port) as first, Raw(node.port) as second:
        assert [first.request(), second.request()] == [2, 2]
        with Raw(node.port) as third:
            assert third.request() == 3
        assert "as many associations" in the_warning(caplog)
        first.send(5, bytes(4))
        assert first.answer()[0] == 6
    wait_for(lambda: send(node.port, dicoms.dicom()) == [0], 5)


def test_a_crowd_of_connections_makes_few_threads(node: Served) -> None:
    before = threading.active_count()
    crowd = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(60)]
    time.sleep(0.2)
    assert threading.active_count() - before <= 2 + 8
    for one in crowd:
        one.close()
    wait_for(lambda: send(node.port, dicoms.dicom()) == [0], 5)


@pytest.mark.parametrize("where", ["silent", "asked", "command", "object"])
def test_a_sender_that_stalls_meets_its_deadline(
    where: str, node: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Raw(node.port) as raw:
        if where != "silent":
            raw.request()
        if where == "command":
            raw.fragment(1, b"\0")
        if where == "object":
            raw.store()
            raw.fragment(0, bytes(1000))
            raw.socket.sendall(b"\4\0\0\0")  # and half of a message
        began = time.monotonic()
        assert raw.answer()[0] == 7
        assert IDLE / 2 < time.monotonic() - began < 5 * IDLE
    assert "no whole message came for 0.4 s" in the_warning(caplog)
    wait_for(lambda: not list((tmp_path / ".cxr/dicom-up").iterdir()), 5)


def test_a_sender_that_trickles_meets_its_deadline(node: Served, caplog: pytest.LogCaptureFixture) -> None:
    """A byte now and then is no message."""
    with Raw(node.port) as raw:
        raw.request()
        began = time.monotonic()
        raw.send_until_closed(b"\4", IDLE / 4, 100)
        assert time.monotonic() - began < 10 * IDLE
    assert "no whole message" in the_warning(caplog)


def test_an_endless_association_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(tmp_path, FolderStore(tmp_path), dicom_total_seconds=0.5) as node, Raw(node.port) as raw:
        raw.request()
        raw.store()
        raw.send_until_closed(struct.pack(">BxLLBB", 4, 16, 12, 1, 0) + bytes(10), 0.02, 500)
    assert "lasted too long" in the_warning(caplog)


def test_an_association_that_breaks_off_in_an_object(
    node: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Raw(node.port) as raw:
        raw.request()
        raw.store()
        raw.fragment(0, bytes(1000))
    assert "after 0 objects" in the_warning(caplog)
    assert node.inbox() == []
    assert list((tmp_path / ".cxr/dicom-up").iterdir()) == []


def test_a_check_of_the_port_is_no_warning(node: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Raw(node.port).socket.close()
    wait_for(lambda: "the connection was closed" in caplog.text, 5)
    assert warnings(caplog) == []


@pytest.mark.parametrize("asked", [False, True])
def test_a_pdu_bomb_is_not_read(node: Served, asked: bool, caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Raw(node.port) as raw:
        if asked:
            raw.request()
        raw.socket.sendall(struct.pack(">BxL", 4 if asked else 1, 0xFFFFFFFF))
        assert raw.answer()[0] == 7
        raw.send_until_closed(bytes(1 << 20), 0, 200)
    assert "4294967295 bytes" in the_warning(caplog)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kilobytes


BROKEN = {
    "no request": lambda raw: raw.send(4, bytes(100)),
    "a short request": lambda raw: raw.send(1, bytes(10)),
    "a second request": lambda raw: (raw.request(), raw.send(1, bytes(100))),
    "an unknown kind": lambda raw: (raw.request(), raw.send(99, bytes(100))),
    "an endless command": lambda raw: (raw.request(), [raw.fragment(1, bytes(10_000)) for _ in range(2)]),
    "a cut command": lambda raw: (raw.request(), raw.fragment(3, bytes(9))),
    "an empty command": lambda raw: (raw.request(), raw.fragment(3, b"")),
    "data without a command": lambda raw: (raw.request(), raw.fragment(2, b"x")),
    "another context": lambda raw: (raw.request(), raw.fragment(3, b"x", context=3)),
    "a command within an object": lambda raw: (raw.request(), raw.store(), raw.store()),
    "a fragment that is too long": lambda raw: (raw.request(), raw.send(4, struct.pack(">LBB", 99, 1, 0))),
    "half a fragment": lambda raw: (raw.request(), raw.send(4, b"\0\0")),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_rule_ends_the_association_with_one_line(
    kind: str, node: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with Raw(node.port) as raw:
        BROKEN[kind](raw)
        assert raw.answer()[0] == 7
    assert "127.0.0.1: association ended after 0 objects" in the_warning(caplog)
    assert send(node.port, dicoms.dicom()) == [0]


@settings(max_examples=100, deadline=None)
@given(some.binary(max_size=300), some.binary(max_size=300))
def test_no_bytes_raise_anything_else(head: bytes, data: bytes) -> None:
    items = struct.pack(">BxH", 0x20, len(data)) + data + struct.pack(">BxH", 0x50, len(head)) + head
    for read in (
        lambda: Request.read(memoryview(bytes(68) + items)),
        lambda: Request.read(memoryview(head + data)),
        lambda: Command.read(data),
        lambda: list(pdu.pieces(memoryview(data))),
    ):
        try:
            read()
        except ProtocolError:
            continue


def test_the_page_says_when_the_node_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_FIRST_PAUSE", 0.05)
    made = node_of(Settings(root=tmp_path, dicom_port=0), FolderStore(tmp_path))
    port, threads = made.port, Background()
    assert made._listener
    made._listener.close()  # the system took it away
    threads.start("DICOM node", lambda: made.run(threads.stopping))
    wait_for(threads.problems, 5)
    assert threads.problems()[0].startswith("The DICOM node does not work: it cannot accept callers")
    wait_for(lambda: listens(port), 5)  # again
    threads.stop()


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with served(tmp_path, FolderStore(tmp_path)) as node:
        with pytest.raises(UsageError, match="name another --dicom-port"):
            node_of(Settings(root=tmp_path / "b", dicom_port=node.port), FolderStore(tmp_path))
        other = node_of(Settings(root=tmp_path / "b", dicom_port=0), FolderStore(tmp_path))
        assert other._listener
        other._listener.close()
        other._listener, other.port = None, node.port
        with pytest.raises(HostError, match="cannot be listened on"):
            other.run(threading.Event())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dicom_address": "0.0.0.0"}, "dicom_callers"),
        ({"dicom_address": "here"}, "takes an address"),
        ({"dicom_callers": ("10.0.0.0/99",)}, "addresses and networks"),
        ({"dicom_certificate": "none.pem"}, "both"),
        ({"dicom_client_ca": "none.pem"}, "both"),
        ({"dicom_certificate": "none.pem", "dicom_key": "none.pem"}, "No such file"),
    ],
)
def test_wrong_settings_are_said(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    known = {"root": tmp_path, "dicom_port": 0, **changes}
    with pytest.raises(UsageError, match=message):
        node_of(Settings(**known), FolderStore(tmp_path))  # type: ignore[arg-type]


class Authority:
    """Sign certificates for the tests."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self.path = folder / "ca.pem"
        self.path.write_bytes(self._signed("ca", self._key, is_authority=True))

    def sign(self, name: str) -> tuple[Path, Path]:
        """Return the files of a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        paths = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        paths[0].write_bytes(self._signed(name, key, is_authority=False))
        kind = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *kind))
        return paths

    def _signed(self, name: str, key: ec.EllipticCurvePrivateKey, is_authority: bool) -> bytes:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        now = datetime.now(UTC)
        number = x509.random_serial_number()
        builder = x509.CertificateBuilder(named("ca"), named(name), key.public_key(), number)
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.whole
def test_tls_with_a_clients_certificate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.sign("node")
    theirs = authority.sign("modality")
    files = {"dicom_certificate": certificate, "dicom_key": key, "dicom_client_ca": authority.path}
    with served(tmp_path, FolderStore(tmp_path), **files) as node:
        stalled = socket.create_connection(("127.0.0.1", node.port))  # begins no handshake
        assert send(node.port, dicoms.dicom()) == [-1]  # without TLS
        context = ssl.create_default_context(cafile=str(authority.path))
        context.check_hostname = False
        with Raw(node.port) as raw:
            raw.socket = context.wrap_socket(raw.socket)
            with pytest.raises(ssl.SSLError):
                raw.socket.recv(1)  # without a certificate
        context.load_cert_chain(*theirs)
        with Raw(node.port) as raw:
            raw.socket = context.wrap_socket(raw.socket)
            assert raw.request() == 2
            raw.store()
            raw.data(dicoms_data())
            assert raw.status() == 0
        if shutil.which("storescu"):
            (tmp_path / "a.dcm").write_bytes(dicoms.dicom())
            words = ["+tls", theirs[1], theirs[0], "+cf", authority.path, tmp_path / "a.dcm"]
            assert storescu(node.port, *words).returncode == 0
        stalled.close()
    assert len(node.inbox()) == 1
    assert len([line for line in warnings(caplog) if "no TLS connection: PEER_DID_NOT" in line]) == 1


def dicoms_data() -> bytes:
    from tests.support.dicom_senders import data_set

    return data_set(dicoms.dataset())


@needs_dcmtk
@pytest.mark.whole
def test_a_sender_that_is_killed(node: Served, tmp_path: Path) -> None:
    for number in range(30):
        data = dicoms.dicom(SOPInstanceUID=f"1.2.{number}")
        (tmp_path / f"{number}.dcm").write_bytes(data)
    command = ["storescu", "-aec", "CXR-INBOX", "127.0.0.1", str(node.port), "+sd", str(tmp_path)]
    with subprocess.Popen(command) as process:
        wait_for(node.inbox, 10)
        process.kill()
    assert storescu(node.port, "+sd", "+sp", "*.dcm", tmp_path).returncode == 0
    assert len(node.inbox()) == 30
