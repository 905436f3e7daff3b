"""Where a data set's annotation files and pictures lie: the splits of a folder, or one file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multiposenet.data.formats import COCO_FORMAT, FORMATS, CocoFormat


@dataclass(frozen=True)
class SplitSource:
    """One annotation file and the places of its pictures.

    Args:
        name: of the split.
        annotations: the file.
        picture_folders: where pictures may be, tried in this order.
        layout: how the file uses COCO's format.
    """

    name: str
    annotations: Path
    picture_folders: tuple[Path, ...]
    layout: CocoFormat


def find_splits(
    source: str | Path,
    splits: Sequence[str] = (),
    layout: CocoFormat | None = None,
    pictures: str | Path | None = None,
) -> list[SplitSource]:
    """The splits of a data set.

    Args:
        source: its folder, or one annotation file.
        splits: only these; by default all that are there.
        layout: where the files lie; by default the first of ``FORMATS`` that has a file in the folder.
        pictures: the folder of the pictures, where it is another one than the layout's.

    Raises:
        FileNotFoundError: nothing is there; the message lists the places.
    """
    source = Path(source).expanduser()
    own_folder = () if pictures is None else (Path(pictures).expanduser(),)
    if source.is_file():
        return [_single_file(source, layout or COCO_FORMAT, own_folder)]
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: there is no such folder or annotation file; check the path")
    for candidate in FORMATS.values() if layout is None else (layout,):
        found = _files(source, candidate)
        if found:
            break
    missing = [name for name in splits if name not in found]
    if missing or not found:
        raise FileNotFoundError(_nothing_found(source, candidate if found else layout or COCO_FORMAT, missing, found))
    return [
        SplitSource(
            name,
            path,
            own_folder or tuple(source / folder.format(split=name) for folder in candidate.picture_folders),
            candidate,
        )
        for name, path in found.items()
        if not splits or name in splits
    ]


def _nothing_found(source: Path, layout: CocoFormat, missing: Sequence[str], found: dict[str, Path]) -> str:
    what = f"annotation file of split {missing[0]}" if missing else "annotation file"
    looked = ", ".join(str(source / place.format(split="<split>")) for place in layout.annotation_files)
    there = f"; there are the splits {', '.join(found)}" if found else ""
    hint = "give --split, --format, or the annotation file itself"
    if (source / "data.yaml").is_file():
        hint = "this is a YOLO data set: convert it with multiposenet data convert --from yolo --to coco"
    return f"{source}: no {what}, looked for {looked} and the same with .gz{there}; {hint}"


def _files(root: Path, layout: CocoFormat) -> dict[str, Path]:
    """Annotation file by split; of several places of one split, or names of one file, the layout's first."""
    found: dict[str, Path] = {}
    for place in layout.annotation_files:
        for ending in ("", ".gz"):
            for path in sorted(root.glob(place.format(split="*") + ending)):
                name = _split_name(path.relative_to(root).as_posix().removesuffix(ending), place)
                if name and path.is_file() and path not in found.values():
                    found.setdefault(name, path)
    return dict(sorted(found.items()))


def _split_name(path: str, place: str) -> str | None:
    before, split, after = place.partition("{split}")
    if not split:  # one file for everything
        return Path(place).stem if path == place else None
    match = re.fullmatch(f"{re.escape(before)}([^/]+){re.escape(after)}", path)
    return match[1] if match else None


def _single_file(path: Path, layout: CocoFormat, own_folder: tuple[Path, ...]) -> SplitSource:
    name = path.name.removesuffix(".gz").removesuffix(".json")
    for root in (path.parent, path.parent.parent):
        for place in layout.annotation_files:
            relative = path.relative_to(root).as_posix().removesuffix(".gz")
            name = _split_name(relative, place) or name
    roots = (path.parent, path.parent.parent)
    folders = [root / folder.format(split=name) for root in roots for folder in layout.picture_folders]
    folders += [root / folder for root in roots for folder in ("", "images")]
    return SplitSource(name, path, own_folder or tuple(dict.fromkeys(folders)), layout)
