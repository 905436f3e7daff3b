"""From the heatmaps of people's crops to the poses of every picture of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from multiposenet.crop_heatmaps import CropPositions
from multiposenet.crops import CropRule, CropWindows
from multiposenet.evaluation.oks import keypoint_similarity
from multiposenet.heatmap import unflip_heatmaps
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonBoxes, Poses


@dataclass(frozen=True)
class CropDecoder:
    """Positions in crops, back into the pictures, people ranked.

    Args:
        skeleton: names the keypoints and says how they mirror.
        rule: what the crops are cut by.
        positions: finds a keypoint in its map.
        score_offset: added to every keypoint's score before the mean that ranks people; the published code adds 0.5.
        box_threshold: boxes below it are not looked into.
        max_people: boxes of a picture to look into, the best; None: all.
        oks_nms: of two poses of a picture that are more alike than this, only the better stays; None: all stay.
    """

    skeleton: Skeleton
    rule: CropRule
    positions: CropPositions
    score_offset: float = 0.0
    box_threshold: float = 0.0
    max_people: int | None = None
    oks_nms: float | None = None

    def __post_init__(self) -> None:
        if self.oks_nms is not None and self.skeleton.oks_sigmas is None:
            raise ValueError(
                f"oks_nms needs oks_sigmas, which skeleton {self.skeleton.name!r} does not have"
            )

    def limited(self, box_threshold: float | None = None, max_people: int | None = None) -> CropDecoder:
        """The same decoder with other limits; None keeps what it has."""
        changes = {"box_threshold": box_threshold, "max_people": max_people}
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def select(self, boxes: PersonBoxes) -> PersonBoxes:
        """Those boxes of a picture that are worth a look, best first."""
        order = np.argsort(-boxes.scores, kind="stable")
        order = order[boxes.scores[order] >= self.box_threshold][: self.max_people]
        return PersonBoxes(boxes.boxes[order], boxes.scores[order])

    def unflipped(self, heatmaps: Tensor) -> Tensor:
        """Maps of mirrored crops in the frame and keypoint order of the crops."""
        return unflip_heatmaps(heatmaps, self.skeleton.flip_indices)

    def __call__(
        self,
        heatmaps: Tensor,
        windows: CropWindows,
        boxes: Sequence[PersonBoxes],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Poses]:
        """People of each picture, best first, in its pixels.

        Args:
            heatmaps: [P, K, h, w], peaks of height 1, of all pictures' people one after the other.
            windows: of the P crops; the crops' size is a multiple of the maps'.
            boxes: of every picture, as many as it has crops.
            image_sizes: (height, width) of every picture.
        """
        stride = windows.size[0] // heatmaps.shape[-2]
        xy, heights = self.positions.locate(heatmaps.float(), stride)
        keypoints = windows.keypoints_to_image(xy)
        scores = heights.clamp(0, 1)
        box_scores = torch.from_numpy(np.concatenate([own.scores for own in boxes])).to(heatmaps.device)
        # Divided so that it stays in [0, 1]; the order is that of box score x mean of (score + offset).
        person_scores = box_scores * (heights.mean(-1) + self.score_offset).clamp(min=0) / (1 + self.score_offset)
        counts = [len(own) for own in boxes]
        parts = zip(
            keypoints.split(counts), scores.split(counts), person_scores.split(counts), boxes, image_sizes, strict=True
        )
        return [self._poses(*part) for part in parts]

    def _poses(
        self,
        keypoints: Tensor,
        keypoint_scores: Tensor,
        scores: Tensor,
        boxes: PersonBoxes,
        image_size: tuple[int, int],
    ) -> Poses:
        order = scores.argsort(descending=True, stable=True)
        poses = Poses(
            keypoints=keypoints[order],
            keypoint_scores=keypoint_scores[order],
            boxes=torch.from_numpy(boxes.boxes).to(keypoints.device)[order],
            scores=scores[order].clamp(max=1),  # a map's top can overshoot; people are ranked by what it says
            skeleton=self.skeleton,
            image_size=image_size,
        )
        return poses if self.oks_nms is None else poses[distinct(poses, self.oks_nms)]


def distinct(poses: Poses, threshold: float) -> Tensor:
    """Which people [P] bool of one picture are nobody's double: of two with a larger OKS only the better stays.

    The area that OKS compares distances with is that of the better one's box.
    """
    offsets = poses.keypoints[:, None] - poses.keypoints[None]
    areas = (poses.boxes[:, 2:] - poses.boxes[:, :2]).prod(-1)
    sigmas = poses.keypoints.new_tensor(poses.skeleton.oks_sigmas)
    alike = keypoint_similarity(offsets.square().sum(-1), areas[:, None, None], sigmas).mean(-1) > threshold
    alike = alike.triu(1).cpu().numpy()
    kept = np.ones(len(poses), bool)
    for person in range(len(poses)):  # each decision rests on those before it
        if kept[person]:
            kept &= ~alike[person]
    return torch.from_numpy(kept).to(poses.scores.device)
