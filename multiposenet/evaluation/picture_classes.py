"""Pictures sorted by how crowded they are: by people in them, and by how much two of them overlap."""

from __future__ import annotations

import numpy as np
import torch

from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.evaluation.grouping_scores import OVERLAP_BOUNDS, PEOPLE_BOUNDS
from multiposenet.evaluation.matches import same_picture
from multiposenet.geometry import pairwise_iou, xywh_to_xyxy


def crowding_of_pictures(truth: GroundTruth, pictures: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Pictures with people, by ``people`` and by ``overlap``: name of the class -> positions of its pictures.

    People are all single ones, labelled keypoints or not; the overlap is the highest IoU of two of their boxes.

    Args:
        truth: the people.
        pictures: positions in ``truth.image_ids`` that take part.
    """
    single = np.flatnonzero(~truth.crowd)
    count = np.bincount(truth.picture[single], minlength=len(truth.image_ids))
    boxes = torch.from_numpy(xywh_to_xyxy(truth.boxes_xywh))
    one, other = same_picture(truth.picture[single], truth.picture, single)
    one = single[one]
    one, other = one[one < other], other[one < other]
    iou = pairwise_iou(boxes[one][:, None], boxes[other][:, None])[:, 0, 0].numpy()
    overlap = np.zeros(len(truth.image_ids))
    np.maximum.at(overlap, truth.picture[one], iou)
    pictures = pictures[count[pictures] > 0]
    return {
        "people": _classes(pictures, count, [f"{low}" for low in PEOPLE_BOUNDS], PEOPLE_BOUNDS, whole=True),
        "overlap": _classes(pictures, overlap, [f"{low:g}" for low in OVERLAP_BOUNDS], OVERLAP_BOUNDS, whole=False),
    }


def _classes(
    pictures: np.ndarray, value: np.ndarray, texts: list[str], bounds: tuple[float, ...], whole: bool
) -> dict[str, np.ndarray]:
    place = np.searchsorted(bounds, value[pictures], side="right") - 1
    names = []
    for number, text in enumerate(texts):
        if number + 1 == len(bounds):
            names.append(f"{text} or more")
        elif whole:
            last = bounds[number + 1] - 1
            names.append(text if last == bounds[number] else f"{text} to {last}")
        else:
            names.append(f"{text} to {texts[number + 1]}")
    return {name: pictures[place == number] for number, name in enumerate(names)}
