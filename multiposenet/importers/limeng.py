"""Whole networks of LiMeng95/MultiPoseNet.pytorch (.h5, .pth), on ResNet-50 or ResNet-101.

Their layers are those of our ``multiposenet_resnet50`` and ``multiposenet_resnet101``, but

* keypoints come in OpenPose's order with a neck, which COCO does not have: its heatmaps are left out;
* there is no person mask: the heads on the single levels have a map for one, which no loss ever reached;
* levels are concatenated from coarse to fine, ours from fine to coarse;
* boxes, peaks and people are decoded in other conventions, which ``OPTIONS`` name to the builder.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from multiposenet.checkpoint import match_shapes
from multiposenet.importers.prn_author import prn_layout, translate_prn
from multiposenet.importers.torchvision_resnet import backbone_shapes, find_resnet
from multiposenet.skeletons import COCO_PERSON

PROJECT = "LiMeng95/MultiPoseNet.pytorch"
LICENCE = "the file's own; the project shows an MIT badge and has no licence file"
SIGNATURE = (
    "fpn.toplayer.weight",
    "fpn.flatlayer1.weight",
    "fpn.latlayer1.weight",
    "convt1.weight",
    "convfin.weight",
    "regressionModel.output.weight",
    "classificationModel.output.weight",
)

KEYPOINTS = (
    "nose",
    *(f"{side}_{name}" for side in ("right", "left") for name in ("shoulder", "elbow", "wrist")),
    *(f"{side}_{name}" for side in ("right", "left") for name in ("hip", "knee", "ankle")),
    *(f"{side}_{name}" for name in ("eye", "ear") for side in ("right", "left")),
)
"""Order of the pose residual network's maps."""
HEATMAPS = (KEYPOINTS[0], "neck", *KEYPOINTS[1:])
"""Order of the heatmaps; the heads on single levels have one more, for a person mask."""

MODELS = {"resnet50": "multiposenet_resnet50", "resnet101": "multiposenet_resnet101"}

OPTIONS = {
    "smooth_top": False,
    "keypoint_activation": False,
    "keypoint_norm": False,
    "person_mask": False,
    "box_rule": "legacy",
    "peak_rule": "legacy",
}
"""What these networks have and have not, and how they are decoded; beside the pose residual network's own options."""

IMAGE_SIZE = 640
"""Their pictures have a short side of 480 pixels at scale 1; most of COCO's then have this long side."""

CONVS = {
    # Keypoint pyramid: K5 to K2. K5 is not smoothed.
    "fpn.toplayer": ("keypoint_pyramid.fpn.inner_blocks.3.0", 256, 2048, 1),
    "fpn.flatlayer1": ("keypoint_pyramid.fpn.inner_blocks.2.0", 256, 1024, 1),
    "fpn.flatlayer2": ("keypoint_pyramid.fpn.inner_blocks.1.0", 256, 512, 1),
    "fpn.flatlayer3": ("keypoint_pyramid.fpn.inner_blocks.0.0", 256, 256, 1),
    "fpn.smooth1": ("keypoint_pyramid.fpn.layer_blocks.2.0", 256, 256, 3),
    "fpn.smooth2": ("keypoint_pyramid.fpn.layer_blocks.1.0", 256, 256, 3),
    "fpn.smooth3": ("keypoint_pyramid.fpn.layer_blocks.0.0", 256, 256, 3),
    # Detection pyramid: P5 to P3, P6, P7.
    "fpn.latlayer1": ("detection_pyramid.fpn.inner_blocks.2.0", 256, 2048, 1),
    "fpn.latlayer2": ("detection_pyramid.fpn.inner_blocks.1.0", 256, 1024, 1),
    "fpn.latlayer3": ("detection_pyramid.fpn.inner_blocks.0.0", 256, 512, 1),
    "fpn.toplayer0": ("detection_pyramid.fpn.layer_blocks.2.0", 256, 256, 3),
    "fpn.toplayer1": ("detection_pyramid.fpn.layer_blocks.1.0", 256, 256, 3),
    "fpn.toplayer2": ("detection_pyramid.fpn.layer_blocks.0.0", 256, 256, 3),
    "fpn.conv6": ("detection_pyramid.fpn.extra_blocks.p6", 256, 2048, 3),
    "fpn.conv7": ("detection_pyramid.fpn.extra_blocks.p7", 256, 256, 3),
    # Keypoint subnet: level 1 is K5 there, and ours are numbered from K2.
    **{f"convt{4 - level}": (f"keypoint_subnet.refine.{level}.0", 128, 256, 3) for level in range(4)},
    **{f"convs{4 - level}": (f"keypoint_subnet.refine.{level}.1", 128, 128, 3) for level in range(4)},
    "conv2": ("keypoint_subnet.merge.0", 256, 512, 3),
    "convfin": ("keypoint_subnet.predict", len(HEATMAPS), 256, 1),
    **{
        f"convfin_k{level + 2}": (f"keypoint_subnet.supervise.{level}", len(HEATMAPS) + 1, 256, 1)
        for level in range(4)
    },
    # Detection subnet.
    **{
        f"{theirs}.conv{number + 1}": (f"detection_subnet.heads.{ours}.conv.{number}.0", 256, 256, 3)
        for theirs, ours in (("regressionModel", "regression_head"), ("classificationModel", "classification_head"))
        for number in range(4)
    },
    "regressionModel.output": ("detection_subnet.heads.regression_head.bbox_reg", 9 * 4, 256, 3),
    "classificationModel.output": ("detection_subnet.heads.classification_head.cls_logits", 9, 256, 3),
}
"""Their name of a convolution -> ours, outputs, inputs, kernel size."""


def layout(tensors: Mapping[str, Tensor], backbone: str) -> dict[str, torch.Size]:
    """Names and shapes of the network on ``backbone``, with a pose residual network as these tensors have it."""
    shapes = {f"fpn.{key}": shape for key, shape in backbone_shapes(backbone).items()}
    for name, (_, outputs, inputs, kernel) in CONVS.items():
        shapes[f"{name}.weight"] = torch.Size((outputs, inputs, kernel, kernel))
        shapes[f"{name}.bias"] = torch.Size((outputs,))
    return shapes | prn_layout(tensors, prefix="prn.")


def translate(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict]:
    """A whole model.

    Raises:
        ValueError: missing or unexpected tensors or wrong shapes, or a ResNet that this project does not have.
    """
    backbone = find_resnet(tensors, source, prefix="fpn.")
    if backbone not in MODELS:
        raise ValueError(f"{source}: its backbone is {backbone}; there are such networks on {' and '.join(MODELS)}")
    match_shapes(layout(tensors, backbone), tensors, source)
    maps = [HEATMAPS.index(name) for name in COCO_PERSON.keypoints]
    ours, options = translate_prn(tensors, KEYPOINTS, prefix="prn.")
    for key, value in tensors.items():
        name, _, kind = key.rpartition(".")
        if name in CONVS:
            if name.startswith("convfin"):
                value = value[maps]
            elif key == "conv2.weight":
                value = value.unflatten(1, (4, -1)).flip(1).flatten(1, 2)
            ours[f"{CONVS[name][0]}.{kind}"] = value
        elif key.startswith("fpn."):
            ours[f"backbone.{key.removeprefix('fpn.')}"] = value
    return ours, {
        "model": MODELS[backbone],
        "skeleton": COCO_PERSON.to_dict(),
        "options": options | OPTIONS,
        "image_size": IMAGE_SIZE,
    }
