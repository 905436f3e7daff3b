"""The benchmarks run, at their smallest: a change of the package that breaks one is seen. Times are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
PROGRAMS = [file for file in sorted(BENCHMARKS.glob("*.py")) if "__main__" in file.read_text(encoding="utf-8")]

SMALLEST = {
    "chain": [
        f"--weights={ROOT / 'multiposenet/assets/multiposenet_lite.safetensors'}", "--precision=bf16",
        "--image-size=96", "--repeats=1", "--warmup=0", "--threads=1",
    ],
    "evaluation": ["--pictures", "20", "--predictions", "60", "--repeats", "1"],
    "grouping": ["--groupings", "gaussian_prior", "set_assignment", "--repeats", "1"],
    "onestage": ["--people", "2", "--repeats", "1"],
    "topdown": ["--model", "topdown_lite", "--people", "2", "--rounds", "1"],
}  # fmt: skip


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_measures_something_and_says_on_which_machine(name, tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *SMALLEST[name], "--out", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["machine"]["processor"]
    assert len(figures) > 1


@pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: file.stem)
def test_every_benchmark_says_what_it_takes(file):
    command = [sys.executable, str(file), "--help"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
