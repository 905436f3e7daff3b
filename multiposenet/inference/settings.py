"""What every way of looking at pictures is told, and what it offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from multiposenet.options import choose
from multiposenet.precision import PRECISIONS, in_precision
from multiposenet.structures import PersonBoxes, Poses


@dataclass(frozen=True)
class RunnerSettings:
    """How to run a method.

    Args:
        device: where.
        image_size: the long side that the network sees, of a picture or of a person's crop; pixels.
        flip: average with the mirrored version.
        scales: multiples of ``image_size`` to run at and average over; the first is the frame of reference.
        batch_size: pictures or crops a forward.
        precision: what the network calculates in, a key of ``precision.PRECISIONS``.
        timed: clocks a stage by its name (``prepare``, ``network``, ``decode``).

    Raises:
        ValueError: there is no such precision.
    """

    device: torch.device
    image_size: int
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    batch_size: int = 8
    precision: str = "fp32"
    timed: Callable[[str], AbstractContextManager] = lambda stage: nullcontext()

    def __post_init__(self) -> None:
        choose("precision", self.precision, PRECISIONS)

    @property
    def sizes(self) -> list[int]:
        """The long side at each scale."""
        return [round(self.image_size * scale) for scale in self.scales]

    @property
    def mirrorings(self) -> tuple[bool, ...]:
        """Whether to mirror, of every version to look at."""
        return (False, True) if self.flip else (False,)

    @contextmanager
    def network(self) -> Iterator[None]:
        """What the network is run in: clocked, and in its precision."""
        with self.timed("network"), in_precision(self.precision, self.device):
            yield


class Runner(Protocol):
    """Takes pictures through a model and its decoder."""

    def poses(self, pictures: Sequence[np.ndarray], boxes: Sequence[PersonBoxes] | None) -> list[Poses]:
        """Poses of pictures [H, W, 3] uint8 RGB, each in its own pixels.

        Args:
            pictures: of any sizes; no result depends on the others.
            boxes: of every picture the people's boxes, where they are known.
        """

    def boxes(self, pictures: Sequence[np.ndarray]) -> list[PersonBoxes]:
        """The people's boxes alone, best first, for another method to look into."""
