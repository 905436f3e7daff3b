"""Input that nobody would wish for: every grouping, decided greedily and optimally, takes it or says what is wrong."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from multiposenet.groupings import GROUPINGS, make_grouping, with_assignment
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Detections, Peaks

FIVE = Skeleton("five", ("head", "left_hand", "right_hand", "left_foot", "right_foot"), ((1, 2), (3, 4)))
SMALL = {"pose_residual": {"nodes": 8, "crop": (14, 9)}, "set_assignment": {"width": 16, "layers": 2}}
WHOLE = (0.0, 0.0, 100.0, 100.0)


@pytest.fixture(params=[(name, rule) for name in GROUPINGS for rule in ("one_to_one", "optimal")], ids="-".join)
def group(request):
    """(peaks, detections, skeleton of five keypoints unless told) -> people, by one grouping and one assignment."""
    name, rule = request.param

    @torch.no_grad()
    def call(peaks: Peaks, detections: Detections, skeleton: Skeleton = FIVE):
        torch.manual_seed(0)
        network, grouping = make_grouping(name, skeleton, **SMALL.get(name, {}))
        network.eval()
        return with_assignment(grouping, rule)(peaks, detections)

    return call


def peaks_at(*xy: tuple[float, float], keypoints: int = 5) -> Peaks:
    """One picture with a sure peak of every keypoint at each of these places."""
    places = torch.tensor(xy).view(1, 1, -1, 2).repeat(1, keypoints, 1, 1)
    return Peaks(places, torch.ones(places.shape[:3]), torch.ones(places.shape[:3], dtype=torch.bool))


def with_boxes(*boxes: tuple[float, float, float, float]) -> Detections:
    """One picture with these sure boxes."""
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    return Detections(torch.tensor(boxes).view(1, -1, 4), valid.float(), valid)


def check_numbers(people) -> None:
    """Everything is a number, and scores are in [0, 1]."""
    assert bool(people.keypoints.isfinite().all())
    for scores in (people.scores, people.keypoint_scores):
        assert bool(((scores >= 0) & (scores <= 1)).all())


@pytest.mark.parametrize("slots", [0, 3])
def test_no_boxes_are_nobody(group, slots):
    nobody = Detections(torch.zeros(1, slots, 4), torch.zeros(1, slots), torch.zeros(1, slots, dtype=torch.bool))
    people = group(peaks_at((50.0, 50.0), (20.0, 30.0)), nobody)
    assert people.keypoints.shape == (1, slots, 5, 2)
    assert (people.peak_index == -1).all()
    assert_close(people.scores, torch.zeros(1, slots))
    assert [len(poses) for poses in people.to_poses(nobody, FIVE)] == [0]


@pytest.mark.parametrize("slots", [0, 3])
def test_no_peaks_are_people_of_guesses(group, slots):
    none = Peaks(torch.zeros(1, 5, slots, 2), torch.zeros(1, 5, slots), torch.zeros(1, 5, slots, dtype=torch.bool))
    boxes = with_boxes(WHOLE, (10.0, 10.0, 40.0, 90.0))
    people = group(none, boxes)
    assert (people.peak_index == -1).all()
    low, high = boxes.boxes[:, :, None].split(2, -1)
    assert bool(((people.keypoints > low - (high - low)) & (people.keypoints < high + (high - low))).all())
    assert float(people.keypoint_scores.max()) <= 0.05 + 1e-6
    check_numbers(people)
    assert [len(poses) for poses in people.to_poses(boxes, FIVE)] == [2]


def test_one_box_takes_one_of_four_hundred_peaks_of_each_keypoint(group):
    xy = 100 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    peaks = peaks_at(*(tuple(place) for place in xy.tolist()))
    people = group(peaks, with_boxes(WHOLE))
    assert people.peak_index.shape == (1, 1, 5)
    assert bool((people.peak_index >= 0).all())
    assert_close(people.keypoints[0, 0], xy[people.peak_index[0, 0]])
    check_numbers(people)


def test_boxes_without_area_get_guesses_and_leave_the_peaks_to_others(group):
    people = group(peaks_at((50.0, 50.0)), with_boxes((50.0, 50.0, 50.0, 50.0), WHOLE, (50.0, 20.0, 50.0, 90.0)))
    assert people.peak_index[0].tolist() == [[-1] * 5, [0] * 5, [-1] * 5]
    check_numbers(people)


def test_a_box_far_outside_the_picture_gets_guesses_and_one_partly_outside_its_peaks(group):
    people = group(peaks_at((20.0, 20.0)), with_boxes((-900.0, -900.0, -800.0, -700.0), (-30.0, -30.0, 60.0, 60.0)))
    assert people.peak_index[0].tolist() == [[-1] * 5, [0] * 5]
    check_numbers(people)


def test_two_peaks_in_one_cell_go_to_two_people(group):
    people = group(peaks_at((40.0, 40.0), (40.0, 40.0)), with_boxes((0.0, 0.0, 80.0, 80.0), (0.0, 0.0, 80.0, 80.0)))
    assert people.peak_index[0].sort(0).values.T.tolist() == [[0, 1]] * 5


def test_of_two_peaks_in_one_cell_one_person_gets_one(group):
    people = group(peaks_at((40.0, 40.0), (40.2, 40.1)), with_boxes((0.0, 0.0, 80.0, 80.0)))
    assert bool(((people.peak_index == 0) | (people.peak_index == 1)).all())


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("part", "field", "place"),
    [
        ("peaks", "scores", "picture 0, keypoint 3, peak 1"),
        ("peaks", "xy", "picture 0, keypoint 3, peak 1"),
        ("detections", "scores", "picture 0, box 1"),
        ("detections", "boxes", "picture 0, box 1"),
    ],
)
def test_what_is_no_number_is_an_error_that_names_it(group, part, field, place, number):
    given = {"peaks": peaks_at((50.0, 50.0), (20.0, 30.0)), "detections": with_boxes(WHOLE, WHOLE)}
    values = getattr(given[part], field).clone()
    values[(0, 3, 1) if part == "peaks" else (0, 1)] = number
    given[part] = dataclasses.replace(given[part], **{field: values})
    with pytest.raises(ValueError, match=rf"{part}\.{field}: 1 of \d+ valid entries are not finite, .*at {place};"):
        group(**given)


def test_what_is_no_number_in_empty_slots_does_not_matter(group):
    peaks, detections = peaks_at((50.0, 50.0), (20.0, 30.0)), with_boxes(WHOLE, (10.0, 10.0, 40.0, 90.0))
    there = torch.tensor([True, False])
    peaks = dataclasses.replace(
        peaks,
        valid=peaks.valid & there,
        xy=torch.where(there[:, None], peaks.xy, torch.nan),
        scores=torch.where(there, peaks.scores, 0.0),
    )
    people = group(peaks, detections)
    assert people.peak_index[0].max(0).values.tolist() == [0] * 5
    check_numbers(people)


@pytest.mark.parametrize("skeleton", [FIVE, COCO_PERSON], ids=lambda skeleton: skeleton.name)
def test_people_of_any_skeleton_who_stand_apart_get_their_own_peaks(group, skeleton):
    k = skeleton.num_keypoints
    boxes = ((0.0, 0.0, 60.0, 120.0), (300.0, 0.0, 360.0, 120.0), (600.0, 0.0, 660.0, 120.0))
    people = group(peaks_at((330.0, 60.0), (630.0, 60.0), (30.0, 60.0), keypoints=k), with_boxes(*boxes), skeleton)
    assert people.keypoints.shape == (1, 3, k, 2)
    assert people.peak_index[0].tolist() == [[2] * k, [0] * k, [1] * k]
    check_numbers(people)
