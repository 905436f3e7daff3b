"""Losses of the shared network. Unlabelled people are not background: the ignore mask enters every loss here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from multiposenet.anchors import AnchorGrid
from multiposenet.crop_losses import cell_nats
from multiposenet.distributed import count_over_processes
from multiposenet.geometry import pairwise_iou
from multiposenet.heatmap import HeatmapCodec
from multiposenet.person_maps import PersonMapCodec
from multiposenet.structures import MultiPoseNetOutputs, PoseTargets


def squared_error(maps: Tensor, wanted: Tensor) -> Tensor:
    """(maps - wanted)^2, cell by cell: of heights (MultiPoseNet, sec. 3.2)."""
    return (maps - wanted) ** 2


def soft_focal_error(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of chances with soft labels, weighed by how wrong they are: |sigmoid(logits) - wanted|^2 x CE.

    The focal loss for labels between 0 and 1 (Li et al., *Generalized Focal Loss*, NeurIPS 2020, eq. 5, beta 2). Unlike
    a squared error it still pulls hard where a map is empty and should not be.
    """
    wrong = torch.sigmoid(logits) - wanted
    return wrong**2 * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


@dataclass(frozen=True)
class MapAnswer:
    """What the keypoint subnet's maps say, and by which error they learn to.

    Args:
        error: (maps, wanted in [0, 1]) -> error of every cell.
        heights: the subnet's maps -> heights in about [0, 1].
        start: value of the maps that the subnet starts from, before it has learnt anything.
    """

    error: Callable[[Tensor, Tensor], Tensor]
    heights: Callable[[Tensor], Tensor]
    start: float


MAP_ANSWERS = {
    "heights": MapAnswer(squared_error, heights=lambda maps: maps, start=0.0),
    "chances": MapAnswer(soft_focal_error, heights=torch.sigmoid, start=-4.6),
}
"""``heights`` is the paper's; ``chances`` (logits) starts from 1 %, about what a map holds."""


class KeypointLoss(nn.Module):
    """Errors of heatmaps and person mask, W . ||H_t - H_p||^2 in the paper (MultiPoseNet, sec. 3.2 and 3.5).

    W is 0 on the keypoint maps where people are unlabelled (crowds, people without keypoints), and on the mask map
    where it is unknown whether a cell is person. Keypoint maps are divided by the number of labelled keypoints, the
    mask by the number of cells, so that neither depends on picture size or batch.

    Args:
        codec: draws the target heatmaps.
        intermediate_weight: weight of each intermediate level's maps; with 0 they learn nothing.
        mask_weight: weight of the person mask's mean error.
        peak_weight: how much more a peak's cell counts than an empty one: W is 1 + ``peak_weight`` x target. 0 is the
            paper's loss; more makes a network from scratch leave the empty map, its first answer, sooner.
        answer: what the maps mean; the paper's heights unless told.
    """

    def __init__(
        self,
        codec: HeatmapCodec,
        intermediate_weight: float = 0.25,
        mask_weight: float = 1.0,
        peak_weight: float = 0.0,
        answer: MapAnswer = MAP_ANSWERS["heights"],
    ) -> None:
        super().__init__()
        self.codec = codec
        self.intermediate_weight = intermediate_weight
        self.mask_weight = mask_weight
        self.peak_weight = peak_weight
        self.answer = answer

    def forward(
        self, maps: Tensor, supervised: list[Tensor], targets: PoseTargets, image_size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Losses of predicted maps [N, K + 1, h, w] and intermediate maps (the same, plus a background map if any).

        Returns:
            ``heatmaps``, ``person_mask`` and, with intermediate maps, ``intermediate``: scalars.
        """
        heatmaps = self.codec.encode(targets.keypoints, targets.visibility, image_size)
        labelled = count_over_processes((targets.visibility > 0).sum())
        labelled_cells = (~targets.ignore_mask).float()[:, None]
        keypoint_weight = labelled_cells * (1 + self.peak_weight * heatmaps) if self.peak_weight else labelled_cells
        # People without labelled keypoints still teach the mask; only people whose shape nobody drew do not.
        mask_weight = (~targets.unknown).float()[:, None]
        drawn, cells = count_over_processes(mask_weight.sum()), count_over_processes(labelled_cells.sum())
        person_mask = targets.person_mask[:, None]
        background = 1 - heatmaps.amax(dim=1, keepdim=True)
        k = heatmaps.shape[1]

        def error(predicted: Tensor, wanted: Tensor, weight: Tensor, count: Tensor) -> Tensor:
            # A part that the network does not have (mask, background) has no maps and adds nothing.
            wanted = wanted.expand(-1, predicted.shape[1], -1, -1)
            return (weight * self.answer.error(predicted.float(), wanted)).sum() / count

        def keypoint_error(predicted: Tensor) -> Tensor:
            return error(predicted[:, :k], heatmaps, keypoint_weight, labelled)

        def mask_error(predicted: Tensor) -> Tensor:
            return self.mask_weight * error(predicted[:, k : k + 1], person_mask, mask_weight, drawn)

        def background_error(predicted: Tensor) -> Tensor:
            return error(predicted[:, k + 1 :], background, labelled_cells, cells)

        def every_error(level: Tensor) -> Tensor:
            # What weighs nothing need not be compared. Yet it takes part: where processes train together, they wait for
            # every parameter's gradient.
            if not self.intermediate_weight:
                return level.float().sum()
            return keypoint_error(level) + mask_error(level) + background_error(level)

        losses = {"heatmaps": keypoint_error(maps), "person_mask": mask_error(maps)}
        if supervised:
            losses["intermediate"] = self.intermediate_weight * sum(map(every_error, supervised))
        return losses


class DetectionLoss(nn.Module):
    """Focal loss and smooth L1 of the person detector (Lin et al., ICCV 2017, sec. 3 and 4).

    An anchor is a person from IoU ``positive`` with a box, background below ``negative``, and nothing between. Every
    box also claims the anchor that fits it best. An anchor that is not a person but lies mostly on unlabelled people
    (``ignore_share`` of its area in the ignore mask) is nothing either. Both losses are multiplied by ``weight``: what
    the detector's may take of the shared parts from the keypoints'.
    """

    def __init__(
        self,
        grid: AnchorGrid,
        positive: float = 0.5,
        negative: float = 0.4,
        ignore_share: float = 0.5,
        alpha: float = 0.25,
        gamma: float = 2.0,
        beta: float = 1 / 9,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.grid, self.weight = grid, weight
        self.positive, self.negative, self.ignore_share = positive, negative, ignore_share
        self.alpha, self.gamma, self.beta = alpha, gamma, beta

    def forward(
        self, logits: Tensor, deltas: Tensor, targets: PoseTargets, image_size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Losses of logits [N, A] and deltas [N, A, 4]; both divided by the number of person anchors.

        Returns:
            ``box_logits`` and ``box_deltas``: scalars.
        """
        anchors = self.grid.anchors(image_size, logits.device)
        matched, is_person, counts = self.assign(anchors, targets)
        num_person = count_over_processes(is_person.sum())
        focal = sigmoid_focal_loss(logits.float(), is_person.float(), alpha=self.alpha, gamma=self.gamma)
        boxes = targets.boxes.gather(1, matched[..., None].expand(-1, -1, 4))
        wanted = self.grid.encode(boxes[is_person], anchors.expand_as(deltas)[is_person])
        distance = F.smooth_l1_loss(deltas[is_person].float(), wanted, beta=self.beta, reduction="sum")
        return {
            "box_logits": self.weight * torch.where(counts, focal, 0.0).sum() / num_person,
            "box_deltas": self.weight * distance / num_person,
        }

    @torch.no_grad()
    def assign(self, anchors: Tensor, targets: PoseTargets) -> tuple[Tensor, Tensor, Tensor]:
        """Matches anchors [A, 4] to the boxes of every picture at once.

        Returns:
            matched [N, A] long (row of ``targets.boxes``), is_person [N, A] bool, counts [N, A] bool (person or
            background; the rest enters no loss).
        """
        # Boxes without area (padding, or squeezed flat by clipping) can be matched by nothing.
        sides = targets.boxes[..., 2:] - targets.boxes[..., :2]
        usable = targets.valid & (sides > 0).all(-1)
        iou = pairwise_iou(anchors[None], targets.boxes) * usable[:, None, :]
        best_iou, matched = iou.max(dim=-1)
        is_person = best_iou >= self.positive
        # Low-quality matches: each box claims its best anchors, so that no person goes untaught.
        best_of_box = iou.amax(dim=1, keepdim=True)
        claimed = (iou == best_of_box) & (best_of_box > 0)
        claims = claimed.any(-1)
        matched = torch.where(claims & ~is_person, claimed.float().argmax(-1), matched)
        is_person = is_person | claims
        unlabelled = covered_share(anchors, targets.ignore_mask, targets.stride) >= self.ignore_share
        is_background = (best_iou < self.negative) & ~is_person & ~unlabelled
        return matched, is_person, is_person | is_background


class RefinerLoss(nn.Module):
    """Cross-entropy of one person's maps with their labels, around boxes as wrong as a detector's.

    The loss of Mask R-CNN's keypoint head (He et al., ICCV 2017, sec. 5) with labels as wide as a Gaussian. Only
    keypoints that are labelled and lie in their map count.

    Args:
        codec: the maps' geometry and labels.
        weight: of the loss.
        box_noise: standard deviation of the noise on each side of a true box, a share of the box.
    """

    def __init__(self, codec: PersonMapCodec, weight: float = 0.5, box_noise: float = 0.04) -> None:
        super().__init__()
        self.codec, self.weight, self.box_noise = codec, weight, box_noise

    def forward(
        self,
        refiner: Callable[[MultiPoseNetOutputs, Tensor, Tensor], Tensor],
        outputs: MultiPoseNetOutputs,
        targets: PoseTargets,
    ) -> dict[str, Tensor]:
        """Looks at all people of the batch who have a labelled keypoint.

        Args:
            refiner: (outputs, picture [R], frames [R, 4]) -> logits [R, K, h, w].
            outputs: of the shared network for the batch's images; targets: in the images' pixels.

        Returns:
            ``refiner``: a scalar, in nats a keypoint.
        """
        visible = targets.visibility > 0
        taught = targets.valid & visible.any(-1)
        # Where there is nobody it looks at what is there and learns nothing, so that every process has a gradient.
        some = taught if bool(taught.any()) else torch.ones_like(taught)
        picture, slot = some.nonzero(as_tuple=True)
        frames = self.codec.frames(self._noisy(targets.boxes[picture, slot]))
        logits = refiner(outputs, picture, frames)
        labels, inside = self.codec.encode(targets.keypoints[picture, slot], frames)
        counts = visible[picture, slot] & taught[picture, slot][:, None] & inside
        nats = torch.where(counts, cell_nats(logits, labels), 0.0).sum()
        return {"refiner": self.weight * nats / count_over_processes(counts.sum())}

    def _noisy(self, boxes: Tensor) -> Tensor:
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        return boxes + self.box_noise * sides * torch.randn_like(boxes)


def covered_share(anchors: Tensor, mask: Tensor, stride: int) -> Tensor:
    """Share [N, A] of each anchor's part inside the picture that the mask [N, h, w] covers, by an integral image."""
    height, width = mask.shape[1:]
    integral = F.pad(mask.float().cumsum(-1).cumsum(-2), (1, 0, 1, 0)).flatten(1)
    x1, x2 = ((anchors[:, i] / stride).round().long().clamp(0, width) for i in (0, 2))
    y1, y2 = ((anchors[:, i] / stride).round().long().clamp(0, height) for i in (1, 3))

    def at(y: Tensor, x: Tensor) -> Tensor:
        return integral[:, y * (width + 1) + x]

    covered = at(y2, x2) - at(y1, x2) - at(y2, x1) + at(y1, x1)
    return covered / ((x2 - x1) * (y2 - y1)).clamp(min=1)
