"""Images that hang, crash or use too much memory lose their own try and harm no other image."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model.serve import guarded
from model.serve.engine import Engine
from model.serve.guarded import GuardedEngine
from model.serve.messages import ChildOptions
from pipeline.errors import EngineFailed, HostError, InputRejected, UsageError
from tests.support import pictures
from tests.support.engine_child import CLOSES, CRASHES, DEFECT, HANGS, HUNGRY, KILLED_ONCE, MARK
from tests.support.fakes import SAMPLES
from tests.support.machines import wait_for

IMAGE = (SAMPLES / "pneumonia-1.jpeg").read_bytes()
HOSTILE = [sys.executable, "-m", "tests.support.engine_child"]


@pytest.fixture(scope="module")
def engine() -> Iterator[GuardedEngine]:
    with GuardedEngine(ChildOptions(image_seconds=2), 1, HOSTILE) as made:
        yield made


def test_it_answers_as_the_engine_does(engine: GuardedEngine) -> None:
    expected, seen = Engine().examine(IMAGE), engine.examine(IMAGE)
    assert (seen.facts, seen.finding, seen.preview) == (expected.facts, expected.finding, expected.preview)
    assert (seen.warnings, engine.model) == (expected.warnings, Engine().model)
    small = pictures.encoded(pictures.sample().resize((40, 400)), "JPEG")
    with pytest.raises(InputRejected, match="at least 64 per side") as refused:
        engine.examine(small)
    with pytest.raises(InputRejected) as expected_refusal:
        Engine().examine(small)
    assert refused.value.facts == expected_refusal.value.facts
    assert refused.value.facts is not None


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        (CRASHES, "crashed", "The image decoder crashed on this file."),
        (CLOSES, "took_too_long", "The X-ray was not judged within 2 seconds."),
        (HANGS, "took_too_long", "The X-ray was not judged within 2 seconds."),
        (HUNGRY, "out_of_memory", "Judging the X-ray needs more than 1.5 GB of memory."),
        (DEFECT, "internal", "The X-ray could not be judged (RuntimeError at engine_child.py"),
    ],
)
def test_a_harmful_image_is_said_and_the_next_is_judged(
    engine: GuardedEngine, ending: bytes, code: str, message: str
) -> None:
    with pytest.raises(EngineFailed) as failed:
        engine.examine(IMAGE + ending)
    assert failed.value.code == code
    assert str(failed.value).startswith(message)
    assert engine.examine(IMAGE).finding.label


def test_a_slow_image_keeps_no_other_waiting() -> None:
    """They share one core; the slow one stands aside."""
    with GuardedEngine(ChildOptions(image_seconds=6), 1, HOSTILE) as engine, ThreadPoolExecutor(1) as pool:
        engine.warm(2)
        engine.examine(IMAGE)  # both are there
        slow = pool.submit(engine.examine, IMAGE + HANGS)
        time.sleep(0.1)
        assert engine.examine(IMAGE).finding
        assert not slow.done()
        with pytest.raises(EngineFailed):
            slow.result(20)


def test_a_process_that_somebody_kills_costs_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path / "mark"))
    with GuardedEngine(ChildOptions(), 1, HOSTILE) as engine:
        assert engine.examine(IMAGE + KILLED_ONCE).finding.label
        assert (tmp_path / "mark").exists()


def test_a_large_program_does_not_make_its_processes_seem_grown() -> None:
    """Linux counts the memory of the starting program in the peak of the one that it starts."""
    code = """if True:
        from model.serve.guarded import GuardedEngine
        from model.serve.messages import ChildOptions
        from tests.model.serve.test_guarded import IMAGE
        held = b"." * 800_000_000
        with GuardedEngine(ChildOptions(), 1) as engine:
            engine.examine(IMAGE)
            first = set(engine._all)
            engine.examine(IMAGE)
            print(engine._all == first)
    """
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60)
    assert printed == "True\n"


def test_a_process_that_never_loads_keeps_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guarded, "_LOADING_SECONDS", 0.2)
    with GuardedEngine(ChildOptions(), 1) as engine, ThreadPoolExecutor(1) as pool:
        assert engine.model
        engine.warm(2)
        loading = next(child for child in engine._all if not child.is_ready)
        loading._process.send_signal(signal.SIGSTOP)
        with engine._guard:
            engine._idle.sort(key=lambda child: child is loading)  # it is the next to be taken
        stuck = pool.submit(engine.examine, IMAGE)
        time.sleep(0.5)
        assert engine.examine(IMAGE).finding
        assert not stuck.done()
        loading._process.send_signal(signal.SIGCONT)
        assert stuck.result(60).finding


def test_closing_breaks_off_what_is_at_work() -> None:
    engine, errors = GuardedEngine(ChildOptions(), 1, HOSTILE), []

    def ask() -> None:
        try:
            engine.examine(IMAGE + HANGS)
        except HostError as error:
            errors.append(str(error))

    assert engine.model
    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    engine.close()
    thread.join(5)
    assert errors == ["the program is shutting down"]
    with pytest.raises(HostError, match="shutting down"):
        engine.examine(IMAGE)


def test_weights_that_are_none_are_said(tmp_path: Path) -> None:
    (tmp_path / "none.onnx").write_bytes(b"nothing")
    with (
        GuardedEngine(ChildOptions(weights=tmp_path / "none.onnx"), 1) as engine,
        pytest.raises(UsageError, match="is no network of this release"),
    ):
        assert engine.model


def test_a_process_that_cannot_start_is_a_failure_of_the_host() -> None:
    with (
        GuardedEngine(ChildOptions(), 1, [sys.executable, "-c", "import sys; sys.exit(7)"]) as engine,
        pytest.raises(HostError, match="exit code 7"),
    ):
        engine.examine(IMAGE)
    with pytest.raises(HostError, match="No such file"):
        GuardedEngine(ChildOptions(), 1, ["/nowhere/python"])


def test_processes_end_with_whoever_started_them() -> None:
    script = (
        "import sys; from model.serve.guarded import *\n"
        "engine = GuardedEngine(ChildOptions(), 1); engine.model\n"
        "print(next(iter(engine._all))._process.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _lives(child)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not _lives(child))


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_serving_processes_share_no_descriptor_with_their_parent() -> None:
    """An open inbox or database must not stay open in a long-running process."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    with GuardedEngine(ChildOptions(), 1) as engine:
        assert engine.model
        os.close(write)
        assert os.read(read, 1) == b""
    os.close(read)
