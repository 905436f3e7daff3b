"""Linear layers for a CPU: the same numbers, sooner."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _made_by_intel() -> bool:
    """Whether the processor is MKL's own maker's, as far as the system says."""
    facts = Path("/proc/cpuinfo")
    return "GenuineIntel" in (facts.read_text(encoding="utf-8") if facts.exists() else platform.processor())


_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

_PREFERS_ONEDNN = _HAS_ONEDNN and not _made_by_intel()

_LEAST_PRODUCTS = 1_000_000
"""With fewer multiplications than this, preparing them is what takes oneDNN's time."""


class Linear(nn.Linear):
    """A linear layer that leaves large products to oneDNN where nothing has to be learnt.

    PyTorch multiplies matrices in single precision by MKL, which on other makers' processors than Intel's stops at
    AVX2. oneDNN, by which PyTorch convolves, does not: on an AMD EPYC with AVX-512 it takes half the time. On an
    Intel Xeon it is MKL that is quicker: a grouping of 20 people takes 5.2 ms instead of 5.5. PyTorch has no gradients
    for oneDNN's products, and a graph that is recorded should not depend on them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in]; gives [..., out]."""
        if self._is_for_onednn(x):
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return super().forward(x)

    def with_gelu(self, x: Tensor) -> Tensor:
        """GELU (Hendrycks and Gimpel, 2016) of what :meth:`forward` gives, in the same pass over memory."""
        if self._is_for_onednn(x):
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")
        return F.gelu(super().forward(x))

    def _is_for_onednn(self, x: Tensor) -> bool:
        usable = _PREFERS_ONEDNN and not _is_recorded() and x.is_cpu and x.dtype == torch.float32 and x.is_contiguous()
        return usable and x.numel() * self.out_features >= _LEAST_PRODUCTS


class Perceptron(nn.Sequential):
    """A sequence of layers in which a ``Linear`` and the exact GELU right after it are one call."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in]; gives [..., out]."""
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, Linear) and layers and isinstance(layers[0], nn.GELU):
                x = layer.with_gelu(x)
                layers.pop(0)
            else:
                x = layer(x)
        return x


def _is_recorded() -> bool:
    """Whether somebody keeps account of operations: for gradients, for another precision, or in a graph."""
    return (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    )
