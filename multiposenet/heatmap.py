"""Heatmaps and peaks: drawing Gaussians, finding maxima, refining them below the cell, merging mirrored maps.

Encoding and decoding live together; ``tests/test_heatmap.py`` inverts one by the other. Cell coordinates follow
``geometry.pixels_to_cells``: cell 0 is centred on the middle of the first ``stride`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from multiposenet.geometry import cells_to_pixels, pixels_to_cells
from multiposenet.structures import Peaks

REACH = 4.0
"""Gaussians are drawn out to this many sigmas (there they are below 4e-4)."""


def draw_gaussians(
    centres: Tensor, map_index: Tensor, num_maps: int, size: tuple[int, int], sigma: float
) -> Tensor:
    """Draws unit-height Gaussians into maps; where two overlap the larger value stays.

    Args:
        centres: [T, 2] (x, y) in cells, sub-cell positions welcome, outside the map allowed.
        map_index: [T] long, the map each point belongs to.
        num_maps: number of maps B.
        size: (h, w) of a map.
        sigma: standard deviation in cells.

    Returns:
        [B, h, w] float of the centres' dtype, values in [0, 1].
    """
    height, width = size
    maps = centres.new_zeros(num_maps * height * width)
    if len(centres):
        radius = int(REACH * sigma + 0.5)
        # Points far outside reach no cell; clamping keeps the integer arithmetic below from overflowing.
        nearest = centres.clamp(-2 * radius - 2, max(size) + 2 * radius + 2).round()
        steps = torch.arange(-radius, radius + 1, device=centres.device)
        columns = nearest[:, :1].long() + steps
        rows = nearest[:, 1:].long() + steps
        across = torch.exp(-((columns - centres[:, :1]) ** 2) / (2 * sigma**2)) * (columns >= 0) * (columns < width)
        down = torch.exp(-((rows - centres[:, 1:]) ** 2) / (2 * sigma**2)) * (rows >= 0) * (rows < height)
        values = down[:, :, None] * across[:, None, :]
        # Cells beyond the border carry the value 0, so that writing them to a border cell changes nothing.
        cells = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
        cells = cells + (map_index * (height * width))[:, None, None]
        maps.scatter_reduce_(0, cells.flatten(), values.flatten(), reduce="amax")
    return maps.view(num_maps, height, width)


def local_maximum(maps: Tensor, radius: int) -> Tensor:
    """Largest value within ``radius`` cells in both axes, [..., h, w] -> same shape.

    Shifted views are compared, along rows and then columns: on a CPU many times faster than PyTorch's pooling.
    """
    for axis in (-1, -2):
        length = maps.shape[axis]
        largest = maps.clone()
        for shift in range(1, min(radius, length - 1) + 1):
            ahead, behind = maps.narrow(axis, shift, length - shift), maps.narrow(axis, 0, length - shift)
            front, back = largest.narrow(axis, 0, length - shift), largest.narrow(axis, shift, length - shift)
            torch.maximum(front, ahead, out=front)
            torch.maximum(back, behind, out=back)
        maps = largest
    return maps


def sums_around(maps: Tensor, map_index: Tensor, cells: Tensor, radius: int) -> Tensor:
    """What maps hold around some of their cells.

    Args:
        maps: [B, h, w]; cells beyond the border hold 0.
        map_index: [T] long, which map.
        cells: [T, 2] long (x, y), inside the map.
        radius: half width in cells of the square that is summed up.

    Returns:
        [T].
    """
    height, width = maps.shape[1:]
    steps = torch.arange(-radius, radius + 1, device=maps.device)
    columns, rows = cells[:, :1] + steps, cells[:, 1:] + steps
    first = (map_index * height)[:, None] + rows.clamp(0, height - 1)
    index = (first * width)[:, :, None] + columns.clamp(0, width - 1)[:, None, :]
    values = maps.flatten().index_select(0, index.flatten()).view(index.shape)
    inside = ((rows >= 0) & (rows < height)).to(maps.dtype), ((columns >= 0) & (columns < width)).to(maps.dtype)
    return torch.einsum("tij,ti,tj->t", values, *inside)


def filter_symmetric(maps: Tensor, taps: Sequence[float]) -> Tensor:
    """Maps [..., h, w] filtered along both axes by a symmetric kernel, given from its middle outwards.

    Outside there are zeros. A product with a band of numbers is several times quicker than a convolution by channel.
    """
    weights = maps.new_tensor((*taps, 0.0))

    def band(length: int) -> Tensor:
        places = torch.arange(length, device=maps.device)
        return weights[(places[:, None] - places).abs().clamp(max=len(taps))]

    with torch.autocast(maps.device.type, enabled=False):  # decoding is no less exact where a network trains
        return band(maps.shape[-2]) @ (maps @ band(maps.shape[-1]))


def find_peaks(
    heatmaps: Tensor, max_peaks: int = 32, threshold: float = 0.1, radius: int = 2, features: Tensor | None = None
) -> Peaks:
    """Finds local maxima of every heatmap, strongest first.

    A cell is a peak when nothing within ``radius`` cells is larger; of equal cells that close only one counts.
    Positions are refined by fitting a Gaussian through the peak and its neighbours (a parabola through the logarithms,
    exact for a Gaussian).

    Args:
        heatmaps: [N, K, h, w] float, peak height 1; values may leave [0, 1], scores are clamped into it.
        max_peaks: slots per keypoint; a fixed number keeps the shape static. Fewer when the map has fewer cells.
        threshold: peaks below it are marked invalid, not dropped.
        radius: half width of the window in which a peak must be the maximum, in cells.
        features: [N, F, h, w], further maps to read where the peaks are.

    Returns:
        Peaks with xy [N, K, M, 2] in heatmap cells (sub-cell), scores [N, K, M], valid [N, K, M], what all maps hold in
        the peak's cell [N, K, M, K], and what the features hold there [N, K, M, F].
    """
    height, width = heatmaps.shape[2:]
    is_peak = heatmaps == local_maximum(heatmaps, radius)
    candidates = torch.where(is_peak, heatmaps, -torch.inf).flatten(2)
    scores, cells = candidates.topk(min(max_peaks, height * width), dim=-1)
    valid = (scores >= threshold) & (scores > -torch.inf)
    x, y = cells % width, cells // width

    # Of equal cells within the window one stays: drop a peak that has an earlier one so close.
    across, down = (x[..., :, None] - x[..., None, :]).abs(), (y[..., :, None] - y[..., None, :]).abs()
    close = torch.maximum(across, down) <= radius
    earlier = torch.ones(scores.shape[-1], scores.shape[-1], dtype=torch.bool, device=scores.device).tril(-1)
    valid = valid & ~(close & earlier & valid[..., None, :]).any(dim=-1)

    flat = heatmaps.flatten(2)
    offsets = [
        _gaussian_offset(
            _log_at(flat, y, (x - 1).clamp(min=0), width),
            _log_at(flat, y, x, width),
            _log_at(flat, y, (x + 1).clamp(max=width - 1), width),
            inside=(x > 0) & (x < width - 1),
        ),
        _gaussian_offset(
            _log_at(flat, (y - 1).clamp(min=0), x, width),
            _log_at(flat, y, x, width),
            _log_at(flat, (y + 1).clamp(max=height - 1), x, width),
            inside=(y > 0) & (y < height - 1),
        ),
    ]
    xy = torch.stack([x, y], dim=-1).to(heatmaps.dtype) + torch.stack(offsets, dim=-1)

    def held(maps: Tensor) -> Tensor:
        """[N, K, M, C], what maps [N, C, h, w] hold in the peaks' cells."""
        everywhere = cells.flatten(1)[:, None].expand(-1, maps.shape[1], -1)
        values = maps.flatten(2).gather(2, everywhere).unflatten(2, cells.shape[1:]).permute(0, 2, 3, 1)
        return torch.where(valid[..., None], values, 0.0)

    scores = torch.where(valid, scores.clamp(0, 1), 0.0)
    return Peaks(xy, scores, valid, held(heatmaps), None if features is None else held(features))


def _log_at(flat: Tensor, y: Tensor, x: Tensor, width: int) -> Tensor:
    return flat.gather(2, y * width + x).clamp(min=1e-6).log()


def _gaussian_offset(before: Tensor, centre: Tensor, after: Tensor, inside: Tensor) -> Tensor:
    curvature = 2 * centre - before - after
    offset = 0.5 * (after - before) / curvature.clamp(min=1e-6)
    return torch.where(inside & (curvature > 1e-6), offset.clamp(-0.5, 0.5), 0.0)


@dataclass(frozen=True)
class HeatmapCodec:
    """Keypoints in pixels to heatmaps and back.

    Args:
        stride: image pixels per heatmap cell.
        sigma: width of the drawn Gaussian in cells.
        max_peaks, threshold, radius: see :func:`find_peaks`.
    """

    stride: int = 4
    sigma: float = 1.75
    max_peaks: int = 32
    threshold: float = 0.1
    radius: int = 2

    def for_people(self, count: int) -> Self:
        """The same codec with a peak a keypoint for so many people, if it has fewer."""
        if self.max_peaks is None or self.max_peaks >= count:
            return self
        return replace(self, max_peaks=count)

    def encode(self, keypoints: Tensor, visibility: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Target heatmaps of a batch (MultiPoseNet, sec. 3.2); people who overlap take the maximum, not the sum.

        Args:
            keypoints: [N, P, K, 2] in pixels.
            visibility: [N, P, K]; every labelled keypoint (> 0) is drawn.
            image_size: (H, W) of the images.

        Returns:
            [N, K, ceil(H / stride), ceil(W / stride)].
        """
        n, _, k, _ = keypoints.shape
        size = tuple(-(-side // self.stride) for side in image_size)
        picture, _, keypoint = (labelled := visibility > 0).nonzero(as_tuple=True)
        centres = pixels_to_cells(keypoints[labelled], self.stride)
        return draw_gaussians(centres, picture * k + keypoint, n * k, size, self.sigma).view(n, k, *size)

    def decode(self, heatmaps: Tensor, features: Tensor | None = None) -> Peaks:
        """Peaks of heatmaps [N, K, h, w], and features there, with xy in *pixels* of the image."""
        peaks = find_peaks(heatmaps, self.max_peaks, self.threshold, self.radius, features)
        return replace(peaks, xy=cells_to_pixels(peaks.xy, self.stride))


@dataclass(frozen=True)
class PixelPeakCodec(HeatmapCodec):
    """Peaks as the published PyTorch code finds them: whole pixels of maps enlarged to the image's size.

    A pixel above the threshold is a peak when none of its four neighbours is larger, so every pixel of a plateau is
    one; nothing is refined, and ``radius`` does not matter. Peaks come in reading order, not strongest first.

    Args:
        max_peaks: slots per keypoint, which the strongest get; None: as many as the fullest map needs.
    """

    max_peaks: int | None = None

    def decode(self, heatmaps: Tensor, features: Tensor | None = None) -> Peaks:
        """Peaks of heatmaps [N, K, h, w] with xy in whole pixels of the image; of features nothing is read."""
        maps = F.interpolate(heatmaps, scale_factor=self.stride, mode="bicubic")
        width = maps.shape[-1]
        across = F.max_pool2d(maps, (1, 3), stride=1, padding=(0, 1))
        down = F.max_pool2d(maps, (3, 1), stride=1, padding=(1, 0))
        is_peak = (maps >= torch.maximum(across, down)) & (maps > self.threshold)
        most = int(is_peak.sum((-2, -1)).max())
        slots = max(1, most if self.max_peaks is None else min(most, self.max_peaks))
        candidates = torch.where(is_peak, maps, maps.new_full((), -torch.inf)).flatten(2)
        scores, pixels = candidates.topk(slots, dim=-1)
        pixels, order = pixels.sort(dim=-1)
        scores = scores.gather(-1, order)
        valid = scores > -torch.inf
        xy = torch.stack([pixels % width, pixels // width], dim=-1).to(maps.dtype)
        return Peaks(xy, torch.where(valid, scores.clamp(0, 1), 0.0), valid)


def unflip_heatmaps(heatmaps: Tensor, flip_indices: list[int]) -> Tensor:
    """Maps of a mirrored picture in the frame and keypoint order of the original.

    Args:
        heatmaps: [N, K + E, h, w]; E extra maps (a person mask) have no left and right and are only mirrored.
        flip_indices: ``Skeleton.flip_indices``.
    """
    extra = range(len(flip_indices), heatmaps.shape[1])
    return heatmaps.flip(-1)[:, [*flip_indices, *extra]]
