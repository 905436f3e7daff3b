"""Parts of the chain replaced by the truth: each oracle does its own part and no other; all together are perfect."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import multiposenet
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.decode.grouping import Grouping
from multiposenet.decode.scorers import StrongestPeak
from multiposenet.evaluation.chain import evaluate_predictor
from multiposenet.evaluation.oracles import (
    NUMBERS,
    ORACLES,
    CanvasTruth,
    ChainState,
    combinations_of,
    labels_on_canvas,
    measure_oracles,
    oracle_lines,
    refuse_without_grouping,
    true_boxes,
    true_grouping,
    true_keypoints,
)
from multiposenet.geometry import CropWindow
from multiposenet.prior import GaussianPrior
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, PersonLabels

STICK = Skeleton("stick", ("head", "feet"), oks_sigmas=(0.03, 0.03))
PEOPLE = PersonLabels(
    keypoints=np.array([[[30, 20], [30, 90]], [[70, 25], [70, 95]], [[0, 0], [0, 0]]], np.float32),
    visibility=np.array([[2, 2], [2, 1], [0, 0]], np.uint8),
    boxes=np.array([[10, 10, 50, 100], [50, 10, 90, 100], [0, 0, 100, 100]], np.float32),
    areas=np.array([3600, 3600, 10000], np.float32),
    crowd=np.array([False, False, True]),
)
NOBODY = PersonLabels.empty(2)


def state_of(*pictures: PersonLabels) -> ChainState:
    """Two boxes and three peaks a keypoint in every picture: the people's own, and a stronger one between them."""
    n = len(pictures)
    boxes = torch.tensor([[[52.0, 12, 92, 102], [8, 8, 48, 98]]]).repeat(n, 1, 1)
    heads = [[46.0, 22], [71, 26], [31, 21]]
    feet = [[46.0, 92], [29, 91], [69, 96]]
    xy = torch.tensor([[heads, feet]]).repeat(n, 1, 1, 1)
    scores = torch.tensor([[[0.9, 0.5, 0.4], [0.9, 0.5, 0.4]]]).repeat(n, 1, 1)
    detections = Detections(boxes, torch.tensor([[0.8, 0.7]]).repeat(n, 1), torch.ones(n, 2, dtype=torch.bool))
    peaks = Peaks(xy, scores, torch.ones(n, 2, 3, dtype=torch.bool))
    truth = CanvasTruth(pictures, range(1, n + 1), STICK)
    return ChainState(peaks, detections, Grouping(StrongestPeak(GaussianPrior(2))), None, truth)


def test_true_boxes_are_those_of_single_people_and_touch_nothing_else():
    state = state_of(PEOPLE, NOBODY)
    changed = true_boxes(state)
    assert changed.detections.valid.sum(1).tolist() == [2, 0]
    found = changed.detections.boxes[0, changed.detections.valid[0]]
    assert_close(found[found[:, 0].argsort()], torch.from_numpy(PEOPLE.boxes[:2]))
    assert (changed.peaks, changed.grouping) == (state.peaks, state.grouping)


def test_true_keypoints_are_the_labelled_ones_and_do_not_tell_whose_they_are():
    changed = true_keypoints(state_of(PEOPLE, NOBODY))
    assert changed.peaks.valid.sum((1, 2)).tolist() == [4, 0]
    heads = changed.peaks.xy[0, 0, changed.peaks.valid[0, 0]]
    assert sorted(heads[:, 0].tolist()) == [30, 70]
    many = [dataclasses.replace(PEOPLE) for _ in range(12)]
    order = true_keypoints(state_of(*many)).peaks.xy[:, 0, 0, 0]
    assert set(order.tolist()) == {30, 70}, "the first peak is always the same person's"


def test_the_true_grouping_gives_everybody_their_own_peaks_where_the_chains_own_is_wrong():
    state = state_of(PEOPLE, PEOPLE)
    wrong = state.grouping(state.peaks, state.detections)
    assert (wrong.peak_index == 0).any()  # the stronger peak, which is nobody's
    right = true_grouping(state).grouping(state.peaks, state.detections)
    assert right.peak_index.tolist() == [[[1, 2], [2, 1]]] * 2
    assert_close(right.keypoints[0, 0], torch.tensor([[71.0, 26], [69, 96]]))
    assert_close(right.scores[0], torch.tensor([0.8, 0.7]) * torch.tensor([0.45, 0.45]))


def test_a_box_that_is_nobodys_gets_no_peak_and_a_keypoint_without_a_peak_is_guessed():
    state = state_of(NOBODY)
    nothing = true_grouping(state).grouping(state.peaks, state.detections)
    assert (nothing.peak_index == -1).all()
    partly = state_of(PEOPLE)
    valid = partly.peaks.valid.clone()
    valid[0, 0, 2] = False  # the first person's head was not seen
    partly = dataclasses.replace(partly, peaks=dataclasses.replace(partly.peaks, valid=valid))
    found = true_grouping(partly).grouping(partly.peaks, partly.detections)
    assert found.peak_index.tolist() == [[[1, 2], [-1, 1]]]
    guess = StrongestPeak(GaussianPrior(2))(partly.peaks, partly.detections).guess
    assert_close(found.keypoints[0, 1, 0], guess[1, 0])


def test_labels_on_a_canvas_are_as_similar_as_in_the_picture():
    window = CropWindow.letterbox((200, 100), 320)
    moved = labels_on_canvas(PEOPLE, window)
    assert_close(window.keypoints_to_image(moved.keypoints), PEOPLE.keypoints, atol=1e-4, rtol=0)
    assert_close(window.boxes_to_image(moved.boxes), PEOPLE.boxes, atol=1e-4, rtol=0)
    assert_close(moved.areas, PEOPLE.areas * np.float32(1.6**2))
    assert moved.crowd.tolist() == PEOPLE.crowd.tolist()


def test_rows_are_all_combinations_fewest_first():
    assert combinations_of(["grouping", "boxes"]) == [(), ("boxes",), ("grouping",), ("boxes", "grouping")]
    assert len(combinations_of(list(ORACLES))) == 8
    with pytest.raises(ValueError, match="oracles must be of boxes, keypoints, grouping; unknown: heads"):
        combinations_of(["boxes", "heads"])
    with pytest.raises(ValueError, match="none was given"):
        combinations_of([])


@pytest.fixture(scope="module")
def predictor():
    return multiposenet.load(device="cpu")


@pytest.fixture(scope="module")
def dataset():
    return SyntheticPeople(3, seed=20_000, people=(0, 4))


def test_the_row_without_oracles_is_the_evaluation_and_the_row_with_all_is_perfect(predictor, dataset):
    table = measure_oracles(predictor, dataset, batch_size=3)
    numbers = {row.parts: row.numbers for row in table}
    evaluated = evaluate_predictor(predictor, dataset).metrics
    assert numbers[()] == {name: evaluated[name] for name in NUMBERS}
    assert numbers["boxes", "keypoints", "grouping"] == pytest.approx({name: 1.0 for name in NUMBERS}, abs=1e-9)
    assert numbers["keypoints",]["AP"] > numbers[()]["AP"] + 0.05
    assert numbers["keypoints", "grouping"]["AP"] >= numbers["keypoints",]["AP"]
    for row, name in itertools.product(table, NUMBERS):
        assert row.gain[name] == pytest.approx(row.numbers[name] - numbers[()][name])
    lines = oracle_lines(table)
    assert len(lines) == 9
    assert lines[-1].split()[:6] == ["boxes", "+", "keypoints", "+", "grouping", "1.000"]


def test_averaging_over_mirrored_and_scaled_pictures_is_part_of_the_chain(predictor, dataset):
    averaged = multiposenet.load(device="cpu", flip=True, scales=(1.0, 0.75))
    some = torch.utils.data.Subset(dataset, [1])
    some.skeleton = dataset.skeleton
    table = measure_oracles(averaged, some, ["keypoints"])
    assert table[0].numbers["AP"] == evaluate_predictor(averaged, some).metrics["AP"]


def test_a_method_that_groups_nothing_is_refused():
    method = SimpleNamespace(decoder=object())
    with pytest.raises(ValueError, match="crop_net does not group keypoints around boxes"):
        refuse_without_grouping(SimpleNamespace(name="crop_net", method=method))
