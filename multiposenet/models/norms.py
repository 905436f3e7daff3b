"""What stands in for batch normalisation where batches are small: fixed statistics, or statistics of groups."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

GROUPS = 32


def frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    """The same normalisation, never to change again: for networks that were trained on large batches before."""
    fixed = FrozenBatchNorm2d(norm.num_features, norm.eps)
    fixed.load_state_dict(norm.state_dict(), strict=False)
    return fixed


class GroupNorm(nn.GroupNorm):
    """PyTorch's, also behind frozen layers.

    On a CPU, channels last, the backward pass of PyTorch 2.9 writes the gradient of the input whether anybody wants it
    or not; where nobody does, the process dies.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, ...]; the same shape comes out."""
        if torch.is_grad_enabled() and x.is_cpu and self.weight.requires_grad and not x.requires_grad:
            x = x.detach().requires_grad_()
        return super().forward(x)


def group_norm(channels: int) -> GroupNorm:
    """Group normalisation (Wu and He, ECCV 2018), which does not mind small batches: for training from scratch."""
    return GroupNorm(GROUPS, channels)


NORMS: dict[str, Callable[[nn.BatchNorm2d], nn.Module]] = {
    "frozen": frozen,
    "group": lambda norm: group_norm(norm.num_features),
    "batch": lambda norm: norm,
}


def replace_norms(module: nn.Module, make: Callable[[nn.BatchNorm2d], nn.Module]) -> None:
    """Puts another normalisation in the place of every batch normalisation below a module, under its name."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, make(child))
        else:
            replace_norms(child, make)
