"""Measure how unlike the training children a patient is, from averaged features.

Typicality is the Mahalanobis distance of Lee et al. 2018, arXiv:1807.03888: a normal distribution for each
class with one shared covariance, here shrunk after Ledoit and Wolf (2004). It misses one adult in seven. A
linear discriminant fitted on some adults also flags adults of other hospitals; it takes the variation among
children from typicality's covariance. The limits of both are quantiles of validation images
(`model.calibrate`).
"""

import io
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image, ImageFilter
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from model.calibrate import fit_platt
from model.serve.preprocess import squash


class TypicalityHead(nn.Module):
    """Compute the squared distance of features to the nearer class."""

    means: Tensor  # [2, C]
    whitening: Tensor  # [C, C]: differences multiplied by it have unit covariance

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(2, channels))
        self.register_buffer("whitening", torch.zeros(channels, channels))

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Fit to features [N, C] and labels [N] of 0 and 1."""
        values, classes = features.double().cpu().numpy(), labels.cpu().numpy()
        means = np.stack([values[classes == label].mean(0) for label in (0, 1)])
        precision = LedoitWolf(assume_centered=True).fit(values - means[classes]).precision_
        self.means.copy_(torch.from_numpy(means))
        self.whitening.copy_(torch.from_numpy(np.linalg.cholesky(precision)))

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, C] -> [N]; the value is near C for a typical image."""
        whitened = (features[:, None] - self.means) @ self.whitening  # [N, 2, C]
        return whitened.square().sum(2).amin(1)


class OutsideHead(nn.Module):
    """Apply a linear discriminant to averaged features (Fisher 1936, doi
    10.1111/j.1469-1809.1936.tb02137.x).
    """

    weight: Tensor  # [C]
    bias: Tensor  # []

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(channels))
        self.register_buffer("bias", torch.zeros(()))

    def fit(self, inside: Tensor, outside: Tensor, whitening: Tensor) -> None:
        """Fit to the features, [N, C], of images inside and outside, with the whitening of those inside."""
        both = torch.cat([inside, outside]).double()
        whitened = whitening.double()
        weight = whitened @ (whitened.T @ (outside.double().mean(0) - inside.double().mean(0)))
        truth = np.repeat([0, 1], [len(inside), len(outside)])
        slope, offset = fit_platt((both @ weight).numpy(), truth)
        self.weight.copy_(slope * weight)
        self.bias.copy_(torch.tensor(offset))

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, C] -> logits [N]."""
        return features @ self.weight + self.bias


def changed(images: Iterable[Image.Image], chance: np.random.Generator) -> Iterator[Image.Image]:
    """Yield images changed as other devices would: cropped, resized, blurred or sharpened, darkened."""
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
