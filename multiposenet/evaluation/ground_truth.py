"""The people that predictions are scored against: COCO annotations, checked once and kept as columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from multiposenet.data.annotations import read_json
from multiposenet.evaluation.columns import column_of_numbers, plain_id, refuse_unknown_images, rows_of_numbers
from multiposenet.geometry import xyxy_to_xywh
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels

_FIELDS = ("keypoints", "bbox", "area", "iscrowd")


@dataclass(frozen=True)
class GroundTruth:
    """The annotated people of a set of pictures (NumPy; picture pixels). T people, K keypoints, I pictures.

    Args:
        image_ids: I ids, ascending.
        category_id: the category whose people these are.
        picture: [T] int64, position of each person's picture in ``image_ids``.
        keypoints: [T, 3K] float64, flat x, y, visibility.
        num_keypoints: [T] as the file states it; a person with 0 is no person to find, but none to miss either.
        boxes_xywh: [T, 4].
        areas: [T] segment areas.
        crowd: [T] bool.
        sizes: [I, 2] float64, (height, width) of each picture; NaN where the file does not say.
    """

    image_ids: tuple
    category_id: int
    picture: np.ndarray
    keypoints: np.ndarray
    num_keypoints: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.picture)

    @property
    def scored(self) -> np.ndarray:
        """[T] bool; the people who count: single, with labelled keypoints. COCO ignores the others."""
        return ~self.crowd & (self.num_keypoints > 0)

    @property
    def xy(self) -> np.ndarray:
        """[T, K, 2] positions; meaningless where visibility is 0."""
        return self.keypoints.reshape(len(self), self.keypoints.shape[1] // 3, 3)[..., :2]

    @property
    def visibility(self) -> np.ndarray:
        """[T, K]; above 0 means labelled."""
        return self.keypoints[:, 2::3]

    def positions(self, image_ids: Sequence, what: str) -> np.ndarray:
        """[len(image_ids)] int64, where each id is in ``image_ids``; ValueError lists the unknown ones.

        Args:
            image_ids: ids, plain or NumPy.
            what: who names them, for the message.
        """
        image_ids = [plain_id(image_id) for image_id in image_ids]
        refuse_unknown_images(image_ids, self.image_ids, what)
        place = {image_id: position for position, image_id in enumerate(self.image_ids)}
        return np.array([place[image_id] for image_id in image_ids], np.int64)


def read_ground_truth(source: str | os.PathLike | Mapping) -> Mapping:
    """COCO annotations from a JSON file (plain or gzip), or the content itself, with its three sections present."""
    truth = read_json(Path(source).expanduser())[0] if isinstance(source, (str, os.PathLike)) else source
    if not isinstance(truth, Mapping):
        raise ValueError(
            f"ground truth must be a COCO annotation dict, got a {type(truth).__name__}; are the arguments swapped?"
        )
    missing = [section for section in ("images", "annotations", "categories") if section not in truth]
    if missing:
        raise ValueError(f"ground truth lacks {', '.join(missing)}; it needs images, annotations and categories")
    return truth


def person_category_id(truth: Mapping, skeleton: Skeleton) -> int:
    """The id of the ground truth's category that a skeleton describes.

    That is the one of the skeleton's name, or the one named "person", or the only one there is.

    Raises:
        ValueError: no category can be chosen, or its keypoints are not the skeleton's.
    """
    categories = truth["categories"]
    named = [category for category in categories if category.get("name") == skeleton.name]
    people = [category for category in categories if category.get("name") == "person"]
    candidates = named or people or categories
    if len(candidates) != 1:
        names = [category.get("name") for category in categories]
        raise ValueError(f"ground truth: expected one category named {skeleton.name!r} (or a single one), got {names}")
    category = candidates[0]
    annotated = tuple(category.get("keypoints") or skeleton.keypoints)
    if len(annotated) != skeleton.num_keypoints:
        raise ValueError(
            f"ground truth: category {category.get('name')!r} has {len(annotated)} keypoints, "
            f"skeleton {skeleton.name!r} has {skeleton.num_keypoints}; use the skeleton of this dataset"
        )
    if annotated != skeleton.keypoints and set(annotated) == set(skeleton.keypoints):
        raise ValueError(
            f"ground truth lists the keypoints of skeleton {skeleton.name!r} in another order: {', '.join(annotated)}"
        )
    return plain_id(category["id"])


def check_ground_truth(truth: Mapping, skeleton: Skeleton) -> GroundTruth:
    """Checks annotations and gathers the people of the skeleton's category into columns; ``truth`` is not modified.

    Raises:
        ValueError: an id appears twice, a person is of an unknown picture, or a field is missing or no valid number;
            the message names the annotation, the picture and the field.
    """
    category_id = person_category_id(truth, skeleton)
    listed = [plain_id(image.get("id")) for image in truth["images"]]
    try:
        image_ids = tuple(sorted(set(listed)))
    except TypeError:
        raise ValueError("ground truth: every image needs an integer id; some have none, or text") from None
    if len(image_ids) != len(listed):
        raise ValueError(f"ground truth: two images have the id {_repeated(listed)!r}; every picture needs its own")
    people = _people(truth["annotations"], category_id)
    ids = [person["id"] for person in people if "id" in person]
    if len(set(ids)) != len(ids):
        twice = _repeated(ids)
        image_id = next(person["image_id"] for person in people if person.get("id") == twice)
        raise ValueError(
            f"ground truth: two annotations have the id {twice!r} (picture {image_id}); "
            "pycocotools would count one of them twice and the other never. Give every annotation its own id"
        )

    def complain_about(field: str, expected: str = "") -> Callable[[int, str], NoReturn]:
        return lambda index, wrong: _refuse(people[index], f": {field}{wrong}{expected}")

    def column(field: str) -> np.ndarray:
        return column_of_numbers([person[field] for person in people], complain_about(field))

    count = skeleton.num_keypoints
    triples = f" ([x, y, visibility] for the {count} keypoints of skeleton {skeleton.name!r})"
    keypoints = rows_of_numbers(
        [person["keypoints"] for person in people], 3 * count, complain_about("keypoints", triples)
    )
    boxes_xywh = rows_of_numbers(
        [person["bbox"] for person in people], 4, complain_about("bbox", " ([x, y, width, height])")
    )
    areas, crowd = column("area"), column("iscrowd")
    labelled = (keypoints[:, 2::3] > 0).sum(axis=1)
    stated = [person.get("num_keypoints", own) for person, own in zip(people, labelled.tolist(), strict=True)]
    num_keypoints = column_of_numbers(stated, complain_about("num_keypoints"))
    # With a negative area the similarity grows with the distance; without keypoints it is 1 all over the box.
    for fine, wrong in (
        (areas >= 0, ": area is negative"),
        ((boxes_xywh[:, 2:] >= 0).all(axis=1), ": bbox has a negative size; it must be [x, y, width, height]"),
        (np.isin(crowd, (0, 1)), ": iscrowd must be 0 or 1"),
        ((num_keypoints <= 0) | (labelled > 0), ": num_keypoints is above 0, but no keypoint has a visibility above 0"),
    ):
        if not fine.all():
            _refuse(people[int(np.argmin(fine))], wrong)
    picture = {image_id: position for position, image_id in enumerate(image_ids)}
    owners = [plain_id(person["image_id"]) for person in people]
    refuse_unknown_images(owners, picture, "ground truth: annotations")
    return GroundTruth(
        image_ids=image_ids,
        category_id=category_id,
        picture=np.array([picture[image_id] for image_id in owners], np.int64),
        keypoints=keypoints,
        num_keypoints=num_keypoints,
        boxes_xywh=boxes_xywh,
        areas=areas,
        crowd=crowd.astype(bool),
        sizes=_sizes(truth["images"], listed),
    )


def annotations_from_labels(labels: PersonLabels, image_id: int, category_id: int = 1, first_id: int = 1) -> list[dict]:
    """COCO annotations of one picture's people, for scoring against labels that came from no file.

    Coordinates are rounded to 0.01 pixel, COCO's own precision.
    """
    boxes_xywh = xyxy_to_xywh(labels.boxes.astype(np.float64)).round(2).tolist()
    triples = np.concatenate([labels.keypoints.astype(np.float64).round(2), labels.visibility[..., None]], axis=-1)
    triples[labels.visibility == 0] = 0
    return [
        {
            "id": first_id + person,
            "image_id": int(image_id),
            "category_id": category_id,
            "keypoints": triples[person].reshape(-1).tolist(),
            "num_keypoints": int((labels.visibility[person] > 0).sum()),
            "bbox": boxes_xywh[person],
            "area": float(labels.areas[person]),
            "iscrowd": int(labels.crowd[person]),
        }
        for person in range(len(labels))
    ]


def _sizes(images: Sequence[Mapping], image_ids: Sequence) -> np.ndarray:
    """[I, 2] (height, width) in the order of the ids; what is no positive number is not known."""
    known = {
        image_id: [image.get("height"), image.get("width")] for image_id, image in zip(image_ids, images, strict=True)
    }
    sides = [
        side if isinstance(side, (int, float)) and side > 0 else np.nan
        for image_id in sorted(known)
        for side in known[image_id]
    ]
    return np.array(sides, np.float64).reshape(-1, 2)


def truth_from_labels(labels: Mapping[int, PersonLabels], skeleton: Skeleton, category_id: int = 1) -> dict:
    """COCO's three sections of labels by image id, for scoring against labels that came from no file."""
    annotations: list[dict] = []
    for image_id, own in labels.items():
        annotations += annotations_from_labels(own, image_id, category_id, first_id=len(annotations) + 1)
    return {
        "images": [{"id": image_id} for image_id in labels],
        "annotations": annotations,
        "categories": [{"id": category_id, "name": skeleton.name}],
    }


def _people(annotations: Sequence[Mapping], category_id: int) -> list[Mapping]:
    people = []
    for annotation in annotations:
        missing = [field for field in ("image_id", "category_id") if field not in annotation]
        if not missing and annotation["category_id"] != category_id:
            continue
        missing += [field for field in _FIELDS if field not in annotation]
        if missing:
            _refuse(
                annotation,
                f" lacks {', '.join(missing)}; COCO keypoint annotations have {', '.join(_FIELDS)} (area: segment area "
                "in pixels, iscrowd: 0 or 1). multiposenet.data.completion.complete_annotations fills in area and "
                "iscrowd by a stated rule",
            )
        people.append(annotation)
    return people


def _refuse(annotation: Mapping, wrong: str) -> NoReturn:
    raise ValueError(f"ground truth: annotation {annotation.get('id')} of picture {annotation.get('image_id')}{wrong}")


def _repeated(values: Sequence) -> object:
    seen: set = set()
    return next(value for value in values if value in seen or seen.add(value))
