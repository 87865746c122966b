"""The network: a small residual CNN with global average pooling and a linear head.

The linear head on averaged features makes the class activation map exact (Zhou et al. 2016,
arXiv:1512.04150): the head applied at every position gives a map whose mean *is* the logit, out of the same
forward pass, with no gradient.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.typicality import Typicality


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that is needed to build the network again; it travels inside the checkpoint."""

    size: int = 160  # pixels a side of the square gray input
    stem: int = 24  # channels after the stem, at half resolution
    widths: tuple[int, ...] = (32, 64, 128, 192)  # channels of each stage
    blocks: int = 2  # residual blocks of each stage
    strides: tuple[int, ...] = (2, 2, 2, 1)  # of each stage; with the stem's 2 a map's side is size / 16
    dropout: float = 0.2  # on the averaged features, in training

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NetworkConfig":
        """From JSON, where a tuple has become a list."""
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**known)


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(outputs)
        nn.init.zeros_(last.weight)  # each block starts as its shortcut (He et al. 2018, below)
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            last,
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            # Averaging before the 1x1 convolution drops no pixel (He et al. 2018, arXiv:1812.01187,
            # ResNet-D).
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            self.shortcut = nn.Sequential(
                pool, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


class Output(NamedTuple):
    """What the network says of N images."""

    logits: Tensor  # [N, 2]: pneumonia; viral (against bacterial), given pneumonia
    map: Tensor  # [N, size / 16, size / 16]: its mean is the pneumonia logit
    distance: Tensor  # [N]: how unlike the training images


class Network(nn.Module):
    """Gray image to two logits, the map of the first, and a measure of how typical the image is."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        stages: list[nn.Module] = []
        inputs = config.stem
        for outputs, stride in zip(config.widths, config.strides, strict=True):
            for index in range(config.blocks):
                stages.append(Block(inputs, outputs, stride if index == 0 else 1))
                inputs = outputs
        self.stem = nn.Sequential(
            nn.Conv2d(1, config.stem, 5, 2, 2, bias=False), nn.BatchNorm2d(config.stem), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(inputs, 2)
        self.typicality = Typicality(inputs)

    def forward(self, x: Tensor) -> Output:
        """[N, 1, size, size], standardised gray."""
        features = self.stages(self.stem(x))  # [N, C, h, w]
        pooled = features.mean((2, 3))
        logits = self.head(self.dropout(pooled))
        weight, bias = self.head.weight[0], self.head.bias[0]
        activation = (features * weight[None, :, None, None]).sum(1) + bias
        return Output(logits, activation, self.typicality(pooled))

    def pooled(self, x: Tensor) -> Tensor:
        """[N, 1, size, size] -> the averaged features, [N, C]."""
        return torch.as_tensor(self.stages(self.stem(x)).mean((2, 3)))
