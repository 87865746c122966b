"""A row of the worklist as plain values, for the indexes that keep it."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime

from pipeline.ports import Row

COLUMNS = tuple(field.name for field in fields(Row))
_APART = ("key", "waiting_since", "asked_since", "at_work", "source", "change")
FROM_VERDICT = tuple(name for name in COLUMNS if name not in _APART)  # what a verdict says
_TIMES = ("started_at", "finished_at", "waiting_since", "asked_since")


def text(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds: sorts as text."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def stored(value: object) -> object:
    """A field of a row as text, number or nothing."""
    if isinstance(value, tuple):
        return " ".join(value)
    return text(value) if isinstance(value, datetime) else value


def row_from(values: Mapping[str, object]) -> Row:
    """The row of stored values; what is not of a row is left out."""
    known = {name: values[name] for name in COLUMNS if values.get(name) is not None}
    for name in _TIMES:
        if name in known:
            known[name] = datetime.fromisoformat(str(known[name]))
    known["at_work"] = bool(known.get("at_work"))
    known["warnings"] = tuple(str(known.get("warnings", "")).split())
    return Row(**known)  # type: ignore[arg-type]
