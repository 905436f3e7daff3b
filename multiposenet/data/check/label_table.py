"""An annotation file as columns, however broken it is: what cannot be read is NaN, and a finding.

``data.annotations.read_annotations`` stops at the first fault, since training must not go on. A check goes on: nothing
here raises for a fault of a single record.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from multiposenet.data.annotations import read_json
from multiposenet.data.check.people_category import PeopleCategory, find_people
from multiposenet.data.formats import COCO_FORMAT, CocoFormat
from multiposenet.geometry import xywh_to_xyxy
from multiposenet.skeletons import Skeleton

_CHUNK = 1024  # records that are turned into numbers at once; only a chunk with a fault is read one by one


@dataclass(frozen=True)
class LabelTable:
    """One annotation file (NumPy; each picture's own pixels). Nothing in it is to be written to.

    Letters: A annotations of any category, T people, K keypoints, I pictures.

    Args:
        split: name of the part of the data.
        path: the file.
        layout: how the file uses COCO's format.
        people_category: whose annotations the people are.
        categories: the file's objects that have an id, made plain.
        images: I objects.
        image_ids: I ids, made plain by :func:`plain_id`.
        file_names: I names, "" where there is none.
        image_sizes: [I, 2] float64 (height, width), NaN where they are not positive numbers.
        file_sizes: [I, 2] float64 (height, width) of the picture files, NaN where nobody looked or the file gives none.
        annotations: A objects.
        annotation_ids, category_ids: A each, made plain.
        annotation_images: [A] int64, position of each one's picture, -1 where no picture has its id.
        people: [T] int64, rows of ``annotations`` that are of the people's category.
        keypoints: [T, K, 3] float64, x, y, visibility; NaN where there is no number.
        keypoint_numbers: [T] int64, how many numbers the record has; -1 where it has no list.
        boxes_xywh: [T, 4] float64; NaN where there is no number.
        areas, crowd, num_keypoints: [T] float64, NaN where there is no number.
        misfits: what the file holds that no column can: sentences.
    """

    split: str
    path: Path
    layout: CocoFormat
    people_category: PeopleCategory
    categories: list[dict]
    images: list[dict]
    image_ids: list
    file_names: list[str]
    image_sizes: np.ndarray
    file_sizes: np.ndarray
    annotations: list[dict]
    annotation_ids: list
    category_ids: list
    annotation_images: np.ndarray
    people: np.ndarray
    keypoints: np.ndarray
    keypoint_numbers: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    num_keypoints: np.ndarray
    misfits: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.people)

    @property
    def skeleton(self) -> Skeleton:
        return self.people_category.skeleton

    @cached_property
    def boxes(self) -> np.ndarray:
        """[T, 4] xyxy."""
        return xywh_to_xyxy(self.boxes_xywh)

    @cached_property
    def image_index(self) -> np.ndarray:
        """[T] int64, position of each person's picture, -1 where it is unknown."""
        return self.annotation_images[self.people]

    @cached_property
    def person_image_sizes(self) -> np.ndarray:
        """[T, 2] (height, width) of each person's picture, NaN where it is unknown."""
        return np.concatenate([self.image_sizes, np.full((1, 2), np.nan)])[self.image_index]

    @cached_property
    def labelled(self) -> np.ndarray:
        """[T, K] bool: visibility above 0 and a finite place."""
        return (self.keypoints[..., 2] > 0) & np.isfinite(self.keypoints).all(axis=-1)

    @cached_property
    def is_crowd(self) -> np.ndarray:
        """[T] bool."""
        return self.crowd == 1

    def person(self, row: int) -> dict:
        """The record of person ``row``."""
        return self.annotations[self.people[row]]

    def around(self, row: int) -> tuple[LabelTable, int]:
        """The same with only the people of person ``row``'s picture, and that person's row among them."""
        rows = np.flatnonzero(self.image_index == self.image_index[row])
        columns = ("people", "keypoints", "keypoint_numbers", "boxes_xywh", "areas", "crowd", "num_keypoints")
        picked = {name: getattr(self, name)[rows] for name in columns}
        return dataclasses.replace(self, **picked), int(np.searchsorted(rows, row))


def read_table(
    path: str | Path, split: str = "", layout: CocoFormat = COCO_FORMAT, skeleton: Skeleton | None = None
) -> LabelTable:
    """Reads an annotation file, plain or gzip, into a table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or not an object with lists of images and annotations.
    """
    path = Path(path).expanduser()
    return build_table(read_json(path)[0], path, split, layout, skeleton)


def build_table(
    content: dict, path: Path, split: str = "", layout: CocoFormat = COCO_FORMAT, skeleton: Skeleton | None = None
) -> LabelTable:
    """A file's content as a table; the records are shared with ``content``, not copied.

    Args:
        content: the file's object.
        path: its name, for messages.
        split: the table's name.
        layout: how the file uses COCO's format.
        skeleton: the keypoints of the people; by default those that the file lists, or the layout's.

    Raises:
        ValueError: images or annotations is not a list.
    """
    for section in ("images", "annotations"):
        if not isinstance(content.get(section), list):
            raise ValueError(
                f"{path}: {section} is not a list; a file in COCO's format has lists of images and annotations"
            )
    misfits: list[str] = []
    images, annotations = (_objects(content, section, misfits) for section in ("images", "annotations"))
    categories = [
        {**item, "id": plain_id(item["id"])}
        for item in _objects(content, "categories", misfits)
        if "id" in item or misfits.append(f"a category ({item.get('name')!r}) has no id")
    ]
    names = layout.skeleton if skeleton is None else skeleton
    moved = layout.as_coco({"annotations": annotations, "categories": categories}, names)
    annotations, categories = moved["annotations"], moved["categories"]

    image_ids = [plain_id(record.get("id")) for record in images]
    category_ids = [plain_id(record.get("category_id")) for record in annotations]
    position = {identity: index for index, identity in reversed(list(enumerate(image_ids)))}
    category = find_people(path, categories, annotations, category_ids, layout, skeleton)
    people = np.flatnonzero(np.fromiter((i == category.id for i in category_ids), bool, len(category_ids)))
    records = [annotations[row] for row in people]
    count = category.skeleton.num_keypoints
    lists = [record.get("keypoints") for record in records]
    return LabelTable(
        split=split,
        path=path,
        layout=layout,
        people_category=category,
        categories=categories,
        images=images,
        image_ids=image_ids,
        file_names=[name if isinstance(name := record.get("file_name"), str) else "" for record in images],
        image_sizes=_positive(rows_of_numbers([[r.get("height"), r.get("width")] for r in images], 2)),
        file_sizes=np.full((len(images), 2), np.nan),
        annotations=annotations,
        annotation_ids=[plain_id(record.get("id")) for record in annotations],
        category_ids=category_ids,
        annotation_images=np.fromiter(
            (position.get(plain_id(record.get("image_id")), -1) for record in annotations), np.int64, len(annotations)
        ),
        people=people,
        keypoints=rows_of_numbers(lists, 3 * count).reshape(-1, count, 3),
        keypoint_numbers=np.array([len(item) if isinstance(item, list) else -1 for item in lists], np.int64),
        boxes_xywh=rows_of_numbers([record.get("bbox") for record in records], 4),
        areas=numbers([record.get("area") for record in records]),
        crowd=numbers([record.get("iscrowd", 0) for record in records]),
        num_keypoints=numbers([record.get("num_keypoints") for record in records]),
        misfits=tuple(misfits),
    )


def plain_id(value: object) -> object:
    """An id as what it stands for: whole numbers in text or with a point become whole numbers, lists become text."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() else value
    return value if value is None else repr(value)


def rows_of_numbers(values: Sequence, width: int) -> np.ndarray:
    """[len(values), width] float64 of lists of ``width`` numbers.

    NaN where an entry is no number, and all over a row that is no list of that length.
    """
    rows = np.full((len(values), width), np.nan)
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        try:
            part = np.array(chunk, np.float64)
        except (TypeError, ValueError, OverflowError):
            part = np.zeros(0)
        if part.shape == (len(chunk), width):
            rows[start : start + _CHUNK] = part
            continue
        for offset, value in enumerate(chunk):
            if isinstance(value, list) and len(value) == width:
                rows[start + offset] = [_number(item) for item in value]
    return rows


def numbers(values: Sequence) -> np.ndarray:
    """[len(values)] float64, NaN where an entry is no number."""
    try:
        column = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        column = np.zeros(0)
    if column.shape == (len(values),):
        return column
    return np.array([_number(value) for value in values], np.float64).reshape(len(values))


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        return math.nan


def _positive(sizes: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(sizes) & (sizes > 0), sizes, np.nan)


def _objects(content: dict, section: str, misfits: list[str]) -> list[dict]:
    """The section's objects; what else is in it goes to ``misfits``."""
    items = content.get(section)
    if not isinstance(items, list):
        misfits.append(f"{section} is not a list, but {type(items).__name__}")
        return []
    objects = [item for item in items if isinstance(item, dict)]
    if len(objects) != len(items):
        first = next(index for index, item in enumerate(items) if not isinstance(item, dict))
        misfits.append(
            f"{len(items) - len(objects)} entries of {section} are no objects, the first is {section}[{first}], "
            f"a {type(items[first]).__name__}"
        )
    return objects
