"""Find the X-ray in a picture with a black or white border."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

_LOOKED_AT = 1280  # pixels of the longer side; more add nothing
_FLAT = 10  # grey levels from black or white that a border may have after JPEG
_UNEVEN = 2.0  # standard deviation in one line of a border; air beside a body is noisier
_STRAY = 0.002  # share of a line's pixels that may differ, such as dust
_BLURRED, _NEAR = 8, 40  # lines beside a border that JPEG or a resize may blur; their greys
_NARROW = 0.035  # share of a side; a narrower border is kept, since most X-rays have one
_LEAST = 0.2  # share of a side that must remain; otherwise it was not a border


def content_box(gray: Image.Image | npt.NDArray[np.uint8]) -> Box:
    """Return the box inside wide, uniform black or white borders; the whole box when there are none.

    Borders are cut off line by line from each side. A line belongs to a border when it is black, or white,
    from one end to the other. So a collimated X-ray, whose dark edges are noisy, loses nothing.
    """
    image = gray if isinstance(gray, Image.Image) else Image.fromarray(gray)
    width, height = image.size
    edges = (0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height)
    if not any(_is_flat(np.asarray(image.crop(edge)).ravel()) for edge in edges):
        return 0, 0, width, height  # most X-rays; checking all lines would cost more than the rest here
    factor = max(math.ceil(max(image.size) / _LOOKED_AT), 1)
    lines = np.asarray(image.reduce(factor) if factor > 1 else image)
    left, top, right, bottom = 0, 0, lines.shape[1], lines.shape[0]
    while True:  # cutting one side shortens the lines of the others, so check again
        inner = lines[top:bottom, left:right]
        above, below = _flat_ends(inner)
        before, behind = _flat_ends(inner[above : len(inner) - below].T)
        if not above + below + before + behind:
            break
        left, top, right, bottom = left + before, top + above, right - behind, bottom - below
    shape = lines.shape
    if right - left < _LEAST * shape[1] or bottom - top < _LEAST * shape[0]:
        return 0, 0, width, height
    return (
        left * factor if left > _NARROW * shape[1] else 0,
        top * factor if top > _NARROW * shape[0] else 0,
        min(right * factor, width) if shape[1] - right > _NARROW * shape[1] else width,
        min(bottom * factor, height) if shape[0] - bottom > _NARROW * shape[0] else height,
    )


def _flat_ends(lines: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return how many lines at the beginning, and at the end, are entirely black or white."""
    return (_flat(lines), _flat(lines[::-1])) if lines.size else (0, 0)


def _flat(lines: npt.NDArray[np.uint8]) -> int:
    count = next((number for number, line in enumerate(lines) if not _is_flat(line)), len(lines))
    if not 0 < count < len(lines):
        return 0  # no border, or a flat image, which has none either
    colour = np.median(lines[0])
    for line in lines[count : count + _BLURRED] if count > _BLURRED else ():
        if abs(np.median(line) - colour) > _NEAR:
            break
        count += 1
    return count


def _is_flat(line: npt.NDArray[np.uint8]) -> bool:
    odd = min(np.count_nonzero(line > _FLAT), np.count_nonzero(line < 255 - _FLAT))
    return bool(odd <= _STRAY * len(line) and (odd > 0 or line.std() <= _UNEVEN))
