"""One self-contained HTML page: text, tables, charts and pictures in a single file.

The page needs no network and no script, opens from disk, follows the reader's light or dark setting and fits a phone.
A content security policy inside it forbids whatever is not in the file. It is built from plain parts, each of which
knows its own HTML; all text is escaped::

    from multiposenet.report_charts import BarChart, LineChart, heat_picture
    from multiposenet.report_page import Figure, Gallery, Items, Note, Page, Section, Table, Text

    page = Page(
        "Check of my data",
        lead="120 pictures, 400 people.",
        sections=[
            Section("Faults", [
                Note("3 pictures cannot be read", kind="bad"),
                Items(["a.jpg", "b.jpg", "c.jpg"]),
                Table(["fault", "count"], [["missing file", 3], ["share", 0.025]], caption="What was found"),
            ]),
            Section("Where keypoints lie", [
                BarChart(["nose", "ankle"], {"labelled": [310, 120]}, caption="People with each keypoint"),
                Gallery([Figure(heat_picture(counts), "nose")]),
            ]),
        ],
    )
    page.write(Path("report.html"))

A new kind of part is any object with a method ``html() -> str`` that escapes its own text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from multiposenet.whole_files import written_whole

NOTE_KINDS = ("good", "bad", "plain")

Cell = str | int | float | None

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_JPEG_QUALITY = 82


class Part(Protocol):
    """Anything that can stand in a section."""

    def html(self) -> str: ...


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def html(self) -> str:
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Items:
    """A bulleted list, one text a line."""

    texts: Sequence[str]

    def html(self) -> str:
        return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in self.texts) + "</ul>"


@dataclass(frozen=True)
class Note:
    """A sentence that must not be overlooked.

    Args:
        text: the sentence; it says what is the matter, the colour only repeats it.
        kind: one of :data:`NOTE_KINDS`.
    """

    text: str
    kind: str = "plain"

    def __post_init__(self) -> None:
        if self.kind not in NOTE_KINDS:
            raise ValueError(f"kind must be one of {', '.join(NOTE_KINDS)}, got {self.kind!r}")

    def html(self) -> str:
        return f'<p class="note {self.kind}">{escape(self.text)}</p>'


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Args:
        columns: headings.
        rows: cells, as many a row as there are columns: texts, integers, floats (printed with ``digits`` decimals),
            or None, printed as a dash.
        caption: a sentence above the table.
        digits: decimals of floats.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    digits: int = 3

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"rows[{number}] has {len(row)} cells, there are {len(self.columns)} columns")

    def html(self) -> str:
        numeric = [all(_is_number(row[column]) for row in self.rows) for column in range(len(self.columns))]
        head = "".join(
            f'<th scope="col"{_number_class(numeric[column])}>{escape(name)}</th>'
            for column, name in enumerate(self.columns)
        )
        body = "".join(f"<tr>{self._cells(row)}</tr>" for row in self.rows)
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        label = escape(self.caption or "table")
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>{caption}'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def _cells(self, row: Sequence[Cell]) -> str:
        first, *others = row
        name = f'<th scope="row">{escape(cell_text(first, self.digits))}</th>'
        return name + "".join(
            f"<td{_number_class(_is_number(cell))}>{escape(cell_text(cell, self.digits))}</td>" for cell in others
        )


@dataclass(frozen=True)
class Figure:
    """A picture in the page.

    Args:
        image: Pillow, or [H, W, 3] uint8 RGB.
        caption: what it shows; also read out instead of the picture.
        max_side: a larger picture is shrunk to this many pixels on its longer side.
        lossless: PNG instead of JPEG, for flat colours.
    """

    image: Image.Image | np.ndarray
    caption: str
    max_side: int = 1200
    lossless: bool = False

    def html(self) -> str:
        picture = self.image if isinstance(self.image, Image.Image) else Image.fromarray(self.image)
        picture = picture.convert("RGB")
        picture.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS)
        kind, options = ("png", {"optimize": True}) if self.lossless else ("jpeg", {"quality": _JPEG_QUALITY})
        stream = io.BytesIO()
        picture.save(stream, kind, **options)
        data = base64.b64encode(stream.getvalue()).decode("ascii")
        text = escape(self.caption)
        return (
            f'<figure><img alt="{text}" width="{picture.width}" height="{picture.height}" '
            f'src="data:image/{kind};base64,{data}"><figcaption>{text}</figcaption></figure>'
        )


@dataclass(frozen=True)
class Gallery:
    """Figures side by side, as many as fit the screen.

    Args:
        figures: each a part; those of charts fit too.
        cell: least width of one, in em (about 16 pixels); on a phone one fills the screen at most.
    """

    figures: Sequence[Part]
    cell: int = 14

    def html(self) -> str:
        return f'<div class="gallery" style="--cell: {self.cell}em">{"".join(f.html() for f in self.figures)}</div>'


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in order."""

    title: str
    parts: Sequence[Part]

    def html(self, anchor: str) -> str:
        """The section, to be reached at ``#anchor``."""
        body = "\n".join(part.html() for part in self.parts)
        return f'<section id="{anchor}"><h2>{escape(self.title)}</h2>\n{body}\n</section>'


@dataclass(frozen=True)
class Page:
    """The whole page.

    Args:
        title: heading and title of the window.
        sections: what it holds; their titles make the list of contents.
        lead: a sentence or two under the heading.
    """

    title: str
    sections: Sequence[Section]
    lead: str = ""

    def html(self) -> str:
        """The file's text."""
        contents = "".join(
            f'<li><a href="#s{number}">{escape(section.title)}</a></li>' for number, section in enumerate(self.sections)
        )
        body = "\n".join(section.html(f"s{number}") for number, section in enumerate(self.sections))
        lead = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        title = escape(self.title)
        style = (resources.files("multiposenet") / "assets" / "report.css").read_text(encoding="utf-8")
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
            f"<style>{style}</style>\n</head>\n<body>\n<header><h1>{title}</h1>{lead}</header>\n"
            f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
        )

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all; its folder must exist.

        Raises:
            OSError: it cannot be written.
        """
        with written_whole(path) as partial:
            partial.write_text(self.html(), encoding="utf-8")


def cell_text(value: Cell, digits: int = 3) -> str:
    """A table's cell as text: floats with ``digits`` decimals, integers in groups of three, a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, (float, np.floating)):
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) else str(value)


def _is_number(value: Cell) -> bool:
    return value is None or isinstance(value, (int, float, np.number))


def _number_class(number: bool) -> str:
    return ' class="number"' if number else ""
