"""Activations computed twice instead of kept: less memory in training, the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, function: Callable, *inputs: Any) -> Any:
    """``function(*inputs)``, of which only the inputs are kept when a gradient is wanted.

    Args:
        module: has ``function``'s layers; where it is not in training mode nothing is gained, and nothing is done.
        function: computed again in the backward pass.
    """
    if not (module.training and torch.is_grad_enabled()):
        return function(*inputs)
    return checkpoint(
        function, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _fixed_statistics(module))
    )


@contextmanager
def _fixed_statistics(module: nn.Module) -> Iterator[None]:
    """The second computation must not move the running statistics of batch normalisation again."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        layer.num_batches_tracked = layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, tracked
