"""Pictures of more than 8 bits, to 8-bit gray: stretched from the darkest to the brightest value.

Files of 10, 12 and 16 bits look alike then. Pillow keeps only the high byte of a colour of 16 bits; here the
low one is had by decoding once more with the bytes the other way round. All is done some rows at a time: an
array of numbers for a whole picture would take many times the memory of the picture.
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

Wide = npt.NDArray[np.uint16]
Values = npt.NDArray[np.floating]
Rows = Callable[
    [int, int], Values
]  # the gray of the rows from one to another, [rows, width]; NaN: transparent

_BAND = 1 << 19  # pixels that are worked on at a time
_DEEP = ("RGB;16", "RGBX;16", "RGBA;16", "RGBa;16", "LA;16")  # Pillow's names, without their byte order
_LUMA = np.array((0.299, 0.587, 0.114))  # of red, green and blue: ITU-R BT.601, as Pillow has it


def stretched(pixels: npt.NDArray[np.generic], is_inverted: bool = False) -> Image.Image:
    """Return gray, [h, w], or colours, [h, w, 3], of any depth as 8-bit gray; what is no number is black."""
    height, width = pixels.shape[:2]
    return _stretched(lambda top, bottom: _luma(pixels[top:bottom]), (width, height), is_inverted)


def stretched_image(image: Image.Image, is_inverted: bool, is_unsigned: bool) -> Image.Image:
    """Return an image of a gray mode ("I;16", "I", "F") as 8-bit gray."""

    def rows(top: int, bottom: int) -> Values:
        band = np.asarray(image.crop((0, top, image.width, bottom)))
        return (band.view(np.uint32) if is_unsigned and band.dtype == np.int32 else band).astype(np.float64)

    return _stretched(rows, image.size, is_inverted)


def stretched_planes(planes: list[Image.Image]) -> Image.Image:
    """Return red, green and blue, each an image of a gray mode, as 8-bit gray."""

    def rows(top: int, bottom: int) -> Values:
        bands = [np.asarray(plane.crop((0, top, plane.width, bottom))) for plane in planes]
        return _luma(np.stack(bands, axis=-1))

    return _stretched(rows, planes[0].size)


def is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow would keep only the high bytes of a file that it opened."""
    return bool(image.tile) and _raw_mode(image)[:-1] in _DEEP


def stretched_colour(opened: Callable[[], ImageFile.ImageFile]) -> Image.Image:
    """Return a file of 16 bits a colour as 8-bit gray, on black where it is transparent."""
    raw_mode = _raw_mode(opened())
    if raw_mode.startswith("LA"):
        both = _loaded(opened(), "RGBA")  # the four bytes of a pixel as they stand

        def wide(top: int, bottom: int) -> Wide:
            band = np.ascontiguousarray(both.crop((0, top, both.width, bottom)))
            values: Wide = band.view(">u2").astype(np.uint16)
            return values
    else:
        swapped = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[raw_mode[-1]]
        raw_mode = raw_mode.replace("a", "A")  # multiplied by its opacity: just as black behind it makes it
        high, low = _loaded(opened(), raw_mode), _loaded(opened(), raw_mode[:-1] + swapped)
        both = high

        def wide(top: int, bottom: int) -> Wide:
            box = (0, top, high.width, bottom)
            values: Wide = np.asarray(high.crop(box)).astype(np.uint16) << 8 | np.asarray(low.crop(box))
            return values

    colours = 1 if raw_mode.startswith("LA") else 3

    def opacity(top: int, bottom: int) -> Values:
        return wide(top, bottom)[..., colours] / 65535

    def rows(top: int, bottom: int) -> Values:
        values = wide(top, bottom)
        gray = _luma(values[..., :colours])
        if values.shape[-1] > colours:
            gray[values[..., colours] == 0] = np.nan
        return gray

    has_opacity = both.mode == "RGBA" and "a" not in _raw_mode(opened())
    return _stretched(rows, both.size, opacity=opacity if has_opacity else None)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    return str(image.tile[0].args[0] if isinstance(image.tile[0].args, tuple) else image.tile[0].args)


def _loaded(image: ImageFile.ImageFile, raw_mode: str) -> Image.Image:
    image.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in image.tile
    ]
    image.load()
    return image


def _luma(pixels: npt.NDArray[np.generic]) -> Values:
    if pixels.ndim == 2:
        return pixels.astype(np.float64)
    return pixels[..., 0].astype(np.float64) if pixels.shape[-1] == 1 else pixels[..., :3] @ _LUMA


def _stretched(
    rows: Rows, size: tuple[int, int], is_inverted: bool = False, opacity: Rows | None = None
) -> Image.Image:
    limits = [(band[finite].min(), band[finite].max()) for band, finite in _bands(rows, size) if finite.any()]
    low, high = min((low for low, _ in limits), default=0.0), max((high for _, high in limits), default=0.0)
    shown = Image.new("L", size)
    top = 0
    for band, finite in _bands(rows, size):
        bottom = top + len(band)
        with np.errstate(all="ignore"):  # a stranger's numbers may be anything
            scaled = (band - low) * (255 / max(high - low, 1e-6))
        scaled = 255 - scaled if is_inverted else scaled
        if opacity:
            scaled *= opacity(top, bottom)
        gray = np.rint(np.where(finite, scaled, 0)).clip(0, 255).astype(np.uint8)
        shown.paste(Image.fromarray(gray), (0, top))
        top = bottom
    return shown


def _bands(rows: Rows, size: tuple[int, int]) -> Iterator[tuple[Values, npt.NDArray[np.bool_]]]:
    """Return some rows at a time, and which of their values are numbers."""
    width, height = size
    step = max(_BAND // width, 1)
    for top in range(0, height, step):
        band = rows(top, min(top + step, height))
        yield band, np.isfinite(band)
