"""People's crops through a network that looks at one person at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multiposenet.decode.crops import CropDecoder
from multiposenet.inference.settings import RunnerSettings
from multiposenet.structures import PersonBoxes, Poses

CROPS_A_PICTURE = 4
"""So many crops pass through the network together for every picture of a batch."""


class PersonCrops:
    """Cuts everybody out of their pictures and looks at them together.

    Args:
        model: on its device, in evaluation mode; ``model(crops)[0]`` are ``CropOutputs``.
        decoder: cuts crops by its rule and makes poses of heatmaps.
        settings: how to run.
    """

    def __init__(self, model: nn.Module, decoder: CropDecoder, settings: RunnerSettings) -> None:
        self.model, self.settings = model, settings
        self.rules = [decoder.rule.resized(size) for size in settings.sizes]
        self.decoder = decoder

    @torch.inference_mode()
    def poses(self, pictures: Sequence[np.ndarray], boxes: Sequence[PersonBoxes] | None) -> list[Poses]:
        """See ``Runner.poses``; boxes are needed.

        Raises:
            ValueError: there are no boxes.
        """
        if boxes is None:
            raise ValueError("people are looked at one by one here: give every picture's boxes")
        boxes = [self.decoder.select(own) for own in boxes]
        sizes = [picture.shape[:2] for picture in pictures]
        if not any(map(len, boxes)):
            return [Poses.empty(self.decoder.skeleton, size) for size in sizes]
        with self.settings.timed("prepare"):
            everybody = torch.from_numpy(np.concatenate([own.boxes for own in boxes])).to(self.settings.device)
            on_device = [self._on_device(picture) for picture in pictures]
        views = [self._heatmaps(on_device, boxes, everybody, scale) for scale in range(len(self.rules))]
        with self.settings.timed("decode"):
            size = views[0].shape[-2:]
            heatmaps = torch.stack([_resized(view, size) for view in views]).mean(0)
            windows = self.rules[0].windows(everybody)
            return [poses.to("cpu") for poses in self.decoder(heatmaps, windows, boxes, sizes)]

    def boxes(self, pictures: Sequence[np.ndarray]) -> list[PersonBoxes]:
        """Crops are cut from boxes, so none can come out; raises ValueError."""
        raise ValueError("a method that looks at one person at a time finds no people; use another one as detector")

    def _heatmaps(
        self, pictures: Sequence[Tensor], boxes: Sequence[PersonBoxes], everybody: Tensor, scale: int
    ) -> Tensor:
        """Maps [P, K, h, w] of everybody at one scale, with peaks of height 1."""
        rule = self.rules[scale]
        with self.settings.timed("prepare"):
            windows, counts = rule.windows(everybody), [len(own) for own in boxes]
            rows = torch.arange(len(everybody), device=everybody.device).split(counts)
            crops = torch.cat([rule.cut(picture, windows[own]) for picture, own in zip(pictures, rows, strict=True)])
        found = []
        for part in crops.split(CROPS_A_PICTURE * self.settings.batch_size):
            part = part.contiguous(memory_format=torch.channels_last)
            answers = []
            for mirrored in self.settings.mirrorings:
                with self.settings.network():
                    heatmaps = self.model(part.flip(-1) if mirrored else part)[0].unit_heatmaps
                answers.append(self.decoder.unflipped(heatmaps) if mirrored else heatmaps)
            found.append(torch.stack(answers).mean(0))
        return torch.cat(found)

    def _on_device(self, picture: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(picture).to(self.settings.device)
        return pixels.permute(2, 0, 1).float().div_(255)


def _resized(heatmaps: Tensor, size: torch.Size) -> Tensor:
    """Maps of a larger or smaller crop in the first one's cells."""
    if heatmaps.shape[-2:] == size:
        return heatmaps
    return F.interpolate(heatmaps, size=tuple(size), mode="bilinear", align_corners=False)
