"""The network: small residual CNNs, trained apart, that answer together.

Each has global average pooling and a linear head, which makes the class activation map exact (Zhou et al.
2016, arXiv:1512.04150): the head applied at every position gives a map whose mean *is* the logit, out of the
same forward pass, with no gradient. The mean over members keeps that; and two that learned from other draws
err on other images (Lakshminarayanan et al. 2017, arXiv:1612.01474).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.typicality import Typicality


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that is needed to build the network again; it travels inside the checkpoint."""

    size: int = 144  # pixels a side of the square gray input
    members: int = 2
    stem: int = 24  # channels after the stem, at half resolution
    widths: tuple[int, ...] = (32, 64, 112, 160)  # channels of each stage
    blocks: int = 2  # residual blocks of each stage
    strides: tuple[int, ...] = (2, 2, 2, 1)  # of each stage; with the stem's 2 a map's side is size / 16
    dropout: float = 0.2  # on the averaged features, in training
    style_mixing: float = 0.5  # the share of training batches whose images lend one another their style

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


class MixStyle(nn.Module):
    """Swaps, in training, the mean and deviation of an image's features for a mix with another image's.

    What the early layers' statistics carry is the film's style (exposure, machine, ward), and it says nothing
    of the lungs. Zhou et al. 2021, arXiv:2104.02008.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share  # of the batches

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w], unchanged in evaluation."""
        if not self.training or float(torch.rand(())) >= self.share:
            return x
        with torch.no_grad():
            deviation, mean = torch.std_mean(x, (2, 3), keepdim=True, correction=0)
            deviation = deviation + 1e-3
            own = torch.distributions.Beta(0.1, 0.1).sample((len(x), 1, 1, 1)).to(x.device)
            other = torch.randperm(len(x), device=x.device)
            scale = own + (1 - own) * deviation[other] / deviation
            shift = own * mean + (1 - own) * mean[other] - scale * mean
        return x * scale + shift


class Member(nn.Module):
    """One residual CNN: gray image to two logits."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        inputs = config.stem
        for stage, (outputs, stride) in enumerate(zip(config.widths, config.strides, strict=True)):
            for index in range(config.blocks):
                stages.append(Block(inputs, outputs, stride if index == 0 else 1))
                inputs = outputs
            if stage < len(config.widths) - 2:
                stages.append(MixStyle(config.style_mixing))
        self.stem = nn.Sequential(
            nn.Conv2d(1, config.stem, 5, 2, 2, bias=False), nn.BatchNorm2d(config.stem), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(inputs, 2)
        self.blocks = config.blocks

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 1, size, size], standardised gray -> what the last stage but one and the last see of it.

        The second is [N, C, size / 16, size / 16], the first as large, with the channels of its stage.
        """
        blocks = self.stages[: -self.blocks], self.stages[-self.blocks :]
        earlier = blocks[0](self.stem(x))
        return earlier, blocks[1](earlier)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, size, size] -> logits [N, 2], as in `Output`."""
        return torch.as_tensor(self.head(self.dropout(self.features(x)[1].mean((2, 3)))))

    def map(self, features: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, h, w]: what each place adds to the pneumonia logit."""
        weight, bias = self.head.weight[0], self.head.bias[0]
        return (features * weight[None, :, None, None]).sum(1) + bias


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
        self.members = nn.ModuleList(Member(config) for _ in range(config.members))
        self.typicality = Typicality(config.members * sum(config.widths[-2:]))

    def forward(self, x: Tensor) -> Output:
        """[N, 1, size, size], standardised gray."""
        logits, maps, pooled = [], [], []
        for member in self.members:
            assert isinstance(member, Member)
            earlier, last = member.features(x)
            average = last.mean((2, 3))
            pooled += [earlier.mean((2, 3)), average]
            logits.append(member.head(average))
            maps.append(member.map(last))
        distance = self.typicality(torch.cat(pooled, 1))
        return Output(torch.stack(logits).mean(0), torch.stack(maps).mean(0), distance)

    def pooled(self, x: Tensor) -> Tensor:
        """[N, 1, size, size] -> the members' averaged features of the last two stages, side by side."""
        features = [member.features(x) for member in self.members if isinstance(member, Member)]
        return torch.cat([stage.mean((2, 3)) for stages in features for stage in stages], 1)
