"""A corrected copy of a data set on disk, with a list of everything that was changed."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multiposenet.data.annotations import read_json
from multiposenet.data.check.draft import Change
from multiposenet.data.check.findings import Finding, run_check
from multiposenet.data.check.label_table import build_table
from multiposenet.data.check.picture_files import PictureFile, locate_picture, with_file_sizes
from multiposenet.data.check.repairs import repair_content
from multiposenet.data.check.report import LABEL_CHECKS, CheckedSplit
from multiposenet.data.picture_copies import place_picture
from multiposenet.skeletons import Skeleton
from multiposenet.whole_files import written_whole

CHANGES_FILE = "changes.json"
"""Name of the list of changes in the copy's folder."""


@dataclass(frozen=True)
class CorrectedSplit:
    """One split of the copy.

    Args:
        name: of the split.
        path: its annotation file.
        changes: everything that was changed.
        left: what the checks of labels still find; the pictures are the same.
    """

    name: str
    path: Path
    changes: Sequence[Change]
    left: Sequence[Finding]


def write_corrected(
    splits: Sequence[CheckedSplit], root: str | Path, out: str | Path, skeleton: Skeleton | None = None
) -> list[CorrectedSplit]:
    """Writes corrected annotation files to a new folder, laid out like the old one, with links to the pictures.

    Args:
        splits: as ``report.check_data`` saw them.
        root: the data set's folder, or its annotation file. Nothing in it is written to.
        out: a folder that does not exist, or is empty. Nothing is written outside of it, whatever names the files have.
        skeleton: the keypoints of the people; by default those that each file lists.

    Returns:
        What was changed, also in ``out/changes.json``, and what is left.

    Raises:
        FileExistsError: ``out`` has something in it.
        OSError: it cannot be written.
    """
    root, out = Path(root).expanduser(), Path(out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already and not empty; give a new folder for the corrected copy")
    base = root if root.is_dir() else root.parent
    corrected = []
    for split in splits:
        source = split.source
        content, _ = read_json(source.annotations)
        content, changes = repair_content(content, source.annotations, source.layout, skeleton, split.files)
        path = out / source.annotations.relative_to(base)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_json(content, path)
        table = build_table(content, path, source.name, source.layout, skeleton)
        files = dict(zip(split.table.file_names, split.files, strict=False))  # no files where nobody looked
        table = with_file_sizes(table, [files.get(name, PictureFile()) for name in table.file_names])
        left = [found for check in LABEL_CHECKS if (found := run_check(check, table)) is not None]
        corrected.append(CorrectedSplit(source.name, path, changes, left))
        _link_pictures(split, base, out)
    listed = {split.name: [change.to_dict() for change in split.changes] for split in corrected}
    _write_json(listed, out / CHANGES_FILE)
    return corrected


def _link_pictures(split: CheckedSplit, base: Path, out: Path) -> None:
    for name in dict.fromkeys(split.table.file_names):
        path = locate_picture(name, split.source.picture_folders)
        # Pictures outside of the data set's folder have no place in a copy of it.
        if path is None or not _is_inside(path, base):
            continue
        target = _place_in_copy(name, path, split.source.picture_folders, base, out)
        if target is not None and not target.exists():  # a picture of several splits
            place_picture(path, target)


def _place_in_copy(name: str, path: Path, folders: Sequence[Path], base: Path, out: Path) -> Path | None:
    """Where a reader of the copy looks for a picture, in the folder that has it or else another one; None outside.

    Another one, for example, where names begin with the data set's own folder, and are found in the folder around it.
    """
    name = name.replace("\\", "/")
    has_it = [folder for folder in folders if (folder / name).is_file()]
    for folder in (*has_it, *folders):
        target = Path(os.path.abspath(out / os.path.relpath(folder, base) / name))
        if _is_inside(target, out):
            return target
    return None


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path stays in a folder; links count as what they are called, not as where they lead."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _write_json(content: object, path: Path) -> None:
    text = json.dumps(content).encode("utf-8")
    with written_whole(path) as partial:
        partial.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
