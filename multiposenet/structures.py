"""The types that the parts of the package exchange: frozen dataclasses that check their own shapes.

``data``, ``models`` and ``decode`` do not know each other; they meet here. Letters in shapes: N pictures, P people,
K keypoints, A anchors, M peaks of one keypoint, H x W picture, h x w map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multiposenet.skeletons import Skeleton


def _check(owner: object, **expected: tuple[int | str | None, ...]) -> None:
    """Checks array shapes against patterns: a number must match, equal letters must agree, None is free."""
    letters: dict[str, tuple[int, str]] = {}
    for name, pattern in expected.items():
        if getattr(owner, name) is None:
            continue
        shape = tuple(getattr(owner, name).shape)
        if len(shape) != len(pattern):
            raise ValueError(f"{type(owner).__name__}.{name}: expected axes {pattern}, got shape {shape}")
        for axis, (want, got) in enumerate(zip(pattern, shape, strict=True)):
            if isinstance(want, str):
                want, source = letters.setdefault(want, (got, name))
            else:
                source = name
            if want is not None and want != got:
                raise ValueError(
                    f"{type(owner).__name__}.{name}: axis {axis} of shape {shape} must be {want} (from {source})"
                )


class TensorFields:
    """Device movement for dataclasses whose fields are tensors (or None, or plain values)."""

    def to(self, device: torch.device | str, non_blocking: bool = False):
        """The same structure with every tensor on ``device``."""
        return self._each(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self):
        """The same structure in memory that a GPU can fetch from while the CPU goes on."""
        return self._each(lambda value: value.pin_memory())

    def pictures(self, rows: slice | Tensor):
        """The same structure of some of a batch's pictures, the first axis of every tensor."""
        return self._each(lambda value: value.pictures(rows) if isinstance(value, TensorFields) else value[rows])

    def _each(self, change: Callable[[Any], Any]):
        """The same structure with every tensor, and every structure of tensors, changed; in tuples too."""

        def changed(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(changed, value))
            return change(value) if isinstance(value, (Tensor, TensorFields)) else value

        return dataclasses.replace(self, **{f.name: changed(getattr(self, f.name)) for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class PersonLabels:
    """What annotators said about the people of one picture (NumPy; picture pixels).

    Args:
        keypoints: [P, K, 2] float32; meaningless where visibility is 0.
        visibility: [P, K] uint8; 0 not labelled, 1 labelled but hidden, 2 visible (COCO).
        boxes: [P, 4] float32, xyxy.
        areas: [P] float32, segment area in pixels.
        crowd: [P] bool; the entry stands for a group of people (COCO's ``iscrowd``).
    """

    keypoints: np.ndarray
    visibility: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray

    def __post_init__(self) -> None:
        _check(
            self, keypoints=("P", "K", 2), visibility=("P", "K"), boxes=("P", 4), areas=("P",), crowd=("P",)
        )

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls, num_keypoints: int) -> PersonLabels:
        """The labels of a picture with nobody in it."""
        return cls(
            keypoints=np.zeros((0, num_keypoints, 2), np.float32),
            visibility=np.zeros((0, num_keypoints), np.uint8),
            boxes=np.zeros((0, 4), np.float32),
            areas=np.zeros(0, np.float32),
            crowd=np.zeros(0, bool),
        )


@dataclass(frozen=True)
class PersonBoxes:
    """Where the people of one picture are, before their poses are known (NumPy; picture pixels).

    Args:
        boxes: [P, 4] float32, xyxy.
        scores: [P] float32 in [0, 1]; 1 for boxes that are given.
    """

    boxes: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        _check(self, boxes=("P", 4), scores=("P",))

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def given(cls, boxes: PersonBoxes | np.ndarray | Tensor) -> PersonBoxes:
        """Boxes [P, 4] that somebody is sure of, or what is such an object already; ValueError if not finite."""
        if isinstance(boxes, PersonBoxes):
            return boxes
        array = np.asarray(boxes, np.float32).reshape(-1, 4)
        if not np.isfinite(array).all():
            raise ValueError(f"boxes must be finite numbers, got {array[~np.isfinite(array).all(1)][0].tolist()}")
        return cls(array, np.ones(len(array), np.float32))


@dataclass(frozen=True)
class Sample:
    """One annotated picture as a dataset gives it, before any augmentation (NumPy; picture pixels).

    Args:
        image: [H, W, 3] uint8, RGB.
        image_id: COCO image id.
        name: file name (or a made-up one) for messages to the user.
        labels: the people.
        person_mask: [H, W] bool; pixels that belong to any person, crowds included.
        ignore_mask: [H, W] bool; people whose keypoints nobody labelled (crowds, people without keypoints):
            unlabelled, not background. Pixels of people *with* keypoints are never ignored.
        unknown_mask: [H, W] bool; pixels of which nobody knows whether they are person (boxes of people whose shape
            nobody drew): the person-mask channel learns nothing there. None: the person mask is complete.
    """

    image: np.ndarray
    image_id: int
    name: str
    labels: PersonLabels
    person_mask: np.ndarray
    ignore_mask: np.ndarray
    unknown_mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check(self, image=("H", "W", 3), person_mask=("H", "W"), ignore_mask=("H", "W"), unknown_mask=("H", "W"))

    @property
    def unknown(self) -> np.ndarray:
        """``unknown_mask``, all False where there is none."""
        return np.zeros_like(self.ignore_mask) if self.unknown_mask is None else self.unknown_mask


@dataclass(frozen=True)
class PoseTargets(TensorFields):
    """Labels of a batch as the losses take them (tensors; pixels of the batch's images).

    Args:
        keypoints: [N, P, K, 2] float; rows beyond a picture's people are padding.
        visibility: [N, P, K] uint8; 0 not labelled or outside the image, 1 hidden, 2 visible; 0 in padding.
        boxes: [N, P, 4] float, xyxy, clipped to the image; zeros in padding.
        valid: [N, P] bool; True for a single person whose box the detector should find (not padding, not a crowd).
        person_mask: [N, H / stride, W / stride] float in [0, 1]; share of each cell that is person.
        ignore_mask: [N, H / stride, W / stride] bool; cells that enter no loss as background.
        stride: image pixels per mask cell.
        unknown_mask: like ignore_mask, for the person-mask channel alone: cells of which nobody knows whether they are
            person. None: the person mask is complete.
    """

    keypoints: Tensor
    visibility: Tensor
    boxes: Tensor
    valid: Tensor
    person_mask: Tensor
    ignore_mask: Tensor
    stride: int = 4
    unknown_mask: Tensor | None = None

    def __post_init__(self) -> None:
        _check(
            self,
            keypoints=("N", "P", "K", 2),
            visibility=("N", "P", "K"),
            boxes=("N", "P", 4),
            valid=("N", "P"),
            person_mask=("N", "h", "w"),
            ignore_mask=("N", "h", "w"),
            unknown_mask=("N", "h", "w"),
        )

    @property
    def unknown(self) -> Tensor:
        """``unknown_mask``, all False where there is none."""
        return torch.zeros_like(self.ignore_mask) if self.unknown_mask is None else self.unknown_mask


@dataclass(frozen=True)
class Batch(TensorFields):
    """What a loader hands to the training loop.

    Pixels that are to be worked on where the network runs (``data.pending``) are finished by ``to``: whatever comes out
    of that has the types below.

    Args:
        images: [N, 3, H, W] float in [0, 1], RGB (or whatever input the model of the method takes).
        targets: labels of the same pictures.
        names: [N] file names, for messages.
    """

    images: Tensor
    targets: object
    names: tuple[str, ...]


@dataclass(frozen=True)
class MultiPoseNetOutputs(TensorFields):
    """Raw outputs of the shared network.

    Args:
        heatmaps: [N, K + 1, h, w]; K keypoint maps with peak height 1 and the person mask, all linear (not clamped);
            [N, K, h, w] of a network built without a person mask.
        box_logits: [N, A], person logit of every anchor, ordered (level, y, x, anchor).
        box_deltas: [N, A, 4], box offsets to the anchors.
        image_size: (H, W) of the images that went in.
        features: [N, F, h, w], what the heatmaps are predicted from.
        stages: the backbone's C2..C5, each [N, C_l, h_l, w_l], for a network that looks at people again.
        pyramid: the keypoint subnet's levels K2..K5, each [N, C, h_l, w_l], for the same.

    A field is None when its part of the network was not asked for.
    """

    heatmaps: Tensor | None
    box_logits: Tensor | None
    box_deltas: Tensor | None
    image_size: tuple[int, int]
    features: Tensor | None = None
    stages: tuple[Tensor, ...] | None = None
    pyramid: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        _check(
            self,
            heatmaps=("N", None, "h", "w"),
            box_logits=("N", "A"),
            box_deltas=("N", "A", 4),
            features=("N", None, "h", "w"),
        )


@dataclass(frozen=True)
class CropTargets(TensorFields):
    """Labels of a batch of crops with one person each, as the losses take them (pixels of the crops).

    Args:
        keypoints: [N, K, 2] float; meaningless where visibility is 0.
        visibility: [N, K] uint8; 0 not labelled or outside the crop, 1 hidden, 2 visible.
    """

    keypoints: Tensor
    visibility: Tensor

    def __post_init__(self) -> None:
        _check(self, keypoints=("N", "K", 2), visibility=("N", "K"))


@dataclass(frozen=True)
class CropOutputs(TensorFields):
    """Raw outputs of a network that looks at one person's crop.

    Args:
        stage_heatmaps: ``stage_heatmaps[i][j]`` [N, K, h, w]; stage i, level j from coarse to fine, all of one size.
        image_size: (H, W) of the crops that went in.
        peak_height: what a peak's height is meant to be.
    """

    stage_heatmaps: tuple[tuple[Tensor, ...], ...]
    image_size: tuple[int, int]
    peak_height: float = 1.0

    @property
    def heatmaps(self) -> Tensor:
        """[N, K, h, w]; the last stage's finest level, the network's answer."""
        return self.stage_heatmaps[-1][-1]

    @property
    def unit_heatmaps(self) -> Tensor:
        """The answer with peaks of height 1, in single precision."""
        return self.heatmaps.float() / self.peak_height


@dataclass(frozen=True)
class CropDistributions(CropOutputs):
    """Raw outputs that are logits: a softmax over a map's cells says where its keypoint is.

    Args:
        peak_height: the largest share of a cell that a sure answer has, by the width of the labels.
    """

    @property
    def unit_heatmaps(self) -> Tensor:
        """The answer's distributions, such that a sure one has a peak of height 1; in single precision."""
        return self.heatmaps.float().flatten(2).softmax(-1).view_as(self.heatmaps) / self.peak_height


@dataclass(frozen=True)
class Detections(TensorFields):
    """Person boxes of a batch in image pixels, best first, padded to a common number of slots.

    Args:
        boxes: [N, P, 4] xyxy.
        scores: [N, P] in [0, 1]; 0 in empty slots.
        valid: [N, P] bool.
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        _check(self, boxes=("N", "P", 4), scores=("N", "P"), valid=("N", "P"))


@dataclass(frozen=True)
class RoiOutputs(TensorFields):
    """Raw outputs of a network that finds people and looks for keypoints in their boxes.

    Args:
        heatmaps: [R, K, h, w] logits; a softmax over a map's cells says where the keypoint is. One row for every valid
            slot of ``people``, picture after picture.
        people: the boxes that the maps were made for.
        image_size: (H, W) of the images that went in.
    """

    heatmaps: Tensor
    people: Detections
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        _check(self, heatmaps=("R", "K", None, None))


@dataclass(frozen=True)
class Peaks(TensorFields):
    """Local maxima of keypoint heatmaps before they belong to anyone, strongest first.

    Args:
        xy: [N, K, M, 2], in heatmap cells (sub-cell) or image pixels, as the function that made them says.
        scores: [N, K, M] in [0, 1]; 0 in empty slots.
        valid: [N, K, M] bool.
        evidence: [N, K, M, K], what the maps of all keypoints hold where the peak is; None for peaks of no maps.
        appearance: [N, K, M, F], what those maps were predicted from there; None where nobody asked.
        seen_by: [N, K, M, P], the chance that a box's person has this keypoint there by the person's own maps, for
            every slot of the boxes; None where nobody looked.
    """

    xy: Tensor
    scores: Tensor
    valid: Tensor
    evidence: Tensor | None = None
    appearance: Tensor | None = None
    seen_by: Tensor | None = None

    def __post_init__(self) -> None:
        slots = ("N", "K", "M")
        told = {"evidence": (*slots, "K"), "appearance": (*slots, None), "seen_by": (*slots, None)}
        _check(self, xy=(*slots, 2), scores=slots, valid=slots, **told)


@dataclass(frozen=True)
class Poses(TensorFields):
    """The people found in one picture, best first, in that picture's pixels.

    Args:
        keypoints: [P, K, 2] float, (x, y) pixel indices.
        keypoint_scores: [P, K] in [0, 1].
        boxes: [P, 4] float, xyxy.
        scores: [P] in [0, 1], descending.
        skeleton: whose K keypoints these are.
        image_size: (height, width) of the picture, or None when unknown.
    """

    keypoints: Tensor
    keypoint_scores: Tensor
    boxes: Tensor
    scores: Tensor
    skeleton: Skeleton
    image_size: tuple[int, int] | None = field(default=None)

    def __post_init__(self) -> None:
        _check(
            self, keypoints=("P", "K", 2), keypoint_scores=("P", "K"), boxes=("P", 4), scores=("P",)
        )
        if self.keypoints.shape[1] != self.skeleton.num_keypoints:
            raise ValueError(
                f"Poses.keypoints has {self.keypoints.shape[1]} keypoints, "
                f"skeleton {self.skeleton.name!r} has {self.skeleton.num_keypoints}"
            )
        if len(self.scores) > 1 and not bool((self.scores[:-1] >= self.scores[1:]).all()):
            raise ValueError("Poses.scores must be descending; sort people by score first")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | Tensor) -> Poses:
        """A subset of the people; an integer keeps the person axis (one person)."""
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"person {index} of {len(self)}")
            index = slice(index, index + 1 or None)
        return dataclasses.replace(
            self,
            keypoints=self.keypoints[index],
            keypoint_scores=self.keypoint_scores[index],
            boxes=self.boxes[index],
            scores=self.scores[index],
        )

    def __iter__(self) -> Iterator[Poses]:
        return (self[index] for index in range(len(self)))

    @classmethod
    def empty(cls, skeleton: Skeleton, image_size: tuple[int, int] | None = None) -> Poses:
        """Nobody in the picture."""
        k = skeleton.num_keypoints
        return cls(torch.zeros(0, k, 2), torch.zeros(0, k), torch.zeros(0, 4), torch.zeros(0), skeleton, image_size)

    def to_dict(self) -> dict:
        """Plain numbers, ready for JSON: a list of people with box (xyxy), score and named keypoints [x, y, score]."""
        people = []
        columns = (self.keypoints, self.keypoint_scores, self.boxes, self.scores)
        for xy, keypoint_scores, box, score in zip(*(column.tolist() for column in columns), strict=True):
            named = {
                name: [x, y, s] for name, (x, y), s in zip(self.skeleton.keypoints, xy, keypoint_scores, strict=True)
            }
            people.append({"score": score, "box": box, "keypoints": named})
        return {"image_size": list(self.image_size) if self.image_size else None, "people": people}

    def to_coco_results(self, image_id: int, category_id: int = 1) -> list[dict]:
        """COCO keypoint results, one dict a person: flat [x, y, keypoint score] x K.

        No ``bbox`` key: with it pycocotools would compute areas from the boxes and change AP-M and AP-L.
        """
        rows = torch.cat([self.keypoints, self.keypoint_scores[..., None]], dim=-1).flatten(1).tolist()
        return [
            {"image_id": int(image_id), "category_id": int(category_id), "keypoints": row, "score": score}
            for row, score in zip(rows, self.scores.tolist(), strict=True)
        ]
