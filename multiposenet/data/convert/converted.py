"""What every conversion passes on: clean COCO labels of one split, and where its pictures are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from multiposenet.data.completion import BOX_AREA_SHARE
from multiposenet.skeletons import Skeleton

CATEGORY_ID = 1
"""Of the people, as in COCO."""


@dataclass(frozen=True)
class ConvertedSplit:
    """One split in COCO's format, ready to be written in any.

    Args:
        name: of the split.
        skeleton: of its people.
        images: records with ``id``, ``file_name`` (with forward slashes), ``width``, ``height`` and what else came.
        annotations: records of people, with all of COCO's fields, of the category :data:`CATEGORY_ID`.
        pictures: the file of each image id whose file is there.
        notes: what was assumed, changed or left out; sentences.
        uncounted: keypoints that the annotations' ``num_keypoints`` leaves out.
    """

    name: str
    skeleton: Skeleton
    images: Sequence[dict]
    annotations: Sequence[dict]
    pictures: Mapping[int, Path]
    notes: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()


def person_record(
    annotation_id: int, image_id: int, box_xywh: Sequence[float], triples: Sequence[Sequence[float]], **more: object
) -> dict:
    """A COCO annotation of a single person.

    Args:
        annotation_id, image_id: ids.
        box_xywh: pixels.
        triples: K times x, y (pixel indices), visibility.
        more: further fields, among them ``area`` where it is known; 0.53 of the box's stands in.
    """
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": CATEGORY_ID,
        "bbox": [plain_number(value) for value in box_xywh],
        "area": round(BOX_AREA_SHARE * box_xywh[2] * box_xywh[3], 2),
        "iscrowd": 0,
        "num_keypoints": sum(visibility > 0 for _, _, visibility in triples),
        "keypoints": [plain_number(value) for triple in triples for value in triple],
        **more,
    }


def person_category(skeleton: Skeleton) -> dict:
    """The COCO category of people with this skeleton."""
    return {
        "id": CATEGORY_ID,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(skeleton.keypoints),
        "skeleton": [[first + 1, second + 1] for first, second in skeleton.limbs],
    }


def plain_number(value: float) -> int | float:
    """Rounded to COCO's 0.01 pixel; whole numbers without a point."""
    rounded = round(float(value), 2)
    return int(rounded) if rounded.is_integer() else rounded


def inner_name(name: str) -> str:
    """A picture's name as a path inside a folder: forward slashes, no drive, nothing that leads out."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return "/".join(part for part in parts if part not in ("/", "..", ".") and not part.endswith(":"))
