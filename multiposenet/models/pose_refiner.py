"""Pose refiner: one person's keypoints once more, from what the shared network knows in and around the person's box.

Peaks are found for everybody at once, and where a keypoint is hidden or unsure there is none. A network that looks at
one person's box knows whom it is asked about, as the keypoint head of Mask R-CNN (He et al., ICCV 2017, sec. 3) does;
here it takes the features that the keypoint subnet has computed already, at all strides, and the heatmaps themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation, roi_align

from multiposenet.structures import MultiPoseNetOutputs

STRIDES = (4, 8, 16, 32)
"""Image pixels a cell of K2..K5."""

_LEAST_HEIGHT = 1e-4  # of a heatmap, where roots are taken


class PoseRefiner(nn.Module):
    """An hourglass (Newell et al., ECCV 2016, sec. 3.1) over the features in a person's frame.

    K2, the last hidden layer and the heatmaps enter at its finest level, K3 and K4 at the next, K5 at the coarsest.

    Args:
        num_keypoints: K.
        channels: width of the keypoint pyramid.
        merged: width of the keypoint subnet's last hidden layer.
        num_maps: of the keypoint subnet, K and the person mask if there is one.
        size: (h, w) of the maps that come out; twice that of the finest level, multiples of 8.
        widths: of the three levels, fine to coarse.
        blocks: residual blocks of each level on the way down; on the way up there is one.

    Raises:
        ValueError: ``size`` is no multiple of 8.
    """

    def __init__(
        self,
        num_keypoints: int,
        channels: int,
        merged: int,
        num_maps: int,
        size: tuple[int, int] = (64, 48),
        widths: Sequence[int] = (40, 64, 96),
        blocks: Sequence[int] = (1, 2, 1),
    ) -> None:
        super().__init__()
        if any(side % 8 for side in size):
            raise ValueError(f"the sides of a person's maps must be multiples of 8, got {tuple(size)}")
        self.size = tuple(size)
        fine, middle, coarse = widths
        self.fine = Conv2dNormActivation(channels + merged + num_maps, fine)
        self.middle = Conv2dNormActivation(2 * channels, middle, kernel_size=1)
        self.coarse = Conv2dNormActivation(channels, coarse, kernel_size=1)
        self.shrink = nn.ModuleList(Conv2dNormActivation(*pair, stride=2) for pair in pairwise(widths))
        self.down = nn.ModuleList([_blocks(width, count) for width, count in zip(widths, blocks, strict=True)])
        self.narrow = nn.ModuleList(
            Conv2dNormActivation(wider, width, kernel_size=1) for width, wider in pairwise(widths)
        )
        self.up = nn.ModuleList([_blocks(fine, 1), _blocks(middle, 1)])
        # Four cells from one: the finest level has half the maps' size.
        self.predict = nn.Conv2d(fine, 4 * num_keypoints, 1)
        nn.init.normal_(self.predict.weight, std=0.01)
        nn.init.zeros_(self.predict.bias)

    def forward(self, outputs: MultiPoseNetOutputs, picture: Tensor, frames: Tensor) -> Tensor:
        """Logits [R, K, h, w] of where the keypoints of R people are.

        Args:
            outputs: of the shared network, with its pyramid.
            picture: [R] long, in which of its N pictures each person is.
            frames: [R, 4] xyxy in pixels of the network's input, what each person's maps cover.
        """
        # Roots, because what matters is whether little is nothing. The maps' own losses teach them.
        heights = outputs.heatmaps.detach().clamp(_LEAST_HEIGHT, 1).sqrt()
        places = torch.cat([picture[:, None].to(frames.dtype), frames], dim=1)
        k2, k3, k4, k5 = outputs.pyramid
        fine = self.down[0](self.fine(self._pool(torch.cat([k2, outputs.features, heights], 1), places, 0, 2)))
        beside = torch.cat([self._pool(k3, places, 1, 4), self._pool(k4, places, 2, 4)], 1)
        middle = self.down[1](self.shrink[0](fine) + self.middle(beside))
        coarse = self.down[2](self.shrink[1](middle) + self.coarse(self._pool(k5, places, 3, 8)))
        middle = self.up[1](middle + _twice(self.narrow[1](coarse)))
        fine = self.up[0](fine + _twice(self.narrow[0](middle)))
        return F.pixel_shuffle(self.predict(fine), 2)

    def _pool(self, features: Tensor, places: Tensor, level: int, shrink: int) -> Tensor:
        size = tuple(side // shrink for side in self.size)
        # Half precision is too coarse for coordinates. Large people have several fine cells in one of theirs.
        samples = 2 if level == 0 else 1
        pooled = roi_align(features.float(), places, size, 1 / STRIDES[level], sampling_ratio=samples, aligned=True)
        return pooled.contiguous(memory_format=torch.channels_last)


def _blocks(width: int, count: int) -> nn.Sequential:
    """Residual blocks that change nothing at the start."""
    blocks = [BasicBlock(width, width) for _ in range(count)]
    for block in blocks:
        nn.init.zeros_(block.bn2.weight)
    return nn.Sequential(*blocks)


def _twice(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear")
