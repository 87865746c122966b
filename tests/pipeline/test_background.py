"""The threads that a program depends on."""

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.errors import StoreError
from pipeline.running import background
from pipeline.running.background import Background


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Background]:
    monkeypatch.setattr(background, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(background, "_STEADY_SECONDS", 0.1)
    made = Background()
    yield made
    made.stop()


def _until(true: threading.Event) -> None:
    assert true.wait(10)


def test_work_that_fails_is_begun_again_and_said_until_it_runs(threads: Background) -> None:
    tries, runs = [], threading.Event()

    def work() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise StoreError("the disk is full")
        runs.set()
        threads.stopping.wait()

    threads.start("watcher", work)
    _until(runs)
    assert threads.problems() == ["The watcher does not work: the disk is full."]
    deadline = time.monotonic() + 10
    while threads.problems() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads.problems() == []
    threads.stop()
    assert len(tries) == 3


def test_work_that_returns_too_early_is_a_problem(threads: Background) -> None:
    ended = threading.Event()
    threads.start("queue", ended.set)
    _until(ended)
    deadline = time.monotonic() + 10
    while not threads.problems() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threads.problems() == ["The queue does not work: it ended too early."]


def test_what_is_no_exception_ends_no_work_either(threads: Background) -> None:
    tries, again = [], threading.Event()

    def work() -> None:
        if tries:
            again.set()
            threads.stopping.wait()
        tries.append(1)
        raise SystemExit

    threads.start("mirror", work)
    _until(again)
