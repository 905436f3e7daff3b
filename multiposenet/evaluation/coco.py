"""COCO keypoint AP and AR: pycocotools' numbers behind checks that do not let a broken file score silently.

pycocotools trusts what it is given. A NaN coordinate counts as a perfect hit, a wrong category or left-out pictures
change AP without a word, a ``bbox`` in the results moves people between the area ranges, and the caller's lists are
written to. Everything here exists to turn these into sentences.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import operator
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from multiposenet.geometry import xyxy_to_xywh
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import PersonLabels

MAX_DETECTIONS = 20
"""COCO's rule: the 20 best poses of a picture take part."""

_SUMMARY = {
    "AP": ("Average Precision", "(AP)", "0.50:0.95", "all"),
    "AP50": ("Average Precision", "(AP)", "0.50", "all"),
    "AP75": ("Average Precision", "(AP)", "0.75", "all"),
    "APM": ("Average Precision", "(AP)", "0.50:0.95", "medium"),
    "APL": ("Average Precision", "(AP)", "0.50:0.95", "large"),
    "AR": ("Average Recall", "(AR)", "0.50:0.95", "all"),
    "AR50": ("Average Recall", "(AR)", "0.50", "all"),
    "AR75": ("Average Recall", "(AR)", "0.75", "all"),
    "ARM": ("Average Recall", "(AR)", "0.50:0.95", "medium"),
    "ARL": ("Average Recall", "(AR)", "0.50:0.95", "large"),
}
METRICS = tuple(_SUMMARY)
"""Names of the ten numbers, in pycocotools' order."""


def evaluate_coco(
    ground_truth: str | os.PathLike | Mapping,
    predictions: str | os.PathLike | Sequence[Mapping],
    skeleton: Skeleton = COCO_PERSON,
    image_ids: Iterable[int] | None = None,
) -> dict[str, float]:
    """The ten COCO keypoint numbers of a set of predictions.

    Args:
        ground_truth: COCO keypoint annotations, a JSON file or its content. Never modified.
        predictions: COCO keypoint results, a JSON file or its content: dicts with ``image_id``, ``category_id``,
            ``keypoints`` (flat [x, y, anything] x K, pixels) and ``score``; other keys, ``bbox`` too, are left out of
            the scoring. Never modified. An empty list is valid and scores 0, with a warning.
        skeleton: whose keypoints these are; its ``oks_sigmas`` are the ones used.
        image_ids: pictures to score; by default all of the ground truth, so that a picture without predictions
            counts as missed.

    Returns:
        AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL in [0, 1]; -1, as in pycocotools, where the ground truth
        has nobody of that size.

    Raises:
        ValueError: the skeleton has no sigmas; the ground truth lacks a field; or a prediction is not finite, names
            an unknown picture or another category, or has another number of keypoints. The message says which.
    """
    if skeleton.oks_sigmas is None:
        raise ValueError(
            f"skeleton {skeleton.name!r} has no oks_sigmas, and COCO AP depends on them; "
            "set oks_sigmas (one positive number a keypoint) in the skeleton or its TOML file"
        )
    truth = read_ground_truth(ground_truth)
    category_id = person_category_id(truth, skeleton)
    known = {image["id"] for image in truth["images"]}
    if image_ids is None:
        chosen = sorted(known)
    else:
        chosen = sorted({_integer(image_id) for image_id in image_ids})
        _refuse_unknown_images(chosen, known, "image_ids")
    if not chosen:
        raise ValueError("there is no picture to evaluate: the ground truth or image_ids is empty")
    annotations = _checked_annotations(truth["annotations"], category_id, skeleton)
    results = _checked_results(_read(predictions, "predictions"), known, category_id, skeleton)
    if not results:
        warnings.warn(
            f"there are no predictions at all for {len(chosen)} pictures: AP is 0. An untrained model, a score "
            "threshold too high or an empty shard does this.",
            stacklevel=2,
        )
    stats = _pycocotools_stats(
        {"images": [{"id": image["id"]} for image in truth["images"]], "categories": [{"id": category_id}]},
        annotations,
        results,
        skeleton,
        chosen,
    )
    return dict(zip(METRICS, stats, strict=True))


def summary_lines(metrics: Mapping[str, float], num_images: int | None = None) -> list[str]:
    """The ten numbers in pycocotools' own words, after a line with the number of pictures when it is given."""
    lines = [] if num_images is None else [f"COCO keypoint evaluation of {num_images} pictures"]
    for name, (title, kind, iou, area) in _SUMMARY.items():
        setting = f"IoU={iou:<9} | area={area:>6s} | maxDets={MAX_DETECTIONS:>3d}"
        lines.append(f" {title:<18} {kind} @[ {setting} ] = {metrics[name]:0.3f}")
    return lines


def print_summary(metrics: Mapping[str, float], num_images: int | None = None) -> None:
    """Prints :func:`summary_lines`."""
    print("\n".join(summary_lines(metrics, num_images)))


def read_ground_truth(source: str | os.PathLike | Mapping) -> Mapping:
    """COCO annotations from a JSON file, or the content itself, with its three sections present."""
    truth = _read(source, "ground truth")
    if not isinstance(truth, Mapping):
        raise ValueError(
            f"ground truth must be a COCO annotation dict, got a {type(truth).__name__}; are the arguments swapped?"
        )
    missing = [section for section in ("images", "annotations", "categories") if section not in truth]
    if missing:
        raise ValueError(f"ground truth lacks {', '.join(missing)}; it needs images, annotations and categories")
    return truth


def person_category_id(truth: Mapping, skeleton: Skeleton) -> int:
    """The id of the ground truth's category that a skeleton describes: the one of its name, or the only one.

    Raises:
        ValueError: no category can be chosen, or its keypoints are not the skeleton's.
    """
    categories = truth["categories"]
    named = [category for category in categories if category.get("name") == skeleton.name]
    candidates = named or categories
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
    return _integer(category["id"])


def annotations_from_labels(
    labels: PersonLabels, image_id: int, category_id: int = 1, first_id: int = 1
) -> list[dict]:
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


def _read(source: object, what: str) -> object:
    if not isinstance(source, (str, os.PathLike)):
        return source
    text = Path(source).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} {os.fspath(source)} is not valid JSON: {error}") from None


def _integer(value: object) -> object:
    """A NumPy integer as a plain one; anything else as it is, for the membership checks to judge."""
    try:
        return operator.index(value)
    except TypeError:
        return value


def _refuse_unknown_images(image_ids: Iterable[object], known: set[int], what: str) -> None:
    unknown = list(dict.fromkeys(image_id for image_id in image_ids if image_id not in known))
    if unknown:
        first = ", ".join(repr(image_id) for image_id in unknown[:5])
        hint = "; ids must be integers, not text" if any(isinstance(image_id, str) for image_id in unknown) else ""
        raise ValueError(
            f"{what}: {len(unknown)} image ids are not in the ground truth of {len(known)} pictures, "
            f"the first: {first}{hint}"
        )


def _checked_annotations(annotations: Iterable[Mapping], category_id: int, skeleton: Skeleton) -> list[dict]:
    """Copies of the people with the fields that scoring reads, numbered from 1 (pycocotools takes id 0 for a miss)."""
    checked = []
    for annotation in annotations:
        missing = [field for field in ("image_id", "category_id") if field not in annotation]
        if not missing and annotation["category_id"] != category_id:
            continue
        fields = ("keypoints", "bbox", "area", "iscrowd")
        missing += [field for field in fields if field not in annotation]
        where = f"ground truth: annotation {annotation.get('id')} of picture {annotation.get('image_id')}"
        if missing:
            raise ValueError(
                f"{where} lacks {', '.join(missing)}; COCO keypoint annotations have {', '.join(fields)} "
                "(area: segment area in pixels, iscrowd: 0 or 1)"
            )
        keypoints = annotation["keypoints"]
        if len(keypoints) != 3 * skeleton.num_keypoints:
            raise ValueError(_wrong_length(where, keypoints, skeleton))
        numbers = [*keypoints, *annotation["bbox"], annotation["area"]]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{where}: keypoints, bbox and area must be finite numbers, got {numbers}")
        labelled = sum(visibility > 0 for visibility in keypoints[2::3])
        checked.append(
            {
                "id": len(checked) + 1,
                "image_id": annotation["image_id"],
                "category_id": category_id,
                "keypoints": keypoints,
                "num_keypoints": annotation.get("num_keypoints", labelled),
                "bbox": annotation["bbox"],
                "area": annotation["area"],
                "iscrowd": annotation["iscrowd"],
            }
        )
    return checked


def _checked_results(predictions: object, known: set[int], category_id: int, skeleton: Skeleton) -> list[dict]:
    """Copies of the predictions with plain numbers and the four fields that scoring reads."""
    if isinstance(predictions, Mapping) or not isinstance(predictions, Iterable):
        raise ValueError(f"predictions must be a list of COCO result dicts, got a {type(predictions).__name__}")
    predictions = list(predictions)
    for index, prediction in enumerate(predictions):
        missing = [
            field for field in ("image_id", "category_id", "keypoints", "score") if field not in prediction
        ]
        if missing:
            raise ValueError(
                f"predictions: entry {index} (picture {prediction.get('image_id')}) lacks {', '.join(missing)}"
            )
    image_ids = [_integer(prediction["image_id"]) for prediction in predictions]
    _refuse_unknown_images(image_ids, known, "predictions")
    checked = []
    for index, (image_id, prediction) in enumerate(zip(image_ids, predictions, strict=True)):
        where = f"predictions: entry {index} of picture {image_id}"
        if prediction["category_id"] != category_id:
            raise ValueError(
                f"{where}: category_id is {prediction['category_id']!r}, people of the ground truth have {category_id}"
            )
        if len(prediction["keypoints"]) != 3 * skeleton.num_keypoints:
            raise ValueError(_wrong_length(where, prediction["keypoints"], skeleton))
        keypoints = [float(number) for number in prediction["keypoints"]]
        score = float(prediction["score"])
        if not math.isfinite(score):
            raise ValueError(f"{where}: score is {score}; it must be finite")
        for position, number in enumerate(keypoints):
            if not math.isfinite(number):
                axis = ("x", "y", "score")[position % 3]
                raise ValueError(
                    f"{where}: keypoints[{position}] ({axis} of {skeleton.keypoints[position // 3]}) is {number}; "
                    "every number must be finite"
                )
        checked.append({"image_id": image_id, "category_id": category_id, "keypoints": keypoints, "score": score})
    return checked


def _wrong_length(where: str, keypoints: Sequence, skeleton: Skeleton) -> str:
    return (
        f"{where}: keypoints has {len(keypoints)} numbers, expected {3 * skeleton.num_keypoints} "
        f"([x, y, third] for the {skeleton.num_keypoints} keypoints of skeleton {skeleton.name!r})"
    )


def _pycocotools_stats(
    sections: dict, annotations: list[dict], results: list[dict], skeleton: Skeleton, image_ids: list[int]
) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {**sections, "annotations": annotations}
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        else:  # loadRes looks at the first result to learn the kind
            found = COCO()
            found.dataset = {**sections, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(skeleton.oks_sigmas, dtype=np.float64)
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]
