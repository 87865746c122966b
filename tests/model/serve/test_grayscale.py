"""The display of stored values: each step compared with pydicom's, and the cases that pydicom leaves open."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from model.serve.files.decode import decode
from tests.support import dicoms
from tests.support.dicoms import WHOLE_WINDOW, Pixels, deep, dicom, gray


def shown(data: bytes) -> Pixels:
    return np.asarray(decode(data, 2_000_000)[0])


def error(data: bytes, expected: Pixels) -> float:
    """Return the largest difference in gray."""
    return float(np.abs(shown(data).astype(float) - expected).max())


def table(first: int, entries: Pixels, bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % (1 << 16), first, bits]
    item.LUTData = entries.tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "SS" if first < 0 else "US", "OW"
    return item


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
def test_any_depth_in_its_whole_window(bits: int) -> None:
    pixels = gray().astype(np.uint16) << (bits - 8)
    half = 1 << (bits - 1)
    data = dicom(pixels, BitsStored=bits, WindowCenter=half, WindowWidth=2 * half)
    assert error(data, gray()) <= 1


def test_eight_bits_without_a_window_are_ready_to_be_seen() -> None:
    assert error(dicom(gray() // 2 + 30), gray() // 2 + 30) == 0
    assert error(dicom(gray() // 2, RescaleSlope=1, RescaleIntercept=0), gray() // 2) == 0


def test_low_is_bright_in_monochrome1() -> None:
    data = dicom(4095 - deep(), PhotometricInterpretation="MONOCHROME1", **WHOLE_WINDOW)
    assert error(data, gray()) <= 1


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_signed_values(syntax: str) -> None:
    pixels = (deep().astype(np.int32) - 2048).astype(np.int16)
    assert error(dicom(pixels, syntax, WindowCenter=0, WindowWidth=4096), gray()) <= 1


def test_bits_beyond_those_stored_are_not_part_of_the_value() -> None:
    assert error(dicom(deep() | 0xA000, **WHOLE_WINDOW), gray()) <= 1


def test_of_several_windows_the_first() -> None:
    data = dicom(WindowCenter=[2048, 100], WindowWidth=[4096, 10], WindowCenterWidthExplanation=["A", "B"])
    assert error(data, gray()) <= 1


REFERENCE: dict[str, dict[str, object]] = {
    "window": {"WindowCenter": 1500, "WindowWidth": 1700},
    "narrowest window": {"WindowCenter": 2600, "WindowWidth": 1},
    "exact window": {"WindowCenter": 1500, "WindowWidth": 1700.5, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"},
    "rescale": {"RescaleSlope": 2.5, "RescaleIntercept": -1000, "WindowCenter": 4000, "WindowWidth": 6000},
}


@pytest.mark.parametrize("name", REFERENCE)
def test_windows_are_as_pydicoms(name: str) -> None:
    data = dicom(**REFERENCE[name])
    found = dcmread(io.BytesIO(data))
    slope, intercept = float(found.get("RescaleSlope", 1)), float(found.get("RescaleIntercept", 0))
    windowed = apply_voi_lut(apply_modality_lut(found.pixel_array, found), found)
    assert error(data, (windowed - intercept) / (4095 * slope) * 255) <= 0.51


def test_a_falling_line_turns_the_values_before_the_window() -> None:
    """PS3.3 C.11.2.1.2: below the window is black, whatever the slope; pydicom 3.0 makes it white."""
    data = dicom(4095 - deep(), RescaleSlope=-1, RescaleIntercept=4095, **WHOLE_WINDOW)
    assert error(data, gray()) <= 1


@pytest.mark.parametrize("entries", [np.uint8, np.uint16])
def test_tables(entries: type[np.unsignedinteger]) -> None:
    """The VOI LUT bends the values; its ends continue outwards, and its depth is read from its entries."""
    top = np.iinfo(entries).max
    curve = (np.linspace(0, 1, 3000) ** 2 * top).astype(entries)
    data = dicom(VOILUTSequence=[table(500, curve, 12)], **WHOLE_WINDOW)  # a window beside it says nothing
    expected = curve[np.clip(deep().astype(int) - 500, 0, 2999)] / top * 255
    assert error(data, expected) <= 0.51


def test_a_table_of_the_modality_comes_before_the_window() -> None:
    falling = np.arange(4095, -1, -1, dtype=np.uint16)
    data = dicom(4095 - deep(), ModalityLUTSequence=[table(0, falling, 12)], **WHOLE_WINDOW)
    assert error(data, gray()) <= 1


def test_a_table_that_begins_below_zero() -> None:
    pixels = (deep().astype(np.int32) - 2048).astype(np.int16)
    ramp = np.arange(4096, dtype=np.uint16)
    assert error(dicom(pixels, VOILUTSequence=[table(-2048, ramp, 12)]), gray()) <= 1


@pytest.mark.parametrize(
    "window",
    [
        {},
        {"WindowCenter": 2048},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 2048, "WindowWidth": 0},
        {"WindowCenter": 2048, "WindowWidth": -5},
        {"WindowCenter": 2048, "WindowWidth": 0.5},
    ],
)
def test_without_a_window_that_can_be_used_the_values_are_stretched(window: dict[str, object]) -> None:
    picture = shown(dicom(deep() // 4 + 1000, **window))
    assert picture.min() == 0
    assert picture.max() == 255
    assert np.corrcoef(picture.ravel(), gray().ravel())[0, 1] > 0.99


def test_a_burned_in_letter_and_a_dead_pixel_set_no_limits() -> None:
    pixels = deep() // 4 + 1000
    plain = shown(dicom(pixels))
    pixels[:8, :8], pixels[100, 100] = 4095, 0
    assert np.abs(shown(dicom(pixels)).astype(int) - plain)[8:].mean() < 3


def test_padding_around_is_cut_off_and_within_is_black() -> None:
    pixels = deep() // 4 + 1000
    plain = shown(dicom(pixels[:, 100:].copy()))
    pixels[:, :100] = 4000
    padded = shown(dicom(pixels, PixelPaddingValue=4000))
    ranged = shown(dicom(pixels, PixelPaddingValue=4095, PixelPaddingRangeLimit=3900))
    inverted = shown(dicom(pixels, PixelPaddingValue=4000, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(padded, plain)
    assert np.array_equal(ranged, plain)
    assert inverted.shape == plain.shape
    pixels[100:150, 200:250] = 4000
    assert not shown(dicom(pixels, PixelPaddingValue=4000))[100:150, 100:150].any()
    assert shown(dicom(pixels, PixelPaddingValue=4000, PixelPaddingRangeLimit=0)).max() == 0


@pytest.mark.parametrize("share", [0.12, 0.25])
def test_a_padded_xray_is_shown_as_the_xray_without_it(share: float) -> None:
    down, across = int(256 * share), int(320 * share)
    signed = deep().astype(np.int16) - 2048
    for pixels, value, tags in (
        (deep(), 0, {}),
        (4095 - deep(), 0, {"PhotometricInterpretation": "MONOCHROME1"}),
        (4095 - deep(), 4095, {"PhotometricInterpretation": "MONOCHROME1"}),
        (signed, -2048, {}),
    ):
        framed = np.pad(pixels, ((down, down), (across, across)), constant_values=value)
        assert np.array_equal(
            shown(dicom(framed, PixelPaddingValue=value, **tags)), shown(dicom(pixels, **tags))
        )


BAD_VIEWS: dict[str, dict[str, object]] = {
    "a table of 8 bits": {"VOILUTSequence": [table(0, np.arange(256, dtype=np.uint16), 8)]},
    "a table of zeros": {"VOILUTSequence": [table(0, np.zeros(4096, np.uint16), 12)]},
    "a table that is all white": {"VOILUTSequence": [table(0, np.full(4096, 4095, np.uint16), 12)]},
    "an item without anything": {"VOILUTSequence": [Dataset()]},
    "no item": {"VOILUTSequence": []},
    "an empty table": {"VOILUTSequence": [table(0, np.zeros(0, np.uint16), 12)]},
    "a window that shows all white": {"WindowCenter": [-500, 2048], "WindowWidth": [10, 4096]},
    "a window that shows all black": {"WindowCenter": [50000, 2048], "WindowWidth": [10, 4096]},
    "a window of 8 bits": {"WindowCenter": [128, 2048], "WindowWidth": [256, 4096]},
    "a window without a width": {"WindowCenter": [128, 2048], "WindowWidth": [0, 4096]},
}


@pytest.mark.parametrize("name", BAD_VIEWS)
def test_a_table_or_window_of_no_use_is_passed_over(name: str) -> None:
    assert error(dicom(**(WHOLE_WINDOW | BAD_VIEWS[name])), gray()) <= 1


def test_the_second_table_is_taken_where_the_first_is_of_no_use() -> None:
    tables = [table(0, np.zeros(4096, np.uint16), 12), table(0, np.arange(4096, dtype=np.uint16), 12)]
    assert error(dicom(VOILUTSequence=tables), gray()) <= 1


@pytest.mark.parametrize(("center", "width"), [(b"2048,0", b"4096,0"), (b"2048", b"4096 ")])
def test_a_decimal_comma_is_a_point(center: bytes, width: bytes) -> None:
    assert error(_with_window(center, width), gray()) <= 1


@pytest.mark.parametrize(
    ("center", "width"), [(b"N/A", b"N/A"), (b"2048", b"N/A"), (b"nan", b"inf"), (b"\\", b"")]
)
def test_a_window_that_is_no_number_is_none(center: bytes, width: bytes) -> None:
    assert np.array_equal(shown(_with_window(center, width)), shown(dicom()))


def _with_window(center: bytes, width: bytes) -> bytes:
    data = dicom(WindowCenter="11111111", WindowWidth="22222222")
    return data.replace(b"11111111", center.ljust(8)).replace(b"22222222", width.ljust(8))


# The data are believed before the tags


@pytest.mark.parametrize(
    "missing",
    [
        ("PhotometricInterpretation",),
        ("SamplesPerPixel",),
        ("PixelRepresentation",),
        ("BitsStored",),
        ("HighBit",),
        ("BitsAllocated",),
        (
            *("PhotometricInterpretation", "SamplesPerPixel", "PixelRepresentation", "BitsStored", "HighBit"),
            "BitsAllocated",
        ),
    ],
)
def test_what_a_tag_does_not_say_is_as_usual(missing: tuple[str, ...]) -> None:
    found = dicoms.dataset(**WHOLE_WINDOW)
    for word in missing:
        delattr(found, word)
    buffer = io.BytesIO()
    found.save_as(buffer)
    assert error(buffer.getvalue(), gray()) <= 1


def test_colours_without_their_tags_are_colours() -> None:
    found = dicoms.dataset(colours())
    del found.PhotometricInterpretation
    assert error(dicoms.written(found), gray()) <= 1
    found = dicoms.dataset(colours())
    del found.SamplesPerPixel, found.PlanarConfiguration
    buffer = io.BytesIO()
    found.save_as(buffer)
    assert error(buffer.getvalue(), gray()) <= 1


def test_a_compressed_image_says_its_own_size() -> None:
    found = dicoms.dataset(gray())
    del found.Rows, found.Columns, found.BitsAllocated
    found.PixelData = encapsulate([dicoms.jpeg()])
    found["PixelData"].VR, found["PixelData"].is_undefined_length = "OB", True
    found.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    buffer = io.BytesIO()
    found.save_as(buffer)
    assert shown(buffer.getvalue()).shape == (256, 320)


@pytest.mark.parametrize("bits", [8, 10, 11])
def test_values_of_more_bits_than_are_said_do_not_wrap(bits: int) -> None:
    assert error(dicom(BitsStored=bits, **WHOLE_WINDOW), gray()) <= 1


def test_a_wrong_sign_does_not_wrap() -> None:
    assert error(dicom(PixelRepresentation=1, **WHOLE_WINDOW), gray()) <= 1
    signed = (deep().astype(np.int32) - 2048).astype(np.int16)
    window = {"WindowCenter": 0, "WindowWidth": 4096}
    assert error(dicom(signed, PixelRepresentation=0, BitsStored=16, **window), gray()) <= 1
    assert error(dicom(signed, PixelRepresentation=0, BitsStored=12, **window), gray()) <= 1


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("noise", [0, 1])
def test_a_saturated_border_around_a_dark_picture_is_bright(bits: int, noise: int) -> None:
    body = (20 if noise else 0) + gray().astype(np.int32) // 4
    body = body << (bits - 8)
    body[:60], body[:, :40], body[:, -40:] = (1 << bits) - 1, (1 << bits) - 1, (1 << bits) - 1
    body -= noise * np.random.default_rng(1).integers(0, max(bits - 8, 1), body.shape)
    pixels = body.astype(np.uint8 if bits == 8 else np.uint16)
    window = {"WindowCenter": 1 << (bits - 1), "WindowWidth": 1 << bits}
    assert error(dicom(pixels, BitsStored=bits, **window), (body >> (bits - 8)).astype(np.uint8)) <= 1


def test_a_few_values_below_zero_do_not_wrap() -> None:
    """If the sign were ignored, noise around zero would end up near the top."""
    values = (deep() // 2).astype(np.int16)
    values[:60], values[:, :40] = 0, 0
    values += np.random.default_rng(1).integers(-8, 9, values.shape).astype(np.int16)
    window = {"WindowCenter": 1024, "WindowWidth": 2048}
    expected = (np.clip(values, 0, 2047) / 8).astype(np.uint8)
    assert error(dicom(values, PixelRepresentation=0, BitsStored=16, **window), expected) <= 1


def test_a_jpeg_2000_says_its_sign_and_depth() -> None:
    signed = (deep().astype(np.int32) - 2048).astype(np.int16)
    window = {"WindowCenter": 0, "WindowWidth": 4096}
    for sign in (0, 1):
        frame = dicoms.jpeg2000(signed, 12)
        data = dicoms.packed(frame, uid.JPEG2000Lossless, signed, PixelRepresentation=sign, **window)
        assert error(data, gray()) <= 1
        frame = dicoms.jpeg2000(deep(), 12)
        data = dicoms.packed(frame, uid.JPEG2000Lossless, PixelRepresentation=sign, **WHOLE_WINDOW)
        assert error(data, gray()) <= 1
        data = dicoms.packed(frame, uid.JPEG2000Lossless, gray(), PixelRepresentation=sign, **WHOLE_WINDOW)
        assert error(data, gray()) <= 1  # 8 bits, say the tags


def test_other_packings_with_wrong_tags_do_not_wrap() -> None:
    frame = dicoms.lossless_jpeg(deep(), 1, 12)
    for tags in ({"BitsStored": 10}, {"PixelRepresentation": 1}, {"BitsAllocated": 8, "BitsStored": 8}):
        data = dicoms.packed(frame, uid.JPEGLosslessSV1, **(WHOLE_WINDOW | tags))
        assert error(data, gray()) <= 1
    found = dicoms.dataset(**WHOLE_WINDOW)
    found.compress(uid.RLELossless, generate_instance_uid=False)
    found.BitsStored, found.HighBit = 10, 9
    assert error(dicoms.written(found), gray()) <= 1


def test_values_in_the_upper_bits_are_moved_down() -> None:
    assert error(dicom(deep() << 4, HighBit=15, **WHOLE_WINDOW), gray()) <= 1


# Upright


STANDING: dict[tuple[str, str], Callable[[Pixels], Pixels]] = {  # how the tag comes to lie
    ("L", "F"): lambda pixels: pixels,
    ("R", "F"): lambda pixels: pixels[:, ::-1],
    ("L", "H"): lambda pixels: pixels[::-1],
    ("R", "H"): lambda pixels: pixels[::-1, ::-1],
    ("F", "L"): lambda pixels: pixels.T,
    ("H", "L"): lambda pixels: pixels[::-1].T,
    ("F", "R"): lambda pixels: pixels[:, ::-1].T,
    ("H", "R"): lambda pixels: pixels[::-1, ::-1].T,
}


@pytest.mark.parametrize("orientation", STANDING)
def test_an_image_that_lies_or_is_mirrored_by_its_tags_is_turned(orientation: tuple[str, str]) -> None:
    pixels = STANDING[orientation](deep()).copy()
    image, facts, _ = decode(dicom(pixels, PatientOrientation=list(orientation), **WHOLE_WINDOW), 2_000_000)
    assert np.abs(np.asarray(image, float) - gray()).max() <= 1
    assert (facts.width, facts.height) == image.size == (320, 256)


@pytest.mark.parametrize("orientation", [["L"], ["R", ""], ["A", "F"], ["X", "Y"], ["L", "R"], ["", "H"], []])
def test_an_orientation_that_says_too_little_turns_nothing(orientation: list[str]) -> None:
    assert error(dicom(PatientOrientation=orientation, **WHOLE_WINDOW), gray()) <= 1


@pytest.mark.parametrize("slope", [0, 1e308, float("inf"), float("nan")])
def test_a_senseless_slope_makes_no_noise(slope: float) -> None:
    shown(dicom(RescaleSlope=slope, RescaleIntercept=0))
    shown(
        dicom(RescaleSlope=slope, RescaleIntercept=0, VOILUTSequence=[table(0, np.arange(9, dtype="u1"), 8)])
    )


def colours() -> Pixels:
    return np.stack([gray(), gray(), gray()], -1)


def test_colours_become_gray() -> None:
    assert error(dicom(colours()), gray()) <= 1
    planes = colours().transpose(2, 0, 1)
    assert error(dicom(colours(), PlanarConfiguration=1, PixelData=planes.tobytes()), gray()) <= 1
    neutral = np.full_like(gray(), 128)
    brightness = np.stack([gray(), neutral, neutral], -1)
    assert error(dicom(brightness, PhotometricInterpretation="YBR_FULL"), gray()) <= 1


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("by_plane", [0, 1])
def test_deep_colours_are_stretched_as_deep_grays_are(bits: int, by_plane: int) -> None:
    scale = (2**bits - 1) // 255
    pixels = colours().astype(np.uint16) * scale
    data = pixels.transpose(2, 0, 1) if by_plane else pixels
    plain = dicom(gray().astype(np.uint16) * scale, BitsStored=16)
    for stored in (bits, 16):
        deep_colours = dicom(
            pixels, BitsStored=stored, PlanarConfiguration=by_plane, PixelData=data.tobytes()
        )
        assert error(deep_colours, shown(plain)) <= 1


@pytest.mark.parametrize(("entries", "scale"), [(np.uint8, 1), (np.uint16, 257), (np.uint16, 1)])
def test_a_palette_becomes_gray(entries: type[np.unsignedinteger], scale: int) -> None:
    """Entries of 8 bits stored in 16 are read as well."""
    palette = (np.arange(255, -1, -1) * scale).astype(entries)
    tags: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 8 * palette.itemsize]
        tags[f"{colour}PaletteColorLookupTableData"] = palette.tobytes()
    found = dicoms.dataset(255 - gray(), **tags)
    for colour in ("Red", "Green", "Blue"):
        found[f"{colour}PaletteColorLookupTableDescriptor"].VR = "US"
    assert error(dicoms.written(found), gray()) <= 1
