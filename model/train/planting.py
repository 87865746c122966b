"""Plant opacities into normal images in training, so that the evidence has a place to learn.

The archive's labels say who is ill, not where. A planted opacity says where: the map should show evidence in
it, and against it elsewhere. These are soft lobes of any density. The pointing game
(`model.evaluate.pointing`) measures with another kind, of one uneven outline, which training never sees.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from model.evaluate import lungs
from model.evaluate.lungs import find_field
from model.serve.preprocess import WORKING_SIZE

_RADII = (0.05, 0.17)  # as shares of a side
_DENSITIES = (0.35, 0.95)  # share of the way from the image's grey to that of dense parts of the body
_INSIDE = 0.35  # share of the density above which a pixel belongs to the opacity

Lungs = npt.NDArray[np.intp]  # [N, 2]: rows and columns of pixels in the lungs, of WORKING_SIZE


def find_lungs(images: Sequence[npt.NDArray[np.uint8]]) -> list[Lungs | None]:
    """Find the places where opacities can be planted in images, [h, w] each; None when no lungs are found."""
    return [_lungs(image) for image in images]


def plant_lobes(image: Tensor, places: Lungs, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return a copy of an image, [1, s, s] 8-bit, with an opacity in its lungs, and its mask, [s, s]."""
    gray, side = image[0].float(), image.shape[-1]
    row, column = places[chance.integers(len(places))]
    cloud = _lobes(side, float(row), float(column), chance)
    rough = torch.from_numpy(chance.normal(size=(1, 1, *chance.integers(8, 40, 2)))).float()
    rough = functional.interpolate(rough, (side, side), mode="bicubic")[0, 0]
    dense = float(torch.quantile(gray[gray > gray.mean()], chance.uniform(0.4, 0.8)))
    share = (cloud * (1 + 0.3 * chance.uniform() * rough)).clamp(0, 1) * chance.uniform(*_DENSITIES)
    shown = gray + share * (dense - gray).clamp_min(0)
    return shown.clamp(0, 255).to(torch.uint8)[None], cloud > _INSIDE


def _lobes(side: int, row: float, column: float, chance: np.random.Generator) -> Tensor:
    """Draw one to four soft lobes around a place, [side, side], 0 to 1."""
    rows, columns = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    radius, cloud = chance.uniform(*_RADII) * side, torch.zeros(side, side)
    for _ in range(chance.integers(1, 5)):
        down = rows - row - chance.normal(0, 0.45 * radius)
        right = columns - column - chance.normal(0, 0.45 * radius)
        angle, stretch = chance.uniform(0, math.pi), chance.uniform(0.6, 1.6)
        along, across = (
            down * math.cos(angle) + right * math.sin(angle),
            right * math.cos(angle) - down * math.sin(angle),
        )
        extent = radius * chance.uniform(0.5, 1)
        distance = (along / (extent * stretch)).square() + (across * stretch / extent).square()
        cloud = torch.maximum(cloud, torch.exp(-0.7 * distance ** (chance.uniform(1.5, 4) / 2)))
    return cloud


def _lungs(image: npt.NDArray[np.uint8]) -> Lungs | None:
    size = (lungs.SIDE, lungs.SIDE)
    field = find_field(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), np.float32))
    if field is None:
        return None
    return np.argwhere(field.lungs[0] | field.lungs[1])[::4] * WORKING_SIZE // lungs.SIDE
