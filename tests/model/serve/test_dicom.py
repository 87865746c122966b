"""DICOM files through the engine: every packing, every refusal, every warning, and damage of any kind."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread, uid
from pydicom.data import get_testdata_file

from model.serve.engine import Engine
from model.serve.files.codestreams import open_stream
from model.serve.files.decode import decode
from pipeline.errors import InputRejected
from pipeline.records import ImageFacts
from tests.support import dicoms, pictures
from tests.support.dicoms import dicom

LIMIT = 2_000_000  # pixels


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(max_pixels=LIMIT)


@pytest.fixture(scope="module")
def probability(engine: Engine) -> float:
    """Return the probability of the same X-ray as a PNG."""
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
    assert engine.examine(data).finding.probability == pytest.approx(probability, abs=0.06)


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "J2K_pixelrep_mismatch.dcm"]
)
def test_other_programs_files_are_decoded(name: str) -> None:
    """The files come with pydicom and were written by other encoders."""
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
    """No encoder here writes one; pydicom brings it. Its decoder complains about sound files, too."""
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
    """Return a JPEG that states another size than its file."""
    frame = bytearray(dicoms.jpeg())
    place = frame.index(b"\xff\xc0")
    frame[place + 5 : place + 9] = struct.pack(">HH", size, size)
    return dicoms.packed(bytes(frame), uid.JPEGBaseline8Bit, dicoms.gray())


def deflated(size: int) -> bytes:
    """Return a file that grows to at least `size` bytes when it is inflated."""
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
    """Return a file in a transfer syntax that pydicom does not write."""
    whole = dicoms.packed(bytes(100), uid.JPEGBaseline8Bit)
    return whole.replace(uid.JPEGBaseline8Bit.encode(), syntax.encode())


REASONS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "MPEG": ("unsupported_format", "a video", video),
    "HEVC": ("unsupported_format", "a video", lambda: dicoms.packed(b"\0" * 100, uid.HEVCMP51)),
    "JPIP": (
        "unsupported_format",
        "an image stored elsewhere",
        lambda: _of_syntax("1.2.840.10008.1.2.4.94"),
    ),
    "one that nobody knows": (
        "unsupported_format",
        "uses a compression that is not supported",
        lambda: _of_syntax("1.2.840.10008.1.2.4.9X"),
    ),
    "of one manufacturer": (
        "unsupported_format",
        "manufacturer's private format",
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
    "DICOMDIR": ("unsupported_format", "a directory (DICOMDIR)", _directory),
    "no image at all": ("unsupported_format", "contains no image", lambda: _without_image("1.2.3", "DX")),
    "several frames": ("not_a_single_image", "several images", lambda: several(uid.ExplicitVRLittleEndian)),
    "MR": ("not_a_chest_xray", "(modality MR)", lambda: dicom(Modality="MR")),
    "no pixels": ("unreadable", "has no pixels", lambda: dicom(PixelData=None)),
    "cut in its header": ("unreadable", "incomplete", lambda: dicom()[:301]),
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
    monkeypatch.setattr(
        "model.serve.dicom.stored.decoded", lambda *_, **__: pytest.exit("a decoder was asked")
    )
    with pytest.raises(InputRejected) as caught:
        decode(stream_of(65_000), LIMIT)
    assert "another size" in str(caught.value.__cause__)


def test_the_size_is_the_streams_own() -> None:
    for data in (dicoms.jpeg(), dicoms.jpeg().replace(b"\xff\xc0", b"\xff\xff\xc0")):  # the second: filled up
        stream = open_stream(data)
        assert (stream.columns, stream.rows, stream.components, stream.bits) == (320, 256, 1, 8)
    for broken in (b"", b"\xff\xd8", b"\xff\xd8\0\0\0\0", b"\xff\x4f\xff\x51", b"\xff\xd8\xff\xde\0\2"):
        for ended in (broken, broken + b"\xff\xd9"):
            with pytest.raises((ValueError, struct.error)):
                open_stream(ended)


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


@pytest.mark.whole
def test_a_jpeg_does_not_pay_for_dicom() -> None:
    code = (
        "import sys, cxr\n"
        "try: cxr.main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'gdcm', 'openjpeg', 'jpeg_ls', 'model.serve.dicom.file'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "classify", str(pictures.SAMPLE)], check=True, timeout=60)
