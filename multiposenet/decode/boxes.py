"""Person boxes from the detector's raw outputs, for a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from multiposenet.anchors import AnchorGrid
from multiposenet.geometry import clip_boxes
from multiposenet.structures import Detections


@dataclass(frozen=True)
class BoxDecoder:
    """Decodes, ranks and thins out boxes (RetinaNet, sec. 4.1; MultiPoseNet, sec. 3.3).

    Args:
        grid: the anchors that the network was trained with.
        score_threshold: boxes below it are dropped.
        nms_threshold: of two boxes whose IoU exceeds it only the better stays.
        candidates: boxes per picture that enter the suppression; None: all of them.
        max_people: boxes per picture that leave it; None: all of them, in as many slots as the fullest picture needs.
        overlap_edge: pixels by which the far edges are moved out when overlaps are measured; 1 for the convention of
            older code, the published one too, that a box includes the pixels of both its edges.
    """

    grid: AnchorGrid
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    candidates: int | None = 512
    max_people: int | None = 32
    overlap_edge: float = 0.0

    def propose(self, logits: Tensor, deltas: Tensor, image_size: tuple[int, int]) -> Detections:
        """The best boxes of each picture before suppression, clipped to the image.

        Args:
            logits: [N, A]; deltas: [N, A, 4]; image_size: (H, W) of the images.
        """
        count = logits.shape[1] if self.candidates is None else min(self.candidates, logits.shape[1])
        top, chosen = logits.topk(count, dim=1)
        anchors = self.grid.anchors(image_size, logits.device)[chosen]
        boxes = self.grid.decode(deltas.gather(1, chosen[..., None].expand(-1, -1, 4)).float(), anchors)
        boxes = clip_boxes(boxes, image_size)
        scores = top.float().sigmoid()
        # Clipping can squeeze a box beyond the border to nothing, and nothing is not a person.
        has_area = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(-1)
        return Detections(boxes, scores, (scores >= self.score_threshold) & has_area)

    def suppress(self, proposals: Detections) -> Detections:
        """Non-maximum suppression in every picture of the batch by one call; at most ``max_people`` boxes remain."""
        n = len(proposals.boxes)
        picture, slot = proposals.valid.nonzero(as_tuple=True)
        boxes, scores = proposals.boxes[picture, slot], proposals.scores[picture, slot]
        measured = boxes + boxes.new_tensor((0, 0, self.overlap_edge, self.overlap_edge))
        keep = batched_nms(measured, scores, picture, self.nms_threshold)  # sorted by score over the batch
        keep = keep[picture[keep].argsort(stable=True)]  # then by picture, still by score within each
        picture, boxes, scores = picture[keep], boxes[keep], scores[keep]
        counts = torch.bincount(picture, minlength=n)
        slots = max(1, int(counts.max())) if self.max_people is None else self.max_people
        rank = torch.arange(len(picture), device=picture.device) - (counts.cumsum(0) - counts)[picture]
        first = rank < slots
        picture, rank = picture[first], rank[first]
        packed_boxes = boxes.new_zeros(n, slots, 4)
        packed_scores = scores.new_zeros(n, slots)
        packed_boxes[picture, rank] = boxes[first]
        packed_scores[picture, rank] = scores[first]
        return Detections(packed_boxes, packed_scores, packed_scores > 0)

    def __call__(self, logits: Tensor, deltas: Tensor, image_size: tuple[int, int]) -> Detections:
        """Raw outputs [N, A] and [N, A, 4] to person boxes in image pixels, best first."""
        return self.suppress(self.propose(logits, deltas, image_size))
