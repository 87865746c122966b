"""A host that is slow, and images that end it or never end, on a virtual clock: SQS, Lambda and the host."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxr.local import LocalContext
from ec2_runner.reach import remote
from ec2_runner.reach.remote import RemoteHost
from ec2_runner.reach.ssh import NobodyListens
from ec2_runner.reach.worker_client import OutOfTime, StreamBroken
from handlers import dead_letter, ingest, wiring
from pipeline.errors import HostNotReady
from pipeline.events import noted, s3_event
from pipeline.judge import read_verdict
from pipeline.names import verdict_key
from pipeline.records import Job, Outcome
from tests.support.aws import resources
from tests.support.fakes import MemoryStore, make_judge, make_ports
from tests.support.remotes import RELEASE

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
JOBS = resources("AWS::SQS::Queue")["JobsQueue"]
MOST = JOBS["RedrivePolicy"]["maxReceiveCount"]
BATCH = resources("AWS::Serverless::Function")["IngestFunction"]["Events"]["Jobs"]["Properties"]["BatchSize"]
TIMEOUT = 120


@dataclass
class Message:
    """Hold a message of the queue."""

    id: str
    job: Job
    visible_at: float
    received: int = 0


class World:
    """Hold the queue, the function and a host whose images take time; the clock moves only with them."""

    is_alive = True  # as a connection

    def __init__(self, folder: Path, seconds: float, restart: float = 10, reboots: bool = False) -> None:
        self.clock, self.seconds, self.restart, self.reboots = 0.0, seconds, restart, reboots
        self.up_at = 0.0
        self.store = MemoryStore()
        self.judge = make_judge(self.store)
        self.messages: list[Message] = []
        self.deliveries: Counter[str] = Counter()
        self.dead: list[str] = []
        self.count = 0
        host = RemoteHost(self, 1, RELEASE)  # type: ignore[arg-type]
        self.ports = replace(
            make_ports(folder, self.store),
            host=host,
            queue=self,
            now=lambda: NOON + timedelta(seconds=self.clock),
        )

    # The queue.

    def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
        for job in jobs:
            self.count += 1
            self.messages.append(Message(str(self.count), job, self.clock + delay))

    def has_later(self, job: Job) -> bool:
        return False

    def hasten(self, receipts: Mapping[str, float]) -> None:
        for message in self.messages:
            if message.id in receipts:
                message.visible_at = self.clock + receipts[message.id]

    def oldest_sent(self, now: datetime) -> datetime | None:
        return None

    # The route to the host, its connection, and a stream to its worker.

    def open(self, place: float) -> "World":
        if self.clock < self.up_at:
            if place != 1:
                raise HostNotReady("it boots", 20)
            raise NobodyListens("nobody listens")
        self.is_alive = True
        return self

    def close(self) -> None:
        pass

    def submit(
        self, stream: "World", jobs: list[Job], release: int, deadline: float, token: str | None
    ) -> Iterator[Outcome]:
        for job in jobs:
            if "killer" in job.key:
                self.up_at = self.clock + self.restart
                self.is_alive = not self.reboots
                raise StreamBroken("the worker broke off")
            needed = float("inf") if "endless" in job.key else self.seconds
            if self.clock + needed > deadline:
                self.clock = deadline
                raise OutOfTime("the batch took too long")
            self.clock += needed
            yield self.judge.judge(job)

    # Lambda.

    def drop(self, *names: str) -> None:
        keys = [f"inbox/{name}" for name in names]
        self.store.objects.update(dict.fromkeys(keys, b"P1"))
        self.send(map(Job, keys))

    def play(self) -> None:
        """Deliver until the queue is empty, one batch at a time."""
        while self.messages:
            self.messages.sort(key=lambda message: message.visible_at)
            self.clock = max(self.clock, self.messages[0].visible_at)
            taken = [message for message in self.messages if message.visible_at <= self.clock][:BATCH]
            for message in taken:
                message.received += 1
                message.visible_at = self.clock + JOBS["VisibilityTimeout"]
            self.deliver(taken)

    def deliver(self, taken: list[Message]) -> None:
        for message in taken:
            if message.received > MOST:
                self.messages.remove(message)
                self.dead.append(message.job.key)
                dead_letter.handler(s3_event("b", [message.job.key]), LocalContext())
        taken = [message for message in taken if message.received <= MOST]
        if not taken:
            return
        begun = self.clock
        answer = ingest.handler({"Records": list(map(record_of, taken))}, LocalContext())
        assert self.clock - begun < TIMEOUT
        self.deliveries.update(message.job.key for message in taken)
        kept = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
        for message in taken:
            if message.id not in kept:
                self.messages.remove(message)
        self.clock += 1

    def statuses(self) -> dict[str, str]:
        """Return the status of each verdict, by name."""
        found = {}
        for key in list(self.store.objects):
            if key.startswith("inbox/"):
                verdict = read_verdict(self.store, verdict_key(key)).verdict
                assert verdict, f"{key} was lost"
                found[key.removeprefix("inbox/")] = verdict.status
        return found


def record_of(message: Message) -> dict[str, Any]:
    """Return a message as Lambda writes it into an event."""
    return {
        "messageId": message.id,
        "receiptHandle": message.id,
        "eventSource": "aws:sqs",
        "body": json.dumps(s3_event("b", [message.job.key])),
        "attributes": {"ApproximateReceiveCount": str(message.received)},
        "messageAttributes": {
            name: {"stringValue": value, "dataType": "String"} for name, value in noted(message.job).items()
        },
    }


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, **request.param)

    def sleep(seconds: float) -> None:
        world.clock += seconds

    clock = SimpleNamespace(monotonic=lambda: world.clock, sleep=sleep)
    monkeypatch.setattr(remote, "time", clock)
    monkeypatch.setattr("ec2_runner.reach.worker_client.time", clock)
    monkeypatch.setattr(remote, "submit", world.submit)
    wiring.provide(world.ports)
    yield world
    wiring.provide(None)
    world.ports.index.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("world", [{"seconds": s} for s in (0.1, 2.4, 5, 15, 30, 50, 75)], indirect=True)
def test_a_slow_host_fails_nothing(world: World) -> None:
    """A batch of 32 does not end in time where an image takes more than 2.5 seconds."""
    world.drop(*map(str, range(100)))
    world.play()
    assert set(world.statuses().values()) == {"classified"}
    assert world.dead == []
    a_call = max(80 // world.seconds, 1)  # images that one call can finish
    assert sum(world.deliveries.values()) <= 100 + 33 * 100 / a_call
    assert world.clock <= 1.4 * 100 * max(world.seconds, 80 / 32 / 2) + 600


@pytest.mark.parametrize(
    "world",
    [
        {"seconds": seconds, "restart": restart, "reboots": reboots}
        for seconds in (0.1, 10)
        for restart, reboots in ((0, False), (10, False), (45, False), (120, True))
    ],
    indirect=True,
)
@pytest.mark.parametrize("kind", ["killer", "endless"])
def test_an_image_that_the_host_does_not_survive_fails_alone(world: World, kind: str) -> None:
    names = [*map(str, range(50)), kind, *map(str, range(50, 90))]
    world.drop(*names)
    world.play()
    statuses = world.statuses()
    assert statuses.pop(kind) == "failed"
    assert set(statuses.values()) == {"classified"}
    assert world.deliveries[f"inbox/{kind}"] <= 25
    assert max(world.deliveries.values()) <= 40
    assert world.clock < 2 * 3600


@pytest.mark.parametrize("world", [{"seconds": 1}], indirect=True)
def test_several_of_them_fail_and_nothing_else_does(world: World) -> None:
    names = [*map(str, range(60)), "killer 1", "endless 1", "killer 2", "endless 2"]
    world.drop(*names)
    world.play()
    statuses = world.statuses()
    assert {name for name, status in statuses.items() if status == "failed"} == set(names[60:])
    assert max(world.deliveries[f"inbox/{name}"] for name in names[60:]) <= 40
