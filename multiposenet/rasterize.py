"""The grid over a person's box that the pose residual network sees: positions to cells, cells to pixels, blobs.

Training (labels to grids) and inference (peaks to grids) both use this file, so that the network is asked what it was
taught (MultiPoseNet, sec. 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from multiposenet.heatmap import draw_gaussians


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
    """

    size: tuple[int, int] = (56, 36)
    margin: float = 0.21
    sigma: float = 1.0
    label_sigma: float = 1.0
    window: int | None = None

    @property
    def reach(self) -> int:
        """``window``, or its default."""
        return max(1, round(3 * self.label_sigma)) if self.window is None else self.window

    def cells(self, points: Tensor, boxes: Tensor) -> Tensor:
        """Points [..., 2] in pixels to sub-cell grid positions inside boxes [..., 4] (broadcast against each other)."""
        sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
        return (points + 0.5 - boxes[..., :2]) / sides * self._extent(points) - 0.5

    def pixels(self, cells: Tensor, boxes: Tensor) -> Tensor:
        """Inverse of :meth:`cells`."""
        sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
        return (cells + 0.5) / self._extent(cells) * sides + boxes[..., :2] - 0.5

    def near(self, points: Tensor, boxes: Tensor) -> Tensor:
        """Whether points [..., 2] lie in boxes [..., 4] enlarged by the margin on every side; bool [...]."""
        share = (self.cells(points, boxes) + 0.5) / self._extent(points)
        return ((share > -self.margin) & (share < 1 + self.margin)).all(-1)

    def clamp(self, cells: Tensor) -> Tensor:
        """Moves positions outside the grid onto its border, each axis by itself."""
        return torch.minimum(cells.clamp(min=0), self._extent(cells) - 1)

    def draw(self, cells: Tensor, row: Tensor, keypoint: Tensor, people: int, num_keypoints: int) -> Tensor:
        """Input grids: a unit blob for every point, the larger value where blobs meet.

        Args:
            cells: [T, 2] grid positions; row, keypoint: [T] long, the person and keypoint map of each.

        Returns:
            [people, num_keypoints, h, w].
        """
        maps = draw_gaussians(
            self.clamp(cells), row * num_keypoints + keypoint, people * num_keypoints, self.size, self.sigma
        )
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
