"""Where a keypoint lies in its person's box: one Gaussian a keypoint, fitted to labels in one pass.

The simplest model of a person that still tells a head from a foot. It is a grouping by itself (compare the "unary
conditional relationship" baseline of MultiPoseNet, sec. 4), and the ground that the set assignment corrects.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from multiposenet.geometry import points_to_shares

BROAD = 0.3
"""Standard deviation, as a share of the box, of a keypoint of which nothing is known."""

LEAST = 0.02
"""Least standard deviation that is added to a fitted one: boxes that a network finds are not exact."""


class GaussianPrior(nn.Module):
    """Mean and covariance of every keypoint's place, as shares of the box (``geometry.points_to_shares``).

    It has no parameters to train; mean [K, 2] and covariance [K, 2, 2] are buffers, so that they travel with weights.
    Until :meth:`fit` is called a keypoint may be anywhere: the middle of the box, widely spread.

    Args:
        num_keypoints: K.
    """

    def __init__(self, num_keypoints: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((num_keypoints, 2), 0.5))
        self.register_buffer("covariance", BROAD**2 * torch.eye(2).repeat(num_keypoints, 1, 1))

    @torch.no_grad()
    def fit(self, keypoints: Tensor, visibility: Tensor, boxes: Tensor) -> GaussianPrior:
        """Fits all keypoints; one labelled in fewer than two people keeps what it has.

        Args:
            keypoints: [T, K, 2] pixels; visibility: [T, K], above 0 where labelled; boxes: [T, 4]. People whose box
                has a side of less than a pixel are left out.

        Returns:
            Itself.
        """
        fine = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(-1)
        labelled = ((visibility > 0) & fine[:, None])[..., None].double()  # [T, K, 1]
        shares = points_to_shares(keypoints.double(), boxes[:, None].double())
        shares = torch.where(labelled > 0, shares, 0.0)
        count = labelled.sum(0)  # [K, 1]
        mean = shares.sum(0) / count.clamp(min=1)
        offsets = (shares - mean) * labelled
        covariance = torch.einsum("tki,tkj->kij", offsets, offsets) / count.clamp(min=1)[..., None]
        covariance = covariance + LEAST**2 * torch.eye(2, dtype=torch.float64, device=covariance.device)
        enough = count[:, 0] >= 2
        self.mean.copy_(torch.where(enough[:, None], mean, self.mean))
        self.covariance.copy_(torch.where(enough[:, None, None], covariance, self.covariance))
        return self

    def standardise(self, shares: Tensor) -> Tensor:
        """Offsets from the mean in standard deviations, uncorrelated: shares [..., K, M, 2] -> the same shape.

        Their squared length is the squared Mahalanobis distance.
        """
        across, along = self.covariance[:, 0, 0].sqrt(), self.covariance[:, 0, 1]
        lean = along / across
        rest = (self.covariance[:, 1, 1] - lean.square()).clamp(min=1e-8).sqrt()
        offsets = shares - self.mean[:, None]
        first = offsets[..., 0] / across[:, None]
        second = (offsets[..., 1] - lean[:, None] * first) / rest[:, None]
        # In planes: what comes after runs through all first numbers, then through all second ones.
        return torch.stack([first, second]).movedim(0, -1)
