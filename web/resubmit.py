"""A failed X-ray is judged again: its bytes are written anew, and the event that follows does the rest."""

from flask import Blueprint, jsonify, redirect, request, url_for
from flask.typing import ResponseReturnValue

from pipeline.errors import ObjectTooLarge, ObjectUnreadable
from pipeline.names import INBOX
from pipeline.ports import Store
from pipeline.worklist.sqlite import SqliteIndex
from web.audit import note
from web.errors import error_answer, wants_json
from web.security import host_of
from web.upload import UploadRefused, touch


def blueprint(store: Store, index: SqliteIndex, max_bytes: int) -> Blueprint:
    """Takes failed rows of this worklist; `max_bytes` is the limit of one file."""
    again = Blueprint("resubmit", __name__)

    @again.post("/resubmit")
    def receive() -> ResponseReturnValue:
        """Have the X-ray `key` judged again, and go back to where the button was."""
        key = request.values.get("key", "")
        try:
            resubmit(store, index, key, max_bytes)
            note("resubmit", key)
        except UploadRefused as error:
            return error_answer(error.code, str(error), "Not judged again")
        return (jsonify(key=key), 202) if wants_json() else redirect(_back(), 303)

    return again


def resubmit(store: Store, index: SqliteIndex, key: str, max_bytes: int) -> None:
    """Write a failed X-ray's bytes again; UploadRefused when there is none to be judged.

    The event that follows is but a hint; it is followed because a `failed` verdict is never current.
    """
    row = index.get(key) if key.startswith(INBOX) else None
    if row is None:
        raise UploadRefused("No X-ray of this name is in the worklist.", 404)
    if row.waiting_since:
        raise UploadRefused("It is being judged already: its verdict appears on its page.", 409)
    if row.status != "failed":
        raise UploadRefused("This X-ray did not fail: only those that did are judged again.", 409)
    try:
        found = store.get(key, max_bytes)
    except (ObjectTooLarge, ObjectUnreadable) as error:
        raise UploadRefused("The file cannot be read any more. Upload it again.", 409) from error
    if found is None:
        raise UploadRefused("The file is not in the inbox any more. Upload it again.", 409)
    info, data = found
    touch(store, key, data, info.etag)


def _back() -> str:
    """The page of ours that the form was on."""
    own = request.referrer is not None and host_of(request.referrer) == request.host
    return str(request.referrer) if own else url_for("pages.worklist")
