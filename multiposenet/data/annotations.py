"""COCO keypoint annotation files: read, checked and packed into a few arrays.

A record that breaks the format is an error with the file, the annotation, the field, what was expected and what to
do. Nothing is dropped in silence: a person left out would be trained as background.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from multiposenet.data.completion import BOX_AREA_SHARE, segment_area
from multiposenet.data.formats import COCO_FORMAT, CocoFormat
from multiposenet.data.person_masks import segmentation_problem
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels


@dataclass(frozen=True)
class PackedLabels:
    """The people of a whole dataset, picture after picture (NumPy; each picture's own pixels).

    Letters: T people, K keypoints, I pictures.

    Args:
        keypoints: [T, K, 2] float32; 0 where visibility is 0.
        visibility: [T, K] uint8, COCO's 0/1/2.
        boxes: [T, 4] float32, xyxy.
        areas: [T] float32, pixels.
        crowd: [T] bool.
        annotation_ids: [T] int64, as in the file.
        image_index: [T] int64, ascending; position of the person's picture in the dataset.
        image_sizes: [I, 2] int64, (height, width).
    """

    keypoints: np.ndarray
    visibility: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    annotation_ids: np.ndarray
    image_index: np.ndarray
    image_sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def people_of(self, index: int) -> slice:
        """The rows of picture ``index``."""
        start, stop = np.searchsorted(self.image_index, [index, index + 1])
        return slice(int(start), int(stop))

    def of_image(self, index: int) -> PersonLabels:
        """The people of picture ``index``; the arrays are copies."""
        rows = self.people_of(index)
        return PersonLabels(
            keypoints=self.keypoints[rows].copy(),
            visibility=self.visibility[rows].copy(),
            boxes=self.boxes[rows].copy(),
            areas=self.areas[rows].copy(),
            crowd=self.crowd[rows].copy(),
        )


@dataclass(frozen=True)
class AnnotationFile:
    """The content of one annotation file, or of a selection of its pictures.

    Args:
        path: the file.
        sha256: of the bytes on disk (zipped, if the file is).
        category_id: the category whose people these are.
        image_ids: [I] int64.
        file_names: I names of picture files.
        labels: the people, in the order of the pictures; within a picture in the order of the file.
        segments: JSON text of all segmentations as one [bytes] uint8 array; an array is shared by worker processes
            where millions of small Python lists would be copied.
        segment_ends: [T + 1] int64; person t's text is ``segments[segment_ends[t]:segment_ends[t + 1]]``.
        made_by: what drew the pictures (``generator`` of the file's ``info``), None for others.
    """

    path: Path
    sha256: str
    category_id: int
    image_ids: np.ndarray
    file_names: tuple[str, ...]
    labels: PackedLabels
    segments: np.ndarray
    segment_ends: np.ndarray
    made_by: dict | None

    def segmentation(self, person: int) -> Any:
        """The segmentation of person (row) ``person`` as the file gives it, or None."""
        text = self.segments[self.segment_ends[person] : self.segment_ends[person + 1]].tobytes()
        return json.loads(text) if text else None

    def select(self, images: np.ndarray) -> AnnotationFile:
        """The same with only the pictures at the positions ``images`` [I'], in that order."""
        labels = self.labels
        bounds = np.searchsorted(labels.image_index, np.stack([images, images + 1]))
        counts = bounds[1] - bounds[0]
        rows = np.repeat(bounds[0] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        lengths = np.diff(self.segment_ends)[rows]
        pieces = [self.segments[self.segment_ends[row] : self.segment_ends[row + 1]] for row in rows[lengths > 0]]
        picked = {
            field.name: getattr(labels, field.name)[rows]
            for field in dataclasses.fields(labels)
            if field.name not in ("image_index", "image_sizes")
        }
        return dataclasses.replace(
            self,
            image_ids=self.image_ids[images],
            file_names=tuple(self.file_names[image] for image in images),
            labels=PackedLabels(
                **picked,
                image_index=np.repeat(np.arange(len(images)), counts),
                image_sizes=labels.image_sizes[images],
            ),
            segments=np.concatenate(pieces) if pieces else np.zeros(0, np.uint8),
            segment_ends=np.concatenate([[0], np.cumsum(lengths)]),
        )


def read_json(path: Path) -> tuple[dict, str]:
    """Content of a JSON file, plain or gzip, and the SHA-256 of its bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is not JSON, or is not one JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such annotation file; check the path")
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    try:
        content = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a complete JSON file ({error}); fetch or export it again") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected COCO annotations, an object with images, annotations and categories, got a "
            f"{type(content).__name__}; a list is COCO's format of results, not of labels"
        )
    return content, digest


def is_whole(identity: object) -> bool:
    """Whether an id is a whole number that arrays and files of 64 bits can hold."""
    return isinstance(identity, int) and -(2**63) <= identity < 2**63


def choose_person_category(content: dict, path: Path, name: str = "person") -> dict:
    """The category of that name, or else the only category that has keypoints.

    Raises:
        ValueError: there is no such category, or several.
    """
    categories = content.get("categories")
    if not isinstance(categories, list) or not all(isinstance(item, dict) and "id" in item for item in categories):
        raise ValueError(f"{path}: categories must be a list of objects with an id; a COCO keypoint file has them")
    with_keypoints = [item for item in categories if item.get("keypoints")]
    named = [item for item in with_keypoints or categories if item.get("name") == name]
    chosen = named or with_keypoints
    if len(chosen) != 1:
        names = [item.get("name") for item in categories]
        raise ValueError(
            f"{path}: expected one category named {name!r}, or one with keypoints, got {names}; "
            "keep the people in one category that lists its keypoints"
        )
    return chosen[0]


def find_person_category(content: dict, path: Path, skeleton: Skeleton, name: str = "person") -> int:
    """Id of the category that :func:`choose_person_category` finds, whose keypoints must be the skeleton's.

    Raises:
        ValueError: there is no such category, or its keypoints are not the skeleton's.
    """
    chosen = choose_person_category(content, path, name)
    keypoints = chosen.get("keypoints")
    if keypoints and (not isinstance(keypoints, list) or tuple(keypoints) != skeleton.keypoints):
        raise ValueError(
            f"{path}: category {chosen.get('name')!r} has the keypoints {keypoints}, skeleton "
            f"{skeleton.name!r} has {list(skeleton.keypoints)}; give the dataset the skeleton that it is labelled with"
        )
    return chosen["id"]


def read_annotations(path: str | Path, skeleton: Skeleton, layout: CocoFormat = COCO_FORMAT) -> AnnotationFile:
    """Reads a COCO keypoint file, plain or gzip, by :func:`pack_annotations`, where the errors of records are listed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or no COCO keypoint file of this skeleton.
    """
    path = Path(path).expanduser()
    content, digest = read_json(path)
    return pack_annotations(content, digest, path, skeleton, layout)


def pack_annotations(
    content: dict, digest: str, path: Path, skeleton: Skeleton, layout: CocoFormat = COCO_FORMAT
) -> AnnotationFile:
    """Checks and packs the content of a COCO keypoint file. Pictures come in the order of their ids.

    Missing fields with a stated stand-in: ``iscrowd`` is 0; ``num_keypoints`` is counted (and always counted anew, with
    a warning where the file states another number); ``area`` is the area of the segmentation, or 0.53 of the box's
    where there is none. Annotations of other listed categories are left out.

    Args:
        content: the file's.
        digest: SHA-256 of its bytes.
        path: the file, for messages.
        skeleton: the keypoints that it is labelled with.
        layout: how the file differs from COCO's own: field of the keypoints, category, what ``num_keypoints`` counts.

    Raises:
        ValueError: not a COCO keypoint file of this skeleton, or a record in it is broken.
    """
    for section in ("images", "annotations"):
        if not isinstance(content.get(section), list) or not all(isinstance(r, dict) for r in content[section]):
            raise ValueError(f"{path}: {section} must be a list of objects; a COCO keypoint file has one")
    made_by = _generator(content.get("info"))
    content = layout.as_coco(content, skeleton)
    category_id = find_person_category(content, path, skeleton, layout.category)
    image_ids, file_names, image_sizes = _read_images(content["images"], path)
    records = _person_records(content, path, category_id)
    image_index = _image_index(records, image_ids, path)
    order = np.argsort(image_index, kind="stable")
    records, image_index = [records[i] for i in order], image_index[order]
    labels, segmentations = _pack(records, image_index, image_sizes, skeleton, path, layout.uncounted)
    texts = [b"" if not item else json.dumps(item, separators=(",", ":")).encode() for item in segmentations]
    return AnnotationFile(
        path=path,
        sha256=digest,
        category_id=category_id,
        image_ids=image_ids,
        file_names=file_names,
        labels=labels,
        segments=np.frombuffer(b"".join(texts), np.uint8),
        segment_ends=np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64),
        made_by=made_by,
    )


def _generator(info: object) -> dict | None:
    found = info.get("generator") if isinstance(info, dict) else None
    return found if isinstance(found, dict) else None


def _read_images(records: list[dict], path: Path) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    for position, record in enumerate(records):
        where = f"{path}: images[{position}] (id {record.get('id')!r})"
        for field in ("id", "width", "height"):
            value = record.get(field)
            if not is_whole(value) or (field != "id" and value < 1):
                raise ValueError(
                    f"{where}: {field} must be a whole number (63 bits at most), at least 1 for a size, got {value!r}"
                )
        if not isinstance(record.get("file_name"), str):
            raise ValueError(f"{where}: file_name must be the picture's file name, got {record.get('file_name')!r}")
    records = sorted(records, key=lambda record: record["id"])
    ids = np.array([record["id"] for record in records], np.int64)
    if (twice := _first_repeated(ids)) is not None:
        raise ValueError(f"{path}: two images have the id {twice}; give every picture an id of its own")
    sizes = np.array([(record["height"], record["width"]) for record in records], np.int64).reshape(-1, 2)
    return ids, tuple(record["file_name"] for record in records), sizes


def _person_records(content: dict, path: Path, category_id: int) -> list[dict]:
    known = [category["id"] for category in content["categories"]]  # of any type, so no set
    ids = []
    for position, record in enumerate(content["annotations"]):
        if not is_whole(record.get("id")):
            raise ValueError(
                f"{path}: annotations[{position}]: id must be a whole number, got {record.get('id')!r}; give every "
                "annotation an id of its own, of at most 63 bits"
            )
        if record.get("category_id") not in known:
            _broken(path, record, "category_id", f"one of the categories {known}", "list the category")
        ids.append(record["id"])
    if (twice := _first_repeated(np.array(ids, np.int64))) is not None:
        raise ValueError(f"{path}: two annotations have the id {twice}; give every annotation an id of its own")
    records = [record for record in content["annotations"] if record["category_id"] == category_id]
    if not records:
        warnings.warn(
            f"{path}: no annotation of a person. If this is an export of CVAT: only labels of the type Skeleton reach "
            "the format 'COCO Keypoints'",
            stacklevel=4,
        )
    return records


def _image_index(records: list[dict], image_ids: np.ndarray, path: Path) -> np.ndarray:
    positions = {int(image_id): position for position, image_id in enumerate(image_ids)}
    index = np.zeros(len(records), np.int64)
    for row, record in enumerate(records):
        image_id = record.get("image_id")
        position = positions.get(image_id) if isinstance(image_id, int) else None
        if position is None:
            _broken(path, record, "image_id", "the id of one of the file's images", "add the image or drop the record")
        index[row] = position
    return index


def _pack(
    records: list[dict],
    image_index: np.ndarray,
    image_sizes: np.ndarray,
    skeleton: Skeleton,
    path: Path,
    uncounted: tuple[str, ...],
) -> tuple[PackedLabels, list]:
    count = skeleton.num_keypoints
    triples = _numbers(
        path,
        records,
        "keypoints",
        3 * count,
        f"{3 * count} finite numbers (x, y, visibility for each of the {count} keypoints of {skeleton.name!r})",
        f"write {3 * count} zeros for a person whose keypoints nobody labelled, or use the file's own skeleton",
    ).reshape(-1, count, 3)
    visibility = triples[..., 2]
    _require(
        np.isin(visibility, (0, 1, 2)).all(axis=1),
        lambda record: _broken(
            path, record, "keypoints", "every third number (visibility) to be 0, 1 or 2",
            "0 is not labelled, 1 labelled but hidden, 2 visible",
        ),
        records,
    )  # fmt: skip
    boxes = _numbers(path, records, "bbox", 4, "four finite numbers [x, y, width, height]", "correct the box")
    _require(
        (boxes[:, 2:] >= 0).all(axis=1),
        lambda record: _broken(
            path, record, "bbox", "[x, y, width, height] with no negative size", "corners must be turned into a size"
        ),
        records,
    )
    crowd = _optional(path, records, "iscrowd", 0, "0 or 1")
    _require(
        np.isin(crowd, (0, 1)),
        lambda record: _broken(path, record, "iscrowd", "0 or 1", "1 marks a group of people as one region"),
        records,
    )
    counted = (visibility[:, [name not in uncounted for name in skeleton.keypoints]] > 0).sum(axis=1)
    stated = _optional(path, records, "num_keypoints", -1, "a whole number")
    differing = np.flatnonzero((stated >= 0) & (stated != counted))
    if len(differing):
        first = records[differing[0]]
        warnings.warn(
            f"{path}: {len(differing)} annotations state a num_keypoints that is not the number of their labelled "
            f"keypoints (first: annotation {first['id']}); the keypoints are believed",
            stacklevel=4,
        )
    segmentations = [record.get("segmentation") for record in records]
    for record, segmentation, image in zip(records, segmentations, image_index, strict=True):
        if segmentation and (problem := segmentation_problem(segmentation, tuple(image_sizes[image].tolist()))):
            _broken(path, record, "segmentation", problem, "correct it or leave it out", shown=False)
    labels = PackedLabels(
        keypoints=np.where(visibility[..., None] > 0, triples[..., :2], 0).astype(np.float32),
        visibility=visibility.astype(np.uint8),
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32),
        areas=_areas(path, records, boxes, segmentations, image_index, image_sizes).astype(np.float32),
        crowd=crowd.astype(bool),
        annotation_ids=np.array([record["id"] for record in records], np.int64),
        image_index=image_index,
        image_sizes=image_sizes,
    )
    return labels, segmentations


def _areas(
    path: Path,
    records: list[dict],
    boxes: np.ndarray,
    segmentations: list,
    image_index: np.ndarray,
    image_sizes: np.ndarray,
) -> np.ndarray:
    areas = _optional(path, records, "area", -1.0, "a number, at least 0")
    for row in np.flatnonzero(areas < 0):
        if records[row].get("area") is not None:
            _broken(path, records[row], "area", "a number, at least 0", "correct it or leave it out")
        try:
            area = segment_area(segmentations[row], tuple(image_sizes[image_index[row]].tolist()))
        except ValueError as error:
            _broken(path, records[row], "segmentation", str(error), "correct it or leave it out", shown=False)
        areas[row] = BOX_AREA_SHARE * boxes[row, 2] * boxes[row, 3] if area is None else area
    return areas


def _numbers(path: Path, records: list[dict], field: str, width: int, expected: str, remedy: str) -> np.ndarray:
    """[T, width] float64 of one list field; all at once, and record by record only to name the culprit."""
    try:
        column = np.array([record.get(field) for record in records], np.float64).reshape(len(records), -1)
        if column.shape == (len(records), width) and np.isfinite(column).all():
            return column
    except (TypeError, ValueError):
        pass
    for record in records:
        try:
            row = np.array(record.get(field), np.float64)
        except (TypeError, ValueError):
            row = np.array(np.nan)
        if row.shape != (width,) or not np.isfinite(row).all():
            _broken(path, record, field, expected, remedy)
    return np.zeros((0, width))  # no records


def _optional(path: Path, records: list[dict], field: str, default: float, expected: str) -> np.ndarray:
    values = [default if (value := record.get(field)) is None else value for record in records]
    try:
        column = np.array(values, np.float64)
        if np.isfinite(column).all():
            return column
    except (TypeError, ValueError):
        pass
    for record, value in zip(records, values, strict=True):
        if not isinstance(value, (int, float)) or not np.isfinite(value):
            _broken(path, record, field, expected, "correct it or leave it out")
    raise AssertionError("unreachable: one of the values is at fault")


def _require(fine: np.ndarray, report: Callable[[dict], NoReturn], records: list[dict]) -> None:
    if not fine.all():
        report(records[int(np.argmin(fine))])


def _broken(path: Path, record: dict, field: str, expected: str, remedy: str, shown: bool = True) -> NoReturn:
    value = repr(record[field]) if field in record else "nothing (the field is missing)"
    got = f", got {value if len(value) < 200 else value[:200] + '...'}" if shown else ""
    raise ValueError(f"{path}: annotation {record['id']}: {field}: expected {expected}{got}; {remedy}")


def _first_repeated(ids: np.ndarray) -> int | None:
    values, counts = np.unique(ids, return_counts=True)
    return int(values[np.argmax(counts > 1)]) if (counts > 1).any() else None
