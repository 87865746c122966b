"""The pointing game: lungs are found, opacities lie in them, a map that points beats one that does not."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from model.evaluate import lungs, pointing
from model.evaluate.bootstrap import Mask
from model.evaluate.lungs import SIDE, Gray, find_field
from model.evaluate.pointing import SIZES, Pointing, plant_cloud, play
from model.serve.borders import content_box
from model.serve.engine import Engine, Outputs
from model.serve.preprocess import Array
from pipeline.errors import UsageError
from tests.support import pictures


@pytest.fixture
def chest() -> Gray:
    """Draw a body with two dark lungs."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    gray = np.where((columns > 0.06) & (columns < 0.94), 170.0, 5.0)
    for middle in (0.29, 0.71):
        gray[np.hypot((rows - 0.48) / 0.28, (columns - middle) / 0.13) < 1] = 60
    return gray.astype(np.float32)


def test_lungs_are_found_in_their_body(chest: Gray) -> None:
    field = find_field(chest)
    assert field
    for lung in field.lungs:
        assert (chest[lung] == 60).mean() > 0.9
        assert lung[chest == 60].mean() == pytest.approx(0.5, abs=0.05)
    assert field.body[:, SIDE // 2].all()
    assert not field.body[:, 4].any()


@pytest.mark.parametrize("level", [0.0, 128.0])
def test_where_there_are_none_none_are_found(level: float) -> None:
    assert find_field(np.full((SIDE, SIDE), level, np.float32)) is None
    noise = np.random.default_rng(1).uniform(0, 255, (SIDE, SIDE)).astype(np.float32)
    assert find_field(noise) is None


@pytest.mark.parametrize("size", [(12, 12), (85, 1)])
def test_gaps_are_closed_as_by_the_slow_definition(size: tuple[int, int]) -> None:
    random, edge = np.random.default_rng(2), 100
    for coarse in (1, 5):
        mask = ndimage.gaussian_filter(random.normal(size=(SIDE, SIDE)), coarse) > 0.02
        slow = ndimage.binary_closing(np.pad(mask, edge, "edge"), np.ones(size))[edge:-edge, edge:-edge]
        assert np.array_equal(lungs._closed(mask, size), slow)


def test_without_lungs_there_is_no_game() -> None:
    image = pictures.encoded(Image.new("L", (SIDE, SIDE), 128), "PNG")
    with pytest.raises(UsageError, match="two lungs"):
        list(play([image], Engine()))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lung", [0, 1])
def test_an_opacity_lies_in_its_lung(chest: Gray, lung: int, size: float) -> None:
    field = find_field(chest)
    assert field
    shown, opacity = plant_cloud(chest, field, lung, size, np.random.default_rng(3))
    assert (shown >= chest).all()
    assert np.array_equal(shown - chest > 1, (shown - chest > 1) & (chest < 170))
    assert field.lungs[lung][opacity].mean() > 0.45
    assert opacity.mean() == pytest.approx(np.pi / 4 * size**2, rel=0.6)
    assert shown[opacity & (chest == 60)].mean() > 90


class Points(Engine):
    """Answer with a map of where the image is brighter than the chest was."""

    def __init__(self, chest: Gray, is_right: bool) -> None:
        super().__init__()
        self._chest, self._is_right, self.seen = chest, is_right, list[Gray]()
        self.cropped = 0

    def outputs(self, pixels: Array) -> Outputs:
        """Return a map at the opacity or mirrored, within the part that the network is shown."""
        shown = self.seen.pop(0)
        left, top, right, bottom = content_box(np.clip(shown, 0, 255).astype(np.uint8))
        self.cropped += left > 0  # the air beside the body is cut off
        brighter = Image.fromarray((shown - self._chest)[top:bottom, left:right])
        grid = np.asarray(brighter.resize((18, 18), Image.Resampling.BOX))
        none = np.zeros(1, np.float32)
        return Outputs(
            np.zeros((1, 2), np.float32), (grid if self._is_right else grid[:, ::-1])[None], none, none
        )


@pytest.mark.parametrize(("is_right", "least", "most"), [(True, 0.9, 1.0), (False, 0.0, 0.1)])
def test_the_game_is_won_by_a_map_that_points(
    chest: Gray, is_right: bool, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Points(chest, is_right)

    def planted(*arguments: object) -> tuple[Gray, Mask]:
        shown, opacity = plant_cloud(*arguments)  # type: ignore[arg-type]
        engine.seen.append(shown)
        return shown, opacity

    monkeypatch.setattr(pointing, "plant_cloud", planted)
    image = pictures.encoded(Image.fromarray(chest.astype(np.uint8)), "PNG")
    seen = list(play([image] * 5, engine))
    assert [(one.size, one.planted) for one in seen] == [(size, 10) for size in SIZES]
    assert engine.cropped > 10
    for one in seen:
        assert isinstance(one, Pointing)
        assert least <= one.hit <= most
        assert 0 <= one.outside_body <= one.outside_lungs <= 1
