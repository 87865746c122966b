"""Files that come through the page into the inbox."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath

from flask import Blueprint, jsonify, redirect, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, Field, ValidationError
from werkzeug.datastructures import FileStorage

from pipeline.errors import ConditionFailed, CxrError, KeyNotUsable
from pipeline.names import INBOX, is_unfinished, name_problem
from pipeline.ports import Store, Tickets
from pipeline.records import Ticket
from web.audit import note
from web.errors import error_answer, wants_json

_NOT_TAKEN = "Not taken"
_SAME_NAMES = 100  # other files of one name, before it is given up


class UploadRefused(CxrError):
    """This file does not come into the inbox; the message tells the person why. `code` is HTTP's."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


class Asked(BaseModel, strict=True):
    """The file that a ticket is asked for."""

    name: str
    size: int = Field(ge=1, description="in bytes")


def blueprint(store: Store, max_bytes: int, tickets: Tickets | None) -> Blueprint:
    """The upload into this store's inbox; `max_bytes` is the limit of one file.

    With `tickets`, a script may ask for one, and send the file there instead of here.
    """
    upload = Blueprint("upload", __name__)

    @upload.post("/upload")
    def receive() -> ResponseReturnValue:
        """Take the form's files. A script sends one at a time, and gets its key or the reason against it."""
        files = [file for file in request.files.getlist("files") if file.filename]
        if not files:
            return error_answer(400, "Choose at least one file.", _NOT_TAKEN)
        if wants_json() and len(files) > 1:
            return error_answer(400, "Send one file with each request.")
        taken, refused = take_all(store, files, max_bytes)
        if refused:
            return _refusal(len(taken), refused)
        return jsonify(key=taken[0]) if wants_json() else redirect(url_for("pages.worklist"), 303)

    if tickets:

        @upload.post("/upload/ticket")
        def ticket() -> ResponseReturnValue:
            """Where the file of this name and size may be sent instead. 409: nowhere but to `/upload`."""
            try:
                asked = request.get_json(silent=True)
            except RecursionError:
                asked = None
            try:
                key, given = issue(store, tickets, asked, max_bytes)
            except UploadRefused as error:
                return error_answer(error.code, str(error), _NOT_TAKEN)
            note("upload", key)
            return jsonify(key=key, url=given.url, fields=given.fields)

    return upload


def take_all(store: Store, files: list[FileStorage], max_bytes: int) -> tuple[list[str], list[UploadRefused]]:
    """Put the files into the inbox: the keys of those that are there now, the refusals of the others."""
    taken, refused = [], []
    for file in files:
        try:
            key = inbox_key(file.filename or "")
            data = file.stream.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise _too_large(max_bytes)
            taken.append(place(store, key, data))
            note("upload", taken[-1])
        except UploadRefused as error:
            refused.append(
                UploadRefused(f"{file.filename}: {error}" if len(files) > 1 else str(error), error.code)
            )
    return taken, refused


def inbox_key(filename: str) -> str:
    """Return the key of an uploaded file, with the browser's folders; UploadRefused when it is not usable."""
    name = filename.replace("\\", "/")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise UploadRefused("The file's path is not usable. Upload the file from its own folder.")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise UploadRefused("The file's name holds a control character. Rename it first.")
    if is_unfinished(INBOX + name):
        raise UploadRefused(
            "Hidden and unfinished files (.name, name.tmp, name.part) are not taken. Rename it."
        )
    return INBOX + name


def issue(store: Store, tickets: Tickets, asked: object, max_bytes: int) -> tuple[str, Ticket]:
    """The key of a new file, `{"name": ..., "size": ...}`, and leave to write it. Raises UploadRefused.

    A name that is taken is left to `place`: who sees the bytes can tell the same file from another. The
    bucket asks nothing: of two browsers that bring a new name in the same moment the later wins, and the
    bucket's versions keep the other.
    """
    try:
        file = Asked.model_validate(asked)
    except ValidationError as error:
        sentence = "A ticket is asked for with the name and the size of one file, of 1 byte or more."
        raise UploadRefused(sentence) from error
    key = inbox_key(file.name)
    if file.size > max_bytes:
        raise _too_large(max_bytes)
    if problem := name_problem(key):
        raise UploadRefused(f"{problem} Rename the file and upload it again.")
    # A dollar sign means something to S3: `${filename}`.
    if "$" in key or store.head(key):
        raise UploadRefused("This file has to go through the page: send it to /upload.", 409)
    return key, tickets.presign_post(key, max_bytes)


def place(store: Store, key: str, data: bytes) -> str:
    """Write a new inbox object and return its key: that of an equal object, if one of this name is there.

    Another object of this name is never replaced: the new one gets a number. Raises UploadRefused, and
    StoreError when the store does not answer.
    """
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    for candidate in _candidates(key):
        if problem := name_problem(candidate):
            raise UploadRefused(f"{problem} Rename the file and upload it again.")
        try:
            store.put(candidate, data, None)
            return candidate
        except KeyNotUsable as error:
            raise UploadRefused(
                "The store cannot hold a file of this name. Rename it and try again."
            ) from error
        except ConditionFailed:
            there = store.head(candidate)
            if there and there.etag == etag:
                touch(store, candidate, data, etag)
                return candidate
    raise UploadRefused("There are too many other files of this name. Rename it and upload it again.", 409)


def touch(store: Store, key: str, data: bytes, etag: str) -> None:
    """Write the same bytes again: the event that follows has a failed one tried again."""
    with suppress(ConditionFailed):
        store.put(key, data, etag)


def _too_large(max_bytes: int) -> UploadRefused:
    message = f"The file is larger than {max_bytes / 1e6:.0f} MB. Export it as a JPEG or PNG."
    return UploadRefused(message, 413)


def _candidates(key: str) -> Iterator[str]:
    path = PurePosixPath(key)
    yield key
    for number in range(2, _SAME_NAMES + 1):
        yield f"{path.parent}/{path.stem} ({number}){path.suffix}"


def _refusal(taken: int, refused: list[UploadRefused]) -> ResponseReturnValue:
    """One refusal as a sentence; several, or one among others, as a list under one."""
    code, total = refused[0].code, taken + len(refused)
    if total == 1:
        return error_answer(code, str(refused[0]), _NOT_TAKEN)
    rest = "; the others are in the inbox" if taken else ""
    sentence = f"{len(refused)} of {total} files were not taken{rest}."
    return error_answer(code, sentence, _NOT_TAKEN, tuple(str(error) for error in refused))
