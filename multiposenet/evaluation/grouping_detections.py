"""A network's peaks and boxes as inputs for measuring groupings: the paper's four rows (MultiPoseNet, PRN inputs).

Peaks and boxes of a network are nobody's; to know what the best assignment could reach, each is given to the person
whom it fits best.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from multiposenet.evaluation.grouping_inputs import PictureBoxes, PicturePeaks
from multiposenet.evaluation.oks import keypoint_similarity
from multiposenet.geometry import pairwise_iou
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, PersonLabels

LEAST_IOU = 0.1
"""A box can carry a person only with this overlap; little, or a poor detector would pass its own ceiling."""

LEAST_SIMILARITY = 0.1
"""A peak belongs to a person's keypoint only with this similarity (one keypoint's share of OKS)."""


def owned_boxes(detections: Detections, labels: PersonLabels) -> PictureBoxes:
    """The boxes of one picture [1, P, 4] (picture pixels), each with the person it fits, one to one by overlap."""
    valid = detections.valid[0].cpu()
    boxes = detections.boxes[0].cpu()[valid].double()
    single = np.flatnonzero(~labels.crowd)
    overlap = pairwise_iou(boxes, torch.from_numpy(labels.boxes[single]).double())
    person = _owners(overlap.numpy(), LEAST_IOU)
    person = np.where(person >= 0, single[person] if len(single) else -1, -1)
    return PictureBoxes(boxes.numpy(), person, detections.scores[0].cpu()[valid].numpy())


def owned_peaks(peaks: Peaks, labels: PersonLabels, skeleton: Skeleton) -> PicturePeaks:
    """The peaks of one picture [1, K, M, 2] (picture pixels), each with the person it fits, one to one."""
    keypoint, slot = (axis.numpy() for axis in peaks.valid[0].cpu().nonzero(as_tuple=True))
    xy = peaks.xy[0].cpu().double().numpy()[keypoint, slot]
    person = np.full(len(xy), -1)
    for number in range(skeleton.num_keypoints):
        rows = np.flatnonzero(keypoint == number)
        people = np.flatnonzero((labels.visibility[:, number] > 0) & ~labels.crowd)
        offsets = xy[rows, None] - labels.keypoints[people, number].astype(np.float64)[None]
        similarity = keypoint_similarity(
            torch.from_numpy((offsets**2).sum(-1)),
            torch.from_numpy(labels.areas[people].astype(np.float64)),
            torch.tensor(skeleton.oks_sigmas[number], dtype=torch.float64),
        ).numpy()
        owner = _owners(similarity, LEAST_SIMILARITY)
        person[rows] = np.where(owner >= 0, people[owner] if len(people) else -1, -1)
    return PicturePeaks(xy, keypoint, person, peaks.scores[0].cpu().numpy()[keypoint, slot])


def _owners(fit: np.ndarray, least: float) -> np.ndarray:
    """[R] column of each row of ``fit`` [R, C], one to one with the largest sum, -1 where it is below ``least``."""
    owner = np.full(len(fit), -1)
    rows, columns = linear_sum_assignment(np.where(fit >= least, fit, 0.0), maximize=True)
    good = fit[rows, columns] >= least
    owner[rows[good]] = columns[good]
    return owner
