"""Peaks and boxes to people: one peak, one person; scores that mean something; nobody depends on the neighbours."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from multiposenet.decode.grouping import GroupedPeople, PoseResidualGrouping, assign_one_to_one
from multiposenet.models.prn import PoseResidualNetwork
from multiposenet.rasterize import PersonGrid
from multiposenet.structures import Detections, Peaks

GRID = PersonGrid(size=(56, 36))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def believe(crops: torch.Tensor) -> torch.Tensor:
    """A network that gives every blob an equal part: each map with blobs is scaled to sum 1."""
    return crops / crops.sum((-2, -1), keepdim=True).clamp(min=1e-6)


def peaks_of(*pictures: list[list[tuple[float, ...]]]) -> Peaks:
    """Peaks of pictures: per picture, per keypoint, a list of (x, y) or (x, y, score)."""
    most = max([1, *(len(points) for picture in pictures for points in picture)])
    n, k = len(pictures), len(pictures[0])
    xy, scores = torch.zeros(n, k, most, 2), torch.zeros(n, k, most)
    valid = torch.zeros(n, k, most, dtype=torch.bool)
    for picture, keypoints in enumerate(pictures):
        for keypoint, points in enumerate(keypoints):
            for slot, (x, y, *score) in enumerate(points):
                xy[picture, keypoint, slot] = torch.tensor([x, y])
                scores[picture, keypoint, slot] = score[0] if score else 1.0
                valid[picture, keypoint, slot] = True
    return Peaks(xy, scores, valid)


def boxes_of(*pictures: list[tuple[float, ...]]) -> Detections:
    """Detections of pictures: per picture a list of (x1, y1, x2, y2) or (x1, y1, x2, y2, score)."""
    most = max([1, *(len(boxes) for boxes in pictures)])
    boxes, scores = torch.zeros(len(pictures), most, 4), torch.zeros(len(pictures), most)
    valid = torch.zeros(len(pictures), most, dtype=torch.bool)
    for picture, rows in enumerate(pictures):
        for slot, (x1, y1, x2, y2, *score) in enumerate(rows):
            boxes[picture, slot] = torch.tensor([x1, y1, x2, y2])
            scores[picture, slot] = score[0] if score else 1.0
            valid[picture, slot] = True
    return Detections(boxes, scores, valid)


def random_scene(pictures: int, people: int = 6, keypoints: int = 3, peaks: int = 9) -> tuple[Peaks, Detections]:
    """Crowded pictures: overlapping boxes, more peaks than people, some slots empty."""
    generator = seeded(4)
    corner = torch.rand(pictures, people, 2, generator=generator) * 60
    sides = 40 + torch.rand(pictures, people, 2, generator=generator) * 60
    scores = torch.rand(pictures, people, generator=generator)
    there = torch.rand(pictures, people, generator=generator) < 0.8
    found = torch.rand(pictures, keypoints, peaks, generator=generator) < 0.8
    detections = Detections(torch.cat([corner, corner + sides], -1), torch.where(there, scores, 0.0), there)
    xy = torch.rand(pictures, keypoints, peaks, 2, generator=generator) * 140
    return Peaks(xy, torch.rand(pictures, keypoints, peaks, generator=generator) * found, found), detections


def random_network(keypoints: int = 3) -> PoseResidualNetwork:
    """A small network with random weights of a size that makes its answers differ from its input."""
    torch.manual_seed(3)
    prn = PoseResidualNetwork(keypoints, nodes=16, crop_size=(28, 18)).eval()
    for parameter in prn.parameters():
        parameter.data.mul_(4)
    return prn


def random_grouping(keypoints: int = 3) -> PoseResidualGrouping:
    return PoseResidualGrouping(random_network(keypoints), PersonGrid(size=(28, 18)))


@torch.no_grad()
def group(grouping: PoseResidualGrouping, peaks: Peaks, detections: Detections) -> GroupedPeople:
    return grouping(peaks, detections)


# --- the assignment


def greedy(scores: torch.Tensor) -> list[int]:
    """One pair after the other in order of score, then row, then column."""
    pairs = [(-scores[p, m].item(), p, m) for p in range(scores.shape[0]) for m in range(scores.shape[1])]
    chosen = [-1] * scores.shape[0]
    for score, person, peak in sorted(pairs):
        if score < 0 and chosen[person] == -1 and peak not in chosen:
            chosen[person] = peak
    return chosen


@pytest.mark.parametrize("levels", [None, 3, 1], ids=["distinct", "many ties", "all equal"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (4, 7), (7, 4), (13, 13), (20, 32)])
def test_the_assignment_takes_the_best_remaining_pair_next(shape, levels):
    scores = torch.rand(60, *shape, generator=seeded())
    if levels:
        scores = (scores * levels).ceil() / levels * (torch.rand(60, *shape, generator=seeded(1)) < 0.7)
    assert assign_one_to_one(scores).tolist() == [greedy(problem) for problem in scores]


def test_the_assignment_of_a_batch_has_its_shape():
    scores = torch.rand(2, 5, 3, 4, generator=seeded())
    chosen = assign_one_to_one(scores)
    assert chosen.shape == (2, 5, 3)
    assert chosen[1, 4].tolist() == greedy(scores[1, 4])


def test_pairs_without_a_score_are_never_made():
    assert assign_one_to_one(torch.tensor([[0.0, 0.0], [0.0, 0.5]])).tolist() == [-1, 1]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_an_assignment_of_nobody_or_nothing_is_empty(shape):
    assert assign_one_to_one(torch.zeros(shape)).tolist() == [-1] * shape[0]


def test_the_assignment_leaves_the_scores_as_they_were():
    scores = torch.rand(4, 4, generator=seeded())
    before = scores.clone()
    assign_one_to_one(scores)
    assert_close(scores, before, atol=0, rtol=0)


# --- who gets which peak


def test_a_person_gets_the_peaks_in_the_box_at_the_peaks_own_sub_pixel_places():
    peaks = peaks_of([[(20.3, 30.7)], [(41.9, 88.1)]])
    people = group(PoseResidualGrouping(believe, GRID), peaks, boxes_of([(10, 10, 60, 110)]))
    assert_close(people.keypoints[0, 0], torch.tensor([[20.3, 30.7], [41.9, 88.1]]))
    assert people.peak_index.tolist() == [[[0, 0]]]


def test_a_nose_in_two_overlapping_boxes_goes_to_one_person_only():
    boxes = boxes_of([(10, 10, 60, 110), (12, 10, 62, 110)])
    people = group(PoseResidualGrouping(believe, GRID), peaks_of([[(35.0, 30.0)]]), boxes)
    assert sorted(people.peak_index[0, :, 0].tolist()) == [-1, 0]


def test_no_peak_ever_belongs_to_two_people():
    peaks, detections = random_scene(pictures=8)
    index = group(random_grouping(), peaks, detections).peak_index
    given = 0
    for picture in index:
        for keypoint in picture.T:
            taken = keypoint[keypoint >= 0].tolist()
            given += len(taken)
            assert len(taken) == len(set(taken))
    assert given > 50


def test_two_duplicate_boxes_share_the_peaks_of_two_people():
    boxes = boxes_of([(10, 10, 60, 110), (10, 10, 60, 110)])
    people = group(PoseResidualGrouping(believe, GRID), peaks_of([[(25.0, 30.0), (45.0, 32.0)]]), boxes)
    assert sorted(people.peak_index[0, :, 0].tolist()) == [0, 1]


def test_two_peaks_in_one_cell_can_both_be_given():
    x, y = 35.0, 60.0
    beside = 0.4 * 50 / 36  # 0.4 cells of the box
    boxes = boxes_of([(10, 10, 60, 110), (10, 10, 60, 110)])
    people = group(PoseResidualGrouping(believe, GRID), peaks_of([[(x, y), (x + beside, y)]]), boxes)
    assert sorted(people.peak_index[0, :, 0].tolist()) == [0, 1]


def test_a_peak_beyond_the_margin_of_the_box_is_not_given():
    box = (100.0, 100.0, 200.0, 300.0)
    inside, outside = peaks_of([[(79.5, 200.0)]]), peaks_of([[(78.0, 200.0)]])
    grouping = PoseResidualGrouping(believe, GRID)
    assert group(grouping, inside, boxes_of([box])).peak_index.item() == 0
    assert group(grouping, outside, boxes_of([box])).peak_index.item() == -1


def test_a_peak_right_of_and_above_the_box_is_scored_in_the_upper_right_corner():
    def corner_only(crops):
        answer = torch.zeros_like(crops)
        answer[..., 0, -1] = 1
        return answer

    grouping = PoseResidualGrouping(corner_only, GRID)
    people = group(grouping, peaks_of([[(205.0, 95.0)]]), boxes_of([(100, 100, 200, 300)]))
    assert_close(people.keypoint_scores, torch.ones(1, 1, 1))


def test_an_invalid_peak_is_not_given():
    peaks = peaks_of([[(35.0, 30.0)]])
    peaks = dataclasses.replace(peaks, valid=torch.zeros_like(peaks.valid))
    assert group(PoseResidualGrouping(believe, GRID), peaks, boxes_of([(10, 10, 60, 110)])).peak_index.item() == -1


def test_the_network_sees_the_peaks_of_everybody_in_the_box():
    seen = []
    grouping = PoseResidualGrouping(lambda crops: seen.append(crops) or believe(crops), PersonGrid(size=(10, 10)))
    group(grouping, peaks_of([[(24.5, 34.5), (84.5, 54.5)]]), boxes_of([(0, 0, 100, 100)]))
    (crops,) = seen
    assert crops.shape == (1, 1, 10, 10)
    assert (crops[0, 0] == 1).nonzero().tolist() == [[3, 2], [5, 8]]


def test_the_network_is_called_once_for_all_boxes_of_all_pictures():
    calls = []
    grouping = PoseResidualGrouping(lambda crops: calls.append(len(crops)) or believe(crops), GRID)
    box = (10.0, 10.0, 60.0, 110.0)
    group(grouping, peaks_of([[(35, 30)]], [[(35, 30)]], [[(35, 30)]]), boxes_of([box, box], [], [box]))
    assert calls == [3]


# --- scores, by hand


def table(crops: torch.Tensor) -> torch.Tensor:
    """An answer by hand on a grid of 8 x 6: keypoint 0 is at (2, 3), or else at (5, 7); keypoint 1 at (4, 5)."""
    answer = torch.zeros_like(crops)
    answer[:, 0, 3, 2], answer[:, 0, 4, 3], answer[:, 0, 7, 5] = 0.5, 0.25, 0.2
    answer[:, 1, 5, 4] = 0.9
    return answer


BY_HAND = PoseResidualGrouping(table, PersonGrid(size=(8, 6), window=1), fallback_weight=0.05)
BOX = (0.0, 0.0, 60.0, 80.0)  # cells of 10 x 10 pixels


def test_a_keypoint_s_score_is_the_peak_s_times_what_the_network_puts_around_it():
    people = group(BY_HAND, peaks_of([[(24.5, 34.5, 0.8)], [(44.5, 54.5, 0.6)]]), boxes_of([BOX]))
    assert_close(people.keypoint_scores, torch.tensor([[[0.8 * (0.5 + 0.25), 0.6 * 0.9]]]))


def test_what_the_network_puts_outside_the_window_does_not_count():
    people = group(BY_HAND, peaks_of([[(54.5, 74.5, 1.0)], []]), boxes_of([BOX]))
    assert_close(people.keypoint_scores[0, 0, 0], torch.tensor(0.2))


def test_a_person_s_score_is_the_box_s_times_the_mean_of_the_keypoints():
    people = group(BY_HAND, peaks_of([[(24.5, 34.5, 0.8)], []]), boxes_of([(*BOX, 0.7)]))
    assert_close(people.scores, torch.tensor([[0.7 * (0.8 * 0.75 + 0.05 * 0.9) / 2]]))


def test_a_person_s_score_rises_with_box_and_with_peaks():
    def score(box: float, peak: float) -> float:
        return float(group(BY_HAND, peaks_of([[(24.5, 34.5, peak)], []]), boxes_of([(*BOX, box)])).scores)

    assert score(0.5, 0.9) < score(0.9, 0.9)
    assert score(0.9, 0.5) < score(0.9, 0.9)


def test_scores_stay_in_the_unit_interval():
    people = group(PoseResidualGrouping(lambda crops: crops, GRID), *random_scene(pictures=4))  # blobs sum to 6
    assert float(people.keypoint_scores.min()) >= 0
    assert float(people.keypoint_scores.max()) <= 1
    assert float(people.scores.max()) <= 1


def test_a_pair_below_the_least_score_is_not_made():
    strict = dataclasses.replace(BY_HAND, min_score=0.5)
    box = boxes_of([BOX])
    assert group(strict, peaks_of([[(24.5, 34.5, 0.67)], []]), box).peak_index[0, 0, 0] == 0
    assert group(strict, peaks_of([[(24.5, 34.5, 0.66)], []]), box).peak_index[0, 0, 0] == -1


# --- keypoints that nobody saw


def test_a_missing_keypoint_is_the_centre_of_the_network_s_best_cell_with_a_low_score():
    people = group(BY_HAND, peaks_of([[(24.5, 34.5)], []]), boxes_of([BOX]))
    assert_close(people.keypoints[0, 0, 1], torch.tensor([44.5, 54.5]))
    assert_close(people.keypoint_scores[0, 0, 1], torch.tensor(0.05 * 0.9))
    assert people.peak_index[0, 0].tolist() == [0, -1]


@pytest.mark.parametrize("other_nose", [[], [(335.0, 30.0)]], ids=["nobody has a nose", "somebody has a nose"])
def test_a_missing_keypoint_does_not_depend_on_who_else_is_in_the_picture(other_nose):
    grouping, box = random_grouping(2), (10.0, 10.0, 60.0, 110.0)
    alone = group(grouping, peaks_of([[], [(35.0, 80.0)]]), boxes_of([box]))
    together = group(
        grouping, peaks_of([other_nose, [(35.0, 80.0), (340.0, 80.0)]]), boxes_of([box, (310.0, 10.0, 360.0, 110.0)])
    )
    assert_close(together.keypoints[0, 0], alone.keypoints[0, 0])
    assert_close(together.keypoint_scores[0, 0], alone.keypoint_scores[0, 0])
    assert_close(together.scores[0, 0], alone.scores[0, 0])


def test_a_keypoint_that_goes_to_somebody_else_counts_as_missing():
    grouping = PoseResidualGrouping(believe, GRID)
    people = group(grouping, peaks_of([[(35.0, 30.0)]]), boxes_of([(10, 10, 60, 110), (12, 10, 62, 110)]))
    (loser,) = (people.peak_index[0, :, 0] == -1).nonzero()[0]
    winner = 1 - loser
    assert float(people.keypoint_scores[0, loser]) <= 0.05
    assert float(people.keypoint_scores[0, winner]) > 0.9


# --- nobody, nothing, and company


def test_pictures_without_boxes_have_nobody():
    people = group(random_grouping(1), peaks_of([[(35.0, 30.0)]], [[(5.0, 5.0)]]), boxes_of([], []))
    assert_close(people.scores, torch.zeros(2, 1))
    assert_close(people.keypoint_scores, torch.zeros(2, 1, 1))
    assert (people.peak_index == -1).all()


def test_a_box_without_any_peak_is_a_person_of_guesses_with_a_tiny_score():
    people = group(random_grouping(2), peaks_of([[], []]), boxes_of([(10.0, 10.0, 60.0, 110.0)]))
    assert (people.peak_index == -1).all()
    assert bool(torch.isfinite(people.keypoints).all())
    assert 0 < float(people.scores) <= 0.05


@pytest.mark.parametrize("keypoints", [1, 25])
def test_a_guess_scores_little_also_where_one_softmax_goes_over_all_maps(keypoints):
    def certain(crops: torch.Tensor) -> torch.Tensor:
        answer = torch.zeros_like(crops)
        answer[:, 0, 3, 2] = 1.0  # everything on one cell of one map
        return answer

    grouping = PoseResidualGrouping(certain, GRID, fallback_weight=0.05, full_score=1 / keypoints)
    people = group(grouping, peaks_of([[] for _ in range(keypoints)]), boxes_of([BOX]))
    assert float(people.keypoint_scores.max()) == pytest.approx(0.05)


def test_empty_slots_have_no_score_whatever_lies_in_them():
    peaks, detections = random_scene(pictures=4)
    scores = group(random_grouping(), peaks, dataclasses.replace(detections, scores=torch.ones(4, 6))).scores
    assert not detections.valid.all()
    assert_close(scores > 0, detections.valid)


def test_a_picture_s_people_do_not_depend_on_its_batch_mates():
    peaks, detections = random_scene(pictures=5)
    grouping = random_grouping()
    together = group(grouping, peaks, detections)
    for picture in range(5):
        one = slice(picture, picture + 1)
        alone = group(
            grouping,
            Peaks(peaks.xy[one], peaks.scores[one], peaks.valid[one]),
            Detections(detections.boxes[one], detections.scores[one], detections.valid[one]),
        )
        for field in dataclasses.fields(GroupedPeople):
            assert_close(getattr(together, field.name)[picture], getattr(alone, field.name)[0], atol=1e-4, rtol=1e-4)


def test_the_second_picture_of_a_batch_has_its_people_too():
    box = (10.0, 10.0, 60.0, 110.0)
    people = group(
        PoseResidualGrouping(believe, GRID), peaks_of([[(35.0, 30.0)]], [[(40.0, 50.0)]]), boxes_of([box], [box])
    )
    assert_close(people.keypoints[:, 0, 0], torch.tensor([[35.0, 30.0], [40.0, 50.0]]))


def test_the_order_of_boxes_and_peaks_does_not_change_the_people():
    peaks, detections = random_scene(pictures=2)
    grouping = random_grouping()
    people = group(grouping, peaks, detections)
    turned = group(
        grouping,
        Peaks(peaks.xy.flip(2), peaks.scores.flip(2), peaks.valid.flip(2)),
        Detections(detections.boxes.flip(1), detections.scores.flip(1), detections.valid.flip(1)),
    )
    assert_close(turned.keypoints.flip(1), people.keypoints, atol=1e-4, rtol=1e-4)
    assert_close(turned.scores.flip(1), people.scores, atol=1e-4, rtol=1e-4)
