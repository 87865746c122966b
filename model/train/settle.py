"""Prepare batch norms for serving."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.train.member import served_input


@torch.no_grad()
def settle_statistics(member: nn.Module, pixels: Tensor, size: int) -> None:
    """Estimate the batch norms' statistics again on images as they will be served, without augmentation.

    The training statistics come from augmented images and shift every logit (Touvron et al. 2019,
    arXiv:1906.06423).
    """
    member.eval()
    norms = [module for module in member.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    shuffled = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))]
    for batch in shuffled.split(64):
        member(served_input(batch, size))
    member.eval()


def fold_norms(network: nn.Module) -> None:
    """Fold each norm of a network in evaluation mode into the convolution before it."""
    for part in network.modules():
        if isinstance(part, nn.Sequential):
            for place, (layer, norm) in enumerate(pairwise(part)):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    part[place] = fuse_conv_bn_eval(layer, norm)
                    part[place + 1] = nn.Identity()
