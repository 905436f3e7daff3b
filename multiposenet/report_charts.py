"""Charts for :mod:`multiposenet.report_page`, drawn as SVG: curves, bars, and counts as a heat picture.

Every chart carries its numbers as a table that can be unfolded, so that nothing is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from multiposenet.report_page import Table

COLOURS = 8
"""How many series have a colour of their own; further curves repeat them dashed."""

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 10, 42
_BAR, _GAP, _LETTER = 20, 8, 7.2
_DASHES = ("", "7 4", "2 3", "9 3 2 3")
_TABLE_ROWS = 21  # of the numbers under a curve; more points are thinned out
_HEAT = np.array([[16, 18, 50], [66, 30, 120], [150, 45, 125], [225, 85, 85], [252, 165, 75], [252, 250, 190]])


@dataclass(frozen=True)
class LineChart:
    """Curves over one common axis.

    Args:
        x: [X] places where all curves are known, ascending; at least two.
        lines: curve by name, [X] each; None or NaN leaves a gap.
        caption: what is shown.
        x_label, y_label: what the axes are, with the unit.
        y_range: by default from the data, with 0.
    """

    x: Sequence[float]
    lines: Mapping[str, Sequence[float | None]]
    caption: str
    x_label: str
    y_label: str
    y_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if len(self.x) < 2:
            raise ValueError(f"x must have at least two places, got {len(self.x)}")
        for name, line in self.lines.items():
            if len(line) != len(self.x):
                raise ValueError(f"lines[{name!r}] has {len(line)} values, x has {len(self.x)}")

    def html(self) -> str:
        x = np.asarray(self.x, np.float64)
        lines = {name: np.array(line, np.float64) for name, line in self.lines.items()}
        low, high = self.y_range or _range_of(list(lines.values()))
        x_ticks, y_ticks = ticks(x[0], x[-1]), ticks(low, high)
        across = _LEFT + (x - x[0]) / (x[-1] - x[0]) * (_WIDTH - _LEFT - _RIGHT)

        def down(values: np.ndarray) -> np.ndarray:
            return _TOP + (high - values.clip(low, high)) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

        drawn = [
            _grid(np.interp(x_ticks, x, across), down(y_ticks), x_ticks, y_ticks),
            _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, self.x_label, "middle"),
            f'<g transform="translate(12 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)">'
            f"{_text(0, 0, self.y_label, 'middle')}</g>",
        ]
        drawn += [_curve(across, down(line), number) for number, line in enumerate(lines.values())]
        rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), _TABLE_ROWS)).round().astype(int))
        cells = [[f"{x[row]:.4g}", *(_known(line[row]) for line in lines.values())] for row in rows]
        keys = [_line_key(number) for number in range(len(lines))]
        return _chart(
            drawn, _HEIGHT, self.caption, list(lines), keys, Table([self.x_label, *lines], cells, self.caption)
        )


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars, one a label, each stacked of one part or more.

    Args:
        labels: [L] names of the bars.
        parts: values by the part's name, [L] each, none negative; :data:`COLOURS` parts at most.
        caption: what is shown, with the unit.
        digits: decimals of the numbers.
    """

    labels: Sequence[str]
    parts: Mapping[str, Sequence[float]]
    caption: str
    digits: int = 3

    def __post_init__(self) -> None:
        if not 1 <= len(self.parts) <= COLOURS:
            raise ValueError(f"parts must be 1 to {COLOURS}, got {len(self.parts)}")
        for name, values in self.parts.items():
            if len(values) != len(self.labels) or not (np.asarray(values) >= 0).all():
                raise ValueError(f"parts[{name!r}] must be {len(self.labels)} numbers, none negative, got {values}")

    def html(self) -> str:
        values = np.array(list(self.parts.values()), np.float64).reshape(len(self.parts), len(self.labels))
        ends = values.cumsum(axis=0)
        longest = max(ends[-1].max(initial=0.0), 1e-12)
        totals = [_shortest(total, self.digits) for total in ends[-1]]
        left = min(_WIDTH / 2, 10 + _LETTER * max(map(len, self.labels), default=0))
        room = _WIDTH - left - 12 - _LETTER * max(map(len, totals), default=0)
        height = _GAP + len(self.labels) * (_BAR + _GAP)
        drawn = []
        for row, label in enumerate(self.labels):
            top = _GAP + row * (_BAR + _GAP)
            drawn.append(_text(left - 6, top + _BAR - 5, _fitted(label, left), "end"))
            for number, (end, value) in enumerate(zip(ends[:, row], values[:, row], strict=True)):
                drawn.append(
                    f'<rect x="{left + (end - value) / longest * room:.1f}" y="{top}" '
                    f'width="{value / longest * room:.1f}" height="{_BAR}" style="fill: var(--c{number})"/>'
                )
            drawn.append(_text(left + ends[-1, row] / longest * room + 6, top + _BAR - 5, totals[row], "start"))
        cells = [[label, *values[:, row].tolist()] for row, label in enumerate(self.labels)]
        table = Table(["", *self.parts], cells, self.caption, self.digits)
        keys = [_bar_key(number) for number in range(len(self.parts))]
        return _chart(drawn, height, self.caption, list(self.parts), keys, table)


def heat_picture(counts: np.ndarray, side: int = 240) -> Image.Image:
    """Counts as colours from dark (0) to light (the most), each cell a square of pixels.

    Args:
        counts: [h, w], none negative.
        side: about how many pixels the longer side of the picture gets.

    Returns:
        RGB; wrap it in a lossless ``report_page.Figure``.
    """
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 2 or not counts.size or not (counts >= 0).all():
        raise ValueError(f"counts must be [h, w], not empty and none negative, got shape {counts.shape}")
    share = np.sqrt(counts / max(counts.max(), 1e-12))  # the root shows what is rare too
    place = share * (len(_HEAT) - 1)
    colours = np.stack([np.interp(place, np.arange(len(_HEAT)), _HEAT[:, channel]) for channel in range(3)], axis=-1)
    factor = max(1, side // max(counts.shape))
    return Image.fromarray(colours.round().astype(np.uint8).repeat(factor, 0).repeat(factor, 1))


def ticks(low: float, high: float, about: int = 5) -> np.ndarray:
    """Round numbers from ``low`` to ``high``, about so many: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step


def _range_of(lines: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([*lines, [0.0]])
    values = values[np.isfinite(values)]
    low, high = values.min(), values.max()
    return (low, high) if high > low else (low, low + 1)


def _grid(across: np.ndarray, down: np.ndarray, x_ticks: np.ndarray, y_ticks: np.ndarray) -> str:
    line = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" style="stroke: var(--line)"/>'
    pieces = [line.format(_LEFT, y, _WIDTH - _RIGHT, y) for y in down]
    pieces += [line.format(x, _TOP, x, _HEIGHT - _BOTTOM) for x in across]
    pieces += [_text(_LEFT - 5, y + 4, f"{value:.4g}", "end") for y, value in zip(down, y_ticks, strict=True)]
    bottom = _HEIGHT - _BOTTOM + 16
    pieces += [_text(x, bottom, f"{value:.4g}", "middle") for x, value in zip(across, x_ticks, strict=True)]
    return "".join(pieces)


def _curve(across: np.ndarray, down: np.ndarray, number: int) -> str:
    known = np.isfinite(down)
    starts = known & ~np.concatenate([[False], known[:-1]])
    commands = "".join(
        f"{'M' if start else 'L'}{x:.1f} {y:.1f}{'h0' if start else ''}"  # a lone point is a dot
        for x, y, start in zip(across[known], down[known], starts[known], strict=True)
    )
    return f'<path d="{commands}" style="{_stroke(number)}"/>'


def _stroke(number: int) -> str:
    dashes = _DASHES[number // COLOURS % len(_DASHES)]
    colour = f"var(--c{number % COLOURS})"
    return f"fill: none; stroke: {colour}; stroke-width: 2; stroke-linecap: round; stroke-dasharray: {dashes or 'none'}"


def _line_key(number: int) -> str:
    return f'<svg viewBox="0 0 30 14" aria-hidden="true"><path d="M0 7H30" style="{_stroke(number)}"/></svg>'


def _bar_key(number: int) -> str:
    return (
        '<svg viewBox="0 0 30 14" aria-hidden="true">'
        f'<rect width="30" height="14" style="fill: var(--c{number})"/></svg>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _fitted(label: str, room: float) -> str:
    most = int((room - 10) / _LETTER)
    return label if len(label) <= most else label[: most - 1] + "…"


def _shortest(value: float, digits: int) -> str:
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-9 else f"{value:,.{digits}f}"


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _chart(
    drawn: Sequence[str], height: int, caption: str, names: Sequence[str], keys: Sequence[str], table: Table
) -> str:
    legend = "".join(f"<li>{key}{escape(name)}</li>" for key, name in zip(keys, names, strict=True))
    text = escape(caption)
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{text}">'
        f'{"".join(drawn)}</svg><ul class="legend">{legend}</ul><figcaption>{text}'
        f"<details><summary>Numbers</summary>{table.html()}</details></figcaption></figure>"
    )
