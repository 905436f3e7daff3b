"""One row of the grouping table: COCO's numbers, who got what, and the same by crowding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from multiposenet.decode.grouping import GroupedPeople
from multiposenet.evaluation.coco import evaluate_coco
from multiposenet.evaluation.ground_truth import person_category_id
from multiposenet.evaluation.grouping_inputs import BestPoses, GroupingInput
from multiposenet.geometry import pairwise_iou
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, PersonLabels, Poses

NUMBERS = ("AP", "AP50", "AP75", "APM", "APL", "AR")
"""What a row tells of COCO's numbers."""

PEOPLE_BOUNDS = (1, 2, 4, 8)
OVERLAP_BOUNDS = (0.0, 0.1, 0.3, 0.5)
"""Lower bounds of the crowding classes: people in the picture; the highest IoU of two of its boxes."""


@dataclass(frozen=True)
class Crowding:
    """Pictures by how crowded they are.

    Args:
        by: ``"people"`` or ``"overlap"``.
        low, high: number of people, or highest IoU of two people's boxes; low included, high not, None without end.
        rows: positions of the pictures.
    """

    by: str
    low: float
    high: float | None
    rows: tuple[int, ...]


@dataclass(frozen=True)
class GroupingScores:
    """What a grouping made of an input.

    Args:
        numbers: COCO's, by name (:data:`NUMBERS`).
        right: share of the keypoints given to the right person, of those whose person has a box and whose peak is
            there; None for a ceiling.
        crowding: the same by crowding: dicts with ``by``, ``from``, ``to``, ``pictures``, ``AP``, ``right``.
    """

    numbers: dict[str, float]
    right: float | None
    crowding: list[dict] = field(default_factory=list)


def crowding_classes(pictures: Sequence[PersonLabels]) -> list[Crowding]:
    """The pictures with labelled people in classes by number of people, and again by overlap of the labels' boxes."""
    single = [torch.from_numpy(labels.boxes[~labels.crowd]) for labels in pictures]
    figures = {
        "people": (PEOPLE_BOUNDS, [float(len(boxes)) for boxes in single]),
        "overlap": (OVERLAP_BOUNDS, [_highest_iou(boxes) for boxes in single]),
    }
    classes = []
    for by, (bounds, values) in figures.items():
        for low, high in zip(bounds, (*bounds[1:], None), strict=True):
            rows = tuple(
                row
                for row, value in enumerate(values)
                if len(single[row]) and low <= value and (high is None or value < high)
            )
            classes.append(Crowding(by, low, high, rows))
    return classes


def _highest_iou(boxes: Tensor) -> float:
    if len(boxes) < 2:
        return 0.0
    return float(pairwise_iou(boxes, boxes).fill_diagonal_(0).max())


@torch.inference_mode()
def measure_grouping(
    grouping: Callable[[Peaks, Detections], GroupedPeople],
    given: GroupingInput,
    image_ids: Sequence[int],
    ground_truth: Mapping,
    skeleton: Skeleton,
    crowding: Sequence[Crowding] = (),
    device: torch.device | str = "cpu",
    batch_size: int = 32,
) -> GroupingScores:
    """Groups an input and scores what comes out.

    Args:
        grouping: what is measured.
        given: N pictures.
        image_ids: their ids.
        ground_truth: COCO annotations; areas as they stand there.
        skeleton: whose keypoints.
        crowding: classes to score by themselves too.
        device, batch_size: where and how many pictures at a time.
    """
    category_id = person_category_id(ground_truth, skeleton)
    results, hits, chances = [], [], []
    for start in range(0, len(given), batch_size):
        part = given[start : start + batch_size]
        people = grouping(part.peaks.to(device), part.detections.to(device))
        people = GroupedPeople(*(value.cpu() for value in vars(people).values()))
        for row, image_id in enumerate(image_ids[start : start + batch_size]):
            slots = part.detections.valid[row].nonzero()[:, 0]
            order = slots[people.scores[row, slots].argsort(descending=True, stable=True)]
            results.append(
                Poses(
                    people.keypoints[row, order],
                    people.keypoint_scores[row, order],
                    part.detections.boxes[row, order],
                    people.scores[row, order],
                    skeleton,
                ).to_coco_results(image_id, category_id)
            )
        hit, chance = right_keypoints(people.peak_index, part)
        hits.append(hit)
        chances.append(chance)
    return _score(results, torch.cat(hits), torch.cat(chances), image_ids, ground_truth, skeleton, crowding)


def measure_ceiling(
    best: BestPoses,
    image_ids: Sequence[int],
    ground_truth: Mapping,
    skeleton: Skeleton,
    crowding: Sequence[Crowding] = (),
) -> GroupingScores:
    """Scores an input's ceiling (``grouping_inputs.best_poses``) as if a grouping had made it."""
    category_id = person_category_id(ground_truth, skeleton)
    results = []
    for row, image_id in enumerate(image_ids):
        people = best.found[row].nonzero()[:, 0]
        order = people[best.scores[row, people].argsort(descending=True, stable=True)]
        keypoints, scores = best.keypoints[row, order], best.scores[row, order]
        results.append(
            Poses(
                keypoints, torch.ones(keypoints.shape[:2]), torch.zeros(len(order), 4), scores, skeleton
            ).to_coco_results(image_id, category_id)
        )
    return _score(results, None, None, image_ids, ground_truth, skeleton, crowding)


def right_keypoints(peak_index: Tensor, given: GroupingInput) -> tuple[Tensor, Tensor]:
    """Of every picture [N]: keypoints given to the right person, and how many could have been.

    Args:
        peak_index: [N, P, K] long, of ``GroupedPeople``.
        given: what was grouped.
    """
    index = given.box_of.clamp(min=0)[..., None].expand(-1, -1, peak_index.shape[2])
    taken = peak_index.gather(1, index)  # [N, G, K]
    possible = (given.peak_of >= 0) & (given.box_of >= 0)[..., None]
    return (possible & (taken == given.peak_of)).sum((1, 2)), possible.sum((1, 2))


def _score(
    results: list[list[dict]],
    hits: Tensor | None,
    chances: Tensor | None,
    image_ids: Sequence[int],
    ground_truth: Mapping,
    skeleton: Skeleton,
    crowding: Sequence[Crowding],
) -> GroupingScores:
    def right(rows: Sequence[int]) -> float | None:
        if hits is None or not rows:
            return None
        rows = torch.tensor(rows)
        return float(hits[rows].sum() / chances[rows].sum().clamp(min=1))

    everything = list(range(len(results)))
    metrics = evaluate_coco(ground_truth, _joined(results, everything), skeleton, image_ids)
    classes = []
    for part in crowding:
        entry = {"by": part.by, "from": part.low, "to": part.high, "pictures": len(part.rows)}
        if part.rows:
            ids = [image_ids[row] for row in part.rows]
            entry["AP"] = evaluate_coco(_of_pictures(ground_truth, ids), _joined(results, part.rows), skeleton)["AP"]
            entry["right"] = right(part.rows)
        classes.append(entry)
    return GroupingScores({name: metrics[name] for name in NUMBERS}, right(everything), classes)


def _joined(results: list[list[dict]], rows: Sequence[int]) -> list[dict]:
    # Two boxes in one place that get the same make the same person twice, which the evaluation takes for a mistake in
    # the file. They are two answers here: told apart by a score too small to change any order.
    return [
        person | {"score": person["score"] - 1e-12 * place} for row in rows for place, person in enumerate(results[row])
    ]


def _of_pictures(ground_truth: Mapping, image_ids: Sequence[int]) -> dict:
    """The annotations of some pictures: a class must not cost as much as the whole."""
    wanted = set(image_ids)
    return {
        **ground_truth,
        "images": [image for image in ground_truth["images"] if image["id"] in wanted],
        "annotations": [person for person in ground_truth["annotations"] if person["image_id"] in wanted],
    }
