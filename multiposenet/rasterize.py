"""The grid over a person's box that the pose residual network sees: positions to cells, cells to pixels, blobs.

Training (labels to grids) and inference (peaks to grids) both use this file, so that the network is asked what it was
taught (MultiPoseNet, sec. 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from multiposenet.heatmap import draw_gaussians

PLACEMENTS = ("subcell", "legacy")
BLURS = ("unit", "legacy")
REACH = 4
"""The legacy blur ends after this many sigmas."""


@dataclass(frozen=True)
class PersonGrid:
    """A grid of (h, w) cells laid over a box; the box's shape is lost on purpose, every person fills the grid.

    Args:
        size: (h, w) cells.
        margin: peaks this share of the box's sides outside it still belong to its surroundings and are moved onto
            the border cells, on both axes independently.
        sigma: width of the blob that stands for a peak, in cells.
        label_sigma: width of the blob that stands for the answer, in cells.
        window: half width in cells of the square in which the network's answer is collected around a peak;
            default three ``label_sigma``.
        placement: ``"subcell"``; or ``"legacy"``, the published PyTorch code's cells, which its weights were trained
            on: whole cells, cut off towards the box's upper left corner, of a box whose sides are rounded up to whole
            pixels, with keypoints taken for continuous positions. A position beyond the right and the upper edge, or
            beyond the lower and the left one, is moved onto the border on one axis and counted from the far end on
            the other.
        blur: ``"unit"`` draws blobs of height 1; ``"legacy"`` blurs impulses by a Gaussian that sums to 1, as the
            published code does, so that blobs add up where they meet and grow at the border.

    Raises:
        ValueError: unknown ``placement`` or ``blur``.
    """

    size: tuple[int, int] = (56, 36)
    margin: float = 0.21
    sigma: float = 1.0
    label_sigma: float = 1.0
    window: int | None = None
    placement: str = "subcell"
    blur: str = "unit"

    def __post_init__(self) -> None:
        for name, choices in (("placement", PLACEMENTS), ("blur", BLURS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")

    @property
    def reach(self) -> int:
        """``window``, or its default."""
        return max(1, round(3 * self.label_sigma)) if self.window is None else self.window

    def cells(self, points: Tensor, boxes: Tensor) -> Tensor:
        """Points [..., 2] in pixels to grid positions inside boxes [..., 4] (broadcast against each other)."""
        if self.placement == "legacy":
            # Cutting off turns a rounding error into a cell, so the arithmetic is the published code's double one.
            precise = points if points.is_mps else points.double()
            return ((precise - boxes[..., :2]) * self._cells_per_pixel(boxes)).trunc().to(points.dtype)
        sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
        return (points + 0.5 - boxes[..., :2]) / sides * self._extent(points) - 0.5

    def pixels(self, cells: Tensor, boxes: Tensor) -> Tensor:
        """Inverse of :meth:`cells`; with legacy placement a cell's upper left corner."""
        if self.placement == "legacy":
            return (cells / self._cells_per_pixel(boxes)).to(cells.dtype) + boxes[..., :2]
        sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
        return (cells + 0.5) / self._extent(cells) * sides + boxes[..., :2] - 0.5

    def near(self, points: Tensor, boxes: Tensor) -> Tensor:
        """Whether points [..., 2] lie in boxes [..., 4] enlarged by the margin on every side; bool [...]."""
        if self.placement == "legacy":
            share = (points - boxes[..., :2]) / (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
        else:
            share = (self.cells(points, boxes) + 0.5) / self._extent(points)
        return ((share > -self.margin) & (share < 1 + self.margin)).all(-1)

    def clamp(self, cells: Tensor) -> Tensor:
        """Moves positions outside the grid onto its border, each axis by itself (but see ``placement``)."""
        extent = self._extent(cells)
        inside = torch.minimum(cells.clamp(min=0), extent - 1)
        if self.placement == "legacy":
            # One axis below 0 while the other is beyond the end.
            wrapped = (cells < 0) & (cells > extent - 1).flip(-1)
            inside = torch.where(wrapped, (cells + extent).clamp(min=0), inside)
        return inside

    def draw(self, cells: Tensor, row: Tensor, keypoint: Tensor, people: int, num_keypoints: int) -> Tensor:
        """Input grids: a unit blob for every point, the larger value where blobs meet (but see ``blur``).

        Args:
            cells: [T, 2] grid positions; row, keypoint: [T] long, the person and keypoint map of each.

        Returns:
            [people, num_keypoints, h, w].
        """
        index, count = row * num_keypoints + keypoint, people * num_keypoints
        if self.blur == "legacy":
            x, y = self.clamp(cells).round().long().unbind(-1)
            maps = cells.new_zeros(count, *self.size)
            maps[index, y, x] = 1
            across, down = (_blur_matrix(side, self.sigma, maps) for side in (self.size[1], self.size[0]))
            maps = down @ maps @ across.T
        else:
            maps = draw_gaussians(self.clamp(cells), index, count, self.size, self.sigma)
        return maps.view(people, num_keypoints, *self.size)

    def labels(self, cells: Tensor, labelled: Tensor) -> Tensor:
        """Answer grids: for each labelled keypoint a blob that sums to 1, zeros where nothing is labelled.

        Args:
            cells: [P, K, 2] grid positions; labelled: [P, K] bool.

        Returns:
            [P, K, h, w].
        """
        people, num_keypoints = labelled.shape
        index = labelled.flatten().nonzero()[:, 0]
        maps = draw_gaussians(
            self.clamp(cells[labelled]), index, people * num_keypoints, self.size, self.label_sigma
        ).view(people, num_keypoints, *self.size)
        return maps / maps.sum((-2, -1), keepdim=True).clamp(min=1e-6)

    def _extent(self, like: Tensor) -> Tensor:
        return like.new_tensor((self.size[1], self.size[0]))

    def _cells_per_pixel(self, boxes: Tensor) -> Tensor:
        """Of boxes with sides rounded up to whole pixels, [..., 2]; double precision where there is any."""
        precise = boxes if boxes.is_mps else boxes.double()
        # Edges in single precision make a side that is a whole number miss it by a hair; it stays that number.
        sides = (precise[..., 2:] - precise[..., :2] - 1e-4).ceil().clamp(min=1)
        return self._extent(precise) / sides


def _blur_matrix(length: int, sigma: float, like: Tensor) -> Tensor:
    """[length, length]: multiplies a row of cells from the left into its Gaussian blur; border cells go on outside."""
    radius = int(REACH * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1, device=like.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(like.dtype)
    seen = (torch.arange(length, device=like.device)[:, None] + steps).clamp(0, length - 1)
    return like.new_zeros(length, length).scatter_add_(1, seen, kernel.expand(length, -1))
