"""A keypoint's place in the heatmap of a person's box: which cell it is for training, and back from logits.

Encoding and decoding live together; ``tests/test_roi_heatmaps.py`` inverts one by the other. A box's heatmap covers the
box, or the box enlarged, with cells of equal size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from multiposenet.bicubic import find_bicubic_maxima
from multiposenet.geometry import expand_boxes, points_to_shares, shares_to_points

REFINEMENT_RADIUS = 2
"""Cells around the maximum whose probabilities move it, in either direction."""


@dataclass(frozen=True)
class RoiCodec:
    """Keypoints of people to cells of their boxes' heatmaps, and heatmap logits to keypoints.

    Args:
        expansion: factor by which a box is enlarged before its heatmap is laid over it.
        centre: where on a pixel its index lies: 0.5, or 0 as in torchvision's Keypoint R-CNN, which takes indices for
            continuous coordinates.
        refined: place a keypoint at the mean of the probabilities around the maximum instead of at the maximum.
    """

    expansion: float = 1.0
    centre: float = 0.5
    refined: bool = False

    def encode(self, keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The cells that keypoints lie in (Mask R-CNN, sec. 5).

        Args:
            keypoints: [R, K, 2] pixels.
            boxes: [R, 4] xyxy, not enlarged.
            size: cells on a side of a heatmap.

        Returns:
            cells [R, K] long, row * size + column, and whether they lie in the map [R, K] bool (else the cell is 0).
        """
        frames = expand_boxes(boxes, self.expansion)[:, None]
        places = points_to_shares(keypoints + (self.centre - 0.5), frames) * size
        inside = ((places >= 0) & (places <= size)).all(-1)
        places = places.clamp(0, size - 1).long()  # the far edge belongs to the last cell
        return torch.where(inside, places[..., 1] * size + places[..., 0], 0), inside

    def decode(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The keypoints of people from their boxes' heatmaps.

        A keypoint lies at the highest pixel of its map, enlarged bicubically to its box; its score is the softmax over
        the map's cells, at that pixel (Detectron's rule).

        Args:
            logits: [R, K, h, w].
            boxes: [R, 4] xyxy, not enlarged.

        Returns:
            keypoints [R, K, 2] in pixels and their scores [R, K] in [0, 1].
        """
        logits = logits.float()
        frames = expand_boxes(boxes.float(), self.expansion)
        sides = (frames[:, 2:] - frames[:, :2]).clamp(min=1)
        counts = sides.ceil()
        pixels, values = find_bicubic_maxima(logits, counts.flip(1).long())
        shares = (pixels + 0.5) / counts[:, None]
        if self.refined:
            shares = _mean_around(logits, shares)
        frames = torch.cat([frames[:, :2], frames[:, :2] + sides], dim=1)
        keypoints = shares_to_points(shares, frames[:, None]) + (0.5 - self.centre)
        scores = (values - logits.flatten(2).logsumexp(-1)).exp().clamp(max=1)
        return keypoints, scores


def _mean_around(logits: Tensor, shares: Tensor) -> Tensor:
    """Mean place of the probabilities in the window around places [R, K, 2], in shares of the box."""
    height, width = logits.shape[-2:]
    size, reach = logits.new_tensor((width, height)), REFINEMENT_RADIUS
    cells = (shares * size).long()
    steps = torch.arange(-reach, reach + 1, device=logits.device)
    padded = F.pad(logits, (reach,) * 4, value=-torch.inf)
    corner = cells[..., 1] * padded.shape[-1] + cells[..., 0]
    offsets = torch.arange(2 * reach + 1, device=logits.device)
    window = (offsets[:, None] * padded.shape[-1] + offsets).flatten()
    around = padded.flatten(2).gather(2, corner[..., None] + window).softmax(-1).unflatten(-1, (2 * reach + 1, -1))
    mean = torch.stack([(around.sum(-2) * steps).sum(-1), (around.sum(-1) * steps).sum(-1)], dim=-1)
    return (cells + 0.5 + mean) / size
