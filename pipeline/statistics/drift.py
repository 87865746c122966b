"""Compare the X-rays of the last days with those that the network was checked on.

The measure is the population stability index (PSI): over the bins of a histogram, the sum of
(a - e) ln(a / e), where e is the share expected and a the actual one. The rule of thumb calls less than 0.1
stable and 0.25 or more a shift (Siddiqi, Credit Risk Scorecards, 2006). Chance alone makes it large where
there are few X-rays: without any shift it is distributed as (1/n + 1/m) chi-squared with B - 1 degrees of
freedom, for n and m X-rays in B bins (Yurdakul and Naranjo, Journal of Risk Model Validation 14(4), 2020). So
its mean without a shift is subtracted before the rule is applied, and what chance exceeds in one of a
thousand looks at all properties is no shift.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.statistics.daily import PROPERTIES, PropertyName

Likeness = Literal["few", "stable", "some", "shift"]
SOME, SHIFT = 0.1, 0.25  # limits of the PSI
LEAST = 100  # X-rays of a window, to be compared at all
_CHANCE = 0.001  # of a false alarm by any property, at one look
_SHARE = 0.1  # of the reference, at least, in each bin that is compared
_UNSEEN = 0.5  # added to each bin, so that an empty one has a logarithm


class DriftReference(BaseModel):
    """Hold the histograms of the X-rays that a network was checked on, in the bins of `PROPERTIES`."""

    model_config = ConfigDict(frozen=True)

    sha256: str = Field(description="of the network's ONNX file, as in a verdict's `model`")
    of: str = Field(description="the X-rays, in words")
    images: int
    patients: int = Field(
        description="counted instead of images where chance is estimated: they are independent"
    )
    histograms: dict[PropertyName, list[int]]


@dataclass(frozen=True)
class Drift:
    """Say how far one property of recent X-rays is from the reference."""

    name: PropertyName
    days: int
    count: int  # X-rays
    psi: float | None  # less what chance adds on average; None where there are too few X-rays
    level: Likeness
    groups: tuple["Bin", ...] = ()


@dataclass(frozen=True)
class Bin:
    """Hold one bin of the comparison: its limits, and the shares in it."""

    low: float | None
    high: float | None
    expected: float
    actual: float


def compare(reference: DriftReference, name: PropertyName, counts: Sequence[int], days: int) -> Drift:
    """Compare the histogram of some days with the reference's."""
    expected, total = reference.histograms.get(name, []), sum(counts)
    if total < LEAST or len(expected) != len(counts) or not sum(expected):
        return Drift(name, days, total, None, "few")
    cuts = _cuts(expected)
    before, now = _merged(expected, cuts), _merged(counts, cuts)
    size = len(before)
    shares = [
        ((e + _UNSEEN) / (sum(before) + size * _UNSEEN), (a + _UNSEEN) / (total + size * _UNSEEN))
        for e, a in zip(before, now, strict=True)
    ]
    psi = sum((a - e) * math.log(a / e) for e, a in shares)
    spread = 1 / total + 1 / max(min(reference.patients, sum(expected)), 1)
    corrected = max(psi - (size - 1) * spread, 0)
    is_chance = psi <= _chi_squared(size - 1, 1 - _CHANCE / len(PROPERTIES)) * spread
    level: Likeness = "stable" if corrected < SOME or is_chance else "some" if corrected < SHIFT else "shift"
    one = next(one for one in PROPERTIES if one.name == name)
    limits = [None, *(round(one.low + cut * one.width, 4) for cut in cuts[1:-1]), None]
    groups = [
        Bin(low, high, e / sum(before), a / total)
        for (low, high), e, a in zip(pairwise(limits), before, now, strict=True)
    ]
    return Drift(name, days, total, round(corrected, 4), level, tuple(groups))


def _cuts(expected: Sequence[int]) -> list[int]:
    """Return where groups of bins begin and end, so that each has its share of the reference."""
    least, cuts, held = _SHARE * sum(expected), [0], 0
    for number, count in enumerate(expected):
        held += count
        if held >= least and sum(expected[number + 1 :]) >= least:
            cuts.append(number + 1)
            held = 0
    return [*cuts, len(expected)]


def _merged(counts: Sequence[int], cuts: Sequence[int]) -> list[int]:
    return [sum(counts[low:high]) for low, high in pairwise(cuts)]


def _chi_squared(freedom: int, share: float) -> float:
    """Return the quantile of chi-squared, after Wilson and Hilferty 1931, doi 10.1073/pnas.17.12.684."""
    if freedom < 1:
        return math.inf
    part = 2 / (9 * freedom)
    return freedom * float(1 - part + NormalDist().inv_cdf(share) * math.sqrt(part)) ** 3
