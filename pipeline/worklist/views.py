"""Read the worklist as people look at it: filtered, searched, sorted, one page at a time.

An order is a sequence of groups; in each, the newest rows come first. So every view is a merge of the same
walk through one index, `rows_shelf`, for each of its shelves: no order needs an index of its own, and a deep
page costs as little as the first. A filter by review walks through `rows_review` in the same way,
and one by date narrows each walk. Hits are counted in the tally where it has them, else in the same indexes.
"""

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice, product
from typing import Literal, get_args

from pipeline.records import ReviewState, Row, RowState
from pipeline.worklist.rows import text
from pipeline.worklist.sqlite import SqliteIndex, folded

SortOrder = Literal["newest", "triage"]
STATES: tuple[RowState, ...] = get_args(RowState)
REVIEW_STATES: tuple[ReviewState, ...] = get_args(ReviewState)
_FINDINGS: frozenset[RowState] = frozenset(("pneumonia", "uncertain", "normal"))
_AGAIN = ("waiting+", "working+")  # rows that were pneumonia and are judged again
_ORDERS: dict[SortOrder, tuple[tuple[str, ...], ...]] = {  # groups of shelves
    "newest": ((*STATES, *_AGAIN),),
    "triage": (
        ("pneumonia", *_AGAIN),
        ("failed", "rejected", "uncertain", "waiting", "working", "unknown"),
        ("normal",),
    ),
}
_TRIGRAM = 3  # characters; the index of substrings has no shorter ones
_RARE = 500  # rows: fewer are looked up by name; more are soon met on the walk
_HOUR, _TICK = timedelta(hours=1), timedelta(microseconds=1)
_LAST = "\U0010ffff"  # sorts after every time
_MOST_COUNTED = 500  # hits of a search for common words; without one, all are counted

_Found = tuple[str, int]  # time and number of the row: its place in a group


@dataclass(frozen=True)
class View:
    """Select what somebody looks at: no states or reviews means all; a search finds names with every word.

    The dates are those by which rows are ordered: of the verdict, or else since when it waits.
    """

    states: frozenset[RowState] = frozenset()
    search: str = ""
    order: SortOrder = "newest"
    reviews: frozenset[ReviewState] = frozenset()
    since: datetime | None = None
    until: datetime | None = None  # not included

    @property
    def words(self) -> list[str]:
        """Return the words of the search."""
        return folded(self.search).replace("\0", " ").split()

    @property
    def dates(self) -> tuple[str, str]:
        """Return the first time, and the one after the last, as the rows hold them."""
        return text(self.since) if self.since else "", text(self.until) if self.until else _LAST

    @property
    def last_moment(self) -> datetime | None:
        """Return the last time that is included."""
        return self.until - timedelta(microseconds=1) if self.until else None

    @property
    def asked_reviews(self) -> list[ReviewState | None]:
        """Return its reviews, or None alone, which stands for all."""
        return [*sorted(self.reviews)] or [None]

    @property
    def is_whole(self) -> bool:
        """Return whether every X-ray is in it."""
        return not (self.states or self.search or self.reviews or self.since or self.until)

    def any_state(self) -> "View":
        """Return the same view of all states and reviews."""
        return replace(self, states=frozenset(), reviews=frozenset())

    def in_order(self, order: SortOrder) -> "View":
        """Return the same view in another order."""
        return replace(self, order=order)


@dataclass(frozen=True)
class Cursor:
    """Mark a place in a view, that of a row; it stays valid when the row is deleted."""

    group: int
    at: str
    id: int

    def __str__(self) -> str:
        return f"{self.group}.{re.sub('[^0-9]', '', self.at)}.{self.id}"

    @classmethod
    def parse(cls, cursor: str) -> "Cursor":
        """Parse a cursor; raise ValueError for other text."""
        match = re.fullmatch(r"([0-9])\.([0-9]{20}|)\.([0-9]{1,18})", cursor, re.ASCII)
        if not match:
            raise ValueError("this is not a cursor")
        # As `rows.text` writes it.
        at = re.sub(r"(....)(..)(..)(..)(..)(..)(.*)", r"\1-\2-\3T\4:\5:\6.\7Z", match[2])
        return cls(int(match[1]), at, int(match[3]))


@dataclass(frozen=True)
class Page:
    """Hold some rows of a view, in its order, and the cursors of the pages beside it, if there are any."""

    rows: list[Row]
    newer: Cursor | None = None  # page before the first row
    older: Cursor | None = None  # page after the last row


@dataclass(frozen=True)
class Hits:
    """Count the rows of a view, or those before one of its rows."""

    count: int
    is_all: bool = True  # false: there are more, which were not counted

    def __str__(self) -> str:
        return f"{self.count:,}" if self.is_all else f"{self.count:,}+"


class Worklist:
    """Read the index of a file."""

    def __init__(self, index: SqliteIndex) -> None:
        self._index = index

    def page(self, view: View, limit: int, after: Cursor | None = None, before: Cursor | None = None) -> Page:
        """Return at most `limit` rows: the first, those after `after`, or those right before `before`."""
        backward = before is not None
        places = list(islice(self._walk(view, before or after, backward), limit + 1))
        more = len(places) > limit
        places = places[:limit]
        if backward:
            places.reverse()
        if not places:
            return Page([])
        has_newer = more if backward else after is not None
        has_older = True if backward else more
        return Page(
            self._rows([place.id for place in places]),
            places[0] if has_newer else None,
            places[-1] if has_older else None,
        )

    def rows(self, view: View) -> Iterator[Row]:
        """Yield all rows of a view; those that change meanwhile may come twice, or not at all."""
        page = self.page(view, _RARE)
        yield from page.rows
        while page.older:
            page = self.page(view, _RARE, after=page.older)
            yield from page.rows

    def neighbours(self, view: View, key: str) -> tuple[Row | None, Row | None]:
        """Return the rows before and after that of a key in a view, which need not include it."""
        here = self._place(view, key)
        if here is None:
            return None, None
        newer, older = self.page(view, 1, before=here), self.page(view, 1, after=here)
        return newer.rows[0] if newer.rows else None, older.rows[0] if older.rows else None

    def next_finding(self, view: View, key: str) -> Row | None:
        """Return the next row of a view after that of a key that has a finding, and is not judged again."""
        states = view.states & _FINDINGS if view.states else _FINDINGS
        return self.neighbours(replace(view, states=states), key)[1] if states else None

    def hits(self, view: View) -> Hits:
        """Return how many rows a view has; of those with common words, only so many are counted."""
        if view.search or (view.reviews and (view.states or view.since or view.until)):
            return self._count(view, None)
        if view.reviews:
            return Hits(sum(count for said, count in self.review_counts().items() if said in view.reviews))
        if view.since or view.until:
            return Hits(self._tallied(view))
        return Hits(sum(n for state, n in self.counts().items() if not view.states or state in view.states))

    def position(self, view: View, key: str) -> Hits | None:
        """Return the place of a row in a view, from 1; None where it is not in it, or far down a search."""
        here = self._place(view, key)
        if here is None or not self._contains(view, key):
            return None
        before = self._count(view, here)
        return Hits(before.count + 1) if before.is_all else None

    def _tallied(self, view: View) -> int:
        """Count the rows of some states between two times: by whole hours, and their edges in the index."""
        states, (since, until) = sorted(view.states) or list(STATES), view.dates
        first = text(_hour(view.since + _HOUR - _TICK)) if view.since else ""
        last = text(_hour(view.until)) if view.until else _LAST
        if first >= last:
            return self._count(view, None).count
        hours = "SELECT sum(count) FROM tally WHERE hour BETWEEN ? AND ? AND state IN "
        low, high = first[:13] or "0", text(_hour(view.until) - _TICK)[:13] if view.until else "9999"
        total = next(self._index.select(f"{hours}({_marks(states)})", low, high, *states))[0] or 0
        if not view.since:  # rows without a time come first
            total += self._edge(states, "", "0")
        return int(total) + self._edge(states, since, first) + self._edge(states, last, until)

    def _edge(self, states: Sequence[str], since: str, until: str) -> int:
        shelves = [shelf for shelf in (*STATES, *_AGAIN) if shelf.rstrip("+") in states]
        query = "SELECT count(*) FROM rows INDEXED BY rows_shelf WHERE shelf = ? AND at >= ? AND at < ?"
        if since >= until:
            return 0
        return sum(int(next(self._index.select(query, shelf, since, until))[0]) for shelf in shelves)

    def _place(self, view: View, key: str) -> Cursor | None:
        """Return where the row of a key would be in a view; None where there is no row."""
        found = next(self._index.select("SELECT shelf, at, id FROM rows WHERE key = ?", key), None)
        if found is None:
            return None
        shelf, at, id_ = found
        group = next(number for number, shelves in enumerate(_ORDERS[view.order]) if shelf in shelves)
        return Cursor(group, at, id_)

    def _contains(self, view: View, key: str) -> bool:
        states, reviews = sorted(view.states), sorted(view.reviews)
        query = f"SELECT 1 FROM rows WHERE key = ?{' AND instr(name, ?)' * len(view.words)}"
        query += f" AND state IN ({_marks(states)})" if states else ""
        query += f" AND review IN ({_marks(reviews)})" if reviews else ""
        query += " AND at >= ? AND at < ?"
        values = (key, *view.words, *states, *reviews, *view.dates)
        return next(self._index.select(query, *values), None) is not None

    def _count(self, view: View, until: Cursor | None) -> Hits:
        """Count the rows of a view, or those before a place in it."""
        rare = self._rare(view)
        most = _MOST_COUNTED + 1 if view.words and rare is None else -1  # of SQLite: no limit
        total = 0
        for number, shelves in enumerate(_ORDERS[view.order]):
            if until and number > until.group:
                break
            bound = (until.at, until.id) if until and number == until.group else None
            asked = [shelf for shelf in shelves if not view.states or shelf.rstrip("+") in view.states]
            if rare is not None:
                total += sum(1 for shelf, place in rare if shelf in asked and (not bound or place > bound))
                continue
            for shelf, review in product(asked, view.asked_reviews):
                query, values = _asked_for(shelf, review, view, bound, backward=True)
                counted = f"SELECT count(*) FROM (SELECT 1 {query} LIMIT ?)"
                total += next(self._index.select(counted, *values, most))[0]
                if 0 < most <= total:
                    return Hits(_MOST_COUNTED, False)
        return Hits(total)

    def counts(self) -> dict[RowState, int]:
        """Return how many rows there are of each state."""
        counted = dict(self._index.select("SELECT state, count FROM tally WHERE hour = 'all'"))
        return {state: counted.get(state, 0) for state in STATES}

    def review_counts(self) -> dict[ReviewState, int]:
        """Return how many verdicts with a finding readers have said what about."""
        counted = dict(self._index.select("SELECT state, count FROM tally WHERE hour = 'review'"))
        return {state: counted.get(state, 0) for state in REVIEW_STATES}

    def hours(self, until: datetime, count: int = 24) -> list[tuple[datetime, dict[RowState, int]]]:
        """Return the last `count` hours, up to that of `until`: when each began, and its rows by state."""
        last = until.replace(minute=0, second=0, microsecond=0)
        hours = [last - timedelta(hours=back) for back in reversed(range(count))]
        found: dict[str, dict[RowState, int]] = {text(hour)[:13]: {} for hour in hours}
        query = "SELECT hour, state, count FROM tally WHERE hour BETWEEN ? AND ? AND count > 0"
        for hour, state, number in self._index.select(query, min(found), max(found)):
            if state not in ("waiting", "working"):
                found[hour][state] = number
        return [(hour, found[text(hour)[:13]]) for hour in hours]

    def _walk(self, view: View, start: Cursor | None, backward: bool) -> Iterator[Cursor]:
        """Yield the places of a view after a cursor, in its order or backward."""
        groups = list(enumerate(_ORDERS[view.order]))
        rare = self._rare(view)
        for number, shelves in reversed(groups) if backward else groups:
            if start and (number > start.group if backward else number < start.group):
                continue
            bound = (start.at, start.id) if start and start.group == number else None
            asked = [shelf for shelf in shelves if not view.states or shelf.rstrip("+") in view.states]
            if rare is None:
                walks = [walk for shelf in asked for walk in self._of_shelf(shelf, view, bound, backward)]
            else:
                walks = [_picked(rare, asked, bound, backward)]
            for at, id_ in heapq.merge(*walks, reverse=not backward):
                yield Cursor(number, at, id_)

    def _of_shelf(
        self, shelf: str, view: View, bound: _Found | None, backward: bool
    ) -> list[Iterator[_Found]]:
        """Return the walk through a shelf, or one for each of the reviews that the view asks for."""
        direction = "ASC" if backward else "DESC"
        walks = []
        for review in view.asked_reviews:
            query, values = _asked_for(shelf, review, view, bound, backward)
            ordered = f"SELECT at, id {query} ORDER BY at {direction}, id {direction}"
            walks.append(self._index.select(ordered, *values))
        return walks

    def _rare(self, view: View) -> list[tuple[str, _Found]] | None:
        """Return the rows whose name holds all of the words, if the index of substrings finds only a few."""
        words, reviews = view.words, sorted(view.reviews)
        known = [word for word in words if len(word) >= _TRIGRAM]
        if not known:
            return None
        query = "SELECT rowid FROM names WHERE names MATCH ? LIMIT ?"
        found = list(self._index.select(query, " ".join(map(_quoted, known)), _RARE))
        if len(found) == _RARE:
            return None
        named = " AND instr(name, ?)" * len(words)
        read = f" AND review IN ({_marks(reviews)})" if reviews else ""
        dated = " AND at >= ? AND at < ?"
        query = f"SELECT shelf, at, id FROM rows WHERE id IN ({_marks(found)}){named}{read}{dated}"
        values = [*(id_ for (id_,) in found), *words, *reviews, *view.dates]
        return [(shelf, (at, id_)) for shelf, at, id_ in self._index.select(query, *values)]

    def _rows(self, ids: list[int]) -> list[Row]:
        found = dict(self._index.rows(f"id IN ({_marks(ids)})", *ids))
        return [found[id_] for id_ in ids if id_ in found]


def _hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _asked_for(
    shelf: str, review: ReviewState | None, view: View, bound: _Found | None, backward: bool
) -> tuple[str, list[object]]:
    """Return the end of a query for the rows of a shelf after a bound, and its values.

    One end of the walk is the bound or the view's date, whichever is nearer; the other is its other date.
    """
    since, until = view.dates
    if backward:
        first, end = max(bound or (since, 0), (since, 0)), until
    else:
        first, end = min(bound or (until, 0), (until, 0)), since
    signs = (">", "<") if backward else ("<", ">=")
    query = "FROM rows INDEXED BY rows_shelf WHERE "
    values: list[object] = [shelf, *first, end, *view.words]
    if review is not None:
        query, values = "FROM rows INDEXED BY rows_review WHERE review = ? AND ", [review, *values]
    query += f"shelf = ? AND (at, id) {signs[0]} (?, ?) AND at {signs[1]} ?"
    return query + " AND instr(name, ?)" * len(view.words), values


def _picked(
    rare: list[tuple[str, _Found]], shelves: list[str], bound: _Found | None, backward: bool
) -> Iterator[_Found]:
    """Return the rows of the shelves after a bound, in the order of the walk."""
    found = sorted((found for shelf, found in rare if shelf in shelves), reverse=not backward)
    if bound is None:
        return iter(found)
    return (one for one in found if (one > bound if backward else one < bound))


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _quoted(word: str) -> str:
    """Quote a word literally for FTS5's query language."""
    return '"' + word.replace('"', '""') + '"'
