"""Anchors of the person detector: the grid, boxes to offsets and back (RetinaNet, Lin et al., ICCV 2017, sec. 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

MAX_LOG_SCALE = math.log(1000 / 16)
"""Box sides grow at most by this logarithm against their anchor (torchvision's limit), so that exp cannot overflow."""


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors of every pyramid level, ordered (level, y, x, anchor); anchor = ratio (outer) x scale (inner).

    Args:
        strides: image pixels per cell, one a level.
        sizes: square root of the area of the basic anchor, one a level.
        ratios: height / width.
        scales: multiples of ``sizes``.
        deviations: the four offsets are divided by these when encoded.
        max_log_scale: most by which a decoded side grows against its anchor's, as a logarithm; infinity for the
            published code's boxes, which have no such limit.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    deviations: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    max_log_scale: float = MAX_LOG_SCALE

    @property
    def per_cell(self) -> int:
        """Anchors per cell of a level."""
        return len(self.ratios) * len(self.scales)

    def anchors(self, image_size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """All anchors [A, 4] (xyxy, float32, not clipped) for images of any (H, W)."""
        return _anchors(self, tuple(image_size), str(device))

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Offsets [..., 4] that turn ``anchors`` [..., 4] into ``boxes`` [..., 4]; both need positive sides."""
        centre, side = _centre_side(boxes)
        anchor_centre, anchor_side = _centre_side(anchors)
        offsets = torch.cat([(centre - anchor_centre) / anchor_side, (side / anchor_side).log()], dim=-1)
        return offsets / offsets.new_tensor(self.deviations)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes [..., 4] (xyxy) from offsets [..., 4]; inverse of :meth:`encode`."""
        deltas = deltas * deltas.new_tensor(self.deviations)
        anchor_centre, anchor_side = _centre_side(anchors)
        centre = anchor_centre + deltas[..., :2] * anchor_side
        half = 0.5 * anchor_side * deltas[..., 2:].clamp(max=self.max_log_scale).exp()
        return torch.cat([centre - half, centre + half], dim=-1)


@dataclass(frozen=True)
class TorchvisionAnchorGrid(AnchorGrid):
    """The anchors that torchvision's RetinaNet was trained with, by its own generator; same order.

    They sit on the cells' upper left corners instead of their centres, have edges of whole pixels, and a level's cells
    are a whole number of pixels apart: the image's side divided by the number of cells, rounded down.
    """

    def anchors(self, image_size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """All anchors [A, 4] (xyxy, float32, not clipped) for images of any (H, W)."""
        return _torchvision_anchors(self, tuple(image_size), str(device))


def _centre_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


# A grid depends on nothing but its description: eight cover the sizes of a multi-scale test.
@lru_cache(maxsize=8)
def _anchors(grid: AnchorGrid, image_size: tuple[int, int], device: str) -> Tensor:
    height, width = image_size
    levels = []
    for stride, size in zip(grid.strides, grid.sizes, strict=True):
        sides = torch.tensor(
            [
                (size * scale / math.sqrt(ratio), size * scale * math.sqrt(ratio))
                for ratio in grid.ratios
                for scale in grid.scales
            ],
            dtype=torch.float64,
        )
        x = (torch.arange(-(-width // stride), dtype=torch.float64) + 0.5) * stride
        y = (torch.arange(-(-height // stride), dtype=torch.float64) + 0.5) * stride
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[:, :, None]
        levels.append(torch.cat([centres - sides / 2, centres + sides / 2], dim=-1).reshape(-1, 4))
    return torch.cat(levels).float().to(device)


@lru_cache(maxsize=8)
def _torchvision_anchors(grid: TorchvisionAnchorGrid, image_size: tuple[int, int], device: str) -> Tensor:
    sizes = tuple(tuple(int(size * scale) for scale in grid.scales) for size in grid.sizes)
    cells = [[-(-side // stride) for side in image_size] for stride in grid.strides]
    strides = [[side // count for side, count in zip(image_size, level, strict=True)] for level in cells]
    generator = AnchorGenerator(sizes, (grid.ratios,) * len(sizes))
    return torch.cat(generator.grid_anchors(cells, strides)).to(device)
