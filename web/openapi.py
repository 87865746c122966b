"""The description of the interface for programs, in OpenAPI 3.1: spec.openapis.org/oas/v3.1.1.html"""

from typing import Any, Literal, get_args

from flask import current_app
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from pipeline.reviews.review import Review
from pipeline.statistics.reader import PeriodName
from pipeline.verdict import VERSION
from web.errors import FHIR_JSON
from web.pacs.fhir import MOST_REPORTS
from web.query import Query
from web.schemas import (
    Acted,
    Figures,
    InboxKey,
    ItemWithVerdict,
    Problem,
    ReviewRequest,
    ReviewsOfXray,
    SelectionRequest,
    StatisticsFigures,
    TicketRequest,
    UploadTicket,
    WorklistItems,
)

_OUT: Literal["serialization"] = "serialization"
_MODELS = (
    *(Figures, InboxKey, ItemWithVerdict, Problem, Review, ReviewRequest, ReviewsOfXray, StatisticsFigures),
    *(Acted, SelectionRequest, TicketRequest, UploadTicket, WorklistItems),
)
_SCHEMAS = "#/components/schemas/{model}"
_CURSOR = r"^[0-9]\.([0-9]{20})?\.[0-9]{1,18}$"
_ABOUT = (
    "Pneumonia verdicts of chest X-rays. Research software, not a medical device. "
    "Programs send `Accept: application/json`; without it, errors and the answers to writes are HTML pages."
)
_SAID = {
    "state": "Only rows in these states.",
    "review": "Only rows with a finding about which readers said this; `unread`: nobody did.",
    "search": "Only rows whose name contains all of these words, ignoring case.",
    "from": "Only rows of this UTC date or later, or from this time on (`2026-11-24T08:00Z`).",
    "to": "Only rows of this UTC date or earlier, or before this time.",
    "order": "`triage`: pneumonia first, then failed, rejected, uncertain and unfinished, then normal.",
    "after": "A cursor from an earlier answer: the rows after it. Ignored where `before` is given.",
    "before": "A cursor from an earlier answer: the rows right before it. Takes precedence over `after`.",
    "limit": "The largest number of rows to return.",
}
_PROBLEMS = {
    "400": "The host name, a parameter or the body is wrong",
    "401": "Login required, at the page or its reverse proxy",
    "403": "Not allowed, or sent by another site",
    "404": "There is no such X-ray",
    "409": "Not possible at present: the sentence says what to do",
    "413": "Too large; in plain text where the whole request was too large to be read",
    "429": "Too many wrong passwords",
    "503": "The store does not answer",
}
_ANYWHERE = ("400", "401", "403", "429")  # except at the health check, which is open to all


def document() -> dict[str, Any]:
    """Return the whole document for the current page."""
    models = [(model, _OUT) for model in _MODELS]
    _, schemas = models_json_schema(models, ref_template=_SCHEMAS)
    optional = ("upload.ticket", "results.download", "stow.store", "outgoing.send_again", "acting.forget")
    tickets, results, objects, outgoing, forget = (view in current_app.view_functions for view in optional)
    return {
        "openapi": "3.1.0",
        "info": {"title": "CXR Inbox", "version": VERSION, "description": _ABOUT},
        "paths": {
            **_reads(),
            **_reports(),
            **(_results() if results else {}),
            **_writes(),
            **_acts("again", *(("dicom",) if results else ()), *(("forget",) if forget else ())),
            **(_ticket() if tickets else {}),
            **(_objects() if objects else {}),
            **(_send() if outgoing else {}),
        },
        "security": [{"basic": []}, {}],
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
    }


def _name() -> dict[str, Any]:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {**name, "description": "The key without `inbox/`; slashes in it need no escape."}


def _results() -> dict[str, Any]:
    summary = "A verdict as DICOM files, which name the patient, in a ZIP archive"
    content = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
    made = _operation(summary, content, "404", "409", "503", parameters=[_name()])
    return {"/dicom/{name}": {"get": made}}


def _reads() -> dict[str, Any]:
    view = _parameters("state", "review", "search", "from", "to", "order")
    text = {"schema": {"type": "string"}}
    anything = {"application/json": {"schema": {"type": "object"}}}
    page, whole = _json(WorklistItems), _json(ItemWithVerdict)
    listed = _operation("The worklist, one page at a time", page, parameters=_parameters(*_SAID))
    table = _operation("The worklist as a CSV table", {"text/csv": text}, parameters=view)
    one = _operation("One X-ray with its verdict", whole, "404", "503", parameters=[_name()])
    read = _operation(
        "What readers said about one X-ray", _json(ReviewsOfXray), "404", "503", parameters=[_name()]
    )
    alive = _operation("Whether the page and everything that it needs is running", anything)
    failing = "Something is not running as it should: `problems` says what"
    alive["responses"]["503"] = {"description": failing, "content": anything}
    for code in ("401", "403", "429"):
        del alive["responses"][code]
    return {
        "/api/verdicts": {"get": listed},
        "/api/verdicts.csv": {"get": table},
        "/api/verdicts/{name}": {"get": one},
        "/api/verdicts/{name}/reviews": {"get": read, "post": _review()},
        "/api/status": {"get": _operation("Counts by state; host and queue", _json(Figures))},
        "/api/statistics": {"get": _statistics()},
        "/healthz": {"get": alive},
        "/metrics": {"get": _operation("Figures for Prometheus", {"text/plain": text})},
    }


def _reports() -> dict[str, Any]:
    anything = {FHIR_JSON: {"schema": {"type": "object"}}}
    id_ = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[^/]+$"}}
    count = {"type": "integer", "minimum": 0, "default": 20}
    most = f"How many at most; 0 for the total alone, and never more than {MOST_REPORTS}."
    search = [
        _asked("identifier", "Name of one X-ray.", {"type": "string"}),
        _asked("_count", most, count),
        _asked("after", "A cursor from the link `next`.", {"type": "string", "pattern": _CURSOR}),
    ]
    found = {
        "/fhir/DiagnosticReport/{id}": _operation(
            "The FHIR report of one X-ray", anything, "404", "503", parameters=[id_]
        ),
        "/fhir/DiagnosticReport": _operation("The FHIR reports", anything, "503", parameters=search),
        "/fhir/metadata": _operation("FHIR's capability statement", anything),
    }
    for operation in found.values():
        operation["responses"]["406"] = {"description": "Not to be had in that format"}
        for code in set(operation["responses"]) - {"200"}:
            operation["responses"][code]["content"] = anything  # an OperationOutcome
    return {path: {"get": operation} for path, operation in found.items()}


def _asked(name: str, said: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": said, "schema": schema}


def _objects() -> dict[str, Any]:
    answered = {"application/dicom+json": {"schema": {"type": "object"}}}
    codes = ("409", "413", "503")
    made = _operation("Send DICOM files to the inbox (DICOMweb, STOW-RS)", answered, *codes)
    made["responses"] |= {
        "202": {"description": "Some of the objects were refused", "content": answered},
        "406": {"description": "The answer cannot be had in that format", "content": _json(Problem)},
        "415": {"description": "Not whole DICOM files", "content": {**answered, **_json(Problem)}},
        "500": {"description": "An error of this program", "content": {**answered, **_json(Problem)}},
    }
    for code in codes:
        made["responses"][code]["content"] |= answered
    file = {"schema": {"type": "string", "format": "binary"}}
    operation = made | _body({"multipart/related": file, "application/dicom": file})
    study = {"name": "study", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    study["description"] = "Study Instance UID, to which all objects have to belong."
    return {
        "/dicom-web/studies": {"post": operation},
        "/dicom-web/studies/{study}": {"post": operation | {"parameters": [study]}},
    }


def _review() -> dict[str, Any]:
    summary = "Say something about a verdict; a later word of the same reader replaces it"
    said = _operation(summary, _json(Review), "404", "409", "503", done="201", parameters=[_name()])
    return said | _body(_json(ReviewRequest))


def _statistics() -> dict[str, Any]:
    periods = {"type": "string", "enum": list(get_args(PeriodName)), "default": "30d"}
    said = "The last 30 days, by day, or the last 12 months, by month (UTC)."
    period = {"name": "period", "in": "query", "description": said, "schema": periods}
    summary = "What was judged over time, and drift"
    return _operation(summary, _json(StatisticsFigures), "503", parameters=[period])


def _writes() -> dict[str, Any]:
    file = {"type": "string", "format": "binary", "description": "One file with its name."}
    form = {"type": "object", "properties": {"files": file}, "required": ["files"]}
    key = {"name": "key", "in": "query", "required": True, "schema": {"type": "string"}}
    key["description"] = "The whole key, with `inbox/`."
    upload = _operation("Upload a file to the inbox", _json(InboxKey), "409", "413", "503")
    codes = ("404", "409", "413", "503")
    again = _operation("Judge a failed X-ray again", _json(InboxKey), *codes, done="202", parameters=[key])
    return {
        "/upload": {"post": upload | _body({"multipart/form-data": {"schema": form}})},
        "/resubmit": {"post": again},
    }


def _acts(*names: str) -> dict[str, Any]:
    archive = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
    table = {"text/csv": {"schema": {"type": "string"}}}
    acts = {
        "csv": _operation("Several X-rays as a CSV table", table, "503"),
        "again": _operation("Judge those that failed again", _json(Acted), "503", done="202"),
        "dicom": _operation("The DICOM results of up to 20 X-rays, in a ZIP archive", archive, "409", "503"),
        "forget": _operation("Erase X-rays for good; `count` confirms it", _json(Acted), "503"),
    }
    body = _body(_json(SelectionRequest))
    return {f"/selected/{name}": {"post": acts[name] | body} for name in ("csv", *names)}


def _ticket() -> dict[str, Any]:
    summary = "Permission to send a new file straight to the bucket; after a 409 send it to `/upload`"
    ticket = _operation(summary, _json(UploadTicket), "409", "413", "503")
    return {"/upload/ticket": {"post": ticket | _body(_json(TicketRequest))}}


def _send() -> dict[str, Any]:
    key = {"name": "key", "in": "query", "schema": {"type": "string"}}
    key["description"] = (
        "The whole key of one X-ray, with `inbox/`; without it, all that could not be delivered."
    )
    only = {"name": "destination", "in": "query", "schema": {"type": "string"}}
    only["description"] = "The name of one destination; without it, all of them."
    counted = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
    content = {"application/json": {"schema": counted}}
    return {
        "/send-again": {
            "post": _operation(
                "Send results again", content, "404", "503", done="202", parameters=[key, only]
            )
        }
    }


def _operation(
    summary: str,
    content: dict[str, Any],
    *problems: str,
    done: str = "200",
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Describe one operation and every answer that it may give."""
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
    """Describe parameters of `Query` as they appear in an address."""
    return [
        {"name": name, "in": "query", "description": _SAID[name], "schema": _schema(name)} for name in names
    ]


def _schema(name: str) -> dict[str, Any]:
    if name in ("after", "before"):
        return {"type": "string", "pattern": _CURSOR}
    if name in ("from", "to"):
        return {"type": "string", "anyOf": [{"format": "date"}, {"maxLength": 0}]}
    field = Query.model_fields[name]
    limits = TypeAdapter(Query).json_schema()["properties"][name]
    limits.pop("title", None)
    return {**limits, "default": field.default}
