"""Say what is counted of a verdict, by day, so that no statistics need to look at the rows.

The worklist's file keeps the counts (`pipeline.worklist.sqlite`): a name of what is counted, a day, a number.
"""

import json
import math
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.records import ReviewState, Row
from pipeline.verdict import Label, ReasonCode, Status, Warning, doubt_of

PropertyName = Literal["typicality", "evidence", "brightness", "contrast", "aspect"]
OUTCOMES = (*get_args(Label), *(status for status in get_args(Status) if status != "classified"))
P_STEPS = 10_000  # P is added up in whole steps: sums of fractions would not go back to 0


@dataclass(frozen=True)
class Property:
    """Divide the values of a property into bins of one width; the outer bins hold all beyond them."""

    name: PropertyName
    low: float
    width: float
    bins: int
    of_network: bool = False  # only values of one network can be compared

    def bin_of(self, value: float) -> int:
        """Return the number of the bin that holds a value."""
        return min(max(int((value - self.low) / self.width), 0), self.bins - 1)

    def counted_as(self, network: str) -> list[str]:
        """Return the names under which the bins are counted, for the network with this SHA-256."""
        middle = f" {network[:12]}" if self.of_network else ""
        return [f"{self.name}{middle} {number}" for number in range(self.bins)]


PROPERTIES = (
    Property("typicality", 0, 0.05, 32, of_network=True),  # as a share of the limit for `atypical`
    Property("evidence", -5, 0.5, 24, of_network=True),
    Property("brightness", 0, 8, 32),
    Property("contrast", 0, 4, 32),
    Property("aspect", 0.5, 0.05, 30),
)


def values_of(row: Row) -> dict[PropertyName, float]:
    """Return the properties of a verdict that are compared with those of other X-rays.

    `evidence` stands for P: the distance of its log odds from the middle of both thresholds', which does not
    change with the prevalence that P assumes.
    """
    found = {
        "typicality": row.typicality,
        "evidence": _evidence(row),
        "brightness": row.brightness,
        "contrast": row.contrast,
        "aspect": row.aspect,
    }
    if row.status != "classified":
        return {}
    return {one.name: value for one in PROPERTIES if (value := found[one.name]) is not None}


def counted(row: Row) -> str | None:
    """Return what is counted of a row's verdict, as a JSON object of names and numbers; None without one."""
    if row.status is None or row.finished_at is None:
        return None
    counts = {f"answer {row.label or row.status}": 1}
    if row.reason:
        counts[f"reason {row.reason}"] = 1
    counts |= {f"warning {warning}": 1 for warning in row.warnings}
    if row.status == "classified":
        if doubt_of(row.warnings):
            counts["no call"] = 1
        elif row.probability is not None:
            counts |= {"call": 1, "P": round(row.probability * P_STEPS)}
    values = values_of(row)
    for one in PROPERTIES:
        if one.name in values:
            counts[one.counted_as(row.model or "")[one.bin_of(values[one.name])]] = 1
    return json.dumps(counts, separators=(",", ":"))


def names() -> list[str]:
    """Return all names that are counted, without the bins."""
    reasons, warnings = get_args(ReasonCode), get_args(Warning)
    return [
        *(f"answer {one}" for one in OUTCOMES),
        *(f"reason {one}" for one in reasons),
        *(f"warning {one}" for one in warnings),
        *(f"review {one}" for one in get_args(ReviewState)),
        *("call", "no call", "P"),
    ]


def _evidence(row: Row) -> float | None:
    p, cuts = row.probability, (row.normal_below, row.pneumonia_above)
    if p is None or cuts[0] is None or cuts[1] is None or doubt_of(row.warnings):
        return None
    return _log_odds(p) - (_log_odds(cuts[0]) + _log_odds(cuts[1])) / 2


def _log_odds(p: float) -> float:
    inside = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(inside / (1 - inside))
