"""People cut out of pictures and pasted into others: where they come to lie, and what becomes of who is behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.pasting import CutOut, CutOuts, PastedPeople, paste
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.skeletons import COCO_PERSON, MPII
from multiposenet.structures import PersonLabels, Sample

K = COCO_PERSON.num_keypoints
LEFT_EYE, RIGHT_EYE = (COCO_PERSON.keypoints.index(f"{side}_eye") for side in ("left", "right"))


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> CocoKeypoints:
    """Four drawn pictures on disk."""
    return written(tmp_path_factory.mktemp("people"))


def written(folder: Path, change=lambda record: None) -> CocoKeypoints:
    drawn = SyntheticPeople(4, 5, (200, 240), (1, 3), arrangement="coco")
    content = drawn.coco_header()
    content["annotations"] = []
    (folder / "train2017").mkdir()
    for index, image in enumerate(content["images"]):
        scene = drawn.scene(index)
        image["file_name"] = f"{index}.png"
        Image.fromarray(scene.image).save(folder / "train2017" / image["file_name"])
        content["annotations"] += drawn.coco_annotations(index, scene, first_id=1 + 100 * index)
    for record in content["annotations"]:
        change(record)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "person_keypoints_train2017.json").write_text(json.dumps(content))
    return CocoKeypoints(folder)


def square_person(side: int = 20) -> CutOut:
    """A white square that is all person, with its nose in the middle."""
    keypoints, visibility = np.zeros((K, 2), np.float32), np.zeros(K, np.uint8)
    keypoints[0], visibility[0] = (side - 1) / 2, 2
    return CutOut(np.full((side, side, 3), 255, np.uint8), np.ones((side, side), np.float32), keypoints, visibility)


def picture(ignored: bool = False) -> Sample:
    """Black, 100 x 120, with one person: all pixels of a box; a nose at its top, an ankle at its bottom."""
    mask = np.zeros((100, 120), bool)
    mask[10:90, 40:60] = True
    keypoints, visibility = np.zeros((1, K, 2), np.float32), np.zeros((1, K), np.uint8)
    keypoints[0, 0], keypoints[0, K - 1] = (50, 15), (50, 85)
    visibility[0, [0, K - 1]] = 0 if ignored else 2
    labels = PersonLabels(
        keypoints, visibility, np.array([[40, 10, 60, 90]], np.float32), np.array([1600], np.float32), np.zeros(1, bool)
    )
    return Sample(np.zeros((100, 120, 3), np.uint8), 7, "7.jpg", labels, mask, mask & ignored)


def test_a_person_cut_out_keeps_the_pixels_under_the_keypoints(people):
    cut_outs = CutOuts(people)
    assert len(cut_outs) >= 3
    for number in range(len(cut_outs)):
        index, person = cut_outs._people[number]
        labels, original = people.labels(index), people.image(index)
        side = float((labels.boxes[person, 2:] - labels.boxes[person, :2]).max())
        one = cut_outs.cut(number, side, angle=0.0, mirror=False)
        seen = labels.visibility[person] == 2
        assert np.array_equal(one.visibility, labels.visibility[person])
        for (x, y), (x0, y0) in zip(one.keypoints[seen], labels.keypoints[person, seen], strict=True):
            here, there = one.image[round(y), round(x)], original[round(y0), round(x0)]
            assert np.abs(here.astype(int) - there).mean() < 40
            assert one.alpha[max(round(y) - 2, 0) : round(y) + 3, max(round(x) - 2, 0) : round(x) + 3].max() > 0.5
        # Everything around is left out, and nothing of the person.
        assert one.alpha.sum() == pytest.approx(people.segment(index, person).sum(), rel=0.03)


def test_a_smaller_person_has_so_much_less_area_and_a_mirrored_one_the_other_names(people):
    cut_outs = CutOuts(people)
    index, person = cut_outs._people[0]
    side = float((people.labels(index).boxes[person, 2:] - people.labels(index).boxes[person, :2]).max())
    plain, half = cut_outs.cut(0, side, 0.0, False), cut_outs.cut(0, side / 2, 0.0, False)
    assert half.alpha.sum() == pytest.approx(plain.alpha.sum() / 4, rel=0.1)
    mirrored = cut_outs.cut(0, side, 0.0, True)
    width = plain.image.shape[1]
    assert mirrored.keypoints[RIGHT_EYE, 0] == pytest.approx(width - 1 - plain.keypoints[LEFT_EYE, 0], abs=1e-3)
    assert mirrored.visibility[RIGHT_EYE] == plain.visibility[LEFT_EYE]
    turned = cut_outs.cut(0, side, 90.0, False)
    middle = (width - 1) / 2
    x, y = (plain.keypoints[0] - middle).tolist()
    assert turned.keypoints[0] - middle == pytest.approx([-y, x], abs=1e-3)


def test_nobody_is_enlarged_beyond_recognition(people):
    cut_outs = CutOuts(people)
    twice, more = cut_outs.cut(0, 1e6, 0.0, False), cut_outs.cut(0, 1e9, 0.0, False)
    assert twice.image.shape == more.image.shape


def test_people_without_a_segmentation_cannot_be_cut_out(tmp_path):
    def without(record: dict) -> None:
        record["segmentation"] = []

    source = written(tmp_path, without)
    assert not source.has_segment(0, 0)
    assert not source.segment(0, 0).any()
    with pytest.raises(ValueError, match="nobody to cut out; pasting needs people with a segmentation"):
        CutOuts(source)


def test_who_is_pasted_is_labelled_where_they_lie():
    before = picture()
    after = paste(before, square_person(), (80, 30))
    assert len(after.labels) == 2
    assert after.labels.boxes[1].tolist() == [80, 30, 100, 50]
    assert after.labels.areas[1] == 400
    assert after.labels.keypoints[1, 0].tolist() == [89.5, 39.5]
    assert after.labels.visibility[1].tolist() == [2] + [0] * (K - 1)
    assert (after.image[30:50, 80:100] == 255).all()
    assert after.image.sum() == 400 * 3 * 255
    assert after.person_mask.sum() == before.person_mask.sum() + 400
    # The other person is as before, and so is the picture that was given.
    assert np.array_equal(after.labels.boxes[0], before.labels.boxes[0])
    assert np.array_equal(after.labels.visibility[0], before.labels.visibility[0])
    assert not before.image.any()
    assert len(before.labels) == 1


def test_who_is_behind_loses_pixels_and_what_nobody_could_place():
    # The lowest 30 rows of the person are covered: the ankle is far from everything visible.
    after = paste(picture(), square_person(30), (35, 60))
    assert after.labels.boxes[0].tolist() == [40, 10, 60, 60]
    assert after.labels.areas[0] == pytest.approx(1000)
    assert after.labels.visibility[0, [0, K - 1]].tolist() == [2, 0]
    # Only the ankle's surroundings: it can still be placed.
    after = paste(picture(), square_person(5), (48, 83))
    assert after.labels.visibility[0, [0, K - 1]].tolist() == [2, 1]
    assert after.labels.boxes[0].tolist() == [40, 10, 60, 90]


def test_who_is_covered_is_gone():
    after = paste(picture(), square_person(90), (20, 5))
    assert len(after.labels) == 1
    assert after.labels.boxes[0].tolist() == [20, 5, 110, 95]


def test_who_has_no_segmentation_is_covered_by_their_box():
    drawn = picture()
    boxed = dataclasses.replace(drawn, person_mask=np.zeros_like(drawn.person_mask), unknown_mask=drawn.person_mask)
    after = paste(boxed, square_person(30), (35, 60))
    assert after.labels.boxes[0].tolist() == [40, 10, 60, 60]
    assert after.labels.visibility[0, [0, K - 1]].tolist() == [2, 0]
    assert not (after.unknown_mask & after.person_mask).any()
    assert len(paste(boxed, square_person(90), (20, 5)).labels) == 1


def test_pixels_of_ignored_people_that_are_covered_are_ignored_no_more():
    before = picture(ignored=True)
    after = paste(before, square_person(), (40, 10))
    assert after.ignore_mask.sum() == before.ignore_mask.sum() - 400
    assert not after.ignore_mask[10:30, 40:60].any()


@pytest.mark.parametrize("corner", [(-20, 0), (120, 0), (0, 100), (-11, 0), (-18, -18)])
def test_who_would_not_be_recognised_is_not_pasted(corner):
    """Outside, or with the only keypoint outside."""
    before = picture()
    assert paste(before, square_person(), corner) is before


def test_who_lies_partly_outside_is_cut_at_the_edge():
    after = paste(picture(), square_person(), (-5, 85))
    assert after.labels.boxes[1].tolist() == [0, 85, 15, 100]
    assert after.labels.areas[1] == 225


def test_the_dice_are_torch_s_and_a_share_of_nothing_changes_nothing(people):
    cut_outs = CutOuts(people)
    source = SyntheticPeople(3, 9, (120, 120), (0, 2))
    always = PastedPeople(source, cut_outs, share=1.0)
    pictures = []
    for _ in range(2):
        torch.manual_seed(1)
        pictures.append([always[index] for index in range(3)])
    for index, (one, other) in enumerate(zip(*pictures, strict=True)):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.labels.keypoints, other.labels.keypoints)
        assert not np.array_equal(one.image, source[index].image)
        assert one.image_id == source[index].image_id
    never = PastedPeople(source, cut_outs, share=0.0)
    assert np.array_equal(never[0].image, source[0].image)
    assert always.identity()["pasted"] == people.identity()


def test_labels_of_pasted_pictures_are_sound(people):
    always = PastedPeople(people, CutOuts(people), share=1.0)
    torch.manual_seed(0)
    for index in range(4):
        sample = always[index]
        labels, (height, width) = sample.labels, sample.image.shape[:2]
        assert (labels.boxes[:, :2] >= 0).all()
        assert (labels.boxes[:, 2:] <= (width, height)).all()
        assert (labels.boxes[:, 2:] > labels.boxes[:, :2]).all()
        assert (labels.areas > 0).all()
        x, y = labels.keypoints[labels.visibility > 0].T
        assert ((x >= -0.5) & (x < width) & (y >= -0.5) & (y < height)).all()
        # What is visible lies on somebody.
        seen = np.round(labels.keypoints[labels.visibility == 2]).astype(int)
        near = [sample.person_mask[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].any() for x, y in seen.tolist()]
        assert np.mean(near) > 0.97


def test_another_skeleton_and_an_impossible_share_are_errors(people):
    cut_outs = CutOuts(people)
    with pytest.raises(ValueError, match="both need the same keypoints"):
        PastedPeople(SyntheticPeople(1, 0, skeleton=MPII), cut_outs)
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], got 1.5"):
        PastedPeople(people, cut_outs, share=1.5)
