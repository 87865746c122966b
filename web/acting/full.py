"""The full picture of one X-ray, on demand: its own size, 8 bits, by the decoder that judges; never the file.

The decoder runs in a process with a deadline and a limit of memory. Few of them run at once.
"""

import threading
from collections.abc import Callable

from flask import Blueprint, Response, abort, request
from flask.typing import ResponseReturnValue

from pipeline.errors import EngineFailed, HostError, InputRejected, ObjectTooLarge, ObjectUnreadable
from pipeline.judge import read_verdict
from pipeline.names import INBOX
from pipeline.ports import Store
from pipeline.worklist.sqlite import SqliteIndex
from web.audit import note

FullPicture = Callable[[bytes], bytes | None]  # from a file to a JPEG; None where it may name the patient

_AT_ONCE = 2  # pictures
_PATIENCE_SECONDS = 5.0  # until one of them is done
_KEPT_SECONDS = 3600  # in the reader's browser
_NONE = "There is no full picture of this X-ray: it has no preview."


def full_blueprint(store: Store, index: SqliteIndex, max_bytes: int, make: FullPicture) -> Blueprint:
    """Return the route of full pictures, which `make` makes."""
    full = Blueprint("full", __name__)
    places = threading.BoundedSemaphore(_AT_ONCE)

    @full.get("/full/<name:name>")
    def picture(name: str) -> ResponseReturnValue:
        """Answer with the picture of the file with the ETag `v`, if the verdict of that has a preview."""
        row = index.get(INBOX + name)
        if row is None:
            abort(404, "No X-ray with this name is in the worklist.")
        verdict = read_verdict(store, row.verdict_key).verdict if row.verdict_key else None
        if verdict is None or verdict.finding is None or verdict.preview_key is None:
            abort(404, _NONE)
        etag = verdict.source.etag
        if request.args.get("v") != etag:
            abort(409, "The X-ray was replaced. Reload its page.")
        answer = Response(mimetype="image/jpeg")
        answer.set_etag(f"full-{etag}")
        answer.cache_control.private, answer.cache_control.max_age = True, _KEPT_SECONDS
        if request.if_none_match.contains_weak(f"full-{etag}"):
            return answer.make_conditional(request)
        if not places.acquire(timeout=_PATIENCE_SECONDS):
            abort(503, "Other full pictures are being made. Try again in a moment.")
        try:
            answer.data = _made(store, row.key, etag, max_bytes, make)
        finally:
            places.release()
        note("full", row.key)
        return answer

    return full


def _made(store: Store, key: str, etag: str, max_bytes: int, make: FullPicture) -> bytes:
    try:
        found = store.get(key, max_bytes)
    except (ObjectTooLarge, ObjectUnreadable):
        found = None
    if found is None:
        abort(404, "The file is no longer in the inbox, or can no longer be read.")
    info, data = found
    if info.etag != etag:
        abort(409, "The X-ray was replaced. Reload its page.")
    try:
        picture = make(data)
    except InputRejected:
        abort(409, "There is no full picture: at its full size this X-ray is refused.")
    except EngineFailed as error:
        abort(409, f"There is no full picture. {error}")
    except HostError:
        abort(503, "The decoder cannot be started. Try again in a moment.")
    if picture is None:
        abort(404, _NONE)
    return picture
