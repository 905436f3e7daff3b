"""Errors planted at known rates are found again at those rates, and repairing everything gives a perfect set."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
from coco_scenes import answers, guesses, moved, scene

from multiposenet.evaluation.backends import measure
from multiposenet.evaluation.coco import evaluate_coco
from multiposenet.evaluation.diagnosis import FOUND_OKS, Diagnosis, KeypointCounts, diagnose, diagnose_columns
from multiposenet.evaluation.ground_truth import GroundTruth, check_ground_truth, read_ground_truth
from multiposenet.evaluation.keypoint_errors import KINDS
from multiposenet.evaluation.planted_errors import ErrorRates, PlantedErrors, plant_errors
from multiposenet.evaluation.repairs import REPAIRS
from multiposenet.skeletons import COCO_PERSON, Skeleton

SIGMAS = COCO_PERSON.oks_sigmas
RATES = ErrorRates(inversion=0.05, swap=0.05, miss=0.10, jitter=0.10, missed_people=0.05, false_people=0.05)
K = COCO_PERSON.num_keypoints


def planted(truth: GroundTruth, rates: ErrorRates, seed: int = 0) -> tuple[PlantedErrors, Diagnosis]:
    errors = plant_errors(truth, COCO_PERSON, SIGMAS, rates, seed)
    pictures = np.arange(len(truth.image_ids))
    return errors, diagnose_columns(truth, errors.results, pictures, COCO_PERSON, SIGMAS)


def check_that_rates_are_recovered(truth: GroundTruth) -> None:
    errors, diagnosis = planted(truth, RATES)
    meant, found = KeypointCounts.of(errors.verdicts).shares(), diagnosis.everybody.keypoints.shares()
    for kind in ("inversion", "swap", "miss", "jitter"):
        assert meant[kind] == pytest.approx(getattr(RATES, kind), abs=0.002), f"{kind}: planted at another rate"
        assert found[kind] == pytest.approx(getattr(RATES, kind), abs=0.01), kind
    people = truth.scored.sum()
    assert diagnosis.everybody.people == people
    assert diagnosis.everybody.missed / people == pytest.approx(1 - (errors.person >= 0).sum() / people, abs=0.01)
    assert diagnosis.false_people / people == pytest.approx((errors.person < 0).sum() / people, abs=0.01)
    check_that_repairs_add_up(diagnosis, truth)


def check_that_repairs_add_up(diagnosis: Diagnosis, truth: GroundTruth) -> None:
    assert [gain.name for gain in diagnosis.repairs] == list(REPAIRS)
    assert diagnosis.ap + sum(gain.gain for gain in diagnosis.repairs) == pytest.approx(diagnosis.perfect_ap, abs=1e-12)
    assert diagnosis.repairs[-1].so_far == pytest.approx(diagnosis.perfect_ap, abs=1e-12)
    people = np.bincount(truth.picture[truth.scored])
    assert diagnosis.perfect_ap == pytest.approx(1.0 if people.max() <= 20 else diagnosis.perfect_ap, abs=1e-12)


def test_planted_rates_are_recovered_on_synthetic_labels():
    check_that_rates_are_recovered(check_ground_truth(scene(pictures=60, people=4), COCO_PERSON))


def test_planted_rates_are_recovered_on_real_pictures_labels(coco_mini):
    file = coco_mini / "annotations" / "person_keypoints_val2017.json"
    check_that_rates_are_recovered(check_ground_truth(read_ground_truth(file), COCO_PERSON))


def test_planted_rates_are_recovered_on_real_validation_labels(coco_labels):
    content = read_ground_truth(coco_labels / "annotations" / "person_keypoints_val2017.json.gz")
    first = {image["id"] for image in content["images"][:300]}  # the rest tells the same and takes its time
    part = {
        **content,
        "images": [image for image in content["images"] if image["id"] in first],
        "annotations": [person for person in content["annotations"] if person["image_id"] in first],
    }
    check_that_rates_are_recovered(check_ground_truth(part, COCO_PERSON))


@pytest.mark.parametrize("kind", ["inversion", "swap", "miss", "jitter", "missed_people", "false_people"])
def test_repairing_the_only_kind_of_error_repairs_all(kind):
    truth = check_ground_truth(scene(pictures=12, people=4), COCO_PERSON)
    clean = planted(truth, ErrorRates())[1]
    diagnosis = planted(truth, ErrorRates(**{kind: 0.15}))[1]
    gains = {gain.name.replace(" ", "_"): gain.gain_alone for gain in diagnosis.repairs}
    # Good keypoints are a little off in both, and scores are random: these two repairs always gain something.
    assert max(gains.pop("good"), gains.pop("scores")) > 0
    assert max(gains, key=gains.get) == kind
    assert diagnosis.ap + gains.pop(kind) == pytest.approx(clean.ap, abs=0.04)
    assert diagnosis.ap < clean.ap - 0.05
    assert max(map(abs, gains.values())) < 0.01


def test_a_perfect_set_has_nothing_to_repair():
    truth = scene(pictures=3)
    diagnosis = diagnose(truth, answers(truth))
    assert diagnosis.ap == diagnosis.perfect_ap == pytest.approx(1)
    assert diagnosis.everybody.keypoints == KeypointCounts(9 * K, 0, 0, 0, 0)
    assert all(abs(gain.gain) < 1e-12 and abs(gain.gain_alone) < 1e-12 for gain in diagnosis.repairs)
    assert diagnosis.found_by_oks == (1.0,) * len(FOUND_OKS)
    assert (diagnosis.false_people, diagnosis.duplicates, diagnosis.score_errors) == (0, 0, 0)


def test_the_numbers_that_both_have_are_those_of_the_evaluation():
    truth = scene(pictures=8, people=5, side=80)
    predictions = guesses(truth)
    diagnosis, metrics = diagnose(truth, predictions), evaluate_coco(truth, predictions)
    by_size = {group.name: group.ap for group in diagnosis.groups["size"]}
    assert (diagnosis.ap, diagnosis.everybody.ap) == (metrics["AP"], metrics["AP"])
    assert (by_size["medium"], by_size["large"]) == (metrics["APM"], metrics["APL"])
    assert by_size["small"] == metrics.details.ap_small
    assert diagnosis.ap_by_oks[0] == metrics["AP50"]
    assert np.mean(diagnosis.ap_by_oks) == pytest.approx(metrics["AP"])
    assert np.mean(diagnosis.precision["0.75"]) == pytest.approx(metrics["AP75"])
    at_half = diagnosis.found_by_oks[FOUND_OKS.index(0.5)]
    assert at_half == pytest.approx(1 - metrics.details.people_missed / metrics.details.people)


def test_groups_split_people_and_their_keypoints_completely():
    truth = scene(pictures=9, people=6, side=90)
    for number, person in enumerate(truth["annotations"]):
        person["area"] = (400.0, 4000.0, 40000.0)[number % 3]
        if person["image_id"] > 4 and number % 6:
            person.update(iscrowd=1, num_keypoints=0)
        if number % 6 == 1:
            person["bbox"] = truth["annotations"][number - 1]["bbox"]
        person["keypoints"][2::3] = [1 + (number + place) % 2 for place in range(K)]
    diagnosis = diagnose(truth, guesses(truth))
    everybody = diagnosis.everybody
    assert set(diagnosis.groups) == {"size", "people", "overlap", "visibility"}
    for by, groups in diagnosis.groups.items():
        for kind in KINDS:
            counts = sum(getattr(group.keypoints, kind) for group in groups)
            assert counts == getattr(everybody.keypoints, kind), f"{kind} by {by}"
        if by != "visibility":
            assert sum(group.people for group in groups) == everybody.people, by
            assert sum(group.missed for group in groups) == everybody.missed, by
    assert [group.name for group in diagnosis.groups["people"]] == ["1", "2 to 3", "4 to 7", "8 or more"]
    assert [group.people for group in diagnosis.groups["people"]] == [5, 0, 24, 0]
    assert diagnosis.groups["overlap"][-1].people == 24
    assert sum(counts.total for counts in diagnosis.keypoints.values()) == everybody.keypoints.total


def test_ap_of_a_group_of_pictures_is_that_of_its_pictures_alone():
    truth = scene(pictures=6, people=4)
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] > 2 or a["id"] % 4 == 1]
    predictions = guesses(truth)
    alone = evaluate_coco(truth, predictions, image_ids=[1, 2])
    assert diagnose(truth, predictions).groups["people"][0].ap == alone["AP"]


def test_people_missed_false_doubled_and_badly_ranked_are_counted():
    truth = scene(pictures=2, people=3)
    found = answers(truth)
    missed = found.pop(4)
    worse = moved([found[0]], lambda triples: np.add(triples, (6, 6, 0)))[0]
    stray = moved([missed], lambda triples: np.add(triples, (3000, 3000, 0)))[0]
    diagnosis = diagnose(truth, [dict(found[0], score=0.5), dict(worse, score=0.95), *found[1:], stray])
    assert diagnosis.everybody.missed == 1
    assert (diagnosis.false_people, diagnosis.duplicates, diagnosis.score_errors) == (1, 1, 1)
    first = diagnosis.worst[0]
    assert (first.image_id, first.people, first.missed, first.false_people) == (2, 3, 1, 1)
    assert first.mean_oks == pytest.approx(2 / 3)
    assert [picture.image_id for picture in diagnosis.worst] == [2, 1]


def test_a_diagnosis_of_nothing_is_one_too():
    truth = scene(pictures=2)
    nothing = diagnose(truth, [])
    assert nothing.everybody.missed == 6
    assert nothing.ap == 0
    assert {gain.name: round(gain.gain, 12) for gain in nothing.repairs} == dict.fromkeys(REPAIRS, 0) | {
        "missed people": 1
    }
    empty = dict(truth, annotations=[])
    nobody = diagnose(empty, answers(truth))
    assert nobody.everybody.people == 0
    assert nobody.false_people == 6
    assert nobody.worst == ()
    json.dumps([nothing.to_dict(), nobody.to_dict()], allow_nan=False)


def test_some_pictures_only_are_diagnosed_when_asked():
    truth = scene(pictures=4)
    some = diagnose(truth, guesses(truth), image_ids=[1, 3])
    assert (some.pictures, some.everybody.people) == (2, 6)
    assert {picture.image_id for picture in some.worst} == {1, 3}


def test_any_skeleton_is_diagnosed_and_one_without_sigmas_needs_a_default():
    names = ("a", "b", "c", "d")
    stick = Skeleton("stick", names, flip_pairs=((0, 1),), oks_sigmas=(0.05,) * 4)
    truth = scene(skeleton=stick, pictures=2)
    swapped = moved(answers(truth), lambda triples: triples[[1, 0, 2, 3]])
    diagnosis = diagnose(truth, swapped, stick)
    assert diagnosis.keypoints["a"].shares()["inversion"] > 0.5
    assert diagnosis.keypoints["c"].shares()["good"] == 1
    bare = Skeleton("stick", names, flip_pairs=((0, 1),))
    with pytest.raises(ValueError, match="'stick' has no oks_sigmas"):
        diagnose(truth, swapped, bare)
    assert diagnose(truth, swapped, bare, default_oks_sigmas=0.05) == diagnosis


def test_people_beyond_the_cap_are_no_error_of_the_predictions():
    truth = scene(pictures=1, people=30, side=40)
    diagnosis = diagnose(truth, answers(truth))
    people = check_ground_truth(truth, COCO_PERSON)
    check_that_repairs_add_up(diagnosis, people)
    assert 0.6 < diagnosis.perfect_ap < 0.7
    assert diagnosis.ap == pytest.approx(diagnosis.perfect_ap)


def test_every_error_that_is_planted_is_one_of_the_kinds_and_the_same_seed_plants_the_same():
    truth = check_ground_truth(scene(pictures=5, people=3), COCO_PERSON)
    one, same, other = (plant_errors(truth, COCO_PERSON, SIGMAS, RATES, seed) for seed in (3, 3, 4))
    for field in fields(one.results):
        np.testing.assert_array_equal(getattr(one.results, field.name), getattr(same.results, field.name))
    assert (one.results.keypoints != other.results.keypoints[: len(one.results)]).any()
    lonely = check_ground_truth(scene(pictures=5, people=1), COCO_PERSON)
    assert KeypointCounts.of(plant_errors(lonely, COCO_PERSON, SIGMAS, RATES).verdicts).swap == 0
    empty = check_ground_truth(scene(pictures=1, people=0), COCO_PERSON)
    assert len(plant_errors(empty, COCO_PERSON, SIGMAS, RATES).results) == 0


def test_both_backends_diagnose_alike():
    pytest.importorskip("faster_coco_eval", reason="the [fast] extra is not installed")
    truth = scene(pictures=6, people=5, side=70)
    one, other = (diagnose(truth, guesses(truth), backend=name) for name in ("pycocotools", "faster-coco-eval"))
    assert [gain.so_far for gain in one.repairs] == pytest.approx([gain.so_far for gain in other.repairs], abs=1e-12)
    assert one.everybody == other.everybody


def test_areas_can_be_measured_by_themselves():
    people = check_ground_truth(scene(pictures=3), COCO_PERSON)
    errors = plant_errors(people, COCO_PERSON, SIGMAS, RATES)
    pictures = np.arange(3)
    everything = measure(people, errors.results, pictures, SIGMAS, [20])
    large = measure(people, errors.results, pictures, SIGMAS, [20], areas=["large"])
    assert large.areas == ("large",)
    assert large.average_precision("large") == everything.average_precision("large")
