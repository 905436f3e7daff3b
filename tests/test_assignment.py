"""Who gets what: three rules. The one-to-one rule has its tests in ``test_grouping``."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch.testing import assert_close

from multiposenet.decode.assignment import ASSIGNMENTS, assign_one_to_one, assign_optimally, assign_publicly


def total(scores: torch.Tensor, chosen: list[int]) -> float:
    return sum(float(scores[row, column]) for row, column in enumerate(chosen) if column >= 0)


def test_the_optimal_assignment_has_the_largest_sum_that_there_is():
    scores = torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(0))
    for problem, chosen in zip(scores, assign_optimally(scores).tolist(), strict=True):
        best = max(total(problem, list(columns)) for columns in permutations(range(4), 3))
        assert_close(total(problem, chosen), best)


def test_the_optimal_assignment_gives_way_where_the_greedy_one_does_not():
    scores = torch.tensor([[0.9, 0.8], [0.8, 0.0]])
    assert assign_one_to_one(scores).tolist() == [0, -1]
    assert assign_optimally(scores).tolist() == [1, 0]


@pytest.mark.parametrize("rule", ASSIGNMENTS.values(), ids=ASSIGNMENTS)
def test_no_rule_makes_a_pair_without_a_score(rule):
    assert rule(torch.zeros(2, 3, 4)).tolist() == [[-1] * 3] * 2


@pytest.mark.parametrize("rule", ASSIGNMENTS.values(), ids=ASSIGNMENTS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3), (2, 3, 0)])
def test_every_rule_takes_nobody_and_nothing(rule, shape):
    assert rule(torch.zeros(shape)).shape == torch.Size(shape[:-1])


@pytest.mark.parametrize("rule", [assign_one_to_one, assign_optimally])
def test_one_to_one_rules_never_give_a_column_twice(rule):
    chosen = rule(torch.rand(30, 5, 4, generator=torch.Generator().manual_seed(1)))
    for row in chosen.tolist():
        taken = [column for column in row if column >= 0]
        assert len(taken) == len(set(taken)) == 4


def test_the_public_rule_gives_a_row_the_best_column_of_which_it_is_the_best_row():
    assert assign_publicly(torch.tensor([[0.9, 0.2], [0.5, 0.6]])).tolist() == [0, 1]


def test_the_public_rule_leaves_a_row_empty_that_always_comes_second():
    assert assign_publicly(torch.tensor([[0.9, 0.8], [0.7, 0.0]])).tolist() == [0, -1]


def test_the_public_rule_lends_a_row_what_its_owner_thinks_least_of():
    assert assign_publicly(torch.tensor([[0.9, 0.8], [0.5, 0.7]])).tolist() == [0, 1]


def test_the_public_rule_can_give_one_column_to_two_rows():
    assert assign_publicly(torch.tensor([[0.9], [0.5]])).tolist() == [0, 0]


def test_problems_of_a_batch_do_not_touch_each_other():
    scores = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(2))
    for rule in ASSIGNMENTS.values():
        together = rule(scores)
        assert together[2, 1].tolist() == rule(scores[2, 1]).tolist()
