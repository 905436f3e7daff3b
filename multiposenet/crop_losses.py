"""Losses of networks that look at one person's crop, coarse to fine (MSPN, sec. 3.3)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from multiposenet.crop_heatmaps import CropLabels, GaussianLabels, as_distributions
from multiposenet.distributed import count_over_processes
from multiposenet.structures import CropOutputs, CropTargets

STRIDE = 4
"""Crop pixels a heatmap cell, of every network here; labels are drawn and positions found by it."""


class CropLoss(nn.Module):
    """Squared error of every stage's and level's heatmaps; unlabelled keypoints enter nothing.

    A stage's coarser levels count ``level_weight`` each, with all labelled keypoints. Its finest level counts fully,
    but only with the keypoints of each person that are worst (online hard keypoint mining). Labels get narrower from
    level to level, and those of the last stage by one width more (coarse-to-fine supervision).

    Args:
        labels: draws target maps, from wide to narrow; as many widths as a stage has levels, and one more.
        hard_keypoints: how many of a person's keypoints are the hard ones; where fewer are labelled, all of those.
        level_weight: weight of each coarser level.
        coarse_to_fine: the last stage has narrower labels than those before it.
        peak_weight: how much more a peak's cell counts than an empty one: errors are weighed by 1 + ``peak_weight`` x
            label. 0 is the published loss; more leaves the empty map, a network's first answer, sooner.
        legacy: as the published code counts: on coarser levels everything that is not *visible* is taught to be
            empty, and means are over all keypoints there, and over ``hard_keypoints`` however few are labelled.
    """

    def __init__(
        self,
        labels: CropLabels | None = None,
        hard_keypoints: int = 8,
        level_weight: float = 0.25,
        coarse_to_fine: bool = True,
        peak_weight: float = 0.0,
        legacy: bool = False,
    ) -> None:
        super().__init__()
        self.labels = GaussianLabels() if labels is None else labels
        self.hard_keypoints = hard_keypoints
        self.level_weight = level_weight
        self.coarse_to_fine = coarse_to_fine
        self.peak_weight = peak_weight
        self.legacy = legacy

    def forward(self, outputs: CropOutputs, targets: CropTargets) -> dict[str, Tensor]:
        """``finest`` and, where there are coarser levels, ``coarser``: scalars."""
        size = tuple(outputs.heatmaps.shape[-2:])
        labels = self.labels.encode(targets.keypoints, size, STRIDE)
        terms: dict[str, list[Tensor]] = {"finest": [], "coarser": []}
        for level, maps, width in levels_and_widths(outputs, len(labels), self.coarse_to_fine):
            label = labels[width]
            wanted = outputs.peak_height * label
            if self.legacy and level == "coarser":
                wanted = wanted * (targets.visibility > 1)[..., None, None]
            errors = ((maps.float() - wanted).square() * (1 + self.peak_weight * label)).mean((-2, -1))
            if level == "finest":
                terms[level].append(self._hard(errors, targets.visibility))
            else:
                terms[level].append(self.level_weight * self._mean(errors, targets.visibility))
        return {name: torch.stack(values).sum() for name, values in terms.items() if values}

    def _mean(self, errors: Tensor, visibility: Tensor) -> Tensor:
        """Mean of the labelled keypoints' errors [N, K]."""
        if self.legacy:
            return errors.mean()
        labelled = visibility > 0
        return (errors * labelled).sum() / count_over_processes(labelled.sum())

    def _hard(self, errors: Tensor, visibility: Tensor) -> Tensor:
        """The same of each person's worst keypoints."""
        labelled = visibility > 0
        # Unlabelled ones have no error, so they come last and add nothing.
        worst = (errors * labelled).topk(min(self.hard_keypoints, errors.shape[1]), dim=1).values.sum(1)
        if self.legacy:
            return worst.mean() / min(self.hard_keypoints, errors.shape[1])
        count = labelled.sum(1).clamp(max=self.hard_keypoints)
        return (worst / count.clamp(min=1)).sum() / count_over_processes((count > 0).sum())


def cell_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy [N, K] in nats of the cells' distributions, logits [N, K, h, w], with the labels' [N, K, h, w]."""
    return -(labels.flatten(2) * logits.float().flatten(2).log_softmax(-1)).sum(-1)


class CropCrossEntropy(nn.Module):
    """Cross-entropy of the cells' distribution with the label's, for logits (``CropDistributions``).

    From random weights it learns many times faster than squared errors of heights, whose first answer is the empty map.
    Labels get narrower from level to level and by one width more in the last stage, as in :class:`CropLoss`.

    Args:
        labels: draws target maps, from wide to narrow.
        level_weight: weight of each coarser level.
    """

    def __init__(self, labels: CropLabels, level_weight: float = 0.25) -> None:
        super().__init__()
        self.labels = labels
        self.level_weight = level_weight

    def forward(self, outputs: CropOutputs, targets: CropTargets) -> dict[str, Tensor]:
        """``finest`` and, where there are coarser levels, ``coarser``: scalars, in nats a labelled keypoint."""
        size = tuple(outputs.heatmaps.shape[-2:])
        labels = [
            as_distributions(maps) for maps in self.labels.encode(targets.keypoints, size, STRIDE)
        ]
        labelled = targets.visibility > 0
        count = count_over_processes(labelled.sum())

        def error(logits: Tensor, label: Tensor) -> Tensor:
            return (cell_nats(logits, label) * labelled).sum() / count

        terms: dict[str, list[Tensor]] = {"finest": [], "coarser": []}
        for level, maps, width in levels_and_widths(outputs, len(labels)):
            weight = 1.0 if level == "finest" else self.level_weight
            terms[level].append(weight * error(maps, labels[width]))
        return {name: torch.stack(values).sum() for name, values in terms.items() if values}


def levels_and_widths(
    outputs: CropOutputs, widths: int, coarse_to_fine: bool = True
) -> Iterator[tuple[str, Tensor, int]]:
    """Every stage's and level's maps with the number of their labels' width, 0 for the widest.

    Args:
        outputs: of the network.
        widths: how many there are; where a stage has more levels than that, the coarsest share the widest.
        coarse_to_fine: the last stage has narrower labels than those before it.

    Yields:
        ``"finest"`` or ``"coarser"``, maps [N, K, h, w], width.
    """
    for number, levels in enumerate(outputs.stage_heatmaps):
        last = number == len(outputs.stage_heatmaps) - 1
        narrowest = widths - (1 if last and coarse_to_fine else 2)
        for steps, maps in enumerate(reversed(levels)):
            yield "coarser" if steps else "finest", maps, max(0, narrowest - steps)
