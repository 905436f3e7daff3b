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
_LEAST_SCORE = 1e-3  # of a peak, where logarithms are taken
_FARTHEST = 20.0  # log-likelihoods below the highest possible are told up to here


@dataclass(frozen=True)
class Candidates(TensorFields):
    """Tokens of B boxes, S in all, box after box. K keypoints, T candidates a keypoint at most, R rivals.

    Args:
        picture, slot: [B] long, whose boxes: ``detections.boxes[picture, slot]``.
        peak: [B, K, T] long, index into the picture's M peaks, likeliest first; allowed: [B, K, T] bool. How likely a
            peak is, is what the prior says times its score.
        fit: [B, K, T], log-likelihood under the prior relative to its highest, 0 and below; -inf where not allowed.
        row: [S] long, the box (of B) of each token, ascending; place: [S] long, which of the box's K x T candidates;
            keypoint: [S] long.
        valid: [S] bool, all True when packed.
        features: [S, BOX_FEATURES + OWN_FEATURES + R x RIVAL_FEATURES].
        box_features: [B, BOX_FEATURES].
        evidence: [S, K] in [0, 1], the roots of what all maps hold where the peak is; 0 for peaks of no maps.
        appearance: [S, F], what the maps were predicted from there; F is 0 where peaks do not tell.
        seen: [S] in [0, 1], the chance that the box's person has the keypoint there by the person's own maps; 0 where
            nobody looked.
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
    keypoint: Tensor
    valid: Tensor
    features: Tensor
    box_features: Tensor
    evidence: Tensor
    appearance: Tensor
    seen: Tensor
    rivals: Tensor
    slots: tuple[int, int, int]
    packed: bool

    @property
    def count(self) -> Tensor:
        """[B] long, tokens of each box."""
        own = self.allowed.flatten(1).sum(1)
        return own if self.packed else torch.full_like(own, self.allowed[0].numel() if len(own) else 0)

    def to_tables(self, tokens: Tensor) -> Tensor:
        """Numbers [F, S] of tokens as tables [F, B, K, T]; 0 where there is no valid token."""
        places = self.allowed[0].numel() if len(self.allowed) else 0
        tables = tokens.new_zeros(len(tokens), self.allowed.numel())
        tables = tables.index_copy(1, self.row * places + self.place, torch.where(self.valid, tokens, 0.0))
        return tables.view(len(tokens), *self.allowed.shape)

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
        person_logits: [B], log-odds form of the similarity (OKS) that is expected of the person.
    """

    candidates: Candidates
    log_scores: Tensor
    log_claims: Tensor
    log_nobody: Tensor
    positions: Tensor
    person_logits: Tensor

    @property
    def chances(self) -> Tensor:
        """[B, K, T] in [0, 1]: the geometric mean of choice and claim, 0 where a candidate is not allowed."""
        chances = (0.5 * (self.log_scores[..., :-1] + self.log_claims)).exp()
        return torch.where(self.candidates.allowed, chances, 0.0)


@torch.no_grad()
def collect_candidates(
    peaks: Peaks,
    detections: Detections,
    prior: GaussianPrior,
    margin: float = 0.5,
    most: int = 4,
    num_rivals: int = 2,
    pack: bool = True,
    hopeless: float = math.inf,
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
        hopeless: a pair is left out when both its box has a peak of the keypoint and its peak has a box whose
            log-likelihood is higher by more than this.
    """
    (n, num_keypoints, max_peaks), num_pairs = peaks.scores.shape, peaks.scores.shape[1:].numel()
    boxes = _Boxes.of(detections, pack)

    # x and y lie in planes of their own, here and below: arithmetic on pairs of numbers is slow.
    planes = peaks.xy.movedim(-1, 0).reshape(2, n, num_pairs)
    points = planes.index_select(1, boxes.picture).movedim(0, -1).unflatten(1, (num_keypoints, max_peaks))
    shares = points_to_shares(points, boxes.edges[:, None, None])  # [B, K, M, 2]
    inside = (shares > -margin) & (shares < 1 + margin)
    there = peaks.valid.index_select(0, boxes.picture) & boxes.real[:, None, None]
    near = there & inside[..., 0] & inside[..., 1]
    standard = prior.standardise(shares)
    distance = standard[..., 0].square() + standard[..., 1].square()
    fits = torch.where(near, (-0.5 * distance).clamp(min=-_FARTHEST), -torch.inf)
    claims = _Claims.of(fits.flatten(1), boxes, detections.valid.shape, num_rivals)
    heights = peaks.scores.index_select(0, boxes.picture).clamp(min=_LEAST_SCORE).log()
    peak = (fits + heights).topk(min(most, max_peaks), dim=-1).indices  # [B, K, T]
    fit = fits.gather(2, peak)
    best_of_box = fits.amax(-1, keepdim=True) if max_peaks else fits
    allowed = fit > -torch.inf
    if hopeless < math.inf:
        keypoint = torch.arange(num_keypoints, device=fit.device)[:, None]
        number = (boxes.picture[:, None, None] * num_keypoints + keypoint) * max_peaks + peak
        best_of_peak = claims.fits[0].index_select(0, number.flatten()).view(fit.shape)
        allowed = allowed & (fit >= torch.minimum(best_of_box, best_of_peak) - hopeless)
        fit = torch.where(allowed, fit, -torch.inf)

    tokens = _Tokens.of(allowed, peak, boxes.picture, max_peaks, pack)
    box_features = _box_features(boxes, allowed, detections.valid)
    rival_features, rivals, claimants = _rivals(fits.flatten(1), boxes, tokens, planes.flatten(1), claims)
    seen_from_box = torch.cat([_planes(shares), _planes(standard)]).flatten(1).index_select(1, tokens.cell)
    of_keypoint = torch.stack([best_of_box.sum(-1), near.sum(-1).log1p()]).flatten(1)
    best_fit, alike = of_keypoint.index_select(1, tokens.row * num_keypoints + tokens.keypoint)
    own_fit = fits.flatten().index_select(0, tokens.cell)
    own = [
        2 * seen_from_box[:2] - 1,
        seen_from_box[2:].clamp(-6, 6) / 3,
        torch.stack(
            [
                own_fit / 10,
                (own_fit - best_fit) / 10,
                peaks.scores.flatten().index_select(0, tokens.number),
                tokens.rank / most,
                alike,
                claimants.log1p(),
            ]
        ),
    ]
    features = torch.cat([box_features.T.index_select(1, tokens.row), *own, rival_features.flatten(0, 1)])
    if not pack:
        features = torch.where(tokens.valid, features, 0.0)
    return Candidates(
        boxes.picture,
        boxes.slot,
        peak,
        allowed,
        fit,
        tokens.row,
        tokens.place,
        tokens.keypoint,
        tokens.valid,
        features.T,
        box_features,
        _evidence(peaks, tokens),
        _told(peaks, peaks.appearance, 0, tokens),
        _seen(peaks, tokens, boxes.slot),
        rivals,
        (*detections.valid.shape, max_peaks),
        pack,
    )


@dataclass(frozen=True)
class _Boxes:
    """The B boxes that are asked: edges [B, 4], logarithms of sides of at least a pixel [B, 2], scores [B]; real [B]
    bool, there and not without area.
    """

    picture: Tensor
    slot: Tensor
    edges: Tensor
    log_sides: Tensor
    scores: Tensor
    real: Tensor

    @classmethod
    def of(cls, detections: Detections, pack: bool) -> _Boxes:
        people = detections.valid.shape[1]
        valid = detections.valid.flatten()
        at = valid.nonzero()[:, 0] if pack else torch.arange(len(valid), device=valid.device)
        edges = detections.boxes.flatten(0, 1).index_select(0, at)
        sides = edges[:, 2:] - edges[:, :2]
        real = (sides > 0).all(-1) & valid.index_select(0, at)
        scores = detections.scores.flatten().index_select(0, at)
        return cls(at // max(1, people), at % max(1, people), edges, sides.clamp(min=1.0).log(), scores, real)


@dataclass(frozen=True)
class _Tokens:
    """Which candidates become the S tokens, all [S].

    Args:
        row: of B boxes; keypoint: of K; rank: of T, 0 the likeliest; place: of K x T; valid: bool.
        pair: which keypoint's peak, of K x M; cell: that of this box, of B x K x M; number: of this picture, of
            N x K x M.
    """

    row: Tensor
    keypoint: Tensor
    rank: Tensor
    place: Tensor
    valid: Tensor
    pair: Tensor
    cell: Tensor
    number: Tensor

    @classmethod
    def of(cls, allowed: Tensor, peak: Tensor, picture: Tensor, max_peaks: int, pack: bool) -> _Tokens:
        num_keypoints, most = allowed.shape[1:]
        if pack:
            row, keypoint, rank = allowed.nonzero(as_tuple=True)
        else:
            every = (torch.arange(size, device=allowed.device) for size in allowed.shape)
            row, keypoint, rank = (axis.flatten() for axis in torch.meshgrid(*every, indexing="ij"))
        place = keypoint * most + rank
        at = row * (num_keypoints * most) + place
        pair = keypoint * max_peaks + peak.flatten().index_select(0, at)
        num_pairs = num_keypoints * max_peaks
        number = picture.index_select(0, row) * num_pairs + pair
        valid = allowed.flatten().index_select(0, at)
        return cls(row, keypoint, rank, place, valid, pair, row * num_pairs + pair, number)


def _told(peaks: Peaks, values: Tensor | None, columns: int, tokens: _Tokens) -> Tensor:
    """[S, C], what ``values`` [N, K, M, C] tell of each token's peak; so many columns of 0 where there are none."""
    if values is None:
        return peaks.scores.new_zeros(len(tokens.row), columns)
    own = values.flatten(0, 2).index_select(0, tokens.number)
    return torch.where(tokens.valid[:, None], own, 0.0)


def _evidence(peaks: Peaks, tokens: _Tokens) -> Tensor:
    told = _told(peaks, peaks.evidence, peaks.scores.shape[1], tokens)
    # Roots, because what matters is whether little is nothing.
    return told if peaks.evidence is None else told.clamp(0, 1).sqrt()


def _seen(peaks: Peaks, tokens: _Tokens, slot: Tensor) -> Tensor:
    if peaks.seen_by is None:
        return peaks.scores.new_zeros(len(tokens.row))
    at = tokens.number * peaks.seen_by.shape[-1] + slot.index_select(0, tokens.row)
    return torch.where(tokens.valid, peaks.seen_by.flatten().index_select(0, at), 0.0)


def _planes(points: Tensor) -> Tensor:
    """[..., 2] as [2, ...]."""
    return points.movedim(-1, 0)


def _box_features(boxes: _Boxes, allowed: Tensor, valid: Tensor) -> Tensor:
    """[B, BOX_FEATURES]: size, shape, score, how much lies in the window and how many people are in the picture."""
    width, height = boxes.log_sides.unbind(-1)
    usual = math.log(_USUAL_SIDE)
    seen = allowed.any(-1).float().mean(-1)
    company = valid.sum(1)[boxes.picture].log1p() / 2
    return torch.stack([width - usual, height - usual, width - height, boxes.scores, seen, company], dim=-1)


@dataclass(frozen=True)
class _Claims:
    """The boxes that suit each of the N x K x M peaks best, the best first; all but ``rows`` are [R + 1, N x K x M].

    Args:
        fits: log-likelihoods, -inf for none; slots: of the picture; count: [N x K x M], boxes that have the peak in
            their window.
        rows: [N x room] long, which of the B boxes has a slot; owner: [B] long, the first such place of its picture.
    """

    fits: Tensor
    slots: Tensor
    count: Tensor
    rows: Tensor
    owner: Tensor

    @classmethod
    def of(cls, fits: Tensor, boxes: _Boxes, slots: tuple[int, int], num_rivals: int) -> _Claims:
        # One more than is asked for, since a box itself is among the best.
        n, room = slots[0], max(slots[1], num_rivals + 1)
        owner = boxes.picture * room
        at = owner + boxes.slot
        table = fits.new_full((n * room, fits.shape[1]), -torch.inf).index_copy(0, at, fits)
        table = table.unflatten(0, (n, room))
        rows = at.new_zeros(n * room).index_copy(0, at, torch.arange(len(fits), device=at.device))
        best, best_slots = (best.transpose(0, 1).flatten(1) for best in table.topk(num_rivals + 1, dim=1))
        return cls(best, best_slots, (table > -torch.inf).sum(1).flatten(), rows, owner)


def _rivals(
    fits: Tensor, boxes: _Boxes, tokens: _Tokens, xy: Tensor, claims: _Claims
) -> tuple[Tensor, Tensor, Tensor]:
    """The other boxes that a token's peak suits best, and that peak's tokens in them.

    Args:
        fits: [B, K x M]; xy: [2, N x K x M].

    Returns:
        features [R, RIVAL_FEATURES, S], tokens [S, R] as in :class:`Candidates`, and how many boxes have the peak in
        their window [S].
    """
    rows, num_pairs = fits.shape
    best_fits, best_slots = (best.index_select(1, tokens.number) for best in (claims.fits, claims.slots))
    claimants = claims.count.index_select(0, tokens.number)
    oneself_before = (best_slots[:-1] == boxes.slot.index_select(0, tokens.row)).cumsum(0) > 0
    rival_fit = torch.where(oneself_before, best_fits[1:], best_fits[:-1])  # [R, S]
    rival_slot = torch.where(oneself_before, best_slots[1:], best_slots[:-1])
    there = (rival_fit > -torch.inf) & tokens.valid
    rival_row = claims.rows.index_select(0, (claims.owner.index_select(0, tokens.row) + rival_slot).flatten())

    table = torch.cat([boxes.edges, boxes.log_sides, boxes.scores[:, None]], dim=1).T
    own, rival = table.index_select(1, tokens.row), table.index_select(1, rival_row).unflatten(1, there.shape)
    own_fit = fits.flatten().index_select(0, tokens.cell)
    points = xy.index_select(1, tokens.number)
    shares = points_to_shares(points.T, rival[:4].movedim(0, -1))
    features = torch.cat(
        [
            torch.stack([torch.ones_like(rival_fit), (own_fit - rival_fit) / 10, rival_fit / 10, rival[6] - own[6]]),
            rival[4:6] - own[4:6, None],
            2 * _planes(shares) - 1,
        ]
    )
    features = torch.where(there, features, 0.0).transpose(0, 1)

    # Where each pair became a token; what is no valid token is written to a place that nobody reads.
    token_of = torch.full((rows * num_pairs + 1,), -1, dtype=torch.long, device=fits.device)
    token = torch.arange(len(tokens.row), device=fits.device)
    token_of = token_of.index_copy(0, torch.where(tokens.valid, tokens.cell, rows * num_pairs), token)
    rival_token = token_of.index_select(0, (rival_row.view(there.shape) * num_pairs + tokens.pair).flatten())
    return features, torch.where(there, rival_token.view(there.shape), -1).T, claimants
