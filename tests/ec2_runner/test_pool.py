"""Several hosts: how many the queue asks for, and how they share its jobs."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ec2_runner.reach import pool as pool_module
from ec2_runner.reach.pool import Demand, Pool
from pipeline.errors import HostError, HostNotDone, HostNotReady, StoreError
from pipeline.events import sqs_event
from pipeline.intake import ingest
from pipeline.judge import Judge
from pipeline.records import Job, Outcome
from tests.support.fakes import MemoryStore, SentJobs, make_judge, make_ports

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Machine:
    """Play a host: answer jobs, slowly if need be, until it goes away."""

    def __init__(self, seconds: float = 0, lives: float = float("inf"), judge: Judge | None = None) -> None:
        self.seconds, self.lives, self.judge = seconds, lives, judge
        self.is_connected = False
        self.asked, self.far = 0, 0.0  # how often it was reached, and how many seconds that takes
        self.done: list[str] = []
        self.boots: HostNotReady | threading.Event | None = None

    def reach(self) -> None:
        self.asked += 1
        time.sleep(self.far)
        if isinstance(self.boots, HostNotReady):
            raise self.boots
        if self.boots:
            assert self.boots.wait(20)
        self.is_connected = True

    def run(self, jobs: Iterable[Job], deadline: float | None = None) -> Iterator[Outcome]:
        assert deadline is not None
        for job in jobs:
            if len(self.done) >= self.lives:
                self.is_connected = False
                raise HostNotReady("EC2 interrupted it", 5)
            time.sleep(self.seconds)
            self.done.append(job.key)
            if job.key == "poison":
                raise HostError("the worker broke off")
            yield self.judge.judge(job) if self.judge else Outcome(job.key, "classified")

    def abandon(self) -> None:
        self.is_connected = False


class Asked:
    """Play the queue and what measures the hosts."""

    def __init__(self, waiting: int = 0, *rates: float) -> None:
        self.waiting, self.measured, self.looks = waiting, list(rates), 0
        self.now = 0.0

    def backlog(self) -> int:
        self.looks += 1
        return self.waiting

    def rates(self) -> list[float]:
        return self.measured

    def demand(self, most: int) -> Demand:
        return Demand(self, self, most, lambda: self.now)


def wanted(hosts: list[Machine], count: int) -> Pool:
    return Pool(list(hosts), Asked(count * 6000).demand(len(hosts)))


def jobs(count: int) -> list[Job]:
    return [Job(str(number)) for number in range(count)]


def results(found: Iterable[Outcome]) -> dict[str, str]:
    answers = list(found)
    assert len({answer.key for answer in answers}) == len(answers)
    return {answer.key: answer.result for answer in answers}


@pytest.mark.parametrize(
    ("waiting", "rates", "hosts"),
    [
        (0, (), 1),
        (6000, (), 1),  # before a rate is known: ten images a second for ten minutes
        (6001, (), 2),
        (100_000, (), 4),
        (6000, (300, 300), 2),  # as measured, at the hosts that run
        (6000, (100,), 4),
        (6000, (0, 1200), 1),  # one that waits for work, or has just booted, is no measure
        (6000, (0,), 1),
    ],
)
def test_so_many_hosts_that_the_backlog_lasts_ten_minutes(
    waiting: int, rates: tuple[float, ...], hosts: int
) -> None:
    asked = Asked(waiting, *rates)
    demand = asked.demand(4)
    for asked.now in range(0, 101, 20):
        demand.hosts()
    assert demand.hosts() == hosts


def test_a_rate_counts_after_a_while_of_work_alone() -> None:
    """Else a host that judged five images in a quiet minute would look slow."""
    asked = Asked(0, 30)
    demand = asked.demand(8)
    assert demand.hosts() == 1
    asked.waiting = 600
    wants = []
    for asked.now in range(1000, 1120, 20):
        wants.append(demand.hosts())
    assert wants == [1, 1, 1, 1, 1, 2]


def test_the_queue_is_asked_four_times_a_minute_at_most() -> None:
    asked = Asked(7000)
    demand = asked.demand(4)
    for second in range(60):
        asked.now = second
        demand.hosts()
    assert asked.looks == 4


def test_a_queue_that_does_not_answer_means_one_host() -> None:
    class Silent(Asked):
        def backlog(self) -> int:
            raise StoreError("the queue did not answer")

    assert Silent().demand(4).hosts() == 1


def test_each_host_takes_as_much_as_it_can_do() -> None:
    fast, slow = Machine(), Machine(0.05)
    found = results(wanted([fast, slow], 2).run(jobs(64)))
    assert found == {str(number): "classified" for number in range(64)}
    assert len(fast.done) > len(slow.done) > 0


def test_one_is_enough_for_little_work() -> None:
    hosts = [Machine() for _ in range(4)]
    assert len(results(wanted(hosts, 1).run(jobs(32)))) == 32
    assert [len(host.done) for host in hosts] == [32, 0, 0, 0]


def test_hosts_that_run_anyway_help_until_the_queue_is_empty() -> None:
    hosts = [Machine(0.005) for _ in range(3)]
    assert len(results(wanted(hosts, 3).run(jobs(32)))) == 32
    before = len(hosts[2].done)
    assert len(results(wanted(hosts, 1).run(jobs(32)))) == 32
    assert len(hosts[2].done) > before
    before = len(hosts[2].done)
    assert len(results(wanted(hosts, 1).run(jobs(3)))) == 3  # and then they are left to power themselves off
    assert len(hosts[2].done) == before


def test_a_host_that_boots_holds_up_nobody_and_is_used_once_it_is_there() -> None:
    first, second = Machine(0.001), Machine()
    second.boots = threading.Event()
    pool = wanted([first, second], 2)
    for batch in range(3):
        assert len(results(pool.run([Job(f"{batch}-{number}") for number in range(32)]))) == 32
    assert len(first.done) == 96
    assert threading.active_count() < 20  # one thread waits for it, not one for each batch
    second.boots.set()
    deadline = time.monotonic() + 10
    while not second.done and time.monotonic() < deadline:
        results(pool.run(jobs(32)))
    assert second.done


def test_the_jobs_of_a_host_that_goes_away_go_to_the_others() -> None:
    hosts = [Machine(0.002), Machine(0.002, lives=11)]
    assert results(wanted(hosts, 2).run(jobs(64))) == {str(number): "classified" for number in range(64)}
    assert len(hosts[1].done) == 11


def test_jobs_wait_when_every_host_goes_away_and_the_answers_before_that_count() -> None:
    found: list[str] = []
    outcomes = wanted([Machine(lives=5), Machine(lives=6)], 2).run(jobs(32))
    with pytest.raises(HostNotReady, match="interrupted"):
        found.extend(outcome.key for outcome in outcomes)
    assert len(set(found)) == len(found) == 11


def test_no_host_is_ready() -> None:
    first, second = Machine(), Machine()
    first.boots, second.boots = HostNotReady("it boots", 20), HostNotReady("no capacity", 120, is_fault=True)
    with pytest.raises(HostNotReady) as wait:
        list(wanted([first, second], 2).run(jobs(3)))
    assert (str(wait.value) in ("it boots", "no capacity"), wait.value.retry_after) == (True, 20)
    assert wait.value.is_fault


def test_a_job_that_breaks_the_worker_fails_alone() -> None:
    found = results(wanted([Machine()], 1).run([*jobs(3), Job("poison")]))
    assert found == {"0": "classified", "1": "classified", "2": "classified", "poison": "failed"}


def test_a_defect_of_ours_is_an_answer_too() -> None:
    class Defect(Machine):
        def run(self, jobs: Iterable[Job], deadline: float | None = None) -> Iterator[Outcome]:
            raise ZeroDivisionError
            yield

    assert set(results(wanted([Defect()], 1).run(jobs(3))).values()) == {"failed"}


def test_a_host_that_is_refused_is_left_alone_as_long_as_it_says() -> None:
    """Else a quota that is used up would mean several launches for each batch."""
    first, second = Machine(), Machine()
    second.boots = HostNotReady("no capacity", 120, is_fault=True)
    pool = wanted([first, second], 2)
    for _ in range(20):
        results(pool.run(jobs(32)))
    assert second.asked == 1


def test_while_all_are_refused_nobody_is_asked_again() -> None:
    only = [Machine(), Machine()]
    for host in only:
        host.boots = HostNotReady("it boots", 20)
    pool = wanted(only, 2)
    for _ in range(3):
        with pytest.raises(HostNotReady, match="it boots") as wait:
            pool.run(jobs(3))
        assert 1 <= wait.value.retry_after <= 20
    assert [host.asked for host in only] == [1, 1]


def test_a_connected_host_is_used_when_the_wanted_one_is_away() -> None:
    first, second = Machine(), Machine()
    asked = Asked(12_000)
    pool = Pool([first, second], asked.demand(2))
    results(pool.run(jobs(32)))
    first.is_connected, first.boots = False, HostNotReady("it was interrupted", 20)
    asked.waiting, asked.now = 0, 20
    for count in (3, 1):
        assert len(results(pool.run(jobs(count)))) == count


def test_a_fault_rings_though_others_do_the_work(caplog: pytest.LogCaptureFixture) -> None:
    rung: list[tuple[str, float]] = []
    first, second = Machine(), Machine()
    second.boots, second.far = HostNotReady("the host's key is not the one", 60, is_fault=True), 0.2
    pool = Pool([first, second], Asked(12_000).demand(2), lambda name, value: rung.append((name, value)))
    assert len(results(pool.run(jobs(16)))) == 16
    deadline = time.monotonic() + 10
    while not rung and time.monotonic() < deadline:
        time.sleep(0.01)
    assert rung == [("HostFault", 1.0)]
    assert "host 2 is not ready: the host's key is not the one" in caplog.text


def test_jobs_of_a_host_that_goes_away_late_are_taken_over() -> None:
    class Leaving(Machine):
        def run(self, jobs: Iterable[Job], deadline: float | None = None) -> Iterator[Outcome]:
            time.sleep(0.3)
            raise HostNotDone("it was interrupted", 5, tried=[job.key for job in jobs])
            yield

    other = Machine()
    assert len(results(wanted([Leaving(), other], 2).run(jobs(16)))) == 16
    assert len(other.done) == 16


class Timed(Machine):
    """Keep to the deadline."""

    def run(self, jobs: Iterable[Job], deadline: float | None = None) -> Iterator[Outcome]:
        assert deadline is not None
        left = list(jobs)
        for outcome in super().run(list(left), deadline):
            left.pop(0)
            yield outcome
            if time.monotonic() > deadline:
                raise HostNotDone("the batch took too long", 10, tried=[job.key for job in left])


def test_jobs_that_get_no_time_are_postponed_and_have_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "BATCH_SECONDS", 1.0)
    outcomes = wanted([Timed(0.1), Timed(0.1)], 2).run(jobs(40))
    found: list[Outcome] = []
    with pytest.raises(HostNotDone):
        found.extend(outcomes)
    assert {outcome.result for outcome in found} <= {"classified"}
    assert 4 <= len(found) < 40


def test_a_host_without_time_left_is_no_missing_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the jobs would wait as long as the other host's refusal says, and ring."""
    monkeypatch.setattr(pool_module, "BATCH_SECONDS", 1.0)
    first, second = Timed(0.1), Machine()
    second.boots = HostNotReady("EC2 ended the host", 901, is_fault=True)
    with pytest.raises(HostNotDone) as late:
        list(wanted([first, second], 2).run(jobs(60)))
    assert late.value.retry_after <= 10


def test_the_time_of_a_batch_begins_before_the_queue_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "BATCH_SECONDS", 5.0)

    class Slow(Asked):
        def backlog(self) -> int:
            time.sleep(0.5)
            return 0

    class Noted(Machine):
        def run(self, jobs: Iterable[Job], deadline: float | None = None) -> Iterator[Outcome]:
            self.deadline = deadline or 0.0
            return super().run(jobs, deadline)

    host, began = Noted(), time.monotonic()
    results(Pool([host], Slow().demand(1)).run(jobs(1)))
    assert host.deadline - began < 5.2


@pytest.mark.parametrize(("before", "pause"), [(1000, 360), (5, 3600)])
def test_neither_a_boot_nor_a_gap_counts_as_measured(before: int, pause: float) -> None:
    asked = Asked(before)
    demand = asked.demand(5)
    demand.hosts()
    asked.now, asked.waiting, asked.measured = pause, 1000, [30.0]
    assert demand.hosts() == 1


class Queued(SentJobs):
    """Hold ten thousand jobs, and bring them in batches; a job that must wait comes again."""

    def __init__(self, count: int) -> None:
        self.keys = [f"inbox/{number}" for number in range(count)]
        self.again = 0

    def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
        super().send(jobs)
        self.again += 1


def test_ten_thousand_jobs_over_four_hosts_once_each_through_interruptions(tmp_path: Path) -> None:
    """Spot Instances are interrupted on the way; two of the hosts come back, one does not."""
    queue, store = Queued(10_000), MemoryStore()
    store.objects.update(dict.fromkeys(queue.keys, b"P1"))
    judge = make_judge(store)
    hosts = [Machine(lives=lives, judge=judge) for lives in (float("inf"), 700, 1100, 1500)]
    ports = replace(
        make_ports(tmp_path, store),
        host=wanted(hosts, 4),
        queue=queue,
        now=lambda: NOON,
    )
    found: Counter[str] = Counter()
    while queue.keys:
        batch, queue.keys = queue.keys[:32], queue.keys[32:]
        report = ingest(sqs_event("b", [Job(key, since=NOON) for key in batch]), ports)
        found.update(outcome.result for outcome in report.outcomes)
        for host in hosts[1:3]:
            if len(host.done) == host.lives:
                host.lives = float("inf")
    assert found["classified"] == 10_000
    assert set(found) <= {"classified", "waiting"}
    assert sum(key.startswith("outbox/") and key.endswith(".json") for key in store.objects) == 10_000
    done = Counter(key for host in hosts for key in host.done)
    assert (len(done), set(done.values())) == (10_000, {1})
    assert len(hosts[3].done) == 1500
    assert all(len(host.done) > 300 for host in hosts)


def test_no_job_begins_before_the_first_outcome_is_asked_for() -> None:
    """Until then, the caller notes in the worklist that they are at work."""
    host = Machine()
    outcomes = wanted([host, Machine()], 2).run(jobs(4))
    assert host.is_connected
    time.sleep(0.1)
    assert host.done == []
    assert set(results(outcomes).values()) == {"classified"}


def test_without_a_host_it_says_so_before_any_outcome_is_asked_for() -> None:
    hosts = [Machine(), Machine()]
    for host, pause in zip(hosts, (20, 5), strict=True):
        host.boots = HostNotReady("it boots", pause)
    with pytest.raises(HostNotReady, match="it boots") as refusal:
        wanted(hosts, 2).run(jobs(4))
    assert refusal.value.retry_after == 5


def test_what_a_host_had_no_time_for_counts_as_tried_there() -> None:
    class Late(Machine):
        def run(self, jobs: Iterable[Job], deadline: float | None = None) -> Iterator[Outcome]:
            first, *rest = jobs
            yield Outcome(first.key, "classified")
            raise HostNotDone("it took too long", 10, tried=[job.key for job in rest])

    host = Late()
    outcomes = wanted([host], 1).run(jobs(4))
    assert next(outcomes).key == "0"
    with pytest.raises(HostNotDone) as late:
        list(outcomes)
    assert late.value.tried == {"1", "2", "3"}
