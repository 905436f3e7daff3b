"""MSPN: the multi-stage pose network, cascades of bottlenecks (Li et al., arXiv 1901.00148)."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from multiposenet.checkpoint import match_shapes
from multiposenet.models.backbones import trained_tensors
from multiposenet.models.cascade import Cascade, ConvNorm


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions beside a shortcut (He et al., CVPR 2016, fig. 5).

    Args:
        inputs: channels that go in.
        planes: channels of the 3x3 convolution.
        stride: of the block.
        expansion: ``planes`` times this come out.
    """

    def __init__(self, inputs: int, planes: int, stride: int = 1, expansion: int = 4) -> None:
        super().__init__()
        self.out_channels = planes * expansion
        self.path = nn.Sequential(
            ConvNorm(inputs, planes, 1),
            ConvNorm(planes, planes, 3, stride),
            ConvNorm(planes, self.out_channels, 1, activation=False),
        )
        self.shortcut = shortcut(inputs, self.out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, h, w] -> [N, out_channels, h / stride, w / stride]."""
        return F.relu(self.path(features) + self.shortcut(features), inplace=True)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., CVPR 2016, fig. 5): for small networks.

    Args:
        inputs: channels that go in.
        planes: channels that come out.
        stride: of the block.
    """

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.out_channels = planes
        self.path = nn.Sequential(ConvNorm(inputs, planes, 3, stride), ConvNorm(planes, planes, 3, activation=False))
        self.shortcut = shortcut(inputs, planes, stride)

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, h, w] -> [N, planes, h / stride, w / stride]."""
        return F.relu(self.path(features) + self.shortcut(features), inplace=True)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Nothing where shapes agree, else a 1x1 convolution."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return ConvNorm(inputs, outputs, 1, stride, activation=False)


def start_new_blocks(model: Cascade, known: Collection[str]) -> tuple[str, ...]:
    """Makes blocks for which there are no weights give what goes in until they learn (Goyal et al., 2017, sec. 5.1).

    Args:
        model: a cascade of the blocks above.
        known: names of the model's tensors for which there are weights.

    Returns:
        how the names of those blocks' tensors begin. A level's first block is none of them: it changes the size.
    """
    new = []
    for name, block in model.named_modules():
        can_be_new = isinstance(block, (Bottleneck, BasicBlock)) and not name.endswith(".0")
        if can_be_new and not any(tensor.startswith(f"{name}.") for tensor in known):
            nn.init.zeros_(block.path[-1].norm.weight)
            new.append(f"{name}.")
    return tuple(new)


def load_resnet(model: Cascade, weights: str | Path, resnet: str) -> None:
    """Starts the stem and every stage's way down from a trained ResNet.

    The published MSPN starts its first stage from a ResNet-50; here all stages start from it. Where a level has more
    blocks than the ResNet, the last ones start as identities.

    Args:
        model: a cascade of the ResNet's blocks, or of more of them.
        weights: see ``models.backbones.trained_tensors``.
        resnet: the network that they are of, a key of ``models.backbones.BACKBONES``.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: see ``trained_tensors``; or the ResNet has other layers.
    """
    own = model.state_dict()
    names = {ours: _resnet_name(ours) for ours in own if re.match(r"stem\.|stages\.\d+\.down\.", ours)}
    tensors = trained_tensors(resnet, weights)
    new = start_new_blocks(model, [ours for ours, theirs in names.items() if theirs in tensors])
    names = {ours: theirs for ours, theirs in names.items() if not ours.startswith(new)}
    shapes = {theirs: own[ours].shape for ours, theirs in names.items() if theirs is not None}
    match_shapes(shapes, tensors, str(weights))
    if model.channel_order == "bgr":  # ResNets are trained on RGB
        tensors = tensors | {"conv1.weight": tensors["conv1.weight"].flip(1)}
    for ours, theirs in names.items():
        if theirs is None:
            own[ours].zero_()
        elif theirs in tensors:  # files do not always count batches
            own[ours].copy_(tensors[theirs])


def _resnet_name(ours: str) -> str | None:
    """torchvision's name of a tensor of the stem or of a way down; None for biases, which ResNets do not have."""
    *place, layer, kind = ours.split(".")
    if layer == "conv" and kind == "bias":
        return None
    if place[0] == "stem":
        return f"{'conv1' if layer == 'conv' else 'bn1'}.{kind}"
    _, _, _, level, block, *part = place
    name = f"downsample.{0 if layer == 'conv' else 1}"
    if part[0] == "path":
        name = f"{'conv' if layer == 'conv' else 'bn'}{int(part[1]) + 1}"
    return f"layer{int(level) + 1}.{block}.{name}.{kind}"
