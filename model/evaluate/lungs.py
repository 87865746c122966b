"""Find the lungs in a normal X-ray from the image's own structure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.evaluate.bootstrap import Mask
from model.serve.chest import otsu

Gray = npt.NDArray[np.float32]  # [h, w], 0 to 255

SIDE = 256  # pixels a side of the image that is searched
_CENTRES = (0.5, 0.28), (0.5, 0.72)  # of the lungs in a chest X-ray, as shares of its height and width
_NEAR, _ASTRAY = 0.15, 0.14  # from an expected centre: where most of a lung lies; how far off it may be


@dataclass(frozen=True)
class Field:
    """Hold the masks of body and lungs, [SIDE, SIDE]; the right lung (left in the image) comes first."""

    body: Mask
    lungs: tuple[Mask, Mask]


def find_field(gray: Gray) -> Field | None:
    """Find the lungs: the two large dark areas inside the bright body, one on each side.

    Returns None when there are no such areas, as in many pneumonias.
    """
    smooth = ndimage.gaussian_filter(gray, SIDE / 64)
    body = _between(_largest(_closed(smooth > otsu(smooth), (SIDE // 20, SIDE // 20))))
    body = _closed(body, (SIDE // 3, 1))  # low in the lungs the wall is thin and dark
    inside = ndimage.binary_erosion(body, iterations=SIDE // 32)
    if not inside.any():
        return None
    dark = inside & (smooth < otsu(smooth[inside]))
    dark = ndimage.binary_opening(dark, iterations=SIDE // 50)
    lungs = []
    for expected in _CENTRES:
        part = _largest(dark, _around(expected))
        part = ndimage.binary_fill_holes(ndimage.binary_closing(part, iterations=SIDE // 32))
        centre = np.divide(ndimage.center_of_mass(part), SIDE) if part.any() else np.zeros(2)
        if not 0.03 < part.mean() < 0.25 or np.abs(centre - expected).max() > _ASTRAY:
            return None
        lungs.append(part)
    return Field(body, (lungs[0], lungs[1]))


def _largest(mask: Mask, within: Mask | None = None) -> Mask:
    """Return the connected part that is largest, overall or within a part of the image."""
    labels, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(labels[within] if within is not None else labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax()) if sizes.any() else np.zeros_like(mask)


def _around(centre: tuple[float, float]) -> Mask:
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    return np.asarray(np.hypot(rows - centre[0], columns - centre[1]) < _NEAR)


def _closed(mask: Mask, size: tuple[int, int]) -> Mask:
    """Close gaps smaller than a rectangle; a part that touches the image's edge is taken to continue beyond
    it.
    """
    margin = max(size)
    # Gray closing works axis by axis: eight times as fast as binary_closing, with the same mask.
    closed = ndimage.grey_closing(np.pad(mask, margin, "edge").astype(np.uint8), size)
    return np.asarray(closed[margin:-margin, margin:-margin] > 0)


def _between(mask: Mask) -> Mask:
    """Fill each row from the first to the last place of the mask."""
    return np.logical_or.accumulate(mask, 1) & np.logical_or.accumulate(mask[:, ::-1], 1)[:, ::-1]
