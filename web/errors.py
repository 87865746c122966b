"""Answers to requests that failed: a sentence that says what to do, as a page or as JSON."""

from flask import Flask, jsonify, make_response, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import HTTPException

from pipeline.errors import IndexNotReady, StoreError

_WORDS = {
    400: ("Not understood", "The request was not understood. Go back to the worklist and try again."),
    401: ("Log in", "This page needs your name and password. Reload it to log in."),
    403: ("Not allowed", "You are not allowed to do this."),
    404: ("Page not found", "There is no page at this address. Go back to the worklist."),
    405: ("Not understood", "This address does not accept such requests. Go back to the worklist."),
    413: ("Too large", "These files are too large for one upload. Send fewer at a time."),
    429: ("Too many attempts", "There were too many wrong passwords. Wait a few minutes, then try again."),
    503: (
        "Storage not available",
        "The inbox and outbox cannot be reached right now. Try again in a moment.",
    ),
}
FHIR_JSON = "application/fhir+json"
_ISSUES = {  # the codes of FHIR: hl7.org/fhir/R4/valueset-issue-type.html
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    429: "throttled",
    503: "transient",
}
_FAILED = (
    "Something went wrong",
    "This is an error in the program, not in what you did. Try again; the log has the details.",
)
_REBUILT = (
    "The worklist is being rebuilt, or another program has locked it. X-rays are still judged, and their "
    "verdicts are safe in the outbox. Try again in a moment."
)


def explain(app: Flask) -> None:
    """Make the app answer every error with a page, or with JSON where a script asks for it."""
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(StoreError, _store_error)
    app.register_error_handler(IndexNotReady, _index_error)


def wants_json() -> bool:
    """Return whether the client is a program, or prefers JSON to a page."""
    if request.path.startswith(("/api/", "/dicom-web")):
        return True
    return request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"


def accepted_of(*types: str) -> str | None:
    """Return which type the client prefers, whatever the parameters; the first if it says nothing."""
    asked = request.accept_mimetypes
    plain = MIMEAccept([(kind.partition(";")[0].strip(), quality) for kind, quality in asked])
    return plain.best_match(types) if asked else types[0]


def error_answer(
    code: int, sentence: str | None = None, title: str | None = None, details: tuple[str, ...] = ()
) -> ResponseReturnValue:
    """Build the answer to a failed request, with the usual title and sentence unless others are given.

    A client of FHIR gets an OperationOutcome.
    """
    usual_title, usual_sentence = _WORDS.get(code, _FAILED)
    sentence = sentence or usual_sentence
    if request.path.startswith("/fhir/"):
        issue = {"severity": "error", "code": _ISSUES.get(code, "exception"), "diagnostics": sentence}
        answer = make_response({"resourceType": "OperationOutcome", "issue": [issue]}, code)
        answer.content_type = FHIR_JSON
        return answer
    if wants_json():
        return jsonify(error=sentence), code
    page = render_template("error.html", title=title or usual_title, sentence=sentence, details=details)
    return make_response(page, code)


def _http_error(error: HTTPException) -> ResponseReturnValue:
    ours = error.description if error.description != type(error).description else None
    answer = make_response(error_answer(error.code or 500, ours))
    answer.headers.extend([header for header in error.get_headers() if header[0] != "Content-Type"])
    return answer


def _index_error(error: IndexNotReady) -> ResponseReturnValue:
    return error_answer(503, _REBUILT, "Worklist not ready")


def _store_error(error: StoreError) -> ResponseReturnValue:
    return error_answer(503)
