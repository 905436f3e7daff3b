"""The two JSON files of a prediction run, written picture by picture so that memory stays constant.

``predictions.json`` is a list of COCO keypoint results, ready for scoring; ``poses.json`` holds everything else: which
file, its size, boxes, named keypoints, the skeleton, the model, and the pictures that could not be processed.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TextIO

from multiposenet.structures import Poses


class ResultFiles:
    """Writes ``predictions.json`` and ``poses.json`` into a folder; a context manager.

    Both files are complete JSON whenever the block is left, by an exception too.

    Args:
        folder: existing folder.
        header: what ``poses.json`` says about the run as a whole, before the pictures.
    """

    def __init__(self, folder: Path, header: dict) -> None:
        self.folder = folder
        self.predictions_path = folder / "predictions.json"
        self.poses_path = folder / "poses.json"
        self._header = header
        self._failed: list[dict] = []

    def __enter__(self) -> ResultFiles:
        self._predictions = self.predictions_path.open("w", encoding="utf-8")
        self._poses = self.poses_path.open("w", encoding="utf-8")
        self._predictions.write("[")
        opening = json.dumps(self._header, indent=1).removesuffix("\n}")
        self._poses.write(f'{opening},\n "pictures": [')
        self._first = {self._predictions: True, self._poses: True}
        return self

    def add(self, poses: Poses, image_id: int, image_size: tuple[int, int], **about: object) -> None:
        """Appends one picture's people; ``about`` says which picture it is (plain JSON values)."""
        for result in poses.to_coco_results(image_id):
            self._append(self._predictions, result)
        self._append(self._poses, {**about, "image_id": image_id, **poses.to_dict(), "image_size": list(image_size)})

    def add_failure(self, **about: object) -> None:
        """Records a picture that could not be processed; they come last in ``poses.json``."""
        self._failed.append(about)

    def __exit__(self, *exception: object) -> None:
        # One after the other: a disk that is full for one must not cut the other short.
        endings = {self._predictions: "\n]\n", self._poses: f'\n ],\n "failed": {json.dumps(self._failed)}\n}}\n'}
        with contextlib.ExitStack() as closing:
            for file, ending in endings.items():
                closing.enter_context(file)
                closing.callback(file.write, ending)

    def _append(self, file: TextIO, item: dict) -> None:
        text = json.dumps(item, allow_nan=False)
        file.write(("\n" if self._first[file] else ",\n") + text)
        self._first[file] = False
