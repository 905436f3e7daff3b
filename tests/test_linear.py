"""Linear layers by oneDNN: the same numbers as PyTorch's, and PyTorch's where somebody keeps account of operations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from multiposenet.models import linear
from multiposenet.models.linear import Linear, Perceptron


@pytest.fixture
def layer(monkeypatch) -> Linear:
    monkeypatch.setattr(linear, "_LEAST_PRODUCTS", 0)
    monkeypatch.setattr(linear, "_PREFERS_ONEDNN", linear._HAS_ONEDNN)
    torch.manual_seed(0)
    return Linear(24, 40)


@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (300, 24), (2, 3, 24), (0, 24)])
def test_a_layer_gives_what_pytorch_s_layer_gives(layer, shape):
    x = torch.randn(shape)
    with torch.no_grad():
        assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)
        turned = torch.randn(24, 9).T
        assert_close(layer(turned), nn.functional.linear(turned, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 24), (2, 3, 24), (0, 24)])
def test_a_perceptron_gives_what_its_layers_give_one_by_one(layer, shape):
    perceptron = Perceptron(nn.LayerNorm(24), layer, nn.GELU(), Linear(40, 8), nn.ReLU())
    x = torch.randn(shape)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert_close(perceptron(x), nn.Sequential(*perceptron)(x), atol=1e-5, rtol=1e-5)


def test_a_layer_that_learns_has_gradients(layer):
    x = torch.randn(5, 24, requires_grad=True)
    layer(x).sum().backward()
    assert_close(x.grad, layer.weight.detach().sum(0).expand(5, -1))
    assert_close(layer.bias.grad, torch.full((40,), 5.0))


def test_a_layer_takes_other_precisions(layer):
    with torch.no_grad():
        x = torch.randn(5, 24)
        assert_close(layer.double()(x.double()).float(), layer.float()(x), atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16


@pytest.mark.skipif(not linear._HAS_ONEDNN, reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("recorder", [(torch.compiler, "is_compiling"), (torch.jit, "is_tracing")], ids=lambda r: r[1])
def test_a_recorded_graph_does_not_depend_on_onednn(layer, monkeypatch, recorder):
    x = torch.randn(5, 24)
    with torch.no_grad(), torch.profiler.profile() as profile:
        layer(x)
        monkeypatch.setattr(*recorder, lambda: True)
        layer(x)
    assert sum("mkldnn" in event.name for event in profile.events()) == 1
