"""Whatever happens between the steps of several workers: when all is quiet, every verdict is of the current
object.

Workers run as greenlets over a store that hands control back before each of its operations, so Hypothesis
decides what comes between any two of them.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from greenlet import getcurrent, greenlet
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipeline.intake import record_verdict
from pipeline.judge import give_up, read_verdict
from pipeline.names import verdict_key
from pipeline.ports import Job
from pipeline.sqlite import SqliteIndex
from pipeline.verdict import Verdict
from tests.fakes import MemoryStore, make_judge

KEYS = ["inbox/a.jpeg", "inbox/b.jpeg"]


class SteppedStore(MemoryStore):
    """Before each operation of a worker, everybody else may do something."""

    def _pause(self) -> None:
        hub = getcurrent().parent
        if hub is not None:
            hub.switch()

    def head(self, key: str) -> Any:
        self._pause()
        return super().head(key)

    def get(self, key: str, limit: int) -> Any:
        self._pause()
        return super().get(key, limit)

    def put(self, key: str, data: bytes, expected: str | None) -> str:
        self._pause()
        return super().put(key, data, expected)


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = SteppedStore()
        self.folder = TemporaryDirectory()
        self.index = SqliteIndex(Path(self.folder.name) / "index.sqlite")
        self.judges = [make_judge(self.store, release) for release in (1, 2)]
        self.workers: list[greenlet] = []
        self.written = 0
        self.hinted: set[str] = set()  # keys of which an event is still to come
        self.last: dict[str, Verdict] = {}

    @rule(key=st.sampled_from(KEYS), pneumonia=st.booleans(), old=st.booleans())
    def replace(self, key: str, pneumonia: bool, old: bool) -> None:
        """Somebody writes the object, perhaps with bytes that it had before."""
        self.written += not old
        self.store.objects[key] = b"%c%d" % (b"P" if pneumonia else b"N", self.written)
        self.hinted.add(key)

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: str) -> None:
        self.store.objects.pop(key, None)

    @rule(key=st.sampled_from(KEYS), release=st.sampled_from([0, 1]))
    def event(self, key: str, release: int) -> None:
        """An event for the key, in time, late or a duplicate."""
        self.hinted.discard(key)
        self._start(lambda: self.judges[release].judge(Job(key)))

    @rule(key=st.sampled_from(KEYS))
    def last_delivery_failed(self, key: str) -> None:
        self._start(
            lambda: give_up(self.store, self.judges[0].release, Job(key), "internal", "Drop it again.")
        )

    @rule(key=st.sampled_from(KEYS))
    def outbox_event(self, key: str) -> None:
        self._start(lambda: record_verdict(verdict_key(key), self.store, self.index))

    @rule(data=st.data(), steps=st.integers(1, 4))
    def step(self, data: st.DataObject, steps: int) -> None:
        if self.workers:
            worker = self.workers[data.draw(st.integers(0, len(self.workers) - 1))]
            for _ in range(steps):
                self._step(worker)

    @invariant()
    def no_verdict_is_undone(self) -> None:
        """Of the same object, a higher release stays, and a finished verdict never becomes a failed one."""
        for key in KEYS:
            found = read_verdict(self.store, verdict_key(key)).verdict
            before = self.last.get(key)
            if found and before and found.source.etag == before.source.etag and before.status != "failed":
                assert found.status != "failed"
                assert found.release.number >= before.release.number
            if found:
                self.last[key] = found

    def teardown(self) -> None:
        """All is quiet: what was written has been told, and every worker has come to its end."""
        while self.workers:
            self._step(self.workers[0])
        for key in self.hinted:
            assert self.judges[0].judge(Job(key)).result in ("classified", "current", "gone")
        for key in KEYS:
            record_verdict(verdict_key(key), self.store, self.index)
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
        worker = greenlet(work)
        self.workers.append(worker)
        self._step(worker)

    def _step(self, worker: greenlet) -> None:
        if not worker.dead:
            worker.parent = getcurrent()
            worker.switch()
        if worker.dead and worker in self.workers:
            self.workers.remove(worker)


Interleavings.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestInterleavings = Interleavings.TestCase
