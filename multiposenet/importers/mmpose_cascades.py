"""MSPN and RSN under the names of mmpose: whole networks of 1 to 4 stages, of its versions 0 and 1.

Layers are those of the networks in :mod:`multiposenet.importers.megvii`, but convolutions have no biases. They were
trained on RGB pictures, with boxes made a quarter larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from multiposenet.importers.megvii import LEVELS, Naming, translate_cascade
from multiposenet.importers.megvii import OPTIONS as MEGVII_OPTIONS
from multiposenet.importers.megvii import their_name as megvii_name

PROJECT = "open-mmlab/mmpose (MSPN, RSN)"
LICENCE = "the file's own; mmpose is Apache-2.0"
SIGNATURE = (
    "backbone.top.top.0.conv.weight",
    "backbone.top.top.0.bn.weight",
    "backbone.top.top.0.bn.bias",
)

OPTIONS = {**MEGVII_OPTIONS, "channel_order": "rgb", "extension": [1.25, 1.25]}
"""How these networks were trained and are used."""

_UP_PARTS = {"u_skip": "in_skip", "skip1": "out_skip1", "skip2": "out_skip2"}


def translate(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict]:
    """A whole network.

    Raises:
        ValueError: missing or unexpected tensors or wrong shapes, or a cascade that has no name here.
    """
    # Version 0 called the head so.
    tensors = {
        f"head.{key.removeprefix('keypoint_head.')}" if key.startswith("keypoint_head.") else key: value
        for key, value in tensors.items()
    }
    kind = "rsn" if any(key.startswith("backbone.multi_stage_rsn.") for key in tensors) else "mspn"
    naming = Naming(partial(their_name, kind=kind), f"backbone.multi_stage_{kind}.{{}}.")
    return translate_cascade(tensors, source, naming, OPTIONS)


def their_name(ours: str, kind: str) -> str | None:
    """mmpose's name of one of our cascades' tensors; None for biases of convolutions.

    Args:
        ours: our name.
        kind: ``"rsn"`` or ``"mspn"``.
    """
    if ours.endswith(".conv.bias"):
        return None
    place, layer, tensor = megvii_name(ours).rsplit(".", 2)
    if place == "top.conv":
        return f"backbone.top.top.0.{layer}.{tensor}"
    stage, part, unit, *rest = place.split(".")
    number = int(stage.removeprefix("stage"))
    if rest[0].startswith("res_conv"):
        level = LEVELS * number + int(unit.removeprefix("up")) - 1
        return f"head.predict_layers.{level}.conv_layers.{int(rest[0][-1]) - 1}.{layer}.{tensor}"
    if part == "upsample":
        name = f"{_UP_PARTS.get(rest[0], rest[0])}.{layer}"
    else:
        name = f"{rest[0]}.{_in_block(rest[1], layer, kind)}"
    return f"backbone.multi_stage_{kind}.{number}.{part}.{unit}.{name}.{tensor}"


def _in_block(name: str, layer: str, kind: str) -> str:
    if kind == "rsn":
        return f"{'conv_bn3' if name == 'conv_bn_relu3' else name}.{layer}"
    if name == "downsample":
        return f"downsample.{layer}"
    return f"{layer}{name.removeprefix('conv_bn_relu')}"
