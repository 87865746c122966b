"""Report verdicts to programs of a hospital by FHIR (R4): DiagnosticReports to read and to search."""

import re
from typing import Annotated, Any

from flask import Blueprint, Response, abort, jsonify, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.judge import SeenVerdict, read_verdict
from pipeline.names import INBOX, report_id
from pipeline.ports import Store
from pipeline.records import Row
from pipeline.verdict import VERSION
from pipeline.worklist.sqlite import SqliteIndex
from pipeline.worklist.views import Cursor, View, Worklist
from web.audit import note
from web.errors import FHIR_JSON, accepted_of
from web.pacs.resources import IDENTIFIERS, Resource, report_of
from web.wording import is_addressable, name_of

_DATE = "2026-11-26"  # of the statement of what can be done here
_TYPES = (FHIR_JSON, "application/json", "text/html")  # a browser gets JSON, too
_FORMATS = ("json", "application/json", FHIR_JSON)
_ID = re.compile(r"[0-9a-f]{32}")
MOST_REPORTS = 100  # of a page, whatever is asked; each is one object of the store


class ReportSearch(BaseModel):
    """The parameters of a search; others are refused, because to ignore one could give too much."""

    model_config = ConfigDict(extra="forbid")

    identifier: str | None = None
    count: int = Field(20, ge=0, alias="_count")
    after: Annotated[Cursor, BeforeValidator(Cursor.parse)] | None = None
    format: str | None = Field(None, alias="_format")


def fhir_blueprint(store: Store, index: SqliteIndex) -> Blueprint:
    """Return the routes of FHIR over a store and its worklist."""
    fhir = Blueprint("fhir", __name__, url_prefix="/fhir")
    listed = Worklist(index)

    def made(row: Row) -> Resource:
        seen = read_verdict(store, row.verdict_key) if row.verdict_key else SeenVerdict()
        name = name_of(row)
        return report_of(row, seen, _address("pages.xray", name=name) if is_addressable(name) else None)

    @fhir.get("/DiagnosticReport/<report>")
    def read(report: str) -> ResponseReturnValue:
        """Answer with the report of one X-ray."""
        row = index.find(report) if _ID.fullmatch(report) else None
        if row is None:
            abort(404, "There is no report of this id.")
        note("view", row.key)
        answer = _answered(made(row))
        answer.add_etag(weak=True)
        return answer.make_conditional(request)

    @fhir.get("/DiagnosticReport")
    def search() -> ResponseReturnValue:
        """Answer with the reports of the worklist, the newest first, or with that of one name."""
        asked = _asked()
        count = min(asked.count, MOST_REPORTS)
        links = [("self", request.full_path.rstrip("?"))]
        if asked.identifier is not None:
            row = index.get(INBOX + _value(asked.identifier))
            total = int(row is not None)
            rows = [row] if row and count else []
        else:
            page = listed.page(View(), count, asked.after) if count else None
            rows, total = list(page.rows) if page else [], sum(listed.counts().values())
            if page and page.older:
                following = url_for("fhir.search", _count=count, after=str(page.older))
                links.append(("next", following))
        note("list", count=len(rows))
        bundle: Resource = {
            "resourceType": "Bundle",
            "type": "searchset",
            "total": total,
            "link": [{"relation": relation, "url": _base() + path} for relation, path in links],
        }
        entries = [
            {
                "fullUrl": _address("fhir.read", report=report_id(row.key)),
                "resource": made(row),
                "search": {"mode": "match"},
            }
            for row in rows
        ]
        return _answered({**bundle, "entry": entries} if entries else bundle)

    @fhir.get("/metadata")
    def metadata() -> ResponseReturnValue:
        """Answer with what can be done here."""
        return _answered(_statement())

    @fhir.get("/")
    @fhir.get("/<path:rest>")
    def nothing(rest: str = "") -> ResponseReturnValue:
        abort(404, "Only /fhir/DiagnosticReport and /fhir/metadata are offered here.")

    fhir.before_request(_check_type)
    return fhir


def _check_type() -> None:
    """Answer 406 to a client that wants anything but JSON."""
    asked = request.args.get("_format")
    if asked is not None:  # browsers and curl leave the + as it is
        is_fine = asked.partition(";")[0].strip().lower().replace(" ", "+") in _FORMATS
    else:
        is_fine = accepted_of(*_TYPES) is not None
    if not is_fine:
        abort(406, f"The answer is {FHIR_JSON}: ask for that.")


def _asked() -> ReportSearch:
    if any(len(values) > 1 for _, values in request.args.lists()):
        abort(400, "Give each parameter once.")
    try:
        return ReportSearch.model_validate(dict(request.args))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            abort(400, "Search by identifier, _count and after only: nothing here knows the patient.")
        abort(400, f"The parameter `{first['loc'][0]}` is wrong.")


def _value(identifier: str) -> str:
    """Return the name in a token `system|name`, `|name` or `name`."""
    return identifier.removeprefix(f"{IDENTIFIERS}|").removeprefix("|")


def _base() -> str:
    """Return the scheme and host by which the client called; a reverse proxy may have another scheme."""
    told = request.headers.get("X-Forwarded-Proto", "")
    return f"{told if told in ('http', 'https') else request.scheme}://{request.host}"


def _address(endpoint: str, **values: Any) -> str:
    return _base() + url_for(endpoint, **values)


def _answered(resource: Resource) -> Response:
    answer = jsonify(resource)
    answer.content_type = FHIR_JSON
    return answer


def _statement() -> Resource:
    resource = {
        "type": "DiagnosticReport",
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "searchParam": [{"name": "identifier", "type": "token"}],
    }
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": _DATE,
        "kind": "instance",
        "software": {"name": "CXR Inbox", "version": VERSION},
        "implementation": {
            "description": "Pneumonia verdicts of chest X-rays. Research software, not a medical device.",
            "url": f"{_base()}/fhir",
        },
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [{"mode": "server", "resource": [resource]}],
    }
