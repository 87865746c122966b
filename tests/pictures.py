"""Files as people drop them: good ones of every kind, and bad ones."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, PngImagePlugin

from tests.fakes import SAMPLES

SAMPLE = SAMPLES / "pneumonia-1.jpeg"


def sample() -> Image.Image:
    """A synthetic chest X-ray, 8-bit gray."""
    with Image.open(SAMPLE) as image:
        return image.convert("L")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


def rotated() -> bytes:
    """Lying on its side, with the EXIF note that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(sample().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def deep() -> Image.Image:
    """12 significant bits in 16."""
    return Image.fromarray(np.asarray(sample(), np.uint16) * 16)


def transparent() -> Image.Image:
    image = sample().convert("LA")
    image.putalpha(255)
    return image


GOOD: dict[str, Callable[[], bytes]] = {
    "gray JPEG": lambda: encoded(sample(), "JPEG", quality=95),
    "RGB JPEG": lambda: encoded(sample().convert("RGB"), "JPEG", quality=95),
    "CMYK JPEG": lambda: encoded(sample().convert("RGB").convert("CMYK"), "JPEG", quality=95),
    "EXIF-rotated JPEG": rotated,
    "PNG": lambda: encoded(sample(), "PNG"),
    "16-bit PNG": lambda: encoded(deep(), "PNG"),
    "palette PNG": lambda: encoded(sample().convert("RGB").quantize(256), "PNG"),
    "PNG with transparency": lambda: encoded(transparent(), "PNG"),
    "16-bit TIFF": lambda: encoded(deep(), "TIFF"),
    "WebP": lambda: encoded(sample(), "WEBP", quality=95),
    "BMP": lambda: encoded(sample(), "BMP"),
    "single GIF": lambda: encoded(sample(), "GIF"),
}


def bomb() -> bytes:
    """A PNG that says it has 30,000 x 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def broken_chunk() -> bytes:
    data = bytearray(encoded(sample(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def frames(kind: str) -> bytes:
    return encoded(
        sample().resize((300, 300)),
        kind,
        save_all=True,
        append_images=[Image.new("L", (300, 300), n) for n in (9, 99)],
    )


BAD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty": ("empty", lambda: b""),
    "text named .jpeg": ("unsupported_format", lambda: b"Dear colleague, the X-ray is attached.\n"),
    "truncated JPEG": ("unreadable", lambda: SAMPLE.read_bytes()[:40_000]),
    "JPEG cut in its header": ("unreadable", lambda: SAMPLE.read_bytes()[:20]),
    "PNG with a broken chunk": ("unreadable", broken_chunk),
    "decompression bomb": ("too_many_pixels", bomb),
    "animated GIF": ("not_a_single_image", lambda: frames("GIF")),
    "multi-page TIFF": ("not_a_single_image", lambda: frames("TIFF")),
    "SVG": ("unsupported_format", lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
    "PDF": ("unsupported_format", lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n"),
    "DICOM without an image": ("unsupported_format", lambda: b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0"),
    "ZIP": ("unsupported_format", lambda: b"PK\3\4" + b"\0" * 60),
    "blank image": ("not_a_chest_xray", lambda: encoded(Image.new("L", (800, 600), 130), "PNG")),
    "black image": ("not_a_chest_xray", lambda: encoded(Image.new("RGB", (800, 600)), "JPEG")),
    "one pixel": ("not_a_chest_xray", lambda: encoded(Image.new("L", (1, 1)), "PNG")),
    "noise of bytes": ("unsupported_format", lambda: np.random.default_rng(1).bytes(5000)),
}


def with_text(image: Image.Image, text: str) -> bytes:
    """A PNG and a person's name in it."""
    info = PngImagePlugin.PngInfo()
    info.add_text("PatientName", text)
    return encoded(image, "PNG", pnginfo=info)
