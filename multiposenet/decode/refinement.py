"""People once more: what a network that looks at one person at a time says about keypoints that are grouped already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from multiposenet.decode.chain import View
from multiposenet.decode.grouping import GroupedPeople
from multiposenet.geometry import flip_boxes
from multiposenet.heatmap import unflip_heatmaps
from multiposenet.person_maps import PersonMapCodec
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, MultiPoseNetOutputs


@dataclass(frozen=True)
class Refinement:
    """Joins grouped peaks with one person's own maps.

    Where both mean the same place the keypoint is half-way between them. Where they differ a peak that was given to the
    person stays: it was seen. A keypoint without a peak, so far guessed from the others, is where the maps say.

    Args:
        network: (outputs, picture [R], frames [R, 4]) -> logits [R, K, h, w], e.g. ``models.pose_refiner.PoseRefiner``.
        codec: the maps' geometry.
        skeleton: says how keypoints mirror.
        agreement: cells of the maps up to which two places are the same.
    """

    network: Callable[[MultiPoseNetOutputs, Tensor, Tensor], Tensor]
    codec: PersonMapCodec
    skeleton: Skeleton
    agreement: float = 2.0

    def __call__(self, people: GroupedPeople, detections: Detections, views: Sequence[View]) -> GroupedPeople:
        """The same people with better keypoints.

        Args:
            people: in the slots of ``detections``, in pixels of the first view.
            detections: the boxes that they were grouped around.
            views: the network's answers; the maps of several are averaged.
        """
        picture, slot = detections.valid.nonzero(as_tuple=True)
        if not len(picture):
            return people
        boxes = detections.boxes[picture, slot]
        frames = self.codec.frames(boxes)
        logits = torch.stack([self._look(view, picture, boxes) for view in views]).mean(0)
        own, chances = self.codec.decode(logits, frames)

        given = people.keypoints[picture, slot]
        seen = people.peak_index[picture, slot] >= 0
        cell = (frames[:, 2] - frames[:, 0]) / self.codec.size[1]
        same = (given - own).norm(dim=-1) <= self.agreement * cell[:, None]
        places = torch.where((seen & same)[..., None], (given + own) / 2, torch.where(seen[..., None], given, own))
        scores = torch.where(seen, people.keypoint_scores[picture, slot], chances)

        def in_slots(values: Tensor, before: Tensor) -> Tensor:
            return before.index_put((picture, slot), values.to(before.dtype))

        return replace(
            people,
            keypoints=in_slots(places, people.keypoints),
            keypoint_scores=in_slots(scores, people.keypoint_scores),
        )

    def _look(self, view: View, picture: Tensor, boxes: Tensor) -> Tensor:
        """Logits of the boxes' people, which are in pixels of the first view, as another view shows them."""
        boxes = boxes * view.zoom
        if view.mirrored:
            boxes = flip_boxes(boxes, view.outputs.image_size[1])
        logits = self.network(view.outputs, picture, self.codec.frames(boxes)).float()
        return unflip_heatmaps(logits, self.skeleton.flip_indices) if view.mirrored else logits
