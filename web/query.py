"""The parameters by which a request chooses a view of the worklist."""

from dataclasses import replace
from typing import Annotated, Any

from flask import abort, request
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from pipeline.records import ReviewState, RowState
from pipeline.worklist.views import REVIEW_STATES, STATES, Cursor, SortOrder, View

_Cursor = Annotated[Cursor, BeforeValidator(Cursor.parse)]
LONGEST_SEARCH = 200  # characters
_LABELS = ("pneumonia", "uncertain", "normal")


class Query(BaseModel):
    """Hold the parameters of an address: the view and the place in it."""

    state: list[RowState] = []
    review: list[ReviewState] = []
    search: str = Field("", max_length=LONGEST_SEARCH)
    order: SortOrder = "newest"
    after: _Cursor | None = None
    before: _Cursor | None = None
    limit: int = Field(50, ge=1, le=500)

    @property
    def view(self) -> View:
        """Return the view without the place in it."""
        return View(frozenset(self.state), self.search.strip(), self.order, frozenset(self.review))

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
        **({"order": view.order} if view.order != "newest" else {}),
    }


def toggled(view: View, state: RowState) -> dict[str, Any]:
    """Return the parameters of a view with this state added, or removed if it was there."""
    return parameters(replace(view, states=view.states ^ {state}))


def read_toggled(view: View, review: ReviewState) -> dict[str, Any]:
    """Return the parameters of a view with this review state added, or removed if it was there."""
    return parameters(replace(view, reviews=view.reviews ^ {review}))
