"""Networks that find people and look into their boxes: Keypoint R-CNN and the One-Stage one (arXiv 2301.04842)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from multiposenet.data.whole_image import collate
from multiposenet.decode.rois import RoiDecoder
from multiposenet.families.family import OF_ONE_PERSON, Family, Task, Teaching, TrainingView
from multiposenet.families.whole_pictures import picture_examples
from multiposenet.importers.torchvision_keypoint_rcnn import PUBLISHED, fetch_published, seed
from multiposenet.inference.roi_pictures import RoiPictures
from multiposenet.models.backbones import Backbone
from multiposenet.models.keypoint_rcnn import (
    CHANNELS,
    ExpandedBoxPool,
    KeypointHead,
    KeypointRCNN,
    OneStageKeypointHead,
    PyramidPool,
)
from multiposenet.models.keypoint_rcnn_detection import DetectorRule
from multiposenet.models.keypoint_rcnn_heads import POOLED_SIZE, WIDTH
from multiposenet.models.keypoint_rcnn_pooling import EXPANSION
from multiposenet.models.norms import NORMS, group_norm, replace_norms
from multiposenet.options import choose
from multiposenet.roi_heatmaps import RoiCodec
from multiposenet.skeletons import Skeleton

PIXEL_CENTRES = {"usual": 0.5, "legacy": 0.0}
"""Where on a pixel its index lies; ``legacy`` is torchvision's convention."""


def build_keypoint_rcnn(
    skeleton: Skeleton,
    backbone: str,
    pool: nn.Module,
    head: Callable[..., nn.Module],
    head_width: int = WIDTH,
    expansion: float = 1.0,
    backbone_weights: str | None = None,
    warm_start: str | Path | None = None,
    norm: str = "frozen",
    pixel_rule: str = "usual",
    proposals: tuple[int, int] = (2000, 1000),
    anchor_batch: int = 256,
    box_batch: int = 512,
    keypoint_boxes: int | None = None,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    max_people: int = 100,
    rescored: bool = False,
    refined: bool = False,
    oks_nms: float | None = None,
) -> tuple[KeypointRCNN, RoiDecoder]:
    """A detector with a keypoint head.

    Args:
        backbone, backbone_weights: see ``models.backbones.Backbone``.
        pool: pools the keypoint head's features.
        head: (number of keypoints, channels that go in, channels inside) -> keypoint head.
        head_width: channels inside the head.
        expansion: of boxes, for heatmaps.
        warm_start: a Keypoint R-CNN of torchvision's to start from, a file or ``"torchvision"``, see
            ``importers.torchvision_keypoint_rcnn.seed``.
        norm: of the backbone, a key of ``NORMS``: ``"frozen"`` for weights that were trained before; ``"group"`` from
            scratch, then of the pyramid too (He et al., Rethinking ImageNet pre-training, ICCV 2019).
        pixel_rule: a key of ``PIXEL_CENTRES``.
        proposals, anchor_batch, box_batch, score_threshold, nms_threshold, max_people: see ``DetectorRule``.
        keypoint_boxes: see ``models.keypoint_rcnn.KeypointRCNN``.
        rescored, oks_nms: see ``decode.rois.RoiDecoder``.
        refined: see ``roi_heatmaps.RoiCodec``.

    Raises:
        ValueError: an unknown name, or ``backbone_weights`` for a normalisation that they were not made with.
    """
    if backbone_weights is not None and norm == "group":
        raise ValueError("backbone_weights were trained with batch normalisation: take norm='frozen' or 'batch'")
    codec = RoiCodec(expansion, choose("pixel_rule", pixel_rule, PIXEL_CENTRES), refined)
    rule = DetectorRule(tuple(proposals), anchor_batch, box_batch, score_threshold, nms_threshold, max_people)
    stages = Backbone(backbone, backbone_weights)
    replace_norms(stages, choose("norm", norm, NORMS))
    keypoint_head = head(skeleton.num_keypoints, CHANNELS, head_width)
    pyramid_norm = group_norm if norm == "group" else None
    model = KeypointRCNN(stages, pool, keypoint_head, codec, rule, keypoint_boxes, pyramid_norm)
    if warm_start is not None:
        seed(model, warm_start)
    return model, RoiDecoder(skeleton, codec, rescored, oks_nms)


def keypoint_rcnn_resnet50(skeleton: Skeleton, **options) -> tuple[KeypointRCNN, RoiDecoder]:
    """torchvision's ``keypointrcnn_resnet50_fpn``: 59.1 M parameters."""
    own = {"backbone": "resnet50", "pool": PyramidPool(POOLED_SIZE), "head": KeypointHead}
    return build_keypoint_rcnn(skeleton, **own | options)


def build_onestage(
    skeleton: Skeleton, expansion: float = EXPANSION, **options
) -> tuple[KeypointRCNN, RoiDecoder]:
    """The One-Stage network: enlarged boxes pooled from P2, Global Context Modules in the head."""
    own = {"pool": ExpandedBoxPool(expansion), "head": OneStageKeypointHead, "expansion": expansion}
    return build_keypoint_rcnn(skeleton, **own | options)


def onestage_resnet50(skeleton: Skeleton, **options) -> tuple[KeypointRCNN, RoiDecoder]:
    """One-Stage on ResNet-50: 66.8 M parameters, 25.5 M of them the keypoint head."""
    return build_onestage(skeleton, **{"backbone": "resnet50"} | options)


def onestage_resnet101(skeleton: Skeleton, **options) -> tuple[KeypointRCNN, RoiDecoder]:
    """One-Stage on ResNet-101: 85.7 M parameters."""
    return build_onestage(skeleton, **{"backbone": "resnet101"} | options)


JOINT = Task("joint", lambda model, batch: model(batch.images, batch.targets, find=False)[1])


IMAGE_SIZE = 1056
"""Of the long side: pictures of 4:3 are 792 pixels high with it.

The published rule is another one, a short side of 800 pixels and a long side of at most 1333: a picture of 3:2 is 704
pixels high here and 800 there.
"""

VIEW = TrainingView(image_size=IMAGE_SIZE, scale=(0.8, 1.0), rotation=0.0, flip=0.5, colours=False)

FAMILY = Family(
    name="One-Stage",
    methods={
        "keypoint_rcnn_resnet50": keypoint_rcnn_resnet50,
        "onestage_resnet50": onestage_resnet50,
        "onestage_resnet101": onestage_resnet101,
    },
    runner=RoiPictures,
    teaching=Teaching(
        tasks={"joint": (JOINT,)},
        view=lambda decoder: VIEW,
        examples=picture_examples,
        collate=collate,
        unused=OF_ONE_PERSON,
    ),
    default_image_size=lambda decoder: IMAGE_SIZE,
    published={"keypoint_rcnn_resnet50": {PUBLISHED: fetch_published}},
)
