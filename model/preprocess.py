"""From the bytes of an image file to the network's input: the one path that training and serving share."""

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.float32]

WORKING_SIZE = 224  # pixels a side: the size at which training images are kept, before augmentation


def squash(gray: Image.Image, size: int) -> Image.Image:
    """Resize an 8-bit gray image to a square, giving up its aspect ratio.

    The ratio differs between the classes of the training data, so the network must not see it. Pillow's
    bilinear filter averages over the whole source pixel area: a large original and a small copy of it give
    the same square.
    """
    return gray.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)


def standardise(pixels: Array) -> Array:
    """Zero mean and unit deviation over the last two axes (pixels): exposure and windowing tell nothing."""
    mean = pixels.mean((-2, -1), keepdims=True)
    deviation = pixels.std((-2, -1), keepdims=True)
    result: Array = (pixels - mean) / np.maximum(deviation, 1.0)
    return result


def network_input(gray: Image.Image, size: int) -> Array:
    """8-bit gray image of any size -> [1, 1, size, size], float32, standardised."""
    pixels = np.asarray(squash(gray, size), np.float32)
    return standardise(pixels)[None, None]
