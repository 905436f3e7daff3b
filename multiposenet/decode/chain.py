"""From the shared network's raw outputs to the people of every picture of a batch (MultiPoseNet, fig. 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from multiposenet.decode.boxes import BoxDecoder
from multiposenet.decode.grouping import GroupedPeople
from multiposenet.decode.refinement import Looks, Refinement
from multiposenet.decode.views import View
from multiposenet.geometry import flip_boxes
from multiposenet.heatmap import HeatmapCodec, unflip_heatmaps
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, MultiPoseNetOutputs, Peaks, Poses


@dataclass(frozen=True)
class ChainDecoder:
    """Boxes, peaks, grouping: three steps, each a part that can be exchanged.

    Args:
        codec: finds keypoint peaks in heatmaps.
        boxes: finds person boxes.
        grouping: joins both to people, see ``decode.grouping``.
        skeleton: names the keypoints and says how they mirror.
        appearance: tell the grouping what the heatmaps were predicted from where a peak is; of several views the first.
        refinement: looks at every person once more; None for a network that does not.
    """

    codec: HeatmapCodec
    boxes: BoxDecoder
    grouping: Callable[[Peaks, Detections], GroupedPeople]
    skeleton: Skeleton
    appearance: bool = False
    refinement: Refinement | None = None

    def __call__(self, outputs: MultiPoseNetOutputs) -> list[Poses]:
        """People of each picture, best first, in pixels of the network's input."""
        return self.from_views([View(outputs)])

    def from_views(self, views: Sequence[View], boxes: Detections | None = None) -> list[Poses]:
        """People of each picture that several views agree on, in pixels of the first; ``boxes`` replace the found."""
        if boxes is None:
            return self.poses(*self.find(views), views)
        people = boxes.valid.shape[1]
        peaks, _ = replace(self, codec=self.codec.for_people(people)).find(views)
        return self.poses(peaks, boxes, views)

    def find(self, views: Sequence[View]) -> tuple[Peaks, Detections]:
        """Peaks and person boxes of one view, or those that several agree on, in pixels of the first."""
        return self.detect(views[0].outputs) if len(views) == 1 else self.merge(views)

    def limited(self, box_threshold: float | None = None, max_people: int | None = None) -> ChainDecoder:
        """The same decoder with other limits; None keeps what it has."""
        changes = {"score_threshold": box_threshold, "max_people": max_people}
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self, boxes=replace(self.boxes, **given), codec=self.codec.for_people(max_people or 0))

    def detect(self, outputs: MultiPoseNetOutputs) -> tuple[Peaks, Detections]:
        """Peaks and person boxes in pixels of the network's input."""
        peaks = self._peaks(outputs.heatmaps, outputs.features)
        return peaks, self.boxes(outputs.box_logits, outputs.box_deltas, outputs.image_size)

    def merge(self, views: Sequence[View]) -> tuple[Peaks, Detections]:
        """Peaks and boxes that several views agree on, in pixels of the first view.

        Heatmaps are averaged in the first view's frame; boxes of all views compete in one suppression.
        """
        first = views[0].outputs
        size = first.heatmaps.shape[-2:]
        maps, proposals = [], []
        for view in views:
            heatmaps = view.outputs.heatmaps
            if view.mirrored:
                heatmaps = unflip_heatmaps(heatmaps, self.skeleton.flip_indices)
            maps.append(_resized_maps(heatmaps, size, view.zoom))
            found = self.boxes.propose(view.outputs.box_logits, view.outputs.box_deltas, view.outputs.image_size)
            boxes = flip_boxes(found.boxes, view.outputs.image_size[1]) if view.mirrored else found.boxes
            proposals.append(Detections(boxes / view.zoom, found.scores, found.valid))
        together = Detections(
            *(torch.cat([getattr(p, name) for p in proposals], dim=1) for name in ("boxes", "scores", "valid"))
        )
        return self._peaks(torch.stack(maps).mean(0), first.features), self.boxes.suppress(together)

    def look(self, peaks: Peaks, detections: Detections, views: Sequence[View]) -> tuple[Peaks, Looks | None]:
        """Looks into every box: the peaks with what each box's own maps hold there (``Peaks.seen_by``), and the maps.

        A chain without refinement leaves the peaks as they are.
        """
        if self.refinement is None:
            return peaks, None
        looks = self.refinement.look(detections, views)
        return replace(peaks, seen_by=self.refinement.chances_at(peaks, looks, detections)), looks

    def poses(self, peaks: Peaks, detections: Detections, views: Sequence[View]) -> list[Poses]:
        """Groups peaks around boxes, both found in the views, and sorts each picture's people by score."""
        peaks, looks = self.look(peaks, detections, views)
        people = self.grouping(peaks, detections)
        if looks is not None:
            people = self.refinement.join(people, looks)
        return people.to_poses(detections, self.skeleton, views[0].outputs.image_size)

    def _peaks(self, heatmaps: Tensor, features: Tensor | None) -> Peaks:
        heard = features.float() if self.appearance and features is not None else None
        return self.codec.decode(heatmaps[:, : self.skeleton.num_keypoints].float(), heard)


def _resized_maps(maps: Tensor, size: tuple[int, int], zoom: float) -> Tensor:
    """Maps of a zoomed view in the frame of the first: sampled where the first view's cells lie (half-cell exact)."""
    if zoom == 1.0:
        return maps
    height, width = maps.shape[-2:]
    y = (torch.arange(size[0], device=maps.device, dtype=maps.dtype) + 0.5) * zoom * 2 / height - 1
    x = (torch.arange(size[1], device=maps.device, dtype=maps.dtype) + 0.5) * zoom * 2 / width - 1
    where = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, where, mode="bicubic", padding_mode="border", align_corners=False)
