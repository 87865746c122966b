"""Define the claims of a picture's file, and the two refusals of an unreadable file."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import InputRejected

AS_PNG = "Export the X-ray as PNG or JPEG, and drop that."
_DAMAGED = "The file is damaged: it cannot be decoded. Export the X-ray again and drop the new file."


@dataclass(frozen=True)
class Picture:
    """Hold the claims of a file, and the bytes for the decoder."""

    kind: Literal["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF"]
    data: bytes
    width: int  # as stored, before `orientation` is applied
    height: int
    images: int = 1  # 2 means two or more
    orientation: int = 1  # EXIF's number
    colours: int = 1  # of a JPEG
    planes: tuple[bytes, ...] = ()  # TIFFs of one colour each, when a decoder would mix them up
    streams: tuple[bytes, ...] = ()  # the JPEGs within a TIFF
    pairs: str = ""  # byte order of 16-bit gray and opacity, decoded as four bytes a pixel
    is_opaque: bool = False  # ignore the opacity
    is_signed: bool = False  # values may be negative, though Pillow reads them as unsigned
    is_inverted: bool = False  # white is zero


def damaged() -> InputRejected:
    """Build the refusal of a file with wrong bytes."""
    return InputRejected("unreadable", _DAMAGED)


def unsupported(kind: str) -> InputRejected:
    """Build the refusal of a file that may be intact but has an unsupported format."""
    return InputRejected("unsupported_format", f"The file is {kind}, which is not supported. {AS_PNG}")
