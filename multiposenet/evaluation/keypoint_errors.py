"""What is wrong with a keypoint: good, jitter, inversion, swap or miss (Ronchi and Perona, ICCV 2017, sec. 3.1).

A keypoint's similarity to an annotated point is its share of OKS, exp(-d^2 / (2 area (2 sigma)^2)), with the area of
the person whose point that is and the sigma of the keypoint that is judged. From 0.85 on it is as near as two
annotators are to each other; from 0.5 on it is in the neighbourhood.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.evaluation.matches import Matches, chunks, same_picture
from multiposenet.evaluation.oks import point_similarity
from multiposenet.evaluation.results import Results
from multiposenet.skeletons import Skeleton

GOOD_SIMILARITY, NEAR_SIMILARITY = 0.85, 0.5

KINDS = ("good", "jitter", "inversion", "swap", "miss")
"""What a keypoint can be; verdicts are positions in this tuple."""

GOOD, JITTER, INVERSION, SWAP, MISS = range(len(KINDS))
UNJUDGED = -1
"""Verdict on a keypoint that nobody labelled, or of a prediction that is nobody."""


def judge_keypoints(
    truth: GroundTruth, results: Results, matches: Matches, skeleton: Skeleton, oks_sigmas: Sequence[float]
) -> np.ndarray:
    """The verdict on every keypoint of every prediction that is somebody.

    * good: similarity to its own annotation of at least 0.85; jitter: of at least 0.5.
    * inversion: not near its own annotation, but near that of the mirrored keypoint of the same person.
    * swap: near the same or the mirrored keypoint of another person in the picture. Where a keypoint could be an
      inversion and a swap, it is the more similar one.
    * miss: none of these.

    Returns:
        [D, K] int8, positions in :data:`KINDS` or :data:`UNJUDGED`.
    """
    rows = np.flatnonzero(matches.found)
    people = matches.person[rows]
    xy = results.xy[rows]
    labelled = truth.visibility[people] > 0
    own, inverted = own_similarities(truth, xy, people, skeleton, oks_sigmas)
    swapped = swap_similarities(truth, xy, people, skeleton, oks_sigmas)
    verdicts = np.full(own.shape, MISS, np.int8)
    verdicts[np.maximum(inverted, swapped) >= NEAR_SIMILARITY] = SWAP
    verdicts[(inverted >= NEAR_SIMILARITY) & (inverted >= swapped)] = INVERSION
    verdicts[own >= NEAR_SIMILARITY] = JITTER
    verdicts[own >= GOOD_SIMILARITY] = GOOD
    verdicts[~labelled] = UNJUDGED
    everyone = np.full((len(results), skeleton.num_keypoints), UNJUDGED, np.int8)
    everyone[rows] = verdicts
    return everyone


def own_similarities(
    truth: GroundTruth, xy: np.ndarray, people: np.ndarray, skeleton: Skeleton, oks_sigmas: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Similarity of keypoints to their own annotations, and to those of their mirrored ones.

    Args:
        truth: the people.
        xy: [R, K, 2] keypoints, pixels; people: [R] whose they should be.
        skeleton: says what mirrors what.
        oks_sigmas: [K].

    Returns:
        (own [R, K], mirrored [R, K]); 0 where the annotation is missing, or nothing mirrors the keypoint.
    """
    flip = np.array(skeleton.flip_indices)
    own = _similarity(truth, xy, people, np.arange(len(flip)), oks_sigmas)
    mirrored = _similarity(truth, xy, people, flip, oks_sigmas)
    return own, np.where(flip != np.arange(len(flip)), mirrored, 0.0)


def swap_similarities(
    truth: GroundTruth, xy: np.ndarray, people: np.ndarray, skeleton: Skeleton, oks_sigmas: Sequence[float]
) -> np.ndarray:
    """[R, K] highest similarity of each keypoint to the same or mirrored one of another person in the picture."""
    row, other = same_picture(truth.picture[people], truth.picture, np.flatnonzero(truth.scored))
    apart = other != people[row]
    row, other = row[apart], other[apart]
    highest = np.zeros(xy.shape[:2])
    for part in chunks(len(row)):
        for candidate in (np.arange(xy.shape[1]), np.array(skeleton.flip_indices)):
            near = _similarity(truth, xy[row[part]], other[part], candidate, oks_sigmas)
            starts = np.flatnonzero(np.diff(row[part], prepend=-1))  # rows ascend: those of one lie together
            of = row[part][starts]
            highest[of] = np.maximum(highest[of], np.maximum.reduceat(near, starts, axis=0))
    return highest


def _similarity(
    truth: GroundTruth, xy: np.ndarray, people: np.ndarray, keypoints: np.ndarray, oks_sigmas: Sequence[float]
) -> np.ndarray:
    """[R, K] similarity of points [R, K, 2] to annotated ``keypoints`` [K] of ``people`` [R]; 0 where unlabelled."""
    offsets = xy - truth.xy[people][:, keypoints]
    similarity = point_similarity(offsets, truth.areas[people], oks_sigmas)
    return np.where(truth.visibility[people][:, keypoints] > 0, similarity, 0.0)
