"""Reading files in COCO's format as annotation tools and data sets write them, and making them clean."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from multiposenet.data.annotations import pack_annotations, read_json
from multiposenet.data.check.axes import exchanged_sizes
from multiposenet.data.check.keypoints import counted_keypoints
from multiposenet.data.check.label_table import LabelTable, build_table
from multiposenet.data.check.picture_files import PictureFile, locate_picture, measure_picture
from multiposenet.data.check.repairs import repair_content
from multiposenet.data.check.sources import SplitSource, find_splits
from multiposenet.data.convert.converted import CATEGORY_ID, ConvertedSplit, inner_name, person_category
from multiposenet.data.formats import COCO_FORMAT, CocoFormat
from multiposenet.skeletons import Skeleton


def read_export(
    source: Path,
    splits: Sequence[str] = (),
    layout: CocoFormat | None = None,
    skeleton: Skeleton | None = None,
    category: str | None = None,
    pictures: Path | None = None,
) -> list[ConvertedSplit]:
    """Reads annotation files in COCO's format, whatever tool wrote them.

    What ``data check --fix`` corrects is corrected: ids, missing counts, areas and flags, placeholders. Only people are
    kept, with all fields of their records, in the category 1.

    Args:
        source: a folder, or one annotation file.
        splits: only these; by default all.
        layout: where the files lie and what they are; by default the first of ``FORMATS`` that fits.
        skeleton: the keypoints; by default those that the files list.
        category: name of the people's category, where it is not ``person`` and others have keypoints too.
        pictures: the folder of the pictures, where it is another one than the layout's.

    Raises:
        FileNotFoundError: there is no annotation file.
        ValueError: a file is not in COCO's format, or nobody can tell which category is people.
    """
    read = []
    for found in find_splits(source, splits, layout, pictures):
        if category is not None:
            found = dataclasses.replace(found, layout=dataclasses.replace(found.layout, category=category))
        read.append(_read_split(found, skeleton))
    return read


def _read_split(source: SplitSource, skeleton: Skeleton | None) -> ConvertedSplit:
    layout, path = source.layout, source.annotations
    content = read_json(path)[0]
    files = _doubtful_pictures(build_table(content, path, source.name, layout, skeleton), source)
    content, changes = repair_content(content, path, layout, skeleton, files)
    table = build_table(content, path, source.name, layout, skeleton)
    if table.people_category.refused:
        raise ValueError(
            f"{table.people_category.refused}. Say which category is people (--category), or which skeleton it has "
            "(--skeleton)"
        )
    images = [
        {**image, "file_name": inner_name(name)} for image, name in zip(table.images, table.file_names, strict=True)
    ]
    people = _people(table)
    # Where the records are wrong beyond repair, this error names the file that the user has.
    clean = {"images": images, "annotations": people, "categories": [person_category(table.skeleton)]}
    pack_annotations(clean, "", path, table.skeleton, dataclasses.replace(COCO_FORMAT, uncounted=layout.uncounted))
    counts = Counter(change.check for change in changes)
    notes = [f"corrected: {check}, {count:,}" for check, count in counts.items()]
    located = {
        image["id"]: locate_picture(name, source.picture_folders)
        for image, name in zip(images, table.file_names, strict=True)
    }
    return ConvertedSplit(
        source.name,
        table.skeleton,
        images,
        people,
        {image_id: picture for image_id, picture in located.items() if picture is not None},
        (*notes, *_notes(table)),
        layout.uncounted,
    )


def _doubtful_pictures(table: LabelTable, source: SplitSource) -> list[PictureFile]:
    """The pictures' headers, read where the record's size is missing or the labels speak against it."""
    doubtful = exchanged_sizes(table) | ~np.isfinite(table.image_sizes).all(axis=1)
    return [
        measure_picture(locate_picture(name, source.picture_folders)) if asked else PictureFile()
        for name, asked in zip(table.file_names, doubtful, strict=True)
    ]


def _people(table: LabelTable) -> list[dict]:
    """The people's records with the fields that COCO's tools expect.

    ``num_keypoints`` stays what the format counts: who has 0 is not scored, and CrowdPose leaves out head and neck.
    """
    nobody = [0] * (3 * table.skeleton.num_keypoints)
    people = []
    for row, counted in enumerate(counted_keypoints(table).tolist()):
        person = table.person(row)
        count = person.get("num_keypoints")
        people.append(
            {
                **person,
                "category_id": CATEGORY_ID,
                "keypoints": person.get("keypoints") or nobody,
                "num_keypoints": counted if count is None else count,
            }
        )
    return people


def _notes(table: LabelTable) -> list[str]:
    names = {item["id"]: item.get("name") for item in table.categories}
    others = Counter(
        str(names.get(identity, identity)) for identity in table.category_ids if identity != table.people_category.id
    )
    notes = [f"{count:,} annotations of the category {name!r} are left out" for name, count in others.items()]
    boxes = int((table.keypoint_numbers < 1).sum())
    if boxes:
        notes.append(f"{boxes:,} people have a box and no keypoints: theirs are all unlabelled")
    if table.layout.uncounted:
        uncounted = " and ".join(table.layout.uncounted)
        notes.append(f"num_keypoints leaves out {uncounted}, as the format has it: nobody is scored by these alone")
    if table.people_category.unnamed:
        notes.append(f"the file names no keypoints: they are taken to be those of {table.skeleton.name!r}")
    return notes
