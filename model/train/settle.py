"""The statistics of batch norms, for images as they are served."""

import torch
from torch import Tensor, nn

from model.train.member import served_input


@torch.no_grad()
def settle_statistics(member: nn.Module, pixels: Tensor, size: int) -> None:
    """Estimate the batch norms' statistics anew on images as they will be served, without augmentation.

    Those of training are of augmented images, and shift every logit (Touvron et al. 2019, arXiv:1906.06423).
    """
    member.eval()
    norms = [module for module in member.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all that comes
        norm.train()
    shuffled = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))]
    for batch in shuffled.split(64):
        member(served_input(batch, size))
    member.eval()
