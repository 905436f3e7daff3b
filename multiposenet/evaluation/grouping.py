"""Grouping measured by itself: labels stand in for the network, so that only the assignment can go wrong.

This is how the published figures of the pose residual network were made (MultiPoseNet, table of PRN inputs: ground
truth keypoints and boxes): coordinates are copied from the labels, and AP tells only who got which.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from multiposenet.decode.grouping import PoseResidualGrouping
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, PersonLabels, Poses


def labels_as_detections(pictures: Sequence[PersonLabels], num_keypoints: int) -> tuple[Peaks, Detections]:
    """Every labelled keypoint as a peak of score 1, every single person's box as a detection of score 1.

    Returns:
        Peaks and Detections of N pictures in picture pixels, padded to the most crowded one.
    """
    n = len(pictures)
    most = max([1, *(len(labels) for labels in pictures)])
    xy = torch.zeros(n, num_keypoints, most, 2)
    found = torch.zeros(n, num_keypoints, most, dtype=torch.bool)
    boxes = torch.zeros(n, most, 4)
    valid = torch.zeros(n, most, dtype=torch.bool)
    for row, labels in enumerate(pictures):
        people = len(labels)
        xy[row, :, :people] = torch.from_numpy(labels.keypoints).transpose(0, 1)
        found[row, :, :people] = torch.from_numpy(labels.visibility > 0).transpose(0, 1)
        boxes[row, :people] = torch.from_numpy(labels.boxes)
        valid[row, :people] = torch.from_numpy(~labels.crowd)
    return Peaks(xy, found.float(), found), Detections(boxes, valid.float(), valid)


@torch.inference_mode()
def group_labels(
    grouping: PoseResidualGrouping,
    pictures: Sequence[PersonLabels],
    image_ids: Sequence[int],
    skeleton: Skeleton,
    device: torch.device | str = "cpu",
    batch_size: int = 32,
) -> list[dict]:
    """COCO results of grouping the labels' own keypoints around the labels' own boxes."""
    results = []
    for start in range(0, len(pictures), batch_size):
        peaks, detections = labels_as_detections(pictures[start : start + batch_size], skeleton.num_keypoints)
        people = grouping(peaks.to(device), detections.to(device))
        for row, image_id in enumerate(image_ids[start : start + batch_size]):
            order = people.scores[row].argsort(descending=True, stable=True)
            order = order[detections.valid[row].to(order.device)[order]]
            results += Poses(
                people.keypoints[row, order].cpu(),
                people.keypoint_scores[row, order].cpu(),
                detections.boxes[row, order.cpu()],
                people.scores[row, order].cpu(),
                skeleton,
            ).to_coco_results(image_id)
    return results
