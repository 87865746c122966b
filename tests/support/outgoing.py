"""Provide a queue of results to send, with a clock that the test moves and a destination that obeys it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.intake import record_verdict
from pipeline.judge import Judge, read_verdict
from pipeline.names import verdict_key
from pipeline.outgoing.delivery import Awaiting, Delivery
from pipeline.outgoing.lane import Lane, Outgoing
from pipeline.outgoing.queue import Entry, OutgoingQueue
from pipeline.records import Job
from pipeline.settings.tables import Rule
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.fakes import MemoryStore, make_judge

Answer = Awaiting | Exception | Callable[[], None] | None


@dataclass
class FakeDestination:
    """Note what arrives, and answer with the next of `answers`, the last of them for ever."""

    name: str = "PACS"
    answers: list[Answer] = field(default_factory=lambda: [None])
    tries: list[tuple[str, str]] = field(default_factory=list)
    got: list[tuple[str, str]] = field(default_factory=list)

    def deliver(self, delivery: Delivery) -> Awaiting | None:
        """Take a delivery, or raise the answer; a function is called after it arrived."""
        self.tries.append((delivery.key, delivery.verdict_etag))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        self.got.append(self.tries[-1])
        if callable(answer):
            answer()
            return None
        return answer


class Department:
    """Hold an inbox with its worklist, and the queue that follows it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, MemoryStore()
        self.judge: Judge = make_judge(self.store)
        self.now = datetime.now(UTC) - timedelta(seconds=1)  # verdicts are dated by the real clock
        self.index = SqliteIndex(folder / "index.sqlite")
        with self.index.filling():
            pass
        self.queue = self.open_queue()

    def open_queue(self) -> OutgoingQueue:
        """Open the queue as a program does that is started."""
        self.queue = OutgoingQueue(self.folder / "outgoing.sqlite", lambda: self.now, lambda: 1.0)
        return self.queue

    def lane(self, destination: FakeDestination, rule: Rule | None = None) -> Lane:
        """Return a lane that has followed the worklist once."""
        parts = self.queue, self.index, self.store, "secret"
        lane = Lane(destination, rule or Rule(), *parts, clock=self.now.timestamp)
        lane.follow()
        return lane

    def outgoing(self, *lanes: Lane) -> Outgoing:
        return Outgoing(self.queue, lanes, self.index)

    def judged(self, name: str, data: bytes = b"P") -> str:
        """Drop an X-ray, or replace it; judge it, and return the verdict's ETag."""
        key = f"inbox/{name}"
        self.store.objects[key] = data
        self.judge.judge(Job(key))
        record_verdict(verdict_key(key), self.store, self.index)
        etag = read_verdict(self.store, verdict_key(key)).etag
        assert etag
        return etag

    def entry(self, name: str) -> Entry:
        """Return the only delivery of an X-ray."""
        [entry] = self.queue.entries(f"inbox/{name}")
        return entry

    def wait(self, **spans: float) -> None:
        self.now += timedelta(**spans)

    def work(self, *lanes: Lane) -> int:
        """Let lanes follow and deliver all that is due; return how many deliveries that was."""
        count = 0
        for lane in lanes:
            lane.follow()
            while lane.deliver_next():
                count += 1
                assert count < 1_000
        return count

    def close(self) -> None:
        self.queue.close()
        self.index.close()
