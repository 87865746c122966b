"""The claims of a picture's file, and the two refusals of a file that cannot be read."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import InputRejected

AS_PNG = "Export the X-ray as PNG or JPEG, and drop that."
_DAMAGED = "The file is damaged: it cannot be decoded. Export the X-ray again and drop the new file."


@dataclass(frozen=True)
class Picture:
    """The claims of a file, and the bytes that a decoder is to have."""

    kind: Literal["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF"]
    data: bytes
    width: int  # as stored: `orientation` says how the picture is to be turned
    height: int
    images: int = 1  # two stand for more
    orientation: int = 1  # as EXIF numbers them
    colours: int = 1  # of a JPEG
    planes: tuple[bytes, ...] = ()  # TIFFs of one colour each, where a decoder would mix them up
    streams: tuple[bytes, ...] = ()  # the JPEGs within a TIFF
    pairs: str = ""  # the byte order of gray and opacity of 16 bits each, which come as four bytes a pixel
    is_opaque: bool = False  # whatever its opacity says
    is_signed: bool = False  # its numbers may be negative, though Pillow reads them as if they could not
    is_inverted: bool = False  # white is zero


def damaged() -> InputRejected:
    """Return the refusal of a file whose bytes are wrong."""
    return InputRejected("unreadable", _DAMAGED)


def unsupported(kind: str) -> InputRejected:
    """Return the refusal of a file that may be sound, and is of a kind that is not read."""
    return InputRejected("unsupported_format", f"The file is {kind}, which cannot be read. {AS_PNG}")
