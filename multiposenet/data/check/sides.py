"""Left and right: whether a file exchanges them, and people on whom they contradict each other.

Nobody knows from keypoints alone whether somebody is seen from the front or from behind, but who shows nose and eyes
is seen from the front, and then the left eye, shoulder and hip lie on one side. Sides are taken from the direction
eyes to nose, not from x, so a lying person or a turned picture counts the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multiposenet.data.check.findings import Check, Scope, Severity
from multiposenet.data.check.label_table import LabelTable
from multiposenet.skeletons import Skeleton

EXPECTED_FRONT = {
    "eye": 0.998, "ear": 0.998, "shoulder": 0.979, "elbow": 0.979, "wrist": 0.915, "hip": 0.974, "knee": 0.913,
    "ankle": 0.844,
}  # fmt: skip
"""Share of COCO train2017's people with visible nose and eyes whose left keypoint lies on their left; measured."""

EXPECTED_ANY = {"shoulder": 0.709, "elbow": 0.768, "wrist": 0.772, "hip": 0.711, "knee": 0.666, "ankle": 0.624}
"""The same of all people with labelled shoulders and hips: most people are photographed from the front."""

EXPECTED_AGREEMENT = {"elbow": 0.986, "wrist": 0.934, "hip": 0.981, "knee": 0.910, "ankle": 0.841}
"""Share of COCO train2017's people whose pair points the same way as their shoulders."""

_TRUNK = ("eye", "ear", "shoulder", "hip")  # which, unlike arms and legs, are hardly ever crossed
_ENOUGH = 20  # people without whom there is no verdict
_MISSED = 0.1  # how far below the expected share the trunk's may be
_CLEAR_FACE, _CLEAR_TRUNK, _CLEAR_BACK = 0.5, 0.2, 0.3  # sines; see _suspects
_FACE_PIXELS = 8.0


@dataclass(frozen=True)
class SideShare:
    """How one pair of keypoints lies, over all people who can be judged.

    Args:
        part: ``shoulder`` for ``left_shoulder`` and ``right_shoulder``.
        people: how many were judged.
        share: of them whose left one lies on the person's left.
        expected: the same on COCO train2017; None for a part that COCO lacks.
    """

    part: str
    people: int
    share: float
    expected: float | None

    @property
    def highest(self) -> float:
        """Upper end of the share's 95 % interval (Wilson, 1927)."""
        spread = 1.96**2 / self.people
        root = math.sqrt(self.share * (1 - self.share) / self.people + spread / (4 * self.people))
        return (self.share + spread / 2 + 1.96 * root) / (1 + spread)

    @property
    def exchanged(self) -> bool:
        """Surely less than half of the people."""
        return self.people >= _ENOUGH and self.highest < 0.5


@dataclass(frozen=True)
class Sides:
    """What a file's pairs of keypoints say about its left and right.

    Args:
        judged_by: ``"face"`` where enough people show nose and eyes, ``"trunk"`` where not.
        shares: of all pairs of the skeleton, those that somebody has.
        agreement: judged by the trunk, the share of people whose pair points the same way as their shoulders.
    """

    judged_by: str
    shares: tuple[SideShare, ...]
    agreement: tuple[SideShare, ...] = ()


def describe_sides(table: LabelTable) -> Sides:
    """The pairs of a table, judged by faces, or by trunks where faces are too few or the skeleton has none."""
    direction, seen = _face_direction(table)
    if seen.sum() >= _ENOUGH:
        return Sides("face", _shares(table, direction, seen, EXPECTED_FRONT))
    direction, seen = _trunk_direction(table)
    across, shouldered = _across(table, "shoulder")
    return Sides(
        "trunk",
        _shares(table, direction, seen, EXPECTED_ANY),
        tuple(s for s in _shares(table, across, shouldered, EXPECTED_AGREEMENT) if s.part != "shoulder"),
    )


def _shares(
    table: LabelTable, direction: np.ndarray, seen: np.ndarray, expected: dict[str, float]
) -> tuple[SideShare, ...]:
    shares = []
    for left, right in table.skeleton.flip_pairs:
        part = _part(table.skeleton, left)
        judged = seen & table.labelled[:, left] & table.labelled[:, right]
        if judged.any():
            across = (table.keypoints[judged, left] - table.keypoints[judged, right])[:, :2]
            share = float(((across * direction[judged]).sum(axis=1) > 0).mean())
            shares.append(SideShare(part, int(judged.sum()), share, expected.get(part)))
    return tuple(shares)


def _exchanged_file(table: LabelTable) -> Sequence[str]:
    sides = describe_sides(table)
    if sides.judged_by == "face":
        exchanged = [share for share in sides.shares if share.exchanged]
        whose = "people who show their face"
    else:
        exchanged = [share for share in sides.agreement if share.exchanged]
        whose = "people, measured against their shoulders"
    if not exchanged:
        return []
    told = ", ".join(f"{share.part} {100 * share.share:.1f} % of {share.people:,}" for share in exchanged)
    usual = ", ".join(f"{share.part} {100 * share.expected:.1f} %" for share in exchanged if share.expected)
    extent = "every pair" if len(exchanged) == len(sides.shares) else "these pairs"
    return [f"{extent}: the left one is on the left on {told} of the {whose}; COCO train2017: {usual or 'unknown'}"]


def _doubtful_file(table: LabelTable) -> Sequence[str]:
    sides = describe_sides(table)
    if sides.judged_by == "trunk":
        return [
            f"{100 * (1 - share.share):.1f} % of {share.people:,} people with shoulders and hips would be seen from "
            f"behind; COCO train2017: {100 * (1 - EXPECTED_ANY['shoulder']):.1f} %"
            for share in sides.shares
            if share.part == "shoulder" and share.exchanged
        ]
    return [
        f"{share.part}: on the left on {100 * share.share:.1f} % of {share.people:,} people who show their face; COCO "
        f"train2017: {100 * share.expected:.1f} %"
        for share in sides.shares
        if share.part in _TRUNK and share.people >= _ENOUGH and 0.5 <= share.highest < share.expected - _MISSED
    ]


def _suspects(table: LabelTable) -> np.ndarray:
    face, trunk, hips = _judgements(table)
    return face | trunk | hips


def _judgements(table: LabelTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[T] bool each: a mirrored face; shoulders against hips; a face from the front on a trunk from behind.

    Each is the sine of an angle, so it holds for people in any attitude: eyes and the way from them to the nose;
    shoulders, or hips, and the way down the trunk, in lengths of the trunk.
    """
    turned, seen = _face_sine(table)
    shoulders, hips, whole = _trunk_sines(table)
    twisted = whole & (shoulders * hips < 0) & (np.minimum(abs(shoulders), abs(hips)) > _CLEAR_TRUNK)
    behind = whole & (np.maximum(shoulders, hips) < -_CLEAR_BACK)
    return seen & (turned < -_CLEAR_FACE), twisted, behind & seen & (turned > _CLEAR_FACE)


def _suspect_detail(table: LabelTable, row: int) -> str:
    texts = (
        "the face is mirrored: seen from the front, the left eye is on the wrong side",
        "shoulders and hips point in opposite directions",
        "the face is seen from the front, shoulders and hips from behind",
    )
    return "; ".join(text for text, found in zip(texts, _judgements(table), strict=True) if found[row])


def _face_direction(table: LabelTable) -> tuple[np.ndarray, np.ndarray]:
    """Each person's left in the picture [T, 2], and [T] who shows nose and both eyes."""
    places, visibility = table.keypoints, table.keypoints[..., 2]
    face = _indices(table.skeleton, "nose", "left_eye", "right_eye")
    if face is None:
        return np.zeros((len(table), 2)), np.zeros(len(table), bool)
    nose, left, right = face
    down = places[:, nose, :2] - (places[:, left, :2] + places[:, right, :2]) / 2
    seen = (table.labelled & (visibility == 2))[:, list(face)].all(axis=1) & ~table.is_crowd
    return _quarter_turn(down), seen & (down != 0).any(axis=1)


def _face_sine(table: LabelTable) -> tuple[np.ndarray, np.ndarray]:
    """[T] sine of the angle from the line of the eyes to the nose, and [T] whose face is large and plain enough."""
    direction, seen = _face_direction(table)
    across, _ = _across(table, "eye")
    apart, below = np.linalg.norm(across, axis=1), np.linalg.norm(direction, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        sine = (across * direction).sum(axis=1) / (apart * below)
    return sine, seen & (apart >= _FACE_PIXELS) & (below > apart / 4)


def _trunk_direction(table: LabelTable) -> tuple[np.ndarray, np.ndarray]:
    """Each person's left in the picture [T, 2] if seen from the front, and [T] who has shoulders and hips."""
    joints = _indices(table.skeleton, "left_shoulder", "right_shoulder", "left_hip", "right_hip")
    if joints is None:
        return np.zeros((len(table), 2)), np.zeros(len(table), bool)
    a, b, c, d = (table.keypoints[:, joint, :2] for joint in joints)
    down = (c + d - a - b) / 2
    whole = table.labelled[:, list(joints)].all(axis=1) & ~table.is_crowd
    return _quarter_turn(down), whole & (down != 0).any(axis=1)


def _trunk_sines(table: LabelTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[T] how wide shoulders and hips are in lengths of the trunk, negative as seen from behind; [T] who has them."""
    direction, whole = _trunk_direction(table)
    length = (direction**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shoulders, hips = ((_across(table, part)[0] * direction).sum(axis=1) / length for part in ("shoulder", "hip"))
    return shoulders, hips, whole


def _across(table: LabelTable, part: str) -> tuple[np.ndarray, np.ndarray]:
    """From the right to the left one of a pair [T, 2], and [T] who has both."""
    pair = _indices(table.skeleton, f"left_{part}", f"right_{part}")
    if pair is None:
        return np.zeros((len(table), 2)), np.zeros(len(table), bool)
    left, right = pair
    return (table.keypoints[:, left] - table.keypoints[:, right])[:, :2], table.labelled[:, list(pair)].all(axis=1)


def _quarter_turn(down: np.ndarray) -> np.ndarray:
    """Where the left is of somebody who faces the viewer and whose lower end is that way."""
    return np.stack([down[:, 1], -down[:, 0]], axis=1)


def _indices(skeleton: Skeleton, *names: str) -> tuple[int, ...] | None:
    if any(name not in skeleton.keypoints for name in names):
        return None
    return tuple(skeleton.index(name) for name in names)


def _part(skeleton: Skeleton, left: int) -> str:
    return skeleton.keypoints[left].replace("left", "").strip("_- ")


SIDE_CHECKS = (
    Check(
        "left-right-exchanged", Severity.ERROR, Scope.FILE,
        "Left and right are exchanged all over the file: another order of the keypoints, or pictures that were "
        "mirrored without exchanging the names.", _exchanged_file,
    ),
    Check(
        "left-right-doubtful", Severity.WARNING, Scope.FILE,
        "Fewer people than usual have their left on the left: part of the file may be mirrored.", _doubtful_file,
    ),
    Check(
        "left-right-of-person", Severity.WARNING, Scope.PEOPLE,
        "Left and right of this person contradict each other; look at the picture.", _suspects, _suspect_detail,
    ),
)  # fmt: skip
"""Checks of left and right."""
