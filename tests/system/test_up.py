"""`cxr up` as a whole: real processes, real files and the real network."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.events import s3_event
from pipeline.settings import Settings
from pipeline.verdict import Verdict
from tests.support import dicoms, pictures
from tests.support.fakes import XRAYS
from tests.support.machines import wait_for


class Up:
    """Run a `cxr up` process on a free port; it judges `threads` X-rays at a time."""

    def __init__(self, root: Path, threads: int = 1) -> None:
        self.root = root
        # waitress leaves its connections to the end of the process.
        warnings = ["-W", "error", "-W", "ignore:unclosed <socket:ResourceWarning"]
        command = [sys.executable, *warnings, "-m", "cxr", "up", "--root", str(root), "--port", "0"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"CXR_THREADS": str(threads)},
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()
        self.url = self.process.stdout.readline().split()[4]

    def end(self, number: int = signal.SIGTERM) -> str:
        """Stop it and return its complaints."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=60)[1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path


@pytest.fixture
def up(root: Path) -> Iterator[Up]:
    process = Up(root, threads=2)
    yield process
    assert process.end() == ""
    assert process.process.returncode == 0


def verdicts(root: Path) -> dict[str, Verdict]:
    found = (Verdict.from_json(path.read_bytes()) for path in (root / "outbox").rglob("*.json"))
    return {verdict.source.key.removeprefix("inbox/"): verdict for verdict in found}


def varied(number: int) -> bytes:
    """Return a sample with different bytes each time: bytes after the end marker change no pixel."""
    return XRAYS[number % len(XRAYS)].read_bytes() + b"%d" % number


def test_everything_that_is_dropped_gets_its_one_verdict(up: Up, root: Path) -> None:
    good = pictures.GOOD | {"scan.dcm": dicoms.dicom, "IM000001": dicoms.dicom}
    for name, make in good.items():
        (root / "inbox" / name).write_bytes(make())
    bad = {
        name: made for name, made in pictures.BAD.items() if made[0] != "empty"
    }  # the watcher waits for it
    for name, (_, make) in bad.items():
        (root / "inbox" / name).write_bytes(make())
    (root / "inbox" / ("n" * 252)).write_bytes(varied(0))
    with (root / "inbox/large.jpeg").open("wb") as file:
        file.truncate(300_000_000)
    expected = len(good) + len(bad) + 2
    wait_for(lambda: len(verdicts(root)) == expected, 60)
    found = verdicts(root)
    assert {name for name, verdict in found.items() if verdict.status == "classified"} == set(good)
    codes = {name: verdict.reason.code for name, verdict in found.items() if verdict.reason}
    assert codes == {
        **{name: code for name, (code, _) in bad.items()},
        "n" * 252: "name_not_usable",
        "large.jpeg": "too_large",
    }
    assert len(list((root / "inbox").iterdir())) == expected  # the input stays where it was


def test_replaced_and_deleted_files(up: Up, root: Path) -> None:
    path = root / "inbox/ward/a.jpeg"
    path.parent.mkdir()
    path.write_bytes(varied(0))
    wait_for(lambda: "ward/a.jpeg" in verdicts(root))
    first = verdicts(root)["ward/a.jpeg"]
    path.write_bytes(varied(4))
    wait_for(lambda: verdicts(root)["ward/a.jpeg"].source.etag != first.source.etag)
    path.unlink()
    wait_for(lambda: "deleted" in page(up))
    assert "ward/a.jpeg" in verdicts(root)
    wait_for(lambda: 'class="host is-ready"' in page(up))
    assert re.search(r"<b>[2-9]</b>/min", page(up))


def test_a_kill_in_the_middle_loses_and_damages_nothing(root: Path) -> None:
    count = 40
    first = Up(root, threads=2)
    for number in range(count):
        (root / f"inbox/{number}.jpeg").write_bytes(varied(number))
    wait_for(lambda: len(list((root / "outbox").glob("*.json"))) > 3, 60)
    first.end(signal.SIGKILL)
    assert len(verdicts(root)) < count
    (root / "inbox/0.jpeg").write_bytes(varied(100))
    second = Up(root, threads=2)
    wait_for(lambda: len(verdicts(root)) == count, 60)
    wait_for(lambda: verdicts(root)["0.jpeg"].source.size == len(varied(100)), 60)
    wait_for(lambda: bool(states(second)) and "waiting" not in states(second), 60)
    assert all(verdict.status == "classified" for verdict in verdicts(root).values())
    before = {path: path.stat().st_mtime_ns for path in (root / "outbox").rglob("*.json")}
    second.end()
    third = Up(root, threads=2)  # dropping the same again, as a start does, changes nothing
    for number in range(count):
        shutil.copy(root / f"inbox/{number}.jpeg", root / "copy")
        (root / "copy").rename(root / f"inbox/{number}.jpeg")
    time.sleep(2)
    third.end()
    assert {path: path.stat().st_mtime_ns for path in (root / "outbox").rglob("*.json")} == before


def test_two_processes_on_one_root(up: Up, root: Path) -> None:
    keys = [f"inbox/{number}.jpeg" for number in range(24)]
    event = root / "event.json"
    event.write_text(json.dumps(s3_event("b", keys)))
    for number, key in enumerate(keys):
        (root / key).write_bytes(varied(number))
    replay = subprocess.Popen([sys.executable, "-m", "cxr", "replay", str(event), "--root", str(root)])
    for number, key in enumerate(keys[::3]):
        time.sleep(0.1)
        (root / key).write_bytes(varied(number + 50))
    assert replay.wait(60) == 0
    sizes = {key.removeprefix("inbox/"): (root / key).stat().st_size for key in keys}
    wait_for(lambda: {name: verdict.source.size for name, verdict in verdicts(root).items()} == sizes, 60)
    wait_for(lambda: bool(states(up)) and "waiting" not in states(up), 60)


def test_a_taken_port_is_said_in_one_line(up: Up, tmp_path: Path) -> None:
    port = up.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "cxr", "up", "--root", str(tmp_path / "other"), "--port", port]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"cxr: cannot listen on port {port}")
    assert answer.stderr.count("\n") == 1


def test_a_second_one_on_a_free_port_is_told_the_first_ones_address(up: Up, root: Path) -> None:
    command = [sys.executable, "-m", "cxr", "up", "--root", str(root), "--port", "0"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 2
    assert f"is already running on this folder, at {up.url}, process {up.process.pid}:" in answer.stderr


def test_an_upload_that_is_too_large_is_refused_before_it_comes(up: Up) -> None:
    """At most one file of the largest size and the form around it are accepted."""
    address = urlsplit(up.url)
    with closing(HTTPConnection(str(address.hostname), address.port, timeout=10)) as connection:
        connection.putrequest("POST", "/upload")
        connection.putheader("Content-Length", str(Settings().max_bytes + 1_000_000))
        connection.endheaders()  # and nothing after them
        with connection.getresponse() as answer:
            assert answer.status == 413


def page(up: Up) -> str:
    with urllib.request.urlopen(up.url, timeout=10) as answer:
        return str(answer.read().decode())


def states(up: Up) -> set[str]:
    """Return the states of the rows on the page."""
    return set(re.findall(r'data-state="(\w+)"', page(up)))
