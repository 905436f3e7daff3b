"""Peaks and boxes to people: a scorer says how well each peak suits each box, an assignment decides.

A grouping is any function (peaks, detections) -> :class:`GroupedPeople`. Everything runs on the device, for all boxes
of all pictures of a batch; a network is called once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from multiposenet.decode.assignment import Assignment, assign_one_to_one
from multiposenet.heatmap import sums_around
from multiposenet.rasterize import PersonGrid
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, Poses

MISSING = ("best_cell", "legacy")
_LEAST_BOX_SCORE = 1e-6  # a box that was given with score 0 still gets what nobody else wants


@dataclass(frozen=True)
class GroupedPeople:
    """People of a batch, in the detections' slots.

    Args:
        keypoints: [N, P, K, 2] in image pixels.
        keypoint_scores: [N, P, K] in [0, 1].
        peak_index: [N, P, K] long; the peak that each keypoint is, -1 where a guess stands in (for the pose residual
            network its best cell).
        scores: [N, P] person scores in [0, 1].
    """

    keypoints: Tensor
    keypoint_scores: Tensor
    peak_index: Tensor
    scores: Tensor

    def to_poses(
        self, detections: Detections, skeleton: Skeleton, image_size: tuple[int, int] | None = None
    ) -> list[Poses]:
        """The people of each of the N pictures, best first; ``detections`` are those that were grouped around."""
        order = torch.where(detections.valid, self.scores, -1.0).argsort(dim=1, descending=True, stable=True)
        picture = torch.arange(len(order), device=order.device)[:, None]
        fields = [
            field[picture, order] for field in (self.keypoints, self.keypoint_scores, detections.boxes, self.scores)
        ]
        counts = detections.valid.sum(1).tolist()
        return [
            Poses(*(field[row, :count] for field in fields), skeleton, image_size) for row, count in enumerate(counts)
        ]


@dataclass(frozen=True)
class PersonGrids:
    """What the pose residual network sees of B boxes, and what it answers.

    Args:
        picture, slot: [B] long, whose boxes: ``detections.boxes[picture, slot]``.
        near: [B, K, M] bool, which of the picture's peaks lie in or near the box.
        cells: [B, K, M, 2], where on the grid, moved onto its border where they lie outside.
        drawn: [B, K, h, w], a blob for every peak that is near.
        answer: [B, K, h, w], where the network takes this person's keypoints to be.
    """

    picture: Tensor
    slot: Tensor
    near: Tensor
    cells: Tensor
    drawn: Tensor
    answer: Tensor


@dataclass(frozen=True)
class PairScores:
    """What a scorer says about B boxes of a batch.

    Args:
        picture, slot: [B] long, whose boxes: ``detections.boxes[picture, slot]``.
        scores: [B, K, M] in [0, 1], of every peak of the box's picture; 0 where the box must not have it.
        deciding: [B, K, M], what the assignment goes by when that is not the scores times the box's; 0 where the box
            must not have it.
        guess: [B, K, 2] image pixels, where a keypoint is taken to be that gets no peak.
        guess_scores: [B, K] in [0, 1], low: nothing was seen there.
        person_scores: [B] in [0, 1], when the scorer ranks people itself.
        grids: what a network that works on grids saw and answered; nothing depends on it, it is there to be shown.
    """

    picture: Tensor
    slot: Tensor
    scores: Tensor
    guess: Tensor
    guess_scores: Tensor
    deciding: Tensor | None = None
    person_scores: Tensor | None = None
    grids: PersonGrids | None = None

    def weighed(self, detections: Detections) -> Tensor:
        """[B, K, M], what the assignment goes by."""
        if self.deciding is not None:
            return self.deciding
        # Of two people who suit a peak alike, the one of whom the detector is surer.
        return self.scores * detections.scores[self.picture, self.slot].clamp(min=_LEAST_BOX_SCORE)[:, None, None]


Scorer = Callable[[Peaks, Detections], PairScores]


@dataclass(frozen=True)
class Grouping:
    """A grouping made of its two parts.

    Args:
        scorer: scores every pair of a peak and a box.
        assign: gives each box at most one peak of every keypoint, see ``decode.assignment``.
    """

    scorer: Scorer
    assign: Assignment = assign_one_to_one

    def __call__(self, peaks: Peaks, detections: Detections) -> GroupedPeople:
        """Groups the peaks (in image pixels) of N pictures around their boxes.

        Raises:
            ValueError: a valid peak or box has a number that is not finite; the message names it.
        """
        check_finite(peaks, detections)
        return gather_people(self.scorer(peaks, detections), peaks, detections, self.assign)


@dataclass(frozen=True)
class PoseResidualGrouping:
    """Grouping by the pose residual network (MultiPoseNet, sec. 3.4).

    Args:
        prn: crops [B, K, h, w] -> scores of the same shape, e.g. ``models.prn.PoseResidualNetwork``.
        grid: how peaks are drawn into a box.
        min_score: a peak is given to a box only when peak score x network score reaches this.
        fallback_weight: score of a keypoint without a peak, as a share of what the network puts on its best cell;
            small, since nothing was seen there.
        assign: gives each box at most one peak of every keypoint, see ``decode.assignment``.
        full_score: what the network's maps hold for a keypoint that it is sure of: 1 when every map is a distribution,
            1 / K when all K maps together are one. Scores are relative to it.
        weigh_peaks: peaks are given by peak score x network score; the published code goes by the network's alone.
        one_peak_a_cell: of several peaks in one cell of a box's grid only the last can be given to that box, as in the
            published code; otherwise all can.
        missing: keypoints without a peak are placed on the network's ``"best_cell"``; or as in the published code
            (``"legacy"``): at (0, 0), unless the picture has a keypoint with no peak near any box: then those with no
            peak near their own box are placed on the best cell.

    Raises:
        ValueError: unknown ``missing``.
    """

    prn: Callable[[Tensor], Tensor]
    grid: PersonGrid = field(default_factory=PersonGrid)
    min_score: float = 1e-3
    fallback_weight: float = 0.05
    assign: Assignment = assign_one_to_one
    full_score: float = 1.0
    weigh_peaks: bool = True
    one_peak_a_cell: bool = False
    missing: str = "best_cell"

    def __post_init__(self) -> None:
        if self.missing not in MISSING:
            raise ValueError(f"missing must be one of {MISSING}, got {self.missing!r}")

    def __call__(self, peaks: Peaks, detections: Detections) -> GroupedPeople:
        """Groups the peaks (in image pixels) of N pictures around their boxes; errors as for :class:`Grouping`."""
        return Grouping(self.scorer, self.assign)(peaks, detections)

    @property
    def scorer(self) -> Scorer:
        """What says how well peaks suit boxes, as every grouping has it."""
        return self.score_pairs

    def score_pairs(self, peaks: Peaks, detections: Detections) -> PairScores:
        """What the network says about every pair of a box and a peak near it: peak score x network score."""
        seen = self.look(peaks, detections)
        boxes = detections.boxes[seen.picture, seen.slot]
        row, keypoint, _ = seen.near.nonzero(as_tuple=True)
        width = self.grid.size[1]

        # What the network puts on a window around the peak: the probability that the keypoint is there.
        nearest = seen.cells.round().long()
        collected = sums_around(
            seen.answer.flatten(0, 1), row * seen.answer.shape[1] + keypoint, nearest[seen.near], self.grid.reach
        )
        mass = seen.cells.new_zeros(seen.near.shape).masked_scatter(seen.near, collected / self.full_score)
        scores = mass.clamp(0, 1) * peaks.scores[seen.picture]
        allowed = seen.near & ((scores if self.weigh_peaks else mass) >= self.min_score)
        if self.one_peak_a_cell:
            at = nearest[..., 1] * width + nearest[..., 0]
            allowed = allowed & _last_in_its_cell(at, seen.near, self.grid.size[0] * width)
        scores, mass = torch.where(allowed, scores, 0.0), torch.where(allowed, mass, 0.0)

        best, best_cell = seen.answer.flatten(2).max(dim=-1)
        best_cells = torch.stack([best_cell % width, best_cell // width], dim=-1).to(boxes.dtype)
        guess = self.grid.pixels(best_cells, boxes[:, None])
        if self.missing == "legacy":
            guessed = _guessed_by_legacy(seen.near.any(-1), seen.picture, len(peaks.scores))
            guess = torch.where(guessed[..., None], guess, 0.0)
        deciding = None if self.weigh_peaks else mass
        guess_scores = self.fallback_weight * (best / self.full_score).clamp(max=1)
        return PairScores(seen.picture, seen.slot, scores, guess, guess_scores, deciding, grids=seen)

    def look(self, peaks: Peaks, detections: Detections) -> PersonGrids:
        """Draws the peaks around every box and asks the network, once for all boxes of all pictures."""
        picture, slot = detections.valid.nonzero(as_tuple=True)
        each_box = detections.boxes[picture, slot][:, None, None]
        # x and y in planes of their own: arithmetic on pairs of numbers is slow.
        xy = peaks.xy.movedim(-1, 0).contiguous().index_select(1, picture).movedim(0, -1)  # [B, K, M, 2]
        near = peaks.valid[picture] & self.grid.near(xy, each_box)
        cells = self.grid.clamp(self.grid.cells(xy, each_box))
        row, keypoint, _ = near.nonzero(as_tuple=True)
        drawn = self.grid.draw(cells[near], row, keypoint, len(picture), peaks.scores.shape[1])
        return PersonGrids(picture, slot, near, cells, drawn, self.prn(drawn) if len(picture) else drawn)


def _last_in_its_cell(at: Tensor, near: Tensor, cells: int) -> Tensor:
    """Which pairs [B, K, M] have no later one in the same of the box's cells ``at``, of those that are ``near``."""
    order = torch.arange(at.shape[-1], device=at.device).expand_as(at)
    last = torch.full((*at.shape[:2], cells), -1, device=at.device)
    last = last.scatter_reduce(2, at, torch.where(near, order, -1), reduce="amax")
    return last.gather(2, at) == order


def _guessed_by_legacy(candidate: Tensor, picture: Tensor, pictures: int) -> Tensor:
    """Which keypoints [B, K] of B boxes the published code places on the network's best cell.

    Args:
        candidate: [B, K] bool, whether the box has any peak of the keypoint near it; picture: [B] long, whose box.
    """
    boxes_with = torch.zeros(pictures, candidate.shape[1], device=candidate.device)
    boxes_with.index_add_(0, picture, candidate.float())
    return ~candidate & (boxes_with == 0).any(dim=1)[picture][:, None]


def gather_people(pairs: PairScores, peaks: Peaks, detections: Detections, assign: Assignment) -> GroupedPeople:
    """Decides who gets what, keypoint by keypoint and picture by picture, and fills in guesses for the rest.

    A person's score is the scorer's, or else the box's times the mean of the keypoints'.
    """
    n, num_keypoints, max_peaks = peaks.scores.shape
    slots = detections.scores.shape[1]
    at = pairs.picture * slots + pairs.slot  # of N x P

    def in_slots(values: Tensor) -> Tensor:
        """[B, ...] as [N, P, ...]; 0 in empty slots."""
        table = values.new_zeros(n * slots, *values.shape[1:]).index_copy(0, at, values)
        return table.view(n, slots, *values.shape[1:])

    peak_index = assign(in_slots(pairs.weighed(detections)).transpose(1, 2)).transpose(1, 2)  # [N, P, K]

    found = peak_index.flatten(0, 1).index_select(0, at)  # [B, K]
    seen, xy, scores = found >= 0, pairs.guess, pairs.guess_scores
    if max_peaks:
        found = found.clamp(min=0)
        keypoint = torch.arange(num_keypoints, device=found.device)
        number = (pairs.picture[:, None] * num_keypoints + keypoint) * max_peaks + found  # of N x K x M
        own = peaks.xy.flatten(0, 2).index_select(0, number.flatten()).view(xy.shape)
        xy = torch.where(seen[..., None], own, xy)
        scores = torch.where(seen, pairs.scores.gather(2, found[..., None])[..., 0], scores)
    keypoint_scores = in_slots(scores)
    person_scores = torch.where(detections.valid, detections.scores * keypoint_scores.mean(-1), 0.0)
    if pairs.person_scores is not None:
        person_scores = in_slots(pairs.person_scores.to(person_scores.dtype))
    return GroupedPeople(in_slots(xy), keypoint_scores, peak_index, person_scores)


def check_finite(peaks: Peaks, detections: Detections) -> None:
    """Refuses numbers that would go through scores and assignment without a word.

    Raises:
        ValueError: names the field, how many of its valid entries are not finite, and the first of them.
    """
    fields = {
        "peaks.xy": (peaks.xy, peaks.valid, ("picture", "keypoint", "peak")),
        "peaks.scores": (peaks.scores[..., None], peaks.valid, ("picture", "keypoint", "peak")),
        "detections.boxes": (detections.boxes, detections.valid, ("picture", "box")),
        "detections.scores": (detections.scores[..., None], detections.valid, ("picture", "box")),
    }
    # A sum is finite only when all of its numbers are: one look tells that all is well, as nearly always.
    if bool(sum(torch.where(valid[..., None], values, 0.0).sum() for values, valid, _ in fields.values()).isfinite()):
        return
    for name, (values, valid, axes) in fields.items():
        where = valid & ~values.isfinite().all(-1)
        if bool(where.any()):
            place = ", ".join(
                f"{axis} {index}" for axis, index in zip(axes, where.nonzero()[0].tolist(), strict=True)
            )
            raise ValueError(
                f"{name}: {int(where.sum())} of {int(valid.sum())} valid entries are not finite, the first "
                f"at {place}; what came before grouping (network, heatmaps, boxes) gave them"
            )
