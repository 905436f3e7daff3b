"""Stand-ins for what an annotation file in COCO's format may lack, by one stated rule."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import pycocotools.mask as coco_mask

from multiposenet.data.person_masks import segmentation_problem, segmentation_rle

BOX_AREA_SHARE = 0.53
"""Area of a person as a share of the box, where nothing better is known: the factor of CrowdPose's evaluation.

The whole box would make object keypoint similarity more lenient than it is on labels with a segment area.
"""


def segment_area(segmentation: object, image_size: tuple[int, int]) -> float | None:
    """Pixels inside a COCO segmentation, or None where there is none or it covers no pixel.

    Args:
        segmentation: polygons or run lengths of a well-formed annotation.
        image_size: (height, width).

    Raises:
        ValueError: it cannot be read.
    """
    rle = segmentation_rle(segmentation, image_size)
    return None if rle is None else float(coco_mask.area(rle))


def complete_annotations(content: Mapping, box_area_share: float = BOX_AREA_SHARE) -> dict:
    """COCO annotations with the fields that scoring needs filled in where they are missing.

    The rule: ``iscrowd`` is 0; ``num_keypoints`` is the number of keypoints with visibility above 0; ``area`` is the
    area of the segmentation, or ``box_area_share`` of the box where there is none. Fields that are there are kept,
    wrong or not. AP against areas of boxes is near AP against areas of segments, not equal to it: a warning says how
    many there are.

    Args:
        content: a COCO annotation file's content; not modified.
        box_area_share: in (0, 1].

    Returns:
        A new dict; records that needed nothing are the same objects as in ``content``.

    Raises:
        ValueError: a segmentation cannot be read; the message names the annotation.
    """
    sizes = {
        image["id"]: (image["height"], image["width"])
        for image in content["images"]
        if "height" in image and "width" in image
    }
    annotations, of_box = [], 0
    for record in content["annotations"]:
        needed = {field for field in ("iscrowd", "num_keypoints", "area") if record.get(field) is None}
        if needed and "keypoints" in record:
            record = dict(record)
            if "iscrowd" in needed:
                record["iscrowd"] = 0
            if "num_keypoints" in needed:
                record["num_keypoints"] = int(np.count_nonzero(np.asarray(record["keypoints"], np.float64)[2::3] > 0))
            if "area" in needed and "bbox" in record:
                area = _segment_area(record, sizes)
                of_box += area is None
                record["area"] = box_area_share * record["bbox"][2] * record["bbox"][3] if area is None else area
        annotations.append(record)
    if of_box:
        warnings.warn(
            f"{of_box} of {len(annotations)} annotations have neither area nor segmentation: {box_area_share} of the "
            "box's area stands in (as in CrowdPose's own evaluation), and AP depends on it",
            stacklevel=2,
        )
    return {**content, "annotations": annotations}


def _segment_area(record: Mapping, sizes: Mapping) -> float | None:
    size = sizes.get(record.get("image_id"))
    if size is None:
        return None
    segmentation = record.get("segmentation")
    problem = segmentation_problem(segmentation, size)
    if problem is None:
        try:
            return segment_area(segmentation, size)
        except ValueError as error:
            problem = str(error)
    raise ValueError(
        f"annotation {record.get('id')} of picture {record.get('image_id')}: segmentation: {problem}; "
        "correct it or leave it out"
    )
