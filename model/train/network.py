"""The network: fine-tuned features, an exact map of the evidence, and two measures of who is outside.

The evidence map has a cell for each 16 pixels of the input: what the last features say of the surroundings,
added to what those at a sixteenth of the side see in place (Lin et al. 2017, arXiv:1612.03144). Its mean
*is* the pneumonia logit (Zhou et al. 2016, arXiv:1512.04150), out of the same forward pass, with no
gradient. The mean over members keeps that; and two that learned from other draws err on other images
(Lakshminarayanan et al. 2017, arXiv:1612.01474).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.train.backbone import EARLY_CHANNELS, LAST_CHANNELS, MIDDLE_CHANNELS, Backbone
from model.train.heads import OutsideHead, TypicalityHead


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that is needed to build the network again; it travels inside the checkpoint."""

    size: int = 160  # pixels a side of the square gray input
    members: int = 1
    width: int = 256  # channels of the features that the map is made of
    dropout: float = 0.3  # on whole channels of these, in training
    style_mixing: float = 0.5  # the share of training batches whose images lend one another their style
    dropped: float = 0.1  # of the last block, in training; less of the earlier ones

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NetworkConfig":
        """From JSON."""
        return cls(**values)

    @property
    def pooled(self) -> int:
        """How many averaged features all members have."""
        return self.members * (2 * EARLY_CHANNELS + 2 * MIDDLE_CHANNELS + LAST_CHANNELS + self.width)


class MemberOutput(NamedTuple):
    """What a member makes of N images."""

    evidence: Tensor  # [N, 2, size / 16, size / 16]: for pneumonia; for viral against bacterial
    pooled: Tensor  # [N, C]: averaged features, and how they vary


class Member(nn.Module):
    """One network: gray image to evidence."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.backbone = Backbone(config.style_mixing, config.dropped)
        self.above = nn.Sequential(
            nn.Conv2d(LAST_CHANNELS, config.width, 1, bias=False), nn.BatchNorm2d(config.width)
        )
        self.here = nn.Sequential(
            nn.Conv2d(MIDDLE_CHANNELS, config.width, 1, bias=False), nn.BatchNorm2d(config.width)
        )
        self.dropout = nn.Dropout2d(config.dropout)
        self.head = nn.Conv2d(config.width, 2, 1)

    def see(self, x: Tensor) -> MemberOutput:
        """[N, 1, size, size], as `model.serve.preprocess.network_input` gives it."""
        early, middle, last = self.backbone(x)
        above = functional.interpolate(self.above(last), size=middle.shape[-2:], mode="nearest")
        both = functional.relu6(above + self.here(middle))
        pooled = [early.mean((2, 3)), _spread(early), middle.mean((2, 3)), _spread(middle)]
        pooled += [last.mean((2, 3)), both.mean((2, 3))]
        return MemberOutput(self.head(self.dropout(both)), torch.cat(pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, size, size] -> evidence [N, 2, size / 16, size / 16]."""
        return self.see(x).evidence


class Output(NamedTuple):
    """What the network says of N images."""

    logits: Tensor  # [N, 2]: pneumonia; viral (against bacterial), given pneumonia
    map: Tensor  # [N, size / 16, size / 16]: its mean is the pneumonia logit
    distance: Tensor  # [N]: how unlike the training images
    outside: Tensor  # [N]: the logit of being of another population


class Network(nn.Module):
    """Gray image to two logits, the map of the first, and who is outside."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(Member(config) for _ in range(config.members))
        self.typicality = TypicalityHead(config.pooled)
        self.outside = OutsideHead(config.pooled)

    def forward(self, x: Tensor) -> Output:
        """[N, 1, size, size], as `model.serve.preprocess.network_input` gives it."""
        seen = [member.see(x) for member in self.members if isinstance(member, Member)]
        evidence = torch.stack([one.evidence for one in seen]).mean(0)
        pooled = torch.cat([one.pooled for one in seen], 1)
        return Output(evidence.mean((2, 3)), evidence[:, 0], self.typicality(pooled), self.outside(pooled))

    def pooled(self, x: Tensor) -> Tensor:
        """[N, 1, size, size] -> the members' averaged features, side by side, [N, C]."""
        return torch.cat([member.see(x).pooled for member in self.members if isinstance(member, Member)], 1)


def _spread(features: Tensor) -> Tensor:
    """The deviation over places, [N, C]."""
    centred = features - features.mean((2, 3), keepdim=True)
    return (centred.square().mean((2, 3)) + 1e-6).sqrt()
