"""The types that the parts exchange: checked shapes, people that can be picked, results that can be written."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import (
    Batch,
    Detections,
    MultiPoseNetOutputs,
    Peaks,
    PersonLabels,
    Poses,
    PoseTargets,
    Sample,
)

STICK = Skeleton("stick", ("top", "bottom"))


def sticks(scores: list[float]) -> Poses:
    """People whose numbers tell who they are: person i has keypoints 100 i + 0, 1, 2, 3 and box 10 i."""
    people = torch.arange(len(scores), dtype=torch.float32)
    return Poses(
        keypoints=(100 * people[:, None] + torch.arange(4.0)).view(-1, 2, 2),
        keypoint_scores=torch.tensor([[0.5, 0.25]]).repeat(len(scores), 1),
        boxes=10 * people[:, None].repeat(1, 4),
        scores=torch.tensor(scores),
        skeleton=STICK,
        image_size=(48, 64),
    )


def targets() -> PoseTargets:
    return PoseTargets(
        keypoints=torch.zeros(2, 3, 5, 2),
        visibility=torch.zeros(2, 3, 5, dtype=torch.uint8),
        boxes=torch.zeros(2, 3, 4),
        valid=torch.zeros(2, 3, dtype=torch.bool),
        person_mask=torch.zeros(2, 8, 8),
        ignore_mask=torch.zeros(2, 8, 8, dtype=torch.bool),
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Detections(torch.zeros(1, 2, 3), torch.zeros(1, 2), torch.zeros(1, 2)), "Detections.boxes: axis 2"),
        (lambda: Detections(torch.zeros(1, 2, 4), torch.zeros(1, 3), torch.zeros(1, 2)), "Detections.scores: axis 1"),
        (lambda: Peaks(torch.zeros(1, 2, 4, 2), torch.zeros(1, 2, 4), torch.zeros(1, 2)), "Peaks.valid: expected"),
        (lambda: MultiPoseNetOutputs(None, torch.zeros(1, 9), torch.zeros(1, 8, 4), (32, 32)), "box_deltas: axis 1"),
        (lambda: dataclasses.replace(targets(), ignore_mask=torch.zeros(2, 8, 9)), "ignore_mask: axis 2"),
        (lambda: dataclasses.replace(targets(), unknown_mask=torch.zeros(1, 8, 8)), "unknown_mask: axis 0"),
        (lambda: dataclasses.replace(PersonLabels.empty(3), crowd=np.zeros(1, bool)), "PersonLabels.crowd: axis 0"),
    ],
)
def test_a_wrong_shape_is_an_error_that_names_the_field(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_error_says_which_field_a_length_comes_from():
    with pytest.raises(ValueError, match=r"shape \(1, 3\) must be 2 \(from boxes\)"):
        Detections(torch.zeros(1, 2, 4), torch.zeros(1, 3), torch.zeros(1, 2))


def test_masks_of_a_sample_have_the_picture_s_size():
    mask = np.zeros((4, 5), bool)
    with pytest.raises(ValueError, match=r"Sample\.ignore_mask: axis 0"):
        Sample(np.zeros((4, 5, 3), np.uint8), 1, "a.png", PersonLabels.empty(2), mask, np.zeros((5, 5), bool))


def test_outputs_of_parts_that_did_not_run_are_none():
    outputs = MultiPoseNetOutputs(torch.zeros(1, 3, 8, 8), None, None, (32, 32))
    assert outputs.box_logits is None


def test_fields_cannot_be_replaced_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        sticks([0.5]).scores = torch.zeros(1)


def test_moving_to_a_device_moves_every_tensor_and_keeps_the_rest():
    moved = targets().to("meta")
    kinds = {field.name: getattr(moved, field.name) for field in dataclasses.fields(moved)}
    devices = {name: value.device.type for name, value in kinds.items() if isinstance(value, torch.Tensor)}
    assert set(devices.values()) == {"meta"}
    assert len(devices) == 6
    assert (moved.stride, moved.unknown_mask) == (4, None)


def test_tensors_in_tuples_are_moved_and_picked_too_and_plain_numbers_stay():
    outputs = MultiPoseNetOutputs(torch.zeros(2, 3, 8, 8), None, None, (32, 32), pyramid=(torch.zeros(2, 4, 8, 8),) * 2)
    moved, first = outputs.to("meta"), outputs.pictures(slice(0, 1))
    assert [level.device.type for level in moved.pyramid] == ["meta", "meta"]
    assert [tuple(level.shape) for level in first.pyramid] == [(1, 4, 8, 8)] * 2
    assert moved.image_size == first.image_size == (32, 32)


def test_moving_a_batch_moves_its_targets_too():
    moved = Batch(torch.zeros(2, 3, 32, 32), targets(), ("a.png", "b.png")).to("meta")
    assert moved.images.device.type == moved.targets.boxes.device.type == "meta"
    assert moved.names == ("a.png", "b.png")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for a GPU")
def test_pinning_a_batch_pins_its_targets_too():
    pinned = Batch(torch.zeros(2, 3, 32, 32), targets(), ("a.png", "b.png")).pin_memory()
    assert pinned.images.is_pinned()
    assert pinned.targets.keypoints.is_pinned()


def test_labels_of_an_empty_picture_have_no_people_but_the_right_axes():
    labels = PersonLabels.empty(7)
    assert len(labels) == 0
    assert labels.keypoints.shape == (0, 7, 2)


def test_people_must_come_best_first():
    with pytest.raises(ValueError, match="scores must be descending"):
        sticks([0.2, 0.9])


def test_poses_must_have_their_skeleton_s_number_of_keypoints():
    with pytest.raises(ValueError, match="has 2 keypoints, skeleton 'person' has"):
        dataclasses.replace(sticks([0.5]), skeleton=COCO_PERSON)


def test_an_integer_picks_one_person_and_keeps_the_person_axis():
    third = sticks([0.9, 0.8, 0.7])[2]
    assert_close(third.keypoints, torch.tensor([[[200.0, 201.0], [202.0, 203.0]]]))
    assert_close(third.boxes, torch.full((1, 4), 20.0))
    assert_close(third.scores, torch.tensor([0.7]))


def test_an_index_out_of_numpy_picks_one_person_too():
    third = sticks([0.9, 0.8, 0.7])[np.argmin([0.9, 0.8, 0.7])]
    assert_close(third.boxes, torch.full((1, 4), 20.0))


def test_negative_integers_count_from_the_last_person():
    people = sticks([0.9, 0.8, 0.7])
    assert [float(people[i].scores) for i in (-1, -2, -3)] == pytest.approx([0.7, 0.8, 0.9])


@pytest.mark.parametrize("index", [3, -4])
def test_a_person_who_is_not_there_is_an_index_error(index):
    with pytest.raises(IndexError, match=f"person {index} of 3"):
        sticks([0.9, 0.8, 0.7])[index]


def test_slices_and_masks_pick_several_people_with_all_that_is_theirs():
    people = sticks([0.9, 0.8, 0.7])
    for picked in (people[::2], people[people.scores != 0.8], people[torch.tensor([0, 2])]):
        assert_close(picked.scores, torch.tensor([0.9, 0.7]))
        assert_close(picked.boxes[:, 0], torch.tensor([0.0, 20.0]))
        assert_close(picked.keypoints[:, 0, 0], torch.tensor([0.0, 200.0]))
        assert picked.image_size == (48, 64)


def test_iterating_gives_each_person_once_in_order():
    assert [float(person.boxes[0, 0]) for person in sticks([0.9, 0.8, 0.7])] == [0.0, 10.0, 20.0]


def test_nobody_is_a_result_like_any_other():
    nobody = Poses.empty(STICK, (48, 64))
    assert len(nobody) == 0
    assert list(nobody) == []
    assert nobody.to_dict() == {"image_size": [48, 64], "people": []}
    assert nobody.to_coco_results(3) == []


def test_poses_become_named_plain_numbers():
    written = json.loads(json.dumps(sticks([0.5, 0.25]).to_dict()))
    assert written["image_size"] == [48, 64]
    assert written["people"][1] == {
        "score": 0.25,
        "box": [10.0, 10.0, 10.0, 10.0],
        "keypoints": {"top": [100.0, 101.0, 0.5], "bottom": [102.0, 103.0, 0.25]},
    }


def test_coco_results_are_flat_triples_and_have_no_box():
    assert sticks([0.5, 0.25]).to_coco_results(image_id=7, category_id=3)[1] == {
        "image_id": 7,
        "category_id": 3,
        "keypoints": [100.0, 101.0, 0.5, 102.0, 103.0, 0.25],
        "score": 0.25,
    }
