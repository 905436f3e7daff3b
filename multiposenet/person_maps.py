"""The maps of one person, laid over the person's box: labels for training, and back from logits to keypoints.

Encoding and decoding live together; ``tests/test_pose_refiner.py`` inverts one by the other. A map covers the box made
larger, and its cells are squares in the picture, whatever shape the box has; a softmax over them says where a keypoint
is (Mask R-CNN, He et al., ICCV 2017, sec. 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from multiposenet.crop_heatmaps import GaussianLabels, RefinedMaximum, as_distributions, values_at
from multiposenet.geometry import expand_boxes, points_to_shares, shares_to_points
from multiposenet.heatmap import filter_symmetric

LEAST_SIDE = 4.0
"""Pixels; a box without area is looked at as if it had this."""


@dataclass(frozen=True)
class PersonChances:
    """Where the keypoints of R people are, as chances.

    Args:
        cells: [R, K, h, w], of lying in each cell; the sum of each map is 1.
        near: [R, K, h, w], of lying in a square around each cell.
    """

    cells: Tensor
    near: Tensor


@dataclass(frozen=True)
class PersonMapCodec:
    """Keypoints of people to cells of their maps, and logits of the cells to keypoints.

    Args:
        size: (h, w) of a map.
        extension: factor by which a box is made larger before its shorter side is lengthened to the map's shape.
        sigma: width in cells of the Gaussian that a label is.
        reach: half width in cells of the square whose probability is a keypoint's chance.
    """

    size: tuple[int, int] = (48, 40)
    extension: float = 1.25
    sigma: float = 1.0
    reach: int = 2

    def frames(self, boxes: Tensor) -> Tensor:
        """What the maps of boxes [R, 4] cover: [R, 4] xyxy in the same pixels; it may leave the picture."""
        height, width = self.size
        larger = expand_boxes(boxes.float(), self.extension)
        middle, sides = (larger[:, 2:] + larger[:, :2]) / 2, (larger[:, 2:] - larger[:, :2]).clamp(min=LEAST_SIDE)
        across = torch.maximum(sides[:, 0], sides[:, 1] * (width / height))
        halves = torch.stack([across, across * (height / width)], dim=1) / 2
        return torch.cat([middle - halves, middle + halves], dim=1)

    def encode(self, keypoints: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Labels of people.

        Args:
            keypoints: [R, K, 2] pixels; frames: [R, 4] of :meth:`frames`.

        Returns:
            maps [R, K, h, w], each a Gaussian with sum 1, and whether the keypoint lies in its map [R, K] bool.
        """
        shares = points_to_shares(keypoints.float(), frames[:, None])
        inside = ((shares >= 0) & (shares <= 1)).all(-1)
        cells = shares * shares.new_tensor(self.size[::-1]) - 0.5
        (maps,) = GaussianLabels((self.sigma,)).encode(cells, self.size, 1)
        return as_distributions(maps), inside

    def chances(self, logits: Tensor) -> PersonChances:
        """What logits [R, K, h, w] say of where keypoints are."""
        cells = logits.float().flatten(2).softmax(-1).view_as(logits)
        return PersonChances(cells, filter_symmetric(cells, (1.0,) * (self.reach + 1)).clamp(0, 1))

    def decode(self, chances: PersonChances, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The keypoints of people.

        Args:
            chances: of :meth:`chances`.
            frames: [R, 4] of :meth:`frames`.

        Returns:
            keypoints [R, K, 2] in the frames' pixels, and the chance [R, K] in [0, 1] that each lies near that place.
        """
        cells, _ = RefinedMaximum().locate(chances.cells, 1)
        keypoints = shares_to_points((cells + 0.5) / cells.new_tensor(self.size[::-1]), frames[:, None])
        return keypoints, values_at(chances.near, cells)

    def chances_at(self, chances: PersonChances, frames: Tensor, points: Tensor) -> Tensor:
        """The chance [R, K, M] in [0, 1] that a keypoint lies near each of M points.

        Args:
            chances, frames: as for :meth:`decode`.
            points: [R, K, M, 2] in the frames' pixels; outside its frame a keypoint cannot be.
        """
        shares = points_to_shares(points, frames[:, None, None])
        near = values_at(chances.near, shares * shares.new_tensor(self.size[::-1]) - 0.5)
        return torch.where(((shares >= 0) & (shares <= 1)).all(-1), near, 0.0)
