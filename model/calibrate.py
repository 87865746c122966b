"""Turn logits into calibrated probabilities, and choose the two thresholds."""

import numpy as np
import numpy.typing as npt

from model.serve.engine import Limits
from pipeline.verdict import Thresholds

_Floats = npt.NDArray[np.float64]

SENSITIVITY = 0.99  # the share of pneumonias that must not be called normal
SPECIFICITY = 0.98  # the share of normal images that must not be called pneumonia
TYPICAL = 0.975  # the share of the fitted images within each limit: of typicality, of the other population
REFUSED = 1.6  # times the atypical limit: images above this distance are refused; no validation image is
_STEPS, _DONE, _LEAST = 100, 1e-8, 1e-12  # of Newton's method: most steps, tolerance, least divisor
_RIDGE = 1e-3  # on the slope, which stays finite when the classes separate perfectly
_NARROWEST = (0.35, 0.65)  # P in this range never gets a confident label, however well the classes separate


def fit_platt(logits: _Floats, truth: npt.NDArray[np.int_]) -> tuple[float, float]:
    """Fit slope and offset of P = sigmoid(slope * logit + offset) by maximum likelihood (Platt 1999)."""
    middle, spread = float(logits.mean()), float(logits.std()) or 1.0
    inputs = np.column_stack([(logits - middle) / spread, np.ones(len(logits))])
    found, ridge = np.zeros(2), np.diag([_RIDGE / spread**2, 0.0])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(inputs @ found, -60, 60)))
        slope = inputs.T @ (p - truth) + ridge @ found
        step = np.linalg.solve(
            (inputs * (p * (1 - p))[:, None]).T @ inputs + ridge + _LEAST * np.eye(2), slope
        )
        found = found - step * min(1, 4 / max(np.abs(step).max(), _LEAST))  # a full step may overshoot
        if np.abs(step).max() < _DONE:
            break
    return float(found[0] / spread), float(found[1] - found[0] * middle / spread)


def choose_limits(distance: _Floats) -> Limits:
    """Choose the limits of the distance to the training images."""
    atypical = float(np.quantile(distance, TYPICAL))
    return Limits(atypical_above=round(atypical, 1), refused_above=round(REFUSED * atypical, 1))


def choose_thresholds(probability: _Floats, truth: npt.NDArray[np.int_]) -> Thresholds:
    """Choose the widest confident ranges that keep SENSITIVITY below and SPECIFICITY above."""
    normal_below = float(np.quantile(probability[truth == 1], 1 - SENSITIVITY))
    pneumonia_above = float(np.quantile(probability[truth == 0], SPECIFICITY))
    return Thresholds(
        normal_below=round(min(normal_below, _NARROWEST[0]), 4),
        pneumonia_above=round(max(pneumonia_above, _NARROWEST[1]), 4),
    )
