"""From the stored values of a deep image to the 8-bit gray that a viewer shows (DICOM PS3.3 C.11)."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]

Shape = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

_DARKEST, _BRIGHTEST = 0.005, 0.995  # shares of the pixels: what is stretched without a window


@dataclass(frozen=True)
class Rescale:
    """A straight line, from stored values to those of the modality."""

    slope: float
    intercept: float

    def __call__(self, values: Array) -> Array:
        """The modality's values."""
        return values * self.slope + self.intercept


@dataclass(frozen=True)
class LookUp:
    """A table whose entry 0 is for the value `first` and all below; the last is for all above."""

    first: int
    entries: Array
    white: float  # the entry that is shown white

    def __call__(self, values: Array) -> Array:
        """The entries of values."""
        places = np.clip(np.nan_to_num(np.rint(values)) - self.first, 0, len(self.entries) - 1)
        found: Array = self.entries[places.astype(np.intp)]
        return found

    def brightness(self, values: Array) -> Array:
        """0 for black, 1 for white."""
        return self(values) / max(self.white, 1)


@dataclass(frozen=True)
class Window:
    """The values that are shown, and how black becomes white between them."""

    center: float
    width: float
    shape: Shape = "LINEAR"

    @property
    def is_usable(self) -> bool:
        """Whether it is one that the standard allows."""
        least = 1.0 if self.shape == "LINEAR" else 1e-9
        return bool(np.isfinite(self.center)) and least <= self.width < np.inf

    def brightness(self, values: Array) -> Array:
        """0 for black, 1 for white; beyond the window less and more."""
        if self.shape == "SIGMOID":
            return 1 / (1 + np.exp(-4 * (values - self.center) / self.width))
        half = 0.5 if self.shape == "LINEAR" else 0.0  # a pixel's: PS3.3 C.11.2.1.2.1
        return (values - (self.center - half)) / (self.width - 2 * half) + 0.5


@dataclass(frozen=True)
class Grayscale:
    """How the stored values of one image are to be shown."""

    bits: int  # that a stored value may use
    modality: Rescale | LookUp | None = None
    voi: LookUp | Window | None = None  # None: stretched, unless the values are ready to be seen
    inverted: bool = False  # low values are bright, as in MONOCHROME1
    padding: tuple[int, int] | None = None  # the stored values, from and to, that are no part of the picture

    def show(self, pixels: Integers) -> npt.NDArray[np.uint8]:
        """The gray of every pixel, [h, w] -> [h, w]; padding is black.

        The gray of each value from the lowest to the highest is worked out once, and the pixels look it up.
        """
        lowest = int(pixels.min())
        places = pixels.astype(np.int32) - lowest
        values = np.arange(lowest, int(pixels.max()) + 1)
        low, high = sorted(self.padding or (1, 0), reverse=not self.padding)
        padding = (values >= low) & (values <= high)
        counts = np.where(padding, 0, np.bincount(places.ravel()))
        with np.errstate(all="ignore"):  # a stranger's slope may be anything
            bright = np.nan_to_num(np.clip(self._brightness(values, counts), 0, 1))
        grays = np.rint(255 * (1 - bright if self.inverted else bright)).astype(np.uint8)
        grays[padding] = 0
        shown: npt.NDArray[np.uint8] = grays[places]
        return shown

    def _brightness(self, stored: Integers, counts: Integers) -> Array:
        values = stored.astype(np.float64)
        if self.modality:
            values = self.modality(values)
        if self.voi:
            return self.voi.brightness(values)
        if self.bits == 8 and stored[0] >= 0 and np.array_equal(values, stored):
            return values / 255  # ready to be seen, as in a JPEG
        return _stretched(values, counts)


def _stretched(values: Array, counts: Integers) -> Array:
    """Brightness of values that occur so often: a letter burned in or a dead pixel sets no limit."""
    if not counts.any() or not np.isfinite(values).all():
        return np.zeros_like(values)
    limits = (_DARKEST, _BRIGHTEST)
    low, high = np.quantile(values, limits, weights=counts, method="inverted_cdf")
    result: Array = (values - low) / max(high - low, 1e-6)
    return result
