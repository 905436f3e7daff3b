"""Why AP is near 0 although the network works: keypoints written in another order or with x and y exchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.evaluation.oks import oks
from multiposenet.evaluation.results import Results
from multiposenet.skeletons import Skeleton

_PICTURES = 200  # looked at; a mixup is in all of them
_PREDICTIONS = 20  # of a picture; the best ones
_CLEAR = 0.5  # mean similarity that a mixup must explain, and twice what there is without it


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
            f"{self.before:.2f}. Write them in the order of the skeleton's keypoints, x before y"
        )


def find_mixup(
    truth: GroundTruth, results: Results, pictures: np.ndarray, skeleton: Skeleton, oks_sigmas: Sequence[float]
) -> Mixup | None:
    """Tries exchanging left and right keypoints, x and y, and both, on the first pictures that have both sides.

    Args:
        truth: the people to find.
        results: the predictions.
        pictures: positions in ``truth.image_ids`` to look at.
        skeleton: says which keypoints are a pair.
        oks_sigmas: [K].

    Returns:
        The exchange that makes the predictions fit, if one does so clearly; else None.
    """
    count = skeleton.num_keypoints
    flip = np.array(skeleton.flip_indices)
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "nothing": lambda xy: xy,
        "exchanging x and y": lambda xy: xy[..., ::-1],
    }
    if skeleton.flip_pairs:
        changes["exchanging left and right keypoints"] = lambda xy: xy[:, flip]
        changes["exchanging left and right keypoints, and x and y"] = lambda xy: xy[:, flip, ::-1]
    scored = np.flatnonzero(truth.scored)
    both = np.intersect1d(np.intersect1d(pictures, truth.picture[scored]), results.picture)[:_PICTURES]
    best: dict[str, list[np.ndarray]] = {change: [] for change in changes}
    for picture in both:
        people = scored[truth.picture[scored] == picture]
        found = np.flatnonzero(results.picture == picture)
        found = found[np.argsort(-results.scores[found], kind="stable")[:_PREDICTIONS]]
        annotated = truth.keypoints[people].reshape(-1, count, 3)
        predicted = results.keypoints[found].reshape(-1, count, 3)[..., :2]
        for change, apply in changes.items():
            similarity = oks(
                apply(predicted), annotated[..., :2], annotated[..., 2], truth.areas[people], oks_sigmas
            )
            best[change].append(similarity.max(axis=0))
    if not len(both):
        return None
    means = {change: float(np.concatenate(values).mean()) for change, values in best.items()}
    before = means.pop("nothing")
    change = max(means, key=means.get)
    return Mixup(change, means[change], before) if means[change] > max(_CLEAR, 2 * before) else None
