"""Backbones: torchvision's networks, cut open at the four stages that a pyramid needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from multiposenet.checkpoint import load_tensors, match_tensors
from multiposenet.models.recompute import recomputed


class NarrowResNet(nn.Module):
    """A ResNet (He et al., CVPR 2016) of any width, from torchvision's basic blocks and with torchvision's names.

    Its first convolution is 3x3: on a CPU the usual 7x7 takes five times as long and finds little more.

    Args:
        width: channels of the first stage; every further stage doubles them. ResNet-18 has 64.
        blocks: basic blocks a stage. ResNet-18 has two in each.
    """

    def __init__(self, width: int, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        for stage, count in enumerate(blocks):
            outputs, stride = width * 2**stage, 1 if stage == 0 else 2
            shortcut = None
            if stage > 0:
                shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            layers = [BasicBlock(inputs, outputs, stride, shortcut)]
            layers += [BasicBlock(outputs, outputs) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            inputs = outputs
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


@dataclass(frozen=True)
class BackboneSpec:
    """How to build a backbone and where to cut it.

    Args:
        build: makes the network, with random weights.
        stages: names of the modules that lead from one stage to the next, at strides 4, 8, 16 and 32.
        published: torchvision's ImageNet weights for it, if there are any.
    """

    build: Callable[[], nn.Module]
    stages: tuple[tuple[str, ...], ...]
    published: torchvision.models.WeightsEnum | None = None


def _in_sequence(parent: str, *ends: int) -> tuple[tuple[str, ...], ...]:
    """Stages of a network that is one long sequence, given the index after each stage's last module."""
    starts = (0, *ends[:-1])
    return tuple(
        tuple(f"{parent}.{i}" for i in range(start, end)) for start, end in zip(starts, ends, strict=True)
    )


_RESNET = (("conv1", "bn1", "relu", "maxpool", "layer1"), ("layer2",), ("layer3",), ("layer4",))
_SHUFFLENET = (("conv1", "maxpool"), ("stage2",), ("stage3",), ("stage4",))
_models = torchvision.models

BACKBONES = {
    "resnet18": BackboneSpec(_models.resnet18, _RESNET, _models.ResNet18_Weights.IMAGENET1K_V1),
    "resnet34": BackboneSpec(_models.resnet34, _RESNET, _models.ResNet34_Weights.IMAGENET1K_V1),
    "resnet50": BackboneSpec(_models.resnet50, _RESNET, _models.ResNet50_Weights.IMAGENET1K_V1),
    "resnet101": BackboneSpec(_models.resnet101, _RESNET, _models.ResNet101_Weights.IMAGENET1K_V1),
    "resnet16_w32": BackboneSpec(lambda: NarrowResNet(32, (1, 2, 2, 2)), _RESNET),
    "resnet18_w24": BackboneSpec(lambda: NarrowResNet(24, (2, 2, 2, 2)), _RESNET),
    "resnet18_w32": BackboneSpec(lambda: NarrowResNet(32, (2, 2, 2, 2)), _RESNET),
    "mobilenet_v3_small": BackboneSpec(
        _models.mobilenet_v3_small,
        _in_sequence("features", 2, 4, 9, 12),
        _models.MobileNet_V3_Small_Weights.IMAGENET1K_V1,
    ),
    "mobilenet_v3_large": BackboneSpec(
        _models.mobilenet_v3_large,
        _in_sequence("features", 4, 7, 13, 16),
        _models.MobileNet_V3_Large_Weights.IMAGENET1K_V2,
    ),
    "shufflenet_v2_x0_5": BackboneSpec(
        _models.shufflenet_v2_x0_5, _SHUFFLENET, _models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    ),
    "shufflenet_v2_x1_0": BackboneSpec(
        _models.shufflenet_v2_x1_0, _SHUFFLENET, _models.ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1
    ),
    "mnasnet0_5": BackboneSpec(
        _models.mnasnet0_5, _in_sequence("layers", 9, 10, 12, 14), _models.MNASNet0_5_Weights.IMAGENET1K_V1
    ),
    "mnasnet1_0": BackboneSpec(
        _models.mnasnet1_0, _in_sequence("layers", 9, 10, 12, 14), _models.MNASNet1_0_Weights.IMAGENET1K_V1
    ),
}


class Backbone(nn.Module):
    """A torchvision network without its classifier; parameters keep torchvision's names.

    Args:
        name: one of ``BACKBONES``.
        weights: None for random weights; ``"imagenet"`` for torchvision's published ones (downloaded once by
            torchvision, hash checked); or the path of a torchvision state dict (.pth, .safetensors) or of a model of
            ours with such a backbone.

    Attributes:
        channels: channels of the four stages.
        recompute: keep only the stages' inputs in training and compute the rest again in the backward pass.

    Raises:
        ValueError: unknown name, a network without published weights, or a file whose keys or shapes do not fit.
        RuntimeError: the download failed; the message says where to put the file.
    """

    def __init__(self, name: str, weights: str | Path | None = None) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise ValueError(f"backbone {name!r} is unknown; choose one of {', '.join(BACKBONES)}")
        self.stages = BACKBONES[name].stages
        self.recompute = False
        kept = [module for stage in self.stages for module in stage]
        self.add_modules_of(BACKBONES[name].build(), kept)
        with torch.no_grad():
            training = self.training
            self.channels = [stage.shape[1] for stage in self.eval()(torch.zeros(1, 3, 64, 64))]
            self.train(training)
        if weights is not None:
            self.load_weights(name, weights)

    def add_modules_of(self, network: nn.Module, names: list[str]) -> None:
        """Takes over the named modules, some of them members of one sequence."""
        for name in names:
            parent, _, index = name.rpartition(".")
            if not parent:
                self.add_module(name, network.get_submodule(name))
                continue
            if parent not in self._modules:
                self.add_module(parent, nn.Sequential())
            self.get_submodule(parent).add_module(index, network.get_submodule(name))

    def load_weights(self, name: str, weights: str | Path) -> None:
        """Loads ImageNet weights by torchvision's mechanism (``"imagenet"``) or from a file."""
        tensors = trained_tensors(name, weights)
        match_tensors(self, tensors, source=str(weights))
        self.load_state_dict(tensors, strict=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [N, 3, H, W] -> [C2, C3, C4, C5] at strides 4, 8, 16, 32 (each side rounded up)."""
        features, outputs = images, []
        for stage in self.stages:
            run = partial(self._run, stage)
            features = recomputed(self, run, features) if self.recompute else run(features)
            outputs.append(features)
        return outputs

    def _run(self, stage: tuple[str, ...], features: Tensor) -> Tensor:
        for name in stage:
            features = self.get_submodule(name)(features)
        return features


def trained_tensors(name: str, weights: str | Path) -> dict[str, Tensor]:
    """A network's trained weights without its classifier and what else comes after the cut, under torchvision's names.

    Args:
        name: one of ``BACKBONES``.
        weights: ``"imagenet"`` for torchvision's published ones, or the path of a torchvision state dict, or of a model
            of ours, whose part ``backbone`` is taken.

    Raises:
        ValueError: a network without published weights, or no weights file.
        FileNotFoundError: no such file.
        RuntimeError: the download failed; the message says where to put the file.
    """
    if str(weights) == "imagenet":
        published = BACKBONES[name].published
        if published is None:
            raise ValueError(f"there are no published ImageNet weights for backbone {name!r}; give a file or None")
        try:
            tensors = dict(published.get_state_dict(progress=True, check_hash=True))
        except OSError as error:
            raise RuntimeError(
                f"could not download {published.url} ({error}). Without a network, fetch that file elsewhere and "
                f"give its path instead of 'imagenet', or use random weights (None)"
            ) from error
    else:
        tensors = load_tensors(weights)[0]
    tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    part = "backbone."
    if own := {key.removeprefix(part): value for key, value in tensors.items() if key.startswith(part)}:
        return own
    spec = BACKBONES[name]
    with torch.device("meta"):
        network = spec.build()
    kept = tuple(f"{module}." for stage in spec.stages for module in stage)
    beyond = {key for key in network.state_dict() if not key.startswith(kept)}
    return {key: value for key, value in tensors.items() if key not in beyond}
