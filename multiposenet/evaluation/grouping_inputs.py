"""What groupings are measured on: labels as peaks and boxes, clean or degraded, and the best that could come of them.

Everything is drawn with a seed of its own per picture (:data:`SEED`, the picture's id, peaks or boxes), so that the
input of a picture does not depend on which others are measured, and "both degraded" is exactly the degraded peaks with
the degraded boxes. Peaks and boxes lie in random order: labels list both person by person, and a rule that takes the
first of equals would read the answer off the order. All scores are 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from multiposenet.evaluation.oks import keypoint_similarity
from multiposenet.geometry import points_to_shares, shares_to_points
from multiposenet.prior import GaussianPrior
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, PersonLabels, TensorFields

SEED = 2017
"""Of every degradation that is measured."""

OUTSIDE = 0.25
"""False peaks lie in a person's box enlarged by this share of its sides on every side."""


@dataclass(frozen=True)
class PeakDegradation:
    """How peaks differ from the labels' keypoints. A person's size is the root of the box's area.

    Args:
        dropped: probability that a peak is missing.
        false: mean number of false peaks a person (Poisson): any keypoint, anywhere in the person's enlarged box.
        noise: standard deviation on each axis, as a share of the person's size.
    """

    dropped: float = 0.0
    false: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class BoxDegradation:
    """How boxes differ from the labels'. A person's size is the root of the box's area.

    Args:
        missing: probability that a person has no box.
        false: mean number of false boxes a picture (Poisson): a true box's shape, anywhere where there are people.
        noise: standard deviation of each edge, as a share of the person's size.
    """

    missing: float = 0.0
    false: float = 0.0
    noise: float = 0.0


DEGRADED_PEAKS = PeakDegradation(dropped=0.15, false=0.3, noise=0.02)
DEGRADED_BOXES = BoxDegradation(missing=0.1, false=0.5, noise=0.04)
INPUTS: dict[str, tuple[PeakDegradation, BoxDegradation]] = {
    "ground truth": (PeakDegradation(), BoxDegradation()),
    "degraded peaks": (DEGRADED_PEAKS, BoxDegradation()),
    "degraded boxes": (PeakDegradation(), DEGRADED_BOXES),
    "both degraded": (DEGRADED_PEAKS, DEGRADED_BOXES),
}
"""The four inputs of the table, by name."""


@dataclass(frozen=True)
class GroupingInput(TensorFields):
    """Peaks and boxes of N pictures, and whose they are. G annotated people, others as in ``structures``.

    Args:
        peaks, detections: picture pixels.
        peak_of: [N, G, K] long, the peak that is each person's keypoint, -1 where there is none.
        box_of: [N, G] long, the box (slot) of each person, -1 where there is none.
        truth: [N, G, K, 2] labels; labelled: [N, G, K] bool; areas: [N, G] as annotated.
    """

    peaks: Peaks
    detections: Detections
    peak_of: Tensor
    box_of: Tensor
    truth: Tensor
    labelled: Tensor
    areas: Tensor

    def __len__(self) -> int:
        return len(self.box_of)

    def __getitem__(self, rows: slice) -> GroupingInput:
        """Some of the pictures."""
        return self.pictures(rows)


@dataclass(frozen=True)
class PicturePeaks:
    """Peaks of one picture as rows: xy [R, 2], keypoint [R], person [R] (-1: nobody's), scores [R], and of peaks of
    heatmaps what all maps hold there [R, K], what they were predicted from [R, F] and how each of the picture's boxes
    sees it by its own maps [R, P].
    """

    xy: np.ndarray
    keypoint: np.ndarray
    person: np.ndarray
    scores: np.ndarray
    evidence: np.ndarray | None = None
    appearance: np.ndarray | None = None
    seen_by: np.ndarray | None = None


@dataclass(frozen=True)
class PictureBoxes:
    """Boxes of one picture as rows: boxes [R, 4], person [R] (-1: nobody's), scores [R]."""

    boxes: np.ndarray
    person: np.ndarray
    scores: np.ndarray


def make_input(
    pictures: Sequence[PersonLabels],
    image_ids: Sequence[int],
    num_keypoints: int,
    peaks: PeakDegradation | None = None,
    boxes: BoxDegradation | None = None,
    seed: int = SEED,
) -> GroupingInput:
    """Labels as peaks and boxes, degraded as asked; by default not at all."""
    peaks, boxes = peaks or PeakDegradation(), boxes or BoxDegradation()
    return pack_input(
        pictures,
        [
            label_peaks(labels, peaks, np.random.default_rng([seed, image_id, 0]))
            for labels, image_id in zip(pictures, image_ids, strict=True)
        ],
        [
            label_boxes(labels, boxes, np.random.default_rng([seed, image_id, 1]))
            for labels, image_id in zip(pictures, image_ids, strict=True)
        ],
        num_keypoints,
    )


def label_peaks(labels: PersonLabels, how: PeakDegradation, rng: np.random.Generator) -> PicturePeaks:
    """The labelled keypoints of one picture as peaks of score 1, degraded, in random order."""
    people, num_keypoints = labels.visibility.shape
    sides = labels.boxes[:, 2:] - labels.boxes[:, :2]
    size = np.sqrt(sides.prod(1).clip(1))
    # Every die is thrown whatever the settings are, so that two degradations of a picture are alike in the rest.
    lost, noise = rng.random((people, num_keypoints)), rng.normal(size=(people, num_keypoints, 2))
    person, keypoint = np.nonzero((labels.visibility > 0) & (lost >= how.dropped))
    xy = labels.keypoints[person, keypoint] + how.noise * size[person, None] * noise[person, keypoint]
    mates = np.repeat(np.arange(people), rng.poisson(how.false, people))
    places = rng.random((len(mates), 2)) * (1 + 2 * OUTSIDE) - OUTSIDE
    false_xy = labels.boxes[mates, :2] + places * sides[mates] - 0.5
    false_keypoint = rng.integers(0, num_keypoints, len(mates))
    order = rng.permutation(len(xy) + len(mates))
    return PicturePeaks(
        np.concatenate([xy, false_xy])[order],
        np.concatenate([keypoint, false_keypoint])[order],
        np.concatenate([person, np.full(len(mates), -1)])[order],
        np.ones(len(order)),
    )


def label_boxes(labels: PersonLabels, how: BoxDegradation, rng: np.random.Generator) -> PictureBoxes:
    """The boxes of one picture's single people as detections of score 1, degraded, in random order."""
    people = len(labels)
    sides = labels.boxes[:, 2:] - labels.boxes[:, :2]
    size = np.sqrt(sides.prod(1).clip(1))
    lost, noise = rng.random(people), rng.normal(size=(people, 4))
    person = np.flatnonzero(~labels.crowd & (lost >= how.missing))
    boxes = _in_order(labels.boxes + how.noise * size[:, None] * noise)[person]
    count = int(rng.poisson(how.false)) if people else 0
    like = rng.integers(0, max(1, people), count)
    low, high = (labels.boxes[:, :2].min(0), labels.boxes[:, 2:].max(0)) if people else (np.zeros(2), np.ones(2))
    middle = low + rng.random((count, 2)) * (high - low)
    false = np.concatenate([middle - sides[like] / 2, middle + sides[like] / 2], axis=1)
    order = rng.permutation(len(boxes) + count)
    return PictureBoxes(
        np.concatenate([boxes, false.reshape(-1, 4)])[order],
        np.concatenate([person, np.full(count, -1)])[order],
        np.ones(len(order)),
    )


def pack_input(
    pictures: Sequence[PersonLabels],
    peaks: Sequence[PicturePeaks],
    boxes: Sequence[PictureBoxes],
    num_keypoints: int,
) -> GroupingInput:
    """Rows of every picture in tensors, padded to the fullest picture. Peaks keep their order within a keypoint."""
    n = len(pictures)
    most_people = max([1, *(len(labels) for labels in pictures)])
    most_boxes = max([1, *(len(own.boxes) for own in boxes)])
    most_peaks = max([1, *(np.bincount(own.keypoint, minlength=1).max() for own in peaks)])
    xy, scores = np.zeros((n, num_keypoints, most_peaks, 2), np.float32), np.zeros((n, num_keypoints, most_peaks))
    valid = np.zeros(scores.shape, bool)
    of_maps: dict[str, np.ndarray] = {}
    for name in ("evidence", "appearance", "seen_by"):
        told = [getattr(own, name) for own in peaks]
        if n > 0 and all(values is not None for values in told):
            of_maps[name] = np.zeros((*scores.shape, max(values.shape[1] for values in told)), np.float32)
    corners, box_scores = np.zeros((n, most_boxes, 4), np.float32), np.zeros((n, most_boxes))
    box_valid = np.zeros(box_scores.shape, bool)
    peak_of = np.full((n, most_people, num_keypoints), -1)
    box_of = np.full((n, most_people), -1)
    truth = np.zeros((n, most_people, num_keypoints, 2), np.float32)
    labelled, areas = np.zeros(truth.shape[:3], bool), np.ones((n, most_people))
    for row, (labels, own, found) in enumerate(zip(pictures, peaks, boxes, strict=True)):
        people = len(labels)
        order = np.argsort(own.keypoint, kind="stable")
        keypoint = own.keypoint[order]
        slot = np.arange(len(order)) - np.searchsorted(keypoint, keypoint)
        xy[row, keypoint, slot], scores[row, keypoint, slot] = own.xy[order], own.scores[order]
        valid[row, keypoint, slot] = True
        for name, table in of_maps.items():
            values = getattr(own, name)[order]
            table[row, keypoint, slot, : values.shape[1]] = values
        owned = own.person[order] >= 0
        peak_of[row, own.person[order][owned], keypoint[owned]] = slot[owned]
        rows = np.arange(len(found.boxes))
        corners[row, rows], box_scores[row, rows], box_valid[row, rows] = found.boxes, found.scores, True
        owned = found.person >= 0
        box_of[row, found.person[owned]] = rows[owned]
        truth[row, :people], areas[row, :people] = labels.keypoints, labels.areas
        labelled[row, :people] = (labels.visibility > 0) & ~labels.crowd[:, None]
    return GroupingInput(
        Peaks(
            torch.from_numpy(xy),
            torch.from_numpy(scores).float(),
            torch.from_numpy(valid),
            **{name: torch.from_numpy(table) for name, table in of_maps.items()},
        ),
        Detections(torch.from_numpy(corners), torch.from_numpy(box_scores).float(), torch.from_numpy(box_valid)),
        torch.from_numpy(peak_of),
        torch.from_numpy(box_of),
        torch.from_numpy(truth),
        torch.from_numpy(labelled),
        torch.from_numpy(areas).float(),
    )


@dataclass(frozen=True)
class BestPoses:
    """The best that an assignment could make of an input: keypoints [N, G, K, 2], scores [N, G], found [N, G] bool."""

    keypoints: Tensor
    scores: Tensor
    found: Tensor


def best_poses(given: GroupingInput, prior: GaussianPrior, skeleton: Skeleton) -> BestPoses:
    """The ceiling of an input: every person who has a box gets each own peak that there is, where it is.

    A keypoint without a peak of its own is put at the prior's mean place in the given box, the guess that every
    baseline makes; a person without a box is missed; false boxes are left out, and people are ranked by the similarity
    that they reach, which is the order that makes AP highest. No margin around the box applies. It is the ceiling of
    *assigning*: a guess that is better than the prior's mean, or somebody else's peak that happens to lie nearer than
    the own, could pass it by a little.

    Args:
        given: the input.
        prior: fitted to training labels.
        skeleton: its ``reach`` says what similar is.
    """
    n, people, num_keypoints = given.labelled.shape
    found = (given.box_of >= 0) & given.labelled.any(-1)
    boxes = given.detections.boxes.gather(1, given.box_of.clamp(min=0)[..., None].expand(-1, -1, 4))
    guess = shares_to_points(prior.mean.to(boxes.device), boxes[:, :, None])
    at = given.peak_of.clamp(min=0).transpose(1, 2)[..., None].expand(n, num_keypoints, people, 2)
    own = given.peaks.xy.gather(2, at).transpose(1, 2)
    keypoints = torch.where((given.peak_of >= 0)[..., None], own, guess)
    similarity = keypoint_similarity(
        (keypoints - given.truth).square().sum(-1), given.areas[..., None], keypoints.new_tensor(skeleton.reach)
    )
    scores = (similarity * given.labelled).sum(-1) / given.labelled.sum(-1).clamp(min=1)
    return BestPoses(keypoints, torch.where(found, scores, 0.0), found)


def lost_outside(given: GroupingInput, margin: float) -> float:
    """Share of the keypoints with a peak and a box whose peak lies outside the box enlarged by ``margin``."""
    boxes = given.detections.boxes.gather(1, given.box_of.clamp(min=0)[..., None].expand(-1, -1, 4))
    there = (given.peak_of >= 0) & (given.box_of >= 0)[..., None]
    n, people, num_keypoints = there.shape
    at = given.peak_of.clamp(min=0).transpose(1, 2)[..., None].expand(n, num_keypoints, people, 2)
    shares = points_to_shares(given.peaks.xy.gather(2, at).transpose(1, 2), boxes[:, :, None])
    outside = ((shares <= -margin) | (shares >= 1 + margin)).any(-1)
    return float((outside & there).sum() / there.sum().clamp(min=1))


def _in_order(boxes: np.ndarray) -> np.ndarray:
    """Boxes whose edges noise may have exchanged, at least a pixel wide and high."""
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    return np.concatenate([low, np.maximum(high, low + 1)], axis=1)
