"""The highest pixel of enlarged maps, against enlarging them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from multiposenet import bicubic
from multiposenet.bicubic import find_bicubic_maxima


def by_enlarging(maps: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (x, y) and values, by PyTorch's interpolation of each row's maps."""
    pixels, values = [], []
    for own, size in zip(maps, sizes.tolist(), strict=True):
        large = F.interpolate(own[None], size=size, mode="bicubic", align_corners=False)[0].flatten(1)
        best, place = large.max(1)
        pixels.append(torch.stack([place % size[1], place // size[1]], dim=-1))
        values.append(best)
    return torch.stack(pixels), torch.stack(values)


def random_maps(rows: int, k: int = 5, size: int = 28, seed: int = 0) -> Tensor:
    return torch.randn(rows, k, size, size, generator=torch.Generator().manual_seed(seed))


def smooth_maps(rows: int, seed: int = 0) -> Tensor:
    """As a head gives them: upsampled by a factor of two."""
    return 5 * F.interpolate(random_maps(rows, size=14, seed=seed), scale_factor=2, mode="bilinear")


SIZES = torch.tensor([[200, 90], [31, 260], [28, 28], [29, 27], [9, 140], [150, 5], [11, 12], [1, 1], [3, 2]])
"""Larger and smaller than the maps, on one side and on both."""


@pytest.mark.parametrize("make", [random_maps, smooth_maps])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_highest_pixel_is_that_of_the_enlarged_map(make, seed):
    maps = make(len(SIZES), seed=seed)
    pixels, values = find_bicubic_maxima(maps, SIZES)
    wanted_pixels, wanted_values = by_enlarging(maps, SIZES)
    assert_close(values, wanted_values, atol=1e-4, rtol=1e-5)
    assert_close(pixels, wanted_pixels)


def test_maps_need_not_be_square():
    maps = random_maps(3)[:, :, :20]
    pixels, _ = find_bicubic_maxima(maps, SIZES[:3])
    assert_close(pixels, by_enlarging(maps, SIZES[:3])[0])


def test_a_maximum_beyond_the_outermost_nodes_is_found():
    maps = torch.zeros(1, 4, 16, 16)
    for k, (y, x) in enumerate([(0, 0), (0, 15), (15, 0), (15, 15)]):
        maps[0, k, y, x] = 1.0
    pixels, _ = find_bicubic_maxima(maps, torch.tensor([[160, 160]]))
    assert_close(pixels, by_enlarging(maps, torch.tensor([[160, 160]]))[0])
    assert bool(((pixels < 10) | (pixels >= 150)).all())


def test_of_equal_pixels_the_first_counts():
    pixels, values = find_bicubic_maxima(torch.zeros(1, 2, 14, 14), torch.tensor([[40, 30]]))
    assert_close(pixels, torch.zeros(1, 2, 2, dtype=torch.long))
    assert_close(values, torch.zeros(1, 2))


def test_maps_without_a_clear_maximum_are_searched_in_parts(monkeypatch):
    maps = random_maps(1).round()  # many nodes of equal height
    monkeypatch.setattr(bicubic, "PIXELS_AT_ONCE", 100)
    assert_close(find_bicubic_maxima(maps, SIZES[:1])[1], by_enlarging(maps, SIZES[:1])[1], atol=1e-4, rtol=1e-5)


def test_large_offsets_do_not_hide_the_maximum():
    maps = random_maps(2)
    assert_close(find_bicubic_maxima(maps - 1000.0, SIZES[:2])[0], by_enlarging((maps - 1000.0), SIZES[:2])[0])


def test_nobody_has_no_maxima():
    pixels, values = find_bicubic_maxima(torch.zeros(0, 17, 56, 56), torch.zeros(0, 2, dtype=torch.long))
    assert pixels.shape == (0, 17, 2)
    assert values.shape == (0, 17)
