"""What a split holds: counts, how often each keypoint is labelled, where it lies in its box, sizes, sides."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

import numpy as np

from multiposenet.data.check.axes import upright_shares
from multiposenet.data.check.boxes import box_pairs, with_boxes
from multiposenet.data.check.label_table import LabelTable
from multiposenet.data.check.sides import Sides, describe_sides
from multiposenet.geometry import points_to_shares

HEAT_CELLS = 40
"""Cells of a keypoint's heat picture on each side."""

HEAT_RANGE = (-0.25, 1.25)
"""The part of the box's own coordinates that a heat picture shows: the box and a quarter of it around."""

PERCENTILES, OVERLAPS = (10, 50, 90), (0.1, 0.3, 0.5)
"""Which percentiles of box sides are told, and beyond which IoU of boxes people are counted."""

SMALL, LARGE = 32.0**2, 96.0**2
"""COCO's bounds of small, medium and large people by their area, pixels."""


@dataclass(frozen=True)
class SplitStatistics:
    """Figures of one split. K keypoints.

    Args:
        pictures, annotations, people: how many there are.
        with_keypoints: single people with a labelled keypoint.
        crowds: crowd regions.
        nobody: pictures without a person.
        most_people: in one picture.
        categories: annotations by category, by name.
        sizes: people with keypoints by size: small, medium, large, unknown.
        labelled_keypoints: mean number of labelled keypoints of a person with any.
        box_sides: 10th, 50th and 90th percentile of the roots of their boxes' areas over the picture's shorter side, by
            name; empty without anybody.
        overlapping: by IoU, the share of them whose box overlaps another one's by more than that.
        keypoints: names.
        visible, hidden: [K] people on whom the keypoint has visibility 2, and 1.
        heat: [K, h, w] int64, where in its box (:data:`HEAT_RANGE`) a labelled keypoint lies.
        sides: left and right.
        upright: see ``axes.upright_shares``.
    """

    pictures: int
    annotations: int
    people: int
    with_keypoints: int
    crowds: int
    nobody: int
    most_people: int
    categories: dict[str, int]
    sizes: dict[str, int]
    labelled_keypoints: float
    box_sides: dict[str, float]
    overlapping: dict[str, float]
    keypoints: tuple[str, ...]
    visible: np.ndarray
    hidden: np.ndarray
    heat: np.ndarray
    sides: Sides
    upright: dict[str, float] | None

    def to_dict(self) -> dict:
        """Plain values for JSON, without the heat pictures."""
        content = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("keypoints", "visible", "hidden", "heat", "sides")
        }
        content["keypoints"] = {
            name: {"visible": int(visible), "hidden": int(hidden)}
            for name, visible, hidden in zip(self.keypoints, self.visible, self.hidden, strict=True)
        }
        content["sides"] = dataclasses.asdict(self.sides)
        return content


def describe_split(table: LabelTable) -> SplitStatistics:
    """The figures of a table."""
    labelled = table.labelled.any(axis=1) & ~table.is_crowd
    per_picture = np.bincount(table.image_index[table.image_index >= 0], minlength=len(table.images))
    named = {item["id"]: str(item.get("name")) for item in table.categories}
    counts = Counter(named.get(identity, f"unlisted {identity!r}") for identity in table.category_ids)
    areas = table.areas[labelled]
    visibility = table.keypoints[..., 2]
    return SplitStatistics(
        pictures=len(table.images),
        annotations=len(table.annotations),
        people=len(table),
        with_keypoints=int(labelled.sum()),
        crowds=int(table.is_crowd.sum()),
        nobody=int((per_picture == 0).sum()),
        most_people=int(per_picture.max(initial=0)),
        categories={name: counts[name] for name in dict.fromkeys([*named.values(), *counts])},
        sizes={
            "small": int((areas < SMALL).sum()),
            "medium": int(((areas >= SMALL) & (areas < LARGE)).sum()),
            "large": int((areas >= LARGE).sum()),
            "unknown": int((~np.isfinite(areas)).sum()),
        },
        labelled_keypoints=float(table.labelled[labelled].sum(axis=1).mean()) if labelled.any() else 0.0,
        box_sides=_box_sides(table, labelled),
        overlapping=_overlapping(table, labelled),
        keypoints=table.skeleton.keypoints,
        visible=(table.labelled & (visibility == 2)).sum(axis=0),
        hidden=(table.labelled & (visibility == 1)).sum(axis=0),
        heat=_heat(table),
        sides=describe_sides(table),
        upright=upright_shares(table),
    )


def _box_sides(table: LabelTable, people: np.ndarray) -> dict[str, float]:
    rows = with_boxes(table, people)
    shorter = table.image_sizes[table.image_index[rows]].min(axis=1)
    sides = np.sqrt(table.boxes_xywh[rows, 2:].prod(axis=1)) / shorter
    sides = sides[np.isfinite(sides)]
    if not sides.size:
        return {}
    return {f"{percent} %": float(np.percentile(sides, percent)) for percent in PERCENTILES}


def _overlapping(table: LabelTable, people: np.ndarray) -> dict[str, float]:
    rows = with_boxes(table, people)
    first, second, shared, covered = box_pairs(table, rows)
    shares = {}
    for bound in OVERLAPS:
        near = shared > bound * covered
        shares[str(bound)] = len(np.union1d(first[near], second[near])) / max(1, len(rows))
    return shares


def _heat(table: LabelTable) -> np.ndarray:
    """[K, h, w] counts, row by row from above."""
    low, high = HEAT_RANGE
    with np.errstate(invalid="ignore"):
        shares = points_to_shares(table.keypoints[..., :2], table.boxes[:, None])
        cells = (shares - low) / (high - low) * HEAT_CELLS
    shown = table.labelled & ((cells >= 0) & (cells < HEAT_CELLS)).all(axis=-1)
    count = table.skeleton.num_keypoints
    x, y = cells[shown].astype(np.int64).T
    keypoint = np.broadcast_to(np.arange(count), shown.shape)[shown]
    flat = np.bincount((keypoint * HEAT_CELLS + y) * HEAT_CELLS + x, minlength=count * HEAT_CELLS**2)
    return flat.reshape(count, HEAT_CELLS, HEAT_CELLS)
