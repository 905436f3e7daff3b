"""Predictions written in another order, frame or place are recognised, and what is wrong is said in words."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from coco_scenes import answers, guesses, scene

from multiposenet.evaluation.coco import evaluate_coco
from multiposenet.evaluation.details import CocoDetails, detail_lines
from multiposenet.skeletons import COCO_PERSON

K = COCO_PERSON.num_keypoints


def pictures_of_many_sizes() -> dict:
    """Real proportions: pictures of different sizes with people within them, ids with gaps."""
    truth = scene(pictures=24, people=2, side=90)
    rng = np.random.default_rng(3)
    for image in truth["images"]:
        image["width"], image["height"] = (int(side) for side in rng.choice([427, 480, 500, 640, 333], 2))
        image["id"] *= 7
    for number, person in enumerate(truth["annotations"]):
        image = truth["images"][person["image_id"] - 1]
        person["image_id"] = image["id"]
        corner = np.array([(number % 2) * image["width"] / 2 + 10, rng.uniform(0, image["height"] - 200)])
        xy = corner + rng.random((K, 2)) * (image["width"] / 2 - 40, 180)
        person["keypoints"] = np.column_stack([xy, np.full(K, 2)]).ravel().tolist()
        person["bbox"] = [*corner.tolist(), image["width"] / 2 - 40, 180]
    return truth


def spoilt(truth: dict, change: Callable[[np.ndarray, int, int], np.ndarray]) -> list[dict]:
    """Good predictions [K, 3] after a change that knows the picture's width and height."""
    size = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    return [
        dict(p, keypoints=np.ravel(change(np.reshape(p["keypoints"], (-1, 3)), *size[p["image_id"]])).tolist())
        for p in guesses(truth)
    ]


def details(truth: dict, predictions: list[dict]) -> CocoDetails:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = evaluate_coco(truth, predictions)
    assert metrics["AP"] < 0.01
    return metrics.details


def scaled(triples: np.ndarray, x: float, y: float, dx: float = 0, dy: float = 0) -> np.ndarray:
    return triples * (x, y, 1) + np.array([dx, dy, 0])


def centred(triples: np.ndarray, width: int, height: int) -> np.ndarray:
    scale = 416 / max(width, height)
    return scaled(triples, scale, scale, (416 - width * scale) / 2, (416 - height * scale) / 2)


ORDER = np.random.default_rng(1).permutation(K)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t, w, h: scaled(t, 1 / w, 1 / h), "which are shares of the picture, by its width and height"),
        (lambda t, w, h: scaled(t, 1, 1, 70, -45), r"shifting x by -(69|70)\.\d and y by \+4[45]\.\d pixels"),
        (lambda t, w, h: scaled(t, 0.25, 0.25), "multiplying x by 4.00. and y by (3.99.|4.00.)"),
        (lambda t, w, h: scaled(t, 320 / max(w, h), 320 / max(w, h)), "pictures whose longer side is 320 pixels"),
        (lambda t, w, h: scaled(t, 192 / w, 256 / h), r"pictures stretched to 192 x 256 pixels \(width x height\)"),
        (centred, "pictures centred in a square of 416 pixels"),
        (lambda t, w, h: t.T, "reading each list as all x, then all y, then all scores"),
        (lambda t, w, h: t[ORDER], r"reordering the keypoints \(.*and 11 more\)"),
        (
            lambda t, w, h: scaled(t, 0.5, 2, 20, -40),
            r"multiplying x by (1.9|2.0)\d+ and y by 0.(49|50)\d+, and sh",
        ),
    ],
)
def test_the_frame_and_the_order_that_predictions_were_written_in_are_found(change, sentence):
    truth = pictures_of_many_sizes()
    found = details(truth, spoilt(truth, change))
    assert found.mixup is not None
    assert re.search(f"the predictions fit after .*{sentence}.*: mean best OKS", found.mixup)
    assert found.hints == ()
    assert any(found.mixup in line for line in detail_lines(found))


def test_keypoints_in_another_order_are_named_by_where_they_are_and_what_they_should_be():
    truth = pictures_of_many_sizes()
    rolled = spoilt(truth, lambda t, w, h: t[[*range(9, K), *range(9)]])  # the nose is where the right elbow should be
    assert "reordering the keypoints (right_elbow as nose, left_wrist as left_eye," in details(truth, rolled).mixup


@pytest.mark.parametrize(("step", "word"), [(1, "lower"), (-1, "higher")])
def test_pictures_off_by_one_are_found_by_id_and_by_place(step, word):
    truth = pictures_of_many_sizes()
    ids = sorted(image["id"] for image in truth["images"])
    neighbour = dict(zip(ids, np.roll(ids, -step).tolist(), strict=True))
    moved = [dict(p, image_id=neighbour[p["image_id"]]) for p in guesses(truth)]
    assert f"taking the picture whose id is the next {word} one" in details(truth, moved).mixup
    counted = scene(pictures=9)  # ids 1 to 9
    for number, person in enumerate(counted["annotations"]):
        person["keypoints"][0::3] = [x + 37 * number for x in person["keypoints"][0::3]]
    off = [dict(p, image_id=p["image_id"] + step) for p in answers(counted) if 1 <= p["image_id"] + step <= 9]
    assert f"taking the image_id one {word}" in details(counted, off).mixup


def test_ids_that_are_not_there_are_explained():
    truth = pictures_of_many_sizes()
    off = [dict(p, image_id=p["image_id"] - 1) for p in answers(truth)]
    with pytest.raises(ValueError, match="each is one less than a known id"):
        evaluate_coco(truth, off)
    places = [dict(p, image_id=p["image_id"] // 7 - 1) for p in answers(truth) if p["image_id"] // 7 - 1 in (0, 3)]
    with pytest.raises(ValueError, match="they look like places in the list of pictures, 0 to 23, and must be ids"):
        evaluate_coco(truth, places)


def test_another_category_in_all_entries_is_counted():
    truth = pictures_of_many_sizes()
    found = [dict(p, category_id=0) for p in answers(truth)]
    with pytest.raises(ValueError, match="category_id is 0, people of the ground truth have 1; so it is in 48 of 48"):
        evaluate_coco(truth, found)


def test_predictions_that_no_change_helps_are_described():
    truth = pictures_of_many_sizes()
    rng = np.random.default_rng(0)
    garbage = spoilt(truth, lambda t, w, h: np.column_stack([rng.random((K, 2)) * (3 * w, 3 * h), t[:, 2]]))
    found = details(truth, garbage)
    assert found.mixup is None
    text = " ".join(found.hints)
    assert "nothing that was tried makes the predictions fit" in text
    assert re.search(r"predicted people are [3-9]\.\d+ times as large as the annotated ones", text)
    assert re.search(r"(8|9)\d% of the predicted keypoints lie outside their picture", text)
    assert any("why AP is next to 0" in line for line in detail_lines(found))


def test_people_who_are_found_but_ranked_last_are_told_from_people_who_are_not_found():
    truth = scene(pictures=4, people=1)
    truth["images"] += [{"id": 100 + number, "width": 640, "height": 480} for number in range(60)]
    strays = [
        {"image_id": 100 + number, "category_id": 1, "keypoints": [float(copy)] * (3 * K), "score": 0.99 + copy / 1e4}
        for number in range(60)
        for copy in range(20)
    ]
    (hint, *_) = details(truth, [*answers(truth), *strays]).hints
    assert "the people are found (mean best OKS 1.00), but other predictions have higher scores" in hint


def test_files_that_do_not_say_how_large_pictures_are_are_searched_all_the_same():
    truth = pictures_of_many_sizes()
    halved = spoilt(truth, lambda t, w, h: scaled(t, 0.5, 0.5))
    shares = spoilt(truth, lambda t, w, h: scaled(t, 1 / w, 1 / h))
    for image in truth["images"]:
        del image["width"], image["height"]
    assert "multiplying x by" in details(truth, halved).mixup
    assert details(truth, shares).mixup is None


def test_predictions_all_in_one_place_are_no_frame_and_no_warning():
    truth = pictures_of_many_sizes()
    collapsed = spoilt(truth, lambda t, w, h: t * 0 + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = evaluate_coco(truth, [dict(p, score=1 - place / 1000) for place, p in enumerate(collapsed)])
    assert metrics.details.mixup is None
    assert "predicted people are 0.00 times as large" in " ".join(metrics.details.hints)
