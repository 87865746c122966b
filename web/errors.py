"""What a person or a script reads when a request fails: a sentence that says what to do."""

from flask import Flask, jsonify, make_response, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from pipeline.errors import IndexNotReady, StoreError

_WORDS = {
    400: ("Not understood", "This page makes no such request. Go back to the worklist and try again."),
    401: ("Log in", "This page asks for your name and password. Load it again to log in."),
    403: ("Refused", "This is not allowed."),
    404: ("Nothing here", "There is no page at this address. Go back to the worklist."),
    405: ("Not understood", "This address does not take such a request. Go back to the worklist."),
    413: ("Too much at once", "These files are too large for one upload. Send fewer at a time."),
    429: ("Not now", "There were too many wrong passwords. Wait some minutes, then try again."),
    503: ("The store does not answer", "The inbox and outbox cannot be reached now. Try again in a moment."),
}
_FAILED = ("Something went wrong", "The page failed, by no fault of yours. Try again; the log says why.")
_REBUILT = (
    "The worklist is being rebuilt, or is locked by another program. X-rays are judged meanwhile, and their "
    "verdicts are safe in the outbox. Try again in a moment."
)


def explain(app: Flask) -> None:
    """Answer every error with a page, or with JSON to a script that asks for it."""
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(StoreError, _store_error)
    app.register_error_handler(IndexNotReady, _index_error)


def wants_json() -> bool:
    """Whether the client is a program, or prefers JSON to a page."""
    if request.path.startswith("/api/"):
        return True
    return request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"


def error_answer(
    code: int, sentence: str | None = None, title: str | None = None, details: tuple[str, ...] = ()
) -> ResponseReturnValue:
    """The answer to a request that failed, in the code's own words where there are no better ones."""
    usual_title, usual_sentence = _WORDS.get(code, _FAILED)
    sentence = sentence or usual_sentence
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
    return error_answer(503, _REBUILT, "The worklist is not ready")


def _store_error(error: StoreError) -> ResponseReturnValue:
    return error_answer(503)
