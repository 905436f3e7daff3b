"""CrowdPose's evaluation (https://arxiv.org/abs/1812.00324): COCO's rules, and AP by how crowded a picture is."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from multiposenet.data.completion import BOX_AREA_SHARE
from multiposenet.evaluation.coco import CocoMetrics, score_columns
from multiposenet.evaluation.columns import plain_id
from multiposenet.evaluation.details import MAX_DETECTIONS
from multiposenet.evaluation.ground_truth import check_ground_truth, read_ground_truth
from multiposenet.evaluation.results import check_results, read_results
from multiposenet.skeletons import CROWDPOSE, Skeleton


@dataclass(frozen=True)
class CrowdLevels:
    """Where pictures pass from easy to medium and from medium to hard, by crowd index in [0, 1].

    Args:
        easy: highest crowd index of an easy picture.
        medium: highest crowd index of a medium one; the others are hard.
        inclusive: a picture of exactly these indices belongs to the easier level.
    """

    easy: float
    medium: float
    inclusive: bool = True

    def split(self, crowd_indices: np.ndarray) -> dict[str, np.ndarray]:
        """[I] crowd indices -> for easy, medium and hard, in this order, the positions of their pictures."""
        level = np.searchsorted((self.easy, self.medium), crowd_indices, side="left" if self.inclusive else "right")
        return {name: np.flatnonzero(level == number) for number, name in enumerate(("easy", "medium", "hard"))}


PAPER_LEVELS = CrowdLevels(0.1, 0.8)
"""As the paper draws them: easy up to 0.1, medium up to 0.8."""

TOOL_LEVELS = CrowdLevels(0.2, 0.8, inclusive=False)
"""As the authors' evaluation tool and its descendants draw them: easy below 0.2, medium below 0.8.

Published tables made with those tools compare with these.
"""

LEVELS = {"paper": PAPER_LEVELS, "tool": TOOL_LEVELS}


@dataclass(frozen=True)
class CrowdPoseMetrics:
    """What came of it.

    Args:
        overall: the ten numbers on all pictures.
        levels: the same on ``easy``, ``medium`` and ``hard`` pictures; -1 on a level without any.
    """

    overall: CocoMetrics
    levels: dict[str, CocoMetrics]

    def to_dict(self) -> dict[str, float]:
        """The ten numbers and ``AP_easy``, ``AP_medium``, ``AP_hard``, ready for JSON."""
        return {**self.overall, **{f"AP_{name}": metrics["AP"] for name, metrics in self.levels.items()}}


def evaluate_crowdpose(
    ground_truth: str | os.PathLike | Mapping,
    predictions: str | os.PathLike | Iterable[Mapping],
    skeleton: Skeleton = CROWDPOSE,
    image_ids: Iterable[int] | None = None,
    *,
    levels: CrowdLevels = PAPER_LEVELS,
    backend: str | None = None,
) -> CrowdPoseMetrics:
    """COCO's numbers on CrowdPose, as its authors' tool counts them, over all and by level.

    Its annotations have no segment area; like the tool, this takes 0.53 of every person's box, whatever the file says.

    Args:
        ground_truth: CrowdPose annotations, a JSON file or its content; every picture has a ``crowdIndex``.
        predictions: as in :func:`multiposenet.evaluation.coco.evaluate_coco`.
        skeleton: whose keypoints these are; it must have sigmas.
        image_ids: pictures to score; by default all.
        levels: where easy and medium end. :data:`TOOL_LEVELS` for comparison with published tables.
        backend: as in :func:`multiposenet.evaluation.coco.evaluate_coco`.

    Raises:
        ValueError: a picture has no crowd index in [0, 1], or as :func:`multiposenet.evaluation.coco.evaluate_coco`.
    """
    if skeleton.oks_sigmas is None:
        raise ValueError(f"skeleton {skeleton.name!r} has no oks_sigmas; CrowdPose's evaluation depends on them")
    content = read_ground_truth(ground_truth)
    truth = check_ground_truth({**content, "annotations": [_scorable(a) for a in content["annotations"]]}, skeleton)
    truth = dataclasses.replace(truth, areas=BOX_AREA_SHARE * truth.boxes_xywh[:, 2] * truth.boxes_xywh[:, 3])
    crowd_indices = _crowd_indices(content, truth.image_ids)
    results = check_results(read_results(predictions), truth, skeleton)
    chosen = np.arange(len(truth.image_ids))
    if image_ids is not None:
        chosen = np.unique(truth.positions(list(image_ids), "image_ids"))

    def score(pictures: np.ndarray) -> CocoMetrics:
        return score_columns(truth, results, pictures, skeleton, skeleton.oks_sigmas, backend=backend)

    split = levels.split(crowd_indices[chosen])
    return CrowdPoseMetrics(score(chosen), {name: score(chosen[rows]) for name, rows in split.items()})


def level_lines(metrics: CrowdPoseMetrics) -> list[str]:
    """AP of the levels in the words of CrowdPose's tool, with the number of pictures behind."""
    return [
        f" {'Average Precision':<18} (AP) @[ IoU={'0.50:0.95':<9} | type={name:>6s} | maxDets={MAX_DETECTIONS:>3d} ] "
        f"= {level['AP']:0.3f}  ({level.details.pictures} pictures)"
        for name, level in metrics.levels.items()
    ]


def _scorable(annotation: Mapping) -> Mapping:
    return {"area": 0, "iscrowd": 0, **annotation}


def _crowd_indices(content: Mapping, image_ids: tuple) -> np.ndarray:
    indices = {plain_id(image["id"]): image.get("crowdIndex") for image in content["images"]}
    for image_id, index in indices.items():
        if not isinstance(index, (int, float)) or not math.isfinite(index) or not 0 <= index <= 1:
            raise ValueError(
                f"ground truth: picture {image_id}: crowdIndex must be a number in [0, 1], got {index!r}; "
                "CrowdPose's own files have it, evaluate_coco does without"
            )
    return np.array([indices[image_id] for image_id in image_ids], np.float64)
