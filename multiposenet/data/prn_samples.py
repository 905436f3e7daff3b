"""What the pose residual network learns from: labels alone, no picture (MultiPoseNet, sec. 3.4 and 3.5).

A sample is one person: the peaks of everybody in and around the box go in, the person's own keypoints are the answer.
Batches are made by tensor operations on the device from the packed labels of a whole dataset; nothing is done person
by person.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from multiposenet.data.label_steps import draw_steps
from multiposenet.rasterize import PersonGrid
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels, TensorFields


@dataclass(frozen=True)
class PrnAugmentation:
    """How labels are made as imperfect as what a network will deliver; all off by default.

    Args:
        flip: probability that a person is mirrored.
        box_jitter: standard deviation of the box's corners, as a share of its sides.
        peak_jitter: standard deviation of the peaks, as a share of the box's longer side.
        dropped: probability that a peak is missing.
        false_peaks: mean number of peaks that belong to nobody, per box.
    """

    flip: float = 0.0
    box_jitter: float = 0.0
    peak_jitter: float = 0.0
    dropped: float = 0.0
    false_peaks: float = 0.0


@dataclass(frozen=True)
class PrnBatch(TensorFields):
    """P people; see ``PoseResidualNetwork.loss``.

    Args:
        crops, labels: [P, K, h, w]; labelled: [P, K] bool.
        names: [P] of the people's pictures, for messages; empty where nobody knows them.
    """

    crops: Tensor
    labels: Tensor
    labelled: Tensor
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrnSamples(TensorFields):
    """The people of a dataset, ready to be drawn into grids.

    Args:
        keypoints: [T, K, 2] float, pixels; visibility: [T, K]; boxes: [T, 4] float, xyxy.
        first: [T] long, the first row of the person's picture; count: [T] long, people in that picture.
        usable: [S] long, rows of the people to learn from, ascending.
        skeleton: whose keypoints.
        names: [T] of the people's pictures; empty where nobody knows them.
    """

    keypoints: Tensor
    visibility: Tensor
    boxes: Tensor
    first: Tensor
    count: Tensor
    usable: Tensor
    skeleton: Skeleton
    names: tuple[str, ...] = ()

    @classmethod
    def from_labels(
        cls, pictures: list[PersonLabels], skeleton: Skeleton, min_keypoints: int = 4, names: Sequence[str] = ()
    ) -> PrnSamples:
        """Samples from the labels of every picture; people with fewer keypoints only surround the others.

        Args:
            pictures: their labels.
            skeleton: whose keypoints.
            min_keypoints: labelled ones that it takes to be learnt from.
            names: of the pictures, for messages.

        Raises:
            ValueError: nobody has that many keypoints.
        """
        counts = np.array([len(labels) for labels in pictures], dtype=np.int64)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        keypoints, visibility, boxes, crowd = (
            np.concatenate([getattr(labels, name) for labels in pictures])
            for name in ("keypoints", "visibility", "boxes", "crowd")
        )
        sides = boxes[:, 2:] - boxes[:, :2]
        enough = ((visibility > 0).sum(1) >= min_keypoints) & ~crowd & (sides > 1).all(1)
        if not enough.any():
            raise ValueError(f"nobody in {len(pictures)} pictures has {min_keypoints} labelled keypoints and a box")
        return cls(
            keypoints=torch.from_numpy(keypoints).float(),
            visibility=torch.from_numpy(visibility),
            boxes=torch.from_numpy(boxes).float(),
            first=torch.from_numpy(first),
            count=torch.from_numpy(np.repeat(counts, counts)),
            usable=torch.from_numpy(np.flatnonzero(enough)),
            skeleton=skeleton,
            names=tuple(name for name, count in zip(names, counts, strict=bool(names)) for _ in range(count)),
        )

    def __len__(self) -> int:
        return len(self.usable)

    def easiest(self, share: float) -> PrnSamples:
        """Only this share of the people to learn from: most labelled keypoints first, then the largest boxes.

        The paper's curriculum (sec. 3.5) as growing sets, which the random order of a pass cannot undo.
        """
        sides = self.boxes[self.usable, 2:] - self.boxes[self.usable, :2]
        order = sides.prod(-1).argsort(descending=True, stable=True)
        labelled = (self.visibility[self.usable[order]] > 0).sum(-1)
        order = order[labelled.argsort(descending=True, stable=True)]
        kept = order[: max(1, round(share * len(self)))].sort().values
        return replace(self, usable=self.usable[kept])

    def batches(
        self, batch_size: int, grid: PersonGrid, augmentation: PrnAugmentation, seed: int, first_step: int = 0
    ) -> Iterator[PrnBatch]:
        """One pass over everybody in random order; order and augmentation depend on ``seed`` alone.

        Args:
            batch_size: people a step; each of several training processes gets its part of every step.
            grid, augmentation: how they are drawn.
            seed: fixes the pass.
            first_step: steps to leave out at the start.
        """
        generator = torch.Generator(self.keypoints.device).manual_seed(seed)
        order = self.usable[torch.randperm(len(self), generator=generator, device=generator.device)]
        yield from draw_steps(
            order.split(batch_size),
            lambda rows, dice: self.draw(rows, grid, augmentation, dice),
            self.names,
            generator,
            first_step,
        )

    def draw(
        self,
        rows: Tensor,
        grid: PersonGrid,
        augmentation: PrnAugmentation | None = None,
        generator: torch.Generator | None = None,
    ) -> PrnBatch:
        """Grids of the people in ``rows`` [P]."""
        augmentation = augmentation or PrnAugmentation()
        people, k = len(rows), self.skeleton.num_keypoints

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=rows.device)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=rows.device)

        boxes = self.boxes[rows]
        sides = boxes[:, 2:] - boxes[:, :2]
        if augmentation.box_jitter:
            boxes = boxes + normal(people, 4) * augmentation.box_jitter * sides.repeat(1, 2)
            boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], dim=1)

        # Everybody in the picture: [P, Q] rows, Q the largest number of people in a picture of this batch.
        slot = torch.arange(int(self.count[rows].max()), device=rows.device)
        there = slot < self.count[rows][:, None]
        neighbours = torch.where(there, self.first[rows][:, None] + slot, rows[:, None])
        points = self.keypoints[neighbours]  # [P, Q, K, 2]
        present = there[..., None] & (self.visibility[neighbours] > 0)
        if augmentation.dropped:
            present = present & (uniform(*present.shape) >= augmentation.dropped)
        if augmentation.peak_jitter:
            points = points + normal(*points.shape) * augmentation.peak_jitter * sides.amax(1)[:, None, None, None]
        near = present & grid.near(points, boxes[:, None, None])
        cells = grid.cells(points, boxes[:, None, None])
        person, _, keypoint = near.nonzero(as_tuple=True)
        cells = cells[near]
        if augmentation.false_peaks:
            made_up = uniform(people, k) < augmentation.false_peaks / k
            extra_person, extra_keypoint = made_up.nonzero(as_tuple=True)
            share = uniform(len(extra_person), 2) * (1 + 2 * grid.margin) - grid.margin
            extra = share * share.new_tensor((grid.size[1], grid.size[0])) - 0.5
            cells = torch.cat([cells, extra])
            person, keypoint = torch.cat([person, extra_person]), torch.cat([keypoint, extra_keypoint])

        labelled = self.visibility[rows] > 0
        batch = PrnBatch(
            crops=grid.draw(cells, person, keypoint, people, k),
            labels=grid.labels(grid.cells(self.keypoints[rows], boxes[:, None]), labelled),
            labelled=labelled,
        )
        if augmentation.flip:
            batch = _mirrored(batch, uniform(people) < augmentation.flip, self.skeleton.flip_indices)
        return batch


def _mirrored(batch: PrnBatch, which: Tensor, flip_indices: list[int]) -> PrnBatch:
    """Mirrors the chosen people's grids and exchanges their left and right keypoints."""

    def flipped(maps: Tensor) -> Tensor:
        return torch.where(which[:, None, None, None], maps.flip(-1)[:, flip_indices], maps)

    labelled = torch.where(which[:, None], batch.labelled[:, flip_indices], batch.labelled)
    return replace(batch, crops=flipped(batch.crops), labels=flipped(batch.labels), labelled=labelled)
