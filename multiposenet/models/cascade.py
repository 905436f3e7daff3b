"""Cascades of down-up stages for one person's crop (Li et al., MSPN, 2019, fig. 1 to 3; Cai et al., RSN, ECCV 2020).

The block that the stages are made of is an argument: bottlenecks make it MSPN (``models.mspn``), residual steps make
it RSN (``models.rsn``). Levels are numbered from fine (1/4 of the crop) to coarse (1/32).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multiposenet.models.input_normalization import IMAGENET_MEAN, IMAGENET_STD, InputNormalization
from multiposenet.models.recompute import recomputed
from multiposenet.structures import CropOutputs, CropTargets

CHANNEL_ORDERS = ("rgb", "bgr")

BlockBuilder = Callable[[int, int, int], nn.Module]
"""(input channels, planes, stride) -> block, with an attribute ``out_channels``."""


class ConvNorm(nn.Module):
    """Convolution, batch normalisation and, unless told otherwise, ReLU; spatial size is kept at stride 1."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, activation: bool = True, groups: int = 1
    ) -> None:
        super().__init__()
        # The published networks have biases although a normalisation follows; theirs must find a place here.
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU(inplace=True) if activation else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, h, w] -> [N, outputs, h / stride, w / stride]."""
        return self.activation(self.norm(self.conv(features)))


class Stem(nn.Module):
    """A crop at a quarter of its size: a strided convolution and a strided maximum."""

    def __init__(self, width: int, kernel: int = 7) -> None:
        super().__init__()
        self.conv = ConvNorm(3, width, kernel, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, width, H / 4, W / 4]."""
        return self.pool(self.conv(images))


class HandOver(nn.Module):
    """What a stage passes on to the next: its features of every level, down and up, and the next one's input.

    Cross-stage feature aggregation (MSPN, sec. 3.2).
    """

    def __init__(self, channels: Sequence[int], width: int, stem_width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList([ConvNorm(count, count, 1) for count in channels])
        self.up = nn.ModuleList([ConvNorm(width, count, 1) for count in channels])
        self.cross = ConvNorm(width, stem_width, 1)

    def forward(self, down: Sequence[Tensor], up: Sequence[Tensor]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Both paths of a stage, finest first -> the next stage's input and what it adds to each of its levels."""
        sides = zip(self.down, down, self.up, up, strict=True)
        return self.cross(up[0]), [(of_down(x), of_up(y)) for of_down, x, of_up, y in sides]


class Stage(nn.Module):
    """Down through the levels, up again, and heatmaps on every level of the way up.

    Args:
        block: makes the blocks.
        blocks: blocks of every level, finest first.
        planes: their planes, the width before a block's expansion.
        stem_width: channels of the input.
        width: channels on the way up.
        num_keypoints: heatmaps.
        last: the last stage hands nothing over.
        align_corners: see :class:`Cascade`.
    """

    def __init__(
        self,
        block: BlockBuilder,
        blocks: Sequence[int],
        planes: Sequence[int],
        stem_width: int,
        width: int,
        num_keypoints: int,
        last: bool,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        channels = [stem_width]
        for level, (count, level_planes) in enumerate(zip(blocks, planes, strict=True)):
            first = block(channels[-1], level_planes, 1 if level == 0 else 2)
            rest = [block(first.out_channels, level_planes, 1) for _ in range(count - 1)]
            self.down.append(nn.Sequential(first, *rest))
            channels.append(first.out_channels)
        channels = channels[1:]
        self.lateral = nn.ModuleList([ConvNorm(count, width, 1, activation=False) for count in channels])
        self.above = nn.ModuleList([ConvNorm(width, width, 1, activation=False) for _ in channels[1:]])
        self.heads = nn.ModuleList(
            [
                nn.Sequential(ConvNorm(width, width, 1), ConvNorm(width, num_keypoints, 3, activation=False))
                for _ in channels
            ]
        )
        self.hand_over = None if last else HandOver(channels, width, stem_width)
        self.align_corners = align_corners
        self.convolve_first = False
        for layer in self.down.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, features: Tensor, handed: Sequence[tuple[Tensor, Tensor]] | None = None, finest_only: bool = False
    ) -> tuple[list[Tensor], Tensor | None, list[tuple[Tensor, Tensor]] | None]:
        """One way down and up.

        Args:
            features: [N, stem_width, h, w].
            handed: what the stage before adds to each level.
            finest_only: leave out the heatmaps of the coarser levels.

        Returns:
            heatmaps [N, K, h, w] of every level, coarse to fine, all of the finest level's size; input and additions
            for the next stage, None in the last.
        """
        down = []
        for number, level in enumerate(self.down):
            features = level(features)
            if handed is not None:
                of_down, of_up = handed[number]
                features = features + of_down + of_up
            down.append(features)
        up = self.climb(down)
        size = up[0].shape[-2:]
        levels = [0] if finest_only else reversed(range(len(up)))
        heatmaps = [self._resize(self.heads[level](up[level]), size) for level in levels]
        if self.hand_over is None:
            return heatmaps, None, None
        return heatmaps, *self.hand_over(down, up)

    def climb(self, down: Sequence[Tensor]) -> list[Tensor]:
        """The levels of the way down -> those of the way up, both finest first."""
        up: list[Tensor] = []
        for level in reversed(range(len(down))):
            features = self.lateral[level](down[level])
            if up:
                size = features.shape[-2:]
                if self.convolve_first:
                    features = features + self._resize(self.above[level](up[0]), size)
                else:
                    features = features + self.above[level](self._resize(up[0], size))
            up.insert(0, F.relu(features, inplace=True))
        return up

    def _resize(self, maps: Tensor, size: torch.Size) -> Tensor:
        if maps.shape[-2:] == size:
            return maps
        return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=self.align_corners)


class Cascade(nn.Module):
    """A crop network of one or more down-up stages; ``outputs, losses = model(images, targets=None)``.

    Args:
        block: makes the blocks, see ``BlockBuilder``.
        num_keypoints: K.
        num_stages: at least 1.
        blocks, planes: blocks of every level and their planes, finest first.
        width: channels on the way up.
        stem_width, stem_kernel: the first convolution.
        refine: what the last heatmaps go through at the very end, e.g. ``models.rsn.PoseRefineMachine``.
        peak_height: height of a peak in the heatmaps; the published 255 is large beside what a random network's last
            normalisation gives, so that the empty map is no close answer.
        channel_order: ``"bgr"`` for weights that were trained on pictures in that order.
        mean, std: of the pixels in [0, 1], in RGB order; what the network subtracts and divides by.
        loss: what ``targets`` are compared by: (outputs, targets) -> dict of scalars.
        outputs: what the maps mean, heights or logits.
        align_corners: coarse maps are made finer with their corner cells on corner cells, as in the published networks:
            towards the border a cell's features then come from up to half a coarse cell beside it, and how far depends
            on the crop's size. False takes them from where the cell is.

    Attributes:
        recompute: in training, keep only the stages' inputs and compute the rest again in the backward pass.
        supervised: give the heatmaps of every stage and level; else the last alone are computed.

    Raises:
        ValueError: fewer than one stage, or an unknown channel order.
    """

    def __init__(
        self,
        block: BlockBuilder,
        num_keypoints: int,
        num_stages: int = 1,
        blocks: Sequence[int] = (3, 4, 6, 3),
        planes: Sequence[int] = (64, 128, 256, 512),
        width: int = 256,
        stem_width: int = 64,
        stem_kernel: int = 7,
        refine: nn.Module | None = None,
        peak_height: float = 255.0,
        channel_order: str = "rgb",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        loss: Callable[[CropOutputs, CropTargets], dict[str, Tensor]] | None = None,
        outputs: type[CropOutputs] = CropOutputs,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        if num_stages < 1:
            raise ValueError(f"num_stages must be at least 1, got {num_stages}")
        if channel_order not in CHANNEL_ORDERS:
            raise ValueError(f"channel_order must be one of {', '.join(CHANNEL_ORDERS)}, got {channel_order!r}")
        self.stem = Stem(stem_width, stem_kernel)
        self.stages = nn.ModuleList(
            [
                Stage(block, blocks, planes, stem_width, width, num_keypoints, last, align_corners)
                for last in [False] * (num_stages - 1) + [True]
            ]
        )
        self.refine = nn.Identity() if refine is None else refine
        self.peak_height = peak_height
        self.channel_order = channel_order
        self.loss = loss
        self.outputs = outputs
        self.recompute = False
        self.supervised = True
        self.normalize = InputNormalization(mean, std)

    def forward(self, images: Tensor, targets: CropTargets | None = None) -> tuple[CropOutputs, dict[str, Tensor]]:
        """Runs all stages.

        Args:
            images: [N, 3, H, W] float, RGB in [0, 1], one person each; any H and W.
            targets: labels of the same crops; with them losses are returned.

        Returns:
            outputs and a dict of scalar losses (empty without targets).
        """
        features = self.normalize(images)
        if self.channel_order == "bgr":
            features = features.flip(1)
        features = self.stem(features)
        handed, stage_heatmaps = None, []
        for stage in self.stages:
            run = (lambda *inputs, stage=stage: recomputed(stage, stage, *inputs)) if self.recompute else stage
            finest_only = not (self.supervised or targets is not None)
            heatmaps, features, handed = run(features, handed, finest_only)
            stage_heatmaps.append(heatmaps)
        stage_heatmaps[-1][-1] = self.refine(stage_heatmaps[-1][-1])
        outputs = self.outputs(tuple(map(tuple, stage_heatmaps)), tuple(images.shape[-2:]), self.peak_height)
        return outputs, {} if targets is None else self.loss(outputs, targets)

    def prepare_for_inference(self) -> None:
        """Leaves out what only training and study need; the last heatmaps stay the same but for rounding."""
        self.supervised = False
        for stage in self.stages:
            # Interpolation and 1x1 convolution commute, and at the lower resolution the latter is four times cheaper.
            stage.convolve_first = True
