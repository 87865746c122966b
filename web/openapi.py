"""The description of the interface for programs, OpenAPI 3.1: spec.openapis.org/oas/v3.1.1.html"""

from typing import Any, Literal

from flask import current_app
from pydantic import BaseModel, Field, TypeAdapter
from pydantic.json_schema import models_json_schema

from pipeline.verdict import VERSION
from web.api import Figures, Items, Problem, Whole
from web.query import Query
from web.upload import Asked

_OUT: Literal["serialization"] = "serialization"
_SCHEMAS = "#/components/schemas/{model}"
_CURSOR = r"^[0-9]\.([0-9]{20})?\.[0-9]{1,18}$"
_ABOUT = (
    "Pneumonia verdicts of chest X-rays. Research software, not a medical device. "
    "Programs ask with `Accept: application/json`: errors, and the answers to writes, are pages without it."
)
_SAID = {
    "state": "Only rows of these states.",
    "search": "Only rows whose name holds all of these words, without regard to case.",
    "order": "`triage`: pneumonia, then failed, rejected, uncertain and unfinished, then normal.",
    "after": "The cursor of an earlier answer: what comes behind it. `before` wins over it.",
    "before": "The cursor of an earlier answer: what comes right before it. It wins over `after`.",
    "limit": "How many rows, at most.",
}
_PROBLEMS = {
    "400": "The host's name, a parameter or the body is wrong",
    "401": "The page, or its reverse proxy, has to know who asks",
    "403": "Whoever asks may not, or another site has sent it",
    "404": "There is no such X-ray",
    "409": "Not as things stand: the sentence says what to do",
    "413": "Too large: in plain text, where the whole request was, and was not read",
    "429": "Too many wrong passwords",
    "503": "The store does not answer",
}
_ANYWHERE = ("400", "401", "403", "429")  # but for the life sign, which is open to all


class Key(BaseModel):
    """The X-ray that was taken."""

    key: str = Field(description="with `inbox/`; the name may have got a number")


class Leave(Key):
    """Where the file may be sent: as the last field of a form, `file`, behind these fields."""

    url: str
    fields: dict[str, str]


def document() -> dict[str, Any]:
    """The whole document, for the page that is asked for it."""
    models = [(model, _OUT) for model in (Asked, Figures, Items, Key, Leave, Problem, Whole)]
    _, schemas = models_json_schema(models, ref_template=_SCHEMAS)
    tickets = "upload.ticket" in current_app.view_functions
    return {
        "openapi": "3.1.0",
        "info": {"title": "CXR Inbox", "version": VERSION, "description": _ABOUT},
        "paths": _reads() | _writes() | (_ticket() if tickets else {}),
        "security": [{"basic": []}, {}],
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
    }


def _reads() -> dict[str, Any]:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    name["description"] = "The key without `inbox/`; slashes in it may stand as they are."
    view = _parameters("state", "search", "order")
    text, anything = {"schema": {"type": "string"}}, {"schema": {"type": "object"}}
    listed = _operation("The worklist, a page at a time", _json(Items), parameters=_parameters(*_SAID))
    table = _operation("The worklist as a table", {"text/csv": text}, parameters=view)
    one = _operation("One X-ray with its verdict", _json(Whole), "404", "503", parameters=[name])
    alive = _operation("Whether the page serves, and all that it needs runs", {"application/json": anything})
    failing = "Something does not run as it should: `problems` says what"
    alive["responses"]["503"] = {"description": failing, "content": {"application/json": anything}}
    for code in ("401", "403", "429"):
        del alive["responses"][code]
    return {
        "/api/verdicts": {"get": listed},
        "/api/verdicts.csv": {"get": table},
        "/api/verdicts/{name}": {"get": one},
        "/api/status": {"get": _operation("How many X-rays there are of each state", _json(Figures))},
        "/healthz": {"get": alive},
        "/metrics": {"get": _operation("Figures for Prometheus", {"text/plain": text})},
    }


def _writes() -> dict[str, Any]:
    file = {"type": "string", "format": "binary", "description": "One file, with its name."}
    form = {"type": "object", "properties": {"files": file}, "required": ["files"]}
    key = {"name": "key", "in": "query", "required": True, "schema": {"type": "string"}}
    key["description"] = "The whole key, with `inbox/`."
    upload = _operation("Put a file into the inbox", _json(Key), "409", "413", "503")
    codes = ("404", "409", "413", "503")
    again = _operation("Have a failed X-ray judged again", _json(Key), *codes, done="202", parameters=[key])
    return {
        "/upload": {"post": upload | _body({"multipart/form-data": {"schema": form}})},
        "/resubmit": {"post": again},
    }


def _ticket() -> dict[str, Any]:
    summary = "Leave to send a new file straight to the bucket; 409: send it to `/upload`"
    ticket = _operation(summary, _json(Leave), "409", "413", "503")
    return {"/upload/ticket": {"post": ticket | _body(_json(Asked))}}


def _operation(
    summary: str,
    content: dict[str, Any],
    *problems: str,
    done: str = "200",
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """What may be asked at an address, and all that it may answer."""
    answers: dict[str, Any] = {done: {"description": summary, "content": content}}
    for code in sorted({*_ANYWHERE, *problems}):
        answers[code] = {"description": _PROBLEMS[code], "content": _json(Problem)}
    if "413" in answers:
        answers["413"]["content"]["text/plain"] = {"schema": {"type": "string"}}
    answers["429"]["headers"] = {
        "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
    }
    return {"summary": summary, "parameters": parameters or [], "responses": answers}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


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
