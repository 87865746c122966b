"""The worklist as people see it, compared with a plain list of the same rows."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records import Reviewed, ReviewState, Row
from pipeline.worklist.sqlite import SqliteIndex
from pipeline.worklist.views import STATES, Cursor, Hits, Page, SortOrder, View, Worklist

NOON = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
RANKS = {"pneumonia": 0, "normal": 2}  # in triage; all else is between
OUTCOMES = [
    {"status": "classified", "label": "pneumonia"},
    {"status": "classified", "label": "normal"},
    {"status": "classified", "label": "uncertain"},
    {"status": "rejected"},
    {"status": "failed"},
]


def done(name: str, kind: int, minutes: float) -> Row:
    moment = NOON - timedelta(minutes=minutes)
    return Row(f"inbox/{name}", started_at=moment, finished_at=moment, **OUTCOMES[kind])  # type: ignore[arg-type]


def names(page: Page) -> list[str]:
    return [row.key.removeprefix("inbox/") for row in page.rows]


def fill(index: SqliteIndex) -> Worklist:
    for number, kind in enumerate((0, 1, 2, 3, 4, 0, 1)):
        index.record(done(f"{number}.jpeg", kind, number))
    index.wait(["inbox/w.jpeg"], NOON + timedelta(minutes=1))
    index.wait(["inbox/x.jpeg"], NOON + timedelta(minutes=2), at_work=True)
    return Worklist(index)


def test_newest_first_or_the_most_suspicious(index: SqliteIndex) -> None:
    worklist = fill(index)
    newest = ["x", "w", "0", "1", "2", "3", "4", "5", "6"]
    assert names(worklist.page(View(), 10)) == [f"{name}.jpeg" for name in newest]
    triage = ["0", "5", "x", "w", "2", "3", "4", "1", "6"]
    assert names(worklist.page(View(order="triage"), 10)) == [f"{name}.jpeg" for name in triage]


def test_counts_and_hours_follow_every_change(index: SqliteIndex) -> None:
    worklist = fill(index)
    expected = {"waiting": 1, "working": 1, "pneumonia": 2, "uncertain": 1, "normal": 2, "rejected": 1}
    assert worklist.counts() == {**dict.fromkeys(STATES, 0), **expected, "failed": 1}
    index.record(done("0.jpeg", 1, 120))
    index.drop("inbox/1.jpeg")
    index.put(done("2.jpeg", 3, 0))
    index.wait(["inbox/3.jpeg"], NOON)
    counts = worklist.counts()
    assert (counts["pneumonia"], counts["normal"], counts["rejected"], counts["waiting"]) == (1, 2, 1, 2)
    hours = dict(worklist.hours(NOON))
    assert len(hours) == 24
    assert hours[NOON.replace(minute=0)] == {"rejected": 1, "failed": 1, "pneumonia": 1, "normal": 1}
    assert hours[NOON.replace(hour=10, minute=0)] == {"normal": 1}


def test_a_search_knows_no_case_and_asks_for_every_word(index: SqliteIndex) -> None:
    for name in ("Ward 3/RÖNTGEN-a.jpeg", "ward 3/b.png", "ward 30/röntgen-b.jpeg", '"x%_.png'):
        index.record(done(name, 0, 0))
    worklist = Worklist(index)

    def found(search: str) -> set[str]:
        return {name.rpartition("x")[2][-6:] for name in names(worklist.page(View(search=search), 9))}

    assert found("röntgen") == found("RÖNT b") | {"a.jpeg"} == {"a.jpeg", "b.jpeg"}
    assert found("ward 3/") == {"a.jpeg", "/b.png"}
    assert found("b") == {"b.jpeg", "/b.png"}
    assert found("%_") == found('"x%') == found('"') == {"%_.png"}
    assert found("a*") == found("nothing") == found("NEAR(a b)") == found("\0") - found("") == set()


def test_a_common_word_is_found_on_the_walk(index: SqliteIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.worklist.views._RARE", 3)
    worklist = fill(index)
    assert names(worklist.page(View(search="jpeg", order="triage"), 2)) == ["0.jpeg", "5.jpeg"]
    assert names(worklist.page(View(search="5.jpeg", order="triage"), 2)) == ["5.jpeg"]


def test_many_hits_of_a_search_are_not_all_counted(
    index: SqliteIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.worklist.views._RARE", 3)
    monkeypatch.setattr("pipeline.worklist.views._MOST_COUNTED", 5)
    worklist, view = fill(index), View(search="jpeg")
    assert str(worklist.hits(view)) == "5+"
    assert worklist.position(view, "inbox/2.jpeg") == Hits(5)
    assert worklist.position(view, "inbox/6.jpeg") is None
    assert str(worklist.hits(View(frozenset({"normal"}), "jpeg"))) == "2"


def test_the_hits_between_two_times_are_counted_by_the_hour(index: SqliteIndex) -> None:
    for number in range(40):
        index.record(done(f"{number}.jpeg", number % 5, number * 13))
    index.put(Row("inbox/no time.jpeg"))
    worklist = Worklist(index)
    times = [None, *(NOON - timedelta(minutes=back) for back in (-40, 0, 26, 30, 90, 150, 151, 900))]
    for since, until in product(times, times):
        for states in (frozenset(), frozenset({"pneumonia", "unknown"})):
            view = View(states, since=since, until=until)  # type: ignore[arg-type]
            assert worklist.hits(view).count == len(list(worklist.rows(view))), (since, until)


def test_the_rows_before_and_after_one(index: SqliteIndex) -> None:
    worklist = fill(index)

    def around(name: str, view: View) -> list[str | None]:
        found = worklist.neighbours(view, f"inbox/{name}.jpeg")
        return [row.key[6:-5] if row else None for row in found]

    assert around("2", View()) == ["1", "3"]
    assert around("x", View()) == [None, "w"]
    assert around("5", View(order="triage")) == ["0", "x"]
    assert around("6", View(order="triage")) == ["1", None]
    only = View(frozenset({"pneumonia"}))
    assert around("2", only) == ["0", "5"]  # it is not in the view itself: it got another verdict meanwhile
    assert around("nothing", View()) == [None, None]


def test_pneumonia_that_is_looked_at_again_stays_first_in_triage(index: SqliteIndex) -> None:
    worklist = fill(index)
    index.wait(["inbox/5.jpeg"], NOON)
    index.wait(["inbox/6.jpeg"], NOON)
    triage = worklist.page(View(order="triage"), 10)
    assert names(triage)[:2] == ["0.jpeg", "5.jpeg"]
    assert names(worklist.page(View(frozenset({"waiting"})), 10)) == ["w.jpeg", "5.jpeg", "6.jpeg"]
    assert worklist.counts()["waiting"] == 3


def test_a_name_is_found_however_its_accents_are_written(index: SqliteIndex) -> None:
    index.record(done("Mu\u0308ller.jpeg", 0, 0))
    for search in ("m\u00fcller", "MU\u0308LLER", "\u00fc"):
        assert len(Worklist(index).page(View(search=search), 9).rows) == 1


def happen(index: SqliteIndex, what: int, name: str, minutes: int) -> None:
    """Apply one of the changes that an index knows."""
    key, moment = f"inbox/{name}", NOON - timedelta(minutes=minutes)
    verdict = replace(done(name, minutes % 5, minutes), verdict_key=f"outbox/{name}.json")
    (
        lambda: index.wait([key], moment, at_work=minutes > 2),
        lambda: index.settle(key, moment),
        lambda: index.record(verdict),
        lambda: index.mark(key, "deleted"),
        lambda: index.remove(f"outbox/{name}.json"),
        lambda: index.put(Row(key)),
        lambda: index.put(verdict),
        lambda: index.drop(key),
    )[what]()


CHANGES = st.lists(st.tuples(st.integers(0, 7), st.sampled_from("abc"), st.integers(0, 5)), max_size=25)


@settings(max_examples=60, deadline=None)
@given(CHANGES)
def test_the_counts_are_those_of_the_rows_whatever_happened(changes: list[tuple[int, str, int]]) -> None:
    with TemporaryDirectory() as folder:
        index = SqliteIndex(Path(folder) / "index.sqlite")
        for change in changes:
            happen(index, *change)
        states = [row.state for row in index.all()]
        assert Worklist(index).counts() == {state: states.count(state) for state in STATES}
        index.close()


def test_a_cursor_that_is_none() -> None:
    place = Cursor(2, "2026-11-24T11:43:00.123456Z", 77)
    assert Cursor.parse(str(place)) == place
    for text in ("", "1", "1.2.3", "0.20261124114300123456.-1", f"{place} ", "0.1.1"):
        with pytest.raises(ValueError, match="not a cursor"):
            Cursor.parse(text)


def test_the_walks_use_their_index(index: SqliteIndex) -> None:
    """A deep page and a frequent word use it as well; a rare word is found by its trigrams."""
    plans: list[str] = []
    select = index.select

    def explained(query: str, *values: object) -> object:
        plans.extend(row[3] for row in select(f"EXPLAIN QUERY PLAN {query}", *values))
        return select(query, *values)

    index.select = explained  # type: ignore[method-assign, assignment]
    worklist = fill(index)
    deep = worklist.page(View(order="triage"), 3).older
    worklist.page(View(order="triage"), 3, after=deep)
    worklist.page(View(search="j"), 3)
    worklist.page(View(search="jpeg"), 3)
    unread = View(order="triage", reviews=frozenset({"unread", "agreed"}))
    worklist.page(unread, 3, after=worklist.page(unread, 3).older)
    worklist.page(View(search="jpeg", reviews=frozenset({"agreed"})), 3)
    dated = View(since=NOON - timedelta(minutes=4), until=NOON)
    worklist.page(dated, 3, after=worklist.page(dated, 3).older)
    for view in (dated, unread, View(search="jpeg"), View(search="j")):
        worklist.hits(view)
        worklist.position(view, "inbox/2.jpeg")
    worklist.counts()
    worklist.review_counts()
    worklist.hours(NOON)
    assert plans
    for plan in plans:
        assert plan.startswith(("SEARCH", "SCAN names VIRTUAL TABLE INDEX")) or "SUBQUERY" in plan.upper(), (
            plan
        )
        assert "TEMP B-TREE" not in plan
    assert any("rows_shelf (shelf=? AND at>? AND at<?)" in plan for plan in plans)
    assert any("rows_review (review=? AND shelf=? AND at>? AND at<?)" in plan for plan in plans)


ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "ab", "abc", "xabcx"]), st.integers(0, 6), st.integers(0, 4)),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(
    ROWS,
    st.frozensets(st.sampled_from(STATES)),
    st.sampled_from(["", "b", "abc", "A B"]),
    st.sampled_from(["newest", "triage"]),
    st.integers(1, 7),
    st.frozensets(st.sampled_from(["unread", "agreed", "mixed"])),
    st.tuples(*[st.none() | st.integers(-1, 5)] * 2),
)
def test_the_pages_are_the_whole_view_in_both_directions(
    rows: list[tuple[str, int, int]],
    states: frozenset[str],
    search: str,
    order: SortOrder,
    limit: int,
    reviews: frozenset[ReviewState],
    dates: tuple[int | None, int | None],
) -> None:
    with TemporaryDirectory() as folder:
        index = SqliteIndex(Path(folder) / "index.sqlite")
        for number, (name, kind, minutes) in enumerate(rows):
            key, moment = f"{number}{name}", NOON - timedelta(minutes=minutes)
            if kind < len(OUTCOMES):
                index.record(replace(done(key, kind, minutes), verdict_etag="v"))
                said: ReviewState = "agreed" if minutes % 2 else "mixed"
                index.review(f"inbox/{key}", Reviewed("v" if number % 3 else "older", said))
            else:
                index.wait([f"inbox/{key}"], moment, at_work=kind == 6)
        since, until = (None if back is None else NOON - timedelta(minutes=back) for back in dates)
        view = View(states, search, order, reviews, since, until)  # type: ignore[arg-type]
        worklist = Worklist(index)

        everything = [replace(row, change=0) for row in worklist.rows(view)]
        stored = [replace(row, change=0) for row in index.all()]
        expected = [row for row in stored if not states or row.state in states]
        expected = [row for row in expected if all(word in row.key[6:] for word in search.lower().split())]
        expected = [row for row in expected if not reviews or row.review in reviews]
        at = {row.key: row.finished_at or row.waiting_since or NOON for row in stored}
        expected = [row for row in expected if since is None or at[row.key] >= since]
        expected = [row for row in expected if until is None or at[row.key] < until]
        counted = Counter(row.review for row in stored if row.review)
        assert {word: count for word, count in worklist.review_counts().items() if count} == counted
        assert sorted(row.key for row in everything) == sorted(row.key for row in expected)
        ranks = [RANKS.get(row.state, 1) if order == "triage" else 0 for row in everything]
        times = [(row.finished_at or row.waiting_since or NOON).timestamp() for row in everything]
        in_order = list(zip(ranks, (-moment for moment in times), strict=True))
        assert in_order == sorted(in_order)

        assert worklist.hits(view) == Hits(len(everything))
        places = {row.key: number for number, row in enumerate(everything, 1)}
        for row in stored:
            place = worklist.position(view, row.key)
            assert (place and place.count) == places.get(row.key)

        pages = [worklist.page(view, limit)]
        while older := pages[-1].older:
            pages.append(worklist.page(view, limit, after=older))
        assert [row.key for page in pages for row in page.rows] == [row.key for row in everything]
        back = pages[-1]
        for page in reversed(pages[:-1]):
            assert back.newer is not None
            back = worklist.page(view, limit, before=back.newer)
            assert back.rows == page.rows
        assert pages[0].newer is None
        assert back.newer is None
        index.close()
