"""The optimiser made of Muon and AdamW: it is these two, on any memory layout, and goes on where it was stopped."""

import copy

import pytest
import torch
from torch import nn

from multiposenet.optimizers import MuonAdamW


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, count: int) -> None:
    for number in range(first, first + count):
        picture = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        model(picture).square().mean().backward()
        optimizer.step()


def test_matrices_take_muons_steps_and_vectors_adamws():
    ours, theirs = nn.Linear(6, 5), nn.Linear(6, 5)
    theirs.load_state_dict(ours.state_dict())
    optimizer = MuonAdamW(ours.parameters(), lr=0.01, weight_decay=0.1)
    muon = torch.optim.Muon([theirs.weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([theirs.bias], lr=0.01, weight_decay=0.1)
    for number in range(3):
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(number))
        for layer in (ours, theirs):
            layer.zero_grad()
            layer(inputs).square().sum().backward()
        for part in (optimizer, muon, adamw):
            part.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=0)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=0, atol=0)


def test_memory_layout_changes_nothing_but_rounding():
    plain, last = network(), network().to(memory_format=torch.channels_last)
    for model in (plain, last):
        steps(model, MuonAdamW(model.parameters(), lr=0.01), 0, 3)
    for one, other in zip(plain.parameters(), last.parameters(), strict=True):
        # Muon rounds to bfloat16 on its way, and so do sums in another order.
        torch.testing.assert_close(one, other.contiguous(), rtol=0, atol=2e-3)


def test_rates_of_a_schedule_reach_both_parts():
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = MuonAdamW(model.parameters(), lr=0.01)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    steps(model, optimizer, 0, 1)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("frozen", [False, True])
def test_a_stopped_run_goes_on_bit_for_bit(frozen):
    whole, cut = network(), network()
    whole[0].requires_grad_(not frozen)
    cut[0].requires_grad_(not frozen)
    steps(whole, MuonAdamW(whole.parameters(), lr=0.01), 0, 4)
    first = MuonAdamW(cut.parameters(), lr=0.01)
    steps(cut, first, 0, 2)
    second = MuonAdamW(cut.parameters(), lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(cut, second, 2, 2)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, dict(cut.named_parameters())[name]), name
