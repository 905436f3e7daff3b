"""A stand-in for the published PyTorch code, to compare with: its network's layout and its decoding, slow and plain.

Written for these tests from a description of the layers, names and rules; it shares nothing with the package but
torchvision's ResNet. Everything is done as described, mistakes included: loops over people, peaks and keypoints.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torchvision
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

KEYPOINTS = 17
GRID = (56, 36)
MARGIN = 0.21

# Keypoint i of COCO is map TO_COCO[i] of the network's PRN; the heatmaps have a neck after the nose besides.
TO_COCO = [0, 14, 13, 16, 15, 4, 1, 5, 2, 6, 3, 10, 7, 11, 8, 12, 9]
FROM_COCO = [0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
HEATMAP_OF_COCO = [index + (index > 0) for index in TO_COCO]


class Prn(nn.Module):
    """[B, 56, 36, 17] -> the same: three rectified layers on the flattened grid, plus the input, one softmax."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        cells = GRID[0] * GRID[1] * KEYPOINTS
        self.dens1, self.bneck, self.dens2 = nn.Linear(cells, nodes), nn.Linear(nodes, nodes), nn.Linear(nodes, cells)

    def forward(self, crops: Tensor) -> Tensor:
        flat = crops.flatten(1)
        residual = F.relu(self.dens2(F.relu(self.bneck(F.relu(self.dens1(flat))))))
        return (residual + flat).softmax(1).view_as(crops)


class Pyramids(nn.Module):
    """The backbone and both feature pyramids: images -> ([K2, ..., K5], [P3, ..., P7])."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        resnet = getattr(torchvision.models, f"resnet{depth}")()
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, getattr(resnet, name))
        self.toplayer = nn.Conv2d(2048, 256, 1)
        self.latlayer1 = nn.Conv2d(2048, 256, 1)
        for number, inputs in enumerate((1024, 512, 256), start=1):
            self.add_module(f"flatlayer{number}", nn.Conv2d(inputs, 256, 1))
            self.add_module(f"smooth{number}", nn.Conv2d(256, 256, 3, padding=1))
            self.add_module(f"toplayer{number - 1}", nn.Conv2d(256, 256, 3, padding=1))
        self.latlayer2, self.latlayer3 = nn.Conv2d(1024, 256, 1), nn.Conv2d(512, 256, 1)
        self.conv6 = nn.Conv2d(2048, 256, 3, stride=2, padding=1)
        self.conv7 = nn.Conv2d(256, 256, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        c1 = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        c2 = self.layer1(c1)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        c5 = self.layer4(c4)
        k5 = self.toplayer(c5)
        k4 = enlarged(k5, c4) + self.flatlayer1(c4)
        k3 = enlarged(k4, c3) + self.flatlayer2(c3)
        k2 = enlarged(k3, c2) + self.flatlayer3(c2)
        p5 = self.latlayer1(c5)
        p4 = enlarged(p5, c4) + self.latlayer2(c4)
        p3 = enlarged(p4, c3) + self.latlayer3(c3)
        p6 = self.conv6(c5)
        return (
            [self.smooth3(k2), self.smooth2(k3), self.smooth1(k4), k5],
            [self.toplayer2(p3), self.toplayer1(p4), self.toplayer0(p5), p6, self.conv7(F.relu(p6))],
        )


def enlarged(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, size=like.shape[-2:], mode="nearest")


class Head(nn.Module):
    """One of the detector's heads: a pyramid -> [N, A, values]."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values
        for number in range(1, 5):
            self.add_module(f"conv{number}", nn.Conv2d(256, 256, 3, padding=1))
        self.output = nn.Conv2d(256, 9 * values, 3, padding=1)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        answers = []
        for features in pyramid:
            for number in range(1, 5):
                features = F.relu(getattr(self, f"conv{number}")(features))
            answers.append(self.output(features).permute(0, 2, 3, 1).reshape(len(features), -1, self.values))
        return torch.cat(answers, 1)


class Network(nn.Module):
    """Normalised images, sides multiples of 32 -> (heatmaps [N, 18, h, w], probabilities [N, A], deltas [N, A, 4])."""

    def __init__(self, depth: int = 50, nodes: int = 1024) -> None:
        super().__init__()
        self.fpn = Pyramids(depth)
        for level in range(1, 5):
            self.add_module(f"convt{level}", nn.Conv2d(256, 128, 3, padding=1))
            self.add_module(f"convs{level}", nn.Conv2d(128, 128, 3, padding=1))
            self.add_module(f"convfin_k{level + 1}", nn.Conv2d(256, KEYPOINTS + 2, 1))
        self.conv2 = nn.Conv2d(512, 256, 3, padding=1)
        self.convfin = nn.Conv2d(256, KEYPOINTS + 1, 1)
        self.regressionModel, self.classificationModel = Head(4), Head(1)
        self.prn = Prn(nodes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keypoint_pyramid, pyramid = self.fpn(images)
        k2, k3, k4, k5 = keypoint_pyramid
        d5 = F.interpolate(self.convs1(self.convt1(k5)), scale_factor=8)
        d4 = F.interpolate(self.convs2(self.convt2(k4)), scale_factor=4)
        d3 = F.interpolate(self.convs3(self.convt3(k3)), scale_factor=2)
        d2 = self.convs4(self.convt4(k2))
        heatmaps = self.convfin(F.relu(self.conv2(torch.cat([d5, d4, d3, d2], 1))))
        return heatmaps, self.classificationModel(pyramid)[..., 0].sigmoid(), self.regressionModel(pyramid)

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """What the heads on the single levels say, from K2 to K5, enlarged to K2's size."""
        levels, _ = self.fpn(images)
        maps = [getattr(self, f"convfin_k{level}")(features) for level, features in enumerate(levels, start=2)]
        return [F.interpolate(m, scale_factor=2**level) for level, m in enumerate(maps)]


@torch.no_grad()
def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in evaluation mode with weights that keep a signal alive, and statistics as after training."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.weight.normal_(std=1 / math.sqrt(layer.weight[0].numel()), generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(std=0.1, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.uniform_(0.5, 1, generator=generator)
            layer.bias.normal_(std=0.1, generator=generator)
            layer.running_mean.normal_(std=0.1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def find_peaks(heatmaps: np.ndarray) -> list[list[tuple[int, int]]]:
    """Peaks (x, y) of each of the maps [K, h, w], whose cells are four pixels wide, in pixels."""
    maps = F.interpolate(torch.from_numpy(heatmaps)[None], scale_factor=4, mode="bicubic")[0].numpy()
    cross = ndimage.generate_binary_structure(2, 1)
    found = []
    for one in maps:
        y, x = np.nonzero((ndimage.maximum_filter(one, footprint=cross) == one) & (one > 0.1))
        found.append(list(zip(x.tolist(), y.tolist(), strict=True)))
    return found


def find_boxes(
    scores: np.ndarray, deltas: np.ndarray, anchors: np.ndarray, image_size: tuple[int, int], threshold: float
) -> np.ndarray:
    """Boxes [P, 4] (xyxy), best first, of scores [A] and deltas [A, 4]."""
    sides = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + 0.5 * sides + deltas[:, :2] * 0.1 * sides
    half = 0.5 * np.exp(deltas[:, 2:] * 0.2) * sides
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    boxes[:, :2] = boxes[:, :2].clip(min=0)
    boxes[:, 2:] = boxes[:, 2:].clip(max=image_size[::-1])
    left = np.array([index for index in scores.argsort()[::-1] if scores[index] > 0.05], dtype=np.int64)
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[overlaps(boxes[best], boxes[left]) <= 0.5]
    return boxes[[index for index in kept if scores[index] > threshold]]


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU [P] of a box [4] with others [P, 4], all of which include the pixels of both their edges."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = (high - low + 1).clip(min=0).prod(1)
    areas = (others[:, 2:] - others[:, :2] + 1).prod(1) + (box[2:] - box[:2] + 1).prod()
    return shared / (areas - shared)


def cell_of(point: tuple[float, float], box: tuple[float, ...]) -> tuple[int, int] | None:
    """Row and column of a point in a box (x, y, w, h), or None when it is too far outside."""
    x, y, width, height = box
    if not (x - width * MARGIN < point[0] < x + width * (1 + MARGIN)):
        return None
    if not (y - height * MARGIN < point[1] < y + height * (1 + MARGIN)):
        return None
    column = int((point[0] - x) * (GRID[1] / math.ceil(width)))
    row = int((point[1] - y) * (GRID[0] / math.ceil(height)))
    if column >= GRID[1] and row >= GRID[0]:
        row, column = GRID[0] - 1, GRID[1] - 1
    elif column >= GRID[1]:
        column = GRID[1] - 1
    elif row >= GRID[0]:
        row = GRID[0] - 1
    elif column < 0 and row < 0:
        row, column = 0, 0
    elif column < 0:
        column = 0
    elif row < 0:
        row = 0
    return row % GRID[0], column % GRID[1]  # a negative index counts from the end


def draw_crop(peaks: list[list[tuple[float, float]]], box: tuple[float, ...]) -> tuple[np.ndarray, list[dict]]:
    """What the PRN sees [56, 36, K] of a box, and for each keypoint the cells -> the number of the last peak there."""
    crop = np.zeros((*GRID, len(peaks)))
    owners: list[dict] = [{} for _ in peaks]
    for keypoint, points in enumerate(peaks):
        for number, point in enumerate(points):
            cell = cell_of(point, box)
            if cell is not None:
                crop[(*cell, keypoint)] = 1
                owners[keypoint][cell] = number
        crop[..., keypoint] = ndimage.gaussian_filter(crop[..., keypoint], 1, mode="nearest", truncate=4)
    return crop, owners


@torch.no_grad()
def find_people(peaks: list[list[tuple[float, float]]], boxes: list[tuple[float, ...]], prn: nn.Module) -> np.ndarray:
    """Keypoints [P, K, 3] (x, y, whether it is a peak) of the boxes (x, y, w, h), given the peaks of each keypoint."""
    seen = [draw_crop(peaks, box) for box in boxes]
    answers = [prn(torch.from_numpy(crop)[None].float())[0].numpy() for crop, _ in seen]
    people = np.zeros((len(boxes), len(peaks), 3))
    for keypoint, points in enumerate(peaks):
        table = np.zeros((len(boxes), len(points)))
        for person, (_, owners) in enumerate(seen):
            for (row, column), number in owners[keypoint].items():
                window = answers[person][max(0, row - 7) : row + 8, max(0, column - 7) : column + 8, keypoint]
                table[person, number] = window.sum()
        asked = [number for number in range(len(points)) if table[:, number].max() > 0]
        if not asked:
            fill_missing(people, answers, seen, boxes)
            continue
        for person in range(len(boxes)):
            for number in sorted(asked, key=lambda n: -table[person, n]):
                if table[person, number] <= 0:
                    break
                rival = int(table[:, number].argmax())
                if rival == person or min(asked, key=lambda n: table[rival, n]) == number:
                    people[person, keypoint] = (*points[number], 1)
                    break
    return people


def fill_missing(people: np.ndarray, answers: list[np.ndarray], seen: list[tuple], boxes: list[tuple]) -> None:
    """Puts every keypoint that has no peak near its box on the PRN's best cell."""
    for person, (box, (_, owners)) in enumerate(zip(boxes, seen, strict=True)):
        for keypoint, cells in enumerate(owners):
            if not cells:
                row, column = np.unravel_index(answers[person][..., keypoint].argmax(), GRID)
                x = column / (GRID[1] / math.ceil(box[2])) + box[0]
                y = row / (GRID[0] / math.ceil(box[3])) + box[1]
                people[person, keypoint] = (x, y, 0)
