"""Turn the stored values of a deep image into the 8-bit gray that a viewer shows (DICOM PS3.3 C.11)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

_Values = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.integer[Any]]
_Grays = npt.NDArray[np.uint8]

Shape = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

_DARKEST, _BRIGHTEST = 0.005, 0.995  # percentiles between which values are stretched without a window
_WHITE, _ALIKE = 0.5, 0.9  # shares of pixels: a view that turns more of them white, or alike, is useless
_BAND = 256  # rows


@dataclass(frozen=True)
class Rescale:
    """Map stored values linearly to those of the modality."""

    slope: float
    intercept: float

    def __call__(self, values: _Values) -> _Values:
        """Return the modality's values."""
        return values * self.slope + self.intercept


@dataclass(frozen=True)
class LookUp:
    """Look values up in a table: entry 0 is for the value `first` and all below, the last for all above."""

    first: int
    entries: _Values
    white: float  # the entry shown as white

    def __call__(self, values: _Values) -> _Values:
        """Return the entries of values."""
        places = np.clip(np.nan_to_num(np.rint(values)) - self.first, 0, len(self.entries) - 1)
        found: _Values = self.entries[places.astype(np.intp)]
        return found

    def brightness(self, values: _Values) -> _Values:
        """Return brightness, 0 for black and 1 for white."""
        return self(values) / max(self.white, 1)


@dataclass(frozen=True)
class Window:
    """Describe the range of values that is shown, and how black becomes white in it."""

    center: float
    width: float
    shape: Shape = "LINEAR"

    @property
    def is_usable(self) -> bool:
        """Return whether the standard allows this window."""
        least = 1.0 if self.shape == "LINEAR" else 1e-9
        return bool(np.isfinite(self.center)) and least <= self.width < np.inf

    def brightness(self, values: _Values) -> _Values:
        """Return brightness, 0 for black and 1 for white; values outside the window go below and above."""
        if self.shape == "SIGMOID":
            return 1 / (1 + np.exp(-4 * (values - self.center) / self.width))
        half = 0.5 if self.shape == "LINEAR" else 0.0  # of a value: PS3.3 C.11.2.1.2.1
        return (values - (self.center - half)) / (self.width - 2 * half) + 0.5


@dataclass(frozen=True)
class Grayscale:
    """Describe how the stored values of one image should be shown."""

    bits: int  # bits that a stored value may use
    modality: Rescale | LookUp | None = None
    palette: LookUp | None = None
    views: Sequence[LookUp | Window] = ()  # the first useful one applies; without one, values are stretched
    inverted: bool = False  # low values are bright, as in MONOCHROME1
    padding: tuple[int, int] | None = None  # first and last stored value that is not part of the picture

    def show(self, pixels: _Integers) -> _Grays:
        """Return the gray of every pixel; padding around the picture is cut off, padding inside it is black.

        Maps [h, w] -> [h, w]. The gray of each value from the lowest to the highest is computed once, and the
        pixels look it up.
        """
        if self.padding:
            pixels = self._unpadded(pixels)
        lowest, highest = int(pixels.min()), int(pixels.max())
        values = np.arange(lowest, highest + 1)
        counts = np.zeros(len(values), np.int64)
        for band in bands(pixels):
            counts += np.bincount(band.ravel().astype(np.intp) - lowest, minlength=len(values))
        padding = self._is_padding(values)
        counts[padding] = 0
        with np.errstate(all="ignore"):  # an untrusted slope may be anything
            grays = self._grays(values, counts)
        grays[padding] = 0
        shown = np.empty(pixels.shape, np.uint8)
        for start in range(0, len(pixels), _BAND):
            band = pixels[start : start + _BAND]
            shown[start : start + _BAND] = grays[band.astype(np.intp) - lowest]
        return shown

    def _is_padding(self, values: _Integers) -> npt.NDArray[np.bool_]:
        low, high = sorted(self.padding or (1, 0), reverse=not self.padding)
        return (values >= low) & (values <= high)

    def _unpadded(self, pixels: _Integers) -> _Integers:
        """Return the box of pixels that are not padding, or all pixels when there is nothing else."""
        rows, columns = np.zeros(pixels.shape[0], bool), np.zeros(pixels.shape[1], bool)
        for start in range(0, len(pixels), _BAND):
            shown = ~self._is_padding(pixels[start : start + _BAND])
            rows[start : start + _BAND] = shown.any(axis=1)
            columns |= shown.any(axis=0)
        if not rows.any():
            return pixels
        (top, *_, bottom), (left, *_, right) = np.flatnonzero(rows)[[0, -1]], np.flatnonzero(columns)[[0, -1]]
        return pixels[top : bottom + 1, left : right + 1]

    def _grays(self, stored: _Integers, counts: _Integers) -> _Grays:
        """Return the gray of each value; `counts` gives how often it occurs."""
        values = stored.astype(np.float64)
        if self.modality:
            values = self.modality(values)
        if self.palette:
            return self._gray(self.palette.brightness(values))
        for view in self.views:
            grays = self._gray(view.brightness(values))
            shares = np.bincount(grays, counts, minlength=256) / max(counts.sum(), 1)
            if shares.max() <= _ALIKE and shares[255] <= _WHITE:
                return grays
        if self.bits == 8 and stored[0] >= 0 and np.array_equal(values, stored):
            return self._gray(values / 255)  # already display values, as in a JPEG
        return self._gray(_stretched(values, counts))

    def _gray(self, brightness: _Values) -> _Grays:
        bright = np.nan_to_num(np.clip(brightness, 0, 1))
        return np.rint(255 * (1 - bright if self.inverted else bright)).astype(np.uint8)


def bands(pixels: _Integers) -> Iterator[_Integers]:
    """Yield some rows at a time, so that an image of 49 million pixels is not copied whole several times."""
    return (pixels[start : start + _BAND] for start in range(0, len(pixels), _BAND))


def _stretched(values: _Values, counts: _Integers) -> _Values:
    """Return the brightness of values between two percentiles, so that a burned-in letter sets no limit."""
    if not counts.any() or not np.isfinite(values).all():
        return np.zeros_like(values)
    limits = (_DARKEST, _BRIGHTEST)
    low, high = np.quantile(values, limits, weights=counts, method="inverted_cdf")
    result: _Values = (values - low) / max(high - low, 1e-6)
    return result
