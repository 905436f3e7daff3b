"""The pose residual network: distributions out, cross-entropy to learn from."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from multiposenet.models.prn import PoseResidualNetwork
from multiposenet.rasterize import PersonGrid

SIZE = (14, 9)
CELLS = SIZE[0] * SIZE[1]


def network(softmax: str = "keypoint", **options) -> PoseResidualNetwork:
    torch.manual_seed(0)
    return PoseResidualNetwork(3, nodes=8, softmax=softmax, crop_size=SIZE, **options).eval()


def random_crops(people: int = 4) -> torch.Tensor:
    return torch.rand(people, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def silent(prn: PoseResidualNetwork) -> PoseResidualNetwork:
    """The same network with a residual that is zero."""
    for parameter in prn.residual.parameters():
        torch.nn.init.zeros_(parameter)
    return prn


def answers(people: int, labelled: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Random labels [P, 3, h, w] and which of them count."""
    labelled = torch.ones(people, 3, dtype=torch.bool) if labelled is None else labelled
    cells = torch.rand(people, 3, 2, generator=torch.Generator().manual_seed(2)) * torch.tensor([8.0, 13.0])
    return PersonGrid(size=SIZE).labels(cells, labelled), labelled


def test_by_default_each_keypoint_s_map_is_a_distribution():
    assert_close(network()(random_crops()).sum((-2, -1)), torch.ones(4, 3))


def test_one_softmax_over_all_maps_makes_a_person_a_distribution():
    scores = network("all")(random_crops()).detach()
    assert_close(scores.sum((1, 2, 3)), torch.ones(4))
    assert float(scores.sum((-2, -1)).max()) < 0.9


@pytest.mark.parametrize("softmax", ["keypoint", "all"])
def test_without_a_residual_the_answer_is_the_softmax_of_the_input(softmax):
    crops = random_crops()
    exponentials = crops.exp()
    whole = exponentials.sum((-2, -1) if softmax == "keypoint" else (1, 2, 3), keepdim=True)
    assert_close(silent(network(softmax))(crops), exponentials / whole)


def test_the_input_is_added_to_what_the_layers_say():
    prn, crops = network(), random_crops()
    assert_close(prn.logits(crops) - prn.residual(crops.flatten(1)).view_as(crops), crops)


def test_a_rectified_residual_can_only_raise_the_input_and_a_free_one_can_lower_it_too():
    crops = random_crops()
    raised = (network(residual_activation=True).logits(crops) - crops).detach()
    free = (network().logits(crops) - crops).detach()
    assert float(raised.min()) >= -1e-6
    assert float(free.min()) < -1e-3


def test_each_person_is_answered_alone():
    prn, crops = network(), random_crops()
    assert_close(prn(crops)[2:3], prn(crops[2:3]))


def test_nobody_gives_no_maps():
    assert network()(torch.zeros(0, 3, *SIZE)).shape == (0, 3, *SIZE)


@pytest.mark.parametrize("shape", [(2, 4, *SIZE), (2, 3, SIZE[1], SIZE[0]), (3, *SIZE)])
def test_crops_of_another_shape_are_an_error_that_names_both_shapes(shape):
    with pytest.raises(ValueError, match=rf"\[P, 3, 14, 9\], got \[{', '.join(map(str, shape))}\]"):
        network()(torch.zeros(shape))


def test_an_unknown_softmax_is_an_error_that_lists_the_choices():
    with pytest.raises(ValueError, match=r"one of \('keypoint', 'all'\), got 'person'"):
        network("person")


@pytest.mark.parametrize(("softmax", "cells"), [("keypoint", CELLS), ("all", 3 * CELLS)])
def test_the_loss_of_an_undecided_answer_is_the_logarithm_of_the_number_of_cells(softmax, cells):
    loss = silent(network(softmax)).loss(torch.zeros(4, 3, *SIZE), *answers(4))
    assert_close(loss, torch.tensor(math.log(cells)))


@pytest.mark.parametrize("softmax", ["keypoint", "all"])
def test_the_loss_is_the_mean_cross_entropy_with_the_answer(softmax):
    prn, crops = network(softmax), random_crops()
    labels, labelled = answers(4)
    expected = -(labels * prn(crops).log()).sum((-2, -1)).mean()
    assert_close(prn.loss(crops, labels, labelled), expected)


def test_the_loss_can_fall_to_the_entropy_of_the_answer():
    labels, labelled = answers(4)
    entropy = -(labels * labels.clamp(min=1e-30).log()).sum((-2, -1)).mean()
    sure = labels.clamp(min=1e-30).log()  # the softmax of these is the answer itself
    assert_close(silent(network()).loss(sure, labels, labelled), entropy)


def test_unlabelled_keypoints_enter_no_loss():
    prn, crops = network(), random_crops(2)
    labelled = torch.tensor([[True, True, False], [False, True, False]])
    labels, _ = answers(2, labelled)
    changed = torch.where(labelled[..., None, None], labels, 7.0)
    assert_close(prn.loss(crops, changed, labelled), prn.loss(crops, labels, labelled))


def test_the_loss_of_nobody_or_nothing_labelled_is_zero_and_teaches_nothing():
    prn = network()
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    for loss in (
        prn.loss(random_crops(2), *answers(2, nothing)),
        prn.loss(torch.zeros(0, 3, *SIZE), torch.zeros(0, 3, *SIZE), torch.zeros(0, 3, dtype=torch.bool)),
    ):
        prn.zero_grad()
        loss.backward()
        assert_close(loss.detach(), torch.tensor(0.0))
        assert all(float(p.grad.abs().max()) == 0 for p in prn.parameters())


def two_candidates(people: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops and labels of people with two peaks a keypoint, of which the one in the left half is their own."""
    grid = PersonGrid(size=SIZE)
    own, other = (torch.rand(people, 2, 2) * torch.tensor([3.0, 13.0]) for _ in range(2))
    cells = torch.cat([own, other + torch.tensor([5.0, 0.0])], dim=1).flatten(0, 1)
    person, keypoint = torch.arange(people).repeat_interleave(4), torch.tensor([0, 1, 0, 1]).repeat(people)
    labels = grid.labels(own, torch.ones(people, 2, dtype=torch.bool))
    return grid.draw(cells, person, keypoint, people, 2), labels


def test_a_little_training_teaches_it_which_of_two_peaks_is_the_person_s_own():
    torch.manual_seed(0)
    prn = PoseResidualNetwork(2, nodes=32, crop_size=SIZE, dropout=0.0)
    optimizer = torch.optim.Adam(prn.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        prn.loss(*two_candidates(64), torch.ones(64, 2, dtype=torch.bool)).backward()
        optimizer.step()
    crops, _ = two_candidates(64)  # new people
    on_the_left = prn(crops).detach()[..., :4].sum((-2, -1))
    assert float((on_the_left > 0.5).float().mean()) > 0.95
