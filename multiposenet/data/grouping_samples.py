"""What the set assignment learns from: whole pictures of labels, made as imperfect as what a network delivers.

A sample is one picture: all its peaks and all its boxes together, as at inference, so that the network meets its own
competition. Batches are made by tensor operations on the device from the packed labels of a whole dataset; nothing is
done picture by picture or person by person.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from multiposenet.data.label_steps import draw_steps
from multiposenet.geometry import flip_boxes, flip_keypoints
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, PersonLabels, TensorFields

BATCHES_ALIKE = 64
"""Batches among which pictures with similar crowds are put together, so that little is padding."""

FALSE_BOXES_AT_MOST = 3
"""Slots for false boxes a picture."""


@dataclass(frozen=True)
class PictureAugmentation:
    """How labels are made imperfect; all off by default.

    Peaks and boxes of a picture are each left clean with probability ``clean``, otherwise degraded by everything below
    times a strength that is drawn, a picture at a time, evenly from 0 to 2.

    Args:
        flip: probability that a picture is mirrored.
        zoom: standard deviation of the logarithm of a picture's scale.
        clean: see above.
        box_jitter: standard deviation of a box's edges, as a share of its sides.
        peak_jitter: standard deviation of the peaks, as a share of the person's size (root of the box's area).
        dropped: probability that a peak is missing.
        false_peaks: mean number of peaks that belong to nobody, per person: half of them anywhere in the person's
            enlarged window, half copies of one of the person's keypoints, a little displaced.
        missing_boxes: probability that a person has no box.
        false_boxes: mean number of boxes a picture that are nobody's: displaced and rescaled copies of true ones.
        score_noise: how far true peaks and boxes fall short of score 1, on average; false ones fall short three times
            as much. Half of the degraded pictures keep score 1 for everything, so that scores are not relied upon.
    """

    flip: float = 0.0
    zoom: float = 0.0
    clean: float = 0.3
    box_jitter: float = 0.0
    peak_jitter: float = 0.0
    dropped: float = 0.0
    false_peaks: float = 0.0
    missing_boxes: float = 0.0
    false_boxes: float = 0.0
    score_noise: float = 0.0


@dataclass(frozen=True)
class GroupingBatch(TensorFields):
    """N pictures with what is right; see ``SetAssignment.loss``.

    Args:
        peaks, detections: as a network would deliver them, in pixels of the (rescaled, mirrored) picture.
        answer: [N, P, K] long, the peak that is the keypoint of each box's person, -1 where there is none.
        truth: [N, P, K, 2], where the keypoints really are; labelled: [N, P, K] bool.
        weight: [N, P, K], of each choice in the loss.
        spread: [N, P, K], squared pixels; somebody: [N, P] bool.
        names: [N] of the pictures, for messages; empty where nobody knows them.
    """

    peaks: Peaks
    detections: Detections
    answer: Tensor
    truth: Tensor
    labelled: Tensor
    weight: Tensor
    spread: Tensor
    somebody: Tensor
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class PictureSamples(TensorFields):
    """The labels of a dataset, picture after picture.

    Args:
        keypoints: [T, K, 2] float, pixels; visibility: [T, K]; boxes: [T, 4] float, xyxy; areas: [T] float, pixels;
            single: [T] bool, people who have a box of their own (no crowd, a side of at least a pixel).
        first, count: [I] long, rows of each picture; only pictures with somebody to learn from.
        skeleton: whose keypoints.
        unlabelled_weight: weight of keypoints that nobody labelled: there are no peaks of them in these pictures, so
            "none" is right, but a network may find some.
        names: [I] of the pictures; empty where nobody knows them.
    """

    keypoints: Tensor
    visibility: Tensor
    boxes: Tensor
    areas: Tensor
    single: Tensor
    first: Tensor
    count: Tensor
    skeleton: Skeleton
    unlabelled_weight: float = 0.5
    names: tuple[str, ...] = ()

    @classmethod
    def from_labels(cls, pictures: list[PersonLabels], skeleton: Skeleton, names: Sequence[str] = ()) -> PictureSamples:
        """Samples from the labels of every picture.

        Args:
            pictures: their labels.
            skeleton: whose keypoints.
            names: of the pictures, for messages.

        Raises:
            ValueError: no picture has a single person with a labelled keypoint and a box.
        """
        keypoints, visibility, boxes, areas, crowd = (
            np.concatenate([getattr(labels, name) for labels in pictures])
            for name in ("keypoints", "visibility", "boxes", "areas", "crowd")
        )
        counts = np.array([len(labels) for labels in pictures], np.int64)
        single = ~crowd & ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
        taught = single & (visibility > 0).any(1)
        picture = np.repeat(np.arange(len(pictures)), counts)
        useful = np.bincount(picture[taught], minlength=len(pictures)) > 0
        if not useful.any():
            raise ValueError(f"nobody in {len(pictures)} pictures has a labelled keypoint and a box")
        return cls(
            keypoints=torch.from_numpy(keypoints).float(),
            visibility=torch.from_numpy(visibility),
            boxes=torch.from_numpy(boxes).float(),
            areas=torch.from_numpy(areas).float(),
            single=torch.from_numpy(single),
            first=torch.from_numpy((np.cumsum(counts) - counts)[useful]),
            count=torch.from_numpy(counts[useful]),
            skeleton=skeleton,
            names=tuple(compress(names, useful)),
        )

    def __len__(self) -> int:
        """Pictures."""
        return len(self.first)

    @property
    def people(self) -> int:
        """People in these pictures."""
        return int(self.count.sum())

    def steps(self, batch_size: int) -> int:
        """About how many batches a pass has."""
        return -(-self.people // batch_size)

    def batches(
        self, batch_size: int, augmentation: PictureAugmentation, seed: int, first_step: int = 0
    ) -> Iterator[GroupingBatch]:
        """One pass over every picture in random order; order and augmentation depend on ``seed`` alone.

        Args:
            batch_size: people a step, about; each of several training processes gets its part of every step.
            augmentation: how the labels are degraded.
            seed: fixes the pass.
            first_step: steps to leave out at the start.
        """
        device = self.first.device
        generator = torch.Generator(device).manual_seed(seed)
        order = torch.randperm(len(self), generator=generator, device=device)
        # Pictures with crowds of one size together, but only among neighbours in the random order.
        part = (self.count[order].cumsum(0) - 1) // (batch_size * BATCHES_ALIKE)
        order = order[(part * (int(self.count.max()) + 1) + self.count[order]).argsort(stable=True)]
        batch = (self.count[order].cumsum(0) - 1) // batch_size
        _, lengths = batch.unique_consecutive(return_counts=True)
        steps = order.split(lengths.tolist())
        mixed = torch.randperm(len(steps), generator=generator, device=device).tolist()
        steps = [steps[place] for place in mixed]
        yield from draw_steps(
            steps, lambda rows, dice: self.draw(rows, augmentation, dice), self.names, generator, first_step
        )

    def draw(
        self,
        pictures: Tensor,
        augmentation: PictureAugmentation | None = None,
        generator: torch.Generator | None = None,
    ) -> GroupingBatch:
        """The pictures at the positions ``pictures`` [N], degraded."""
        how = augmentation or PictureAugmentation()
        dice = _Dice(generator, pictures.device)
        n = len(pictures)
        slot = torch.arange(int(self.count[pictures].max()), device=pictures.device)
        there = slot < self.count[pictures][:, None]  # [N, P]
        rows = self.first[pictures][:, None] + torch.where(there, slot, 0)
        keypoints, boxes, areas = self.keypoints[rows], self.boxes[rows], self.areas[rows]
        labelled = there[..., None] & (self.visibility[rows] > 0)
        keypoints, boxes, areas, labelled = self._seen_otherwise(keypoints, boxes, areas, labelled, how, dice)

        size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1).prod(-1).sqrt()  # [N, P]
        strengths = [dice.even(n) * 2 * (dice.even(n) >= how.clean) for _ in range(2)]
        plain_scores = (dice.even(n) < 0.5).float()
        short = [how.score_noise * strength * (1 - plain_scores) for strength in strengths]
        peaks, place = _degraded_peaks(keypoints, boxes, size, labelled, strengths[0], short[0], how, dice)
        somebody = there & self.single[rows]
        detections = _degraded_boxes(boxes, somebody, strengths[1], short[1], how, dice)

        spare = detections.valid.shape[1] - labelled.shape[1]  # false boxes: nothing is theirs
        answer = _more_slots(place, spare, -1)
        known = _more_slots(labelled, spare, False)
        weight = torch.where(known, 1.0, self.unlabelled_weight)
        weight[:, labelled.shape[1] :] = 1.0
        weight = weight * detections.valid[..., None]
        return GroupingBatch(
            peaks,
            detections,
            answer,
            truth=_more_slots(keypoints, spare, 0.0),
            labelled=known & detections.valid[..., None],
            weight=weight,
            spread=_more_slots(oks_spread(areas, self.skeleton), spare, 1.0),
            somebody=_more_slots(somebody, spare, False),
        )

    def _seen_otherwise(
        self,
        keypoints: Tensor,
        boxes: Tensor,
        areas: Tensor,
        labelled: Tensor,
        how: PictureAugmentation,
        dice: _Dice,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pictures mirrored (about the left edge: only relative places matter) and rescaled at random."""
        n = len(keypoints)
        if how.flip:
            mirrored = dice.even(n) < how.flip
            swap = self.skeleton.flip_indices
            keypoints = torch.where(mirrored[:, None, None, None], flip_keypoints(keypoints, 0)[:, :, swap], keypoints)
            labelled = torch.where(mirrored[:, None, None], labelled[:, :, swap], labelled)
            boxes = torch.where(mirrored[:, None, None], flip_boxes(boxes, 0), boxes)
        if how.zoom:
            zoom = (dice.normal(n) * how.zoom).exp()[:, None, None]
            keypoints, boxes = (keypoints + 0.5) * zoom[..., None] - 0.5, boxes * zoom
            areas = areas * zoom[..., 0].square()
        return keypoints, boxes, areas, labelled


def oks_spread(areas: Tensor, skeleton: Skeleton) -> Tensor:
    """Squared pixels [..., K] at which OKS counts a keypoint of people of ``areas`` [...] as similar by 1 / e.

    A skeleton without OKS sigmas has its ``reach``: here it only ranks people.
    """
    sigmas = areas.new_tensor(skeleton.reach)
    return 8 * areas.clamp(min=1)[..., None] * sigmas.square()


@dataclass(frozen=True)
class _Dice:
    generator: torch.Generator | None
    device: torch.device

    def even(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.device)


def _degraded_peaks(
    keypoints: Tensor,
    boxes: Tensor,
    size: Tensor,
    labelled: Tensor,
    strength: Tensor,
    short: Tensor,
    how: PictureAugmentation,
    dice: _Dice,
) -> tuple[Peaks, Tensor]:
    """Peaks [N, K, M], strongest first, of labels [N, P, K]; and where each label's peak is [N, P, K], -1 for none."""
    n, people, k = labelled.shape
    strength, short = strength[:, None, None], short[:, None, None]
    kept = labelled & (dice.even(n, people, k) >= how.dropped * strength)
    noise = dice.normal(n, people, k, 2) * (how.peak_jitter * strength * size[..., None])[..., None]

    # One more slot a person and keypoint, for a false peak.
    false = (labelled.any(-1, keepdim=True)) & (dice.even(n, people, k) < how.false_peaks * strength / k)
    anywhere = (
        boxes[:, :, None, :2]
        - 0.5
        + (boxes[..., 2:] - boxes[..., :2])[:, :, None] * (dice.even(n, people, k, 2) * 1.5 - 0.25)
    )
    displaced = keypoints + dice.normal(n, people, k, 2) * 0.15 * size[..., None, None]
    copied = labelled & (dice.even(n, people, k) < 0.5)
    false_xy = torch.where(copied[..., None], displaced, anywhere)

    xy = torch.cat([keypoints + noise, false_xy], dim=1).transpose(1, 2)  # [N, K, 2P, 2]
    valid = torch.cat([kept, false], dim=1).transpose(1, 2)
    lost = dice.normal(n, 2 * people, k).abs() * short
    lost[:, people:] *= 3
    scores = torch.where(valid, (1 - lost).clamp(min=0.05).transpose(1, 2), 0.0)

    # Among equals the order must not tell whose a peak is.
    order = (torch.where(valid, scores, -1.0) + 1e-4 * dice.even(*scores.shape)).argsort(dim=-1, descending=True)
    most = max(1, int(valid.sum(-1).max()))
    place = order.argsort(dim=-1)[..., :people].transpose(1, 2)  # [N, P, K]
    order = order[..., :most]
    peaks = Peaks(xy.gather(2, order[..., None].expand(-1, -1, -1, 2)), scores.gather(2, order), valid.gather(2, order))
    return peaks, torch.where(kept, place, -1)


def _degraded_boxes(
    boxes: Tensor, single: Tensor, strength: Tensor, short: Tensor, how: PictureAugmentation, dice: _Dice
) -> Detections:
    """Boxes [N, P + spare], the false ones last."""
    n, people = single.shape
    spare = FALSE_BOXES_AT_MOST if how.false_boxes else 0
    sides = boxes[..., 2:] - boxes[..., :2]
    edges = boxes + dice.normal(n, people, 4) * (how.box_jitter * strength)[:, None, None] * sides.repeat(1, 1, 2)
    there = single & (dice.even(n, people) >= (how.missing_boxes * strength)[:, None])
    if spare:
        model = (dice.even(n, spare) * single.sum(1, keepdim=True)).long()
        rows = single.int().argsort(dim=1, descending=True, stable=True).gather(1, model.clamp(max=people - 1))
        copy = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
        half = (copy[..., 2:] - copy[..., :2]) / 2 * (dice.normal(n, spare, 2) * 0.4).exp()
        middle = (copy[..., 2:] + copy[..., :2]) / 2 + dice.normal(n, spare, 2) * 2 * half
        false = dice.even(n, spare) < (how.false_boxes / spare * strength)[:, None]
        edges = torch.cat([edges, torch.cat([middle - half, middle + half], dim=-1)], dim=1)
        there = torch.cat([there, false & single.any(1, keepdim=True)], dim=1)
    edges = torch.cat([edges[..., :2], torch.maximum(edges[..., 2:], edges[..., :2] + 1)], dim=-1)
    lost = dice.normal(n, people + spare).abs() * short[:, None]
    lost[:, people:] *= 3
    return Detections(edges, torch.where(there, (1 - lost).clamp(min=0.05), 0.0), there)


def _more_slots(table: Tensor, spare: int, fill: float | bool) -> Tensor:
    """A table [N, P, ...] with ``spare`` more slots."""
    return torch.cat([table, table.new_full((len(table), spare, *table.shape[2:]), fill)], dim=1)
