"""Who is outside: how likely an image is of another population than the children of the training.

The distance to the training images (`model.train.typicality`) knows what is strange, but an adult's chest is
not: it flags one adult in four. A linear head that has seen some adults flags those of other hospitals, too.
"""

import io
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image, ImageFilter
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from model.preprocess import WORKING_SIZE, squash

_QUALITIES = (75, 85, 95)  # of JPEG, as the archive's copies may have been made
_STRENGTH = 1e-3  # of the fit (scikit-learn's C): small, so that no single feature decides


class Outside(nn.Module):
    """A linear head on averaged features."""

    weight: Tensor  # [C]
    bias: Tensor  # []

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(channels))
        self.register_buffer("bias", torch.zeros(()))

    def fit(self, inside: Tensor, outside: Tensor) -> None:
        """Learn from the features, [N, C], of images of either kind; both kinds weigh alike."""
        values = torch.cat([inside, outside]).double().cpu().numpy()
        truth = np.repeat([0, 1], [len(inside), len(outside)])
        mean, scale = values.mean(0), values.std(0) + 1e-6
        fitted = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=3000)
        fitted.fit((values - mean) / scale, truth)
        weight = fitted.coef_[0] / scale
        self.weight.copy_(torch.from_numpy(weight))
        self.bias.copy_(torch.tensor(float(fitted.intercept_[0] - weight @ mean)))

    def forward(self, features: Tensor) -> Tensor:
        """Features [N, C] -> logits [N]."""
        return features @ self.weight + self.bias


def as_copy(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    """A gray image as the archive's copies were made, so that sharpness does not tell the kinds apart."""
    return _compressed(squash(image, WORKING_SIZE), int(chance.choice(_QUALITIES)))


def changed(images: Iterable[Image.Image], chance: np.random.Generator) -> Iterator[Image.Image]:
    """Images as other devices and hands would have made them: cut, smaller, blurred or sharpened, darker."""
    for image in images:
        width, height = (int(side * chance.uniform(0.75, 1)) for side in image.size)
        left, top = (
            int(chance.integers(whole - part + 1))
            for whole, part in zip(image.size, (width, height), strict=True)
        )
        side = int(chance.choice((160, 192, 224, 320)))
        view = squash(image.crop((left, top, left + width, top + height)), side)
        how = chance.random()
        if how < 0.35:
            view = view.filter(ImageFilter.GaussianBlur(chance.uniform(0.2, 1.2)))
        elif how < 0.75:
            view = view.filter(
                ImageFilter.UnsharpMask(chance.uniform(0.5, 2), int(chance.integers(40, 250)), 0)
            )
        if chance.random() < 0.5:
            gamma = np.exp(chance.uniform(-0.5, 0.5))
            view = view.point([int(255 * (level / 255) ** gamma) for level in range(256)])
        if chance.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        yield _compressed(view, int(chance.integers(35, 96)))


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)
