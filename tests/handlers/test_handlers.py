"""The Lambda entry points, from raw event JSON, over fakes."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cxr import local
from cxr.local import LocalContext
from handlers import dead_letter, ingest, record, wiring
from pipeline.errors import HostError, IngestFailed, StoreError
from pipeline.events import s3_event
from pipeline.intake import Ports
from pipeline.judge import read_verdict
from pipeline.names import verdict_key
from pipeline.records import Job, Outcome, Row
from pipeline.worklist.rebuild import rebuild_index
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.fakes import MemoryStore, SentJobs, make_ports
from tests.support.machines import wait_for

CONTEXT = LocalContext()


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    ports = make_ports(tmp_path)
    wiring.provide(ports)
    yield ports
    index_of(ports).close()


def index_of(ports: Ports) -> SqliteIndex:
    assert isinstance(ports.index, SqliteIndex)
    return ports.index


def objects(ports: Ports) -> dict[str, bytes]:
    assert isinstance(ports.store, MemoryStore)
    return ports.store.objects


def sqs(*events: dict[str, Any]) -> dict[str, Any]:
    attributes = {"ApproximateReceiveCount": "1"}
    return {
        "Records": [
            {
                "eventSource": "aws:sqs",
                "messageId": f"m{n}",
                "body": json.dumps(event),
                "attributes": attributes,
            }
            for n, event in enumerate(events)
        ]
    }


def results(answer: dict[str, Any]) -> dict[str, str]:
    return {item["key"]: item["result"] for item in answer["outcomes"]}


def test_an_upload_becomes_a_verdict_and_a_row(ports: Ports) -> None:
    objects(ports)["inbox/a.jpeg"] = b"P1"
    answer = ingest.handler(s3_event("b", ["inbox/a.jpeg"]), CONTEXT)
    assert results(answer) == {"inbox/a.jpeg": "classified"}
    waiting = ports.index.get("inbox/a.jpeg")
    assert waiting is not None
    assert waiting.status is None
    assert waiting.state == "working"
    assert record.handler(s3_event("b", ["outbox/a.jpeg.json"]), CONTEXT) == {"recorded": 1}
    row = ports.index.get("inbox/a.jpeg")
    assert row is not None
    assert (row.status, row.label, row.waiting_since) == ("classified", "pneumonia", None)


def test_a_duplicate_is_current_and_heals_a_lost_row(ports: Ports) -> None:
    objects(ports)["inbox/a.jpeg"] = b"P1"
    event = s3_event("b", ["inbox/a.jpeg", "inbox/a.jpeg"])
    assert results(ingest.handler(event, CONTEXT)) == {"inbox/a.jpeg": "classified"}
    assert results(ingest.handler(event, CONTEXT)) == {"inbox/a.jpeg": "current"}
    row = ports.index.get("inbox/a.jpeg")
    assert row is not None
    assert (row.status, row.waiting_since) == ("classified", None)


def test_of_a_batch_only_the_failed_message_comes_again(ports: Ports) -> None:
    objects(ports).update({"inbox/a": b"P1", "inbox/b": b"boom", "inbox/c": b"N1", "inbox/d": b"bad"})
    event = sqs(
        s3_event("b", ["inbox/a", "inbox/d"]),
        s3_event("b", ["inbox/b", "inbox/c"]),
        {"Event": "s3:TestEvent"},
    )
    answer = ingest.handler(event, CONTEXT)
    assert answer["batchItemFailures"] == [{"itemIdentifier": "m1"}]
    assert results(answer) == {
        "inbox/a": "classified",
        "inbox/b": "failed",
        "inbox/c": "classified",
        "inbox/d": "rejected",
    }
    everything = ingest.handler(sqs(s3_event("b", ["inbox/b"])), CONTEXT)
    assert everything["batchItemFailures"] == [{"itemIdentifier": "m0"}]


def test_failed_messages_come_again_soon_and_ever_later(ports: Ports) -> None:
    """Without that, SQS would wait for twelve minutes each time."""
    told: dict[str, float] = {}

    class Queue(SentJobs):
        def hasten(self, receipts: Mapping[str, float]) -> None:
            told.update(receipts)

    wiring.provide(replace(ports, queue=Queue()))
    objects(ports).update({f"inbox/{n}": b"boom" for n in range(1, 7)} | {"inbox/good": b"P1"})
    event = sqs(s3_event("b", ["inbox/good"]), *(s3_event("b", [f"inbox/{n}"]) for n in range(1, 7)))
    for number, record_ in enumerate(event["Records"]):
        record_["receiptHandle"] = f"receipt {number}"
        record_["attributes"] = {"ApproximateReceiveCount": str(number)}
    answer = ingest.handler(event, CONTEXT)
    assert len(answer["batchItemFailures"]) == 6
    pauses = [told[f"receipt {number}"] for number in range(1, 7)]
    assert pauses == [20, 60, 240, 600, 600, 600]
    assert len(told) == 6


def test_other_senders_are_told_of_a_failure_by_an_error(ports: Ports) -> None:
    objects(ports)["inbox/b"] = b"boom"
    with pytest.raises(IngestFailed, match="1 of 1"):
        ingest.handler(s3_event("b", ["inbox/b"]), CONTEXT)


def test_a_host_that_is_away_fails_the_jobs_it_did_not_answer(ports: Ports) -> None:
    class Away:
        def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
            for job in jobs:
                yield Outcome(job.key, "classified")
                raise HostError("it went away")

    wiring.provide(replace(ports, host=Away()))
    answer = ingest.handler(sqs(s3_event("b", ["inbox/a"]), s3_event("b", ["inbox/b"])), CONTEXT)
    assert answer["batchItemFailures"] == [{"itemIdentifier": "m1"}]


def test_a_deletion_marks_the_row_and_keeps_the_verdict(ports: Ports) -> None:
    objects(ports)["inbox/a"] = b"P1"
    local.deliver(s3_event("b", ["inbox/a"]))
    gone = s3_event("b", ["inbox/a"], removed=True)
    assert results(ingest.handler(gone, CONTEXT)) == {"inbox/a": "current"}  # it is still there: a late event
    del objects(ports)["inbox/a"]
    assert results(ingest.handler(gone, CONTEXT)) == {"inbox/a": "gone"}
    row = ports.index.get("inbox/a")
    assert row is not None
    assert (row.status, row.source) == ("classified", "deleted")
    objects(ports)["inbox/a"] = b"P1"
    local.deliver(s3_event("b", ["inbox/a"]))
    again = ports.index.get("inbox/a")
    assert again is not None
    assert again.source == "present"


def test_a_deletion_ends_the_wait_before_it_and_no_later_one(ports: Ports) -> None:
    objects(ports)["inbox/a"] = b"P1"
    local.deliver(s3_event("b", ["inbox/a"]))
    del objects(ports)["inbox/a"]
    gone = s3_event("b", ["inbox/a"], removed=True)
    ports.index.wait(["inbox/a"], datetime.now(UTC) + timedelta(minutes=1))  # dropped again since
    ingest.handler(gone, CONTEXT)
    row = ports.index.get("inbox/a")
    assert row is not None
    assert row.waiting_since
    ports.index.wait(["inbox/a"], datetime.now(UTC), at_work=True)
    ingest.handler(gone, CONTEXT)
    row = ports.index.get("inbox/a")
    assert row is not None
    assert (row.status, row.source, row.waiting_since, row.at_work) == ("classified", "deleted", None, False)


def test_a_late_deletion_of_what_is_there_again_shows_its_verdict(ports: Ports) -> None:
    objects(ports)["inbox/a"] = b"P1"
    hints = local.LocalQueue(ports)
    hints.hint("inbox/a", removed=True)
    wait_for(lambda: hints.status().depth == 0)
    hints.stop()
    row = ports.index.get("inbox/a")
    assert row is not None
    assert (row.status, row.waiting_since, row.at_work) == ("classified", None, False)


def test_an_upload_that_is_gone_leaves_no_row(ports: Ports) -> None:
    assert results(ingest.handler(s3_event("b", ["inbox/a"]), CONTEXT)) == {"inbox/a": "gone"}
    assert ports.index.get("inbox/a") is None


def test_after_the_last_delivery_there_is_a_failed_verdict(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_PAUSES", (0, 0))
    objects(ports).update({"inbox/a": b"boom", "inbox/b": b"P1"})
    answer = local.deliver(s3_event("b", ["inbox/a", "inbox/b"]))
    assert {item["key"]: item["result"] for item in answer.outcomes} == {
        "inbox/a": "given_up",
        "inbox/b": "classified",
    }
    row = ports.index.get("inbox/a")
    assert row is not None
    assert (row.status, row.reason, row.waiting_since) == ("failed", "internal", None)


def test_what_is_given_up_keeps_the_reason_of_its_own(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_PAUSES", (0, 0))
    objects(ports)["inbox/a"] = b"hang"
    assert local.deliver(s3_event("b", ["inbox/a"])).outcomes == [{"key": "inbox/a", "result": "given_up"}]
    row = ports.index.get("inbox/a")
    assert row is not None
    assert (row.status, row.reason, row.waiting_since) == ("failed", "took_too_long", None)


def test_a_failure_that_passes_leaves_no_trace(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_PAUSES", (0, 0))
    objects(ports)["inbox/a"] = b"P1"
    deliveries = []

    class Shaky:
        def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
            deliveries.append(jobs)
            if len(deliveries) < 3:
                raise HostError("not yet")
            return ports.host.run(jobs)

    wiring.provide(replace(ports, host=Shaky()))
    assert local.deliver(s3_event("b", ["inbox/a"])).outcomes == [{"key": "inbox/a", "result": "classified"}]


class OneRowFails(SqliteIndex):
    """Fail to write the rows of some keys."""

    def __init__(self, path: Path, *keys: str) -> None:
        super().__init__(path)
        self.failing = set(keys)

    def record(self, row: Row) -> None:
        if row.key in self.failing:
            raise StoreError("no answer")
        super().record(row)


def test_one_row_that_fails_keeps_no_other_from_its_own(ports: Ports, tmp_path: Path) -> None:
    """Only its message of the batch comes again; another sender gets the error after all others are done."""
    keys = ["inbox/a", "inbox/b", "inbox/c"]
    objects(ports).update(dict.fromkeys(keys, b"P1"))
    ingest.handler(s3_event("b", keys), CONTEXT)
    index = OneRowFails(tmp_path / "other.sqlite", "inbox/a", "inbox/b")
    wiring.provide(replace(ports, index=index))
    verdicts = [s3_event("b", [verdict_key(key)]) for key in keys]
    answer = record.handler(sqs(*verdicts), CONTEXT)
    assert answer == {
        "recorded": 1,
        "batchItemFailures": [{"itemIdentifier": "m0"}, {"itemIdentifier": "m1"}],
    }
    assert [row.key for row in index.all()] == ["inbox/c"]
    index.failing.remove("inbox/b")
    with pytest.raises(IngestFailed, match="1 of 3"):
        record.handler(s3_event("b", [verdict_key(key) for key in keys]), CONTEXT)
    assert {row.key for row in index.all()} == {"inbox/b", "inbox/c"}
    assert record.handler(sqs(verdicts[1]), CONTEXT) == {"recorded": 1, "batchItemFailures": []}
    index.close()


def test_one_row_that_fails_ends_no_work_on_the_others(ports: Ports, tmp_path: Path) -> None:
    keys = ["inbox/a", "inbox/b"]
    objects(ports).update(dict.fromkeys(keys, b"P1"))
    ingest.handler(s3_event("b", keys), CONTEXT)
    index = OneRowFails(tmp_path / "other.sqlite", "inbox/a")
    wiring.provide(replace(ports, index=index))
    answer = ingest.handler(sqs(*(s3_event("b", [key]) for key in keys)), CONTEXT)
    assert results(answer) == {"inbox/a": "failed", "inbox/b": "current"}
    assert answer["batchItemFailures"] == [{"itemIdentifier": "m0"}]
    index.close()


def test_an_erased_verdict_takes_its_row_along(ports: Ports) -> None:
    objects(ports)["inbox/a"] = b"P1"
    local.deliver(s3_event("b", ["inbox/a"]))
    del objects(ports)["outbox/a.json"]
    record.handler(s3_event("b", ["outbox/a.json"], removed=True), CONTEXT)
    assert ports.index.get("inbox/a") is None


def test_the_worklist_can_be_made_again(ports: Ports, tmp_path: Path) -> None:
    objects(ports).update({f"inbox/{n}": b"P%d" % n for n in range(5)})
    local.deliver(s3_event("b", [f"inbox/{n}" for n in range(5)]))
    other = SqliteIndex(tmp_path / "other.sqlite")
    assert rebuild_index(ports.store, other).verdicts == 5
    assert {replace(row, change=0) for row in other.all()} == {
        replace(row, change=0) for row in index_of(ports).all()
    }
    del objects(ports)["outbox/3.json"]
    assert rebuild_index(ports.store, other).verdicts == 4
    assert other.get("inbox/3") is None
    other.close()


def test_dead_letters_of_an_object_that_was_judged_after_all(ports: Ports) -> None:
    objects(ports)["inbox/a"] = b"P1"
    ingest.handler(s3_event("b", ["inbox/a"]), CONTEXT)
    assert results(dead_letter.handler(s3_event("b", ["inbox/a"]), CONTEXT)) == {"inbox/a": "current"}
    verdict = read_verdict(ports.store, verdict_key("inbox/a")).verdict
    assert verdict is not None
    assert verdict.status == "classified"


def test_no_file_name_reaches_the_log(
    ports: Ports,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(local, "_PAUSES", (0, 0))
    caplog.set_level(logging.DEBUG)
    name = "inbox/Erika Mustermann 2021-05-04.jpeg"
    for data in (b"P1", b"boom", b"bad"):
        objects(ports)[name] = data
        local.deliver(s3_event("b", [name, "inbox/Mustermann-none.jpeg", "inbox/Mustermann/"]))
    written = caplog.text + "".join(capfd.readouterr())
    assert "a job failed" in written
    assert "Mustermann" not in written


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"Records": None},
        {"Records": {}},
        {"Records": ["text"]},
        {"Records": [{"eventSource": "aws:sqs"}]},
    ],
)
def test_what_is_no_event_is_ignored(ports: Ports, event: dict[str, Any]) -> None:
    answer = ingest.handler(event, CONTEXT)
    assert answer["outcomes"] == []
    assert "batchItemFailures" not in answer


def test_a_verdicts_copy_at_another_place_says_nothing(ports: Ports) -> None:
    objects(ports)["inbox/a"] = b"P1"
    local.deliver(s3_event("b", ["inbox/a"]))
    objects(ports)["outbox/backup/a.json"] = objects(ports)["outbox/a.json"]
    objects(ports)["inbox/a"] = b"N2"
    local.deliver(s3_event("b", ["inbox/a"]))
    record.handler(s3_event("b", ["outbox/backup/a.json"]), CONTEXT)
    row = ports.index.get("inbox/a")
    assert row is not None
    assert row.label == "normal"


def test_the_queue_keeps_what_could_not_even_be_given_up(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the full disk has room again, everything is done without another hint."""
    monkeypatch.setattr(local, "_PAUSES", (0, 0))
    monkeypatch.setattr(local, "_PAUSE_AFTER_ERROR", 0.1)
    full = [True]
    put = ports.store.put

    def put_if_there_is_room(key: str, data: bytes, expected: str | None) -> str:
        if full and key.startswith("outbox/"):
            raise StoreError("no space left")
        return put(key, data, expected)

    monkeypatch.setattr(ports.store, "put", put_if_there_is_room)
    objects(ports).update({"inbox/a": b"P1", "inbox/b": b"bad"})
    hints = local.LocalQueue(ports)
    for key in ("inbox/a", "inbox/b"):
        hints.hint(key, removed=False)
    waiting = ports.index.get("inbox/b")
    assert waiting is not None
    assert waiting.waiting_since is not None
    time.sleep(0.5)
    assert "outbox/a.json" not in objects(ports)
    full.clear()
    wait_for(lambda: {"outbox/a.json", "outbox/b.json"} <= objects(ports).keys())
    wait_for(lambda: not any(row.waiting_since for row in ports.index.all()))
    hints.stop()


def test_an_image_that_waits_for_its_next_try_keeps_no_other_waiting(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_PAUSES", (0.3, 0.3))
    bad = [f"inbox/{number}" for number in range(40)]
    objects(ports).update(dict.fromkeys(bad, b"boom") | {"inbox/good": b"P1"})
    hints = local.LocalQueue(ports)
    for key in (*bad, "inbox/good"):
        hints.hint(key, removed=False)
    wait_for(lambda: "outbox/good.json" in objects(ports), 0.3)
    assert not any(f"{key}.json".replace("inbox", "outbox") in objects(ports) for key in bad)
    wait_for(lambda: all(f"{key}.json".replace("inbox", "outbox") in objects(ports) for key in bad))
    hints.stop()


def test_a_worklist_that_is_away_loses_no_hint(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_PAUSE_AFTER_ERROR", 0.05)
    away = [True]

    def only_if_there(work: Callable[..., None]) -> Callable[..., None]:
        def tried(*arguments: Any, **more: Any) -> None:
            if away:
                raise StoreError("the worklist is locked")
            work(*arguments, **more)

        return tried

    for name in ("wait", "record"):
        monkeypatch.setattr(ports.index, name, only_if_there(getattr(ports.index, name)))
    objects(ports)["inbox/a"] = b"P1"
    hints = local.LocalQueue(ports)
    hints.hint("inbox/a", removed=False)
    time.sleep(0.2)
    assert hints.status().depth == 1
    away.clear()
    wait_for(lambda: "outbox/a.json" in objects(ports))
    wait_for(lambda: hints.status().depth == 0)
    row = ports.index.get("inbox/a")
    assert row is not None
    assert row.state == "pneumonia"
    hints.stop()


@pytest.mark.parametrize("look", [local.LocalQueue.hint, local.LocalQueue.offer])
def test_a_second_look_at_what_is_settled_shows_nowhere(ports: Ports, look: Callable[..., object]) -> None:
    objects(ports).update({"inbox/same": b"P1", "inbox/other": b"P2", "inbox/lost": b"P3"})
    ended: list[str] = []
    hints = local.LocalQueue(ports, ended=lambda key, *_: ended.append(key))
    for key in ("inbox/same", "inbox/other", "inbox/lost"):
        hints.hint(key, removed=False)
    wait_for(lambda: len(ended) == 3)
    objects(ports)["inbox/other"] = b"N"
    del objects(ports)["outbox/lost.json"]
    before = {row.key: row.change for row in ports.index.all()}
    for key in before:
        look(hints, key, removed=False)
    wait_for(lambda: len(ended) == 6)
    hints.stop()
    after = {row.key: row.change for row in ports.index.all()}
    assert [key for key in before if before[key] == after[key]] == ["inbox/same"]
    assert "outbox/lost.json" in objects(ports)


def test_the_queue_stops_after_what_is_at_work(ports: Ports) -> None:
    class Slow:
        def abandon(self) -> None:
            pass

        def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
            time.sleep(0.2)
            return ports.host.run(jobs)

    wiring.provide(replace(ports, host=Slow()))
    hints = local.LocalQueue(ports)
    for number in range(200):
        objects(ports)[f"inbox/{number}"] = b"P1"
        hints.hint(f"inbox/{number}", removed=False)
    assert sum(row.state == "waiting" for row in ports.index.all()) > 150  # all that is queued is shown
    hints.stop()
    assert sum(key.startswith("outbox/") and key.endswith(".json") for key in objects(ports)) < 100
