"""Picture files: whether they are there, whole, upright, of the stated size, and there once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from multiposenet.data.check.findings import Check, Scope, Severity
from multiposenet.data.check.label_table import LabelTable
from multiposenet.data.check.records import repeated
from multiposenet.data.pictures import load_picture, picture_orientation, picture_size

_ODD_RATIO = 4.0  # of the sides of a picture
_ODD_SIDE = 32  # pixels


@dataclass(frozen=True)
class PictureFile:
    """What a picture file is.

    Args:
        path: where it was found, or None.
        problem: why it cannot be read, "" where it can.
        sha256: of its bytes, "" where there are none.
        size: (height, width) of the stored pixels, (0, 0) where unknown.
        orientation: EXIF's, 1 to 8; 1 is upright.
    """

    path: Path | None = None
    problem: str = ""
    sha256: str = ""
    size: tuple[int, int] = (0, 0)
    orientation: int = 1

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) once it is turned as EXIF asks."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def examine_pictures(names: Sequence[str], folders: Sequence[Path], workers: int = 1) -> list[PictureFile]:
    """Reads every picture whole.

    Args:
        names: file names, "" for a record without one.
        folders: where each may be, tried in this order.
        workers: threads.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = pool.map(lambda name: examine_picture(locate_picture(name, folders)), names)
        return list(tqdm(found, total=len(names), desc="reading pictures", disable=None))


def examine_picture(path: Path | None) -> PictureFile:
    """Reads one picture whole; never raises for what is wrong with it."""
    if path is None:
        return PictureFile()
    digest = ""
    try:
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        height, width = load_picture(content, upright=False).shape[:2]
        return PictureFile(path, "", digest, (height, width), picture_orientation(content))
    except (OSError, ValueError) as error:
        return PictureFile(path, str(error).replace("bytes of a picture: ", "") or type(error).__name__, digest)


def measure_picture(path: Path | None) -> PictureFile:
    """What a picture's header says; nothing is said of whether the rest can be read."""
    if path is None:
        return PictureFile()
    try:
        orientation = picture_orientation(path)
        height, width = picture_size(path)
    except (OSError, ValueError) as error:
        return PictureFile(path, str(error))
    return PictureFile(path, size=(width, height) if orientation >= 5 else (height, width), orientation=orientation)


def with_file_sizes(table: LabelTable, files: Sequence[PictureFile]) -> LabelTable:
    """The table with the sizes of its pictures' files, as the labels mean them.

    Args:
        table: any.
        files: in the order of the table's images; empty where nobody looked.

    Returns:
        A table with ``file_sizes``: the upright size; the stored one where the record states that, since a file that
        asks to be turned has both.
    """
    sizes = np.full((len(table.images), 2), np.nan)
    for row, file in enumerate(files):
        if file.size != (0, 0):
            stored = tuple(table.image_sizes[row]) == file.size
            sizes[row] = file.size if stored else file.upright_size
    return dataclasses.replace(table, file_sizes=sizes)


def picture_checks(files: Sequence[PictureFile]) -> tuple[Check, ...]:
    """The checks of a split's pictures, given what they are, in the order of the table's images."""
    there = np.fromiter((file.path is not None for file in files), bool, len(files))
    readable = np.fromiter((file.size != (0, 0) for file in files), bool, len(files))
    turned = np.fromiter((file.orientation != 1 for file in files), bool, len(files))
    stored, upright = (
        np.array(sizes, np.float64).reshape(-1, 2)
        for sizes in ([file.size for file in files], [file.upright_size for file in files])
    )

    def missing(table: LabelTable) -> np.ndarray:
        return ~there & np.fromiter(map(bool, table.file_names), bool, len(files))

    def wrong_size(table: LabelTable) -> np.ndarray:
        stated = table.image_sizes
        fits = (stated == stored).all(axis=1) | (stated == upright).all(axis=1)
        return readable & ~fits & np.isfinite(stated).all(axis=1)

    def size_detail(table: LabelTable, row: int) -> str:
        height, width = table.image_sizes[row]
        return f"stated {width:g} x {height:g}, the file is {stored[row, 1]:g} x {stored[row, 0]:g} (width x height)"

    def turned_detail(table: LabelTable, row: int) -> str:
        text = f"EXIF orientation {files[row].orientation}"
        if (stored[row] == upright[row]).all():
            return text
        agreeing = [name for name, sizes in (("stored", stored), ("upright", upright))
                    if (table.image_sizes[row] == sizes[row]).all()]  # fmt: skip
        return f"{text}; the stated size is that of the {agreeing[0]} pixels" if agreeing else text

    def copies(table: LabelTable) -> np.ndarray:
        again = repeated([file.sha256 for file in files])
        own_record = ~repeated([str(file.path) for file in files])
        return again & there & own_record

    def copy_detail(table: LabelTable, row: int) -> str:
        first = next(index for index, file in enumerate(files) if file.sha256 == files[row].sha256)
        return f"the same bytes as {table.file_names[first]}"

    def odd(table: LabelTable) -> np.ndarray:
        short, long = stored.min(axis=1, initial=np.inf), stored.max(axis=1, initial=0)
        return readable & ((short < _ODD_SIDE) | (long > _ODD_RATIO * short))

    return (
        Check(
            "missing-picture", Severity.ERROR, Scope.PICTURES,
            "The picture's file is not there; fetch it, or remove its record.", missing,
        ),
        Check(
            "unreadable-picture", Severity.ERROR, Scope.PICTURES,
            "The file is no picture, or is truncated; fetch it again.", lambda table: there & ~readable,
            lambda table, row: files[row].problem,
        ),
        Check(
            "picture-size", Severity.ERROR, Scope.PICTURES,
            "The picture has another size than its record says: the labels belong to another version of it.",
            wrong_size, size_detail,
        ),
        Check(
            "exif-rotated", Severity.WARNING, Scope.PICTURES,
            "The file asks to be turned (EXIF). Tools that ignore it and tools that obey see different pictures; save "
            "it upright. Our reader follows the stated size.", lambda table: readable & turned, turned_detail,
        ),
        Check(
            "repeated-picture", Severity.WARNING, Scope.PICTURES,
            "The file has the same bytes as another one of the split.", copies, copy_detail,
        ),
        Check(
            "odd-picture-size", Severity.NOTE, Scope.PICTURES,
            f"A side is shorter than {_ODD_SIDE} pixels, or one side is more than {_ODD_RATIO:g} times the other.",
            odd, lambda table, row: f"{stored[row, 1]:g} x {stored[row, 0]:g} (width x height)",
        ),
    )  # fmt: skip


def locate_picture(name: str, folders: Sequence[Path]) -> Path | None:
    """The file of that name in the first of the folders that has it, or None."""
    if not name:
        return None
    # Tools of another system write its separators.
    names = dict.fromkeys((name, name.replace("\\", "/")))
    paths = (folder / name for name in names for folder in folders)
    return next((path for path in paths if path.is_file()), None)
