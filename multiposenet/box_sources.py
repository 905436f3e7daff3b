"""Where the people's boxes of annotated pictures come from, when a predictor is not to find them itself."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from multiposenet.evaluation.results import read_results
from multiposenet.geometry import xywh_to_xyxy
from multiposenet.structures import PersonBoxes, Sample


def label_boxes(sample: Sample) -> np.ndarray:
    """The labels' own boxes [P, 4], crowds excepted."""
    return sample.labels.boxes[~sample.labels.crowd]


class DetectionFile:
    """Boxes of a result list in COCO's format: ``[{"image_id", "category_id", "bbox": [x, y, w, h], "score"}, ...]``.

    Published top-down figures are made with such files, e.g. ``COCO_val2017_detections_AP_H_56_person.json``. What is
    not a person, or has no area, is left out; a picture that is not in the file has nobody.

    Args:
        path: the file.
        category_id: of people.

    Raises:
        FileNotFoundError, ValueError: no such file, or a record is broken; the message names it.
    """

    def __init__(self, path: str | Path, category_id: int = 1) -> None:
        records = read_results(path)
        found: dict[int, list[tuple[float, ...]]] = defaultdict(list)
        for number, record in enumerate(records):
            try:
                if record["category_id"] == category_id:
                    x, y, width, height = record["bbox"]
                    found[int(record["image_id"])].append((x, y, width, height, record["score"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}: detection {number} needs image_id, category_id, bbox [x, y, width, height] and score, "
                    f"got {record!r} ({error})"
                ) from None
        self._rows = {image_id: np.array(rows, np.float32) for image_id, rows in found.items()}
        if bad := [image_id for image_id, rows in self._rows.items() if not np.isfinite(rows).all()]:
            raise ValueError(f"{path}: numbers that are not finite in the detections of picture {bad[0]}")

    def __call__(self, sample: Sample) -> PersonBoxes:
        """The boxes of one picture, clamped to scores in [0, 1]."""
        rows = self._rows.get(sample.image_id, np.zeros((0, 5), np.float32))
        rows = rows[(rows[:, 2:4] > 0).all(1)]
        return PersonBoxes(xywh_to_xyxy(rows[:, :4]), rows[:, 4].clip(0, 1))
