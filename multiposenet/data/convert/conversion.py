"""Conversions between formats: any reader with any writer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from multiposenet.data.convert.coco_export import read_export
from multiposenet.data.convert.coco_folder import write_coco
from multiposenet.data.convert.converted import ConvertedSplit
from multiposenet.data.convert.mpii import read_mpii
from multiposenet.data.convert.yolo_reader import read_yolo
from multiposenet.data.convert.yolo_writer import write_yolo
from multiposenet.data.formats import FORMATS
from multiposenet.data.picture_copies import WAYS
from multiposenet.skeletons import Skeleton

SOURCES = ("yolo", "mpii", *FORMATS)
"""Formats that can be read: two of their own, and every way of using COCO's."""

WRITERS = {"coco": write_coco, "yolo": write_yolo}
"""Formats that can be written."""


def read_any(
    kind: str,
    source: Path,
    splits: Sequence[str] = (),
    skeleton: Skeleton | None = None,
    category: str | None = None,
    pictures: Path | None = None,
) -> list[ConvertedSplit]:
    """Reads a data set of one of :data:`SOURCES`.

    Args:
        kind: the format. ``coco`` is any file in COCO's format, wherever the layouts of ``FORMATS`` have it.
        source: folder or file.
        splits: only these; by default all.
        skeleton: the keypoints, where the files do not name them.
        category: name of the people's class or category, where there are several.
        pictures: their folder, where it is not where the format has it.

    Raises:
        FileNotFoundError, ValueError: as the format's own reader; MPII has neither skeletons nor categories to choose.
    """
    if kind == "yolo":
        return read_yolo(source, splits, skeleton, category or "person")
    if kind == "mpii":
        if skeleton or category:
            raise ValueError("MPII has one skeleton and one category; leave out --skeleton and --category")
        return read_mpii(source, splits, pictures)
    layout = None if kind == "coco" else FORMATS[kind]
    return read_export(source, splits, layout, skeleton, category, pictures)


def write_any(kind: str, splits: Sequence[ConvertedSplit], out: Path, way: str = "link") -> list[str]:
    """Writes splits in one of :data:`WRITERS` to a folder that is new or empty.

    Args:
        kind: the format.
        splits: at least one.
        out: made when missing.
        way: how the pictures come there, one of ``picture_copies.WAYS``.

    Returns:
        Everything that was assumed, changed or left out, as sentences.

    Raises:
        FileExistsError: there is something in ``out``.
        ValueError: the splits have different skeletons, or a record cannot be written.
    """
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already and not empty; give a new folder")
    if len({split.skeleton for split in splits}) > 1:
        skeletons = ", ".join(f"{split.name}: {split.skeleton.keypoints}" for split in splits)
        raise ValueError(f"the splits have different keypoints ({skeletons}); convert them one by one, with --split")
    out.mkdir(parents=True, exist_ok=True)
    notes = [f"{split.name}: {note}" for split in splits for note in split.notes]
    for split in splits:
        absent = len(split.images) - len(split.pictures)
        if absent:
            notes.append(f"{split.name}: {absent:,} of {len(split.images):,} picture files are not there")
    return notes + WRITERS[kind](splits, out, way)
