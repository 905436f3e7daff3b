"""Grouping by itself, with labels in place of the network."""

from __future__ import annotations

import numpy as np
import torch
from torch.testing import assert_close

from multiposenet.decode.grouping import PoseResidualGrouping
from multiposenet.evaluation.coco import annotations_from_labels, evaluate_coco
from multiposenet.evaluation.grouping import group_labels, labels_as_detections
from multiposenet.rasterize import PersonGrid
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels

STICK = Skeleton("stick", ("top", "middle", "bottom"), oks_sigmas=(0.05, 0.05, 0.05))


def sticks(*lefts: float, crowd: tuple[bool, ...] | None = None) -> PersonLabels:
    """Upright people of 40 x 100 pixels in a row; the middle is not labelled."""
    x = np.array(lefts, np.float32).reshape(-1)
    people = len(x)
    keypoints = np.stack([np.stack([x + 19.5, np.full_like(x, y)], -1) for y in (10, 50, 90)], axis=1)
    return PersonLabels(
        keypoints=keypoints.astype(np.float32),
        visibility=np.tile(np.array([2, 0, 1], np.uint8), (people, 1)),
        boxes=np.stack([x, np.zeros_like(x), x + 40, np.full_like(x, 100)], -1),
        areas=np.full(people, 4000, np.float32),
        crowd=np.array(crowd if crowd is not None else [False] * people, bool),
    )


def believe(crops: torch.Tensor) -> torch.Tensor:
    return crops / crops.sum((-2, -1), keepdim=True).clamp(min=1e-6)


def test_every_labelled_keypoint_becomes_a_sure_peak_of_its_picture():
    peaks, _ = labels_as_detections([sticks(0, 60), sticks(200)], 3)
    assert peaks.valid.sum(-1).tolist() == [[2, 0, 2], [1, 0, 1]]
    assert_close(peaks.xy[0, 2], torch.tensor([[19.5, 90.0], [79.5, 90.0]]))
    assert_close(peaks.scores, peaks.valid.float())


def test_every_single_person_becomes_a_sure_detection_and_a_crowd_does_not():
    _, detections = labels_as_detections([sticks(0, 60, crowd=(True, False))], 3)
    assert detections.valid.tolist() == [[False, True]]
    assert_close(detections.boxes[0, 1], torch.tensor([60.0, 0.0, 100.0, 100.0]))


def test_pictures_without_people_have_no_detections():
    peaks, detections = labels_as_detections([sticks(), sticks()], 3)
    assert not peaks.valid.any()
    assert not detections.valid.any()


def test_people_who_stand_apart_are_grouped_without_an_error():
    pictures, ids = [sticks(0, 100, 200), sticks(), sticks(50)], [11, 12, 13]
    results = group_labels(PoseResidualGrouping(believe, PersonGrid()), pictures, ids, STICK, batch_size=2)
    annotations = []
    for labels, image_id in zip(pictures, ids, strict=True):
        annotations += annotations_from_labels(labels, image_id, 1, first_id=len(annotations) + 1)
    truth = {
        "images": [{"id": image_id} for image_id in ids],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "stick"}],
    }
    assert [result["image_id"] for result in results] == [11, 11, 11, 13]
    assert_close(evaluate_coco(truth, results, STICK)["AP"], 1.0)


def test_results_are_the_same_in_batches_of_any_size():
    pictures, ids = [sticks(0, 25), sticks(10), sticks(0, 30, 45)], [1, 2, 3]
    grouping = PoseResidualGrouping(believe, PersonGrid())
    together = group_labels(grouping, pictures, ids, STICK, batch_size=3)
    alone = group_labels(grouping, pictures, ids, STICK, batch_size=1)
    assert len(together) == 6
    for a, b in zip(together, alone, strict=True):
        assert a["image_id"] == b["image_id"]
        assert_close(a["keypoints"], b["keypoints"])
        assert_close(a["score"], b["score"])
