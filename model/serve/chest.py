"""Find the chest, roughly and quickly, to notice evidence that lies beside it."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.serve.borders import Box
from model.serve.preprocess import Array

_SIDE = 64  # pixels a side of the image that is searched
_NEAR = 10  # rows above and below whose edges also count, since low in the lungs the wall is thin


def outside_share(gray: Image.Image, box: Box, grid: Array) -> float:
    """Return the share of a map's evidence for pneumonia, [h, w], that lies beside the body, 0 to 1.

    `box` is the part of the image that the map covers.
    """
    size, body = (grid.shape[1], grid.shape[0]), find_body(gray, box)
    inside = Image.fromarray(body.astype(np.float32)).resize(size, Image.Resampling.BOX)
    evidence = np.maximum(grid, 0)
    total = float(evidence.sum())
    return float((evidence * (1 - np.asarray(inside))).sum()) / total if total > 0 else 0.0


def find_body(gray: Image.Image, box: Box) -> npt.NDArray[np.bool_]:
    """Return a mask of the body, [64, 64]: each row is filled from the first to the last bright place."""
    small = np.asarray(gray.resize((_SIDE, _SIDE), Image.Resampling.BOX, box))
    bright = small > otsu(small)
    has = bright.any(1)
    left = np.where(has, bright.argmax(1), _SIDE)
    right = np.where(has, _SIDE - bright[:, ::-1].argmax(1), 0)
    left, right = _around(left).min(1), _around(right).max(1)
    columns = np.arange(_SIDE)
    return np.asarray((columns >= left[:, None]) & (columns < right[:, None]))


def _around(edges: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return each row's edge and those of the rows near it, [64, 21]."""
    padded = np.pad(edges, _NEAR, "edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEAR + 1))


def otsu(values: npt.NDArray[np.uint8 | np.float32]) -> int:
    """Return the level that separates dark from bright best (Otsu 1979, doi 10.1109/TSMC.1979.4310076)."""
    counts, levels = np.bincount(values.ravel().astype(np.intp), minlength=256), np.arange(256)
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * levels).cumsum()
    parted = (below > 0) & (above > 0)
    if not parted.any():
        return int(values.max())  # all of one level
    means = sums[parted] / below[parted], (sums[-1] - sums[parted]) / above[parted]
    return int(levels[parted][(below[parted] * above[parted] * (means[0] - means[1]) ** 2).argmax()])
