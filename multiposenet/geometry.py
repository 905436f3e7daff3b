"""THE pixel convention, box formats and picture windows. Everything that moves a coordinate is here.

Convention (COCO's). A keypoint coordinate is a pixel *index*: 0 is the centre of the first pixel. A box is made of
*continuous edges* in [0, W] x [0, H]; the centre of pixel 0 lies at 0.5 on that axis. Hence, under a resize by s, a
keypoint goes to (x + 0.5) s - 0.5 and a box edge to x s; in a mirrored picture of width W a keypoint goes to
W - 1 - x and a box edge to W - x. Sizes are (height, width), points are (x, y).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", np.ndarray, Tensor)
"""The functions here take NumPy arrays or tensors of floating-point numbers and return the same kind."""


def _stack(parts: list[Array], like: Array) -> Array:
    return torch.stack(parts, dim=-1) if isinstance(like, Tensor) else np.stack(parts, axis=-1)


def xywh_to_xyxy(boxes_xywh: Array) -> Array:
    """COCO's (x, y, width, height) [..., 4] to corners (x1, y1, x2, y2) [..., 4]."""
    x, y, width, height = (boxes_xywh[..., i] for i in range(4))
    return _stack([x, y, x + width, y + height], boxes_xywh)


def xyxy_to_xywh(boxes: Array) -> Array:
    """Corners (x1, y1, x2, y2) [..., 4] to COCO's (x, y, width, height) [..., 4]."""
    x1, y1, x2, y2 = (boxes[..., i] for i in range(4))
    return _stack([x1, y1, x2 - x1, y2 - y1], boxes)


def clip_boxes(boxes: Array, image_size: tuple[int, int]) -> Array:
    """Clips boxes [..., 4] to a picture of (height, width); a box wholly outside becomes empty, never inverted."""
    height, width = image_size
    return _stack([boxes[..., i].clip(0, (width, height)[i % 2]) for i in range(4)], boxes)


def flip_keypoints(keypoints: Array, width: int) -> Array:
    """Mirrors keypoint positions [..., 2] left-right; exchanging left and right names is the skeleton's affair."""
    return _stack([width - 1 - keypoints[..., 0], keypoints[..., 1]], keypoints)


def flip_boxes(boxes: Array, width: int) -> Array:
    """Mirrors boxes [..., 4] left-right in a picture of the given width."""
    return _stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], boxes)


def expand_boxes(boxes: Array, factor: float) -> Array:
    """Boxes [..., 4] with both sides multiplied by a factor, about their centres; they may leave the picture."""
    centres, halves = (boxes[..., :2] + boxes[..., 2:]) / 2, factor * (boxes[..., 2:] - boxes[..., :2]) / 2
    low, high = centres - halves, centres + halves
    return _stack([low[..., 0], low[..., 1], high[..., 0], high[..., 1]], boxes)


def pairwise_iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU [..., A, P] of boxes [..., A, 4] with boxes [..., P, 4]; 0 for boxes without area.

    torchvision's ``box_iou`` has no batch axes and makes NaN of two empty boxes.
    """
    # Number by number: whole rows of boxes in memory instead of pairs of numbers.
    ours, theirs = (own[..., :, None] for own in one.unbind(-1)), (own[..., None, :] for own in other.unbind(-1))
    (x1, y1, x2, y2), (u1, v1, u2, v2) = ours, theirs
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    shared = width * height
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
    return shared / union.clamp(min=1e-6)


def pixels_to_cells(keypoints: Array, stride: float) -> Array:
    """Keypoints [..., 2] in pixels to cells of a map whose cell covers ``stride`` pixels."""
    return (keypoints + 0.5) / stride - 0.5


def cells_to_pixels(cells: Array, stride: float) -> Array:
    """Inverse of :func:`pixels_to_cells`."""
    return (cells + 0.5) * stride - 0.5


def points_to_shares(points: Array, boxes: Array) -> Array:
    """Points [..., 2] as shares of boxes [..., 4] (broadcast): 0 at a box's left or upper edge, 1 at the other one.

    A side of less than 0.001 pixel counts as that much, so that a box without area gives large numbers, not infinity.
    """
    return (points + 0.5 - boxes[..., :2]) / (boxes[..., 2:] - boxes[..., :2]).clip(min=1e-3)


def shares_to_points(shares: Array, boxes: Array) -> Array:
    """Inverse of :func:`points_to_shares`."""
    return shares * (boxes[..., 2:] - boxes[..., :2]).clip(min=1e-3) + boxes[..., :2] - 0.5


@dataclass(frozen=True)
class CropWindow:
    """A window on a picture: an affine map from the picture into a crop, with the crop's size.

    Args:
        matrix: [2, 3] float64; maps *continuous* picture coordinates (x, y, 1) to continuous crop coordinates.
        size: (height, width) of the crop.
    """

    matrix: np.ndarray
    size: tuple[int, int]

    @classmethod
    def letterbox(cls, image_size: tuple[int, int], size: int, multiple: int = 32) -> CropWindow:
        """Fits a picture into size x size keeping its shape; the canvas is padded right and below.

        The canvas depends on this picture alone: the scaled picture rounded up to ``multiple`` on both sides.
        """
        height, width = image_size
        if height < 1 or width < 1:
            raise ValueError(f"image_size must be at least 1x1, got {height}x{width}")
        scale = size / max(height, width)
        canvas = tuple(max(1, math.ceil(round(side * scale, 6) / multiple)) * multiple for side in (height, width))
        return cls(np.array([[scale, 0, 0], [0, scale, 0]], dtype=np.float64), canvas)

    @classmethod
    def around(
        cls,
        centre: tuple[float, float],
        scale: float | tuple[float, float],
        size: tuple[int, int],
        angle: float = 0.0,
        mirror: bool = False,
    ) -> CropWindow:
        """A window centred on a point.

        Args:
            centre: continuous picture coordinates (x, y) that land in the middle of the crop.
            scale: crop pixels per picture pixel, one number or (x, y).
            size: (height, width) of the crop.
            angle: degrees by which the content turns clockwise as seen (y points down).
            mirror: the crop is mirrored left-right after turning.
        """
        scale_x, scale_y = (scale, scale) if isinstance(scale, (int, float)) else scale
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag([scale_x, scale_y])
        if mirror:
            linear = np.diag([-1.0, 1.0]) @ linear
        middle = np.array([size[1] / 2, size[0] / 2])
        offset = middle - linear @ np.asarray(centre, dtype=np.float64)
        return cls(np.column_stack([linear, offset]), (int(size[0]), int(size[1])))

    @property
    def scale(self) -> float:
        """Crop pixels per picture pixel: the square root of the area ratio."""
        return float(math.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

    @property
    def whole_shrinking(self) -> int:
        """How many whole pixels, on a side, become one in a window that makes a picture smaller; else 1."""
        return max(1, int(1 / self.scale + 1e-6))

    def inverse_matrix(self) -> np.ndarray:
        """[2, 3] map from continuous crop coordinates back to the picture's."""
        linear = np.linalg.inv(self.matrix[:, :2])
        return np.column_stack([linear, -linear @ self.matrix[:, 2]])

    def keypoints_to_crop(self, keypoints: Array) -> Array:
        """Keypoints [..., 2] from picture pixels to crop pixels."""
        return _transform(self.matrix, keypoints + 0.5) - 0.5

    def keypoints_to_image(self, keypoints: Array) -> Array:
        """Keypoints [..., 2] from crop pixels back to picture pixels."""
        return _transform(self.inverse_matrix(), keypoints + 0.5) - 0.5

    def boxes_to_crop(self, boxes: Array) -> Array:
        """Boxes [..., 4] to the crop: the upright boxes that enclose the transformed ones."""
        return _enclosing(self.matrix, boxes)

    def boxes_to_image(self, boxes: Array) -> Array:
        """Boxes [..., 4] from the crop back to the picture (enclosing, when the window is turned)."""
        return _enclosing(self.inverse_matrix(), boxes)


def _transform(matrix: np.ndarray, points: Array) -> Array:
    if isinstance(points, Tensor):
        # The products are taken in the points' own precision and device; float64 stays float64.
        linear = torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
    else:
        linear = matrix.astype(points.dtype)
    return points @ linear[:, :2].T + linear[:, 2]


def _enclosing(matrix: np.ndarray, boxes: Array) -> Array:
    x1, y1, x2, y2 = (boxes[..., i] for i in range(4))
    corners = [
        _transform(matrix, _stack([x, y], boxes)) for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    ]
    xs, ys = (_stack([corner[..., i] for corner in corners], boxes) for i in range(2))
    if isinstance(boxes, Tensor):
        return torch.stack([xs.amin(-1), ys.amin(-1), xs.amax(-1), ys.amax(-1)], dim=-1)
    return np.stack([xs.min(-1), ys.min(-1), xs.max(-1), ys.max(-1)], axis=-1)
