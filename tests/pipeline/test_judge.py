"""The judge, step by step; `test_interleavings` runs it against everything that can happen in between."""

import json

import pytest

from pipeline.errors import StoreError
from pipeline.judge import give_up, read_verdict
from pipeline.names import preview_key, verdict_key
from pipeline.records import Job
from pipeline.verdict import Release, Verdict
from tests.support.fakes import LIMIT, MemoryStore, make_judge

KEY = "inbox/a.jpeg"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def verdict_of(store: MemoryStore, key: str = KEY) -> Verdict:
    found = read_verdict(store, verdict_key(key)).verdict
    assert found is not None
    return found


def test_a_new_object_gets_a_verdict_and_a_preview(store: MemoryStore) -> None:
    etag = store.put(KEY, b"P1", None)
    assert make_judge(store).judge(Job(KEY)).result == "classified"
    verdict = verdict_of(store)
    assert (verdict.source.etag, verdict.source.size, verdict.source.media_type) == (etag, 2, "image/jpeg")
    assert verdict.finding is not None
    assert verdict.finding.label == "pneumonia"
    assert verdict.preview_key == preview_key(KEY, etag)
    assert store.objects[verdict.preview_key] == b"preview of P1"
    assert verdict.started_at <= verdict.finished_at


def test_a_current_verdict_is_left_alone_and_the_image_unread(store: MemoryStore) -> None:
    store.put(KEY, b"P1", None)
    judge = make_judge(store)
    judge.judge(Job(KEY))
    before = dict(store.objects)
    assert judge.judge(Job(KEY)).result == "current"
    assert judge.engine.examined == 1
    assert store.objects == before


def test_a_replaced_object_gets_a_new_verdict(store: MemoryStore) -> None:
    etag = store.put(KEY, b"P1", None)
    judge = make_judge(store)
    judge.judge(Job(KEY))
    new = store.put(KEY, b"N2", etag)
    assert judge.judge(Job(KEY)).result == "classified"
    assert verdict_of(store).source.etag == new


def test_the_inputs_fault_is_a_rejected_verdict_that_stays(store: MemoryStore) -> None:
    store.put(KEY, b"bad", None)
    judge = make_judge(store)
    assert judge.judge(Job(KEY)).result == "rejected"
    verdict = verdict_of(store)
    assert verdict.reason is not None
    assert (verdict.reason.code, verdict.source.width) == ("unreadable", 100)
    assert judge.judge(Job(KEY)).result == "current"


def test_too_large_is_refused_unread(store: MemoryStore) -> None:
    store.put(KEY, b"P" * (LIMIT + 1), None)
    judge = make_judge(store)
    assert judge.judge(Job(KEY)).result == "rejected"
    verdict = verdict_of(store)
    assert verdict.reason is not None
    assert verdict.reason.code == "too_large"
    assert verdict.source.sha256 is None
    assert judge.engine.examined == 0


def test_a_missing_object_is_gone_without_a_verdict(store: MemoryStore) -> None:
    assert make_judge(store).judge(Job(KEY)).result == "gone"
    assert not store.objects


def test_our_fault_is_worth_another_try_and_writes_nothing(store: MemoryStore) -> None:
    store.put(KEY, b"boom", None)
    assert make_judge(store).judge(Job(KEY)).result == "failed"
    assert list(store.objects) == [KEY]


def test_an_image_that_the_engine_does_not_finish_says_why_and_is_tried_again(store: MemoryStore) -> None:
    etag = store.put(KEY, b"hang", None)
    outcome = make_judge(store).judge(Job(KEY))
    assert (outcome.result, outcome.passes) == ("failed", False)
    said = verdict_of(store)
    assert (said.status, said.source.etag) == ("failed", etag)
    assert said.reason is not None
    assert (said.reason.code, said.reason.message) == (
        "took_too_long",
        "The X-ray was not judged within 20 seconds.",
    )
    before = store.objects[verdict_key(KEY)]
    assert make_judge(store).judge(Job(KEY)).result == "failed"
    assert store.objects[verdict_key(KEY)] == before  # same bytes, and as good
    assert give_up(store, Release(), Job(KEY), "internal", "Drop it again.").result == "given_up"
    assert verdict_of(store).reason == said.reason
    store.put(KEY, b"P1", etag)
    assert make_judge(store).judge(Job(KEY)).result == "classified"


def test_a_new_version_that_is_not_finished_takes_the_old_ones_place(store: MemoryStore) -> None:
    etag = store.put(KEY, b"P1", None)
    make_judge(store).judge(Job(KEY))
    store.put(KEY, b"hang", etag)
    make_judge(store).judge(Job(KEY))
    assert verdict_of(store).status == "failed"


def test_a_store_that_does_not_answer_fails_the_job_alone() -> None:
    class Broken(MemoryStore):
        def head(self, *_: object) -> None:
            raise StoreError("it is away")

        get = head  # type: ignore[assignment]

    outcome = make_judge(Broken()).judge(Job(KEY))
    assert (outcome.result, outcome.passes) == ("failed", True)
    assert KEY not in outcome.detail


def test_giving_up_says_failed_and_never_takes_back_a_verdict(store: MemoryStore) -> None:
    etag = store.put(KEY, b"P1", None)
    release = Release()
    assert give_up(store, release, Job(KEY), "internal", "Drop it again.").result == "given_up"
    assert verdict_of(store).status == "failed"
    assert make_judge(store).judge(Job(KEY)).result == "classified"  # a failed verdict is never current
    assert give_up(store, release, Job(KEY), "internal", "Drop it again.").result == "current"
    assert verdict_of(store).status == "classified"
    store.put(KEY, b"P2", etag)
    assert give_up(store, release, Job(KEY), "internal", "Drop it again.").result == "given_up"
    assert give_up(store, release, Job("inbox/none"), "internal", "Drop it again.").result == "gone"


def test_releases_never_undo_each_other(store: MemoryStore) -> None:
    store.put(KEY, b"P1", None)
    old, new = make_judge(store, release=1), make_judge(store, release=2)
    assert old.judge(Job(KEY)).result == "classified"
    assert new.judge(Job(KEY)).result == "classified"
    assert old.judge(Job(KEY)).result == "current"
    assert verdict_of(store).release.number == 2


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b'{"schema": "other/1"}', b"\xff" * 2_000_000, b"[" * 100_000]
)
def test_what_is_no_verdict_is_replaced(store: MemoryStore, damaged: bytes) -> None:
    store.put(KEY, b"P1", None)
    store.put(verdict_key(KEY), damaged, None)
    assert make_judge(store).judge(Job(KEY)).result == "classified"
    assert verdict_of(store).status == "classified"


@pytest.mark.parametrize(
    "key",
    [
        f"inbox/{'n' * 252}",
        "inbox/" + "d/" * 600 + "a",
        "inbox/a.json/b.jpeg",
        "inbox/name-not-usable/0.json",
        "inbox/a/../b.jpeg",
        "inbox/./b.jpeg",
        "inbox/a//b.jpeg",
        "inbox/\udcff",
    ],
)
def test_a_name_that_cannot_be_used_is_said_under_a_hash(store: MemoryStore, key: str) -> None:
    store.put(key, b"P1", None)
    assert make_judge(store).judge(Job(key)).result == "rejected"
    verdict = verdict_of(store, key)
    assert verdict.reason is not None
    assert verdict.reason.code == "name_not_usable"
    assert verdict_key(key).startswith("outbox/name-not-usable/")
    assert make_judge(store).judge(Job(key)).result == "current"


def test_a_verdict_of_a_later_release_can_be_read(store: MemoryStore) -> None:
    """Otherwise this release would take it for damaged and undo it."""
    store.put(KEY, b"bad", None)
    make_judge(store, release=9).judge(Job(KEY))
    key = verdict_key(KEY)
    later = json.loads(store.objects[key])
    later.update(mood="sunny", warnings=["atypical", "on_fire"])
    later["reason"]["code"] = "too_blue"
    store.objects[key] = json.dumps(later).encode()
    verdict = verdict_of(store)
    assert verdict.warnings == ["atypical"]
    assert verdict.reason is not None
    assert verdict.reason.message == "It is damaged. Export it again."
    assert make_judge(store).judge(Job(KEY)).result == "current"


# The history of a verdict


def replaced_by(store: MemoryStore, data: bytes) -> None:
    store.objects[KEY] = data
    make_judge(store).judge(Job(KEY))


def test_the_verdict_of_a_replaced_file_is_kept_in_short(store: MemoryStore) -> None:
    replaced_by(store, b"P1")
    first = verdict_of(store)
    replaced_by(store, b"bad")
    replaced_by(store, b"N3")
    verdict = verdict_of(store)
    refused, kept = verdict.earlier
    assert (refused.status, refused.reason, refused.label) == ("rejected", "unreadable", None)
    assert first.finding is not None
    assert (kept.label, kept.probability) == ("pneumonia", 1)
    assert (kept.thresholds, kept.model) == (first.finding.thresholds, first.model)
    assert (kept.etag, kept.finished_at) == (first.source.etag, first.finished_at)
    assert kept.preview_key == preview_key(KEY, kept.etag)
    assert "map" not in json.dumps(json.loads(verdict.to_json())["earlier"])


def test_the_same_file_judged_again_by_the_same_network_adds_nothing(store: MemoryStore) -> None:
    replaced_by(store, b"P1")
    replaced_by(store, b"N2")
    assert make_judge(store, release=2).judge(Job(KEY)).result == "classified"
    assert [one.label for one in verdict_of(store).earlier] == ["pneumonia"]


def test_the_verdict_of_another_network_is_kept(store: MemoryStore) -> None:
    replaced_by(store, b"P1")
    judge = make_judge(store, release=2)
    judge.engine.model = judge.engine.model.model_copy(update={"sha256": "1" * 64})  # type: ignore[misc]
    judge.judge(Job(KEY))
    (kept,) = verdict_of(store).earlier
    assert kept.model is not None
    assert (kept.etag, kept.model.sha256) == (verdict_of(store).source.etag, "0" * 64)


def test_a_verdict_given_up_keeps_the_history_and_leaves_none_of_its_own(store: MemoryStore) -> None:
    replaced_by(store, b"P1")
    store.objects[KEY] = b"N2"
    assert give_up(store, Release(number=1, version="test"), Job(KEY), "internal", "x").result == "given_up"
    assert [one.label for one in verdict_of(store).earlier] == ["pneumonia"]
    make_judge(store).judge(Job(KEY))
    assert verdict_of(store).status == "classified"
    assert [one.label for one in verdict_of(store).earlier] == ["pneumonia"]


def test_the_history_is_short_and_the_latest_comes_first(store: MemoryStore) -> None:
    for number in range(14):
        replaced_by(store, b"P%d" % number)
    moments = [one.finished_at for one in verdict_of(store).earlier]
    assert len(moments) == 10
    assert moments == sorted(moments, reverse=True)


def test_a_later_releases_history_is_read_in_this_ones_words(store: MemoryStore) -> None:
    replaced_by(store, b"bad")
    replaced_by(store, b"P1")
    content = json.loads(verdict_of(store).to_json())
    content["earlier"][0] |= {"reason": "from_the_future", "warnings": ["atypical", "new"], "more": 1}
    content["earlier"] *= 1000
    read = Verdict.from_json(json.dumps(content).encode()).earlier
    assert len(read) == 10
    assert (read[0].reason, read[0].warnings) == ("internal", ["atypical"])
