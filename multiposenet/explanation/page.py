"""An explained grouping as one page that opens from disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from multiposenet.explanation.drawing import EverybodyDrawing, PersonDrawing, grids_sheet
from multiposenet.explanation.structures import ExplainedKeypoint, ExplainedPerson, Explanation
from multiposenet.explanation.words import grids_line, keypoint_story, person_head, summary
from multiposenet.report_page import Cell, Figure, Items, Note, Page, Part, Section, Table, Text

_WORDS = (
    "peak: a local maximum of a keypoint's heatmap (or a labelled keypoint that stands in for one), before it is "
    "anybody's; peaks of one keypoint are numbered",
    "score of a pair: how well the grouping takes the peak to suit the person, times the peak's height; in [0, 1]",
    "choice and claim (set assignment): the probability that the person's keypoint is this peak and no other, and that "
    "the peak is this person's and nobody else's; the pair's score is the root of their product, times the height",
    "guess: where a keypoint without a peak is taken to be; its score is low, since nothing was seen there",
    "question: a keypoint for which another peak, or a peak for which another person, came near: a tenth of the score "
    "of the pair that was made, or 0.05 where none was; the JSON file has every pair",
    "right and WRONG: whether a person got the peak that is this person's by the labels; the grouping never sees them",
)
_GRID_WORDS = (
    "the network's input (upper tile of each keypoint): a blob at every peak in and near the person's box, whoever's "
    "it is; it holds neither labels nor the picture",
    "the network's answer (lower tile): where it takes this person's keypoints to be. What it puts around a peak, "
    "times the peak's height, is the pair's score; coordinates come from the peak",
)


def explanation_page(
    title: str,
    lead: str,
    explanation: Explanation,
    image_size: tuple[int, int],
    image: np.ndarray | None = None,
    least_score: float = 0.0,
) -> Page:
    """The page.

    Args:
        title: heading; lead: what was grouped, and by what.
        explanation: of the picture.
        image_size: (height, width).
        image: [H, W, 3] uint8 RGB, or None when there are labels only.
        least_score: people below it have no section of their own.
    """
    shown = [person for person in explanation.people if person.score >= least_score]
    words = [*_WORDS, *(_GRID_WORDS if any(person.grids for person in shown) else ())]
    sections = [
        Section("Everybody", _everybody(explanation, image_size, image, least_score)),
        *(Section(f"Person {person.person}", _person(explanation, person, image)) for person in shown),
        Section("What the words mean", [Items(words)]),
    ]
    return Page(title, sections, lead)


def _everybody(
    explanation: Explanation, image_size: tuple[int, int], image: np.ndarray | None, least_score: float
) -> list[Part]:
    parts: list[Part] = [
        Items(summary(explanation)),
        EverybodyDrawing(explanation, image_size, image, least_score),
    ]
    if not explanation.people:
        return parts
    labelled = explanation.people[0].labelled is not None
    told = [person for person in explanation.people if person.score >= least_score or person.num_peaks]
    rows = [_person_row(person, labelled) for person in told]
    columns = ["person", "score", "box score", "got a peak", "questions"]
    columns += ["own peaks", "of them right", "wrong"] if labelled else []
    parts.append(Table(columns, rows, f"People, decided by the rule {explanation.rule!r}", digits=2))
    if below := sum(person.score < least_score for person in explanation.people):
        without = len(explanation.people) - len(told)
        parts.append(
            Note(f"{below} of all have a score below {least_score:g} and no section here, {without} of them no peak.")
        )
    return parts


def _person_row(person: ExplainedPerson, labelled: bool) -> list[Cell]:
    keypoints = person.keypoints
    row: list[Cell] = [
        str(person.person),
        person.score,
        person.box_score,
        person.num_peaks,
        sum(keypoint.questioned for keypoint in keypoints),
    ]
    if not labelled:
        return row
    row += [
        sum(keypoint.own is not None for keypoint in keypoints),
        sum(bool(keypoint.right) for keypoint in keypoints),
        sum(keypoint.right is False for keypoint in keypoints),
    ]
    return row


def _person(explanation: Explanation, person: ExplainedPerson, image: np.ndarray | None) -> list[Part]:
    parts: list[Part] = [Text(person_head(person))]
    names = explanation.skeleton.keypoints
    wrong = [name for name, keypoint in zip(names, person.keypoints, strict=True) if keypoint.right is False]
    if wrong:
        parts.append(Note(f"Wrong by the labels: {', '.join(wrong)}.", "bad"))
    parts.append(PersonDrawing(explanation, person, image))
    if person.grids is not None:
        parts.append(Text(grids_line(person)))
        caption = f"Person {person.person}: what the network was shown (above) and what it answered (below)"
        caption += ". The square is the peak that the person got, circles are the others. Each tile has its own scale."
        parts.append(Figure(grids_sheet(person.grids, person, explanation.skeleton), caption, lossless=True))
    rows = [
        [name, *_keypoint_cells(keypoint), keypoint_story(explanation, person.person, number)]
        for number, (name, keypoint) in enumerate(zip(names, person.keypoints, strict=True))
    ]
    parts.append(Table(["keypoint", "peak", "score", "runner-up", "its score", "why"], rows, digits=2))
    return parts


def _keypoint_cells(keypoint: ExplainedKeypoint) -> Sequence[Cell]:
    runner_up = [[pair.peak, pair.score] for pair in keypoint.serious_others[:1]] or [[None, None]]
    return [keypoint.peak, keypoint.score, *runner_up[0]]
