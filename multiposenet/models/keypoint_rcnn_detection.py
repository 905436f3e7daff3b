"""The person detector of Keypoint R-CNN, on torchvision's parts (Faster R-CNN, Ren et al. 2015; FPN, Lin et al. 2017).

torchvision's modules return losses or boxes depending on their mode, and take every region without a labelled person
for background. Here both come on demand, and people without labels are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image, nms, remove_small_boxes

from multiposenet.distributed import count_over_processes
from multiposenet.geometry import pairwise_iou
from multiposenet.losses import covered_share
from multiposenet.models.keypoint_rcnn_pooling import PyramidPool
from multiposenet.structures import Detections, PoseTargets

ANCHOR_SIZES = ((32,), (64,), (128,), (256,), (512,))
ANCHOR_RATIOS = ((0.5, 1.0, 2.0),) * len(ANCHOR_SIZES)

PERSON = 1
"""The class beside background, 0."""

POOLED_BOX = 7
LEAST_SIDE = 1e-2


@dataclass(frozen=True)
class DetectorRule:
    """Numbers of the detector that are no weights; the defaults are torchvision's and the paper's.

    Args:
        proposals: per picture, after suppression: in training, in use.
        anchor_batch: anchors per picture that enter the proposals' loss, half of them people if there are so many.
        box_batch: proposals per picture that enter the detector's loss, a quarter of them people.
        score_threshold: people below it are not found.
        nms_threshold: of two boxes whose IoU exceeds it only the better stays.
        max_people: most people a picture.
        ignore_share: a region that is no person is not background either, when this share of it shows people without
            labels.
    """

    proposals: tuple[int, int] = (2000, 1000)
    anchor_batch: int = 256
    box_batch: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_people: int = 100
    ignore_share: float = 0.5


@dataclass(frozen=True)
class PictureLabels:
    """What one picture's labels say to a detector.

    Args:
        boxes: [P, 4] of people that should be found.
        rows: [P] long, where they stand in the picture's ``PoseTargets``.
        ignore_mask: [h, w] bool, see ``PoseTargets``.
        stride: image pixels per cell of the mask.
    """

    boxes: Tensor
    rows: Tensor
    ignore_mask: Tensor
    stride: int

    def unlabelled(self, boxes: Tensor, share: float) -> Tensor:
        """Which boxes [A, 4] show, for that share or more, people without labels."""
        return covered_share(boxes, self.ignore_mask[None], self.stride)[0] >= share


def picture_labels(targets: PoseTargets) -> list[PictureLabels]:
    """The labels of every picture; boxes without area are left out, they cannot be found."""
    has_area = ((targets.boxes[..., 2:] - targets.boxes[..., :2]) > 0).all(-1)
    rows = [usable.nonzero()[:, 0] for usable in targets.valid & has_area]
    return [
        PictureLabels(boxes[own], own, mask, targets.stride)
        for boxes, own, mask in zip(targets.boxes.float(), rows, targets.ignore_mask, strict=True)
    ]


class ProposalNetwork(RegionProposalNetwork):
    """The region proposal network on all five levels.

    Args:
        channels: of the pyramid.
        rule: see :class:`DetectorRule`.
    """

    def __init__(self, channels: int, rule: DetectorRule) -> None:
        counts = dict(zip(("training", "testing"), rule.proposals, strict=True))
        anchors = AnchorGenerator(ANCHOR_SIZES, ANCHOR_RATIOS)
        head = RPNHead(channels, len(ANCHOR_RATIOS[0]))
        super().__init__(anchors, head, 0.7, 0.3, rule.anchor_batch, 0.5, counts, counts, nms_thresh=0.7)
        self.ignore_share = rule.ignore_share

    def forward(
        self, images: ImageList, features: Mapping[str, Tensor], labels: Sequence[PictureLabels] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals [P, 4] of every picture, best first, and with labels the losses.

        Args:
            images: as the features saw them, padded; their ``image_sizes`` are those of the pictures, to which
                proposals are clipped.
            features: P2 to P6 by name.
            labels: of every picture.

        Returns:
            proposals; ``proposal_logits`` and ``proposal_deltas``, scalars, or nothing.
        """
        levels = list(features.values())
        logits, deltas = self.head(levels)
        counts = [level[0].numel() for level in logits]
        logits, deltas = (part.float() for part in concat_box_prediction_layers(logits, deltas))
        anchors = self._anchors(images, levels)
        boxes = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = self.filter_proposals(boxes, logits, images.image_sizes, counts)
        if labels is None:
            return proposals, {}
        is_person, matched = self.assign_targets_to_anchors(anchors, [{"boxes": own.boxes} for own in labels])
        for mine, own, place in zip(is_person, labels, anchors, strict=True):
            mine[(mine == 0) & own.unlabelled(place, self.ignore_share)] = -1  # not sampled
        positive, negative = (torch.cat(part).bool() for part in self.fg_bg_sampler(is_person))
        wanted = torch.cat(self.box_coder.encode(matched, anchors))
        sampled = positive | negative
        count = count_over_processes(sampled.sum())
        wrong = F.binary_cross_entropy_with_logits(
            logits.flatten()[sampled], positive[sampled].float(), reduction="sum"
        )
        return proposals, {
            "proposal_logits": wrong / count,
            "proposal_deltas": _distance(deltas[positive], wanted[positive]) / count,
        }

    def _anchors(self, images: ImageList, levels: Sequence[Tensor]) -> list[Tensor]:
        """Anchors [A, 4] of every picture, in single precision whatever the features are in.

        torchvision takes the features' dtype: in bfloat16, which has 8 bits for a coordinate, anchors move by pixels.
        """
        grids = [level.new_empty(level.shape[-2:], dtype=torch.float32) for level in levels]
        return self.anchor_generator(images, grids)


class PersonDetector(RoIHeads):
    """Classifies proposals and corrects their boxes.

    Args:
        channels: of the pyramid.
        rule: see :class:`DetectorRule`.
    """

    def __init__(self, channels: int, rule: DetectorRule) -> None:
        super().__init__(
            box_roi_pool=PyramidPool(POOLED_BOX),
            box_head=TwoMLPHead(channels * POOLED_BOX**2, 1024),
            box_predictor=FastRCNNPredictor(1024, num_classes=PERSON + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=rule.box_batch,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=rule.score_threshold,
            nms_thresh=rule.nms_threshold,
            detections_per_img=rule.max_people,
        )
        self.ignore_share = rule.ignore_share

    def forward(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        picture_sizes: Sequence[tuple[float, float]],
        score_threshold: float | None = None,
        max_people: int | None = None,
    ) -> Detections:
        """The people of every picture, best first.

        Args:
            features: P2 to P5 by name.
            proposals: [P, 4] of every picture.
            picture_sizes: (height, width) of the pictures; boxes are clipped to them.
            score_threshold, max_people: instead of the rule's.
        """
        limits = (
            self.score_thresh if score_threshold is None else score_threshold,
            self.detections_per_img if max_people is None else max_people,
        )
        logits, deltas = self._predict(features, proposals)
        counts = [len(own) for own in proposals]
        boxes = self.box_coder.decode(deltas, list(proposals))[:, PERSON].split(counts)
        scores = logits.softmax(-1)[:, PERSON].split(counts)
        parts = zip(boxes, scores, picture_sizes, strict=True)
        found_boxes, found_scores = zip(*(self._suppress(*part, *limits) for part in parts), strict=True)
        padded = pad_sequence(found_scores, batch_first=True)
        return Detections(pad_sequence(found_boxes, batch_first=True), padded, padded > 0)

    def losses(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        labels: Sequence[PictureLabels],
    ) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
        """Losses, and which proposals are whom.

        Returns:
            ``box_logits`` and ``box_deltas``, scalars; of every picture the sampled proposals that are people [P, 4],
            and the people's rows [P] in the picture's ``PoseTargets``.
        """
        usable = [self._labelled(own, label) for own, label in zip(proposals, labels, strict=True)]
        targets = [{"boxes": label.boxes, "labels": torch.full_like(label.rows, PERSON)} for label in labels]
        sampled, matched, classes, wanted = self.select_training_samples(usable, targets)
        logits, deltas = self._predict(features, sampled)
        is_person, wanted = torch.cat(classes) == PERSON, torch.cat(wanted)
        count = count_over_processes(is_person.new_tensor(len(is_person), dtype=torch.float))
        losses = {
            "box_logits": F.cross_entropy(logits, is_person.long(), reduction="sum") / count,
            "box_deltas": _distance(deltas[is_person, PERSON], wanted[is_person]) / count,
        }
        people = [own == PERSON for own in classes]
        boxes = [own[mine] for own, mine in zip(sampled, people, strict=True)]
        rows = [label.rows[own[mine]] for label, own, mine in zip(labels, matched, people, strict=True)]
        return losses, boxes, rows

    def _predict(self, features: Mapping[str, Tensor], proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits [R, 2] and box offsets [R, 2, 4] of all pictures' proposals."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals)))
        return logits.float(), deltas.float().unflatten(1, (-1, 4))

    def _labelled(self, proposals: Tensor, label: PictureLabels) -> Tensor:
        """Without those that show nobody with a box, but people without labels."""
        is_person = (pairwise_iou(proposals, label.boxes) >= 0.5).any(-1)
        return proposals[is_person | ~label.unlabelled(proposals, self.ignore_share)]

    def _suppress(
        self, boxes: Tensor, scores: Tensor, picture_size: tuple[float, float], threshold: float, count: int
    ) -> tuple[Tensor, Tensor]:
        boxes = clip_boxes_to_image(boxes, picture_size)
        kept = (scores > threshold).nonzero()[:, 0]
        kept = kept[remove_small_boxes(boxes[kept], LEAST_SIDE)]
        kept = kept[nms(boxes[kept], scores[kept], self.nms_thresh)][:count]
        return boxes[kept], scores[kept]


def _distance(deltas: Tensor, wanted: Tensor) -> Tensor:
    return F.smooth_l1_loss(deltas, wanted, beta=1 / 9, reduction="sum")
