"""A photograph is refused for its colours; an X-ray stored, tinted or marked in colour is not."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from model.serve.files.decode import decode
from pipeline.errors import InputRejected
from tests.support.pictures import encoded, sample

KINDS = [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P")]
KINDS += [("TIFF", "RGB"), ("TIFF", "CMYK"), ("BMP", "RGB"), ("WEBP", "RGB"), ("GIF", "P")]


def photograph() -> Image.Image:
    """Draw large patches of strong colours."""
    patches = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(patches).resize((700, 500), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("kind", "mode"), KINDS)
def test_a_photograph_is_refused_for_its_colours(kind: str, mode: str) -> None:
    with pytest.raises(InputRejected, match="in colour") as caught:
        decode(encoded(photograph().convert(mode), kind), 10**8)
    assert caught.value.code == "not_a_chest_xray"
    assert caught.value.facts.width == 700


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_xray_stored_in_colour_is_read(kind: str) -> None:
    marked = sample().convert("RGB")
    ImageDraw.Draw(marked).rectangle((0, 0, marked.width // 4, marked.height // 4), fill=(255, 0, 0))
    tinted = ImageOps.colorize(sample(), (10, 20, 40), (215, 230, 250))
    for image in (sample().convert("RGB"), marked, tinted):
        assert decode(encoded(image, kind), 10**8)[0].mode == "L"
