"""torchvision's ``retinanet_resnet50_fpn`` (COCO, 91 categories): a start for the backbone and the person detector.

Of its classifier the category person is taken. What else is different there:

* P6 is made from P5 (``p6_from``), and the anchors sit on cell corners, in whole pixels (``anchors``);
* box offsets are not divided by deviations: ours are, so that the last layer's weights are divided here;
* batch normalisation is frozen, and the published weights were trained with an epsilon of 0 in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from multiposenet.anchors import AnchorGrid
from multiposenet.checkpoint import match_shapes
from multiposenet.importers.torchvision_resnet import backbone_shapes, with_epsilon

PROJECT = "torchvision retinanet_resnet50_fpn"
LICENCE = "the file's own; torchvision is BSD-3-Clause"
SIGNATURE = (
    "backbone.body.conv1.weight",
    "backbone.fpn.extra_blocks.p6.weight",
    "head.classification_head.cls_logits.weight",
    "head.regression_head.bbox_reg.weight",
)

CATEGORIES, PERSON = 91, 1
CHANNELS, CONVS = 256, 4


def current_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under today's names: the published file of 2020 still has the old ones.

    Heads were ``conv.0``, ``conv.2``, ... with activations between them, and are ``conv.0.0``, ``conv.1.0``, ... now;
    the pyramid's blocks were ``inner_blocks.0`` and are ``inner_blocks.0.0``.
    """

    def renamed(key: str) -> str:
        if old := re.fullmatch(r"(head\..*_head\.conv)\.(\d+)\.(weight|bias)", key):
            return f"{old[1]}.{int(old[2]) // 2}.0.{old[3]}"
        if old := re.fullmatch(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", key):
            return f"{old[1]}.0.{old[2]}"
        return key

    return {renamed(key): value for key, value in tensors.items()}


def layout() -> dict[str, torch.Size]:
    """Names and shapes of the network's tensors."""
    shapes = {f"backbone.body.{key}": shape for key, shape in backbone_shapes("resnet50").items()}
    per_cell = AnchorGrid().per_cell

    def conv(name: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = torch.Size((outputs, inputs, kernel, kernel))
        shapes[f"{name}.bias"] = torch.Size((outputs,))

    for level, inputs in enumerate((512, 1024, 2048)):
        conv(f"backbone.fpn.inner_blocks.{level}.0", CHANNELS, inputs, 1)
        conv(f"backbone.fpn.layer_blocks.{level}.0", CHANNELS, CHANNELS, 3)
    for level in ("p6", "p7"):
        conv(f"backbone.fpn.extra_blocks.{level}", CHANNELS, CHANNELS, 3)
    for head, last, outputs in (
        ("classification", "cls_logits", per_cell * CATEGORIES),
        ("regression", "bbox_reg", per_cell * 4),
    ):
        for number in range(CONVS):
            conv(f"head.{head}_head.conv.{number}.0", CHANNELS, CHANNELS, 3)
        conv(f"head.{head}_head.{last}", outputs, CHANNELS, 3)
    return shapes


def translate(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict]:
    """The parts ``backbone``, ``detection_pyramid`` and ``detection_subnet``.

    Raises:
        ValueError: missing or unexpected tensors or wrong shapes, e.g. of another number of categories.
    """
    tensors = current_names(tensors)
    match_shapes(layout(), tensors, source)
    places = {
        "backbone.body.": "backbone.",
        "backbone.fpn.": "detection_pyramid.fpn.",
        "head.": "detection_subnet.heads.",
    }
    # Frozen batch normalisation counts no batches.
    if not any(key.endswith("num_batches_tracked") for key in tensors):
        tensors = with_epsilon(tensors)
    deviations = torch.tensor(AnchorGrid().deviations)
    ours = {}
    for key, value in tensors.items():
        place = next(place for place in places if key.startswith(place))
        if ".cls_logits." in key:
            value = value.unflatten(0, (-1, CATEGORIES))[:, PERSON].clone()
        elif ".bbox_reg." in key:
            by_offset = value.unflatten(0, (-1, 4))
            value = (by_offset / deviations.view(4, *[1] * (value.ndim - 1))).flatten(0, 1)
        ours[places[place] + key.removeprefix(place)] = value
    return ours, {
        "model": "multiposenet_resnet50",
        "parts": ["backbone", "detection_pyramid", "detection_subnet"],
        "options": {"p6_from": "P5", "anchors": "torchvision"},
    }
