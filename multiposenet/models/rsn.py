"""RSN: cascades of residual steps blocks, and the pose refine machine (Cai et al., ECCV 2020, arXiv 2003.04030)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multiposenet.models.cascade import ConvNorm
from multiposenet.models.mspn import shortcut

BRANCHES = 4
"""Branches of a block; branch i has i steps."""


def release_width(inputs: int, planes: int) -> int:
    """Channels of a branch in the published PyTorch code: by what goes in, so that first blocks are half as wide."""
    return inputs * 26 // 64


def paper_width(inputs: int, planes: int) -> int:
    """Channels of a branch in the networks of the paper's size."""
    return planes * 26 // 64


class ResidualSteps(nn.Module):
    """The residual steps block (RSN, sec. 3.1, fig. 3): four branches of one to four small convolutions.

    Every step of a branch but its last adds what the branch before it has at that step, so that one block sees many
    sizes of context at the finest level.

    Args:
        inputs: channels that go in.
        planes: ``planes`` x ``expansion`` come out.
        stride: of the block.
        expansion: see ``planes``.
        branch_width: (inputs, planes) -> channels of a branch.
    """

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int = 1,
        expansion: int = 1,
        branch_width: Callable[[int, int], int] = release_width,
    ) -> None:
        super().__init__()
        self.out_channels = planes * expansion
        width = branch_width(inputs, planes)
        self.split = ConvNorm(inputs, BRANCHES * width, 1, stride)
        self.steps = nn.ModuleList(
            [nn.ModuleList([ConvNorm(width, width, 3) for _ in range(branch + 1)]) for branch in range(BRANCHES)]
        )
        self.merge = ConvNorm(BRANCHES * width, self.out_channels, 1, activation=False)
        self.shortcut = shortcut(inputs, self.out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, h, w] -> [N, out_channels, h / stride, w / stride]."""
        ends: list[Tensor] = []
        before: list[Tensor] = []
        for value, steps in zip(self.split(features).chunk(BRANCHES, dim=1), self.steps, strict=True):
            values = []
            for number, step in enumerate(steps):
                value = step(value + before[number]) if number < len(before) else step(value)
                values.append(value)
            ends.append(value)
            before = values
        return F.relu(self.merge(torch.cat(ends, dim=1)) + self.shortcut(features), inplace=True)


class PooledNorm(nn.BatchNorm2d):
    """Batch normalisation that, for lack of statistics, uses the running ones on a single value a channel."""

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, h, w] -> the same shape."""
        if self.training and features.numel() == features.shape[1]:
            return F.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(features)


class PoseRefineMachine(nn.Module):
    """Attention over keypoints and places at the end of the last stage (RSN, sec. 3.2, fig. 4).

    As in the published code: the sigmoids come after a ReLU, so that each factor is at least a half.

    Args:
        num_keypoints: K, maps that go in and come out.
    """

    def __init__(self, num_keypoints: int) -> None:
        super().__init__()
        self.enter = ConvNorm(num_keypoints, num_keypoints, 3)
        self.keypoints = nn.Sequential(*(ConvNorm(num_keypoints, num_keypoints, 1) for _ in range(2)))
        for layer in self.keypoints:
            layer.norm = PooledNorm(num_keypoints)
        self.places = nn.Sequential(
            ConvNorm(num_keypoints, num_keypoints, 1), ConvNorm(num_keypoints, num_keypoints, 9, groups=num_keypoints)
        )

    def forward(self, heatmaps: Tensor) -> Tensor:
        """[N, K, h, w] -> the same shape."""
        entered = self.enter(heatmaps)
        of_keypoints = self.keypoints(entered.mean((-2, -1), keepdim=True)).sigmoid()
        return entered * (1 + of_keypoints * self.places(entered).sigmoid())
