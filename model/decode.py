"""From the bytes of a file to one 8-bit gray image, or the reason why not.

The content decides what a file is, never its name. Everything that a stranger's file can do to a decoder
ends as InputRejected, with a sentence for the person who dropped it.
"""

import io
import logging
from typing import Protocol

import numpy as np
from PIL import Image

from model.elements import is_dicom
from pipeline.errors import InputRejected
from pipeline.ports import ImageFacts
from pipeline.verdict import Warning

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
_MEDIA_TYPES = {"MPO": "image/jpeg"} | {name: f"image/{name.lower()}" for name in _FORMATS}
_ACCEPTED = "Drop a single DICOM, JPEG, PNG, TIFF, BMP or WebP image of a chest X-ray."
_DAMAGED = "The file is damaged: it cannot be decoded. Export the X-ray again and drop it anew."
_MIN_SIDE = 64  # pixels; the network's map has cells of 10 % of a side
_LEAST_SIDE = 640  # pixels of the longer side; decoding a JPEG may shrink it down to this, and no further

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8])

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it logs the texts of an image, such as a name
Image.MAX_IMAGE_PIXELS = None  # our own limit below comes first, and as a verdict instead of a warning


def decode(
    data: bytes, max_pixels: int, keep_uid: bool = False
) -> tuple[Image.Image, ImageFacts, tuple[Warning, ...]]:
    """The image as 8-bit gray ("L"), upright; what the file is; and the warnings that it gives itself.

    Upright: turned as its EXIF orientation says. A JPEG, gray or RGB, is halved as it is decoded, up to
    three times, as often as that leaves 640 pixels or more on its longer side: it costs less, and moves P by
    0.004 at most (220 images). The UID of a DICOM file is among the facts if it is to be kept. Raises
    InputRejected.
    """
    if not data:
        raise InputRejected("empty", f"The file is empty. {_ACCEPTED}")
    source = _source(data, max_pixels, keep_uid)
    facts = source.facts
    if facts.width * facts.height > max_pixels:
        size, limit = f"{facts.width} x {facts.height} pixels", f"{max_pixels / 1e6:.0f} million"
        message = f"The image has {size}; at most {limit} can be read. Export it smaller and drop it again."
        raise InputRejected("too_many_pixels", message, facts)
    try:
        frames = source.frames
        gray = source.load() if frames == 1 else None
    except InputRejected:
        raise
    except Exception as error:  # a decoder may raise anything over a damaged file
        raise InputRejected("unreadable", _DAMAGED, facts) from error
    if gray is None:
        message = f"The file holds {frames} images. Drop the one frontal chest X-ray as a file of its own."
        raise InputRejected("not_a_single_image", message, facts)
    if min(facts.width, facts.height) < _MIN_SIDE:
        size = f"{facts.width} x {facts.height} pixels"
        message = f"The image has {size}; a chest X-ray has at least {_MIN_SIDE} a side. Drop the original."
        raise InputRejected("not_a_chest_xray", message, facts)
    return gray, facts, source.warnings


class _Source(Protocol):
    """An opened file; nothing of its pixels is decoded yet."""

    facts: ImageFacts
    warnings: tuple[Warning, ...]

    @property
    def frames(self) -> int:
        """How many images there are. May raise anything."""

    def load(self) -> Image.Image:
        """The image as 8-bit gray, upright. May raise anything."""


def _source(data: bytes, max_pixels: int, keep_uid: bool) -> _Source:
    if is_dicom(data):
        from model.dicom import DicomFile  # only a DICOM file shall pay for it

        return DicomFile(data, max_pixels, keep_uid)
    return _Picture(data)


class _Picture:
    """A file that Pillow reads."""

    warnings: tuple[Warning, ...] = ("age_unknown",)  # no such file says it

    def __init__(self, data: bytes) -> None:
        self._data, self._image = data, _open(data)
        self._turn = _turn(self._image)
        self.facts = _facts(self._image, self._turn)

    @property
    def frames(self) -> int:
        """One for a phone's JPEG, whose others are thumbnails."""
        return 1 if self._image.format == "MPO" else getattr(self._image, "n_frames", 1)

    def load(self) -> Image.Image:
        """Decode, whole and checked."""
        if self._image.mode in ("L", "RGB"):
            longer = max(self._image.size)
            width, height = (max(side * _LEAST_SIDE // longer, 1) for side in self._image.size)
            self._image.draft("L", (width, height))
        self._image.load()
        if self._image.format == "PNG":
            _open(self._data).verify()  # the checksums, which decoding passes over: damage would be judged
        gray = _gray(self._image)
        return gray.transpose(self._turn) if self._turn is not None else gray


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:  # a decoder may raise anything over a stranger's file
        kind = _kind(data)
        if kind == "a damaged image":
            raise InputRejected("unreadable", _DAMAGED) from error
        raise InputRejected("unsupported_format", f"The file is {kind}. {_ACCEPTED}") from error


_SIGNATURES = (
    (0, b"\xff\xd8\xff", "a damaged image"),
    (0, b"\x89PNG", "a damaged image"),
    (0, b"GIF8", "a damaged image"),
    (0, b"II*\0", "a damaged image"),
    (0, b"MM\0*", "a damaged image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\3\4", "a ZIP archive or an office document"),
)


def _kind(data: bytes) -> str:
    """What a file is that is no image we read, in words."""
    for offset, signature, kind in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return kind
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<svg", b"<?xml")) or b"<svg" in head:
        return "a drawing (SVG)"
    return "not an image that can be read"


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How the image is to be turned to stand as its EXIF orientation says. Damaged EXIF says nothing."""
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # noqa: BLE001  a parser may raise anything over a stranger's file
        return None


def _facts(image: Image.Image, turn: Image.Transpose | None) -> ImageFacts:
    """Type, and size as shown."""
    width, height = image.size[::-1] if turn in _SIDEWAYS else image.size
    return ImageFacts(_MEDIA_TYPES[image.format or ""], width, height)


def _gray(image: Image.Image) -> Image.Image:
    """Any mode to 8-bit gray; transparent parts become black, as the air around a body is."""
    if image.mode == "L":
        return image
    if image.mode.startswith(("I", "F")):
        return _stretched(image)
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, shown).convert("L")
    return image.convert("L")


def _stretched(image: Image.Image) -> Image.Image:
    """Deep gray to 8 bits, from the darkest to the brightest
    value: files of 10, 12 and 16 bits look alike.
    """
    values = np.asarray(image, np.float32)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    scaled = np.nan_to_num((values - low) * (255 / max(high - low, 1e-6)))
    if getattr(image, "tag_v2", {}).get(262) == 0:
        scaled = 255 - scaled  # a TIFF in which white is zero; Pillow turns those of 8 bits alone
    return Image.fromarray(np.rint(scaled).astype(np.uint8), "L")
