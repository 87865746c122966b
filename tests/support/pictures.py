"""Make files as people drop them: good ones of every kind, and bad ones."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from tests.support.fakes import SAMPLES

Deep = npt.NDArray[np.uint16]
SAMPLE = SAMPLES / "pneumonia-1.jpeg"


def sample() -> Image.Image:
    """Return a synthetic chest X-ray in 8-bit gray."""
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
    """Return the image lying on its side, with the EXIF orientation that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(sample().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def deep() -> Image.Image:
    """Return an image with 12 significant bits in 16."""
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
GOOD = {name: cache(make) for name, make in GOOD.items()}  # many tests encode the same picture


def png_of(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def png_with(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG with more chunks after its header."""
    return data[:33] + png_of(chunks)[8:] + data[33:]


def deep_png(values: Deep, colours: int, opacity: Deep | None = None) -> bytes:
    """Return gray as a 16-bit PNG of a colour type: 0 gray, 2 RGB, 4 gray and alpha, 6 RGBA."""
    opaque = np.full_like(values, 65535) if opacity is None else opacity
    planes = {0: [values], 2: [values] * 3, 4: [values, opaque], 6: [values] * 3 + [opaque]}[colours]
    rows = b"".join(b"\0" + row.tobytes() for row in np.stack(planes, -1).astype(">u2"))
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colours, 0, 0, 0)
    return png_of(((b"IHDR", head), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")))


Tag = tuple[int, int, int | tuple[int, ...]]  # type 3 (short) or 4 (long), count, value or values


def _directory(tags: dict[int, Tag], order: str, place: int, after: bool) -> bytes:
    """Return a TIFF directory at an offset, followed by its longer values and perhaps another directory."""
    head, behind = struct.pack(f"{order}H", len(tags)), b""
    end = place + 2 + 12 * len(tags) + 4
    for tag, (kind, count, value) in sorted(tags.items()):
        letter = {3: "H", 4: "I"}[kind]
        values = value if isinstance(value, tuple) else (value,)
        raw = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(raw) > 4:
            raw, behind = struct.pack(f"{order}I", end + len(behind)), behind + raw
        head += struct.pack(f"{order}HHI", tag, kind, count) + raw.ljust(4, b"\0")
    return head + struct.pack(f"{order}I", end + len(behind) if after else 0) + behind


def _tiff(pixels: bytes, tags: dict[int, Tag], order: str = "<") -> bytes:
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(pixels))
    return start + pixels + _directory(tags, order, 8 + len(pixels), False)


def _tags(width: int, height: int, size: int, place: int = 8) -> dict[int, Tag]:
    long = {256: width, 257: height, 273: place, 278: height, 279: size}
    short = {258: 8, 259: 1, 262: 1, 277: 1}
    return {tag: (4, 1, n) for tag, n in long.items()} | {tag: (3, 1, n) for tag, n in short.items()}


def tiff(
    image: Image.Image,
    more: dict[int, Tag] | None = None,
    without: tuple[int, ...] = (),
    size: tuple[int, int] | None = None,
) -> bytes:
    """Return an 8-bit gray TIFF with additional tags."""
    tags = _tags(*(size or image.size), len(image.tobytes())) | (more or {})
    if 324 in tags:
        without = (*without, 273)
    return _tiff(image.tobytes(), {tag: found for tag, found in tags.items() if tag not in without})


def gray_tiff(values: np.ndarray, order: str = "<", more: dict[int, Tag] | None = None) -> bytes:
    """Return a gray TIFF of any number type."""
    raw = values.astype(values.dtype.newbyteorder(order)).tobytes()
    form = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = _tags(values.shape[1], values.shape[0], len(raw))
    return _tiff(
        raw, tags | {258: (3, 1, values.itemsize * 8), 339: (3, 1, form)} | (more or {}), order=order
    )


def deep_tiff(values: Deep, order: str, packing: int, is_planar: bool, extra: int | None) -> bytes:
    """Return a 16-bit TIFF, [h, w, 2 to 4], uncompressed (1) or deflated (8), in three strips."""
    height, width, samples = values.shape
    step = -(-height // 3)
    planes = [values[..., n] for n in range(samples)] if is_planar else [values]
    strips = [
        plane[top : top + step].astype(f"{order}u2").tobytes()
        for plane in planes
        for top in range(0, height, step)
    ]
    strips = [zlib.compress(strip) for strip in strips] if packing == 8 else strips
    places = tuple(8 + sum(map(len, strips[:n])) for n in range(len(strips)))
    tags = _tags(width, height, 0) | {
        258: (3, samples, (16,) * samples),
        259: (3, 1, packing),
        262: (3, 1, 2 if samples > 2 else 1),
        277: (3, 1, samples),
        278: (4, 1, step),
        273: (4, len(strips), places),
        279: (4, len(strips), tuple(map(len, strips))),
        284: (3, 1, 2 if is_planar else 1),
    }
    return _tiff(b"".join(strips), tags if extra is None else tags | {338: (3, 1, extra)}, order)


def tiff_holding(packed: bytes, size: tuple[int, int], packing: int) -> bytes:
    """Return an 8-bit gray TIFF with one strip that another encoder compressed."""
    return _tiff(packed, _tags(*size, len(packed)) | {259: (3, 1, packing)})


def tiff_of(images: list[tuple[Image.Image, int | None]]) -> bytes:
    """Return a TIFF of several images, each with its subfile type."""
    pixels = b"".join(image.tobytes() for image, _ in images)
    data, place = struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels, 8
    for number, (image, kind) in enumerate(images):
        tags = _tags(*image.size, len(image.tobytes()), place)
        tags |= {254: (4, 1, kind)} if kind is not None else {}
        data += _directory(tags, "<", len(data), number + 1 < len(images))
        place += len(image.tobytes())
    return data


def tiled_tiff(image: Image.Image) -> bytes:
    """Return an 8-bit gray TIFF in tiles of 64 x 64 pixels."""
    padded = Image.new("L", (-(-image.width // 64) * 64, -(-image.height // 64) * 64))
    padded.paste(image)
    corners = [(x, y) for y in range(0, padded.height, 64) for x in range(0, padded.width, 64)]
    pixels = b"".join(padded.crop((x, y, x + 64, y + 64)).tobytes() for x, y in corners)
    places = tuple(8 + 4096 * n for n in range(len(corners)))
    tags = {tag: found for tag, found in _tags(*image.size, 0).items() if tag not in (273, 278, 279)}
    tags |= {322: (3, 1, 64), 323: (3, 1, 64), 324: (4, len(corners), places)}
    return _tiff(pixels, tags | {325: (4, len(corners), (4096,) * len(corners))})


def interlaced(image: Image.Image) -> bytes:
    """Return an 8-bit gray PNG interlaced in seven passes (Adam7)."""
    values = np.asarray(image)
    passes = (
        *((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)),
    )
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, down, left, across in passes
        for row in np.ascontiguousarray(values[top::down, left::across])
    )
    head = struct.pack(">IIBBBBB", image.width, image.height, 8, 0, 0, 0, 1)
    return png_of(((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))


def riff(*parts: bytes) -> bytes:
    """Return a WebP file of chunks, given as name, content, name, and so on."""
    body = b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for name, content in zip(parts[::2], parts[1::2], strict=True)
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def bomb() -> bytes:
    """Return a PNG that claims to have 30,000 x 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return png_of([(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")])


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
BAD = {name: (code, cache(make)) for name, (code, make) in BAD.items()}


def with_text(image: Image.Image, text: str) -> bytes:
    """Return a PNG that contains a person's name."""
    info = PngImagePlugin.PngInfo()
    info.add_text("PatientName", text)
    return encoded(image, "PNG", pnginfo=info)
