"""Heatmaps: what is drawn is found again, below the cell; plateaus, borders and crowds included."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from multiposenet.heatmap import (
    HeatmapCodec,
    draw_gaussians,
    filter_symmetric,
    find_peaks,
    local_maximum,
    sums_around,
    unflip_heatmaps,
)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def gaussian(x: float, y: float, size: tuple[int, int], sigma: float) -> torch.Tensor:
    """A unit Gaussian [h, w] cell by cell, by the formula."""
    return torch.tensor(
        [
            [math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2)) for column in range(size[1])]
            for row in range(size[0])
        ]
    )


def one_keypoint(*points: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Keypoints [1, P, 1, 2] and visibility of people who have a single keypoint each."""
    keypoints = torch.tensor(points, dtype=torch.float32).view(1, -1, 1, 2)
    return keypoints, torch.full(keypoints.shape[:3], 2)


def found(peaks) -> torch.Tensor:
    """Positions [T, 2] of the valid peaks of the first map."""
    return peaks.xy[0, 0][peaks.valid[0, 0]]


# --- drawing


def test_a_drawn_gaussian_follows_the_formula_up_to_its_cut_off_tail():
    drawn = draw_gaussians(torch.tensor([[7.3, 4.6]]), torch.tensor([0]), 1, (12, 15), sigma=1.5)
    assert_close(drawn[0], gaussian(7.3, 4.6, (12, 15), 1.5), atol=4e-4, rtol=0)


def test_people_who_overlap_take_the_maximum_and_not_the_sum():
    centres = torch.tensor([[5.0, 5.0], [7.0, 5.5]])
    both = draw_gaussians(centres, torch.tensor([0, 0]), 1, (12, 15), sigma=2.0)
    alone = [draw_gaussians(centres[i : i + 1], torch.tensor([0]), 1, (12, 15), sigma=2.0) for i in (0, 1)]
    assert_close(both, torch.maximum(*alone), atol=0, rtol=0)


def test_each_point_is_drawn_into_its_own_map():
    centres = torch.tensor([[2.0, 3.0], [8.0, 1.0]])
    maps = draw_gaussians(centres, torch.tensor([2, 0]), 3, (9, 12), sigma=1.0)
    assert [(int(m.argmax()) % 12, int(m.argmax()) // 12) for m in maps[[2, 0]]] == [(2, 3), (8, 1)]
    assert float(maps[1].max()) == 0


@pytest.mark.parametrize("centre", [(-1.0, 4.0), (10.0, 4.0), (5.0, -1.0), (5.0, 9.0), (-0.4, -0.4)])
def test_a_point_beyond_the_border_leaves_the_visible_part_of_its_gaussian(centre):
    drawn = draw_gaussians(torch.tensor([centre]), torch.tensor([1]), 3, (9, 10), sigma=1.0)
    assert_close(drawn[1], gaussian(*centre, (9, 10), 1.0), atol=4e-4, rtol=0)
    assert float(drawn[[0, 2]].max()) == 0


def test_a_point_far_outside_draws_nothing():
    centres = torch.tensor([[1e9, 3.0], [3.0, -1e9], [-1e30, 1e30]])
    assert float(draw_gaussians(centres, torch.tensor([0, 0, 0]), 1, (9, 10), sigma=2.0).max()) == 0


def test_nobody_is_an_empty_map():
    maps = HeatmapCodec().encode(torch.zeros(2, 0, 3, 2), torch.zeros(2, 0, 3), (32, 48))
    assert_close(maps, torch.zeros(2, 3, 8, 12))


# --- windows


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (17, 23)])
def test_the_local_maximum_is_that_of_max_pooling(radius, size):
    maps = torch.randn(2, 3, *size, generator=seeded())
    pooled = functional.max_pool2d(maps, 2 * radius + 1, stride=1, padding=radius)
    assert_close(local_maximum(maps, radius), pooled, atol=0, rtol=0)


def test_the_local_maximum_leaves_its_argument_as_it_was():
    maps = torch.randn(1, 1, 9, 9, generator=seeded())
    before = maps.clone()
    local_maximum(maps, 2)
    assert_close(maps, before, atol=0, rtol=0)


@pytest.mark.parametrize("radius", [0, 1, 6])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (17, 23)])
def test_sums_around_cells_are_those_of_a_window_of_ones_over_a_map_that_ends_in_zeros(radius, size):
    maps = torch.rand(6, *size, generator=seeded())
    number, row, column = torch.ones(6, *size, dtype=torch.bool).nonzero(as_tuple=True)
    window = torch.ones(1, 1, 2 * radius + 1, 2 * radius + 1)
    expected = functional.conv2d(maps[:, None], window, padding=radius)[number, 0, row, column]
    assert_close(sums_around(maps, number, torch.stack([column, row], -1), radius), expected)


@pytest.mark.parametrize("taps", [(2.0,), (1.0, 1.0, 1.0), (0.5, 0.3, -0.1, 0.2)])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (23, 17)])
def test_a_symmetric_filter_is_the_convolution_with_its_kernel_along_both_axes(taps, size):
    maps = torch.randn(2, 3, *size, generator=seeded())
    line = torch.tensor((*reversed(taps[1:]), *taps))
    kernel = (line[:, None] * line).expand(3, 1, -1, -1)
    expected = functional.conv2d(maps, kernel, padding=len(taps) - 1, groups=3)
    assert_close(filter_symmetric(maps, taps), expected, atol=1e-5, rtol=1e-5)


def test_a_symmetric_filter_is_as_exact_where_a_network_trains_in_half_precision():
    maps = torch.rand(2, 3, 16, 12, generator=seeded())
    exact = filter_symmetric(maps, (1.0, 0.5))
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(filter_symmetric(maps, (1.0, 0.5)), exact, atol=0, rtol=0)


# --- peaks


def test_peaks_come_strongest_first():
    maps = torch.zeros(1, 1, 20, 20)
    maps[0, 0, 3, 4], maps[0, 0, 10, 15], maps[0, 0, 17, 2] = 0.4, 0.9, 0.6
    peaks = find_peaks(maps, max_peaks=5)
    assert_close(peaks.scores[0, 0], torch.tensor([0.9, 0.6, 0.4, 0.0, 0.0]))
    assert_close(found(peaks), torch.tensor([[15.0, 10.0], [2.0, 17.0], [4.0, 3.0]]))


def test_with_too_few_slots_the_strongest_peaks_stay():
    maps = torch.zeros(1, 1, 20, 20)
    maps[0, 0, 3, 4], maps[0, 0, 10, 15], maps[0, 0, 17, 2] = 0.4, 0.9, 0.6
    assert_close(find_peaks(maps, max_peaks=2).scores[0, 0], torch.tensor([0.9, 0.6]))


def test_a_peak_below_the_threshold_is_invalid_and_one_at_the_threshold_is_not():
    maps = torch.zeros(1, 1, 20, 20)
    maps[0, 0, 5, 5], maps[0, 0, 15, 15] = 0.25, 0.24
    assert_close(found(find_peaks(maps, threshold=0.25)), torch.tensor([[5.0, 5.0]]))


def test_of_two_maxima_within_the_radius_only_the_larger_counts():
    maps = torch.zeros(1, 1, 9, 9)
    maps[0, 0, 4, 3], maps[0, 0, 4, 5] = 0.8, 0.9
    peaks = find_peaks(maps, radius=2)
    assert peaks.valid.sum() == 1
    assert_close(peaks.scores[0, 0, 0], torch.tensor(0.9))
    assert find_peaks(maps, radius=1).valid.sum() == 2


@pytest.mark.parametrize("shape", [(1, 2), (2, 2), (3, 3), (3, 1)])
def test_a_plateau_is_one_peak(shape):
    maps = torch.zeros(1, 1, 12, 12)
    maps[0, 0, 4 : 4 + shape[0], 6 : 6 + shape[1]] = 0.5
    assert find_peaks(maps, radius=2).valid.sum() == 1


def test_two_plateaus_of_the_same_height_are_two_peaks():
    maps = torch.zeros(1, 1, 12, 12)
    maps[0, 0, 1:3, 1:3] = maps[0, 0, 8:10, 7:9] = 0.5
    assert find_peaks(maps, radius=2).valid.sum() == 2


def test_a_peak_tells_what_all_maps_hold_where_it_is():
    maps = torch.rand(2, 3, 12, 15, generator=seeded())
    peaks = find_peaks(maps, max_peaks=12, threshold=0.9)
    assert peaks.valid.any()
    assert not peaks.valid.all()
    for picture, keypoint, slot in peaks.valid.nonzero().tolist():
        x, y = peaks.xy[picture, keypoint, slot].round().long().tolist()
        own = peaks.evidence[picture, keypoint, slot]
        assert_close(own[keypoint], peaks.scores[picture, keypoint, slot])
        # A refined position is at most half a cell from its cell, which rounding may take to a neighbour.
        around = maps[picture, :, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].flatten(1)
        assert ((around == own[:, None]).sum(0) == 3).any()
    assert not peaks.evidence[~peaks.valid].any()


def test_a_peak_tells_what_features_hold_where_it_is():
    maps = torch.rand(2, 3, 12, 15, generator=seeded())
    where = torch.arange(12 * 15.0).view(1, 1, 12, 15).expand(2, 1, -1, -1)
    peaks = find_peaks(maps, max_peaks=12, threshold=0.9, features=torch.cat([where, maps, -maps], 1))
    valid = peaks.valid
    assert peaks.appearance.shape == (2, 3, 12, 7)
    cell = torch.stack([peaks.appearance[..., 0] % 15, peaks.appearance[..., 0] // 15], -1)
    assert (cell - peaks.xy)[valid].abs().max() <= 0.5
    assert_close(peaks.appearance[..., 1:4], peaks.evidence)
    assert_close(peaks.appearance[..., 4:], -peaks.evidence)
    assert not peaks.appearance[~valid].any()
    assert find_peaks(maps).appearance is None


def test_a_flat_empty_map_has_no_peaks():
    peaks = find_peaks(torch.zeros(1, 2, 10, 10))
    assert not peaks.valid.any()
    assert_close(peaks.scores, torch.zeros_like(peaks.scores))


def test_scores_stay_in_the_unit_interval_when_the_network_overshoots():
    maps = torch.full((1, 1, 9, 9), -0.3)
    maps[0, 0, 4, 4] = 1.7
    peaks = find_peaks(maps)
    assert_close(peaks.scores[0, 0].max(), torch.tensor(1.0))
    assert float(peaks.scores.min()) == 0


def test_a_map_smaller_than_the_slots_gives_as_many_slots_as_it_has_cells():
    assert find_peaks(torch.rand(1, 2, 2, 3, generator=seeded()), max_peaks=32).scores.shape == (1, 2, 6)


def test_negative_neighbours_do_not_spoil_the_position():
    maps = torch.full((1, 1, 9, 9), -0.1)
    maps[0, 0, 4, 4] = 0.8
    assert_close(found(find_peaks(maps)), torch.tensor([[4.0, 4.0]]))


def test_peaks_of_a_batch_are_those_of_its_pictures_alone():
    maps = torch.rand(3, 2, 15, 17, generator=seeded())
    together = find_peaks(maps)
    for picture in range(3):
        alone = find_peaks(maps[picture : picture + 1])
        assert_close(together.xy[picture], alone.xy[0], atol=0, rtol=0)
        assert_close(together.scores[picture], alone.scores[0], atol=0, rtol=0)


# --- the codec


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("sigma", [1.0, 1.75, 3.0])
def test_decoding_inverts_encoding_to_a_fiftieth_of_a_cell(stride, sigma):
    codec = HeatmapCodec(stride=stride, sigma=sigma)
    side = 30 * stride
    keypoints = torch.rand(40, 1, 1, 2, generator=seeded()) * (side - 4 * stride) + 2 * stride
    peaks = codec.decode(codec.encode(keypoints, torch.ones(40, 1, 1), (side, side)))
    assert bool((peaks.valid.sum(-1) == 1).all())
    assert_close(peaks.xy[:, :, 0], keypoints[:, 0], atol=0.02 * stride, rtol=0)


def test_every_keypoint_of_every_person_of_every_picture_is_found_in_its_own_map():
    codec = HeatmapCodec()
    people = torch.tensor([[30.0, 40.0], [90.0, 44.0]])
    keypoints = (people[:, None] + torch.tensor([[0.0, 0.0], [13.0, 7.0], [-9.0, 21.0]]))[None]
    keypoints = torch.cat([keypoints, keypoints + 11.5])
    peaks = codec.decode(codec.encode(keypoints, torch.full((2, 2, 3), 2), (96, 128)))
    assert bool((peaks.valid.sum(-1) == 2).all())
    for picture in range(2):
        for k in range(3):
            xy = peaks.xy[picture, k][peaks.valid[picture, k]]
            assert_close(xy[xy[:, 0].argsort()], keypoints[picture, :, k], atol=0.08, rtol=0)


def test_only_labelled_keypoints_are_drawn():
    keypoints, _ = one_keypoint((20.0, 20.0), (60.0, 60.0), (40.0, 20.0))
    maps = HeatmapCodec().encode(keypoints, torch.tensor([0, 1, 2]).view(1, 3, 1), (80, 80))
    xy = found(HeatmapCodec().decode(maps))
    assert_close(xy[xy[:, 0].argsort()], torch.tensor([[40.0, 20.0], [60.0, 60.0]]), atol=0.08, rtol=0)


def test_the_target_is_one_at_a_keypoint_in_the_middle_of_a_cell():
    maps = HeatmapCodec(stride=4).encode(*one_keypoint((21.5, 9.5)), (40, 48))
    assert_close(maps[0, 0, 2, 5], torch.tensor(1.0))


@pytest.mark.parametrize("corner", [(0.0, 0.0), (79.0, 0.0), (0.0, 63.0), (79.0, 63.0)])
def test_a_keypoint_in_the_corner_of_the_picture_is_found_within_half_a_cell(corner):
    codec = HeatmapCodec(stride=4)
    peaks = codec.decode(codec.encode(*one_keypoint(corner), (64, 80)))
    assert peaks.valid.sum() == 1
    assert_close(found(peaks)[0], torch.tensor(corner), atol=2.0, rtol=0)


def test_two_people_four_cells_apart_are_two_peaks_at_their_places():
    codec = HeatmapCodec(stride=4, sigma=1.0)
    xy = found(codec.decode(codec.encode(*one_keypoint((30.0, 30.0), (46.0, 30.0)), (64, 80))))
    assert_close(xy[xy[:, 0].argsort()], torch.tensor([[30.0, 30.0], [46.0, 30.0]]), atol=0.08, rtol=0)


def test_two_people_at_the_same_place_are_one_peak_no_higher_than_one():
    maps = HeatmapCodec().encode(*one_keypoint((30.0, 30.0), (30.0, 30.0)), (64, 80))
    assert float(maps.max()) <= 1
    assert HeatmapCodec().decode(maps).valid.sum() == 1


def test_the_map_covers_pictures_whose_sides_are_no_multiples_of_the_stride():
    assert HeatmapCodec(stride=4).encode(*one_keypoint((5.0, 5.0)), (97, 131)).shape == (1, 1, 25, 33)


def test_encoding_and_decoding_are_those_of_each_picture_alone():
    codec = HeatmapCodec()
    keypoints = torch.rand(3, 4, 2, 2, generator=seeded()) * 64
    visibility = torch.randint(0, 3, (3, 4, 2), generator=seeded())
    together = codec.encode(keypoints, visibility, (64, 64))
    alone = [codec.encode(keypoints[i : i + 1], visibility[i : i + 1], (64, 64)) for i in range(3)]
    assert_close(together, torch.cat(alone), atol=0, rtol=0)


# --- mirrored maps


def test_maps_of_the_mirrored_picture_come_back_onto_the_original_ones():
    codec, width = HeatmapCodec(), 80
    keypoints = torch.rand(1, 3, 3, 2, generator=seeded()) * 64
    mirrored = torch.stack([width - 1 - keypoints[..., 0], keypoints[..., 1]], dim=-1)[:, :, [0, 2, 1]]
    seen = torch.full((1, 3, 3), 2)
    back = unflip_heatmaps(codec.encode(mirrored, seen, (64, width)), [0, 2, 1])
    assert_close(back, codec.encode(keypoints, seen, (64, width)), atol=1e-5, rtol=0)


def test_maps_beyond_the_keypoints_are_mirrored_and_keep_their_place():
    maps = torch.rand(1, 4, 3, 5, generator=seeded())
    assert_close(unflip_heatmaps(maps, [1, 0, 2])[:, 3], maps[:, 3].flip(-1), atol=0, rtol=0)
