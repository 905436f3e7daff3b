"""Peaks and boxes to people: the pose residual network scores, a one-to-one assignment decides.

Everything runs on the device, for all boxes of all pictures of a batch; the network is called once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from multiposenet.heatmap import local_sum
from multiposenet.rasterize import PersonGrid
from multiposenet.structures import Detections, Peaks


@dataclass(frozen=True)
class GroupedPeople:
    """People of a batch, in the detections' slots.

    Args:
        keypoints: [N, P, K, 2] in image pixels.
        keypoint_scores: [N, P, K] in [0, 1].
        peak_index: [N, P, K] long; the peak that each keypoint is, -1 where the network's best cell stands in.
        scores: [N, P] person scores in [0, 1].
    """

    keypoints: Tensor
    keypoint_scores: Tensor
    peak_index: Tensor
    scores: Tensor


def assign_one_to_one(scores: Tensor) -> Tensor:
    """Gives rows (people) distinct columns (peaks): always the best remaining pair next.

    Pairs that are the best of both their row and their column are taken at once, round after round; the outcome is
    that of taking pairs one by one in order of score, in far fewer steps. Of equal scores the first row, then the
    first column wins.

    Args:
        scores: [..., P, M]; pairs with a score <= 0 are never made.

    Returns:
        [..., P] long, the column of each row, -1 for none.
    """
    people, peaks = scores.shape[-2:]
    chosen = scores.new_full(scores.shape[:-1], -1, dtype=torch.long)
    if people == 0 or peaks == 0:
        return chosen
    remaining = scores.clone()
    # Each round settles at least one pair of every problem that has any left.
    for _ in range(min(people, peaks)):
        best, column = remaining.max(dim=-1)  # of each row
        row_of_column = remaining.max(dim=-2).indices  # of each column
        mutual = (row_of_column.gather(-1, column) == torch.arange(people, device=scores.device)) & (best > 0)
        if not bool(mutual.any()):
            break
        chosen = torch.where(mutual, column, chosen)
        taken = F.one_hot(torch.where(mutual, column, peaks), peaks + 1)[..., :peaks].bool().any(-2)
        remaining = remaining.masked_fill(mutual[..., None] | taken[..., None, :], 0)
    return chosen


@dataclass(frozen=True)
class PoseResidualGrouping:
    """Grouping by the pose residual network (MultiPoseNet, sec. 3.4).

    Args:
        prn: crops [B, K, h, w] -> scores of the same shape, e.g. ``models.prn.PoseResidualNetwork``.
        grid: how peaks are drawn into a box.
        min_score: a peak is given to a box only when peak score x network score reaches this.
        fallback_weight: score of a keypoint without a peak, as a share of what the network puts on its best cell;
            small, since nothing was seen there.
    """

    prn: Callable[[Tensor], Tensor]
    grid: PersonGrid = field(default_factory=PersonGrid)
    min_score: float = 1e-3
    fallback_weight: float = 0.05

    def __call__(self, peaks: Peaks, detections: Detections) -> GroupedPeople:
        """Groups the peaks (in image pixels) of N pictures around their boxes."""
        n, num_keypoints, max_peaks = peaks.scores.shape
        slots = detections.scores.shape[1]
        keypoints = peaks.xy.new_zeros(n, slots, num_keypoints, 2)
        keypoint_scores = peaks.scores.new_zeros(n, slots, num_keypoints)
        peak_index = keypoint_scores.new_full(keypoint_scores.shape, -1, dtype=torch.long)
        picture, slot = detections.valid.nonzero(as_tuple=True)
        if len(picture):
            boxes = detections.boxes[picture, slot]  # [B, 4]
            pair_scores, network = self._score_pairs(peaks, boxes, picture)
            table = pair_scores.new_zeros(n, slots, num_keypoints, max_peaks)
            table[picture, slot] = pair_scores
            peak_index = assign_one_to_one(table.transpose(1, 2)).transpose(1, 2)

            found = peak_index[picture, slot]  # [B, K]
            seen = found >= 0
            at = found.clamp(min=0)[..., None]
            xy = peaks.xy[picture].gather(2, at[..., None].expand(-1, -1, -1, 2))[:, :, 0]
            scores = pair_scores.gather(2, at)[..., 0]
            best, best_cell = network.flatten(2).max(dim=-1)
            width = self.grid.size[1]
            cells = torch.stack([best_cell % width, best_cell // width], dim=-1).to(boxes.dtype)
            guess = self.grid.pixels(cells, boxes[:, None])
            keypoints[picture, slot] = torch.where(seen[..., None], xy, guess)
            keypoint_scores[picture, slot] = torch.where(seen, scores, self.fallback_weight * best)
        scores = torch.where(detections.valid, detections.scores * keypoint_scores.mean(-1), 0.0)
        return GroupedPeople(keypoints, keypoint_scores, peak_index, scores)

    def _score_pairs(self, peaks: Peaks, boxes: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, K, M] of (box, peak) pairs, 0 where a peak is not near a box, and the network's maps."""
        xy = peaks.xy[picture]  # [B, K, M, 2]
        each_box = boxes[:, None, None]
        near = peaks.valid[picture] & self.grid.near(xy, each_box)
        cells = self.grid.clamp(self.grid.cells(xy, each_box))
        row, keypoint, _ = near.nonzero(as_tuple=True)
        network = self.prn(self.grid.draw(cells[near], row, keypoint, len(boxes), peaks.scores.shape[1]))

        # What the network puts on a window around the peak: the probability that the keypoint is there.
        collected = local_sum(network, self.grid.reach)
        nearest = cells.round().long()
        at = nearest[..., 1] * self.grid.size[1] + nearest[..., 0]
        scores = collected.flatten(2).gather(2, at).clamp(0, 1) * peaks.scores[picture]
        return torch.where(near & (scores >= self.min_score), scores, 0.0), network
