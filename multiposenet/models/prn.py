"""The pose residual network (PRN): which of the peaks in a box belong to the person of that box.

MultiPoseNet, sec. 3.4. The network sees one box at a time: a small grid laid over the box, one map a keypoint, with a
blob at every peak in or near the box, whoever it belongs to. It answers with maps of the same shape that say where
*this* person's keypoints are. It scores candidates; it does not find keypoints: coordinates come from the peaks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from multiposenet.distributed import count_over_processes
from multiposenet.models.linear import Linear

SOFTMAXES = ("keypoint", "all")


class PoseResidualNetwork(nn.Module):
    """y = softmax(phi(x) + x), phi a perceptron over all keypoints and cells at once.

    Args:
        num_keypoints: K.
        nodes: width of the two hidden layers; the paper's best is 1024.
        softmax: ``"keypoint"`` normalises each keypoint's map by itself, so that every map is a distribution;
            ``"all"`` one softmax over all maps together, as the authors' published code does.
        crop_size: (h, w) of the grid; the paper's best is 56 x 36.
        dropout: probability after each hidden layer.
        residual_activation: ReLU on phi's last layer, as in the authors' published code; it keeps phi from lowering
            a blob. Off by default.

    Raises:
        ValueError: unknown ``softmax``.
    """

    def __init__(
        self,
        num_keypoints: int,
        nodes: int = 1024,
        softmax: str = "keypoint",
        crop_size: tuple[int, int] = (56, 36),
        dropout: float = 0.5,
        residual_activation: bool = False,
    ) -> None:
        super().__init__()
        if softmax not in SOFTMAXES:
            raise ValueError(f"softmax must be one of {SOFTMAXES}, got {softmax!r}")
        self.num_keypoints = num_keypoints
        self.crop_size = tuple(crop_size)
        self.softmax = softmax
        cells = num_keypoints * crop_size[0] * crop_size[1]
        last = [nn.ReLU()] if residual_activation else []
        self.residual = nn.Sequential(
            Linear(cells, nodes),
            nn.ReLU(),
            nn.Dropout(dropout),
            Linear(nodes, nodes),
            nn.ReLU(),
            nn.Dropout(dropout),
            Linear(nodes, cells),
            *last,
        )

    def logits(self, crops: Tensor) -> Tensor:
        """phi(x) + x for crops [P, K, h, w], before the softmax; same shape."""
        if crops.shape[1:] != (self.num_keypoints, *self.crop_size):
            raise ValueError(
                f"crops must be [P, {self.num_keypoints}, {self.crop_size[0]}, {self.crop_size[1]}], "
                f"got {list(crops.shape)}"
            )
        flat = crops.flatten(1)
        return (flat + self.residual(flat)).view_as(crops)

    def forward(self, crops: Tensor) -> Tensor:
        """Scores the cells of every box.

        Args:
            crops: [P, K, h, w]; blobs of height 1 at the peaks in each of P boxes (P may be 0).

        Returns:
            [P, K, h, w] probabilities; each keypoint's map sums to 1 (``softmax="keypoint"``), or all K maps of a
            person together do (``"all"``).
        """
        logits = self.logits(crops)
        if self.softmax == "keypoint":
            return logits.flatten(2).softmax(-1).view_as(logits)
        return logits.flatten(1).softmax(-1).view_as(logits)

    def loss(self, crops: Tensor, labels: Tensor, labelled: Tensor) -> Tensor:
        """Mean cross-entropy of the labelled keypoints.

        Args:
            crops: [P, K, h, w], as for :meth:`forward`.
            labels: [P, K, h, w]; where each keypoint of the box's person is. Each map sums to 1 where labelled.
            labelled: [P, K] bool; keypoints that nobody labelled enter no loss.

        Returns:
            Scalar; 0 when nothing is labelled.
        """
        logits = self.logits(crops)
        if self.softmax == "keypoint":
            log_scores = logits.flatten(2).log_softmax(-1)
        else:
            log_scores = logits.flatten(1).log_softmax(-1).view(*logits.shape[:2], -1)
        entropy = -(labels.flatten(2) * log_scores).sum(-1)
        return torch.where(labelled, entropy, 0.0).sum() / count_over_processes(labelled.sum())
