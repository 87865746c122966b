"""Who is outside: how likely an image is of another population than the children of the training.

The distance to the training images (`model.train.typicality`) knows what is strange, but an adult's chest is
not: it flags one adult in four. A linear head that has seen some adults flags those of other hospitals, too.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

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
