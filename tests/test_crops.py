"""A box becomes a crop and a crop's keypoints go back: against the published code's way, one person at a time."""

from __future__ import annotations

import numpy as np
import published_cascade as published
import pytest
import torch
from torch.testing import assert_close

from multiposenet.crops import CropRule, CropWindows
from multiposenet.data.transforms import warp_image
from multiposenet.geometry import CropWindow, xywh_to_xyxy

LEGACY = CropRule((64, 48), border=(0, 0, 0), smooth=False, half_pixel=True)
BOXES = torch.tensor([[20.0, 10, 30, 60], [5, 40, 70, 20], [-10, -20, 40, 50], [50, 30, 200, 300]])  # xywh


def picture(height: int = 90, width: int = 120) -> torch.Tensor:
    """Smooth enough for two ways of interpolating to agree, [3, H, W] in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(height) / 9.0, torch.arange(width) / 11.0, indexing="ij")
    return torch.stack([x.sin() * 0.5 + 0.5, (y + x).cos() * 0.5 + 0.5, y.sin() * 0.5 + 0.5])


def test_crops_of_all_people_in_one_call_are_the_published_codes_crops_one_by_one():
    image = picture()
    windows = LEGACY.windows(xywh_to_xyxy(BOXES))
    ours = LEGACY.cut(image, windows)
    assert ours.shape == (4, 3, 64, 48)
    for box, one in zip(BOXES.numpy(), ours, strict=True):
        centre, width = published.region(box, (1.09, 1.135), (64, 48))
        theirs = published.crop(image.permute(1, 2, 0).double().numpy(), centre, width, (64, 48))
        assert_close(one.permute(1, 2, 0).double(), torch.from_numpy(theirs), atol=2e-5, rtol=0)


def test_keypoints_come_back_into_the_picture_as_by_the_published_code():
    windows = LEGACY.windows(xywh_to_xyxy(BOXES))
    points = torch.tensor([[3.0, 7.0], [20.5, 60.25], [47.0, 0.0]]).expand(4, 3, 2)
    ours = windows.keypoints_to_image(points)
    for box, one in zip(BOXES.numpy(), ours, strict=True):
        centre, width = published.region(box, (1.09, 1.135), (64, 48))
        scale = width / 48
        expected = points[0].double().numpy() * scale + centre - np.array([width / 2, 32 * scale])
        assert_close(one.double(), torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_a_box_with_the_crop_s_shape_fills_the_crop_exactly():
    rule = CropRule((64, 48), extension=(1.0, 1.0))
    (matrix,) = rule.windows(torch.tensor([[10.0, 20.0, 34.0, 52.0]])).matrices  # 24 x 32
    corners = matrix @ torch.tensor([[10.0, 34.0], [20.0, 52.0], [1.0, 1.0]], dtype=torch.float64)
    assert_close(corners, torch.tensor([[0.0, 48.0], [0.0, 64.0]], dtype=torch.float64))


@pytest.mark.parametrize("box", [[10.0, 10, 20, 90], [10, 10, 100, 20]])
def test_a_box_of_another_shape_is_widened_on_its_short_side_about_its_centre(box):
    rule = CropRule((64, 48), extension=(1.0, 1.0))
    windows = rule.windows(torch.tensor([box]))
    centre = torch.tensor([[[(box[0] + box[2]) / 2 - 0.5, (box[1] + box[3]) / 2 - 0.5]]])
    assert_close(windows.keypoints_to_image(torch.tensor([[[23.5, 31.5]]])), centre)
    assert float(windows.scales) == pytest.approx(min(48 / (box[2] - box[0]), 64 / (box[3] - box[1])))


def test_one_window_is_the_same_as_that_of_a_batch():
    for rule in (CropRule((64, 48)), LEGACY):
        box = xywh_to_xyxy(BOXES)[0].double()
        width = rule.region_widths((box[2:] - box[:2]) * torch.tensor(rule.extension))
        window = rule.window(tuple(((box[2:] + box[:2]) / 2).tolist()), float(width))
        assert_close(torch.from_numpy(window.matrix), rule.windows(box[None]).matrices[0])


@pytest.mark.parametrize("scale", [0.2, 0.45, 0.9, 2.0])
def test_crops_in_use_look_like_crops_in_training(scale):
    image = picture(200, 260)
    rule = CropRule((64, 48))
    window = rule.window((130.0, 90.0), 48 / scale)
    ours = rule.cut(image, CropWindows(torch.from_numpy(window.matrix)[None], window.size))[0]
    from PIL import Image

    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    trained = torch.from_numpy(np.array(warp_image(Image.fromarray(pixels), window))).permute(2, 0, 1) / 255
    inside = slice(2, -2)
    assert_close(ours[:, inside, inside], trained[:, inside, inside], atol=0.02, rtol=0)


def test_outside_the_picture_lies_the_border_s_colour():
    rule = CropRule((32, 32), extension=(1.0, 1.0), border=(255, 51, 0))
    crop = rule.cut(torch.zeros(3, 20, 20), rule.windows(torch.tensor([[100.0, 100.0, 120.0, 120.0]])))[0]
    assert_close(crop, torch.tensor([1.0, 0.2, 0.0])[:, None, None].expand(3, 32, 32))


def test_nobody_gives_no_crop():
    rule = CropRule((64, 48))
    assert rule.cut(picture(), rule.windows(torch.zeros(0, 4))).shape == (0, 3, 64, 48)


def test_another_long_side_keeps_the_shape():
    assert CropRule((256, 192)).resized(384).size == (384, 288)
    assert CropRule((256, 256)).resized(128).size == (128, 128)
    assert CropRule((200, 144)).resized(200).size == (200, 144)


def test_turning_and_mirroring_are_about_the_middle_of_the_crop():
    for rule in (CropRule((64, 48)), LEGACY):
        windows = [rule.window((50.0, 40.0), 60.0, angle, mirror) for angle, mirror in ((0, False), (30, True))]
        centre = np.array([[50.0, 40.0]]) - (0.0 if rule.half_pixel else 0.5)
        middle = np.array([[24.0, 32.0]]) - (0.0 if rule.half_pixel else 0.5)
        for window in windows:
            assert isinstance(window, CropWindow)
            np.testing.assert_allclose(window.keypoints_to_crop(centre), middle, atol=1e-9)
