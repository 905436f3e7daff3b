"""The pixel convention, checked against pictures whose content is measured, not against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from multiposenet.geometry import (
    CropWindow,
    cells_to_pixels,
    clip_boxes,
    flip_boxes,
    flip_keypoints,
    pixels_to_cells,
    xywh_to_xyxy,
    xyxy_to_xywh,
)


def spot(x: float, y: float, size: tuple[int, int]) -> np.ndarray:
    """A picture [H, W] float32 with a soft spot at pixel (x, y)."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8).astype(np.float32)


def centroid(picture: np.ndarray) -> torch.Tensor:
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    return torch.tensor([(picture * columns).sum(), (picture * rows).sum()], dtype=torch.float64) / picture.sum()


def extent(picture: np.ndarray) -> torch.Tensor:
    """Continuous edges (x1, y1, x2, y2) of the non-zero pixels."""
    rows, columns = picture.any(1).nonzero()[0], picture.any(0).nonzero()[0]
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=torch.float64)


def random_points(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 300 - 50


def turned() -> CropWindow:
    return CropWindow.around((31.0, 17.5), (2.0, 1.25), (60, 80), angle=37.0, mirror=True)


def test_a_keypoint_stays_on_its_spot_when_the_picture_is_resized():
    window = CropWindow.letterbox((40, 60), 180)
    resized = np.array(Image.fromarray(spot(23.0, 11.0, (40, 60))).resize((180, 120), Image.Resampling.BILINEAR))
    keypoint = window.keypoints_to_crop(torch.tensor([23.0, 11.0], dtype=torch.float64))
    assert_close(keypoint, centroid(resized), atol=0.01, rtol=0)


def test_a_box_stays_tight_when_the_picture_is_resized():
    picture = np.zeros((40, 60), np.uint8)
    picture[7:19, 5:31] = 255
    resized = np.array(Image.fromarray(picture).resize((180, 120), Image.Resampling.NEAREST))
    box = CropWindow.letterbox((40, 60), 180).boxes_to_crop(torch.tensor([5.0, 7, 31, 19], dtype=torch.float64))
    assert_close(box, extent(resized))


def test_a_keypoint_stays_on_its_spot_when_the_picture_is_mirrored():
    mirrored = spot(23.0, 11.0, (40, 60))[:, ::-1]
    assert_close(flip_keypoints(torch.tensor([23.0, 11.0], dtype=torch.float64), 60), centroid(mirrored))


def test_a_box_stays_tight_when_the_picture_is_mirrored():
    picture = np.zeros((40, 60), np.uint8)
    picture[7:19, 5:31] = 255
    assert_close(flip_boxes(torch.tensor([5.0, 7, 31, 19], dtype=torch.float64), 60), extent(picture[:, ::-1]))


def test_a_keypoint_stays_on_its_spot_in_a_turned_stretched_and_mirrored_window():
    window = turned()
    data = tuple(window.inverse_matrix().ravel())
    crop = np.array(
        Image.fromarray(spot(36.0, 20.0, (40, 60))).transform(
            (80, 60), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR
        )
    )
    keypoint = window.keypoints_to_crop(torch.tensor([36.0, 20.0], dtype=torch.float64))
    assert_close(keypoint, centroid(crop), atol=0.02, rtol=0)


def test_the_middle_of_the_first_cell_is_the_middle_of_the_first_stride_pixels():
    assert_close(pixels_to_cells(torch.tensor([1.5, 5.5]), 4), torch.tensor([0.0, 1.0]))


def test_cells_and_pixels_invert_each_other():
    points = random_points(20, 2)
    assert_close(cells_to_pixels(pixels_to_cells(points, 4), 4), points)


def test_box_formats_invert_each_other_and_agree_on_width_and_height():
    boxes_xywh = torch.tensor([[3.0, 4.0, 10.0, 20.0], [0.0, 0.0, 0.0, 1.0]])
    boxes = xywh_to_xyxy(boxes_xywh)
    assert_close(boxes, torch.tensor([[3.0, 4.0, 13.0, 24.0], [0.0, 0.0, 0.0, 1.0]]))
    assert_close(xyxy_to_xywh(boxes), boxes_xywh)


def test_a_clipped_box_keeps_what_is_inside_the_picture():
    clipped = clip_boxes(torch.tensor([[-5.0, 10.0, 700.0, 30.0], [1.0, -2.0, 3.0, 999.0]]), (480, 640))
    assert_close(clipped, torch.tensor([[0.0, 10.0, 640.0, 30.0], [1.0, 0.0, 3.0, 480.0]]))


def test_a_box_outside_the_picture_becomes_empty_and_never_inverted():
    outside = torch.tensor([[500.0, 10.0, 520.0, 50.0], [-30.0, -40.0, -10.0, -5.0], [10.0, 490.0, 20.0, 510.0]])
    sides = (clip_boxes(outside, (480, 480))[:, 2:] - clip_boxes(outside, (480, 480))[:, :2])
    assert bool((sides >= 0).all())
    assert_close(sides.prod(-1), torch.zeros(3))


@pytest.mark.parametrize("flip", [flip_keypoints, flip_boxes])
def test_mirroring_twice_changes_nothing(flip):
    points = random_points(20, 2 if flip is flip_keypoints else 4)
    assert_close(flip(flip(points, 101), 101), points)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numpy_and_torch_give_the_same_numbers_in_the_type_they_came_in(dtype):
    window = turned()
    points, boxes = random_points(7, 2).to(dtype), random_points(7, 4).to(dtype)
    steps = [
        (window.keypoints_to_crop, points), (window.keypoints_to_image, points),
        (window.boxes_to_crop, boxes), (window.boxes_to_image, boxes),
        (lambda p: flip_keypoints(p, 64), points), (lambda b: flip_boxes(b, 64), boxes),
        (lambda b: clip_boxes(b, (50, 60)), boxes), (xywh_to_xyxy, boxes), (xyxy_to_xywh, boxes),
    ]  # fmt: skip
    for step, argument in steps:
        from_numpy = step(argument.numpy())
        assert isinstance(from_numpy, np.ndarray)
        assert_close(torch.from_numpy(from_numpy), step(argument))
        assert step(argument).dtype == dtype


def test_a_letterbox_scales_both_axes_alike_so_that_the_long_side_fits():
    window = CropWindow.letterbox((427, 640), 480)
    corners = window.boxes_to_crop(torch.tensor([0.0, 0.0, 640.0, 427.0], dtype=torch.float64))
    assert_close(corners, torch.tensor([0.0, 0.0, 480.0, 427 * 0.75], dtype=torch.float64))


def test_a_letterbox_pads_each_side_to_the_next_multiple_only():
    assert CropWindow.letterbox((427, 640), 480).size == (352, 480)
    assert CropWindow.letterbox((640, 427), 480).size == (480, 352)
    assert CropWindow.letterbox((480, 480), 480, multiple=64).size == (512, 512)


def test_no_picture_size_rounds_a_letterbox_up_past_its_long_side():
    sizes = {CropWindow.letterbox((height, 1), 480).size for height in range(16, 2000)}
    assert sizes == {(480, 32)}


def test_a_picture_of_a_single_row_still_gets_a_canvas():
    assert CropWindow.letterbox((1, 5000), 480).size == (32, 480)


@pytest.mark.parametrize("image_size", [(0, 5), (5, 0)])
def test_a_picture_without_pixels_has_no_letterbox(image_size):
    with pytest.raises(ValueError, match=f"at least 1x1, got {image_size[0]}x{image_size[1]}"):
        CropWindow.letterbox(image_size, 480)


def test_the_centre_of_a_window_lands_in_the_middle_of_the_crop():
    centre = torch.tensor([31.0, 17.5], dtype=torch.float64) - 0.5  # as a pixel index
    assert_close(turned().keypoints_to_crop(centre), torch.tensor([39.5, 29.5], dtype=torch.float64))


def test_a_quarter_turn_brings_what_was_on_the_right_to_the_bottom():
    window = CropWindow.around((50.0, 50.0), 1.0, (100, 100), angle=90.0)
    assert_close(window.keypoints_to_crop(torch.tensor([69.5, 49.5])), torch.tensor([49.5, 69.5]))


def test_a_mirrored_window_brings_what_was_on_the_right_to_the_left():
    window = CropWindow.around((50.0, 50.0), 1.0, (100, 100), mirror=True)
    assert_close(window.keypoints_to_crop(torch.tensor([69.5, 40.0])), torch.tensor([29.5, 40.0]))


def test_the_scale_of_a_window_is_the_root_of_its_area_ratio():
    assert_close(turned().scale, (2.0 * 1.25) ** 0.5)


def test_keypoints_come_back_from_the_crop_to_where_they_were():
    points = random_points(5, 3, 2)
    assert_close(turned().keypoints_to_image(turned().keypoints_to_crop(points)), points)


def test_boxes_come_back_from_an_upright_crop_to_where_they_were():
    window = CropWindow.around((20.0, 30.0), (0.5, 3.0), (64, 64))
    boxes = torch.tensor([[1.0, 2.0, 30.0, 50.0]], dtype=torch.float64)
    assert_close(window.boxes_to_image(window.boxes_to_crop(boxes)), boxes)


def test_the_box_of_a_turned_window_touches_all_four_turned_corners():
    x1, y1, x2, y2 = 10.0, 5.0, 40.0, 25.0
    corners = turned().keypoints_to_crop(torch.tensor([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) - 0.5) + 0.5
    tight = torch.cat([corners.amin(0), corners.amax(0)])
    assert_close(turned().boxes_to_crop(torch.tensor([x1, y1, x2, y2])), tight)


def test_nobody_passes_through_a_window():
    assert turned().keypoints_to_crop(torch.zeros(0, 3, 2)).shape == (0, 3, 2)
    assert turned().boxes_to_image(np.zeros((0, 4), np.float32)).shape == (0, 4)
