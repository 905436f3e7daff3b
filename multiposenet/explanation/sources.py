"""What can be explained: a picture through a network, or a labelled picture whose labels stand in for the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from multiposenet.data.coco import CocoKeypoints
from multiposenet.evaluation.grouping_detections import box_owners, peak_owners
from multiposenet.evaluation.grouping_inputs import INPUTS, GroupingInput, make_input
from multiposenet.explanation.structures import Owners
from multiposenet.geometry import CropWindow
from multiposenet.predictor import PosePredictor
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, PersonLabels

NETWORK = "network"
"""Name of the input that a network finds in the picture, beside those of ``evaluation.grouping_inputs.INPUTS``."""


@dataclass(frozen=True)
class Scene:
    """What a grouping is given of one picture.

    Args:
        name: what the picture is called.
        given: which input this is, in words.
        image_size: (height, width).
        peaks, detections: of one picture, in the pixels that the grouping works in.
        skeleton: whose keypoints the peaks are.
        image: [H, W, 3] uint8 RGB; None when there are labels only.
        window: from the picture's pixels to those of ``peaks``; None when they are the same.
        owners: whose the peaks and boxes are, where labels tell.
    """

    name: str
    given: str
    image_size: tuple[int, int]
    peaks: Peaks
    detections: Detections
    skeleton: Skeleton
    image: np.ndarray | None = None
    window: CropWindow | None = None
    owners: Owners | None = None


@torch.inference_mode()
def scene_of_picture(
    predictor: PosePredictor, image: np.ndarray, name: str, labels: PersonLabels | None = None
) -> Scene:
    """What the predictor's network finds in a picture: the very peaks and boxes that its people are grouped from.

    Args:
        predictor: of a method that has a grouping.
        image: [H, W, 3] uint8 RGB.
        name: what the picture is called.
        labels: its people, when somebody annotated them.
    """
    canvas = next(iter(predictor.runner.canvases([image])))
    peaks, detections = predictor.method.decoder.find(canvas.views)
    peaks, looks = predictor.method.decoder.look(peaks, detections, canvas.views)
    window = canvas.windows[0]
    owners = None
    if labels is not None:
        there, found = peaks.to("cpu"), detections.to("cpu")
        there = replace(there, xy=window.keypoints_to_image(there.xy))
        found = replace(found, boxes=window.boxes_to_image(found.boxes))
        owners = Owners(
            box_owners(found, labels), peak_owners(there, labels, predictor.skeleton), labels.visibility > 0
        )
    given = f"peaks and boxes of {predictor.name}" + ("" if looks is None else ", before its refiner moves keypoints")
    return Scene(name, given, image.shape[:2], peaks, detections, predictor.skeleton, image, window, owners)


def open_labels(data: str, split: str, image_id: int, skeleton: Skeleton) -> tuple[CocoKeypoints, int]:
    """A data set in COCO's layout and the place of one of its pictures; no picture file is opened.

    Raises:
        FileNotFoundError: no such folder or annotation file.
        ValueError: no such picture, or a broken record.
    """
    if not Path(data).expanduser().is_dir():
        raise FileNotFoundError(f"no folder {data}; give --data a folder with annotations/ in it")
    dataset = CocoKeypoints(data, split, skeleton)  # without a cache: who reads one picture's labels writes nothing
    known = dataset.image_ids
    if image_id not in known:
        there = f"{len(known):,} ids from {known[0]} to {known[-1]}" if known else "no pictures"
        raise ValueError(
            f"{data}: no image has the id {image_id} in {split} ({there}); give another id, or another --split"
        )
    return dataset, known.index(image_id)


def scene_of_labels(dataset: CocoKeypoints, index: int, given: str = "ground truth") -> Scene:
    """The labels of picture ``index`` as peaks and boxes, exactly as ``evaluate/run_grouping.py`` measures them.

    Args:
        dataset: its picture files need not be there.
        index: which picture.
        given: a key of ``INPUTS``.
    """
    labels, image_id = dataset.labels(index), dataset.image_ids[index]
    made = make_input([labels], [image_id], dataset.skeleton.num_keypoints, *INPUTS[given])
    return Scene(
        name=f"image {image_id}",
        given=f"labels as peaks and boxes: {given}",
        image_size=dataset.image_size(index),
        peaks=made.peaks,
        detections=made.detections,
        skeleton=dataset.skeleton,
        image=_image_of(dataset, index),
        owners=input_owners(made),
    )


def input_owners(given: GroupingInput) -> Owners:
    """Whose the peaks and boxes of an input's first picture are."""
    boxes = np.full(given.detections.valid.shape[1], -1)
    peaks = np.full(given.peaks.valid.shape[1:], -1)
    box_of, peak_of = given.box_of[0].numpy(), given.peak_of[0].numpy()
    people = np.flatnonzero(box_of >= 0)
    boxes[box_of[people]] = people
    people, keypoints = np.nonzero(peak_of >= 0)
    peaks[keypoints, peak_of[people, keypoints]] = people
    return Owners(boxes, peaks, given.labelled[0].numpy())


def _image_of(dataset: CocoKeypoints, index: int) -> np.ndarray | None:
    """The picture's pixels if its file is there."""
    try:
        return dataset[index].image
    except FileNotFoundError:
        return None
