"""Files that are too large, rare, deep, rotated or damaged: each gets the right answer."""

import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom import dcmread, uid
from pydicom.encaps import get_frame

from model.serve.files.decode import decode
from model.serve.files.jpeg import read_jpeg
from pipeline.errors import InputRejected
from tests.support import dicoms, pictures
from tests.support.pictures import encoded, tiff


@cache
def sample() -> Image.Image:
    return pictures.sample().resize((320, 256))


def gray_of(data: bytes) -> npt.NDArray[np.int16]:
    return np.asarray(decode(data, 50_000_000)[0], np.int16)


def refusal_of(data: bytes) -> InputRejected:
    with pytest.raises(InputRejected) as caught:
        decode(data, 50_000_000)
    return caught.value


def deep_values(bits: int) -> npt.NDArray[np.uint16]:
    return (np.asarray(sample(), np.uint32) * (2**bits - 1) // 255).astype(np.uint16)


# Claims that a decoder would believe


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return pictures.png_of((*chunks, (b"IEND", b"")))


def header(width: int, height: int, depth: int = 8, colours: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)


def scanned_again(times: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan this many times."""
    data = encoded(Image.new("L", (3000, 3000)), "JPEG", progressive=True)
    return data[:-2] + data[data.rfind(b"\xff\xda") : -2] * times + b"\xff\xd9"


def tiff_scanned_again(times: int) -> bytes:
    return pictures.tiff_holding(scanned_again(times), (3000, 3000), 7)


def directories(number: int) -> bytes:
    """Return a TIFF that chains one picture many times."""
    first = tiff(sample())
    place, tags = struct.unpack_from("<I", first, 4)[0], first[struct.unpack_from("<I", first, 4)[0] : -4]
    size = len(tags) + 4
    behind = b"".join(tags + struct.pack("<I", place + size * (n + 1)) for n in range(number))
    return first[:place] + behind + tags + b"\0\0\0\0"


def many_strips(number: int) -> bytes:
    data = tiff(sample(), more={273: (4, number, 0)})
    place = data.index(struct.pack("<HHII", 273, 4, number, 0))
    return (
        data[: place + 8] + struct.pack("<I", len(data)) + data[place + 12 :] + struct.pack("<I", 8) * number
    )


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (80, 80), np.uint8)) for n in (0, 1)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


JPEG = encoded(sample(), "JPEG")
TEXT = zlib.compress(b"A" * 20_000_000)
BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "PNG of 16 million million pixels": (
        "too_many_pixels",
        lambda: png(header(4_000_000, 4_000_000), (b"IDAT", b"a")),
    ),
    "PNG in 150,000 chunks": ("unreadable", lambda: png(header(80, 80), *[(b"IDAT", b"")] * 150_000)),
    "PNG that moves": ("not_a_single_image", lambda: animation("PNG")),
    "WebP that moves": ("not_a_single_image", lambda: animation("WEBP")),
    "WebP of a great canvas": (
        "too_many_pixels",
        lambda: pictures.riff(b"VP8X", b"\0" * 4 + b"\xfe\x3f\0" * 2, b"VP8L", b"\x2f\0\0\0\0"),
    ),
    "GIF with a frame beyond its canvas": (
        "too_many_pixels",
        lambda: b"GIF89a\0\1\0\1\0\0\0,\0\0\0\0" + b"\xff" * 4 + b"\0\x08\0",
    ),
    "GIF of a million comments": ("unreadable", lambda: b"GIF89a\0\1\0\1\0\0\0!\xfe" + b"\1a" * 1_500_000),
    "JPEG of 1000 scans": ("unreadable", lambda: scanned_again(1000)),
    "TIFF with a JPEG of 30 scans": ("unreadable", lambda: tiff_scanned_again(30)),
    "JPEG after a megabyte of filling": ("unreadable", lambda: JPEG[:2] + b"\xff" * 1_000_000 + JPEG[2:]),
    "JPEG of 100,000 notes": ("unreadable", lambda: JPEG[:2] + b"\xff\xe1\0\2" * 100_000 + JPEG[2:]),
    "TIFF with one tile of 2 gigapixels": (
        "unreadable",
        lambda: tiff(
            sample(), more={322: (4, 1, 46336), 323: (4, 1, 46320), 324: (4, 1, 8)}, without=(273, 278)
        ),
    ),
    "TIFF of 20,000 directories": ("not_a_single_image", lambda: directories(20_000)),
    "TIFF of a million pieces": (
        "unsupported_format",
        lambda: tiff(sample(), more={322: (3, 1, 1), 323: (3, 1, 1), 324: (4, 1, 8)}, size=(1000, 1000)),
    ),
    "BMP of 64,000 a side": (
        "too_many_pixels",
        lambda: b"BM" + b"\0" * 12 + struct.pack("<Iii", 40, 64_000, -64_000) + b"\0" * 40,
    ),
}


@pytest.mark.timeout(5)
@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_that_asks_for_too_much_is_refused_by_its_structure(kind: str) -> None:
    code, make = BOMBS[kind]
    assert refusal_of(make()).code == code


HARMLESS: dict[str, Callable[[], bytes]] = {
    "JPEG with much EXIF": lambda: JPEG[:2] + (b"\xff\xe1\xff\xffExif\0\0" + b"\0" * 65527) * 300 + JPEG[2:],
    "TIFF that names one strip a million times": lambda: many_strips(1_000_000),
    "TIFF that chains back to itself": lambda: directories(0)[:-4] + directories(0)[4:8],
    "TIFF with a broken chain": lambda: tiff(sample())[:-4] + b"\xff\xff\xff\x7f",
    "PNG with texts and a profile that grow": lambda: pictures.png_with(
        encoded(sample(), "PNG"), *[(b"zTXt", b"k\0\0" + TEXT)] * 9, (b"iCCP", b"k\0\0" + TEXT)
    ),
}


@pytest.mark.timeout(5)
@pytest.mark.parametrize("kind", HARMLESS)
def test_what_decoding_does_not_need_is_not_looked_at(kind: str) -> None:
    assert np.abs(gray_of(HARMLESS[kind]()) - np.asarray(sample())).mean() < 3


def test_a_tiff_that_holds_a_progressive_jpeg_is_read() -> None:
    data = pictures.tiff_holding(encoded(sample(), "JPEG", progressive=True), sample().size, 7)
    assert np.abs(gray_of(data) - np.asarray(sample())).mean() < 3


def test_a_progressive_jpeg_as_it_should_be_is_read() -> None:
    assert np.abs(gray_of(encoded(sample(), "JPEG", progressive=True)) - np.asarray(sample())).mean() < 3


@pytest.mark.parametrize("make", [dicoms.jpeg, lambda: dicoms.lossless_jpeg(dicoms.deep(), 1, 12)])
def test_a_frame_of_any_depth_is_checked_alone(make: Callable[[], bytes]) -> None:
    read_jpeg(make())
    with pytest.raises(InputRejected):
        read_jpeg(make()[:-50])


def test_a_frame_of_jpeg_ls_is_checked_to_its_end() -> None:
    for syntax, options in ((uid.JPEGLSLossless, {}), (uid.JPEGLSNearLossless, {"jls_error": 2})):
        noisy = np.random.default_rng(1).integers(0, 4096, (64, 64)).astype(np.uint16)
        file = dcmread(io.BytesIO(dicoms.compressed(syntax, noisy, **options)))
        frame = get_frame(file.PixelData, 0, number_of_frames=1).rstrip(b"\0")
        read_jpeg(frame)
        with pytest.raises(InputRejected):
            read_jpeg(frame[:-100])


_CHILD = """
import re, sys
from pathlib import Path
from model.serve.files.decode import decode
from pipeline.errors import InputRejected
highest = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
before = highest()
try:
    decode(open(sys.argv[1], "rb").read(), 50_000_000)
except InputRejected as error:
    print(error.code)
print((highest() - before) // 1024)
"""


def megabytes(data: bytes, tmp_path: Path) -> tuple[str, int]:
    """Return the result for a file judged in its own process, and the growth of its resident memory."""
    path = tmp_path / "file"
    path.write_bytes(data)
    command = [sys.executable, "-c", _CHILD, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    *code, grown = done.stdout.split()
    return "".join(code), int(grown)


@pytest.mark.whole
@pytest.mark.parametrize(
    "kind", [*(kind for kind in BOMBS if "WebP" in kind or "TIFF" in kind or "million million" in kind)]
)
def test_a_bomb_costs_no_memory(kind: str, tmp_path: Path) -> None:
    code, grown = megabytes(BOMBS[kind][1](), tmp_path)
    assert code == BOMBS[kind][0]
    assert grown < 50


@pytest.mark.whole
def test_the_measure_of_memory_sees_what_pillow_takes(tmp_path: Path) -> None:
    assert megabytes(encoded(Image.new("RGB", (4000, 4000)), "PNG", compress_level=1), tmp_path)[1] > 60


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["float", "integer", "colour"])
def test_a_large_deep_picture_takes_few_bytes_a_pixel(kind: str, tmp_path: Path) -> None:
    side = 3000
    values = np.add.outer(np.arange(side, dtype=np.uint16), np.arange(side, dtype=np.uint16))
    data = {
        "float": lambda: encoded(Image.fromarray(values.astype(np.float32)), "TIFF"),
        "integer": lambda: encoded(Image.fromarray(values.astype(np.int32)), "TIFF"),
        "colour": lambda: pictures.deep_png(values, 2),
    }[kind]()
    grown = megabytes(data, tmp_path)[1] - len(data) / 1e6
    assert grown * 1e6 / side**2 < 17  # 0.8 GB for 49 megapixels


# Deep colours


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("colours", [0, 2, 4, 6])
def test_a_png_of_sixteen_bits_looks_alike_whatever_its_colours(bits: int, colours: int) -> None:
    found = gray_of(pictures.deep_png(deep_values(bits), colours))
    assert np.abs(found - gray_of(encoded(Image.fromarray(deep_values(12)), "PNG"))).max() <= 1


@pytest.mark.parametrize("is_planar", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packing", [1, 8])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
def test_a_tiff_of_sixteen_bits_a_colour_looks_like_gray(
    is_planar: bool, order: str, packing: int, extra: int | None
) -> None:
    value = deep_values(10)
    opaque = [] if extra is None else [np.full_like(value, 65535)]
    data = pictures.deep_tiff(np.stack([value] * 3 + opaque, -1), order, packing, is_planar, extra)
    assert np.abs(gray_of(data) - gray_of(encoded(Image.fromarray(value), "PNG"))).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
@pytest.mark.parametrize("packing", [1, 8])
def test_a_tiff_of_gray_and_opacity_is_read(order: str, extra: int | None, packing: int) -> None:
    value = deep_values(12)
    pairs = np.stack([value, np.full_like(value, 65535)], -1)
    data = pictures.deep_tiff(pairs, order, packing, False, extra)
    assert np.abs(gray_of(data) - gray_of(encoded(Image.fromarray(value), "PNG"))).max() <= 1


def test_lightness_and_two_colours_are_gray() -> None:
    data = encoded(sample().convert("RGB").convert("LAB"), "TIFF")
    assert np.abs(gray_of(data) - np.asarray(sample())).mean() < 10


def test_a_transparent_part_of_a_deep_picture_is_black_and_sets_no_limit() -> None:
    value = deep_values(12) + 4000
    value[:50] = 65535
    opacity = np.full_like(value, 65535)
    opacity[:50] = 0
    found = gray_of(pictures.deep_png(value, 6, opacity))
    assert found[:50].max() == 0
    assert found[50:].max() == 255


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.int16, np.float32])
def test_a_tiff_of_any_numbers_is_stretched(dtype: type) -> None:
    value = deep_values(12).astype(dtype)
    if dtype == np.uint32:
        value = value * 1_000_000  # beyond the signed numbers
    elif dtype != np.float32:
        value -= 2000
    else:
        value[0, :3] = np.nan, np.inf, -np.inf
    found = gray_of(pictures.gray_tiff(value))
    expected = gray_of(encoded(Image.fromarray(deep_values(12)), "PNG"))
    assert np.abs(found - expected)[1:].max() <= 1


def test_negative_bytes_are_darker_than_positive_ones() -> None:
    value = (np.asarray(sample(), np.int16) - 128).astype(np.int8)
    assert np.abs(gray_of(pictures.gray_tiff(value)) - np.asarray(sample())).max() <= 1


@pytest.mark.parametrize(
    ("dtype", "order"),
    [
        *((dtype, order) for dtype in (np.uint8, np.uint16, np.float32) for order in "<>"),
        (np.uint32, "<"),  # Pillow does not read the other byte order
    ],
)
def test_white_is_zero_in_every_depth(dtype: type, order: str) -> None:
    most = {np.uint8: 255, np.uint16: 65535}.get(dtype, 255)
    value = (most - np.asarray(sample(), np.int64) * (most // 255)).astype(dtype)
    found = gray_of(pictures.gray_tiff(value, order, {262: (3, 1, 0)}))
    stretched = gray_of(encoded(Image.fromarray(deep_values(12)), "PNG"))
    assert np.abs(found - (np.asarray(sample()) if dtype == np.uint8 else stretched)).max() <= 1


# Directories of a TIFF


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_is_turned_once(number: int, compression: str | None) -> None:
    turns = Image.Transpose
    back = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }.get(number)
    stored = sample().transpose(back) if back is not None else sample()
    gray, facts, _ = decode(
        encoded(stored, "TIFF", tiffinfo={274: number}, compression=compression), 50_000_000
    )
    assert (facts.width, facts.height) == gray.size == sample().size
    assert np.array_equal(np.asarray(gray), np.asarray(sample()))


@pytest.mark.parametrize("kind", [1, 4, 5])
def test_a_smaller_copy_or_a_mask_is_no_second_image(kind: int) -> None:
    copy = sample().resize((80, 64))
    for first, second in ((None, kind), (kind, None)):
        images = [(sample(), first), (copy, second)] if first is None else [(copy, first), (sample(), second)]
        data = pictures.tiff_of(images)
        assert np.array_equal(gray_of(data), np.asarray(sample()))
    assert refusal_of(pictures.tiff_of([(sample(), None), (copy, None)])).code == "not_a_single_image"


# The true reason

CMYK = encoded(sample().convert("RGB").convert("CMYK"), "JPEG")
UNSUPPORTED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "JPEG with arithmetic coding": ("JPEG of a rare kind", lambda: JPEG.replace(b"\xff\xc0", b"\xff\xc9", 1)),
    "JPEG of 12 bits": ("12 bits", lambda: dicoms.lossless_jpeg(dicoms.deep(), 1, 12)),
    "TIFF packed with LERC": ("TIFF", lambda: tiff(sample(), more={259: (3, 1, 34887)})),
    "TIFF of 64 bits": ("TIFF", lambda: tiff(sample(), more={258: (3, 1, 64), 339: (3, 1, 3)})),
    "BMP with a JPEG in it": (
        "BMP",
        lambda: b"BM" + b"\0" * 12 + struct.pack("<IiiHHI", 40, 99, 99, 1, 0, 4) + b"\0" * 40,
    ),
    "JPEG XL": ("JPEG XL", lambda: b"\xff\x0a" + b"\0" * 99),
    "JPEG XL in boxes": ("JPEG XL", lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 99),
    "HEIC": ("HEIC", lambda: b"\0\0\0\x18ftypheic" + b"\0" * 99),
    "AVIF": ("AVIF", lambda: encoded(sample(), "AVIF")),
    "JPEG 2000": ("JPEG 2000", lambda: encoded(sample(), "JPEG2000")),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_a_sound_file_of_a_kind_that_is_not_read_is_named(kind: str) -> None:
    name, make = UNSUPPORTED[kind]
    error = refusal_of(make())
    assert error.code == "unsupported_format"
    assert name in str(error)


def data_of(mode: str, **options: object) -> bytes:
    image = pictures.sample().convert(mode)
    return encoded(image, "JPEG", quality=90, **options)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_rows": 4}])
def test_a_jpeg_whose_data_do_not_fit_its_picture_is_damaged(mode: str, options: dict[str, object]) -> None:
    whole = data_of(mode, **options)
    middle = len(whole) // 2
    assert gray_of(whole).shape == (800, 1000)
    damages = {
        "cut": whole[:middle] + b"\xff\xd9",
        "without its end": whole[:-2],
        "with a part lost": whole[:middle] + whole[-20_000:],
        "with a part twice": whole[:middle] + whole[middle - 20_000 :],
    }
    for name, data in damages.items():
        assert refusal_of(data).code == "unreadable", name


@pytest.mark.parametrize("size", [(1000, 800), (97, 71), (64, 64), (1283, 70)])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("level", [None, 0, 255])
def test_a_sound_jpeg_of_any_size_is_not_called_damaged(
    size: tuple[int, int], mode: str, level: int | None
) -> None:
    image = pictures.sample().resize(size) if level is None else Image.new("L", size, level)
    for options in ({"quality": 30}, {"quality": 95, "subsampling": 0}, {"restart_marker_blocks": 3}):
        decode(encoded(image.convert("RGB").convert(mode), "JPEG", **options), 50_000_000)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_that_lacks_a_scan_is_damaged(mode: str) -> None:
    whole = encoded(sample().convert("RGB").convert(mode), "JPEG", progressive=True)
    starts = [match.start() for match in re.finditer(b"\xff\xda", whole)]
    assert len(starts) > 4
    decode(whole, 50_000_000)
    for start in starts:
        assert refusal_of(whole[:start] + b"\xff\xd9").code == "unreadable"


def test_bytes_behind_the_end_of_a_jpeg_are_no_damage() -> None:
    assert np.array_equal(gray_of(JPEG + JPEG + b"x" * 99), gray_of(JPEG))
    assert np.array_equal(gray_of(JPEG[:-2] + b"\xff\xff\xff" + JPEG[-2:]), gray_of(JPEG))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_file_is_damaged(kind: str, share: float) -> None:
    whole = encoded(sample(), kind)
    assert refusal_of(whole[: int(len(whole) * share)]).code == "unreadable"


@pytest.mark.parametrize("most", [200, 1023, 4095, 65535])
@pytest.mark.parametrize("colours", [4, 6])
def test_opacity_of_any_depth_is_opaque_at_its_most(colours: int, most: int) -> None:
    values = deep_values(10)
    opaque = pictures.deep_png(values, colours, np.full(values.shape, most, np.uint16))
    assert np.abs(gray_of(opaque) - gray_of(pictures.deep_png(values, 0))).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_in_a_tiff_that_is_cut_or_damaged_is_damaged(mode: str) -> None:
    picture = sample().resize((400, 300)).convert("RGB").convert(mode)
    whole = encoded(picture, "TIFF", compression="jpeg", tiffinfo={278: 64})
    with Image.open(io.BytesIO(whole)) as image:
        places, sizes = image.tag_v2[273], image.tag_v2[279]  # type: ignore[attr-defined]
    assert len(places) > 2
    decode(whole, 50_000_000)
    for place, size in zip(places, sizes, strict=True):
        middle = place + size // 2
        overwritten = whole[:middle] + b"\x55" * 100 + whole[middle + 100 :]
        emptied = whole[:middle] + bytes(size // 2) + whole[middle + size // 2 :]
        ended = whole[:middle] + (b"\xff\xd9" * size)[: size // 2] + whole[middle + size // 2 :]
        for broken in (overwritten, emptied, ended):
            assert refusal_of(broken).code == "unreadable"


def without_rows(whole: bytes, lost: float) -> bytes:
    """Return a PNG whose data end properly, but too early."""
    chunks = dict[bytes, bytes]()
    place = 8
    while place < len(whole):
        length, name = struct.unpack_from(">I4s", whole, place)
        chunks[name] = chunks.get(name, b"") + whole[place + 8 : place + 8 + length]
        place += 12 + length
    rows = zlib.decompress(chunks[b"IDAT"])
    chunks[b"IDAT"] = zlib.compress(rows[: min(int(len(rows) * (1 - lost)), len(rows) - 1)])
    return pictures.png_of(chunks.items())


PNGS: dict[str, Callable[[], bytes]] = {
    **{
        mode: lambda mode=mode: encoded(sample().resize((131, 75)).convert("RGB").convert(mode), "PNG")
        for mode in ("1", "L", "P", "RGB", "RGBA", "LA")
    },
    "interlaced": lambda: pictures.interlaced(sample().resize((131, 75))),
    "16 bits": lambda: pictures.deep_png(deep_values(16), 0),
    "16 bits a colour": lambda: pictures.deep_png(deep_values(16), 2),
    "16 bits and opacity": lambda: pictures.deep_png(deep_values(16), 4),
}


@pytest.mark.parametrize("lost", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("kind", PNGS)
def test_a_png_of_fewer_rows_than_it_says_is_damaged(kind: str, lost: float) -> None:
    whole = PNGS[kind]()
    decode(whole, 50_000_000)
    assert refusal_of(without_rows(whole, lost)).code == "unreadable"


def test_a_file_that_is_broken_in_its_header_is_damaged() -> None:
    assert refusal_of(b"\xff\xd8\xff\xe0" + b"\0" * 500).code == "unreadable"
    assert refusal_of(b"II*\0" + b"\xff" * 500).code == "unreadable"
    assert refusal_of(b"\x89PNG\r\n\x1a\n" + b"\0" * 500).code == "unreadable"
    assert refusal_of(b"RIFF\xff\0\0\0WEBPVP8 ").code == "unreadable"
    assert refusal_of(b"GIF89a" + b"\0" * 7 + b";").code == "unreadable"


def test_a_phone_s_picture_with_smaller_copies_is_one_image() -> None:
    buffer = io.BytesIO()
    sample().convert("RGB").save(buffer, "MPO", save_all=True, append_images=[sample().convert("RGB")])
    _, facts, _ = decode(buffer.getvalue(), 50_000_000)
    assert facts.media_type == "image/jpeg"
