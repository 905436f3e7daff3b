"""Set assignment: which of the peaks around a box are its person's keypoints, decided over all of them together.

The task is that of the pose residual network (MultiPoseNet, sec. 3.4), the answer is another one. There is no grid: the
peaks in a box's window are a set of tokens that attend to each other (Vaswani et al., NeurIPS 2017), so that no place
is rounded and two peaks are never one blob. A token knows which other boxes its peak suits, and between layers it hears
from the same peak's tokens in those boxes, so that a peak claimed twice counts. The answer is a residual too: what the
network adds to the log-likelihood of a Gaussian prior; untrained it *is* the prior. Every pair is judged from both
sides: which of the peaks is this person's nose, and which of the people's is this nose. At last the network judges
its own work: how similar to a true person (OKS) what it made of a box will be, which is what people are ranked by.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multiposenet.candidates import (
    BOX_FEATURES,
    OWN_FEATURES,
    RIVAL_FEATURES,
    Candidates,
    CandidateScores,
    collect_candidates,
)
from multiposenet.distributed import count_over_processes
from multiposenet.geometry import points_to_shares, shares_to_points
from multiposenet.models.linear import Linear, Perceptron
from multiposenet.prior import GaussianPrior
from multiposenet.structures import Detections, Peaks

NONE_AT_START = -4.0
"""Log-likelihood of "none of these" before training: about three standard deviations off."""

SEEN_WEIGHT = 0.1
"""Weight of keypoints that have a peak in the loss of positions: where one has a peak nobody asks for the position."""

LEAST_CHANCE = 1e-3
"""Smaller ones are heard as this one, where logarithms are taken."""

TAKEN = 0.1
"""Chance from which on a peak is preferred to the expected place, when people are judged."""

FARTHEST_SHARE = 1.0
"""Positions are learnt up to this many box sides outside the box."""

STEP = 16
"""The length of a table is a multiple of this: whole vectors of single-precision numbers."""

PADDING = 20_000
"""So many padded pairs of places cost as much as another table of attention."""


class SetAssignment(nn.Module):
    """Attention among the candidates of each box, with an exchange between boxes after every layer but the last.

    Args:
        num_keypoints: K.
        width: of a token; a multiple of ``heads``.
        layers: rounds of attention.
        heads: of the attention.
        expansion: hidden width of the perceptrons, as a multiple of ``width``.
        margin, candidates, rivals, hopeless: see ``candidates.collect_candidates``. Pairs that are 20 times (3 nats)
            less likely than others on both sides are left out: with them AP is the same, and a crowd has 1.6 times
            as many tokens.
        evidence: hear what all maps hold where a peak is (``Peaks.evidence``): whether a left knee looks like a right
            one or like an elbow. For peaks of heatmaps; peaks made of labels have none.
        appearance: hear so many features of those that the maps were predicted from (``Peaks.appearance``).
        hearing: hidden width of the perceptron that hears evidence and appearance, as a multiple of ``width``.
        looks: hear whether the box's person has the keypoint there by the person's own maps (``Peaks.seen_by``).

    Raises:
        ValueError: ``width`` is no multiple of ``heads``, or a number is not positive.
    """

    def __init__(
        self,
        num_keypoints: int,
        width: int = 64,
        layers: int = 3,
        heads: int = 4,
        expansion: int = 2,
        margin: float = 0.5,
        candidates: int = 4,
        rivals: int = 2,
        hopeless: float = 3.0,
        evidence: bool = False,
        appearance: int = 0,
        hearing: int = 1,
        looks: bool = False,
    ) -> None:
        super().__init__()
        if min(width, layers, heads, expansion, candidates, rivals, hearing) < 1 or width % heads:
            raise ValueError(
                "width, layers, heads, expansion, candidates, rivals and hearing must be at least 1 and width a "
                f"multiple of heads, got {width}, {layers}, {heads}, {expansion}, {candidates}, {rivals}, {hearing}"
            )
        self.num_keypoints = num_keypoints
        self.heads, self.margin, self.candidates, self.rivals = heads, margin, candidates, rivals
        self.hopeless, self.evidence, self.appearance = hopeless, evidence, appearance
        self.prior = GaussianPrior(num_keypoints)
        token_features = BOX_FEATURES + OWN_FEATURES + rivals * RIVAL_FEATURES
        self.embed_token = Perceptron(Linear(token_features, width), nn.GELU(), Linear(width, width))
        self.embed_keypoint = nn.Embedding(num_keypoints, width)
        self.embed_evidence = None
        if evidence or appearance:
            heard = (num_keypoints if evidence else 0) + appearance
            self.embed_evidence = Perceptron(
                Linear(heard + width, hearing * width), nn.GELU(), Linear(hearing * width, width, bias=False)
            )
            # Nothing at first, so that a network that has learnt from labels can be given it.
            nn.init.zeros_(self.embed_evidence[-1].weight)
        self.embed_look = None
        if looks:
            self.embed_look = Perceptron(Linear(2, width), nn.GELU(), Linear(width, width, bias=False))
            nn.init.zeros_(self.embed_look[-1].weight)
        self.embed_box = Perceptron(Linear(BOX_FEATURES, width), nn.GELU(), Linear(width, width))
        self.among_tokens = nn.ModuleList(AmongTokens(width, heads, expansion * width) for _ in range(layers))
        self.among_boxes = nn.ModuleList(AmongBoxes(width) for _ in range(layers - 1))
        self.score_token = nn.Sequential(nn.LayerNorm(width), Linear(width, 2))
        self.nobody = nn.Parameter(torch.full((num_keypoints, 1), NONE_AT_START))
        self.describe_person = Perceptron(
            nn.LayerNorm(width), Linear(width, 2 * width), nn.GELU(), Linear(2 * width, 3 * num_keypoints)
        )
        self.judge_person = Perceptron(nn.LayerNorm(width), Linear(width, width), nn.GELU(), Linear(width, 1))
        for head in (self.score_token[-1], self.describe_person[-1], self.judge_person[-1]):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, peaks: Peaks, detections: Detections, pack: bool = True) -> CandidateScores:
        """Scores the candidates of all boxes of all pictures.

        Args:
            peaks, detections: of N pictures, in the same pixels; K keypoints.
            pack: see ``candidates.collect_candidates``.

        Raises:
            ValueError: the peaks have another number of keypoints, or another number of features than it hears.
        """
        if peaks.scores.shape[1] != self.num_keypoints:
            raise ValueError(
                f"peaks have {peaks.scores.shape[1]} keypoints, this network was made for {self.num_keypoints}; "
                "use a network of the same skeleton"
            )
        return self.score(self.collect(peaks, detections, pack))

    def collect(self, peaks: Peaks, detections: Detections, pack: bool = True) -> Candidates:
        """Gathers what :meth:`score` is asked about."""
        return collect_candidates(
            peaks, detections, self.prior, self.margin, self.candidates, self.rivals, pack, self.hopeless
        )

    def score(self, found: Candidates) -> CandidateScores:
        """Scores candidates that are already gathered."""
        boxes = len(found.box_features)
        keypoints = self.embed_keypoint(found.keypoint)
        tokens = self.embed_token(found.features) + keypoints
        if self.embed_evidence is not None:
            tokens = tokens + self.embed_evidence(torch.cat([*self._heard(found), keypoints], dim=-1))
        if self.embed_look is not None:
            # Of chances it matters as much whether 1 % is 10 % as whether 50 % is 90 %.
            told = torch.stack([found.seen, found.seen.clamp(min=LEAST_CHANCE).log() / -math.log(LEAST_CHANCE)], -1)
            tokens = tokens + self.embed_look(told)
        layout = lay_out(found)
        nobody = tokens.new_zeros(1, tokens.shape[1])
        x = torch.cat([self.embed_box(found.box_features), tokens, nobody])  # [B + S + 1, width]
        for layer, attend in enumerate(self.among_tokens):
            x = attend(x, layout)
            if layer < len(self.among_boxes):
                x = self.among_boxes[layer](x, layout.rivals)

        person = self.describe_person(x[:boxes]).view(-1, self.num_keypoints, 3)
        chosen, claimed = found.to_tables(self.score_token(x[boxes:-1]).T)
        logits = torch.cat([found.fit + chosen, person[..., :1] + NONE_AT_START], dim=-1)
        log_claims, log_nobody = self._claims(found, found.fit + claimed)
        positions = self.prior.mean + person[..., 1:]
        person_logits = self.judge_person(x[:boxes])[:, 0]
        return CandidateScores(found, logits.log_softmax(-1), log_claims, log_nobody, positions, person_logits)

    def _heard(self, found: Candidates) -> Iterator[Tensor]:
        """[S, ...] what of the maps a token hears. Peaks of no maps have nothing to tell."""
        if self.evidence:
            yield found.evidence
        if self.appearance:
            told = found.appearance
            if told.shape[1] not in (0, self.appearance):
                raise ValueError(f"peaks have {told.shape[1]} features, this network was made for {self.appearance}")
            yield told if told.shape[1] else told.new_zeros(len(told), self.appearance)

    def _claims(self, found: Candidates, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K, T] normalised over the boxes that have the same peak, and "nobody"."""
        n, slots, max_peaks = found.slots
        peaks = n * self.num_keypoints * max_peaks
        at = (found.slot[:, None, None] * peaks + found.peak_number).flatten()
        table = logits.new_full((slots * peaks,), -torch.inf).scatter(0, at, logits.flatten()).view(slots, peaks)
        nobody = self.nobody.expand(n, self.num_keypoints, max_peaks).reshape(1, peaks)
        log_claims = torch.cat([table, nobody]).log_softmax(0)
        claims = log_claims.flatten()[at].view(logits.shape)
        return claims, log_claims[-1].view(n, self.num_keypoints, max_peaks)

    def loss(
        self,
        peaks: Peaks,
        detections: Detections,
        answer: Tensor,
        truth: Tensor,
        labelled: Tensor,
        weight: Tensor,
        spread: Tensor,
        somebody: Tensor,
    ) -> dict[str, Tensor]:
        """Cross-entropy of each keypoint's choice among peaks and of each peak's among boxes; error of positions.

        Args:
            peaks, detections: as for :meth:`forward`.
            answer: [N, P, K] long, the peak that is the keypoint of each box's person, -1 where there is none.
            truth: [N, P, K, 2] image pixels, where the keypoints really are.
            labelled: [N, P, K] bool, where ``truth`` means something.
            weight: [N, P, K], of each choice; 0 leaves it out.
            spread: [N, P, K], squared pixels at which OKS counts a keypoint as similar by 1 / e: 8 area sigma^2.
            somebody: [N, P] bool, whether a box is anybody's.

        Returns:
            ``choice``: of a keypoint, among its candidates and "none of these"; ``claim``: of a peak that lies in some
            window, among the boxes and "nobody"; ``position``: L1 distance in box sides, mostly of keypoints without a
            peak; ``judgement``: cross-entropy of the similarity expected of each person and the one reached. Means; 0
            when there is nothing to learn from.
        """
        scores = self.forward(peaks, detections)
        found = scores.candidates
        at = (found.picture, found.slot)
        right = (found.peak == answer[at][..., None]) & found.allowed  # [B, K, T]
        there = right.any(-1)
        none = found.peak.shape[2]
        chosen = torch.where(there, F.pad(right.byte(), (0, 1)).argmax(-1), none)
        entropy = -scores.log_scores.gather(-1, chosen[..., None])[..., 0]

        # A peak that is no candidate of its person's box is nobody's, as far as these boxes go.
        in_window = torch.zeros(scores.log_nobody.numel(), dtype=torch.bool, device=right.device)
        owned = in_window.clone()
        in_window[found.peak_number[found.allowed]] = True
        owned[found.peak_number[right]] = True
        lost = (in_window & ~owned).view(scores.log_nobody.shape)
        claim = -torch.where(right, scores.log_claims, 0.0).sum() - torch.where(lost, scores.log_nobody, 0.0).sum()

        boxes = detections.boxes[at]
        shares = points_to_shares(truth[at], boxes[:, None]).clamp(-FARTHEST_SHARE, 1 + FARTHEST_SHARE)
        distance = (scores.positions - shares).abs().sum(-1)
        needed = torch.where(there, SEEN_WEIGHT, 1.0) * labelled[at]
        reached = self._similarity(scores, peaks, boxes, truth[at], spread[at], labelled[at])
        # Of a true person without any labelled keypoint nobody knows how similar it came out.
        judged = labelled[at].any(-1) | ~somebody[at]
        judgement = F.binary_cross_entropy_with_logits(scores.person_logits, reached, reduction="none")
        return {
            "choice": (entropy * weight[at]).sum() / count_over_processes(weight[at].sum()),
            "claim": claim / count_over_processes(in_window.sum()),
            "position": torch.where(needed > 0, distance * needed, 0.0).sum() / count_over_processes(needed.sum()),
            "judgement": torch.where(judged, judgement, 0.0).sum() / count_over_processes(judged.sum()),
        }

    @torch.no_grad()
    def _similarity(
        self, scores: CandidateScores, peaks: Peaks, boxes: Tensor, truth: Tensor, spread: Tensor, labelled: Tensor
    ) -> Tensor:
        """OKS [B] of what the scores make of each box, taken by itself; 0 where no keypoint is labelled."""
        found = scores.candidates
        points = shares_to_points(scores.positions, boxes[:, None])
        if found.peak.shape[2]:
            chance, best = scores.chances.max(-1)
            peak = found.peak.gather(-1, best[..., None])
            own = peaks.xy[found.picture].gather(2, peak[..., None].expand(-1, -1, -1, 2))[:, :, 0]
            points = torch.where((chance >= TAKEN)[..., None], own, points)
        similar = torch.exp(-(points - truth).square().sum(-1) / spread.clamp(min=1e-6))
        return (similar * labelled).sum(-1) / labelled.sum(-1).clamp(min=1)


@dataclass(frozen=True)
class Table:
    """Boxes that attend in one call, each in as many places: its own row, its tokens', then some padding.

    Args:
        boxes, length: there are boxes x length places.
        rows: [boxes x length] long, which row is in each place; nobody's where there is padding.
        heard: [boxes, 1, 1, length], added to the logits of attention: 0, or -inf for what is not there.
    """

    boxes: int
    length: int
    rows: Tensor
    heard: Tensor


@dataclass(frozen=True)
class Layout:
    """How the rows of B boxes, of their S tokens and of nobody, in this order, are arranged where they attend.

    A crowd's box has fifty tokens where most have ten; so boxes with about as many stand in one table.

    Args:
        tables: what attends together.
        places: [B + S + 1] long, the place of each row when the tables stand one after the other; nobody's is any, for
            what nobody's row becomes is never read.
        rivals: [R, B + S + 1] long, the rows of a token's rivals; nobody's for none.
    """

    tables: tuple[Table, ...]
    places: Tensor
    rivals: Tensor


def lay_out(found: Candidates) -> Layout:
    """Puts boxes with about as many tokens into a table; all boxes into one when they are not packed."""
    count, boxes, tokens = found.count, len(found.box_features), len(found.row)
    device, nobody = count.device, boxes + tokens
    first_token = boxes + count.cumsum(0) - count
    if found.packed:
        order = count.argsort(descending=True)
        shapes = _shapes([_whole_steps(1 + own) for own in count[order].tolist()])
    else:
        order = torch.arange(boxes, device=device)
        shapes = [(boxes, _whole_steps(1 + tokens // boxes))] if boxes else []
    there = torch.cat([found.valid.new_ones(boxes), found.valid, found.valid.new_zeros(1)])
    tables, start = [], 0
    for number, length in shapes:
        box = order[start : start + number]
        place = torch.arange(length, device=device)
        own, first = (of_box.index_select(0, box)[:, None] for of_box in (count, first_token))
        rows = torch.where(place <= own, first + place - 1, nobody)
        rows[:, 0] = box
        rows = rows.flatten()
        heard = torch.where(there.index_select(0, rows), 0.0, -torch.inf).view(number, 1, 1, length)
        tables.append(Table(number, length, rows, heard))
        start += number

    every = torch.cat([table.rows for table in tables]) if tables else count
    places = torch.zeros(nobody + 1, dtype=torch.long, device=device)
    places = places.index_copy(0, every, torch.arange(len(every), device=device))
    rivals = torch.where(found.rivals >= 0, found.rivals + boxes, nobody).T
    return Layout(tuple(tables), places, F.pad(rivals, (boxes, 1), value=nobody))


def _shapes(lengths: list[int]) -> list[tuple[int, int]]:
    """(boxes, length) of the tables for boxes of these lengths, longest first."""
    shapes, padding = [], 0
    for length in lengths:
        padding += shapes[-1][1] ** 2 - length**2 if shapes else 0
        if not shapes or padding > PADDING:
            shapes.append((0, length))
            padding = 0
        shapes[-1] = (shapes[-1][0] + 1, shapes[-1][1])
    return shapes


def _whole_steps(length: int) -> int:
    return math.ceil(length / STEP) * STEP


class AmongTokens(nn.Module):
    """Attention among a box and its tokens, then a perceptron; both on normalised input, both added to it."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.ask = Linear(width, 3 * width)
        self.answer = Linear(width, width)
        self.perceptron = Perceptron(
            nn.LayerNorm(width), Linear(width, hidden), nn.GELU(), Linear(hidden, width)
        )

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """x: [B + S + 1, width]; the same shape comes out."""
        if not layout.tables:
            return x
        asked = self.ask(self.norm(x))
        mixed = torch.cat([self._attend(asked, table) for table in layout.tables])
        x = x + self.answer(mixed.index_select(0, layout.places))
        return x + self.perceptron(x)

    def _attend(self, asked: Tensor, table: Table) -> Tensor:
        """asked: [B + S + 1, 3 x width]; gives [boxes x length, width] of one table."""
        # In single precision at least: learning through attention in half of it takes a CPU three times as long.
        precision = torch.promote_types(asked.dtype, torch.float32)
        parts = asked.index_select(0, table.rows).to(precision).view(table.boxes, table.length, 3, self.heads, -1)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind()
        with torch.autocast(asked.device.type, enabled=False):
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=table.heard.to(precision))
        return mixed.to(asked.dtype).transpose(1, 2).reshape(table.boxes * table.length, -1)


class AmongBoxes(nn.Module):
    """What a peak's tokens in other boxes say: the largest of their messages, 0 where no other box has the peak."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.message = Linear(width, width)
        self.own = Linear(width, width)
        self.answer = Linear(width, width)

    def forward(self, x: Tensor, rivals: Tensor) -> Tensor:
        """x: [B + S + 1, width], the last row nobody's; rivals: [R, B + S + 1] long, rows of x."""
        asked = self.norm(x)
        messages = self.message(asked)
        messages[-1:] = 0  # nobody says nothing
        loudest = functools.reduce(torch.maximum, (messages.index_select(0, rival) for rival in rivals)).relu()
        return x + self.answer(F.gelu(self.own(asked) + loudest))
