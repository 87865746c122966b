"""Reviews beside the verdicts: what is kept, what the worklist says of it, and what becomes of it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr import local
from handlers import wiring
from pipeline.errors import NotReviewed, VerdictReplaced
from pipeline.events import s3_event
from pipeline.forget import erase_xray
from pipeline.intake import Ports, record
from pipeline.names import is_verdict, name_problem, review_prefix, verdict_key
from pipeline.reconcile import reconcile_inbox
from pipeline.records import Answer, Reading, Row, Sees
from pipeline.reviews import kept
from pipeline.reviews.kept import Word, read_reviews, record_reviews, write_review
from pipeline.reviews.review import LONGEST_NOTE, Review, Said, answer_of
from pipeline.store.s3 import S3Store
from pipeline.verdict import Label
from pipeline.worklist.rebuild import rebuild_index
from tests.support.fakes import SentJobs, make_ports, store_of
from tests.support.indexes import LATER, NOW

KEY, OTHER = "inbox/ward 3/a.jpeg", "inbox/b.jpeg"


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    ports = make_ports(tmp_path)
    wiring.provide(ports)
    files = {KEY: b"P1", OTHER: b"N1", "inbox/c.jpeg": b"P atypical", "inbox/d": b"bad"}
    store_of(ports).objects.update(files)
    local.deliver(s3_event("b", list(store_of(ports).objects)))
    yield ports
    ports.index.close()  # type: ignore[attr-defined]


def row(ports: Ports, key: str = KEY) -> Row:
    found = ports.index.get(key)
    assert found
    return found


def says(ports: Ports, said: Said, user: str | None = "ada", key: str = KEY, note: str = "") -> Review:
    """Write a review; its event comes later."""
    etag = row(ports, key).verdict_etag or ""
    return write_review(ports.store, key, etag, Word(said, user, note), NOW)


def events(ports: Ports) -> None:
    """Deliver the outbox's events, as S3 does: each at least once, in any order."""
    keys = [key for key in store_of(ports).objects if key.startswith("outbox/")]
    record(s3_event("b", [*reversed(keys), *keys]), ports)


@pytest.mark.parametrize(
    ("label", "said", "answer", "sees"),
    [
        ("pneumonia", "agree", "agree", "pneumonia"),
        ("pneumonia", "disagree", "disagree", "not_pneumonia"),
        ("pneumonia", "pneumonia", "agree", "pneumonia"),
        ("pneumonia", "not_pneumonia", "disagree", "not_pneumonia"),
        ("normal", "agree", "agree", "not_pneumonia"),
        ("normal", "disagree", "disagree", "pneumonia"),
        ("normal", "pneumonia", "disagree", "pneumonia"),
        ("normal", "not_pneumonia", "agree", "not_pneumonia"),
        ("uncertain", "pneumonia", "decided", "pneumonia"),
        ("uncertain", "not_pneumonia", "decided", "not_pneumonia"),
        ("uncertain", "unsure", "unsure", "unsure"),
        ("normal", "unsure", "unsure", "unsure"),
        ("normal", "withdrawn", "withdrawn", None),
    ],
)
def test_what_a_word_means(label: Label, said: Said, answer: Answer, sees: Sees | None) -> None:
    assert answer_of(said, label) == (answer, sees)


def test_there_is_nothing_to_agree_with_where_the_network_made_no_call(ports: Ports) -> None:
    for said in ("agree", "disagree"):
        with pytest.raises(NotReviewed, match="say what you see"):
            says(ports, said, key="inbox/c.jpeg")  # type: ignore[arg-type]
    assert says(ports, "pneumonia", key="inbox/c.jpeg").answer == "decided"
    with pytest.raises(NotReviewed, match="no finding"):
        says(ports, "unsure", key="inbox/d")


def test_a_review_is_one_object_that_says_everything(ports: Ports) -> None:
    verdict = row(ports)
    says(ports, "disagree", note="left lower lobe")
    (place,) = [key for key in store_of(ports).objects if key.startswith("outbox/.reviews/")]
    assert place.startswith(f"{review_prefix(KEY)}{verdict.verdict_etag}/20261123T080000000000Z-")
    assert not is_verdict(place)
    assert json.loads(store_of(ports).objects[place]) == {
        "schema": "cxr-inbox/review/1",
        "user": "ada",
        "at": "2026-11-23T08:00:00Z",
        "answer": "disagree",
        "sees": "not_pneumonia",
        "note": "left lower lobe",
        "blind": False,
        "key": KEY,
        "source_etag": verdict.etag,
        "verdict_etag": verdict.verdict_etag,
        "label": "pneumonia",
        "warnings": [],
        "model": {"name": "fake", "version": "1", "sha256": "0" * 64, "engine": "fake"},
        "release": {"number": 7, "version": "0.1.0"},
    }
    assert name_problem("inbox/.reviews/a") is not None


def test_the_last_word_of_each_reader_counts(ports: Ports) -> None:
    assert row(ports).review == "unread"
    for said, user, state in (
        ("agree", "ada", "agreed"),
        ("disagree", "bob", "mixed"),
        ("agree", "bob", "agreed"),
        ("withdrawn", "ada", "agreed"),
        ("withdrawn", "bob", "unread"),
        ("unsure", None, "unsure"),
    ):
        says(ports, said, user)  # type: ignore[arg-type]  # all at the same moment by this clock
        events(ports)
        assert row(ports).review == state
    assert [(one.user, one.answer) for one in row(ports).answers] == [
        ("bob", "withdrawn"),
        ("ada", "withdrawn"),
        (None, "unsure"),
    ]
    assert row(ports).reviewers == [""]
    assert row(ports).review_count == 6
    with pytest.raises(NotReviewed, match="no answer of yours"):
        says(ports, "withdrawn")
    assert row(ports, OTHER).review == "unread"
    assert row(ports, "inbox/d").review is None


def test_a_word_is_blind_only_before_the_reader_has_seen_the_verdict(ports: Ports) -> None:
    etag, seen = row(ports).verdict_etag or "", []
    for said in ("pneumonia", "withdrawn", "pneumonia"):
        word = Word(said, "ada", blind=True)  # type: ignore[arg-type]
        seen.append(write_review(ports.store, KEY, etag, word, NOW).blind)
    assert seen == [True, False, False]
    assert write_review(ports.store, KEY, etag, Word("unsure", "bob", blind=True), NOW).blind


@pytest.mark.parametrize("note", ["x" * (LONGEST_NOTE + 1), "a\nb", "\x1b[31m", "\u202e", "\ud800"])
def test_a_note_is_one_short_plain_line(ports: Ports, note: str) -> None:
    with pytest.raises(NotReviewed, match="one line"):
        says(ports, "agree", note=note)
    says(ports, "agree", note="Röntgen 正面像 😀")


def test_the_reviews_of_a_replaced_xray_are_those_of_its_old_verdict(ports: Ports) -> None:
    old = row(ports).verdict_etag or ""
    says(ports, "agree")
    events(ports)
    store_of(ports).objects[KEY] = b"N2"
    local.deliver(s3_event("b", [KEY]))
    events(ports)
    assert (row(ports).label, row(ports).review, row(ports).reviewers) == ("normal", "unread", [])
    with pytest.raises(VerdictReplaced, match="look again"):
        write_review(ports.store, KEY, old, Word("agree"), NOW)
    assert [one.verdict_etag for one in read_reviews(ports.store, KEY)] == [old]
    says(ports, "disagree", "bob")
    events(ports)
    assert row(ports).review == "disagreed"
    assert len(read_reviews(ports.store, KEY)) == 2


def test_what_is_no_review_of_this_xray_does_not_count(ports: Ports) -> None:
    says(ports, "agree")
    other = says(ports, "disagree", "bob", key=OTHER)
    folder = review_prefix(KEY, row(ports).verdict_etag or "")
    objects = store_of(ports).objects
    for number, data in enumerate((b"", b"[]", b"{}", b"[" * 9000, b"x" * 30_000, other.to_json())):
        objects[f"{folder}{number}.json"] = data
    events(ports)
    assert row(ports).review == "agreed"
    assert row(ports).review_count == 7  # so that `reconcile` finds nothing to do
    objects[f"{folder}later.json"] = json.dumps(
        json.loads(says(ports, "agree").to_json()) | {"new": 1, "warnings": ["new", "atypical"]}
    ).encode()
    assert [one.warnings for one in read_reviews(ports.store, KEY)][-1] == ["atypical"]


def test_a_review_written_between_two_looks_is_counted(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other writer's summary was older; whoever writes last has seen both."""
    says(ports, "agree")
    waiting: list[Callable[[], object]] = [lambda: says(ports, "disagree", "bob")]
    look = ports.index.review

    def slow(key: str, found: object) -> None:
        if waiting:
            waiting.pop()()
        look(key, found)  # type: ignore[arg-type]

    monkeypatch.setattr(ports.index, "review", slow)
    record_reviews(KEY, ports.store, ports.index)
    assert row(ports).review == "mixed"


def test_lost_events_and_a_lost_worklist_are_made_good(ports: Ports) -> None:
    says(ports, "agree")
    look = (ports.store, ports.index, SentJobs(), NOW)
    reconcile_inbox(*look)
    assert row(ports).review == "agreed"
    says(ports, "disagree", "bob")
    reconcile_inbox(*look, after="inbox/b", most=1)  # a part with this key
    reconcile_inbox(*look, after="inbox/d", most=1)
    assert row(ports).review == "mixed"
    change = row(ports).change
    reconcile_inbox(*look)
    assert row(ports).change == change
    before = replace(row(ports), change=0)
    ports.index.remove(verdict_key(KEY))
    rebuild_index(ports.store, ports.index)
    assert replace(row(ports), change=0) == before
    store_of(ports).purge(review_prefix(KEY))  # by a rule of the bucket, for example
    reconcile_inbox(*look)
    assert row(ports).review == "unread"


def test_forgetting_an_xray_forgets_its_reviews(ports: Ports) -> None:
    says(ports, "agree")
    says(ports, "disagree", key=OTHER)
    events(ports)
    assert erase_xray(KEY, ports.store, ports.index, 0)
    assert not any(
        "ada" in data.decode(errors="ignore") and KEY in data.decode(errors="ignore")
        for data in store_of(ports).objects.values()
    )
    assert row(ports, OTHER).review == "disagreed"
    assert erase_xray(KEY, ports.store, ports.index, 0) is False


def test_no_more_reviews_than_can_be_read_at_once(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_REVIEWS", 2)
    says(ports, "agree")
    says(ports, "agree")
    with pytest.raises(NotReviewed, match="no more are kept"):
        says(ports, "agree")


def test_a_bucket_keeps_them_as_well(ports: Ports, s3_store: S3Store) -> None:
    for key, data in store_of(ports).objects.items():
        s3_store.put(key, data, None)
    write_review(s3_store, KEY, row(ports).verdict_etag or "", Word("agree", "ada"), NOW)
    record_reviews(KEY, s3_store, ports.index)
    assert row(ports).answers == (Reading("ada", "agree", "pneumonia", NOW),)


WORDS = st.tuples(st.sampled_from(["ada", "bob", None]), st.sampled_from(["agree", "disagree", "unsure"]))


@given(st.lists(WORDS, min_size=1))
def test_the_summary_does_not_depend_on_the_order_of_listing(words: list[tuple[str | None, Answer]]) -> None:
    reviews = [
        Review(
            user=user,
            at=LATER + timedelta(seconds=number),
            answer=answer,
            blind=False,
            key=KEY,
            source_etag="e",
            verdict_etag="v",
            label="normal",
        )
        for number, (user, answer) in enumerate(words)
    ]
    summary = kept.summary_of("v", reviews, len(reviews))
    last = dict(words)
    assert {one.user: one.answer for one in summary.readers} == last
    assert (summary.review_said == "mixed") == (len(set(last.values())) > 1)
