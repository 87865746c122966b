"""DICOM files through the engine: every packing, every refusal, every warning, and damage of any kind."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread, uid
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame

from model.codestreams import opened
from model.decode import decode
from model.engine import Engine
from pipeline.errors import InputRejected
from pipeline.ports import ImageFacts
from tests import dicoms, pictures
from tests.dicoms import dicom

LIMIT = 2_000_000  # pixels


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(max_pixels=LIMIT)


@pytest.fixture(scope="module")
def probability(engine: Engine) -> float:
    """Of the same X-ray as a PNG."""
    png = pictures.encoded(Image.fromarray(dicoms.gray()), "PNG")
    return engine.examine(png).finding.probability


@pytest.mark.parametrize("packing", dicoms.SYNTAXES)
def test_one_picture_in_any_packing_gets_one_answer(engine: Engine, probability: float, packing: str) -> None:
    error, make = dicoms.SYNTAXES[packing]
    data = make()
    image, facts, warnings = decode(data, LIMIT)
    differences = np.asarray(image, float) - dicoms.gray()
    assert np.abs(differences).mean() <= error
    assert facts == ImageFacts("application/dicom", 320, 256)
    assert warnings == ()
    assert engine.examine(data).finding.probability == pytest.approx(probability, abs=0.02)


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "J2K_pixelrep_mismatch.dcm"]
)
def test_other_programs_files_are_decoded(name: str) -> None:
    """By other encoders; pydicom brings them."""
    path = get_testdata_file(name)
    assert isinstance(path, str)
    found = dcmread(path)
    for tag in ("BodyPartExamined", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue"):
        if tag in found:
            delattr(found, tag)
    values = found.pixel_array.astype(float)
    low, width = values.min(), np.ptp(values)
    found.Modality, found.VOILUTFunction = "CR", "LINEAR_EXACT"
    found.WindowCenter, found.WindowWidth = low + width / 2, width
    buffer = io.BytesIO()
    found.save_as(buffer)
    image = decode(buffer.getvalue(), LIMIT)[0]
    assert np.abs(np.asarray(image, float) - (values - low) / width * 255).max() < 0.51


def test_a_jpeg_of_12_bits_is_decoded(capfd: pytest.CaptureFixture[str]) -> None:
    """Which nothing here can write; pydicom brings one. Its decoder complains of sound files too."""
    path = get_testdata_file("JPGExtended.dcm")
    assert isinstance(path, str)
    found = dcmread(path)
    found.Modality, found.WindowCenter, found.WindowWidth = "CR", 128, 256
    del found.BodyPartExamined
    buffer = io.BytesIO()
    found.save_as(buffer)
    image = np.asarray(decode(buffer.getvalue(), LIMIT)[0], float)
    assert image.shape == (1024, 256)
    assert (image.mean(), image.std()) == pytest.approx((14.4, 21.6), abs=0.3)
    assert capfd.readouterr().err == ""


def test_an_equal_file_says_the_same_without_the_preamble() -> None:
    whole = dicom(PatientAge="040Y")
    assert decode(whole[132:], LIMIT)[1:] == decode(whole, LIMIT)[1:]


# What is refused


def without_pixels() -> bytes:
    return dicom(Rows=None, Columns=None, PixelData=None, Modality="SR")


def video() -> bytes:
    return dicoms.packed(b"\0" * 100, uid.MPEG4HP41)


def several(syntax: str) -> bytes:
    return dicom(np.concatenate([dicoms.deep()] * 2), syntax, Rows=256, NumberOfFrames=2)


def stream_of(size: int) -> bytes:
    """A JPEG that says another size than its file."""
    frame = bytearray(dicoms.jpeg())
    place = frame.index(b"\xff\xc0")
    frame[place + 5 : place + 9] = struct.pack(">HH", size, size)
    return dicoms.packed(bytes(frame), uid.JPEGBaseline8Bit, dicoms.gray())


def deflated(size: int) -> bytes:
    """A file that grows to `size` bytes and more when it is inflated."""
    whole = dicom(syntax=uid.DeflatedExplicitVRLittleEndian)
    start = 144 + struct.unpack_from("<I", whole, 140)[0]
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    element = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, size)
    return whole[:start] + deflater.compress(element + bytes(size)) + deflater.flush()


REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    **{
        f"modality {modality}": ("not_a_chest_xray", lambda modality=modality: dicom(Modality=modality))
        for modality in ("CT", "MR", "US", "MG", "NM", "PT", "XA", "IO", "PX", "SEG", "Doe^John")
    },
    "RF of two frames": ("not_a_single_image", lambda: dicom(Modality="RF", NumberOfFrames=2)),
    "a hand": ("not_a_chest_xray", lambda: dicom(BodyPartExamined="HAND")),
    "a left knee": ("not_a_chest_xray", lambda: dicom(BodyPartExamined="KNEE_LEFT ")),
    "two frames": ("not_a_single_image", lambda: several(uid.ImplicitVRLittleEndian)),
    "too many pixels": ("too_many_pixels", lambda: dicom(Rows=50_000, Columns=50_000)),
    "small": ("not_a_chest_xray", lambda: dicom(dicoms.deep()[:40, :40].copy())),
    "blank": ("not_a_chest_xray", lambda: dicom(np.full((200, 200), 700, np.uint16))),
    "no image": ("unsupported_format", without_pixels),
    "a video": ("unsupported_format", video),
    "pixels in the upper bits": ("unsupported_format", lambda: dicom(HighBit=15)),
    "32 bits": ("unsupported_format", lambda: dicom(dicoms.deep().astype(np.uint32))),
    "no pixel data": ("unreadable", lambda: dicom(PixelData=None)),
    "cut in its pixels": ("unreadable", lambda: dicom()[:-5000]),
    "cut in its header": ("unreadable", lambda: dicom()[:301]),
    "nothing behind DICM": ("unsupported_format", lambda: bytes(128) + b"DICM"),
    "a JPEG cut short": (
        "unreadable",
        lambda: dicoms.packed(dicoms.jpeg()[:300], uid.JPEGBaseline8Bit, dicoms.gray()),
    ),
    "a JPEG 2000 that is none": ("unreadable", lambda: dicoms.packed(dicoms.jpeg(), uid.JPEG2000)),
    "a JPEG of another size": ("unreadable", lambda: stream_of(65_000)),
    "an RLE of nothing": ("unreadable", lambda: dicoms.packed(bytes(64), uid.RLELossless)),
    "a deflated bomb": ("too_many_pixels", lambda: deflated(100_000_000)),
    "deflated noise": (
        "unreadable",
        lambda: dicom(syntax=uid.DeflatedExplicitVRLittleEndian)[:400] + b"\xff" * 99,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_single_chest_radiograph_is_refused_with_a_sentence(engine: Engine, name: str) -> None:
    code, make = REFUSED[name]
    with pytest.raises(InputRejected) as caught:
        engine.examine(make())
    assert caught.value.code == code
    message = str(caught.value)
    assert message.endswith(".")
    assert any(verb in message for verb in ("Drop", "drop", "Export"))
    assert "Doe" not in message


def _without_image(sop_class: str, modality: str) -> bytes:
    return dicom(Rows=None, Columns=None, PixelData=None, SOPClassUID=sop_class, Modality=modality)


def _directory() -> bytes:
    found = dicoms.dataset(Rows=None, Columns=None, PixelData=None)
    found.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    found.SOPClassUID = uid.MediaStorageDirectoryStorage
    return dicoms.written(found)


def _of_syntax(syntax: str) -> bytes:
    """Of one that pydicom does not write."""
    whole = dicoms.packed(bytes(100), uid.JPEGBaseline8Bit)
    return whole.replace(uid.JPEGBaseline8Bit.encode(), syntax.encode())


REASONS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "MPEG": ("unsupported_format", "a video", video),
    "HEVC": ("unsupported_format", "a video", lambda: dicoms.packed(b"\0" * 100, uid.HEVCMP51)),
    "JPIP": (
        "unsupported_format",
        "where its image lies",
        lambda: _of_syntax("1.2.840.10008.1.2.4.94"),
    ),
    "one that nobody knows": (
        "unsupported_format",
        "cannot be read",
        lambda: _of_syntax("1.2.840.10008.1.2.4.9X"),
    ),
    "of one manufacturer": (
        "unsupported_format",
        "manufacturer's own way",
        lambda: _of_syntax("1.3.46.670589.33.1.4.1"),
    ),
    "report": (
        "unsupported_format",
        "a structured report",
        lambda: _without_image(uid.EnhancedSRStorage, "SR"),
    ),
    "report by its class": (
        "unsupported_format",
        "a structured report",
        lambda: _without_image(uid.ComprehensiveSRStorage, ""),
    ),
    "PDF": (
        "unsupported_format",
        "a PDF document",
        lambda: _without_image(uid.EncapsulatedPDFStorage, "DOC"),
    ),
    "presentation state": (
        "unsupported_format",
        "a presentation state",
        lambda: _without_image(uid.GrayscaleSoftcopyPresentationStateStorage, "PR"),
    ),
    "DICOMDIR": ("unsupported_format", "a table of contents", _directory),
    "no image at all": ("unsupported_format", "holds no image", lambda: _without_image("1.2.3", "DX")),
    "several frames": ("not_a_single_image", "2 images", lambda: several(uid.ExplicitVRLittleEndian)),
    "MR": ("not_a_chest_xray", "(modality MR)", lambda: dicom(Modality="MR")),
    "no pixels": ("unreadable", "lacks its pixels", lambda: dicom(PixelData=None)),
    "cut in its header": ("unreadable", "cut short", lambda: dicom()[:301]),
    "cut in its pixels": ("unreadable", "damaged", lambda: dicom()[:-5000]),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_refusal_says_the_true_reason(name: str) -> None:
    code, words, make = REASONS[name]
    with pytest.raises(InputRejected) as caught:
        decode(make(), LIMIT)
    assert caught.value.code == code
    assert words in str(caught.value)


def test_a_bomb_costs_no_memory() -> None:
    data = deflated(200_000_000)
    tracemalloc.start()
    with pytest.raises(InputRejected):
        decode(data, 100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60_000_000


def test_a_stream_of_another_size_comes_to_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.stored.decoded", lambda *_, **__: pytest.exit("a decoder was asked"))
    with pytest.raises(InputRejected) as caught:
        decode(stream_of(65_000), LIMIT)
    assert "another size" in str(caught.value.__cause__)


def test_the_size_is_the_streams_own() -> None:
    for data in (dicoms.jpeg(), dicoms.jpeg().replace(b"\xff\xc0", b"\xff\xff\xc0")):  # the second: filled up
        stream = opened(data)
        assert (stream.columns, stream.rows, stream.components, stream.bits) == (320, 256, 1, 8)
    for broken in (b"", b"\xff\xd8", b"\xff\xd8\0\0\0\0", b"\xff\x4f\xff\x51", b"\xff\xd8\xff\xde\0\2"):
        for ended in (broken, broken + b"\xff\xd9"):
            with pytest.raises((ValueError, struct.error)):
                opened(ended)


# Frames that are cut or damaged inside an intact file


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


def test_a_jpeg_with_a_black_corner_is_whole() -> None:
    """Its last bits may be turned over without a change that is seen."""
    for dark in (30, 100, 200):
        pixels = dicoms.gray().copy()
        pixels[-dark:, -dark:] = 0
        frame = pictures.encoded(Image.fromarray(pixels), "JPEG", quality=95)
        decode(dicoms.packed(frame, uid.JPEGBaseline8Bit, pixels), LIMIT)


def test_a_whole_frame_is_never_taken_for_a_damaged_one() -> None:
    """Whatever its last bytes are: many small images have many ends."""
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


# Files that would grow


def _elements(count: int) -> bytes:
    """A file with so many private elements that are empty."""
    whole = dicoms.bare(uid.ImplicitVRLittleEndian)
    place = whole.index(struct.pack("<HH", 0x0010, 0x1010))
    private = b"".join(struct.pack("<HHI", 9 + 2 * (n >> 16), n & 0xFFFF, 0) for n in range(count))
    return whole[:place] + private + whole[place:]


def _items(count: int, tag: tuple[int, int] = (0x0008, 0x2218), has_length: bool = True) -> bytes:
    """A deflated file with a sequence of so many items that are empty."""
    body = dicoms.bare(uid.ExplicitVRLittleEndian)
    place = body.index(struct.pack("<HH", 0x0010, 0x1010))
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count
    end = b"" if has_length else struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    length = len(items) if has_length else 0xFFFFFFFF
    sequence = struct.pack("<HH2sHI", *tag, b"SQ", 0, length) + items + end
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    header = dicom(syntax=uid.DeflatedExplicitVRLittleEndian)
    start = 144 + struct.unpack_from("<I", header, 140)[0]
    return header[:start] + deflater.compress(body[:place] + sequence + body[place:]) + deflater.flush()


def _nested(depth: int, has_length: bool) -> bytes:
    whole = dicoms.bare(uid.ExplicitVRLittleEndian)
    place = whole.index(struct.pack("<HH", 0x0010, 0x1010))
    inner = b""
    for _ in range(depth):
        if has_length:
            inner = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
            inner = struct.pack("<HH2sHI", 0x0008, 0x2218, b"SQ", 0, len(inner)) + inner
        else:
            inner += struct.pack(
                "<HH2sHIHHI", 0x0008, 0x2218, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF
            )
    return whole[:place] + inner + whole[place:]


def test_elements_and_items_by_the_thousand_are_stepped_over() -> None:
    for data in (
        _elements(20_000),
        _items(100_000),
        _items(20_000, has_length=False),
        _items(20_000, (0x0009, 0x1010), has_length=False),
    ):
        assert decode(data, LIMIT)[1] == ImageFacts("application/dicom", 320, 256)


@pytest.mark.parametrize("has_length", [False, True])
def test_sequences_nested_without_end_are_refused(has_length: bool) -> None:
    with pytest.raises(InputRejected) as caught:
        decode(_nested(1000, has_length), LIMIT)
    assert caught.value.code == "unsupported_format"


def test_a_million_items_take_no_memory(tmp_path: Path) -> None:
    assert grown(tmp_path, _items(1_000_000)) < 100e6


def test_deep_colours_take_little_more_memory_than_their_file(tmp_path: Path) -> None:
    data = dicom(np.zeros((2000, 2000, 3), np.uint16))
    assert grown(tmp_path, data) < 2.5 * len(data)


def grown(folder: Path, data: bytes) -> int:
    """By how many bytes a process grows that decodes a file: also what is made beside Python's objects."""
    path = folder / "a.dcm"
    path.write_bytes(data)
    code = (
        "import resource, sys, pathlib; from model.decode import decode; import model.dicom\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "decode(pathlib.Path(sys.argv[1]).read_bytes(), 5_000_000)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024


# Whatever a file holds


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_to_a_file_is_refused_or_decoded(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(_WHOLE))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    stream = max(whole.find(b"\xff\xd8\xff"), whole.find(b"\xff\x4f\xff\x51"), 0)
    places = st.integers(128, 700) | st.integers(stream, stream + 120) | st.integers(0, len(whole) - 1)
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(places)
        if place < len(damaged):
            damaged[place] = data.draw(st.integers(0, 255))
    with suppress(InputRejected):
        decode(bytes(damaged), 100_000)


_WHOLE = [make() for _, make in dicoms.SYNTAXES.values()]


def test_a_jpeg_does_not_pay_for_dicom() -> None:
    code = (
        "import sys, cxr\n"
        "try: cxr.main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'gdcm', 'openjpeg', 'jpeg_ls', 'model.dicom', 'model.stored'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "classify", str(pictures.SAMPLE)], check=True, timeout=60)
