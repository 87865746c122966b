"""Turn a gray image into the network's input; training and serving share this one path."""

import io
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.float32]

WORKING_SIZE = 224  # pixels a side: the size at which training images are kept, before augmentation
_QUALITY = 75  # of JPEG, as in the archive's copies that the network was trained on
_REACH = 1 / 8  # of a side: radius of a pixel's surroundings
_FAINT = 0.03  # of the grey range: contrast weaker than this is not amplified
_STRONGEST = 4.0  # deviations; metal and letters exceed it, but are not findings


def squash(gray: Image.Image, size: int) -> Image.Image:
    """Resize an 8-bit gray image to a square, discarding its aspect ratio.

    The ratio differs between the classes of the training data, so the network must not see it. Pillow's
    bilinear filter averages over the whole source pixel area, so a large original and a small copy give the
    same square.
    """
    return gray.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)


def as_copy(gray: Image.Image) -> Image.Image:
    """Return an 8-bit gray image processed like the archive's copies: WORKING_SIZE a side, and
    JPEG-compressed.

    The network relies on the copies' JPEG blocks and sharpness. Without them it finds one original in five
    atypical, and P is lower. An image that is no larger has already been shrunk by someone else.
    """
    small = squash(gray, WORKING_SIZE)
    if max(gray.size) <= WORKING_SIZE:
        return small
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return Image.open(buffer)


def normalise(pixels: npt.NDArray[np.float32 | np.uint8]) -> Array:
    """Normalise local contrast: return how each pixel, [..., h, w] of greys from 0 to 255, differs from its
    surroundings.

    Exposure, tube voltage and a machine's tone curve change the surroundings along with the pixel, so films
    from other years look alike. Then scale to zero mean and unit deviation. After Jarrett et al. 2009, doi
    10.1109/ICCV.2009.5459469, with box filters, each applied twice.
    """
    gray, around = pixels.astype(np.float32) / 255, _surroundings(pixels.shape[-1])
    difference = gray - around @ gray @ around.T
    deviation = np.sqrt(np.maximum(around @ (difference * difference) @ around.T, 0))
    local = np.clip(difference / (deviation + _FAINT), -_STRONGEST, _STRONGEST)
    local -= local.mean((-2, -1), keepdims=True)
    result: Array = local / np.maximum(local.std((-2, -1), keepdims=True), 1e-3)
    return result


def network_input(gray: Image.Image, size: int) -> Array:
    """Map an 8-bit gray image of any size -> [1, 1, size, size], float32; see `as_copy` and `normalise`."""
    return normalise(np.asarray(squash(as_copy(gray), size)))[None, None]


@cache
def _surroundings(side: int) -> Array:
    """Return a matrix, [side, side], that averages over the surroundings along an axis: a box filter applied
    twice.
    """
    places, reach = np.arange(side), round(_REACH * side)
    box = (np.abs(places[:, None] - places) <= reach).astype(np.float64)
    box /= box.sum(1, keepdims=True)  # there are fewer neighbours at the ends
    twice: Array = (box @ box).astype(np.float32)
    return twice
