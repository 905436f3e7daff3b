"""Predictions with errors of known kinds at known rates, made of labels: what a diagnosis has to find again.

Errors are planted where they can be seen: an inversion where left and right lie apart, a swap where another person of
the picture has the keypoint labelled somewhere else, a miss where nobody's keypoint is near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.evaluation.keypoint_errors import (
    GOOD,
    INVERSION,
    JITTER,
    MISS,
    NEAR_SIMILARITY,
    SWAP,
    UNJUDGED,
    own_similarities,
    swap_similarities,
)
from multiposenet.evaluation.matches import same_picture
from multiposenet.evaluation.results import Results
from multiposenet.skeletons import Skeleton

_GOOD_RANGE, _JITTER_RANGE = (0.88, 1.0), (0.55, 0.8)  # similarities, clear of the borders between the kinds
_MISS_RANGE = (0.7, 2.0)  # distances in units of the root of the person's area
_ATTEMPTS = 30


@dataclass(frozen=True)
class ErrorRates:
    """Shares of the labelled keypoints, and of the people to be found.

    Args:
        inversion, swap, miss, jitter: of keypoints.
        missed_people: without a prediction; false_people: predictions more than people, in their pictures.
    """

    inversion: float = 0.0
    swap: float = 0.0
    miss: float = 0.0
    jitter: float = 0.0
    missed_people: float = 0.0
    false_people: float = 0.0


@dataclass(frozen=True)
class PlantedErrors:
    """What was planted.

    Args:
        results: predictions; those of people first.
        person: [D] whom each prediction is, -1 for a false person.
        verdicts: [D, K] what each keypoint is meant to be, as in :mod:`multiposenet.evaluation.keypoint_errors`.
    """

    results: Results
    person: np.ndarray
    verdicts: np.ndarray


def plant_errors(
    truth: GroundTruth, skeleton: Skeleton, oks_sigmas: Sequence[float], rates: ErrorRates, seed: int = 0
) -> PlantedErrors:
    """Makes predictions of labels, with errors; all other keypoints are nearly right, all scores random.

    Where a kind cannot be planted often enough, as swaps among people who are alone, there is less of it: count the
    verdicts.
    """
    rng = np.random.default_rng(seed)
    people = np.flatnonzero(truth.scored)
    kept = people[rng.random(len(people)) >= rates.missed_people]
    poses, verdicts = _with_wrong_keypoints(truth, kept, skeleton, oks_sigmas, rates, rng)
    like = rng.choice(people, round(rates.false_people * len(people))) if len(people) else people
    xy = np.concatenate([poses, _strays(truth, like, rng)])
    triples = np.concatenate([xy, np.ones((*xy.shape[:2], 1))], axis=-1).reshape(len(xy), 3 * xy.shape[1])
    person = np.concatenate([kept, np.full(len(like), -1)])
    picture = truth.picture[np.concatenate([kept, like])]
    return PlantedErrors(
        Results(picture, triples, rng.permutation(len(xy)) / max(1, len(xy))),
        person,
        np.concatenate([verdicts, np.full((len(like), xy.shape[1]), UNJUDGED, np.int8)]),
    )


def _with_wrong_keypoints(
    truth: GroundTruth,
    people: np.ndarray,
    skeleton: Skeleton,
    oks_sigmas: Sequence[float],
    rates: ErrorRates,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions [R, K, 2] of people [R] with errors in them, and the verdicts [R, K] that are meant."""
    labelled = truth.visibility[people] > 0
    own = truth.xy[people]
    verdicts = np.where(labelled, GOOD, UNJUDGED).astype(np.int8)
    places = {
        SWAP: _places_to_swap(truth, people, skeleton, oks_sigmas, rng),
        INVERSION: _places_to_invert(truth, people, skeleton, oks_sigmas),
        MISS: _places_to_miss(truth, people, skeleton, oks_sigmas, rng),
    }
    xy = own + _offsets(truth, people, oks_sigmas, _GOOD_RANGE, rng)
    for verdict, rate in ((SWAP, rates.swap), (INVERSION, rates.inversion), (MISS, rates.miss)):
        place, possible = places[verdict]
        chosen = _some(possible & (verdicts == GOOD), rate * labelled.sum(), rng)
        xy[chosen], verdicts[chosen] = place[chosen], verdict
    chosen = _some(verdicts == GOOD, rates.jitter * labelled.sum(), rng)
    xy[chosen] = (own + _offsets(truth, people, oks_sigmas, _JITTER_RANGE, rng))[chosen]
    verdicts[chosen] = JITTER
    return xy, verdicts


def _places_to_invert(
    truth: GroundTruth, people: np.ndarray, skeleton: Skeleton, oks_sigmas: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    place = truth.xy[people][:, np.array(skeleton.flip_indices)]
    own, mirrored = own_similarities(truth, place, people, skeleton, oks_sigmas)
    return place, (mirrored == 1) & _apart(own, truth, people)


def _places_to_swap(
    truth: GroundTruth, people: np.ndarray, skeleton: Skeleton, oks_sigmas: Sequence[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same keypoint of another person of the picture, whoever comes first in random order."""
    shuffled = rng.permutation(np.flatnonzero(truth.scored))
    row, other = same_picture(truth.picture[people], truth.picture, shuffled)
    place, possible = truth.xy[people].copy(), np.zeros((len(people), skeleton.num_keypoints), bool)
    candidate = truth.xy[other]
    own, mirrored = own_similarities(truth, candidate, people[row], skeleton, oks_sigmas)
    fits = (truth.visibility[other] > 0) & _apart(own, truth, people[row]) & (mirrored < NEAR_SIMILARITY)
    fits &= (other != people[row])[:, None]
    pair, keypoint = np.nonzero(fits)
    place[row[pair], keypoint] = candidate[pair, keypoint]
    possible[row[pair], keypoint] = True
    return place, possible


def _places_to_miss(
    truth: GroundTruth, people: np.ndarray, skeleton: Skeleton, oks_sigmas: Sequence[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    place, found = truth.xy[people].copy(), np.zeros((len(people), skeleton.num_keypoints), bool)
    for _ in range(_ATTEMPTS):
        distance = rng.uniform(*_MISS_RANGE, found.shape) * np.sqrt(truth.areas[people])[:, None]
        candidate = truth.xy[people] + distance[..., None] * _directions(found.shape, rng)
        near = np.maximum(*own_similarities(truth, candidate, people, skeleton, oks_sigmas))
        near = np.maximum(near, swap_similarities(truth, candidate, people, skeleton, oks_sigmas))
        fits = (near < NEAR_SIMILARITY) & ~found
        place[fits], found = candidate[fits], found | fits
        if found.all():
            break
    return place, found


def _strays(truth: GroundTruth, like: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[R, K, 2] poses of false people: as large as real ones of their pictures, but beside them and in disorder."""
    boxes = truth.boxes_xywh[like]
    corner = boxes[:, :2] + boxes[:, 2:] * rng.choice((-4, 4), (len(like), 2))
    return corner[:, None] + boxes[:, None, 2:] * rng.random((len(like), truth.xy.shape[1], 2))


def _apart(own: np.ndarray, truth: GroundTruth, people: np.ndarray) -> np.ndarray:
    return (own < NEAR_SIMILARITY) & (truth.visibility[people] > 0)


def _offsets(
    truth: GroundTruth,
    people: np.ndarray,
    oks_sigmas: Sequence[float],
    similarities: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """[R, K, 2] pixels that leave similarities drawn evenly from a range."""
    shape = (len(people), len(oks_sigmas))
    spread = 2 * np.asarray(oks_sigmas) * np.sqrt(truth.areas[people])[:, None]
    distance = np.sqrt(-2 * np.log(rng.uniform(*similarities, shape))) * spread
    return distance[..., None] * _directions(shape, rng)


def _directions(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi, shape)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _some(possible: np.ndarray, count: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Indices of so many of the possible cells, or of all where there are fewer."""
    cells = np.flatnonzero(possible)
    return np.unravel_index(rng.permutation(cells)[: round(count)], possible.shape)
