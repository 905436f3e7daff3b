#!/usr/bin/env python
"""Chooses the small network's backbone: time, size, and how much each learns from the same pictures.

    python benchmarks/backbones.py --data people --out backbones.json
    python benchmarks/backbones.py --data people --backbones resnet16_w32,mobilenet_v3_small --crops 12800

Every backbone gets the pyramids and heads of ``multiposenet_lite``, random weights, the same crops in the same order
and the shipped set assignment, and is trained by ``train_posenet.py`` in one process of one thread. AP is the whole
chain's on synthetic pictures; so early it is small, and the loss of the heatmaps, averaged over the last quarter, tells
more. Forward passes of all networks take turns, one each a round; figures are medians. ``people`` is made by
``datasets/synthesize.py --out people --count 4000 --seed 1 --split train2017 --people 0-8``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from machine import describe, machine_facts
from timing import take_turns
from torch.utils.flop_counter import FlopCounterMode

from multiposenet.methods import build_method
from multiposenet.models.fusion import prepare_for_inference

ROOT = Path(__file__).resolve().parent.parent
MODEL = "multiposenet_lite"
GROUPING = ROOT / "multiposenet" / "assets" / "set_assignment.safetensors"
BACKBONES = ("resnet16_w32", "resnet18_w24", "mobilenet_v3_small", "shufflenet_v2_x1_0", "mnasnet0_5")
EPOCHS = 4
SETTINGS = [
    *("--train", "joint", "--image_size", "480", "--crop", "256", "--scale", "0.75,1.25", "--rotation", "8"),
    *("--no-colours", "--batch_size", "16", "--optimizer", "muon", "--lr", "2e-3", "--warmup", "50"),
    *("--ema_decay", "0.99", "--workers", "0", "--val_data", "synthetic", "--val_count", "100"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of pictures to learn from, in COCO's layout")
    parser.add_argument("--backbones", default=",".join(BACKBONES), help="names between commas (%(default)s)")
    parser.add_argument("--crops", type=int, default=6400, help="crops to learn from; 0: only times (%(default)s)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="in training (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="timed passes of each network (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the timed passes (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/backbones"), help="folder of the runs (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    facts = machine_facts(torch.device("cpu"))
    print(describe(facts))
    names = arguments.backbones.split(",")
    rows = {name: size_of(name) | times for name, times in forward_times(names, arguments.rounds).items()}
    for name in names:
        if arguments.crops:
            rows[name] |= learn(name, arguments)
        print(f"{name:20s}" + "".join(f"  {key} {value:.4g}" for key, value in rows[name].items()), flush=True)
        if arguments.out:
            content = {"machine": facts, "crops": arguments.crops, "precision": arguments.precision, "rows": rows}
            arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def network(backbone: str) -> torch.nn.Module:
    """The small network on a backbone, made for inference."""
    model = build_method(MODEL, backbone=backbone, grouping="set_assignment").model.eval()
    return prepare_for_inference(model).to(memory_format=torch.channels_last)


def size_of(backbone: str) -> dict[str, float]:
    """Parameters in millions with the grouping, and 10^9 multiply-adds at 480 x 480."""
    model = build_method(MODEL, backbone=backbone, grouping="set_assignment").model.eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, 3, 480, 480))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters_m": parameters / 1e6, "gmac": counter.get_total_flops() / 2e9}


@torch.inference_mode()
def forward_times(backbones: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a forward pass at 480 and 320 pixels."""
    networks = {name: network(name) for name in backbones}
    pictures = {
        side: torch.rand(1, 3, side, side).contiguous(memory_format=torch.channels_last) for side in (480, 320)
    }
    calls = {
        (name, side): partial(model, picture) for name, model in networks.items() for side, picture in pictures.items()
    }
    times = take_turns(calls, rounds)  # the first passes prepare the kernels
    return {name: {f"ms_{side}": times[name, side].median for side in pictures} for name in backbones}


def learn(backbone: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Trains from random weights; AP, the heatmaps' loss in the end, and crops a second."""
    run = arguments.work / backbone
    command = [
        *(sys.executable, ROOT / "train_posenet.py", "--model", MODEL, "--data", arguments.data, *SETTINGS),
        *("--model_options", f"backbone={backbone},grouping=set_assignment", "--init", f"prn={GROUPING}"),
        *("--epochs", EPOCHS, "--epoch_size", arguments.crops // EPOCHS, "--validate_every", EPOCHS),
        *("--precision", arguments.precision, "--out", run),
    ]
    subprocess.run(list(map(str, command)), check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    with (run / "log.csv").open(encoding="utf-8", newline="") as file:
        curve = list(csv.DictReader(file))
    seconds = sum(float(row["train_seconds"]) for row in curve)
    return {
        "heatmap_loss": float(curve[-1]["heatmaps"]),
        "ap": float(curve[-1]["AP"]),
        "ap50": float(curve[-1]["AP50"]),
        "crops_per_second": arguments.crops / seconds,
    }


if __name__ == "__main__":
    main()
