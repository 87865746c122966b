"""Which X-rays a request is about: those that a form or a program names, or all of a view."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from flask import abort, request
from pydantic import ValidationError

from pipeline.names import printable
from pipeline.records import Row
from pipeline.worklist.sqlite import SqliteIndex
from pipeline.worklist.views import Hits, Worklist
from web.query import Query, asked
from web.reviews.blind import is_blind
from web.schemas import SelectionRequest

MOST_SELECTED = 500  # X-rays of one request that changes something
_NOTHING = "Select at least one X-ray."


@dataclass(frozen=True)
class Selection:
    """Hold the X-rays of a request."""

    query: Query
    rows: list[Row]  # at most `MOST_SELECTED`
    unknown: list[str]  # what it names besides that is not in the worklist
    count: int | None  # of the X-rays, as the request says it: a confirmation
    hits: Hits | None  # of the view, where all of it is meant

    @property
    def has_more(self) -> bool:
        """Return whether the view has more rows than those."""
        return self.hits is not None and (self.hits.count > len(self.rows) or not self.hits.is_all)


def selection(index: SqliteIndex) -> Selection:
    """Read the selection of this request: a form's `xray` (names of reports) or `all`, or JSON with `keys`.

    Answers 400 where there is none, or where it names too many.
    """
    query = asked()
    query = query.without_verdicts() if is_blind() else query
    if request.is_json:
        wanted = _told()
        keys = list(dict.fromkeys(printable(key) for key in wanted.keys))
        return _named(query, {key: index.get(key) for key in keys}, wanted.count)
    if request.form.get("all"):
        listed = Worklist(index)
        rows = list(islice(listed.rows(query.view), MOST_SELECTED))
        if not rows:
            abort(400, _NOTHING)
        return Selection(query, rows, [], None, listed.hits(query.view))
    names = list(dict.fromkeys(request.form.getlist("xray")))
    if len(names) > MOST_SELECTED:
        abort(400, f"Select at most {MOST_SELECTED} X-rays at a time.")
    count = request.form.get("count", type=int)
    return _named(query, {name: index.find(printable(name)) for name in names}, count)


def all_rows(index: SqliteIndex, query: Query) -> Iterator[Row]:
    """Yield every row of the view that a request is about."""
    return Worklist(index).rows(query.view)


def _told() -> SelectionRequest:
    try:
        return SelectionRequest.model_validate(request.get_json(silent=True))
    except (ValidationError, RecursionError):
        abort(400, f"Send a JSON object with `keys`, 1 to {MOST_SELECTED} of them.")


def _named(query: Query, found: dict[str, Row | None], count: int | None) -> Selection:
    if not found:
        abort(400, _NOTHING)
    rows = [row for row in found.values() if row]
    return Selection(query, rows, [name for name, row in found.items() if not row], count, None)
