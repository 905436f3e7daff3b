"""Every keypoint gets the verdict that its place deserves, and people are paired as COCO pairs them."""

from __future__ import annotations

import copy
import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from coco_scenes import answers, guesses, scene
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from multiposenet.evaluation.backends import measure
from multiposenet.evaluation.coco import evaluate_coco
from multiposenet.evaluation.diagnosis import diagnose
from multiposenet.evaluation.ground_truth import GroundTruth, check_ground_truth
from multiposenet.evaluation.keypoint_errors import GOOD, INVERSION, JITTER, MISS, SWAP, UNJUDGED, judge_keypoints
from multiposenet.evaluation.matches import best_similarity, kept_predictions, match_people, same_picture
from multiposenet.evaluation.oks import oks
from multiposenet.evaluation.results import Results, check_results
from multiposenet.geometry import xywh_to_xyxy
from multiposenet.skeletons import COCO_PERSON

SIGMAS = COCO_PERSON.oks_sigmas
NAMES = COCO_PERSON.keypoints


def columns(truth: dict, predictions: list[dict]) -> tuple[GroundTruth, Results]:
    people = check_ground_truth(truth, COCO_PERSON)
    return people, check_results(predictions, people, COCO_PERSON)


def spread_scene() -> dict:
    """Two people in one picture whose keypoints are all far from each other."""
    truth = scene(pictures=1, people=2)
    for person, annotation in enumerate(truth["annotations"]):
        places = [(300 * number + 100, 400 * person + 100) for number in range(len(NAMES))]
        annotation["keypoints"] = [value for x, y in places for value in (x, y, 2)]
    return truth


def verdict_of(change, visibility: int = 2) -> int:
    """The verdict on the first person's left wrist when ``change`` (points [2, K, 2]) has put it somewhere."""
    truth = spread_scene()
    wrist = NAMES.index("left_wrist")
    truth["annotations"][0]["keypoints"][3 * wrist + 2] = visibility
    predictions = answers(truth)
    points = np.array([p["keypoints"] for p in predictions]).reshape(2, -1, 3)
    points[0, wrist, :2] = change(points[..., :2].copy())
    predictions[0]["keypoints"] = points[0].ravel().tolist()
    people, results = columns(truth, predictions)
    verdicts = judge_keypoints(people, results, match_people(people, results, SIGMAS), COCO_PERSON, SIGMAS)
    others = np.delete(verdicts.ravel(), wrist)
    assert set(others.tolist()) == {GOOD}
    return int(verdicts[0, wrist])


def distance(similarity: float, keypoint: str = "left_wrist") -> float:
    """How far a keypoint of the scene's people is off at this similarity."""
    variance = (2 * SIGMAS[NAMES.index(keypoint)]) ** 2
    return float(np.sqrt(-2 * np.log(similarity) * 120 * 120 * variance))


LEFT, RIGHT = NAMES.index("left_wrist"), NAMES.index("right_wrist")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda points: points[0, LEFT], GOOD),
        (lambda points: points[0, LEFT] + (distance(0.86), 0), GOOD),
        (lambda points: points[0, LEFT] + (0, distance(0.84)), JITTER),
        (lambda points: points[0, LEFT] - (distance(0.51), 0), JITTER),
        (lambda points: points[0, LEFT] - (distance(0.49), 0), MISS),
        (lambda points: points[0, RIGHT], INVERSION),
        (lambda points: points[0, RIGHT] + (distance(0.51), 0), INVERSION),
        (lambda points: points[0, RIGHT] + (distance(0.49), 0), MISS),
        (lambda points: points[1, LEFT], SWAP),
        (lambda points: points[1, RIGHT] + (0, distance(0.51)), SWAP),
        (lambda points: points[1, LEFT] + (0, distance(0.49)), MISS),
        (lambda points: points[0, NAMES.index("nose")], MISS),
        (lambda points: points[1, NAMES.index("left_knee")], MISS),
        (lambda points: points[0, LEFT] + 5000, MISS),
    ],
)
def test_a_keypoint_is_judged_by_what_it_is_near(change, expected):
    assert verdict_of(change) == expected
    assert verdict_of(change, visibility=1) == expected


def test_a_keypoint_that_nobody_labelled_is_not_judged():
    assert verdict_of(lambda points: points[0, RIGHT], visibility=0) == UNJUDGED


def test_the_nearer_of_an_inversion_and_a_swap_counts_and_the_own_place_before_both():
    truth = spread_scene()
    own, other = (np.reshape(a["keypoints"], (-1, 3)) for a in truth["annotations"])
    shift = distance(0.8)
    other[LEFT, :2] = own[RIGHT, :2] + (shift, 0)  # two wrists of two people almost in one place
    truth["annotations"][1]["keypoints"] = other.ravel().tolist()
    for place, expected in ((own[RIGHT], INVERSION), (other[LEFT], SWAP), (own[LEFT], GOOD)):
        predictions = answers(truth)
        predictions[0]["keypoints"][3 * LEFT : 3 * LEFT + 2] = map(float, place[:2])
        people, results = columns(truth, predictions)
        verdicts = judge_keypoints(people, results, match_people(people, results, SIGMAS), COCO_PERSON, SIGMAS)
        assert verdicts[0, LEFT] == expected


def test_the_scale_of_a_swap_is_that_of_the_person_whose_keypoint_it_is():
    truth = spread_scene()
    predictions = answers(truth)
    place = np.array(truth["annotations"][1]["keypoints"][3 * LEFT : 3 * LEFT + 2], float)
    predictions[0]["keypoints"][3 * LEFT : 3 * LEFT + 2] = np.add(place, (distance(0.6), 0)).tolist()
    for area, expected in ((120 * 120, SWAP), (12 * 12, MISS)):
        truth["annotations"][1]["area"] = area
        people, results = columns(truth, predictions)
        verdicts = judge_keypoints(people, results, match_people(people, results, SIGMAS), COCO_PERSON, SIGMAS)
        assert verdicts[0, LEFT] == expected


def test_pairs_are_all_of_one_picture_and_agree_with_similarity_one_by_one():
    truth = scene(pictures=5, people=4)
    for person in truth["annotations"][::5]:
        person.update(num_keypoints=0, keypoints=[0] * (3 * len(NAMES)))
    people, results = columns(truth, guesses(truth))
    row, other = same_picture(results.picture, people.picture, np.flatnonzero(people.scored))
    assert (results.picture[row] == people.picture[other]).all()
    assert len(row) == sum(int((people.picture[people.scored] == picture).sum()) for picture in results.picture)
    best = best_similarity(people, results, SIGMAS)
    boxes = xywh_to_xyxy(people.boxes_xywh)
    for number in (0, 7, len(results) - 1):
        here = np.flatnonzero((people.picture == results.picture[number]) & people.scored)
        expected = oks(
            results.xy[[number]], people.xy[here], people.visibility[here], people.areas[here], SIGMAS, boxes[here]
        )
        np.testing.assert_allclose(best[number], expected.max(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_at_oks_one_half_as_many_people_are_found_as_pycocotools_finds(seed):
    truth = scene(pictures=12, people=8, side=50)
    for person in truth["annotations"][::9]:
        person.update(iscrowd=1)
    people, results = columns(truth, guesses(truth, seed))
    pictures = np.arange(len(people.image_ids))
    matches = match_people(people, kept_predictions(results, pictures), SIGMAS)
    recall = measure(people, results, pictures, SIGMAS, [20], "pycocotools").average_recall(oks=0.5)
    found = (matches.oks >= 0.5).sum()
    assert 0 < found < people.scored.sum()
    assert found == round(recall * people.scored.sum())
    assert len(set(matches.person[matches.found].tolist())) == matches.found.sum()


def test_a_second_prediction_of_somebody_does_not_become_the_neighbour():
    truth = spread_scene()
    first, second = answers(truth)
    neighbour = dict(second, score=0.1)
    doubled = [dict(first, score=0.9), dict(first, score=0.8), neighbour]
    # The second prediction of the first person touches the neighbour a little.
    doubled[1]["keypoints"] = first["keypoints"][:30] + neighbour["keypoints"][30:]
    people, results = columns(truth, doubled)
    matches = match_people(people, results, SIGMAS)
    assert matches.person.tolist() == [0, -1, 1]
    assert matches.best_oks[1] > 0.5


def test_predictions_on_ignored_people_are_forgiven_and_those_elsewhere_are_not():
    truth = scene(pictures=1, people=2)
    truth["annotations"][1].update(iscrowd=1, num_keypoints=0, keypoints=[0] * (3 * len(NAMES)))
    inside = answers(scene(pictures=1, people=2))
    far = dict(inside[1], keypoints=[5000.0] * (3 * len(NAMES)))
    people, results = columns(truth, [*inside, far])
    matches = match_people(people, results, SIGMAS)
    assert matches.found.tolist() == [True, False, False]
    assert matches.forgiven.tolist() == [False, True, False]


@pytest.mark.parametrize(("crowd", "forgiven"), [(1, 5), (0, 1)])
def test_a_crowd_forgives_any_number_and_a_person_without_keypoints_one(crowd, forgiven):
    truth = scene(pictures=1, people=2)
    own, other = answers(truth)
    truth["annotations"][1].update(iscrowd=crowd, num_keypoints=0, keypoints=[0] * (3 * len(NAMES)))
    found = [dict(other, score=0.9 - 0.01 * number) for number in range(5)] + [dict(own, score=0.5)]
    for number, answer in enumerate(found):
        answer["keypoints"] = (np.array(answer["keypoints"]) + 0.1 * number).tolist()
    diagnosis = diagnose(truth, found)
    assert (diagnosis.forgiven, diagnosis.false_people) == (forgiven, 5 - forgiven)
    assert diagnosis.ap == pytest.approx(evaluate_coco(truth, found)["AP"])
    assert (diagnosis.ap == pytest.approx(1.0)) == (forgiven == 5)


@pytest.mark.parametrize("seed", range(6))
def test_whom_coco_forgives_is_forgiven(seed):
    """Against COCOeval's own matches at OKS 0.5, with people without keypoints and crowds among the others."""
    rng = np.random.default_rng(seed)
    truth = scene(pictures=6, people=6, side=40)
    found = guesses(truth, seed) + guesses(truth, seed + 100)
    for person in truth["annotations"]:
        fate = rng.random()
        if fate < 0.5:
            person.update(iscrowd=int(fate < 0.15), num_keypoints=0, keypoints=[0] * (3 * len(NAMES)))
    people, results = columns(truth, found)
    results = kept_predictions(results, np.arange(6))
    matches = match_people(people, results, SIGMAS)
    with redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = copy.deepcopy(truth)
        annotated.createIndex()
        coco = COCOeval(annotated, annotated.loadRes(copy.deepcopy(found)), "keypoints")
        coco.params.areaRng, coco.params.areaRngLbl = coco.params.areaRng[:1], ["all"]
        coco.evaluate()
    # A prediction at OKS 0.1 to 0.5 of somebody is somebody here, whatever COCO has ignored.
    unclear = {float(score) for score in results.scores[matches.found & (matches.oks < 0.5)]}
    ignored = [
        score
        for picture in coco.evalImgs if picture
        for score, gone in zip(picture["dtScores"], picture["dtIgnore"][0], strict=True) if gone
    ]  # fmt: skip
    assert matches.forgiven.any()
    assert sorted(results.scores[matches.forgiven].tolist()) == sorted(s for s in ignored if s not in unclear)


def test_only_the_twenty_best_of_a_picture_take_part():
    truth = scene(pictures=2, people=1)
    predictions = [
        dict(answer, score=0.01 * place, keypoints=(np.array(answer["keypoints"]) + place).tolist())
        for answer in answers(truth)
        for place in range(30)
    ]
    _, results = columns(truth, predictions)
    kept = kept_predictions(results, np.array([1]))
    assert len(kept) == 20
    assert set(kept.picture.tolist()) == {1}
    assert kept.scores.min() == pytest.approx(0.1)


def test_nobody_is_found_by_nothing():
    truth = scene(pictures=1, people=0)
    people, results = columns(truth, [])
    matches = match_people(people, results, SIGMAS)
    assert matches.found.tolist() == []
    assert judge_keypoints(people, results, matches, COCO_PERSON, SIGMAS).shape == (0, len(NAMES))
