"""Set assignment: which of the peaks around a box are its person's keypoints, decided over all of them together.

The task is that of the pose residual network (MultiPoseNet, sec. 3.4), the answer is another one. There is no grid: the
peaks in a box's window are a set of tokens that attend to each other (Vaswani et al., NeurIPS 2017), so that no place
is rounded and two peaks are never one blob. A token knows which other boxes its peak suits, and between layers it hears
from the same peak's tokens in those boxes, so that a peak claimed twice counts. The answer is a residual too: what the
network adds to the log-likelihood of a Gaussian prior; untrained it *is* the prior. Every pair is judged from both
sides: which of the peaks is this person's nose, and which of the people's is this nose.
"""

from __future__ import annotations

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
from multiposenet.geometry import points_to_shares
from multiposenet.prior import GaussianPrior
from multiposenet.structures import Detections, Peaks

NONE_AT_START = -4.0
"""Log-likelihood of "none of these" before training: about three standard deviations off."""

SEEN_WEIGHT = 0.1
"""Weight of keypoints that have a peak in the loss of positions: where one has a peak nobody asks for the position."""

FARTHEST_SHARE = 1.0
"""Positions are learnt up to this many box sides outside the box."""

BOXES_ALIKE = 32
"""Boxes in one table of attention."""


class SetAssignment(nn.Module):
    """Attention among the candidates of each box, with an exchange between boxes after every layer but the last.

    Args:
        num_keypoints: K.
        width: of a token; a multiple of ``heads``.
        layers: rounds of attention.
        heads: of the attention.
        expansion: hidden width of the perceptrons, as a multiple of ``width``.
        margin, candidates, rivals: see ``candidates.collect_candidates``.

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
    ) -> None:
        super().__init__()
        if min(width, layers, heads, expansion, candidates, rivals) < 1 or width % heads:
            raise ValueError(
                "width, layers, heads, expansion, candidates and rivals must be at least 1 and width a multiple of "
                f"heads, got {width}, {layers}, {heads}, {expansion}, {candidates}, {rivals}"
            )
        self.num_keypoints = num_keypoints
        self.margin, self.candidates, self.rivals = margin, candidates, rivals
        self.prior = GaussianPrior(num_keypoints)
        token_features = BOX_FEATURES + OWN_FEATURES + rivals * RIVAL_FEATURES
        self.embed_token = nn.Sequential(nn.Linear(token_features, width), nn.GELU(), nn.Linear(width, width))
        self.embed_keypoint = nn.Embedding(num_keypoints, width)
        self.embed_box = nn.Sequential(nn.Linear(BOX_FEATURES, width), nn.GELU(), nn.Linear(width, width))
        self.among_tokens = nn.ModuleList(AmongTokens(width, heads, expansion * width) for _ in range(layers))
        self.among_boxes = nn.ModuleList(AmongBoxes(width) for _ in range(layers - 1))
        self.score_token = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2))
        self.nobody = nn.Parameter(torch.full((num_keypoints, 1), NONE_AT_START))
        self.describe_person = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 3 * num_keypoints)
        )
        for head in (self.score_token[-1], self.describe_person[-1]):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, peaks: Peaks, detections: Detections, pack: bool = True) -> CandidateScores:
        """Scores the candidates of all boxes of all pictures.

        Args:
            peaks, detections: of N pictures, in the same pixels; K keypoints.
            pack: see ``candidates.collect_candidates``.

        Raises:
            ValueError: the peaks have another number of keypoints.
        """
        if peaks.scores.shape[1] != self.num_keypoints:
            raise ValueError(
                f"peaks have {peaks.scores.shape[1]} keypoints, this network was made for {self.num_keypoints}; "
                "use a network of the same skeleton"
            )
        found = collect_candidates(peaks, detections, self.prior, self.margin, self.candidates, self.rivals, pack)
        return self.score(found)

    def score(self, found: Candidates) -> CandidateScores:
        """Scores candidates that are already gathered."""
        boxes = len(found.box_features)
        tokens = self.embed_token(found.features) + self.embed_keypoint(found.keypoint)
        x = torch.cat([self.embed_box(found.box_features), tokens])  # [B + S, width]
        layout, rivals = lay_out(found), _after_boxes(found.rivals, boxes)
        for layer, attend in enumerate(self.among_tokens):
            x = attend(x, layout)
            if layer < len(self.among_boxes):
                x = self.among_boxes[layer](x, rivals)

        person = self.describe_person(x[:boxes]).view(-1, self.num_keypoints, 3)
        chosen, claimed = (found.to_table(part) for part in self.score_token(x[boxes:]).unbind(-1))
        logits = torch.cat([found.fit + chosen, person[..., :1] + NONE_AT_START], dim=-1)
        log_claims, log_nobody = self._claims(found, found.fit + claimed)
        positions = self.prior.mean + person[..., 1:]
        return CandidateScores(found, logits.log_softmax(-1), log_claims, log_nobody, positions)

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
        self, peaks: Peaks, detections: Detections, answer: Tensor, truth: Tensor, labelled: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy of each keypoint's choice among peaks and of each peak's among boxes; error of positions.

        Args:
            peaks, detections: as for :meth:`forward`.
            answer: [N, P, K] long, the peak that is the keypoint of each box's person, -1 where there is none.
            truth: [N, P, K, 2] image pixels, where the keypoints really are.
            labelled: [N, P, K] bool, where ``truth`` means something.
            weight: [N, P, K], of each choice; 0 leaves it out.

        Returns:
            ``choice``: of a keypoint, among its candidates and "none of these"; ``claim``: of a peak that lies in some
            window, among the boxes and "nobody"; ``position``: L1 distance in box sides, mostly of keypoints without a
            peak. Means; 0 when there is nothing to learn from.
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
        return {
            "choice": (entropy * weight[at]).sum() / count_over_processes(weight[at].sum()),
            "claim": claim / count_over_processes(in_window.sum()),
            "position": torch.where(needed > 0, distance * needed, 0.0).sum() / count_over_processes(needed.sum()),
        }


@dataclass(frozen=True)
class Layout:
    """How B boxes and their S tokens, rows one below the other (boxes first), lie in padded tables for attention.

    A crowd's box has fifty tokens where most have ten; so boxes with about as many stand in one table, and everything
    but attention itself works on the rows.

    Args:
        tables: (rows [b, l] long, heard [b, l] bool) of every table; what is not heard is padding or not valid.
        back: [B + S] long, each row's place in the flattened tables, one after the other.
    """

    tables: tuple[tuple[Tensor, Tensor], ...]
    back: Tensor


def lay_out(found: Candidates) -> Layout:
    """Each box's own row, then its tokens', in tables of boxes of similar length."""
    count, boxes, tokens = found.count, len(found.box_features), len(found.row)
    device = count.device
    first = boxes + count.cumsum(0) - count
    if found.packed:
        order = count.argsort()
        parts = order.split(BOXES_ALIKE)
        lengths = [int(length) for length in count[order[BOXES_ALIKE - 1 :: BOXES_ALIKE]].tolist()]
        lengths += [int(count.max())] if boxes % BOXES_ALIKE else []
    else:
        parts, lengths = (torch.arange(boxes, device=device),), [tokens // max(1, boxes)]
    valid = F.pad(found.valid, (boxes, 0), value=True)
    tables, start = [], 0
    back = torch.zeros(boxes + tokens + 1, dtype=torch.long, device=device)
    for part, length in zip(parts, lengths, strict=True) if boxes else ():
        number = torch.arange(length, device=device)
        inside = F.pad(number < count[part, None], (1, 0), value=True)
        rows = torch.cat([part[:, None], first[part, None] + number], dim=1)
        places = start + torch.arange(rows.numel(), device=device).view(rows.shape)
        # Padding writes to a place that nobody reads.
        back[torch.where(inside, rows, boxes + tokens)] = places
        rows = torch.where(inside, rows, 0)
        tables.append((rows, inside & valid[rows]))
        start += rows.numel()
    return Layout(tuple(tables), back[:-1])


def _after_boxes(rivals: Tensor, boxes: int) -> Tensor:
    """Tokens' rivals [S, R] as rows [B + S, R]: boxes, which have none, come first."""
    return F.pad(torch.where(rivals >= 0, rivals + boxes, -1), (0, 0, boxes, 0), value=-1)


class AmongTokens(nn.Module):
    """Attention among a box and its tokens, then a perceptron; both on normalised input, both added to it."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width)
        self.answer = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """x: [B + S, width], boxes first; the same shape comes out."""
        asked = self.ask(self.norm(x))
        tables = [self._attend(asked, rows, heard) for rows, heard in layout.tables]
        mixed = torch.cat([asked.new_zeros(0, x.shape[1]), *tables]).index_select(0, layout.back)
        x = x + self.answer(mixed)
        return x + self.perceptron(x)

    def _attend(self, asked: Tensor, rows: Tensor, heard: Tensor) -> Tensor:
        """[b x l, width] of one table."""
        width = asked.shape[1] // (3 * self.heads)
        table = asked.index_select(0, rows.flatten()).view(*rows.shape, 3, self.heads, width)
        queries, keys, values = table.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=heard[:, None, None])
        return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


class AmongBoxes(nn.Module):
    """What a peak's tokens in other boxes say: the largest of their messages, 0 where no other box has the peak."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.message = nn.Linear(width, width)
        self.own = nn.Linear(width, width)
        self.answer = nn.Linear(width, width)

    def forward(self, x: Tensor, rivals: Tensor) -> Tensor:
        """x: [B + S, width]; rivals: [B + S, R] long, rows of x, -1 for none."""
        asked = self.norm(x)
        messages = F.pad(self.message(asked).relu(), (0, 0, 0, 1))  # the last row says nothing
        heard = torch.where(rivals >= 0, rivals, len(x)).flatten()
        messages = messages.index_select(0, heard).view(*rivals.shape, x.shape[1]).amax(1)
        return x + self.answer(F.gelu(self.own(asked) + messages))
