"""From scores of pairs to who gets what: three rules behind one signature.

An assignment takes scores [..., P, M] of rows (people) and columns (peaks), each problem of the leading axes by itself,
and returns [..., P] long, the column of each row, -1 for none. Pairs with a score <= 0 are never made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Assignment = Callable[[Tensor], Tensor]


def assign_one_to_one(scores: Tensor) -> Tensor:
    """Gives rows (people) distinct columns (peaks): always the best remaining pair next.

    Pairs that are the best of both their row and their column are taken at once, round after round; the outcome is
    that of taking pairs one by one in order of score, in far fewer steps. Of equal scores the first row, then the
    first column wins.

    Args:
        scores: [..., P, M]; pairs with a score <= 0 are never made.

    Returns:
        [..., P] long, the column of each row, -1 for none.
    """
    chosen = scores.new_full(scores.shape[:-1], -1, dtype=torch.long)
    if 0 in scores.shape:
        return chosen
    rows, columns = (torch.arange(size, device=scores.device) for size in scores.shape[-2:])
    remaining = scores.clone()
    # Each round settles at least one pair of every problem that has any left.
    for _ in range(min(scores.shape[-2:])):
        best, column = remaining.max(dim=-1)  # of each row
        row = remaining.max(dim=-2).indices  # of each column
        mutual = (row.gather(-1, column) == rows) & (best > 0)
        if not bool(mutual.any()):
            break
        chosen = torch.where(mutual, column, chosen)
        taken = (column.gather(-1, row) == columns) & mutual.gather(-1, row)
        remaining.masked_fill_(mutual[..., None] | taken[..., None, :], 0)
    return chosen


def assign_optimally(scores: Tensor) -> Tensor:
    """Gives rows distinct columns so that the sum of the scores is largest (``scipy.optimize.linear_sum_assignment``).

    Arguments and result as for :func:`assign_one_to_one`. One problem at a time, on the CPU: for measuring, and where
    the sum counts more than the time. Rows and columns without any positive score do not enter.
    """
    chosen = scores.new_full(scores.shape[:-1], -1, dtype=torch.long)
    if 0 in scores.shape:
        return chosen
    answers = chosen.view(-1, scores.shape[-2])
    problems = scores.detach().reshape(-1, *scores.shape[-2:]).cpu()
    for problem in problems.flatten(1).gt(0).any(1).nonzero()[:, 0].tolist():
        positive = problems[problem] > 0
        rows, columns = positive.any(1).nonzero()[:, 0], positive.any(0).nonzero()[:, 0]
        table = problems[problem][rows][:, columns].clamp(min=0)
        picked_rows, picked_columns = (torch.from_numpy(part) for part in linear_sum_assignment(table, maximize=True))
        made = table[picked_rows, picked_columns] > 0
        answers[problem, rows[picked_rows[made]]] = columns[picked_columns[made]].to(chosen.device)
    return chosen


def assign_publicly(scores: Tensor) -> Tensor:
    """The greedy rule of the public implementations of the pose residual network.

    Each row by itself takes the best column of which it is the best row, or of which the best row is another one that
    thinks least of it among all columns (one that it cannot have counts as 0). So a column can go to two rows, and a
    row that always comes second gets nothing. Here to compare with published figures.

    Arguments and result as for :func:`assign_one_to_one`.
    """
    if 0 in scores.shape[-2:]:
        return scores.new_full(scores.shape[:-1], -1, dtype=torch.long)
    scores = scores.clamp(min=0)
    offered = (scores > 0).any(-2, keepdim=True)  # columns that anybody could have
    best, best_row = scores.max(dim=-2, keepdim=True)
    worst = torch.where(offered, scores, torch.inf).amin(-1)  # of each row
    spared = best == worst.gather(-1, best_row.squeeze(-2)).unsqueeze(-2)
    rows = torch.arange(scores.shape[-2], device=scores.device)[:, None]
    score, column = torch.where((rows == best_row) | spared, scores, 0.0).max(-1)
    return torch.where(score > 0, column, -1)


ASSIGNMENTS: dict[str, Assignment] = {
    "one_to_one": assign_one_to_one,
    "optimal": assign_optimally,
    "public": assign_publicly,
}
