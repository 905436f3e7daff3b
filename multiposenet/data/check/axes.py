"""The axes: x and y exchanged, y counted from below, shares instead of pixels, width and height exchanged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from multiposenet.data.check.findings import Check, Scope, Severity
from multiposenet.data.check.label_table import LabelTable

_HEADS = ("nose", "head", "head_top", "top_head", "forehead", "upper_neck", "neck")
_LOWS = (("left_hip", "right_hip"), ("left_ankle", "right_ankle"), ("left_knee", "right_knee"))
_ENOUGH = 20
_LEAST = 3  # keypoints by which a single person is judged
_DIAGONAL = 0.5  # largest IoU of a box with itself after x and y are exchanged
_MARGIN = 0.1  # of the box's sides, within which a keypoint counts as inside


def upright_shares(table: LabelTable) -> dict[str, float] | None:
    """Share of people whose body goes down, up, left or right from the head; None for fewer than 20 people.

    On COCO train2017: 0.943 down, 0.002 up, 0.028 left, 0.027 right.
    """
    skeleton, labelled = table.skeleton, table.labelled
    head = next((skeleton.index(name) for name in _HEADS if name in skeleton.keypoints), None)
    ends = next((pair for pair in _LOWS if set(pair) <= set(skeleton.keypoints)), None)
    if head is None or ends is None:
        return None
    left, right = (skeleton.index(name) for name in ends)
    judged = labelled[:, head] & labelled[:, left] & labelled[:, right]
    if judged.sum() < _ENOUGH:
        return None
    x, y = ((table.keypoints[:, left] + table.keypoints[:, right]) / 2 - table.keypoints[:, head])[judged, :2].T
    return {
        "down": float((y > abs(x)).mean()),
        "up": float((-y > abs(x)).mean()),
        "left": float((-x > abs(y)).mean()),
        "right": float((x > abs(y)).mean()),
    }


def _turned_file(table: LabelTable) -> Sequence[str]:
    shares = upright_shares(table) or {}
    causes = {
        "up": "y seems to be counted from below",
        "right": "x and y seem to be exchanged",
        "left": "the pictures seem to lie on their side",
    }
    return [
        f"{100 * shares[way]:.0f} % of the people point {way} from head to hips (COCO train2017: 94 % down); {cause}"
        for way, cause in causes.items()
        if shares.get(way, 0) > 0.5
    ]


def _shares_not_pixels(table: LabelTable) -> Sequence[str]:
    found = []
    large = np.nan_to_num(table.person_image_sizes.min(axis=1)) > 16
    places = table.keypoints[..., :2][table.labelled & large[:, None]]
    boxes = table.boxes_xywh[large & np.isfinite(table.boxes_xywh).all(axis=1)]
    for what, numbers in (("keypoints", places), ("bbox", boxes)):
        if numbers.size and (np.abs(numbers) <= 1.5).mean() > 0.9:
            found.append(f"{what}: {100 * (np.abs(numbers) <= 1.5).mean():.0f} % of all coordinates are at most 1.5")
    return found


def exchanged_people(table: LabelTable) -> np.ndarray:
    """[T] bool: keypoints are mostly outside the box, and nearly all inside once x and y are exchanged.

    A box near the diagonal of the picture covers much of its own exchanged copy and proves nothing.
    """
    enough = (table.labelled.sum(axis=1) >= _LEAST) & (table.boxes_xywh[:, 2:] > 0).all(axis=1)
    places = table.keypoints[..., :2]
    first, last = table.boxes[:, :2], table.boxes[:, 2:]
    shared = (np.minimum(last, last[:, ::-1]) - np.maximum(first, first[:, ::-1])).clip(0).prod(axis=1)
    enough &= shared <= _DIAGONAL * (2 * table.boxes_xywh[:, 2:].prod(axis=1) - shared)
    return enough & (_share_inside(table, places) < 0.5) & (_share_inside(table, places[..., ::-1]) >= 0.9)


def _share_inside(table: LabelTable, places: np.ndarray) -> np.ndarray:
    margin = _MARGIN * table.boxes_xywh[:, None, 2:]
    low, high = table.boxes[:, None, :2] - margin, table.boxes[:, None, 2:] + margin
    inside = ((places + 0.5 >= low) & (places + 0.5 <= high)).all(axis=-1) & table.labelled
    return inside.sum(axis=1) / table.labelled.sum(axis=1).clip(1)


def _exchanged_detail(table: LabelTable, row: int) -> str:
    count = int(table.labelled[row].sum())
    places = table.keypoints[..., :2]
    before, after = (_share_inside(table, p)[row] * count for p in (places, places[..., ::-1]))
    return f"of {count} keypoints {before:.0f} lie in the box, {after:.0f} with x and y exchanged"


def exchanged_sizes(table: LabelTable) -> np.ndarray:
    """[I] bool: the labels reach beyond the stated size, and fit once width and height are exchanged.

    The labels alone prove little: a box that somebody drew a few pixels over the picture's edge looks the same. Where
    the picture's file is known it decides.
    """
    reach = np.zeros((len(table.images), 2))  # x, y
    known = table.image_index >= 0
    places = np.where(table.labelled[..., None], table.keypoints[..., :2] + 0.5, 0).max(axis=1, initial=0)
    np.maximum.at(reach, table.image_index[known], places[known])
    np.maximum.at(reach, table.image_index[known], np.nan_to_num(table.boxes[known, 2:]))
    stated = table.image_sizes[:, ::-1]
    beyond = (reach > stated + 1).any(axis=1)
    fitting = (reach <= stated[:, ::-1] + 1).all(axis=1) & np.isfinite(stated).all(axis=1)
    known = np.isfinite(table.file_sizes).all(axis=1)
    return beyond & fitting & (~known | (table.file_sizes == table.image_sizes[:, ::-1]).all(axis=1))


def _sizes_detail(table: LabelTable, row: int) -> str:
    height, width = table.image_sizes[row]
    return f"width {width:g}, height {height:g}"


AXIS_CHECKS = (
    Check(
        "axes-of-file", Severity.ERROR, Scope.FILE,
        "Most people of the file lie on their side or stand on their head; correct the axes of keypoints and boxes.",
        _turned_file,
    ),
    Check(
        "shares-not-pixels", Severity.ERROR, Scope.FILE,
        "Coordinates seem to be shares of the picture, as in YOLO's files; COCO's are pixels.", _shares_not_pixels,
    ),
    Check(
        "x-y-exchanged", Severity.ERROR, Scope.PEOPLE,
        "The keypoints miss the box, and fit it with x and y exchanged.", exchanged_people, _exchanged_detail,
    ),
    Check(
        "width-height-exchanged", Severity.ERROR, Scope.PICTURES,
        "The people reach beyond the stated size of the picture, and fit with width and height exchanged.",
        exchanged_sizes, _sizes_detail,
    ),
)  # fmt: skip
"""Checks of the axes."""
