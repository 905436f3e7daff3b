"""The keypoint subnet: pyramid features to keypoint heatmaps and a person mask (MultiPoseNet, sec. 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NormLayer = Callable[[int], nn.Module]


class KeypointSubnet(nn.Module):
    """D_l: two 3x3 convolutions on each K_l; upsample to K2's size; concatenate; smooth; one map a keypoint.

    Args:
        channels: width of the pyramid (K2..K5).
        width: width of D_l.
        merged: width after the concatenated levels are smoothed.
        num_maps: maps to predict, K keypoints and the person mask if there is one.
        num_supervised: maps of the intermediate heads that sit on every K_l in training.
        levels: pyramid levels.
        activation: ReLU between and after the two convolutions of D_l. The paper does not say; the reference
            layout has none.
        norm_layer: normalisation after the 3x3 convolutions, e.g. ``nn.BatchNorm2d``; the reference layout has none.
        start: value of all maps at the start, see ``losses.MapAnswer``.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        merged: int,
        num_maps: int,
        num_supervised: int,
        levels: int = 4,
        activation: bool = False,
        norm_layer: NormLayer | None = None,
        start: float = 0.0,
    ) -> None:
        super().__init__()

        def refine() -> nn.Sequential:
            return nn.Sequential(
                *_conv3x3(channels, width, norm_layer, activation), *_conv3x3(width, width, norm_layer, activation)
            )

        self.refine = nn.ModuleList([refine() for _ in range(levels)])
        self.merge = nn.Sequential(*_conv3x3(levels * width, merged, norm_layer, activation=True))
        self.predict = nn.Conv2d(merged, num_maps, 1)
        self.supervise = nn.ModuleList([nn.Conv2d(channels, num_supervised, 1) for _ in range(levels)])
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        # Maps are nearly empty: start near that, or the first steps only unlearn noise.
        for layer in [self.predict, *self.supervise]:
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.constant_(layer.bias, start)

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        """[K2, K3, K4, K5], each [N, channels, h_l, w_l] -> maps [N, num_maps, h_2, w_2] and the features that they are
        predicted from [N, merged, h_2, w_2].
        """
        size = pyramid[0].shape[-2:]
        refined = [F.interpolate(d(k), size=size) for d, k in zip(self.refine, pyramid, strict=True)]
        merged = self.merge(torch.cat(refined, dim=1))
        return self.predict(merged), merged

    def supervised(self, pyramid: list[Tensor]) -> list[Tensor]:
        """Intermediate maps of every level, upsampled to K2's size; for the training loss only."""
        size = pyramid[0].shape[-2:]
        return [F.interpolate(head(k), size=size) for head, k in zip(self.supervise, pyramid, strict=True)]


def _conv3x3(inputs: int, outputs: int, norm_layer: NormLayer | None, activation: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm_layer is None)]
    if norm_layer is not None:
        layers.append(norm_layer(outputs))
    if activation:
        layers.append(nn.ReLU(inplace=True))
    return layers
