#!/usr/bin/env python
"""Makes the weights that ship with the package, from seeds and COCO's keypoint labels; no photograph is read.

    python recipes/train_default.py --work DIR --labels COCO

Draws synthetic people to disk; trains the set assignment on COCO's labels and the shared network on the drawn pictures
in several parts (small crops, then people of all sizes; heights first, then chances); lets the set assignment hear
what all maps and the features below them hold at a peak, and teaches it that network's own peaks and boxes; measures
the chain on held-out people; writes the weights with all of this in their metadata. Steps whose result lies in DIR
already are not repeated. Where two processes train (``torchrun``), each has one thread: on two cores a third more
pictures a second than one process with two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from multiposenet import checkpoint
from multiposenet.data.sources import TRAIN_SEED, VALIDATION_SEED
from multiposenet.groupings import build_grouping
from multiposenet.methods import build_method
from multiposenet.predictor import DEFAULT_WEIGHTS

ROOT = Path(__file__).resolve().parent.parent
PEOPLE = 16_000
LEARNT_FROM = 12_000
"""Pictures, of which the set assignment learns what the network finds in the second number."""

PARTS = {"a": 1, "b": 2, "c": 2, "d": 2, "e": 1, "f": 2}
"""Parts of the training and their processes."""

FIRST_WITH_CHANCES, LAST_PART = "e", "f"

CHANCES = {"map_answer": "chances", "peak_weight": 0.0, "peak_sigma": 1.25, "peak_threshold": 0.15}
"""Options of the network from ``FIRST_WITH_CHANCES`` on."""

ONLY_TRAINING = ("peak_weight", "intermediate_weight", "detection_weight")
OWN_PEAKS = {"peak_threshold": 0.08, "box_threshold": 0.1}
OWN_GROUPING = {"evidence": True, "appearance": 32, "candidates": 6}
OWN_SIZE = 576
"""How the trained network is used: weak peaks too, for the set assignment tells them from strong ones, and pictures
larger than it was trained for, because the people who are missed are the small ones. Weights of losses are left out of
its options: they were this recipe's and are nobody's default."""

STEEPNESS = 9.2
"""logit(0.99) - logit(0.01): a height of 0 becomes a chance of 1 %, a height of 1 one of 99 %."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs, about 1.5 GB")
    parser.add_argument(
        "--labels", type=Path, required=True, help="folder with COCO's annotations/; no pictures"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "multiposenet" / "assets" / DEFAULT_WEIGHTS)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)

    people = work / "people"
    step(
        people / "annotations" / "person_keypoints_train2017.json",
        "datasets/synthesize.py", "--out", people, "--count", PEOPLE, "--seed", TRAIN_SEED, "--split", "train2017",
        "--people", "0-8", "--workers", 2,
    )  # fmt: skip
    grouping = work / "grouping"
    step(
        grouping / "finished",
        "prn_train/train.py", "--opt", ROOT / "prn_train" / "set_assignment.toml", "--data", arguments.labels,
        "--label_cache", work / "labels", "--exp", grouping,
    )  # fmt: skip
    weights, start = grouping / "last.safetensors", "--init"
    for part, processes in PARTS.items():
        run = work / f"shared_{part}"
        if part == FIRST_WITH_CHANCES:
            weights = as_chances(weights, work / "chances.safetensors")
        step(
            run / "finished",
            "train_posenet.py", "--opt", ROOT / "recipes" / f"default_{part}.toml", "--data", people,
            "--out", run, start, f"prn={weights}" if start == "--init" else weights,
            processes=processes,
        )  # fmt: skip
        weights, start = run / "last.safetensors", "--weights"
    weights = as_used(weights, grouping / "last.safetensors", work / "as_used.safetensors")
    own = work / "own_outputs"
    step(
        own / "finished",
        "prn_train/train.py", "--opt", ROOT / "prn_train" / "own_outputs.toml", "--weights", weights, "--data", people,
        "--limit", LEARNT_FROM, "--val_data", "synthetic", "--flip", 0, "--precision", "bf16", "--number_of_epoch", 4,
        "--exp", own,
        processes=2,
    )  # fmt: skip
    result = own / "last.safetensors"
    evaluation = work / "evaluation"
    step(evaluation / "metrics.json", "evaluate/run_coco.py", "--weights", result, "--out", evaluation)
    export(result, work, arguments.out)


def as_chances(weights: Path, out: Path) -> Path:
    """The same network with maps that are logits of chances: the last layers' heights, scaled and moved."""
    heights = build_method(weights=weights)
    chances = build_method(heights.name, skeleton=heights.skeleton, **heights.options | CHANCES)
    tensors = heights.model.state_dict()
    for name in tensors:
        if name.startswith(("keypoint_subnet.predict.", "keypoint_subnet.supervise.")):
            tensors[name] = tensors[name] * STEEPNESS - (STEEPNESS / 2 if name.endswith("bias") else 0)
    chances.model.load_state_dict(tensors)
    metadata = {"model": chances.name, "options": chances.options, "skeleton": chances.skeleton.to_dict()}
    checkpoint.save_weights(chances.model, out, metadata | {"image_size": heights.metadata["image_size"]})
    return out


def as_used(weights: Path, grouping: Path, out: Path) -> Path:
    """The network as it will be used, with a set assignment that has learnt from labels and can hear what maps hold."""
    network, learnt = build_method(weights=weights), build_grouping(weights=grouping)
    options = {name: value for name, value in network.options.items() if name not in ONLY_TRAINING}
    options |= OWN_PEAKS | {"grouping_options": learnt.options | OWN_GROUPING}
    used = build_method(network.name, skeleton=network.skeleton, **options)
    tensors = {**network.model.state_dict(), **learnt.model.state_dict()}
    missing, unexpected = used.model.load_state_dict(tensors, strict=False)
    new = [name for name in missing if not name.startswith("prn.embed_evidence.")]
    if new or unexpected:
        raise ValueError(f"{grouping} does not fit {weights}: missing {new}, unexpected {unexpected}")
    facts = {"model": used.name, "options": used.options, "skeleton": used.skeleton.to_dict(), "image_size": OWN_SIZE}
    checkpoint.save_weights(used.model, out, facts)
    return out


def step(result: Path, script: str, *arguments: object, processes: int = 1) -> None:
    """Runs one of the project's scripts, in one or more processes with one thread each, unless its result is there."""
    if result.exists():
        print(f"{script}: {result} is there")
        return
    launcher, environment = [], dict(os.environ)
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, *launcher, str(ROOT / script), *map(str, arguments)]
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True, env=environment)
    if result.name == "finished":
        result.touch()


def export(weights: Path, work: Path, out: Path) -> None:
    """Writes the weights in half precision, with where they come from and what they reach."""
    method = build_method(weights=weights)
    shared, labels, own = (
        checkpoint.load_tensors(work / run / "last.safetensors")[1]
        for run in (f"shared_{LAST_PART}", "grouping", "own_outputs")
    )
    evaluation = json.loads((work / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    metadata = {
        "model": method.name,
        "options": method.options,
        "skeleton": method.skeleton.to_dict(),
        "image_size": own["image_size"],
        "licence": "Apache-2.0",
        "data": shared["data"],
        "grouping_data": {"labels": labels["data"], "own_outputs": own["data"]},
        "seed": shared["seed"],
        "commit": commit.stdout.strip() or "unknown",
        "recipe": "recipes/train_default.py",
        "evaluated_on": f"200 synthetic pictures, seed {VALIDATION_SEED}, 1 to 8 people",
        "figures": evaluation["metrics"],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_weights(method.model, out, metadata, dtype=torch.float16)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, sha256 {checkpoint.sha256(out)}")


if __name__ == "__main__":
    main()
