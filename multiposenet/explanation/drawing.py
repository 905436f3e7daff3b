"""Drawings of an explained grouping for a page: everybody, one person's candidates, and a network's grids.

SVG over the picture (or over an empty sheet, when there are labels only): it stays sharp, needs no script, and the
names of things appear under the pointer. Numbers stand in the text beside the drawing too.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from multiposenet.explanation.structures import ExplainedPerson, Explanation, PersonGrids
from multiposenet.report_charts import COLOURS, heat_picture
from multiposenet.skeletons import Skeleton

_WIDTH = 800  # of a drawing, in its own units
_SIDE = 196  # room for labels on either side of a person
_TALLEST = 620
_LINE = 15
_LEAST_SHOWN = 0.01  # candidates that round to nothing are in the JSON file only
_OTHERS_SHOWN = 3  # and so are more than these, of each keypoint
_AROUND = 0.12  # of the box that is shown on every side at least
_FARTHEST = 0.6  # and at most
_MOST_PIXELS = 1000
_TILE = 120  # longer side of a grid's tile, about
_TILES_A_ROW = 9


@dataclass(frozen=True)
class EverybodyDrawing:
    """All boxes and peaks of a picture, each peak in the colour of who got it; as a part of a page.

    Args:
        explanation: of the picture.
        image_size: (height, width).
        image: [H, W, 3] uint8 RGB, or None for an empty sheet.
        least_score: people below it are drawn as a dashed box when they got a peak, and else not at all.
    """

    explanation: Explanation
    image_size: tuple[int, int]
    image: np.ndarray | None = None
    least_score: float = 0.0

    def html(self) -> str:
        height, width = self.image_size
        view = _View.fitting((0.0, 0.0, float(width), float(height)), _WIDTH, _TALLEST)
        left = (_WIDTH - view.width) / 2
        skeleton = self.explanation.skeleton
        drawn = [view.background(self.image)]
        shown = [person for person in self.explanation.people if person.score >= self.least_score]
        for person in reversed(self.explanation.people):  # the best on top
            if person.score >= self.least_score or person.num_peaks:
                drawn.append(view.box(person, faint=person.score < self.least_score))
        for person in reversed(shown):
            drawn.append(view.limbs(person, skeleton))
        for name, peaks in zip(skeleton.keypoints, self.explanation.peaks, strict=True):
            for peak in peaks:
                who = " and ".join(f"person {person}" for person in peak.people) or "nobody"
                text = f"{name} {peak.peak}, height {peak.score:.2f}: {who}"
                drawn.append(view.dot(peak.xy, peak.people[0] if peak.people else None, text))
        caption = "Everybody: a dot is a peak in the colour of the person who got it, hollow when nobody did."
        if len(shown) < len(self.explanation.people):
            caption += f" Dashed boxes are people below the score {self.least_score:g} who got a peak."
        return _figure([f'<g transform="translate({left:.1f} 0)">{"".join(drawn)}</g>'], view.height, caption)


@dataclass(frozen=True)
class PersonDrawing:
    """One person's box with the peaks that this person could have had, and the score of each; as a part of a page.

    Args:
        explanation: of the picture.
        person: whom to draw.
        image: [H, W, 3] uint8 RGB, or None for an empty sheet.
    """

    explanation: Explanation
    person: ExplainedPerson
    image: np.ndarray | None = None

    def html(self) -> str:
        labels = self._labels()
        view = _View.fitting(self._region(labels), _WIDTH - 2 * _SIDE, _TALLEST)
        left = (_WIDTH - view.width) / 2
        points = {id(label): view.place(label.xy) for label in labels}
        sides = [[label for label in labels if (points[id(label)][0] > view.width / 2) == right] for right in (0, 1)]
        height = max(view.height, *(len(side) * _LINE + 2 for side in sides))
        drawn = [
            f'<g transform="translate({left:.1f} 0)">{view.background(self.image)}'
            + "".join(view.box(other, faint=True) for other in self._involved())
            + view.box(self.person)
            + view.limbs(self.person, self.explanation.skeleton)
            + "</g>"
        ]
        for right, side in enumerate(sides):
            edge = left + view.width + 12 if right else left - 12
            side = sorted(side, key=lambda label: points[id(label)][1])
            for label, y in zip(side, _spread([points[id(label)][1] for label in side], height), strict=True):
                x, own_y = points[id(label)]
                drawn.append(label.drawn(x + left, own_y, edge, y, bool(right)))
        caption = (
            f"Person {self.person.person}: filled dots are the peaks that this person got, hollow ones those that "
            "others got (in their colour) or nobody (grey), at most three a keypoint; crosses are guesses. Beside each "
            "its number, the pair's score and, in brackets, who else got it. Dashed boxes are those of others who came "
            "near."
        )
        return _figure(drawn, height, caption)

    def _involved(self) -> list[ExplainedPerson]:
        """The others who came near one of this person's peaks, or have one that came near for this person."""
        numbers = set()
        for keypoint, peaks in zip(self.person.keypoints, self.explanation.peaks, strict=True):
            numbers |= {rival.person for rival in keypoint.serious_rivals}
            numbers |= {owner for pair in keypoint.serious_others for owner in peaks[pair.peak - 1].people}
        return [other for other in self.explanation.people if other.person in numbers - {self.person.person}]

    def _labels(self) -> list[_Label]:
        labels = []
        skeleton = self.explanation.skeleton
        for number, (name, keypoint) in enumerate(zip(skeleton.keypoints, self.person.keypoints, strict=True)):
            short = name.replace("left_", "l ").replace("right_", "r ").replace("_", " ")
            if keypoint.peak is None and keypoint.score > 0:
                labels.append(_Label(keypoint.xy, f"{short}: guess", self.person.person, "guess"))
            others = [pair for pair in keypoint.pairs if not pair.given]
            best = [pair for pair in others[:_OTHERS_SHOWN] if pair.score >= _LEAST_SHOWN]
            own = [pair for pair in others if pair.peak == keypoint.own and pair not in best]
            for pair in [*([keypoint.given] if keypoint.given else []), *best, *own]:
                peak = self.explanation.peaks[number][pair.peak - 1]
                if pair.given:
                    mark = "" if keypoint.right is None else " right" if keypoint.right else " WRONG"
                    labels.append(_Label(peak.xy, f"{short} {pair.peak}: {pair.score:.2f}{mark}", pair.person, "given"))
                else:
                    who = next((person for person in peak.people if person != pair.person), None)
                    mark = f" ({who or 'nobody'}){', its own' if pair.peak == keypoint.own else ''}"
                    labels.append(_Label(peak.xy, f"{short} {pair.peak}: {pair.score:.2f}{mark}", who, "other"))
        return labels

    def _region(self, labels: Sequence[_Label]) -> tuple[float, float, float, float]:
        """The box and what lies around it, as far as there is something to see; picture pixels, continuous."""
        low, high = np.array(self.person.box[:2]), np.array(self.person.box[2:])
        sides = np.maximum(high - low, 1.0)
        points = np.array([label.xy for label in labels]).reshape(-1, 2) + 0.5
        inside = ((points > low - _FARTHEST * sides) & (points < high + _FARTHEST * sides)).all(1)
        margin = _AROUND * sides
        x1, y1 = np.minimum(low - margin, np.min(points[inside] - margin / 2, 0, initial=np.inf))
        x2, y2 = np.maximum(high + margin, np.max(points[inside] + margin / 2, 0, initial=-np.inf))
        return float(x1), float(y1), float(x2), float(y2)


@dataclass(frozen=True)
class _Label:
    """A point with its text; kind: given, other or guess."""

    xy: tuple[float, float]
    text: str
    person: int | None
    kind: str

    def drawn(self, x: float, y: float, edge: float, text_y: float, right: bool) -> str:
        colour = _colour(self.person)
        dash = "" if self.kind == "given" else "; stroke-dasharray: 3 3"
        line = f'<path d="M{x:.1f} {y:.1f}L{edge:.1f} {text_y:.1f}" style="stroke: {colour}; opacity: .55{dash}"/>'
        if self.kind == "guess":
            mark = f'<path d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10" style="stroke: {colour}; stroke-width: 2"/>'
        else:
            mark = _dot(x, y, colour, filled=self.kind == "given")
        anchor, offset = ("start", 3) if right else ("end", -3)
        weight = "; font-weight: 600" if self.kind == "given" else ""
        text = (
            f'<text x="{edge + offset:.1f}" y="{text_y + 4:.1f}" text-anchor="{anchor}" '
            f'style="font-size: 12px{weight}">{escape(self.text)}</text>'
        )
        return f"<g><title>{escape(self.text)}</title>{line}{mark}{text}</g>"


@dataclass(frozen=True)
class _View:
    """A window on the picture (continuous pixels) shown ``zoom`` times as large."""

    region: tuple[float, float, float, float]
    zoom: float

    @classmethod
    def fitting(cls, region: tuple[float, float, float, float], width: float, height: float) -> _View:
        x1, y1, x2, y2 = region
        return cls(region, min(width / max(x2 - x1, 1.0), height / max(y2 - y1, 1.0)))

    @property
    def width(self) -> float:
        return (self.region[2] - self.region[0]) * self.zoom

    @property
    def height(self) -> float:
        return (self.region[3] - self.region[1]) * self.zoom

    def place(self, xy: tuple[float, float]) -> tuple[float, float]:
        """A keypoint's place in the drawing, moved onto the border where it lies outside."""
        x, y = ((xy[axis] + 0.5 - self.region[axis]) * self.zoom for axis in (0, 1))
        return min(max(x, 0.0), self.width), min(max(y, 0.0), self.height)

    def background(self, image: np.ndarray | None) -> str:
        """The picture's part in the window, or an empty sheet."""
        sheet = f'<rect width="{self.width:.1f}" height="{self.height:.1f}" style="fill: var(--raised)"/>'
        if image is None:
            return sheet
        size = image.shape[1::-1]
        low = [int(np.floor(np.clip(self.region[axis], 0, size[axis]))) for axis in (0, 1)]
        high = [int(np.ceil(np.clip(self.region[axis + 2], 0, size[axis]))) for axis in (0, 1)]
        if high[0] <= low[0] or high[1] <= low[1]:
            return sheet
        part = Image.fromarray(np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]]))
        part.thumbnail((_MOST_PIXELS, _MOST_PIXELS), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        part.save(stream, "jpeg", quality=82)
        data = base64.b64encode(stream.getvalue()).decode("ascii")
        x, y = ((low[axis] - self.region[axis]) * self.zoom for axis in (0, 1))
        width, height = ((high[axis] - low[axis]) * self.zoom for axis in (0, 1))
        return (
            f'{sheet}<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'preserveAspectRatio="none" href="data:image/jpeg;base64,{data}"/>'
        )

    def box(self, person: ExplainedPerson, faint: bool = False) -> str:
        """A box with its person's number, as far as it lies in the window."""
        x1, y1, x2, y2 = ((person.box[i] - self.region[i % 2]) * self.zoom for i in range(4))
        x1, x2 = (min(max(x, 0.0), self.width) for x in (x1, x2))
        y1, y2 = (min(max(y, 0.0), self.height) for y in (y1, y2))
        if x2 - x1 < 1 or y2 - y1 < 1:
            return ""
        style = f"fill: none; stroke: {_colour(person.person)}; stroke-width: " + (
            "1; stroke-dasharray: 5 4; opacity: .8" if faint else "2.5"
        )
        number = (
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{8 + 8 * len(str(person.person))}" height="16" '
            f'style="fill: {_colour(person.person)}"/><text x="{x1 + 4:.1f}" y="{y1 + 13:.1f}" '
            f'style="fill: var(--back)">{person.person}</text>'
        )
        return (
            f'<g><title>person {person.person}, score {person.score:.2f}</title><rect x="{x1:.1f}" y="{y1:.1f}" '
            f'width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" style="{style}"/>{number}</g>'
        )

    def limbs(self, person: ExplainedPerson, skeleton: Skeleton) -> str:
        """Lines between the peaks that a person got."""
        drawn = []
        for ends in skeleton.limbs:
            first, second = (person.keypoints[end] for end in ends)
            if first.peak is not None and second.peak is not None:
                (x1, y1), (x2, y2) = self.place(first.xy), self.place(second.xy)
                drawn.append(f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}")
        line = "".join(drawn)
        return (
            f'<path d="{line}" style="fill: none; stroke: #000; stroke-width: 5; opacity: .35"/>'
            f'<path d="{line}" style="fill: none; stroke: {_colour(person.person)}; stroke-width: 3"/>'
        )

    def dot(self, xy: tuple[float, float], person: int | None, text: str) -> str:
        """A peak, filled when somebody got it."""
        mark = _dot(*self.place(xy), _colour(person), filled=person is not None)
        return f"<g><title>{escape(text)}</title>{mark}</g>"


def grids_sheet(grids: PersonGrids, person: ExplainedPerson, skeleton: Skeleton) -> Image.Image:
    """For every keypoint what the network was shown (above) and what it answered (below), one tile each.

    A ring is a peak that was drawn; the square is the one that the person got. Each tile has its own scale, black being
    0 and the brightest its highest value.

    Returns:
        RGB.
    """
    height, width = grids.shown.shape[1:]
    factor = max(1, round(_TILE / max(height, width)))
    tile = (width * factor, height * factor)
    gap, heading = 8, 18
    across = min(_TILES_A_ROW, len(grids.shown))
    down = -(-len(grids.shown) // across)
    block = (tile[0] + gap, heading + 2 * (tile[1] + gap))
    sheet = Image.new("RGB", (across * block[0] + gap, down * block[1]), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for number, (name, places) in enumerate(zip(skeleton.keypoints, grids.places, strict=True)):
        x, y = gap + number % across * block[0], number // across * block[1]
        draw.text((x, y + 4), name.replace("left_", "l ").replace("right_", "r "), fill="black", font=font)
        for row, maps in enumerate((grids.shown, grids.answer)):
            top = y + heading + row * (tile[1] + gap // 2)
            picture = heat_picture(np.maximum(maps[number], 0), side=max(tile))
            sheet.paste(picture.resize(tile, Image.Resampling.NEAREST), (x, top))
            for peak, cell_x, cell_y in places:
                middle = (x + (cell_x + 0.5) * factor, top + (cell_y + 0.5) * factor)
                outline = [middle[0] - 5, middle[1] - 5, middle[0] + 5, middle[1] + 5]
                if peak == person.keypoints[number].peak:
                    draw.rectangle(outline, outline="#36e0a0", width=2)
                else:
                    draw.ellipse(outline, outline="white")
    return sheet


def _spread(wanted: Sequence[float], height: float) -> list[float]:
    """Heights of lines of text near the wanted ones (ascending), none over another, within the drawing."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + _LINE if placed else _LINE / 2))
    last = height - _LINE / 2
    for number in reversed(range(len(placed))):
        placed[number] = min(placed[number], last)
        last = placed[number] - _LINE
    return placed


def _dot(x: float, y: float, colour: str, filled: bool) -> str:
    inside = colour if filled else "none"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" style="fill: none; stroke: #fff; stroke-width: 4; opacity: .7"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" style="fill: {inside}; stroke: {colour}; stroke-width: 2"/>'
    )


def _colour(person: int | None) -> str:
    return "var(--faint)" if person is None else f"var(--c{(person - 1) % COLOURS})"


def _figure(drawn: Sequence[str], height: float, caption: str) -> str:
    text = escape(caption)
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_WIDTH} {height + 2:.0f}" role="img" aria-label="{text}">'
        f'{"".join(drawn)}</svg><figcaption>{text}</figcaption></figure>'
    )
