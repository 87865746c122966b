"""Convert rows of the worklist to plain values and back, for the indexes that keep them."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import get_args

from pipeline.records import Answer, Reading, Reviewed, ReviewState, Row, Sees, SourceState
from pipeline.verdict import Label, ReasonCode, Status, Warning

COLUMNS = tuple(field.name for field in fields(Row))
FROM_REVIEWS = tuple(field.name for field in fields(Reviewed))  # the columns that reviews fill
_APART = ("key", "waiting_since", "asked_since", "at_work", "source", "change", *FROM_REVIEWS)
FROM_VERDICT = tuple(name for name in COLUMNS if name not in _APART)  # the columns that a verdict fills
LONGEST_MESSAGE = 300  # characters
_SHARES = ("probability", "normal_below", "pneumonia_above")
_NUMBERS = ("typicality", "aspect", "brightness", "contrast")
_WORDS = {"status": get_args(Status), "label": get_args(Label), "source": get_args(SourceState)}
_TIMES = ("started_at", "finished_at", "waiting_since", "asked_since")


def text(moment: datetime) -> str:
    """Return a time as ISO 8601 in UTC with microseconds, which sorts as text."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def stored_value(value: object) -> object:
    """Return a field of a row as text, number or None."""
    if isinstance(value, tuple):
        return _readers_text(value) if value and isinstance(value[0], Reading) else " ".join(value)
    return text(value) if isinstance(value, datetime) else value


def shortened(sentence: str) -> str | None:
    """Return a reason's message as one line of the worklist; None where it is empty."""
    line = " ".join(sentence[: 4 * LONGEST_MESSAGE].split())
    return (line if len(line) <= LONGEST_MESSAGE else f"{line[: LONGEST_MESSAGE - 1]}…") or None


def row_from(values: Mapping[str, object]) -> Row:
    """Build a row from stored values, leaving out values that this release does not know.

    Raises ValueError for values that were never stored.
    """
    known = {name: values[name] for name in COLUMNS if values.get(name) is not None}
    for name in _TIMES:
        if name in known:
            known[name] = datetime.fromisoformat(str(known[name]))
    known["at_work"] = bool(known.get("at_work"))
    words = str(known.get("warnings", "")).split()
    known["warnings"] = tuple(word for word in words if word in get_args(Warning))
    if known.get("reason", "internal") not in get_args(ReasonCode):
        known["reason"] = "internal"
    if known.get("review_said") not in (None, *get_args(ReviewState)):
        del known["review_said"]
    known["readers"] = _readers(str(known.get("readers", "")))
    known["review_count"] = int(float(str(known.get("review_count", 0))))
    if any(known.get(name, words[0]) not in words for name, words in _WORDS.items()):
        raise ValueError("not a row of the worklist")
    for name in _SHARES:
        if not 0 <= float(str(known.get(name, 0))) <= 1:
            raise ValueError("not a row of the worklist")
    if not all(math.isfinite(float(str(known.get(name, 0)))) for name in _NUMBERS):
        raise ValueError("not a row of the worklist")
    return Row(**known)  # type: ignore[arg-type]


def _readers_text(readers: tuple[Reading, ...]) -> str:
    return json.dumps([[one.user, one.answer, one.sees, text(one.at)] for one in readers])


def _readers(stored: str) -> tuple[Reading, ...]:
    """Return the answers that `_readers_text` wrote, without those that this release does not know."""
    try:
        found = json.loads(stored) if stored else []
        known = [one for one in found if one[1] in get_args(Answer) and one[2] in (None, *get_args(Sees))]
        return tuple(
            Reading(user, answer, sees, datetime.fromisoformat(at)) for user, answer, sees, at in known
        )
    except (TypeError, IndexError, RecursionError) as error:
        raise ValueError("not a row of the worklist") from error
