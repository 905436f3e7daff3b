"""Every way we know in which COCO's evaluator misleads or crashes, beside what ours does about it.

One test a trap. Each first shows what plain pycocotools does with the input.
"""

from __future__ import annotations

import copy
import json
import time
import warnings

import numpy as np
import pytest
import torch
from coco_scenes import answers, copied, guesses, moved, plain, scene

from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.completion import complete_annotations
from multiposenet.decode.grouping import PoseResidualGrouping
from multiposenet.evaluation.backends import measure
from multiposenet.evaluation.coco import METRICS, evaluate_coco
from multiposenet.evaluation.details import detail_lines
from multiposenet.evaluation.ground_truth import check_ground_truth, read_ground_truth
from multiposenet.evaluation.results import check_results, write_results
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Detections, Peaks, Poses

K = COCO_PERSON.num_keypoints


def test_an_empty_list_scores_zero_with_a_sentence_instead_of_an_index_error():
    truth = scene()
    with pytest.raises(IndexError):
        plain(truth, [])
    with pytest.warns(UserWarning, match="no predictions at all for 4 pictures: AP is 0"):
        metrics = evaluate_coco(truth, [])
    assert metrics["AP"] == metrics["AR"] == 0
    assert (metrics.details.people, metrics.details.people_missed) == (12, 12)
    assert metrics.details.people_without_predictions == 12


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_picture_instead_of_being_perfect(number, tmp_path):
    truth = scene()
    broken = moved(answers(truth), lambda triples: triples * (number, number, 1))
    if np.isnan(number):
        assert plain(truth, copied(broken))["AP"] == pytest.approx(1.0)
    one_joint = moved(answers(truth), lambda triples: triples + 5000)
    one_joint[5]["keypoints"][0] = number
    with pytest.raises(ValueError, match=rf"entry 0 of picture 1: keypoints\[0\] \(x of nose\) is {number}"):
        evaluate_coco(truth, broken)
    with pytest.raises(ValueError, match=rf"entry 5 of picture 2: keypoints\[0\] \(x of nose\) is {number}"):
        evaluate_coco(truth, one_joint)
    (tmp_path / "results.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"entry 0 of picture 1: keypoints\[0\]"):
        evaluate_coco(truth, tmp_path / "results.json")
    truth["annotations"][4]["keypoints"][1] = number
    with pytest.raises(ValueError, match=rf"annotation 5 of picture 2: keypoints\[1\] is {number}"):
        evaluate_coco(truth, answers(scene()))


def test_a_category_missing_everywhere_is_filled_in_and_a_missing_score_is_named():
    truth = scene()
    for field in ("category_id", "score"):
        lacking = [{key: value for key, value in p.items() if key != field} for p in answers(truth)]
        with pytest.raises(KeyError, match=field):
            plain(truth, copied(lacking))
        if field == "category_id":
            assert evaluate_coco(truth, lacking) == evaluate_coco(truth, answers(truth))
        else:
            with pytest.raises(ValueError, match="entry 0 of picture 1 lacks score"):
                evaluate_coco(truth, lacking)
    half = answers(truth)
    del half[3]["category_id"]
    with pytest.raises(ValueError, match="entry 3 of picture 2 lacks category_id, which entry 0 has"):
        evaluate_coco(truth, half)


def test_a_wrong_category_is_refused_instead_of_scoring_zero():
    truth = scene()
    wrong = [dict(p, category_id=0) for p in answers(truth)]
    assert plain(truth, copied(wrong))["AP"] == 0
    with pytest.raises(ValueError, match="entry 0 of picture 1: category_id is 0, people of the ground truth have 1"):
        evaluate_coco(truth, wrong)


def test_unknown_pictures_and_ids_that_are_text_are_listed():
    truth = scene()
    as_text = [dict(p, image_id=str(p["image_id"])) for p in answers(truth)]
    unknown = [dict(p, image_id=70 + index) for index, p in enumerate(answers(truth))]
    for predictions in (as_text, unknown):
        with pytest.raises(AssertionError, match="do not correspond"):
            plain(truth, copied(predictions))
    with pytest.raises(ValueError, match=r"4 image ids .* '1', '2', '3', '4'; ids must be integers, not text"):
        evaluate_coco(truth, as_text)
    with pytest.raises(ValueError, match=r"12 image ids .* the first: 70, 71, 72, 73, 74$"):
        evaluate_coco(truth, unknown)


def test_the_third_number_of_a_keypoint_is_the_keypoint_score_and_takes_no_part():
    truth = scene()
    predictions = guesses(truth)
    zeroed = moved(predictions, lambda triples: triples * (1, 1, 0))
    expected = plain(truth, copied(predictions))
    assert plain(truth, copied(zeroed)) == expected
    assert evaluate_coco(truth, predictions) == evaluate_coco(truth, zeroed) == expected
    scores = torch.linspace(0, 1, K)[None]
    poses = Poses(torch.zeros(1, K, 2), scores, torch.zeros(1, 4), torch.ones(1), COCO_PERSON)
    assert poses.to_coco_results(1)[0]["keypoints"][2::3] == scores[0].tolist()


@pytest.mark.parametrize(("absent", "expected"), [(3, 0.7), (6, 0.3), (9, 0.0)])
def test_keypoints_left_at_the_origin_count_as_wrong_and_are_pointed_out(absent, expected):
    truth = scene()
    cut = moved(answers(truth), lambda triples: triples * (np.arange(K) >= absent)[:, None])
    assert plain(truth, copied(cut))["AP"] == pytest.approx(expected)
    metrics = evaluate_coco(truth, cut)
    assert metrics["AP"] == pytest.approx(expected)
    assert metrics.details.keypoints_at_origin == 12 * absent
    line = next(line for line in detail_lines(metrics.details) if "(0, 0)" in line)
    assert "best guess for every keypoint" in line


def test_our_own_grouping_guesses_every_keypoint_that_has_no_peak():
    grouping = PoseResidualGrouping(lambda crops: torch.rand_like(crops))
    boxes = torch.tensor([[[300.0, 200.0, 400.0, 500.0]]])
    people = grouping(
        Peaks(torch.zeros(1, K, 1, 2), torch.zeros(1, K, 1), torch.zeros(1, K, 1, dtype=torch.bool)),
        Detections(boxes, torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)),
    )
    assert (people.peak_index == -1).all()
    assert (people.keypoints > 100).all()


def test_a_bbox_in_the_results_does_not_move_people_between_the_area_ranges():
    truth = scene(side=70)
    predictions = guesses(truth)
    boxed = [dict(p, bbox=[0.0, 0.0, 200.0, 200.0]) for p in predictions]
    expected, misled = plain(truth, copied(predictions)), plain(truth, copied(boxed))
    assert misled["AP"] == expected["AP"]
    assert misled["APM"] != expected["APM"]
    assert evaluate_coco(truth, boxed) == evaluate_coco(truth, predictions) == expected


@pytest.mark.parametrize("boxed", [0, 4])
def test_fields_that_only_some_entries_have_are_refused(boxed):
    truth = scene()
    predictions = answers(truth)
    predictions[boxed]["bbox"] = [0.0, 0.0, 50.0, 50.0]
    if boxed == 0:
        with pytest.raises(KeyError, match="bbox"):
            plain(truth, copied(predictions))
    culprit = 1 if boxed == 0 else 0
    with pytest.raises(ValueError, match=rf"entry {culprit} of picture 1 lacks bbox, which entry {boxed} has"):
        evaluate_coco(truth, predictions)


def test_the_same_list_can_be_scored_twice_and_stays_as_it_was():
    truth = scene()
    predictions = guesses(truth)
    before = copy.deepcopy((truth, predictions))
    first = evaluate_coco(truth, predictions)
    assert evaluate_coco(truth, predictions) == first
    assert (truth, predictions) == before
    plain(truth, predictions)
    assert {"id", "area", "bbox"} <= set(predictions[0])


def test_equal_scores_are_pointed_out_because_the_order_of_the_list_decides():
    truth = scene(pictures=1, people=1)
    right, strays = answers(truth), moved(answers(truth) * 2, lambda triples: triples + np.array([900, 0, 0]))
    strays[1]["keypoints"][0] += 1
    for predictions, expected in ((right + strays, 1.0), (strays + right, 1 / 3)):
        constant = [dict(p, score=0.5) for p in predictions]
        assert plain(truth, copied(constant))["AP"] == pytest.approx(expected)
        metrics = evaluate_coco(truth, constant)
        assert metrics["AP"] == pytest.approx(expected)
        assert metrics.details.predictions_tied == 3
        assert any("3 of 3 predictions share their score" in line for line in detail_lines(metrics.details))
    assert evaluate_coco(truth, answers(truth)).details.predictions_tied == 0


def test_more_than_twenty_people_in_a_picture_have_an_ap_without_the_cap_beside_the_official_one():
    truth = scene(pictures=1, people=30)
    predictions = answers(truth)
    official = plain(truth, copied(predictions))
    assert official["AP"] == pytest.approx(0.66, abs=0.005)
    metrics = evaluate_coco(truth, predictions)
    assert metrics == official
    details = metrics.details
    assert (details.ap_uncapped, details.ar_uncapped) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (details.crowded_pictures, details.predictions_capped, details.people_missed) == (1, 10, 0)
    assert any("AP 1.000, AR 1.000; the cap left out 10 of 30" in line for line in detail_lines(details))


def test_a_part_of_the_pictures_is_scored_as_such_and_the_rest_is_counted():
    truth = scene()
    some = [p for p in answers(truth) if p["image_id"] <= 2]
    assert plain(truth, copied(some))["AP"] == pytest.approx(0.5, abs=0.01)
    missed = evaluate_coco(truth, some).details
    assert (missed.pictures, missed.pictures_without_predictions, missed.people_without_predictions) == (4, 2, 6)
    metrics = evaluate_coco(truth, some, image_ids=[1, 2])
    assert metrics == plain(truth, copied(some), image_ids=[1, 2])
    assert metrics["AP"] == pytest.approx(1.0)
    assert detail_lines(metrics.details)[0] == " pictures: 2 of 4 scored, 0 of them without any prediction"
    assert evaluate_coco(truth, answers(truth), image_ids=[1]).details.predictions_elsewhere == 9


def test_duplicates_of_a_person_cost_what_they_cost_in_pycocotools_and_the_same_entry_twice_is_refused():
    truth = scene()
    predictions = answers(truth)
    behind = predictions + [dict(p, score=p["score"] - 0.5) for p in predictions]
    between = predictions + [dict(p, score=p["score"] - 0.0005) for p in predictions]
    assert plain(truth, copied(behind))["AP"] == pytest.approx(1.0)
    assert plain(truth, copied(between))["AP"] < 0.9
    for duplicated in (behind, between):
        assert evaluate_coco(truth, duplicated) == plain(truth, copied(duplicated))
    with pytest.raises(ValueError, match=r"entry 12 of picture 2: keypoints and score are those of entry 4"):
        evaluate_coco(truth, predictions + predictions[4:])
    truth["annotations"][5]["id"] = 2
    with pytest.raises(ValueError, match=r"two annotations have the id 2 \(picture 1\)"):
        evaluate_coco(truth, predictions)


def test_people_labelled_with_the_same_box_twice_may_have_the_same_pose_twice():
    truth = scene()
    first, second = truth["annotations"][:2]
    second.update(bbox=first["bbox"], keypoints=first["keypoints"])
    predictions = answers(truth)
    predictions[1]["score"] = predictions[0]["score"]
    assert evaluate_coco(truth, predictions) == plain(truth, copied(predictions))
    with pytest.raises(ValueError, match="entry 12 of picture 1: keypoints and score are those of entry 0"):
        evaluate_coco(truth, [*predictions, predictions[0]])


def test_crowd_regions_forgive_what_is_inside_and_are_kept(tmp_path):
    truth = scene(pictures=1, people=2)
    junk = moved([dict(answers(truth)[0], score=0.99)], lambda triples: triples * (0.1, 0.1, 1) + (3000, 0, 0))
    predictions = answers(truth) + junk
    crowd = {"id": 9, "image_id": 1, "category_id": 1, "bbox": [2900.0, 0.0, 300.0, 300.0], "area": 5000.0}
    crowd |= {"iscrowd": 1, "num_keypoints": 0, "keypoints": [0] * (3 * K)}
    assert plain(truth, copied(predictions))["AP"] == pytest.approx(0.67, abs=0.005)
    assert evaluate_coco(truth, predictions)["AP"] == pytest.approx(0.67, abs=0.005)
    truth["annotations"].append(crowd)
    assert plain(truth, copied(predictions))["AP"] == pytest.approx(1.0)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(truth))
    kept = CocoKeypoints(tmp_path, "val2017").ground_truth()
    metrics = evaluate_coco(kept, predictions)
    assert metrics == plain(truth, copied(predictions))
    assert (metrics.details.people, metrics.details.people_ignored) == (2, 1)


def test_small_people_are_reported_who_are_in_neither_the_medium_nor_the_large_ones():
    truth = scene(side=20)
    predictions = answers(truth)[:6]
    official = plain(truth, copied(predictions))
    assert official["AP"] == pytest.approx(0.5, abs=0.01)
    assert official["APM"] == official["APL"] == -1
    metrics = evaluate_coco(truth, predictions)
    assert metrics == official
    details = metrics.details
    assert (details.small_people, details.people, details.people_missed) == (12, 12, 6)
    assert (details.ap_small, details.ar_small) == (official["AP"], official["AR"])
    assert any("small people" in line and ": 12, AP 0.505, AR 0.500" in line for line in detail_lines(details))


@pytest.mark.parametrize("field", ["area", "iscrowd"])
def test_missing_fields_of_the_ground_truth_are_named_and_can_be_filled_in_by_a_stated_rule(field):
    truth = scene()
    predictions = guesses(truth)
    for person in truth["annotations"]:
        del person[field]
    if field == "area":
        truth["annotations"][0]["segmentation"] = [[200, 500, 260, 500, 260, 700, 200, 700]]
    before = copy.deepcopy(truth)
    with pytest.raises(KeyError, match=field):
        plain(truth, copied(predictions))
    with pytest.raises(ValueError, match=rf"annotation 1 of picture 1 lacks {field}; .*complete_annotations fills"):
        evaluate_coco(truth, predictions)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        completed = complete_annotations(truth)
    if field == "area":
        areas = [person["area"] for person in completed["annotations"]]
        assert areas == pytest.approx([60 * 200, *11 * [0.53 * 120 * 240]])
        assert "11 of 12 annotations have neither area nor segmentation" in str(said[0].message)
    else:
        assert not said
    assert evaluate_coco(completed, predictions) == plain(completed, copied(predictions))
    assert truth == before


def test_the_sigmas_are_the_skeletons_and_a_skeleton_without_any_needs_the_users_word():
    stick = Skeleton("stick", ("a", "b", "c", "d", "e"), oks_sigmas=(0.05, 0.06, 0.07, 0.08, 0.2))
    truth = scene(skeleton=stick)
    predictions = guesses(truth)
    with pytest.raises(ValueError, match="could not be broadcast"):
        plain(truth, copied(predictions))
    assert 0 < evaluate_coco(truth, predictions, stick)["AP"] < 1
    bare = Skeleton("stick", stick.keypoints)
    with pytest.raises(ValueError, match=r"'stick' has no oks_sigmas.*default_oks_sigmas"):
        evaluate_coco(truth, predictions, bare)
    chosen = evaluate_coco(truth, predictions, bare, default_oks_sigmas=stick.oks_sigmas)
    assert chosen == evaluate_coco(truth, predictions, stick, default_oks_sigmas=9.0)
    assert (chosen.details.sigmas, evaluate_coco(truth, predictions, stick).details.sigmas) == ("default", "skeleton")
    assert any("a default took their place" in line for line in detail_lines(chosen.details))
    one = evaluate_coco(truth, predictions, bare, default_oks_sigmas=0.1)
    assert one == evaluate_coco(truth, predictions, bare, default_oks_sigmas=[0.1] * 5)
    for wrong in (0.0, -1.0, float("nan"), [0.1, 0.2]):
        with pytest.raises(ValueError, match="must be one positive number, or 5 of them"):
            evaluate_coco(truth, predictions, bare, default_oks_sigmas=wrong)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda triples: triples[COCO_PERSON.flip_indices], "exchanging left and right keypoints: mean best OKS 1.00"),
        (lambda triples: triples[:, [1, 0, 2]], "exchanging x and y: mean best OKS 1.00"),
        (lambda triples: triples[COCO_PERSON.flip_indices][:, [1, 0, 2]], "left and right keypoints, and x and y"),
    ],
)
def test_exchanged_sides_and_axes_are_recognised_instead_of_scoring_zero_without_a_word(change, sentence):
    truth = scene()
    mixed = moved(answers(truth), change)
    assert plain(truth, copied(mixed))["AP"] == 0
    with pytest.warns(UserWarning, match=f"AP is 0.000, but the predictions fit after .*{sentence}"):
        metrics = evaluate_coco(truth, mixed)
    assert metrics["AP"] == 0
    assert sentence in metrics.details.mixup
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate_coco(truth, moved(mixed, lambda triples: triples + 5000)).details.mixup is None


def test_numpy_numbers_are_cast_when_results_are_written(tmp_path):
    truth = scene()
    predictions = [
        dict(p, image_id=np.int64(p["image_id"]), score=np.float32(p["score"]), keypoints=np.array(p["keypoints"]))
        for p in answers(truth)
    ]
    with pytest.raises(TypeError):
        json.dumps(predictions)
    file = tmp_path / "results.json"
    write_results(predictions, file, COCO_PERSON)
    assert [p["image_id"] for p in json.loads(file.read_text())] == [p["image_id"] for p in answers(truth)]
    assert evaluate_coco(truth, file) == evaluate_coco(truth, predictions)
    broken = moved(answers(truth), lambda triples: triples * float("nan"))
    with pytest.raises(ValueError, match="entry 0 of picture 1"):
        write_results(broken, tmp_path / "broken.json", COCO_PERSON)
    assert not (tmp_path / "broken.json").exists()
    poses = Poses(torch.zeros(1, K, 2), torch.ones(1, K), torch.zeros(1, 4), torch.ones(1), COCO_PERSON)
    json.dumps(poses.to_coco_results(np.int64(5), np.int32(1)))


# What the table does not have


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("area", -5.0, "area is negative"),
        ("bbox", [5, 5, -1, 3], "bbox has a negative size"),
        ("bbox", [5, 5, 3], "bbox has 3 numbers, expected 4"),
        ("iscrowd", 2, "iscrowd must be 0 or 1"),
        ("keypoints", [0] * (3 * K), "num_keypoints is above 0, but no keypoint"),
        ("keypoints", ["1"] * (3 * K), "keypoints must be a flat list of numbers"),
        ("area", None, "area must be a number, got None"),
    ],
)
def test_ground_truth_that_would_be_scored_as_nonsense_is_refused(field, value, message):
    truth = scene()
    truth["annotations"][7][field] = value
    with pytest.raises(ValueError, match=f"annotation 8 of picture 3: {message}"):
        evaluate_coco(truth, answers(scene()))


def test_people_of_pictures_that_are_not_listed_and_pictures_listed_twice_are_refused():
    truth = scene()
    with pytest.raises(ValueError, match=r"ground truth: annotations: 1 image ids are not in .* the first: 4"):
        evaluate_coco(dict(truth, images=truth["images"][:3]), [])
    with pytest.raises(ValueError, match="two images have the id 1"):
        evaluate_coco(dict(truth, images=[*truth["images"], truth["images"][0]]), [])


def test_predictions_that_are_no_numbers_are_refused_by_entry():
    truth = scene()
    for field, value, message in (
        ("score", "0.5", "score must be a number, got '0.5'"),
        ("keypoints", [["1"] * 3] * K, "keypoints must be a flat list of numbers"),
        ("keypoints", [[1.0, 2.0, 3.0]] * K, rf"keypoints has {K} numbers, expected {3 * K}"),
    ):
        predictions = answers(truth)
        predictions[5][field] = value
        with pytest.raises(ValueError, match=f"entry 5 of picture 2: {message}"):
            evaluate_coco(truth, predictions)
    with pytest.raises(ValueError, match="entry 1 must be a dict, got a list"):
        evaluate_coco(truth, [answers(truth)[0], []])


def test_the_numbers_alone_go_into_json_and_the_details_have_a_place_of_their_own():
    metrics = evaluate_coco(scene(), guesses(scene()))
    assert json.loads(json.dumps(metrics)) == dict(metrics)
    assert tuple(metrics) == METRICS
    json.dumps(metrics.details.to_dict())
    assert copy.deepcopy(metrics).details == metrics.details


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_the_fast_evaluator_gives_the_same_numbers(seed, tied):
    pytest.importorskip("faster_coco_eval", reason="the [fast] extra is not installed")
    truth = scene(pictures=6, people=25, side=60)
    for person in truth["annotations"][::4]:
        person.update(area=400.0)
    for person in truth["annotations"][5::9]:
        person.update(iscrowd=1)
    for person in truth["annotations"][7::9]:
        person.update(num_keypoints=0, keypoints=[0] * (3 * K))
    predictions = guesses(truth, seed)
    if tied:
        predictions = [dict(p, score=round(p["score"], 1)) for p in predictions]
    fast, slow = (evaluate_coco(truth, predictions, backend=name) for name in ("faster-coco-eval", "pycocotools"))
    assert fast == pytest.approx(slow, abs=1e-12)
    assert slow == plain(truth, copied(predictions))
    facts = [metrics.details.to_dict() for metrics in (fast, slow)]
    assert [own.pop("hints") for own in facts] == [(), ()]
    assert facts[0] == pytest.approx(facts[1] | {"backend": "faster-coco-eval"}, abs=1e-12)
    with pytest.warns(UserWarning, match="no predictions"):
        assert evaluate_coco(truth, [], backend="faster-coco-eval") == evaluate_coco(truth, [], backend="pycocotools")


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend must be one of pycocotools, faster-coco-eval, got 'matlab'"):
        evaluate_coco(scene(), answers(scene()), backend="matlab")


def test_on_all_real_validation_labels_the_numbers_are_pycocotools_and_the_checks_are_a_small_share(coco_labels):
    file = coco_labels / "annotations" / "person_keypoints_val2017.json.gz"
    content = read_ground_truth(file)
    predictions = guesses(content)
    checking = []
    for _ in range(3):  # the first time also pays for memory that is touched for the first time
        started = time.process_time()
        truth = check_ground_truth(content, COCO_PERSON)
        results = check_results(predictions, truth, COCO_PERSON)
        checking.append(time.process_time() - started)
    assert len(truth) == 6352
    pictures = np.arange(len(truth.image_ids))
    started = time.process_time()
    curves = measure(truth, results, pictures, COCO_PERSON.oks_sigmas, [20], "pycocotools")
    scoring = time.process_time() - started
    assert min(checking) < 0.1 * scoring
    expected = plain(content, copied(predictions))
    assert curves.average_precision() == expected["AP"]
    assert evaluate_coco(file, predictions, backend="pycocotools") == expected
