"""How a calibration carries over to an era that it was not fitted to: `python -m model.train.eras RUN`.

Of what the witnesses of a finished run said (`model.train.witness`), each era is judged by a calibration that
was fitted to the other eras. Ways to calibrate stand beside each other: Platt on clean images alone or on
stressed ones too, one temperature (Guo et al. 2017, arXiv:1706.04599), isotonic regression.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression

from model.calibrate import Floats, choose_thresholds, fit_platt
from model.data import Sample
from model.evaluate.measure import measure
from model.evaluate.metrics import Metrics
from model.serve.engine import Calibration, Limits, Outputs, interpret
from model.train.witness import Testimony, heard
from pipeline.records import ImageFacts
from pipeline.verdict import Finding

Ints = npt.NDArray[np.int_]
Probability = Callable[[Floats], Floats]


def platt(logits: Floats, truth: Ints) -> Probability:
    """Fit a slope and an offset."""
    slope, offset = fit_platt(logits, truth)
    return lambda these: _sigmoid(slope * these + offset)


def temperature(logits: Floats, truth: Ints) -> Probability:
    """Fit a slope alone, by maximum likelihood."""

    def cost(log_slope: float) -> float:
        signed = np.where(truth == 1, 1, -1) * logits * np.exp(log_slope)
        return float(np.logaddexp(0, -signed).mean())

    slope = float(np.exp(minimize_scalar(cost, bounds=(-3, 3), method="bounded").x))
    return lambda these: _sigmoid(slope * these)


def isotonic(logits: Floats, truth: Ints) -> Probability:
    """Fit any rising curve of steps."""
    curve = IsotonicRegression(out_of_bounds="clip", y_min=1e-3, y_max=1 - 1e-3).fit(logits, truth)
    return lambda these: np.asarray(curve.predict(these))


WAYS: dict[str, tuple[Callable[[Floats, Ints], Probability], bool]] = {  # and whether it sees stressed ones
    "Platt, clean and stressed": (platt, True),
    "Platt, clean": (platt, False),
    "temperature, clean and stressed": (temperature, True),
    "isotonic, clean and stressed": (isotonic, True),
}


def carried_over(said: Testimony, way: str, era: int) -> dict[str, Metrics]:
    """Measure one era, clean and stressed, by a calibration of the others."""
    fit, sees_stressed = WAYS[way]
    clean = said.stress == "none"
    others = (said.era != era) & (clean | sees_stressed)
    logits = said.logits[:, 0].astype(np.float64)
    probability = fit(logits[others], said.truth[others])
    thresholds = choose_thresholds(probability(logits[others]), said.truth[others])
    calibration = Calibration(
        name="cxr",
        version="0",
        size=0,
        slope=1,
        offset=0,
        prevalence=0.5,
        thresholds=thresholds,
        typicality=Limits(atypical_above=1, refused_above=2),
        outside_above=0,
    )
    measured = {}
    for name, chosen in (("clean", clean), ("stressed", ~clean)):
        places = np.flatnonzero((said.era == era) & chosen)
        p = np.clip(probability(logits[places]), 1e-6, 1 - 1e-6)
        findings: list[Finding | None] = [_finding(calibration, float(np.log(one / (1 - one)))) for one in p]
        measured[name] = measure([_sample(said, place) for place in places], findings)
    return measured


def _finding(calibration: Calibration, log_odds: float) -> Finding:
    """Return what the engine says of a typical image."""
    parts = ([log_odds, 0.0], [[0.0]], 0.0, -9.0)
    said = Outputs(*(np.asarray(part, np.float32) for part in parts))
    return interpret(calibration, said, ImageFacts(media_type="image/jpeg", width=1, height=1))


def _sample(said: Testimony, place: np.intp) -> Sample:
    truth, viral = int(said.truth[place]), int(said.viral[place])
    return Sample(Path(), truth, viral, str(said.patient[place]), "report", int(said.era[place]))


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))))


def _row(name: str, of: Metrics) -> str:
    at = of.at_decision
    figures = (of.auc, at.accuracy, at.sensitivity, at.specificity, of.ece, of.uncertain)
    limits = f"{of.not_called_normal.threshold:.3f}, {of.not_called_pneumonia.threshold:.3f}"
    return f"| {name} | {of.images} | {limits} | {' | '.join(map(str, figures))} | {of.right_when_certain} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("run", type=Path, help="the folder of a finished `cxr train`")
    said = heard(sorted(path for path in parser.parse_args().run.glob("witness-*") if path.is_dir()))
    names = ("accuracy", "sensitivity", "specificity", "calibration error", "uncertain")
    lines = [
        f"| | images | thresholds | AUC | {' | '.join(names)} | right among the others |",
        "|---" * 10 + "|",
    ]
    for way in WAYS:
        for era in np.unique(said.era):
            for kind, metrics in carried_over(said, way, int(era)).items():
                lines.append(_row(f"{way}; era {era + 1}, {kind}", metrics))
    sys.stdout.write("\n".join(lines) + "\n")
