"""Where the people's boxes of annotated pictures come from, when a predictor is not to find them itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np

from multiposenet.evaluation.columns import column_of_numbers, rows_of_numbers
from multiposenet.evaluation.results import read_results
from multiposenet.geometry import xywh_to_xyxy
from multiposenet.structures import PersonBoxes, Sample

_FIELDS = {"image_id", "category_id", "bbox", "score"}


def label_boxes(sample: Sample) -> np.ndarray:
    """The labels' own boxes [P, 4], crowds excepted."""
    return sample.labels.boxes[~sample.labels.crowd]


class DetectionFile:
    """Boxes of a result list in COCO's format: ``[{"image_id", "category_id", "bbox": [x, y, w, h], "score"}, ...]``.

    Published top-down figures are made with such files, e.g. ``COCO_val2017_detections_AP_H_56_person.json``. What is
    not a person, has no area, or is there for the second time, is left out; a picture that is not in the file has
    nobody.

    Args:
        path: the file.
        category_id: of people.

    Raises:
        FileNotFoundError, ValueError: no such file, a record is broken, or none of them is a person; the message says
            where.
    """

    def __init__(self, path: str | Path, category_id: int = 1) -> None:
        self.path = path
        records = read_results(path)
        for number, record in enumerate(records):
            if not isinstance(record, Mapping) or not record.keys() >= _FIELDS:
                self._refuse(number, f"needs image_id, category_id, bbox [x, y, width, height], score; got {record!r}")
        numbers = [number for number, record in enumerate(records) if record["category_id"] == category_id]
        if records and not numbers:
            there = ", ".join(sorted({repr(record["category_id"]) for record in records})[:5])
            raise ValueError(f"{path}: no detection has category_id {category_id}, a person's; there are {there}")
        people = [records[number] for number in numbers]

        def refuse(field: str) -> Callable[[int, str], None]:
            return lambda row, wrong: self._refuse(numbers[row], f"{people[row]!r}: {field}{wrong}")

        boxes = rows_of_numbers([record["bbox"] for record in people], 4, refuse("bbox"))
        scores = column_of_numbers([record["score"] for record in people], refuse("score"))
        pictures = column_of_numbers([record["image_id"] for record in people], refuse("image_id"))
        found: dict[int, list[int]] = defaultdict(list)
        table = np.concatenate([boxes, scores[:, None]], axis=1).astype(np.float32)
        # The same box twice is the same person twice, which no evaluation takes.
        _, first = np.unique(np.column_stack([pictures, table]), axis=0, return_index=True)
        for row in np.sort(first).tolist():
            found[int(people[row]["image_id"])].append(row)  # a float holds no id of 63 bits
        self._rows = {image_id: table[rows] for image_id, rows in found.items()}

    def _refuse(self, number: int, wrong: str) -> NoReturn:
        raise ValueError(f"{self.path}: detection {number} {wrong}")

    def refuse_strangers(self, image_ids: Iterable[int]) -> None:
        """ValueError when the file has people, and none in these pictures: it is about others."""
        if self._rows and self._rows.keys().isdisjoint(image_ids):
            first = ", ".join(map(str, list(self._rows)[:5]))
            raise ValueError(
                f"{self.path}: its detections are of other pictures, image_id {first}, ...; give those of this data set"
            )

    def __call__(self, sample: Sample) -> PersonBoxes:
        """The boxes of one picture, clamped to scores in [0, 1]."""
        rows = self._rows.get(sample.image_id, np.zeros((0, 5), np.float32))
        rows = rows[(rows[:, 2:4] > 0).all(1)]
        return PersonBoxes(xywh_to_xyxy(rows[:, :4]), rows[:, 4].clip(0, 1))
