"""Repairs of people: keypoints, boxes, areas, counts. Only what has one right answer; the rest stays a finding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from multiposenet.data.check.axes import exchanged_people
from multiposenet.data.check.boxes import box_beyond, boxes_of_corners
from multiposenet.data.check.draft import Draft
from multiposenet.data.check.keypoints import (
    counted_keypoints,
    labelled_at_origin,
    outside_picture,
    unlabelled_with_place,
)
from multiposenet.data.check.label_table import LabelTable
from multiposenet.data.check.records import broken_segmentations
from multiposenet.data.completion import BOX_AREA_SHARE, segment_area

_UNLABELLED = (0, 0, 0)


def repair_axes(draft: Draft, table: LabelTable) -> None:
    """Exchanges x and y of keypoints that fit their box only so, and turns boxes of two corners into sizes."""
    limits = table.person_image_sizes[:, None, ::-1]
    turned = np.where(table.labelled[..., None], table.keypoints[..., 1::-1], 0)
    fits = ((turned >= -1) & (turned <= limits)).all(axis=(1, 2))
    for row in np.flatnonzero(exchanged_people(table) & fits & ~box_beyond(table)):
        flat = list(table.person(row)["keypoints"])
        flat[0::3], flat[1::3] = flat[1::3], flat[0::3]
        _set(draft, table, "x-y-exchanged", row, "keypoints", flat)
    for row in np.flatnonzero(boxes_of_corners(table)):
        x1, y1, x2, y2 = table.person(row)["bbox"]
        _set(draft, table, "box-of-corners", row, "bbox", [x1, y1, x2 - x1, y2 - y1])


def repair_keypoints(draft: Draft, table: LabelTable) -> None:
    """Marks keypoints unlabelled that can be nothing else: no numbers, the corner (0, 0), outside the picture.

    Where half of a person's keypoints or more are outside, something else is wrong: that person is left.
    """
    whole = (table.keypoint_numbers == 3 * table.skeleton.num_keypoints)[:, None]
    outside = outside_picture(table)
    outside &= (2 * outside.sum(axis=1) < table.labelled.sum(axis=1))[:, None]
    for check, chosen in (
        ("not-a-number", ~np.isfinite(table.keypoints).all(axis=-1) & whole),
        ("labelled-at-origin", labelled_at_origin(table)),
        ("keypoint-outside-picture", outside),
        ("unlabelled-with-place", unlabelled_with_place(table)),
    ):
        for row in np.flatnonzero(chosen.any(axis=1)):
            flat = list(_current(draft, table, row, "keypoints"))
            for keypoint in np.flatnonzero(chosen[row]).tolist():
                flat[3 * keypoint : 3 * keypoint + 3] = _UNLABELLED
            _set(draft, table, check, row, "keypoints", flat)


def repair_boxes(draft: Draft, table: LabelTable) -> None:
    """Cuts boxes at the picture's edges, and takes out segmentations that cannot be read."""
    for row in np.flatnonzero(box_beyond(table)):
        height, width = table.person_image_sizes[row].tolist()
        x1, y1, x2, y2 = table.boxes[row].tolist()
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        _set(draft, table, "box-beyond-picture", row, "bbox", [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)])
    for row in np.flatnonzero(broken_segmentations(table)):
        _set(draft, table, "broken-segmentation", row, "segmentation", [])


def repair_counts(draft: Draft, table: LabelTable) -> None:
    """Counts keypoints anew, and fills in area and iscrowd by the rule of ``data.completion``."""
    counted = counted_keypoints(table)
    wrong = table.num_keypoints != counted
    for row in np.flatnonzero(wrong & (table.keypoint_numbers == 3 * table.skeleton.num_keypoints)):
        _set(draft, table, "num-keypoints", row, "num_keypoints", int(counted[row]))
    for row in range(len(table)):
        if table.person(row).get("iscrowd") is None:
            _set(draft, table, "no-crowd-flag", row, "iscrowd", 0)
    for row in np.flatnonzero(~(table.areas >= 0) | ~np.isfinite(table.areas)):
        area = _stand_in(table, row)
        if area is not None:
            missing = table.person(row).get("area") is None
            check = "no-area" if missing else "negative-area" if table.areas[row] < 0 else "not-a-number"
            _set(draft, table, check, row, "area", area)


def _stand_in(table: LabelTable, row: int) -> float | None:
    """The segment's area, or 0.53 of the box's, or None where neither can be known."""
    height, width = table.person_image_sizes[row]
    if math.isfinite(height) and math.isfinite(width):
        try:
            area = segment_area(table.person(row).get("segmentation"), (int(height), int(width)))
        except (ValueError, TypeError, KeyError):
            area = None
        if area is not None:
            return area
    sides = table.boxes_xywh[row, 2:]
    return round(float(BOX_AREA_SHARE * sides.prod()), 2) if (sides >= 0).all() else None


def _field(table: LabelTable, field: str) -> str:
    """The file's own name of a field: some formats keep further keypoints in fields of their own."""
    return field.replace("keypoints", table.layout.keypoints_field)


def _current(draft: Draft, table: LabelTable, row: int, field: str) -> Sequence:
    return draft.content["annotations"][table.people[row]][_field(table, field)]


def _set(draft: Draft, table: LabelTable, check: str, row: int, field: str, value: object) -> None:
    draft.set(check, "annotations", int(table.people[row]), _field(table, field), value)
