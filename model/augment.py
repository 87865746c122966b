"""What training does to an image so that the network learns
lungs and not the habits of one hospital's films.
"""

import torch
from torch import Tensor

from model.vision import v2


def standardise(image: Tensor) -> Tensor:
    """`model.preprocess.standardise` for tensors: [..., H, W] to
    zero mean and unit deviation of each image.
    """
    deviation, mean = torch.std_mean(image, dim=(-2, -1), keepdim=True, correction=0)
    return (image - mean) / deviation.clamp_min(1.0)


class Augment:
    """Random changes of one image, [1, H, W] 8-bit -> [1, size,
    size] standardised; draws from torch's generator.
    """

    def __init__(self, size: int) -> None:
        self.pixels = v2.Compose(
            [
                # Framing, aspect ratio and tilt differ by class and ward, and say nothing of the lungs.
                v2.RandomAffine(
                    degrees=10, translate=(0.05, 0.05), scale=(0.9, 1.1), shear=5, interpolation=_BILINEAR
                ),
                v2.RandomResizedCrop(size, scale=(0.6, 1.0), ratio=(0.75, 1.33), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=0.3, contrast=0.4),  # exposure, windowing
                v2.RandomEqualize(p=0.1),
                v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=0.3),  # resampling, focus
                v2.ToDtype(torch.float32),
            ]
        )
        self.standardised = v2.Compose(
            [
                v2.RandomApply([v2.GaussianNoise(sigma=0.15, clip=False)], p=0.3),
                # Burned-in letters sit at borders and corners; a finding never depends on one place alone.
                v2.RandomErasing(p=0.4, scale=(0.02, 0.15)),
            ]
        )

    def __call__(self, image: Tensor) -> Tensor:
        result: Tensor = self.standardised(standardise(self.pixels(image)))
        return result


_BILINEAR = v2.InterpolationMode.BILINEAR
