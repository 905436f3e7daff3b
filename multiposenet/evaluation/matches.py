"""Which prediction found whom: COCO's matching, and how similar everything in a picture is to everybody in it.

All pictures at once: what belongs together are rows of pairs, (prediction, person) of the same picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from multiposenet.evaluation.details import MAX_DETECTIONS
from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.evaluation.oks import aligned_oks
from multiposenet.evaluation.results import Results
from multiposenet.geometry import xywh_to_xyxy

CLEAR_OKS, LEAST_OKS = 0.5, 0.1
"""A person is found at the first, as in AP50. Who is left over is still compared with the prediction that fits best,
down to the second, so that very wrong poses have a diagnosis too."""

_PAIRS_AT_ONCE = 1 << 16  # keeps the memory flat however crowded the pictures are


@dataclass(frozen=True)
class Matches:
    """Who was found by what. D predictions, T annotated people.

    Args:
        person: [D] int64, the person whom each prediction is, -1 for nobody.
        oks: [D] similarity to that person, 0 for nobody.
        best_oks: [D] highest similarity to any person of the picture who is to be found, taken or not; 0 without any.
        forgiven: [D] bool; nobody's, but COCO has it match an annotation that it ignores: any number a crowd, one a
            person without keypoints.
        outdone: [T] bool; found, but a prediction that is nobody, by its lower score, would fit better.
    """

    person: np.ndarray
    oks: np.ndarray
    best_oks: np.ndarray
    forgiven: np.ndarray
    outdone: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """[D] bool; the predictions that are somebody."""
        return self.person >= 0


def kept_predictions(results: Results, pictures: np.ndarray, limit: int = MAX_DETECTIONS) -> Results:
    """The predictions that COCO scores: of the pictures that take part, the best ones of each, ties in file order."""
    kept = np.isin(results.picture, pictures) & (_ranks(results) < limit)
    return Results(results.picture[kept], results.keypoints[kept], results.scores[kept])


def match_people(truth: GroundTruth, results: Results, oks_sigmas: Sequence[float]) -> Matches:
    """Pairs predictions with people by COCO's rule, greedily from the best score down.

    First at OKS 0.50, as AP50 does; then, among those who are left, at 0.10. (One pass at 0.10 would give a second
    prediction of one person to that person's neighbour.)

    Args:
        truth: the people to find.
        results: the predictions that take part, see :func:`kept_predictions`.
        oks_sigmas: [K].
    """
    scored, ignored = (_pairs_by_rank(truth, results, rows, oks_sigmas) for rows in (truth.scored, ~truth.scored))
    person_of, oks_of = np.full(len(results), -1), np.zeros(len(results))
    free = np.ones(len(truth), bool)
    _pair_up(scored, CLEAR_OKS, person_of, oks_of, free)
    # COCO's matching ends here: a crowd takes up any number of the others, anybody else whom it ignores takes one.
    region_of = person_of.copy()
    _pair_up(ignored, CLEAR_OKS, region_of, np.zeros(len(results)), free, shared=truth.crowd)
    forgiven = region_of != person_of
    _pair_up(scored, LEAST_OKS, person_of, oks_of, free)
    prediction, person, similarity, _ = scored
    best = np.zeros(len(results))
    np.maximum.at(best, prediction, similarity)
    reached = np.zeros(len(truth))
    reached[person_of[person_of >= 0]] = oks_of[person_of >= 0]
    outdone = np.zeros(len(truth), bool)
    outdone[person[(person_of[prediction] < 0) & ~free[person] & (similarity > reached[person])]] = True
    return Matches(person_of, oks_of, best, forgiven & (person_of < 0), outdone)


def _pairs_by_rank(
    truth: GroundTruth, results: Results, wanted: np.ndarray, oks_sigmas: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every prediction with everybody in its picture who is ``wanted`` [T] bool: both, their OKS, and the rank."""
    prediction, person = same_picture(results.picture, truth.picture, np.flatnonzero(wanted))
    similarity = pair_oks(truth, results, prediction, person, oks_sigmas)
    rank = _ranks(results)[prediction]
    order = np.argsort(rank, kind="stable")
    return prediction[order], person[order], similarity[order], rank[order]


def _pair_up(
    pairs: tuple[np.ndarray, ...],
    least: float,
    person_of: np.ndarray,
    oks_of: np.ndarray,
    free: np.ndarray,
    shared: np.ndarray | None = None,
) -> None:
    """Gives predictions that are nobody, best rank first, the free person who fits best; ``person_of`` on in place.

    Args:
        pairs: see :func:`_pairs_by_rank`.
        least: OKS that a pair needs.
        person_of: [D]; oks_of: [D]; free: [T] bool.
        shared: [T] bool, who stays free.
    """
    prediction, person, similarity, rank = pairs
    starts = np.flatnonzero(np.diff(rank, prepend=-1, append=len(person_of)))
    for start, end in itertools.pairwise(starts):  # one rank: at most one prediction a picture
        rows = np.arange(start, end)
        rows = rows[(similarity[rows] >= least) & free[person[rows]] & (person_of[prediction[rows]] < 0)]
        rows = rows[np.lexsort((similarity[rows], prediction[rows]))]
        rows = rows[np.diff(prediction[rows], append=-1) != 0]  # the last of each prediction is its best
        person_of[prediction[rows]], oks_of[prediction[rows]] = person[rows], similarity[rows]
        taken = person[rows]
        free[taken if shared is None else taken[~shared[taken]]] = False


def best_similarity(truth: GroundTruth, results: Results, oks_sigmas: Sequence[float]) -> np.ndarray:
    """[D] highest OKS of each prediction with any person of its picture who is to be found; 0 where there is none."""
    prediction, person = same_picture(results.picture, truth.picture, np.flatnonzero(truth.scored))
    best = np.zeros(len(results))
    np.maximum.at(best, prediction, pair_oks(truth, results, prediction, person, oks_sigmas))
    return best


def same_picture(pictures: np.ndarray, other_pictures: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every row with every one of ``others`` that is in its picture.

    Args:
        pictures: [A] picture of each row; other_pictures: [B] of each other one.
        others: positions among the B to pair with.

    Returns:
        (row [R], other [R]), rows ascending.
    """
    others = others[np.argsort(other_pictures[others], kind="stable")]
    sorted_pictures = other_pictures[others]
    starts = np.searchsorted(sorted_pictures, pictures, side="left")
    counts = np.searchsorted(sorted_pictures, pictures, side="right") - starts
    row = np.repeat(np.arange(len(pictures)), counts)
    within = np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)
    return row, others[np.repeat(starts, counts) + within]


def pair_oks(
    truth: GroundTruth, results: Results, prediction: np.ndarray, person: np.ndarray, oks_sigmas: Sequence[float]
) -> np.ndarray:
    """[R] object keypoint similarity of each prediction with the person in its row, ignored ones as COCO has it."""
    boxes = xywh_to_xyxy(truth.boxes_xywh)
    pieces = [
        aligned_oks(
            results.xy[prediction[part]],
            truth.xy[person[part]],
            truth.visibility[person[part]],
            truth.areas[person[part]],
            oks_sigmas,
            boxes[person[part]],
        )
        for part in chunks(len(prediction))
    ]
    return np.concatenate(pieces) if pieces else np.zeros(0)


def chunks(count: int) -> Iterator[slice]:
    """Slices of a long axis that are small enough to hold all their keypoints in memory."""
    return (slice(start, start + _PAIRS_AT_ONCE) for start in range(0, count, _PAIRS_AT_ONCE))


def _ranks(results: Results) -> np.ndarray:
    """[D] place of each prediction in its picture by score, 0 for the best, ties in file order."""
    order = np.lexsort((-results.scores, results.picture))
    starts = np.flatnonzero(np.diff(results.picture[order], prepend=-1))
    ranks = np.empty(len(results), np.int64)
    ranks[order] = np.arange(len(results)) - np.repeat(starts, np.diff(starts, append=len(results)))
    return ranks
