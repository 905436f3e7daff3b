"""Writing COCO's own layout: ``annotations/person_keypoints_<split>.json`` and ``<split>/``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from multiposenet.data.annotations import read_annotations
from multiposenet.data.convert.converted import ConvertedSplit, person_category
from multiposenet.data.formats import COCO_FORMAT
from multiposenet.data.picture_copies import place_picture
from multiposenet.skeletons import SKELETONS, Skeleton
from multiposenet.whole_files import written_whole

SKELETON_FILE = "skeleton.toml"
"""The skeleton of the people, written where it is none of the built-in ones."""


def write_coco(splits: Sequence[ConvertedSplit], out: Path, way: str = "link") -> list[str]:
    """Writes splits as COCO keypoint files, and reads each one back with the strict reader.

    Args:
        splits: all of one skeleton.
        out: an empty folder.
        way: how the pictures come there, see ``picture_copies.WAYS``.

    Returns:
        What has to be said about the files.

    Raises:
        ValueError: a record is not one that training can read; the message names it.
        OSError: a file cannot be written.
    """
    notes = []
    for split in splits:
        path = out / "annotations" / f"person_keypoints_{split.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "info": {"description": f"{split.name}, converted by multiposenet"},
            "licenses": [],
            "categories": [person_category(split.skeleton)],
            "images": list(split.images),
            "annotations": list(split.annotations),
        }
        with written_whole(path) as partial:
            partial.write_text(json.dumps(content), encoding="utf-8")
        read_annotations(path, split.skeleton, dataclasses.replace(COCO_FORMAT, uncounted=split.uncounted))
        for image in split.images:
            if image["id"] in split.pictures:
                place_picture(split.pictures[image["id"]], out / split.name / image["file_name"], way)
    for skeleton in {split.skeleton for split in splits} - set(SKELETONS.values()):
        path = out / SKELETON_FILE
        path.write_text(skeleton_toml(skeleton), encoding="utf-8")
        sigmas = "" if skeleton.oks_sigmas else "; it has no oks_sigmas yet, and AP needs them"
        notes.append(f"the skeleton is in {path}: train with --skeleton {path}{sigmas}")
    return notes


def skeleton_toml(skeleton: Skeleton) -> str:
    """A skeleton as the TOML file that ``Skeleton.from_toml`` reads."""
    # JSON's strings, numbers and lists are TOML's.
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in skeleton.to_dict().items())
