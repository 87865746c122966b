"""Writing to the inbox: uploads through the page or straight to the bucket, and failed X-rays once more."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath

from flask import Blueprint, jsonify, redirect, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError
from werkzeug.datastructures import FileStorage

from pipeline.errors import ConditionFailed, CxrError, KeyNotUsable, ObjectTooLarge, ObjectUnreadable
from pipeline.names import INBOX, is_unfinished, name_problem
from pipeline.ports import Store, Tickets
from pipeline.records import Ticket
from pipeline.worklist.sqlite import SqliteIndex
from web.audit import note
from web.errors import error_answer, wants_json
from web.schemas import InboxKey, TicketRequest
from web.security import own_page

_NOT_UPLOADED = "Not uploaded"
_SAME_NAMES = 100  # files of one name that get a number; further ones are refused


class UploadRefused(CxrError):
    """The file is not written to the inbox; the message tells the person why, `code` is HTTP's."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


def upload_blueprint(store: Store, index: SqliteIndex, max_bytes: int, tickets: Tickets | None) -> Blueprint:
    """Return the routes that write to the store's inbox; `max_bytes` limits one file.

    With `tickets`, a script can ask for a ticket and send the file to the bucket instead.
    """
    upload = Blueprint("upload", __name__)

    @upload.post("/upload")
    def receive() -> ResponseReturnValue:
        """Store the form's files. A script sends one at a time and gets its key, or why it was refused."""
        files = [file for file in request.files.getlist("files") if file.filename]
        if not files:
            return error_answer(400, "Choose at least one file.", _NOT_UPLOADED)
        if wants_json() and len(files) > 1:
            return error_answer(400, "Send one file with each request.")
        stored, refused, existed = _store_all(store, files, max_bytes)
        if refused:
            return _refusal(len(stored), refused)
        told = InboxKey(key=stored[0], existed=existed > 0)
        return (
            jsonify(told.model_dump(exclude_defaults=True))
            if wants_json()
            else redirect(url_for("pages.worklist"), 303)
        )

    @upload.post("/resubmit")
    def resubmit() -> ResponseReturnValue:
        """Have the X-ray `key` judged again, and return to the page with the button."""
        key = request.values.get("key", "")
        try:
            resubmit_xray(store, index, key, max_bytes)
            note("resubmit", key)
        except UploadRefused as error:
            return error_answer(error.code, str(error), "Not judged again")
        return (jsonify(key=key), 202) if wants_json() else redirect(own_page(), 303)

    if tickets:

        @upload.post("/upload/ticket")
        def ticket() -> ResponseReturnValue:
            """Answer with where to send a file of this name and size, or 409: send it to `/upload`."""
            try:
                asked = request.get_json(silent=True)
            except RecursionError:
                asked = None
            try:
                key, given = _ticket(store, tickets, asked, max_bytes)
            except UploadRefused as error:
                return error_answer(error.code, str(error), _NOT_UPLOADED)
            note("upload", key)
            return jsonify(key=key, url=given.url, fields=given.fields)

    return upload


def upload_key(filename: str) -> str:
    """Return the key of an uploaded file with its folders; raise UploadRefused if the name cannot be used."""
    name = filename.replace("\\", "/")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise UploadRefused("The file's path cannot be used. Upload the file from its own folder.")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise UploadRefused("The file's name contains a control character. Rename it first.")
    if is_unfinished(INBOX + name):
        raise UploadRefused(
            "Hidden and unfinished files (.name, name.tmp, name.part) are not accepted. Rename it first."
        )
    return INBOX + name


def _store_all(
    store: Store, files: list[FileStorage], max_bytes: int
) -> tuple[list[str], list[UploadRefused], int]:
    """Write the files to the inbox; return the keys of those stored, the refusals of the others, and how many
    were there already.
    """
    stored, refused, existed = [], [], 0
    for file in files:
        try:
            key = upload_key(file.filename or "")
            data = file.stream.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise _too_large(max_bytes)
            key, is_new = _place(store, key, data)
            stored.append(key)
            existed += not is_new
            note("upload", stored[-1])
        except UploadRefused as error:
            refused.append(
                UploadRefused(f"{file.filename}: {error}" if len(files) > 1 else str(error), error.code)
            )
    return stored, refused, existed


def _place(store: Store, key: str, data: bytes) -> tuple[str, bool]:
    """Write a new inbox object; return its key, and whether it is new: an equal one of this name is kept.

    Another object with this name is never replaced: the new one gets a number. Raises UploadRefused, and
    StoreError if the store cannot be reached.
    """
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    for candidate in _candidates(key):
        _check_name(candidate)
        try:
            store.put(candidate, data, None)
            return candidate, True
        except KeyNotUsable as error:
            raise UploadRefused("A file with this name cannot be stored. Rename it and try again.") from error
        except ConditionFailed:
            there = store.head(candidate)
            if there and there.etag == etag:
                _write_again(store, candidate, data, etag)
                return candidate, False
    raise UploadRefused("Too many other files have this name. Rename it and upload it again.", 409)


def _ticket(store: Store, tickets: Tickets, asked: object, max_bytes: int) -> tuple[str, Ticket]:
    """Return the key of a new file, `{"name": ..., "size": ...}`, and permission to write it.

    Raises UploadRefused. A name that is taken is left to `_place`, which sees the bytes and can tell an equal
    file from another. The bucket does not check: if two browsers send a new name at the same moment, the
    later one wins, and the bucket's versions keep the other.
    """
    try:
        file = TicketRequest.model_validate(asked)
    except ValidationError as error:
        sentence = "Ask for a ticket with the name and the size of one file, of at least 1 byte."
        raise UploadRefused(sentence) from error
    key = upload_key(file.name)
    if file.size > max_bytes:
        raise _too_large(max_bytes)
    _check_name(key)
    # S3 would replace `${filename}` in a key.
    if "$" in key or store.head(key):
        raise UploadRefused("This file has to go through the page: send it to /upload.", 409)
    return key, tickets.presign_post(key, max_bytes)


def resubmit_xray(store: Store, index: SqliteIndex, key: str, max_bytes: int) -> None:
    """Write the bytes of a failed X-ray again; raise UploadRefused if it cannot be judged again.

    The event that follows is only a hint; it leads to a new verdict because a `failed` one is never current.
    """
    row = index.get(key) if key.startswith(INBOX) else None
    if row is None:
        raise UploadRefused("No X-ray with this name is in the worklist.", 404)
    if row.waiting_since:
        raise UploadRefused("It is already being judged: its verdict will appear on its page.", 409)
    if row.status != "failed":
        raise UploadRefused("This X-ray did not fail: only failed X-rays can be judged again.", 409)
    try:
        found = store.get(key, max_bytes)
    except (ObjectTooLarge, ObjectUnreadable) as error:
        raise UploadRefused("The file can no longer be read. Upload it again.", 409) from error
    if found is None:
        raise UploadRefused("The file is no longer in the inbox. Upload it again.", 409)
    info, data = found
    _write_again(store, key, data, info.etag)


def _write_again(store: Store, key: str, data: bytes, etag: str) -> None:
    """Write the same bytes again: the event that follows has a failed X-ray judged again."""
    with suppress(ConditionFailed):
        store.put(key, data, etag)


def _check_name(key: str) -> None:
    if problem := name_problem(key):
        raise UploadRefused(f"{problem} Rename the file and upload it again.")


def _too_large(max_bytes: int) -> UploadRefused:
    message = f"The file is larger than {max_bytes / 1e6:.0f} MB. Export it as a JPEG or PNG."
    return UploadRefused(message, 413)


def _candidates(key: str) -> Iterator[str]:
    path = PurePosixPath(key)
    yield key
    for number in range(2, _SAME_NAMES + 1):
        yield f"{path.parent}/{path.stem} ({number}){path.suffix}"


def _refusal(stored: int, refused: list[UploadRefused]) -> ResponseReturnValue:
    """Answer a single refusal with its sentence; several, or one among others, with a list."""
    code, total = refused[0].code, stored + len(refused)
    if total == 1:
        return error_answer(code, str(refused[0]), _NOT_UPLOADED)
    rest = "; the others are in the inbox" if stored else ""
    sentence = f"{len(refused)} of {total} files were not uploaded{rest}."
    return error_answer(code, sentence, _NOT_UPLOADED, tuple(str(error) for error in refused))
