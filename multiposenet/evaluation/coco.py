"""COCO keypoint AP and AR: pycocotools' numbers behind checks that do not let a broken file score silently.

pycocotools trusts what it is given. A NaN coordinate counts as a perfect hit, a wrong category or left-out pictures
change AP without a word, a ``bbox`` in the results moves people between the area ranges, and the caller's lists are
written to. Everything here exists to turn these into sentences.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from multiposenet.evaluation.backends import default_backend, measure
from multiposenet.evaluation.details import MAX_DETECTIONS, CocoDetails, count_details
from multiposenet.evaluation.ground_truth import (
    GroundTruth,
    annotations_from_labels,
    check_ground_truth,
    person_category_id,
    read_ground_truth,
)
from multiposenet.evaluation.hints import ZERO_AP, zero_hints
from multiposenet.evaluation.mixups import find_mixup
from multiposenet.evaluation.results import Results, check_results, read_results
from multiposenet.skeletons import COCO_PERSON, Skeleton

__all__ = [
    "MAX_DETECTIONS",
    "METRICS",
    "CocoMetrics",
    "annotations_from_labels",
    "evaluate_coco",
    "person_category_id",
    "print_summary",
    "read_ground_truth",
    "score_columns",
    "summary_lines",
]

_SUMMARY = {
    "AP": ("Average Precision", "(AP)", "0.50:0.95", "all"),
    "AP50": ("Average Precision", "(AP)", "0.50", "all"),
    "AP75": ("Average Precision", "(AP)", "0.75", "all"),
    "APM": ("Average Precision", "(AP)", "0.50:0.95", "medium"),
    "APL": ("Average Precision", "(AP)", "0.50:0.95", "large"),
    "AR": ("Average Recall", "(AR)", "0.50:0.95", "all"),
    "AR50": ("Average Recall", "(AR)", "0.50", "all"),
    "AR75": ("Average Recall", "(AR)", "0.75", "all"),
    "ARM": ("Average Recall", "(AR)", "0.50:0.95", "medium"),
    "ARL": ("Average Recall", "(AR)", "0.50:0.95", "large"),
}
METRICS = tuple(_SUMMARY)
"""Names of the ten numbers, in pycocotools' order."""

_SUSPICIOUS_AP = 0.05  # below it a mixup of keypoints is looked for


class CocoMetrics(dict[str, float]):
    """The ten COCO numbers by name, and what they hide in ``details``; in JSON and as a dict, the ten alone."""

    details: CocoDetails

    def __init__(self, numbers: Mapping[str, float], details: CocoDetails) -> None:
        super().__init__(numbers)
        self.details = details


def evaluate_coco(
    ground_truth: str | os.PathLike | Mapping,
    predictions: str | os.PathLike | Iterable[Mapping],
    skeleton: Skeleton = COCO_PERSON,
    image_ids: Iterable[int] | None = None,
    *,
    default_oks_sigmas: float | Sequence[float] | None = None,
    backend: str | None = None,
) -> CocoMetrics:
    """The ten COCO keypoint numbers of a set of predictions, and beside them what they hide.

    Args:
        ground_truth: COCO keypoint annotations, a JSON file (plain or gzip) or its content. Never modified.
        predictions: COCO keypoint results, a JSON file or its content: dicts with ``image_id``, ``category_id``,
            ``keypoints`` (flat [x, y, keypoint score] x K, pixels) and ``score``, all with the same fields. The
            keypoint scores and other fields, ``bbox`` too, are left out of the scoring. Never modified. An empty list
            is valid and scores 0, with a warning.
        skeleton: whose keypoints these are; its ``oks_sigmas`` are the ones used.
        image_ids: pictures to score; by default all of the ground truth, so that a picture without predictions
            counts as missed.
        default_oks_sigmas: the sigmas of a skeleton that has none; one number stands for all keypoints. Numbers made
            with a default compare only with others made with the same.
        backend: ``"pycocotools"`` or ``"faster-coco-eval"`` (the ``[fast]`` extra); by default the second where it is
            installed. They give the same ten numbers.

    Returns:
        AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL in [0, 1]; -1, as in pycocotools, where the ground truth
        has nobody of that size. ``details`` of the result holds the rest.

    Raises:
        ValueError: the skeleton has no sigmas and there is no default; the ground truth lacks a field; or a prediction
            is not finite, there twice, of an unknown picture or another category, or has other fields or another
            number of keypoints than it should. The message says which, and of which picture.
    """
    oks_sigmas, origin = sigmas_of(skeleton, default_oks_sigmas)
    truth = check_ground_truth(read_ground_truth(ground_truth), skeleton)
    pictures = chosen_pictures(truth, image_ids)
    results = check_results(read_results(predictions), truth, skeleton)
    metrics = score_columns(truth, results, pictures, skeleton, oks_sigmas, origin, backend)
    if not metrics.details.predictions:
        elsewhere = f" (there are {len(results)} of other pictures)" if len(results) else ""
        warnings.warn(
            f"there are no predictions at all for {len(pictures)} pictures{elsewhere}: AP is 0. An untrained model, a "
            "score threshold too high or an empty shard does this.",
            stacklevel=2,
        )
    elif metrics.details.mixup:
        warnings.warn(f"AP is {metrics['AP']:.3f}, but {metrics.details.mixup}", stacklevel=2)
    return metrics


def score_columns(
    truth: GroundTruth,
    results: Results,
    pictures: np.ndarray,
    skeleton: Skeleton,
    oks_sigmas: Sequence[float],
    sigmas_origin: str = "skeleton",
    backend: str | None = None,
) -> CocoMetrics:
    """:func:`evaluate_coco` on checked columns, without a word on what it finds.

    Args:
        truth: the people to find.
        results: the predictions.
        pictures: positions in ``truth.image_ids`` to score, ascending; none give -1 everywhere.
        skeleton: whose keypoints these are.
        oks_sigmas: [K].
        sigmas_origin: where they come from, for the details.
        backend: as in :func:`evaluate_coco`.
    """
    backend = default_backend() if backend is None else backend
    most = np.bincount(results.picture[np.isin(results.picture, pictures)], minlength=1).max()
    # With a second limit that lets everybody in, one run gives both numbers: lower ranks never change the first.
    limits = sorted({MAX_DETECTIONS, max(MAX_DETECTIONS, int(most))})
    curves = measure(truth, results, pictures, oks_sigmas, limits, backend)
    numbers = {}
    for name, (_, kind, threshold, area) in _SUMMARY.items():
        average = curves.average_precision if kind == "(AP)" else curves.average_recall
        numbers[name] = average(area, oks=None if ":" in threshold else float(threshold))
    suspicious = 0 <= numbers["AP"] < _SUSPICIOUS_AP
    search = find_mixup(truth, results, pictures, skeleton, oks_sigmas) if suspicious else None
    details = count_details(truth, results, pictures, curves, sigmas_origin, backend)
    if search is not None and search.mixup is not None:
        details = dataclasses.replace(details, mixup=str(search.mixup))
    elif search is not None and numbers["AP"] < ZERO_AP:
        details = dataclasses.replace(details, hints=zero_hints(search, truth, results, pictures))
    return CocoMetrics(numbers, details)


def summary_lines(
    metrics: Mapping[str, float], num_images: int | None = None, of_images: int | None = None
) -> list[str]:
    """The ten numbers in pycocotools' own words, after a line with the number of pictures when it is given.

    Args:
        metrics: of :func:`evaluate_coco`.
        num_images: pictures scored.
        of_images: pictures there are, where some were left out.
    """
    some = "" if of_images is None or of_images == num_images else f" of {of_images}"
    lines = [] if num_images is None else [f"COCO keypoint evaluation of {num_images}{some} pictures"]
    for name, (title, kind, iou, area) in _SUMMARY.items():
        setting = f"IoU={iou:<9} | area={area:>6s} | maxDets={MAX_DETECTIONS:>3d}"
        lines.append(f" {title:<18} {kind} @[ {setting} ] = {metrics[name]:0.3f}")
    return lines


def print_summary(metrics: Mapping[str, float], num_images: int | None = None, of_images: int | None = None) -> None:
    """Prints :func:`summary_lines`."""
    print("\n".join(summary_lines(metrics, num_images, of_images)))


def chosen_pictures(truth: GroundTruth, image_ids: Iterable[int] | None) -> np.ndarray:
    """Positions in ``truth.image_ids`` of the pictures to score, ascending; all of them by default.

    Raises:
        ValueError: an id is unknown, or there is no picture.
    """
    if image_ids is None:
        pictures = np.arange(len(truth.image_ids))
    else:
        pictures = np.unique(truth.positions(list(image_ids), "image_ids"))
    if not len(pictures):
        raise ValueError("there is no picture to evaluate: the ground truth or image_ids is empty")
    return pictures


def sigmas_of(skeleton: Skeleton, default: float | Sequence[float] | None = None) -> tuple[np.ndarray, str]:
    """[K] OKS sigmas and where they come from: the skeleton, or the ``default`` for one that has none.

    Raises:
        ValueError: there are none, or the default is no positive number (or K of them).
    """
    if skeleton.oks_sigmas is not None:
        return np.asarray(skeleton.oks_sigmas, np.float64), "skeleton"
    if default is None:
        raise ValueError(
            f"skeleton {skeleton.name!r} has no oks_sigmas, and COCO AP depends on them; set oks_sigmas (one positive "
            "number a keypoint) in the skeleton or its TOML file, or say which default to use with default_oks_sigmas "
            "(COCO's own lie between 0.025 for eyes and 0.107 for hips)"
        )
    sigmas = np.asarray(default, np.float64)
    if sigmas.shape not in ((), (skeleton.num_keypoints,)) or not (np.isfinite(sigmas) & (sigmas > 0)).all():
        raise ValueError(
            f"default_oks_sigmas must be one positive number, or {skeleton.num_keypoints} of them for skeleton "
            f"{skeleton.name!r}, got {default!r}"
        )
    return np.broadcast_to(sigmas, skeleton.num_keypoints), "default"
