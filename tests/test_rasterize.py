"""The grid over a person's box: half-cell centres, corners, borders and blobs."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from multiposenet.rasterize import PersonGrid

GRID = PersonGrid(size=(56, 36))


def draw(*cells: tuple[float, float], grid: PersonGrid = GRID) -> torch.Tensor:
    """The input map [h, w] of one person with one keypoint that has peaks at these cells."""
    points = torch.tensor(cells, dtype=torch.float32).view(-1, 2)
    none = torch.zeros(len(points), dtype=torch.long)
    return grid.draw(points, none, none, 1, 1)[0, 0]


def brightest(grid: torch.Tensor) -> tuple[int, int]:
    """(x, y) of the largest cell."""
    return int(grid.argmax()) % grid.shape[1], int(grid.argmax()) // grid.shape[1]


def test_a_box_of_the_grid_s_own_size_has_pixels_for_cells():
    box = torch.tensor([0.0, 0.0, 36.0, 56.0])
    points = torch.tensor([[0.0, 0.0], [35.0, 55.0], [7.25, 9.5]])
    assert_close(GRID.cells(points, box), points)


def test_a_cell_s_centre_is_the_middle_of_its_pixels():
    # Boxes are edges, keypoints pixel indices: the first cell of this box covers the pixels 10 and 11, 20 to 23.
    box = torch.tensor([10.0, 20.0, 10.0 + 2 * 36, 20.0 + 4 * 56])
    assert_close(GRID.cells(torch.tensor([10.5, 21.5]), box), torch.zeros(2))


def test_the_edges_of_the_box_are_the_outer_edges_of_the_first_and_last_cell():
    box = torch.tensor([10.3, 20.6, 95.2, 180.9])
    edges = torch.stack([box[:2], box[2:]]) - 0.5
    assert_close(GRID.cells(edges, box), torch.tensor([[-0.5, -0.5], [35.5, 55.5]]), atol=1e-4, rtol=0)


def test_pixels_invert_cells():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[10.0, 20.0, 90.0, 220.0], [0.0, 0.0, 7.0, 5.0]])[:, None]
    points = torch.rand(2, 9, 2, generator=generator) * 100
    assert_close(GRID.pixels(GRID.cells(points, boxes), boxes), points, atol=1e-3, rtol=0)


def test_points_are_near_a_box_within_the_margin_on_every_side():
    box = torch.tensor([100.0, 200.0, 200.0, 400.0])
    margin_x, margin_y = 21.0, 42.0
    just_in = torch.tensor([[100 - margin_x, 300], [200 + margin_x, 300], [150, 200 - margin_y], [150, 400 + margin_y]])
    outwards = torch.tensor([[-0.1, 0.0], [0.1, 0.0], [0.0, -0.1], [0.0, 0.1]])
    assert GRID.near(just_in - outwards - 0.5, box).all()
    assert not GRID.near(just_in + outwards - 0.5, box).any()


@pytest.mark.parametrize(
    ("cell", "border"),
    [
        ((-3.0, -2.0), (0, 0)),
        ((40.0, -2.0), (35, 0)),  # beyond the right and the upper edge: not the opposite corner
        ((-3.0, 60.0), (0, 55)),
        ((40.0, 60.0), (35, 55)),
        ((40.0, 20.25), (35, 20.25)),
        ((12.5, -1.0), (12.5, 0)),
    ],
)
def test_a_point_outside_is_moved_onto_the_border_on_each_axis_by_itself(cell, border):
    assert_close(GRID.clamp(torch.tensor(cell)), torch.tensor(border, dtype=torch.float32))


def test_a_peak_right_of_and_above_the_box_is_drawn_into_the_upper_right_corner():
    assert brightest(draw((40.0, -2.0))) == (35, 0)


@pytest.mark.parametrize("cell", [(0.0, 0.0), (35.0, 0.0), (35.0, 55.0), (17.0, 55.0), (-4.0, 70.0)])
def test_a_blob_at_the_border_is_as_strong_as_one_inside(cell):
    assert_close(draw(cell).max(), draw((18.0, 28.0)).max())
    assert_close(draw(cell).max(), torch.tensor(1.0))


def test_two_peaks_two_cells_apart_make_no_third_between_them():
    row = draw((10.0, 20.0), (12.0, 20.0))[20]
    assert_close(row[[10, 12]], torch.ones(2))
    assert_close(row[11], torch.tensor(math.exp(-0.5)))


def test_two_peaks_in_one_cell_draw_no_more_than_the_stronger_of_both_blobs():
    both = draw((10.2, 20.0), (10.4, 20.3))
    assert_close(both, torch.maximum(draw((10.2, 20.0)), draw((10.4, 20.3))), atol=0, rtol=0)


def test_a_blob_is_a_unit_gaussian_at_its_sub_cell_place():
    sigma = 1.3
    drawn = draw((10.3, 20.7), grid=PersonGrid(sigma=sigma))
    for x, y in ((10, 21), (12, 20), (8, 23)):
        expected = math.exp(-((x - 10.3) ** 2 + (y - 20.7) ** 2) / (2 * sigma**2))
        assert_close(drawn[y, x], torch.tensor(expected))


def test_each_peak_is_drawn_for_its_person_and_its_keypoint():
    cells = torch.tensor([[3.0, 4.0], [30.0, 50.0]])
    maps = GRID.draw(cells, torch.tensor([1, 0]), torch.tensor([0, 2]), people=2, num_keypoints=3)
    assert maps.shape == (2, 3, 56, 36)
    assert brightest(maps[1, 0]) == (3, 4)
    assert brightest(maps[0, 2]) == (30, 50)
    assert_close(maps.amax((-2, -1)), torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))


def test_an_answer_sums_to_one_where_labelled_also_at_the_border_and_to_zero_elsewhere():
    cells = torch.tensor([[[10.0, 20.0], [0.0, 0.0], [5.0, 5.0]], [[50.0, -9.0], [1.0, 2.0], [17.5, 30.2]]])
    labelled = torch.tensor([[True, True, False], [True, False, True]])
    assert_close(GRID.labels(cells, labelled).sum((-2, -1)), labelled.float())


def test_an_answer_peaks_where_the_keypoint_is():
    labels = GRID.labels(torch.tensor([[[10.0, 20.0], [40.0, -2.0]]]), torch.ones(1, 2, dtype=torch.bool))
    assert [brightest(labels[0, k]) for k in (0, 1)] == [(10, 20), (35, 0)]


def test_nobody_has_empty_grids():
    no_rows = torch.zeros(0, dtype=torch.long)
    assert GRID.draw(torch.zeros(0, 2), no_rows, no_rows, 0, 4).shape == (0, 4, 56, 36)
    assert GRID.labels(torch.zeros(0, 4, 2), torch.zeros(0, 4, dtype=torch.bool)).shape == (0, 4, 56, 36)


def test_a_box_without_area_gives_finite_cells():
    assert bool(torch.isfinite(GRID.cells(torch.tensor([3.0, 4.0]), torch.tensor([5.0, 5.0, 5.0, 9.0]))).all())


@pytest.mark.parametrize(("grid", "reach"), [
    (PersonGrid(label_sigma=2.0), 6),
    (PersonGrid(label_sigma=0.1), 1),
    (PersonGrid(label_sigma=2.0, window=7), 7),
])  # fmt: skip
def test_the_window_reaches_three_label_sigmas_unless_told(grid, reach):
    assert grid.reach == reach
