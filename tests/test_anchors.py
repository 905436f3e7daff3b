"""Anchors: the grid of the published detector, and torchvision's box arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder

from multiposenet.anchors import AnchorGrid

GRID = AnchorGrid()


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 400 - 50
    return torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 200], dim=1)


@pytest.mark.parametrize(("side", "count"), [(480, 43245), (608, 69354)])
def test_the_published_picture_sizes_have_the_published_number_of_anchors(side, count):
    assert GRID.anchors((side, side)).shape == (count, 4)


def test_anchors_are_ordered_by_level_row_column_ratio_and_scale():
    expected = []
    for stride, size in ((8, 32), (16, 64), (32, 128), (64, 256), (128, 512)):
        for row in range(math.ceil(70 / stride)):
            for column in range(math.ceil(150 / stride)):
                for ratio in (0.5, 1.0, 2.0):  # height / width
                    for octave in (0, 1 / 3, 2 / 3):
                        width = size * 2**octave / math.sqrt(ratio)
                        height = width * ratio
                        x, y = (column + 0.5) * stride, (row + 0.5) * stride
                        expected.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    assert_close(GRID.anchors((70, 150)), torch.tensor(expected, dtype=torch.float64).float())


def test_a_cell_has_as_many_anchors_as_there_are_ratios_and_scales():
    grid = AnchorGrid(strides=(8,), sizes=(32,), ratios=(1.0, 2.0), scales=(1.0, 1.5, 2.0, 3.0))
    assert len(grid.anchors((8, 8))) == grid.per_cell == 8


def test_another_grid_is_not_answered_from_the_memory_of_this_one():
    other = AnchorGrid(sizes=(16, 32, 64, 128, 256))
    assert_close(other.anchors((64, 64))[0, 2] - other.anchors((64, 64))[0, 0], torch.tensor(16 * 2**0.5))
    assert_close(GRID.anchors((64, 64))[0, 2] - GRID.anchors((64, 64))[0, 0], torch.tensor(32 * 2**0.5))


def test_anchors_lie_on_the_device_that_is_asked_for():
    assert GRID.anchors((64, 64), "meta").device.type == "meta"


def test_encoding_agrees_with_torchvision_s_box_coder():
    boxes, anchors = random_boxes(50, seed=1), random_boxes(50, seed=2)
    theirs = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)).encode_single(boxes, anchors)
    assert_close(GRID.encode(boxes, anchors), theirs)


def test_decoding_agrees_with_torchvision_s_box_coder_up_to_its_limit_of_growth():
    anchors = random_boxes(200, seed=2)
    deltas = torch.randn(200, 4, generator=torch.Generator().manual_seed(3)) * 12  # some beyond the limit
    theirs = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)).decode_single(deltas, anchors)
    assert_close(GRID.decode(deltas, anchors), theirs, rtol=1e-5, atol=1e-2)


def test_decoding_inverts_encoding():
    boxes, anchors = random_boxes(50, seed=1).double(), random_boxes(50, seed=2).double()
    assert_close(GRID.decode(GRID.encode(boxes, anchors), anchors), boxes)


def test_decoding_a_batch_is_decoding_each_of_its_pictures():
    anchors, deltas = random_boxes(9, seed=4), torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(5))
    for picture in range(3):
        assert_close(GRID.decode(deltas, anchors)[picture], GRID.decode(deltas[picture], anchors))


def test_absurd_offsets_decode_to_finite_boxes():
    assert bool(torch.isfinite(GRID.decode(torch.full((1, 4), 1e4), random_boxes(1, seed=1))).all())
