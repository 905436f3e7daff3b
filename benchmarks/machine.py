"""What a figure was measured on: goes into every benchmark's JSON, so that figures of different machines stay apart."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

LIBRARIES = ("multiposenet", "torch", "torchvision", "numpy", "Pillow")


def machine_facts(device: torch.device) -> dict:
    """Processor, threads, versions, how torch was built, and the load before the measurement, as plain values."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "torch_config": torch.__config__.show().splitlines(),
        "torch_parallel": torch.__config__.parallel_info().splitlines(),
    }


def processor_name() -> str:
    """The processor as its maker calls it, where the system says so (Linux); else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe(facts: dict) -> str:
    """One line for the head of a printed table; says so when other programs were busy."""
    load = facts["load_average"]
    line = (
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, device {facts['device']}, "
        f"torch {facts['versions']['torch']}"
    )
    if load is None:
        return line
    # The measurement itself has not begun, so any load is somebody else's.
    busy = "; the machine is BUSY, do not quote these figures" if load[0] > 0.5 else ""
    return f"{line}, load {load[0]:.1f} before the start{busy}"
