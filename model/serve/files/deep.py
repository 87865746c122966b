"""Convert pictures of more than 8 bits to 8-bit gray, stretched from the darkest to the brightest value.

Files of 10, 12 and 16 bits then look alike. Pillow keeps only the high byte of a 16-bit colour, so the low
byte is read by decoding again with the bytes swapped. Arithmetic is done some rows at a time, since whole
arrays of floating-point numbers would take many times the memory of the picture.
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFile

_Pixels = npt.NDArray[np.generic]
_Gray = npt.NDArray[np.uint16]

_AT_ONCE = 1 << 19  # pixels processed at a time
_DEEP = ("RGB;16", "RGBX;16", "RGBA;16", "RGBa;16", "LA;16")  # Pillow's names, without their byte order
LUMA = (19595, 38470, 7471)  # of red, green and blue, in 65536ths: ITU-R BT.601, as Pillow has it


def stretched(
    pixels: _Pixels, is_inverted: bool = False, visible: npt.NDArray[np.uint8] | None = None
) -> Image.Image:
    """Return gray, [h, w], or 16-bit colours, [h, w, 3], as 8-bit gray; NaN becomes black.

    Values where `visible` is 0 do not affect the limits.
    """
    if pixels.ndim == 3:
        pixels = brightness(pixels.shape[:2], lambda rows: pixels[rows])
    limits = []
    for rows in _bands(pixels.shape):
        band = pixels[rows] if visible is None else pixels[rows][visible[rows] > 0]
        numbers = band[np.isfinite(band)] if band.dtype.kind == "f" else band
        if numbers.size:
            limits += [float(numbers.min()), float(numbers.max())]
    low, high = min(limits, default=0.0), max(limits, default=0.0)
    shown = np.empty(pixels.shape, np.uint8)
    for rows in _bands(pixels.shape):
        with np.errstate(all="ignore"):  # untrusted numbers may be anything
            scaled = (pixels[rows].astype(np.float64) - low) * (255 / max(high - low, 1e-6))
            if is_inverted:
                scaled = 255 - scaled
            shown[rows] = np.rint(np.where(np.isfinite(scaled), scaled, 0)).clip(0, 255)
    return Image.fromarray(shown)


def stretched_planes(planes: list[_Pixels]) -> Image.Image:
    """Return 16-bit red, green and blue, [h, w] each, as 8-bit gray."""
    return stretched(
        brightness(planes[0].shape, lambda rows: np.stack([plane[rows] for plane in planes], -1))
    )


def is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Return whether Pillow would keep only the high bytes of a file that it opened."""
    return bool(image.tile) and _raw_mode(image)[:-1] in _DEEP


def stretched_colour(opened: Callable[[], ImageFile.ImageFile], is_inverted: bool = False) -> Image.Image:
    """Return a file with 16 bits per colour as 8-bit gray, on black where it is transparent."""
    name = _raw_mode(opened())
    if name.startswith("LA"):  # the four bytes of a pixel as stored
        return stretched_pairs(np.asarray(_loaded(opened(), "RGBA")), ">", is_inverted)
    gray, opacity = _both_bytes(opened, name)
    return _faded(stretched(gray, is_inverted, opacity), opacity)


def _both_bytes(
    opened: Callable[[], ImageFile.ImageFile], name: str
) -> tuple[_Gray, npt.NDArray[np.uint8] | None]:
    """Return 16-bit gray, and the opacity if there is one."""
    swapped = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[name[-1]]
    plain = name.replace("a", "A")  # premultiplied colours already look as on black
    high, low = _loaded(opened(), plain), _loaded(opened(), plain[:-1] + swapped)

    def wide(rows: slice) -> _Gray:
        box = (0, rows.start, high.width, rows.stop)
        values: _Gray = np.asarray(high.crop(box)).astype(np.uint16) << 8 | np.asarray(low.crop(box))
        return values

    opacity = None
    if name.startswith("RGBA"):
        fine = np.asarray(high.getchannel("A")).astype(np.uint16) << 8 | np.asarray(low.getchannel("A"))
        opacity = _opacity(fine)
    return brightness((high.height, high.width), wide), opacity


def stretched_pairs(
    pixels: npt.NDArray[np.uint8], order: str, is_inverted: bool = False, is_opaque: bool = False
) -> Image.Image:
    """Return 16-bit gray and opacity, [h, w, 4 bytes], as 8-bit gray."""
    gray, fine = (pixels.view(f"{order}u2")[..., number] for number in range(2))
    opacity = None if is_opaque else _opacity(fine)
    gray = gray.astype(np.uint16)
    return _faded(stretched(gray, is_inverted, opacity), opacity)


def _opacity(values: _Gray) -> npt.NDArray[np.uint8]:
    """Return opacity in 8 bits; the highest value counts as opaque, since the file may use only 10 of 16
    bits.
    """
    most = max(int(values.max()), 1)
    shares, found = (np.arange(most + 1) * 255 // most).astype(np.uint8), np.empty(values.shape, np.uint8)
    for rows in _bands(values.shape):
        found[rows] = shares[values[rows]]
    return found


def _faded(shown: Image.Image, opacity: npt.NDArray[np.uint8] | None) -> Image.Image:
    return shown if opacity is None else ImageChops.multiply(shown, Image.fromarray(opacity))


def _raw_mode(image: ImageFile.ImageFile) -> str:
    first = image.tile[0].args
    return str(first[0] if isinstance(first, tuple) else first)


def _loaded(image: ImageFile.ImageFile, raw_mode: str) -> Image.Image:
    image.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in image.tile
    ]
    image.load()
    return image


def brightness(shape: tuple[int, ...], colours: Callable[[slice], _Pixels]) -> _Gray:
    """Return the gray of red, green and blue, which `colours` returns some rows at a time."""
    gray = np.empty(shape, np.uint16)
    for rows in _bands(shape):
        band = colours(rows)
        red, green, blue = (band[..., colour].astype(np.uint32) for colour in range(3))
        gray[rows] = (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + 0x8000) >> 16
    return gray


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut the rows of a picture into slices."""
    height, width = shape[:2]
    step = max(_AT_ONCE // width, 1)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))
