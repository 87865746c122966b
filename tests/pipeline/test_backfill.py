"""Judging an archive: every image once, whatever breaks, with the verdict that the inbox would give."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cxr import progress
from pipeline.backfill import Backfill, Done, Tally
from pipeline.errors import StoreError
from pipeline.judge import Judge
from pipeline.records import Job
from pipeline.running.parallel import unordered
from pipeline.store.archive import ArchiveStore, Location
from pipeline.verdict import ModelRef, Release, Verdict
from tests.support.fakes import LIMIT, FakeEngine, MemoryStore, make_judge


class MemoryArchive(MemoryStore):
    """Keep objects in memory, with ETags in the listing, like a bucket's."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__()
        self.objects.update(objects)
        self.read: Counter[str] = Counter()
        self.broken: Callable[[str], bool] = lambda key: False

    def jobs(self, prefix: str) -> Iterator[Job]:
        return (Job(info.key, info.etag) for info in self.list(prefix))

    def head(self, key: str) -> Any:
        self.read[key] += 1
        return super().head(key)

    def get(self, key: str, limit: int) -> Any:
        self.read[key] += 1
        if self.broken(key):
            raise StoreError("it is away")
        return super().get(key, limit)


def run(store: ArchiveStore, engine: FakeEngine | None = None, release: int = 1) -> list[Done]:
    judge = Judge(
        store, engine or FakeEngine(), Release(number=release, version="test"), LIMIT, upgrades=True
    )
    return list(Backfill(judge, 2, pauses=(0, 0)).run(store.jobs()))


def results(answers: Iterable[Done]) -> dict[str, str]:
    return {done.key: done.result for done in answers}


def archive(objects: dict[str, bytes]) -> tuple[ArchiveStore, MemoryArchive, MemoryStore]:
    source, outbox = MemoryArchive({f"old/{name}": data for name, data in objects.items()}), MemoryStore()
    return ArchiveStore(Location(source, "old/"), Location(outbox, "new/")), source, outbox


def test_every_image_gets_its_verdict_in_its_place() -> None:
    store, source, outbox = archive({"a": b"P1", "b/c": b"N1", "b/d": b"bad", "boom": b"boom"})
    before = dict(source.objects)
    answers = run(store)
    expected = {"a": "classified", "b/c": "classified", "b/d": "rejected", "boom": "given_up"}
    assert results(answers) == {f"inbox/{name}": result for name, result in expected.items()}
    names = {name for name in outbox.objects if name.endswith(".json")}
    assert names == {"new/a.json", "new/b/c.json", "new/b/d.json", "new/boom.json"}
    assert Verdict.from_json(outbox.objects["new/boom.json"]).status == "failed"
    preview = Verdict.from_json(outbox.objects["new/a.json"]).preview_key
    assert preview is not None
    assert outbox.objects[preview.replace("outbox/", "new/")] == b"preview of P1"
    assert source.objects == before
    assert {(done.label, done.reason) for done in answers if done.key != "inbox/boom"} == {
        ("pneumonia", None),
        ("normal", None),
        (None, "unreadable"),
    }


def test_what_has_its_verdict_is_neither_read_nor_judged() -> None:
    store, source, _ = archive({"a": b"P1", "bad": b"bad", "boom": b"boom"})
    run(store)
    source.read.clear()
    engine = FakeEngine()
    assert results(run(store, engine)) == {
        "inbox/a": "current",
        "inbox/bad": "current",
        "inbox/boom": "given_up",  # tried again: a failed verdict is never current
    }
    assert set(source.read) == {"old/boom"}
    assert engine.examined == 3  # the tries of that one


def test_a_replaced_image_is_judged_again() -> None:
    store, source, _ = archive({"a": b"P1", "b": b"P2"})
    run(store)
    source.objects["old/a"] = b"N1"
    assert results(run(store)) == {"inbox/a": "classified", "inbox/b": "current"}


def test_a_later_release_or_another_network_judges_again_and_an_earlier_one_never() -> None:
    class Other(FakeEngine):
        model = ModelRef(name="other", version="1", sha256="1" * 64, engine="fake")

    store, _, _ = archive({"a": b"P1"})
    turns = [
        (FakeEngine(), 1),
        (FakeEngine(), 1),
        (FakeEngine(), 2),
        (Other(), 1),
        (Other(), 2),
        (Other(), 2),
    ]
    found = [run(store, engine, release)[0].result for engine, release in turns]
    assert found == ["classified", "current", "classified", "current", "classified", "current"]


def test_the_judge_of_every_day_leaves_another_networks_verdict_alone() -> None:
    store = MemoryStore()
    store.put("inbox/a", b"P1", None)
    judge = make_judge(store)
    judge.judge(Job("inbox/a"))
    judge.engine.model = ModelRef(name="other", version="1", sha256="1" * 64, engine="fake")
    assert Judge(store, judge.engine, judge.release, LIMIT).judge(Job("inbox/a")).result == "current"


def test_a_store_that_fails_now_and_then_loses_nothing() -> None:
    store, source, _ = archive({str(number): b"P%d" % number for number in range(20)})
    failed: Counter[str] = Counter()

    def twice(key: str) -> bool:
        failed[key] += 1
        return failed[key] <= 2

    source.broken = twice
    assert set(results(run(store)).values()) == {"classified"}
    assert len(failed) == 20


def test_a_store_that_is_away_ends_it_with_what_to_do() -> None:
    tally, lost = Tally(), Done("inbox/a", "failed", "it is away")
    for done in [lost] * 99 + [Done("inbox/b", "classified")] + [lost] * 99:
        tally.add(done)
    with pytest.raises(StoreError, match=r"100 images in a row .* run the same command again"):
        tally.add(lost)


def test_few_jobs_are_taken_ahead() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    with ThreadPoolExecutor(2) as pool:
        answers = unordered(pool, lambda number: number, endless(), 8)
        first = [next(answers) for _ in range(100)]  # type: ignore[call-overload]
        assert len(set(first)) == 100
        assert taken <= 100 + 8
        answers.close()  # type: ignore[attr-defined]
        assert taken <= 100 + 8


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([b"P1", b"N1", b"bad"])),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([b"P1", b"N1", b"bad"])),
    st.sets(st.sampled_from("abcdef")),
)
def test_whatever_was_judged_before_only_the_rest_is_judged(
    before: dict[str, bytes], now: dict[str, bytes], lost: set[str]
) -> None:
    store, source, outbox = archive(before)
    run(store)
    for name in lost:
        outbox.objects.pop(f"new/{name}.json", None)
    source.objects = {f"old/{name}": data for name, data in now.items()}
    due = {name for name in now if name in lost or before.get(name) != now[name]}
    assert {
        key.removeprefix("inbox/") for key, result in results(run(store)).items() if result != "current"
    } == due
    for name, data in now.items():
        etag = Verdict.from_json(outbox.objects[f"new/{name}.json"]).source.etag
        assert etag == hashlib.md5(data).hexdigest()


def test_the_summary_has_what_came_of_all() -> None:
    tally, shown = Tally(), StringIO()
    for done in (
        Done("inbox/a", "classified", label="pneumonia", probability=1.0),
        Done("inbox/b", "current", label="normal", probability=0.05),
        Done("inbox/c", "rejected", reason="not_a_chest_xray"),
        Done("inbox/d", "gone"),
        Done("inbox/e", "classified", label="uncertain", doubt="atypical", probability=1.0),
    ):
        tally.add(done)
    progress.show_summary(tally, 2.0, Console(file=shown, width=100))
    text = shown.getvalue()
    assert text.startswith("5 images: 3 judged, 1.5/s; 1 already had a verdict; 0 failed; 1 missing")
    assert "rejected: not_a_chest_xray" in text
    assert [tally.histogram[0], tally.histogram[-1], sum(tally.histogram)] == [1, 1, 2]


def test_progress_is_a_line_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    shown = StringIO()
    progress.follow(iter([Done("inbox/a", "classified")] * 3), lambda: 3, Console(file=shown, width=100))
    assert len(shown.getvalue().splitlines()) == 3
    assert re.match("3( of 3)?, ", shown.getvalue().splitlines()[-1])  # the count comes when it comes
