"""Compute figures with intervals from findings and labels."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from model.data import Origin, Sample
from model.evaluate.bootstrap import Bootstrap, Floats, ImageWeights, Mask, Metric
from model.evaluate.metrics import (
    CALLED,
    ECE_BINS,
    PREVALENCES,
    AtThreshold,
    Group,
    Lower,
    Metrics,
    PredictiveValues,
    Upper,
)
from pipeline.errors import UsageError
from pipeline.verdict import Finding, ModelRef, Thresholds

Ints = npt.NDArray[np.int_]


@dataclass(frozen=True)
class Cases:
    """Hold N labelled images and the network's answers about them, as arrays."""

    truth: Ints  # 1 pneumonia, 0 normal
    viral: Ints  # 1 viral, 0 bacterial, -1 not known or normal
    probability: Floats  # NaN where refused
    called: npt.NDArray[np.str_]  # one of CALLED
    patients: list[str]
    low: Floats  # the thresholds applied to each image; NaN where refused
    high: Floats

    @classmethod
    def of(cls, samples: Sequence[Sample], findings: Sequence[Finding | None]) -> "Cases":
        """Build from samples and findings; raise UsageError when a class has no judged image to measure."""
        truth = np.array([sample.label for sample in samples])
        if len({sample.label for sample, finding in zip(samples, findings, strict=True) if finding}) < 2:
            raise UsageError("too few images were judged to measure anything; are they chest X-rays?")
        return cls(
            truth=truth,
            viral=np.array([sample.viral for sample in samples]),
            probability=np.array([finding.probability if finding else np.nan for finding in findings]),
            called=np.array([finding.label if finding else "refused" for finding in findings]),
            patients=[sample.patient for sample in samples],
            low=np.array([finding.thresholds.normal_below if finding else np.nan for finding in findings]),
            high=np.array(
                [finding.thresholds.pneumonia_above if finding else np.nan for finding in findings]
            ),
        )

    @property
    def judged(self) -> Mask:
        """Return the images that were not refused."""
        return np.asarray(self.called != "refused")

    @property
    def right(self) -> Mask:
        """Return the images whose label matches the data."""
        return np.asarray(self.called == np.where(self.truth == 1, "pneumonia", "normal"))

    @property
    def thresholds(self) -> Thresholds:
        """Return the thresholds, or their medians when they differ between images."""
        return Thresholds(
            normal_below=float(np.nanmedian(self.low)), pneumonia_above=float(np.nanmedian(self.high))
        )

    @property
    def decisions(self) -> Floats:
        """Return each image's decision threshold, which forces a label where `uncertain` is not allowed."""
        return np.round((self.low + self.high) / 2, 4)

    @property
    def decision(self) -> float:
        """Return the decision threshold, or the median when it differs between images."""
        return round(float(np.nanmedian(self.decisions)), 4)


def measure(
    samples: Sequence[Sample],
    findings: Sequence[Finding | None],
    origins: Sequence[Origin] = (),
    model: ModelRef | None = None,
) -> Metrics:
    """Measure findings against the samples' labels; a finding is None when the image was refused.

    Raises UsageError when a class has no judged image.
    """
    cases = Cases.of(samples, findings)
    draws = Bootstrap(cases.patients)
    judged, sick = cases.judged, cases.truth == 1
    truth, probability = cases.truth[judged], cases.probability[judged]
    low, high = cases.thresholds.normal_below, cases.thresholds.pneumonia_above
    called = np.isin(cases.called, ("normal", "pneumonia"))
    return Metrics(
        images=len(samples),
        patients=len(set(cases.patients)),
        normal=int((~sick).sum()),
        pneumonia=int(sick.sum()),
        auc=_known(draws.figure(lambda w: auc(truth, probability, w), judged)),
        average_precision=_known(draws.figure(lambda w: precision(truth, probability, w), judged)),
        brier=_known(draws.mean((cases.probability - cases.truth) ** 2, judged)),
        ece=_known(draws.figure(lambda w: calibration_error(truth, probability, w), judged)),
        at_decision=_at(cases, draws, cases.decisions, cases.decision),
        at_half=_at(cases, draws, np.full(len(cases.truth), 0.5), 0.5),
        not_called_normal=Lower(
            threshold=low, sensitivity=_known(draws.share(cases.probability >= cases.low, judged & sick))
        ),
        not_called_pneumonia=Upper(
            threshold=high, specificity=_known(draws.share(cases.probability <= cases.high, judged & ~sick))
        ),
        uncertain=_known(draws.share(cases.called == "uncertain", judged)),
        refused=_known(draws.share(~judged, np.ones_like(judged))),
        right_when_certain=draws.share(cases.right, called),
        predictive_values=_predictive_values(cases, draws),
        called=_called(cases),
        groups=[_group(name, cases, draws, mask) for name, mask in _groups(cases, origins) if mask.any()],
        model=model,
    )


def auc(truth: Ints, score: Floats, weights: ImageWeights) -> float:
    """Return the area under the ROC curve; NaN when the weights leave one class.

    Computed as the share of pairs in the right order, with ties counted half (Mann and Whitney 1947), which
    is many times faster in a bootstrap than integrating the curve.
    """
    sick, well = _counts(truth, score, weights)
    pairs = float(sick.sum() * well.sum())
    return float(sick @ (well.cumsum() - well / 2)) / pairs if pairs else math.nan


def precision(truth: Ints, score: Floats, weights: ImageWeights) -> float:
    """Return the average precision; NaN when the weights leave one class."""
    sick, well = _counts(truth, score, weights)
    if not sick.any() or not well.any():
        return math.nan
    found, called = sick[::-1].cumsum(), (sick + well)[::-1].cumsum()
    return float(sick[::-1] @ (found / np.maximum(called, 1e-9)) / sick.sum())


def _counts(truth: Ints, score: Floats, weights: ImageWeights) -> tuple[Floats, Floats]:
    """Return the weights of the sick and of the well at each distinct score, from the lowest up."""
    place = np.unique(score, return_inverse=True)[1]
    sick, well = (np.bincount(place, weights * (truth == label)) for label in (1, 0))
    return np.asarray(sick, np.float64), np.asarray(well, np.float64)


def calibration_error(truth: Ints, probability: Floats, weights: ImageWeights | None = None) -> float:
    """Return the expected calibration error: |mean P - share of pneumonia| in equal-width bins of P, weighted
    by bin size.
    """
    weights = np.ones(len(truth), np.float32) if weights is None else weights
    gaps = np.bincount(bins_of(probability), weights * (probability - truth), ECE_BINS)
    return float(np.abs(gaps).sum() / weights.sum()) if weights.any() else math.nan


def bins_of(probability: Floats) -> npt.NDArray[np.intp]:
    """Return the bin of each P, 0 to ECE_BINS - 1."""
    return np.minimum((probability * ECE_BINS).astype(np.intp), ECE_BINS - 1)


def _known(metric: Metric | None) -> Metric:
    """Return a metric that cannot be None, since `Cases` has judged images of both classes."""
    assert metric is not None
    return metric


def _at(cases: Cases, draws: Bootstrap, thresholds: Floats, threshold: float) -> AtThreshold:
    sick, judged = cases.truth == 1, cases.judged
    hit = (cases.probability > thresholds) == sick
    return AtThreshold(
        threshold=threshold,
        accuracy=_known(draws.share(hit, judged)),
        sensitivity=_known(draws.share(hit, judged & sick)),
        specificity=_known(draws.share(hit, judged & ~sick)),
    )


def _predictive_values(cases: Cases, draws: Bootstrap) -> list[PredictiveValues]:
    """Return the predictive values of the two confident labels at each prevalence."""
    sick, well = (cases.judged & (cases.truth == label) for label in (1, 0))
    pneumonia, normal = cases.called == "pneumonia", cases.called == "normal"
    found, alarmed = _known(draws.share(pneumonia, sick)), _known(draws.share(pneumonia, well))
    cleared, missed = _known(draws.share(normal, well)), _known(draws.share(normal, sick))
    return [
        PredictiveValues(
            prevalence=prevalence,
            ppv=predictive_value(found, alarmed, prevalence),
            npv=predictive_value(cleared, missed, 1 - prevalence),
        )
        for prevalence in PREVALENCES
    ]


def predictive_value(right: Metric, wrong: Metric, share: float) -> Metric | None:
    """Return how often a label is right, by Bayes' rule; None when it is never given.

    `right` is the share of the class it names that gets the label, `wrong` that of the other class, and
    `share` is the prevalence of the class it names.
    """

    def bayes(right: float, wrong: float) -> float:
        return right * share / (right * share + wrong * (1 - share))

    if right.value + wrong.value == 0:
        return None
    return Metric.rounded(
        bayes(right.value, wrong.value), bayes(right.low, wrong.high), bayes(right.high, wrong.low)
    )


def _called(cases: Cases) -> dict[Literal["normal", "pneumonia"], dict[str, int]]:
    counts = {
        label: {word: int((cases.called[cases.truth == label] == word).sum()) for word in CALLED}
        for label in (0, 1)
    }
    return {"normal": counts[0], "pneumonia": counts[1]}


def _groups(cases: Cases, origins: Sequence[Origin]) -> Iterator[tuple[str, Mask]]:
    """Yield groups for which the network may be weaker than its average suggests."""
    yield "bacterial", cases.viral == 0
    yield "viral", cases.viral == 1
    if not origins:
        return
    yield "files in colour", np.array([origin.colour for origin in origins])
    area = np.array([(origin.width or 0) * (origin.height or 0) for origin in origins])
    known = area > 0
    small = known & (area < np.median(area[known])) if known.any() else known
    if small.any():
        yield "smaller half of the originals", small
        yield "larger half of the originals", known & ~small


def _group(name: str, cases: Cases, draws: Bootstrap, members: Mask) -> Group:
    among = members & cases.judged
    truth, probability = cases.truth[among], cases.probability[among]
    right = (cases.probability > cases.decisions) == (cases.truth == 1)
    return Group(
        name=name,
        images=int(members.sum()),
        patients=len({patient for patient, inside in zip(cases.patients, members, strict=True) if inside}),
        right=draws.share(right, among),
        auc=draws.figure(lambda w: auc(truth, probability, w), among) if among.any() else None,
        uncertain=draws.share(cases.called == "uncertain", among),
        refused=_known(draws.share(~cases.judged, members)),
    )
