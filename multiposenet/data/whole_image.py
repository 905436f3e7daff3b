"""Batches of whole pictures (or large crops) with everybody in them: what a bottom-up network trains on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from torchvision.transforms import v2

from multiposenet.data.pending import PendingCrop, PendingTargets, stack_images
from multiposenet.data.transforms import MASKS, OWN_TRANSFORMS, Picture, example_from_sample
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Batch, PoseTargets, Sample


class SampleSource(Protocol):
    """What a dataset of samples offers, such as :class:`multiposenet.data.coco.CocoKeypoints`."""

    skeleton: Skeleton

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def image_name(self, index: int) -> str: ...


class WholeImageDataset(Dataset):
    """Samples of a source, transformed to one size, with masks in the cells of the network's heatmaps.

    Args:
        source: gives the samples.
        transform: takes and returns an example (see :func:`multiposenet.data.transforms.example_from_sample`); all its
            results have one size, a multiple of ``stride``.
        stride: image pixels per mask cell.
        picture: what the transform is given of a picture, see ``example_from_sample``.

    Raises:
        ValueError: the transform is for another skeleton, or would change pixels that are to be worked on later.
    """

    def __init__(
        self,
        source: SampleSource,
        transform: Callable[[dict], dict],
        stride: int = 4,
        picture: Callable[[np.ndarray], Picture] = Image.fromarray,
    ) -> None:
        parts = _parts(transform)
        own = [part.skeleton for part in parts if hasattr(part, "skeleton")]
        if any(skeleton != source.skeleton for skeleton in own):
            raise ValueError(
                f"the transform is made for skeleton {own[0].name!r}, the source has {source.skeleton.name!r}; "
                "give the transform skeleton=source.skeleton"
            )
        foreign = [part for part in parts if not isinstance(part, (*OWN_TRANSFORMS, v2.Compose))]
        if foreign and picture is not Image.fromarray:
            raise ValueError(
                f"{foreign[0]} would change pixels that are to be changed on the device; leave it out, or give "
                "picture=Image.fromarray"
            )
        self.source = source
        self.transform = transform
        self.stride = stride
        self.picture = picture

    @property
    def skeleton(self) -> Skeleton:
        """Whose keypoints they are."""
        return self.source.skeleton

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        """One example: ``image`` [3, H, W] uint8 and the fields of ``PoseTargets`` for this picture.

        Of a picture that is pending: ``image`` a ``PendingCrop``, and ``masks`` instead of the three.

        Raises:
            RuntimeError: the sample is broken; the message names the picture, the cause is the original error.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        try:
            example = self.transform(example_from_sample(self.source[index], self.picture))
            return _finish(example, self.stride)
        except Exception as error:
            name = self.source.image_name(index)
            raise RuntimeError(f"picture {index} ({name}): {type(error).__name__}: {error}") from error


def collate(examples: Sequence[dict]) -> Batch:
    """Stacks examples of :class:`WholeImageDataset` into a batch with ``PoseTargets``.

    People are padded to the batch's largest number, at least one slot. ``valid`` is False in padding, for crowds, and
    for people of whom too little is left in the crop. Images become float32 in [0, 1], not normalised.
    Those that are pending become that when the batch is moved to its device.

    Raises:
        ValueError: there are no examples, or their images differ in size.
    """
    if not examples:
        raise ValueError("examples is empty; a batch needs at least one")
    sizes = {tuple(example["image"].shape) for example in examples}
    if len(sizes) > 1:
        raise ValueError(
            f"all images of a batch must have one shape, got {sorted(sizes)} for "
            f"{[example['name'] for example in examples]}; end the transform with one that gives a fixed size"
        )
    slots = max(1, *(len(example["boxes"]) for example in examples))

    def padded(key: str) -> Tensor:
        first = examples[0][key]
        rows = first.new_zeros((len(examples), slots, *first.shape[1:]))
        for row, example in zip(rows, examples, strict=True):
            row[: len(example[key])] = example[key]
        return rows

    def stacked(key: str) -> Tensor:
        return torch.stack([example[key] for example in examples])

    stride = examples[0]["stride"]
    people = {key: padded(key) for key in ("keypoints", "visibility", "boxes", "valid")}
    if "masks" in examples[0]:
        targets = PendingTargets.of([example["masks"] for example in examples], stride, **people)
    else:
        targets = PoseTargets(**people, **{key: stacked(key) for key in MASKS}, stride=stride)
    images = stack_images([example["image"] for example in examples])
    return Batch(images, targets, names=tuple(example["name"] for example in examples))


def _finish(example: dict, stride: int) -> dict:
    image = example["image"]
    if not isinstance(image, PendingCrop):
        image = v2.functional.to_image(image).as_subclass(Tensor).contiguous()
        if image.dtype != torch.uint8:
            raise ValueError(f"the transformed image must be uint8 (0 to 255), got {image.dtype}; scaling comes later")
    if image.shape[1] % stride or image.shape[2] % stride:
        raise ValueError(
            f"the transformed image is {image.shape[1]}x{image.shape[2]}, sides must be multiples of stride {stride}"
        )
    return {
        "image": image,
        **({"masks": example["masks"]} if "masks" in example else _cells(example, stride)),
        **{key: example[key] for key in ("keypoints", "visibility", "boxes", "valid", "name", "image_id")},
        "stride": stride,
    }


def _cells(example: dict, stride: int) -> dict:
    """The three masks in cells: shares of person, and flags."""
    person, ignore, unknown = (_cell_shares(example[key].as_subclass(Tensor), stride) for key in MASKS)
    return dict(zip(MASKS, (person, ignore >= 0.5, unknown >= 0.5), strict=True))


def _cell_shares(mask: Tensor, stride: int) -> Tensor:
    """Share of True pixels in every cell: [H, W] bool to [H / stride, W / stride] float."""
    if not mask.any():  # most pictures have nothing to ignore
        return torch.zeros(mask.shape[0] // stride, mask.shape[1] // stride)
    return functional.avg_pool2d(mask[None].float(), stride)[0]


def _parts(transform: Callable) -> list:
    """The transform and, of a composition, all that it is made of."""
    inner = getattr(transform, "transforms", [])
    return [transform, *(part for item in inner for part in _parts(item))]
