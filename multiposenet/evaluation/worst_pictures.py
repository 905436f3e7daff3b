"""The pictures of a diagnosis, drawn with truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from multiposenet.data.pictures import PictureError
from multiposenet.evaluation.diagnosis import PictureDiagnosis
from multiposenet.report_page import Figure
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels, Poses, Sample
from multiposenet.visualize import draw_comparison

_MORE = 3  # predictions drawn beyond the people there are
_GREY = 110  # of the canvas where a picture is not there


class NumberedPictures(Protocol):
    """A dataset whose pictures have ids."""

    skeleton: Skeleton
    image_ids: Sequence[int]

    def __getitem__(self, index: int) -> Sample: ...


def worst_figures(
    worst: Sequence[PictureDiagnosis], dataset: NumberedPictures, predictions: Sequence[Mapping], max_side: int = 1200
) -> Iterator[Figure]:
    """A figure of every picture, its people on the left and the best predictions on the right.

    Where a picture's file is not there or cannot be read, the people are drawn on grey, and the caption says so.

    Args:
        worst: of a :class:`multiposenet.evaluation.diagnosis.Diagnosis`.
        dataset: the pictures; one without picture files has ``labels(index)`` and ``image_size(index)``.
        predictions: COCO results.
        max_side: pixels of a figure's longer side.
    """
    index_of = {image_id: index for index, image_id in enumerate(dataset.image_ids)}
    found: dict[int, list[Mapping]] = {picture.image_id: [] for picture in worst}
    for prediction in predictions:
        if prediction["image_id"] in found:
            found[prediction["image_id"]].append(prediction)
    for picture in worst:
        image, labels, name, missing = _picture(dataset, index_of[picture.image_id])
        poses = poses_from_results(found[picture.image_id], dataset.skeleton)
        shown = poses[: picture.people + _MORE]
        titles = ("ground truth", f"prediction, the best {len(shown)} of {len(poses)}")
        drawing = draw_comparison(
            image, shown, labels, titles=titles, score_threshold=-np.inf, keypoint_threshold=-np.inf
        )
        caption = (
            f"{name} (id {picture.image_id}): mean OKS {picture.mean_oks:.2f}; of {picture.people} people "
            f"{picture.missed} missed, {picture.false_people} predictions are nobody{missing}"
        )
        yield Figure(drawing, caption, max_side)


def poses_from_results(results: Sequence[Mapping], skeleton: Skeleton) -> Poses:
    """One picture's COCO results as poses, best first; boxes are drawn round the keypoints."""
    if not results:
        return Poses.empty(skeleton)
    results = sorted(results, key=lambda result: -result["score"])
    triples = torch.tensor([result["keypoints"] for result in results], dtype=torch.float32)
    triples = triples.reshape(len(results), skeleton.num_keypoints, 3)
    xy = triples[..., :2]
    return Poses(
        keypoints=xy,
        keypoint_scores=triples[..., 2].clamp(0, 1),
        boxes=torch.cat([xy.amin(1), xy.amax(1) + 1], dim=-1),
        scores=torch.tensor([result["score"] for result in results], dtype=torch.float32),
        skeleton=skeleton,
    )


def _picture(dataset: NumberedPictures, index: int) -> tuple[np.ndarray, PersonLabels, str, str]:
    """Pixels, people, name, and what to say where the pixels are not the picture's."""
    try:
        sample = dataset[index]
        return sample.image, sample.labels, sample.name, ""
    except (FileNotFoundError, PictureError, ValueError):
        image = np.full((*dataset.image_size(index), 3), _GREY, np.uint8)
        return image, dataset.labels(index), dataset.image_name(index), "; the picture itself is not there"
