#!/usr/bin/env python
"""Writes pictures of synthetic people with exact labels to disk, in COCO's layout.

    python datasets/synthesize.py --out DIR --count 1000 --seed 7

gives DIR/annotations/person_keypoints_val2017.json and DIR/val2017/000000000001.jpg, ... The same arguments give the
same files. The labels are those of the pictures before JPEG; --quality png keeps every pixel.
"""

from __future__ import annotations

import argparse
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from multiposenet.bad_input import run_script
from multiposenet.data.arrangements import ARRANGEMENTS
from multiposenet.data.synthetic import HIDDEN, SyntheticPeople


@dataclass(frozen=True)
class PictureWriter:
    """Draws one picture, writes its file and returns its annotations (ids still to be given)."""

    dataset: SyntheticPeople
    folder: Path
    quality: int | None  # None writes PNG

    def __call__(self, index: int) -> list[dict]:
        scene = self.dataset.scene(index)
        path = self.folder / file_name(self.dataset, index, self.quality)
        if self.quality is None:
            Image.fromarray(scene.image).save(path)
        else:
            Image.fromarray(scene.image).save(path, quality=self.quality)
        return self.dataset.coco_annotations(index, scene)


def file_name(dataset: SyntheticPeople, index: int, quality: int | None) -> str:
    """COCO's name of a picture, with the ending of its format."""
    return str(Path(dataset.image_name(index)).with_suffix(".png" if quality is None else ".jpg"))


def whole_number(least: int):
    """A parser of whole numbers that are not smaller than ``least``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return parse


def pair(separator: str, meaning: str):
    """A parser of two whole numbers, or of one that stands for both."""

    def parse(text: str) -> tuple[int, int]:
        parts = text.lower().split(separator)
        if not 1 <= len(parts) <= 2 or not all(part.isdecimal() for part in parts):
            raise argparse.ArgumentTypeError(f"expected {meaning}, got {text!r}")
        return int(parts[0]), int(parts[-1])

    return parse


def quality_or_png(text: str) -> int | None:
    """JPEG quality 1..100, or None for "png"."""
    if text.lower() == "png":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"expected a JPEG quality from 1 to 100, or png, got {text!r}")
    return int(text)


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, SyntheticPeople]:
    parser = argparse.ArgumentParser(description="Write pictures of synthetic people in COCO's layout.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--count", type=whole_number(1), required=True, help="number of pictures")
    parser.add_argument("--seed", type=whole_number(0), required=True, help="different seeds share no picture")
    parser.add_argument("--split", default="val2017", help="name of the split, by default %(default)s")
    parser.add_argument(
        "--people", type=pair("-", "people as FEWEST-MOST, for example 1-8"), metavar="FEWEST-MOST",
        help="people drawn in a picture, by default those of the arrangement: 1-8, or 1-13 for coco",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=pair("x", "a size as HEIGHTxWIDTH, for example 480x640"), default=(480, 480),
        metavar="HEIGHTxWIDTH", help="size of the pictures in pixels, by default 480x480",
    )  # fmt: skip
    parser.add_argument(
        "--hidden", choices=HIDDEN, default="placeable",
        help="hidden keypoints to label: those that an annotator could place (%(default)s), or all",
    )  # fmt: skip
    parser.add_argument(
        "--arrangement", choices=sorted(ARRANGEMENTS), default="crowded",
        help="how the people are arranged: crowded, or like the labelled people of COCO's photographs (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--workers", type=whole_number(0), default=0, help="processes; 0 draws in this one")
    parser.add_argument("--quality", type=quality_or_png, default=95, help="JPEG quality, or png; by default 95")
    parser.add_argument("--overwrite", action="store_true", help="replace a split that is there already")
    options = parser.parse_args(arguments)
    if options.split in ("", ".", "..", "annotations") or Path(options.split).name != options.split:
        parser.error(f"--split must be a plain folder name other than annotations, got {options.split!r}")
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is a file; give a folder")
    try:
        dataset = SyntheticPeople(
            options.count, options.seed, options.size, options.people or ARRANGEMENTS[options.arrangement].people,
            hidden=options.hidden, arrangement=options.arrangement,
        )  # fmt: skip
    except ValueError as error:
        parser.error(str(error))
    return options, dataset


def main(arguments: list[str] | None = None) -> None:
    options, dataset = parse_arguments(arguments)
    folder = options.out / options.split
    annotation_file = options.out / "annotations" / f"person_keypoints_{options.split}.json"
    if annotation_file.exists() or (folder.exists() and any(folder.iterdir())):
        if not options.overwrite:
            raise FileExistsError(f"{options.out} already has a split {options.split!r}; --overwrite replaces it")
        annotation_file.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    annotation_file.parent.mkdir(parents=True, exist_ok=True)

    write = PictureWriter(dataset, folder, options.quality)
    bar = {"total": len(dataset), "desc": "drawing", "disable": None}
    if options.workers == 0:
        per_picture = [write(index) for index in tqdm(range(len(dataset)), **bar)]
    else:
        with ProcessPoolExecutor(options.workers) as pool:
            per_picture = list(tqdm(pool.map(write, range(len(dataset)), chunksize=8), **bar))

    content = dataset.coco_header()
    for index, image in enumerate(content["images"]):
        image["file_name"] = file_name(dataset, index, options.quality)
    ids = count(1)
    content["annotations"] = [{**row, "id": next(ids)} for rows in per_picture for row in rows]
    # Last, so that a split that was interrupted has no annotations.
    annotation_file.write_text(json.dumps(content), encoding="utf-8")
    people = len(content["annotations"])
    print(f"{len(dataset)} pictures with {people} people in {folder}, annotations in {annotation_file}")


if __name__ == "__main__":
    run_script(main, "synthesize.py")
