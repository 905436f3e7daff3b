"""Normalisations that stand in for batch normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from multiposenet.models.norms import GroupNorm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "not wanted"])
def test_groups_are_learnt_whether_or_not_the_input_gets_a_gradient(layout, wanted):
    torch.manual_seed(0)
    maps = torch.randn(2, 16, 6, 5).to(memory_format=layout)
    ours, reference = GroupNorm(4, 16), nn.GroupNorm(4, 16)
    ours(maps.clone().requires_grad_(wanted)).square().sum().backward()
    reference(maps.contiguous().requires_grad_()).square().sum().backward()
    for parameter, expected in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)
