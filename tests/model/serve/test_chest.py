"""The location of the body, and the share of the evidence outside it."""

import numpy as np
import pytest
from PIL import Image

from model.evaluate.lungs import SIDE, find_field
from model.serve.chest import find_body, otsu, outside_share
from model.serve.engine import Engine
from tests.support import pictures

WHOLE = (0, 0, 320, 256)


def beside(chest: Image.Image) -> Image.Image:
    """Draw a chest in the middle third of a dark film."""
    film = Image.new("L", WHOLE[2:], 8)
    film.paste(chest.resize((110, 220)), (105, 18))
    return film


def test_the_body_is_where_it_was_put() -> None:
    body = find_body(beside(pictures.sample()), WHOLE)
    assert body[:, :16].sum() == body[:, 48:].sum() == 0
    assert body[10:54, 24:40].mean() > 0.95


def test_the_body_holds_the_lungs() -> None:
    with Image.open(pictures.SAMPLE.with_name("normal-1.jpeg")) as image:
        chest = image.convert("L")
    found = find_field(np.asarray(chest.resize((SIDE, SIDE)), np.float32))
    assert found is not None
    lungs = Image.fromarray(found.lungs[0] | found.lungs[1]).resize((64, 64))
    assert find_body(chest, (0, 0, *chest.size))[np.asarray(lungs)].mean() > 0.98


@pytest.mark.parametrize(("column", "share"), [(0, 1), (5, 0), (9, 1)])
def test_the_share_of_the_evidence_beside_the_body(column: int, share: float) -> None:
    grid = np.full((10, 10), -2, np.float32)
    grid[4:6, column] = 3
    assert outside_share(beside(pictures.sample()), WHOLE, grid) == pytest.approx(share, abs=0.02)
    assert outside_share(beside(pictures.sample()), WHOLE, np.minimum(grid, 0)) == 0


def test_an_image_of_one_level_has_no_body_all_lies_beside_it() -> None:
    flat = Image.new("L", WHOLE[2:], 90)
    assert outside_share(flat, WHOLE, np.ones((10, 10), np.float32)) == 1
    assert otsu(np.full(9, 90, np.uint8)) == 90


def test_a_pneumonia_seen_beside_the_chest_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures.encoded(beside(pictures.sample()), "PNG")
    engine = Engine()
    usual, found = engine.outputs, engine.examine(data)
    assert "evidence_outside" not in found.warnings
    grid = np.full((1, 10, 10), -1, np.float32)
    grid[0, :, :1] = 30
    lit = usual(np.zeros((1, 1, 160, 160), np.float32))._replace(
        logits=np.full((1, 2), 2, np.float32),
        maps=grid,
        distances=np.zeros(1, np.float32),
        outside=np.full(1, -9, np.float32),
    )
    monkeypatch.setattr(engine, "outputs", lambda _: lit)
    seen = engine.examine(data)
    assert (seen.finding.label, seen.warnings[-1]) == ("pneumonia", "evidence_outside")
