"""Pictures of one folder in another one: as links, or as copies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

WAYS = ("link", "copy", "none")
"""How a picture comes into a new folder: a symbolic link to it, a copy, or not at all."""


def place_picture(source: Path, target: Path, way: str = "link") -> None:
    """Puts a picture at another path; the original is only read.

    Args:
        source: the file.
        target: where it shall be found; missing folders are made.
        way: one of :data:`WAYS`. Where the system refuses links, a copy is made.

    Raises:
        FileExistsError: there is a file at ``target`` already.
        OSError: it cannot be written.
    """
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    if way == "none":
        return
    if target.is_symlink() or target.exists():
        raise FileExistsError(f"{target} is there already; choose a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    if way == "link":
        try:
            os.symlink(source.resolve(), target)
            return
        except OSError:  # Windows without the right to make links, file systems that have none
            pass
    shutil.copy2(source, target)
