"""Read the daily counts as people look at them: over time, and compared with the network's reference."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from itertools import accumulate
from typing import Literal

from pipeline.statistics.daily import OUTCOMES, P_STEPS, PROPERTIES, PropertyName, names
from pipeline.statistics.drift import Drift, DriftReference, compare
from pipeline.worklist.sqlite import SqliteIndex

PeriodName = Literal["30d", "12m"]
SHORT, LONG = 7, 30  # days that are compared with the reference
_LOOKBACK = 30  # days for which the beginning of a shift is looked for
_KEPT = 60.0  # seconds: looking for it takes 20 ms


@dataclass(frozen=True)
class Span:
    """Hold the counts of a day, a month or a longer time."""

    begins: date
    counts: dict[str, int] = field(default_factory=dict)

    def of(self, what: str) -> int:
        """Return one count; see `daily.counted` for the names."""
        return self.counts.get(what, 0)

    def group(self, kind: str) -> dict[str, int]:
        """Return the counts of one kind (`answer`, `reason`, `warning`), the most frequent first."""
        found = {what.partition(" ")[2]: n for what, n in self.counts.items() if what.startswith(f"{kind} ")}
        return dict(sorted(((what, n) for what, n in found.items() if n > 0), key=lambda one: -one[1]))

    @property
    def verdicts(self) -> int:
        """Return the number of verdicts."""
        return sum(self.of(f"answer {answer}") for answer in OUTCOMES)

    @property
    def classified(self) -> int:
        """Return the number of verdicts with a label."""
        return self.of("call") + self.of("no call")

    @property
    def uncertain(self) -> float | None:
        """Return the share of uncertain ones among the verdicts with a label."""
        return self._share("answer uncertain")

    @property
    def no_call(self) -> float | None:
        """Return the share for which the network makes no call, among the verdicts with a label."""
        return self._share("no call")

    @property
    def mean_probability(self) -> float | None:
        """Return the mean of P, where the network makes a call."""
        return self.of("P") / P_STEPS / self.of("call") if self.of("call") > 0 else None

    @property
    def read(self) -> int:
        """Return how many verdicts with a call readers agreed or disagreed with, or differ about."""
        return sum(self.of(f"review {said}") for said in ("agreed", "disagreed", "mixed"))

    @property
    def agreement(self) -> float | None:
        """Return the share of those that all their readers agreed with."""
        return self.of("review agreed") / self.read if self.read > 0 else None

    def _share(self, what: str) -> float | None:
        return self.of(what) / self.classified if self.classified > 0 else None


@dataclass(frozen=True)
class DriftReport:
    """Hold the comparisons of the last days, and since when there is a shift."""

    of: str  # what the X-rays are compared with
    short: tuple[Drift, ...]
    long: tuple[Drift, ...]
    since: date | None = None  # first day of a shift that goes on
    is_older: bool = False  # it began before that day, as far back as it was looked for

    @property
    def pairs(self) -> list[tuple[Drift, Drift]]:
        """Return both comparisons of each property."""
        return list(zip(self.short, self.long, strict=True))

    @property
    def shifted(self) -> list[PropertyName]:
        """Return the properties that are not as in the reference."""
        return [one.name for one in map(decisive, self.short, self.long) if one.level == "shift"]


class Statistics:
    """Read the counts of a worklist; the days are those of UTC."""

    def __init__(self, index: SqliteIndex, reference: DriftReference | None = None) -> None:
        self._index, self._reference = index, reference
        # A shift of these properties on this day, until when that is believed, and for how many days.
        self._known: tuple[tuple[date, tuple[PropertyName, ...]], float, int] | None = None

    def over(self, period: PeriodName, today: date) -> list[Span]:
        """Return the days or months of a period, up to now."""
        if period == "30d":
            begins, length = [today - timedelta(days=back) for back in reversed(range(30))], 10
        else:
            months = [today.year * 12 + today.month - 1 - back for back in reversed(range(12))]
            begins, length = [date(month // 12, month % 12 + 1, 1) for month in months], 7
        spans = {begin.isoformat()[:length]: Span(begin) for begin in begins}
        for what, day, count in self._counts(names(), begins[0], today, length):
            spans[day].counts[what] = count
        return list(spans.values())

    def drift(self, today: date) -> DriftReport | None:
        """Compare the last days with the reference; None where the network has none."""
        if self._reference is None:
            return None
        whats = _whats(self._reference)
        first = [(today - timedelta(days=days - 1)).isoformat() for days in (SHORT, LONG)]
        query = (
            "SELECT what, sum(CASE WHEN day >= ? THEN count ELSE 0 END), sum(count) FROM daily"
            f" WHERE what IN ({_marks(whats)}) AND day BETWEEN ? AND ? GROUP BY what"
        )
        rows = self._index.select(query, first[0], *whats, first[1], today.isoformat())
        found = {what: (short, long) for what, short, long in rows}
        short, long = (
            _compared(self._reference, {what: counts[at] for what, counts in found.items()}, days)
            for at, days in enumerate((SHORT, LONG))
        )
        report = DriftReport(self._reference.of, short, long)
        if not report.shifted:
            return report
        known = (today, tuple(report.shifted))
        if self._known is None or self._known[0] != known or time.monotonic() > self._known[1]:
            self._known = known, time.monotonic() + _KEPT, self._shifted_days(self._reference, today)
        back = self._known[2]
        return replace(report, since=today - timedelta(days=back - 1), is_older=back == _LOOKBACK)

    def _shifted_days(self, reference: DriftReference, today: date) -> int:
        """Return for how many days there has been a shift, today included."""
        whats, ago = _whats(reference), LONG + _LOOKBACK
        days: dict[str, list[int]] = {what: [0] * ago for what in whats}
        for what, day, count in self._counts(whats, today - timedelta(days=ago - 1), today):
            days[what][(today - date.fromisoformat(day)).days] = count
        sums = {what: [0, *accumulate(counts)] for what, counts in days.items()}
        back = 1
        while back < _LOOKBACK and _has_shift(reference, sums, back):
            back += 1
        return back

    def _counts(
        self, whats: Sequence[str], first: date, last: date, length: int = 10
    ) -> Iterable[tuple[str, str, int]]:
        query = (
            f"SELECT what, substr(day, 1, {length}) AS span, sum(count) FROM daily"
            f" WHERE what IN ({_marks(whats)}) AND day BETWEEN ? AND ? GROUP BY what, span"
        )
        return self._index.select(query, *whats, first.isoformat(), last.isoformat())


def total(spans: Sequence[Span]) -> Span:
    """Add up the counts of several spans."""
    whole = Span(spans[0].begins)
    for span in spans:
        for what, count in span.counts.items():
            whole.counts[what] = whole.of(what) + count
    return whole


def _whats(reference: DriftReference) -> list[str]:
    return [what for one in PROPERTIES for what in one.counted_as(reference.sha256)]


def _compared(reference: DriftReference, counts: Mapping[str, int], days: int) -> tuple[Drift, ...]:
    return tuple(
        compare(reference, one.name, [counts.get(what, 0) for what in one.counted_as(reference.sha256)], days)
        for one in PROPERTIES
    )


def _has_shift(reference: DriftReference, sums: Mapping[str, Sequence[int]], back: int) -> bool:
    """Return whether there was a shift so many days ago; `sums` counts each bin from today backward."""
    short, long = (
        _compared(reference, {what: sum_[back + days] - sum_[back] for what, sum_ in sums.items()}, days)
        for days in (SHORT, LONG)
    )
    return any(decisive(*pair).level == "shift" for pair in zip(short, long, strict=True))


def decisive(short: Drift, long: Drift) -> Drift:
    """Return the comparison that counts: of the last week, or where that has too few X-rays, of the month."""
    return long if short.level == "few" else short


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))
