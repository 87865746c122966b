"""Results on their way to a real PACS: Orthanc, which starts late, is killed, and confirms; DICOMweb."""

import json
import os
import random
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

import pytest

from pipeline.outgoing.queue import DeliveryState
from pipeline.verdict import Verdict
from tests.support import dicoms
from tests.support.dicom_senders import send
from tests.support.machines import ROOT, Process, free_port, wait_for
from tests.support.orthanc import Orthanc, needs_dicomweb, needs_orthanc


class Up:
    """Run `cxr up` that sends its results."""

    def __init__(self, root: Path, port: int, *tables: dict[str, str]) -> None:
        self.root, self.port = root, port
        (root / "inbox").mkdir(parents=True, exist_ok=True)
        words = ["up", "--root", str(root), "--port", "0", "--dicom-port", str(port)]
        env = {**os.environ, "CXR_LOG_LEVEL": "DEBUG", "CXR_THREADS": "2", "CXR_SEND": json.dumps(tables)}
        log = root / "log"
        log.unlink(missing_ok=True)
        self.process = Process([sys.executable, "-m", "tests.support.up_main", *words], log, env)
        wait_for(lambda: "by DICOM" in self.process.output(), 30, what=f"cxr up: {self.process.output()}")
        lines = self.process.output().splitlines()
        self.url = next(line.split()[4] for line in lines if line.startswith("and see them"))

    def figures(self) -> dict[str, int]:
        """Return how many deliveries there are, by destination and state."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        found = [line.rpartition(" ") for line in lines if line.startswith("cxr_outgoing{")]
        return {name.replace('"', "").partition("{")[2][:-1]: int(value) for name, _, value in found}

    def hasten(self) -> None:
        """Do not wait for the end of a pause."""
        urllib.request.urlopen(f"{self.url}/send-again", b"", timeout=20).close()

    def done(self, name: str) -> int:
        return self.figures()[f"destination={name},state=done"]


@contextmanager
def up(root: Path, port: int, *tables: dict[str, str], end: int = signal.SIGTERM) -> Iterator[Up]:
    running = Up(root, port, *tables)
    try:
        yield running
    finally:
        running.process.kill(end)


def xrays(first: int, count: int) -> list[bytes]:
    return [
        dicoms.dicom(
            dicoms.gray(),
            SOPInstanceUID=f"1.2.77.{number}",
            SeriesInstanceUID=f"1.2.66.{number}",
            StudyInstanceUID=f"1.2.55.{number}",
            PatientName="Zaphod^Beeblebrox",
            PatientID="770077",
        )
        for number in range(first, first + count)
    ]


def in_syntaxes(count: int) -> Iterator[bytes]:
    """Yield X-rays of different studies, packed in turn as modalities pack them."""
    made = [
        dicoms.SYNTAXES[name][1]() for name in ("implicit", "RLE", "JPEG lossless", "JPEG 2000", "JPEG-LS")
    ]
    for number in range(count):
        of_it = {"StudyInstanceUID": f"1.2.55.{number}", "SeriesInstanceUID": f"1.2.66.{number}"}
        yield dicoms.renamed(made[number % len(made)], f"1.2.77.{number}", PatientID=f"P{number}", **of_it)


def pass_on(pacs: Orthanc, port: int, data: bytes) -> None:
    """Give an X-ray to Orthanc and have it sent to the node, again until both said that it worked."""
    while True:
        with suppress(OSError):  # one of them is down at present
            one = pacs.post("/instances", data)["ID"]
            pacs.post("/modalities/cxr/store", json.dumps([one]).encode())
            return
        time.sleep(0.1)


def expected(count: int) -> list[tuple[str, str]]:
    return sorted((f"1.2.55.{number}", kind) for number in range(count) for kind in ("OT", "SR"))


@needs_orthanc
@needs_dicomweb
def test_results_get_into_the_studies_whoever_is_killed(tmp_path: Path) -> None:
    """Orthanc confirms over an association of its own; STOW-RS goes to a second one."""
    port = free_port()
    ours = {"AET": "CXR-INBOX", "Host": "127.0.0.1", "Port": port, "AllowStorageCommitment": True}
    rule = str(ROOT / "docs/onprem/to-cxr.lua")
    pacs, web = Orthanc(tmp_path / "pacs", {"cxr": ours}, LuaScripts=[rule]), Orthanc(tmp_path / "web", {})
    tables = (
        {"name": "PACS", "to": f"dicom://ORTHANC@127.0.0.1:{pacs.dicom_port}"},
        {"name": "web", "to": f"{web.url}/dicom-web"},
    )
    root = tmp_path / "root"
    with up(root, port, *tables) as first, web.running():
        assert send(port, *xrays(0, 2)) == [0] * 2
        wait_for(lambda: first.done("web") == 2, 60, what="STOW-RS")  # the one that is down holds up no other
        assert web.kinds() == expected(2)
        assert first.done("PACS") == 0
        assert "PACS takes no results at present; they wait: it does not answer" in first.process.output()
        with pacs.running():
            first.hasten()
            wait_for(lambda: first.done("PACS") == 2, 60, what="C-STORE and commitment")
            assert pacs.kinds() == expected(2)
        assert send(port, *xrays(2, 2)) == [0] * 2
        wait_for(lambda: first.done("web") == 4, 60, what="STOW-RS")
        first.process.kill()  # while some wait for Orthanc
        log = first.process.output()
    with pacs.running(), up(root, port, *tables) as second:
        second.hasten()
        wait_for(lambda: second.done("PACS") == 4, 60, what="what was left")
        assert pacs.kinds() == expected(4)
        assert second.figures()["destination=PACS,state=sent"] == 0
        pacs.post("/instances", xrays(4, 1)[0])  # its rule sends this one, and none of the results
        wait_for(lambda: second.done("PACS") == 5, 60, what="what Orthanc's rule sends")
        assert len(list((root / "inbox").iterdir())) == 5
        log += second.process.output()
    assert log.count("storage commitment was reported for 2 objects") >= 4
    assert "Zaphod" not in log
    assert "770077" not in log
    assert "1.2.77" not in log
    queue = b"".join(path.read_bytes() for path in (root / ".cxr").glob("outgoing*"))
    assert b"Zaphod" not in queue
    assert b"1.2.77" not in queue


@needs_orthanc
@pytest.mark.timeout(300)
def test_all_go_round_while_both_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The soak does this for as long as one likes."""
    count, kills = 20, 4
    monkeypatch.setenv("CONFIRM_SECONDS", "5")
    chance, port, root = random.Random(17), free_port(), tmp_path / "root"
    ours = {"AET": "CXR-INBOX", "Host": "127.0.0.1", "Port": port, "AllowStorageCommitment": True}
    pacs = Orthanc(tmp_path / "pacs", {"cxr": ours})
    table = {"name": "PACS", "to": f"dicom://ORTHANC@127.0.0.1:{pacs.dicom_port}"}
    starts: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "pacs": pacs.running,
        "inbox": lambda: up(root, port, table, end=signal.SIGKILL),
    }
    with ExitStack() as all_of_it:
        parts = {name: all_of_it.enter_context(ExitStack()) for name in starts}
        now = {name: part.enter_context(starts[name]()) for name, part in parts.items()}
        senders = ThreadPoolExecutor(2)
        passed = [senders.submit(pass_on, pacs, port, data) for data in in_syntaxes(count)]
        for kill in range(kills):
            wait_for(lambda least=5 * kill: sum(one.done() for one in passed) >= least, 60, what="X-rays")
            now["inbox"].hasten()
            time.sleep(chance.uniform(0, 4))  # results are under way now
            name = chance.choice(list(starts))
            parts[name].close()
            time.sleep(chance.uniform(0, 0.5))
            now[name] = parts[name].enter_context(starts[name]())
        for one in passed:
            one.result(60)
        until = time.monotonic() + 120
        while now["inbox"].done("PACS") < count and time.monotonic() < until:
            now["inbox"].hasten()
            time.sleep(1)
        assert pacs.kinds() == sorted(
            [*expected(count), *((f"1.2.55.{number}", "DX") for number in range(count))]
        )
        figures = now["inbox"].figures()
    assert figures == {f"destination=PACS,state={s}": count * (s == "done") for s in get_args(DeliveryState)}
    assert len(list((root / "inbox").iterdir())) == count
    verdicts = [Verdict.from_json(path.read_bytes()) for path in (root / "outbox").glob("*.json")]
    assert [verdict.status for verdict in verdicts] == ["classified"] * count
