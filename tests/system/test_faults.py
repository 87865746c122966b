"""Faults under a running `cxr up`: a short form of `make faults`."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from bench.soak import faults
from pipeline.classify import line, verdicts
from pipeline.verdict import Release
from tests.support.engine_child import HANGS
from tests.support.fakes import LIMIT, SAMPLES, FakeEngine
from tests.support.machines import Process, wait_for

pytestmark = pytest.mark.timeout(300)


def test_whatever_happens_each_x_ray_gets_its_verdict_without_a_restart(tmp_path: Path) -> None:
    seen = faults.measure(1.5, tmp_path, 5)
    assert {one.fault: one.wrong for one in seen} == {one.fault: 0 for one in seen}
    assert len(seen) >= len(faults.FAULTS) - 1  # a full disk takes root's rights
    assert next(one for one in seen if one.fault == "failing_watcher").said


def test_an_image_that_hangs_keeps_no_other_waiting_and_ends_as_failed(tmp_path: Path) -> None:
    """A hanging image does not keep the program from ending either."""
    (tmp_path / "inbox").mkdir()
    image = (SAMPLES / "normal-1.jpeg").read_bytes()
    env = {**os.environ, "CXR_IMAGE_SECONDS": "3", "CXR_THREADS": "2"}
    command = [sys.executable, "-m", "tests.support.up_main", "up", "--root", str(tmp_path), "--port", "0"]
    process = Process(command, tmp_path / "log", env)
    try:
        for number in range(3):
            (tmp_path / f"inbox/hangs-{number}.jpeg").write_bytes(image + b"%d" % number + HANGS)
        time.sleep(1)
        (tmp_path / "inbox/a.jpeg").write_bytes(image)
        wait_for((tmp_path / "outbox/a.jpeg.json").exists, 20)
        hanging = tmp_path / "outbox/hangs-0.jpeg.json"
        assert not hanging.exists() or json.loads(hanging.read_bytes())["status"] == "failed"
        wait_for(hanging.exists, 30)
        verdict = json.loads(hanging.read_bytes())
        assert (verdict["status"], verdict["reason"]["code"]) == ("failed", "took_too_long")
        began = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        wait_for(lambda: process.exit_code() is not None, 20)
        assert time.monotonic() - began < 15
        assert process.exit_code() == 0
    finally:
        process.kill()
    assert "Traceback" not in process.output()


def test_classify_says_what_was_not_finished_and_goes_on(tmp_path: Path) -> None:
    for name, data in {"a": b"P1", "b": b"hang", "c": b"N"}.items():
        (tmp_path / name).write_bytes(data)
    seen = list(verdicts([str(tmp_path)], FakeEngine(), Release(), LIMIT, 1))
    assert [verdict.status for verdict in seen] == ["classified", "failed", "classified"]
    assert line(seen[1]).endswith("failed, took_too_long: The X-ray was not judged within 20 seconds.")
