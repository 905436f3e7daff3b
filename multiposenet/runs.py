"""Numbered folders for what a run leaves behind: ``runs/predict``, ``runs/predict2``, ``runs/predict3``, ..."""

from __future__ import annotations

import itertools
from pathlib import Path


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
