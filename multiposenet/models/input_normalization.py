"""The first thing that every network does with a picture, so that it can be neither forgotten nor done twice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB in [0, 1]; what all published weights were trained on."""


class InputNormalization(nn.Module):
    """Takes a mean off each colour and divides by a deviation; by default those of ImageNet, as torchvision's networks.

    Args:
        mean, std: one number a channel, of pictures in [0, 1].
    """

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> the same shape and memory layout, normalised."""
        if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
            return (images - self.mean[:, None, None]).div_(self.std[:, None, None])
        # Colours of a pixel lie side by side. Whole rows at once, because a loop over three numbers is slow on a CPU.
        width = images.shape[-1]
        rows = images.permute(0, 2, 3, 1).flatten(2)
        rows = (rows - self.mean.repeat(width)).div_(self.std.repeat(width))
        return rows.unflatten(2, (width, -1)).permute(0, 3, 1, 2)
