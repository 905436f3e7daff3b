"""One person's crop: which window a box becomes, all crops of a picture cut in one call, and the way back.

The geometry is that of the published top-down code: the box is extended, one side is then lengthened to the crop's
shape, and both axes are scaled alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from multiposenet.geometry import CropWindow
from multiposenet.structures import TensorFields


@dataclass(frozen=True)
class CropWindows(TensorFields):
    """Windows on one or more pictures, one a person: see :class:`multiposenet.geometry.CropWindow`.

    Args:
        matrices: [P, 2, 3] float64; map continuous picture coordinates (x, y, 1) to continuous crop coordinates.
        size: (height, width) of every crop.
    """

    matrices: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.matrices)

    def __getitem__(self, rows: slice | Tensor) -> CropWindows:
        return replace(self, matrices=self.matrices[rows])

    @property
    def scales(self) -> Tensor:
        """[P] crop pixels per picture pixel."""
        return self._determinants().abs().sqrt()

    def _determinants(self) -> Tensor:
        (a, b), (c, d) = self.matrices[:, :, :2].permute(1, 2, 0)
        return a * d - b * c

    def inverse_matrices(self) -> Tensor:
        """[P, 2, 3] from continuous crop coordinates back to the pictures'."""
        # Written out: for matrices this small the libraries' solvers only cost time.
        (a, b), (c, d) = self.matrices[:, :, :2].permute(1, 2, 0)
        linear = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2) / self._determinants()[:, None, None]
        return torch.cat([linear, -linear @ self.matrices[:, :, 2:]], dim=2)

    def keypoints_to_image(self, keypoints: Tensor) -> Tensor:
        """Keypoints [P, K, 2] from crop pixels back to pixels of each person's picture."""
        matrices = self.inverse_matrices()
        points = (keypoints.double() + 0.5) @ matrices[:, :, :2].mT + matrices[:, None, :, 2]
        return (points - 0.5).to(keypoints.dtype)


@dataclass(frozen=True)
class CropRule:
    """How a person's box becomes a crop.

    Args:
        size: (height, width) of the crop.
        extension: factors (x, y) by which a box is made larger first.
        border: RGB in 0..255 of what lies outside the picture.
        smooth: average over whole blocks of pixels before a picture is shrunk to less than half, as in training;
            the published code does not.
        half_pixel: the published code takes a box's continuous centre for a pixel *index*, and puts it on the pixel
            with half the crop's sides as index; True does the same, for weights that were trained so.
    """

    size: tuple[int, int] = (256, 192)
    extension: tuple[float, float] = (1.09, 1.135)
    border: tuple[int, int, int] = (124, 116, 104)
    smooth: bool = True
    half_pixel: bool = False

    def resized(self, long_side: int) -> CropRule:
        """The same rule for crops whose longer side has this many pixels, if others: sides become multiples of 32."""
        if long_side == max(self.size):
            return self
        factor = long_side / max(self.size)
        height, width = (max(1, round(side * factor / 32)) * 32 for side in self.size)
        return replace(self, size=(height, width))

    def region_widths(self, sides: Tensor) -> Tensor:
        """Width of the regions [P] in picture pixels that hold boxes with sides [P, 2] (x, y), extended already."""
        height, width = self.size
        return torch.maximum(sides[..., 0], sides[..., 1] * (width / height)).clamp(min=1e-3)

    def windows(self, boxes: Tensor) -> CropWindows:
        """The windows of boxes [P, 4]."""
        boxes = boxes.double()
        sides = (boxes[:, 2:] - boxes[:, :2]) * boxes.new_tensor(self.extension)
        centres = (boxes[:, 2:] + boxes[:, :2]) / 2
        scales = self.size[1] / self.region_widths(sides)
        shift = 0.5 if self.half_pixel else 0.0
        middle = boxes.new_tensor((self.size[1] / 2, self.size[0] / 2)) + shift
        linear = torch.diag_embed(scales[:, None].expand(-1, 2))
        offsets = middle - scales[:, None] * (centres + shift)
        return CropWindows(torch.cat([linear, offsets[:, :, None]], dim=2), self.size)

    def window(
        self, centre: tuple[float, float], region_width: float, angle: float = 0.0, mirror: bool = False
    ) -> CropWindow:
        """One window, turned and mirrored.

        Args:
            centre: of the region, in picture coordinates as a box has them.
            region_width: picture pixels, see :meth:`region_widths`.
            angle: degrees by which the content turns clockwise as seen.
            mirror: the crop is mirrored left-right after turning.
        """
        shift = 0.5 if self.half_pixel else 0.0
        scale = self.size[1] / region_width
        window = CropWindow.around((centre[0] + shift, centre[1] + shift), scale, self.size, angle, mirror)
        return replace(window, matrix=window.matrix + np.array([[0, 0, shift], [0, 0, shift]]))

    def cut(self, picture: Tensor, windows: CropWindows) -> Tensor:
        """All crops of a picture, bilinear, in one call for those that are shrunk by a similar factor.

        Args:
            picture: [3, H, W] float in [0, 1].
            windows: P of them, on the picture's device.

        Returns:
            [P, 3, height, width] in [0, 1].
        """
        height, width = windows.size
        border = picture.new_tensor(self.border)[:, None, None] / 255
        inside = (picture - border)[None]
        crops = picture.new_empty(len(windows), 3, height, width)
        factors = (1 / windows.scales + 1e-6).long().clamp(min=1) if self.smooth else torch.ones(len(windows))
        matrices = windows.inverse_matrices()
        for factor in factors.unique().tolist():
            rows = (factors == factor).nonzero()[:, 0].to(picture.device)
            source = inside
            if factor > 1:
                source = F.avg_pool2d(source, int(factor), ceil_mode=True, count_include_pad=False)
            grid = _sampling_grid(matrices[rows] / factor, windows.size, source.shape[-2:]).to(picture.dtype)
            found = F.grid_sample(source.expand(len(rows), -1, -1, -1), grid, align_corners=False)
            crops[rows] = found.add_(border)
        return crops


def unit_matrices(matrices: Tensor, size: tuple[int, int], picture_size: tuple[int, int]) -> Tensor:
    """Maps from crops to pictures in ``grid_sample``'s unit, where coordinates run from -1 to 1 over every side.

    Args:
        matrices: [P, 2, 3] from continuous crop coordinates to continuous picture coordinates.
        size: (height, width) of the crops.
        picture_size: (height, width) of the pictures.

    Returns:
        [P, 2, 3] float32.
    """
    corners = matrices.new_tensor((picture_size[1], picture_size[0]))[:, None]
    sides = matrices.new_tensor((size[1], size[0]))
    linear = matrices[:, :, :2] * sides / corners
    offset = (matrices[:, :, :2] @ sides[:, None] + 2 * matrices[:, :, 2:]) / corners - 1
    return torch.cat([linear, offset], dim=2).float()


def _sampling_grid(matrices: Tensor, size: tuple[int, int], picture_size: tuple[int, int]) -> Tensor:
    """Where the centres of crop pixels lie in a picture, in ``grid_sample``'s unit: [P, height, width, 2] float."""
    unit = unit_matrices(matrices, size, picture_size)
    return F.affine_grid(unit, [len(matrices), 3, *size], align_corners=False)
