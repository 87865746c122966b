"""Send to a DICOM node: as pynetdicom and DCMTK do, and as no sender should."""

import io
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.transport import AssociationSocket

from handlers import wiring
from pipeline.dicom.commitment import Confirm
from pipeline.dicom.node import Node
from pipeline.ports import Landing
from pipeline.settings import Settings
from tests.support.dicoms import DIGITAL_XRAY, written

TITLE = "CXR-INBOX"
needs_dcmtk = pytest.mark.skipif(not shutil.which("storescu"), reason="needs Debian's dcmtk")


def _shut(self: AssociationSocket) -> None:
    """Close a socket, which pynetdicom leaves open when its peer has closed first."""
    if self.socket:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


AssociationSocket._shutdown_socket = _shut


@dataclass(frozen=True)
class Served:
    """Hold a running node."""

    node: Node
    store: Landing

    @property
    def port(self) -> int:
        return self.node.port

    def inbox(self) -> list[str]:
        return sorted(info.key for info in self.store.list("inbox/"))


def node_of(settings: Settings, store: Landing, confirm: Confirm | None = None) -> Node:
    """Return a node that listens."""
    return wiring.make_node(settings, wiring.make_arrivals(settings, store), confirm)


@contextmanager
def served(
    root: Path, store: Landing, confirm: Confirm | None = None, **settings: object
) -> Iterator[Served]:
    """Run a node in a thread, on a free port."""
    known = {"root": root, "dicom_port": 0, **settings}
    node, stopping = node_of(Settings(**known), store, confirm), threading.Event()  # type: ignore[arg-type]
    thread = threading.Thread(target=node.run, args=[stopping], daemon=True)
    thread.start()
    try:
        yield Served(node, store)
    finally:
        stopping.set()
        thread.join(10)
    assert not thread.is_alive()


def send(port: int, *files: bytes, called: str = TITLE, calling: str = "MODALITY") -> list[int]:
    """Send files as they are by pynetdicom, in one association; return the status of each, -1 for none."""
    datasets = [dcmread(io.BytesIO(data)) for data in files]
    ae = AE(ae_title=calling)
    for one in {(found.SOPClassUID, found.file_meta.TransferSyntaxUID) for found in datasets}:
        ae.add_requested_context(*one)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return [-1] * len(files)
    try:
        answers = [association.send_c_store(found) for found in datasets if association.is_established]
        statuses = [int(answer.Status) if "Status" in answer else -1 for answer in answers]
        return statuses + [-1] * (len(files) - len(statuses))
    except ValueError:  # the context was refused
        return [-1] * len(files)
    finally:
        association.release()


def storescu(port: int, *words: object, called: str = TITLE) -> subprocess.CompletedProcess[str]:
    """Run DCMTK's sender."""
    command = ["storescu", "-aec", called, "127.0.0.1", str(port), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class Raw:
    """Speak the protocol byte by byte."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, kind: int, body: bytes) -> None:
        self.socket.sendall(struct.pack(">BxL", kind, len(body)) + body)

    def request(
        self,
        sop_class: str = DIGITAL_XRAY,
        syntax: str = ExplicitVRLittleEndian,
        called: str = TITLE,
        calling: str = "RAW",
    ) -> int:
        """Ask for an association with one context, of number 1; return the kind of the answer."""
        context = bytes((1, 0, 0, 0)) + item(0x30, sop_class.encode()) + item(0x40, syntax.encode())
        user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3")
        items = item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
        titles = called.encode().ljust(16) + calling.encode().ljust(16)
        self.send(1, struct.pack(">HH", 1, 0) + titles + bytes(32) + items)
        return self.answer()[0]

    def send_until_closed(self, data: bytes, pause: float, most: int) -> None:
        """Send the same again and again until the other end closes."""
        for _ in range(most):
            try:
                self.socket.sendall(data)
            except ConnectionError:
                return
            time.sleep(pause)
        raise AssertionError("the connection was not closed")

    def answer(self) -> tuple[int, bytes]:
        """Return the next message; kind 0 when the connection is closed."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxL", head)
        return kind, self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.socket.recv(size - len(data))
            except ConnectionError:
                return data
            if not part:
                return data
            data += part
        return data

    def fragment(self, flags: int, data: bytes, context: int = 1) -> None:
        """Send a part of a command (flags 1; 3 for its end) or of a data set (0; 2 for its end)."""
        self.send(4, struct.pack(">LBB", len(data) + 2, context, flags) + data)

    def store(self, instance: str = "1.2.3.4", sop_class: str = DIGITAL_XRAY) -> None:
        """Announce an object."""
        self.fragment(3, command(0x0001, sop_class, instance, has_data=True))

    def data(self, data: bytes) -> None:
        """Send a whole data set."""
        parts = [data[start : start + 16_000] for start in range(0, len(data), 16_000)] or [b""]
        for part in parts[:-1]:
            self.fragment(0, part)
        self.fragment(2, parts[-1])

    def status(self) -> int:
        """Return the status of the next answer."""
        kind, body = self.answer()
        assert kind == 4
        place = body.index(b"\0\0\0\x09\2\0\0\0")
        return int(struct.unpack_from("<H", body, place + 8)[0])


def command(field: int, sop_class: str, instance: str, has_data: bool) -> bytes:
    """Encode a command set."""
    elements = [
        (0x0002, sop_class.encode() + b"\0" * (len(sop_class) % 2)),
        (0x0100, struct.pack("<H", field)),
        (0x0110, struct.pack("<H", 7)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", 1 if has_data else 0x0101)),
        (0x1000, instance.encode() + b"\0" * (len(instance) % 2)),
    ]
    return b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in elements)


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def data_set(found: Dataset | bytes) -> bytes:
    """Return the data set of a file, without the file's header."""
    whole = found if isinstance(found, bytes) else written(found)
    return whole[144 + struct.unpack_from("<I", whole, 140)[0] :]
