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

EPSILON = 1e-5
"""Of our batch normalisation, which is PyTorch's default."""

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


def with_epsilon(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with their batch normalisations, which are without an epsilon, made for ours.

    torchvision's published detectors were trained before its ``FrozenBatchNorm2d`` had one, and set it to 0
    (``overwrite_eps``). It is the affine weights that change, w' / sqrt(variance + epsilon) = w / sqrt(variance):
    variance - epsilon in the place of the variance, to which epsilon is added again, is 0 or less than 0 after rounding
    where a channel has died (in the published files some have), in half precision with a variance of 1e-8 already.
    """
    weights = {}
    for key, variance in tensors.items():
        name, _, kind = key.rpartition(".")
        if kind == "running_var":
            weights[f"{name}.weight"] = _for_epsilon(tensors[f"{name}.weight"], variance.double())
    return {**tensors, **weights}


def _for_epsilon(weight: Tensor, variance: Tensor) -> Tensor:
    scaled = weight.double() * ((variance + EPSILON) / variance.clamp(min=torch.finfo(torch.float64).tiny)).sqrt()
    # What half precision can hold is enough: with a larger weight, 5e-8 more or less than the mean would be 1 more or
    # less in the answer. Such channels are dead, and those answer their bias whatever the weight is.
    largest = torch.finfo(torch.float16).max
    return scaled.clamp(-largest, largest).to(weight.dtype)
