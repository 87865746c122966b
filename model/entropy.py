"""Whether the compressed data of a JPEG are as long as its picture needs: what libjpeg only warns of.

Where data are lost, libjpeg fills up with gray; where too many are left, it passes them over. Pillow says
nothing of either. So the last bytes are handed out by themselves, and it is seen whether the decoder asks for
them, and whether the last line of the picture is there once it has them.
"""

import io
from typing import Any

from PIL import Image

from model.picture import damaged

_TAIL = 2  # bytes; the last may stand for a zero that fills up
_BEYOND = b"\xff\0" * 8  # as far as a decoder looks ahead; in ones, which are the longest codes of all


class WatchedJpeg(io.BytesIO):
    """The bytes of a JPEG of one scan; reading them raises InputRejected when they do not fit its picture."""

    def __init__(self, data: bytes, coded_until: int) -> None:
        super().__init__(data)
        self._end, self._parts = coded_until, 0
        self._image: Image.Image | None = None
        self._mark: list[Any] = []

    def watch(self, image: Image.Image) -> None:
        """Begin, right before the image is loaded."""
        self._image = image

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; the last ones by themselves."""
        place, tail = self.tell(), self._end - _TAIL
        if not self._image or place > self._end:
            return super().read(size)
        if not self._mark:
            self._mark = _marked(self._image)
        if place < tail:
            return super().read(min(size or tail, tail - place) if size != -1 else tail - place)
        self._parts += 1
        if self._parts == 1:
            return super().read(self._end - place)
        if self._parts == 2:
            return _BEYOND  # in place of the end marker, at which a decoder would fill up with gray
        if self._parts == 3 and _last_line(self._image) == self._mark:
            raise damaged()  # the data are used up, and the picture is not whole
        return super().read(size)

    def check(self) -> None:
        """Raise InputRejected if the picture was whole before its data were at an end."""
        if self._image and not self._parts:
            raise damaged()


def _marked(image: Image.Image) -> list[Any]:
    """Paint over the last line, where nothing is decoded yet, what no X-ray holds; return the line."""
    for x, y in _places(image):
        value, bands = 255 * (x % 2), len(image.getbands())
        image.im.putpixel((x, y), value if bands == 1 else (value,) * bands)
    return _last_line(image)


def _last_line(image: Image.Image) -> list[Any]:
    return [image.im.getpixel(place) for place in _places(image)]


def _places(image: Image.Image) -> list[tuple[int, int]]:
    return [(x, image.height - 1) for x in range(min(image.width, 32))]
