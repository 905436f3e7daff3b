"""Segmentations of people: COCO's polygons and run lengths to pixel masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as coco_mask

from multiposenet.structures import PersonLabels

LEAST_AREA = 16
"""With fewer visible pixels nothing of a person is left to recognise."""


@dataclass(frozen=True)
class PersonMasks:
    """Which pixels of a picture are person, and which are unlabelled. All [H, W] bool.

    Args:
        person: pixels inside any person's segmentation, crowds included.
        ignore: pixels of people whose keypoints nobody labelled, less those of people with keypoints.
        unknown: pixels of which nobody knows whether they are person: boxes of people without a segmentation, less
            ``person``.
    """

    person: np.ndarray
    ignore: np.ndarray
    unknown: np.ndarray


def segmentation_problem(segmentation: object, image_size: tuple[int, int]) -> str | None:
    """What is wrong with the form of a COCO segmentation, or None. Missing (None) and empty ones are fine."""
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if not isinstance(size, (list, tuple)) or list(size) != list(image_size):
            return f"size must be the picture's [height, width] {list(image_size)}, got {size}"
        counts = segmentation.get("counts")
        if isinstance(counts, list):
            if not all(isinstance(count, int) and count >= 0 for count in counts):
                return "counts must be a list of non-negative integers"
            if sum(counts) != image_size[0] * image_size[1]:
                return f"counts must add up to {image_size[0] * image_size[1]} pixels, got {sum(counts)}"
            return None
        return None if isinstance(counts, str) else f"counts must be a list or a string, got {type(counts).__name__}"
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        return "expected a list of polygons [x1, y1, x2, y2, ...] or a run-length dict with size and counts"
    if any(len(polygon) % 2 for polygon in segmentation):
        return "a polygon must hold an even number of coordinates"
    return None


def segmentation_rle(segmentation: object, image_size: tuple[int, int]) -> dict | None:
    """COCO segmentation (polygons, uncompressed or compressed run lengths) to pycocotools' compressed run lengths.

    Polygons of fewer than three points enclose nothing and are left out.

    Returns:
        The run lengths, or None for a missing segmentation or one that covers no pixel.

    Raises:
        ValueError: a coordinate is not a finite number, or the run lengths cannot be read.
    """
    try:
        return _encoded(segmentation, image_size)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _encoded(segmentation: object, image_size: tuple[int, int]) -> dict | None:
    height, width = image_size
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        if isinstance(counts, list):
            rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        else:
            rle = {"size": [height, width], "counts": counts.encode("ascii")}
            lengths = _run_lengths(rle["counts"])
            if min(lengths, default=0) < 0 or sum(lengths) != height * width:
                # pycocotools would write beyond its buffer, or leave part of it uninitialised.
                raise ValueError(f"the run lengths must add up to {height * width} pixels, got {sum(lengths)}")
    else:
        # Fewer than 6 numbers must go: pycocotools reads a list of 4 as a box.
        polygons = [np.asarray(polygon, dtype=np.float64) for polygon in segmentation if len(polygon) >= 6]
        if not all(np.isfinite(polygon).all() for polygon in polygons):
            raise ValueError("a polygon coordinate is not a finite number")
        if not polygons:
            return None
        rle = coco_mask.merge(coco_mask.frPyObjects([polygon.tolist() for polygon in polygons], height, width))
    return rle if coco_mask.area(rle) > 0 else None


def segment_mask(segmentation: object, image_size: tuple[int, int]) -> np.ndarray:
    """COCO segmentation to its pixels [H, W] bool; errors as for :func:`segmentation_rle`."""
    rle = segmentation_rle(segmentation, image_size)
    return np.zeros(image_size, bool) if rle is None else coco_mask.decode(rle).astype(bool)


def person_masks(segmentations: Sequence[object], labels: PersonLabels, image_size: tuple[int, int]) -> PersonMasks:
    """Masks of one picture from its people's segmentations.

    A box is never taken for a person's shape. Where a segmentation is missing or empty, the box marks the pixels
    ``unknown``, stands for the person's pixels in ``ignore`` if the keypoints are unlabelled too, and keeps its
    pixels out of ``ignore`` if they are labelled.

    Args:
        segmentations: P entries as in the annotation file.
        labels: the same P people.
        image_size: (height, width).

    Raises:
        ValueError: a segmentation cannot be read; the message starts with the person's index among the P.
    """
    with_keypoints = (labels.visibility > 0).any(axis=1) & ~labels.crowd
    shapes: dict[bool, list[dict]] = {False: [], True: []}
    unknown = np.zeros(image_size, bool)
    stand_ins = {False: np.zeros(image_size, bool), True: np.zeros(image_size, bool)}
    for index, segmentation in enumerate(segmentations):
        try:
            rle = segmentation_rle(segmentation, image_size)
        except ValueError as error:
            raise ValueError(f"{index}: segmentation cannot be read: {error}") from error
        labelled = bool(with_keypoints[index])
        if rle is not None:
            shapes[labelled].append(rle)
        else:
            pixels = box_pixels(labels.boxes[index], image_size)
            stand_ins[labelled][pixels] = True
            unknown[pixels] = True
    labelled, unlabelled = _union(shapes[True], image_size), _union(shapes[False], image_size)
    person = labelled | unlabelled
    ignore = (unlabelled | stand_ins[False]) & ~(labelled | stand_ins[True])
    return PersonMasks(person=person, ignore=ignore, unknown=unknown & ~person)


def box_pixels(box: np.ndarray, image_size: tuple[int, int]) -> tuple[slice, slice]:
    """(rows, columns) of the pixels that a box xyxy touches, within the picture."""
    height, width = image_size
    x1, y1, x2, y2 = (float(edge) for edge in box)
    rows = slice(min(max(math.floor(y1), 0), height), min(max(math.ceil(y2), 0), height))
    return rows, slice(min(max(math.floor(x1), 0), width), min(max(math.ceil(x2), 0), width))


def tight_box(mask: np.ndarray) -> np.ndarray:
    """[4] float32 xyxy, in pixels, around the True pixels of a mask [H, W] that has one."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _run_lengths(counts: bytes) -> list[int]:
    """COCO's compressed run lengths as numbers.

    A number is written in groups of five bits, lowest first, one character (plus 48) each: bit 5 says that another
    group follows, bit 4 of the last group is the sign. From the fourth number on, it is the difference to the last but
    one (pycocotools, maskApi.c, rleToString).
    """
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {chr(character)!r} is not part of compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("the run lengths end in the middle of a number")
    return lengths


def _union(rles: list[dict], image_size: tuple[int, int]) -> np.ndarray:
    if not rles:
        return np.zeros(image_size, bool)
    return coco_mask.decode(coco_mask.merge(rles)).astype(bool)
