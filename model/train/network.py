"""Define the network: pretrained features, an exact map of the evidence, and two checks of who is outside.

The evidence map has a cell for each 16 pixels of the input: what the last features say about the
surroundings, plus what the features at a sixteenth of the side see in place (Lin et al. 2017,
arXiv:1612.03144). Its mean *is* the pneumonia logit (Zhou et al. 2016, arXiv:1512.04150), from the same
forward pass, without gradients. The mean over members preserves that, and members that learned from other
draws err on other images (Lakshminarayanan et al. 2017, arXiv:1612.01474).
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
    """Hold everything needed to rebuild the network; it is stored in the checkpoint."""

    size: int = 160  # pixels a side of the square gray input
    members: int = 1
    width: int = 256  # channels of the features that the map is computed from
    dropout: float = 0.3  # probability of dropping a whole channel of these in training
    style_mixing: float = 0.5  # share of training batches whose images swap their style
    dropped: float = 0.1  # share of images that skip the last block in training; less for earlier blocks

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NetworkConfig":
        """Build from JSON."""
        return cls(**values)

    @property
    def pooled(self) -> int:
        """Return the number of averaged features of all members."""
        return self.members * (2 * EARLY_CHANNELS + 2 * MIDDLE_CHANNELS + LAST_CHANNELS + self.width)


class MemberOutput(NamedTuple):
    """Hold a member's evidence and features for N images."""

    evidence: Tensor  # [N, 2, size / 16, size / 16]: for pneumonia; for viral rather than bacterial
    pooled: Tensor  # [N, C]: means and deviations of features


class Member(nn.Module):
    """Map a gray image to evidence."""

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
        """Map [N, 1, size, size], as from `model.serve.preprocess.network_input`, to evidence and
        features.
        """
        early, middle, last = self.backbone(x)
        above = functional.interpolate(self.above(last), size=middle.shape[-2:], mode="nearest")
        both = functional.relu6(above + self.here(middle))
        pooled = [early.mean((2, 3)), _spread(early), middle.mean((2, 3)), _spread(middle)]
        pooled += [last.mean((2, 3)), both.mean((2, 3))]
        return MemberOutput(self.head(self.dropout(both)), torch.cat(pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 1, size, size] -> evidence [N, 2, size / 16, size / 16]."""
        return self.see(x).evidence


class Output(NamedTuple):
    """Hold the network's outputs for N images."""

    logits: Tensor  # [N, 2]: pneumonia; viral (against bacterial), given pneumonia
    map: Tensor  # [N, size / 16, size / 16]: its mean is the pneumonia logit
    distance: Tensor  # [N]: distance from the training images
    outside: Tensor  # [N]: the logit of belonging to another population


class Network(nn.Module):
    """Map a gray image to two logits, the map of the first, and the two checks of who is outside."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(Member(config) for _ in range(config.members))
        self.typicality = TypicalityHead(config.pooled)
        self.outside = OutsideHead(config.pooled)

    def forward(self, x: Tensor) -> Output:
        """Map [N, 1, size, size], as from `model.serve.preprocess.network_input`, to the outputs."""
        seen = [member.see(x) for member in self.members if isinstance(member, Member)]
        evidence = torch.stack([one.evidence for one in seen]).mean(0)
        pooled = torch.cat([one.pooled for one in seen], 1)
        return Output(evidence.mean((2, 3)), evidence[:, 0], self.typicality(pooled), self.outside(pooled))

    def pooled(self, x: Tensor) -> Tensor:
        """Map [N, 1, size, size] -> the members' averaged features side by side, [N, C]."""
        return torch.cat([member.see(x).pooled for member in self.members if isinstance(member, Member)], 1)


def _spread(features: Tensor) -> Tensor:
    """Return the standard deviation over places, [N, C]."""
    centred = features - features.mean((2, 3), keepdim=True)
    return (centred.square().mean((2, 3)) + 1e-6).sqrt()
