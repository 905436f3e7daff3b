"""A real training, killed by SIGKILL at random moments and resumed, is the training that was left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_killed_and_resumed_trainings_end_bit_for_bit_like_one_left_alone():
    command = [sys.executable, str(ROOT / "benchmarks" / "interruptions.py"), "--runs", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == "2 of 2 trainings identical to the one left alone"
