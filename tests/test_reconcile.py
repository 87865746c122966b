"""What lies in the inbox without its verdict is found, and queued once more."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import local, reconcile, record, wiring
from handlers.local import LocalContext
from pipeline.errors import UsageError
from pipeline.events import s3_event, sqs_event
from pipeline.intake import Ports, dead_letter, ingest
from pipeline.names import verdict_key
from pipeline.reconcile import reconcile as look
from tests.fakes import MemoryStore, make_ports

HOUR = timedelta(hours=1)
CONTEXT = LocalContext()


class Sent:
    """A queue that keeps what it gets."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def send(self, keys: Iterable[str], since: datetime, delay: float = 0) -> None:
        self.keys += keys

    def deliver(self, ports: Ports) -> list[str]:
        """Hand all of it to `ingest`, and its verdicts to `record`."""
        keys, self.keys = self.keys, []
        ingest(sqs_event("b", dict.fromkeys(keys, datetime.now(UTC))), ports)
        record.handler(s3_event("b", [verdict_key(key) for key in keys]), CONTEXT)
        return keys


@pytest.fixture
def queue() -> Sent:
    return Sent()


@pytest.fixture
def ports(tmp_path: Path, queue: Sent) -> Iterator[Ports]:
    """As they are an hour after everything was dropped."""
    ports = replace(make_ports(tmp_path), queue=queue, now=lambda: datetime.now(UTC) + HOUR)
    wiring.provide(ports)
    yield ports
    ports.index.close()  # type: ignore[attr-defined]


def drop(ports: Ports, **objects: bytes) -> None:
    assert isinstance(ports.store, MemoryStore)
    ports.store.objects.update({f"inbox/{name}": data for name, data in objects.items()})


def test_a_lost_notification_is_made_good(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"P1", b=b"N1")
    local.deliver(s3_event("b", ["inbox/a"]))
    found = reconcile.handler({}, CONTEXT)
    assert (found["queued"], found["waiting"]) == (1, 1)
    assert found["oldest_seconds"] == pytest.approx(3600, abs=60)
    assert queue.deliver(ports) == ["inbox/b"]
    assert reconcile.handler({}, CONTEXT) == {"queued": 0, "waiting": 0, "oldest_seconds": 0}


def test_a_young_object_has_an_event_on_its_way(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"P1")
    found = look(ports.store, ports.index, queue, datetime.now(UTC) + timedelta(minutes=5))
    assert (found.queued, found.waiting) == (0, 1)


def test_a_verdict_of_other_bytes_is_none(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"P1")
    local.deliver(s3_event("b", ["inbox/a"]))
    drop(ports, a=b"N2")
    reconcile.handler({}, CONTEXT)
    assert queue.keys == ["inbox/a"]


def test_a_failed_verdict_stands_until_somebody_asks(ports: Ports, queue: Sent) -> None:
    drop(ports, a=b"boom")
    dead_letter(s3_event("b", ["inbox/a"]), ports)
    record.handler(s3_event("b", ["outbox/a.json"]), CONTEXT)
    assert reconcile.handler({}, CONTEXT)["queued"] == 0
    found = look(ports.store, ports.index, queue, ports.now(), failed=True)
    assert (found.queued, found.waiting) == (1, 0)
    assert queue.keys == ["inbox/a"]


def test_what_has_gone_and_what_came_back_is_marked(ports: Ports) -> None:
    drop(ports, a=b"P1", b=b"P2")
    local.deliver(s3_event("b", ["inbox/a", "inbox/b"]))
    ports.store.delete("inbox/a")
    ports.index.mark("inbox/b", "deleted")
    reconcile.handler({}, CONTEXT)
    rows = {row.key: row.source for row in ports.index.all()}
    assert rows == {"inbox/a": "deleted", "inbox/b": "present"}


def test_a_folders_marker_is_no_image(ports: Ports, queue: Sent) -> None:
    drop(ports, **{"ward/": b""})
    assert reconcile.handler({}, CONTEXT)["waiting"] == 0
    assert queue.keys == []


def test_without_a_queue_it_says_what_is_missing(ports: Ports) -> None:
    wiring.provide(replace(ports, queue=None))
    with pytest.raises(UsageError, match="CXR_QUEUE_URL"):
        reconcile.handler({}, CONTEXT)


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
    """Drops and deletions whose notifications may be lost; then one look, and all is as it should be."""
    queue = Sent()
    later = {"queue": queue, "now": lambda: datetime.now(UTC) + HOUR}
    ports = replace(make_ports(tmp_path_factory.mktemp("world")), **later)  # type: ignore[arg-type]
    wiring.provide(ports)
    for number, (name, what, told) in enumerate(steps):
        key = f"inbox/{name}"
        if what == "drop":
            drop(ports, **{name: b"P%d" % number})
        elif what == "delete":
            ports.store.delete(key)
        if told:
            local.deliver(s3_event("b", [key], removed=what == "delete"))
    reconcile.handler({}, CONTEXT)
    queue.deliver(ports)
    assert reconcile.handler({}, CONTEXT) == {"queued": 0, "waiting": 0, "oldest_seconds": 0}
    inbox = {info.key: info.etag for info in ports.store.list("inbox/")}
    rows = {row.key: row.etag for row in ports.index.all() if row.source == "present"}
    assert rows == inbox
    ports.index.close()  # type: ignore[attr-defined]
