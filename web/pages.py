"""The pages: worklist, X-ray, preview, model card, host panel, and the changes that the script asks for."""

import io
import re
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from zipfile import ZipFile, ZipInfo

from flask import Blueprint, Response, abort, jsonify, redirect, render_template, request, send_file, url_for
from flask.typing import ResponseReturnValue
from werkzeug.routing import PathConverter

from pipeline.errors import NoResult
from pipeline.judge import SeenVerdict, read_verdict
from pipeline.names import INBOX, preview_key, preview_prefix
from pipeline.outgoing.lane import Outgoing
from pipeline.ports import Monitor, Results, Store
from pipeline.records import Row
from pipeline.worklist.sqlite import SqliteIndex
from pipeline.worklist.views import Hits, Worklist
from web.audit import note
from web.errors import error_answer, wants_json
from web.query import asked
from web.reviews.blind import hides, is_blind
from web.reviews.routes import shown_reviews
from web.security import own_page
from web.wording import HOST_STATE_NAMES, is_addressable, name_of

_PREVIEW_LIMIT = 8 << 20  # bytes; a usual preview has about 100,000
_ETAG = re.compile(r"[0-9A-Za-z-]{1,128}")
_YEAR = 365 * 24 * 3600


class NameConverter(PathConverter):
    """Match a key without `inbox/`: any text, including slashes and line breaks."""

    regex = r"[\s\S]+?"
    part_isolating = False


def pages_blueprint(
    store: Store,
    index: SqliteIndex,
    max_upload_bytes: int,
    card: Mapping[str, Any] | None,
    problems: Callable[[], list[str]],
    outgoing: Outgoing | None = None,
) -> Blueprint:
    """Return the pages over a store and its worklist; the other parts are those of `create_page`."""
    pages = Blueprint("pages", __name__)
    listed = Worklist(index)

    def row_of(name: str) -> Row:
        row = index.get(INBOX + name)
        if row is None:
            abort(
                404,
                "No X-ray with this name is in the worklist. One just dropped will appear in a moment.",
            )
        return row

    @pages.get("/")
    def worklist() -> str:
        query, now = asked(), datetime.now(UTC)
        if is_blind():
            query = query.without_verdicts()
        change = index.last_change()  # read before the rows: a change in between is then fetched again
        page = listed.page(query.view, query.limit, query.after, query.before)
        if query.before and not page.newer:  # show the whole first page
            page = listed.page(query.view, query.limit)
        return render_template(
            "worklist.html",
            hits=listed.hits(query.view) if page.newer or page.older else Hits(len(page.rows)),
            first=listed.position(query.view, page.rows[0].key) if page.newer else Hits(1),
            change=change,
            view=query.view,
            here=query.here,
            page=page,
            counts=listed.counts(),
            hours=listed.hours(now),
            review_counts=listed.review_counts(),
            inbox=f"{store.bucket}/{INBOX}",
            max_upload_bytes=max_upload_bytes,
        )

    @pages.get("/xray/<name:name>")
    def xray(name: str) -> str:
        row, query = row_of(name), asked()
        if is_blind():
            query = query.without_verdicts()
        seen = read_verdict(store, row.verdict_key) if row.verdict_key else SeenVerdict()
        damaged = bool(seen.etag and not seen.verdict)
        newer, older = listed.neighbours(query.view, row.key)
        note("view", row.key)
        return render_template(
            "xray.html",
            row=row,
            change=_change_of(row, outgoing),
            verdict=seen.verdict,
            damaged=damaged,
            card=card,
            view=query.view,
            here=query.here,
            newer=newer,
            older=older,
            place=listed.position(query.view, row.key),
            hits=listed.hits(query.view),
            reviews=shown_reviews(store, index, row, seen),
            told=request.args.get("told"),
        )

    @pages.get("/x/<report>")
    def linked(report: str) -> ResponseReturnValue:
        """Lead to the X-ray whose report has this id: notices link here, without its name."""
        row = index.find(report)
        if row is None or not is_addressable(name_of(row)):
            abort(404, "There is no X-ray of this id; it may have been erased.")
        return redirect(url_for("pages.xray", name=name_of(row)))

    @pages.get("/model")
    def model() -> str:
        if card is None:
            abort(404, "This network has no model card: it is not the shipped one.")
        return render_template("model.html", card=card)

    @pages.get("/preview/<name:name>")
    def preview(name: str) -> ResponseReturnValue:
        row = row_of(name)
        key = _preview_key(row, request.args.get("v"))
        found = store.get(key, _PREVIEW_LIMIT) if key else None
        if found is None:
            abort(404, "This X-ray has no preview.")
        info, data = found
        response = Response(data, mimetype="image/jpeg")
        response.set_etag(info.etag)
        response.cache_control.private = True
        if "v" in request.args:
            response.cache_control.max_age, response.cache_control.immutable = _YEAR, True
        else:
            response.cache_control.no_cache = True
        answer = response.make_conditional(request)
        if answer.status_code != HTTPStatus.NOT_MODIFIED:
            note("preview", row.key)
        return answer

    @pages.get("/changes")
    def changes() -> ResponseReturnValue:
        """Answer 204 if nothing changed since change number `since`, in the worklist or in one X-ray."""
        name = request.args.get("name")
        row = index.get(INBOX + name) if name is not None else None
        now = index.last_change() if name is None else _change_of(row, outgoing) if row else 0
        if request.args.get("since", type=int) == now:
            return "", 204
        return {"change": now}

    @pages.get("/healthz")
    def healthz() -> ResponseReturnValue:
        found = problems()
        return ({"status": "failing", "problems": found}, 503) if found else {"status": "ok"}

    return pages


def host_blueprint(
    monitor: Monitor | None,
    card: Mapping[str, Any] | None,
    problems: Callable[[], list[str]],
    others: Callable[[], int],
) -> Blueprint:
    """Return the panel of the host and its queue, below the problems of this program and how many others run.

    The panel is a part of the worklist that the script keeps up to date. The host's network links to `card`
    if it is that network's card.
    """
    host = Blueprint("host", __name__)
    shown = {
        "operations": monitor.look if monitor else None,
        "problems": problems,
        "others": others,
        "HOST_STATE_NAMES": HOST_STATE_NAMES,
        "card_of": card["sha256"] if card else None,
    }
    host.app_context_processor(lambda: shown)

    @host.get("/host")
    def panel() -> ResponseReturnValue:
        """Answer with the panel alone; its ETag changes with its content."""
        response = Response(render_template("host.html"))
        response.add_etag()
        return response.make_conditional(request)

    return host


def results_blueprint(index: SqliteIndex, results: Results) -> Blueprint:
    """Return the download of a verdict as DICOM objects; they name the patient, as the source does."""
    blueprint = Blueprint("results", __name__)

    @blueprint.get("/dicom/<name:name>")
    def download(name: str) -> ResponseReturnValue:
        row = index.get(INBOX + name)
        if row is None:
            abort(404, "No X-ray with this name is in the worklist.")
        try:
            made = results.make(row.key)
        except NoResult as error:
            return error_answer(409, f"There is no DICOM result: {error}.", "No DICOM result")
        file = io.BytesIO()
        with ZipFile(file, "w") as archive:
            for one in made:
                archive.writestr(ZipInfo(f"{one.kind}-{one.uid}.dcm"), one.data)
        file.seek(0)
        note("export", row.key, count=1)
        name = f"{name.rpartition('/')[2]}.dicom.zip"
        answer = send_file(file, "application/zip", as_attachment=True, download_name=name)
        answer.cache_control.no_store = True
        return answer

    return blueprint


def outgoing_blueprint(outgoing: Outgoing) -> Blueprint:
    """Return the request to send again, and what the pages show of the queue."""
    blueprint = Blueprint("outgoing", __name__)
    shown = {
        "deliveries_of": outgoing.entries,
        "destinations": outgoing.names,
        "has_dead": lambda: bool(outgoing.problems()),
    }
    blueprint.app_context_processor(lambda: shown)

    @blueprint.post("/send-again")
    def send_again() -> ResponseReturnValue:
        """Send again all that could not be delivered; with `key`, one result, to one `destination` or all."""
        key = request.values.get("key")
        count = outgoing.send_again(key, request.values.get("destination"))
        if key is not None and not count:
            return error_answer(404, "No X-ray with this name has a verdict.", "Nothing to send")
        note("send", key, count=count)
        return (jsonify(count=count), 202) if wants_json() else redirect(own_page(), 303)

    return blueprint


def _change_of(row: Row, outgoing: Outgoing | None) -> int:
    """Return a number that changes with a row and with what is sent of it.

    What is sent may follow from a verdict, so it is left out while that is hidden.
    """
    entries = outgoing.entries(row.key) if outgoing and not hides(row) else []
    return row.change << 32 | zlib.crc32(repr(entries).encode()) if entries else row.change


def _preview_key(row: Row, version: str | None) -> str | None:
    """Return the key of the preview of the source with the ETag `version`, so that preview and map match.

    It is always a preview of this row's own key, whatever the row or the address says.
    """
    if version is not None:
        return preview_key(row.key, version) if _ETAG.fullmatch(version) else None
    return row.preview_key if (row.preview_key or "").startswith(preview_prefix(row.key)) else None
