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
from torchvision.ops import Conv2dNormActivation

from multiposenet.models.frame_pooling import pool_frames
from multiposenet.structures import MultiPoseNetOutputs

STRIDES = (4, 8, 16, 32)
"""Image pixels a cell of K2..K5."""

_LEAST_HEIGHT = 1e-4  # of a heatmap, where roots are taken


class PoseRefiner(nn.Module):
    """An hourglass (Newell et al., ECCV 2016, sec. 3.1) over the features in a person's frame.

    K2, the last hidden layer and the heatmaps enter at its finest level, K3, K4 and C4 at the next, K5 and C5 at the
    coarsest.

    Args:
        num_keypoints: K.
        stages: widths of the backbone's C2..C5.
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
        stages: Sequence[int],
        channels: int,
        merged: int,
        num_maps: int,
        size: tuple[int, int] = (48, 40),
        widths: Sequence[int] = (40, 64, 96),
        blocks: Sequence[int] = (0, 2, 1),
    ) -> None:
        super().__init__()
        if any(side % 8 for side in size):
            raise ValueError(f"the sides of a person's maps must be multiples of 8, got {tuple(size)}")
        self.size = tuple(size)
        fine, middle, coarse = widths
        self.fine = Conv2dNormActivation(channels + merged + num_maps, fine)
        self.middle = Conv2dNormActivation(2 * channels, middle, kernel_size=1)
        self.coarse = Conv2dNormActivation(channels, coarse, kernel_size=1)
        # The pyramid is narrow, the stages below it know more. They say nothing until it is learnt.
        self.context = nn.ModuleList(
            nn.Conv2d(inputs, width, 1, bias=False) for inputs, width in zip(stages[2:], widths[1:], strict=True)
        )
        for projection in self.context:
            nn.init.zeros_(projection.weight)
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
            outputs: of the shared network, with its stages and its pyramid.
            picture: [R] long, in which of its N pictures each person is.
            frames: [R, 4] xyxy in pixels of the network's input, what each person's maps cover.
        """
        people = (picture, frames)
        c4, c5 = outputs.stages[2:]
        k2, k3, k4, k5 = outputs.pyramid
        k2, hidden, heights = self._pool([k2, outputs.features, outputs.heatmaps.detach()], people, 0, 2)
        # Roots, because what matters is whether little is nothing. The maps' own losses teach them.
        fine = self.down[0](self.fine(torch.cat([k2, hidden, heights.clamp(_LEAST_HEIGHT, 1).sqrt()], 1)))
        (k3,) = self._pool([k3], people, 1, 4)
        k4, context = self._pool([k4, self.context[0](c4)], people, 2, 4)
        middle = self.down[1](self.shrink[0](fine) + self.middle(torch.cat([k3, k4], 1)) + context)
        k5, context = self._pool([k5, self.context[1](c5)], people, 3, 8)
        coarse = self.down[2](self.shrink[1](middle) + self.coarse(k5) + context)
        middle = self.up[1](middle + _twice(self.narrow[1](coarse)))
        fine = self.up[0](fine + _twice(self.narrow[0](middle)))
        return F.pixel_shuffle(self.predict(fine), 2)

    def _pool(self, maps: list[Tensor], people: tuple[Tensor, Tensor], level: int, shrink: int) -> list[Tensor]:
        return pool_frames(maps, *people, (self.size[0] // shrink, self.size[1] // shrink), STRIDES[level])


def _blocks(width: int, count: int) -> nn.Sequential:
    """Residual blocks that change nothing at the start."""
    blocks = [BasicBlock(width, width) for _ in range(count)]
    for block in blocks:
        nn.init.zeros_(block.bn2.weight)
    return nn.Sequential(*blocks)


def _twice(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear")
