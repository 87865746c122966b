"""How unlike its training images the network finds an image: the
Mahalanobis distance of its own pooled features.

Lee et al. 2018, arXiv:1807.03888: a normal distribution for each class, with one covariance, here shrunk
after Ledoit and Wolf (2004). Fitted on training images alone; the limits are quantiles of validation images
(`model.calibrate`).
"""

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn


class Typicality(nn.Module):
    """Squared distance of features to the nearer class."""

    means: Tensor  # [2, C]
    whitening: Tensor  # [C, C]: differences times this have unit covariance

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(2, channels))
        self.register_buffer("whitening", torch.zeros(channels, channels))

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Learn from features [N, C] and labels [N] of 0 and 1."""
        values, classes = features.double().cpu().numpy(), labels.cpu().numpy()
        means = np.stack([values[classes == label].mean(0) for label in (0, 1)])
        precision = LedoitWolf(assume_centered=True).fit(values - means[classes]).precision_
        self.means.copy_(torch.from_numpy(means))
        self.whitening.copy_(torch.from_numpy(np.linalg.cholesky(precision)))

    def forward(self, features: Tensor) -> Tensor:
        """Features [N, C] -> [N]; near C for a typical image."""
        whitened = (features[:, None] - self.means) @ self.whitening  # [N, 2, C]
        return whitened.square().sum(2).amin(1)
