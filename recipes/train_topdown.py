#!/usr/bin/env python
"""Makes the top-down weights that ship with the package, from nothing but seeds.

    python recipes/train_topdown.py --work DIR

Draws synthetic people to disk (the same as ``recipes/train_default.py``, which are taken where they are), trains the
network on crops of them, from the backbone of the shipped bottom-up network on, measures it on held-out people in the
labels' boxes and writes the weights with all of this in their metadata. Steps whose result lies in DIR already are not
repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import torch
from train_default import PEOPLE, ROOT, step

from multiposenet import checkpoint
from multiposenet.data.sources import TRAIN_SEED, VALIDATION_SEED
from multiposenet.methods import build_method
from multiposenet.predictor import DEFAULT_WEIGHTS

NAME = "topdown_lite"
PARTS = ("default", "more")
"""Trained one after the other, each from the weights of the one before, with ``recipes/topdown_PART.toml``."""
ASSETS = ROOT / "multiposenet" / "assets"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs, about 1.5 GB")
    parser.add_argument(
        "--backbone", type=Path, default=ASSETS / DEFAULT_WEIGHTS, help="whose backbone starts it (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=ASSETS / f"{NAME}.safetensors")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)

    people = work / "people"
    step(
        people / "annotations" / "person_keypoints_train2017.json",
        "datasets/synthesize.py", "--out", people, "--count", PEOPLE, "--seed", TRAIN_SEED, "--split", "train2017",
        "--people", "0-8", "--workers", 2,
    )  # fmt: skip
    start: tuple[object, ...] = ("--model_options", f"backbone_weights={arguments.backbone}")
    for part in PARTS:
        run = work / f"{NAME}_{part}"
        step(
            run / "finished",
            "train_posenet.py", "--opt", ROOT / "recipes" / f"topdown_{part}.toml", "--data", people, "--out", run,
            *start,
        )  # fmt: skip
        weights = run / "last.safetensors"
        start = ("--weights", weights)
    evaluation = work / f"{NAME}_evaluation"
    step(
        evaluation / "metrics.json",
        "evaluate/run_coco.py", "--weights", weights, "--boxes", "gt", "--out", evaluation,
    )  # fmt: skip
    export(weights, evaluation, arguments.out)


def export(weights: Path, evaluation: Path, out: Path) -> None:
    """Writes the weights in half precision, with where they come from and what they reach."""
    method = build_method(weights=weights)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    metadata = {
        **method.facts,
        **{name: method.metadata[name] for name in ("image_size", "data", "seed")},
        "licence": "Apache-2.0",
        "commit": commit.stdout.strip() or "unknown",
        "recipe": "recipes/train_topdown.py",
        "evaluated_on": f"200 synthetic pictures, seed {VALIDATION_SEED}, 1 to 8 people, the labels' boxes",
        "figures": json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))["metrics"],
    }
    checkpoint.save_weights(method.model, out, metadata, dtype=torch.float16)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, sha256 {checkpoint.sha256(out)}")


if __name__ == "__main__":
    main()
