"""People cut out of some pictures and pasted into others (Ghiasi et al., *Simple Copy-Paste*, CVPR 2021).

A data set of few pictures becomes one of many, and drawn pictures get photographed people. Whoever is pasted hides what
is behind, and the labels say so.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter

from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.person_masks import LEAST_AREA, box_pixels, tight_box
from multiposenet.data.transforms import uniform, warp_image, warp_masks
from multiposenet.data.whole_image import SampleSource
from multiposenet.geometry import CropWindow
from multiposenet.structures import PersonLabels, Sample

LEAST_KEYPOINTS = 5
"""Labelled ones of a person who is worth cutting out."""
LEAST_SIDE = 48
"""Pixels of the longer side of such a person's box."""
LARGEST_ZOOM = 2.0
"""Nobody is enlarged more: what has no detail teaches blur."""

_GUESS = 0.04
"""How far from what is visible of people a hidden keypoint may be placed, in sides of the person's box."""
_LEAST_SHARE = 0.1
"""Of a box's person pixels; with less of them visible nobody is left to label."""


@dataclass(frozen=True)
class CutOut:
    """A person without surroundings.

    Args:
        image: [h, w, 3] uint8, RGB.
        alpha: [h, w] float32 in [0, 1], the person's share of a pixel.
        keypoints: [K, 2] float32, pixels of ``image``.
        visibility: [K] uint8, as in ``PersonLabels``.
    """

    image: np.ndarray
    alpha: np.ndarray
    keypoints: np.ndarray
    visibility: np.ndarray


class CutOuts:
    """The people of a data set who can be cut out: with a segmentation, large enough, five keypoints labelled.

    Args:
        source: pictures and people; its files are read when somebody is asked for.

    Raises:
        ValueError: there is nobody.
    """

    def __init__(self, source: CocoKeypoints) -> None:
        self.source = source
        labels = source.all_labels()
        sides = (labels.boxes[:, 2:] - labels.boxes[:, :2]).max(axis=1, initial=0)
        keypoints = (labels.visibility > 0).sum(axis=1)
        good = ~labels.crowd & (sides >= LEAST_SIDE) & (keypoints >= LEAST_KEYPOINTS)
        first = np.searchsorted(labels.image_index, labels.image_index[good])
        people = zip(labels.image_index[good].tolist(), (np.flatnonzero(good) - first).tolist(), strict=True)
        self._people = [place for place in people if source.has_segment(*place)]
        if not self._people:
            raise ValueError(
                f"{source.root}: nobody to cut out; pasting needs people with a segmentation, {LEAST_KEYPOINTS} "
                f"labelled keypoints and a box of at least {LEAST_SIDE} pixels"
            )

    def __len__(self) -> int:
        return len(self._people)

    def cut(self, number: int, side: float, angle: float, mirror: bool) -> CutOut:
        """Cuts a person out.

        Args:
            number: which one.
            side: pixels that the longer side of the box shall have; less where that would enlarge too much.
            angle: degrees by which the person is turned clockwise.
            mirror: exchanges left and right, keypoints too.

        Raises:
            FileNotFoundError, PictureError, ValueError: as for :meth:`CocoKeypoints.image` and ``segment``.
        """
        picture, person = self._people[number]
        labels = self.source.labels(picture)
        x1, y1, x2, y2 = labels.boxes[person].tolist()
        scale = min(side / max(x2 - x1, y2 - y1), LARGEST_ZOOM)
        diagonal = math.ceil(math.hypot(x2 - x1, y2 - y1) * scale) + 4
        window = CropWindow.around(((x1 + x2) / 2, (y1 + y2) / 2), scale, (diagonal, diagonal), angle, mirror)
        image = warp_image(Image.fromarray(self.source.image(picture)), window)
        (mask,) = warp_masks([torch.from_numpy(self.source.segment(picture, person))], window)
        # Half a pixel of softness, or the outline would tell who is pasted.
        alpha = Image.fromarray(mask.numpy().astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(0.7))
        keypoints, visibility = window.keypoints_to_crop(labels.keypoints[person]), labels.visibility[person]
        if mirror:
            swap = self.source.skeleton.flip_indices
            keypoints, visibility = keypoints[swap], visibility[swap]
        return CutOut(np.asarray(image), np.asarray(alpha, np.float32) / 255, keypoints, visibility)


class PastedPeople:
    """A source into some of whose pictures people are pasted; all chance comes from torch's generator.

    Args:
        source: the pictures.
        people: who may be pasted, of the same skeleton.
        share: of the pictures that people are pasted into.
        most: so many people at most, at least one.
        sides: range of the longer side of a pasted person's box, in shorter sides of the picture.
        rotation: largest angle either way, degrees.

    Raises:
        ValueError: the skeletons differ, or ``share`` is no share.
    """

    def __init__(
        self,
        source: SampleSource,
        people: CutOuts,
        share: float = 0.5,
        most: int = 3,
        sides: tuple[float, float] = (0.25, 1.2),
        rotation: float = 15.0,
    ) -> None:
        if source.skeleton != people.source.skeleton:
            raise ValueError(
                f"people of skeleton {people.source.skeleton.name!r} cannot be pasted into pictures of skeleton "
                f"{source.skeleton.name!r}; both need the same keypoints"
            )
        if not 0 <= share <= 1:
            raise ValueError(f"share must be in [0, 1], got {share}")
        self.source, self.people, self.share, self.most = source, people, share, most
        self.sides, self.rotation = sides, rotation
        self.skeleton = source.skeleton

    def __len__(self) -> int:
        return len(self.source)

    def image_name(self, index: int) -> str:
        """File name of picture ``index``."""
        return self.source.image_name(index)

    def identity(self) -> dict:
        """That of the pictures, and of the people pasted into them."""
        return {**self.source.identity(), "pasted": self.people.source.identity(), "pasted_share": self.share}

    def __getitem__(self, index: int) -> Sample:
        """Picture ``index``; errors are those of the source, and of the people's files."""
        sample = self.source[index]
        if uniform(0, 1) >= self.share:
            return sample
        for _ in range(int(torch.randint(1, self.most + 1, ()))):
            sample = self._with_another(sample)
        return sample

    def _with_another(self, sample: Sample) -> Sample:
        height, width = sample.image.shape[:2]
        side = min(height, width) * math.exp(uniform(*map(math.log, self.sides)))
        person = self.people.cut(
            int(torch.randint(len(self.people), ())),
            side,
            uniform(-self.rotation, self.rotation),
            uniform(0, 1) < 0.5,
        )
        corner = (
            round(uniform(0.05, 0.95) * width - person.image.shape[1] / 2),
            round(uniform(0.05, 0.95) * height - person.image.shape[0] / 2),
        )
        return paste(sample, person, corner)


def paste(sample: Sample, person: CutOut, corner: tuple[int, int]) -> Sample:
    """Puts a person before everything in a picture.

    Keypoints behind the person become hidden, or unlabelled where nothing near them is visible any more; boxes shrink
    to what is visible; people of whom hardly anything is left are removed. Whoever would show no keypoint, or fewer
    than 16 pixels, is not pasted.

    Args:
        sample: the picture; it is not changed.
        person: the person.
        corner: (x, y) where the upper left pixel of the person's picture comes to lie; it may be outside.
    """
    size = sample.image.shape[:2]
    x, y = corner
    rows = slice(max(y, 0), min(y + person.alpha.shape[0], size[0]))
    columns = slice(max(x, 0), min(x + person.alpha.shape[1], size[1]))
    keypoints = person.keypoints + np.array(corner, np.float32)
    inside = ((keypoints >= -0.5) & (keypoints < np.array(size[::-1]) - 0.5)).all(axis=1)
    visibility = np.where(inside, person.visibility, 0).astype(np.uint8)
    if rows.start >= rows.stop or columns.start >= columns.stop or not visibility.any():
        return sample
    alpha = person.alpha[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    own = np.zeros(size, bool)
    own[rows, columns] = alpha >= 0.5
    area = int(own.sum())
    if area < LEAST_AREA:
        return sample

    image = sample.image.copy()
    patch = person.image[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    behind = image[rows, columns].astype(np.float32)
    image[rows, columns] = (behind + (patch - behind) * alpha[..., None] + 0.5).astype(np.uint8)

    before = sample.labels
    # Where nobody drew a person's shape it is the box that is covered or not.
    hidden, kept = _behind(before, own, sample.person_mask | sample.unknown)
    labels = PersonLabels(
        keypoints=np.concatenate([hidden.keypoints[kept], keypoints[None]]),
        visibility=np.concatenate([hidden.visibility[kept], visibility[None]]),
        boxes=np.concatenate([hidden.boxes[kept], tight_box(own)[None]]),
        areas=np.concatenate([hidden.areas[kept], np.array([area], np.float32)]),
        crowd=np.concatenate([before.crowd[kept], np.zeros(1, bool)]),
    )
    return dataclasses.replace(
        sample,
        image=image,
        labels=labels,
        person_mask=sample.person_mask | own,
        ignore_mask=sample.ignore_mask & ~own,
        unknown_mask=sample.unknown & ~own,
    )


def _behind(labels: PersonLabels, cover: np.ndarray, person: np.ndarray) -> tuple[PersonLabels, np.ndarray]:
    """The labels of people behind something, and which of them are still there.

    Args:
        labels: of P people.
        cover: [H, W] bool, what hides them.
        person: [H, W] bool, pixels of any person before.

    Returns:
        labels of the same P people, and [P] bool.
    """
    keypoints, visibility = labels.keypoints, labels.visibility.copy()
    boxes, areas, kept = labels.boxes.copy(), labels.areas.copy(), np.ones(len(labels), bool)
    height, width = cover.shape
    visible = person & ~cover
    for one, box in enumerate(labels.boxes):
        window = box_pixels(box, cover.shape)
        total = int(person[window].sum())
        if not (cover[window] & person[window]).any():
            continue
        left = visible[window]
        share = int(left.sum()) / total
        if share < _LEAST_SHARE:
            kept[one] = False
            continue
        areas[one] *= share
        if not labels.crowd[one]:
            rows, columns = window
            shown = tight_box(left) + np.float32([columns.start, rows.start] * 2)
            boxes[one] = np.clip(shown, box[[0, 1, 0, 1]], box[[2, 3, 2, 3]])
        reach = max(1, round(_GUESS * float((box[2:] - box[:2]).max())))
        for k in np.flatnonzero(visibility[one]):
            column, row = (int(value) for value in np.round(keypoints[one, k]))
            if not (0 <= column < width and 0 <= row < height) or not cover[row, column]:
                continue
            near = visible[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
            visibility[one, k] = 1 if near.any() else 0
    return dataclasses.replace(labels, visibility=visibility, boxes=boxes, areas=areas), kept

