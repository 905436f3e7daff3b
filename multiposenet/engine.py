"""One training loop for every method. It knows losses and figures, not what they are called or mean."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from multiposenet.checkpoint import (
    load_tensors,
    load_training_state,
    match_tensors,
    save_training_state,
    save_weights,
)
from multiposenet.options import check_same_run, to_toml
from multiposenet.runs import open_run_folder

BEST, LAST, STATE, LOG = "best.safetensors", "last.safetensors", "state.pt", "log.csv"
"""Files of a run folder."""

SAVE_SECONDS = 60
"""Training state is written at every validation, and otherwise when this much time has passed."""

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def seed_everything(seed: int) -> None:
    """Seeds PyTorch and NumPy; data workers derive theirs from PyTorch's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party transforms draw from the global generator


def start_worker(_: int) -> None:
    """``worker_init_fn`` of data loaders: one thread a worker, or they fight over the cores."""
    torch.set_num_threads(1)


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Excludes named sub-modules from training; :func:`set_training` keeps their statistics fixed too.

    Raises:
        ValueError: the model has no such part.
    """
    known = dict(model.named_children())
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise ValueError(f"cannot freeze {unknown}: the model's parts are {', '.join(known)}")
    for part in parts:
        known[part].requires_grad_(False)


def set_training(model: nn.Module, frozen: Sequence[str]) -> None:
    """Training mode, but frozen parts stay in evaluation mode: their batch norm must not drift."""
    model.train()
    for part in frozen:
        getattr(model, part).eval()


def cosine_schedule(optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int) -> LambdaLR:
    """Linear warm-up, then half a cosine down to 1 % of the rate; stepped once a batch."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


@dataclass
class Trainer:
    """Trains a model and keeps what a run must leave behind.

    Args:
        model: what is trained and saved.
        compute_losses: batch -> dict of scalar losses; their sum is minimised.
        optimizer, schedule: ``schedule`` is stepped once a batch, a ``ReduceLROnPlateau`` once an epoch.
        folder: the run folder.
        metadata: facts to write into every weights file (model name, options, data).
        validate: model -> figures; ``goal`` names the one that decides which checkpoint is best (highest wins).
        precision: ``fp32``, or ``bf16`` for autocast.
        ema_decay: decay per step of the averaged weights that are validated and saved; 0 trains without.
        clip: largest gradient norm; 0 is no limit.
        frozen: names of parts that stay as they are.
    """

    model: nn.Module
    compute_losses: Callable[[Any], dict[str, Tensor]]
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

    def __post_init__(self) -> None:
        self.epoch = 0
        self.step = 0
        self.best = -math.inf
        self.saved = time.perf_counter()
        self.average = None
        if self.ema_decay:
            # Early on an average over few steps must not drag random weights along.
            self.average = AveragedModel(self.model, multi_avg_fn=self._ema_update, use_buffers=True)

    def _ema_update(self, averaged: list[Tensor], current: list[Tensor], _: Tensor) -> None:
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        get_ema_multi_avg_fn(decay)(averaged, current, None)

    @property
    def result(self) -> nn.Module:
        """The weights worth keeping: averaged ones where there are any."""
        return self.model if self.average is None else self.average.module

    def fit(self, loader: Callable[[int], Iterable], epochs: int, validate_every: int = 1) -> None:
        """Trains up to ``epochs`` (counted from the very start, also after :meth:`resume`).

        Args:
            loader: epoch number -> batches, so that each epoch's order depends on nothing but its number.
            validate_every: epochs between validations; the last epoch is always validated.
        """
        while self.epoch < epochs:
            start = time.perf_counter()
            figures = self._train_epoch(loader(self.epoch), f"epoch {self.epoch + 1}/{epochs}")
            self.epoch += 1
            figures["train_seconds"] = time.perf_counter() - start
            validated = self.validate and (self.epoch % validate_every == 0 or self.epoch == epochs)
            if validated:
                start = time.perf_counter()
                figures |= self.validate(self.result)
                figures["validate_seconds"] = time.perf_counter() - start
            if isinstance(self.schedule, ReduceLROnPlateau):
                self.schedule.step(figures["loss"])
            append_row(
                self.folder / LOG,
                {"epoch": self.epoch, "step": self.step, "lr": self.optimizer.param_groups[0]["lr"]} | figures,
            )
            # Short epochs would spend their time on writing: at most a minute of work is at stake between validations.
            if validated or self.epoch == epochs or time.perf_counter() - self.saved > SAVE_SECONDS:
                self._save(figures)
                self.saved = time.perf_counter()
            self._report(figures, epochs)

    def _train_epoch(self, batches: Iterable, title: str) -> dict[str, float]:
        set_training(self.model, self.frozen)
        device = next(self.model.parameters()).device
        trained = [p for p in self.model.parameters() if p.requires_grad]
        sums: dict[str, Tensor] = {}
        count = 0
        for batch in tqdm(batches, desc=title, unit=" batches", leave=False, disable=not sys.stderr.isatty()):
            batch = batch.to(device, non_blocking=True)
            dtype = PRECISIONS[self.precision]
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                losses = self.compute_losses(batch)
            loss = torch.stack(list(losses.values())).sum()
            if not bool(torch.isfinite(loss)):
                parts = {name: float(value.detach()) for name, value in losses.items()}
                names = ", ".join(getattr(batch, "names", ()))
                raise FloatingPointError(f"loss is not finite at step {self.step}: {parts}; pictures: {names}")
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.clip:
                nn.utils.clip_grad_norm_(trained, self.clip)
            self.optimizer.step()
            self.step += 1
            if self.average is not None:
                self.average.update_parameters(self.model)
            if not isinstance(self.schedule, ReduceLROnPlateau):
                self.schedule.step()
            for name, value in {"loss": loss, **losses}.items():
                sums[name] = sums.get(name, 0) + value.detach().float()
            count += 1
        if count == 0:
            raise ValueError("the training data gave no batch; there are fewer pictures than one batch needs")
        return {name: float(value) / count for name, value in sums.items()}

    def _save(self, figures: dict[str, float]) -> None:
        facts = self.metadata | {"epoch": self.epoch, "step": self.step, "figures": _rounded(figures)}
        goal = figures.get(self.goal)
        if goal is not None and goal > self.best:
            self.best = goal
            save_weights(self.result, self.folder / BEST, facts)
        save_weights(self.result, self.folder / LAST, facts)
        save_training_state(
            {
                "epoch": self.epoch,
                "step": self.step,
                "best": self.best,
                "model": self.model.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": {k: v for k, v in self.schedule.state_dict().items() if k != "lr_lambdas"},
                "torch_rng": torch.get_rng_state(),
            },
            self.folder / STATE,
        )

    def resume(self, folder: Path) -> None:
        """Takes up a run where its last finished epoch left it.

        Raises:
            FileNotFoundError, ValueError: the folder holds no training state, or one of another model.
        """
        state = load_training_state(folder / STATE)
        match_tensors(self.model, state["model"], source=str(folder / STATE))
        self.model.load_state_dict(state["model"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(self.schedule.state_dict() | state["schedule"])
        torch.set_rng_state(state["torch_rng"])
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        drop_rows(folder / LOG, after=self.epoch)

    def _report(self, figures: dict[str, float], epochs: int) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"epoch {self.epoch}/{epochs}  {shown}", flush=True)


def load_parts(model: nn.Module, path: str | Path, parts: Sequence[str]) -> None:
    """Loads only some parts of a model from a whole model's weights file.

    Raises:
        ValueError: a part is not in the file or has other shapes.
    """
    tensors, _ = load_tensors(path)
    for part in parts:
        module = getattr(model, part)
        own = {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}
        match_tensors(module, own, source=f"{path} ({part})")
        module.load_state_dict(own, strict=False)


def append_row(path: Path, row: dict) -> None:
    """Appends a row to a CSV file; a column that the file does not have yet makes the file be written anew."""
    columns, rows = _read_rows(path)
    fresh = [name for name in row if name not in columns]
    with path.open("w" if fresh else "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns + fresh)
        if fresh:
            writer.writeheader()
            writer.writerows(rows)
        writer.writerow(row)


def drop_rows(path: Path, after: int) -> None:
    """Removes the rows of later epochs from a log: an interrupted run had logged them, but not saved their weights."""
    columns, rows = _read_rows(path)
    kept = [row for row in rows if int(row["epoch"]) <= after]
    if len(kept) < len(rows):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(kept)


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or []), list(reader)


def open_run(options: Any, kind: str, out: str | None, free_on_resume: Sequence[str]) -> Path:
    """The folder of a training run, with ``options.toml`` in it: a new one, or that of ``options.resume``.

    Args:
        options: the script's options; they have a field ``resume``.
        kind: name of a new folder under ``runs/``, unless ``out`` gives one.
        free_on_resume: options that may differ from those of the run to resume.

    Exits with a message when the run to resume is not there or had other options.
    """
    if options.resume:
        folder = Path(options.resume)
        try:
            check_same_run(options, folder, free_on_resume)
        except (OSError, ValueError) as error:
            sys.exit(str(error))
    else:
        folder = open_run_folder(out, kind)
    (folder / "options.toml").write_text(to_toml(dataclasses.replace(options, resume=None)), encoding="utf-8")
    return folder


def describe_run(folder: Path, options: Any, **facts: Any) -> None:
    """Writes ``run.json``: resolved options, versions, machine and what data the run saw."""
    content = {
        "options": dataclasses.asdict(options),
        "command": sys.argv,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
        },
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        **facts,
    }
    (folder / "run.json").write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 5) for name, value in figures.items()}

