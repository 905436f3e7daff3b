#!/usr/bin/env python
"""Kills trainings at random moments, resumes them, and compares what comes out with a training left alone.

    python benchmarks/interruptions.py                   # 20 trainings of the small network, some minutes
    python benchmarks/interruptions.py --runs 3

Every training is killed by SIGKILL several times, at moments drawn at random; training state is written after every
step, so many kills fall into the writing of a file. Weights, averaged weights and the log must be the same to the last
bit. Exit status 1 when one is not.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

from multiposenet.checkpoint import load_tensors, load_training_state, training_states

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import train_posenet  # noqa: E402

KILLS = 4
"""Kills of one training, unless it ends before."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dice = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        people = folder / "people"
        synthesize = [str(ROOT / "datasets" / "synthesize.py"), "--out", str(people), "--count", "8", "--seed", "1"]
        subprocess.run([sys.executable, *synthesize, "--split", "train2017"], check=True, stdout=subprocess.DEVNULL)
        options = [
            *("--model", "multiposenet_lite", "--train", "joint", "--data", str(people), "--val_data", "synthetic"),
            *("--val-count", "1", "--image-size", "96", "--batch-size", "2", "--epochs", "3", "--validate_every", "2"),
            *("--workers", "0", "--device", "cpu", "--save_seconds", "0"),
        ]
        start = time.perf_counter()
        assert run(options, folder / "alone", None) == 0, "the training that is left alone failed"
        seconds = time.perf_counter() - start
        wanted = outcome(folder / "alone")
        counts = {"trainings": arguments.runs, "identical": 0, "kills": 0, "kills_while_writing": 0}
        for number in range(arguments.runs):
            broken = folder / f"run{number}"
            for _ in range(KILLS):
                if run(options, broken, dice.uniform(0.05, seconds)) == 0:
                    break
                counts["kills"] += 1
                counts["kills_while_writing"] += any(broken.glob("*.partial")) if broken.exists() else 0
            else:
                assert run(options, broken, None) == 0, f"{broken}: the last resumed training failed"
            counts["identical"] += same(outcome(broken), wanted)
            print(f"{number + 1}/{arguments.runs}: {counts}", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(counts) + "\n", encoding="utf-8")
    print(f"{counts['identical']} of {counts['trainings']} trainings identical to the one left alone")
    sys.exit(counts["identical"] != counts["trainings"])


def run(options: list[str], out: Path, kill_after: float | None) -> int:
    """Trains in a process of its own, from where ``out`` stands; its exit status, negative when it was killed."""
    place = ["--resume", str(out), "--out", str(out)] if (out / "options.toml").exists() else ["--out", str(out)]
    # A fork has everything imported; this process computes in one thread, so no other one is lost by it.
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            train_posenet.main([*options, *place])
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended)


def outcome(folder: Path) -> tuple[dict, dict, list[dict]]:
    """Weights, training state and log (without its wall times) of a finished training."""
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        rows = [{name: value for name, value in row.items() if "seconds" not in name} for row in csv.DictReader(file)]
    assert training_states(folder)
    return load_tensors(folder / "last.safetensors")[0], load_training_state(folder), rows


def same(one: object, other: object) -> bool:
    """Whether two nests of dicts, sequences and tensors agree to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


if __name__ == "__main__":
    main()
