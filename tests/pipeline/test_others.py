"""Programs that serve one bucket know of each other, whatever their clocks, crashes and the object say."""

import logging
import threading

import pytest

from pipeline.errors import ConditionFailed, StoreError
from pipeline.names import PAGES
from pipeline.running import others
from pipeline.running.others import BEAT_SECONDS, Others
from tests.support.fakes import MemoryStore


class Time:
    """Hold a clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> Time:
    return Time()


def beat(clock: Time, *programs: Others) -> list[int]:
    """Let a minute pass; return what each program counts then."""
    for one in programs:
        one.step()
    clock.now += BEAT_SECONDS
    return [one.count() for one in programs]


def test_each_counts_the_others_within_two_beats(store: MemoryStore, clock: Time) -> None:
    first, second, third = (Others(store, clock) for _ in range(3))
    assert beat(clock, first) == [0]
    beat(clock, first, second)
    assert beat(clock, first, second) == [1, 1]
    beat(clock, first, second, third)
    assert beat(clock, first, second, third) == [2, 2, 2]
    third.leave()
    assert beat(clock, first, second) == [1, 1]


def test_one_that_crashed_is_forgotten_and_erased(store: MemoryStore, clock: Time) -> None:
    first, second = Others(store, clock), Others(store, clock)
    beat(clock, first, second)
    assert beat(clock, first, second) == [1, 1]
    assert [beat(clock, first)[0] for _ in range(5)] == [1, 1, 1, 0, 0]
    assert store.objects[PAGES].count(b":") == 1
    assert beat(clock, first, second)[1] == 1  # it had slept, and comes back
    assert beat(clock, first, second) == [1, 1]


def test_one_that_crashed_and_starts_again_is_no_other(store: MemoryStore, clock: Time) -> None:
    beat(clock, Others(store, clock))
    again = Others(store, clock)
    assert [beat(clock, again)[0] for _ in range(6)] == [0] * 6
    assert store.objects[PAGES].count(b":") == 1


def test_one_that_hears_nothing_any_more_counts_none(store: MemoryStore, clock: Time) -> None:
    first, second = Others(store, clock), Others(store, clock)
    beat(clock, first, second)
    assert beat(clock, first, second) == [1, 1]
    clock.now += 4 * BEAT_SECONDS
    assert first.count() == 0


@pytest.mark.parametrize(
    "data", [b"", b"[", b"[1]", b'{"a": "b"}', b'{"a": null}', b"\xff", b"[" * 9000, b"x" * 20_000]
)
def test_a_damaged_object_is_replaced(store: MemoryStore, clock: Time, data: bytes) -> None:
    store.objects[PAGES] = data
    first, second = Others(store, clock), Others(store, clock)
    beat(clock, first, second)
    assert beat(clock, first, second) == [1, 1]


def test_writes_at_the_same_moment_are_repeated(store: MemoryStore, clock: Time) -> None:
    first, second = Others(store, clock), Others(store, clock)
    put, beaten = store.put, []

    def slow(key: str, data: bytes, expected: str | None) -> str:
        if not beaten:
            beaten.append(True)
            second.step()
        return put(key, data, expected)

    store.put = slow  # type: ignore[method-assign]
    beat(clock, first)
    assert store.objects[PAGES].count(b":") == 2

    def never(key: str, data: bytes, expected: str | None) -> str:
        raise ConditionFailed("another state")

    store.put = never  # type: ignore[method-assign]
    first.step()
    first.leave()


def test_one_that_may_not_write_sees_the_others_and_says_so_once(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(others, "BEAT_SECONDS", 0.01)
    first, second, stop = Others(store), Others(store), threading.Event()
    thread = threading.Thread(target=second.run, args=[stop])
    put, refused = store.put, list[str]()

    def refuse(key: str, data: bytes, expected: str | None) -> str:
        if threading.current_thread() is thread:
            refused.append(key)
            if len(refused) > 5:
                stop.set()
            raise StoreError("the bucket refuses")
        return put(key, data, expected)

    store.put = refuse  # type: ignore[method-assign]
    first.step()
    thread.start()
    while thread.is_alive():
        first.step()
        thread.join(0.005)
    assert (first.count(), second.count()) == (0, 1)
    said = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(said) == 2
    assert said.count("another CXR Inbox serves this bucket") == 1


def test_leaving_an_empty_bucket_writes_nothing(store: MemoryStore) -> None:
    Others(store).leave()
    assert store.objects == {}
