"""The field's two evaluators behind one function: checked columns in, precision and recall out.

pycocotools is the reference. faster-coco-eval (``pip install multiposenet[fast]``) does the same in compiled code and
gives the same numbers; it is used where it is installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.evaluation.results import Results

_CATEGORY = 1
_LARGEST = 1e5**2
AREA_RANGES = {"all": (0, _LARGEST), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, _LARGEST)}
"""Segment areas in pixels, both ends included. COCO's keypoint evaluation has no small people; COCO's boxes have."""


@dataclass(frozen=True)
class Curves:
    """What an evaluator measured. -1 where nobody is to be found.

    Args:
        precision: [10, 101, A, M], at OKS 0.50 to 0.95 and recall 0 to 1; A areas, M limits of predictions a picture.
        recall: [10, A, M], the highest one reached.
        areas: names of the A areas.
        limits: the M limits.
    """

    precision: np.ndarray
    recall: np.ndarray
    areas: tuple[str, ...]
    limits: tuple[int, ...]

    def average_precision(self, area: str = "all", limit: int | None = None, oks: float | None = None) -> float:
        """Mean precision at one OKS threshold, or over all; ``limit`` is the first one by default."""
        return self._mean(self.precision, area, limit, oks)

    def average_recall(self, area: str = "all", limit: int | None = None, oks: float | None = None) -> float:
        """Mean recall at one OKS threshold, or over all; ``limit`` is the first one by default."""
        return self._mean(self.recall, area, limit, oks)

    def _mean(self, values: np.ndarray, area: str, limit: int | None, oks: float | None) -> float:
        values = values[..., self.areas.index(area), 0 if limit is None else self.limits.index(limit)]
        if oks is not None:
            values = values[round((oks - 0.5) / 0.05)]
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0


def default_backend() -> str:
    """``faster-coco-eval`` where it is installed, else ``pycocotools``."""
    return installed_backends()[-1]


def installed_backends() -> list[str]:
    """Those of :data:`BACKENDS` that are there; each is named as its package is."""
    return [name for name in BACKENDS if importlib.util.find_spec(name.replace("-", "_")) is not None]


def measure(
    truth: GroundTruth,
    results: Results,
    pictures: np.ndarray,
    oks_sigmas: Sequence[float],
    limits: Sequence[int],
    backend: str | None = None,
    areas: Sequence[str] = tuple(AREA_RANGES),
) -> Curves:
    """Scores predictions by COCO's rules (https://cocodataset.org/#keypoints-eval).

    Args:
        truth: the people to find.
        results: the predictions.
        pictures: positions in ``truth.image_ids`` that take part, ascending; may be none.
        oks_sigmas: [K].
        limits: how many predictions a picture may have, ascending; the best ones take part.
        backend: one of :data:`BACKENDS`; by default :func:`default_backend`.
        areas: sizes of people to measure on, of :data:`AREA_RANGES`; each takes its time.

    Raises:
        ValueError: there is no such backend, or it is not installed.
    """
    backend = default_backend() if backend is None else backend
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    areas, limits = tuple(areas), tuple(limits)
    if not len(pictures):
        shape = (10, 101, len(areas), len(limits))
        return Curves(np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0), areas, limits)
    sections = {"images": [{"id": picture} for picture in range(len(truth.image_ids))], "categories": [{"id": 1}]}
    evaluation = BACKENDS[backend](
        {**sections, "annotations": _people(truth)}, {**sections, "annotations": _predictions(results)}
    )
    evaluation.params.kpt_oks_sigmas = np.asarray(oks_sigmas, np.float64)
    evaluation.params.imgIds = pictures.tolist()
    evaluation.params.catIds = [_CATEGORY]
    evaluation.params.areaRng = [list(AREA_RANGES[area]) for area in areas]
    evaluation.params.areaRngLbl = list(areas)
    evaluation.params.maxDets = list(limits)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = (np.asarray(evaluation.eval[name]) for name in ("precision", "recall"))
    return Curves(precision[:, :, 0], recall[:, 0], areas, limits)


class _SizesThatMatter(COCOeval):
    """pycocotools' evaluation, without the work that changes no number.

    Where neither a person nor a prediction of a picture is of a size, all of them are ignored at that size.
    """

    def evaluateImg(self, imgId: int, catId: int, aRng: Sequence[float], maxDet: int) -> dict | None:
        low, high = aRng
        everybody = (*self._gts[imgId, catId], *self._dts[imgId, catId])
        if any(low <= person["area"] <= high for person in everybody):
            return super().evaluateImg(imgId, catId, aRng, maxDet)
        return None


def _pycocotools(truth: dict, found: dict) -> COCOeval:
    datasets = []
    for content in (truth, found):
        dataset = COCO()
        dataset.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):
            dataset.createIndex()
        datasets.append(dataset)
    return _SizesThatMatter(*datasets, iouType="keypoints")


def _faster_coco_eval(truth: dict, found: dict) -> object:
    try:
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster
    except ImportError as error:
        raise ValueError(
            "the backend faster-coco-eval is not installed; pip install multiposenet[fast], or use pycocotools"
        ) from error
    datasets = []
    for content in (truth, found):
        dataset = FasterCOCO()
        dataset.dataset = content
        dataset.createIndex()
        datasets.append(dataset)
    return COCOeval_faster(*datasets, iouType="keypoints")


BACKENDS = {"pycocotools": _pycocotools, "faster-coco-eval": _faster_coco_eval}
"""The evaluators by name, the preferred one last."""


def _people(truth: GroundTruth) -> list[dict]:
    # Numbered from 1: pycocotools takes the id 0 for "not found".
    columns = (
        truth.picture.tolist(),
        truth.keypoints,
        truth.num_keypoints.tolist(),
        truth.boxes_xywh.tolist(),
        truth.areas.tolist(),
        truth.crowd.tolist(),
    )
    return [
        {
            "id": number,
            "image_id": picture,
            "category_id": _CATEGORY,
            "keypoints": keypoints,
            "num_keypoints": num_keypoints,
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
        }
        for number, (picture, keypoints, num_keypoints, box, area, crowd) in enumerate(zip(*columns, strict=True), 1)
    ]


def _predictions(results: Results) -> list[dict]:
    # What pycocotools' loadRes makes of results without a bbox: the area of the box around their keypoints.
    x, y = results.keypoints[:, 0::3], results.keypoints[:, 1::3]
    widths, heights = np.ptp(x, axis=1), np.ptp(y, axis=1)
    boxes = np.column_stack([x.min(axis=1), y.min(axis=1), widths, heights])
    columns = (
        results.picture.tolist(),
        results.keypoints,
        results.scores.tolist(),
        boxes.tolist(),
        (widths * heights).tolist(),
    )
    return [
        {
            "id": number,
            "image_id": picture,
            "category_id": _CATEGORY,
            "keypoints": keypoints,
            "score": score,
            "bbox": box,
            "area": area,
            "iscrowd": 0,
        }
        for number, (picture, keypoints, score, box, area) in enumerate(zip(*columns, strict=True), 1)
    ]
