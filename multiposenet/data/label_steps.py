"""The steps of a pass over samples that lie packed in memory: drawn whole, and shared by the processes that train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from multiposenet.distributed import rank, world_size
from multiposenet.structures import TensorFields

StepBatch = TypeVar("StepBatch", bound=TensorFields)


def draw_steps(
    steps: Sequence[Tensor],
    draw: Callable[[Tensor, torch.Generator], StepBatch],
    names: Sequence[str],
    generator: torch.Generator,
    first_step: int = 0,
) -> Iterator[StepBatch]:
    """This process's part of every step; all parts together are what a process alone would have.

    Args:
        steps: the samples of each step [N], as ``draw`` and ``names`` count them.
        draw: (samples, dice) -> their batch, with a sample a row and a field ``names``.
        names: of every sample's picture, for messages; empty where nobody knows them.
        generator: draws the dice of every step.
        first_step: steps to leave out at the start.
    """
    # Every step has dice of its own, so that none depends on the steps before it.
    dice = torch.randint(2**62, (len(steps),), generator=generator, device=generator.device).tolist()
    for samples, seed in list(zip(steps, dice, strict=True))[first_step:]:
        # Each process draws the whole step and keeps its rows, for what is random about a row depends on its place in
        # the step. That is work done twice, but little beside the network's.
        batch = draw(samples, generator.manual_seed(seed))
        mine = _own_part(len(samples))
        named = tuple(names[sample] for sample in samples[mine].tolist()) if names else ()
        yield replace(batch.pictures(mine), names=named)


def _own_part(count: int) -> slice:
    """This process's rows of so many; processes that are more than there are rows have none."""
    size, larger = divmod(count, world_size())
    first = rank() * size + min(rank(), larger)
    return slice(first, first + size + (rank() < larger))
