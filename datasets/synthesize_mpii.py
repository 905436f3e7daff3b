#!/usr/bin/env python
"""Writes pictures of synthetic people with exact labels to disk, in MPII's layout.

    python datasets/synthesize_mpii.py --out DIR --count 50 --seed 7 --split train
    python datasets/synthesize_mpii.py --out DIR --count 20 --seed 8 --split valid

gives DIR/annot/<split>.json, DIR/annot/gt_<split>.mat to score against, and DIR/images/<split>_000001.jpg, ... Only
people whose neck and top of the head are labelled are in the files: the head's size is what PCKh is measured in.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from multiposenet.bad_input import run_script
from multiposenet.data.mpii import write_mpii
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.skeletons import MPII


def main(argv: list[str] | None = None) -> None:
    """Draws, writes, and says what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--count", type=int, required=True, help="number of pictures")
    parser.add_argument("--seed", type=int, required=True, help="different seeds share no picture")
    parser.add_argument("--split", default="train", help="name of the split (%(default)s)")
    parser.add_argument("--people", type=int, default=3, help="most people in a picture (%(default)s)")
    options = parser.parse_args(argv)
    try:
        dataset = SyntheticPeople(options.count, options.seed, people=(1, options.people), skeleton=MPII)
    except ValueError as error:
        parser.error(str(error))
    folder = options.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for index in tqdm(range(len(dataset)), desc="drawing", disable=None):
        sample = dataset[index]
        name = f"{options.split}_{index + 1:06d}.jpg"
        Image.fromarray(sample.image).save(folder / name, quality=95)
        pictures.append((name, sample.labels))
    people = write_mpii(options.out, options.split, pictures)
    print(f"{len(dataset)} pictures in {folder}, {people} people in {options.out / 'annot' / options.split}.json")


if __name__ == "__main__":
    run_script(main, "synthesize_mpii.py")
