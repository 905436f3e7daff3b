"""The candidates of every box: which peaks could be its person's keypoints, and what is known about each.

Training (peaks made of labels) and inference (peaks of heatmaps) both use this file, so that the network is asked what
it was taught. A token is one peak seen from one box; a peak near three boxes makes three tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from multiposenet.geometry import points_to_shares
from multiposenet.prior import GaussianPrior
from multiposenet.structures import Detections, Peaks, TensorFields

BOX_FEATURES = 6
OWN_FEATURES = 10
RIVAL_FEATURES = 8

_USUAL_SIDE = 100.0  # pixels; box sides are told as logarithms relative to it
_FARTHEST = 20.0  # log-likelihoods below the highest possible are told up to here


@dataclass(frozen=True)
class Candidates(TensorFields):
    """Tokens of B boxes, S in all, box after box. K keypoints, T candidates a keypoint at most, R rivals.

    Args:
        picture, slot: [B] long, whose boxes: ``detections.boxes[picture, slot]``.
        peak: [B, K, T] long, index into the picture's M peaks, likeliest first; allowed: [B, K, T] bool.
        fit: [B, K, T], log-likelihood under the prior relative to its highest, 0 and below; -inf where not allowed.
        row: [S] long, the box (of B) of each token, ascending; place: [S] long, which of the box's K x T candidates.
        valid: [S] bool, all True when packed.
        features: [S, BOX_FEATURES + OWN_FEATURES + R x RIVAL_FEATURES].
        box_features: [B, BOX_FEATURES].
        rivals: [S, R] long; the tokens that are the same peak seen from the other boxes that suit it best, -1 for none.
        slots: (N, P, M), how many pictures, boxes a picture and peaks a keypoint there are room for.
        packed: only what there is has a token; otherwise every box has K x T.
    """

    picture: Tensor
    slot: Tensor
    peak: Tensor
    allowed: Tensor
    fit: Tensor
    row: Tensor
    place: Tensor
    valid: Tensor
    features: Tensor
    box_features: Tensor
    rivals: Tensor
    slots: tuple[int, int, int]
    packed: bool

    @property
    def keypoint(self) -> Tensor:
        """[S] long, the keypoint of each token."""
        return self.place // max(1, self.peak.shape[2])

    @property
    def count(self) -> Tensor:
        """[B] long, tokens of each box."""
        own = self.allowed.flatten(1).sum(1)
        return own if self.packed else torch.full_like(own, self.allowed[0].numel() if len(own) else 0)

    def to_table(self, tokens: Tensor) -> Tensor:
        """Numbers [S] of tokens as a table [B, K, T]; 0 where there is no valid token."""
        table = tokens.new_zeros(self.allowed.numel())
        at = self.row * self.allowed[0].numel() + self.place if len(self.allowed) else self.row
        return table.scatter(0, at, torch.where(self.valid, tokens, 0.0)).view(self.allowed.shape)

    @property
    def peak_number(self) -> Tensor:
        """[B, K, T] long, each candidate's peak among all N x K x M."""
        keypoints = torch.arange(self.peak.shape[1], device=self.peak.device)[:, None]
        return (self.picture[:, None, None] * self.peak.shape[1] + keypoints) * self.slots[2] + self.peak


@dataclass(frozen=True)
class CandidateScores(TensorFields):
    """What a network says about the candidates of B boxes.

    Args:
        candidates: the tokens.
        log_scores: [B, K, T + 1], log-probabilities over a keypoint's candidates, and last "none of these".
        log_claims: [B, K, T], log-probability of this box over all boxes that have the candidate's peak, and "nobody".
        log_nobody: [N, K, M], log-probability that a peak is nobody's; 0 where no box has it.
        positions: [B, K, 2], where each keypoint is expected, as shares of the box.
    """

    candidates: Candidates
    log_scores: Tensor
    log_claims: Tensor
    log_nobody: Tensor
    positions: Tensor


@torch.no_grad()
def collect_candidates(
    peaks: Peaks,
    detections: Detections,
    prior: GaussianPrior,
    margin: float = 0.5,
    most: int = 4,
    num_rivals: int = 2,
    pack: bool = True,
) -> Candidates:
    """Gathers the peaks in every box's enlarged window and describes them.

    Args:
        peaks: image pixels.
        detections: the boxes; a box without area has no candidates.
        prior: how likely a place in the box is for a keypoint; orders candidates and rivals.
        margin: a peak counts in a box enlarged by this share of its sides on every side.
        most: candidates a box and keypoint, the likeliest.
        num_rivals: R.
        pack: only valid boxes and only candidates that there are. False keeps every slot, so that shapes depend on
            shapes alone (export).
    """
    max_peaks = peaks.scores.shape[2]
    if pack:
        picture, slot = detections.valid.nonzero(as_tuple=True)
    else:
        every = torch.arange(detections.valid.numel(), device=detections.valid.device)
        picture, slot = every // detections.valid.shape[1], every % detections.valid.shape[1]
    boxes, box_scores = detections.boxes[picture, slot], detections.scores[picture, slot]
    real = detections.valid[picture, slot] & ((boxes[:, 2:] - boxes[:, :2]) > 0).all(-1)

    shares = points_to_shares(peaks.xy[picture], boxes[:, None, None])  # [B, K, M, 2]
    near = peaks.valid[picture] & real[:, None, None] & ((shares > -margin) & (shares < 1 + margin)).all(-1)
    standard = prior.standardise(shares)
    fits = torch.where(near, (-0.5 * standard.square().sum(-1)).clamp(min=-_FARTHEST), -torch.inf)
    fit, peak = fits.topk(min(most, max_peaks), dim=-1)  # [B, K, T]
    allowed = fit > -torch.inf

    flat = allowed.flatten(1)
    if pack:
        row, place = flat.nonzero(as_tuple=True)
    else:
        every = torch.arange(flat.numel(), device=flat.device)
        row, place = every // max(1, flat.shape[1]), every % max(1, flat.shape[1])
    valid = flat[row, place]
    keypoint = place // max(1, peak.shape[2])
    pair = keypoint * max_peaks + peak.flatten(1)[row, place]  # [S] of K x M
    own_fit = torch.where(valid, fits.flatten(1)[row, pair], 0.0)
    box_features = _box_features(boxes, box_scores, allowed, detections.valid.sum(1)[picture])
    rival_features, rivals, claimants = _rivals(
        fits, row, pair, valid, boxes, box_scores, peaks.xy, picture, slot, detections.valid.shape, num_rivals
    )
    own = [
        2 * shares.flatten(1, 2)[row, pair] - 1,
        standard.flatten(1, 2)[row, pair].clamp(-6, 6) / 3,
        torch.stack(
            [
                own_fit / 10,
                (own_fit - fit[row, keypoint, torch.zeros_like(row)]) / 10,
                peaks.scores.flatten(1)[picture[row], pair],
                (place % max(1, peak.shape[2])) / most,
                near.sum(-1)[row, keypoint].log1p(),
                claimants.log1p(),
            ],
            dim=-1,
        ),
    ]
    features = torch.cat([box_features[row], *own, rival_features.flatten(1)], dim=-1)
    features = torch.where(valid[:, None], features, 0.0)
    slots = (*detections.valid.shape, max_peaks)
    return Candidates(picture, slot, peak, allowed, fit, row, place, valid, features, box_features, rivals, slots, pack)


def _box_features(boxes: Tensor, scores: Tensor, allowed: Tensor, company: Tensor) -> Tensor:
    """[B, BOX_FEATURES]: size, shape, score, how much lies in the window and how many people are in the picture."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1.0).log().unbind(-1)
    usual = math.log(_USUAL_SIDE)
    seen = allowed.any(-1).float().mean(-1)
    return torch.stack([width - usual, height - usual, width - height, scores, seen, company.log1p() / 2], dim=-1)


def _rivals(
    fits: Tensor,
    row: Tensor,
    pair: Tensor,
    valid: Tensor,
    boxes: Tensor,
    box_scores: Tensor,
    xy: Tensor,
    picture: Tensor,
    slot: Tensor,
    slots: tuple[int, int],
    num_rivals: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The other boxes that a token's peak suits best, and that peak's tokens in them.

    Returns:
        features [S, R, RIVAL_FEATURES], tokens [S, R] as in :class:`Candidates`, and how many boxes have the peak in
        their window [S].
    """
    rows, num_pairs = len(fits), fits.shape[1] * fits.shape[2]
    device = fits.device
    # One more than is asked for, since a box itself is among the best.
    claims = fits.new_full((slots[0], max(slots[1], num_rivals + 1), num_pairs), -torch.inf)
    claims[picture, slot] = fits.flatten(1)
    best_fits, best_slots = claims.topk(num_rivals + 1, dim=1)  # [N, R + 1, K x M]
    owner = picture[row]
    claimants = (claims > -torch.inf).sum(1)[owner, pair]
    best_fits, best_slots = best_fits.transpose(1, 2)[owner, pair], best_slots.transpose(1, 2)[owner, pair]
    oneself_before = (best_slots == slot[row, None]).cumsum(-1)[:, :num_rivals]
    pick = torch.arange(num_rivals, device=device) + oneself_before
    rival_fit, rival_slot = best_fits.gather(-1, pick), best_slots.gather(-1, pick)  # [S, R]
    there = (rival_fit > -torch.inf) & valid[:, None]

    row_of = torch.zeros(claims.shape[:2], dtype=torch.long, device=device)
    row_of[picture, slot] = torch.arange(rows, device=device)
    rival_row = row_of[owner[:, None], rival_slot]
    own_boxes, rival_boxes = boxes[row, None], boxes[rival_row]
    sides, rival_sides = ((edges[..., 2:] - edges[..., :2]).clamp(min=1.0).log() for edges in (own_boxes, rival_boxes))
    own_fit = fits.flatten(1)[row, pair][:, None]
    points = xy.flatten(1, 2)[owner, pair][:, None]
    numbers = [
        torch.ones_like(rival_fit),
        (own_fit - rival_fit) / 10,
        rival_fit / 10,
        box_scores[rival_row] - box_scores[row, None],
    ]
    features = torch.cat(
        [torch.stack(numbers, dim=-1), rival_sides - sides, 2 * points_to_shares(points, rival_boxes) - 1], dim=-1
    )
    features = torch.where(there[..., None], features, 0.0)

    # Where each pair became a token; what is no valid token is written to a place that nobody reads.
    token_of = torch.full((rows * num_pairs + 1,), -1, dtype=torch.long, device=device)
    at = torch.where(valid, row * num_pairs + pair, rows * num_pairs)
    token_of[at] = torch.arange(len(row), device=device)
    tokens = token_of[rival_row * num_pairs + pair[:, None]]
    return features, torch.where(there, tokens, -1), claimants
