"""A network's peaks and boxes as inputs for groupings: the paper's four rows (MultiPoseNet, PRN inputs), and training.

Peaks and boxes of a network are nobody's; to know what the best assignment could reach, each is given to the person
whom it fits best.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from tqdm import tqdm

from multiposenet.distributed import rank, share_with_all, world_size
from multiposenet.evaluation.grouping_inputs import GroupingInput, PictureBoxes, PicturePeaks, pack_input
from multiposenet.evaluation.oks import keypoint_similarity
from multiposenet.geometry import pairwise_iou
from multiposenet.predictor import PosePredictor
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, PersonLabels

LEAST_IOU = 0.1
"""A box can carry a person only with this overlap; little, or a poor detector would pass its own ceiling."""

LEAST_SIMILARITY = 0.1
"""A peak belongs to a person's keypoint only with this similarity (one keypoint's share of OKS)."""


def network_input(predictor: PosePredictor, dataset) -> GroupingInput:
    """What a network finds in all pictures of a dataset (or several, one after the other), and whose it is.

    Processes that train together share the pictures among themselves and what they found with one another.
    """
    mine, skeleton = range(rank(), len(dataset), world_size()), predictor.skeleton
    rows = [
        (labels, owned_peaks(peaks, labels, skeleton, boxes.valid[0].numpy()), owned_boxes(boxes, labels))
        for labels, (peaks, boxes) in found_by_network(predictor, dataset, mine)
    ]
    shares = share_with_all(rows)
    rows = [shares[index % len(shares)][index // len(shares)] for index in range(len(dataset))]
    labels, peaks, boxes = ([row[part] for row in rows] for part in range(3))
    return pack_input(labels, peaks, boxes, skeleton.num_keypoints)


def found_by_network(
    predictor: PosePredictor, dataset, indices: Iterable[int] | None = None
) -> Iterator[tuple[PersonLabels, tuple[Peaks, Detections]]]:
    """Labels, and a network's peaks and boxes, picture after picture, in the picture's pixels."""
    for index in tqdm(range(len(dataset)) if indices is None else indices, desc="network", disable=None):
        sample = dataset[index]
        yield sample.labels, detect(predictor, sample.image)


@torch.inference_mode()
def detect(predictor: PosePredictor, image: np.ndarray) -> tuple[Peaks, Detections]:
    """A network's peaks and boxes in one picture [H, W, 3], in that picture's pixels."""
    (canvas,) = predictor.runner.canvases([image])
    (window,), decoder = canvas.windows, predictor.method.decoder
    peaks, detections = decoder.find(canvas.views)
    peaks, _ = decoder.look(peaks, detections, canvas.views)
    peaks, detections = peaks.to("cpu"), detections.to("cpu")
    return (
        replace(peaks, xy=window.keypoints_to_image(peaks.xy)),
        replace(detections, boxes=window.boxes_to_image(detections.boxes)),
    )


def owned_boxes(detections: Detections, labels: PersonLabels) -> PictureBoxes:
    """The boxes of one picture [1, P, 4] (picture pixels), each with the person it fits, one to one by overlap."""
    valid = detections.valid[0].cpu()
    boxes, scores = detections.boxes[0].cpu()[valid].double(), detections.scores[0].cpu()[valid]
    return PictureBoxes(boxes.numpy(), box_owners(detections, labels)[valid.numpy()], scores.numpy())


def owned_peaks(
    peaks: Peaks, labels: PersonLabels, skeleton: Skeleton, boxes: np.ndarray | None = None
) -> PicturePeaks:
    """The peaks of one picture [1, K, M, 2] (picture pixels), each with the person it fits, one to one.

    Args:
        peaks: of one picture.
        labels: its people.
        skeleton: says what is near.
        boxes: [P] bool, which slots hold boxes; without them nobody says how those see the peaks (``seen_by``).
    """
    keypoint, slot = (axis.numpy() for axis in peaks.valid[0].cpu().nonzero(as_tuple=True))
    xy, scores = peaks.xy[0].cpu().double().numpy(), peaks.scores[0].cpu().numpy()
    owner = peak_owners(peaks, labels, skeleton)

    def told(values: Tensor | None) -> np.ndarray | None:
        return None if values is None else values[0].cpu().numpy()[keypoint, slot]

    return PicturePeaks(
        xy[keypoint, slot],
        keypoint,
        owner[keypoint, slot],
        scores[keypoint, slot],
        told(peaks.evidence),
        told(peaks.appearance),
        None if boxes is None or peaks.seen_by is None else told(peaks.seen_by)[:, boxes],
    )


def box_owners(detections: Detections, labels: PersonLabels) -> np.ndarray:
    """[P] the person whom each box slot of one picture fits, one to one by overlap; -1 for nobody and empty slots.

    Args:
        detections: of one picture, [1, P, 4].
        labels: its people, in the same pixels; crowds own nothing.
    """
    slots = detections.valid[0].cpu().nonzero()[:, 0]
    single = np.flatnonzero(~labels.crowd)
    boxes = detections.boxes[0].cpu()[slots].double()
    overlap = pairwise_iou(boxes, torch.from_numpy(labels.boxes[single]).double())
    person = np.full(detections.valid.shape[1], -1)
    person[slots.numpy()] = np.append(single, -1)[_owners(overlap.numpy(), LEAST_IOU)]
    return person


def peak_owners(peaks: Peaks, labels: PersonLabels, skeleton: Skeleton) -> np.ndarray:
    """[K, M] the person whom each peak slot of one picture fits, one to one; -1 for nobody and empty slots.

    Args:
        peaks: of one picture, [1, K, M, 2].
        labels: its people, in the same pixels; crowds own nothing.
        skeleton: its ``reach`` says what is near.
    """
    valid = peaks.valid[0].cpu().numpy()
    xy = peaks.xy[0].cpu().double().numpy()
    person = np.full(valid.shape, -1)
    for number in range(skeleton.num_keypoints):
        slots = np.flatnonzero(valid[number])
        people = np.flatnonzero((labels.visibility[:, number] > 0) & ~labels.crowd)
        offsets = xy[number, slots, None] - labels.keypoints[people, number].astype(np.float64)[None]
        similarity = keypoint_similarity(
            torch.from_numpy((offsets**2).sum(-1)),
            torch.from_numpy(labels.areas[people].astype(np.float64)),
            torch.tensor(skeleton.reach[number], dtype=torch.float64),
        ).numpy()
        person[number, slots] = np.append(people, -1)[_owners(similarity, LEAST_SIMILARITY)]
    return person


def _owners(fit: np.ndarray, least: float) -> np.ndarray:
    """[R] column of each row of ``fit`` [R, C], one to one with the largest sum, -1 where it is below ``least``."""
    owner = np.full(len(fit), -1)
    rows, columns = linear_sum_assignment(np.where(fit >= least, fit, 0.0), maximize=True)
    good = fit[rows, columns] >= least
    owner[rows[good]] = columns[good]
    return owner
