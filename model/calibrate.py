"""From logits on the validation fold to probabilities that mean something, and to the two thresholds."""

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from model.engine import Limits
from pipeline.verdict import Thresholds

Floats = npt.NDArray[np.float64]

SENSITIVITY = 0.99  # of what is not called normal; the issue of the calibrated model asks for 0.98 held out
SPECIFICITY = 0.98  # of what is not called pneumonia
TYPICAL = 0.98  # the share of these images that is not called atypical
REFUSED = 2.0  # times the limit of atypical lies that of what is refused: beyond every validation image
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
