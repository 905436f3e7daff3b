"""Times of several calls side by side, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Times:
    """Milliseconds of every call: on the clock, and of the processor, of all threads together."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """On the clock."""
        return statistics.median(self.wall)


def take_turns(
    candidates: Mapping[Hashable, Callable[[], object]], rounds: int, warm_up: int = 2, shuffled: bool = False
) -> dict[Hashable, Times]:
    """Times of every candidate, each called once a round.

    Args:
        candidates: what to call, by name.
        rounds: that count; at least one.
        warm_up: rounds before them that do not.
        shuffled: in another order every round, always the same orders.
    """
    times = {name: Times() for name in candidates}
    names, dice = list(candidates), random.Random(0)
    for number in range(warm_up + rounds):
        if shuffled:
            dice.shuffle(names)
        for name in names:
            wall, processor = time.perf_counter(), time.process_time()
            candidates[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= warm_up:
                times[name].wall.append(1000 * (time.perf_counter() - wall))
                times[name].processor.append(1000 * (time.process_time() - processor))
    return times
