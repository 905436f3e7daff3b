"""Where the AP goes: which keypoints are wrong and how, who is missed, who is not there, and what each kind costs.

After Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation" (ICCV 2017). What the
words mean is in :mod:`multiposenet.evaluation.keypoint_errors`, how people are paired in
:mod:`multiposenet.evaluation.matches`, and what a repair is in :mod:`multiposenet.evaluation.repairs`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from multiposenet.evaluation.backends import AREA_RANGES, Curves, measure
from multiposenet.evaluation.coco import chosen_pictures, sigmas_of
from multiposenet.evaluation.details import MAX_DETECTIONS
from multiposenet.evaluation.ground_truth import GroundTruth, check_ground_truth, read_ground_truth
from multiposenet.evaluation.keypoint_errors import KINDS, UNJUDGED, judge_keypoints
from multiposenet.evaluation.matches import CLEAR_OKS, LEAST_OKS, kept_predictions, match_people
from multiposenet.evaluation.picture_classes import crowding_of_pictures
from multiposenet.evaluation.repairs import JudgedResults, RepairGain, measure_repairs, precision_at
from multiposenet.evaluation.results import Results, check_results, read_results
from multiposenet.skeletons import COCO_PERSON, Skeleton

WORST = 50
"""How many pictures a diagnosis names."""

CURVE_OKS = (0.5, 0.75, 0.95)
"""Thresholds whose precision-recall curves it holds."""

FOUND_OKS = tuple((np.arange(round(100 * LEAST_OKS), 101) / 100).tolist())
"""Where the curve of the people found is drawn: in steps of 0.01 from the least OKS that counts as found."""


@dataclass(frozen=True)
class KeypointCounts:
    """Judged keypoints by verdict."""

    good: int
    jitter: int
    inversion: int
    swap: int
    miss: int

    @classmethod
    def of(cls, verdicts: np.ndarray) -> KeypointCounts:
        """Counts verdicts of any shape; those that are none are left out."""
        return cls(*np.bincount(verdicts[verdicts != UNJUDGED].ravel(), minlength=len(KINDS)).tolist())

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))

    def shares(self) -> dict[str, float]:
        """Each kind's share in [0, 1]; zeros where nothing was judged."""
        return {kind: getattr(self, kind) / max(1, self.total) for kind in KINDS}


@dataclass(frozen=True)
class PeopleDiagnosis:
    """What became of a group of people.

    Args:
        name: of the group.
        pictures: with somebody of the group.
        people: to be found; missed: of those, whom no prediction found.
        mean_oks: of those found; 0 without any.
        ap: on the group; -1 without anybody, or where the group is one of keypoints and not of people.
        keypoints: of those found.
    """

    name: str
    pictures: int
    people: int
    missed: int
    mean_oks: float
    ap: float
    keypoints: KeypointCounts


@dataclass(frozen=True)
class PictureDiagnosis:
    """One picture: mean OKS of its people (a missed one counts 0), people, missed ones, predictions that are nobody."""

    image_id: int
    mean_oks: float
    people: int
    missed: int
    false_people: int


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a set of predictions, and what it costs. Shares and APs in [0, 1].

    Args:
        pictures: scored.
        everybody: all people.
        predictions: among the best 20 of their picture; the others take no part.
        duplicates: predictions that fit somebody (OKS 0.50) whom a better scored one has found.
        false_people: predictions that fit nobody; forgiven: of those not counted because COCO ignores what is there.
        score_errors: people found whom a prediction of a lower score would fit better.
        keypoints: by keypoint.
        groups: by ``size``, ``people`` in the picture, ``overlap`` (highest IoU of two boxes in the picture) and
            ``visibility`` (of keypoints, where people are the same in both).
        ap: as it is; perfect_ap: of a perfect set.
        repairs: in order, see :class:`RepairGain`; their gains add up to ``perfect_ap - ap``.
        precision: [101] at recall 0 to 1, by OKS threshold (:data:`CURVE_OKS`).
        ap_by_oks: [10] at OKS 0.50 to 0.95.
        found_by_oks: share of people found at each OKS of :data:`FOUND_OKS` or better, whatever the scores.
        worst: pictures with the lowest mean OKS, worst first, at most :data:`WORST`.
    """

    pictures: int
    everybody: PeopleDiagnosis
    predictions: int
    duplicates: int
    false_people: int
    forgiven: int
    score_errors: int
    keypoints: dict[str, KeypointCounts]
    groups: dict[str, tuple[PeopleDiagnosis, ...]]
    ap: float
    perfect_ap: float
    repairs: tuple[RepairGain, ...]
    precision: dict[str, tuple[float, ...]]
    ap_by_oks: tuple[float, ...]
    found_by_oks: tuple[float, ...]
    worst: tuple[PictureDiagnosis, ...]

    def to_dict(self) -> dict:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)


def diagnose(
    ground_truth: str | os.PathLike | Mapping,
    predictions: str | os.PathLike | Iterable[Mapping],
    skeleton: Skeleton = COCO_PERSON,
    image_ids: Iterable[int] | None = None,
    *,
    default_oks_sigmas: float | Sequence[float] | None = None,
    backend: str | None = None,
) -> Diagnosis:
    """Diagnoses predictions; arguments and errors as of :func:`multiposenet.evaluation.coco.evaluate_coco`."""
    oks_sigmas, _ = sigmas_of(skeleton, default_oks_sigmas)
    truth = check_ground_truth(read_ground_truth(ground_truth), skeleton)
    pictures = chosen_pictures(truth, image_ids)
    results = check_results(read_results(predictions), truth, skeleton)
    return diagnose_columns(truth, results, pictures, skeleton, oks_sigmas, backend)


def diagnose_columns(
    truth: GroundTruth,
    results: Results,
    pictures: np.ndarray,
    skeleton: Skeleton,
    oks_sigmas: Sequence[float],
    backend: str | None = None,
) -> Diagnosis:
    """:func:`diagnose` on checked columns; ``pictures`` are positions in ``truth.image_ids``, ascending."""
    results = kept_predictions(results, pictures)
    matches = match_people(truth, results, oks_sigmas)
    verdicts = judge_keypoints(truth, results, matches, skeleton, oks_sigmas)
    wanted = np.flatnonzero(truth.scored & np.isin(truth.picture, pictures))
    found_by = np.full(len(truth), -1)
    found_by[matches.person[matches.found]] = np.flatnonzero(matches.found)
    outcome = _Outcome(
        truth,
        found_by >= 0,
        np.append(matches.oks, 0.0)[found_by],  # the appended row is of those whom nobody found
        np.append(verdicts, np.full_like(verdicts, UNJUDGED, shape=(1, verdicts.shape[1])), axis=0)[found_by],
    )
    curves = measure(truth, results, pictures, oks_sigmas, [MAX_DETECTIONS], backend)

    def ap_of(rows: np.ndarray) -> float:
        return measure(truth, results, rows, oks_sigmas, [MAX_DETECTIONS], backend, ["all"]).average_precision()

    judged = JudgedResults(truth, wanted[~outcome.found[wanted]], results, matches.person, verdicts, oks_sigmas)
    ap, repairs, perfect_ap = measure_repairs(judged, pictures, backend)
    nobody = ~matches.found & ~matches.forgiven
    duplicate = nobody & (matches.best_oks >= CLEAR_OKS)
    return Diagnosis(
        pictures=len(pictures),
        everybody=outcome.of("everybody", wanted, ap),
        predictions=len(results),
        duplicates=int(duplicate.sum()),
        false_people=int((nobody & ~duplicate).sum()),
        forgiven=int(matches.forgiven.sum()),
        score_errors=int(matches.outdone.sum()),
        keypoints={
            name: KeypointCounts.of(outcome.verdicts[wanted, number]) for number, name in enumerate(skeleton.keypoints)
        },
        groups=_groups(outcome, wanted, pictures, curves, ap_of),
        ap=ap,
        perfect_ap=perfect_ap,
        repairs=tuple(repairs),
        precision={f"{oks:.2f}": tuple(precision_at(curves, oks).tolist()) for oks in CURVE_OKS},
        ap_by_oks=tuple(curves.average_precision(oks=0.5 + 0.05 * step) for step in range(10)),
        found_by_oks=outcome.found_at(wanted, FOUND_OKS),
        worst=outcome.worst_pictures(wanted, results.picture[nobody]),
    )


def _groups(
    outcome: _Outcome, wanted: np.ndarray, pictures: np.ndarray, curves: Curves, ap_of: Callable[[np.ndarray], float]
) -> dict[str, tuple[PeopleDiagnosis, ...]]:
    """Everybody who is ``wanted`` by size, crowding and visibility; ``ap_of`` measures on some of the pictures."""
    truth = outcome.truth
    groups = {
        "size": tuple(
            outcome.of(area, wanted[_of_size(truth.areas[wanted], area)], curves.average_precision(area))
            for area in ("small", "medium", "large")
        )
    }
    for by, classes in crowding_of_pictures(truth, pictures).items():
        groups[by] = tuple(
            outcome.of(name, wanted[np.isin(truth.picture[wanted], rows)], ap_of(rows))
            for name, rows in classes.items()
        )
    groups["visibility"] = tuple(
        outcome.of(name, wanted, -1.0, truth.visibility == value) for name, value in (("visible", 2), ("hidden", 1))
    )
    return groups


@dataclass(frozen=True)
class _Outcome:
    """What became of every annotated person: found [T], oks [T] (0 where not), verdicts [T, K]."""

    truth: GroundTruth
    found: np.ndarray
    oks: np.ndarray
    verdicts: np.ndarray

    def of(self, name: str, people: np.ndarray, ap: float, judged: np.ndarray | None = None) -> PeopleDiagnosis:
        """A group of people [G]; of its keypoints only those in ``judged`` [T, K], when that is given."""
        found = self.found[people]
        verdicts = self.verdicts[people]
        if judged is not None:
            verdicts = np.where(judged[people], verdicts, UNJUDGED)
        return PeopleDiagnosis(
            name,
            pictures=len(np.unique(self.truth.picture[people])),
            people=len(people),
            missed=int((~found).sum()),
            mean_oks=float(self.oks[people].sum() / max(1, found.sum())),
            ap=ap,
            keypoints=KeypointCounts.of(verdicts),
        )

    def found_at(self, people: np.ndarray, thresholds: Sequence[float]) -> tuple[float, ...]:
        """Share of people found at each OKS or better."""
        below = np.searchsorted(np.sort(self.oks[people]), np.asarray(thresholds), side="left")
        return tuple((1 - below / max(1, len(people))).tolist()) if len(people) else (0.0,) * len(thresholds)

    def worst_pictures(self, people: np.ndarray, false_people: np.ndarray) -> tuple[PictureDiagnosis, ...]:
        """The pictures with the lowest mean OKS; of equal ones first those with more missed and false people.

        Args:
            people: [G]; false_people: the picture of each prediction that is nobody.
        """
        size = len(self.truth.image_ids)
        picture = self.truth.picture[people]
        count = np.bincount(picture, minlength=size)
        missed = np.bincount(picture[~self.found[people]], minlength=size)
        false = np.bincount(false_people, minlength=size)
        mean = np.bincount(picture, self.oks[people], size) / count.clip(1)
        shown = np.flatnonzero(count)
        order = shown[np.lexsort((-(missed + false)[shown], mean[shown]))][:WORST]
        return tuple(
            PictureDiagnosis(self.truth.image_ids[row], *values)
            for row, values in zip(
                order.tolist(),
                zip(*(column[order].tolist() for column in (mean, count, missed, false)), strict=True),
                strict=True,
            )
        )


def _of_size(areas: np.ndarray, name: str) -> np.ndarray:
    low, high = AREA_RANGES[name]
    return (areas >= low) & (areas < high)
