"""Where models, decoders and skeletons meet: one small builder a method, in a plain dict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from multiposenet.anchors import AnchorGrid
from multiposenet.checkpoint import load_tensors, match_tensors
from multiposenet.decode.boxes import BoxDecoder
from multiposenet.decode.chain import ChainDecoder
from multiposenet.decode.grouping import PoseResidualGrouping
from multiposenet.heatmap import HeatmapCodec
from multiposenet.losses import DetectionLoss, KeypointLoss
from multiposenet.models.backbones import Backbone
from multiposenet.models.detection_subnet import DetectionSubnet
from multiposenet.models.keypoint_subnet import KeypointSubnet
from multiposenet.models.multiposenet import MultiPoseNet, Pyramid
from multiposenet.models.prn import PoseResidualNetwork
from multiposenet.rasterize import PersonGrid
from multiposenet.skeletons import COCO_PERSON, Skeleton, get_skeleton


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
    smooth_top: bool = False,
    keypoint_activation: bool = False,
    keypoint_norm: bool = False,
    intermediate_background: bool = True,
    peak_weight: float = 0.0,
) -> tuple[MultiPoseNet, ChainDecoder]:
    """MultiPoseNet; the defaults are the reference layout of the published PyTorch weights.

    Args:
        backbone, backbone_weights: see ``models.backbones.Backbone``.
        channels: width of both pyramids and of the detector's heads.
        keypoint_width, merged_width: width of D_l, and after the levels are merged.
        detection_convs: hidden convolutions in each of the detector's heads.
        prn_nodes, prn_crop, prn_softmax, prn_dropout, prn_residual_activation: the pose residual network.
        prn_sigma, prn_margin, prn_window: its grid, see ``rasterize.PersonGrid``.
        smooth_top: smooth K5 too (the paper) or not (the reference layout).
        keypoint_activation: ReLU in D_l (the paper does not say; the reference layout has none).
        keypoint_norm: batch normalisation in the keypoint subnet, for training from scratch.
        intermediate_background: intermediate heads also predict a background map, as many maps as the reference
            layout has; False for the paper's K maps and mask.
        peak_weight: see ``losses.KeypointLoss``.
    """
    k = skeleton.num_keypoints
    codec = HeatmapCodec()
    anchors = AnchorGrid()
    stages = Backbone(backbone, backbone_weights)
    model = MultiPoseNet(
        backbone=stages,
        keypoint_pyramid=Pyramid((0, 1, 2, 3), stages.channels, channels, smooth_top=smooth_top),
        keypoint_subnet=KeypointSubnet(
            channels,
            keypoint_width,
            merged_width,
            num_maps=k + 1,
            num_supervised=k + 2 if intermediate_background else k + 1,
            activation=keypoint_activation,
            norm_layer=nn.BatchNorm2d if keypoint_norm else None,
        ),
        detection_pyramid=Pyramid((1, 2, 3), stages.channels[1:], channels, extra_levels=True),
        detection_subnet=DetectionSubnet(channels, anchors.per_cell, detection_convs),
        prn=PoseResidualNetwork(k, prn_nodes, prn_softmax, tuple(prn_crop), prn_dropout, prn_residual_activation),
        keypoint_loss=KeypointLoss(codec, peak_weight=peak_weight),
        detection_loss=DetectionLoss(anchors),
    )
    grid = PersonGrid(tuple(prn_crop), prn_margin, sigma=prn_sigma, label_sigma=prn_sigma, window=prn_window)
    return model, ChainDecoder(codec, BoxDecoder(anchors), PoseResidualGrouping(model.prn, grid), skeleton)


def multiposenet_lite(skeleton: Skeleton, **options) -> tuple[MultiPoseNet, ChainDecoder]:
    """Real time on a CPU: a narrow ResNet, thin pyramids and heads, a small PRN; about 3.6 M parameters."""
    thin = {
        "backbone": "resnet16_w32",
        "channels": 32,
        "keypoint_width": 16,
        "merged_width": 32,
        "detection_convs": 2,
        "prn_nodes": 48,
        "prn_crop": (28, 18),
        "prn_dropout": 0.1,
        "prn_sigma": 0.7,
        "prn_margin": 0.5,
        "smooth_top": True,
        "keypoint_activation": True,
        "keypoint_norm": True,
        "intermediate_background": False,
        "peak_weight": 4.0,
    }
    return build_multiposenet(skeleton, **thin | options)


def multiposenet_resnet18(skeleton: Skeleton, **options) -> tuple[MultiPoseNet, ChainDecoder]:
    """Quick work: ResNet-18, narrow pyramids and heads, a narrow PRN on a coarse grid; about 14 M parameters."""
    narrow = {
        "backbone": "resnet18",
        "channels": 64,
        "keypoint_width": 32,
        "merged_width": 64,
        "prn_nodes": 96,
        "prn_crop": (28, 18),
        "prn_dropout": 0.1,
        "prn_sigma": 0.7,
        "prn_margin": 0.5,
        "smooth_top": True,
        "keypoint_activation": True,
        "keypoint_norm": True,
        "intermediate_background": False,
    }
    return build_multiposenet(skeleton, **narrow | options)


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


def list_models() -> list[str]:
    """Names that :func:`create_model` knows."""
    return sorted(METHODS)


def build_method(
    name: str | None = None,
    weights: str | Path | None = None,
    skeleton: Skeleton | str | Path | None = None,
    **options,
) -> PoseMethod:
    """Builds a method, with random weights or from a file.

    Args:
        name: one of :func:`list_models`; may be None when the weights file says what it is (ours do).
        weights: path of a weights file. Its metadata gives the skeleton and the builder's options.
        skeleton: a built-in name, a TOML file or a ``Skeleton``; default: the weights', else COCO's person.
        options: arguments of the method's builder.

    Raises:
        ValueError: unknown name or option, a file of another method, or tensors that do not fit.
        FileNotFoundError: no such file.
    """
    tensors, metadata = load_tensors(weights) if weights is not None else ({}, {})
    name = name or metadata.get("model")
    if name is None:
        raise ValueError(f"{weights}: the file does not say which model it is; give the model's name")
    if name not in METHODS:
        raise ValueError(f"model {name!r} is unknown; choose one of {', '.join(list_models())}")
    if metadata.get("model", name) != name:
        raise ValueError(f"{weights} holds {metadata['model']!r}, not {name!r}")
    if skeleton is None and "skeleton" in metadata:
        skeleton = Skeleton.from_dict(metadata["skeleton"], source=f"{weights} (metadata)")
    skeleton = get_skeleton(skeleton if skeleton is not None else COCO_PERSON)
    options = {**metadata.get("options", {}), **options}
    try:
        model, decoder = METHODS[name](skeleton, **options)
    except TypeError as error:
        raise ValueError(f"model {name!r}: {error}") from None
    if weights is not None:
        match_tensors(model, tensors, source=str(weights))
        model.load_state_dict(tensors, strict=False)
    # ImageNet weights are a starting point, not part of what the network is: do not ask for them again on loading.
    options.pop("backbone_weights", None)
    return PoseMethod(name, model, decoder, skeleton, options, metadata)


def create_model(
    name: str, weights: str | Path | None = None, skeleton: Skeleton | str | Path | None = None, **options
) -> nn.Module:
    """A model by name, e.g. ``create_model("multiposenet_resnet50")``; arguments as for :func:`build_method`."""
    return build_method(name, weights, skeleton, **options).model


def with_decoding(
    method: PoseMethod, box_threshold: float | None = None, max_people: int | None = None
) -> PoseMethod:
    """The same method with other decoding limits; None keeps what it has."""
    changes = {"score_threshold": box_threshold, "max_people": max_people}
    boxes = replace(method.decoder.boxes, **{key: value for key, value in changes.items() if value is not None})
    return replace(method, decoder=replace(method.decoder, boxes=boxes))
