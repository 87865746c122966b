"""Export, judge again and forget X-rays that were selected in the worklist.

Each request is limited: in X-rays, in time, and in how many run at once. It tells how many were done, and why
the others were not.
"""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from zipfile import ZipFile, ZipInfo

from flask import Blueprint, Response, abort, jsonify, redirect, render_template, send_file, url_for
from flask.typing import ResponseReturnValue

from pipeline.errors import CxrError, NoResult
from pipeline.forget import Erased
from pipeline.names import INBOX
from pipeline.ports import Results, Store
from pipeline.worklist.sqlite import SqliteIndex
from web.acting.selection import Selection, selection
from web.api import csv_lines
from web.audit import note
from web.errors import error_answer, wants_json
from web.query import parameters
from web.schemas import Acted, NotDone
from web.upload import UploadRefused, resubmit_xray

Eraser = Callable[[Sequence[str]], Erased]

MOST_RESULTS = 20  # X-rays in one archive of DICOM results; each takes about a second
_SECONDS = 40.0  # for one request; what is not reached by then is left
_NO_TIME = "There was no time left for it: try again."
_UNKNOWN = "It is not in the worklist."
_AT_ONCE = 2  # such requests


def acting_blueprint(
    store: Store, index: SqliteIndex, max_bytes: int, results: Results | None, eraser: Eraser | None
) -> Blueprint:
    """Return the routes that act on selected X-rays; `results` and `eraser` where the page offers them."""
    acting = Blueprint("acting", __name__, url_prefix="/selected")
    places = threading.BoundedSemaphore(_AT_ONCE)

    @contextmanager
    def one_of_few() -> Iterator[float]:
        """Yield the time on the monotonic clock at which to stop."""
        if not places.acquire(timeout=1):
            abort(503, "Other selections are being worked on. Try again in a moment.")
        try:
            yield time.monotonic() + _SECONDS
        finally:
            places.release()

    @acting.post("/csv")
    def as_csv() -> ResponseReturnValue:
        chosen = selection(index)
        if chosen.hits:
            return redirect(url_for("api.export", **parameters(chosen.query.view)), 303)
        answer = Response("".join(csv_lines(chosen.rows)), mimetype="text/csv")
        answer.headers["Content-Disposition"] = 'attachment; filename="verdicts.csv"'
        return answer

    @acting.post("/again")
    def again() -> ResponseReturnValue:
        """Have the failed ones among them judged again."""
        chosen, problems, done = selection(index), {}, 0
        with one_of_few() as end:
            for row in chosen.rows:
                try:
                    if time.monotonic() > end:
                        raise UploadRefused(_NO_TIME)
                    resubmit_xray(store, index, row.key, max_bytes)
                    note("resubmit", row.key)
                    done += 1
                except CxrError as error:
                    problems[row.key] = str(error) if isinstance(error, UploadRefused) else _unanswered()
        if not problems and not wants_json() and not chosen.has_more and not chosen.unknown:
            return redirect(_list(chosen), 303)
        return _told(chosen, "will be judged again", done, problems, 202)

    if results:

        @acting.post("/dicom")
        def as_dicom() -> ResponseReturnValue:
            """Answer with the DICOM results in one archive; it names those of which there is none."""
            chosen = selection(index)
            if len(chosen.rows) > MOST_RESULTS or chosen.has_more:
                sentence = f"Select at most {MOST_RESULTS} X-rays for an archive of DICOM results."
                return error_answer(400, sentence, "No DICOM results")
            with one_of_few() as end:
                file, problems = _archive(results, chosen, end)
            if len(problems) == len(chosen.rows):
                details = tuple(f"{_name(key)}: {why}" for key, why in problems.items())
                sentence = "There is no DICOM result for any of them."
                return error_answer(409, sentence, "No DICOM results", details)
            answer = send_file(file, "application/zip", as_attachment=True, download_name="results.zip")
            answer.cache_control.no_store = True
            return answer

    if eraser:

        @acting.post("/forget")
        def forget() -> ResponseReturnValue:
            """Ask for a confirmation that names their number; with it, erase them."""
            chosen = selection(index)
            count = len(chosen.rows) + len(chosen.unknown)
            if chosen.count is None and not wants_json():
                if not chosen.rows:
                    return error_answer(
                        404, "These X-rays are not in the worklist any more.", "Nothing to forget"
                    )
                return render_template("forget.html", chosen=chosen, back=_list(chosen))
            if chosen.count != count:
                return error_answer(400, f"`count` has to be the number of X-rays, {count}.", "Not forgotten")
            with one_of_few():
                erased = eraser([row.key for row in chosen.rows])
            problems = {key: f"It was not erased: {error}." for key, error in erased.failed.items()}
            for key in erased.found:
                if index.get(key):
                    problems[key] = "It is in the worklist again, or still: use `cxr forget`."
            for row in chosen.rows:
                note("forget", row.key, "refused" if row.key in problems else "done")
            done = len(chosen.rows) - len(problems)
            return _told(chosen, "were forgotten" if done != 1 else "was forgotten", done, problems, 200)

    return acting


def _archive(results: Results, chosen: Selection, end: float) -> tuple[io.BytesIO, dict[str, str]]:
    """Return a ZIP archive with a folder for each X-ray that has results, and why others have none."""
    file, problems = io.BytesIO(), {}
    with ZipFile(file, "w") as archive:
        for number, row in enumerate(chosen.rows, 1):
            try:
                if time.monotonic() > end:
                    raise NoResult(_NO_TIME)
                made = results.make(row.key)
            except NoResult as error:
                problems[row.key] = str(error)
                continue
            for one in made:
                archive.writestr(ZipInfo(f"{number:02}/{one.kind}-{one.uid}.dcm"), one.data)
            note("export", row.key, count=1)
        if problems:
            lines = (f"{_name(key)}: {why}\n" for key, why in problems.items())
            archive.writestr(ZipInfo("without a result.txt"), "".join(lines))
    file.seek(0)
    return file, problems


def _told(
    chosen: Selection, what: str, done: int, problems: dict[str, str], code: int
) -> ResponseReturnValue:
    """Answer with how many X-rays were done, and why the others were not."""
    problems = problems | dict.fromkeys(chosen.unknown, _UNKNOWN)
    if wants_json():
        left = [NotDone(key=key, error=why) for key, why in problems.items()]
        acted = Acted(asked=done + len(left), done=done, problems=left)
        return jsonify(acted.model_dump()), code
    known = {row.key for row in chosen.rows}
    details = [f"{_name(key)}: {why}" for key, why in problems.items() if key in known]
    details += ["One that is not in the worklist any more."] * len(chosen.unknown)
    total = done + len(problems)
    return render_template(
        "acted.html",
        title=f"{done} of {total} {what}" if problems else f"{done} X-ray{'' if done == 1 else 's'} {what}",
        details=details,
        has_more=chosen.has_more,
        back=_list(chosen),
    )


def _unanswered() -> str:
    return "The storage did not answer: try again in a moment."


def _list(chosen: Selection) -> str:
    return url_for("pages.worklist", **chosen.query.here)


def _name(key: str) -> str:
    return key.removeprefix(INBOX)
