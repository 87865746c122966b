"""The parameters by which a request chooses a view of the worklist."""

from dataclasses import replace
from typing import Annotated, Any

from flask import abort, request
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from pipeline.records import RowState
from pipeline.worklist.views import STATES, Cursor, SortOrder, View

_Cursor = Annotated[Cursor, BeforeValidator(Cursor.parse)]
LONGEST_SEARCH = 200  # characters


class Query(BaseModel):
    """Hold the parameters of an address: the view and the place in it."""

    state: list[RowState] = []
    search: str = Field("", max_length=LONGEST_SEARCH)
    order: SortOrder = "newest"
    after: _Cursor | None = None
    before: _Cursor | None = None
    limit: int = Field(50, ge=1, le=500)

    @property
    def view(self) -> View:
        """Return the view without the place in it."""
        return View(frozenset(self.state), self.search.strip(), self.order)

    @property
    def here(self) -> dict[str, Any]:
        """Return the parameters of the same view at the same place."""
        places = {"after": self.after, "before": self.before}
        return {**parameters(self.view), **{name: place for name, place in places.items() if place}}


def asked() -> Query:
    """Parse the parameters of this request; answer 400 with the name of a wrong one."""
    values: dict[str, Any] = dict(request.args)
    values["state"] = request.args.getlist("state")
    try:
        return Query.model_validate(values)
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        abort(400, f"The address has a wrong `{name}`. Go back to the worklist.")


def parameters(view: View) -> dict[str, Any]:
    """Return the parameters of a view; none for the default view."""
    states = [state for state in STATES if state in view.states]
    return {
        **({"state": states} if states else {}),
        **({"search": view.search} if view.search else {}),
        **({"order": view.order} if view.order != "newest" else {}),
    }


def toggled(view: View, state: RowState) -> dict[str, Any]:
    """Return the parameters of a view with this state added, or removed if it was there."""
    return parameters(replace(view, states=view.states ^ {state}))
