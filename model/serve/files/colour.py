"""Refuse colourful images: an X-ray has no colours, a photograph has."""

import numpy as np
from PIL import Image

from pipeline.errors import InputRejected

_STRONG = 56  # levels between a pixel's strongest and weakest colour; a tinted scan has up to 40
_SHARE = 0.1  # share of the pixels: more than coloured letters, a logo or a ruler
_SHRUNK = 8  # factor by which each side is shrunk before the check
_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV")


def check_colours(image: Image.Image) -> None:
    """Raise InputRejected for a colourful image; a JPEG that is not loaded yet is shrunk in place."""
    if image.mode not in _MODES:
        return
    width, height = image.size
    image.draft("RGB", (width // _SHRUNK, height // _SHRUNK))
    small = image.convert("RGB")
    pixels = np.asarray(small.reduce(max(1, _SHRUNK * small.width // width)), np.int16)
    if ((pixels.max(2) - pixels.min(2)) > _STRONG).mean() > _SHARE:
        raise InputRejected(
            "not_a_chest_xray",
            "The image is in colour, so it is not an X-ray. Drop the original, with nothing drawn on it.",
        )
