"""What an error costs: the AP that there would be if it were repaired (Ronchi and Perona, ICCV 2017, sec. 4).

A repair puts things where the annotations have them. Each is tried alone, and all are made one after the other; the
last of that row is the AP of a perfect set, so the gains of the row add up to what is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from multiposenet.evaluation.backends import Curves, measure
from multiposenet.evaluation.details import MAX_DETECTIONS
from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.evaluation.keypoint_errors import GOOD, INVERSION, JITTER, MISS, SWAP
from multiposenet.evaluation.matches import best_similarity
from multiposenet.evaluation.results import Results


@dataclass(frozen=True)
class JudgedResults:
    """Predictions and the verdicts on them, of which a repair makes better ones.

    Args:
        truth: the people; missed: [G] positions of those whom nobody found.
        results: D predictions.
        person: [D] whom each found, -1 for nobody.
        verdicts: [D, K], see :mod:`multiposenet.evaluation.keypoint_errors`.
        oks_sigmas: [K].
    """

    truth: GroundTruth
    missed: np.ndarray
    results: Results
    person: np.ndarray
    verdicts: np.ndarray
    oks_sigmas: Sequence[float]


Repair = Callable[[JudgedResults], JudgedResults]


@dataclass(frozen=True)
class KeypointRepair:
    """Puts the keypoints of one verdict where their annotations are."""

    verdict: int

    def __call__(self, judged: JudgedResults) -> JudgedResults:
        where = judged.verdicts == self.verdict
        own = judged.truth.xy[np.maximum(judged.person, 0)] if len(judged.truth) else judged.results.xy
        keypoints = judged.results.keypoints.copy().reshape(*where.shape, 3)
        keypoints[where, :2] = own[where]
        return _with_results(judged, keypoints=keypoints.reshape(judged.results.keypoints.shape))


def rescore(judged: JudgedResults) -> JudgedResults:
    """Scores every prediction by its OKS with the person of the picture whom it fits best, 0 where there is nobody."""
    return _with_results(judged, scores=best_similarity(judged.truth, judged.results, judged.oks_sigmas))


def drop_false_people(judged: JudgedResults) -> JudgedResults:
    """Leaves out predictions that are nobody, those on ignored annotations too."""
    kept = judged.person >= 0
    results = Results(judged.results.picture[kept], judged.results.keypoints[kept], judged.results.scores[kept])
    return dataclasses.replace(judged, results=results, person=judged.person[kept], verdicts=judged.verdicts[kept])


def add_missed_people(judged: JudgedResults) -> JudgedResults:
    """Adds everybody who was not found, exactly as annotated and with a score above all others."""
    truth, missed, old = judged.truth, judged.missed, judged.results
    top = old.scores.max(initial=0.0) + 1
    results = Results(
        np.concatenate([old.picture, truth.picture[missed]]),
        np.concatenate([old.keypoints, truth.keypoints[missed]]),
        np.concatenate([old.scores, np.full(len(missed), top)]),
    )
    verdicts = np.full((len(missed), judged.verdicts.shape[1]), GOOD, judged.verdicts.dtype)
    return dataclasses.replace(
        judged,
        missed=missed[:0],
        results=results,
        person=np.concatenate([judged.person, missed]),
        verdicts=np.concatenate([judged.verdicts, verdicts]),
    )


REPAIRS: dict[str, Repair] = {
    "miss": KeypointRepair(MISS),
    "swap": KeypointRepair(SWAP),
    "inversion": KeypointRepair(INVERSION),
    "jitter": KeypointRepair(JITTER),
    "good": KeypointRepair(GOOD),
    "scores": rescore,
    "false people": drop_false_people,
    "missed people": add_missed_people,
}
"""What can be repaired, by name, in the order of the row. ``good`` is what good keypoints are still off."""


@dataclass(frozen=True)
class RepairGain:
    """What one repair would bring.

    Args:
        name: key of :data:`REPAIRS`.
        alone: AP with this repair and no other.
        so_far: AP with this repair and all before it.
        gain_alone: ``alone`` less the AP as it is.
        gain: ``so_far`` less the same of the repair before; these add up.
        precision: [101] at recall 0 to 1 and OKS 0.75, with this repair and all before it.
    """

    name: str
    alone: float
    so_far: float
    gain_alone: float
    gain: float
    precision: tuple[float, ...]


def measure_repairs(
    judged: JudgedResults, pictures: np.ndarray, backend: str | None = None
) -> tuple[float, list[RepairGain], float]:
    """AP as it is, what every repair would bring, and AP of a perfect set.

    The last is 1 unless pictures with more than 20 people run into COCO's cap.

    Args:
        judged: the predictions as they are.
        pictures: positions in ``truth.image_ids`` that take part.
        backend: as in :func:`multiposenet.evaluation.backends.measure`.
    """

    def curves(state: JudgedResults) -> Curves:
        return measure(
            judged.truth, state.results, pictures, judged.oks_sigmas, [MAX_DETECTIONS], backend, areas=["all"]
        )

    before = so_far = curves(judged).average_precision()
    state, gains = judged, []
    for name, repair in REPAIRS.items():
        state = repair(state)
        now = curves(state)
        alone = curves(repair(judged)).average_precision()
        average = now.average_precision()
        precision = tuple(precision_at(now, 0.75).tolist())
        gains.append(RepairGain(name, alone, average, alone - before, average - so_far, precision))
        so_far = average
    everyone = np.flatnonzero(judged.truth.scored & np.isin(judged.truth.picture, pictures))
    nobody = JudgedResults(
        judged.truth,
        everyone,
        Results(judged.results.picture[:0], judged.results.keypoints[:0], judged.results.scores[:0]),
        judged.person[:0],
        judged.verdicts[:0],
        judged.oks_sigmas,
    )
    return before, gains, curves(add_missed_people(nobody)).average_precision()


def precision_at(curves: Curves, oks: float) -> np.ndarray:
    """[101] precision on people of all sizes at recall 0 to 1 and one OKS threshold; 0 where there is nobody."""
    return curves.precision[round((oks - 0.5) / 0.05), :, curves.areas.index("all"), 0].clip(0)


def _with_results(judged: JudgedResults, **changes: np.ndarray) -> JudgedResults:
    return dataclasses.replace(judged, results=dataclasses.replace(judged.results, **changes))
