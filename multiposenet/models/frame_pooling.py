"""Features in people's frames: RoIAlign of channels-last features as a weighted sum of rows.

A frame's sides are parallel to the picture's, so what RoIAlign (He et al., ICCV 2017, sec. 3) reads for a cell is a sum
of a few cells with weights known beforehand. torchvision's operator wants channels-first memory and scatters its
gradient number by number; a sum over rows of the table [cells, channels] takes each cell's channels together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def pool_frames(
    features: Sequence[Tensor], picture: Tensor, frames: Tensor, size: tuple[int, int], stride: int
) -> list[Tensor]:
    """What ``torchvision.ops.roi_align(..., sampling_ratio=1, aligned=True)`` reads, channels last.

    Args:
        features: of one grid, each [N, C_i, H, W]; channels-last memory is read without a copy.
        picture: [R] long, in which of the N pictures each frame is.
        frames: [R, 4] xyxy in image pixels; they may leave the picture, beyond it there are zeros.
        size: (h, w) of the result.
        stride: image pixels a cell of ``features``.

    Returns:
        each [R, C_i, h, w] float32, channels last; half precision is too coarse for coordinates.
    """
    height, width = features[0].shape[2:]
    frames = frames.float() / stride
    rows, row_weights = _neighbours(frames[:, 1], frames[:, 3], size[0], height)
    columns, column_weights = _neighbours(frames[:, 0], frames[:, 2], size[1], width)
    # All pictures are one table of rows: [R, h, w, neighbours down, neighbours across].
    rows = (rows + picture[:, None, None] * height) * width
    cells = (rows[:, :, None, :, None] + columns[:, None, :, None, :]).view(-1, 4)
    weights = (row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]).view(-1, 4)

    def read(maps: Tensor) -> Tensor:
        table = maps.float().permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
        pooled = F.embedding_bag(cells, table, per_sample_weights=weights, mode="sum")
        return pooled.view(-1, *size, maps.shape[1]).permute(0, 3, 1, 2)

    return [read(maps) for maps in features]


def _neighbours(low: Tensor, high: Tensor, count: int, cells: int) -> tuple[Tensor, Tensor]:
    """Between which cells of one axis the middles of ``count`` equal parts lie, and what each of the two weighs.

    Args:
        low, high: [R] where each frame begins and ends, in cells.
        count: parts of a frame.
        cells: of the axis.

    Returns:
        neighbours [R, count, 2] long, weights [R, count, 2].
    """
    shares = (torch.arange(count, device=low.device) + 0.5) / count
    at = low[:, None] + (high - low)[:, None] * shares - 0.5
    inside = (at >= -1) & (at <= cells)
    at = at.clamp(0, cells - 1)
    before = at.floor()
    after = (before + 1).clamp(max=cells - 1)
    weights = torch.stack([before + 1 - at, at - before], dim=-1) * inside[..., None]
    return torch.stack([before, after], dim=-1).long(), weights
