"""Which picture is in which batch, and by which dice it is changed: fixed by seed, epoch and place in the epoch alone.

Neither the number of worker processes nor of training processes matters, and any place in an epoch can be started
from. That is what lets an interrupted training go on bit for bit.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from multiposenet.bad_input import UNREADABLE
from multiposenet.data.pictures import PictureError
from multiposenet.distributed import rank, world_size

_SIGNALS_TELL_THEIR_SENDER = hasattr(signal, "sigwaitinfo")


@dataclass(frozen=True)
class Draw:
    """One picture of an epoch: its place in the dataset, and the seed of all that is random about it."""

    index: int
    seed: int


class EpochBatches(Sampler[list[Draw]]):
    """Batches of one epoch, shuffled; every training process gets its part of each step.

    Args:
        size: pictures in the dataset, or, where it is several one after the other, in each.
        count: pictures an epoch; more than there are starts the (newly shuffled) dataset again.
        step_size: pictures of a step over all processes and passes.
        seed, epoch: fix the order and every draw's seed.
        passes: batches that each process makes of its part of a step (gradient accumulation).
        first_step: steps to leave out at the start of the epoch.
        shares: how much of an epoch comes from each of several datasets, in any unit; by default what their sizes say.

    Raises:
        ValueError: a step cannot be divided evenly, the data are too few for one step, or ``shares`` are not one
            positive number a dataset.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        count: int,
        step_size: int,
        seed: int,
        epoch: int,
        passes: int = 1,
        first_step: int = 0,
        shares: Sequence[float] | None = None,
    ) -> None:
        sizes = [size] if isinstance(size, int) else list(size)
        parts = world_size() * passes
        if step_size % parts:
            raise ValueError(
                f"a batch of {step_size} pictures cannot be divided among {world_size()} processes with {passes} "
                f"passes each; choose a multiple of {parts}"
            )
        if min(sizes, default=0) < 1 or count < 1:
            there = " and ".join(map(str, sizes)) or "no"
            raise ValueError(f"there are {there} pictures to train on and {count} wanted an epoch; need at least one")
        if shares is not None and (len(shares) != len(sizes) or min(shares) <= 0):
            raise ValueError(f"shares must be {len(sizes)} positive numbers, one a dataset, got {list(shares)}")
        self.steps = max(1, count // step_size)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        wanted = self.steps * step_size
        if shares is None:
            order = _shuffled(sum(sizes), wanted, generator)
        else:
            firsts = [sum(sizes[:number]) for number in range(len(sizes))]
            own = zip(sizes, firsts, _divided(wanted, shares), strict=True)
            order = torch.cat([first + _shuffled(size, part, generator) for size, first, part in own])
            order = order[torch.randperm(wanted, generator=generator)]
        self._indices = order.view(self.steps, passes, world_size(), -1)
        self._seeds = torch.randint(2**62, (wanted,), generator=generator).view_as(self._indices)
        self._first_step = first_step

    def __len__(self) -> int:
        return (self.steps - self._first_step) * self._indices.shape[1]

    def __iter__(self) -> Iterator[list[Draw]]:
        for indices, seeds in zip(self._indices[self._first_step :], self._seeds[self._first_step :], strict=True):
            for own, dice in zip(indices[:, rank()].tolist(), seeds[:, rank()].tolist(), strict=True):
                yield [Draw(index, seed) for index, seed in zip(own, dice, strict=True)]


def _shuffled(size: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the numbers below ``size``, each as often as any other but for the last round."""
    rounds = [torch.randperm(size, generator=generator) for _ in range(-(-count // size))]
    return torch.cat([*rounds, torch.empty(0, dtype=torch.long)])[:count]


def _divided(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to the shares that add up to ``total``."""
    bounds = [round(total * sum(shares[:number]) / sum(shares)) for number in range(len(shares) + 1)]
    return [high - low for low, high in pairwise(bounds)]


class DrawnPictures(Dataset):
    """A dataset asked by :class:`Draw`: what its transforms take from torch's generator depends on the draw alone."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: Draw) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw.seed)
            try:
                return self.dataset[draw.index]
            except RuntimeError as error:
                # Said here, for on the way from a process that reads ahead to the one that trains causes are lost.
                if isinstance(error.__cause__, UNREADABLE):
                    raise PictureError(str(error)) from error
                raise


def open_loader(
    dataset: Dataset, batches: EpochBatches, collate: Callable[[Sequence], Any], workers: int, pin_memory: bool = False
) -> DataLoader:
    """A loader of those batches."""
    return _PatientLoader(
        DrawnPictures(dataset),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        # The draws' seeds decide; the loader's own base seed must not take a number from the training's generator.
        generator=torch.Generator().manual_seed(0),
    )


class _PatientLoader(DataLoader):
    """A loader whose workers are born with SIGTERM blocked, and so are all threads that PyTorch starts in them."""

    def __iter__(self) -> Iterator:
        if not _SIGNALS_TELL_THEIR_SENDER:
            return super().__iter__()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)  # or the workers fight over the cores
    if _SIGNALS_TELL_THEIR_SENDER:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # where workers do not inherit it
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(trainer: int) -> None:
    """Ends this process when the one that trains says so, and nobody else.

    Who stops a training often tells all of its processes (a terminal's group, systemd, torchrun). The one that trains
    must still get batches until it has saved; then it ends its workers by the same signal, which they must not ignore.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
