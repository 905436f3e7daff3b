"""A synthetic person as a figure of solids that knows where its keypoints are and which solids show them.

Body frame: x to the person's left, y up, z forward, origin in the pelvis; lengths in body heights (about 1 from sole
to crown). A figure is made in its body frame (:mod:`multiposenet.data.bodies`) and then placed in a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from multiposenet.data.clothes import Cloth
from multiposenet.data.solids import Pattern, Solid

# Which parts show a keypoint, and how far (in body heights) their surface may lie in front of it. A surface of another
# part, or one farther in front (the chest before the far shoulder, the skull before a face turned away), hides it.
_SHOWN_BY = {
    "nose": ({"head"}, 0.020),
    "eye": ({"head"}, 0.014),
    "ear": ({"head"}, 0.020),
    "shoulder": ({"torso", "{side}_upper_arm"}, 0.062),
    "elbow": ({"{side}_upper_arm", "{side}_forearm"}, 0.052),
    "wrist": ({"{side}_forearm", "{side}_hand"}, 0.046),
    "hip": ({"torso", "skirt", "{side}_thigh"}, 0.100),
    "knee": ({"skirt", "{side}_thigh", "{side}_shin"}, 0.066),
    "ankle": ({"{side}_shin", "{side}_foot"}, 0.052),
    "hand": ({"{side}_hand"}, 0.035),
    "toe": ({"{side}_foot"}, 0.035),
    "heel": ({"{side}_foot"}, 0.040),
    "neck": ({"torso", "neck"}, 0.060),
    "thorax": ({"torso", "neck"}, 0.075),
    "pelvis": ({"torso", "skirt"}, 0.110),
    "head": ({"head", "hair", "hat"}, 0.105),
    "head_top": ({"head", "hair", "hat"}, 0.060),
}
_ALIASES = {"top_head": "head_top", "upper_neck": "neck"}
_PAIRED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "hand", "toe", "heel")

KEYPOINTS: tuple[str, ...] = (
    "nose",
    *(f"{side}_{name}" for name in _PAIRED for side in ("left", "right")),
    *("neck", "upper_neck", "thorax", "pelvis", "head", "head_top", "top_head"),
)
"""Every keypoint of a figure; a skeleton made of some of them, matched by name, can be labelled."""


def shown_by(keypoint: str) -> tuple[frozenset[str], float]:
    """The parts that show a keypoint and how far before it their surface may lie (body heights)."""
    side, _, name = keypoint.rpartition("_")
    if side not in ("left", "right"):
        side, name = "", _ALIASES.get(keypoint, keypoint)
    parts, reach = _SHOWN_BY[name]
    return frozenset(part.format(side=side) for part in parts), reach


@dataclass
class Figure:
    """A person made of solids, in the body frame.

    Args:
        keypoints: name -> [3], every name of :data:`KEYPOINTS`.
        solids: what it is made of, carried things included; lengths in body heights.
    """

    keypoints: dict[str, np.ndarray] = field(default_factory=dict)
    solids: list[Solid] = field(default_factory=list)

    def capsule(self, part, start, end, radii, cloth: Cloth, frame=None, **options) -> None:
        """Adds a tapered capsule; ``frame`` is (origin [3], rotation [3, 3]) of the cloth's print."""
        pattern = None if cloth.kind is None else cloth.pattern(*(frame or _along(start, end)))
        self.solids.append(Solid(part, cloth.colours, start, end, radii, pattern=pattern, **options))

    def ellipsoid(self, part, centre, rotation, half_axes, cloth: Cloth, frame=None, **options) -> None:
        """Adds an ellipsoid with half axes along the columns of ``rotation``."""
        pattern = None if cloth.kind is None else cloth.pattern(*(frame or (centre, rotation)))
        axes = rotation * np.asarray(half_axes)
        self.solids.append(Solid(part, cloth.colours, centre, axes=axes, pattern=pattern, **options))

    def place(
        self, rotation: np.ndarray, scale: float, origin: tuple[float, float], distance: float
    ) -> tuple[list[Solid], np.ndarray, np.ndarray]:
        """Puts the figure into a picture.

        Args:
            rotation: [3, 3] from the body frame to the viewer's: x right, y up, z towards the viewer.
            scale: pixels a body height.
            origin: where the pelvis comes to lie, pixel (x, y).
            distance: of the viewer, in body heights; near viewers see strong perspective.

        Returns:
            solids: in the frame of :mod:`multiposenet.data.solids`.
            keypoints: [len(KEYPOINTS), 3] in the same frame.
            units: [len(KEYPOINTS)], pixels a body height at each keypoint, larger where nearer.
        """
        view = rotation * np.array([[1.0], [-1.0], [1.0]])
        starts = [solid.start for solid in self.solids]
        ends = [solid.start if solid.end is None else solid.end for solid in self.solids]
        points = np.stack([*(self.keypoints[name] for name in KEYPOINTS), *starts, *ends]) @ view.T
        units = scale * distance / np.maximum(distance - points[:, 2], 0.3)
        put = points * units[:, None] + np.array([origin[0], origin[1], 0.0])
        near = units.tolist()
        first = len(KEYPOINTS)
        second = first + len(starts)
        placed = []
        for i, solid in enumerate(self.solids):
            pattern = solid.pattern
            if pattern is not None:
                axes = pattern.axes @ view.T / near[first + i]
                # The print stays at rest on its own solid: the solid's middle keeps its coordinates.
                pattern = Pattern(
                    pattern.kind, axes, pattern.offsets + pattern.axes @ solid.start - axes @ put[first + i]
                )
            placed.append(
                Solid(
                    solid.part,
                    solid.colours,
                    put[first + i],
                    None if solid.end is None else put[second + i],
                    (solid.radii[0] * near[first + i], solid.radii[1] * near[second + i]),
                    None if solid.axes is None else view @ solid.axes * near[first + i],
                    pattern,
                    solid.body,
                    solid.open_end,
                )
            )
        return placed, put[:first], units[:first]


def _along(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A frame whose y runs down a limb, for prints that go round it."""
    y = (start - end) / (np.linalg.norm(start - end) + 1e-9)
    x = np.cross(y, [0.13, 0.21, 0.97])  # any direction across the limb
    x /= np.linalg.norm(x) + 1e-9
    return start, np.stack([x, y, np.cross(x, y)], axis=1)
