"""Checks of records: sections, categories, ids, and what refers to what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from multiposenet.data.annotations import is_whole
from multiposenet.data.check.findings import Check, Scope, Severity
from multiposenet.data.check.label_table import LabelTable
from multiposenet.data.person_masks import segmentation_problem


def _misfits(table: LabelTable) -> Sequence[str]:
    return table.misfits


def _people_category(table: LabelTable) -> Sequence[str]:
    category = table.people_category
    if category.refused is None or _reordered(table):
        return []
    return [category.refused]


def _reordered(table: LabelTable) -> Sequence[str]:
    listed = _listed_keypoints(table)
    found = []
    for known in (table.layout.skeleton, table.skeleton):
        if listed != known.keypoints and sorted(listed) == sorted(known.keypoints):
            found.append(f"{', '.join(listed)}; skeleton {known.name!r} has {', '.join(known.keypoints)}")
    return found[:1]


def _listed_keypoints(table: LabelTable) -> tuple[str, ...]:
    chosen = [item for item in table.categories if item["id"] == table.people_category.id]
    names = chosen[0].get("keypoints") if chosen else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _unnamed_keypoints(table: LabelTable) -> Sequence[str]:
    if not table.people_category.unnamed:
        return []
    return [f"taken to be those of {table.skeleton.name!r}: {', '.join(table.skeleton.keypoints)}"]


def _no_sigmas(table: LabelTable) -> Sequence[str]:
    if table.skeleton.oks_sigmas is not None:
        return []
    return [f"skeleton {table.skeleton.name!r}, {table.skeleton.num_keypoints} keypoints, {len(table)} people"]


def _no_people(table: LabelTable) -> Sequence[str]:
    if len(table):
        return []
    return [f"{len(table.annotations)} annotations, none of the category {table.people_category.id!r}"]


def _empty_categories(table: LabelTable) -> Sequence[str]:
    used = set(table.category_ids)
    return [
        f"{item.get('name')!r} (id {item['id']!r}, supercategory {item.get('supercategory')!r})"
        for item in table.categories
        if item["id"] not in used and item["id"] != table.people_category.id
    ]


def _repeated_categories(table: LabelTable) -> Sequence[str]:
    counts = Counter(item["id"] for item in table.categories)
    return [f"id {identity!r}: {count} categories" for identity, count in counts.items() if count > 1]


def _unknown_category(table: LabelTable) -> np.ndarray:
    known = {item["id"] for item in table.categories}
    return np.fromiter((identity not in known for identity in table.category_ids), bool, len(table.category_ids))


def _broken_image_record(table: LabelTable) -> np.ndarray:
    nameless = np.fromiter((not name for name in table.file_names), bool, len(table.images))
    whole = (table.image_sizes % 1 == 0).all(axis=1)  # False for NaN too
    return nameless | ~whole


def _image_record_detail(table: LabelTable, row: int) -> str:
    record = table.images[row]
    return ", ".join(f"{field} {record.get(field)!r}" for field in ("file_name", "width", "height"))


def _odd_image_id(table: LabelTable) -> np.ndarray:
    return _not_whole([record.get("id") for record in table.images])


def _odd_annotation_id(table: LabelTable) -> np.ndarray:
    fields = ("id", "image_id", "category_id")
    return np.logical_or.reduce([_not_whole([r.get(field) for r in table.annotations]) for field in fields])


def _annotation_id_detail(table: LabelTable, row: int) -> str:
    record = table.annotations[row]
    return ", ".join(f"{field} {record.get(field)!r}" for field in ("id", "image_id", "category_id"))


def _not_whole(values: list) -> np.ndarray:
    return np.fromiter((type(value) is not int or not is_whole(value) for value in values), bool, len(values))


def _repeated_image_id(table: LabelTable) -> np.ndarray:
    return repeated(table.image_ids)


def _repeated_file_name(table: LabelTable) -> np.ndarray:
    return repeated(table.file_names) & np.fromiter(map(bool, table.file_names), bool, len(table.file_names))


def _repeated_annotation_id(table: LabelTable) -> np.ndarray:
    return repeated(table.annotation_ids)


def repeated(values: Sequence) -> np.ndarray:
    """[len(values)] bool: an equal one came before."""
    seen: set = set()
    return np.fromiter((value in seen or seen.add(value) is not None for value in values), bool, len(values))


def _unknown_image(table: LabelTable) -> np.ndarray:
    return table.annotation_images < 0


def _unknown_image_detail(table: LabelTable, row: int) -> str:
    return f"image_id {table.annotations[row].get('image_id')!r}"


def broken_segmentations(table: LabelTable) -> np.ndarray:
    """[T] bool: the segmentation's form is none of COCO's."""
    return np.fromiter((bool(_segmentation_problem(table, row)) for row in range(len(table))), bool, len(table))


def _segmentation_problem(table: LabelTable, row: int) -> str:
    segmentation, size = table.person(row).get("segmentation"), table.person_image_sizes[row]
    if not segmentation or not np.isfinite(size).all():
        return ""
    return segmentation_problem(segmentation, (int(size[0]), int(size[1]))) or ""


def _nobody(table: LabelTable) -> np.ndarray:
    return np.bincount(table.image_index[table.image_index >= 0], minlength=len(table.images)) == 0


RECORD_CHECKS = (
    Check(
        "broken-section", Severity.ERROR, Scope.FILE,
        "Entries that are no objects are in no class's reach; remove them or export again.", _misfits,
    ),
    Check(
        "people-category", Severity.ERROR, Scope.FILE,
        "The people's category cannot be told, or is labelled with other keypoints than the skeleton in use.",
        _people_category,
    ),
    Check(
        "keypoint-order", Severity.ERROR, Scope.FILE,
        "The same keypoints as a known skeleton's in another order: read with that skeleton, names are mixed up. "
        "Reorder them, or give the skeleton with --skeleton.", _reordered,
    ),
    Check(
        "unnamed-keypoints", Severity.WARNING, Scope.FILE,
        "The people's category lists no keypoints; write their names into it.", _unnamed_keypoints,
    ),
    Check(
        "no-sigmas", Severity.WARNING, Scope.FILE,
        "The skeleton has no OKS sigmas, so AP cannot be computed without a stated default; write them into the "
        "skeleton's TOML file.", _no_sigmas,
    ),
    Check(
        "no-people", Severity.ERROR, Scope.FILE,
        "Nobody is annotated. If this is an export of CVAT: only labels of the type Skeleton reach the format 'COCO "
        "Keypoints'.", _no_people,
    ),
    Check(
        "empty-category", Severity.WARNING, Scope.FILE,
        "Categories without annotations, often placeholders of an annotation tool; readers that take the first "
        "category find nobody. Remove them.", _empty_categories,
    ),
    Check(
        "repeated-category-id", Severity.ERROR, Scope.FILE,
        "Several categories have one id; give each its own.", _repeated_categories,
    ),
    Check(
        "unknown-category", Severity.ERROR, Scope.ANNOTATIONS,
        "The annotation's category is not listed; list it or correct the id.", _unknown_category,
        _annotation_id_detail,
    ),
    Check(
        "broken-image-record", Severity.ERROR, Scope.PICTURES,
        "A picture needs a file name and a width and height in whole pixels.", _broken_image_record,
        _image_record_detail,
    ),
    Check(
        "image-id-not-whole", Severity.ERROR, Scope.PICTURES,
        "An image id must be a whole number of at most 63 bits; results with numbers never match text.", _odd_image_id,
        lambda table, row: f"id {table.images[row].get('id')!r}",
    ),
    Check(
        "annotation-id-not-whole", Severity.ERROR, Scope.ANNOTATIONS,
        "id, image_id and category_id of an annotation must be whole numbers of at most 63 bits.", _odd_annotation_id,
        _annotation_id_detail,
    ),
    Check(
        "repeated-image-id", Severity.ERROR, Scope.PICTURES,
        "Two pictures have one id: nobody knows whose the annotations are.", _repeated_image_id,
        lambda table, row: f"id {table.image_ids[row]!r}",
    ),
    Check(
        "repeated-file-name", Severity.WARNING, Scope.PICTURES,
        "A picture is listed twice, so its people are trained and counted twice, or half of them are missing in each.",
        _repeated_file_name, lambda table, row: f"image {table.image_ids[row]!r}",
    ),
    Check(
        "repeated-annotation-id", Severity.ERROR, Scope.ANNOTATIONS,
        "Two annotations have one id: COCO's tools count one of them twice and the other never.",
        _repeated_annotation_id,
    ),
    Check(
        "unknown-image", Severity.ERROR, Scope.ANNOTATIONS,
        "The annotation's picture is not listed; add the picture or remove the annotation.", _unknown_image,
        _unknown_image_detail,
    ),
    Check(
        "broken-segmentation", Severity.ERROR, Scope.PEOPLE,
        "The segmentation cannot be read; correct it or leave it out.", broken_segmentations, _segmentation_problem,
    ),
    Check(
        "nobody-in-picture", Severity.NOTE, Scope.PICTURES,
        "Pictures without an annotated person; fine if nobody is there, wrong if nobody was labelled.", _nobody,
    ),
)  # fmt: skip
"""Checks of what an annotation file is made of."""
