"""From the bytes of an image file to the network's input: the one path that training and serving share."""

import io
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.float32]

WORKING_SIZE = 224  # pixels a side: the size at which training images are kept, before augmentation
_QUALITY = 75  # of JPEG, as the copies of the archive that the network learned from have
_REACH = 1 / 8  # of a side: how far around a pixel its surroundings go
_FAINT = 0.03  # of the range of grey: contrast as weak as that is not blown up
_STRONGEST = 4.0  # deviations from the surroundings; metal and letters stand out more, and say nothing


def squash(gray: Image.Image, size: int) -> Image.Image:
    """Resize an 8-bit gray image to a square, giving up its aspect ratio.

    The ratio differs between the classes of the training data, so the network must not see it. Pillow's
    bilinear filter averages over the whole source pixel area: a large original and a small copy of it give
    the same square.
    """
    return gray.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)


def as_copy(gray: Image.Image) -> Image.Image:
    """Return an 8-bit gray image as the archive's copies were made: WORKING_SIZE a side, and compressed.

    The network takes their blocks and their sharpness for granted: without them it finds one original in
    five strange, and P lower. An image that is no larger has been made small by someone else already.
    """
    small = squash(gray, WORKING_SIZE)
    if max(gray.size) <= WORKING_SIZE:
        return small
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return Image.open(buffer)


def normalise(pixels: npt.NDArray[np.float32 | np.uint8]) -> Array:
    """Local contrast, [..., h, w] of greys from 0 to 255: how each pixel differs from its surroundings.

    Exposure, tube voltage and the tone curve of a machine change the surroundings as they change the pixel:
    films of another year look alike. Then zero mean and unit deviation. After Jarrett et al. 2009,
    doi 10.1109/ICCV.2009.5459469, with box filters, each applied twice.
    """
    gray, around = pixels.astype(np.float32) / 255, _surroundings(pixels.shape[-1])
    difference = gray - around @ gray @ around.T
    deviation = np.sqrt(np.maximum(around @ (difference * difference) @ around.T, 0))
    local = np.clip(difference / (deviation + _FAINT), -_STRONGEST, _STRONGEST)
    local -= local.mean((-2, -1), keepdims=True)
    result: Array = local / np.maximum(local.std((-2, -1), keepdims=True), 1e-3)
    return result


def network_input(gray: Image.Image, size: int) -> Array:
    """8-bit gray image of any size -> [1, 1, size, size], float32, see `as_copy` and `normalise`."""
    return normalise(np.asarray(squash(as_copy(gray), size)))[None, None]


@cache
def _surroundings(side: int) -> Array:
    """What takes the mean of the surroundings along an axis, [side, side]: twice, which has no corners."""
    places, reach = np.arange(side), round(_REACH * side)
    box = (np.abs(places[:, None] - places) <= reach).astype(np.float64)
    box /= box.sum(1, keepdims=True)  # at the ends there are fewer
    twice: Array = (box @ box).astype(np.float32)
    return twice
