"""Several crop networks as one: their heatmaps averaged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from multiposenet.structures import CropOutputs


class Ensemble(nn.Module):
    """Answers with the mean of its models' heatmaps, each model's brought to peaks of height 1 first.

    The models may differ in everything but keypoints and the size of their maps.

    Args:
        models: ``model(images)[0]`` are ``CropOutputs``.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> tuple[CropOutputs, dict[str, Tensor]]:
        """Crops [N, 3, H, W] -> one stage of one level, and no losses."""
        answers = [model(images)[0] for model in self.models]
        heatmaps = torch.stack([outputs.unit_heatmaps for outputs in answers]).mean(0)
        return CropOutputs(((heatmaps,),), answers[0].image_size), {}
