"""The worklist in SQLite."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.ports import Row
from pipeline.sqlite import SqliteIndex

KEY = "inbox/a.jpeg"
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
VERDICT = "outbox/a.jpeg.json"
DONE = Row(KEY, "classified", "normal", 0.1, None, ("atypical",), "e1", VERDICT, "v1", None, LATER, LATER)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SqliteIndex]:
    index = SqliteIndex(tmp_path / "index.sqlite")
    yield index
    index.close()


def row(index: SqliteIndex) -> Row:
    found = index.get(KEY)
    assert found is not None
    return replace(found, change=0)


def test_waiting_then_done(index: SqliteIndex) -> None:
    index.wait([KEY], NOW)
    assert row(index) == Row(KEY, waiting_since=NOW)
    index.record(DONE)
    assert row(index) == DONE


def test_a_late_event_never_takes_a_finished_row_back(index: SqliteIndex) -> None:
    index.record(DONE)
    late = LATER + timedelta(seconds=1)
    index.wait([KEY], late)
    assert row(index) == replace(DONE, waiting_since=late)
    index.settle(KEY, late)
    assert row(index) == DONE


def test_a_verdict_ends_only_the_waits_that_it_has_seen(index: SqliteIndex) -> None:
    newer = LATER + timedelta(microseconds=1)
    index.wait([KEY], newer)
    index.record(DONE)
    assert row(index).waiting_since == newer
    index.settle(KEY, LATER)
    assert row(index).waiting_since == newer


def test_deletion_marks_a_row_and_drops_one_without_verdict(index: SqliteIndex) -> None:
    index.mark(KEY, "deleted")
    assert index.get(KEY) is None
    index.wait([KEY], NOW)
    index.mark(KEY, "deleted")
    assert index.get(KEY) is None
    index.record(DONE)
    index.mark(KEY, "deleted")
    assert row(index).source == "deleted"
    assert index.present() == []
    index.mark(KEY, "present")
    assert index.present() == [KEY]


def test_a_removed_verdict_leaves_a_waiting_row(index: SqliteIndex) -> None:
    index.record(DONE)
    index.wait([KEY], LATER)
    index.remove(VERDICT)
    assert row(index) == Row(KEY, waiting_since=LATER)
    index.settle(KEY, LATER)
    index.remove(VERDICT)
    assert index.get(KEY) is None


def test_newest_first_and_counts(index: SqliteIndex) -> None:
    for number in range(5):
        at = NOW + timedelta(seconds=number)
        index.record(
            replace(DONE, key=f"inbox/{number}", finished_at=at, label=("normal", "pneumonia")[number % 2])
        )
    index.record(replace(DONE, key="inbox/r", status="rejected", label=None, finished_at=NOW))
    index.wait(["inbox/w"], NOW + timedelta(minutes=1))
    index.wait(["inbox/2"], NOW + timedelta(minutes=2))
    assert [row.key for row in index.newest(4)] == ["inbox/w", "inbox/4", "inbox/3", "inbox/2"]
    assert index.counts() == {"waiting": 2, "normal": 2, "pneumonia": 2, "rejected": 1}


def test_every_change_has_a_number(index: SqliteIndex) -> None:
    numbers = [index.last_change()]
    for change in (lambda: index.wait([KEY], NOW), lambda: index.record(DONE), lambda: index.remove(VERDICT)):
        change()
        numbers.append(index.last_change())
    assert numbers == sorted(set(numbers))


def test_many_threads_and_two_indexes_on_one_file(tmp_path: Path) -> None:
    indexes = [SqliteIndex(tmp_path / "index.sqlite") for _ in range(2)]

    def write(worker: int) -> None:
        for number in range(20):
            indexes[worker % 2].record(replace(DONE, key=f"inbox/{worker}-{number}"))

    threads = [threading.Thread(target=write, args=[worker]) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert indexes[0].counts() == {"normal": 120}
    assert indexes[1].last_change() == 120
    for index in indexes:
        index.close()


def test_a_file_of_another_schema_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript("CREATE TABLE rows (key TEXT); INSERT INTO rows VALUES ('old')")
    index = SqliteIndex(path)
    assert index.newest() == []
    index.record(DONE)
    index.close()
    again = SqliteIndex(path)
    assert row(again) == DONE
    again.close()


def test_a_file_that_is_no_database_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"no database" * 1000)
    index = SqliteIndex(path)
    index.record(DONE)
    assert row(index) == DONE
    index.close()
