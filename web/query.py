"""The parameters by which a request chooses a view of the worklist."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from flask import abort, request
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from pipeline.records import ReviewState, RowState
from pipeline.worklist.views import REVIEW_STATES, STATES, Cursor, SortOrder, View

_Cursor = Annotated[Cursor, BeforeValidator(Cursor.parse)]
LONGEST_SEARCH = 200  # characters
_MIDNIGHT = time(tzinfo=UTC)
_EARLIEST, _LATEST = date(1900, 1, 1), date(9990, 1, 1)  # of the dates; other days count as these
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_LABELS = ("pneumonia", "uncertain", "normal")


def _moment(given: object, days: int) -> object:
    """Read a date, which is one of UTC and `days` later, or a time with its offset; nothing is no limit."""
    if not isinstance(given, str) or not given:
        return given or None
    if _DATE.fullmatch(given):
        day = min(max(date.fromisoformat(given), _EARLIEST), _LATEST)
        return datetime.combine(day + timedelta(days=days), _MIDNIGHT)
    moment = datetime.fromisoformat(given)
    if moment.tzinfo is None:
        raise ValueError("a time needs its offset")
    if not _EARLIEST <= moment.date() <= _LATEST:
        raise ValueError("no verdict is so old, or of a time to come")
    return moment.astimezone(UTC)


def _first(given: object) -> object:
    return _moment(given, 0)


def _after(given: object) -> object:
    return _moment(given, 1)


class Query(BaseModel):
    """Hold the parameters of an address: the view and the place in it."""

    state: list[RowState] = []
    review: list[ReviewState] = []
    search: str = Field("", max_length=LONGEST_SEARCH)
    since: Annotated[datetime | None, BeforeValidator(_first)] = Field(None, alias="from")
    until: Annotated[datetime | None, BeforeValidator(_after)] = Field(None, alias="to")
    order: SortOrder = "newest"
    after: _Cursor | None = None
    before: _Cursor | None = None
    limit: int = Field(50, ge=1, le=500)

    @property
    def view(self) -> View:
        """Return the view without the place in it."""
        chosen = frozenset(self.state), self.search.strip(), self.order, frozenset(self.review)
        return View(*chosen, self.since, self.until)

    def without_verdicts(self) -> "Query":
        """Return the same query without what would tell verdicts apart: labels, their order, agreement."""
        places = {} if self.order == "newest" else {"after": None, "before": None}
        kept = {
            "state": [state for state in self.state if state not in _LABELS],
            "review": [review for review in self.review if review == "unread"],
        }
        return self.model_copy(update={**kept, **places, "order": "newest"})

    @property
    def here(self) -> dict[str, Any]:
        """Return the parameters of the same view at the same place."""
        places = {"after": self.after, "before": self.before}
        return {**parameters(self.view), **{name: place for name, place in places.items() if place}}


def asked() -> Query:
    """Parse the parameters of this request; answer 400 with the name of a wrong one."""
    values: dict[str, Any] = dict(request.args)
    for several in ("state", "review"):
        values[several] = request.args.getlist(several)
    try:
        return Query.model_validate(values)
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        abort(400, f"The address has a wrong `{name}`. Go back to the worklist.")


def parameters(view: View) -> dict[str, Any]:
    """Return the parameters of a view; none for the default view."""
    states = [state for state in STATES if state in view.states]
    reviews = [review for review in REVIEW_STATES if review in view.reviews]
    return {
        **({"state": states} if states else {}),
        **({"review": reviews} if reviews else {}),
        **({"search": view.search} if view.search else {}),
        **({"from": _written(view.since, 0)} if view.since else {}),
        **({"to": _written(view.until, 1)} if view.until else {}),
        **({"order": view.order} if view.order != "newest" else {}),
    }


def _written(moment: datetime, days: int) -> str:
    """Write a time as `_moment` reads it, as a date where it is one."""
    if moment.timetz() == _MIDNIGHT:
        return (moment - timedelta(days=days)).date().isoformat()
    return f"{moment.replace(tzinfo=None).isoformat()}Z"


def toggled(view: View, state: RowState) -> dict[str, Any]:
    """Return the parameters of a view with this state added, or removed if it was there."""
    return parameters(replace(view, states=view.states ^ {state}))


def read_toggled(view: View, review: ReviewState) -> dict[str, Any]:
    """Return the parameters of a view with this review state added, or removed if it was there."""
    return parameters(replace(view, reviews=view.reviews ^ {review}))
