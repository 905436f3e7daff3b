"""A corrected copy of an annotation file: all repairs in their order, each on what the one before left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from multiposenet.data.check.draft import Change, Draft
from multiposenet.data.check.label_table import build_table
from multiposenet.data.check.people_repairs import repair_axes, repair_boxes, repair_counts, repair_keypoints
from multiposenet.data.check.picture_files import PictureFile, with_file_sizes
from multiposenet.data.check.record_repairs import (
    repair_references,
    repair_repeated_people,
    repair_sections,
    repair_sizes,
)
from multiposenet.data.formats import COCO_FORMAT, CocoFormat
from multiposenet.skeletons import Skeleton

_STEPS = (
    (repair_references,),
    (repair_repeated_people,),
    (repair_axes,),
    (repair_keypoints, repair_boxes),
    (repair_counts,),
)
"""Repairs of one step see the same table and change different fields."""


def repair_content(
    content: dict,
    path: Path,
    layout: CocoFormat = COCO_FORMAT,
    skeleton: Skeleton | None = None,
    files: Sequence[PictureFile] = (),
) -> tuple[dict, list[Change]]:
    """What can be corrected safely, corrected.

    Args:
        content: the file's; it and its records stay as they are.
        path: of the file, for messages.
        layout: how the file uses COCO's format.
        skeleton: the keypoints of the people; by default those that the file lists.
        files: the pictures, in the order of the file's image records; by default none is looked at, and no stated
            size is doubted.

    Returns:
        The new content, which shares the records without a change with the old one, and all changes in their order.

    Raises:
        ValueError: images or annotations is not a list.
    """
    build_table(content, path, layout=layout, skeleton=skeleton)  # refuses what is no COCO file at all
    draft = Draft(content)
    repair_sections(draft)
    table = build_table(draft.content, path, layout=layout, skeleton=skeleton)
    repair_sizes(draft, with_file_sizes(table, files))
    seen = -1
    for step in _STEPS:
        if len(draft.changes) != seen:
            table = build_table(draft.content, path, layout=layout, skeleton=skeleton)
            seen = len(draft.changes)
        for repair in step:
            repair(draft, table)
    return draft.content, draft.changes
