"""The DICOM node in real processes: a kill at the worst moment, a busy page, and Orthanc as the sender."""

import json
import os
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.verdict import Verdict
from tests.support import dicoms
from tests.support.dicom_senders import send
from tests.support.machines import Process, free_port, listens, wait_for
from tests.support.orthanc import Orthanc, needs_dicomweb, needs_orthanc

WHOSE = {"PatientID": "1", "PatientName": "A", "StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.2"}


def inbox(root: Path) -> list[Path]:
    return sorted((root / "inbox").iterdir())


def test_a_kill_between_receipt_and_answer_leaves_one_object(tmp_path: Path) -> None:
    data = dicoms.dicom()
    for name, left in (("kill-before", 0), ("kill-after", 1)):
        (tmp_path / name).touch()
        with node(tmp_path) as port:
            assert send(port, data) == [-1]
        assert len(inbox(tmp_path)) == left
    with node(tmp_path) as port:
        assert list((tmp_path / ".cxr/dicom-up").iterdir()) == []  # what the killed ones had received
        assert send(port, data) == [0]
    [path] = inbox(tmp_path)
    assert path.stat().st_nlink == 1


@contextmanager
def node(root: Path) -> Iterator[int]:
    """Run a node in a process of its own; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.support.node_main", str(root), str(port)]
    process = Process(command, root / "log")
    try:
        wait_for(lambda: listens(port), what="the node")
        yield port
    finally:
        process.kill()


class Up:
    """Run `cxr up` with a node."""

    def __init__(self, root: Path) -> None:
        self.root = root
        command = [sys.executable, "-m", "cxr", "up", "--root", str(root), "--port", "0", "--dicom-port", "0"]
        env = {**os.environ, "CXR_LOG_LEVEL": "DEBUG"}
        self.process = Process(command, root / "log", env)
        wait_for(lambda: "by DICOM" in self.process.output(), 30, what="cxr up")
        lines = self.process.output().splitlines()
        self.url = next(line.split()[4] for line in lines if line.startswith("and see them"))
        self.port = int(next(line.split()[-1] for line in lines if "by DICOM" in line))

    def verdicts(self) -> list[Verdict]:
        return [Verdict.from_json(path.read_bytes()) for path in (self.root / "outbox").glob("*.json")]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return str(answer.read().decode())


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    root = tmp_path_factory.mktemp("root")
    (root / "inbox").mkdir()
    running = Up(root)
    yield running
    assert running.process.kill(15) == 0


def test_sixteen_senders_beside_a_busy_page(up: Up) -> None:
    statuses: list[int] = []
    made = [dicoms.dicom(SOPInstanceUID=f"1.2.77.{number}", PatientName="Zaphod") for number in range(16)]
    senders = [threading.Thread(target=lambda one=one: statuses.extend(send(up.port, one))) for one in made]
    for sender in senders:
        sender.start()
    while any(sender.is_alive() for sender in senders):
        assert "CXR" in up.get("/")
    assert statuses == [0] * 16
    wait_for(lambda: len(up.verdicts()) == 16, 60)
    assert {verdict.status for verdict in up.verdicts()} == {"classified"}
    assert json.loads(up.get("/healthz")) == {"status": "ok"}
    assert send(up.port, *made[:4]) == [0] * 4
    assert len(inbox(up.root)) == 16
    log = up.process.output()
    assert "received" in log
    assert "Zaphod" not in log
    assert "1.2.77" not in log


@needs_orthanc
def test_orthanc_sends_to_the_node(up: Up, tmp_path: Path) -> None:
    before = len(inbox(up.root))
    with Orthanc(tmp_path, {"cxr": ["CXR-INBOX", "127.0.0.1", up.port]}).running() as orthanc:
        sent = []
        for number, name in enumerate(("implicit", "explicit", "JPEG lossless, first order", "JPEG 2000")):
            found = dicoms.renamed(dicoms.SYNTAXES[name][1](), f"1.2.88.{number}", **WHOSE)
            sent.append(orthanc.post("/instances", found)["ID"])
        assert orthanc.post("/modalities/cxr/echo", b"{}") == {}
        for _ in range(2):
            answer = orthanc.post("/modalities/cxr/store", json.dumps(sent).encode())
            assert (answer["InstancesCount"], answer["FailedInstancesCount"]) == (4, 0)
    assert len(inbox(up.root)) == before + 4
    wait_for(lambda: len(up.verdicts()) == before + 4, 60)


@needs_orthanc
@needs_dicomweb
def test_orthanc_sends_by_dicomweb(up: Up, tmp_path: Path) -> None:
    before = len(inbox(up.root))
    server = {"Url": f"{up.url}/dicom-web/", "Username": "ada", "Password": "a"}
    with Orthanc(tmp_path, {}, DicomWeb={"Servers": {"cxr": server}}).running() as orthanc:
        sent = [
            orthanc.post("/instances", dicoms.dicom(SOPInstanceUID=f"1.2.89.{number}", **WHOSE))["ID"]
            for number in range(3)
        ]
        for _ in range(2):
            resources = {"Resources": sent, "Synchronous": True}
            orthanc.post("/dicom-web/servers/cxr/stow", json.dumps(resources).encode())
    assert len(inbox(up.root)) == before + 3
    wait_for(lambda: len(up.verdicts()) == before + 3, 60)
