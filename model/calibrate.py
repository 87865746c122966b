"""From logits on the validation fold to probabilities that mean something, and to the two thresholds."""

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from model.engine import Limits
from pipeline.verdict import Interval, Thresholds

Floats = npt.NDArray[np.float64]

SENSITIVITY = 0.99  # of what is not called normal
SPECIFICITY = 0.98  # of what is not called pneumonia
TYPICAL = 0.98  # the share of these images that is not called atypical
REFUSED = 1.9  # times the limit of atypical lies that of what is refused: beyond every validation image
PATTERN_AUC = 0.8  # the lower end of its interval, below which bacterial or viral is not shown
_RESAMPLES = 1000
_NARROWEST = (0.35, 0.65)  # P in here is never a confident label, however well the validation fold separates


def fit_platt(logits: Floats, truth: npt.NDArray[np.int_]) -> tuple[float, float]:
    """Slope and offset of P = sigmoid(slope * logit + offset), by maximum likelihood (Platt 1999)."""
    fitted = LogisticRegression(C=1e3).fit(logits[:, None], truth)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def choose_limits(distance: Floats) -> Limits:
    """The limits of the distance to the training images."""
    atypical = float(np.quantile(distance, TYPICAL))
    return Limits(atypical_above=round(atypical, 1), refused_above=round(REFUSED * atypical, 1))


def choose_thresholds(probability: Floats, truth: npt.NDArray[np.int_]) -> Thresholds:
    """The widest confident ranges that keep SENSITIVITY below and SPECIFICITY above on these images."""
    normal_below = float(np.quantile(probability[truth == 1], 1 - SENSITIVITY))
    pneumonia_above = float(np.quantile(probability[truth == 0], SPECIFICITY))
    return Thresholds(
        normal_below=round(min(normal_below, _NARROWEST[0]), 4),
        pneumonia_above=round(max(pneumonia_above, _NARROWEST[1]), 4),
    )


def pattern_auc(
    logits: Floats, viral: npt.NDArray[np.int_], patients: npt.NDArray[np.str_]
) -> Interval | None:
    """How well viral is told from bacterial, where `viral` is known (not -1); None if too badly to be shown.

    The 95 % interval is a bootstrap over patients.
    """
    known = viral >= 0
    logits, viral, patients = logits[known], viral[known], patients[known]
    if len(set(viral)) < 2:
        return None
    random, names = np.random.default_rng(0), np.unique(patients)
    members = {name: np.flatnonzero(patients == name) for name in names}
    draws = [
        np.concatenate([members[name] for name in random.choice(names, len(names))])
        for _ in range(_RESAMPLES)
    ]
    areas = [roc_auc_score(viral[draw], logits[draw]) for draw in draws if len(set(viral[draw])) == 2]
    low, high = np.percentile(areas, [2.5, 97.5])
    value = float(roc_auc_score(viral, logits))
    if low < PATTERN_AUC:
        return None
    return Interval(value=round(value, 3), low=round(float(low), 3), high=round(float(high), 3))
