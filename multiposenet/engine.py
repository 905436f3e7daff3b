"""One training loop for every method. It knows losses and figures, not what they are called or mean."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from multiposenet.checkpoint import (
    learnt_parts,
    load_training_state,
    match_tensors,
    save_training_state,
    save_weights,
    set_damaged_aside,
    training_states,
)
from multiposenet.distributed import is_first, mean_over_processes, rank, share_buffers, wait_for_all, world_size
from multiposenet.precision import in_precision
from multiposenet.runs import BEST, LAST, LOG, append_row, drop_rows

NOT_FINITE = "not_finite.json"
"""The pictures of a step whose loss was not finite, in the run folder."""

SAVE_SECONDS = 60.0
"""Training state is written at every validation, and otherwise when this much time has passed."""

STOPPED_BY_SIGNAL = 128 + signal.SIGTERM
"""Exit status of a training that was told to stop, as a shell gives it."""


def seed_everything(seed: int) -> None:
    """Seeds PyTorch and NumPy; pictures have seeds of their own (``data.loading``)."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party transforms draw from the global generator


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Excludes sub-modules, e.g. ``backbone.conv1``, from training; :func:`set_training` fixes their statistics too.

    Raises:
        ValueError: the model has no such part.
    """
    known = dict(model.named_modules())
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise ValueError(f"cannot freeze {unknown}: the model's parts are {', '.join(learnt_parts(model))}")
    for part in parts:
        known[part].requires_grad_(False)


def set_training(model: nn.Module, frozen: Sequence[str]) -> None:
    """Training mode, but frozen parts stay in evaluation mode: their batch norm must not drift."""
    model.train()
    for part in frozen:
        model.get_submodule(part).eval()


def cosine_schedule(optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int) -> LambdaLR:
    """Linear warm-up, then half a cosine down to 1 % of the rate; stepped once a batch."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def linear_schedule(optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int) -> LambdaLR:
    """Linear warm-up from a tenth of the rate, then a straight line down to nothing; stepped once a batch."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return 0.1 + 0.9 * step / warmup_steps
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))

    return LambdaLR(optimizer, factor)


STEPS = (7 / 9, 25 / 27)
"""Shares of the training after which :func:`step_schedule` takes a tenth: Detectron2's longest schedule."""


def step_schedule(optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int) -> LambdaLR:
    """Linear warm-up from a thousandth of the rate, then a tenth after each of ``STEPS``; stepped once a batch."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return 0.001 + 0.999 * step / warmup_steps
        return 0.1 ** sum(step >= share * total_steps for share in STEPS)

    return LambdaLR(optimizer, factor)


SCHEDULES = {"cosine": cosine_schedule, "linear": linear_schedule, "steps": step_schedule}
"""(optimizer, total steps, warm-up steps) -> a schedule that is stepped once a batch."""


class _Losses(nn.Module):
    """The model and its losses as one module, the form in which DistributedDataParallel wants them."""

    def __init__(self, model: nn.Module, compute: Callable[[nn.Module, Any], dict[str, Tensor]]) -> None:
        super().__init__()
        self.model = model
        self.compute = compute

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self.compute(self.model, batch)


@dataclass
class Trainer:
    """Trains a model and keeps what a run must leave behind.

    Started by ``torchrun`` it trains with any number of processes; the first writes the files. On the CPU a run that
    was interrupted anywhere and resumed is bit for bit the run that was not.

    Args:
        model: what is trained and saved.
        compute_losses: (model, batch) -> dict of scalar losses; their sum is minimised.
        optimizer, schedule: ``schedule`` is stepped once a step, a ``ReduceLROnPlateau`` once an epoch.
        folder: the run folder.
        metadata: facts to write into every weights file (model name, options, data).
        validate: model -> figures, called in every process; ``goal`` names the one that decides which checkpoint is
            best (highest wins).
        precision: ``fp32``; ``bf16`` or ``fp16`` for autocast, the latter with scaled gradients.
        ema_decay: decay per step of the averaged weights that are validated and saved; 0 trains without.
        clip: largest gradient norm; 0 is no limit.
        frozen: names of parts that stay as they are.
        passes: batches whose gradients are averaged into one step; each counts the same, whatever is labelled in it.
        patience: stop after this many validations without a better goal; 0 never stops.
        keep: training states to keep, newest first.
        save_seconds: time between training states.
        watch: called with (step, figures) after every epoch, e.g. to write TensorBoard's files.
    """

    model: nn.Module
    compute_losses: Callable[[nn.Module, Any], dict[str, Tensor]]
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler | ReduceLROnPlateau
    folder: Path
    metadata: dict
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    goal: str = "AP"
    precision: str = "fp32"
    ema_decay: float = 0.0
    clip: float = 0.0
    frozen: tuple[str, ...] = ()
    passes: int = 1
    patience: int = 0
    keep: int = 2
    save_seconds: float = SAVE_SECONDS
    watch: Callable[[int, dict[str, float]], None] | None = None

    def __post_init__(self) -> None:
        self.epoch = 0
        self.step = 0
        self.best = -math.inf
        self.without_progress = 0
        self.sums: dict[str, Tensor] = {}
        self.steps_done = 0
        self.saved = time.perf_counter()
        self.average = None
        if self.ema_decay:
            # Early on an average over few steps must not drag random weights along.
            self.average = AveragedModel(self.model, multi_avg_fn=self._ema_update, use_buffers=True)
        self.device = next(self.model.parameters()).device
        self.losses: nn.Module = _Losses(self.model, self.compute_losses)
        if world_size() > 1:
            self.losses = DistributedDataParallel(self.losses)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def _ema_update(self, averaged: list[Tensor], current: list[Tensor], _: Tensor) -> None:
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        get_ema_multi_avg_fn(decay)(averaged, current, None)

    @property
    def result(self) -> nn.Module:
        """The weights worth keeping: averaged ones where there are any."""
        return self.model if self.average is None else self.average.module

    def fit(self, loader: Callable[[int, int], Iterable], epochs: int, validate_every: int = 1) -> None:
        """Trains up to ``epochs`` (counted from the very start, also after :meth:`resume`).

        SIGTERM saves the training state and exits.

        Args:
            loader: (epoch number, first step) -> the epoch's batches from that step on, so that an epoch depends on
                nothing but its number and can be entered anywhere.
            validate_every: epochs between validations; the last epoch is always validated.

        Raises:
            FloatingPointError: a loss or gradient is not finite; the step's pictures are in ``not_finite.json``.
            OSError: a checkpoint could not be written; earlier ones are intact.
        """
        with _told_to_stop() as stop:
            while self.epoch < epochs and not self._out_of_patience:
                start = time.perf_counter()
                figures = self._train_epoch(
                    loader(self.epoch, self.steps_done), f"epoch {self.epoch + 1}/{epochs}", stop
                )
                self.epoch, self.steps_done, self.sums = self.epoch + 1, 0, {}
                figures["train_seconds"] = time.perf_counter() - start
                validated = self.validate and (self.epoch % validate_every == 0 or self.epoch == epochs)
                if validated:
                    start = time.perf_counter()
                    share_buffers(self.result)
                    figures |= self.validate(self.result)
                    figures["validate_seconds"] = time.perf_counter() - start
                if isinstance(self.schedule, ReduceLROnPlateau):
                    self.schedule.step(figures["loss"])
                saved = self._finish_epoch(figures, epochs, bool(validated))
                # Told to stop while it was validated or saved: after the last epoch no step would notice.
                (stopped,) = self._agreed(stop.is_set())
                if stopped:
                    if not saved:
                        self._save(figures)
                    self._leave()

    @property
    def _out_of_patience(self) -> bool:
        return bool(self.patience) and self.without_progress >= self.patience

    def _train_epoch(self, batches: Iterable, title: str, stop: threading.Event) -> dict[str, float]:
        set_training(self.model, self.frozen)
        quiet = not (is_first() and sys.stderr.isatty())
        for step in tqdm(_groups(batches, self.passes), desc=title, unit=" steps", leave=False, disable=quiet):
            self._take_step(step)
            stopped, due = self._agreed(stop.is_set(), self._save_is_due)
            if stopped or due:
                self._save()
            if stopped:
                self._leave()
        if self.steps_done == 0:
            raise ValueError("the training data gave no batch; there are fewer pictures than one batch needs")
        return {name: float(value) / self.steps_done for name, value in self.sums.items()}

    def _leave(self) -> NoReturn:
        print(f"stopped by a signal at step {self.step}; go on with --resume {self.folder}", flush=True)
        sys.exit(STOPPED_BY_SIGNAL)

    def _take_step(self, batches: Sequence[Any]) -> None:
        """One optimiser step on the mean loss of some batches."""
        self.optimizer.zero_grad(set_to_none=True)
        totals: list[Tensor] = []
        own: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            batch = batch.to(self.device, non_blocking=True)
            last = number == len(batches) - 1
            with nullcontext() if last or world_size() == 1 else self.losses.no_sync():
                with in_precision(self.precision, self.device):
                    losses = self.losses(batch)
                loss = torch.stack(list(losses.values())).sum()
                self.scaler.scale(loss / len(batches)).backward()
            totals.append(loss.detach())
            for name, value in {"loss": loss, **losses}.items():
                own[name] = own.get(name, 0) + value.detach().float() / len(batches)
        self.scaler.unscale_(self.optimizer)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        norm = nn.utils.clip_grad_norm_(trained, self.clip or math.inf)
        # Asked about once a step, for every such question waits for the device.
        reported = mean_over_processes(torch.stack([*own.values(), norm]))
        # Scaled gradients may overflow: the scaler leaves such a step out and scales the next one less.
        asked = reported[:-1] if self.scaler.is_enabled() else reported
        if not bool(torch.isfinite(asked).all()):
            what = "gradient" if bool(torch.isfinite(reported[:-1]).all()) else "loss"
            self._report_not_finite(what, batches, totals, own, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.steps_done += 1
        if self.average is not None:
            self.average.update_parameters(self.model)
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        for name, value in zip(own, reported[:-1], strict=True):
            self.sums[name] = self.sums.get(name, 0) + value

    @property
    def _save_is_due(self) -> bool:
        return time.perf_counter() - self.saved > self.save_seconds

    def _agreed(self, *own: bool) -> list[bool]:
        """Whether any process says so, of each question: all must save and stop at the same step."""
        if world_size() == 1:
            return list(own)
        return (mean_over_processes(torch.tensor(own, dtype=torch.float32, device=self.device)) > 0).tolist()

    def _report_not_finite(
        self, what: str, batches: Sequence[Any], totals: Sequence[Tensor], losses: dict[str, Tensor], norm: Tensor
    ) -> None:
        """Ends a step before it is taken, by ``what`` is not finite in it.

        Args:
            batches: of this process; totals: the loss of each.
            losses: their means, by name.
            norm: the gradient's.
        """
        parts = {name: float(value) for name, value in losses.items()}
        # A loss tells whose it is; a gradient is everybody's.
        guilty = [batch for batch, total in zip(batches, totals, strict=True) if not math.isfinite(total)] or batches
        names = [name for batch in guilty for name in getattr(batch, "names", ())]
        # Every process has its own pictures; whose they are decides about the file's name.
        path = self.folder / (NOT_FINITE if is_first() else f"process{rank()}_{NOT_FINITE}")
        content = {"epoch": self.epoch, "step": self.step, "losses": parts, "gradient_norm": float(norm)}
        path.write_text(json.dumps(content | {"pictures": names}, indent=1) + "\n", encoding="utf-8")
        raise FloatingPointError(
            f"{what} is not finite at step {self.step}: {parts}, gradient norm {float(norm)}; "
            f"pictures: {', '.join(names)} (also in {path}); the last checkpoint is as it was"
        )

    def _finish_epoch(self, figures: dict[str, float], epochs: int, validated: bool) -> bool:
        """Logs an epoch, and saves where it is time to; whether it was."""
        goal = figures.get(self.goal)
        better = goal is not None and goal > self.best
        if validated:
            self.without_progress = 0 if better else self.without_progress + 1
        self.best = goal if better else self.best
        # Short epochs would spend their time on writing: at most a minute of work is at stake between validations.
        ended = self.epoch == epochs or self._out_of_patience
        (due,) = self._agreed(validated or ended or self._save_is_due)
        if is_first():
            row = {"epoch": self.epoch, "step": self.step, "lr": self.optimizer.param_groups[0]["lr"]} | figures
            append_row(self.folder / LOG, row)
            # Weights first: a state must never say that a best file was written which is not there.
            if better:
                self._save_weights(BEST, figures)
            if self.watch is not None:
                self.watch(self.step, figures)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(f"epoch {self.epoch}/{epochs}  {shown}", flush=True)
            if self._out_of_patience:
                print(f"stopped: {self.patience} validations without a better {self.goal} than {self.best:.4g}")
        if due:
            self._save(figures)
        return due

    def _save_weights(self, name: str, figures: dict[str, float]) -> None:
        facts = self.metadata | {"epoch": self.epoch, "step": self.step, "figures": _rounded(figures)}
        save_weights(self.result, self.folder / name, facts)

    def _save(self, figures: dict[str, float] | None = None) -> None:
        """Writes the last weights and the training state; ``figures`` where an epoch has just ended."""
        if is_first():
            self._save_weights(LAST, figures or {})
            state = {
                "epoch": self.epoch,
                "step": self.step,
                "steps_done": self.steps_done,
                "sums": self.sums,
                "best": self.best,
                "without_progress": self.without_progress,
                "model": self.model.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": {k: v for k, v in self.schedule.state_dict().items() if k != "lr_lambdas"},
                "scaler": self.scaler.state_dict(),
                "torch_rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            }
            save_training_state(state, self.folder, self.step, self.keep)
        wait_for_all()
        self.saved = time.perf_counter()

    def take_up(self) -> None:
        """Goes on with the run in its own folder; with one that ended before its first training state, from the start.

        Raises:
            ValueError: see :meth:`resume`.
        """
        if training_states(self.folder):
            self.resume(self.folder)
        elif is_first():  # what was logged is done again
            drop_rows(self.folder / LOG, after=0)

    def resume(self, folder: Path) -> None:
        """Takes up a run where its newest intact training state left it, in the middle of an epoch or after one.

        States that are damaged are set aside.

        Raises:
            FileNotFoundError, ValueError: the folder holds no training state, or one of another model.
        """
        state = load_training_state(folder)
        match_tensors(self.model, state["model"], source=str(folder))
        self.model.load_state_dict(state["model"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(self.schedule.state_dict() | state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["torch_rng"])
        # Missing in older states, and where a run was begun elsewhere.
        if self.device.type == "cuda" and state.get("cuda_rng") is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        self.steps_done, self.without_progress = state["steps_done"], state["without_progress"]
        self.sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        wait_for_all()  # until each has read what it needs
        if is_first():
            set_damaged_aside(folder)
            drop_rows(folder / LOG, after=self.epoch)


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, while it lasts; outside the main thread signals are left alone."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _groups(batches: Iterable, size: int) -> Iterator[list]:
    """Every ``size`` batches together, what is left at the end too."""
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 5) for name, value in figures.items()}
