"""The arithmetic that networks calculate in, in training and in use."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from multiposenet.options import choose

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By name, what convolutions and products of matrices are taken in; None: in the weights' own single precision."""


def in_precision(name: str, device: torch.device) -> torch.autocast:
    """A context in which networks on ``device`` calculate as ``name``, a key of ``PRECISIONS``, says.

    Raises:
        ValueError: there is no such precision.
    """
    dtype = choose("precision", name, PRECISIONS)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def as_precise_as(features: Tensor | None) -> AbstractContextManager:
    """A context in which a network goes on in the precision in which another one has made its features, if any."""
    if features is not None and features.dtype in PRECISIONS.values():
        return torch.autocast(features.device.type, dtype=features.dtype)
    return nullcontext()
