"""X-rays that still wait in the queue are not queued again; a lost one is found. On a virtual clock."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile

import pytest

from pipeline.names import UNUSABLE, inbox_key, verdict_key
from pipeline.reconcile import MOST_AT_ONCE, Reconciled, next_look, note_next_look, reconcile_inbox
from pipeline.records import Job, ObjectInfo, Row
from tests.support.fakes import MemoryStore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RUNS_SECONDS, TIMEOUT_SECONDS, RESERVE_SECONDS = 900, 120, 15


class Stack:
    """Hold a bucket, its worklist and its queue; requests take time, and parallel ones less."""

    bucket = "b"
    PAGE = 0.15  # seconds for a thousand names of S3
    SCAN, SCANS_AT_ONCE = 0.2, 8  # for a megabyte of rows, about a thousand
    PARSE = 13 / 100_000  # a row that is returned
    WRITE, WRITES_AT_ONCE = 0.01, 16  # a row
    SEND, SENDS_AT_ONCE = 0.02, 8  # ten messages

    def __init__(self) -> None:
        self.clock = 0.0
        self.inbox: dict[str, float] = {}  # when each was dropped
        self.outbox: set[str] = set()
        self.rows: dict[str, Row] = {}
        self.messages: deque[tuple[float, str]] = deque()
        self.queued: list[tuple[float, str]] = []  # by reconcile
        self.most_in_memory = 0
        self.sorted: dict[str, list[str]] = {}

    @property
    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.clock)

    # The store.

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        place = self.inbox if prefix == "inbox/" else self.outbox
        if len(self.sorted.get(prefix, "")) != len(place) or not place:  # nothing is ever removed here
            self.sorted[prefix] = sorted(place)
        names = self.sorted[prefix]
        first = bisect_right(names, after) if after >= prefix else bisect_left(names, prefix)
        found = takewhile(lambda key: key.startswith(prefix), islice(names, first, None))
        for number, key in enumerate(found):
            if number % 1000 == 0:
                self.clock += self.PAGE
            self.most_in_memory = max(self.most_in_memory, number)
            dropped = self.inbox.get(key, 0)
            yield ObjectInfo(key, f"etag of {key}", 1, NOON + timedelta(seconds=dropped))

    def names(self, prefix: str, after: str = "") -> Iterator[Job]:
        return (Job(info.key, info.etag) for info in self.list(prefix, after))

    def head(self, key: str) -> ObjectInfo | None:
        self.clock += 0.02
        return ObjectInfo(key, f"etag of {key}", 1, NOON) if key in self.inbox or key in self.outbox else None

    # The worklist.

    def part(self, after: str, end: str) -> Iterator[Row]:
        """Read all, return a few, as a parallel scan with a filter does."""
        for number, row in enumerate(list(self.rows.values())):
            if number % 1000 == 0:
                self.clock += self.SCAN / self.SCANS_AT_ONCE
            is_hashed = not after and (row.verdict_key or "").startswith(UNUSABLE)
            if is_hashed or (row.key > after and not (end and row.key > end)):
                self.clock += self.PARSE
                yield row

    def wait(self, keys: Iterable[str], since: datetime, at_work: bool = False) -> None:
        for key in keys:
            self.clock += self.WRITE / self.WRITES_AT_ONCE
            self.rows[key] = replace(
                self.rows.get(key, Row(key)), waiting_since=since, asked_since=since, at_work=at_work
            )

    # The queue.

    def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
        for job in jobs:
            self.clock += self.SEND / 10 / self.SENDS_AT_ONCE
            self.messages.append((self.clock, job.key))
            self.queued.append((self.clock, job.key))

    def has_later(self, job: Job) -> bool:
        return False

    def hasten(self, receipts: Mapping[str, float]) -> None:
        raise AssertionError

    def oldest_sent(self, now: datetime) -> datetime | None:
        """Know it as CloudWatch does: two minutes late."""
        if not self.messages:
            return None
        return NOON + timedelta(seconds=min(self.messages[0][0], self.clock - 120))

    # Everything else.

    def judge(self, key: str) -> None:
        place = verdict_key(key)
        self.outbox.add(place)
        self.rows[key] = Row(
            key, "classified", etag=f"etag of {key}", verdict_key=place, verdict_etag=f"etag of {place}"
        )

    def look(self, after: str = "", most: int = MOST_AT_ONCE) -> Reconciled:
        begun = self.clock
        found = reconcile_inbox(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self,
            self.now,
            after=after,
            most=most,
            seconds_left=lambda: begun + TIMEOUT_SECONDS - RESERVE_SECONDS - self.clock,
        )
        assert self.clock - begun < TIMEOUT_SECONDS
        return found


def key_of(number: int) -> str:
    return f"inbox/{number:06}"


@pytest.mark.parametrize(("arriving", "judging"), [(10, 5), (10, 20)])
def test_a_backlog_is_not_queued_again_and_a_lost_notification_in_it_is_found(
    arriving: int, judging: int
) -> None:
    """20,000 X-rays arrive faster than the host judges; the notification of one of them is lost."""
    stack, count, lost = Stack(), 20_000, key_of(7_000)
    second, found_at = 0, 0.0
    runs = 0
    while len(stack.outbox) < count:
        second += 1
        stack.clock = float(second)
        for number in range((second - 1) * arriving, min(second * arriving, count)):
            stack.inbox[key_of(number)] = stack.clock
            if key_of(number) != lost:
                stack.messages.append((stack.clock, key_of(number)))
        for _ in range(min(judging, len(stack.messages))):
            stack.judge(stack.messages.popleft()[1])
        if second % RUNS_SECONDS == 0:
            runs += 1
            assert stack.look().after == ""
            if not found_at and lost in dict(map(reversed, stack.queued)):  # type: ignore[arg-type]
                found_at = float(second)
        assert second < 6 * 3600
    duplicates = [key for _, key in stack.queued if key != lost]
    assert runs >= 2
    assert duplicates == []
    assert [key for _, key in stack.queued] == [lost]
    brought_at = (7_000 + 300 * arriving) / judging  # when the queue had brought what came five minutes later
    assert found_at <= max(brought_at, 7_000 / arriving + RUNS_SECONDS) + RUNS_SECONDS + 120


def test_what_waits_for_a_host_is_left_alone_for_as_long_as_it_may_wait() -> None:
    """Its messages are sent again and again, so that the age of the oldest says nothing about it."""
    stack = Stack()
    stack.inbox = {key_of(number): 0.0 for number in range(100)}
    stack.wait(stack.inbox, stack.now)
    for minutes in range(15, 120, 15):
        stack.clock = minutes * 60.0
        stack.messages = deque([(stack.clock - 20, "inbox/other")])
        stack.look()
    assert stack.queued == []
    stack.clock = 2.5 * 3600
    stack.messages = deque([(stack.clock - 20, "inbox/other")])
    assert stack.look().queued == 100  # the two hours are long over: their messages were lost


def test_in_an_empty_queue_nothing_waits() -> None:
    stack = Stack()
    stack.inbox = {key_of(number): 0.0 for number in range(100)}
    stack.wait(stack.inbox, stack.now)
    stack.clock = 1000.0
    assert stack.look().queued == 100
    assert stack.look().queued == 0  # these wait now
    stack.messages.clear()  # purged
    stack.clock += 1000
    assert stack.look().queued == 100


@pytest.mark.whole
def test_a_hundred_thousand_are_compared_and_queued_within_the_functions_time() -> None:
    """All of them lack a verdict at first; at the end all have one, and a preview."""
    stack = Stack()
    stack.inbox = {key_of(number): 0.0 for number in range(100_000)}
    stack.clock = 3600.0
    runs = 0
    while True:
        runs += 1
        found = stack.look()
        stack.messages.clear()
        if not found.queued:
            break
        stack.clock += RUNS_SECONDS - TIMEOUT_SECONDS
        for _, key in stack.queued[-found.queued :]:
            stack.judge(key)
            stack.outbox.add(f"outbox/.previews/{key}")
    assert runs <= 3
    assert sorted(key for _, key in stack.queued) == list(stack.inbox)


@pytest.mark.whole
def test_a_million_are_compared_part_by_part_each_within_the_functions_time() -> None:
    """All are judged and have previews, but one, whose notification was lost, near the end.

    Each stands for twenty, in time and in how many one run compares.
    """
    stack, count, lost = Stack(), 50_000, key_of(49_500)
    stack.PAGE, stack.SCAN, stack.PARSE = (20 * time for time in (Stack.PAGE, Stack.SCAN, Stack.PARSE))
    for number in range(count):
        key = key_of(number)
        stack.inbox[key] = 0.0
        stack.outbox.add(f"outbox/.previews/{number:06}/e.jpg")
        if key != lost:
            stack.judge(key)
    stack.clock, store, runs = 3600.0, MemoryStore(), 0
    while True:
        runs += 1
        found = stack.look(next_look(store), MOST_AT_ONCE // 20)
        note_next_look(store, found.after)
        stack.clock += RUNS_SECONDS
        if not found.after:
            break
    assert runs <= 11
    assert [key for _, key in stack.queued] == [lost]


def test_a_larger_inbox_is_looked_at_part_by_part_in_bounded_memory() -> None:
    stack = Stack()
    names = [f"inbox/{name}" for number in range(400) for name in (f"{number:03}", f"{number:03}-b.jpeg")]
    names += [f"inbox/{'x' * 250}{number:03}" for number in range(50)]  # their verdicts have hashed names
    stack.inbox = dict.fromkeys(names, 0.0)
    for key in names[::3]:
        stack.judge(key)
    for key in names[1::3]:
        stack.outbox.add(verdict_key(key))  # the events of these were lost
    stack.clock = 3600.0
    store, after, looks = MemoryStore(), "", 0
    rows: list[str] = []

    def record(place: str, *_: object) -> Row | None:
        rows.append(place)
        key = inbox_key(place)
        if key in stack.inbox:
            stack.judge(key)
        return stack.rows.get(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.reconcile.record_verdict", record)
        patch.setattr(Stack, "get", lambda self, key: self.rows.get(key), raising=False)
        while True:
            looks += 1
            found = stack.look(next_look(store), most=100)
            note_next_look(store, found.after)
            if not found.after:
                break
            assert found.after > after
            after = found.after
    assert looks == 9
    assert len(stack.queued) == len({key for _, key in stack.queued})
    wanted = [key for number, key in enumerate(names) if number % 3 == 2]
    assert set(wanted) <= {key for _, key in stack.queued}
    assert next_look(store) == ""
    assert len(rows) <= len(names) / 3 + 2 * looks + 50
