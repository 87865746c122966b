"""Waiting for a host: jobs stay in the queue with their history, none is lost; after two hours they fail."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import HostNotReady, NotQueued, StoreError
from pipeline.events import sqs_event
from pipeline.intake import Ports, ingest
from pipeline.judge import read_verdict
from pipeline.names import verdict_key
from pipeline.ports import Host
from pipeline.records import Job, Outcome
from tests.support.aws import resources
from tests.support.fakes import InlineHost, MemoryStore, make_judge, make_ports

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class World:
    """Hold a queue, and a clock that moves only when nothing is due."""

    def __init__(self, ready_after: timedelta, pause: float = 20) -> None:
        self.now, self.pause = NOON, pause
        self.ready_at = NOON + ready_after
        self.due: list[tuple[datetime, str, Job]] = []  # when, key
        self.figures: list[tuple[str, float]] = []
        self.store = MemoryStore()
        self.judge = make_judge(self.store)

    def drop(self, *keys: str) -> None:
        self.send([Job(key, since=self.now) for key in keys])

    def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
        self.due += [(self.now + timedelta(seconds=delay), job.key, job) for job in jobs]

    def has_later(self, job: Job) -> bool:
        return False

    def hasten(self, receipts: Mapping[str, float]) -> None:
        assert not receipts

    def oldest_sent(self, now: datetime) -> datetime | None:
        return min((when for when, *_ in self.due), default=None)

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Boot a host."""
        if self.now < self.ready_at:
            raise HostNotReady("it boots", self.pause)
        return InlineHost(self.judge).run(jobs)

    def ports(self, folder: Path, host: Host | None = None) -> Ports:
        return replace(
            make_ports(folder, self.store),
            host=host or self,
            queue=self,
            now=lambda: self.now,
            count=lambda name, value: self.figures.append((name, value)),
        )

    def play(self, ports: Ports) -> list[str]:
        """Deliver until nothing is queued; return the results in order."""
        results = []
        while self.due:
            self.due.sort(key=lambda entry: entry[:2])
            when, _, job = self.due.pop(0)
            self.now = max(self.now, when)
            report = ingest(sqs_event("b", [job]), ports)
            assert not report.failed_messages  # nothing is left to SQS, whose patience is short
            results += [outcome.result for outcome in report.outcomes]
        return results


def test_no_host_for_twenty_minutes(tmp_path: Path) -> None:
    world = World(timedelta(minutes=20))
    world.store.objects.update({f"inbox/{n}": b"P%d" % n for n in range(20)})
    world.drop(*world.store.objects)
    results = world.play(world.ports(tmp_path))
    assert results.count("classified") == 20
    assert set(results) == {"waiting", "classified"}
    assert results.count("waiting") == 20 * 60
    oldest = [value for name, value in world.figures if name == "OldestWaitingSeconds"]
    assert max(oldest) == 20 * 60 - 20
    assert ("Failed", 1) not in world.figures


def test_no_host_for_two_hours(tmp_path: Path) -> None:
    world = World(timedelta(hours=3))
    world.store.objects["inbox/a"] = b"P1"
    world.drop("inbox/a")
    assert world.play(world.ports(tmp_path))[-1] == "given_up"
    verdict = read_verdict(world.store, verdict_key("inbox/a")).verdict
    assert verdict is not None
    assert verdict.reason is not None
    assert (verdict.status, verdict.reason.code) == ("failed", "host_unavailable")
    assert "cxr reconcile --failed" in verdict.reason.message
    assert world.figures.count(("Failed", 1)) == 1
    world.now = world.ready_at
    world.drop("inbox/a")  # again
    assert world.play(world.ports(tmp_path)) == ["classified"]


def test_a_wait_changes_the_worklist_once_and_is_sent_ten_at_a_time(tmp_path: Path) -> None:
    """Each change is three writes of DynamoDB, and a job waits a hundred times for a slow first boot."""
    world = World(timedelta(minutes=20))
    ports, notes, sends = world.ports(tmp_path), list[tuple[int, bool]](), list[int]()
    wait, send = ports.index.wait, world.send

    def note(keys: Iterable[str], since: datetime, at_work: bool = False) -> None:
        notes.append((len(names := list(keys)), at_work))
        wait(names, since, at_work)

    def count(jobs: Iterable[Job], delay: float = 0) -> None:
        sends.append(len(again := list(jobs)))
        send(again, delay)

    ports.index.wait, world.send = note, count  # type: ignore[method-assign]
    jobs = [Job(f"inbox/{n}") for n in range(32)]
    world.store.objects.update({job.key: b"P%d" % n for n, job in enumerate(jobs)})
    for turn in range(61):
        report = ingest(sqs_event("b", jobs), ports)
        assert not report.failed_messages
        row = ports.index.get("inbox/0")
        assert row is not None
        assert row.state == ("waiting" if turn < 60 else "working")
        jobs = [job for _, _, job in world.due]
        world.due.clear()
        world.now += timedelta(seconds=20)
    assert notes == [(32, False), (32, True)]
    assert sends == [32] * 60
    assert {outcome.result for outcome in report.outcomes} == {"classified"}


def test_jobs_that_the_queue_does_not_take_stay_in_their_messages_alone(tmp_path: Path) -> None:
    class Full(World):
        def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
            lost = [job for job in jobs if job.key == "inbox/b"]
            raise NotQueued("the queue refused some messages", lost)

    world = Full(timedelta(hours=1))
    jobs = [Job("inbox/a"), Job("inbox/b"), Job("inbox/c")]
    report = ingest(sqs_event("b", jobs), world.ports(tmp_path))
    assert [outcome.result for outcome in report.outcomes] == ["waiting", "failed", "waiting"]
    assert report.failed_messages == ["1"]


class Lambda(World):
    """Call the function as AWS does: a call takes time, and a chain of calls may be ended as a loop."""

    CALL_SECONDS = 2
    LOOP = 16  # docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html: "approximately 16 times"

    def __init__(self, ready_after: timedelta, loops: str) -> None:
        super().__init__(ready_after)
        self.loops = loops
        self.chain = 0  # sends in a row that led to the call at work; a message takes it along
        self.ended: list[str] = []

    def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
        self.chain += 1
        assert 0 <= delay <= 900, "SQS delays a message by up to 15 minutes"
        super().send(jobs, delay)

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        self.now += timedelta(seconds=self.CALL_SECONDS)
        return super().run(jobs)

    def play(self, ports: Ports) -> list[str]:
        results = []
        while self.due:
            if self.chain >= self.LOOP and self.loops != "Allow":
                self.ended += [key for _, key, _ in self.due]  # to the dead letters
                break
            when, _, job = self.due.pop()
            self.now = max(self.now, when)
            results += [outcome.result for outcome in ingest(sqs_event("b", [job]), ports).outcomes]
        return results


@pytest.mark.parametrize("minutes", [1, 6, 20, 60, 119, 121, 180])
def test_a_job_is_sent_again_until_the_host_is_there_or_two_hours_are_over(
    minutes: int, tmp_path: Path
) -> None:
    """Count the sends with the template's setting: a first boot, of about six minutes, takes 16 of them."""
    function = resources("AWS::Serverless::Function")["IngestFunction"]
    world = Lambda(timedelta(minutes=minutes), function.get("RecursiveLoop", "Terminate"))
    world.store.objects["inbox/a"] = b"P1"
    world.drop("inbox/a")
    world.chain = 0  # S3 sent this one
    results = world.play(world.ports(tmp_path))
    assert world.ended == [], f"Lambda ended the chain after {world.chain} sends"
    assert results == ["waiting"] * world.chain + ["classified" if minutes < 120 else "given_up"]
    turn = world.pause + Lambda.CALL_SECONDS
    assert world.chain == pytest.approx(min(minutes, 120) * 60 / turn, abs=1)
    waited = world.now - NOON
    promised = timedelta(minutes=min(minutes, 120))
    assert promised <= waited <= promised + timedelta(seconds=turn)


def test_a_function_that_may_not_loop_would_lose_a_job_during_a_first_boot(tmp_path: Path) -> None:
    """Ensure that the test above does not pass on nothing."""
    world = Lambda(timedelta(minutes=6), "Terminate")
    world.store.objects["inbox/a"] = b"P1"
    world.drop("inbox/a")
    world.chain = 0
    assert "classified" not in world.play(world.ports(tmp_path))
    assert world.ended == ["inbox/a"]


def test_hours_in_the_queue_before_the_first_try_are_no_wait_for_a_host(tmp_path: Path) -> None:
    world = World(timedelta(minutes=1))
    world.store.objects["inbox/a"] = b"P1"
    event = sqs_event("b", [Job("inbox/a", since=NOON)])
    (message,) = event["Records"]
    del message["messageAttributes"]
    sent = NOON - timedelta(hours=3)
    message["attributes"] = {"SentTimestamp": str(int(sent.timestamp() * 1000))}
    report = ingest(event, world.ports(tmp_path))
    assert [outcome.result for outcome in report.outcomes] == ["waiting"]
    assert world.play(world.ports(tmp_path))[-1] == "classified"


class Later(World):
    """Have sent a later message of each job that was queued at all."""

    def has_later(self, job: Job) -> bool:
        return job.queued_at is not None


EARLIER = Job("inbox/a", since=NOON, queued_at=NOON)


def test_of_two_messages_only_the_later_waits_on(tmp_path: Path) -> None:
    world = Later(timedelta(hours=1))
    report = ingest(sqs_event("b", [EARLIER, Job("inbox/b", since=NOON)]), world.ports(tmp_path))
    assert {outcome.key: outcome.result for outcome in report.outcomes} == {
        "inbox/a": "waiting",
        "inbox/b": "waiting",
    }
    assert not report.failed_messages
    assert [key for _, key, _ in world.due] == ["inbox/b"]


def test_a_new_upload_waits_whatever_was_queued_before(tmp_path: Path) -> None:
    world = Later(timedelta(hours=1))
    ingest(sqs_event("b", [EARLIER, Job("inbox/a")]), world.ports(tmp_path))
    assert [key for _, key, _ in world.due] == ["inbox/a"]


def test_a_message_is_judged_as_soon_as_a_host_is_there_though_a_later_one_waits(tmp_path: Path) -> None:
    world = Later(timedelta(0))
    world.store.objects["inbox/a"] = b"P1"
    report = ingest(sqs_event("b", [EARLIER]), world.ports(tmp_path))
    assert [outcome.result for outcome in report.outcomes] == ["classified"]


def test_a_job_that_a_host_had_waits_on_so_that_its_row_is_settled(tmp_path: Path) -> None:
    world = Later(timedelta(0))

    class Leaving:
        def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
            yield from ()
            raise HostNotReady("it switches itself off", 30)

    ingest(sqs_event("b", [EARLIER]), world.ports(tmp_path, Leaving()))
    ((_, key, job),) = world.due
    assert (key, job.queued_at) == ("inbox/a", NOON + timedelta(microseconds=1))


def test_what_follows_a_message_is_later_than_it_whatever_the_clocks_say(tmp_path: Path) -> None:
    world = World(timedelta(hours=1))
    ahead = NOON + timedelta(minutes=5)
    jobs = [replace(EARLIER, queued_at=ahead), Job("inbox/b", since=NOON, queued_at=NOON)]
    world.now += timedelta(seconds=20)
    ingest(sqs_event("b", jobs), world.ports(tmp_path))
    later = {key: job.queued_at for _, key, job in world.due}
    assert later == {"inbox/a": ahead + timedelta(microseconds=1), "inbox/b": world.now}


def test_a_host_that_goes_away_after_some_answers(tmp_path: Path) -> None:
    world = World(timedelta(0))
    world.store.objects.update({"inbox/a": b"P1", "inbox/b": b"N1"})
    calls = []

    class Leaving:
        def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
            calls.append(jobs)
            for outcome in world.run(jobs):
                yield outcome
                if len(calls) == 1:
                    raise HostNotReady("it switches itself off", 30)

    report = ingest(sqs_event("b", [Job("inbox/a"), Job("inbox/b")]), world.ports(tmp_path, Leaving()))
    assert [outcome.result for outcome in report.outcomes] == ["classified", "waiting"]
    assert world.play(world.ports(tmp_path, Leaving())) == ["classified"]


def test_a_fault_rings_the_alarm_and_the_jobs_wait_all_the_same(tmp_path: Path) -> None:
    world = World(timedelta(0))
    world.store.objects["inbox/a"] = b"P1"

    class Impostor:
        def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
            raise HostNotReady("the host's key is not the one that it published", 60, is_fault=True)

    report = ingest(sqs_event("b", [Job("inbox/a")]), world.ports(tmp_path, Impostor()))
    assert [outcome.result for outcome in report.outcomes] == ["waiting"]
    assert ("HostFault", 1.0) in world.figures


def test_a_queue_that_refuses_leaves_the_message_where_it_is(tmp_path: Path) -> None:
    class Refusing(World):
        def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
            raise StoreError("the queue did not answer")

    world = Refusing(timedelta(hours=1))
    report = ingest(sqs_event("b", [Job("inbox/a")]), world.ports(tmp_path))
    assert [outcome.result for outcome in report.outcomes] == ["failed"]
    assert report.failed_messages == ["0"]


@settings(deadline=None, max_examples=50)
@given(
    minutes=st.integers(0, 119),
    drops=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 100)), min_size=1, max_size=8),
)
def test_whenever_the_host_comes_each_object_has_one_verdict(
    tmp_path_factory: pytest.TempPathFactory, minutes: int, drops: list[tuple[str, int]]
) -> None:
    """Drop files and duplicates at any time, before and after the host is there."""
    world = World(timedelta(minutes=minutes), pause=300)
    for name, at in drops:
        world.store.objects[f"inbox/{name}"] = b"P1"
        dropped = NOON + timedelta(minutes=at)
        world.due.append((dropped, f"inbox/{name}", Job(f"inbox/{name}", since=dropped)))
    ports = world.ports(tmp_path_factory.mktemp("world"))
    results = world.play(ports)
    names = {name for name, _ in drops}
    assert results.count("classified") == len(names)
    assert {key for key in world.store.objects if key.endswith(".json")} == {
        f"outbox/{name}.json" for name in names
    }
    ports.index.close()  # type: ignore[attr-defined]
