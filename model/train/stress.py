"""Change validation images as other devices and operators would.

Calibration and thresholds are fitted on these copies too, so that they hold when exposure, framing or focus
differ from the training archive. They also separate two networks when clean images no longer do.
"""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from model.train.vision import v2

Stress = Callable[[Tensor], Tensor]  # [N, 1, H, W] 8-bit -> the same
_BORDER = 16  # pixels of 224


def _tone(curve: Callable[[Tensor], Tensor]) -> Stress:
    levels = (curve(torch.arange(256) / 255) * 255).round().clamp(0, 255).to(torch.uint8)
    return lambda images: levels[images.long()]


def _noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 10 * noise).round().clamp(0, 255).to(torch.uint8)


def _compressed(images: Tensor) -> Tensor:
    return torch.from_numpy(np.stack([_jpeg(image) for image in images[:, 0].numpy()]))[:, None]


def _jpeg(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=30)
    with Image.open(buffer) as again:
        return np.asarray(again)


def _covered(images: Tensor) -> Tensor:
    inner = images[..., _BORDER:-_BORDER, _BORDER:-_BORDER]
    return functional.pad(inner, [_BORDER] * 4)


def _cropped(left: int, top: int) -> Stress:
    """Return a stress that crops so many pixels of 224 on each side; the image is later squashed to the same
    square.
    """
    return lambda images: images[..., top : images.shape[-2] - top, left : images.shape[-1] - left]


STRESSES: dict[str, Stress] = {
    "none": lambda images: images,
    "mirrored": lambda images: images.flip(-1),
    "brighter": _tone(lambda level: level**0.7),
    "darker": _tone(lambda level: level**1.4),
    "harder": _tone(lambda level: (level - 0.5) * 1.3 + 0.5),
    "blurred": lambda images: v2.functional.gaussian_blur(images, [9, 9], [1.5, 1.5]),
    "noisy": _noisy,
    "compressed": _compressed,
    "covered border": _covered,
    "closer": _cropped(14, 14),
    "narrower": _cropped(20, 0),
    "shorter": _cropped(0, 20),
    "farther": lambda images: functional.pad(images, [12] * 4),
    "tilted": lambda images: v2.functional.rotate(images, 6, interpolation=v2.InterpolationMode.BILINEAR),
}
