"""How stored values are shown: each step against pydicom's own, and the cases that it leaves open."""

import io

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from model.decode import decode
from tests import dicoms
from tests.dicoms import WHOLE_WINDOW, Pixels, deep, dicom, gray


def shown(data: bytes) -> Pixels:
    return np.asarray(decode(data, 2_000_000)[0])


def error(data: bytes, expected: Pixels) -> float:
    """The largest difference of gray."""
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
    "narrowest window": {"WindowCenter": 2000, "WindowWidth": 1},
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
    """The VOI's bends the values; its ends go on outwards, and its depth is read from its entries."""
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


def test_padding_is_black_and_is_not_stretched_over() -> None:
    pixels = deep() // 4 + 1000
    plain = shown(dicom(pixels.copy()))
    pixels[:, :100] = 4000
    padded = shown(dicom(pixels, PixelPaddingValue=4000))
    ranged = shown(dicom(pixels, PixelPaddingValue=4095, PixelPaddingRangeLimit=3900))
    inverted = shown(dicom(pixels, PixelPaddingValue=4000, PhotometricInterpretation="MONOCHROME1"))
    assert not padded[:, :100].any()
    assert not inverted[:, :100].any()
    assert np.array_equal(padded, ranged)
    assert np.abs(padded[:, 100:].astype(int) - plain[:, 100:]).mean() < 5
    assert shown(dicom(pixels, PixelPaddingValue=4000, PixelPaddingRangeLimit=0)).max() == 0


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
    assert error(dicom(colours().astype(np.uint16) * 257, BitsStored=16), gray()) <= 1
    planes = colours().transpose(2, 0, 1)
    assert error(dicom(colours(), PlanarConfiguration=1, PixelData=planes.tobytes()), gray()) <= 1
    neutral = np.full_like(gray(), 128)
    brightness = np.stack([gray(), neutral, neutral], -1)
    assert error(dicom(brightness, PhotometricInterpretation="YBR_FULL"), gray()) <= 1


@pytest.mark.parametrize(("entries", "scale"), [(np.uint8, 1), (np.uint16, 257), (np.uint16, 1)])
def test_a_palette_becomes_gray(entries: type[np.unsignedinteger], scale: int) -> None:
    """Also where entries of 8 bits stand in 16."""
    palette = (np.arange(255, -1, -1) * scale).astype(entries)
    tags: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 8 * palette.itemsize]
        tags[f"{colour}PaletteColorLookupTableData"] = palette.tobytes()
    found = dicoms.dataset(255 - gray(), **tags)
    for colour in ("Red", "Green", "Blue"):
        found[f"{colour}PaletteColorLookupTableDescriptor"].VR = "US"
    assert error(dicoms.written(found), gray()) <= 1
