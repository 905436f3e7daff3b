"""COCO keypoint results, the format of ``predictions.json``: checked before they are scored or written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multiposenet.evaluation.columns import column_of_numbers, plain_id, rows_of_numbers
from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.skeletons import Skeleton

_NEEDED = ("image_id", "keypoints", "score")


@dataclass(frozen=True)
class Results:
    """Predicted people as columns (NumPy; picture pixels). D predictions in the order of the list, K keypoints.

    Args:
        picture: [D] int64, position of each prediction's picture in ``GroundTruth.image_ids``.
        keypoints: [D, 3K] float64, flat x, y, keypoint score. Scoring ignores the third number.
        scores: [D] float64; only their order counts.
    """

    picture: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.picture)

    @property
    def xy(self) -> np.ndarray:
        """[D, K, 2] positions."""
        return self.keypoints.reshape(len(self), self.keypoints.shape[1] // 3, 3)[..., :2]


def read_results(source: str | os.PathLike | Iterable[Mapping]) -> list[Mapping]:
    """COCO results from a JSON file, or the list itself; the dicts are the caller's own, not to be written to."""
    if isinstance(source, (str, os.PathLike)):
        try:
            source = json.loads(Path(source).expanduser().read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"predictions {os.fspath(source)} is not valid JSON: {error}") from None
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise ValueError(f"predictions must be a list of COCO result dicts, got a {type(source).__name__}")
    return list(source)


def check_results(predictions: Sequence[Mapping], truth: GroundTruth, skeleton: Skeleton) -> Results:
    """Checks predictions against what they are to be scored with.

    ``category_id`` may be missing from all of them: there is one category to score. Every other field is needed, and
    all entries must have the same fields; what is not needed (``bbox``, ``area``, ...) takes no part in the scoring.

    Raises:
        ValueError: fields are missing or differ from entry to entry, a number is not finite or none at all, a picture
            is unknown, a category is not the ground truth's, or the same prediction is there twice. The message names
            the entry, its picture and the field.
    """
    keypoints, scores = _checked_numbers(predictions, skeleton)
    picture = truth.positions([prediction["image_id"] for prediction in predictions], "predictions")
    if predictions and "category_id" in predictions[0]:
        wrong = [index for index, own in enumerate(predictions) if own["category_id"] != truth.category_id]
        if wrong:
            raise ValueError(
                f"{_where(predictions, wrong[0])}: category_id is {predictions[wrong[0]]['category_id']!r}, people of "
                f"the ground truth have {truth.category_id}; so it is in {len(wrong)} of {len(predictions)} entries. "
                "COCO scores another category as 0 without a word"
            )
    results = Results(picture, keypoints, scores)
    _refuse_repeated(predictions, results, truth)
    return results


def write_results(predictions: Sequence[Mapping], path: str | os.PathLike, skeleton: Skeleton) -> None:
    """Writes a COCO result file of plain JSON numbers, NumPy's included, after the checks that need no ground truth.

    Raises:
        ValueError: as :func:`check_results`; nothing is written.
    """
    predictions = list(predictions)
    _checked_numbers(predictions, skeleton)
    text = json.dumps(predictions, default=_plain, allow_nan=False)
    Path(path).expanduser().write_text(text, encoding="utf-8")


def _checked_numbers(predictions: Sequence[Mapping], skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints [D, 3K] and scores [D] of results with equal fields."""
    _refuse_mixed_fields(predictions)
    count = skeleton.num_keypoints

    def refuse_keypoints(index: int, wrong: str) -> None:
        if wrong.startswith("["):
            position = int(wrong[1 : wrong.index("]")])
            axis = ("x", "y", "score")[position % 3]
            wrong = wrong.replace("]", f"] ({axis} of {skeleton.keypoints[position // 3]})", 1)
        else:
            wrong += f" ([x, y, third] for the {count} keypoints of skeleton {skeleton.name!r})"
        raise ValueError(f"{_where(predictions, index)}: keypoints{wrong}")

    def refuse_score(index: int, wrong: str) -> None:
        raise ValueError(f"{_where(predictions, index)}: score{wrong}")

    keypoints = rows_of_numbers([prediction["keypoints"] for prediction in predictions], 3 * count, refuse_keypoints)
    return keypoints, column_of_numbers([prediction["score"] for prediction in predictions], refuse_score)


def _refuse_mixed_fields(predictions: Sequence[Mapping]) -> None:
    for index, prediction in enumerate(predictions):
        if not isinstance(prediction, Mapping):
            raise ValueError(f"predictions: entry {index} must be a dict, got a {type(prediction).__name__}")
        fields = prediction.keys()
        if missing := [field for field in _NEEDED if field not in fields]:
            raise ValueError(f"{_where(predictions, index)} lacks {', '.join(missing)}")
        if index == 0:
            expected = fields
        elif fields != expected:
            lacking, other = (index, 0) if expected - fields else (0, index)
            missing = sorted(predictions[other].keys() - predictions[lacking].keys())
            raise ValueError(
                f"{_where(predictions, lacking)} lacks {', '.join(missing)}, which entry {other} has; give every entry "
                "the same fields (other evaluators go by those of the first)"
            )


def _refuse_repeated(predictions: Sequence[Mapping], results: Results, truth: GroundTruth) -> None:
    seen: dict[bytes, list[int]] = {}
    for index, row in enumerate(np.column_stack([results.picture, results.scores, results.keypoints])):
        same = seen.setdefault(row.tobytes(), [])
        same.append(index)
        if len(same) > 1 and len(same) > _most_alike(truth, results.picture[index]):
            raise ValueError(
                f"{_where(predictions, index)}: keypoints and score are those of entry {same[0]}; the same prediction "
                "may be there once only. Were files of several processes merged that share pictures?"
            )


def _most_alike(truth: GroundTruth, picture: int) -> int:
    """How often the labels of a picture have the same box: poses made for labelled boxes repeat with them."""
    boxes = truth.boxes_xywh[truth.picture == picture]
    return max(np.unique(boxes, axis=0, return_counts=True)[1], default=0)


def _where(predictions: Sequence[Mapping], index: int) -> str:
    return f"predictions: entry {index} of picture {plain_id(predictions[index].get('image_id'))}"


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is no JSON value: {value!r}")
