"""Predictions in another frame than the picture's pixels: shifted, scaled, shares of the picture, a resized picture.

Each frame says what a prediction p of a picture must become up to a factor or a shift that all pictures share; that
is fitted to the labels, first to where people are on the whole, then to the people who come out nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from multiposenet.evaluation.ground_truth import GroundTruth
from multiposenet.evaluation.matches import same_picture
from multiposenet.evaluation.results import Results

_ROUNDS = 8  # of fitting; each starts from a better pairing of people


@dataclass(frozen=True)
class Frame:
    """Picture pixels = ``scale`` x ``unit`` x prediction + ``shift`` - ``margin``, on each axis.

    Args:
        words: (scale [2], shift [2]) -> what has to be done to the predictions.
        unit, margin: sizes [I, 2] as (width, height) -> [I, 2], what is known about each picture.
        scaled, shifted: whether a scale and a shift that all pictures share are to be found; else 1 and 0.
    """

    words: Callable[[np.ndarray, np.ndarray], str]
    unit: Callable[[np.ndarray], np.ndarray] = np.ones_like
    margin: Callable[[np.ndarray], np.ndarray] = np.zeros_like
    scaled: bool = False
    shifted: bool = False


def _long_side(sizes: np.ndarray) -> np.ndarray:
    return np.repeat(sizes.max(axis=-1, keepdims=True), 2, axis=-1)


def _to_the_middle(sizes: np.ndarray) -> np.ndarray:
    return (_long_side(sizes) - sizes) / 2


FRAMES = (
    Frame(
        lambda scale, shift: "multiplying x and y, which are shares of the picture, by its width and height",
        unit=lambda sizes: sizes,
    ),
    Frame(lambda scale, shift: f"shifting x by {shift[0]:+.1f} and y by {shift[1]:+.1f} pixels", shifted=True),
    Frame(lambda scale, shift: f"multiplying x by {scale[0]:.3f} and y by {scale[1]:.3f}", scaled=True),
    Frame(
        lambda scale, shift: (
            f"scaling back from pictures whose longer side is {1 / scale.mean():.0f} pixels (times the longer side "
            f"/ {1 / scale.mean():.0f})"
        ),
        unit=_long_side,
        scaled=True,
    ),
    Frame(
        lambda scale, shift: (
            f"scaling back from pictures stretched to {1 / scale[0]:.0f} x {1 / scale[1]:.0f} pixels (width x height)"
        ),
        unit=lambda sizes: sizes,
        scaled=True,
    ),
    Frame(
        lambda scale, shift: (
            f"taking off the padding and scaling back from pictures centred in a square of {1 / scale.mean():.0f} "
            "pixels"
        ),
        unit=_long_side,
        margin=_to_the_middle,
        scaled=True,
    ),
    Frame(
        lambda scale, shift: (
            f"multiplying x by {scale[0]:.3f} and y by {scale[1]:.3f}, and shifting them by {shift[0]:+.1f} and "
            f"{shift[1]:+.1f} pixels"
        ),
        scaled=True,
        shifted=True,
    ),
)


def frame_changes(truth: GroundTruth, results: Results, pictures: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Every frame that can be fitted: what has to be done, in words, and where that puts all predictions [D, K, 2].

    Args:
        truth: the people; frames that depend on the pictures' sizes are left out where these are not known.
        results: the predictions.
        pictures: positions of the pictures to fit on; all have people to be found and predictions.
    """
    people = np.flatnonzero(truth.scored & np.isin(truth.picture, pictures))
    row, prediction = same_picture(truth.picture[people], results.picture, np.arange(len(results)))
    pairs = people[row], prediction
    sizes = truth.sizes[:, ::-1]
    for frame in FRAMES:
        unit, margin = frame.unit(sizes)[results.picture], frame.margin(sizes)[results.picture]
        if not np.isfinite(np.concatenate([unit[prediction], margin[prediction]])).all():
            continue
        known = results.xy * unit[:, None]
        scale, shift = _fit(frame, truth, known, margin, pairs)
        if np.isfinite([scale, shift]).all() and (scale > 0).all():
            yield frame.words(scale, shift), known * scale + shift - margin[:, None]


def _fit(
    frame: Frame, truth: GroundTruth, known: np.ndarray, margin: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Scale [2] and shift [2] that bring ``known`` [D, K, 2] to the labels of the same pictures, by medians."""
    person, prediction = pairs
    labelled = (truth.visibility[person] > 0)[..., None]
    target = np.where(labelled, truth.xy[person] + margin[prediction, None], np.nan)
    given = np.where(labelled, known[prediction], np.nan)
    scale, shift = np.ones(2), np.zeros(2)
    nearest = np.arange(len(person))  # at first everybody is paired with everybody in the picture
    for _ in range(_ROUNDS):
        scale, shift = _scale_and_shift(frame, given[nearest], target[nearest])
        if not np.isfinite([scale, shift]).all():  # all predictions in one place
            break
        distance = np.nanmean(np.abs(given * scale + shift - target), axis=(1, 2))
        order = np.lexsort((distance, person))
        nearest = order[np.diff(person[order], prepend=-1) != 0]  # the prediction nearest to each person
    return scale, shift


def _scale_and_shift(frame: Frame, given: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale, shift = np.ones(2), np.zeros(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        if frame.scaled and frame.shifted:  # by how far keypoints of different people are apart: no shift changes that
            scale = _median((target - np.roll(target, len(target) // 2, axis=0)) / _apart(given))
        elif frame.scaled:
            scale = _median(target / given)
    if frame.shifted:
        shift = _median(target - given * scale)
    return scale, shift


def _apart(given: np.ndarray) -> np.ndarray:
    """Points [R, K, 2] less those of somebody else, NaN where they are nearer to each other than half of all are."""
    difference = given - np.roll(given, len(given) // 2, axis=0)
    size = np.abs(difference)
    return np.where(size > np.nanmedian(size, axis=(0, 1)), difference, np.nan)


def _median(values: np.ndarray) -> np.ndarray:
    """[2] median over all but the last axis of what is finite and not 0; NaN where nothing is."""
    values = values.reshape(-1, 2)
    values = values[np.isfinite(values).all(axis=-1) & (values != 0).any(axis=-1)]
    return np.median(values, axis=0) if len(values) else np.full(2, np.nan)
