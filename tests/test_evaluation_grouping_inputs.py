"""What groupings are measured on, the ceiling of it, and the scores that come out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from multiposenet.decode.grouping import Grouping
from multiposenet.decode.scorers import PriorScorer
from multiposenet.evaluation.coco import annotations_from_labels
from multiposenet.evaluation.grouping_detections import owned_boxes, owned_peaks
from multiposenet.evaluation.grouping_inputs import (
    DEGRADED_BOXES,
    DEGRADED_PEAKS,
    INPUTS,
    BoxDegradation,
    PeakDegradation,
    best_poses,
    lost_outside,
    make_input,
)
from multiposenet.evaluation.grouping_scores import (
    crowding_classes,
    measure_ceiling,
    measure_grouping,
    right_keypoints,
)
from multiposenet.prior import GaussianPrior
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, PersonLabels

STICK = Skeleton("stick", ("top", "middle", "bottom"), oks_sigmas=(0.05, 0.05, 0.05))
SHAPE = ((20, 10), (24, 50), (16, 90))  # keypoints of a person in a box of 40 x 100


def sticks(*corners: tuple[float, float], crowd: tuple[bool, ...] | None = None) -> PersonLabels:
    corner = np.array(corners, np.float32).reshape(-1, 2)
    people = len(corner)
    return PersonLabels(
        keypoints=(corner[:, None] + np.array(SHAPE, np.float32) - 0.5).astype(np.float32),
        visibility=np.full((people, 3), 2, np.uint8),
        boxes=np.concatenate([corner, corner + np.array([40, 100], np.float32)], 1),
        areas=np.full(people, 2000, np.float32),
        crowd=np.array(crowd if crowd is not None else [False] * people, bool),
    )


def fitted() -> GaussianPrior:
    prior = GaussianPrior(3)
    prior.mean[:] = torch.tensor(SHAPE) / torch.tensor([40.0, 100.0])
    prior.covariance[:] = 0.01 * torch.eye(2)
    return prior


def many(seed: int = 0, count: int = 60) -> tuple[list[PersonLabels], list[int]]:
    rng = np.random.default_rng(seed)
    return [sticks(*rng.uniform(0, 150, (rng.integers(0, 5), 2))) for _ in range(count)], list(range(5, 5 + count))


def truth_of(pictures: list[PersonLabels], ids: list[int]) -> dict:
    annotations = []
    for labels, image_id in zip(pictures, ids, strict=True):
        annotations += annotations_from_labels(labels, image_id, 1, first_id=len(annotations) + 1)
    images = [{"id": image_id} for image_id in ids]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "stick"}]}


# --- inputs


def test_ground_truth_is_every_keypoint_and_every_box_where_it_was():
    pictures, ids = many()
    given = make_input(pictures, ids, 3)
    assert_close(given.peak_of >= 0, given.labelled)
    n, people, k = given.peak_of.shape
    at = given.peak_of.clamp(min=0).transpose(1, 2)[..., None].expand(n, k, people, 2)
    assert_close(given.peaks.xy.gather(2, at).transpose(1, 2)[given.labelled], given.truth[given.labelled])
    row, person = (given.box_of >= 0).nonzero(as_tuple=True)
    boxes = torch.from_numpy(np.concatenate([labels.boxes for labels in pictures]))
    assert_close(given.detections.boxes[row, given.box_of[row, person]], boxes)


def test_the_order_of_peaks_and_boxes_tells_nothing():
    given = make_input([sticks((0, 0), (50, 0), (100, 0), (150, 0))] * 50, list(range(50)), 3)
    assert 0.15 < float((given.peak_of == torch.arange(4)[:, None]).float().mean()) < 0.35
    assert 0.1 < float((given.box_of == torch.arange(4)).float().mean()) < 0.4


def test_degraded_inputs_are_as_degraded_as_they_say():
    pictures, ids = [sticks((0, 0), (30, 20), (200, 0))] * 600, list(range(600))
    given = make_input(pictures, ids, 3, DEGRADED_PEAKS, DEGRADED_BOXES)
    people, keypoints = 1800, 5400
    assert_close(float((given.peak_of >= 0).sum()) / keypoints, 0.85, atol=0.02, rtol=0)
    own = int((given.peak_of >= 0).sum())
    assert_close((int(given.peaks.valid.sum()) - own) / people, 0.3, atol=0.05, rtol=0)
    assert_close(float((given.box_of >= 0).sum()) / people, 0.9, atol=0.02, rtol=0)
    false_boxes = int(given.detections.valid.sum()) - int((given.box_of >= 0).sum())
    assert_close(false_boxes / 600, 0.5, atol=0.08, rtol=0)
    row, person = (given.box_of >= 0).nonzero(as_tuple=True)
    boxes = torch.from_numpy(np.stack([labels.boxes for labels in pictures]))[row, person]
    noise = given.detections.boxes[row, given.box_of[row, person]] - boxes
    assert_close(float(noise.std()), 0.04 * (40 * 100) ** 0.5, atol=0.1, rtol=0)


def test_both_degraded_is_the_degraded_peaks_with_the_degraded_boxes():
    pictures, ids = many()
    inputs = {name: make_input(pictures, ids, 3, *how) for name, how in INPUTS.items()}
    assert_close(inputs["both degraded"].peaks.xy, inputs["degraded peaks"].peaks.xy)
    assert_close(inputs["both degraded"].detections.boxes, inputs["degraded boxes"].detections.boxes)
    assert_close(inputs["degraded boxes"].peaks.xy, inputs["ground truth"].peaks.xy)


def test_a_picture_s_input_does_not_depend_on_the_others():
    pictures, ids = many()
    together, alone = (
        make_input(pictures[some], ids[some], 3, DEGRADED_PEAKS, DEGRADED_BOXES) for some in (slice(None), slice(7, 8))
    )
    count = int(alone.detections.valid.sum())
    assert_close(together.detections.boxes[7, :count], alone.detections.boxes[0, :count])


def test_pictures_with_nobody_and_crowds_are_inputs_too():
    given = make_input([sticks(), sticks((0, 0), (60, 0), crowd=(True, False))], [1, 2], 3, DEGRADED_PEAKS)
    assert given.detections.valid.sum(1).tolist() == [0, 1]
    assert given.box_of[1, 0] == -1
    assert not given.labelled[1, 0].any()


def test_peaks_beyond_the_margin_are_counted():
    labels = sticks((0, 0))
    labels.keypoints[0, 0] = (-10.5, 10)  # a quarter of the width outside
    given = make_input([labels], [1], 3)
    assert_close(lost_outside(given, 0.2), 1 / 3)
    assert lost_outside(given, 0.3) == 0


# --- ceilings and scores


def test_the_ceiling_of_ground_truth_is_one():
    pictures, ids = many()
    best = best_poses(make_input(pictures, ids, 3), fitted(), STICK)
    assert_close(measure_ceiling(best, ids, truth_of(pictures, ids), STICK).numbers["AP"], 1.0)


def test_the_ceiling_guesses_where_no_peak_is_and_misses_who_has_no_box():
    pictures, ids = many(count=200)
    given = make_input(pictures, ids, 3, PeakDegradation(dropped=0.5), BoxDegradation(missing=0.3))
    far_off = GaussianPrior(3)
    far_off.mean[:] = 3.0
    truth = truth_of(pictures, ids)
    well, badly = (
        measure_ceiling(best_poses(given, prior, STICK), ids, truth, STICK).numbers for prior in (fitted(), far_off)
    )
    people = sum(len(labels) for labels in pictures)
    assert_close(well["AR"], int((given.box_of >= 0).sum()) / people, atol=0.02, rtol=0)
    assert badly["AR"] < well["AR"] - 0.2


def test_a_perfect_grouping_scores_one_and_gives_every_keypoint_to_the_right_person():
    pictures, ids = [sticks((0, 0), (100, 0)), sticks(), sticks((10, 10))], [3, 4, 5]
    grouping = Grouping(PriorScorer(fitted()))
    scores = measure_grouping(grouping, make_input(pictures, ids, 3), ids, truth_of(pictures, ids), STICK, batch_size=2)
    assert_close(scores.numbers["AP"], 1.0)
    assert scores.right == 1.0


def test_people_of_any_category_are_scored():
    pictures, ids = [sticks((0, 0), (100, 0))], [3]
    truth = truth_of(pictures, ids)
    truth["categories"] = [{"id": 7, "name": "stick"}]
    for person in truth["annotations"]:
        person["category_id"] = 7
    given = make_input(pictures, ids, 3)
    classes = crowding_classes(pictures)
    scores = measure_grouping(Grouping(PriorScorer(fitted())), given, ids, truth, STICK, classes)
    assert_close(scores.numbers["AP"], 1.0)
    assert_close(measure_ceiling(best_poses(given, fitted(), STICK), ids, truth, STICK, classes).numbers["AP"], 1.0)


def test_keypoints_given_to_the_wrong_person_are_counted():
    given = make_input([sticks((0, 0), (10, 0))], [1], 3)
    index = torch.zeros(1, 2, 3, dtype=torch.long)
    index[0, given.box_of[0, 0]] = given.peak_of[0, 0]
    index[0, given.box_of[0, 1]] = given.peak_of[0, 0]  # all of the other one's
    hits, chances = right_keypoints(index, given)
    assert (hits.tolist(), chances.tolist()) == ([3], [6])


def test_two_boxes_in_one_place_that_get_the_same_are_scored_all_the_same():
    pictures, ids = [sticks((0, 0), (0, 0))], [1]
    given = make_input(pictures, ids, 3, PeakDegradation(dropped=1.0))
    scores = measure_grouping(Grouping(PriorScorer(fitted())), given, ids, truth_of(pictures, ids), STICK)
    assert scores.numbers["AP"] == 1.0  # the guesses are right


def test_crowding_sorts_pictures_by_people_and_by_overlap():
    pictures = [sticks((0, 0)), sticks((0, 0), (20, 0)), sticks(), sticks(*[(50 * n, 0) for n in range(9)])]
    classes = crowding_classes(pictures)
    assert [part.rows for part in classes if part.by == "people"] == [(0,), (1,), (), (3,)]
    assert [part.rows for part in classes if part.by == "overlap"] == [(0, 3), (), (1,), ()]
    ids = [1, 2, 3, 4]
    scores = measure_grouping(
        Grouping(PriorScorer(fitted())), make_input(pictures, ids, 3), ids, truth_of(pictures, ids), STICK, classes
    )
    assert [entry["pictures"] for entry in scores.crowding] == [1, 1, 0, 1, 2, 0, 1, 0]
    assert "AP" not in scores.crowding[2]
    assert_close(scores.crowding[0]["AP"], 1.0)
    json.dumps(scores.crowding)


# --- a network's peaks and boxes


def test_a_network_s_boxes_and_peaks_belong_to_the_people_whom_they_fit():
    labels = sticks((0, 0), (100, 0))
    boxes = torch.tensor([[[101.0, 2.0, 141.0, 99.0], [300.0, 0.0, 340.0, 100.0], [0.0, 0.0, 39.0, 103.0]]])
    found = owned_boxes(Detections(boxes, torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool)), labels)
    assert found.person.tolist() == [1, -1, 0]
    xy = torch.tensor([[[[121.0, 9.0], [20.0, 10.0], [300.0, 10.0]], [[0.0, 0.0]] * 3, [[16.0, 91.0]] * 3]])
    valid = torch.tensor([[[True, True, True], [False] * 3, [True, True, False]]])
    peaks = owned_peaks(Peaks(xy, torch.ones(1, 3, 3), valid), labels, STICK)
    assert peaks.person[peaks.keypoint == 0].tolist() == [1, 0, -1]
    assert sorted(peaks.person[peaks.keypoint == 2].tolist()) == [-1, 0]  # one of two in the same place


@pytest.mark.parametrize("people", [0, 1])
def test_a_network_that_finds_nothing_is_an_input_too(people):
    labels = sticks(*[(0, 0)] * people)
    none = Detections(torch.zeros(1, 2, 4), torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))
    assert len(owned_boxes(none, labels).boxes) == 0
    no_peaks = Peaks(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2), torch.zeros(1, 3, 2, dtype=torch.bool))
    assert len(owned_peaks(no_peaks, labels, STICK).xy) == 0
