"""The worklist: one contract for SQLite and DynamoDB, and the parts that SQLite adds for the page."""

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.names import UNUSABLE
from pipeline.ports import Index
from pipeline.records import Reading, Reviewed, Row
from pipeline.worklist.dynamodb import DynamoIndex
from pipeline.worklist.sqlite import SqliteIndex
from pipeline.worklist.views import Worklist
from tests.support.indexes import DONE, KEY, LATER, NOW, VERDICT


@pytest.fixture(params=["index", "dynamo"])
def any_index(request: pytest.FixtureRequest) -> Index:
    found: Index = request.getfixturevalue(request.param)
    return found


def row(index: Index) -> Row:
    found = index.get(KEY)
    assert found is not None
    return replace(found, change=0)


def test_waiting_then_done(any_index: Index) -> None:
    any_index.wait([KEY], NOW)
    assert row(any_index) == Row(KEY, waiting_since=NOW, asked_since=NOW)
    any_index.record(DONE)
    assert row(any_index) == DONE


READ = Reviewed(
    "v1",
    "mixed",
    (Reading("ada; bob", "agree", "not_pneumonia", NOW), Reading(None, "unsure", "unsure", NOW)),
    3,
)


def test_reviews_stay_beside_the_verdict(any_index: Index) -> None:
    any_index.review(KEY, READ)
    assert any_index.get(KEY) is None
    any_index.record(DONE)
    any_index.review(KEY, READ)
    read = replace(DONE, **vars(READ))
    assert row(any_index) == read
    assert (read.review, read.reviewers) == ("mixed", ["ada; bob", ""])
    any_index.record(replace(DONE, verdict_etag="v2"))
    assert row(any_index) == replace(read, verdict_etag="v2")
    assert (row(any_index).review, row(any_index).reviewers) == ("unread", [])
    any_index.review(KEY, Reviewed())
    assert row(any_index) == replace(DONE, verdict_etag="v2")
    any_index.review(KEY, READ)
    any_index.wait([KEY], LATER)
    any_index.remove(VERDICT)
    assert row(any_index) == Row(KEY, waiting_since=LATER, asked_since=LATER)


def test_a_late_event_never_takes_a_finished_row_back(any_index: Index) -> None:
    any_index.record(DONE)
    late = LATER + timedelta(seconds=1)
    any_index.wait([KEY], late)
    assert row(any_index) == replace(DONE, waiting_since=late, asked_since=late)
    any_index.settle(KEY, late)
    assert row(any_index) == DONE


def test_a_verdict_ends_only_the_waits_that_it_has_seen(any_index: Index) -> None:
    newer = LATER + timedelta(microseconds=1)
    any_index.wait([KEY], newer)
    any_index.record(DONE)
    assert row(any_index).waiting_since == newer
    any_index.settle(KEY, LATER)
    assert row(any_index).waiting_since == newer


def test_deletion_marks_a_row_and_drops_one_without_verdict(any_index: Index) -> None:
    any_index.mark(KEY, "deleted")
    assert any_index.get(KEY) is None
    any_index.wait([KEY], NOW)
    any_index.mark(KEY, "deleted")
    assert any_index.get(KEY) is None
    any_index.record(DONE)
    any_index.mark(KEY, "deleted")
    assert row(any_index).source == "deleted"
    any_index.mark(KEY, "present")
    assert row(any_index) == DONE


def test_which_sources_are_present(index: SqliteIndex) -> None:
    index.record(DONE)
    index.mark(KEY, "deleted")
    assert list(index.present()) == []
    index.mark(KEY, "present")
    assert list(index.present()) == [KEY]


def test_a_verdict_of_an_unusable_name_is_removed_by_its_own_key(any_index: Index) -> None:
    verdict = f"{UNUSABLE}0123.json"
    any_index.record(replace(DONE, verdict_key=verdict))
    any_index.record(replace(DONE, key="inbox/b", verdict_key="outbox/b.json"))
    assert set(any_index.verdict_keys()) == {verdict, "outbox/b.json"}
    any_index.remove(verdict)
    assert any_index.get(KEY) is None
    assert any_index.verdict_keys() == ["outbox/b.json"]


def test_all_rows(any_index: Index) -> None:
    any_index.record(DONE)
    any_index.wait(["inbox/b"], NOW)
    any_index.wait(["inbox/c"], NOW)
    any_index.settle("inbox/c", NOW)
    found = {replace(row, change=0) for row in any_index.all()}
    assert found == {DONE, Row("inbox/b", waiting_since=NOW, asked_since=NOW)}


def test_the_rows_between_two_keys(any_index: Index) -> None:
    any_index.wait([f"inbox/{name}" for name in "abcd"], NOW)
    hashed = f"{UNUSABLE}1.json"
    any_index.record(replace(DONE, key="inbox/z", verdict_key=hashed))

    def keys(after: str, end: str) -> str:
        found = [row.key.removeprefix("inbox/") for row in any_index.part(after, end)]
        return "".join(sorted(found))

    assert keys("", "") == "abcdz"
    assert keys("inbox/a", "inbox/c") == "bc"
    assert keys("inbox/a", "") == "bcdz"
    assert keys("", "inbox/b") == "abz"  # with those of hashed names


def test_what_is_not_there_stays_so(any_index: Index) -> None:
    any_index.settle(KEY, NOW)
    any_index.mark(KEY, "present")
    any_index.remove(VERDICT)
    any_index.wait([], NOW)
    assert any_index.get(KEY) is None


def test_a_row_that_went_can_come_again(any_index: Index) -> None:
    any_index.record(DONE)
    any_index.mark(KEY, "deleted")
    any_index.remove(VERDICT)
    assert any_index.get(KEY) is None
    any_index.wait([KEY, "inbox/b"], NOW)
    assert row(any_index) == Row(KEY, waiting_since=NOW, asked_since=NOW)
    any_index.record(DONE)
    assert row(any_index) == DONE


def test_a_newer_verdict_leaves_nothing_of_the_older(any_index: Index) -> None:
    any_index.record(DONE)
    failed = Row(KEY, "failed", reason="internal", etag="e2", verdict_key=VERDICT, verdict_etag="v2")
    failed = replace(failed, started_at=LATER, finished_at=LATER)
    any_index.record(failed)
    assert row(any_index) == failed


def test_the_feed_says_what_changed_and_what_went(dynamo: DynamoIndex) -> None:
    dynamo.wait(["inbox/b"], NOW)
    dynamo.record(DONE)
    dynamo.settle("inbox/b", NOW)
    first, second = dynamo.changes(NOW)
    assert (first.key, first.row) == (KEY, DONE)
    assert (second.key, second.row) == ("inbox/b", None)
    assert [change.key for change in dynamo.changes(first.at)] == ["inbox/b"]
    assert list(dynamo.all()) == [DONE]


def test_a_table_that_refuses_is_an_error_of_the_store(dynamo: DynamoIndex) -> None:
    with pytest.raises(StoreError, match="ResourceNotFoundException"):
        DynamoIndex("another", dynamo._client).get(KEY)


def test_a_removed_verdict_leaves_a_waiting_row(any_index: Index) -> None:
    any_index.record(DONE)
    any_index.wait([KEY], LATER)
    any_index.remove(VERDICT)
    assert row(any_index) == Row(KEY, waiting_since=LATER, asked_since=LATER)
    any_index.settle(KEY, LATER)
    any_index.remove(VERDICT)
    assert any_index.get(KEY) is None


def test_a_wait_is_as_old_as_its_first_note(any_index: Index) -> None:
    for since in (NOW, LATER):
        any_index.wait([KEY], since)
    assert row(any_index) == Row(KEY, waiting_since=LATER, asked_since=NOW)
    any_index.record(DONE)
    any_index.wait([KEY], LATER + timedelta(seconds=9))
    assert row(any_index).asked_since == LATER + timedelta(seconds=9)


def test_a_host_at_work_is_said_until_the_work_is_over(any_index: Index) -> None:
    any_index.wait([KEY], NOW)
    assert row(any_index).state == "waiting"
    any_index.wait([KEY], NOW, at_work=True)
    assert row(any_index).state == "working"
    any_index.wait([KEY], NOW)
    assert row(any_index) == Row(KEY, waiting_since=NOW, asked_since=NOW)
    any_index.wait([KEY], NOW, at_work=True)
    any_index.record(DONE)
    assert row(any_index) == DONE
    any_index.wait([KEY], LATER, at_work=True)
    any_index.settle(KEY, LATER)
    assert row(any_index) == DONE


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
    assert Worklist(indexes[0]).counts()["normal"] == 120
    assert indexes[1].last_change() == 120
    for index in indexes:
        index.close()


def test_a_file_of_another_schema_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript("CREATE TABLE rows (key TEXT); INSERT INTO rows VALUES ('old')")
    index = SqliteIndex(path)
    assert list(index.all()) == []
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
