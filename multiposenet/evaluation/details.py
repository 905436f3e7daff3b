"""What the ten COCO numbers leave out: who was scored, who was missed, small people, crowds beyond the cap, ties."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from multiposenet.evaluation.backends import AREA_RANGES, Curves
from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.evaluation.results import Results

MAX_DETECTIONS = 20
"""COCO's rule: the 20 best poses of a picture take part."""


@dataclass(frozen=True)
class CocoDetails:
    """Facts beside the official numbers; APs and ARs in [0, 1], -1 where there is nobody of the kind.

    Args:
        pictures: scored.
        pictures_in_ground_truth: there are.
        pictures_without_predictions: among the scored.
        people: to be found; single, with labelled keypoints.
        people_ignored: crowds and people without labelled keypoints; neither found nor missed.
        people_missed: of ``people``, those whom no prediction of any rank matches at OKS 0.50.
        people_without_predictions: of ``people``, those in pictures without any prediction.
        small_people: of ``people``, those with a segment area below 32 x 32 pixels, in neither APM nor APL.
        ap_small, ar_small: on small people.
        crowded_pictures: with more than 20 people to be found, whom the cap cannot all find.
        predictions: in the scored pictures.
        predictions_capped: of those, beyond the best 20 of their picture and out of the official numbers.
        predictions_elsewhere: of pictures that were not scored.
        ap_uncapped, ar_uncapped: without the cap of 20 predictions a picture.
        predictions_tied: share their score with another one; AP then depends on the order of the list.
        keypoints_at_origin: predicted at exactly (0, 0), of all keypoints of ``predictions``.
        sigmas: where the OKS sigmas come from: "skeleton" or "default".
        backend: the evaluator that scored.
        mixup: what makes predictions fit that score next to 0, in words, or None.
        hints: what else predictions look like that score 0.
    """

    pictures: int
    pictures_in_ground_truth: int
    pictures_without_predictions: int
    people: int
    people_ignored: int
    people_missed: int
    people_without_predictions: int
    small_people: int
    ap_small: float
    ar_small: float
    crowded_pictures: int
    predictions: int
    predictions_capped: int
    predictions_elsewhere: int
    ap_uncapped: float
    ar_uncapped: float
    predictions_tied: int
    keypoints_at_origin: int
    sigmas: str
    backend: str
    mixup: str | None = None
    hints: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)


def count_details(
    truth: GroundTruth,
    results: Results,
    pictures: np.ndarray,
    curves: Curves,
    sigmas: str,
    backend: str,
) -> CocoDetails:
    """Gathers the facts of one evaluation; the last of ``curves.limits`` must let every prediction in."""
    everything = curves.limits[-1]
    here = np.isin(truth.picture, pictures)
    scored = here & truth.scored
    evaluated = np.isin(results.picture, pictures)
    size = len(truth.image_ids)
    people_of = np.bincount(truth.picture[scored], minlength=size)
    predictions_of = np.bincount(results.picture[evaluated], minlength=size)
    people = int(scored.sum())
    recall = max(0.0, curves.average_recall(limit=everything, oks=0.5))
    same_score = np.unique(results.scores[evaluated], return_counts=True)[1]
    triples = results.keypoints[evaluated]
    return CocoDetails(
        pictures=len(pictures),
        pictures_in_ground_truth=size,
        pictures_without_predictions=int((predictions_of[pictures] == 0).sum()),
        people=people,
        people_ignored=int(here.sum()) - people,
        people_missed=people - round(recall * people),
        people_without_predictions=int(people_of[predictions_of == 0].sum()),
        small_people=int((truth.areas[scored] < AREA_RANGES["small"][1]).sum()),
        ap_small=curves.average_precision("small"),
        ar_small=curves.average_recall("small"),
        crowded_pictures=int((people_of > MAX_DETECTIONS).sum()),
        predictions=int(evaluated.sum()),
        predictions_capped=int((predictions_of - MAX_DETECTIONS).clip(0).sum()),
        predictions_elsewhere=int((~evaluated).sum()),
        ap_uncapped=curves.average_precision(limit=everything),
        ar_uncapped=curves.average_recall(limit=everything),
        predictions_tied=int(same_score[same_score > 1].sum()),
        keypoints_at_origin=int(((triples[:, 0::3] == 0) & (triples[:, 1::3] == 0)).sum()),
        sigmas=sigmas,
        backend=backend,
    )


def detail_lines(details: CocoDetails) -> list[str]:
    """Sentences on what the ten numbers hide; those that say nothing about this evaluation are left out."""
    d = details
    lines = [
        f" pictures: {d.pictures} of {d.pictures_in_ground_truth} scored, "
        f"{d.pictures_without_predictions} of them without any prediction",
        f" people: {d.people} to be found, {d.people_missed} of them matched by no prediction (OKS 0.50), "
        f"{d.people_without_predictions} in pictures without predictions; "
        f"{d.people_ignored} ignored (crowds, no labelled keypoints)",
        f" small people (area below 32 x 32, in neither medium nor large): {d.small_people}, "
        f"AP {score_text(d.ap_small)}, AR {score_text(d.ar_small)}",
        f" without the cap of {MAX_DETECTIONS} predictions a picture: AP {score_text(d.ap_uncapped)}, "
        f"AR {score_text(d.ar_uncapped)}; the cap left out {d.predictions_capped} of {d.predictions} predictions, and "
        f"{d.crowded_pictures} pictures have more than {MAX_DETECTIONS} people",
    ]
    if d.predictions_tied:
        lines.append(
            f" {d.predictions_tied} of {d.predictions} predictions share their score with another: AP depends on their "
            "order in the list. Score people by box score x mean keypoint score"
        )
    if d.keypoints_at_origin:
        lines.append(
            f" {d.keypoints_at_origin} keypoints were predicted at exactly (0, 0): labelled ones count as wrong. "
            "Predict a best guess for every keypoint and do not threshold keypoints before scoring"
        )
    if d.predictions_elsewhere:
        lines.append(f" {d.predictions_elsewhere} predictions are of pictures that were not scored")
    if d.sigmas != "skeleton":
        lines.append(" the skeleton has no oks_sigmas: a default took their place, and every number depends on it")
    if d.mixup:
        lines.append(f" {d.mixup}")
    if d.hints:
        lines += [" why AP is next to 0:", *(f" - {hint}" for hint in d.hints)]
    return lines


def score_text(value: float) -> str:
    """An AP or AR with three decimals, a dash where there was nobody to find."""
    return "-" if value < 0 else f"{value:.3f}"
