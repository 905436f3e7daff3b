"""The person detector on the shared backbone: RetinaNet with one class (MultiPoseNet, sec. 3.3; Lin et al., 2017)."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead


class DetectionSubnet(nn.Module):
    """torchvision's RetinaNet heads, shared by all levels, with one class.

    Args:
        channels: width of the pyramid and of the heads' four hidden convolutions.
        anchors_per_cell: anchors at each cell of a level.
        convs: hidden 3x3 convolutions in each of the two heads.
        prior: person probability that every anchor starts with (RetinaNet, sec. 4.1).
    """

    def __init__(self, channels: int, anchors_per_cell: int, convs: int = 4, prior: float = 0.01) -> None:
        super().__init__()
        self.heads = RetinaNetHead(channels, anchors_per_cell, num_classes=1)
        for head in (self.heads.classification_head, self.heads.regression_head):
            head.conv = head.conv[:convs]
        for layer in self.modules():
            # torchvision's N(0, 0.01) makes narrow heads fade to nothing; this keeps the signal at any width.
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        logits, deltas = self.heads.classification_head.cls_logits, self.heads.regression_head.bbox_reg
        for layer in (logits, deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(logits.bias, -math.log((1 - prior) / prior))

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        """[P3, ..., P7] -> box_logits [N, A] and box_deltas [N, A, 4], anchors ordered (level, y, x, anchor)."""
        outputs = self.heads(pyramid)
        return outputs["cls_logits"].squeeze(-1), outputs["bbox_regression"]
