"""Keep reviews beside the verdicts, in a folder of the outbox, and their summary in the worklist.

`outbox/.reviews/<X-ray>/<ETag of the verdict>/<time>-<random>.json`: nothing is ever replaced, so two readers
never write the same object, and the reviews of an earlier verdict stay what they are.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from pipeline.errors import NotReviewed, ObjectTooLarge, ObjectUnreadable, VerdictReplaced
from pipeline.judge import read_verdict
from pipeline.names import is_review, review_prefix, verdict_key
from pipeline.ports import Index, Store
from pipeline.records import Answer, Reading, Reviewed, ReviewState
from pipeline.reviews.review import LONGEST_NOTE, LONGEST_USER, Review, Said, answer_of

MOST_REVIEWS = 200  # objects of one verdict
MOST_READERS = 50  # that the worklist names
_REVIEW_LIMIT = 20_000  # bytes; ours have about 800
_STATES: dict[Answer, ReviewState] = {
    "agree": "agreed",
    "disagree": "disagreed",
    "decided": "decided",
    "unsure": "unsure",
}


@dataclass(frozen=True)
class Word:
    """Hold what a reader says; `blind` means that the page hid the verdict until then."""

    said: Said
    user: str | None = None
    note: str = ""
    blind: bool = False


def read_reviews(store: Store, key: str, verdict_etag: str = "") -> list[Review]:
    """Return the reviews of an X-ray, or of one of its verdicts, in order of time.

    Objects that are no reviews of it (damaged, foreign, in another's place) are left out.
    """
    places = [info.key for info in store.list(review_prefix(key, verdict_etag))]
    found = [(read_review(store, place), place) for place in places]
    ours = [(one, place) for one, place in found if one and one.key == key]
    return [review for review, _ in sorted(ours, key=lambda one: (one[0].at, one[1]))]


def read_review(store: Store, place: str) -> Review | None:
    """Return the review at an outbox key; None where there is none that belongs there."""
    try:
        found = store.get(place, _REVIEW_LIMIT) if is_review(place) else None
        review = Review.from_json(found[1]) if found else None
    except (ObjectTooLarge, ObjectUnreadable, ValueError):
        return None
    belongs = review and place.startswith(review_prefix(review.key, review.verdict_etag))
    return review if belongs else None


def latest(reviews: Sequence[Review]) -> list[Review]:
    """Return the last review of each reader, also where it withdraws, the latest first."""
    last = {one.user: one for one in reviews}  # they come in order of time
    return sorted(last.values(), key=lambda one: one.at, reverse=True)


def summary_of(verdict_etag: str, reviews: Sequence[Review], objects: int) -> Reviewed:
    """Return the summary of all the reviews of one verdict, in so many objects, for the worklist."""
    last = latest(reviews)
    standing = {(one.answer, one.sees) for one in last if one.answer != "withdrawn"}
    said: ReviewState | None = None
    if standing:
        said = _STATES[next(iter(standing))[0]] if len(standing) == 1 else "mixed"
    readers = tuple(Reading(one.user, one.answer, one.sees, one.at) for one in last[:MOST_READERS])
    return Reviewed(verdict_etag, said, readers, objects)


def write_review(store: Store, key: str, verdict_etag: str, word: Word, now: datetime) -> Review:
    """Write a reader's word about the verdict with this ETag, and return the review.

    Raises VerdictReplaced when that is not the verdict any more, and NotReviewed when it cannot be reviewed.
    A word after an earlier one of the same reader is not blind: the reader has seen the verdict.
    """
    seen = read_verdict(store, verdict_key(key))
    verdict = seen.verdict
    if seen.etag != verdict_etag:
        raise VerdictReplaced("The verdict changed while you looked at it. Nothing was saved: look again.")
    if verdict is None or verdict.finding is None:
        raise NotReviewed("This verdict has no finding to review.")
    if len(word.user or "") > LONGEST_USER:
        raise NotReviewed(f"Your user name is longer than {LONGEST_USER} characters.")
    answer, sees = answer_of(word.said, verdict.finding.label)
    earlier = read_reviews(store, key, verdict_etag)
    own = [one for one in earlier if one.user == word.user]
    if answer == "withdrawn" and (not own or own[-1].answer == "withdrawn"):
        raise NotReviewed("There is no answer of yours to undo.")
    if len(earlier) >= MOST_REVIEWS:
        raise NotReviewed(f"This verdict has {MOST_REVIEWS} reviews: no more are kept.")
    after = own[-1].at + timedelta(microseconds=1) if own else now  # also where another clock was ahead
    try:
        review = Review(
            user=word.user,
            at=max(now, after),
            answer=answer,
            sees=sees,
            note="" if answer == "withdrawn" else word.note,
            blind=word.blind and not own and answer != "withdrawn",
            key=key,
            source_etag=verdict.source.etag,
            verdict_etag=verdict_etag,
            label=verdict.finding.label,
            warnings=verdict.warnings,
            model=verdict.model,
        )
    except ValidationError as error:
        raise NotReviewed(
            f"A note is one line of at most {LONGEST_NOTE} characters, without control characters."
        ) from error
    name = f"{review.at.astimezone(UTC):%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(8)}"
    store.put(f"{review_prefix(key, verdict_etag)}{name}.json", review.to_json(), None)
    return review


def record_reviews(key: str, store: Store, index: Index) -> None:
    """Bring the worklist up to date with the reviews of the verdict that an X-ray has now.

    Looks again after writing, for the same reason as `record_verdict`: of several writers at once, the last
    one has counted every review.
    """
    seen = _look(store, key)
    while True:
        etag, places = seen
        reviews = read_reviews(store, key, etag) if places else []
        index.review(key, summary_of(etag, reviews, len(places)) if places else Reviewed())
        again = _look(store, key)
        if again == seen:
            return
        seen = again


def record_review(place: str, store: Store, index: Index) -> None:
    """Bring the worklist up to date with a review that was written.

    One that was removed no longer says of which X-ray it was: `cxr reconcile` corrects its row.
    """
    review = read_review(store, place)
    if review:
        record_reviews(review.key, store, index)


def _look(store: Store, key: str) -> tuple[str, list[str]]:
    """Return the ETag of an X-ray's verdict now, and the keys of its reviews."""
    verdict = store.head(verdict_key(key))
    if verdict is None:
        return "", []
    return verdict.etag, sorted(info.key for info in store.list(review_prefix(key, verdict.etag)))
