"""Interleavings of several workers: when all is quiet, every verdict belongs to the current object.

Workers run as greenlets over a store and an index that hand control back before each of their operations.
One test tries every order of two workers around one replacement; the other has Hypothesis decide what comes
between any two steps.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from greenlet import getcurrent, greenlet
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipeline.intake import record_verdict
from pipeline.judge import give_up, read_verdict
from pipeline.names import is_verdict, verdict_key
from pipeline.records import Job, Row
from pipeline.verdict import Verdict
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.fakes import MemoryStore, make_judge

KEYS = ["inbox/a.jpeg", "inbox/b.jpeg"]


def pause() -> None:
    """Let everybody else do something; called in a worker."""
    hub = getcurrent().parent
    if hub is not None:
        hub.switch()


def step(worker: greenlet) -> None:
    """Let a worker continue to its next operation, or to its end."""
    if not worker.dead:
        worker.parent = getcurrent()
        worker.switch()


class SteppedStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.unrecorded: set[str] = set()  # verdicts whose event is still to come

    def head(self, key: str) -> Any:
        pause()
        return super().head(key)

    def get(self, key: str, limit: int) -> Any:
        pause()
        return super().get(key, limit)

    def put(self, key: str, data: bytes, expected: str | None) -> str:
        pause()
        etag = super().put(key, data, expected)
        if is_verdict(key):
            self.unrecorded.add(key)
        return etag


class SteppedIndex(SqliteIndex):
    def record(self, row: Row) -> None:
        pause()
        super().record(row)


@pytest.mark.parametrize("first", ["judge", "give up"])
def test_every_order_of_two_workers_around_one_replacement(first: str) -> None:
    """Try the events of the first and second bytes in 512 orders, with 8 moments of the replacement."""
    for order in product((0, 1), repeat=9):
        for moment in range(8):
            store = SteppedStore()
            store.objects[KEYS[0]] = b"P1"
            judge, job = make_judge(store), Job(KEYS[0])
            giving_up = partial(give_up, store, judge.release, job, "internal", "Drop it again.")
            late = greenlet(giving_up if first == "give up" else partial(judge.judge, job))
            workers = (late, greenlet(partial(judge.judge, job)))
            for number, which in enumerate(order):
                if number == moment:
                    store.objects[KEYS[0]] = b"N2"
                if which == 0 or number >= moment:  # the second event comes after its replacement
                    step(workers[which])
            for worker in reversed(workers):
                while not worker.dead:
                    step(worker)
            verdict = read_verdict(store, verdict_key(KEYS[0])).verdict
            info = store.head(KEYS[0])
            assert verdict is not None
            assert info is not None
            assert (verdict.source.etag, verdict.status) == (info.etag, "classified"), (order, moment)


ACTIONS = ("replace", "event", "event", "step", "step", "step", "outbox event", "give up", "delete")


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = SteppedStore()
        self.folder = TemporaryDirectory()
        self.index = SteppedIndex(Path(self.folder.name) / "index.sqlite")
        self.judges = [make_judge(self.store, release) for release in (1, 2)]
        self.workers: list[greenlet] = []
        self.written = 0
        self.hinted: set[str] = set()  # keys of which an event is still to come
        self.last: dict[str, Verdict] = {}

    @rule(action=st.sampled_from(ACTIONS), key=st.sampled_from(KEYS), number=st.integers(0, 7))
    def turn(self, action: str, key: str, number: int) -> None:
        """Let one thing happen; it is one rule, because Hypothesis leaves whole rules out of a run."""
        judge = self.judges[number % 2]
        if action == "replace":
            self.written += number != 0  # or the same bytes again
            self.store.objects[key] = b"%c%d" % (b"PN"[number % 2], self.written)
            self.hinted.add(key)
        elif action == "delete":
            self.store.objects.pop(key, None)
        elif action == "event":  # in time, late or a duplicate
            self.hinted.discard(key)
            self._start(lambda: judge.judge(Job(key)))
        elif action == "give up":
            self._start(lambda: give_up(self.store, judge.release, Job(key), "internal", "Drop it again."))
        elif action == "outbox event":
            self.store.unrecorded.discard(verdict_key(key))
            self._start(lambda: record_verdict(verdict_key(key), self.store, self.index))
        elif self.workers:
            self._step(self.workers[number % len(self.workers)])

    @invariant()
    def no_verdict_is_undone(self) -> None:
        """Check, for one object, that a higher release stays and no finished verdict becomes a failed one."""
        for key in KEYS:
            found = read_verdict(self.store, verdict_key(key)).verdict
            before = self.last.get(key)
            if found and before and found.source.etag == before.source.etag and before.status != "failed":
                assert found.status != "failed"
                assert found.release.number >= before.release.number
            if found and before and found != before:  # one write: the history loses and doubles nothing
                kept = [one.finished_at for one in before.earlier]
                if found.source.etag != before.source.etag:
                    kept.insert(0, before.finished_at)
                assert [one.finished_at for one in found.earlier] == kept[:10]
            if found:
                self.last[key] = found

    def teardown(self) -> None:
        """Let every worker finish and report every write, then check the result."""
        while self.workers:
            self._step(self.workers[-1])
        for key in self.hinted:
            assert self.judges[0].judge(Job(key)).result in ("classified", "current", "gone")
        for key in self.store.unrecorded:
            record_verdict(key, self.store, self.index)
        for key in KEYS:
            seen = read_verdict(self.store, verdict_key(key))
            row = self.index.get(key)
            assert (row.verdict_etag if row else None) == seen.etag
            info = self.store.head(key)
            if info:
                assert seen.verdict is not None
                assert seen.verdict.source.etag == info.etag
        self.index.close()
        self.folder.cleanup()

    def _start(self, work: Callable[[], object]) -> None:
        self.workers.append(greenlet(work))
        self._step(self.workers[-1])

    def _step(self, worker: greenlet) -> None:
        step(worker)
        if worker.dead:
            self.workers.remove(worker)


Interleavings.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestInterleavings = Interleavings.TestCase
