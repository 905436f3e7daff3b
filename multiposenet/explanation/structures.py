"""An explained grouping: a picture, its people, their keypoints, and every pair of a peak and a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from multiposenet.skeletons import Skeleton

NOBODY, BOXLESS = 0, -1
"""Whose a peak is by the labels, instead of a person's number: nobody's; somebody's who has no box."""

SERIOUS_SHARE, SERIOUS_SCORE = 0.1, 0.05
"""What comes near: this share of the score of the pair that was made, or this score where none was."""


@dataclass(frozen=True)
class Owners:
    """Whose peaks and boxes are, where labels tell; G annotated people.

    Args:
        boxes: [P] the annotated person of each box slot, -1 for nobody.
        peaks: [K, M] the annotated person of each peak slot, -1 for nobody.
        labelled: [G, K] bool, which keypoints the annotators labelled.
    """

    boxes: np.ndarray
    peaks: np.ndarray
    labelled: np.ndarray


@dataclass(frozen=True)
class Pair:
    """A person and a peak that this person could have.

    Args:
        person, peak: numbers from 1; people in order of their scores, peaks of one keypoint as they were found.
        score: of the pair, in [0, 1].
        suits: how well the scorer takes the peak to suit the person, whatever the peak's height: score / height.
        weight: what the assignment goes by.
        given: whether this person got this peak.
        parts: what ``suits`` is made of, by name, where the scorer can tell.
    """

    person: int
    peak: int
    score: float
    suits: float
    weight: float
    given: bool
    parts: Mapping[str, float]


@dataclass(frozen=True)
class ExplainedPeak:
    """A peak of the picture.

    Args:
        peak: its number among those of its keypoint, from 1.
        xy: picture pixels.
        score: its height.
        people: numbers of those who got it.
        owner: number of the person whose it is by the labels, or ``NOBODY`` or ``BOXLESS``; None without labels.
    """

    peak: int
    xy: tuple[float, float]
    score: float
    people: tuple[int, ...]
    owner: int | None


@dataclass(frozen=True)
class ExplainedKeypoint:
    """One keypoint of one person.

    Args:
        xy, score: where it is taken to be (picture pixels), and how sure; a guess when there is no peak.
        peak: number of its peak; None for a guess.
        pairs: the peaks that this person could have had, best first.
        rivals: the other people who could have had its peak, best first.
        own: number of the peak that is this person's by the labels; None when there is none, or no labels.
        right: whether it got its own peak. Without an own one: False for a peak that is known to be wrong, because it
            is another person's, or because the keypoint is labelled elsewhere. None where labels do not tell.
    """

    xy: tuple[float, float]
    score: float
    peak: int | None
    pairs: tuple[Pair, ...]
    rivals: tuple[Pair, ...]
    own: int | None
    right: bool | None

    @property
    def given(self) -> Pair | None:
        """The pair with the peak that it got."""
        return next((pair for pair in self.pairs if pair.given), None)

    @property
    def serious_others(self) -> tuple[Pair, ...]:
        """Of the peaks that the person could have had and did not get those that come near, best first."""
        return tuple(pair for pair in self.pairs if not pair.given and pair.score >= self._serious)

    @property
    def serious_rivals(self) -> tuple[Pair, ...]:
        """Of the other people who could have had its peak those who come near, best first."""
        return tuple(pair for pair in self.rivals if pair.score >= self._serious)

    @property
    def questioned(self) -> bool:
        """Whether there was anything to decide: another peak for this person, or another person for this peak."""
        return bool(self.serious_others or self.serious_rivals)

    @property
    def _serious(self) -> float:
        return SERIOUS_SHARE * self.given.score if self.given is not None else SERIOUS_SCORE


@dataclass(frozen=True)
class PersonGrids:
    """What a network on grids saw of one person's box, and what it answered.

    Args:
        shown: [K, h, w], a blob at every peak in and near the box, whoever's it is.
        answer: [K, h, w], where the network takes this person's keypoints to be.
        places: by keypoint the peaks that were drawn: number, x and y in cells.
    """

    shown: np.ndarray
    answer: np.ndarray
    places: tuple[tuple[tuple[int, float, float], ...], ...]


@dataclass(frozen=True)
class ExplainedPerson:
    """One person.

    Args:
        person: number from 1.
        box: xyxy, picture pixels.
        box_score, score: the detector's and the final one.
        keypoints: in the skeleton's order.
        labelled: whether the box is an annotated person's; None without labels.
        grids: None without a network on grids.
    """

    person: int
    box: tuple[float, float, float, float]
    box_score: float
    score: float
    keypoints: tuple[ExplainedKeypoint, ...]
    labelled: bool | None = None
    grids: PersonGrids | None = field(default=None, repr=False)

    @property
    def num_peaks(self) -> int:
        """How many keypoints got a peak."""
        return sum(keypoint.peak is not None for keypoint in self.keypoints)


@dataclass(frozen=True)
class Explanation:
    """One picture.

    Args:
        skeleton: whose keypoints.
        people: best first.
        peaks: keypoint by keypoint.
        rule: name of the assignment in ``decode.assignment.ASSIGNMENTS``, or ``"another"``.
        weight_is: what a pair's weight is, in words.
    """

    skeleton: Skeleton
    people: tuple[ExplainedPerson, ...]
    peaks: tuple[tuple[ExplainedPeak, ...], ...]
    rule: str
    weight_is: str

    def to_dict(self) -> dict:
        """Everything but the grids, as plain values for JSON."""
        names = self.skeleton.keypoints
        people = []
        for person in self.people:
            own = {key: value for key, value in vars(person).items() if key not in ("keypoints", "grids")}
            keypoints = {name: asdict(keypoint) for name, keypoint in zip(names, person.keypoints, strict=True)}
            people.append({**own, "keypoints": keypoints})
        peaks = {name: [asdict(peak) for peak in own] for name, own in zip(names, self.peaks, strict=True)}
        return {"assignment": self.rule, "weight": self.weight_is, "people": people, "peaks": peaks}
