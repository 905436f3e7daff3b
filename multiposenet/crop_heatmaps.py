"""One person's heatmaps: labels of several widths for a cascade's levels, and where a keypoint's maximum is.

With one person a map there is no question which peak is whose, so positions are maxima. What the published code does
stands beside what is exact below the cell; ``tests/test_crop_heatmaps.py`` inverts labels by positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from multiposenet.geometry import cells_to_pixels, pixels_to_cells
from multiposenet.heatmap import filter_symmetric

TAPS = {
    5: (1.0, 2 / 3, 1 / 6),
    7: (1.0, 7 / 9, 7 / 18, 1 / 9),
    9: (1.0, 51 / 60, 30 / 60, 13 / 60, 4 / 60),
    11: (1.0, 0.8825, 0.6065, 0.3247, 0.1353, 0.0439),
    15: (1.0, 0.9287, 0.7439, 0.5139, 0.3062, 0.1574, 0.0698, 0.0267),
}
"""By the kernel's size, how high a blurred impulse is at its cell and at the next ones. The small kernels are OpenCV's
fixed tables, the large ones Gaussians of 2.0 and 2.6 cells."""

KERNELS = (15, 11, 9, 7, 5)
SIGMAS = (2.6, 2.0, 1.7, 1.4, 1.1)
"""Label widths of the published cascades, from wide to narrow: kernels, and Gaussians as wide as these."""


_MARGIN = 10  # cells that the published code puts around a map; zeros there can win over negative values


class CropLabels(Protocol):
    """Draws target maps of several widths."""

    def encode(self, keypoints: Tensor, size: tuple[int, int], stride: int) -> list[Tensor]:
        """Maps [N, K, h, w] with peaks of height 1, from the widest to the narrowest.

        Args:
            keypoints: [N, K, 2] crop pixels.
            size: (h, w) of a map.
            stride: crop pixels a cell.
        """


@dataclass(frozen=True)
class GaussianLabels:
    """Gaussians whose middle is where the keypoint is, between cells too.

    Args:
        sigmas: widths in cells.
    """

    sigmas: tuple[float, ...] = SIGMAS

    def encode(self, keypoints: Tensor, size: tuple[int, int], stride: int) -> list[Tensor]:
        """See :meth:`CropLabels.encode`."""
        cells = pixels_to_cells(keypoints, stride)
        across, down = _squared_distances(cells[..., 0], size[1]), _squared_distances(cells[..., 1], size[0])
        return [_outer(torch.exp(down / (-2 * sigma**2)), torch.exp(across / (-2 * sigma**2))) for sigma in self.sigmas]


@dataclass(frozen=True)
class TapLabels:
    """What blurring an impulse at the keypoint's cell gives, as in the published code.

    Args:
        kernels: sizes of the blur, keys of ``TAPS``.
        reflect: mirror what the blur carries over the border, as OpenCV's default does: near a border the maximum
            then moves towards it. False leaves it in place.
    """

    kernels: tuple[int, ...] = KERNELS
    reflect: bool = False

    def encode(self, keypoints: Tensor, size: tuple[int, int], stride: int) -> list[Tensor]:
        """See :meth:`CropLabels.encode`."""
        # Rounded towards 0 like the published code, whose cells begin at the pixel indices 0, 4, 8, ...
        cells = (keypoints / stride).trunc().long()
        maps = []
        for kernel in self.kernels:
            down, across = (self._profile(cells[..., axis], size[1 - axis], kernel) for axis in (1, 0))
            maps.append(_outer(down, across).to(keypoints.dtype))
        return maps

    def _profile(self, cells: Tensor, length: int, kernel: int) -> Tensor:
        """[N, K, length], the blurred impulse along one axis, its maximum 1."""
        taps = torch.tensor((*TAPS[kernel], 0.0), device=cells.device)
        places = torch.arange(length, device=cells.device)

        def at(middle: Tensor) -> Tensor:
            return taps[(places - middle[..., None]).abs().clamp(max=len(taps) - 1)]

        profile = at(cells)
        if self.reflect:
            inner = ((cells > 0) & (cells < length - 1))[..., None]
            mirrored = at(-cells) + at(2 * (length - 1) - cells)
            profile = profile + torch.where(inner, mirrored, 0.0)
            profile = profile / profile.amax(-1, keepdim=True).clamp(min=1e-6)
        return profile


class CropPositions(Protocol):
    """Finds keypoints in one person's maps."""

    def locate(self, heatmaps: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        """Positions [P, K, 2] in crop pixels and heights [P, K] of maps [P, K, h, w]."""


@dataclass(frozen=True)
class SecondMaximum:
    """The maximum of the blurred map, moved a quarter of a cell towards the second largest value, wherever that is.

    The published rule: the map is blurred with zeros around it, and a cell begins at the pixel indices 0, 4, 8, ...

    Args:
        kernel: size of the blur, a key of ``TAPS``.
    """

    kernel: int = 5

    def locate(self, heatmaps: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        """See :meth:`CropPositions.locate`; heights are those of the unblurred map at the nearest cell."""
        height, width = heatmaps.shape[-2:]
        padded = _blurred(F.pad(heatmaps, (_MARGIN,) * 4), self.kernel)
        columns, flat = padded.shape[-1], padded.flatten(2)
        first = flat.argmax(-1, keepdim=True)
        second = flat.scatter(-1, first, 0.0).argmax(-1, keepdim=True)
        one, other = (torch.cat([cell % columns, cell // columns], dim=-1) - _MARGIN for cell in (first, second))
        step = (other - one).to(heatmaps.dtype)
        cells = one + 0.25 * step / step.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        cells = torch.minimum(cells.clamp(min=0), cells.new_tensor((width - 1, height - 1)))
        return cells * stride + stride / 2, values_at(heatmaps, cells)


@dataclass(frozen=True)
class RefinedMaximum:
    """The maximum of the map, moved to where the Gaussian through it and its neighbours has its middle.

    One Newton step on the logarithm of the smoothed map (Zhang et al., DARK, CVPR 2020, sec. 3.2): exact for a
    Gaussian, which stays one when it is smoothed.

    Args:
        kernel: size of the smoothing, a key of ``TAPS``; 0 for none.
    """

    kernel: int = 5

    def locate(self, heatmaps: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        """See :meth:`CropPositions.locate`; heights are those of the map's maximum."""
        width = heatmaps.shape[-1]
        smooth = _blurred(heatmaps, self.kernel) if self.kernel else heatmaps
        cell = smooth.flatten(2).argmax(-1)
        x, y = cell % width, cell // width
        offsets = _newton_step(smooth, x, y)
        cells = torch.stack([x, y], dim=-1) + offsets
        return cells_to_pixels(cells, stride), heatmaps.flatten(2).gather(-1, cell[..., None])[..., 0]


def as_distributions(maps: Tensor) -> Tensor:
    """Label maps [N, K, h, w] as distributions over their cells; an empty one stays empty."""
    return maps / maps.sum((-2, -1), keepdim=True).clamp(min=1e-6)


def values_at(maps: Tensor, cells: Tensor) -> Tensor:
    """Values [P, K, ...] of maps [P, K, h, w] at the cells nearest to (x, y) [P, K, ..., 2]."""
    height, width = maps.shape[-2:]
    column, row = (cells[..., axis].round().clamp(0, side - 1).long() for axis, side in enumerate((width, height)))
    place = row * width + column
    return maps.flatten(2).gather(-1, place[..., None].flatten(2)).view(place.shape)


def _squared_distances(cells: Tensor, length: int) -> Tensor:
    return (torch.arange(length, device=cells.device) - cells[..., None]).square()


def _outer(down: Tensor, across: Tensor) -> Tensor:
    return down[..., :, None] * across[..., None, :]


def _blurred(maps: Tensor, kernel: int) -> Tensor:
    """Maps blurred by one of ``TAPS``, whose sum becomes 1; outside are zeros."""
    first, *others = TAPS[kernel]
    total = first + 2 * sum(others)
    return filter_symmetric(maps, [tap / total for tap in TAPS[kernel]])


def _newton_step(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """From cells [P, K] to the top of the paraboloid through the logarithms around them, at most one cell on an axis.

    No step at the border, nor where the surface does not bend down.
    """
    height, width = maps.shape[-2:]
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    x, y = x.clamp(1, max(1, width - 2)), y.clamp(1, max(1, height - 2))
    steps = torch.arange(-1, 2, device=maps.device)
    around = (steps[:, None] * width + steps).flatten()
    places = ((y * width + x)[..., None] + around).clamp(0, height * width - 1)
    near = maps.flatten(2).gather(-1, places).clamp(min=1e-4).log()
    above_left, above, above_right, left, here, right, below_left, below, below_right = near.unbind(-1)
    slope_x, slope_y = (right - left) / 2, (below - above) / 2
    bend_x, bend_y = right - 2 * here + left, below - 2 * here + above
    bend_xy = (below_right - above_right - below_left + above_left) / 4
    determinant = bend_x * bend_y - bend_xy.square()
    step = torch.stack([bend_xy * slope_y - bend_y * slope_x, bend_xy * slope_x - bend_x * slope_y], dim=-1)
    step = step / determinant.clamp(min=1e-6)[..., None]
    usable = inside & (determinant > 1e-6) & (bend_x < 0)
    return torch.where(usable[..., None], step.clamp(-1, 1), 0.0)
