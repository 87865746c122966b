"""Compressed frames of DICOM files: whole, truncated and damaged."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, uid
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame

from model.serve.files.codecs import decoded
from model.serve.files.codestreams import open_stream
from model.serve.files.decode import decode
from pipeline.errors import InputRejected
from tests.support import dicoms, pictures

LIMIT = 2_000_000  # pixels


def _jpeg_ls() -> bytes:
    found = dicoms.dataset()
    found.compress(uid.JPEGLSLossless, generate_instance_uid=False)
    return get_frame(found.PixelData, 0, number_of_frames=1)


def _colours() -> bytes:
    picture = Image.fromarray(np.stack([dicoms.gray()] * 3, -1))
    return pictures.encoded(picture, "JPEG", quality=90)


FRAMES: dict[str, tuple[str, Callable[[], bytes], Callable[[], dicoms.Pixels]]] = {
    "JPEG": (uid.JPEGBaseline8Bit, dicoms.jpeg, dicoms.gray),
    "colours": (uid.JPEGBaseline8Bit, _colours, lambda: np.stack([dicoms.gray()] * 3, -1)),
    "lossless": (uid.JPEGLossless, lambda: dicoms.lossless_jpeg(dicoms.deep(), 2, 12), dicoms.deep),
    "lossless, first order": (
        uid.JPEGLosslessSV1,
        lambda: dicoms.lossless_jpeg(dicoms.deep(), 1, 12),
        dicoms.deep,
    ),
    "JPEG-LS": (uid.JPEGLSLossless, _jpeg_ls, dicoms.deep),
    "JPEG 2000": (uid.JPEG2000Lossless, lambda: dicoms.jpeg2000(dicoms.deep(), 12), dicoms.deep),
}
HARM: dict[str, Callable[[bytes], bytes]] = {
    "cut to 30 %": lambda frame: frame[: len(frame) * 3 // 10],
    "cut to 70 %": lambda frame: frame[: len(frame) * 7 // 10],
    "cut to 90 %": lambda frame: frame[: len(frame) * 9 // 10],
    "cut to 98 %": lambda frame: frame[: len(frame) * 98 // 100],
    "cut, and filled up with zeros": lambda frame: frame[: len(frame) * 7 // 10].ljust(len(frame), b"\0"),
    "cut, and ended": lambda frame: frame[: len(frame) * 7 // 10] + b"\xff\xd9",
    "a hole of zeros": lambda frame: frame[: len(frame) // 2] + bytes(len(frame) // 4) + frame[-100:],
    "an end that is there twice": lambda frame: frame[:-2] + frame[-3000:],
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_that_is_not_whole_is_refused(kind: str, harm: str) -> None:
    syntax, frame, pixels = FRAMES[kind]
    decode(dicoms.packed(frame(), syntax, pixels()), LIMIT)
    with pytest.raises(InputRejected) as caught:
        decode(dicoms.packed(HARM[harm](frame()), syntax, pixels()), LIMIT)
    assert caught.value.code == "unreadable"


def _of_12_bits() -> bytes:
    """Return a 12-bit JPEG that comes with pydicom; no encoder here writes one."""
    path = get_testdata_file("JPGExtended.dcm")
    assert isinstance(path, str)
    return get_frame(dcmread(path).PixelData, 0, number_of_frames=1)


DEEP: dict[str, tuple[str, Callable[[], bytes], Callable[[], dicoms.Pixels]]] = {
    "12 bits": (uid.JPEGExtended12Bit, _of_12_bits, lambda: np.zeros((1024, 256), np.uint16)),
    "lossless": (
        uid.JPEGLosslessSV1,
        lambda: dicoms.lossless_jpeg(dicoms.deep() * 7, 1, 16),
        lambda: dicoms.deep() * 7,
    ),
}
OVERWRITTEN: dict[str, Callable[[bytes], bytes]] = {
    f"100 other bytes at {share} %": lambda frame, share=share: (  # type: ignore[misc]
        frame[: len(frame) * share // 100] + b"\x55" * 100 + frame[len(frame) * share // 100 + 100 :]
    )
    for share in (20, 35, 50, 65, 80)
}


@pytest.mark.parametrize("harm", OVERWRITTEN | HARM)
@pytest.mark.parametrize("kind", DEEP)
def test_a_deep_jpeg_of_damaged_data_is_refused(
    kind: str, harm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    syntax, frame, pixels = DEEP[kind]
    decode(dicoms.packed(frame(), syntax, pixels(), BitsStored=16), LIMIT)
    broken = (OVERWRITTEN | HARM)[harm](frame())
    with pytest.raises(InputRejected) as caught:
        decode(dicoms.packed(broken, syntax, pixels(), BitsStored=16), LIMIT)
    assert caught.value.code == "unreadable"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("bits", range(2, 8))
def test_a_lossless_jpeg_of_few_bits_is_read(bits: int) -> None:
    """gdcm gets 8 bits: it does not know fewer, and ends the process."""
    pixels = (dicoms.gray() >> (8 - bits)).astype(np.uint8)
    stream = open_stream(dicoms.lossless_jpeg(pixels, 1, bits))
    assert np.array_equal(decoded(stream), pixels)


def test_a_jpeg_with_a_black_corner_is_whole() -> None:
    """Its last bits may be flipped without a visible change."""
    for dark in (30, 100, 200):
        pixels = dicoms.gray().copy()
        pixels[-dark:, -dark:] = 0
        frame = pictures.encoded(Image.fromarray(pixels), "JPEG", quality=95)
        decode(dicoms.packed(frame, uid.JPEGBaseline8Bit, pixels), LIMIT)


def test_a_whole_frame_is_never_taken_for_a_damaged_one() -> None:
    """Many small images have many different last bytes."""
    for seed in range(16):
        noise = np.random.default_rng(seed).integers(0, 256 if seed % 2 else 40, (70, 70)).astype(np.uint8)
        for quality in (30, 95):
            frame = pictures.encoded(Image.fromarray(noise), "JPEG", quality=quality)
            decode(dicoms.packed(frame, uid.JPEGBaseline8Bit, noise), LIMIT)
        colours = np.stack([noise, noise.T, noise[::-1]], -1)
        frame = pictures.encoded(Image.fromarray(colours), "JPEG", quality=95)
        decode(dicoms.packed(frame, uid.JPEGBaseline8Bit, colours), LIMIT)
        decode(dicoms.packed(dicoms.lossless_jpeg(noise, 1, 8), uid.JPEGLosslessSV1, noise), LIMIT)


@pytest.mark.parametrize("end", [b"", b"\0" * 16, b"\xfe\xff\x0d\xe0\0\0\0\0"])
def test_a_whole_frame_needs_no_mark_of_its_end(end: bytes) -> None:
    whole = dicoms.packed(dicoms.jpeg(), uid.JPEGBaseline8Bit, dicoms.gray())
    assert whole.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    assert np.array_equal(decode(whole[:-8] + end, LIMIT)[0], decode(whole, LIMIT)[0])
    with pytest.raises(InputRejected) as caught:
        decode(whole[:-3000] + end, LIMIT)
    assert caught.value.code == "unreadable"


@pytest.mark.parametrize("has_length", [False, True])
def test_a_frame_may_come_in_pieces_without_a_table_of_offsets(has_length: bool) -> None:
    frame = dicoms.jpeg()
    pieces = (frame[:1000], frame[1000:5000], frame[5000:])
    items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(piece)) + piece for piece in pieces)
    whole = dicoms.packed(frame, uid.JPEGBaseline8Bit, dicoms.gray())
    place = whole.index(b"\xe0\x7f\x10\0OW") + 8
    length = len(items) if has_length else 0xFFFFFFFF
    data = whole[:place] + struct.pack("<I", length) + items
    assert np.array_equal(decode(data, LIMIT)[0], decode(whole, LIMIT)[0])


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    frame = pictures.encoded(Image.fromarray(dicoms.gray()), "JPEG", progressive=True)
    start = frame.rindex(b"\xff\xda")
    scan = frame[start:-2]
    with pytest.raises(InputRejected) as caught:
        decode(
            dicoms.packed(frame[:-2] + scan * 1000 + b"\xff\xd9", uid.JPEGBaseline8Bit, dicoms.gray()), LIMIT
        )
    assert caught.value.code == "unreadable"
