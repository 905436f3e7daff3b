"""The grouping of one picture in numbers: every pair of a peak and a person, who got what, who else could have had it.

The scorer and the assignment of the grouping itself are asked, so that what is explained is what happens. It works for
every grouping that is made of these two parts (``decode.grouping``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from multiposenet.decode.assignment import ASSIGNMENTS
from multiposenet.decode.grouping import (
    GroupedPeople,
    Grouping,
    PairScores,
    PoseResidualGrouping,
    check_finite,
    gather_people,
)
from multiposenet.decode.scorers import SetAssignmentScorer
from multiposenet.explanation.structures import (
    BOXLESS,
    NOBODY,
    ExplainedKeypoint,
    ExplainedPeak,
    ExplainedPerson,
    Explanation,
    Owners,
    Pair,
    PersonGrids,
)
from multiposenet.geometry import CropWindow
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks


@torch.inference_mode()
def explain(
    grouping: Grouping | PoseResidualGrouping,
    peaks: Peaks,
    detections: Detections,
    skeleton: Skeleton,
    window: CropWindow | None = None,
    owners: Owners | None = None,
) -> Explanation:
    """Groups one picture and tells how it came out as it did.

    Args:
        grouping: scores pairs and assigns.
        peaks: [1, K, M, 2], in the pixels that the grouping works in.
        detections: [1, P, 4], in the same pixels.
        skeleton: whose K keypoints.
        window: from the picture's pixels to those; None when they are the same.
        owners: whose the peaks and boxes are, where labels tell.

    Raises:
        ValueError: not one picture, another number of keypoints, or numbers that are not finite.
    """
    if len(peaks.scores) != 1 or len(detections.scores) != 1:
        raise ValueError(f"one picture is explained at a time, got {len(peaks.scores)} and {len(detections.scores)}")
    if peaks.scores.shape[1] != skeleton.num_keypoints:
        raise ValueError(
            f"peaks have {peaks.scores.shape[1]} keypoints, skeleton {skeleton.name!r} has {skeleton.num_keypoints}; "
            "explain them with the skeleton that they were found for"
        )
    check_finite(peaks, detections)
    scorer = grouping.scorer
    pairs = scorer(peaks, detections)
    people = gather_people(pairs, peaks, detections, grouping.assign)
    parts = scorer.parts(peaks, detections) if isinstance(scorer, SetAssignmentScorer) else {}
    picture = _Picture.of(pairs, parts, people, peaks, detections, window, owners)
    rule = next((name for name, assign in ASSIGNMENTS.items() if assign is grouping.assign), "another")
    weight_is = "pair score x box score" if pairs.deciding is None else "the network's score alone"
    return Explanation(skeleton, picture.explained_people(), picture.explained_peaks(), rule, weight_is)


@dataclass(frozen=True)
class _Picture:
    """Everything about one picture in arrays: P people in order of their scores, K keypoints, M peaks."""

    boxes: np.ndarray  # [P, 4] picture pixels
    box_scores: np.ndarray  # [P]
    scores: np.ndarray  # [P]
    keypoints: np.ndarray  # [P, K, 2] picture pixels
    keypoint_scores: np.ndarray  # [P, K]
    chosen: np.ndarray  # [P, K], slot of M, -1 for none
    pair_scores: np.ndarray  # [P, K, M]
    weights: np.ndarray  # [P, K, M]
    parts: dict[str, np.ndarray]  # [P, K, M] each
    peak_xy: np.ndarray  # [K, M, 2] picture pixels
    peak_scores: np.ndarray  # [K, M]
    numbers: np.ndarray  # [K, M], from 1 among the peaks that there are, 0 for empty slots
    owners: Owners | None  # boxes in this order
    grids: list[PersonGrids | None]

    @classmethod
    def of(
        cls,
        pairs: PairScores,
        parts: Mapping[str, torch.Tensor],
        people: GroupedPeople,
        peaks: Peaks,
        detections: Detections,
        window: CropWindow | None,
        owners: Owners | None,
    ) -> _Picture:
        slots = detections.valid[0].nonzero()[:, 0]
        slots = slots[people.scores[0, slots].argsort(descending=True, stable=True)]
        row_of = torch.zeros(detections.valid.shape[1], dtype=torch.long, device=slots.device)
        rows = row_of.index_copy(0, pairs.slot, torch.arange(len(pairs.slot), device=slots.device))[slots]
        boxes, keypoints, peak_xy = detections.boxes[0, slots], people.keypoints[0, slots], peaks.xy[0]
        if window is not None:
            boxes = window.boxes_to_image(boxes)
            keypoints, peak_xy = window.keypoints_to_image(keypoints), window.keypoints_to_image(peak_xy)
        valid = _array(peaks.valid[0])
        numbers = np.where(valid, valid.cumsum(1), 0)
        grids: list[PersonGrids | None] = [None] * len(slots)
        if pairs.grids is not None:
            seen = (_array(part[rows]) for part in (pairs.grids.drawn, pairs.grids.answer, pairs.grids.cells))
            near = np.where(_array(pairs.grids.near[rows]), numbers, 0)
            grids = [
                PersonGrids(shown, answer, _places(cells, own))
                for shown, answer, cells, own in zip(*seen, near, strict=True)
            ]
        if owners is not None:
            owners = Owners(owners.boxes[_array(slots)], owners.peaks, owners.labelled)
        return cls(
            boxes=_array(boxes),
            box_scores=_array(detections.scores[0, slots]),
            scores=_array(people.scores[0, slots]),
            keypoints=_array(keypoints),
            keypoint_scores=_array(people.keypoint_scores[0, slots]),
            chosen=_array(people.peak_index[0, slots]),
            pair_scores=_array(pairs.scores[rows]),
            weights=_array(pairs.weighed(detections)[rows]),
            parts={name: _array(part[rows]) for name, part in parts.items()},
            peak_xy=_array(peak_xy),
            peak_scores=_array(peaks.scores[0]),
            numbers=numbers,
            owners=owners,
            grids=grids,
        )

    def explained_people(self) -> tuple[ExplainedPerson, ...]:
        return tuple(
            ExplainedPerson(
                person=person + 1,
                box=tuple(self.boxes[person].tolist()),
                box_score=float(self.box_scores[person]),
                score=float(self.scores[person]),
                keypoints=tuple(self._keypoint(person, keypoint) for keypoint in range(len(self.numbers))),
                labelled=None if self.owners is None else bool(self.owners.boxes[person] >= 0),
                grids=self.grids[person],
            )
            for person in range(len(self.boxes))
        )

    def explained_peaks(self) -> tuple[tuple[ExplainedPeak, ...], ...]:
        return tuple(
            tuple(
                ExplainedPeak(
                    peak=int(self.numbers[keypoint, slot]),
                    xy=tuple(self.peak_xy[keypoint, slot].tolist()),
                    score=float(self.peak_scores[keypoint, slot]),
                    people=tuple((np.flatnonzero(self.chosen[:, keypoint] == slot) + 1).tolist()),
                    owner=self._owner(keypoint, slot),
                )
                for slot in np.flatnonzero(self.numbers[keypoint])
            )
            for keypoint in range(len(self.numbers))
        )

    def _keypoint(self, person: int, keypoint: int) -> ExplainedKeypoint:
        slot = int(self.chosen[person, keypoint])
        row = self.weights[person, keypoint]
        pairs = [self._pair(person, keypoint, other) for other in np.argsort(-row, kind="stable") if row[other] > 0]
        rivals = []
        if slot >= 0:
            column = self.weights[:, keypoint, slot]
            others = [other for other in np.argsort(-column, kind="stable") if other != person and column[other] > 0]
            rivals = [self._pair(other, keypoint, slot) for other in others]
        own = self._own(person, keypoint)
        return ExplainedKeypoint(
            xy=tuple(self.keypoints[person, keypoint].tolist()),
            score=float(self.keypoint_scores[person, keypoint]),
            peak=int(self.numbers[keypoint, slot]) if slot >= 0 else None,
            pairs=tuple(pairs),
            rivals=tuple(rivals),
            own=int(self.numbers[keypoint, own]) if own >= 0 else None,
            right=self._right(person, keypoint, slot, own),
        )

    def _pair(self, person: int, keypoint: int, slot: int) -> Pair:
        score = float(self.pair_scores[person, keypoint, slot])
        height = float(self.peak_scores[keypoint, slot])
        return Pair(
            person=int(person) + 1,
            peak=int(self.numbers[keypoint, slot]),
            score=score,
            suits=score / height if height > 0 else 0.0,
            weight=float(self.weights[person, keypoint, slot]),
            given=bool(self.chosen[person, keypoint] == slot),
            parts={name: float(part[person, keypoint, slot]) for name, part in self.parts.items()},
        )

    def _own(self, person: int, keypoint: int) -> int:
        """The slot of the peak that is the person's by the labels, -1 for none."""
        if self.owners is None or self.owners.boxes[person] < 0:
            return -1
        slots = np.flatnonzero(self.owners.peaks[keypoint] == self.owners.boxes[person])
        return int(slots[0]) if len(slots) else -1

    def _owner(self, keypoint: int, slot: int) -> int | None:
        if self.owners is None:
            return None
        owner = self.owners.peaks[keypoint, slot]
        if owner < 0:
            return NOBODY
        people = np.flatnonzero(self.owners.boxes == owner)
        return int(people[0]) + 1 if len(people) else BOXLESS

    def _right(self, person: int, keypoint: int, slot: int, own: int) -> bool | None:
        if self.owners is None:
            return None
        if own >= 0:
            return slot == own
        if slot < 0:
            return None
        annotated = self.owners.boxes[person]
        elsewhere = annotated >= 0 and bool(self.owners.labelled[annotated, keypoint])
        return False if self.owners.peaks[keypoint, slot] >= 0 or elsewhere else None


def _places(cells: np.ndarray, numbers: np.ndarray) -> tuple[tuple[tuple[int, float, float], ...], ...]:
    """Of each keypoint the peaks with a number: cells [K, M, 2], numbers [K, M]."""
    return tuple(
        tuple((int(number), *map(float, cell)) for cell, number in zip(*own, strict=True) if number)
        for own in zip(cells, numbers, strict=True)
    )


def _array(values: torch.Tensor) -> np.ndarray:
    return values.cpu().numpy()
