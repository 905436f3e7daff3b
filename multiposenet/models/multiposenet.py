"""MultiPoseNet: one backbone, two pyramids, a keypoint subnet and a person detector (Kocabas et al., ECCV 2018)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from multiposenet.losses import DetectionLoss, KeypointLoss, RefinerLoss
from multiposenet.models.backbones import Backbone
from multiposenet.models.detection_subnet import DetectionSubnet
from multiposenet.models.input_normalization import InputNormalization
from multiposenet.models.keypoint_subnet import KeypointSubnet
from multiposenet.models.pose_refiner import PoseRefiner
from multiposenet.structures import MultiPoseNetOutputs, PoseTargets

TASKS = ("keypoints", "detection")
P6_SOURCES = ("C5", "P5")


class Pyramid(nn.Module):
    """A feature pyramid (Lin et al., CVPR 2017) over some of the backbone's stages, by torchvision.

    Args:
        stages: which backbone stages feed it, e.g. (0, 1, 2, 3) for C2..C5.
        in_channels: channels of those stages.
        channels: width of the pyramid.
        smooth_top: 3x3 convolution on the topmost level too. The paper smooths every level; the reference layout
            leaves K5 as it is.
        extra_levels: append P6 and P7, strided convolutions (RetinaNet).
        p6_from: ``"C5"`` (RetinaNet), or ``"P5"`` as in torchvision's first RetinaNet.

    Raises:
        ValueError: unknown ``p6_from``.
    """

    def __init__(
        self,
        stages: Sequence[int],
        in_channels: Sequence[int],
        channels: int,
        smooth_top: bool = True,
        extra_levels: bool = False,
        p6_from: str = "C5",
    ) -> None:
        super().__init__()
        if p6_from not in P6_SOURCES:
            raise ValueError(f"p6_from must be one of {P6_SOURCES}, got {p6_from!r}")
        self.stages = tuple(stages)
        extra = LastLevelP6P7(in_channels[-1] if p6_from == "C5" else channels, channels) if extra_levels else None
        self.fpn = FeaturePyramidNetwork(list(in_channels), channels, extra_blocks=extra)
        if extra is not None:
            # torchvision takes P6 from P5 when the widths happen to agree; here it is from where it was told.
            extra.use_P5 = p6_from == "P5"
        if not smooth_top:
            self.fpn.layer_blocks[-1] = nn.Identity()

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[C2, ..., C5] -> pyramid levels, finest first."""
        return list(self.fpn(OrderedDict((str(stage), features[stage]) for stage in self.stages)).values())


class MultiPoseNet(nn.Module):
    """The shared network with the pose residual network beside it.

    ``outputs, losses = model(images, targets=None)``; the grouping's network (``model.prn``: the PRN, or another that
    stands in its place) is a part of the model, trained by itself and called by the decoder on peaks and boxes.

    Args:
        backbone, keypoint_pyramid, keypoint_subnet, detection_pyramid, detection_subnet, prn: the parts.
        keypoint_loss, detection_loss: what ``targets`` are compared by.
        refiner, refiner_loss: looks at every person once more; None for a network that does not. Like the grouping's
            network it is called by the decoder, on the people found; in training on the true ones.
    """

    def __init__(
        self,
        backbone: Backbone,
        keypoint_pyramid: Pyramid,
        keypoint_subnet: KeypointSubnet,
        detection_pyramid: Pyramid,
        detection_subnet: DetectionSubnet,
        prn: nn.Module,
        keypoint_loss: KeypointLoss,
        detection_loss: DetectionLoss,
        refiner: PoseRefiner | None = None,
        refiner_loss: RefinerLoss | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.keypoint_pyramid = keypoint_pyramid
        self.keypoint_subnet = keypoint_subnet
        self.detection_pyramid = detection_pyramid
        self.detection_subnet = detection_subnet
        self.prn = prn
        self.keypoint_loss = keypoint_loss
        self.detection_loss = detection_loss
        self.refiner = refiner
        self.refiner_loss = refiner_loss
        self.normalize = InputNormalization()

    def forward(
        self, images: Tensor, targets: PoseTargets | None = None, tasks: Sequence[str] = TASKS
    ) -> tuple[MultiPoseNetOutputs, dict[str, Tensor]]:
        """Runs the shared network.

        Args:
            images: [N, 3, H, W] float, RGB in [0, 1], any H and W (maps are ceil(H / 4) x ceil(W / 4)).
            targets: labels of the same images; with them losses are returned.
            tasks: which subnets to run; outputs of the others are None.

        Returns:
            outputs and a dict of scalar losses (empty without targets).
        """
        image_size = tuple(images.shape[-2:])
        losses: dict[str, Tensor] = {}
        heatmaps = box_logits = box_deltas = merged = pyramid = None
        features = self.backbone(self.normalize(images))

        if "keypoints" in tasks:
            pyramid = self.keypoint_pyramid(features)
            maps, merged = self.keypoint_subnet(pyramid)
            heatmaps = self.keypoint_loss.answer.heights(maps.float())
            if targets is not None:
                supervised = self.keypoint_subnet.supervised(pyramid)
                losses |= self.keypoint_loss(maps, supervised, targets, image_size)

        if "detection" in tasks:
            box_logits, box_deltas = self.detection_subnet(self.detection_pyramid(features))
            if targets is not None:
                losses |= self.detection_loss(box_logits, box_deltas, targets, image_size)

        outputs = MultiPoseNetOutputs(heatmaps, box_logits, box_deltas, image_size, merged)
        if self.refiner is not None and pyramid is not None:
            outputs = replace(outputs, stages=tuple(features), pyramid=tuple(pyramid))
            if targets is not None:
                losses |= self.refiner_loss(self.refiner, outputs, targets)
        return outputs, losses
