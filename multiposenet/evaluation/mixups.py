"""Why AP is near 0 although the network works: predictions written in another order, frame or place.

Every change that users' files have needed is tried on some pictures: exchanged axes or sides, another order of the
keypoints or of their numbers, pictures off by one, and the frames of :mod:`multiposenet.evaluation.frames` (shifts,
scales, shares of the picture, coordinates of a resized one).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from multiposenet.evaluation.frames import frame_changes
from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.evaluation.matches import kept_predictions, pair_oks, same_picture
from multiposenet.evaluation.oks import point_similarity
from multiposenet.evaluation.results import Results
from multiposenet.skeletons import Skeleton

_PICTURES = 200  # looked at; a mixup is in all of them
_CLEAR = 0.5  # mean similarity that a mixup must explain, and twice what there is without it
_NAMED = 6  # keypoints in another place that a sentence lists
_SIMPLER = 0.02  # a later, less simple change must explain so much more


@dataclass(frozen=True)
class Mixup:
    """A change of the predictions that makes them fit.

    Args:
        change: what has to be done to them, in words.
        similarity: mean over people of the best object keypoint similarity of any prediction, after the change.
        before: the same for the predictions as they are.
    """

    change: str
    similarity: float
    before: float

    def __str__(self) -> str:
        return (
            f"the predictions fit after {self.change}: mean best OKS {self.similarity:.2f} instead of "
            f"{self.before:.2f}. Write x before y in pixels of the original picture, in the order of the skeleton's "
            "keypoints, with the picture's own image_id"
        )


@dataclass(frozen=True)
class MixupSearch:
    """What came of trying all changes.

    Args:
        mixup: the change that makes the predictions fit, if one does so clearly.
        before: mean over people of the best OKS of any prediction of the picture, as they are; None where no picture
            has both people and predictions.
    """

    mixup: Mixup | None
    before: float | None


def find_mixup(
    truth: GroundTruth, results: Results, pictures: np.ndarray, skeleton: Skeleton, oks_sigmas: Sequence[float]
) -> MixupSearch:
    """Tries all changes on the first pictures that have people and predictions.

    Args:
        truth: the people to find.
        results: the predictions.
        pictures: positions in ``truth.image_ids`` to look at.
        skeleton: says which keypoints are a pair.
        oks_sigmas: [K].
    """
    results = kept_predictions(results, np.arange(len(truth.image_ids)))
    before, people = _mean_best_oks(truth, results, pictures, oks_sigmas)
    if not people:
        return MixupSearch(None, None)
    best = Mixup("nothing", 0.0, before)
    for change, changed in _changes(truth, results, pictures, skeleton, oks_sigmas):
        similarity, compared = _mean_best_oks(truth, changed, pictures, oks_sigmas)
        if 2 * compared >= people and similarity > best.similarity + _SIMPLER:
            best = Mixup(change, similarity, before)
    clear = best.similarity > max(_CLEAR, 2 * before)
    return MixupSearch(best if clear else None, before)


def _changes(
    truth: GroundTruth, results: Results, pictures: np.ndarray, skeleton: Skeleton, oks_sigmas: Sequence[float]
) -> Iterator[tuple[str, Results]]:
    """Each change in words, and the predictions after it; simple ones first."""
    triples = results.keypoints.reshape(len(results), skeleton.num_keypoints, 3)
    flip, turned = list(skeleton.flip_indices), [1, 0, 2]
    yield "exchanging x and y", _rewritten(results, triples[..., turned])
    if skeleton.flip_pairs:
        yield "exchanging left and right keypoints", _rewritten(results, triples[:, flip])
        both = triples[:, flip][..., turned]
        yield "exchanging left and right keypoints, and x and y", _rewritten(results, both)
    for step in (1, -1):
        words = "one higher" if step == 1 else "one lower"
        yield f"taking the image_id {words}", _moved_by_id(truth, results, step)
        yield f"taking the picture whose id is the next {words[4:]} one", _moved_by_place(truth, results, step)
    by_axis = results.keypoints.reshape(len(results), 3, -1).transpose(0, 2, 1)
    yield "reading each list as all x, then all y, then all scores", _rewritten(results, by_axis)
    some = _some_pictures(truth, results, pictures)
    for change, xy in frame_changes(truth, results, some):
        yield change, _rewritten(results, np.concatenate([xy, triples[..., 2:]], axis=-1))
    order = _likely_order(truth, results, some, oks_sigmas)
    moved = [f"{skeleton.keypoints[old]} as {skeleton.keypoints[new]}" for new, old in enumerate(order) if new != old]
    if moved:
        more = f" and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
        words = f"reordering the keypoints ({', '.join(moved[:_NAMED])}{more})"
        yield words, _rewritten(results, triples[:, order])


def _rewritten(results: Results, triples: np.ndarray) -> Results:
    return dataclasses.replace(results, keypoints=triples.reshape(results.keypoints.shape))


def _moved_by_id(truth: GroundTruth, results: Results, step: int) -> Results:
    place = {image_id: position for position, image_id in enumerate(truth.image_ids)}
    return _in_pictures(results, np.array([place.get(image_id + step, -1) for image_id in truth.image_ids], np.int64))


def _moved_by_place(truth: GroundTruth, results: Results, step: int) -> Results:
    places = np.arange(len(truth.image_ids)) + step
    return _in_pictures(results, np.where(places < len(places), places, -1))


def _in_pictures(results: Results, place: np.ndarray) -> Results:
    """The predictions in other pictures, ``place`` [I] by picture; those with -1 are left out."""
    picture = place[results.picture]
    kept = picture >= 0
    return Results(picture[kept], results.keypoints[kept], results.scores[kept])


def _some_pictures(truth: GroundTruth, results: Results, pictures: np.ndarray) -> np.ndarray:
    """The first pictures that have people to be found and predictions."""
    people = truth.picture[truth.scored]
    return np.intersect1d(np.intersect1d(pictures, people), results.picture)[:_PICTURES]


def _mean_best_oks(
    truth: GroundTruth, results: Results, pictures: np.ndarray, oks_sigmas: Sequence[float]
) -> tuple[float, int]:
    """Mean over people of the best OKS of any prediction in their picture, and of how many people."""
    some = _some_pictures(truth, results, pictures)
    people = np.flatnonzero(truth.scored & np.isin(truth.picture, some))
    person, prediction = same_picture(truth.picture[people], results.picture, np.arange(len(results)))
    best = np.zeros(len(people))
    np.maximum.at(best, person, pair_oks(truth, results, prediction, people[person], oks_sigmas))
    return float(best.mean()) if len(people) else 0.0, len(people)


def _likely_order(truth: GroundTruth, results: Results, pictures: np.ndarray, oks_sigmas: Sequence[float]) -> list[int]:
    """[K] which predicted keypoint is most like each of the truth's, one to one, wherever people are."""
    people = np.flatnonzero(truth.scored & np.isin(truth.picture, pictures))
    row, prediction = same_picture(truth.picture[people], results.picture, np.arange(len(results)))
    person = people[row]
    count = truth.xy.shape[1]
    similarity = np.zeros((count, count))
    for number in range(count):  # the truth's keypoint against all predicted ones
        labelled = truth.visibility[person, number] > 0
        offsets = results.xy[prediction[labelled]] - truth.xy[person[labelled], None, number]
        sigmas = np.full(count, oks_sigmas[number])
        similarity[number] = point_similarity(offsets, truth.areas[person[labelled]], sigmas).sum(axis=0)
    return linear_sum_assignment(similarity, maximize=True)[1].tolist()
