"""Measure how a calibration carries over to an era that it was not fitted to.

Usage: `python -m model.train.eras RUN`. The witnesses of a finished run have judged their eras
(`model.train.witness`); each era is measured with a calibration fitted to the other eras. Several methods are
compared: Platt on clean images alone or on stressed ones too, one temperature (Guo et al. 2017,
arXiv:1706.04599), isotonic regression.

With the training data, `python -m model.train.eras RUN DATA`, films that look unlike the rest are measured
separately, with the calibration method in use.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import white_tophat
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression

from model.calibrate import choose_thresholds, fit_platt
from model.data import Sample, load_pixels, load_samples
from model.evaluate.bootstrap import Floats, Mask
from model.evaluate.measure import Ints, measure
from model.evaluate.metrics import Metrics
from model.serve.engine import Calibration, Limits, Outputs, interpret
from model.train.witness import Testimony, heard
from pipeline.errors import UsageError
from pipeline.records import ImageFacts
from pipeline.verdict import Finding

_TENTH = 0.1  # share of the films that count as flattest or brightest
_STROKE = (1, 5, 5)  # in 224 pixels: brighter structures thinner than this are strokes of letters
_STANDS_OUT = 60  # grey levels by which a stroke is brighter than its surroundings
_TIME, _VOLTAGE = (slice(None, 12), slice(-36, None)), (slice(-14, None), slice(-28, None))  # top, bottom
_WRITTEN = (15, 10)  # least number of stroke pixels in each place

_Curve = Callable[[Floats], Floats]


def platt(logits: Floats, truth: Ints) -> _Curve:
    """Fit a slope and an offset."""
    slope, offset = fit_platt(logits, truth)
    return lambda these: _sigmoid(slope * these + offset)


def temperature(logits: Floats, truth: Ints) -> _Curve:
    """Fit a slope alone, by maximum likelihood."""

    def cost(log_slope: float) -> float:
        signed = np.where(truth == 1, 1, -1) * logits * np.exp(log_slope)
        return float(np.logaddexp(0, -signed).mean())

    slope = float(np.exp(minimize_scalar(cost, bounds=(-3, 3), method="bounded").x))
    return lambda these: _sigmoid(slope * these)


def isotonic(logits: Floats, truth: Ints) -> _Curve:
    """Fit any rising curve of steps."""
    curve = IsotonicRegression(out_of_bounds="clip", y_min=1e-3, y_max=1 - 1e-3).fit(logits, truth)
    return lambda these: np.asarray(curve.predict(these))


WAYS: dict[str, tuple[Callable[[Floats, Ints], _Curve], bool]] = {  # and if it sees stressed images
    "Platt, clean and stressed": (platt, True),
    "Platt, clean": (platt, False),
    "temperature, clean and stressed": (temperature, True),
    "isotonic, clean and stressed": (isotonic, True),
}


def carried_over(said: Testimony, way: str, era: int) -> dict[str, Metrics]:
    """Measure one era, clean and stressed, with a calibration fitted to the other eras."""
    clean, of_era = said.stress == "none", said.era == era
    return {
        name: _measured(said, places, _judged(said, way, era, places))
        for name, places in (
            ("clean", np.flatnonzero(of_era & clean)),
            ("stressed", np.flatnonzero(of_era & ~clean)),
        )
    }


def by_film(said: Testimony, way: str, pixels: npt.NDArray[np.uint8]) -> dict[str, Metrics]:
    """Measure kinds of film, each beside all others, with a calibration of the other eras for each era.

    `pixels` are those of the clean images, in their order. A kind that lacks one class is left out.
    """
    places = np.flatnonzero(said.stress == "none")
    findings: dict[np.intp, Finding] = {}
    for era in np.unique(said.era):
        own = places[said.era[places] == era]
        findings |= zip(own, _judged(said, way, int(era), own), strict=True)
    measured = {}
    for kind, chosen in kinds_of_film(pixels, said.truth[places]).items():
        for name, among in ((kind, places[chosen]), (f"not: {kind}", places[~chosen])):
            if len(set(said.truth[among])) == 2:
                measured[name] = _measured(said, among, [findings[place] for place in among])
    return measured


def kinds_of_film(pixels: npt.NDArray[np.uint8], truth: Ints) -> dict[str, Mask]:
    """Find the flattest films, the brightest, and those with time and tube voltage burned in, [N, 224, 224].

    Few normal films are flat or bright, so the top tenth of each class is listed beside the top tenth of all.
    In this archive the time is in the upper right corner, the voltage in the lower right one.
    """
    flatness, brightness = -pixels.std((1, 2)), pixels.mean((1, 2))
    strokes = [
        (white_tophat(pixels[:, rows, columns], size=_STROKE) > _STANDS_OUT).sum((1, 2))
        for rows, columns in (_TIME, _VOLTAGE)
    ]
    return {
        "flattest tenth": _highest(flatness),
        "flattest tenth of each class": _highest(flatness, truth),
        "brightest tenth": _highest(brightness),
        "brightest tenth of each class": _highest(brightness, truth),
        "time and voltage burned in": (strokes[0] >= _WRITTEN[0]) & (strokes[1] >= _WRITTEN[1]),
    }


def _highest(values: Floats, classes: Ints | None = None) -> Mask:
    """Return a mask of the tenth of images with the highest values, of all or of each class."""
    classes = np.zeros(len(values), np.int_) if classes is None else classes
    limits = {label: np.quantile(values[classes == label], 1 - _TENTH) for label in np.unique(classes)}
    return np.array([value >= limits[label] for value, label in zip(values, classes, strict=True)])


def pixels_of(said: Testimony, data: Path) -> npt.NDArray[np.uint8]:
    """Return the clean images that the witnesses judged, in their order; raise UsageError for other data."""
    known = [sample for sample in load_samples(data) if sample.fold != "report"]
    samples = [sample for era in np.unique(said.era) for sample in known if sample.era == era]
    if [sample.patient for sample in samples] != said.patient[said.stress == "none"].tolist():
        raise UsageError(f"{data} does not hold the images that this run's witnesses judged")
    return load_pixels(samples)


def _judged(said: Testimony, way: str, era: int, places: npt.NDArray[np.intp]) -> list[Finding]:
    """Judge images of an era with a calibration fitted to the other eras."""
    fit, sees_stressed = WAYS[way]
    others = (said.era != era) & ((said.stress == "none") | sees_stressed)
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
    p = np.clip(probability(logits[places]), 1e-6, 1 - 1e-6)
    return [_finding(calibration, float(np.log(one / (1 - one)))) for one in p]


def _measured(said: Testimony, places: npt.NDArray[np.intp], findings: Sequence[Finding | None]) -> Metrics:
    return measure([_sample(said, place) for place in places], findings)


def _finding(calibration: Calibration, log_odds: float) -> Finding:
    """Return the engine's finding for a typical image with these log odds."""
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


def _main(run: Path, data: Path | None) -> None:
    """Print the tables."""
    said = heard(sorted(path for path in run.glob("witness-*") if path.is_dir()))
    names = ("accuracy", "sensitivity", "specificity", "calibration error", "uncertain")
    lines = [f"| | images | thresholds | AUC | {' | '.join(names)} | right when certain |", "|---" * 10 + "|"]
    if data:
        measured = by_film(said, next(iter(WAYS)), pixels_of(said, data))
        lines += [_row(f"{name} ({metrics.normal} normal)", metrics) for name, metrics in measured.items()]
    else:
        for way in WAYS:
            for era in np.unique(said.era):
                for kind, metrics in carried_over(said, way, int(era)).items():
                    lines.append(_row(f"{way}; era {era + 1}, {kind}", metrics))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a finished `cxr train`")
    parser.add_argument("data", type=Path, nargs="?", help="its training data, to measure kinds of film")
    arguments = parser.parse_args()
    _main(arguments.run, arguments.data)
