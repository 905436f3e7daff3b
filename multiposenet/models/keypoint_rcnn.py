"""Keypoint R-CNN (He et al., Mask R-CNN, ICCV 2017) and its One-Stage variant (arXiv 2301.04842).

One network finds the people and, in each one's box, the keypoints. The two differ by what pools a box's features and
what head looks at them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from multiposenet.distributed import count_over_processes
from multiposenet.models.backbones import Backbone
from multiposenet.models.input_normalization import InputNormalization
from multiposenet.models.keypoint_rcnn_detection import (
    DetectorRule,
    PersonDetector,
    ProposalNetwork,
    picture_labels,
)
from multiposenet.models.keypoint_rcnn_heads import (
    GlobalContext,
    KeypointHead,
    OneStageKeypointHead,
    reference_name,
)
from multiposenet.models.keypoint_rcnn_pooling import LEVELS, ExpandedBoxPool, PyramidPool
from multiposenet.roi_heatmaps import RoiCodec
from multiposenet.structures import Detections, PoseTargets, RoiOutputs

__all__ = [
    "ExpandedBoxPool",
    "GlobalContext",
    "KeypointHead",
    "KeypointRCNN",
    "OneStageKeypointHead",
    "PyramidPool",
    "reference_name",
]

CHANNELS = 256
"""Width of the pyramid."""

MULTIPLE = 32
"""Images are padded to multiples of the coarsest stage's stride."""


class KeypointRCNN(nn.Module):
    """People's boxes, and the heatmaps of the keypoints in them.

    Args:
        backbone: with the normalisation that it is to have.
        keypoint_pool: (levels by name, boxes of every picture) -> features [R, C, 14, 14].
        keypoint_head: features -> logits [R, K, 56, 56].
        codec: says which cells keypoints lie in.
        rule: see :class:`DetectorRule`.
        keypoint_boxes: most boxes of a picture that enter the keypoints' loss; None: all that are people.
        pyramid_norm: (channels) -> normalisation after every convolution of the pyramid; None: none, as published.
    """

    def __init__(
        self,
        backbone: Backbone,
        keypoint_pool: nn.Module,
        keypoint_head: nn.Module,
        codec: RoiCodec,
        rule: DetectorRule | None = None,
        keypoint_boxes: int | None = None,
        pyramid_norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        rule = DetectorRule() if rule is None else rule
        self.backbone = backbone
        self.pyramid = FeaturePyramidNetwork(backbone.channels, CHANNELS, LastLevelMaxPool(), pyramid_norm)
        self.proposals = ProposalNetwork(CHANNELS, rule)
        self.detector = PersonDetector(CHANNELS, rule)
        self.keypoint_pool = keypoint_pool
        self.keypoint_head = keypoint_head
        self.codec = codec
        self.keypoint_boxes = keypoint_boxes
        self.normalize = InputNormalization()

    def forward(
        self,
        images: Tensor,
        targets: PoseTargets | None = None,
        people: Detections | None = None,
        find: bool = True,
        score_threshold: float | None = None,
        max_people: int | None = None,
        picture_sizes: Sequence[tuple[float, float]] | None = None,
    ) -> tuple[RoiOutputs | None, dict[str, Tensor]]:
        """Finds the people of images and looks for their keypoints.

        Args:
            images: [N, 3, H, W] float, RGB in [0, 1], any H and W.
            targets: labels of the same images; with them losses are returned.
            people: who they are, where that is known; they replace those that would be found.
            find: False: only the losses are wanted, and nobody is looked for.
            score_threshold, max_people: who counts as found, instead of the detector's own rule.
            picture_sizes: (height, width) in image pixels of what is not padding, from the top left corner; boxes that
                are found are clipped to it before one suppresses another. None: images are filled.

        Returns:
            outputs, or None without ``find``, and a dict of scalar losses (empty without targets).
        """
        image_size = tuple(images.shape[-2:])
        picture_sizes = [image_size] * len(images) if picture_sizes is None else list(picture_sizes)
        padded = self._padded(images)
        levels = self._levels(padded)
        labels = None if targets is None else picture_labels(targets)
        # An anchor's place is counted in cells of the padded images: the same ones that the levels come from.
        proposals, losses = self.proposals(ImageList(padded, picture_sizes), levels, labels)
        finest = OrderedDict((name, levels[name]) for name in LEVELS)
        if targets is not None:
            of_boxes, boxes, rows = self.detector.losses(finest, proposals, labels)
            losses |= of_boxes | {"keypoints": self._keypoint_loss(finest, boxes, rows, image_size, targets)}
        if not find:
            return None, losses
        if people is None:
            people = self.detector(finest, proposals, picture_sizes, score_threshold, max_people)
        boxes = [own[valid] for own, valid in zip(people.boxes, people.valid, strict=True)]
        return RoiOutputs(self._heatmaps(finest, boxes), people, image_size), losses

    def _padded(self, images: Tensor) -> Tensor:
        """Normalised images with zeros right and below, up to a multiple of the coarsest stage's stride."""
        images = self.normalize(images)
        return F.pad(images, (0, -images.shape[-1] % MULTIPLE, 0, -images.shape[-2] % MULTIPLE))

    def _levels(self, padded: Tensor) -> Mapping[str, Tensor]:
        """The pyramid's levels by name."""
        return self.pyramid(OrderedDict(zip(LEVELS, self.backbone(padded), strict=True)))

    def _heatmaps(self, levels: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Logits [R, K, 56, 56] of all pictures' boxes."""
        return self.keypoint_head(self.keypoint_pool(levels, list(boxes)))

    def _keypoint_loss(
        self,
        levels: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        rows: Sequence[Tensor],
        image_size: tuple[int, int],
        targets: PoseTargets,
    ) -> Tensor:
        """Softmax cross entropy over a map's cells, a mean over the labelled keypoints (Mask R-CNN, sec. 5).

        Args:
            boxes: of every picture those that are people [P, 4].
            rows: whose they are, rows [P] of the picture's ``targets``.
        """
        pictures = zip(targets.keypoints.float(), targets.visibility > 0, boxes, rows, strict=True)
        chosen = [self._to_learn_from(keypoints[row], seen[row], own) for keypoints, seen, own, row in pictures]
        boxes, keypoints, labelled = (list(part) for part in zip(*chosen, strict=True))
        if not any(map(len, boxes)):
            # The head sees the first picture and learns nothing from it: it takes part in every step of every process,
            # and its batch statistics stay finite.
            height, width = image_size
            boxes[0] = targets.boxes.new_tensor([[0, 0, width, height]])
            keypoints[0], labelled[0] = (part[0].new_zeros(1, *part[0].shape[1:]) for part in (keypoints, labelled))
        logits = self._heatmaps(levels, boxes).float()
        cells, inside = self.codec.encode(torch.cat(keypoints), torch.cat(boxes), logits.shape[-1])
        counts = inside & torch.cat(labelled)
        wrong = F.cross_entropy(logits.flatten(2).flatten(0, 1), cells.flatten(), reduction="none")
        return (wrong * counts.flatten()).sum() / count_over_processes(counts.sum())

    def _to_learn_from(self, keypoints: Tensor, labelled: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [P, 4] of one picture with a labelled keypoint inside, their keypoints, and which are labelled."""
        inside = replace(self.codec, expansion=1.0).encode(keypoints, boxes, size=1)[1]
        usable = (inside & labelled).any(-1).nonzero()[:, 0]
        usable = usable[torch.randperm(len(usable), device=usable.device)[: self.keypoint_boxes]]
        return boxes[usable], keypoints[usable], labelled[usable]
