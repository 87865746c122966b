"""Take and show what readers say about a verdict: the form of the page, and the interface for programs."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args

from flask import Blueprint, Response, abort, current_app, redirect, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError

from pipeline.errors import NotReviewed, VerdictReplaced
from pipeline.judge import SeenVerdict
from pipeline.names import INBOX
from pipeline.ports import Store
from pipeline.records import Reading, Row
from pipeline.reviews.kept import Word, latest, read_reviews, record_reviews, write_review
from pipeline.reviews.review import Review, Said
from pipeline.worklist.sqlite import SqliteIndex
from pipeline.worklist.views import Worklist
from web.audit import note
from web.errors import error_answer
from web.query import asked
from web.reviews.blind import hides_verdict, is_blind, reader, set_blind
from web.schemas import ReviewRequest, ReviewsOfXray
from web.security import own_page

_NOT_SAVED = "Not saved"


@dataclass(frozen=True)
class ShownReviews:
    """Hold what the page of an X-ray shows of its reviews."""

    etag: str | None  # of the verdict
    is_hidden: bool  # the verdict, until this reader has said
    own: Review | None  # this reader's answer about this verdict, where it stands
    note: str  # of this reader's answer, or of the one that was taken back
    others: list[Review]  # the other readers' standing answers about it
    earlier: list[Review]  # standing answers about earlier verdicts
    last: Row | None  # the X-ray that this reader answered just before
    last_answer: Reading | None


def shown_reviews(store: Store, index: SqliteIndex, row: Row, seen: SeenVerdict) -> ShownReviews:
    """Return what this visitor is shown of the reviews of an X-ray."""
    finding = seen.verdict.finding if seen.verdict else None
    found = read_reviews(store, row.key)
    now = [one for one in found if one.verdict_etag == seen.etag]
    before = {etag: [one for one in found if one.verdict_etag == etag] for etag in _etags(found)}
    before.pop(seen.etag or "", None)
    standing = [one for one in latest(now) if one.answer != "withdrawn"]
    last = index.get(INBOX + request.args["last"]) if request.args.get("last") else None
    said = next((one for one in last.answers if one.user == reader()), None) if last else None
    notes = [one.note for one in now if one.user == reader() and one.answer != "withdrawn"]
    is_said = said is not None and said.answer != "withdrawn"
    return ShownReviews(
        etag=seen.etag,
        is_hidden=finding is not None and hides_verdict(now),
        own=next((one for one in standing if one.user == reader()), None),
        note=notes[-1] if notes else "",
        others=[one for one in standing if one.user != reader()],
        earlier=[one for reviews in before.values() for one in latest(reviews) if one.answer != "withdrawn"],
        last=last if is_said else None,
        last_answer=said if is_said else None,
    )


def reviews_blueprint(store: Store, index: SqliteIndex) -> Blueprint:
    """Return the routes that keep and list reviews, and switch blind mode."""
    reviews = Blueprint("reviews", __name__)
    listed = Worklist(index)

    def keep(key: str, etag: str, word: Word) -> Review:
        review = write_review(store, key, etag, word, datetime.now(UTC))
        record_reviews(key, store, index)
        note("review", key)
        return review

    @reviews.post("/xray/<name:name>")
    def say(name: str) -> ResponseReturnValue:
        """Keep what the form says, and go on to the next finding of the view; after an undo, to this one."""
        row, query = index.get(INBOX + name), asked()
        query = query.without_verdicts() if is_blind() else query
        if row is None:
            abort(404, "No X-ray with this name is in the worklist.")
        said: Said | None = next((one for one in get_args(Said) if one == request.form.get("said")), None)
        if said is None:
            return error_answer(400, "Choose one of the answers.", _NOT_SAVED)
        word = Word(said, reader(), request.form.get("note", "").strip(), is_blind())
        here = query.here
        try:
            keep(row.key, request.form.get("verdict", ""), word)
        except VerdictReplaced:
            return redirect(url_for("pages.xray", name=name, **here, told="changed"), 303)
        except NotReviewed as error:
            return error_answer(409, str(error), _NOT_SAVED)
        if said == "withdrawn" or "stay" in request.args:
            return redirect(url_for("pages.xray", name=name, **here), 303)
        older = listed.next_finding(query.view, row.key)
        following = older.key.removeprefix(INBOX) if older else name
        return redirect(url_for("pages.xray", name=following, **here, last=name), 303)

    @reviews.post("/blind")
    def blind() -> ResponseReturnValue:
        """Switch blind mode on or off, and return to the page with the button."""
        answer = redirect(own_page(), 303)
        assert isinstance(answer, Response)
        set_blind(answer, request.form.get("on") == "1")
        return answer

    @reviews.get("/api/verdicts/<name:name>/reviews")
    def of_xray(name: str) -> ResponseReturnValue:
        if index.get(INBOX + name) is None and index.get(f"{INBOX}{name}/reviews"):  # a file of that name
            view = current_app.ensure_sync(current_app.view_functions["api.verdict"])
            answer: ResponseReturnValue = view(name=f"{name}/reviews")
            return answer
        row = _known(index, name)
        note("view", row.key)
        found = read_reviews(store, row.key)
        whole = ReviewsOfXray(verdict_etag=row.verdict_etag, review=row.review, reviews=found)
        return Response(whole.model_dump_json(by_alias=True), mimetype="application/json")

    @reviews.post("/api/verdicts/<name:name>/reviews")
    def add(name: str) -> ResponseReturnValue:
        try:
            asked_for = ReviewRequest.model_validate(request.get_json(silent=True))
        except (ValidationError, RecursionError):
            return error_answer(400, "Send a JSON object with `verdict_etag`, `said` and perhaps a `note`.")
        row = _known(index, name)
        word = Word(asked_for.said, reader(), asked_for.note.strip(), asked_for.blind)
        try:
            review = keep(row.key, asked_for.verdict_etag, word)
        except NotReviewed as error:
            return error_answer(409, str(error))
        return Response(review.model_dump_json(by_alias=True), 201, mimetype="application/json")

    return reviews


def _known(index: SqliteIndex, name: str) -> Row:
    row = index.get(INBOX + name)
    if row is None:
        abort(404, "No X-ray with this name is in the worklist.")
    return row


def _etags(reviews: list[Review]) -> list[str]:
    return list(dict.fromkeys(one.verdict_etag for one in reviews))
