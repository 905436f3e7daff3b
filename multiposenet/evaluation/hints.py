"""Sentences on why AP is 0, from what can be seen in the predictions."""

from __future__ import annotations

import numpy as np

from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.evaluation.mixups import MixupSearch
from multiposenet.evaluation.results import Results

ZERO_AP = 0.01
"""Below it the hints are worth reading."""

_FITTING = 0.5  # mean best OKS from which people count as found
_OTHER_SIZE = 2.0  # predicted people so many times smaller or larger are worth a sentence
_OUTSIDE = 0.1  # share of keypoints outside their picture


def zero_hints(search: MixupSearch, truth: GroundTruth, results: Results, pictures: np.ndarray) -> tuple[str, ...]:
    """What the predictions look like when AP is next to 0; nothing when there is nothing to compare.

    Args:
        search: of :func:`multiposenet.evaluation.mixups.find_mixup`, which found none.
        truth: the people to find.
        results: the predictions.
        pictures: positions in ``truth.image_ids`` that are scored.
    """
    if not len(results):
        return ()
    if search.before is None:
        return ("no picture has both people to be found and predictions: are the image_ids those of this split?",)
    hints = []
    if search.before >= _FITTING:
        hints.append(
            f"the people are found (mean best OKS {search.before:.2f}), but other predictions have higher scores: look "
            "at how people are scored, and at duplicates"
        )
    else:
        hints.append(
            f"mean best OKS is {search.before:.2f}, and nothing that was tried makes the predictions fit: neither "
            "exchanging axes or sides, another order of keypoints or of their numbers, the next picture, a shift or "
            "scale, shares of the picture, nor a resized picture. Untrained or wrong weights, or pictures prepared "
            "otherwise than in training, look like this"
        )
    here = np.isin(results.picture, pictures)
    predicted = _diagonals(results.xy[here])
    people = truth.scored & np.isin(truth.picture, pictures)
    annotated = _diagonals(np.where((truth.visibility > 0)[..., None], truth.xy, np.nan)[people])
    ratio = float(np.median(predicted) / max(np.median(annotated), 1e-6))
    if not 1 / _OTHER_SIZE < ratio < _OTHER_SIZE:
        hints.append(
            f"predicted people are {ratio:.2f} times as large as the annotated ones (median of "
            f"{np.median(predicted):.1f} and {np.median(annotated):.1f} pixels across)"
        )
    sides = truth.sizes[results.picture[here], None, ::-1]
    outside = float(((results.xy[here] < -0.5) | (results.xy[here] > sides - 0.5)).any(-1).mean())
    if outside > _OUTSIDE:
        hints.append(f"{outside:.0%} of the predicted keypoints lie outside their picture")
    return tuple(hints)


def _diagonals(points: np.ndarray) -> np.ndarray:
    """[R] extent of each person [R, K, 2], NaN left out; pixels."""
    return np.hypot(*(np.nanmax(points, axis=1) - np.nanmin(points, axis=1)).T)
