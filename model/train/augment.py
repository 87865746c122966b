"""Augment training images so that the network learns lungs and not the habits of one hospital."""

import math

import torch
from torch import Tensor

from model.serve.preprocess import normalise
from model.train.vision import Mask, Pixels, v2


def normalised(image: Tensor) -> Tensor:
    """Return `model.serve.preprocess.normalise` of a tensor, [..., H, W]."""
    return torch.from_numpy(normalise(image.numpy()))


class Augment:
    """Change one image at random, [1, H, W] 8-bit -> [1, size, size] as the network's input.

    `films` are images, [N, 1, H, W] 8-bit, whose tone curves are lent to others. Draws from torch's
    generator.
    """

    def __init__(self, size: int, films: Tensor) -> None:
        self.tones = torch.stack([_cumulative(film) for film in films])  # [N, 256]
        self.framing = v2.Compose(
            [
                # Framing, aspect ratio and tilt differ by class and ward, but say nothing about the lungs.
                v2.RandomResizedCrop(size, scale=(0.6, 1.0), ratio=(0.75, 1.33), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomAffine(
                    degrees=10, translate=(0.05, 0.05), scale=(0.9, 1.1), shear=5, interpolation=_BILINEAR
                ),
            ]
        )
        self.exposure = v2.Compose(
            [
                v2.ColorJitter(brightness=0.3, contrast=0.4),  # exposure, windowing
                v2.RandomEqualize(p=0.1),
                v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=0.3),  # resampling, focus
                v2.ToDtype(torch.float32),
            ]
        )
        self.blurred = v2.Compose(
            [
                v2.RandomApply([v2.GaussianNoise(sigma=0.15, clip=False)], p=0.3),
                # A finding must not depend on one place alone.
                v2.RandomErasing(p=0.4, scale=(0.02, 0.15)),
                v2.RandomApply([_cover_border], p=0.5),
            ]
        )

    def __call__(self, image: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Change an image and, in the same way, a mask of something in it, [H, W] -> [size, size]."""
        lent, bent = (torch.rand(2) < torch.tensor([0.4, 0.4])).tolist()
        if lent:
            image = self._lend_tone(image)
        image, where = self.framing(Pixels(image), Mask(where[None].to(torch.uint8)))
        image = image.as_subclass(Tensor)
        if bent:
            image = _bend_tone(image)
        changed: Tensor = self.blurred(normalised(self.exposure(image)))
        return changed, where.as_subclass(Tensor)[0].bool()

    def _lend_tone(self, image: Tensor) -> Tensor:
        """Move part of the way to another film's histogram, since tone curves differ by machine."""
        other = self.tones[torch.randint(len(self.tones), ())]
        matched = torch.searchsorted(other, _cumulative(image)).clamp(max=255)
        curve = torch.lerp(_LEVELS, matched.float(), float(torch.rand(())))
        return curve.to(torch.uint8)[image.long()]


def _cumulative(image: Tensor) -> Tensor:
    """Return the share of pixels up to each of 256 levels."""
    counts = torch.bincount(image.flatten().long(), minlength=256).cumsum(0)
    return counts / counts[-1]


def _bend_tone(image: Tensor) -> Tensor:
    """Apply a random gamma from 0.55 to 1.8."""
    gamma = math.exp(0.6 * (2 * float(torch.rand(())) - 1))
    curve = (_LEVELS / 255).pow(gamma).mul(255)
    return curve.to(torch.uint8)[image.long()]


def _cover_border(image: Tensor) -> Tensor:
    """Cover parts of the sides with flat patches, where burned-in letters, cables and collimator
    edges are.
    """
    side = image.shape[-1]
    for _ in range(int(torch.randint(1, 4, ()))):
        depth, width, where, level = torch.rand(4).tolist()
        depth, width = (int(side * (0.04 + 0.2 * extent**2)) for extent in (depth, width))
        start = int(where * (side - width))
        turns = int(torch.randint(4, ()))
        image = torch.rot90(image, turns, (-2, -1)).clone()
        image[..., :depth, start : start + width] = 4.5 * level - 2.25
        image = torch.rot90(image, -turns, (-2, -1))
    return image


_BILINEAR = v2.InterpolationMode.BILINEAR
_LEVELS = torch.arange(256.0)
