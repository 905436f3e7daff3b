"""Pixel work that is decided in a loader's process and done where the network runs: augmentation on the device.

A transform that is given a :class:`PendingImage` instead of a PIL image makes the same decisions by the same dice, but
changes no pixel: it notes the window and the colours. Of a picture only what its window shows leaves the process, as
bytes, averaged over whole blocks where it will be shrunk. Moving a batch to its device (``Batch.to``) then samples
every window at once, changes colours and counts the masks' cells there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from multiposenet.crops import unit_matrices
from multiposenet.data.colours import ColourChange, ColourChanges
from multiposenet.data.person_masks import box_pixels
from multiposenet.geometry import CropWindow
from multiposenet.structures import PoseTargets, TensorFields

_EDGE = 1e-6
"""A centre that lies on the edge between two pixels is the right or lower one's, in spite of single precision."""


@dataclass(frozen=True)
class PendingImage:
    """A decoded picture before it is put into a window.

    Args:
        pixels: [H, W, 3] uint8, RGB.
    """

    pixels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as PIL has it."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def warped(self, window: CropWindow, fill: tuple[int, int, int], smooth: bool = True) -> PendingCrop:
        """The picture in a window, see :func:`multiposenet.data.transforms.warp_image`."""
        factor = window.whole_shrinking if smooth else 1
        rows, columns, matrix = _shown(self.pixels.shape[:2], window, factor)
        pixels = self.pixels[rows, columns]
        if factor > 1:
            pixels = np.asarray(Image.fromarray(pixels).reduce(factor))
        return PendingCrop(Patch(pixels, matrix, window.size), fill)


PICTURES = {"loader": Image.fromarray, "device": PendingImage}
"""By where pixels are worked on: (picture [H, W, 3] uint8) -> the picture as a transform is given it."""


@dataclass(frozen=True)
class Patch:
    """What a window shows of a picture.

    Args:
        pixels: [h, w, C] uint8.
        matrix: [2, 3] float64, from continuous crop coordinates (x, y, 1) to continuous coordinates of the patch.
        size: (height, width) of the crop.
    """

    pixels: np.ndarray
    matrix: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class PendingCrop:
    """A picture of which it is decided what it will look like.

    Args:
        patch: the pixels.
        fill: RGB of crop pixels whose centre lies outside the picture.
        change: of the crop's colours; None for none.
    """

    patch: Patch
    fill: tuple[int, int, int]
    change: ColourChange | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, height, width) of the crop, as of the tensor that it will be."""
        return 3, *self.patch.size


@dataclass(frozen=True)
class PendingMasks:
    """Person, ignore and unknown mask of one picture, not in their window yet.

    Args:
        patch: bit by bit the masks, one byte a pixel.
        ignored: [B, 4] int, (left, top, right, bottom) crop pixels of boxes to be ignored.
        spared: [S, 4] int, of boxes that are not, even where they overlap those.
    """

    patch: Patch
    ignored: Tensor
    spared: Tensor

    @classmethod
    def of(cls, masks: Sequence[Tensor], window: CropWindow, ignored: Tensor, spared: Tensor) -> PendingMasks:
        """The three masks [H, W] bool of a picture, and boxes [B, 4], [S, 4] in crop pixels."""
        rows, columns, matrix = _shown(tuple(masks[0].shape), window)
        bits = sum(mask[rows, columns].numpy().view(np.uint8) << bit for bit, mask in enumerate(masks))
        edges = [_whole_pixels(boxes if len(ignored) else boxes[:0], window.size) for boxes in (ignored, spared)]
        return cls(Patch(bits[..., None], matrix, window.size), *edges)


def _shown(
    picture_size: tuple[int, int], window: CropWindow, factor: int = 1
) -> tuple[slice, slice, np.ndarray]:
    """What a window shows of a picture whose blocks of factor x factor pixels become one.

    Returns:
        rows and columns, with all that bilinear sampling looks at; they begin at a whole block, and at least one block
        is there. And the map [2, 3] from continuous crop coordinates to those of the blocks in these rows and columns.
    """
    matrix = window.inverse_matrix() / factor
    height, width = window.size
    corners = matrix @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    blocks = -(-np.array(picture_size[::-1]) // factor)
    low = (np.floor(corners.min(axis=1)).astype(int) - 1).clip(0, blocks - 1)
    high = (np.ceil(corners.max(axis=1)).astype(int) + 1).clip(low + 1, blocks)
    matrix[:, 2] -= low
    columns, rows = (slice(int(start), int(stop)) for start, stop in zip(low * factor, high * factor, strict=True))
    return rows, columns, matrix


def _whole_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, 4] int, the pixels that boxes [B, 4] touch, from (left, top) to before (right, bottom)."""
    touched = [box_pixels(box.numpy(), size) for box in boxes]
    edges = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in touched]
    return torch.tensor(edges, dtype=torch.int64).view(-1, 4)


@dataclass(frozen=True)
class Patches(TensorFields):
    """Patches of a batch, on canvases of one size.

    Args:
        canvas: [N, h, w, C] uint8, each patch upper left; zeros beyond.
        places: [N, 2, 5] float, for x and y: three numbers of the map from crop to canvas, and the centres of the
            patch's first and last pixel. All in ``grid_sample``'s unit, from -1 to 1 over a crop or a canvas.
        size: (height, width) of the crops.
    """

    canvas: Tensor
    places: Tensor
    size: tuple[int, int]

    @classmethod
    def of(cls, patches: Sequence[Patch]) -> Patches:
        """Patches whose crops are of one size."""
        shapes = np.array([patch.pixels.shape for patch in patches])
        height, width, channels = shapes.max(axis=0).tolist()
        canvas = torch.zeros(len(patches), height, width, channels, dtype=torch.uint8)
        for pixels, patch in zip(canvas.numpy(), patches, strict=True):
            pixels[: patch.pixels.shape[0], : patch.pixels.shape[1]] = patch.pixels
        size = patches[0].size
        matrices = unit_matrices(torch.from_numpy(np.stack([p.matrix for p in patches])), size, (height, width))
        half = torch.tensor([1 / width, 1 / height])
        last = half * (2 * torch.from_numpy(shapes[:, [1, 0]]) - 1) - 1
        return cls(canvas, torch.cat([matrices, torch.stack([(half - 1).expand_as(last), last], 2)], 2), size)

    def sampled(self, mode: str = "bilinear") -> tuple[Tensor, Tensor]:
        """Every patch in its crop, and where the crop shows one; pixels at a patch's edge go on outwards.

        Args:
            mode: ``"bilinear"`` or ``"nearest"``.

        Returns:
            [N, C, H, W] float in 0..255, and [N, 1, H, W] bool.
        """
        # Written out, for the product of matrices in affine_grid may be taken in fewer bits.
        y, x = ((2 * torch.arange(side, device=self.canvas.device) + 1) / side - 1 for side in self.size)
        across, down, offset, first, last = (column[:, None, None] for column in self.places.unbind(dim=2))
        grid = across * x[:, None] + down * y[:, None, None] + (offset + _EDGE)
        inside = ((grid >= -1) & (grid < last + (first + 1))).all(dim=-1)
        grid = torch.minimum(torch.maximum(grid, first), last)
        values = self.canvas.permute(0, 3, 1, 2).float()
        return F.grid_sample(values, grid, mode, "border", align_corners=False), inside[:, None]


@dataclass(frozen=True)
class PendingCrops(TensorFields):
    """The pictures of a batch; moved to a device they are its images.

    Args:
        patches: N pictures' pixels.
        fill: [N, 3] float, see ``PendingCrop``.
        changes: of colours; None for none at all.
    """

    patches: Patches
    fill: Tensor
    changes: ColourChanges | None

    @classmethod
    def of(cls, crops: Sequence[PendingCrop]) -> PendingCrops:
        """Pictures whose crops are of one size."""
        coloured = any(crop.change is not None for crop in crops)
        return cls(
            Patches.of([crop.patch for crop in crops]),
            torch.tensor([crop.fill for crop in crops], dtype=torch.float32),
            ColourChanges.of([crop.change or ColourChange() for crop in crops]) if coloured else None,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tensor:
        """[N, 3, H, W] float32 in [0, 1], on the device, with all that was left to do done there."""
        images, inside = self.patches.to(device, non_blocking).sampled()
        fill = self.fill.to(device, non_blocking=non_blocking)
        images = torch.where(inside, images, fill[:, :, None, None])
        images = images if self.changes is None else self.changes.applied(images)
        return images.div_(255).clamp_(0, 1)  # weights may add up to more than 1 by a rounding


@dataclass(frozen=True)
class PendingTargets(TensorFields):
    """Labels of a batch with masks that are not in their windows yet; moved to a device they are ``PoseTargets``.

    Args:
        keypoints, visibility, boxes, valid, stride: see ``PoseTargets``.
        masks: see ``PendingMasks.patch``.
        ignored, spared: [N, B, 4], [N, S, 4] int, see ``PendingMasks``; zeros in padding.
    """

    keypoints: Tensor
    visibility: Tensor
    boxes: Tensor
    valid: Tensor
    masks: Patches
    ignored: Tensor
    spared: Tensor
    stride: int

    @classmethod
    def of(cls, masks: Sequence[PendingMasks], stride: int, **people: Tensor) -> PendingTargets:
        """The masks of N pictures, and the other fields of ``PoseTargets``."""
        ignored, spared = (
            torch.nn.utils.rnn.pad_sequence([getattr(own, name) for own in masks], batch_first=True)
            for name in ("ignored", "spared")
        )
        patches = Patches.of([own.patch for own in masks])
        return cls(**people, masks=patches, ignored=ignored, spared=spared, stride=stride)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PoseTargets:
        """The targets on the device, masks counted there."""
        there = super().to(device, non_blocking)
        person, ignore, unknown = there._cell_shares().unbind(dim=1)
        return PoseTargets(
            there.keypoints, there.visibility, there.boxes, there.valid,
            person_mask=person, ignore_mask=ignore >= 0.5, unknown_mask=unknown >= 0.5, stride=self.stride,
        )  # fmt: skip

    def _cell_shares(self) -> Tensor:
        """[N, 3, h, w] float, shares of the cells that each mask takes."""
        bits, inside = self.masks.sampled("nearest")
        bits = torch.where(inside, bits, 0.0).to(torch.uint8)
        person, ignore, unknown = (bits >> bit & 1 for bit in range(3))
        left_over = _painted(self.ignored, self.masks.size) & ~_painted(self.spared, self.masks.size)
        masks = torch.cat([person, ignore | left_over[:, None], unknown], dim=1)
        return F.avg_pool2d(masks.float(), self.stride)


def _painted(edges: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, H, W] bool, the pixels in any of the boxes [N, B, 4] int of a picture."""
    y, x = (torch.arange(side, device=edges.device) for side in size)
    left, top, right, bottom = edges[..., None].unbind(dim=2)
    across, down = (x >= left) & (x < right), (y >= top) & (y < bottom)
    return torch.einsum("nbh,nbw->nhw", down.float(), across.float()) > 0


def stack_images(images: Sequence[Tensor | PendingCrop]) -> Tensor | PendingCrops:
    """The images of a batch.

    Args:
        images: [3, H, W] uint8, all of one size, or crops that are still pending.

    Returns:
        [N, 3, H, W] float32 in [0, 1], or what becomes that on its device.
    """
    if isinstance(images[0], PendingCrop):
        return PendingCrops.of(images)
    return torch.stack(images).float().div_(255)
