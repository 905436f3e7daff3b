"""People once more: what a network that looks at one person at a time says about keypoints that are grouped already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from multiposenet.decode.grouping import GroupedPeople
from multiposenet.decode.views import View
from multiposenet.geometry import flip_boxes
from multiposenet.heatmap import unflip_heatmaps
from multiposenet.person_maps import PersonChances, PersonMapCodec
from multiposenet.precision import as_precise_as
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, MultiPoseNetOutputs, Peaks


@dataclass(frozen=True)
class Looks:
    """One person's maps of R people.

    Args:
        picture, slot: [R] long, whose boxes: ``detections.boxes[picture, slot]``.
        frames: [R, 4] what the maps cover, pixels of the first view.
        chances: where each keypoint is.
    """

    picture: Tensor
    slot: Tensor
    frames: Tensor
    chances: PersonChances


@dataclass(frozen=True)
class Refinement:
    """Joins grouped peaks with one person's own maps.

    Where both mean the same place the keypoint is between them. Where they differ a peak that was given to the person
    stays if the person's own maps find it possible. A keypoint without such a peak is where the maps say.

    Args:
        network: (outputs, picture [R], frames [R, 4]) -> logits [R, K, h, w], e.g. ``models.pose_refiner.PoseRefiner``.
        codec: the maps' geometry.
        skeleton: says how keypoints mirror.
        agreement: cells of the maps up to which two places are the same.
        pull: how far towards the maps' place the keypoint is then, as a share of the way from the peak.
        trust: a peak elsewhere stays when its chance by the person's own maps is at least this share of the chance of
            the place that those prefer.
    """

    network: Callable[[MultiPoseNetOutputs, Tensor, Tensor], Tensor]
    codec: PersonMapCodec
    skeleton: Skeleton
    agreement: float = 3.0
    pull: float = 0.3
    trust: float = 0.4

    def leaving_peaks(self) -> Refinement:
        """The same for peaks that are known to be right: they stay where they are, and only guesses give way."""
        return replace(self, agreement=0.0, trust=0.0)

    def look(self, detections: Detections, views: Sequence[View]) -> Looks:
        """Looks into every box, which are in pixels of the first view; the maps of several views are averaged."""
        picture, slot = detections.valid.nonzero(as_tuple=True)
        boxes = detections.boxes[picture, slot]
        logits = torch.stack([self._look(view, picture, boxes) for view in views]).mean(0)
        return Looks(picture, slot, self.codec.frames(boxes), self.codec.chances(logits))

    def chances_at(self, peaks: Peaks, looks: Looks, detections: Detections) -> Tensor:
        """What each box's own maps hold at every peak: [N, K, M, P], ``Peaks.seen_by``."""
        chances = self.codec.chances_at(looks.chances, looks.frames, peaks.xy[looks.picture])
        chances = torch.where(peaks.valid[looks.picture], chances, 0.0)
        table = chances.new_zeros(*detections.valid.shape, *chances.shape[1:])
        return table.index_put((looks.picture, looks.slot), chances).permute(0, 2, 3, 1)

    def join(self, people: GroupedPeople, looks: Looks) -> GroupedPeople:
        """The people, grouped around the boxes that were looked into, with better keypoints."""
        at = (looks.picture, looks.slot)
        own, chances = self.codec.decode(looks.chances, looks.frames)
        given, seen = people.keypoints[at], people.peak_index[at] >= 0
        cell = (looks.frames[:, 2] - looks.frames[:, 0]) / self.codec.size[1]
        same = seen & ((given - own).norm(dim=-1) <= self.agreement * cell[:, None])
        possible = self.codec.chances_at(looks.chances, looks.frames, given[:, :, None])[..., 0]
        stays = seen & (possible >= self.trust * chances)
        places = torch.where(stays[..., None], given, own)
        places = torch.where(same[..., None], torch.lerp(given, own, self.pull), places)
        scores = torch.where(same | stays, people.keypoint_scores[at], chances)
        return replace(
            people,
            keypoints=people.keypoints.index_put(at, places.to(people.keypoints.dtype)),
            keypoint_scores=people.keypoint_scores.index_put(at, scores.to(people.keypoint_scores.dtype)),
        )

    def _look(self, view: View, picture: Tensor, boxes: Tensor) -> Tensor:
        """Logits of the boxes' people, which are in pixels of the first view, as another view shows them."""
        boxes = boxes * view.zoom
        if view.mirrored:
            boxes = flip_boxes(boxes, view.outputs.image_size[1])
        with as_precise_as(view.outputs.features):
            logits = self.network(view.outputs, picture, self.codec.frames(boxes)).float()
        return unflip_heatmaps(logits, self.skeleton.flip_indices) if view.mirrored else logits
