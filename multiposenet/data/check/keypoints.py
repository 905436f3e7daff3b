"""Checks of keypoints: their number, their visibility, and whether they lie where the person is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from multiposenet.data.check.findings import Check, Scope, Severity
from multiposenet.data.check.label_table import LabelTable

OUTSIDE_BOX = 0.2
"""How far, as a share of the box's longer side, a keypoint may lie outside: COCO's boxes are those of what is seen."""

_STACKED = 3  # labelled keypoints in one and the same place


def _wrong_count(table: LabelTable) -> np.ndarray:
    return table.keypoint_numbers != 3 * table.skeleton.num_keypoints


def _count_detail(table: LabelTable, row: int) -> str:
    found = int(table.keypoint_numbers[row])
    return "no list of keypoints" if found < 0 else f"{found} numbers, not {3 * table.skeleton.num_keypoints}"


def _not_finite(table: LabelTable) -> np.ndarray:
    return np.logical_or.reduce(list(_not_finite_fields(table).values()))


def _not_finite_fields(table: LabelTable) -> dict[str, np.ndarray]:
    """[T] bool of every field: numbers that are there, but are none."""

    def given(field: str) -> np.ndarray:
        records = (table.person(row) for row in range(len(table)))
        return np.fromiter((record.get(field) is not None for record in records), bool, len(table))

    columns = {
        "keypoints": ~np.isfinite(table.keypoints).all(axis=(1, 2)) & ~_wrong_count(table),
        "bbox": ~np.isfinite(table.boxes_xywh).all(axis=1),
        "area": ~np.isfinite(table.areas),
        "num_keypoints": ~np.isfinite(table.num_keypoints),
        "iscrowd": ~np.isfinite(table.crowd),
    }
    return {field: odd & given(field) if odd.any() else odd for field, odd in columns.items()}


def _not_finite_detail(table: LabelTable, row: int) -> str:
    odd = [field for field, rows in _not_finite_fields(table).items() if rows[row]]
    return ", ".join(_field_detail(table, row, field) for field in odd)


def _field_detail(table: LabelTable, row: int, field: str) -> str:
    if field != "keypoints":
        return f"{field} {table.person(row).get(field)!r}"
    names = np.array(table.skeleton.keypoints)[~np.isfinite(table.keypoints[row]).all(axis=1)]
    return f"keypoints of {', '.join(names)}"


def _visibility(table: LabelTable) -> np.ndarray:
    visibility = table.keypoints[..., 2]
    return (np.isfinite(visibility) & ~np.isin(visibility, (0, 1, 2))).any(axis=1)


def _visibility_detail(table: LabelTable, row: int) -> str:
    values = table.keypoints[row, :, 2]
    odd = ~np.isin(values, (0, 1, 2))
    return _named(table, odd, [f"{value:g}" for value in values])


def _stated_count(table: LabelTable) -> np.ndarray:
    known = np.isfinite(table.num_keypoints) & ~_wrong_count(table)
    return known & (table.num_keypoints != counted_keypoints(table))


def counted_keypoints(table: LabelTable) -> np.ndarray:
    """[T] int64, the labelled keypoints that the format's ``num_keypoints`` counts."""
    columns = [name not in table.layout.uncounted for name in table.skeleton.keypoints]
    return (table.keypoints[:, columns, 2] > 0).sum(axis=1)


def _stated_detail(table: LabelTable, row: int) -> str:
    return f"num_keypoints {table.num_keypoints[row]:g}, labelled {counted_keypoints(table)[row]}"


def _unlabelled_with_place(table: LabelTable) -> np.ndarray:
    return unlabelled_with_place(table).any(axis=1)


def unlabelled_with_place(table: LabelTable) -> np.ndarray:
    """[T, K] bool: visibility 0, and x or y is not 0."""
    return (table.keypoints[..., 2] == 0) & (np.nan_to_num(table.keypoints[..., :2]) != 0).any(axis=-1)


def _unlabelled_detail(table: LabelTable, row: int) -> str:
    return _named(table, unlabelled_with_place(table)[row], _places(table, row))


def _at_origin(table: LabelTable) -> np.ndarray:
    return labelled_at_origin(table).any(axis=1)


def labelled_at_origin(table: LabelTable) -> np.ndarray:
    """[T, K] bool: labelled, in the picture's very corner (0, 0)."""
    return table.labelled & (table.keypoints[..., :2] == 0).all(axis=-1)


def _origin_detail(table: LabelTable, row: int) -> str:
    return _named(table, labelled_at_origin(table)[row], _places(table, row))


def _stacked(table: LabelTable) -> np.ndarray:
    return _stack_sizes(table) >= _STACKED


def _stack_sizes(table: LabelTable) -> np.ndarray:
    """[T] the most labelled keypoints in one place (but the corner, which has a check of its own)."""
    keep = table.labelled & ~labelled_at_origin(table)
    # A complex number sorts and compares as one thing; every keypoint that is left out gets a place of its own.
    places = np.where(keep, table.keypoints[..., 0] + 1j * table.keypoints[..., 1], -1 - np.arange(keep.shape[1]) * 1j)
    places.sort(axis=1)
    longest = np.ones(len(places), np.int64) if places.shape[1] else np.zeros(len(places), np.int64)
    run = longest.copy()
    for column in range(1, places.shape[1]):
        run = np.where(places[:, column] == places[:, column - 1], run + 1, 1)
        longest = np.maximum(longest, run)
    return longest


def outside_picture(table: LabelTable) -> np.ndarray:
    """[T, K] bool: labelled and not within [-0.5, W - 0.5] x [-0.5, H - 0.5], the picture's pixels."""
    sizes = table.person_image_sizes[:, None, ::-1]
    places = table.keypoints[..., :2]
    # Up to one pixel: half the tools count from 1, or allow W and H themselves.
    return table.labelled & ((places < -1) | (places > sizes)).any(axis=-1)


def _outside_picture(table: LabelTable) -> np.ndarray:
    return outside_picture(table).any(axis=1)


def _outside_picture_detail(table: LabelTable, row: int) -> str:
    height, width = table.person_image_sizes[row]
    where = _named(table, outside_picture(table)[row], _places(table, row))
    return f"{where}; the picture is {width:g} x {height:g} (width x height)"


def outside_box(table: LabelTable) -> np.ndarray:
    """[T, K] bool: labelled and outside the box by more than :data:`OUTSIDE_BOX` of its longer side.

    Crowds are left out, and boxes without area, which have a check of their own.
    """
    sides = table.boxes_xywh[:, 2:]
    margin = OUTSIDE_BOX * sides.max(axis=1, initial=0)[:, None, None]
    places = table.keypoints[..., :2] + 0.5
    beyond = (places < table.boxes[:, None, :2] - margin) | (places > table.boxes[:, None, 2:] + margin)
    judged = (sides > 0).all(axis=1) & ~table.is_crowd
    return table.labelled & beyond.any(axis=-1) & judged[:, None]


def _seen_outside_box(table: LabelTable) -> np.ndarray:
    return (outside_box(table) & (table.keypoints[..., 2] != 1)).any(axis=1)


def _hidden_outside_box(table: LabelTable) -> np.ndarray:
    return outside_box(table).any(axis=1) & ~_seen_outside_box(table)


def _outside_box_detail(table: LabelTable, row: int) -> str:
    box = ", ".join(f"{edge:g}" for edge in table.boxes_xywh[row])
    return f"{_named(table, outside_box(table)[row], _places(table, row))}; bbox [{box}]"


def _never_labelled(table: LabelTable) -> Sequence[str]:
    if not table.labelled.any():
        return []
    return [
        f"{name}: labelled on none of {len(table)} people"
        for name, labelled in zip(table.skeleton.keypoints, table.labelled.any(axis=0), strict=True)
        if not labelled
    ]


def _places(table: LabelTable, row: int) -> list[str]:
    return [f"({x:g}, {y:g})" for x, y, _ in table.keypoints[row]]


def _named(table: LabelTable, chosen: np.ndarray, texts: Sequence[str]) -> str:
    named = zip(table.skeleton.keypoints, chosen, texts, strict=True)
    return ", ".join(f"{name} {text}" for name, one, text in named if one)


KEYPOINT_CHECKS = (
    Check(
        "keypoint-count", Severity.ERROR, Scope.PEOPLE,
        "keypoints must be x, y, visibility for every keypoint of the skeleton; write zeros for a person whose "
        "keypoints nobody labelled.", _wrong_count, _count_detail,
    ),
    Check(
        "not-a-number", Severity.ERROR, Scope.PEOPLE,
        "A field holds NaN, infinity or something that is no number; one such person can turn a whole training into "
        "NaN.", _not_finite, _not_finite_detail,
    ),
    Check(
        "visibility-value", Severity.ERROR, Scope.PEOPLE,
        "Visibility is 0 (not labelled), 1 (labelled, hidden) or 2 (visible).", _visibility, _visibility_detail,
    ),
    Check(
        "num-keypoints", Severity.WARNING, Scope.PEOPLE,
        "num_keypoints is not the number of keypoints with a visibility above 0; COCO's tools leave out people by it.",
        _stated_count, _stated_detail,
    ),
    Check(
        "unlabelled-with-place", Severity.WARNING, Scope.PEOPLE,
        "Keypoints with visibility 0 have a place; nobody will use it. If they are labelled, visibility is 1 or 2.",
        _unlabelled_with_place, _unlabelled_detail,
    ),
    Check(
        "labelled-at-origin", Severity.WARNING, Scope.PEOPLE,
        "Keypoints at (0, 0) are called labelled: missing ones, whose visibility must be 0, or the network learns to "
        "see them in the corner.", _at_origin, _origin_detail,
    ),
    Check(
        "stacked-keypoints", Severity.WARNING, Scope.PEOPLE,
        f"{_STACKED} or more labelled keypoints of a person lie in one place.", _stacked,
        lambda table, row: f"{_stack_sizes(table)[row]} keypoints in one place",
    ),
    Check(
        "keypoint-outside-picture", Severity.WARNING, Scope.PEOPLE,
        "Labelled keypoints lie outside the picture: another picture's labels, another size, or a swap of x and y.",
        _outside_picture, _outside_picture_detail,
    ),
    Check(
        "keypoint-outside-box", Severity.WARNING, Scope.PEOPLE,
        f"Visible keypoints lie outside the person's box by more than {OUTSIDE_BOX:g} of its longer side: another "
        "person's, or a box that leaves out part of the person.", _seen_outside_box, _outside_box_detail,
    ),
    Check(
        "hidden-keypoint-outside-box", Severity.NOTE, Scope.PEOPLE,
        f"Hidden keypoints lie outside the box by more than {OUTSIDE_BOX:g} of its longer side; usual in COCO, whose "
        "boxes enclose what is seen. A crop of the box cannot show them.", _hidden_outside_box, _outside_box_detail,
    ),
    Check(
        "keypoint-never-labelled", Severity.WARNING, Scope.FILE,
        "A keypoint of the skeleton that is never labelled cannot be learned.", _never_labelled,
    ),
)  # fmt: skip
"""Checks of keypoints."""
