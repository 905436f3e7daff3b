"""Checks and what they find: a check is a name, a severity, a sentence and one function over a label table."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from multiposenet.data.check.label_table import LabelTable

EXAMPLES = 20
"""Places of a finding that are described in full."""


class Severity(enum.IntEnum):
    """An error is refused by the reader or spoils training, a warning costs accuracy, a note is good to know."""

    NOTE = 0
    WARNING = 1
    ERROR = 2

    def __str__(self) -> str:
        return self.name.lower()


class Scope(enum.Enum):
    """What a check looks at, one by one."""

    PEOPLE = "people"
    ANNOTATIONS = "annotations"
    PICTURES = "pictures"
    FILE = "file"


@dataclass(frozen=True)
class Check:
    """One question to an annotation file.

    Args:
        name: short, with hyphens; also the key of its repair, where it has one.
        severity: of what it finds.
        scope: what it looks at.
        meaning: what is wrong with what it finds, and what to do.
        find: takes the table. Returns a bool array over what the scope says; for ``Scope.FILE`` a list of sentences,
            each a finding.
        detail: one found person's, annotation's or picture's own numbers, by row of the table.
    """

    name: str
    severity: Severity
    scope: Scope
    meaning: str
    find: Callable[[LabelTable], np.ndarray | Sequence[str]]
    detail: Callable[[LabelTable, int], str] | None = None


@dataclass(frozen=True)
class Place:
    """Where something was found.

    Args:
        split: the part of the data.
        file_name: the picture's file, "" for something about the whole file.
        annotation_id: as in the file; None for a picture or the whole file.
        detail: the numbers at fault, or "" beyond the first :data:`EXAMPLES`.
        row: the person's row in the split's table, -1 where it is not about a person.
    """

    split: str
    file_name: str = ""
    annotation_id: object = None
    detail: str = ""
    row: int = -1

    def __str__(self) -> str:
        named = self.file_name or ("" if self.annotation_id is None else "picture unknown")
        parts = [named, "" if self.annotation_id is None else f"annotation {self.annotation_id}"]
        where = ", ".join(part for part in parts if part)
        return ": ".join(part for part in (where, self.detail) if part)


@dataclass(frozen=True)
class Finding:
    """What one check found in one split, or in all of them.

    Args:
        name, severity, meaning: of the check.
        split: "" for something between the splits.
        places: all of them.
        of: how many were looked at; 0 for something about the whole file.
        unit: what was looked at.
    """

    name: str
    severity: Severity
    meaning: str
    split: str
    places: tuple[Place, ...]
    of: int = 0
    unit: str = "file"

    @property
    def count(self) -> int:
        return len(self.places)

    def to_dict(self) -> dict:
        """Plain values for JSON: examples in full, and where all of them are."""
        content = {
            "check": self.name,
            "severity": str(self.severity),
            "split": self.split,
            "count": self.count,
            "of": self.of,
            "unit": self.unit,
            "meaning": self.meaning,
            "examples": [
                {
                    "split": place.split,
                    "file_name": place.file_name,
                    "annotation_id": place.annotation_id,
                    "detail": place.detail,
                }
                for place in self.places[:EXAMPLES]
            ],
        }
        if self.unit in ("people", "annotations"):
            content["annotation_ids"] = [place.annotation_id for place in self.places]
        elif self.unit == "pictures":
            content["file_names"] = [place.file_name for place in self.places]
        return content


def run_check(check: Check, table: LabelTable) -> Finding | None:
    """What a check finds in a table, or None."""
    found = check.find(table)
    if check.scope is Scope.FILE:
        places = tuple(Place(table.split, detail=sentence) for sentence in found)
        of = 0
    else:
        rows = np.flatnonzero(found).tolist()
        details = [_detail(check, table, row) for row in rows[:EXAMPLES]] + [""] * len(rows[EXAMPLES:])
        locate = _LOCATE[check.scope]
        places = tuple(locate(table, row, detail) for row, detail in zip(rows, details, strict=True))
        of = len(found)
    if not places:
        return None
    return Finding(check.name, check.severity, check.meaning, table.split, places, of, check.scope.value)


def _detail(check: Check, table: LabelTable, row: int) -> str:
    if check.detail is None:
        return ""
    # A person's numbers are worked out among those of one picture, not of the whole data set.
    return check.detail(*(table.around(row) if check.scope is Scope.PEOPLE else (table, row)))


def _person(table: LabelTable, row: int, detail: str) -> Place:
    place = _annotation(table, int(table.people[row]), detail)
    return Place(place.split, place.file_name, place.annotation_id, detail, row)


def _annotation(table: LabelTable, row: int, detail: str) -> Place:
    image = table.annotation_images[row]
    return Place(table.split, table.file_names[image] if image >= 0 else "", table.annotation_ids[row], detail)


def _picture(table: LabelTable, row: int, detail: str) -> Place:
    return Place(table.split, table.file_names[row] or f"image {table.image_ids[row]!r}", detail=detail)


_LOCATE = {Scope.PEOPLE: _person, Scope.ANNOTATIONS: _annotation, Scope.PICTURES: _picture}
