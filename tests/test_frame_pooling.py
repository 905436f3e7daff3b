"""Features in people's frames: what torchvision's RoIAlign reads, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import roi_align

from multiposenet.models.frame_pooling import pool_frames

SIZE = (8, 6)
PICTURE = torch.tensor([2, 0, 1, 0, 2, 1])
FRAMES = torch.tensor(
    [
        [10.3, 5.1, 60.2, 70.9],
        [-50.0, -40.0, 30.0, 20.0],  # partly outside
        [100.0, 60.0, 180.0, 140.0],
        [-90.0, -90.0, -20.0, -10.0],  # nothing of it inside
        [40.0, 30.0, 44.0, 33.0],  # within a cell
        [-10.0, -10.0, 150.0, 110.0],  # all of the picture
    ]
)


def features_of(memory_format: torch.memory_format) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 5, 20, 30, generator=generator).contiguous(memory_format=memory_format).requires_grad_()


def expected(features: Tensor) -> Tensor:
    places = torch.cat([PICTURE[:, None].float(), FRAMES], dim=1)
    return roi_align(features, places, SIZE, 1 / 4, sampling_ratio=1, aligned=True)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_it_reads_and_teaches_what_roi_align_does(memory_format: torch.memory_format):
    ours, theirs = features_of(memory_format), features_of(memory_format)
    (read,), wanted = pool_frames([ours], PICTURE, FRAMES, SIZE, 4), expected(theirs)
    assert_close(read, wanted, atol=2e-5, rtol=1e-5)
    assert read.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn(read.shape, generator=torch.Generator().manual_seed(1))
    (read * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-5)


def test_half_precision_features_are_read_at_whole_precision():
    features = features_of(torch.channels_last).bfloat16()
    (read,) = pool_frames([features], PICTURE, FRAMES, SIZE, 4)
    assert read.dtype == torch.float32
    assert_close(read, expected(features.float()), atol=2e-5, rtol=1e-5)


def test_nobody_has_no_features():
    (read,) = pool_frames([features_of(torch.channels_last)], PICTURE[:0], FRAMES[:0], SIZE, 4)
    assert read.shape == (0, 5, *SIZE)


def test_several_maps_of_one_grid_are_read_as_one_would_be():
    features = features_of(torch.channels_last)
    parts = pool_frames(features.split([2, 3], dim=1), PICTURE, FRAMES, SIZE, 4)
    assert_close(torch.cat(parts, dim=1), *pool_frames([features], PICTURE, FRAMES, SIZE, 4))
