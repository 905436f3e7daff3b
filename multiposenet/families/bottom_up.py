"""MultiPoseNet: whole pictures, keypoints and people found apart and joined (Kocabas et al., ECCV 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from multiposenet.anchors import MAX_LOG_SCALE, AnchorGrid, TorchvisionAnchorGrid
from multiposenet.data.whole_image import collate
from multiposenet.decode.boxes import BoxDecoder
from multiposenet.decode.chain import ChainDecoder
from multiposenet.decode.refinement import Refinement
from multiposenet.families.family import OF_ONE_PERSON, Family, Task, Teaching, TrainingView
from multiposenet.families.whole_pictures import picture_examples
from multiposenet.groupings import make_grouping
from multiposenet.heatmap import HeatmapCodec, PixelPeakCodec
from multiposenet.inference.settings import RunnerSettings
from multiposenet.inference.whole_pictures import WholePictures
from multiposenet.losses import MAP_ANSWERS, DetectionLoss, KeypointLoss, RefinerLoss
from multiposenet.models.backbones import Backbone
from multiposenet.models.detection_subnet import DetectionSubnet
from multiposenet.models.keypoint_subnet import KeypointSubnet
from multiposenet.models.multiposenet import TASKS, MultiPoseNet, Pyramid
from multiposenet.models.pose_refiner import PoseRefiner
from multiposenet.options import choose
from multiposenet.person_maps import PersonMapCodec
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Batch, Detections

CODECS = {"usual": HeatmapCodec, "legacy": PixelPeakCodec}
ANCHORS = {"centred": AnchorGrid, "torchvision": TorchvisionAnchorGrid}
BOX_RULES = {
    "usual": {},
    "legacy": {"score_threshold": 0.5, "candidates": None, "max_people": None, "overlap_edge": 1.0},
}
LOG_SCALES = {"usual": MAX_LOG_SCALE, "legacy": math.inf}
"""What some options of the builders stand for. ``legacy`` is how the published PyTorch code decodes its weights."""


def build_multiposenet(
    skeleton: Skeleton,
    backbone: str,
    backbone_weights: str | None = None,
    channels: int = 256,
    keypoint_width: int = 128,
    merged_width: int = 256,
    detection_convs: int = 4,
    prn_nodes: int = 1024,
    prn_crop: tuple[int, int] = (56, 36),
    prn_softmax: str = "keypoint",
    prn_dropout: float = 0.5,
    prn_residual_activation: bool = False,
    prn_sigma: float = 1.0,
    prn_margin: float = 0.21,
    prn_window: int | None = None,
    prn_label_sigma: float | None = None,
    prn_placement: str = "subcell",
    prn_blur: str = "unit",
    prn_rule: str = "usual",
    smooth_top: bool = False,
    keypoint_activation: bool = False,
    keypoint_norm: bool = False,
    intermediate_background: bool = True,
    person_mask: bool = True,
    p6_from: str = "C5",
    anchors: str = "centred",
    box_rule: str = "usual",
    box_threshold: float | None = None,
    peak_rule: str = "usual",
    peak_threshold: float | None = None,
    peak_sigma: float | None = None,
    map_answer: str = "heights",
    peak_weight: float = 0.0,
    intermediate_weight: float = 0.25,
    detection_weight: float = 1.0,
    grouping: str = "pose_residual",
    grouping_options: dict | None = None,
    refiner: bool = False,
    refiner_weight: float = 0.5,
) -> tuple[MultiPoseNet, ChainDecoder]:
    """MultiPoseNet; the defaults are the reference layout of the published PyTorch weights.

    Args:
        backbone, backbone_weights: see ``models.backbones.Backbone``.
        channels: width of both pyramids and of the detector's heads.
        keypoint_width, merged_width: width of D_l, and after the levels are merged.
        detection_convs: hidden convolutions in each of the detector's heads.
        prn_nodes, prn_crop, prn_softmax, prn_dropout, prn_residual_activation: the pose residual network.
        prn_sigma, prn_margin, prn_window, prn_label_sigma, prn_placement, prn_blur: its grid, see
            ``rasterize.PersonGrid``; ``prn_label_sigma`` is ``prn_sigma`` unless told.
        prn_rule: how its scores decide, see ``groupings.pose_residual``.
        smooth_top: smooth K5 too (the paper) or not (the reference layout).
        keypoint_activation: ReLU in D_l (the paper does not say; the reference layout has none).
        keypoint_norm: batch normalisation in the keypoint subnet, for training from scratch.
        intermediate_background: intermediate heads also predict a background map, as many maps as the reference
            layout has; False for the paper's K maps and mask.
        person_mask: predict a person mask beside the K heatmaps; without it there is no background map either.
        p6_from: see ``models.multiposenet.Pyramid``.
        anchors: a key of ``ANCHORS``.
        box_rule: which boxes are kept, a key of ``BOX_RULES``; ``"legacy"`` also decodes sides of any length.
        box_threshold: least score of a box; by default the rule's own.
        peak_rule: how peaks are found, a key of ``CODECS``.
        peak_threshold: least height of a peak; by default the rule's own.
        peak_sigma: width of the drawn Gaussians in cells; by default the rule's own.
        map_answer: what the keypoint subnet's maps mean, a key of ``losses.MAP_ANSWERS``.
        peak_weight, intermediate_weight: see ``losses.KeypointLoss``.
        detection_weight: of the detector's losses, see ``losses.DetectionLoss``.
        grouping: key in ``groupings.GROUPINGS``; its network is the model's part ``prn``.
        grouping_options: arguments of its builder; those of the pose residual network are the ``prn_*`` above. A set
            assignment that hears the ``appearance`` of peaks is told ``merged_width`` features.
        refiner: look at every person once more, see ``models.pose_refiner`` and ``decode.refinement``.
        refiner_weight: of its loss, see ``losses.RefinerLoss``.

    Raises:
        ValueError: an option has a value that it does not know or that does not fit another.
    """
    k = skeleton.num_keypoints
    codec = choose("peak_rule", peak_rule, CODECS)()
    own = {"threshold": peak_threshold, "sigma": peak_sigma}
    codec = replace(codec, **{name: value for name, value in own.items() if value is not None})
    answer = choose("map_answer", map_answer, MAP_ANSWERS)
    grid = choose("anchors", anchors, ANCHORS)(max_log_scale=choose("box_rule", box_rule, LOG_SCALES))
    boxes = BoxDecoder(grid, **BOX_RULES[box_rule])
    stages = Backbone(backbone, backbone_weights)
    parts = {
        "backbone": stages,
        "keypoint_pyramid": Pyramid((0, 1, 2, 3), stages.channels, channels, smooth_top=smooth_top),
        "keypoint_subnet": KeypointSubnet(
            channels,
            keypoint_width,
            merged_width,
            num_maps=k + person_mask,
            num_supervised=k + person_mask + (person_mask and intermediate_background),
            activation=keypoint_activation,
            norm_layer=nn.BatchNorm2d if keypoint_norm else None,
            start=answer.start,
        ),
        "detection_pyramid": Pyramid((1, 2, 3), stages.channels[1:], channels, extra_levels=True, p6_from=p6_from),
        "detection_subnet": DetectionSubnet(channels, grid.per_cell, detection_convs),
    }
    prn_options = {
        "nodes": prn_nodes,
        "crop": tuple(prn_crop),
        "softmax": prn_softmax,
        "dropout": prn_dropout,
        "residual_activation": prn_residual_activation,
        "sigma": prn_sigma,
        "margin": prn_margin,
        "window": prn_window,
        "label_sigma": prn_label_sigma,
        "placement": prn_placement,
        "blur": prn_blur,
        "rule": prn_rule,
    }
    own_options = {"pose_residual": prn_options}.get(grouping, {}) | (grouping_options or {})
    appearance = own_options.get("appearance", 0)
    if appearance not in (0, merged_width):
        raise ValueError(f"grouping_options: appearance must be 0 or merged_width ({merged_width}), got {appearance}")
    network, group = make_grouping(grouping, skeleton, **own_options)
    second = refiner_loss = refinement = None
    if refiner:
        person_maps = PersonMapCodec()
        second = PoseRefiner(k, stages.channels, channels, merged_width, k + person_mask, person_maps.size)
        refiner_loss = RefinerLoss(person_maps, refiner_weight)
        refinement = Refinement(second, person_maps, skeleton)
    model = MultiPoseNet(
        **parts,
        prn=network,
        keypoint_loss=KeypointLoss(codec, intermediate_weight, peak_weight=peak_weight, answer=answer),
        detection_loss=DetectionLoss(grid, weight=detection_weight),
        refiner=second,
        refiner_loss=refiner_loss,
    )
    return model, ChainDecoder(codec, boxes, group, skeleton, appearance > 0, refinement).limited(box_threshold)


FROM_SCRATCH = {
    "prn_crop": (28, 18),
    "prn_dropout": 0.1,
    "prn_sigma": 0.7,
    "prn_margin": 0.5,
    "smooth_top": True,
    "keypoint_activation": True,
    "keypoint_norm": True,
    "intermediate_background": False,
    "map_answer": "chances",
    "peak_sigma": 1.25,
    "peak_threshold": 0.15,
}
"""What the small networks have in common: normalised heads that learn without ImageNet weights, chances instead of
heights, and a coarse PRN."""


def multiposenet_lite(skeleton: Skeleton, **options) -> tuple[MultiPoseNet, ChainDecoder]:
    """Real time on a CPU: a narrow ResNet, thin pyramids and heads, the set assignment; 3.2 M parameters.

    Options of the pose residual network (``prn_*``) ask for that one instead; a small one, unless they say otherwise.
    """
    residual = any(name.startswith("prn_") for name in options)
    thin = {
        "grouping": "pose_residual" if residual else "set_assignment",
        "backbone": "resnet16_w32",
        "channels": 32,
        "keypoint_width": 16,
        "merged_width": 32,
        "detection_convs": 2,
        "prn_nodes": 48,
        "intermediate_weight": 0.1,
    }
    return build_multiposenet(skeleton, **FROM_SCRATCH | thin | options)


def multiposenet_resnet18(skeleton: Skeleton, **options) -> tuple[MultiPoseNet, ChainDecoder]:
    """Quick work: ResNet-18, narrow pyramids and heads, a narrow PRN on a coarse grid; about 14 M parameters."""
    narrow = {
        "backbone": "resnet18",
        "channels": 64,
        "keypoint_width": 32,
        "merged_width": 64,
        "prn_nodes": 96,
    }
    return build_multiposenet(skeleton, **FROM_SCRATCH | narrow | options)


def multiposenet_resnet50(skeleton: Skeleton, **options) -> tuple[MultiPoseNet, ChainDecoder]:
    """The reference layout on ResNet-50; 113.3 M parameters, 71.3 M of them the PRN."""
    return build_multiposenet(skeleton, **{"backbone": "resnet50"} | options)


def multiposenet_resnet101(skeleton: Skeleton, **options) -> tuple[MultiPoseNet, ChainDecoder]:
    """The reference layout on ResNet-101; 132.3 M parameters, 71.3 M of them the PRN."""
    return build_multiposenet(skeleton, **{"backbone": "resnet101"} | options)


def _losses_of(*subnets: str) -> Callable[[nn.Module, Batch], dict[str, Tensor]]:
    def compute(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return model(batch.images, batch.targets, tasks=subnets)[1]

    return compute


# The subnets are trained one by one (sec. 3.5), or together; the residual network has a script of its own.
KEYPOINTS = Task(
    "keypoints", _losses_of("keypoints"), ("detection_pyramid", "detection_subnet", "prn"), known_boxes=True
)
DETECTION = Task(
    "detection",
    _losses_of("detection"),
    ("backbone", "keypoint_pyramid", "keypoint_subnet", "prn", "refiner"),
    rate="detection_lr",
)
JOINT = Task("joint", _losses_of(*TASKS), ("prn",))


def _run(model: nn.Module, decoder: ChainDecoder, settings: RunnerSettings) -> WholePictures:
    return WholePictures(model, decoder, settings, _detect)


def _detect(model: nn.Module, decoder: ChainDecoder, images: Tensor) -> Detections:
    outputs, _ = model(images, tasks=("detection",))
    return decoder.boxes(outputs.box_logits, outputs.box_deltas, outputs.image_size)


FAMILY = Family(
    name="MultiPoseNet",
    methods={
        "multiposenet_lite": multiposenet_lite,
        "multiposenet_resnet18": multiposenet_resnet18,
        "multiposenet_resnet50": multiposenet_resnet50,
        "multiposenet_resnet101": multiposenet_resnet101,
    },
    runner=_run,
    teaching=Teaching(
        tasks={
            "separate": (KEYPOINTS, DETECTION),
            "keypoints": (KEYPOINTS,),
            "detection": (DETECTION,),
            "joint": (JOINT,),
        },
        view=lambda decoder: TrainingView(image_size=480, scale=(0.8, 1.2), rotation=40.0, flip=0.5, colours=True),
        examples=picture_examples,
        collate=collate,
        unused=OF_ONE_PERSON,
    ),
    default_image_size=lambda decoder: 480,
    part_options={
        "prn": ("prn_", "grouping"),
        "detection_pyramid": ("p6_from",),
        "detection_subnet": ("anchors", "box_rule"),
        "refiner": ("refiner",),
    },
    additions=("refiner",),
)
