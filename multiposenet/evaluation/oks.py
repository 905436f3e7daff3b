"""Object keypoint similarity (https://cocodataset.org/#keypoints-eval): how well a pose fits an annotated person."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from multiposenet.structures import PersonLabels, Poses


def oks(
    keypoints: np.ndarray,
    truth: np.ndarray,
    visibility: np.ndarray,
    areas: np.ndarray,
    oks_sigmas: Sequence[float],
    boxes: np.ndarray | None = None,
) -> np.ndarray:
    """Similarity of every pose to every annotated person.

    The mean over the labelled keypoints of exp(-d^2 / (2 area (2 sigma)^2)), d in pixels.

    Args:
        keypoints: [P, K, 2] poses, pixels.
        truth: [G, K, 2] annotated keypoints, pixels; ignored where visibility is 0.
        visibility: [G, K]; above 0 means labelled.
        areas: [G] segment areas, pixels.
        oks_sigmas: [K] constants of the skeleton.
        boxes: [G, 4] annotated boxes, xyxy. When given, a person without any labelled keypoint is compared the way
            COCO does for its ignore regions: by the distance of the keypoints to the box widened by its own size on
            every side. Otherwise the similarity to such a person is 0.

    Returns:
        [P, G] float64 in [0, 1].
    """
    boxes = None if boxes is None else np.asarray(boxes)[None]
    return aligned_oks(
        np.asarray(keypoints, np.float64)[:, None],
        np.asarray(truth, np.float64)[None],
        np.asarray(visibility)[None],
        np.asarray(areas)[None],
        oks_sigmas,
        boxes,
    )


def aligned_oks(
    keypoints: np.ndarray,
    truth: np.ndarray,
    visibility: np.ndarray,
    areas: np.ndarray,
    oks_sigmas: Sequence[float],
    boxes: np.ndarray | None = None,
) -> np.ndarray:
    """:func:`oks` of poses [..., K, 2] with people whose arrays broadcast against them; [...] float64."""
    labelled = visibility > 0
    offsets = keypoints - np.where(labelled[..., None], truth, 0.0)
    if boxes is not None:
        unlabelled = ~labelled.any(axis=-1)
        boxes = boxes.astype(np.float64)
        sides = boxes[..., 2:] - boxes[..., :2]
        low, high = (boxes[..., :2] - sides)[..., None, :], (boxes[..., 2:] + sides)[..., None, :]
        outside = np.maximum(0, low - keypoints) + np.maximum(0, keypoints - high)
        offsets = np.where(unlabelled[..., None, None], outside, offsets)
        labelled = labelled | unlabelled[..., None]
    similarities = point_similarity(offsets, areas, oks_sigmas)
    return (similarities * labelled).sum(axis=-1) / labelled.sum(axis=-1).clip(1)


def point_similarity(offsets: np.ndarray, areas: np.ndarray, oks_sigmas: Sequence[float]) -> np.ndarray:
    """One keypoint's share of the similarity, exp(-d^2 / (2 area (2 sigma)^2)).

    Args:
        offsets: [..., K, 2] pixels between prediction and annotation; areas: [...] of the annotated people, pixels.
        oks_sigmas: [K].

    Returns:
        [..., K] float64 in [0, 1].
    """
    variances = (2 * np.asarray(oks_sigmas, np.float64)) ** 2
    scales = (np.asarray(areas, np.float64) + np.spacing(1))[..., None]
    return np.exp(-(np.asarray(offsets, np.float64) ** 2).sum(axis=-1) / variances / scales / 2)


def keypoint_similarity(squared_distances: Tensor, areas: Tensor, oks_sigmas: Tensor) -> Tensor:
    """:func:`point_similarity` on tensors, from squared distances.

    Args:
        squared_distances: [..., K] pixels squared; areas: broadcast against it, pixels; oks_sigmas: [K].

    Returns:
        [..., K] in [0, 1].
    """
    return (-squared_distances / (2 * areas.clamp(min=1e-6) * (2 * oks_sigmas) ** 2)).exp()


def picture_oks(poses: Poses, labels: PersonLabels, oks_sigmas: Sequence[float]) -> float | None:
    """How well one picture was solved: mean similarity over its annotated people, a missed person counting 0.

    Poses and people are paired one to one so that the sum of similarities is largest. Surplus poses cost nothing
    here: this orders pictures for looking at, it is no replacement for AP.

    Args:
        poses: the people found.
        labels: the people annotated; crowds and people without labelled keypoints do not take part.
        oks_sigmas: [K].

    Returns:
        A number in [0, 1], or None when the picture has no annotated keypoints to compare with.
    """
    compared = (labels.visibility > 0).any(axis=1) & ~labels.crowd
    if not compared.any():
        return None
    similarity = oks(
        poses.keypoints.detach().cpu().numpy(),
        labels.keypoints[compared],
        labels.visibility[compared],
        labels.areas[compared],
        oks_sigmas,
    )
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return float(similarity[rows, columns].sum() / compared.sum())
