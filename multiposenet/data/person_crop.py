"""Crops of single people with their keypoints: what a top-down network trains on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from multiposenet.crops import CropRule
from multiposenet.data.pending import PendingCrop, stack_images
from multiposenet.data.picture_cache import CachedSamples
from multiposenet.data.transforms import Picture, RandomColours, uniform, warp_image
from multiposenet.data.whole_image import SampleSource
from multiposenet.geometry import CropWindow
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Batch, CropTargets, PersonLabels

LEGS = ("hip", "knee", "ankle", "heel", "toe", "foot", "pelvis")


@dataclass(frozen=True)
class PersonAugmentation:
    """How a person's crop is varied; the defaults are those of the published code for COCO.

    In this order: the box is extended, perhaps replaced by the box of half the body, scaled, turned, mirrored.

    Args:
        extension: factors (x, y) by which every box is made larger.
        further_extension: largest further growth (x, y), a share; uniform.
        scale: range of a last random factor of the region; below 1 the person gets larger.
        rotation: largest angle either way, degrees, and with what probability there is one.
        rotation_probability: see ``rotation``.
        flip: probability of mirroring.
        half_body: probability that only the upper or the lower half is shown.
        half_body_over: only people with more labelled keypoints than that are halved. The half that the dice choose is
            shown if it has more than three of them, else the other, or the upper one if it has at least three.
        half_body_extension: largest growth (x, y) of the half's box, a share; uniform.
        upper: probability that the half is the upper one, where both have enough keypoints. The published code means a
            half and has 0.691: it draws a normal where a uniform number was meant.
        colours: random colours too, which the published code does not have.
    """

    extension: tuple[float, float] = (1.05, 1.05)
    further_extension: tuple[float, float] = (0.6, 0.8)
    scale: tuple[float, float] = (0.6, 1.0)
    rotation: float = 45.0
    rotation_probability: float = 0.5
    flip: float = 0.5
    half_body: float = 0.3
    half_body_over: int = 3
    half_body_extension: tuple[float, float] = (0.6, 0.8)
    upper: float = 0.5
    colours: bool = False


def upper_body(skeleton: Skeleton) -> list[bool]:
    """[K], which keypoints are of the upper half, for half-body crops.

    COCO's hips count as upper, as in the published code; elsewhere all that belongs to the legs, hips too, is lower.
    """
    legs = tuple(name for name in LEGS if not (skeleton.name == "person" and name == "hip"))
    return [not name.endswith(legs) for name in skeleton.keypoints]


class PersonCropDataset(Dataset):
    """One person a crop.

    Of data on disk every single person with a labelled keypoint is an example. Of pictures that are drawn when they
    are asked for nobody knows beforehand who is in them: there every picture is an example, with one of its people by
    chance, or with nobody.

    Args:
        source: gives the samples.
        rule: how a crop is cut.
        skeleton: whose keypoints they are.
        augmentation: None for crops as they are in use.
        picture: what crops are cut from, see ``transforms.example_from_sample``.
    """

    def __init__(
        self,
        source: SampleSource,
        rule: CropRule,
        skeleton: Skeleton,
        augmentation: PersonAugmentation | None = None,
        picture: Callable[[np.ndarray], Picture] = Image.fromarray,
    ) -> None:
        if source.skeleton != skeleton:
            raise ValueError(f"crops are for skeleton {skeleton.name!r}, the source has {source.skeleton.name!r}")
        self.source, self.rule, self.skeleton, self.augmentation = source, rule, skeleton, augmentation
        self.picture = picture
        self._people = labelled_people(source)
        self._upper = np.array(upper_body(skeleton))
        self._colours = RandomColours() if augmentation is not None and augmentation.colours else None

    def __len__(self) -> int:
        return len(self.source) if self._people is None else len(self._people)

    def __getitem__(self, index: int) -> dict:
        """``image`` [3, h, w] uint8, ``keypoints`` [K, 2] crop pixels, ``visibility`` [K] and ``name``.

        Of a picture that is pending ``image`` is a ``PendingCrop``.

        Raises:
            RuntimeError: the sample is broken; the message names the picture, the cause is the original error.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        picture, person = (index, None) if self._people is None else self._people[index].tolist()
        try:
            return self._example(picture, person)
        except Exception as error:
            name = self.source.image_name(picture)
            raise RuntimeError(f"picture {picture} ({name}): {type(error).__name__}: {error}") from error

    def _example(self, picture: int, person: int | None) -> dict:
        image, labels = self._look(picture)
        if person is None:
            candidates = np.flatnonzero((labels.visibility > 0).any(1) & ~labels.crowd)
            if not len(candidates):
                labels = _nobody(image.shape[:2], self.skeleton)
                candidates = np.zeros(1, int)
            person = int(candidates[int(torch.randint(len(candidates), ()))])
        window, mirrored = self.window(labels, person)
        image = warp_image(self.picture(image), window, self.rule.border, self.rule.smooth)
        image = image if self._colours is None else self._colours(image)
        if not isinstance(image, PendingCrop):
            image = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        keypoints = window.keypoints_to_crop(torch.from_numpy(labels.keypoints[person]))
        visibility = torch.from_numpy(labels.visibility[person])
        if mirrored:
            keypoints, visibility = keypoints[self.skeleton.flip_indices], visibility[self.skeleton.flip_indices]
        height, width = window.size
        inside = ((keypoints >= -0.5) & (keypoints < torch.tensor([width - 0.5, height - 0.5]))).all(-1)
        return {
            "image": image,
            "keypoints": keypoints,
            "visibility": torch.where(inside, visibility, 0).to(torch.uint8),
            "name": self.source.image_name(picture),
        }

    def _look(self, picture: int) -> tuple[np.ndarray, PersonLabels]:
        if hasattr(self.source, "image"):  # a crop needs no masks, and drawing them takes longer than cutting it
            return self.source.image(picture), self.source.labels(picture)
        sample = self.source[picture]
        return sample.image, sample.labels

    def window(self, labels: PersonLabels, person: int) -> tuple[CropWindow, bool]:
        """The window of one person, drawn anew at each call, and whether it mirrors."""
        how = self.augmentation
        if how is None:
            matrix = self.rule.windows(torch.from_numpy(labels.boxes[person : person + 1])).matrices[0]
            return CropWindow(matrix.numpy(), self.rule.size), False
        box = torch.from_numpy(labels.boxes[person]).double()
        growth = [factor * (1 + uniform(0, most)) for factor, most in _pairs(how.extension, how.further_extension)]
        half = self._half(labels, person)
        if half is not None:
            box = half
            growth = [1 + uniform(0, most) for most in how.half_body_extension]
        centre = (box[2:] + box[:2]) / 2
        region = self.rule.region_widths((box[2:] - box[:2]) * box.new_tensor(growth)) * uniform(*how.scale)
        turned = uniform(0, 1) < how.rotation_probability
        angle = uniform(-how.rotation, how.rotation) if turned else 0.0
        mirror = uniform(0, 1) < how.flip
        return self.rule.window(tuple(centre.tolist()), float(region), angle, mirror), mirror

    def _half(self, labels: PersonLabels, person: int) -> Tensor | None:
        """The box [4] around half of a person's keypoints, when the dice say so and there are enough of them."""
        how, labelled = self.augmentation, labels.visibility[person] > 0
        if labelled.sum() <= how.half_body_over or uniform(0, 1) >= how.half_body:
            return None
        halves = [labelled & self._upper, labelled & ~self._upper]
        upper = halves[0]
        if uniform(0, 1) >= how.upper:
            halves.reverse()
        chosen = next((half for half in halves if half.sum() > 3), upper)
        if chosen.sum() < 3:
            return None
        points = torch.from_numpy(labels.keypoints[person][chosen]).double() + 0.5
        return torch.cat([points.amin(0), points.amax(0)])


def labelled_people(source: SampleSource) -> np.ndarray | None:
    """[M, 2] picture and row of every single person with a labelled keypoint; None when only drawing could tell."""
    if isinstance(source, CachedSamples):
        source = source.source
    if not hasattr(source, "all_labels"):
        return None
    labels = source.all_labels()
    rows = np.flatnonzero((labels.visibility > 0).any(1) & ~labels.crowd)
    pictures = labels.image_index[rows]
    return np.stack([pictures, rows - np.searchsorted(labels.image_index, pictures)], axis=1)


def collate_crops(examples: Sequence[dict]) -> Batch:
    """Stacks examples of :class:`PersonCropDataset`; images become float32 in [0, 1], not normalised."""
    if not examples:
        raise ValueError("examples is empty; a batch needs at least one")
    keypoints, visibility = (torch.stack([example[key] for example in examples]) for key in ("keypoints", "visibility"))
    return Batch(
        images=stack_images([example["image"] for example in examples]),
        targets=CropTargets(keypoints, visibility),
        names=tuple(example["name"] for example in examples),
    )


def _nobody(size: tuple[int, int], skeleton: Skeleton) -> PersonLabels:
    """Somebody as large as the picture without a labelled keypoint: a crop that teaches nothing."""
    k = skeleton.num_keypoints
    return PersonLabels(
        np.zeros((1, k, 2), np.float32),
        np.zeros((1, k), np.uint8),
        np.array([[0, 0, size[1], size[0]]], np.float32),
        np.zeros(1, np.float32),
        np.zeros(1, bool),
    )


def _pairs(one: Sequence[float], other: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(one, other, strict=True))
