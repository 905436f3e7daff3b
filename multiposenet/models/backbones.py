"""ResNet backbones, torchvision's own, cut open at the four stages that a pyramid needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torchvision
from torch import Tensor, nn

from multiposenet.checkpoint import load_tensors, match_tensors

RESNETS = {
    "resnet18": (torchvision.models.resnet18, torchvision.models.ResNet18_Weights.IMAGENET1K_V1),
    "resnet34": (torchvision.models.resnet34, torchvision.models.ResNet34_Weights.IMAGENET1K_V1),
    "resnet50": (torchvision.models.resnet50, torchvision.models.ResNet50_Weights.IMAGENET1K_V1),
    "resnet101": (torchvision.models.resnet101, torchvision.models.ResNet101_Weights.IMAGENET1K_V1),
}


class ResNetBackbone(nn.Module):
    """A torchvision ResNet without its classifier; parameters keep torchvision's names.

    Args:
        name: one of ``RESNETS``.
        weights: None for random weights; ``"imagenet"`` for torchvision's published ones (downloaded once by
            torchvision, hash checked); or the path of a torchvision state dict (.pth, .safetensors).

    Raises:
        ValueError: unknown name, or a file whose keys or shapes do not fit.
        RuntimeError: the download failed; the message says where to put the file.
    """

    def __init__(self, name: str, weights: str | Path | None = None) -> None:
        super().__init__()
        if name not in RESNETS:
            raise ValueError(f"backbone {name!r} is unknown; choose one of {', '.join(RESNETS)}")
        resnet = RESNETS[name][0]()
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4
        self.channels = [_out_channels(layer) for layer in (self.layer1, self.layer2, self.layer3, self.layer4)]
        if weights is not None:
            self.load_weights(name, weights)

    def load_weights(self, name: str, weights: str | Path) -> None:
        """Loads ImageNet weights by torchvision's mechanism (``"imagenet"``) or from a file."""
        if str(weights) == "imagenet":
            published = RESNETS[name][1]
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
        tensors = {key: value for key, value in tensors.items() if not key.startswith("fc.")}
        match_tensors(self, tensors, source=str(weights))
        self.load_state_dict(tensors, strict=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [N, 3, H, W] -> [C2, C3, C4, C5] at strides 4, 8, 16, 32 (each side rounded up)."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        stages = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
            stages.append(features)
        return stages


def _out_channels(layer: Sequence[nn.Module]) -> int:
    last = layer[-1]
    return (last.conv3 if hasattr(last, "conv3") else last.conv2).out_channels
