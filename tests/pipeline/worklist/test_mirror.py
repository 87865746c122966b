"""The page's copy of a bucket's worklist."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.records import Row
from pipeline.worklist.dynamodb import TOMBSTONE_LIFE, DynamoIndex
from pipeline.worklist.mirror import Mirror
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.indexes import DONE, KEY, LATER, NOW, VERDICT
from tests.support.tables import FEED, make_table


@pytest.fixture
def target(tmp_path: Path) -> Iterator[SqliteIndex]:
    target = SqliteIndex(tmp_path / "index.sqlite")
    yield target
    target.close()


def rows(index: SqliteIndex | DynamoIndex) -> set[Row]:
    return {replace(row, change=0) for row in index.all()}


def test_it_follows(dynamo: DynamoIndex, target: SqliteIndex) -> None:
    mirror = Mirror(dynamo, target)
    dynamo.record(DONE)
    mirror.step()
    assert rows(target) == {DONE}
    dynamo.wait([KEY, "inbox/b"], LATER)
    mirror.step()
    assert rows(target) == rows(dynamo)
    dynamo.settle("inbox/b", LATER)
    mirror.step()
    assert target.get("inbox/b") is None


def test_what_is_the_same_moves_nothing(dynamo: DynamoIndex, target: SqliteIndex) -> None:
    mirror = Mirror(dynamo, target)
    dynamo.record(DONE)
    mirror.step()
    change = target.last_change()
    for _ in range(3):
        mirror.step()
    Mirror(dynamo, target).step()  # another start of the page
    assert target.last_change() == change


def test_after_a_long_absence_it_reads_everything(dynamo: DynamoIndex, target: SqliteIndex) -> None:
    dynamo.record(DONE)
    dynamo.record(replace(DONE, key="inbox/b", verdict_key="outbox/b.json"))
    Mirror(dynamo, target).step()
    dynamo.remove(VERDICT)
    dynamo._client.delete_item(TableName="s-index", Key={"key": {"S": KEY}})  # its time to live ended
    later = datetime.now(UTC) + TOMBSTONE_LIFE
    Mirror(dynamo, target, lambda: later).step()
    assert [row.key for row in target.all()] == ["inbox/b"]


def test_a_write_with_a_late_clock_is_not_missed(dynamo: DynamoIndex, target: SqliteIndex) -> None:
    mirror = Mirror(dynamo, target)
    dynamo.record(DONE)
    mirror.step()
    dynamo.record(replace(DONE, key="inbox/b", verdict_key="outbox/b.json"))
    early = (datetime.now(UTC) - timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    dynamo._client.update_item(
        TableName="s-index",
        Key={"key": {"S": "inbox/b"}},
        UpdateExpression="SET changed_at = :early",
        ExpressionAttributeValues={":early": {"S": early}},
    )
    mirror.step()
    assert target.get("inbox/b") is not None


class Ahead(datetime):
    """Provide a clock that is five minutes ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(minutes=5)


def test_a_writer_whose_clock_is_ahead_hides_nothing(
    dynamo: DynamoIndex, target: SqliteIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(dynamo, target)
    mirror.step()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.worklist.dynamodb.datetime", Ahead)
        dynamo.wait(["inbox/ahead"], NOW)
    mirror.step()
    dynamo.record(DONE)
    mirror.step()
    assert rows(target) == rows(dynamo)


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_page_whose_clock_is_ahead_misses_nothing(
    dynamo: DynamoIndex, target: SqliteIndex, is_empty: bool
) -> None:
    if not is_empty:
        dynamo.wait(["inbox/b"], NOW)
    mirror = Mirror(dynamo, target, lambda: Ahead.now(UTC))
    mirror.step()
    dynamo.record(DONE)
    mirror.step()
    assert rows(target) == rows(dynamo)


def test_a_table_that_was_made_anew_is_noticed_in_a_day(dynamo: DynamoIndex, target: SqliteIndex) -> None:
    dynamo.record(DONE)
    Mirror(dynamo, target).step()
    dynamo._client.delete_table(TableName="s-index")
    make_table(dynamo._client, "s-index", "key", FEED)
    Mirror(dynamo, target, lambda: datetime.now(UTC) + timedelta(days=1)).step()
    assert not rows(target)


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk is full: inbox/name"), StoreError("none")])
def test_no_error_ends_it_nor_names_a_file(
    target: SqliteIndex,
    dynamo: DynamoIndex,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pipeline.worklist.mirror._STEP_SECONDS", 0.01)
    mirror, stop, steps = Mirror(dynamo, target), threading.Event(), iter([error, error, None])

    def step() -> None:
        if fault := next(steps):
            raise fault
        stop.set()

    monkeypatch.setattr(mirror, "step", step)
    mirror.run(stop)
    assert len(caplog.records) == 2
    assert "inbox/name" not in caplog.text


@pytest.mark.parametrize("minutes", [-4, 4])
def test_a_page_whose_clock_is_wrong_misses_nothing(
    dynamo: DynamoIndex, target: SqliteIndex, minutes: int
) -> None:
    mirror = Mirror(dynamo, target, lambda: datetime.now(UTC) + timedelta(minutes=minutes))
    mirror.step()
    dynamo.record(DONE)
    mirror.step()
    assert rows(target) == {DONE}


def test_it_goes_on_after_an_error_of_its_own_file(
    dynamo: DynamoIndex, target: SqliteIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.worklist.mirror._STEP_SECONDS", 0.01)
    mirror, stop, put = Mirror(dynamo, target), threading.Event(), target.put
    errors = [sqlite3.OperationalError("database or disk is full")]

    def full(row: Row) -> None:
        if errors:
            raise errors.pop()
        put(row)

    monkeypatch.setattr(target, "put", full)
    dynamo.record(DONE)
    thread = threading.Thread(target=mirror.run, args=[stop], daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not rows(target) and time.monotonic() < deadline:
        stop.wait(0.01)
    stop.set()
    thread.join(10)
    assert rows(target) == {DONE}


def test_it_goes_on_after_an_error(
    dynamo: DynamoIndex,
    target: SqliteIndex,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pipeline.worklist.mirror._STEP_SECONDS", 0.01)
    good, mirror, stop = dynamo._table, Mirror(dynamo, target), threading.Event()
    dynamo.record(DONE)
    dynamo._table = "another"
    thread = threading.Thread(target=mirror.run, args=[stop], daemon=True)
    with caplog.at_level(logging.WARNING):
        thread.start()
        while not caplog.records:
            stop.wait(0.01)
    dynamo._table = good
    while not rows(target):
        stop.wait(0.01)
    stop.set()
    thread.join(10)
    assert rows(target) == {DONE}


OPERATIONS = ["wait", "settle", "record", "mark", "back", "remove", "step"]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(OPERATIONS)), max_size=15))
def test_whatever_happens_the_copy_is_the_same(
    dynamo: DynamoIndex, target: SqliteIndex, steps: list[tuple[str, str]]
) -> None:
    mirror = Mirror(dynamo, target)
    for number, (name, what) in enumerate(steps):
        key, at = f"inbox/{name}", NOW + timedelta(seconds=number)
        match what:
            case "wait":
                dynamo.wait([key], at)
            case "settle":
                dynamo.settle(key, at)
            case "record":
                done = replace(DONE, key=key, verdict_key=f"outbox/{name}.json")
                dynamo.record(replace(done, started_at=at, finished_at=at, etag=str(number)))
            case "mark" | "back":
                dynamo.mark(key, "deleted" if what == "mark" else "present")
            case "remove":
                dynamo.remove(f"outbox/{name}.json")
            case _:
                mirror.step()
    mirror.step()
    assert rows(target) == rows(dynamo)
