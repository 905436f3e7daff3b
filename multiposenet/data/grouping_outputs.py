"""A network's own peaks and boxes as what the set assignment learns from: its real errors instead of made-up ones.

The network has run over the training pictures once, and each of its peaks and boxes was given to the person whom it
fits best (``evaluation.grouping_detections``); here those answers become batches, mirrored and rescaled at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from multiposenet.data.grouping_samples import GroupingBatch, oks_spread
from multiposenet.data.label_steps import draw_steps
from multiposenet.geometry import flip_boxes, flip_keypoints
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, TensorFields

UNLABELLED_WEIGHT = 0.1
"""Of the choice of a keypoint that nobody labelled: a peak there may be right or wrong."""

NOBODY_WEIGHT = 0.3
"""Of the choices of a box that is nobody's; a detector with a low threshold has several a person."""


def check_mirroring(flip: float, appearance: bool) -> None:
    """Refuses to mirror pictures, with probability ``flip``, whose peaks have an appearance.

    Raises:
        ValueError: it is to be done; nobody knows the appearance in the mirror image.
    """
    if flip and appearance:
        raise ValueError(f"features cannot be mirrored: flip must be 0 where the grouping hears them, got {flip}")


@dataclass(frozen=True)
class OutputSamples(TensorFields):
    """What a network found in I pictures, and what of it is right; see ``GroupingBatch``.

    Args:
        everything: all pictures as one batch.
        skeleton: whose keypoints.
    """

    everything: GroupingBatch
    skeleton: Skeleton

    @classmethod
    def from_outputs(
        cls,
        peaks: Peaks,
        detections: Detections,
        peak_of: Tensor,
        box_of: Tensor,
        truth: Tensor,
        labelled: Tensor,
        areas: Tensor,
        skeleton: Skeleton,
        names: Sequence[str] = (),
    ) -> OutputSamples:
        """Samples of I pictures with G annotated people.

        Args:
            peaks, detections: what the network found, picture pixels.
            peak_of: [I, G, K] long, the peak that is each person's keypoint, -1 where there is none.
            box_of: [I, G] long, the box (slot) of each person, -1 where there is none.
            truth: [I, G, K, 2]; labelled: [I, G, K] bool; areas: [I, G].
            skeleton: whose keypoints.
            names: of the pictures, for messages.
        """
        pictures, slots = detections.valid.shape
        people = box_of.shape[1]
        # Whose box is it? The other way round; a row for people without a box takes what goes nowhere.
        person = torch.full((pictures, slots + 1), people, device=box_of.device)
        rows = torch.arange(people, device=box_of.device).expand_as(box_of)
        person.scatter_(1, torch.where(box_of >= 0, box_of, slots), rows)
        person = person[:, :slots]
        somebody = (person < people) & detections.valid
        row = torch.where(somebody, person, 0)

        def of_box(values: Tensor, fill: float | bool) -> Tensor:
            shape = (*row.shape, *values.shape[2:])
            at = row.view(*row.shape, *[1] * (values.ndim - 2)).expand(shape)
            known = somebody.view(*row.shape, *[1] * (values.ndim - 2))
            return torch.where(known, values.gather(1, at), fill)

        labelled = of_box(labelled, False)
        weight = torch.where(labelled, 1.0, UNLABELLED_WEIGHT)
        weight = torch.where(somebody[..., None], weight, NOBODY_WEIGHT) * detections.valid[..., None]
        return cls(
            GroupingBatch(
                peaks,
                detections,
                answer=of_box(peak_of, -1),
                truth=of_box(truth, 0.0),
                labelled=labelled,
                weight=weight,
                spread=oks_spread(of_box(areas, 1.0), skeleton),
                somebody=somebody,
                names=tuple(names),
            ),
            skeleton,
        )

    def __len__(self) -> int:
        """Pictures."""
        return len(self.everything.somebody)

    @property
    def people(self) -> int:
        """People who have a box."""
        return int(self.everything.somebody.sum())

    def steps(self, batch_size: int) -> int:
        """About how many batches a pass has."""
        return max(1, self.people // batch_size)

    def batches(
        self, batch_size: int, flip: float, zoom: float, seed: int, first_step: int = 0
    ) -> Iterator[GroupingBatch]:
        """One pass over every picture in random order; order and augmentation depend on ``seed`` alone.

        Args:
            batch_size: people a step, about; each of several training processes gets its part of every step.
            flip: probability that a picture is mirrored.
            zoom: standard deviation of the logarithm of a picture's scale.
            seed: fixes the pass.
            first_step: steps to leave out at the start.

        Raises:
            ValueError: see :func:`check_mirroring`.
        """
        check_mirroring(flip, self.everything.peaks.appearance is not None)
        device = self.everything.somebody.device
        generator = torch.Generator(device).manual_seed(seed)
        order = torch.randperm(len(self), generator=generator, device=device)
        steps = order.tensor_split(self.steps(batch_size))

        def seen_otherwise(pictures: Tensor, dice: torch.Generator) -> GroupingBatch:
            mirrored = torch.rand(len(pictures), generator=dice, device=device) < flip
            scale = (torch.randn(len(pictures), generator=dice, device=device) * zoom).exp()
            return self.draw(pictures, mirrored, scale)

        yield from draw_steps(steps, seen_otherwise, self.everything.names, generator, first_step)

    def draw(self, pictures: Tensor, mirrored: Tensor, scale: Tensor) -> GroupingBatch:
        """The pictures at the positions ``pictures`` [N], mirrored about their left edge [N] and rescaled [N]."""
        whole = self.everything
        swap = self.skeleton.flip_indices

        def seen(values: Tensor, keypoint_axis: int, points: bool = False) -> Tensor:
            """One picture's values a row; of mirrored pictures left and right are exchanged."""
            values = values[pictures]
            other = values.index_select(keypoint_axis, torch.as_tensor(swap, device=values.device))
            if points:
                other = flip_keypoints(other, 0)
            return torch.where(mirrored.view(-1, *[1] * (values.ndim - 1)), other, values)

        def zoomed(points: Tensor) -> Tensor:
            return (points + 0.5) * scale.view(-1, *[1] * (points.ndim - 1)) - 0.5

        boxes = whole.detections.boxes[pictures]
        boxes = torch.where(mirrored[:, None, None], flip_boxes(boxes, 0), boxes) * scale[:, None, None]
        valid = seen(whole.peaks.valid, 1)
        most, slots = _used(valid), _used(whole.detections.valid[pictures])
        evidence = whole.peaks.evidence
        if evidence is not None:
            evidence = seen(evidence, 1)
            # In a mirrored picture the maps of left and right have changed places too.
            evidence = torch.where(mirrored[:, None, None, None], evidence[..., swap], evidence)[:, :, :most]
        peaks = Peaks(
            zoomed(seen(whole.peaks.xy, 1, points=True))[:, :, :most],
            seen(whole.peaks.scores, 1)[:, :, :most],
            valid[:, :, :most],
            evidence,
            None if whole.peaks.appearance is None else whole.peaks.appearance[pictures, :, :most],
            None if whole.peaks.seen_by is None else seen(whole.peaks.seen_by, 1)[:, :, :most, :slots],
        )
        return GroupingBatch(
            peaks,
            Detections(
                boxes[:, :slots],
                whole.detections.scores[pictures, :slots],
                whole.detections.valid[pictures, :slots],
            ),
            answer=seen(whole.answer, 2)[:, :slots],
            truth=zoomed(seen(whole.truth, 2, points=True))[:, :slots],
            labelled=seen(whole.labelled, 2)[:, :slots],
            weight=seen(whole.weight, 2)[:, :slots],
            spread=seen(whole.spread, 2)[:, :slots] * scale.square()[:, None, None],
            somebody=whole.somebody[pictures, :slots],
        )


def _used(valid: Tensor) -> int:
    """How many of the last axis's slots any row uses, at least one."""
    number = torch.arange(1, valid.shape[-1] + 1, device=valid.device)
    return max(1, int((valid * number).max()))
