"""Repairs of records: ids, references, duplicates, categories without annotations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np

from multiposenet.data.annotations import is_whole
from multiposenet.data.check.axes import exchanged_sizes
from multiposenet.data.check.boxes import repeated_pairs
from multiposenet.data.check.draft import Draft
from multiposenet.data.check.label_table import LabelTable, plain_id


def repair_sections(draft: Draft) -> None:
    """Takes out what is no object, and makes ids whole numbers; every id that is taken stays with whom it was."""
    for section in ("images", "annotations", "categories"):
        records = draft.content[section]
        draft.remove("broken-section", section, [r for r, item in enumerate(records) if not isinstance(item, dict)])
    annotations = draft.content["annotations"]
    for section, reference, check in (
        ("images", "image_id", "image-id-not-whole"),
        ("categories", "category_id", "annotation-id-not-whole"),
    ):
        numbers = _whole_numbers([plain_id(record.get("id")) for record in draft.content[section]])
        for row, record in enumerate(draft.content[section]):
            if (number := numbers.get(plain_id(record.get("id")))) is not None:
                draft.set(check, section, row, "id", number)
        for row in range(len(annotations)):
            if (number := numbers.get(plain_id(annotations[row].get(reference)))) is not None:
                draft.set("annotation-id-not-whole", "annotations", row, reference, number)
    _number_annotations(draft)


def repair_references(draft: Draft, table: LabelTable) -> None:
    """Removes annotations of unlisted pictures, second records of one picture, categories that nobody uses."""
    draft.remove("unknown-image", "annotations", np.flatnonzero(table.annotation_images < 0).tolist())
    first: dict = {}
    twice = []
    for row, record in enumerate(draft.content["images"]):
        earlier = first.setdefault(plain_id(record.get("id")), record)
        if earlier is not record and earlier == record:
            twice.append(row)
    draft.remove("repeated-image-id", "images", twice)
    used = {*table.category_ids, table.people_category.id}
    unused = [row for row, item in enumerate(draft.content["categories"]) if plain_id(item.get("id")) not in used]
    draft.remove("empty-category", "categories", unused)


def repair_repeated_people(draft: Draft, table: LabelTable) -> None:
    """Removes the second of two annotations that are equal to the last number; alike ones are left."""
    gone = []
    for first, second in zip(*repeated_pairs(table), strict=True):
        one, other = (table.person(row) for row in (first, second))
        if all(one.get(field) == other.get(field) for field in ("keypoints", "bbox")):
            gone.append(int(table.people[second]))
    draft.remove("repeated-person", "annotations", sorted(set(gone)))


def repair_sizes(draft: Draft, table: LabelTable) -> None:
    """Exchanges width and height where labels and file say so, and fills in sizes that are missing; both by the file.

    Another size is left: the labels may belong to a larger or smaller version of the picture.
    """
    exchanged = exchanged_sizes(table)
    for row in range(len(table.images)):
        if not np.isfinite(table.file_sizes[row]).all():
            continue
        broken = not np.isfinite(table.image_sizes[row]).all()
        if broken or exchanged[row]:
            check = "broken-image-record" if broken else "width-height-exchanged"
            height, width = table.file_sizes[row].astype(int).tolist()
            draft.set(check, "images", row, "height", height)
            draft.set(check, "images", row, "width", width)


def _number_annotations(draft: Draft) -> None:
    """Gives a new id to annotations without a whole one, and to those whose id an earlier one has."""
    annotations = draft.content["annotations"]
    ids = [plain_id(record.get("id")) for record in annotations]
    fresh = _fresh(ids)
    taken: set = set()
    for row, identity in enumerate(ids):
        check = "repeated-annotation-id" if identity in taken else "annotation-id-not-whole"
        if type(identity) is not int or not is_whole(identity) or identity in taken:
            identity = fresh()
        taken.add(identity)
        draft.set(check, "annotations", row, "id", identity)


def _whole_numbers(ids: list) -> dict:
    """A whole number for every id that is there; whole ones keep theirs."""
    fresh = _fresh(ids)
    numbers: dict = {}
    for identity in ids:
        if identity is not None and identity not in numbers:
            numbers[identity] = identity if type(identity) is int and is_whole(identity) else fresh()
    return numbers


def _fresh(ids: list) -> Callable[[], int]:
    """Gives whole numbers beyond all that are taken."""
    return count(max((identity for identity in ids if is_whole(identity)), default=0) + 1).__next__
