"""Checks of boxes, areas and crowds, and of people who are annotated twice."""

from __future__ import annotations

import numpy as np

from multiposenet.data.check.findings import Check, Scope, Severity
from multiposenet.data.check.label_table import LabelTable

_PIXEL = 1.0  # what a box may reach beyond the picture: tools round, or count pixels from 1
_AREA_TOLERANCE = 0.02
_FAR_BEYOND = 0.2  # of a side: boxes grown by a fifth, as some tools write them, reach less far over an edge
_LOOSE = 0.7  # of a side, which the keypoints of a person in a fitting box usually span
_SAME_BOX = 0.9
_SAME_PLACE = 0.05  # mean distance of the keypoints, as a share of the box's longer side


def _no_box(table: LabelTable) -> np.ndarray:
    return np.fromiter(
        (not isinstance(box := table.person(row).get("bbox"), list) or len(box) != 4 for row in range(len(table))),
        bool,
        len(table),
    )


def _negative_box(table: LabelTable) -> np.ndarray:
    return (table.boxes_xywh[:, 2:] < 0).any(axis=1)


def _empty_box(table: LabelTable) -> np.ndarray:
    sides = table.boxes_xywh[:, 2:]
    return (sides == 0).any(axis=1) & ~(sides < 0).any(axis=1)


def _box_outside(table: LabelTable) -> np.ndarray:
    limits = table.person_image_sizes[:, ::-1]
    sized = (table.boxes_xywh[:, 2:] > 0).all(axis=1)
    return ((table.boxes[:, :2] >= limits) | (table.boxes[:, 2:] <= 0)).any(axis=1) & sized


def box_beyond(table: LabelTable) -> np.ndarray:
    """[T] bool: the box reaches over the picture's edge, but not all of it is outside."""
    limits = table.person_image_sizes[:, ::-1]
    over = (table.boxes[:, :2] < -_PIXEL) | (table.boxes[:, 2:] > limits + _PIXEL)
    return over.any(axis=1) & ~_box_outside(table) & ~_negative_box(table)


def boxes_of_corners(table: LabelTable) -> np.ndarray:
    """[T] bool: the box reaches far beyond the picture and is loose; as two corners its numbers hold all keypoints.

    Nobody can tell without a labelled keypoint. A box [x, y, width, height] in the picture always holds what its
    numbers hold as two corners, so it has to be a bad one: more than a fifth of a side outside, and much room around
    the keypoints in what is inside.
    """
    corners, limits = table.boxes_xywh, table.person_image_sizes[:, ::-1]
    upright = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    inside = (corners[:, 2:] <= limits + _PIXEL).all(axis=1) & (corners[:, :2] >= -_PIXEL).all(axis=1)
    places = table.keypoints[..., :2] + 0.5
    held = ((places >= corners[:, None, :2] - _PIXEL) & (places <= corners[:, None, 2:] + _PIXEL)).all(axis=-1)
    held = (held | ~table.labelled).all(axis=1) & table.labelled.any(axis=1)
    far = (table.boxes[:, 2:] - limits > _FAR_BEYOND * table.boxes_xywh[:, 2:]).any(axis=1)
    labelled = table.labelled[..., None]
    span = np.where(labelled, places, -np.inf).max(axis=1) - np.where(labelled, places, np.inf).min(axis=1)
    sides = np.minimum(table.boxes[:, 2:], limits) - np.maximum(table.boxes[:, :2], 0)
    loose = (span < _LOOSE * sides).any(axis=1)
    return upright & inside & held & (box_beyond(table) & far & loose | _box_outside(table))


def _box_detail(table: LabelTable, row: int) -> str:
    height, width = table.person_image_sizes[row]
    return f"bbox {table.person(row).get('bbox')!r}; the picture is {width:g} x {height:g} (width x height)"


def _no_area(table: LabelTable) -> np.ndarray:
    return _lacks(table, "area")


def _no_crowd(table: LabelTable) -> np.ndarray:
    return _lacks(table, "iscrowd")


def _lacks(table: LabelTable, field: str) -> np.ndarray:
    return np.fromiter((table.person(row).get(field) is None for row in range(len(table))), bool, len(table))


def _negative_area(table: LabelTable) -> np.ndarray:
    return table.areas < 0


def _area_is_box(table: LabelTable) -> np.ndarray:
    whole = table.boxes_xywh[:, 2:].prod(axis=1)
    return (whole > 0) & (np.abs(table.areas - whole) <= 0.001 * whole) & ~table.is_crowd


def _area_beyond_box(table: LabelTable) -> np.ndarray:
    whole = table.boxes_xywh[:, 2:].prod(axis=1)
    # A segment counts whole pixels, so a thin box may hold more of them than its own area says.
    slack = _AREA_TOLERANCE * whole + table.boxes_xywh[:, 2:].sum(axis=1) + 1
    return (table.boxes_xywh[:, 2:] > 0).all(axis=1) & np.isfinite(table.areas) & (table.areas > whole + slack)


def _area_detail(table: LabelTable, row: int) -> str:
    return f"area {table.areas[row]:g}, box {table.boxes_xywh[row, 2]:g} x {table.boxes_xywh[row, 3]:g}"


def _crowd_value(table: LabelTable) -> np.ndarray:
    return np.isfinite(table.crowd) & ~np.isin(table.crowd, (0, 1))


def _crowd_with_keypoints(table: LabelTable) -> np.ndarray:
    return table.is_crowd & table.labelled.any(axis=1)


def _repeated_person(table: LabelTable) -> np.ndarray:
    later = np.zeros(len(table), bool)
    later[repeated_pairs(table)[1]] = True
    return later


def repeated_pairs(table: LabelTable) -> tuple[np.ndarray, np.ndarray]:
    """Rows ([D], [D]) of two annotations of one person, in the order of the file.

    That is one picture, boxes with an IoU of at least 0.9, and the keypoints that both have at one place (their mean
    distance is at most 0.05 of the box's longer side), or no keypoints on either. Crowds are left out.
    """
    first, second, shared, covered = box_pairs(table, with_boxes(table, ~table.is_crowd))
    near = shared >= _SAME_BOX * covered
    first, second = first[near], second[near]
    both = table.labelled[first] & table.labelled[second]
    apart = np.linalg.norm(table.keypoints[first, :, :2] - table.keypoints[second, :, :2], axis=-1)
    mean = np.where(both, apart, 0).sum(axis=1) / both.sum(axis=1).clip(1)
    close = both.any(axis=1) & (mean <= _SAME_PLACE * table.boxes_xywh[first, 2:].max(axis=1, initial=0))
    unlabelled = ~table.labelled[first].any(axis=1) & ~table.labelled[second].any(axis=1)
    same = close | unlabelled
    return first[same], second[same]


def with_boxes(table: LabelTable, people: np.ndarray) -> np.ndarray:
    """Rows [R] of those of ``people`` [T] bool whose picture is known and whose box has an area."""
    return np.flatnonzero(people & (table.image_index >= 0) & (table.boxes_xywh[:, 2:] > 0).all(axis=1))


def box_pairs(table: LabelTable, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of some rows that are in one picture: both rows, and the pixels that their boxes share and cover.

    Args:
        rows: [R] int64, as :func:`with_boxes` gives them.

    Returns:
        four arrays [D], the first row of a pair the earlier one; the areas in squared pixels, their ratio is the IoU.
    """
    first, second = _pairs(table.image_index[rows])
    first, second = rows[first], rows[second]
    boxes = table.boxes
    low, high = np.maximum(boxes[first, :2], boxes[second, :2]), np.minimum(boxes[first, 2:], boxes[second, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    areas = table.boxes_xywh[:, 2:].prod(axis=1)
    return first, second, shared, areas[first] + areas[second] - shared


def _pairs(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all pairs of equal numbers in ``groups``; the first of a pair comes earlier."""
    order = np.argsort(groups, kind="stable")
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    after = np.repeat(starts + counts, counts) - np.arange(len(groups)) - 1  # members of the group behind each one
    first = np.repeat(np.arange(len(groups)), after)
    step = np.arange(len(first)) - np.repeat(np.cumsum(after) - after, after) + 1
    return order[first], order[first + step]


def _repeated_detail(table: LabelTable, row: int) -> str:
    first, second = repeated_pairs(table)
    return f"as annotation {table.annotation_ids[table.people[first[second == row][0]]]}"


BOX_CHECKS = (
    Check(
        "no-box", Severity.ERROR, Scope.PEOPLE, "bbox must be [x, y, width, height].", _no_box,
        lambda table, row: f"bbox {table.person(row).get('bbox')!r}",
    ),
    Check(
        "negative-box", Severity.ERROR, Scope.PEOPLE,
        "bbox has a negative size; it is [x, y, width, height], not two corners.", _negative_box, _box_detail,
    ),
    Check("empty-box", Severity.WARNING, Scope.PEOPLE, "bbox has no area.", _empty_box, _box_detail),
    Check(
        "box-outside-picture", Severity.ERROR, Scope.PEOPLE,
        "The whole box is outside the picture: another picture's labels, another size, or a swap of x and y.",
        _box_outside, _box_detail,
    ),
    Check(
        "box-beyond-picture", Severity.WARNING, Scope.PEOPLE,
        "The box reaches beyond the picture by more than a pixel.", box_beyond, _box_detail,
    ),
    Check(
        "box-of-corners", Severity.WARNING, Scope.PEOPLE,
        "The four numbers fit as two corners, not as [x, y, width, height]; turn corners into a size.",
        boxes_of_corners,
        _box_detail,
    ),
    Check(
        "no-area", Severity.WARNING, Scope.PEOPLE,
        "area is missing: COCO's tools stop with a KeyError, ours take the segment's area or 0.53 of the box's, and "
        "AP depends on it.", _no_area,
    ),
    Check(
        "negative-area", Severity.ERROR, Scope.PEOPLE,
        "With a negative area, similarity grows with the distance.", _negative_area, _area_detail,
    ),
    Check(
        "area-is-box", Severity.WARNING, Scope.PEOPLE,
        "area is width x height of the box, not the segment's: similarity is more lenient than COCO's, whose people "
        "fill about half of their boxes.", _area_is_box, _area_detail,
    ),
    Check(
        "area-beyond-box", Severity.WARNING, Scope.PEOPLE, "area is larger than the box.", _area_beyond_box,
        _area_detail,
    ),
    Check(
        "no-crowd-flag", Severity.WARNING, Scope.PEOPLE,
        "iscrowd is missing: COCO's tools stop with a KeyError, ours take 0.", _no_crowd,
    ),
    Check(
        "crowd-value", Severity.ERROR, Scope.PEOPLE, "iscrowd must be 0 or 1.", _crowd_value,
        lambda table, row: f"iscrowd {table.crowd[row]:g}",
    ),
    Check(
        "crowd-with-keypoints", Severity.WARNING, Scope.PEOPLE,
        "A crowd is a region without keypoints of its own; these are never trained on nor counted.",
        _crowd_with_keypoints, lambda table, row: f"{table.labelled[row].sum()} labelled keypoints",
    ),
    Check(
        "repeated-person", Severity.WARNING, Scope.PEOPLE,
        "One person is annotated twice: a box and keypoints like another's in the same picture.", _repeated_person,
        _repeated_detail,
    ),
)  # fmt: skip
"""Checks of boxes, areas and crowds."""
