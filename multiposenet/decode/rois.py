"""From the heatmaps of people's boxes to the poses of every picture of a batch, all people at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from multiposenet.decode.crops import distinct
from multiposenet.decode.views import View
from multiposenet.heatmap import unflip_heatmaps
from multiposenet.roi_heatmaps import RoiCodec
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Poses, RoiOutputs


@dataclass(frozen=True)
class RoiDecoder:
    """Keypoints of people whose boxes are known, people ranked.

    Args:
        skeleton: names the keypoints and says how they mirror.
        codec: where in its heatmap a keypoint is.
        rescored: rank people by box score x mean keypoint score instead of by box score.
        oks_nms: of two poses of a picture that are more alike than this, only the better stays; None: all stay.
        box_threshold, max_people: who is looked at; None: whom the network finds.
    """

    skeleton: Skeleton
    codec: RoiCodec
    rescored: bool = False
    oks_nms: float | None = None
    box_threshold: float | None = None
    max_people: int | None = None

    def __post_init__(self) -> None:
        if self.oks_nms is not None and self.skeleton.oks_sigmas is None:
            raise ValueError(
                f"oks_nms compares poses by oks_sigmas, which skeleton {self.skeleton.name!r} does not have"
            )

    def __call__(self, outputs: RoiOutputs) -> list[Poses]:
        """People of each picture, best first, in pixels of the network's input."""
        return self.poses(outputs.heatmaps, outputs.people, outputs.image_size)

    def limited(self, box_threshold: float | None = None, max_people: int | None = None) -> RoiDecoder:
        """The same decoder with other limits; None keeps what it has."""
        changes = {"box_threshold": box_threshold, "max_people": max_people}
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def from_views(self, views: Sequence[View], boxes: Detections | None = None) -> list[Poses]:
        """People of each picture, with the mean of the views' heatmaps, in pixels of the first view.

        Args:
            views: all of the same people, the first not mirrored. Maps are those of boxes, so neither size nor place
                of a view matters to them.
            boxes: not needed: the network has looked at them already.
        """
        first = views[0].outputs
        return self.poses(torch.stack([self._upright(view) for view in views]).mean(0), first.people, first.image_size)

    def poses(self, heatmaps: Tensor, people: Detections, image_size: tuple[int, int]) -> list[Poses]:
        """Poses from logits [R, K, h, w], one row for every valid slot of ``people``."""
        boxes, scores = people.boxes[people.valid], people.scores[people.valid]
        keypoints, keypoint_scores = self.codec.decode(heatmaps, boxes)
        if self.rescored:
            scores = scores * keypoint_scores.mean(-1)
        counts = people.valid.sum(1).tolist()
        parts = zip(*(part.split(counts) for part in (keypoints, keypoint_scores, boxes, scores)), strict=True)
        return [self._sorted(fields, image_size) for fields in parts]

    def _upright(self, view: View) -> Tensor:
        heatmaps = view.outputs.heatmaps.float()
        return unflip_heatmaps(heatmaps, self.skeleton.flip_indices) if view.mirrored else heatmaps

    def _sorted(self, fields: tuple[Tensor, ...], image_size: tuple[int, int]) -> Poses:
        order = fields[-1].argsort(descending=True, stable=True)
        poses = Poses(*(field[order] for field in fields), self.skeleton, image_size)
        return poses if self.oks_nms is None else poses[distinct(poses, self.oks_nms)]
