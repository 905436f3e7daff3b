"""The evaluator gives pycocotools' numbers, and none of the traps around them passes silently."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from multiposenet.box_sources import label_boxes
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.evaluation.chain import evaluate_predictor, save_evaluation
from multiposenet.evaluation.coco import METRICS, annotations_from_labels, evaluate_coco, print_summary, summary_lines
from multiposenet.evaluation.oks import oks, picture_oks
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import PersonLabels, Poses, Sample

SIZE = 640


def random_truth(pictures: int = 30, seed: int = 0, skeleton: Skeleton = COCO_PERSON) -> dict:
    """People of all sizes, some keypoints unlabelled, some people without any, some crowds, some empty pictures."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image_id in range(10, 10 + pictures):
        for _ in range(rng.integers(0, 6)):
            width, height = np.exp(rng.uniform(np.log(20), np.log(300), 2))
            x, y = rng.uniform(0, SIZE - width), rng.uniform(0, SIZE - height)
            k = skeleton.num_keypoints
            xy = np.column_stack([x + width * rng.random(k), y + height * rng.random(k)]).round()
            visibility = rng.integers(0, 3, k) * (rng.random() > 0.1)
            xy[visibility == 0] = 0
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [float(x), float(y), float(width), float(height)],
                    "area": float(width * height * 0.6),
                    "iscrowd": int(rng.random() < 0.05),
                    "keypoints": np.column_stack([xy, visibility]).ravel().astype(int).tolist(),
                    "num_keypoints": int((visibility > 0).sum()),
                }
            )
    return {
        "images": [{"id": i, "width": SIZE, "height": SIZE, "file_name": f"{i}.jpg"} for i in range(10, 10 + pictures)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": skeleton.name, "keypoints": list(skeleton.keypoints)}],
    }


def noisy_predictions(truth: dict, seed: int = 1, noise: float = 0.04) -> list[dict]:
    rng = np.random.default_rng(seed)
    predictions = []
    for annotation in truth["annotations"]:
        if rng.random() < 0.15:
            continue
        xy = np.array(annotation["keypoints"], float).reshape(-1, 3)
        xy[:, :2] += rng.normal(size=(len(xy), 2)) * noise * np.sqrt(annotation["area"]) * rng.exponential()
        predictions.append(
            {
                "image_id": annotation["image_id"],
                "category_id": 1,
                "keypoints": xy.ravel().tolist(),
                "score": float(rng.random()),
            }
        )
    for _ in range(len(predictions) // 4):  # people who are not there
        stray = dict(predictions[rng.integers(len(predictions))], score=float(rng.random()))
        stray["keypoints"] = rng.uniform(0, SIZE, len(stray["keypoints"])).tolist()
        predictions.append(stray)
    return predictions


def raw_pycocotools(truth: dict, predictions: list[dict], sigmas=None) -> COCOeval:
    with redirect_stdout(io.StringIO()) as printed:
        reference = COCO()
        reference.dataset = copy.deepcopy(truth)
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(copy.deepcopy(predictions)), "keypoints")
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        printed.seek(0)
        printed.truncate()
        evaluation.summarize()
    evaluation.printed = printed.getvalue()
    return evaluation


def perfect(truth: dict) -> list[dict]:
    return [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": list(map(float, a["keypoints"])), "score": 0.9}
        for a in truth["annotations"]
        if a["num_keypoints"] and not a["iscrowd"]
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_ten_numbers_are_those_of_pycocotools(seed):
    truth = random_truth(seed=seed)
    predictions = noisy_predictions(truth, seed=seed + 100)
    metrics = evaluate_coco(truth, predictions)
    assert tuple(metrics) == METRICS
    np.testing.assert_allclose(list(metrics.values()), raw_pycocotools(truth, predictions).stats, rtol=0, atol=1e-12)
    assert 0.05 < metrics["AP"] < 0.95


def test_the_ten_lines_are_those_of_pycocotools_word_by_word():
    truth = random_truth()
    predictions = noisy_predictions(truth)
    metrics = evaluate_coco(truth, predictions)
    assert "\n".join(summary_lines(metrics)) + "\n" == raw_pycocotools(truth, predictions).printed
    assert "30 pictures" in summary_lines(metrics, num_images=30)[0]


def test_the_evaluation_itself_prints_nothing(capsys):
    truth = random_truth(5)
    metrics = evaluate_coco(truth, noisy_predictions(truth))
    assert capsys.readouterr().out == ""
    print_summary(metrics, 5)
    assert len(capsys.readouterr().out.splitlines()) == 11


def test_files_and_objects_give_the_same_numbers(tmp_path):
    truth = random_truth(8)
    predictions = noisy_predictions(truth)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "predictions.json").write_text(json.dumps(predictions))
    from_files = evaluate_coco(tmp_path / "truth.json", str(tmp_path / "predictions.json"))
    assert from_files == evaluate_coco(truth, predictions)
    (tmp_path / "half.json").write_text("[{")
    with pytest.raises(ValueError, match=r"half\.json is not valid JSON"):
        evaluate_coco(truth, tmp_path / "half.json")


def test_the_callers_data_are_never_modified():
    truth = random_truth(6)
    predictions = noisy_predictions(truth)
    before = copy.deepcopy((truth, predictions))
    first = evaluate_coco(truth, predictions)
    assert (truth, predictions) == before
    assert evaluate_coco(truth, predictions) == first


def test_the_sigmas_are_the_skeletons():
    skeleton = Skeleton("stick", ("a", "b", "c", "d", "e"), oks_sigmas=(0.05, 0.06, 0.07, 0.08, 0.2))
    truth = random_truth(skeleton=skeleton)
    predictions = noisy_predictions(truth)
    expected = raw_pycocotools(truth, predictions, skeleton.oks_sigmas).stats
    np.testing.assert_allclose(list(evaluate_coco(truth, predictions, skeleton).values()), expected, rtol=0, atol=1e-12)


def test_a_skeleton_without_sigmas_is_refused():
    skeleton = Skeleton("stick", ("a", "b"))
    with pytest.raises(ValueError, match="'stick' has no oks_sigmas"):
        evaluate_coco(random_truth(2, skeleton=skeleton), [], skeleton)


def test_no_predictions_at_all_is_ap_zero_with_a_sentence():
    with pytest.warns(UserWarning, match="no predictions at all for 30 pictures: AP is 0"):
        metrics = evaluate_coco(random_truth(), [])
    assert metrics == dict.fromkeys(METRICS, 0.0)


def test_pictures_without_predictions_count_as_missed_unless_they_are_left_out():
    truth = random_truth(12)
    predictions = perfect(truth)
    ids = sorted({p["image_id"] for p in predictions})
    half = [p for p in predictions if p["image_id"] in ids[::2]]
    assert evaluate_coco(truth, half)["AR"] < 0.9
    assert evaluate_coco(truth, half, image_ids=ids[::2])["AP"] == pytest.approx(1.0)
    assert evaluate_coco(truth, predictions, image_ids=np.array(ids[::2]))["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_names_picture_and_field(number):
    truth = random_truth(6)
    predictions = noisy_predictions(truth)
    picture = predictions[2]["image_id"]
    broken = copy.deepcopy(predictions)
    broken[2]["keypoints"][3 * 9 + 1] = number
    with pytest.raises(ValueError, match=rf"entry 2 of picture {picture}: keypoints\[28\] \(y of left_wrist\)"):
        evaluate_coco(truth, broken)
    broken = copy.deepcopy(predictions)
    broken[2]["score"] = number
    with pytest.raises(ValueError, match=rf"entry 2 of picture {picture}: score"):
        evaluate_coco(truth, broken)


def test_unknown_pictures_are_counted_and_the_first_five_listed():
    truth = random_truth(6)
    predictions = perfect(truth)
    for offset, prediction in enumerate(predictions[:7]):
        prediction["image_id"] = 9000 + offset
    with pytest.raises(ValueError, match=r"7 image ids .* the first: 9000, 9001, 9002, 9003, 9004$"):
        evaluate_coco(truth, predictions)
    with pytest.raises(ValueError, match=r"image_ids: 1 image ids .* 77"):
        evaluate_coco(truth, [], image_ids=[10, 77])


def test_an_image_id_written_as_text_is_refused_with_the_reason():
    truth = random_truth(6)
    predictions = perfect(truth)
    predictions[0]["image_id"] = str(predictions[0]["image_id"])
    with pytest.raises(ValueError, match="must be integers, not text"):
        evaluate_coco(truth, predictions)


def test_another_category_is_refused_instead_of_scoring_zero():
    truth = random_truth(6)
    predictions = perfect(truth)
    predictions[1]["category_id"] = 0
    with pytest.raises(ValueError, match=r"entry 1 of picture .*category_id is 0"):
        evaluate_coco(truth, predictions)


@pytest.mark.parametrize("field", ["image_id", "category_id", "keypoints", "score"])
def test_a_missing_field_is_named(field):
    truth = random_truth(6)
    predictions = perfect(truth)
    del predictions[1][field]
    with pytest.raises(ValueError, match=rf"entry 1 .*lacks {field}"):
        evaluate_coco(truth, predictions)


def test_another_number_of_keypoints_is_refused():
    truth = random_truth(6)
    predictions = perfect(truth)
    predictions[0]["keypoints"] = predictions[0]["keypoints"][:34]
    with pytest.raises(ValueError, match="has 34 numbers, expected 51"):
        evaluate_coco(truth, predictions)


def test_boxes_in_the_results_change_nothing():
    truth = random_truth()
    predictions = noisy_predictions(truth)
    expected = evaluate_coco(truth, predictions)
    for prediction in predictions:
        prediction["bbox"] = [0.0, 0.0, 50.0, 50.0]
    assert evaluate_coco(truth, predictions) == expected


def test_numpy_numbers_are_as_good_as_plain_ones():
    truth = random_truth(6)
    predictions = noisy_predictions(truth)
    expected = evaluate_coco(truth, predictions)
    for prediction in predictions:
        prediction["image_id"] = np.int64(prediction["image_id"])
        prediction["category_id"] = np.int32(1)
        prediction["keypoints"] = np.array(prediction["keypoints"])
        prediction["score"] = np.float64(prediction["score"])
    assert evaluate_coco(truth, predictions) == expected


@pytest.mark.parametrize("field", ["area", "iscrowd", "bbox", "keypoints"])
def test_ground_truth_without_a_field_is_refused_by_annotation(field):
    truth = random_truth(6)
    del truth["annotations"][1][field]
    with pytest.raises(ValueError, match=rf"annotation 2 of picture \d+ lacks {field}"):
        evaluate_coco(truth, perfect(random_truth(6)))


def test_an_annotation_numbered_zero_still_counts_as_found():
    truth = random_truth(6)
    for annotation in truth["annotations"]:
        annotation["id"] -= 1
    assert evaluate_coco(truth, perfect(truth))["AP"] == pytest.approx(1.0)


def test_swapped_arguments_and_missing_sections_are_explained():
    truth = random_truth(3)
    with pytest.raises(ValueError, match="swapped"):
        evaluate_coco(perfect(truth), truth)
    with pytest.raises(ValueError, match="must be a list"):
        evaluate_coco(truth, truth)
    with pytest.raises(ValueError, match="lacks categories"):
        evaluate_coco({"images": [], "annotations": []}, [])
    with pytest.raises(ValueError, match="no picture"):
        evaluate_coco(dict(truth, images=[], annotations=[]), [])


def test_other_categories_of_the_ground_truth_do_not_take_part():
    truth = random_truth(6)
    expected = evaluate_coco(truth, noisy_predictions(truth))
    mixed = dict(
        truth,
        categories=[*truth["categories"], {"id": 18, "name": "dog"}],
        annotations=[*truth["annotations"], {"id": 999, "image_id": 10, "category_id": 18, "bbox": [0, 0, 9, 9]}],
    )
    assert evaluate_coco(mixed, noisy_predictions(truth)) == expected


def test_keypoints_listed_in_another_order_are_refused():
    truth = random_truth(3)
    truth["categories"][0]["keypoints"].reverse()
    with pytest.raises(ValueError, match="another order"):
        evaluate_coco(truth, [])


def test_similarity_is_that_of_pycocotools_with_unlabelled_people_too():
    truth = random_truth(10)
    predictions = noisy_predictions(truth)
    reference = raw_pycocotools(truth, predictions).ious
    compared = 0
    for image in truth["images"]:
        people = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        found = sorted((p for p in predictions if p["image_id"] == image["id"]), key=lambda p: -p["score"])
        if not people or not found:
            continue
        keypoints = np.array([a["keypoints"] for a in people], float).reshape(len(people), -1, 3)
        boxes = np.array([a["bbox"] for a in people])
        boxes[:, 2:] += boxes[:, :2]
        mine = oks(
            np.array([p["keypoints"] for p in found]).reshape(len(found), -1, 3)[..., :2],
            keypoints[..., :2],
            keypoints[..., 2],
            np.array([a["area"] for a in people]),
            COCO_PERSON.oks_sigmas,
            boxes,
        )
        np.testing.assert_allclose(mine, reference[image["id"], 1], rtol=0, atol=1e-12)
        compared += mine.size
    assert compared > 30


def test_similarity_of_nobody_has_the_shape_of_nobody():
    nobody, someone = np.zeros((0, 17, 2)), np.zeros((2, 17, 2))
    assert oks(nobody, someone, np.ones((2, 17)), np.ones(2), COCO_PERSON.oks_sigmas).shape == (0, 2)
    assert oks(someone, nobody, np.ones((0, 17)), np.ones(0), COCO_PERSON.oks_sigmas).shape == (2, 0)
    assert (oks(someone, someone, np.zeros((2, 17)), np.ones(2), COCO_PERSON.oks_sigmas) == 0).all()


def labels_of(truth: dict, image_id: int) -> PersonLabels:
    people = [a for a in truth["annotations"] if a["image_id"] == image_id]
    keypoints = np.array([a["keypoints"] for a in people], np.float32).reshape(-1, 17, 3)
    boxes = np.array([a["bbox"] for a in people], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return PersonLabels(
        keypoints=keypoints[..., :2],
        visibility=keypoints[..., 2].astype(np.uint8),
        boxes=boxes,
        areas=np.array([a["area"] for a in people], np.float32),
        crowd=np.array([a["iscrowd"] for a in people], bool),
    )


class TruthfulPictures:
    """Pictures whose number is written in their pixels, so that a predictor can look the answer up."""

    skeleton = COCO_PERSON

    def __init__(self, truth: dict) -> None:
        self.truth = truth
        self.reads = 0

    def __len__(self) -> int:
        return len(self.truth["images"])

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        image_id = self.truth["images"][index]["id"]
        nothing = np.zeros((24, 32), bool)
        image = np.full((24, 32, 3), image_id, np.uint8)
        masks = {field.name: nothing for field in dataclasses.fields(Sample) if field.name.endswith("_mask")}
        return Sample(
            image=image, image_id=image_id, name=f"{image_id}.jpg", labels=labels_of(self.truth, image_id), **masks
        )


class KnowingPredictor:
    """Answers with the truth, but finds nobody in the pictures of ``blind``."""

    skeleton = COCO_PERSON
    name, weights = "knowing", None

    def __init__(self, truth: dict, blind: tuple[int, ...] = ()) -> None:
        self.truth, self.blind, self.timings = truth, blind, {"network": 5.0}
        self.batches: list[int] = []

    def __call__(self, images) -> list[Poses]:
        self.batches.append(len(images))
        self.timings["network"] += 0.25
        return [self.answer(int(image[0, 0, 0])) for image in images]

    def answer(self, image_id: int) -> Poses:
        labels = labels_of(self.truth, image_id)
        if image_id in self.blind:
            return Poses.empty(COCO_PERSON)
        people = (labels.visibility > 0).any(axis=1) & ~labels.crowd
        count = int(people.sum())
        return Poses(
            torch.tensor(labels.keypoints[people]), torch.ones(count, 17), torch.tensor(labels.boxes[people]),
            torch.ones(count), COCO_PERSON,
        )  # fmt: skip


def test_a_predictor_that_knows_the_truth_scores_one_and_every_picture_is_read_once():
    truth = random_truth(11)
    dataset, predictor = TruthfulPictures(truth), KnowingPredictor(truth)
    evaluation = evaluate_predictor(predictor, dataset, batch_size=4)
    assert evaluation.metrics["AP"] == pytest.approx(1.0)
    assert predictor.batches == [4, 4, 3]
    assert dataset.reads == 11
    assert evaluation.timings["predict/network"] == pytest.approx(0.75)
    assert {"data", "predict", "score"} <= set(evaluation.timings)
    assert evaluate_coco(truth, json.loads(json.dumps(evaluation.predictions)))["AP"] == pytest.approx(1.0)


def test_labels_make_the_same_annotations_as_the_dataset_of_synthetic_people_writes():
    dataset = SyntheticPeople(count=3, seed=4, image_size=(200, 240), people=(1, 5))
    truth = dataset.ground_truth()
    made = []
    for sample in (dataset[index] for index in range(len(dataset))):
        made += annotations_from_labels(sample.labels, sample.image_id, first_id=len(made) + 1)
    assert len(made) > 3
    assert [{field: written[field] for field in made[0]} for written in truth["annotations"]] == made


def test_scoring_against_a_file_and_against_the_samples_own_labels_agree():
    truth = random_truth(11)
    predictor, dataset = KnowingPredictor(truth, blind=(12, 15)), TruthfulPictures(truth)
    against_file = evaluate_predictor(predictor, dataset, ground_truth=truth)
    against_labels = evaluate_predictor(predictor, dataset)
    assert against_file.metrics == pytest.approx(against_labels.metrics, abs=1e-9)
    assert against_file.metrics["AP"] < 1


def test_the_worst_and_best_pictures_are_kept_and_drawn(tmp_path):
    truth = random_truth(11)
    populated = [i["id"] for i in truth["images"] if (labels_of(truth, i["id"]).visibility > 0).any()]
    predictor = KnowingPredictor(truth, blind=(populated[3],))
    evaluation = evaluate_predictor(predictor, TruthfulPictures(truth), batch_size=4, ground_truth=truth, keep=2)
    assert evaluation.worst[0].sample.image_id == populated[3]
    assert evaluation.worst[0].score == 0.0
    assert [picture.score for picture in evaluation.best] == pytest.approx([1.0, 1.0])
    assert evaluation.best[0].sample.image_id == populated[0]
    files = save_evaluation(evaluation, tmp_path, {"model": "knowing"})
    assert [file.name.split("_")[0] for file in files] == ["worst", "worst", "best", "best"]
    assert all(file.is_file() for file in files)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["metrics"] == evaluation.metrics
    assert written["model"] == "knowing"
    assert evaluate_coco(truth, tmp_path / "predictions.json") == evaluation.metrics


def test_a_predictor_of_other_keypoints_is_refused_before_it_runs():
    truth = random_truth(2)
    predictor = KnowingPredictor(truth)
    predictor.skeleton = Skeleton("stick", ("a", "b"), oks_sigmas=(0.1, 0.1))
    with pytest.raises(ValueError, match="'stick'"):
        evaluate_predictor(predictor, TruthfulPictures(truth))
    assert predictor.batches == []


def test_a_skeleton_without_sigmas_needs_a_default_before_anything_runs():
    truth = random_truth(2)
    predictor, pictures = KnowingPredictor(truth), TruthfulPictures(truth)
    predictor.skeleton = pictures.skeleton = dataclasses.replace(COCO_PERSON, oks_sigmas=None)
    with pytest.raises(ValueError, match="has no oks_sigmas"):
        evaluate_predictor(predictor, pictures)
    assert predictor.batches == []
    assert evaluate_predictor(predictor, pictures, default_oks_sigmas=0.05).metrics["AP"] == 1.0


def test_a_missed_person_lowers_the_score_of_a_picture_and_a_picture_without_labels_has_none():
    truth = random_truth(11)
    image_id = next(
        i["id"] for i in truth["images"] if ((labels_of(truth, i["id"]).visibility > 0).any(1)).sum() >= 2
    )
    labels = labels_of(truth, image_id)
    labels = dataclasses.replace(labels, crowd=np.zeros(len(labels), bool))
    everyone, sigmas = (labels.visibility > 0).any(axis=1), COCO_PERSON.oks_sigmas
    poses = Poses(
        torch.tensor(labels.keypoints[everyone]), torch.ones(int(everyone.sum()), 17),
        torch.tensor(labels.boxes[everyone]), torch.ones(int(everyone.sum())), COCO_PERSON,
    )  # fmt: skip
    assert picture_oks(poses, labels, sigmas) == pytest.approx(1.0)
    missed = picture_oks(poses[1:], labels, sigmas)
    assert missed == pytest.approx(1 - 1 / len(poses))
    assert picture_oks(poses, PersonLabels.empty(17), sigmas) is None
    assert picture_oks(Poses.empty(COCO_PERSON), labels, sigmas) == 0.0


def test_a_clean_evaluation_warns_of_nothing():
    truth = random_truth(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_coco(truth, noisy_predictions(truth))


def test_given_boxes_can_be_those_of_the_labels_without_crowds():
    truth = random_truth(11)
    received = []

    class Boxed(KnowingPredictor):
        def __call__(self, images, boxes=None):
            received.extend(boxes)
            return super().__call__(images)

    evaluate_predictor(Boxed(truth), TruthfulPictures(truth), boxes=label_boxes)
    expected = [labels_of(truth, image["id"]) for image in truth["images"]]
    assert len(received) == len(expected)
    for boxes, labels in zip(received, expected, strict=True):
        np.testing.assert_array_equal(boxes, labels.boxes[~labels.crowd])
