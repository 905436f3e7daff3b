"""Lists of COCO records to columns: all at once, and record by record only to name the one at fault."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence

import numpy as np

_NUMBERS = "biuf"  # kinds of NumPy types; text and None are no numbers, whatever they could be turned into


def plain_id(value: object) -> object:
    """A NumPy or float integer as a plain one; anything else as it is, for the membership checks to judge."""
    try:
        return operator.index(value)
    except TypeError:
        return int(value) if isinstance(value, float) and value.is_integer() else value


def refuse_unknown_images(image_ids: Iterable[object], known: Iterable[object], what: str) -> None:
    """ValueError with the number of ids that are not known, and the first five of them."""
    known = set(known)
    unknown = list(dict.fromkeys(image_id for image_id in map(_hashable, image_ids) if image_id not in known))
    if unknown:
        first = ", ".join(repr(image_id) for image_id in unknown[:5])
        hint = _hint_on_ids(unknown, known)
        raise ValueError(
            f"{what}: {len(unknown)} image ids are not in the ground truth of {len(known)} pictures, "
            f"the first: {first}{hint}"
        )


def _hint_on_ids(unknown: Sequence[object], known: set) -> str:
    if any(isinstance(image_id, str) for image_id in unknown):
        return "; ids must be integers, not text"
    if all(isinstance(image_id, int) for image_id in unknown):
        for step, words in ((1, "less"), (-1, "more")):
            if all(image_id + step in known for image_id in unknown):
                return f"; each is one {words} than a known id"
        if all(0 <= image_id < len(known) for image_id in unknown):
            return f"; they look like places in the list of pictures, 0 to {len(known) - 1}, and must be ids"
    return ""


def rows_of_numbers(values: Sequence, width: int, complain: Callable[[int, str], None]) -> np.ndarray:
    """[len(values), width] float64, every number finite.

    Args:
        values: lists or arrays of ``width`` numbers each.
        width: numbers in a row.
        complain: called with the index of the first bad row and what is wrong with it, to be written straight behind
            the field's name; must raise.
    """
    table = _table(values)
    if table is None or table.shape != (len(values), width):
        rows = [_table(value) for value in values]
        for index, row in enumerate(rows):
            if row is None:
                complain(index, " must be a flat list of numbers")
            elif row.shape != (width,):
                complain(index, f" has {len(row) if row.ndim else 'no'} numbers, expected {width}")
        table = np.stack(rows) if rows else np.zeros((0, width))
    table = np.ascontiguousarray(table, np.float64)
    finite = np.isfinite(table)
    if not finite.all():
        index, position = np.argwhere(~finite)[0].tolist()
        complain(index, f"[{position}] is {table[index, position]}; every number must be finite")
    return table


def column_of_numbers(values: Sequence, complain: Callable[[int, str], None]) -> np.ndarray:
    """[len(values)] float64, every number finite; ``complain`` as in :func:`rows_of_numbers`."""
    table = _table(values)
    if table is None or table.shape != (len(values),):
        singles = [_table(value) for value in values]
        for index, single in enumerate(singles):
            if single is None or single.ndim:
                complain(index, f" must be a number, got {values[index]!r}")
        table = np.stack(singles)
    table = table.astype(np.float64)
    finite = np.isfinite(table)
    if not finite.all():
        index = int(np.argmin(finite))
        complain(index, f" is {table[index]}; it must be finite")
    return table


def _table(values: object) -> np.ndarray | None:
    try:
        table = np.asarray(values)
    except (ValueError, TypeError, OverflowError):  # rows of different lengths
        return None
    return table if table.dtype.kind in _NUMBERS else None


def _hashable(value: object) -> object:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
