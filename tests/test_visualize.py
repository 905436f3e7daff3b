"""Drawing: what must be seen, what must stay untouched."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import PersonLabels, Poses
from multiposenet.visualize import (
    contact_sheet,
    draw_comparison,
    draw_poses,
    keypoint_colours,
    limb_colours,
    poses_from_labels,
)

DOT = Skeleton("dot", ("left_end", "right_end", "middle"), flip_pairs=((0, 1),), limbs=((0, 1), (0, 2), (1, 2)))


def grey(height: int = 120, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def pose(keypoint_scores=(1.0, 1.0, 1.0), points=((30.0, 60.0), (120.0, 60.0), (75.0, 100.0))) -> Poses:
    return Poses(
        keypoints=torch.tensor([points]),
        keypoint_scores=torch.tensor([keypoint_scores]),
        boxes=torch.tensor([[20.0, 40.0, 130.0, 110.0]]),
        scores=torch.tensor([0.9]),
        skeleton=DOT,
        image_size=(120, 160),
    )


def hue(pixel: np.ndarray) -> float:
    return colorsys.rgb_to_hsv(*(pixel / 255))[0]


def test_a_picture_with_nobody_comes_back_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    drawn = draw_poses(image, Poses.empty(COCO_PERSON))
    np.testing.assert_array_equal(np.asarray(drawn), image)


@pytest.mark.parametrize("kind", ["array", "pillow", "read-only array"])
def test_the_callers_picture_is_never_drawn_on(kind):
    image = grey()
    if kind == "pillow":
        image = Image.fromarray(image)
    elif kind == "read-only array":
        image.flags.writeable = False
    drawn = draw_poses(image, pose())
    np.testing.assert_array_equal(np.asarray(image), grey())
    assert drawn.size == (160, 120)
    assert (np.asarray(drawn) != 128).any()


def test_left_is_warm_and_right_is_cool():
    drawn = np.asarray(draw_poses(grey(), pose(), boxes=False))
    left, right = drawn[60, 30], drawn[60, 120]
    assert left[0] > left[2]
    assert right[2] > right[0]


@pytest.mark.parametrize("person", range(8))
def test_the_two_sides_of_any_person_differ_and_limbs_across_are_of_neither(person):
    left, right, middle = keypoint_colours(DOT, person)
    across, on_left, on_right = limb_colours(DOT, person)
    assert (on_left, on_right, across) == (left, right, middle)
    assert hue(np.array(left)) < 0.2
    assert 0.45 < hue(np.array(right)) < 0.7


def test_keypoints_under_the_threshold_are_not_drawn_nor_are_their_limbs():
    drawn = np.asarray(draw_poses(grey(), pose((0.1, 0.1, 0.1)), boxes=False, keypoint_threshold=0.2))
    np.testing.assert_array_equal(drawn, grey())
    drawn = np.asarray(draw_poses(grey(), pose((1.0, 0.1, 1.0)), boxes=False, keypoint_threshold=0.2))
    np.testing.assert_array_equal(drawn[50:70, 100:140], grey()[50:70, 100:140])
    assert (drawn[50:70, 20:40] != 128).any()


def test_a_less_certain_keypoint_is_drawn_fainter_and_smaller():
    certain = np.asarray(draw_poses(grey(), pose((1.0, 0.0, 0.0)), boxes=False)).astype(int)
    doubtful = np.asarray(draw_poses(grey(), pose((0.3, 0.0, 0.0)), boxes=False)).astype(int)
    assert np.abs(certain[60, 30] - 128).sum() > np.abs(doubtful[60, 30] - 128).sum() > 0
    assert (certain != 128).any(-1).sum() > (doubtful != 128).any(-1).sum()


def test_a_keypoint_is_drawn_around_the_centre_of_its_pixel():
    image = grey(41, 41)
    one = Poses(
        torch.tensor([[[20.0, 20.0], [0.0, 0.0], [0.0, 0.0]]]), torch.tensor([[1.0, 0.0, 0.0]]),
        torch.tensor([[10.0, 10.0, 31.0, 31.0]]), torch.tensor([1.0]), DOT,
    )  # fmt: skip
    change = np.abs(np.asarray(draw_poses(image, one, boxes=False)).astype(int) - 128).sum(-1)
    ys, xs = np.nonzero(change)
    weights = change[ys, xs]
    assert abs(np.average(xs, weights=weights) - 20) < 0.25
    assert abs(np.average(ys, weights=weights) - 20) < 0.25


def test_edges_are_antialiased():
    drawn = np.asarray(draw_poses(grey(), pose(points=((30.0, 20.0), (40.0, 110.0), (120.0, 30.0))), boxes=False))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 30


def test_poses_outside_the_picture_and_broken_coordinates_do_not_stop_the_drawing():
    outside = pose(points=((-1e6, 50.0), (1e6, 50.0), (float("nan"), 10.0)))
    assert draw_poses(grey(), outside).size == (160, 120)
    beyond = pose(points=((-500.0, 50.0), (-400.0, 50.0), (-450.0, 60.0)))
    np.testing.assert_array_equal(np.asarray(draw_poses(grey(), beyond, boxes=False)), grey())


def test_any_skeleton_can_be_drawn_even_one_without_limbs_or_sides():
    skeleton = Skeleton("star", ("a", "b"))
    poses = Poses(
        torch.tensor([[[10.0, 10.0], [50.0, 50.0]]]), torch.ones(1, 2), torch.tensor([[0.0, 0.0, 60.0, 60.0]]),
        torch.tensor([0.5]), skeleton,
    )  # fmt: skip
    assert (np.asarray(draw_poses(grey(), poses)) != 128).any()


def test_a_one_pixel_picture_can_be_drawn_on():
    assert draw_poses(grey(1, 1), pose()).size == (1, 1)


def test_the_wrong_kind_of_picture_is_refused_by_shape_and_type():
    with pytest.raises(ValueError, match="uint8"):
        draw_poses(np.zeros((10, 10, 3), np.float32), Poses.empty(DOT))
    with pytest.raises(ValueError, match=r"\(10, 10\)"):
        draw_poses(np.zeros((10, 10), np.uint8), Poses.empty(DOT))


def test_captions_must_be_one_a_person():
    with pytest.raises(ValueError, match="2 for 1"):
        draw_poses(grey(), pose(), captions=["a", "b"])


def labels() -> PersonLabels:
    return PersonLabels(
        keypoints=np.array([[[30, 60], [120, 60], [0, 0]], [[0, 0], [0, 0], [0, 0]]], np.float32),
        visibility=np.array([[2, 1, 0], [0, 0, 0]], np.uint8),
        boxes=np.array([[20, 40, 130, 110], [5, 5, 60, 60]], np.float32),
        areas=np.array([5000, 3000], np.float32),
        crowd=np.array([False, True]),
    )


def test_labels_become_poses_whose_scores_tell_visible_hidden_and_unlabelled_apart():
    poses = poses_from_labels(labels(), DOT)
    torch.testing.assert_close(poses.keypoint_scores, torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(poses.boxes[0], torch.tensor([20.0, 40.0, 130.0, 110.0]))


def test_a_comparison_shows_the_picture_twice_with_the_truth_on_the_left():
    sheet = draw_comparison(grey(), Poses.empty(DOT), labels())
    assert sheet.width > 2 * 160
    assert sheet.height > 120
    header = sheet.height - 120
    halves = np.asarray(sheet)[header:]
    np.testing.assert_array_equal(halves[:, -160:], grey())
    assert (halves[:, :160] != 128).any()


def test_a_contact_sheet_holds_pictures_of_any_size_in_rows():
    sheet = contact_sheet([grey(), grey(30, 400), Image.fromarray(grey(700, 90))], columns=2, cell_size=(100, 200))
    assert sheet.size == (2 * 204 + 4, 2 * 104 + 4)
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
