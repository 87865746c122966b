"""Receive X-rays by DICOMweb (STOW-RS, PS3.18 10.5): the inbox's rules are those of the DICOM node."""

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from flask import Blueprint, Response, abort, g, json, request
from flask.typing import ResponseReturnValue

from pipeline.dicom.arrivals import DEFECT, DONE, NO_ROOM, TOO_LARGE, Arrivals, Reply
from pipeline.dicom.pdu import is_uid
from pipeline.errors import InputRejected
from web.audit import note
from web.errors import accepted_of, error_answer
from web.pacs.multipart import BodyPart, MultipartError, split

log = logging.getLogger(__name__)

_DICOM, _JSON = "application/dicom", "application/dicom+json"
_MOST_OBJECTS = 1000  # of a request
_HEAD = 1 << 16  # bytes of an object in which its header has to end
_CHUNK = 1 << 16
_RETRY_SECONDS = 60
_ENCODINGS = ("", "binary", "8bit", "7bit")
_PARAMETER = re.compile(r""";\s*([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))""")
_NOT_DICOM = Reply(0xC000, "the part is not of the type application/dicom")
_ENCODED = Reply(0xC000, "send it as it is: its Content-Transfer-Encoding is not read")
_NO_CLASS = Reply(0x0122, "it is of no class of X-rays that is read here")
_NO_SYNTAX = Reply(0xC122, "its transfer syntax is not read here; send it uncompressed")
_NO_UID = Reply(0xC000, "its SOP Class or Instance UID is not valid")
_TOO_MANY = Reply(0xA700, f"more than {_MOST_OBJECTS} objects: send the rest in another request")
# What to answer when every object failed for the same kind of reason; 409 otherwise.
_ALL = {NO_ROOM: 503, TOO_LARGE: 413, DEFECT: 500, _NOT_DICOM: 415}
_ONLY_STOW = (
    "This page only receives X-rays: send them by POST to /dicom-web/studies (STOW-RS). Look for studies in "
    "your PACS, and for verdicts at /api/verdicts."
)


class _Outcome(NamedTuple):
    reply: Reply
    names: tuple[str, str] | None = None  # class and instance, where they are known
    key: str = ""


def stow_blueprint(arrivals: Arrivals, most_bytes: int) -> Blueprint:
    """Return the routes of DICOMweb; a request has at most `most_bytes` bytes."""
    stow = Blueprint("stow", __name__)

    @stow.post("/dicom-web/studies")
    @stow.post("/dicom-web/studies/<study>")
    def store(study: str | None = None) -> ResponseReturnValue:
        """Take the objects of the request into the inbox, and answer for each."""
        answered = _answer_type()
        if study is not None and not is_uid(study):
            abort(400, "The address does not end with a Study Instance UID.")
        request.max_content_length = most_bytes
        outcomes: list[_Outcome] = []
        try:
            for part in _parts():
                if len(outcomes) == _MOST_OBJECTS:
                    outcomes.append(_Outcome(_TOO_MANY))
                    break
                outcomes.append(_received(arrivals, part, study))
        except MultipartError as error:
            log.warning("%s: a request of DICOMweb was broken: %s", g.address, error)
            if not any(outcome.reply == DONE for outcome in outcomes):
                return error_answer(400, str(error))
            outcomes.append(_Outcome(Reply(0xC000, str(error))))
        if not outcomes:
            return error_answer(400, "There is no object in the request.")
        for outcome in outcomes:
            if outcome.key:
                note("upload", outcome.key)
        return _answer(outcomes, answered)

    @stow.route("/dicom-web/", methods=["GET"])
    @stow.route("/dicom-web/<path:rest>", methods=["GET"])
    def nothing(rest: str = "") -> ResponseReturnValue:
        return error_answer(501, _ONLY_STOW)

    return stow


def _answer_type() -> str:
    """Return the type of the answer; answer 406 where it is none that the client accepts."""
    found = accepted_of(_JSON, "application/json")
    if found is None:
        abort(406, f"The answer is {_JSON}: accept that.")
    return found


def _parts() -> Iterator[BodyPart]:
    """Yield the parts of the request; one without several parts is a part itself."""
    given = request.headers.get("Content-Type", "")
    found = {name.lower(): quoted or plain.strip() for name, quoted, plain in _PARAMETER.findall(given)}
    kind = _plain_type(given)
    if request.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
        abort(415, "Send the request without Content-Encoding.")
    if kind == _DICOM:
        yield {}, iter(lambda: request.stream.read(_CHUNK), b"")
        return
    if kind != "multipart/related" or found.get("type", _DICOM).lower() != _DICOM:
        abort(
            415,
            f'Send whole DICOM files, as multipart/related; type="{_DICOM}": metadata and pixels that are '
            "sent apart, JSON and XML are not read.",
        )
    yield from split(request.stream.read, found.get("boundary", ""))


def _plain_type(given: str) -> str:
    return given.partition(";")[0].strip().lower()


def _received(arrivals: Arrivals, part: BodyPart, study: str | None) -> _Outcome:
    """Take the object of a part into the inbox."""
    headers, content = part
    if _plain_type(headers.get("content-type", _DICOM)) != _DICOM:
        return _refused(_NOT_DICOM)
    if headers.get("content-transfer-encoding", "").lower() not in _ENCODINGS:
        return _refused(_ENCODED)
    start = bytearray()
    for data in content:
        start += data
        if len(start) >= _HEAD:
            break
    try:
        sop_class, instance, syntax, place = arrivals.kinds.announce(bytes(start))
    except InputRejected as error:
        return _refused(Reply(0xC000, str(error)))
    names = sop_class, instance
    if not (is_uid(sop_class) and is_uid(instance)):
        return _refused(_NO_UID)
    if sop_class not in arrivals.kinds.classes:
        return _refused(_NO_CLASS, names, arrivals.shown(instance))
    if syntax not in arrivals.kinds.syntaxes:
        return _refused(_NO_SYNTAX, names, arrivals.shown(instance))
    arrival = arrivals.begin(sop_class, instance, syntax, study)
    try:
        arrival.write(memoryview(start)[place:])
        for data in content:
            arrival.write(memoryview(data))
        return _Outcome(arrival.finish(), names, arrival.key)
    finally:
        arrival.drop()


def _refused(reply: Reply, names: tuple[str, str] | None = None, shown: str = "an object") -> _Outcome:
    log.warning("%s: %s by DICOMweb was refused: %s", g.address, shown, reply.comment)
    return _Outcome(reply, names)


def _answer(outcomes: list[_Outcome], answered: str) -> Response:
    """Return the answer to the whole request (PS3.18, tables 10.5.3-1 and I.2-2)."""
    failed = [outcome for outcome in outcomes if outcome.reply != DONE]
    stored = [outcome for outcome in outcomes if outcome.reply == DONE]
    body = {
        "00081190": {"vr": "UR"},  # nothing can be retrieved here
        **_sequence("00081199", map(_named, stored)),
        **_sequence("00081198", ({**_named(one), **_why(one)} for one in failed if one.names)),
        **_sequence("0008119A", (_why(one) for one in failed if not one.names)),
    }
    code = 202 if stored and failed else 200
    if not stored:
        reasons = {outcome.reply for outcome in failed}
        code = _ALL.get(reasons.pop(), 409) if len(reasons) == 1 else 409
    response = Response(json.dumps(body), code, content_type=answered)
    if code == 503:
        response.headers["Retry-After"] = str(_RETRY_SECONDS)
    return response


def _sequence(tag: str, items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    found = list(items)
    return {tag: {"vr": "SQ", "Value": found}} if found else {}


def _named(outcome: _Outcome) -> dict[str, Any]:
    names = zip(("00081150", "00081155"), outcome.names or (), strict=False)
    return {tag: {"vr": "UI", "Value": [uid]} for tag, uid in names}


def _why(outcome: _Outcome) -> dict[str, Any]:
    """Return the reason of a failure: its code, and a sentence as an Error Comment."""
    code, comment = outcome.reply
    return {
        "00081197": {"vr": "US", "Value": [code]},
        "00000902": {"vr": "LO", "Value": [comment[:64]]},
    }
