"""On random prediction sets our ten numbers are pycocotools' own, with both backends.

``MULTIPOSENET_PARITY_SETS=1000 pytest tests/test_evaluation_parity.py`` tries so many; by default it is 100.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from coco_scenes import copied, plain

from multiposenet.evaluation.backends import BACKENDS
from multiposenet.evaluation.coco import evaluate_coco
from multiposenet.skeletons import COCO_PERSON

SETS = int(os.environ.get("MULTIPOSENET_PARITY_SETS", "100"))
GROUPS = 10
K = COCO_PERSON.num_keypoints


def random_people(rng: np.random.Generator, pictures: int) -> dict:
    """People of all sizes, with few keypoints or none, crowds, one on top of the other, pictures without anybody."""
    annotations = []
    for image_id in range(1, pictures + 1):
        for _ in range(rng.integers(0, 9)):
            size = np.exp(rng.uniform(np.log(15), np.log(300), 2))
            corner = rng.uniform(0, 300, 2)
            if annotations and rng.random() < 0.2:  # somebody on top of the one before
                corner, size = np.array(annotations[-1]["bbox"][:2]) + rng.normal(size=2) * 4, size
            xy = (corner + size * rng.random((K, 2))).round()
            visibility = rng.integers(0, 3, K) * (rng.random(K) < rng.random()) * (rng.random() > 0.1)
            xy[visibility == 0] = 0
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [*corner.tolist(), *size.tolist()],
                    "area": float(size.prod() * rng.uniform(0.3, 1)),
                    "iscrowd": int(rng.random() < 0.1),
                    "num_keypoints": int((visibility > 0).sum()),
                    "keypoints": np.column_stack([xy, visibility]).ravel().astype(int).tolist(),
                }
            )
    images = [{"id": image_id, "width": 640, "height": 640} for image_id in range(1, pictures + 1)]
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON.keypoints)}]
    return {"images": images, "annotations": annotations, "categories": categories}


def random_answers(rng: np.random.Generator, truth: dict) -> list[dict]:
    """Good and bad poses of people and crowds, second ones of the same person, strays, more than 20 in a picture."""
    answers = []
    digits = int(rng.choice([1, 2, 9]))  # few digits make ties

    def answer(image_id: int, xy: np.ndarray) -> None:
        score = round(float(rng.random()), digits)
        keypoints = np.column_stack([xy, rng.random(K)]).ravel().tolist()
        answers.append({"image_id": image_id, "category_id": 1, "keypoints": keypoints, "score": score})

    for person in truth["annotations"]:
        xy = np.array(person["keypoints"], float).reshape(K, 3)[:, :2]
        for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
            noise = rng.normal(size=(K, 2)) * np.sqrt(person["area"]) * 0.05 * rng.exponential()
            answer(person["image_id"], xy + noise)
    for image in truth["images"]:
        for _ in range(rng.choice([0, 1, 2, 25], p=[0.4, 0.3, 0.2, 0.1])):
            answer(image["id"], rng.uniform(0, 640, (K, 2)))
    if not answers:
        answer(1, np.ones((K, 2)))
    return [answers[place] for place in rng.permutation(len(answers))]


@pytest.mark.parametrize("group", range(GROUPS))
def test_random_sets_score_as_in_pycocotools_to_the_twelfth_digit(group):
    differences, aps = [], []
    for seed in range(group, SETS, GROUPS):
        rng = np.random.default_rng([2017, seed])
        truth = random_people(rng, pictures=int(rng.integers(1, 6)))
        answers = random_answers(rng, truth)
        expected = plain(truth, copied(answers))
        for backend in usable_backends():
            numbers = evaluate_coco(truth, answers, backend=backend)
            assert tuple(numbers) == tuple(expected)
            differences += [abs(numbers[name] - expected[name]) for name in numbers]
        aps.append(expected["AP"])
    assert max(differences) <= 1e-12
    assert len({round(ap, 6) for ap in aps}) > len(aps) / 2, "the sets are too alike to show anything"


def usable_backends() -> list[str]:
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        return ["pycocotools"]
    return list(BACKENDS)
