"""A corrected copy of an annotation file in the making: every change is written down, the original stays as it is."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One thing that was changed.

    Args:
        check: the finding it corrects.
        where: ``annotation 12``, ``image 3`` or ``category 0``, by the ids that the file had.
        field: of the record; ``record`` where all of it was removed.
        before, after: JSON values; None for what was not there, or is gone.
    """

    check: str
    where: str
    field: str
    before: object
    after: object

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


class Draft:
    """A file's content that can be changed record by record, and what was changed.

    Args:
        content: the file's; neither it nor a record in it is changed. A section that is no list becomes an empty one.
    """

    def __init__(self, content: dict) -> None:
        self.content = dict(content)
        self.changes: list[Change] = []
        self._own: set[int] = set()  # ids of the record objects that are copies already
        for section in ("images", "annotations", "categories"):
            records = content.get(section)
            self.content[section] = list(records) if isinstance(records, list) else []

    def set(self, check: str, section: str, row: int, field: str, value: object) -> None:
        """Gives a field of record ``row`` of a section another value; nothing happens where it has it already."""
        record = self.content[section][row]
        before = record.get(field)
        if before == value and type(before) is type(value):
            return
        if id(record) not in self._own:
            record = self.content[section][row] = dict(record)
            self._own.add(id(record))
        record[field] = value
        self.changes.append(Change(check, _where(section, record), field, copy.copy(before), copy.copy(value)))

    def remove(self, check: str, section: str, rows: Sequence[int]) -> None:
        """Takes records out of a section."""
        gone = set(rows)
        if not gone:
            return
        records = self.content[section]
        self.changes += [Change(check, _where(section, records[row]), "record", records[row], None) for row in rows]
        self.content[section] = [record for row, record in enumerate(records) if row not in gone]


def _where(section: str, record: object) -> str:
    names = {"images": "image", "annotations": "annotation", "categories": "category"}
    identity = record.get("id") if isinstance(record, dict) else None
    return f"{names[section]} {identity!r}"
