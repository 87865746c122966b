"""Opacities planted in training, and the images of other populations."""

import numpy as np
import pytest
import torch
from PIL import Image

from model.evaluate.lungs import SIDE
from model.train.heads import OutsideHead, changed
from model.train.planting import find_lungs, plant_lobes
from tests.support import pictures


@pytest.fixture
def chest() -> np.ndarray:
    """Draw a body with two dark lungs, [224, 224]."""
    rows, columns = np.mgrid[:224, :224] / 224
    gray = np.where((columns > 0.06) & (columns < 0.94), 170, 5)
    for middle in (0.29, 0.71):
        gray[np.hypot((rows - 0.48) / 0.28, (columns - middle) / 0.13) < 1] = 60
    return gray.astype(np.uint8)


def test_opacities_are_planted_in_the_lungs_and_nowhere_darker(chest: np.ndarray) -> None:
    (lungs, none) = find_lungs([chest, np.zeros_like(chest)])
    assert none is None
    assert lungs is not None
    assert (chest[lungs[:, 0], lungs[:, 1]] == 60).mean() > 0.9
    image, sizes = torch.from_numpy(chest)[None], []
    for seed in range(40):
        shown, where = plant_lobes(image, lungs, np.random.default_rng(seed))
        assert shown.shape == image.shape
        assert shown.dtype == torch.uint8
        assert (shown >= image).all()
        assert where.any()
        assert shown[0][where].float().mean() > image[0][where].float().mean()
        sizes.append(float(where.float().mean()))
        again = plant_lobes(image, lungs, np.random.default_rng(seed))
        assert torch.equal(again[0], shown)
    assert min(sizes) < 0.02 < 0.05 < max(sizes) < 0.4
    assert SIDE >= 224


def test_the_head_tells_populations_apart() -> None:
    draw = torch.Generator().manual_seed(1)
    inside, outside = (
        torch.randn(400, 20, generator=draw) * 3 + 5,
        torch.randn(60, 20, generator=draw) * 3 + 5,
    )
    outside[:, 3] += 12
    head = OutsideHead(20)
    head.fit(inside, outside, torch.eye(20) / 3)
    assert (head(inside) < 0).float().mean() > 0.95
    assert (head(outside) > 0).float().mean() > 0.85  # they are fewer
    assert head.weight.abs().argmax() == 3
    assert float(OutsideHead(20)(inside).abs().max()) == 0  # without a fit it knows nobody


def test_changed_images_are_of_many_sizes_and_the_same_by_seed() -> None:
    image = pictures.sample()
    once, again = (list(changed([image] * 12, np.random.default_rng(2))) for _ in range(2))
    assert [np.array_equal(a, b) for a, b in zip(once, again, strict=True)] == [True] * 12
    assert len({view.size for view in once}) > 2
    assert all(isinstance(view, Image.Image) and view.mode == "L" for view in once)
