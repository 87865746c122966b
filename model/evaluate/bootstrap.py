"""Compute figures with 95 % intervals by a bootstrap over patients (Efron and Tibshirani 1993, chapter 13).

Images of one patient are alike, so whole patients are drawn, with replacement. A draw is a weight for each
image: how often its patient was drawn. The seed is fixed, so the same images give the same intervals.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

Floats = npt.NDArray[np.float64]
ImageWeights = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

METHOD = "by bootstrap over patients (exact where a share is 0 or 1)"  # of the intervals
_RESAMPLES = 1000
_TAIL = 0.025  # share of the draws on each side of the interval
_DIGITS = 4


class Metric(BaseModel):
    """Hold a figure with its 95 % interval from a bootstrap over patients; see `Bootstrap.share`."""

    value: float = Field(description="measured on all images")
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end of the 95 % interval")

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    @classmethod
    def rounded(cls, value: float, low: float, high: float) -> "Metric":
        """Build a metric rounded to four digits."""
        return cls(value=round(value, _DIGITS), low=round(low, _DIGITS), high=round(high, _DIGITS))


class Bootstrap:
    """Draw the patients of N images, with replacement."""

    def __init__(self, patients: Sequence[str]) -> None:
        self._patients = np.array(patients)
        names, owner = np.unique(self._patients, return_inverse=True)
        drawn = np.random.default_rng(0).multinomial(
            len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES
        )
        everyone = np.ones((1, len(patients)), np.float32)
        self._weights: ImageWeights = np.vstack([everyone, drawn[:, owner]]).astype(np.float32)

    def band(self, function: Callable[[ImageWeights], npt.ArrayLike], among: Mask) -> Floats:
        """Return value, low and high, [3, ...], of any function of the weights of the images in `among`.

        Draws for which the function is undefined (NaN) do not count.
        """
        rows = np.array([function(weights) for weights in self._weights[:, among]], np.float64)
        return np.stack([rows[0], *_interval(rows[1:])])

    def figure(self, function: Callable[[ImageWeights], float], among: Mask) -> Metric | None:
        """Return the metric of a function that gives one number; None where it is undefined."""
        value, low, high = self.band(function, among)
        return None if np.isnan(value) else Metric.rounded(float(value), float(low), float(high))

    def mean(self, values: npt.ArrayLike, among: Mask) -> Metric | None:
        """Return the mean of the values, [N], over the images in `among`; None when there are none."""
        if not among.any():
            return None
        weights = self._weights[:, among]
        total = weights.sum(1)
        means = np.full(len(weights), np.nan)
        np.divide(weights @ np.asarray(values, np.float64)[among], total, out=means, where=total > 0)
        value, low, high = (float(end) for end in (means[0], *_interval(means[1:])))
        return Metric.rounded(value, low, high)

    def share(self, hits: Mask, among: Mask) -> Metric | None:
        """Return the share of hits among some images; None when there are none.

        When all images are hits, or none, every draw agrees and the bootstrap would claim certainty. Then the
        exact interval for that many patients is used instead (Clopper and Pearson 1934).
        """
        metric = self.mean(hits, among)
        if metric is None or 0 < hits[among].mean() < 1:
            return metric
        reach = 1 - _TAIL ** (1 / len(set(self._patients[among])))
        return Metric.rounded(metric.value, max(metric.value - reach, 0), min(metric.value + reach, 1))


def _interval(rows: Floats) -> tuple[Floats, Floats]:
    """Return the percentiles of the draws over the first axis, NaN where no draw counts."""
    seen = np.isfinite(rows).any(axis=0)
    low, high = np.nanpercentile(np.where(seen, rows, 0), [100 * _TAIL, 100 * (1 - _TAIL)], axis=0)
    return np.where(seen, low, np.nan), np.where(seen, high, np.nan)
