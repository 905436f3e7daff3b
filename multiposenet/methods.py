"""Where models, decoders and skeletons meet: one small builder a method, in a plain dict."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from multiposenet.anchors import MAX_LOG_SCALE, AnchorGrid, TorchvisionAnchorGrid
from multiposenet.checkpoint import match_tensors
from multiposenet.decode.boxes import BoxDecoder
from multiposenet.decode.chain import ChainDecoder
from multiposenet.groupings import GROUPINGS, make_grouping
from multiposenet.heatmap import HeatmapCodec, PixelPeakCodec
from multiposenet.importers import read_weights
from multiposenet.losses import DetectionLoss, KeypointLoss
from multiposenet.models.backbones import Backbone
from multiposenet.models.detection_subnet import DetectionSubnet
from multiposenet.models.keypoint_subnet import KeypointSubnet
from multiposenet.models.multiposenet import MultiPoseNet, Pyramid
from multiposenet.skeletons import COCO_PERSON, Skeleton, get_skeleton

CODECS = {"usual": HeatmapCodec, "legacy": PixelPeakCodec}
ANCHORS = {"centred": AnchorGrid, "torchvision": TorchvisionAnchorGrid}
BOX_RULES = {
    "usual": {},
    "legacy": {"score_threshold": 0.5, "candidates": None, "max_people": None, "overlap_edge": 1.0},
}
LOG_SCALES = {"usual": MAX_LOG_SCALE, "legacy": math.inf}
"""What some options of the builders stand for. ``legacy`` is how the published PyTorch code decodes its weights."""

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class PoseMethod:
    """A model with everything that is needed to use it.

    Args:
        name: key in ``METHODS``.
        model: ``outputs, losses = model(images, targets=None)``.
        decoder: outputs of the model -> list of ``Poses``, in pixels of its input.
        skeleton: whose keypoints it finds.
        options: what the builder was called with, as plain values; enough to build it again.
        metadata: what the weights file said about itself; empty for random weights.
    """

    name: str
    model: nn.Module
    decoder: ChainDecoder
    skeleton: Skeleton
    options: dict
    metadata: dict = field(default_factory=dict)


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
    peak_rule: str = "usual",
    peak_threshold: float | None = None,
    peak_weight: float = 0.0,
    intermediate_weight: float = 0.25,
    grouping: str = "pose_residual",
    grouping_options: dict | None = None,
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
        peak_rule: how peaks are found, a key of ``CODECS``.
        peak_threshold: least height of a peak; by default the rule's own.
        peak_weight, intermediate_weight: see ``losses.KeypointLoss``.
        grouping: key in ``groupings.GROUPINGS``; its network is the model's part ``prn``.
        grouping_options: arguments of its builder; those of the pose residual network are the ``prn_*`` above.
    """
    k = skeleton.num_keypoints
    codec = _choose("peak_rule", peak_rule, CODECS)()
    if peak_threshold is not None:
        codec = replace(codec, threshold=peak_threshold)
    grid = _choose("anchors", anchors, ANCHORS)(max_log_scale=_choose("box_rule", box_rule, LOG_SCALES))
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
    own_options = {"pose_residual": prn_options}.get(grouping, {})
    network, group = make_grouping(grouping, skeleton, **own_options | (grouping_options or {}))
    model = MultiPoseNet(
        **parts,
        prn=network,
        keypoint_loss=KeypointLoss(codec, intermediate_weight, peak_weight=peak_weight),
        detection_loss=DetectionLoss(grid),
    )
    return model, ChainDecoder(codec, boxes, group, skeleton)


def _choose(option: str, name: str, choices: Mapping[str, Choice]) -> Choice:
    if name not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, got {name!r}")
    return choices[name]


FROM_SCRATCH = {
    "prn_crop": (28, 18),
    "prn_dropout": 0.1,
    "prn_sigma": 0.7,
    "prn_margin": 0.5,
    "smooth_top": True,
    "keypoint_activation": True,
    "keypoint_norm": True,
    "intermediate_background": False,
}
"""What the small networks have in common: normalised heads that learn without ImageNet weights, and a coarse PRN."""


def multiposenet_lite(skeleton: Skeleton, **options) -> tuple[MultiPoseNet, ChainDecoder]:
    """Real time on a CPU: a narrow ResNet, thin pyramids and heads, a small PRN; 3.9 M parameters."""
    thin = {
        "backbone": "resnet16_w32",
        "channels": 32,
        "keypoint_width": 16,
        "merged_width": 32,
        "detection_convs": 2,
        "prn_nodes": 48,
        "peak_weight": 4.0,
        "intermediate_weight": 0.1,
        # Weighted peaks come out higher, and below this the grouping's guess is the better one.
        "peak_threshold": 0.3,
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


METHODS: dict[str, Callable[..., tuple[nn.Module, ChainDecoder]]] = {
    "multiposenet_lite": multiposenet_lite,
    "multiposenet_resnet18": multiposenet_resnet18,
    "multiposenet_resnet50": multiposenet_resnet50,
    "multiposenet_resnet101": multiposenet_resnet101,
}

PART_OPTIONS = {
    "prn": ("prn_", "grouping"),
    "detection_pyramid": ("p6_from",),
    "detection_subnet": ("anchors", "box_rule"),
}
"""How the names of the options begin without which a part's weights would mean something else."""


def list_models() -> list[str]:
    """Names that :func:`create_model` knows."""
    return sorted(METHODS)


def build_method(
    name: str | None = None,
    weights: str | Path | None = None,
    skeleton: Skeleton | str | Path | None = None,
    parts: Mapping[str, str | Path] | None = None,
    **options,
) -> PoseMethod:
    """Builds a method, with random weights or from files.

    Args:
        name: one of :func:`list_models`; may be None when the weights file says what it is (ours do).
        weights: path of a weights file, ours or one that ``importers`` knows. Its metadata gives the skeleton and the
            builder's options. What a file of only some parts lacks keeps random weights, with a warning.
        skeleton: a built-in name, a TOML file or a ``Skeleton``; default: the weights', else COCO's person.
        parts: names of parts of the model -> weights files to take them from, instead of from ``weights``; with them
            come those options of the files that concern the part.
        options: arguments of the method's builder; they win over those of files.

    Raises:
        ValueError: unknown name or option, a file of another method, or tensors that do not fit.
        FileNotFoundError, ImportError: no such file, or nothing installed to read it with.
    """
    tensors, metadata = read_weights(weights) if weights is not None else ({}, {})
    others = {part: read_weights(file) for part, file in (parts or {}).items()}
    for part, (_, facts) in others.items():
        options = _options_of(part, facts) | options
    method = _assemble(name, skeleton, options, metadata, source=str(weights))
    model = method.model
    learnt = [part for part, module in model.named_children() if list(module.parameters())]
    held = [part for part in metadata.get("parts", learnt) if part not in others]
    if weights is not None:
        own = {key: value for key, value in tensors.items() if key.partition(".")[0] not in others}
        match_tensors(model, own, str(weights), held)
        model.load_state_dict(own, strict=False)
    for part, (content, _) in others.items():
        own = {key: value for key, value in content.items() if key.startswith(f"{part}.")}
        match_tensors(model, own, str(parts[part]), [part])
        model.load_state_dict(own, strict=False)
    if random := [part for part in learnt if part not in (*held, *others)]:
        warnings.warn(f"{weights} holds only {', '.join(held)}; random weights in {', '.join(random)}", stacklevel=2)
    return method


def match_weights(tensors: Mapping[str, Tensor], metadata: dict, source: str, name: str | None = None) -> str:
    """Checks that what ``importers.read_weights`` gave fits its model, without memory for the model.

    Returns:
        The model's name.

    Raises:
        ValueError: see :func:`build_method`.
    """
    with torch.device("meta"):
        method = _assemble(name, None, {}, metadata, source)
    match_tensors(method.model, tensors, source, metadata.get("parts"))
    return method.name


def _options_of(part: str, metadata: dict) -> dict:
    options = metadata.get("options", {})
    if metadata.get("model") in GROUPINGS:  # a grouping's own file, with its builder's own options
        return {"grouping": metadata["model"], "grouping_options": options}
    return {option: value for option, value in options.items() if option.startswith(PART_OPTIONS.get(part, ()))}


def _assemble(
    name: str | None, skeleton: Skeleton | str | Path | None, options: dict, metadata: dict, source: str
) -> PoseMethod:
    """The method with random weights that arguments and a file's metadata describe together."""
    name = name or metadata.get("model")
    if name is None:
        raise ValueError(f"{source}: the file does not say which model it is; give the model's name")
    if name not in METHODS:
        raise ValueError(f"model {name!r} is unknown; choose one of {', '.join(list_models())}")
    if metadata.get("model", name) != name:
        raise ValueError(f"{source} holds {metadata['model']!r}, not {name!r}")
    if skeleton is None and "skeleton" in metadata:
        skeleton = Skeleton.from_dict(metadata["skeleton"], source=f"{source} (metadata)")
    skeleton = get_skeleton(skeleton if skeleton is not None else COCO_PERSON)
    options = {**metadata.get("options", {}), **options}
    try:
        model, decoder = METHODS[name](skeleton, **options)
    except TypeError as error:
        raise ValueError(f"model {name!r}: {error}") from None
    # ImageNet weights are a starting point, not part of what the network is: do not ask for them again on loading.
    options.pop("backbone_weights", None)
    return PoseMethod(name, model, decoder, skeleton, options, metadata)


def create_model(
    name: str,
    weights: str | Path | None = None,
    skeleton: Skeleton | str | Path | None = None,
    parts: Mapping[str, str | Path] | None = None,
    **options,
) -> nn.Module:
    """A model by name, e.g. ``create_model("multiposenet_resnet50")``; arguments as for :func:`build_method`."""
    return build_method(name, weights, skeleton, parts, **options).model


def with_decoding(
    method: PoseMethod, box_threshold: float | None = None, max_people: int | None = None
) -> PoseMethod:
    """The same method with other decoding limits; None keeps what it has."""
    changes = {"score_threshold": box_threshold, "max_people": max_people}
    boxes = replace(method.decoder.boxes, **{key: value for key, value in changes.items() if value is not None})
    return replace(method, decoder=replace(method.decoder, boxes=boxes))
