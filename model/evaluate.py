"""Metrics with 95 % confidence intervals, from the serving engine itself."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel
from sklearn.metrics import roc_auc_score

from model.data import Sample, load_samples
from model.engine import Engine
from pipeline.errors import InputRejected, UsageError
from pipeline.settings import Settings
from pipeline.verdict import Finding

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
_RESAMPLES = 1000
_BINS = 15  # of the expected calibration error: Guo et al. 2017, arXiv:1706.04599


class Metric(BaseModel):
    """A figure with its 95 % interval, from a bootstrap over patients."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Metrics(BaseModel):
    """What was measured, on how many."""

    images: int
    patients: int
    auc: Metric
    accuracy: Metric  # of P against one half
    sensitivity: Metric
    specificity: Metric
    ece: Metric
    refused: Metric  # share of all images; the other figures are of those that were not
    uncertain: Metric
    right_when_certain: Metric  # of the images with one of the other two labels


def evaluate_folder(data: Path, settings: Settings, everything: bool = False) -> Metrics:
    """Judge the labelled images under `data` and measure.

    Where a manifest names a fixed fold, only its patients count, unless `everything`: the rest were learned
    from.
    """
    samples = [sample for sample in load_samples(data) if everything or sample.fold == "report"]
    if {sample.label for sample in samples} != {0, 1}:
        raise UsageError(f"{data} has too few images outside training; measure them all with --all")
    engine = Engine.of(settings)
    with ThreadPoolExecutor(settings.threads) as pool:
        findings = list(pool.map(lambda sample: _finding(engine, sample), samples))
    return measure(samples, findings)


def _finding(engine: Engine, sample: Sample) -> Finding | None:
    try:
        return engine.examine(sample.path.read_bytes()).finding
    except InputRejected:
        return None


def measure(samples: list[Sample], findings: list[Finding | None]) -> Metrics:
    """The metrics of findings against the samples' labels; None where the image was refused."""
    truth = np.array([sample.label for sample in samples])
    refused = np.array([finding is None for finding in findings])
    probability = np.array([finding.probability if finding else np.nan for finding in findings])
    labels = np.array([finding.label if finding else "" for finding in findings])
    right = labels == np.where(truth, "pneumonia", "normal")
    hit = (probability > 0.5) == (truth == 1)
    functions: dict[str, Callable[[Indices], float]] = {
        "auc": lambda i: float(roc_auc_score(truth[i], probability[i])),
        "accuracy": lambda i: float(hit[i].mean()),
        "sensitivity": lambda i: float(hit[i][truth[i] == 1].mean()),
        "specificity": lambda i: float(hit[i][truth[i] == 0].mean()),
        "ece": lambda i: calibration_error(truth[i], probability[i]),
        "uncertain": lambda i: float((labels[i] == "uncertain").mean()),
        "right_when_certain": lambda i: float(right[i][labels[i] != "uncertain"].mean()),
    }
    patients = [sample.patient for sample in samples]
    draws = _bootstrap(patients, truth)
    figures = {name: _metric(_of_judged(function, refused), draws) for name, function in functions.items()}
    figures["refused"] = _metric(lambda i: float(refused[i].mean()), draws)
    return Metrics(images=len(samples), patients=len(set(patients)), **figures)


def _of_judged(
    function: Callable[[Indices], float], refused: npt.NDArray[np.bool_]
) -> Callable[[Indices], float]:
    return lambda indices: function(indices[~refused[indices]])


def calibration_error(truth: npt.NDArray[np.int_], probability: Floats) -> float:
    """Expected calibration error: |mean P - share of pneumonia| in
    equal-width bins of P, weighted by their size.
    """
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(probability[bins == b].mean() - truth[bins == b].mean()) * np.mean(bins == b)
        for b in np.unique(bins)
    ]
    return float(np.sum(gaps))


def table(metrics: Metrics) -> str:
    """The metrics for a person's eyes."""
    figures = {name: value for name, value in metrics if isinstance(value, Metric)}
    lines = [
        f"{metrics.images} images of {metrics.patients} patients; 95 % intervals by bootstrap over patients"
    ]
    return "\n".join(lines + [f"  {name.replace('_', ' '):20} {value}" for name, value in figures.items()])


def _bootstrap(patients: list[str], truth: npt.NDArray[np.int_]) -> list[Indices]:
    """All indices, then those of resampled patients, with a fixed
    seed; draws of a single class are left out.
    """
    groups: dict[str, list[int]] = {}
    for index, patient in enumerate(patients):
        groups.setdefault(patient, []).append(index)
    members = [np.array(group) for group in groups.values()]
    random = np.random.default_rng(0)
    drawn = (random.integers(len(members), size=len(members)) for _ in range(_RESAMPLES))
    draws = (np.concatenate([members[i] for i in indices]) for indices in drawn)
    return [np.arange(len(patients)), *(draw for draw in draws if 0 < truth[draw].mean() < 1)]


def _metric(function: Callable[[Indices], float], draws: list[Indices]) -> Metric:
    value, *resampled = (round(function(draw), 4) for draw in draws)
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Metric(value=value, low=round(float(low), 4), high=round(float(high), 4))
