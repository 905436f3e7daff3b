"""Networks made to find given people.

A network with random weights does its full arithmetic but finds nobody, and what follows it then has nothing to do. So
the people are given: they are drawn into the form of the raw outputs (boxes as logits and deltas of anchors, keypoints
as heatmaps) and decoding starts from those. Weights play no part in the time that the arithmetic takes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import KeypointRCNN
from torchvision.ops import box_iou

from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.decode.chain import ChainDecoder
from multiposenet.skeletons import Skeleton
from multiposenet.structures import MultiPoseNetOutputs, PersonLabels, Poses

PICTURES_SEED = 30_000
LEAST_SIDE = 24
LEAST_KEYPOINTS = 8
MOST_OVERLAP = 0.35
"""People are taken whose boxes overlap by no more than this IoU: suppression, theirs and ours, must leave them all."""


def draw_people(count: int, image_size: tuple[int, int], skeleton: Skeleton) -> tuple[np.ndarray, PersonLabels]:
    """A picture, and people gathered from a run of synthetic pictures, where and as large as they stood there.

    The first people of a larger crowd are those of a smaller one.
    """
    pictures = SyntheticPeople(10_000, PICTURES_SEED, image_size, people=(1, 8), skeleton=skeleton)
    keypoints, visibility, boxes, areas = [], [], np.zeros((0, 4), np.float32), []
    for sample in pictures:
        labels = sample.labels
        for person in range(len(labels)):
            box = labels.boxes[person : person + 1]
            if (box[:, 2:] - box[:, :2]).min() < LEAST_SIDE or (labels.visibility[person] > 0).sum() < LEAST_KEYPOINTS:
                continue
            if len(boxes) and box_iou(torch.from_numpy(box), torch.from_numpy(boxes)).max() > MOST_OVERLAP:
                continue
            keypoints.append(labels.keypoints[person])
            visibility.append(labels.visibility[person])
            areas.append(labels.areas[person])
            boxes = np.concatenate([boxes, box])
            if len(boxes) == count:
                crowd = np.zeros(count, bool)
                labels = PersonLabels(np.stack(keypoints), np.stack(visibility), boxes, np.array(areas), crowd)
                return pictures[0].image, labels
    raise ValueError(f"no room for {count} people in a picture of {image_size}; ask for fewer")


def raw_outputs(people: PersonLabels, decoder: ChainDecoder, like: MultiPoseNetOutputs) -> MultiPoseNetOutputs:
    """Outputs of a network that sees these people well, in the memory layout of a real forward's.

    Every person's best anchor gives the box exactly. The other anchors of IoU >= 0.5 find it roughly, so that there is
    something to suppress. Maps and logits carry faint noise.

    Args:
        people: in pixels of the network's input.
        decoder: whose codec and anchors are used.
        like: outputs of one picture; gives sizes, layout and device.
    """
    generator = torch.Generator().manual_seed(0)
    image_size = like.image_size
    keypoints, visibility = torch.from_numpy(people.keypoints), torch.from_numpy(people.visibility)
    keypoint_maps = decoder.codec.encode(keypoints[None], visibility[None], image_size)
    heatmaps = torch.zeros(like.heatmaps.shape)
    heatmaps[:, : keypoint_maps.shape[1]] = keypoint_maps
    heatmaps += 0.015 * torch.randn(heatmaps.shape, generator=generator)

    grid = decoder.boxes.grid
    anchors, boxes = grid.anchors(image_size), torch.from_numpy(people.boxes)
    iou = box_iou(anchors, boxes)
    overlap, owner = iou.max(dim=1)
    logits = -6 + 0.5 * torch.randn(len(anchors), generator=generator)
    deltas = 0.2 * torch.randn(len(anchors), 4, generator=generator)
    near = overlap >= 0.5
    logits[near] = 10 * overlap[near] - 7
    deltas[near] += grid.encode(boxes[owner[near]], anchors[near])
    best = iou.argmax(dim=0)
    logits[best] = 4.0
    deltas[best] = grid.encode(boxes, anchors[best])
    return MultiPoseNetOutputs(
        torch.empty_like(like.heatmaps).copy_(heatmaps),
        torch.empty_like(like.box_logits).copy_(logits[None]),
        torch.empty_like(like.box_deltas).copy_(deltas[None]),
        image_size,
        like.features,
        like.stages,
        like.pyramid,
    )


def check_found(people: PersonLabels, boxes: Tensor, what: str) -> None:
    """Stops the benchmark unless exactly these people came out.

    Raises:
        RuntimeError: others, more or fewer.
    """
    iou = box_iou(torch.from_numpy(people.boxes), boxes.cpu())
    if len(boxes) != len(people) or (iou.amax(dim=0) < 0.9).any() or (iou.amax(dim=1) < 0.9).any():
        raise RuntimeError(f"{what} found {len(boxes)} people, not the {len(people)} given; its time means nothing")


def found_keypoints(people: PersonLabels, poses: Poses) -> float:
    """Share of the labelled keypoints that came out within 2 pixels, on the person they were given to."""
    match = box_iou(torch.from_numpy(people.boxes), poses.boxes).argmax(dim=1)
    distance = (poses.keypoints[match] - torch.from_numpy(people.keypoints)).norm(dim=-1)
    return float((distance[torch.from_numpy(people.visibility > 0)] < 2).float().mean())


class ScriptedNetwork(nn.Module):
    """Runs a network, then answers with prepared outputs instead of its own."""

    def __init__(self, network: nn.Module, outputs: MultiPoseNetOutputs) -> None:
        super().__init__()
        self.network = network
        self.outputs = outputs

    def forward(self, images: Tensor) -> tuple[MultiPoseNetOutputs, dict[str, Tensor]]:
        self.network(images)
        return self.outputs, {}


class ScriptedKeypointRCNN:
    """torchvision's Keypoint R-CNN, made to detect given boxes.

    Everything of torchvision's runs unchanged, on as many proposals as it makes. Only the answer of its last layer for
    boxes is replaced: the largest proposals are persons whose offsets lead to the given boxes, the others background.
    From there torchvision goes on by itself: decoding, suppression, keypoint head, and its own search of the maps.
    """

    def __init__(self, model: KeypointRCNN) -> None:
        self.model = model
        self.proposals = torch.zeros(0, 4)
        self._boxes = torch.zeros(0, 4)
        model.roi_heads.register_forward_pre_hook(self._remember_proposals)
        model.roi_heads.box_predictor.register_forward_hook(self._answer)

    def __call__(self, image: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Detections in one image [3, H, W]; ``boxes`` [P, 4] in its pixels."""
        self._boxes = boxes
        return self.model([image])[0]

    def _remember_proposals(self, module: nn.Module, args: tuple) -> None:
        self.proposals = args[1][0]

    def _answer(self, module: nn.Module, args: tuple, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        logits, deltas = (torch.zeros_like(part) for part in output)
        logits[:, 0] = 10.0  # background
        sides = self.proposals[:, 2:] - self.proposals[:, :2]
        rows = sides.amin(dim=1).topk(len(self._boxes)).indices
        coder = self.model.roi_heads.box_coder
        logits[rows, 0], logits[rows, 1] = 0.0, 5.0  # class 1 is the person
        deltas[rows, 4:8] = coder.encode_single(self._boxes, self.proposals[rows])
        return logits, deltas
