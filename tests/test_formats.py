"""CrowdPose, OCHuman, Human-Art and others through the one reader, on small files in each one's exact format.

The files are made here from synthetic people; the formats are those that the data sets' own pages and tools describe.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.formats import (
    COCO_FORMAT,
    CROWDPOSE_FORMAT,
    FORMATS,
    HUMAN_ART_21_FORMAT,
    HUMAN_ART_FORMAT,
    OCHUMAN_FORMAT,
    CocoFormat,
)
from multiposenet.data.sources import open_dataset
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.evaluation.coco import evaluate_coco
from multiposenet.skeletons import COCO_PERSON, CROWDPOSE, HUMAN_ART, Skeleton

# COCO's limbs, which CrowdPose's files carry along although their keypoints are others.
COCO_SKELETON = [[a + 1, b + 1] for a, b in COCO_PERSON.limbs]
CROWD_INDICES = [0.05, 0.1, 0.15, 0.5, 0.8, 0.9]


def people(skeleton: Skeleton, count: int = 6) -> SyntheticPeople:
    return SyntheticPeople(count, seed=3, image_size=(160, 200), people=(1, 4), skeleton=skeleton)


def crowdpose_content(truth: dict) -> dict:
    """Synthetic people as CrowdPose writes its people: no area, no segmentation, head and neck not counted."""
    annotations = []
    for person in truth["annotations"]:
        keypoints = [round(number) for number in person["keypoints"]]
        annotations.append(
            {
                "num_keypoints": sum(visibility > 0 for visibility in keypoints[2 : 3 * 12 : 3]),
                "iscrowd": 0,
                "keypoints": keypoints,
                "image_id": 100000 + person["image_id"],
                "bbox": person["bbox"],
                "category_id": 1,
                "id": 120000 + person["id"],
            }
        )
    return {
        "categories": [
            {
                "supercategory": "person",
                "id": 1,
                "name": "person",
                "keypoints": list(CROWDPOSE.keypoints),
                "skeleton": COCO_SKELETON,
            }
        ],
        "images": [
            {
                "file_name": f"{100000 + image['id']}.jpg",
                "id": 100000 + image["id"],
                "height": image["height"],
                "width": image["width"],
                "crowdIndex": index,
            }
            for image, index in zip(truth["images"], CROWD_INDICES, strict=True)
        ],
        "annotations": annotations,
    }


def ochuman_content(truth: dict) -> dict:
    """Synthetic people as OCHuman's converter writes COCO's format: whole boxes as areas, compressed run lengths."""
    return {
        "categories": [
            {
                "keypoints": list(COCO_PERSON.keypoints),
                "skeleton": COCO_SKELETON,
                "id": 1,
                "supercategory": "person",
                "name": "person",
            }
        ],
        "images": [
            {"file_name": f"{3000 + i['id']:06}.jpg", "width": i["width"], "height": i["height"], "id": i["id"]}
            for i in truth["images"]
        ],
        "annotations": [
            {
                "area": person["bbox"][2] * person["bbox"][3],
                "image_id": person["image_id"],
                "iscrowd": 0,
                "category_id": 1,
                "bbox": person["bbox"],
                "segmentation": person["segmentation"],
                "num_keypoints": person["num_keypoints"],
                "id": person["id"],
                "keypoints": person["keypoints"],
            }
            for person in truth["annotations"]
        ],
    }


def human_art_content(truth: dict) -> dict:
    """Synthetic people as Human-Art writes its people: COCO's keypoints, its own 21 beside them, no segmentation."""
    annotations = []
    for person in truth["annotations"]:
        x, y = person["bbox"][:2]
        ends = [x + 1.0, y + 2.0, 2, x + 3.0, y + 4.0, 1, 0, 0, 0, x + 5.0, y + 6.0, 2]
        annotations.append(
            {
                "keypoints": person["keypoints"],
                "keypoints_21": person["keypoints"] + ends,
                "self_contact": [x, y],
                "num_keypoints": person["num_keypoints"],
                "num_keypoints_21": person["num_keypoints"] + 3,
                "iscrowd": 0,
                "image_id": 2000000000000 + person["image_id"],
                "area": person["area"],
                "bbox": person["bbox"],
                "category_id": 1,
                "id": 2000000000000 + person["id"],
                "annotator": 11,
            }
        )
    return {
        "info": {"description": "For testing only."},
        "images": [
            {
                "file_name": f"HumanArt/images/2D_virtual_human/cartoon/{image['id']:012}.jpg",
                "height": image["height"],
                "width": image["width"],
                "id": 2000000000000 + image["id"],
                "page_url": "https://example.org/page",
                "image_url": "https://example.org/page.jpg",
                "picture_name": "untitled",
                "author": "unknown",
                "description": "people",
                "category": "cartoon",
            }
            for image in truth["images"]
        ],
        "annotations": annotations,
        "categories": truth["categories"],
    }


def write(root: Path, place: str, content: dict, pictures: Path | None = None, dataset=None) -> None:
    """The annotation file at ``root / place``, and the dataset's pictures in ``pictures`` by their file names."""
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(json.dumps(content))
    if pictures is not None:
        for index, record in enumerate(content["images"]):
            (pictures / record["file_name"]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(dataset[index].image).save(pictures / record["file_name"], quality=95)


def perfect(truth: dict) -> list[dict]:
    return [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1 - 0.001 * i}
        for i, a in enumerate(truth["annotations"])
    ]


@pytest.mark.parametrize("place", ["annotations/crowdpose_{}.json", "json/crowdpose_{}.json"])
def test_crowdpose_is_read_with_its_own_keypoints_and_without_segment_areas(tmp_path, place):
    drawn = people(CROWDPOSE)
    content = crowdpose_content(drawn.ground_truth())
    write(tmp_path, place.format("test"), content, tmp_path / "images", drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = CocoKeypoints(tmp_path, "test", layout=CROWDPOSE_FORMAT)
    assert data.skeleton is CROWDPOSE
    assert data.image_ids[0] == 100001
    sample, expected = data[1], drawn[1]
    assert sample.image.shape == (160, 200, 3)
    assert_array_equal(sample.labels.visibility, expected.labels.visibility)
    seen = expected.labels.visibility > 0
    np.testing.assert_allclose(sample.labels.keypoints[seen], expected.labels.keypoints[seen], atol=0.51)
    sides = sample.labels.boxes[:, 2:] - sample.labels.boxes[:, :2]
    np.testing.assert_allclose(sample.labels.areas, 0.53 * sides.prod(axis=1), rtol=1e-6)
    with pytest.warns(UserWarning, match="neither area nor segmentation"):
        truth = data.ground_truth()
    assert [image["crowdIndex"] for image in truth["images"]] == CROWD_INDICES
    assert evaluate_coco(truth, perfect(truth), CROWDPOSE)["AP"] == pytest.approx(1.0)


def test_crowdpose_counts_its_keypoints_without_head_and_neck_and_other_counts_are_a_warning(tmp_path):
    content = crowdpose_content(people(CROWDPOSE, 6).ground_truth())
    content["annotations"][2]["num_keypoints"] += 2
    write(tmp_path, "annotations/crowdpose_val.json", content)
    with pytest.warns(UserWarning, match=rf"1 annotations state .*annotation {content['annotations'][2]['id']}"):
        CocoKeypoints(tmp_path, "val", layout=CROWDPOSE_FORMAT)


def test_ochuman_is_read_with_its_segments_and_its_whole_boxes_as_areas(tmp_path):
    drawn = people(COCO_PERSON)
    content = ochuman_content(drawn.ground_truth())
    write(
        tmp_path, "annotations/ochuman_coco_format_val_maxIoU_0.50_1.00.json", content, tmp_path / "images", drawn
    )
    data = open_dataset(str(tmp_path), "val", COCO_PERSON, layout=OCHUMAN_FORMAT)
    sample, expected = data[0], drawn[0]
    assert sample.name == "003001.jpg"
    assert_array_equal(sample.person_mask, expected.person_mask)
    assert not sample.unknown_mask.any()
    areas = [person["area"] for person in content["annotations"] if person["image_id"] == 1]
    assert sample.labels.areas.tolist() == pytest.approx(areas)
    truth = data.ground_truth()
    assert truth["annotations"] == content["annotations"]
    assert evaluate_coco(truth, perfect(truth))["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("inside", [False, True])
def test_human_art_is_read_with_coco_s_keypoints_or_its_own_and_finds_pictures_in_folders(tmp_path, inside):
    drawn = people(COCO_PERSON)
    content = human_art_content(drawn.ground_truth())
    root = tmp_path / "HumanArt"
    if inside:  # file names that begin in the folder of the pictures
        for record in content["images"]:
            record["file_name"] = record["file_name"].removeprefix("HumanArt/images/")
    write(root, "annotations/validation_humanart.json", content, root / "images" if inside else tmp_path, drawn)
    plain = CocoKeypoints(root, "validation", layout=HUMAN_ART_FORMAT)
    own = CocoKeypoints(root, "validation_humanart", layout=HUMAN_ART_21_FORMAT)
    assert (plain.skeleton, own.skeleton) == (COCO_PERSON, HUMAN_ART)
    assert own[2].image.shape == (160, 200, 3)
    first = content["annotations"][0]
    x, y = first["bbox"][:2]
    k = COCO_PERSON.num_keypoints
    np.testing.assert_allclose(own.labels(0).keypoints[0, k:], [[x + 1, y + 2], [x + 3, y + 4], [0, 0], [x + 5, y + 6]])
    assert own.labels(0).visibility[0, k:].tolist() == [2, 1, 0, 2]
    assert_array_equal(own.labels(0).keypoints[:, :k], plain.labels(0).keypoints)
    truth = own.ground_truth()
    assert truth["categories"][0]["keypoints"] == list(HUMAN_ART.keypoints)
    assert truth["annotations"][0]["keypoints"] == first["keypoints_21"]
    assert truth["annotations"][0]["num_keypoints"] == first["num_keypoints_21"]
    assert truth["images"][0]["category"] == "cartoon"
    assert evaluate_coco(truth, perfect(truth), HUMAN_ART)["AP"] == pytest.approx(1.0)
    assert evaluate_coco(plain.ground_truth(), perfect(plain.ground_truth()))["AP"] == pytest.approx(1.0)


def test_people_without_the_field_that_the_format_names_are_refused_by_annotation(tmp_path):
    content = human_art_content(people(COCO_PERSON).ground_truth())
    del content["annotations"][0]["keypoints_21"]
    write(tmp_path, "annotations/validation_humanart.json", content)
    with pytest.raises(ValueError, match=rf"annotation {content['annotations'][0]['id']}: keypoints: .*missing"):
        CocoKeypoints(tmp_path, "validation", layout=HUMAN_ART_21_FORMAT)


def test_any_data_set_in_coco_s_format_is_described_by_a_few_words(tmp_path):
    drawn = people(COCO_PERSON)
    content = copy.deepcopy(drawn.ground_truth())
    for person in content["annotations"]:
        del person["area"], person["iscrowd"], person["num_keypoints"]
    content["categories"] = [
        content["categories"][0] | {"name": "dancer", "id": 1},
        {"id": 2, "name": "statue", "keypoints": list(COCO_PERSON.keypoints)},
    ]
    content["annotations"][0]["category_id"] = 2
    write(tmp_path, "labels/evening.json", content, tmp_path / "stage" / "evening", drawn)
    own = CocoFormat("dance", COCO_PERSON, ("labels/{split}.json",), ("stage/{split}",), "evening", category="dancer")
    data = CocoKeypoints(tmp_path, "evening", layout=own)
    assert len(data.all_labels()) == len(content["annotations"]) - 1
    assert data[0].image.shape == (160, 200, 3)
    truth = data.ground_truth()
    assert [category["name"] for category in truth["categories"]] == ["dancer"]
    originals = {a["id"]: a for a in drawn.ground_truth()["annotations"]}
    assert [(a["area"], a["num_keypoints"]) for a in truth["annotations"]] == [
        (originals[a["id"]]["area"], originals[a["id"]]["num_keypoints"]) for a in truth["annotations"]
    ]
    assert evaluate_coco(truth, perfect(truth))["AP"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="expected one category named 'person'"):
        CocoKeypoints(tmp_path, "evening", layout=dataclasses.replace(own, category="person"))


@pytest.mark.parametrize("layout", FORMATS.values(), ids=FORMATS)
def test_a_missing_annotation_file_is_an_error_with_all_the_places_it_may_be_in(tmp_path, layout):
    with pytest.raises(FileNotFoundError) as caught:
        CocoKeypoints(tmp_path, layout.evaluation_split, layout=layout)
    for place in layout.annotation_files:
        assert str(tmp_path / place.format(split=layout.evaluation_split)) in str(caught.value)


def test_a_dataset_knows_how_many_pictures_its_file_has(tmp_path):
    content = ochuman_content(people(COCO_PERSON).ground_truth())
    write(tmp_path, "annotations/person_keypoints_val2017.json", content)
    data = CocoKeypoints(tmp_path, "val2017", limit=2, layout=COCO_FORMAT)
    assert (len(data), data.pictures_in_file) == (2, 6)
