"""torchvision's ImageNet ResNets (https://docs.pytorch.org/vision/stable/models.html): a backbone and its classifier.

They are a start for the backbone. Its other networks go in through the builders' ``backbone_weights``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from multiposenet.checkpoint import match_shapes
from multiposenet.models.backbones import Backbone

PROJECT = "torchvision ResNet"
LICENCE = "the file's own; torchvision is BSD-3-Clause"
SIGNATURE = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.downsample.0.weight", "layer4.1.bn2.bias")

BLOCKS = {"resnet18": (False, 2), "resnet34": (False, 6), "resnet50": (True, 6), "resnet101": (True, 23)}
"""Whether a ResNet is made of bottlenecks, and how many blocks its third stage has."""


def translate(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict]:
    """The part ``backbone``, which every model with that backbone takes; the classifier is left out.

    Raises:
        ValueError: missing or unexpected tensors or wrong shapes, or a ResNet that is no backbone here.
    """
    features = {key: value for key, value in tensors.items() if not key.startswith("fc.")}
    match_shapes(backbone_shapes(find_resnet(features, source)), features, source)
    return {f"backbone.{key}": value for key, value in features.items()}, {"parts": ["backbone"]}


def find_resnet(tensors: Mapping[str, Tensor], source: str, prefix: str = "") -> str:
    """The name of the ResNet whose tensors these are, by its blocks; their names begin with ``prefix``.

    Raises:
        ValueError: not one of ``BLOCKS``.
    """
    stage = f"{prefix}layer3."
    names = [key.removeprefix(stage) for key in tensors if key.startswith(stage)]
    bottleneck = any(".conv3." in name for name in names)
    # The highest number, not how many there are: some tensor may be missing.
    count = max((int(name.partition(".")[0]) + 1 for name in names if name[0].isdigit()), default=0)
    for name, description in BLOCKS.items():
        if description == (bottleneck, count):
            return name
    kind = "bottleneck" if bottleneck else "basic"
    raise ValueError(f"{source}: a ResNet with {count} {kind} blocks in its third stage; known are {', '.join(BLOCKS)}")


def backbone_shapes(name: str) -> dict[str, torch.Size]:
    """Shapes of a backbone's tensors, under torchvision's names."""
    with torch.device("meta"):
        return {key: value.shape for key, value in Backbone(name).state_dict().items()}
