"""Scorers for ``decode.grouping.Grouping``: the learned set assignment, and the baselines that it must beat.

A baseline knows a box's geometry only. All take the peaks in the box enlarged by ``margin`` of its sides on every side,
and stand the prior's mean place, with a low score, in for a keypoint that gets no peak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from multiposenet.candidates import CandidateScores
from multiposenet.decode.grouping import PairScores
from multiposenet.geometry import points_to_shares, shares_to_points
from multiposenet.prior import GaussianPrior
from multiposenet.structures import Detections, Peaks

GUESS_SCORE = 0.05
"""Keypoint score of every guess: nothing was seen there."""


@dataclass(frozen=True)
class SetAssignmentScorer:
    """How likely a peak is the box's person's keypoint, times the peak's score.

    Likely is the geometric mean of two probabilities: that the keypoint is this peak and no other (or none), and that
    the peak is this box's and no other's (or nobody's).

    Args:
        network: (peaks, detections) -> ``CandidateScores``, e.g. ``models.set_assignment.SetAssignment``.
        min_score: a peak is given to a box only when its score reaches this.
        guess_score: score of a keypoint without a peak; its place is the network's expectation.
    """

    network: Callable[[Peaks, Detections], CandidateScores]
    min_score: float = 1e-4
    guess_score: float = GUESS_SCORE

    def __call__(self, peaks: Peaks, detections: Detections) -> PairScores:
        """Scores all pairs; the network is called once."""
        answer = self.network(peaks, detections)
        found = answer.candidates
        chances = answer.chances
        scores = chances.new_zeros(len(found.picture), *peaks.scores.shape[1:]).scatter(2, found.peak, chances)
        scores = scores * peaks.scores[found.picture]
        boxes = detections.boxes[found.picture, found.slot]
        guess = shares_to_points(answer.positions, boxes[:, None])
        scores = torch.where(scores >= self.min_score, scores, 0.0)
        guess_scores = guess.new_full(guess.shape[:2], self.guess_score)
        return PairScores(
            found.picture, found.slot, scores, guess, guess_scores, person_scores=answer.person_logits.sigmoid()
        )

    def parts(self, peaks: Peaks, detections: Detections) -> dict[str, Tensor]:
        """The two probabilities that a pair's score is made of, to be shown; [B, K, M] each, rows as in the scores.

        ``choice``: that the box's keypoint is this peak and no other. ``claim``: that the peak is this box's and no
        other's. 0 where a peak is no candidate of the box. The network is called once more.
        """
        answer = self.network(peaks, detections)
        found = answer.candidates
        logs = {"choice": answer.log_scores[..., :-1], "claim": answer.log_claims}
        return {
            name: log.new_zeros(len(found.picture), *peaks.scores.shape[1:]).scatter(
                2, found.peak, torch.where(found.allowed, log.exp(), 0.0)
            )
            for name, log in logs.items()
        }


@dataclass(frozen=True)
class StrongestPeak:
    """The peak's own score, wherever in the box it lies ("Max" in MultiPoseNet, sec. 4).

    Args:
        prior: says where a keypoint without a peak is guessed.
        margin: 0, the box itself.
    """

    prior: GaussianPrior
    margin: float = 0.0

    def __call__(self, peaks: Peaks, detections: Detections) -> PairScores:
        """Scores all pairs."""
        return _geometric_scores(peaks, detections, self, lambda shares, boxes: torch.ones_like(shares[..., 0]))


@dataclass(frozen=True)
class NearestCentre:
    """The nearer a box's centre in pixels, the better: with a one-to-one assignment people own Voronoi cells.

    Args:
        prior, margin: as for :class:`PriorScorer`.
    """

    prior: GaussianPrior
    margin: float = 0.5

    def __call__(self, peaks: Peaks, detections: Detections) -> PairScores:
        """Scores all pairs: peak score / (1 + distance / 100 pixels)."""

        def nearness(shares: Tensor, boxes: Tensor) -> Tensor:
            sides = (boxes[..., 2:] - boxes[..., :2])[:, None, None]
            return 1 / (1 + ((shares - 0.5) * sides).norm(dim=-1) / 100)

        return _geometric_scores(peaks, detections, self, nearness)


@dataclass(frozen=True)
class PriorScorer:
    """How likely a place in the box is for this keypoint.

    Args:
        prior: mean and covariance of each keypoint's place.
        margin: peaks in the box enlarged by this share of its sides on every side.
    """

    prior: GaussianPrior
    margin: float = 0.5

    def __call__(self, peaks: Peaks, detections: Detections) -> PairScores:
        """Scores all pairs: peak score / (1 + d^2 / 2), d the Mahalanobis distance.

        The order is that of the likelihood; the slow fall keeps far-off pairs apart in single precision.
        """
        return _geometric_scores(
            peaks,
            detections,
            self,
            lambda shares, boxes: 1 / (1 + 0.5 * self.prior.standardise(shares).square().sum(-1)),
        )


def _geometric_scores(
    peaks: Peaks,
    detections: Detections,
    scorer: StrongestPeak | NearestCentre | PriorScorer,
    suitability: Callable[[Tensor, Tensor], Tensor],
) -> PairScores:
    """Peak score x suitability (shares [B, K, M, 2], boxes [B, 4]) -> [B, K, M] in [0, 1] inside the margin."""
    picture, slot = detections.valid.nonzero(as_tuple=True)
    boxes = detections.boxes[picture, slot]
    shares = points_to_shares(peaks.xy[picture], boxes[:, None, None])
    inside = ((shares > -scorer.margin) & (shares < 1 + scorer.margin)).all(-1) & peaks.valid[picture]
    scores = torch.where(inside, suitability(shares, boxes) * peaks.scores[picture], 0.0)
    guess = shares_to_points(scorer.prior.mean, boxes[:, None])
    return PairScores(picture, slot, scores, guess, guess.new_full(guess.shape[:2], GUESS_SCORE))
