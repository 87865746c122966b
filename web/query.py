"""What a request asks to see of the worklist, and the addresses that ask for it."""

from dataclasses import replace
from typing import Annotated, Any

from flask import abort, request
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from pipeline.records import State
from pipeline.worklist.views import STATES, Cursor, Order, View

_Cursor = Annotated[Cursor, BeforeValidator(Cursor.parse)]
LONGEST_SEARCH = 200  # characters


class Query(BaseModel):
    """The parameters of an address: the view, and the place in it."""

    state: list[State] = []
    search: str = Field("", max_length=LONGEST_SEARCH)
    order: Order = "newest"
    after: _Cursor | None = None
    before: _Cursor | None = None
    limit: int = Field(50, ge=1, le=500)

    @property
    def view(self) -> View:
        """The view alone."""
        return View(frozenset(self.state), self.search.strip(), self.order)

    @property
    def here(self) -> dict[str, Any]:
        """The parameters that ask for the same view, at the same place in it."""
        places = {"after": self.after, "before": self.before}
        return {**parameters(self.view), **{name: place for name, place in places.items() if place}}


def asked() -> Query:
    """The query of this request; a wrong one is answered with 400 and the parameter's name."""
    values: dict[str, Any] = dict(request.args)
    values["state"] = request.args.getlist("state")
    try:
        return Query.model_validate(values)
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        abort(400, f"The address has a wrong `{name}`. Go back to the worklist.")


def parameters(view: View) -> dict[str, Any]:
    """The parameters that ask for a view; none for the usual one."""
    states = [state for state in STATES if state in view.states]
    return {
        **({"state": states} if states else {}),
        **({"search": view.search} if view.search else {}),
        **({"order": view.order} if view.order != "newest" else {}),
    }


def toggled(view: View, state: State) -> dict[str, Any]:
    """The parameters that ask for a view with this state too, or without it."""
    return parameters(replace(view, states=view.states ^ {state}))
