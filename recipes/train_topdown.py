#!/usr/bin/env python
"""Makes the top-down weights that ship with the package, from seeds, the bottom-up network's backbone and photographs.

    python recipes/train_topdown.py --work DIR --photos COCO_MINI

Draws synthetic people to disk (the same as ``recipes/train_default.py``, which are taken where they are), trains the
network on crops of them, from the backbone of the shipped bottom-up network on, at last in two branches of which one
sees photographs as well, takes their mean, measures it on held-out people in the labels' boxes and writes the weights
with all of this in their metadata. Steps whose result lies in DIR already are not repeated. Without --photos there is
one branch and no mean.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from train_default import NAMES, OTHERS, ROOT, THIRD, all_data, draw_people, evaluated, mean_of, measure, save, step

from multiposenet import checkpoint
from multiposenet.engine import seed_everything
from multiposenet.methods import build_method
from multiposenet.models.mspn import start_new_blocks
from multiposenet.predictor import DEFAULT_WEIGHTS

NAME = "topdown_lite"
FIRST_OPTIONS = "blocks=1x2x2x2,crop=192x128"
"""Blocks of the levels, in the first two parts: those of the backbone that the first part starts from. Small crops
until the fifth part, because so many people pass in little time."""
PHOTOS_SHARE = 0.4
"""Of the branch that sees photographs, in the mean with the other one. AP by the share, on 200 pictures for choosing
with people like COCO's and on 52 photographs of val2017: 0: 0.763; 0.4: 0.766, 0.186; 0.5: 0.765, 0.206. Before the
branches: 0.761, 0.109."""
ASSETS = ROOT / "multiposenet" / "assets"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs, about 5.5 GB")
    parser.add_argument(
        "--photos", type=Path, help="folder in COCO's layout whose train2017 pictures are learnt from too"
    )
    parser.add_argument(
        "--backbone", type=Path, default=ASSETS / DEFAULT_WEIGHTS, help="whose backbone starts it (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=ASSETS / f"{NAME}.safetensors")
    arguments = parser.parse_args()
    work: Path = arguments.work
    backbone = checkpoint.load_tensors(arguments.backbone)[1]
    if "data" not in backbone:
        parser.error(f"--backbone {arguments.backbone} does not say what it has learnt from; take weights of our own")
    work.mkdir(parents=True, exist_ok=True)

    crowded = draw_people(work, "people")
    both = f"{crowded},{draw_people(work, 'people_like_coco')}"
    start = f"{FIRST_OPTIONS},backbone_weights={arguments.backbone}"
    weights = train(work, "default", crowded, "--model_options", start)
    weights = train(work, "more", crowded, "--weights", weights)
    weights = train(work, "deep", both, "--weights", deepen(weights, work / f"{NAME}_start.safetensors"))
    weights = train(work, "upright", both, "--weights", weights)
    weights = train(work, "fine", both, "--weights", weights)
    before = train(work, "finer", both, "--weights", weights)
    more, third, third_crowded = (str(draw_people(work, name)) for name in (OTHERS[0], *THIRD))
    drawn = f"{more},{third},{third_crowded}"
    weights = train(work, "drawn", drawn, "--weights", before)
    branches = [weights]
    if arguments.photos is not None:
        photos = f"{third},{third_crowded},{arguments.photos}"
        photos = train(work, "photos", photos, "--weights", before, processes=2)
        branches.append(train(work, "photos_more", f"{drawn},{arguments.photos}", "--weights", photos))
        weights = mean_of(*branches, PHOTOS_SHARE, work / f"{NAME}_mean.safetensors")
    figures = {
        arrangement: measure(weights, arrangement, work, f"{NAME}_evaluation", "--boxes", "gt") for arrangement in NAMES
    }
    learnt = [checkpoint.load_tensors(file)[1] for file in (before, *branches)]
    export(weights, [backbone, *learnt], figures, arguments.out)


def train(work: Path, part: str, data: object, *start: object, processes: int = 1) -> Path:
    """Trains a part with ``recipes/topdown_PART.toml``; the weights that come out."""
    run = work / f"{NAME}_{part}"
    step(
        run / "finished",
        "train_posenet.py", "--opt", ROOT / "recipes" / f"topdown_{part}.toml", "--data", data, "--out", run, *start,
        processes=processes,
    )  # fmt: skip
    return run / "last.safetensors"


def deepen(weights: Path, out: Path) -> Path:
    """The same network with the method's own number of blocks; the new ones change nothing yet."""
    learnt = build_method(weights=weights)
    seed_everything(0)  # what is new
    options = {name: value for name, value in learnt.options.items() if name != "blocks"}
    deep = build_method(NAME, skeleton=learnt.skeleton, **options)
    tensors = learnt.model.state_dict()
    start_new_blocks(deep.model, tensors)
    deep.model.load_state_dict(deep.model.state_dict() | tensors)
    return save(deep, learnt.metadata["image_size"], out)


def export(weights: Path, trainings: Sequence[Mapping], figures: dict[str, dict[str, float]], out: Path) -> None:
    """Writes the weights in half precision, with where they come from and what they reach.

    Args:
        weights: what is written.
        trainings: metadata of trainings that saw all the data, in their order; of the weights that the first part
            started from too, for what those saw has been learnt from.
        figures: by arrangement, see :func:`train_default.measure`.
        out: the file.
    """
    method = build_method(weights=weights)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    metadata = {
        **method.facts,
        "image_size": method.metadata["image_size"],
        "seed": trainings[-1]["seed"],
        "data": all_data(trainings),
        "licence": "Apache-2.0",
        "commit": commit.stdout.strip() or "unknown",
        "recipe": "recipes/train_topdown.py",
        **evaluated(figures, ", the labels' boxes"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_weights(method.model, out, metadata, dtype=torch.float16)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, sha256 {checkpoint.sha256(out)}")


if __name__ == "__main__":
    main()
