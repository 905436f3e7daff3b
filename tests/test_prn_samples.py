"""Batches for the pose residual network, against a reference that draws person by person."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from multiposenet.data.prn_samples import PrnAugmentation, PrnBatch, PrnSamples
from multiposenet.rasterize import PersonGrid
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels

DOLL = Skeleton("doll", ("head", "left_hand", "right_hand", "left_foot", "right_foot"), flip_pairs=((1, 2), (3, 4)))
K = DOLL.num_keypoints
GRID = PersonGrid(size=(14, 9), margin=0.21, sigma=1.0, label_sigma=0.8)


def random_pictures() -> list[PersonLabels]:
    """Crowded pictures of 0 to 5 overlapping people, with unlabelled keypoints, a crowd and a flat box among them."""
    rng = np.random.default_rng(0)
    pictures = []
    for people in (3, 0, 5, 1, 2):
        corner = rng.uniform(0, 60, (people, 2))
        sides = rng.uniform(30, 70, (people, 2))
        boxes = np.concatenate([corner, corner + sides], 1).astype(np.float32)
        share = rng.uniform(-0.1, 1.1, (people, K, 2))
        pictures.append(
            PersonLabels(
                keypoints=(corner[:, None] + share * sides[:, None]).astype(np.float32),
                visibility=rng.integers(0, 3, (people, K)).astype(np.uint8),
                boxes=boxes,
                areas=np.ones(people, np.float32),
                crowd=np.zeros(people, bool),
            )
        )
    pictures[2].visibility[:4] = 2
    pictures[2].crowd[1] = True
    pictures[2].boxes[2, 2] = pictures[2].boxes[2, 0]
    return pictures


def samples(min_keypoints: int = 1) -> PrnSamples:
    return PrnSamples.from_labels(random_pictures(), DOLL, min_keypoints)


def one_person(keypoints: list[list[float]], visibility: list[int] | None = None) -> PrnSamples:
    """A single person whose box is as large as the grid: pixels are cells."""
    labels = PersonLabels(
        keypoints=np.array([keypoints], np.float32),
        visibility=np.array([visibility or [2] * K], np.uint8),
        boxes=np.array([[0, 0, 9, 14]], np.float32),
        areas=np.ones(1, np.float32),
        crowd=np.zeros(1, bool),
    )
    return PrnSamples.from_labels([labels], DOLL, 1)


SPREAD = [[3, 1], [7, 5], [2, 6], [5, 12], [1, 11]]
"""Head, hands and feet in cells; nobody's column is anybody's column in the mirror."""


def many(one: PrnSamples, people: int = 4000) -> PrnSamples:
    """The same person in many pictures."""
    rows = torch.zeros(people, dtype=torch.long)
    return dataclasses.replace(
        one, **{name: getattr(one, name)[rows] for name in ("keypoints", "visibility", "boxes", "count")},
        first=torch.arange(people), usable=torch.arange(people),
    )  # fmt: skip


def slow_reference(pictures: list[PersonLabels], picture: int, person: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and answer of one person, cell by cell, by the definitions."""
    labels = pictures[picture]
    x1, y1, x2, y2 = labels.boxes[person]
    height, width = GRID.size
    crop, answer = np.zeros((K, height, width)), np.zeros((K, height, width))
    for other in range(len(labels)):
        for k in range(K):
            if labels.visibility[other, k] == 0:
                continue
            x, y = labels.keypoints[other, k] + 0.5
            share_x, share_y = (x - x1) / (x2 - x1), (y - y1) / (y2 - y1)
            near = -GRID.margin < share_x < 1 + GRID.margin and -GRID.margin < share_y < 1 + GRID.margin
            cell_x = min(max(share_x * width - 0.5, 0), width - 1)
            cell_y = min(max(share_y * height - 0.5, 0), height - 1)
            for row in range(height):
                for column in range(width):
                    squared = (column - cell_x) ** 2 + (row - cell_y) ** 2
                    if near:
                        crop[k, row, column] = max(crop[k, row, column], math.exp(-squared / (2 * GRID.sigma**2)))
                    if other == person:
                        answer[k, row, column] = math.exp(-squared / (2 * GRID.label_sigma**2))
    return crop, answer / np.maximum(answer.sum((1, 2), keepdims=True), 1e-6)


def test_a_batch_equals_a_slow_drawing_person_by_person():
    pictures, drawn = random_pictures(), samples()
    batch = drawn.draw(drawn.usable, GRID)
    places = [(p, i) for p, labels in enumerate(pictures) for i in range(len(labels))]
    assert len(drawn.usable) == 9
    for row, usable in enumerate(drawn.usable.tolist()):
        crop, answer = slow_reference(pictures, *places[usable])
        assert_close(batch.crops[row].double(), torch.from_numpy(crop), atol=1e-3, rtol=0)
        assert_close(batch.labels[row].double(), torch.from_numpy(answer), atol=1e-3, rtol=0)
        visibility = pictures[places[usable][0]].visibility[places[usable][1]]
        assert batch.labelled[row].tolist() == (visibility > 0).tolist()


def test_crowds_flat_boxes_and_people_with_few_keypoints_are_not_learnt_from():
    pictures = random_pictures()
    expected = []
    for labels in pictures:
        for person in range(len(labels)):
            wide = labels.boxes[person, 2] - labels.boxes[person, 0] > 1
            expected.append(bool(wide and not labels.crowd[person] and (labels.visibility[person] > 0).sum() >= 4))
    assert 0 < sum(expected) < len(expected) - 2
    assert samples(min_keypoints=4).usable.tolist() == np.flatnonzero(expected).tolist()


def test_people_who_are_not_learnt_from_still_surround_the_others():
    few = samples(min_keypoints=5)
    rows = few.usable[:2]
    assert_close(few.draw(rows, GRID).crops, samples().draw(rows, GRID).crops)


def test_nobody_to_learn_from_is_an_error_that_says_what_is_needed():
    with pytest.raises(ValueError, match=r"nobody in .* has 4 labelled keypoints"):
        PrnSamples.from_labels([PersonLabels.empty(K)], DOLL, 4)


def test_a_person_s_grids_do_not_depend_on_who_else_is_in_the_batch():
    drawn = samples()
    together = drawn.draw(drawn.usable, GRID)
    for row, person in enumerate(drawn.usable):
        alone = drawn.draw(person[None], GRID)
        assert_close(together.crops[row], alone.crops[0])
        assert_close(together.labels[row], alone.labels[0])


def test_one_pass_meets_everybody_once():
    drawn = dataclasses.replace(samples(), visibility=torch.full_like(samples().visibility, 2))
    everybody = drawn.draw(drawn.usable, GRID).labels.flatten(1)
    met = torch.cat([batch.labels.flatten(1) for batch in drawn.batches(4, GRID, PrnAugmentation(), seed=0)])
    assert_close(torch.cdist(everybody, met).argmin(1).sort().values, torch.arange(len(drawn)))
    assert_close(torch.cdist(everybody, met).amin(1), torch.zeros(len(drawn)), atol=1e-3, rtol=0)


EVERYTHING = PrnAugmentation(flip=0.5, box_jitter=0.05, peak_jitter=0.02, dropped=0.2, false_peaks=1.0)


def whole_pass(seed: int) -> PrnBatch:
    batches = list(samples().batches(4, GRID, EVERYTHING, seed))
    return PrnBatch(*(torch.cat([getattr(b, name) for b in batches]) for name in ("crops", "labels", "labelled")))


def test_the_same_seed_gives_the_same_batches_whatever_else_is_drawn():
    first = whole_pass(seed=5)
    torch.manual_seed(99)
    torch.rand(7)
    assert_close(whole_pass(seed=5).crops, first.crops, atol=0, rtol=0)


def test_another_seed_gives_another_order_and_other_noise():
    assert not torch.equal(whole_pass(seed=5).crops, whole_pass(seed=6).crops)


def test_peaks_within_the_margin_lie_on_the_border_and_those_beyond_are_not_seen():
    # The margin is 1.89 cells to the left, 2.94 above.
    crops = one_person([[-2.2, 5], [-2.5, 5], [4, -3.3], [4, -3.6], [4, 5]]).draw(torch.tensor([0]), GRID).crops[0]
    assert [bool(crop.any()) for crop in crops] == [True, False, True, False, True]
    assert_close(crops[0, 5, 0], torch.tensor(1.0))
    assert_close(crops[2, 0, 4], torch.tensor(1.0))


def test_unlabelled_keypoints_are_neither_seen_nor_asked_for():
    batch = one_person(SPREAD, [2, 0, 1, 2, 2]).draw(torch.tensor([0]), GRID)
    assert not batch.crops[0, 1].any()
    assert not batch.labels[0, 1].any()
    assert batch.labelled.tolist() == [[True, False, True, True, True]]


def peak_of(crops: torch.Tensor) -> torch.Tensor:
    """[..., K, 2] (x, y) of the brightest cell."""
    at = crops.flatten(-2).argmax(-1)
    return torch.stack([at % GRID.size[1], at // GRID.size[1]], dim=-1)


def test_a_mirrored_person_has_left_and_right_exchanged_in_input_answer_and_flags():
    person = one_person(SPREAD, [2, 2, 0, 2, 2])
    batch = person.draw(torch.tensor([0]), GRID, PrnAugmentation(flip=1.0))
    # Names of the mirrored person: head, left hand (was the right one), right hand (was the left one), ...
    assert batch.labelled.tolist() == [[True, False, True, True, True]]
    expected = torch.tensor([[8 - 3, 1], [8 - 7, 5], [8 - 1, 11], [8 - 5, 12]])
    assert_close(peak_of(batch.crops[0])[[0, 2, 3, 4]], expected)
    assert_close(peak_of(batch.labels[0])[[0, 2, 3, 4]], expected)


def test_about_as_many_people_are_mirrored_as_asked_for():
    people = many(one_person(SPREAD))
    batch = people.draw(people.usable, GRID, PrnAugmentation(flip=0.3), torch.Generator().manual_seed(0))
    mirrored = peak_of(batch.labels)[:, 0, 0] == 8 - 3
    assert_close(mirrored.float().mean(), torch.tensor(0.3), atol=0.03, rtol=0)


def test_about_as_many_peaks_are_dropped_as_asked_for_and_the_answer_keeps_them():
    people = many(one_person(SPREAD))
    batch = people.draw(people.usable, GRID, PrnAugmentation(dropped=0.15), torch.Generator().manual_seed(0))
    missing = ~batch.crops.flatten(2).any(-1)
    assert_close(missing.float().mean(), torch.tensor(0.15), atol=0.02, rtol=0)
    assert_close(batch.labels.sum((-2, -1)), torch.ones(4000, K))
    assert batch.labelled.all()


def test_false_peaks_come_in_the_number_asked_for_and_only_into_the_input():
    people = many(one_person(SPREAD, [2, 0, 0, 0, 0]))
    batch = people.draw(people.usable, GRID, PrnAugmentation(false_peaks=0.4), torch.Generator().manual_seed(0))
    on_empty_maps = batch.crops[:, 1:].flatten(2).any(-1).float().sum(1).mean()
    assert_close(on_empty_maps, torch.tensor(0.4 * 4 / 5), atol=0.04, rtol=0)
    assert not batch.labels[:, 1:].any()


def test_box_noise_moves_input_and_answer_together():
    people = many(one_person(SPREAD), 500)
    batch = people.draw(people.usable, GRID, PrnAugmentation(box_jitter=0.1), torch.Generator().manual_seed(0))
    inside = (peak_of(batch.crops) > 0).all(-1) & (peak_of(batch.crops) < torch.tensor([8, 13])).all(-1)
    assert_close(peak_of(batch.crops)[inside], peak_of(batch.labels)[inside])
    assert float(peak_of(batch.labels)[:, 0].float().std(0).min()) > 0.3


def test_peak_noise_moves_the_input_and_leaves_the_answer():
    people = many(one_person(SPREAD), 2000)
    batch = people.draw(people.usable, GRID, PrnAugmentation(peak_jitter=0.1), torch.Generator().manual_seed(0))
    assert_close(batch.labels[1:], batch.labels[:1].expand(1999, -1, -1, -1))
    spread = peak_of(batch.crops)[:, 1, 1].float().std()  # of a keypoint far from the border: 0.1 of 14 cells
    assert_close(spread, torch.tensor(1.4), atol=0.15, rtol=0)


def test_the_easiest_people_have_most_keypoints_and_then_the_largest_boxes():
    everybody = samples()
    labelled = (everybody.visibility > 0).sum(1)
    areas = (everybody.boxes[:, 2:] - everybody.boxes[:, :2]).prod(1)
    ranked = sorted(everybody.usable.tolist(), key=lambda row: (-int(labelled[row]), -float(areas[row])))
    for count in (1, 3, len(everybody)):
        assert sorted(ranked[:count]) == everybody.easiest(count / len(everybody)).usable.tolist()
