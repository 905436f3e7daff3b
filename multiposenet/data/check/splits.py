"""What only shows between splits: pictures of one in another, and files that no split mentions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from multiposenet.data.check.findings import Finding, Place, Severity
from multiposenet.data.check.label_table import LabelTable
from multiposenet.data.check.picture_files import PictureFile
from multiposenet.inputs import PICTURE_SUFFIXES

_ROBOFLOW_COPY = re.compile(r"\.rf\.[0-9A-Za-z]+(?=\.)")


def find_leaks(tables: Sequence[LabelTable], files: Sequence[Sequence[PictureFile]]) -> list[Finding]:
    """Pictures that are in more than one split: of equal bytes, of one name, or made from one source.

    Args:
        tables: of all splits.
        files: of each split, in the order of its images; empty lists where nobody looked.
    """
    pictures = [
        (table.split, name, image_id, file)
        for table, own in zip(tables, files, strict=True)
        for name, image_id, file in zip(
            table.file_names, table.image_ids, own or [PictureFile()] * len(table.images), strict=True
        )
    ]
    by_hash = _shared((file.sha256, split, name) for split, name, _, file in pictures)
    leaked = {(place.split, place.file_name) for place in by_hash}
    by_source = _shared(
        (source, split, name) for split, name, _, _ in pictures if (source := _ROBOFLOW_COPY.sub("", name)) != name
    )
    by_name = _shared(
        (name, split, name) for split, name, _, file in pictures if not file.sha256 and (split, name) not in leaked
    )
    by_id = _shared(
        ("" if image_id is None else f"image id {image_id}", split, name) for split, name, image_id, _ in pictures
    )
    by_id = [place for place in by_id if (place.split, place.file_name) not in leaked]
    count = len(pictures)
    return _findings(
        count,
        (
            "leak", Severity.ERROR,
            "The same picture, byte by byte, is in two splits: what is measured on the one was trained on in the "
            "other. Remove it from one of them.", by_hash,
        ),
        (
            "leak-of-source", Severity.WARNING,
            "Copies that Roboflow made of one picture are in two splits; split before making copies.", by_source,
        ),
        (
            "leak-by-name", Severity.WARNING,
            "A picture of the same name is in two splits; whether it is the same one was not looked at.", by_name,
        ),
        (
            "shared-image-id", Severity.NOTE,
            "Pictures of two splits have one id; results of the one can be scored against the other without a word.",
            by_id,
        ),
    )  # fmt: skip


def find_unmentioned(
    tables: Sequence[LabelTable], files: Sequence[Sequence[PictureFile]], folders: Iterable[Path]
) -> list[Finding]:
    """Pictures in the folders that no split lists.

    Args:
        tables, files: as in :func:`find_leaks`.
        folders: those in which a picture of the splits was found.
    """
    known = {file.path.resolve() for own in files for file in own if file.path is not None}
    there = sorted(
        {
            path
            for folder in dict.fromkeys(folders)
            for path in folder.iterdir()
            if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
        }
    )
    places = [Place("", str(path)) for path in there if path.resolve() not in known]
    meaning = "Pictures that no annotation file lists; they are never read."
    return _findings(len(there), ("unmentioned-picture", Severity.NOTE, meaning, places))


def _shared(keyed: Iterable[tuple[str, str, str]]) -> list[Place]:
    """Places (split, file name) whose key came up in an earlier split, with the detail where."""
    first: dict[str, tuple[str, str]] = {}
    places = []
    for key, split, name in keyed:
        if not key:
            continue
        earlier = first.setdefault(key, (split, name))
        if earlier[0] != split:
            places.append(Place(split, name, detail=f"also {earlier[1]} of {earlier[0]}"))
    return places


def _findings(of: int, *found: tuple[str, Severity, str, Sequence[Place]]) -> list[Finding]:
    return [
        Finding(name, severity, meaning, "", tuple(places), of, "pictures")
        for name, severity, meaning, places in found
        if places
    ]
