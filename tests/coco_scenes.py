"""Small COCO ground truths and results for tests of the evaluation, and plain pycocotools to compare with."""

from __future__ import annotations

import copy
import io
from contextlib import redirect_stdout

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from multiposenet.evaluation.coco import METRICS
from multiposenet.skeletons import COCO_PERSON, Skeleton


def scene(pictures: int = 4, people: int = 3, side: float = 120.0, skeleton: Skeleton = COCO_PERSON) -> dict:
    """People side by side, far from the origin, their keypoints spread over their boxes."""
    rng = np.random.default_rng(7)
    annotations = []
    for image_id in range(1, pictures + 1):
        for person in range(people):
            corner = np.array([200 + 2 * side * person, 500.0])
            xy = (corner + side * rng.random((skeleton.num_keypoints, 2)) * (1, 2)).round()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [*corner.tolist(), side, 2 * side],
                    "area": side * side,
                    "iscrowd": 0,
                    "num_keypoints": skeleton.num_keypoints,
                    "keypoints": np.column_stack([xy, np.full(len(xy), 2)]).ravel().astype(int).tolist(),
                }
            )
    return {
        "images": [{"id": i, "width": 9000, "height": 900, "file_name": f"{i}.jpg"} for i in range(1, pictures + 1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": skeleton.name, "keypoints": list(skeleton.keypoints)}],
    }


def answers(truth: dict) -> list[dict]:
    """The truth itself as predictions, every score another one."""
    return [
        {
            "image_id": person["image_id"],
            "category_id": 1,
            "keypoints": list(map(float, person["keypoints"])),
            "score": 0.9 - 0.001 * index,
        }
        for index, person in enumerate(truth["annotations"])
        if not person["iscrowd"]
    ]


def moved(predictions: list[dict], change) -> list[dict]:
    """Predictions whose keypoints [K, 3] went through ``change``."""
    return [
        dict(p, keypoints=np.asarray(change(np.reshape(p["keypoints"], (-1, 3))), float).ravel().tolist())
        for p in predictions
    ]


def guesses(truth: dict, seed: int = 1) -> list[dict]:
    """Predictions of mixed quality, and some people who are not there."""
    rng = np.random.default_rng(seed)

    def disturb(triples: np.ndarray) -> np.ndarray:
        noise = rng.normal(size=(len(triples), 2)) * 12 * rng.exponential()
        return triples + np.pad(noise, [(0, 0), (0, 1)])

    found = moved(answers(truth), disturb)
    strays = moved(found[::3], lambda triples: triples * (1.3, 0.6, 1) + (40 * rng.random(), 0, 0))
    return [dict(p, score=float(rng.random())) for p in found + strays]


def plain(truth: dict, predictions: list[dict], image_ids: list[int] | None = None) -> dict[str, float]:
    """What a user of pycocotools gets; its caller's lists are the ones it writes to."""
    with redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = copy.deepcopy(truth)
        annotated.createIndex()
        evaluation = COCOeval(annotated, annotated.loadRes(predictions), "keypoints")
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))


def copied(predictions: list[dict]) -> list[dict]:
    return copy.deepcopy(predictions)
