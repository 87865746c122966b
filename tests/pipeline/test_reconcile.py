"""X-rays in the inbox that have no verdict are found and queued again."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr import local
from cxr.local import LocalContext
from handlers import reconcile, record, wiring
from pipeline.errors import UsageError
from pipeline.events import s3_event, sqs_event
from pipeline.intake import Ports, dead_letter, ingest, record_verdict
from pipeline.judge import Judge
from pipeline.names import is_unfinished, verdict_key
from pipeline.reconcile import reconcile_inbox as look
from pipeline.records import Job
from pipeline.store.s3 import S3Store
from tests.support.fakes import LIMIT, FakeEngine, MemoryStore, SentJobs, make_ports

HOUR = timedelta(hours=1)
CONTEXT = LocalContext()


class Sent(SentJobs):
    """Keep everything that is sent to the queue."""

    def deliver(self, ports: Ports) -> list[str]:
        """Pass all of it to `ingest`, and its verdicts to `record`."""
        keys, self.keys = self.keys, []
        ingest(sqs_event("b", map(Job, keys)), ports)
        record.handler(s3_event("b", [verdict_key(key) for key in keys]), CONTEXT)
        return keys


@pytest.fixture
def queue() -> Sent:
    return Sent()


@pytest.fixture
def ports(tmp_path: Path, queue: Sent) -> Iterator[Ports]:
    ports = replace(make_ports(tmp_path), queue=queue)
    wiring.provide(ports)
    yield ports
    ports.index.close()  # type: ignore[attr-defined]


def drop(ports: Ports, **objects: bytes) -> None:
    assert isinstance(ports.store, MemoryStore)
    ports.store.objects.update({f"inbox/{name}": data for name, data in objects.items()})


def in_an_hour() -> datetime:
    return datetime.now(UTC) + HOUR


def reconciled(ports: Ports) -> dict[str, Any]:
    """Return what the handler finds one hour later; nothing else sees that clock."""
    wiring.provide(replace(ports, now=in_an_hour))
    try:
        return reconcile.handler({}, CONTEXT)
    finally:
        wiring.provide(ports)


def test_a_lost_notification_is_made_good(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"P1", b=b"N1")
    local.deliver(s3_event("b", ["inbox/a"]))
    found = reconciled(ports)
    assert (found["queued"], found["waiting"]) == (1, 1)
    assert found["oldest_seconds"] == pytest.approx(3600, abs=60)
    assert queue.deliver(ports) == ["inbox/b"]
    assert reconciled(ports) == {"queued": 0, "waiting": 0, "oldest_seconds": 0}


def test_a_young_object_has_an_event_on_its_way(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"P1")
    found = look(ports.store, ports.index, queue, datetime.now(UTC) + timedelta(minutes=5))
    assert (found.queued, found.waiting) == (0, 1)


def test_a_verdict_of_other_bytes_is_none(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"P1")
    local.deliver(s3_event("b", ["inbox/a"]))
    drop(ports, a=b"N2")
    reconciled(ports)
    assert queue.keys == ["inbox/a"]


def test_a_failed_verdict_stands_until_somebody_asks(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"boom")
    dead_letter(s3_event("b", ["inbox/a"]), ports)
    record.handler(s3_event("b", ["outbox/a.json"]), CONTEXT)
    assert reconciled(ports)["queued"] == 0
    found = look(ports.store, ports.index, queue, in_an_hour(), failed=True)
    assert (found.queued, found.waiting) == (1, 0)
    assert queue.keys == ["inbox/a"]


def test_what_has_gone_and_what_came_back_is_marked(ports: Ports) -> None:
    drop(ports, a=b"P1", b=b"P2")
    local.deliver(s3_event("b", ["inbox/a", "inbox/b"]))
    ports.store.delete("inbox/a")
    ports.index.mark("inbox/b", "deleted")
    reconciled(ports)
    rows = {row.key: row.source for row in ports.index.all()}
    assert rows == {"inbox/a": "deleted", "inbox/b": "present"}


def test_a_job_at_work_is_left_alone_and_a_lost_one_is_not(ports: Ports, queue: Sent) -> None:
    """Otherwise each look would add a message to that of a job that waits for a host."""
    drop(ports, a=b"P1")
    taken_up = datetime.now(UTC) + HOUR
    ports.index.wait(["inbox/a"], taken_up)
    found = look(ports.store, ports.index, queue, taken_up + timedelta(minutes=14))
    assert (found.queued, found.waiting) == (0, 1)
    assert look(ports.store, ports.index, queue, taken_up + timedelta(minutes=15)).queued == 1


def test_a_newer_hint_that_was_lost_does_not_wait_for_ever(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"P1")
    local.deliver(s3_event("b", ["inbox/a"]))
    ports.index.wait(["inbox/a"], datetime.now(UTC))
    found = look(ports.store, ports.index, queue, in_an_hour())
    assert (found.queued, found.waiting) == (1, 0)
    queue.deliver(ports)
    row = ports.index.get("inbox/a")
    assert row is not None
    assert row.waiting_since is None


def test_one_that_fails_again_does_not_wait_for_ever(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"boom")
    event = s3_event("b", ["inbox/a"])
    for _ in range(2):
        ingest(event, ports)
        dead_letter(event, ports)
        row = ports.index.get("inbox/a")
        assert row is not None
        assert (row.status, row.waiting_since) == ("failed", None)
    assert look(ports.store, ports.index, queue, in_an_hour()).queued == 0


def test_one_that_waited_and_went_does_not_wait_for_ever(ports: Ports) -> None:
    drop(ports, a=b"P1")
    local.deliver(s3_event("b", ["inbox/a"]))
    ports.index.wait(["inbox/a", "inbox/never-judged"], datetime.now(UTC))
    ports.store.delete("inbox/a")
    reconciled(ports)
    assert [(row.key, row.source, row.waiting_since) for row in ports.index.all()] == [
        ("inbox/a", "deleted", None)
    ]


def test_a_verdict_that_somebody_deleted_is_made_again(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"P1", b=b"P2", c=b"P3")
    local.deliver(s3_event("b", ["inbox/a", "inbox/b", "inbox/c"]))
    ports.store.delete("outbox/a.json")
    ports.store.delete("outbox/c.json")
    ports.store.delete("inbox/c")
    found = look(ports.store, ports.index, queue, in_an_hour())
    assert (found.queued, found.waiting) == (1, 1)
    assert {row.key: row.state for row in ports.index.all()} == {"inbox/a": "waiting", "inbox/b": "pneumonia"}
    assert queue.deliver(ports) == ["inbox/a"]
    assert reconciled(ports)["queued"] == 0


def test_a_verdict_without_a_row_gets_it(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"P1", b=b"P2")
    local.deliver(s3_event("b", ["inbox/a", "inbox/b"]))
    ports.store.delete("inbox/b")
    for name in "ab":
        ports.index.remove(f"outbox/{name}.json")
    assert reconciled(ports) == {"queued": 0, "waiting": 0, "oldest_seconds": 0}
    rows = {row.key: (row.label, row.source) for row in ports.index.all()}
    assert rows == {"inbox/a": ("pneumonia", "present"), "inbox/b": ("pneumonia", "deleted")}


def test_a_row_of_another_verdict_is_corrected_where_the_listing_has_etags(
    s3_store: S3Store, ports: Ports, queue: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(s3_store, FakeEngine(), ports.release, LIMIT)
    etags = [s3_store.put("inbox/a", b"P1", None)]
    s3_store.put("inbox/b", b"N1", None)
    for key in ("inbox/a", "inbox/b"):
        judge.judge(Job(key))
        record_verdict(verdict_key(key), s3_store, ports.index)
    etags.append(s3_store.put("inbox/a", b"N1", etags[0]))
    judge.judge(Job("inbox/a"))  # and its event is lost
    read: list[str] = []
    get = s3_store.get
    monkeypatch.setattr(s3_store, "get", lambda key, limit: (read.append(key), get(key, limit))[1])
    found = look(s3_store, ports.index, queue, in_an_hour())
    assert (found.queued, read) == (0, ["outbox/a.json"])
    row = ports.index.get("inbox/a")
    assert row is not None
    assert (row.label, row.etag) == ("normal", etags[1])


def test_what_is_no_verdict_is_made_again(s3_store: S3Store, ports: Ports, queue: Sent) -> None:
    s3_store.put("inbox/a", b"P1", None)
    Judge(s3_store, FakeEngine(), ports.release, LIMIT).judge(Job("inbox/a"))
    record_verdict("outbox/a.json", s3_store, ports.index)
    s3_store.delete("outbox/a.json")
    s3_store.put("outbox/a.json", b"nonsense", None)
    look(s3_store, ports.index, queue, in_an_hour())
    assert queue.keys == ["inbox/a"]


def test_names_that_are_not_to_be_judged(ports: Ports, queue: Sent) -> None:
    drop(ports, **{"a": b"P1", "b.part": b"P2"})
    found = look(ports.store, ports.index, queue, in_an_hour(), ignores=is_unfinished)
    assert found.waiting == 1
    assert queue.keys == ["inbox/a"]


def test_all_are_sent_in_one_go(ports: Ports) -> None:
    """SQS can then take ten with each request."""
    calls = []

    class Counting(Sent):
        def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
            calls.append([job.key for job in jobs])

    drop(ports, a=b"P1", b=b"P2")
    look(ports.store, ports.index, Counting(), in_an_hour())
    assert [sorted(keys) for keys in calls] == [["inbox/a", "inbox/b"]]


def test_a_folders_marker_is_no_image(ports: Ports, queue: Sent) -> None:
    drop(ports, **{"ward/": b""})
    assert reconciled(ports)["waiting"] == 0
    assert queue.keys == []


def test_without_a_queue_it_says_what_is_missing(ports: Ports) -> None:
    with pytest.raises(UsageError, match="CXR_QUEUE_URL"):
        reconciled(replace(ports, queue=None))


@settings(deadline=None, max_examples=40)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["drop", "delete", "deliver"]), st.booleans()),
        max_size=12,
    )
)
def test_whatever_was_lost_a_look_makes_good(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, bool]]
) -> None:
    """Notifications of drops and deletions may be lost; one look repairs everything."""
    queue = Sent()
    ports = replace(make_ports(tmp_path_factory.mktemp("world")), queue=queue)
    wiring.provide(ports)
    for number, (name, what, told) in enumerate(steps):
        key = f"inbox/{name}"
        if what == "drop":
            drop(ports, **{name: b"P%d" % number})
        elif what == "delete":
            ports.store.delete(key)
        if told:
            local.deliver(s3_event("b", [key], removed=what == "delete"))
    reconciled(ports)
    queue.deliver(ports)
    assert reconciled(ports) == {"queued": 0, "waiting": 0, "oldest_seconds": 0}
    inbox = {info.key: info.etag for info in ports.store.list("inbox/")}
    rows = {row.key: row.etag for row in ports.index.all() if row.source == "present"}
    assert rows == inbox
    ports.index.close()  # type: ignore[attr-defined]
