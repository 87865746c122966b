"""The description of the interface for programs, OpenAPI 3.1: spec.openapis.org/oas/v3.1.1.html"""

from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from pipeline.verdict import VERSION
from web.api import Figures, Items, Problem, Whole
from web.views import Query

_OUT: Literal["serialization"] = "serialization"
_SCHEMAS = "#/components/schemas/{model}"
_CURSOR = r"^[0-9]\.([0-9]{20})?\.[0-9]{1,18}$"
_SAID = {
    "state": "Only rows of these states.",
    "search": "Only rows whose name holds all of these words, without regard to case.",
    "order": "`triage`: pneumonia, then failed, rejected, uncertain and unfinished, then normal.",
    "after": "The cursor of an earlier answer: what comes behind it.",
    "before": "The cursor of an earlier answer: what comes right before it.",
    "limit": "How many rows, at most.",
}


def document() -> dict[str, Any]:
    """The whole document."""
    _, schemas = models_json_schema(
        [(Figures, _OUT), (Items, _OUT), (Problem, _OUT), (Whole, _OUT)], ref_template=_SCHEMAS
    )
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    name["description"] = "The key without `inbox/`; slashes in it may stand as they are."
    view = _parameters("state", "search", "order")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CXR Inbox",
            "version": VERSION,
            "description": "Pneumonia verdicts of chest X-rays. Research software, not a medical device.",
        },
        "paths": {
            "/api/verdicts": _get(
                "The worklist, a page at a time", _json(Items), _parameters(*_SAID), refused=True
            ),
            "/api/verdicts.csv": _get(
                "The worklist as a table", {"text/csv": {"schema": {"type": "string"}}}, view, refused=True
            ),
            "/api/verdicts/{name}": _get("One X-ray with its verdict", _json(Whole), [name], missing=True),
            "/api/status": _get("How many X-rays there are of each state", _json(Figures)),
            "/healthz": _get("Whether the page serves", {"application/json": {"schema": {"type": "object"}}}),
            "/metrics": _get("Figures for Prometheus", {"text/plain": {"schema": {"type": "string"}}}),
        },
        "components": {"schemas": schemas["$defs"]},
    }


def _get(
    summary: str,
    content: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
    refused: bool = False,
    missing: bool = False,
) -> dict[str, Any]:
    problems = {"400": ("A parameter is wrong", refused), "404": ("There is no such X-ray", missing)}
    answers = {"200": {"description": summary, "content": content}}
    for code, (word, applies) in {**problems, "503": ("The store does not answer", missing)}.items():
        if applies:
            answers[code] = {"description": word, "content": _json(Problem)}
    return {"get": {"summary": summary, "parameters": parameters or [], "responses": answers}}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _SCHEMAS.format(model=model.__name__)}}}


def _parameters(*names: str) -> list[dict[str, Any]]:
    """Parameters of `Query`, as they stand in an address."""
    return [
        {"name": name, "in": "query", "description": _SAID[name], "schema": _schema(name)} for name in names
    ]


def _schema(name: str) -> dict[str, Any]:
    if name in ("after", "before"):
        return {"type": "string", "pattern": _CURSOR}
    field = Query.model_fields[name]
    limits = TypeAdapter(Query).json_schema()["properties"][name]
    limits.pop("title", None)
    return {**limits, "default": field.default}
