"""Black and white borders around an X-ray are cropped, and nothing of the X-ray is."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from model.serve.borders import content_box
from model.serve.engine import Engine
from tests.support import pictures
from tests.support.fakes import XRAYS


def bordered(share: float, colour: int, gray: Image.Image | None = None) -> Image.Image:
    """Return the X-ray with a border of this share of each side."""
    gray = gray or pictures.sample()
    return ImageOps.expand(gray, (round(gray.width * share), round(gray.height * share)), fill=colour)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize("share", [0.12, 0.25])
@pytest.mark.parametrize("quality", [None, 40, 75])
def test_a_border_does_not_change_the_verdict(
    engine: Engine, colour: int, share: float, quality: int | None
) -> None:
    framed = bordered(share, colour)
    kind, options = ("JPEG", {"quality": quality}) if quality else ("PNG", {"compress_level": 1})
    expected = engine.examine(pictures.SAMPLE.read_bytes()).finding
    found = engine.examine(pictures.encoded(framed, kind, **options)).finding
    assert found.label == expected.label
    assert found.probability == pytest.approx(expected.probability, abs=0.1)
    margin = share / (1 + 2 * share)
    assert found.map.box == pytest.approx((margin, margin, 1 - margin, 1 - margin), abs=0.02)


def test_the_preview_shows_the_border_that_the_map_leaves_out(engine: Engine) -> None:
    framed = bordered(0.25, 0)
    seen = engine.examine(pictures.encoded(framed, "PNG"))
    assert (seen.facts.width, seen.facts.height) == framed.size
    left, top, right, bottom = seen.finding.map.box
    shown = np.asarray(pictures.opened(seen.preview or b""))
    height, width = shown.shape
    assert shown[: int(top * height) - 8].max() < 20
    assert shown[:, int(right * width) + 8 :].max() < 20
    assert shown[int(top * height) : int(bottom * height), int(left * width)].max() > 20


def test_nothing_but_black_is_cut_off_the_samples() -> None:
    for path in XRAYS:
        with Image.open(path) as image:
            gray = np.array(image.convert("L"))
        left, top, right, bottom = content_box(gray)
        gray[top + 8 : bottom - 8, left + 8 : right - 8] = 0  # eight lines of a blurred edge
        for outside in (gray[:top], gray[bottom + 8 :], gray[:, : max(left - 8, 0)], gray[:, right + 8 :]):
            assert outside.size == 0 or outside.max() < 30


def test_a_narrow_border_is_left() -> None:
    framed = bordered(0.02, 0)
    assert content_box(framed) == (0, 0, *framed.size)


def test_a_frame_in_a_frame_is_cut_off_and_so_is_one_side_alone() -> None:
    framed = bordered(0.1, 255, bordered(0.1, 0))
    left, top, right, bottom = content_box(framed)
    assert right - left == pytest.approx(1000, abs=24)
    assert bottom - top == pytest.approx(800, abs=24)
    aside = ImageOps.expand(pictures.sample(), (200, 0, 0, 0), fill=255)
    assert content_box(aside)[0] == pytest.approx(200, abs=10)
    assert content_box(aside)[1:] == (0, 1200, 800)


def test_a_dark_noisy_edge_is_no_border() -> None:
    framed = np.asarray(bordered(0.2, 0)).copy()
    noise = np.random.default_rng(0).normal(8, 4, framed.shape)
    dark = framed == 0
    framed[dark] = noise.clip(0, 255).astype(np.uint8)[dark]
    assert content_box(framed) == (0, 0, framed.shape[1], framed.shape[0])


def test_a_round_collimation_is_not_cut_to_pieces() -> None:
    gray, mask = pictures.sample(), Image.new("L", (1000, 800), 0)
    ImageDraw.Draw(mask).ellipse((10, 10, 990, 790), fill=255)
    round_one = Image.composite(gray, Image.new("L", gray.size, 0), mask)
    assert content_box(round_one) == (0, 0, 1000, 800)


@pytest.mark.parametrize("colour", [0, 130, 255])
def test_a_blank_picture_has_no_border(colour: int) -> None:
    assert content_box(Image.new("L", (300, 200), colour)) == (0, 0, 300, 200)


def test_a_small_picture_in_a_large_frame_is_no_x_ray_with_a_border() -> None:
    lost = Image.new("L", (1000, 1000), 0)
    lost.paste(pictures.sample().resize((100, 100)), (450, 450))
    assert content_box(lost) == (0, 0, 1000, 1000)
