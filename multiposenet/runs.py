"""What a run leaves behind: its folder (``runs/predict``, ``runs/predict2``, ...), description and log."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from multiposenet.checkpoint import training_states
from multiposenet.distributed import is_first, share_from_first, world_size
from multiposenet.options import OPTIONS_FILE, check_same_run, to_toml
from multiposenet.whole_files import written_whole

BEST, LAST, LOG = "best.safetensors", "last.safetensors", "log.csv"
"""Files of a run folder, beside its training states."""


def new_run_folder(root: str | Path, name: str) -> Path:
    """Makes and returns the first of ``root/name``, ``root/name2``, ``root/name3``, ... that does not exist yet.

    Making the folder is what claims the number, so two runs that start together never share one.

    Args:
        root: parent folder; made when missing.
        name: one path component, the kind of run.

    Raises:
        ValueError: ``name`` is empty or has a path separator.
    """
    if name in ("", "..") or Path(name).name != name:
        raise ValueError(f"name must be a plain folder name, got {name!r}; put parent folders into root")
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = root / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("itertools.count never ends")


def open_run_folder(out: str | Path | None, name: str) -> Path:
    """The folder a user asked for, made when missing, or the next numbered one under ``runs/``.

    Raises:
        OSError: ``out`` is a file, or the folder cannot be made.
    """
    if out is None:
        return new_run_folder("runs", name)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; the output folder must be a folder")
    out.mkdir(parents=True, exist_ok=True)
    return out


def open_run(options: Any, kind: str, out: str | None, free_on_resume: Sequence[str]) -> Path:
    """The folder of a training run, with ``options.toml`` in it: a new one, or that of ``options.resume``.

    Args:
        options: the script's options; they have a field ``resume``.
        kind: name of a new folder under ``runs/``, unless ``out`` gives one.
        free_on_resume: options that may differ from those of the run to resume.

    Raises:
        OSError: the run to resume is not there, or ``out`` is a file or cannot be made.
        ValueError: the run to resume had other options, or ``out`` holds a run already.
    """
    if options.resume:
        folder = Path(options.resume)
        check_same_run(options, folder, free_on_resume)
    else:
        opened = share_from_first(_open_new(out, kind) if is_first() else None)
        if isinstance(opened, Exception):  # in every process: none may wait for another that has ended
            raise opened
        folder = opened
    if is_first():
        with written_whole(folder / OPTIONS_FILE) as path:
            path.write_text(to_toml(dataclasses.replace(options, resume=None)), encoding="utf-8")
    return folder


def _open_new(out: str | None, kind: str) -> Path | Exception:
    """A folder for a training that begins, or why there is none."""
    try:
        folder = open_run_folder(out, kind)
        refuse_run_inside(folder)
    except (OSError, ValueError) as error:
        return error
    return folder


def refuse_run_inside(folder: Path) -> None:
    """ValueError when a folder holds a training's states, log or weights: a second one would mix with it.

    A start that failed before it had trained leaves only ``options.toml`` and ``run.json``, and is none.
    """
    # A phase's folder is the run's; one with options of its own is another run, which nobody writes into.
    phases = [inside for inside in folder.iterdir() if inside.is_dir() and not (inside / OPTIONS_FILE).exists()]
    for place in (folder, *sorted(phases)):
        for found in (*training_states(place), *(place / name for name in (LOG, BEST, LAST))):
            if found.exists():
                raise ValueError(
                    f"{folder} holds a run ({found.relative_to(folder)}); go on with --resume {folder} or give another "
                    "--out"
                )


def describe_run(folder: Path, options: Any, **facts: Any) -> None:
    """Writes ``run.json``: resolved options, versions, machine and what data the run saw."""
    if not is_first():
        return
    content = {
        "options": dataclasses.asdict(options),
        "command": sys.argv,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
        },
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        **facts,
    }
    (folder / "run.json").write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def append_row(path: Path, row: dict) -> None:
    """Appends a row to a CSV file; a column that the file does not have yet makes the file be written anew."""
    columns, rows = _read_rows(path)
    fresh = [name for name in row if name not in columns]
    if fresh:
        _write_rows(path, columns + fresh, [*rows, row])
        return
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, columns).writerow(row)


def drop_rows(path: Path, after: int) -> None:
    """Removes the rows of later epochs from a log: an interrupted run had logged them, but not saved their weights."""
    columns, rows = _read_rows(path)
    kept = [row for row in rows if int(row["epoch"]) <= after]
    if len(kept) < len(rows):
        _write_rows(path, columns, kept)


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[dict]) -> None:
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or []), list(reader)


def watch_in_tensorboard(folder: Path) -> Callable[[int, dict[str, float]], None]:
    """A function (step, figures) that writes figures where ``tensorboard --logdir`` finds them.

    Raises:
        ImportError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(f"TensorBoard is not installed ({error}); pip install 'multiposenet[tensorboard]'") from None
    writer = SummaryWriter(str(folder / "tensorboard"))

    def watch(step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return watch
