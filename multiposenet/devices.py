"""Where to compute: a device by its name."""

from __future__ import annotations

import torch


def open_device(name: torch.device | str | None = None) -> torch.device:
    """The device of that name, when it is there; by default the GPU when there is one.

    Raises:
        ValueError: no such device, or PyTorch cannot use it.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)  # where there is no driver, PyTorch finds out at the first tensor
    except (RuntimeError, AssertionError) as error:  # the latter where PyTorch was built without
        reason = str(error).splitlines()[0]
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise ValueError(f"device must be one of {', '.join(there)}, got {str(name)!r} ({reason})") from None
    return device
