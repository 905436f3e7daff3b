"""Pooling of boxes' features: from the level of the pyramid that fits a box, or, of enlarged boxes, from P2 only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign, roi_align

from multiposenet.geometry import expand_boxes
from multiposenet.models.keypoint_rcnn_heads import POOLED_SIZE

LEVELS = ("0", "1", "2", "3")
"""Names of P2 to P5; the fifth level, P6, serves proposals alone."""

FINEST_STRIDE = 4
"""Image pixels per cell of P2."""

EXPANSION = 1.3
"""Factor on both sides of a box (One-Stage, published code)."""


class PyramidPool(MultiScaleRoIAlign):
    """RoIAlign of every box from the level that fits its size (FPN, Lin et al. 2017, eq. 1).

    torchvision's pooling infers the levels' strides from the first image that it sees, and keeps them. Here they are
    inferred from the size of the features' own frame, of which every stride is exact: all images give the same ones.

    Args:
        size: cells on a side of the result.
    """

    def __init__(self, size: int) -> None:
        super().__init__(list(LEVELS), size, sampling_ratio=2)

    def forward(
        self,
        features: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Tensor:
        """Features of all pictures' boxes, one picture after the other.

        Args:
            features: levels by name, of images padded to a multiple of the coarsest one's stride.
            boxes: of every picture [P, 4] xyxy in image pixels.
            image_sizes: not needed here; torchvision's pooling takes it.

        Returns:
            [R, C, size, size].
        """
        height, width = features[LEVELS[0]].shape[-2:]
        return super().forward(dict(features), list(boxes), [(height * FINEST_STRIDE, width * FINEST_STRIDE)])


class ExpandedBoxPool(nn.Module):
    """RoIAlign of boxes enlarged about their centres; beyond the features there are zeros.

    A plain RoIAlign repeats the outermost cells where it samples a little beyond them; here, as in the published code,
    features fade to zero within one cell. A margin of one zero cell does that, however far a box reaches.

    Args:
        expansion: factor on both sides of a box.
        size: cells on a side of the result.
        level: which level of the pyramid, by its name.
        stride: image pixels per cell of that level.
    """

    def __init__(
        self, expansion: float = EXPANSION, size: int = POOLED_SIZE, level: str = LEVELS[0], stride: int = FINEST_STRIDE
    ) -> None:
        super().__init__()
        self.expansion, self.size, self.level, self.stride = expansion, size, level, stride

    def forward(
        self,
        features: Tensor | Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Tensor:
        """Features of all pictures' boxes, one picture after the other.

        Args:
            features: P2 [N, C, h, w], or the pyramid's levels by name.
            boxes: of every picture [P, 4] xyxy in image pixels, not enlarged.
            image_sizes: not needed here; torchvision's pooling, which this one replaces, takes it.

        Returns:
            [R, C, size, size].
        """
        finest = features if isinstance(features, Tensor) else features[self.level]
        padded = F.pad(finest.float(), (1, 1, 1, 1))  # half precision is too coarse for coordinates
        moved = [expand_boxes(own.float(), self.expansion) + self.stride for own in boxes]
        return roi_align(padded, moved, self.size, 1 / self.stride, sampling_ratio=0, aligned=True).to(finest.dtype)

    def extra_repr(self) -> str:
        return f"expansion={self.expansion}, size={self.size}, level={self.level!r}, stride={self.stride}"
