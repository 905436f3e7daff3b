"""What stands in for batch normalisation where batches are small: fixed statistics, or statistics of groups."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

GROUPS = 32


def frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    """The same normalisation, never to change again: for networks that were trained on large batches before."""
    fixed = FrozenBatchNorm2d(norm.num_features, norm.eps)
    fixed.load_state_dict(norm.state_dict(), strict=False)
    return fixed


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation (Wu and He, ECCV 2018), which does not mind small batches: for training from scratch."""
    return nn.GroupNorm(GROUPS, channels)


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
