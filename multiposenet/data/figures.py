"""Synthetic people: an articulated body with random build, pose, clothes, hair and things in its hands.

Body frame: x to the person's left, y up, z forward; lengths in body heights (about 1 from sole to crown). A figure is
made in its body frame and then placed in a picture; both know its named points exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from multiposenet.data.body_poses import BodyPose, sample_pose, turn_x, turn_y, turn_z
from multiposenet.data.clothes import HAIR, SKIN, Cloth, plain_cloth, sample_cloth, sample_colour, varied
from multiposenet.data.solids import Pattern, Solid

SIDES = (("left", 1.0), ("right", -1.0))

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


_IDENTITY = np.eye(3)


def sample_figure(rng: np.random.Generator, pose: BodyPose | None = None, detail: bool = True) -> Figure:
    """A random person: build, pose, clothes, hair, things.

    Args:
        rng: the only source of chance.
        pose: joint angles; None samples some.
        detail: False leaves out what nobody sees on a small figure (lips, whites of the eyes, thumbs).
    """
    pose = sample_pose(rng) if pose is None else pose
    figure = Figure()

    def u(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    child = rng.random() < 0.15
    head_size = u(1.02, 1.12) * (u(1.15, 1.4) if child else 1.0)
    stout = u(0.88, 1.2) * (u(1.0, 1.25) if rng.random() < 0.2 else 1.0)
    hip_width, shoulder_width = u(0.052, 0.064), u(0.092, 0.112)
    thigh, shin = u(0.225, 0.255), u(0.215, 0.245)
    upper_arm, forearm = u(0.155, 0.18), u(0.135, 0.155)
    loins, chest = u(0.085, 0.1), u(0.185, 0.21)

    skin = plain_cloth(varied(rng, SKIN, 8))
    hair = plain_cloth(varied(rng, HAIR, 8))
    shirt = sample_cloth(rng, 0.4, front=True)
    sleeve = shirt
    if shirt.kind in ("panel", "badge"):
        sleeve = plain_cloth(shirt.colours[0 if rng.random() < 0.85 else 1])
    legwear = sample_cloth(rng, 0.75)
    shoes = plain_cloth(sample_colour(rng))
    sleeves = ("long", "short", "none")[int(rng.choice(3, p=np.array([0.42, 0.46, 0.12])))]
    legs = ("trousers", "shorts", "skirt")[int(rng.choice(3, p=np.array([0.58, 0.26, 0.16])))]
    if legs == "skirt" and rng.random() < 0.4:  # a dress
        legwear = shirt

    # Trunk.
    pelvis = turn_z(pose.roll) @ turn_x(pose.pitch)
    trunk = pelvis @ turn_x(pose.bend) @ turn_z(-pose.lean) @ turn_y(pose.twist)
    root = np.zeros(3)
    waist = root + pelvis @ [0, loins, 0]
    thorax = waist + trunk @ [0, chest, 0]
    frame = (waist, trunk)
    chest_width = shoulder_width * u(0.9, 1.0)
    ribs = (chest_width, 0.13, 0.062 * stout)
    figure.ellipsoid("torso", waist + trunk @ [0, chest * 0.48, 0], trunk, ribs, shirt, frame)
    figure.ellipsoid(
        "torso", waist + trunk @ [0, -0.02, 0], trunk, (0.078 * stout, 0.12, 0.058 * stout), shirt, frame
    )
    hips = (hip_width + 0.034 * stout, 0.075, 0.064 * stout)
    figure.ellipsoid("torso", root + pelvis @ [0, 0.012, -0.004], pelvis, hips, legwear)
    if rng.random() < 0.4:  # the shirt hangs over the belt
        hem = (hips[0] + 0.004, u(0.05, 0.07), hips[2] + 0.006)
        figure.ellipsoid("torso", root + pelvis @ [0, 0.04, -0.004], pelvis, hem, shirt, frame)
    for _, sign in SIDES if detail else ():
        seat = root + pelvis @ [sign * 0.038, -0.02, -0.03]
        figure.ellipsoid("torso", seat, pelvis, (0.046, 0.05, 0.044 * stout), legwear)
    if rng.random() < 0.4:
        for _, sign in SIDES:
            figure.ellipsoid(
                "torso", waist + trunk @ [sign * 0.042, chest * 0.5, 0.042], trunk, (0.04, 0.044, 0.03), shirt, frame
            )

    # Head; its own frame turns on the neck.
    head = trunk @ turn_y(pose.look) @ turn_x(pose.nod) @ turn_z(pose.tilt)
    neck = thorax + trunk @ [0, 0.028, 0.004]
    centre = neck + head @ np.array([0, 0.083, 0.012]) * head_size
    figure.capsule("neck", thorax + trunk @ [0, -0.03, 0], neck + head @ [0, 0.03, 0.004], (0.03, 0.027), skin)
    _add_head(figure, rng, centre, head, head_size, skin, hair, detail)
    keypoints = figure.keypoints
    keypoints["neck"] = keypoints["upper_neck"] = neck
    keypoints["thorax"], keypoints["pelvis"] = thorax, root
    keypoints["head"] = centre
    keypoints["head_top"] = keypoints["top_head"] = centre + head @ [0, 0.066 * head_size, 0]

    # Arms.
    shoulders = {}
    hands = {}
    for (side, sign), arm in zip(SIDES, (pose.left_arm, pose.right_arm), strict=True):
        # The collar bone follows an arm that goes up.
        lift = max(0.0, max(arm.forward, arm.aside) - 80) / 100
        shoulder = thorax + trunk @ [sign * shoulder_width * (1 - 0.12 * lift), -0.025 + 0.035 * lift, 0]
        upper = trunk @ turn_x(-arm.forward) @ turn_z(sign * arm.aside) @ turn_y(-sign * arm.inward)
        lower = upper @ turn_x(-arm.elbow)
        elbow = shoulder + upper @ [0, -upper_arm, 0]
        wrist = elbow + lower @ [0, -forearm, 0]
        hand = wrist + lower @ [0, -0.05, 0]
        keypoints.update({f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist})
        keypoints[f"{side}_hand"] = hand
        shoulders[side] = shoulder
        hands[side] = (hand, lower)
        covered = sleeve if sleeves == "long" else skin
        wide = 1.12 if sleeves == "long" else 1.0
        figure.capsule(f"{side}_upper_arm", shoulder, elbow, (0.03 * stout * wide, 0.024 * stout * wide), covered)
        figure.capsule(f"{side}_forearm", elbow, wrist, (0.025 * stout * wide, 0.017 * wide), covered)
        figure.capsule(f"{side}_hand", wrist, hand, (0.016, 0.019), skin)
        if detail:
            thumb = wrist + lower @ [-sign * 0.018, -0.035, 0.016]
            figure.capsule(f"{side}_hand", wrist, thumb, (0.012, 0.007), skin)
        if sleeves == "short":
            end = shoulder + (elbow - shoulder) * u(0.35, 0.75)
            figure.capsule(f"{side}_upper_arm", shoulder, end, (0.036 * stout, 0.034 * stout), sleeve)
    yoke = skin if sleeves == "none" and rng.random() < 0.5 else shirt
    figure.capsule("torso", shoulders["left"], shoulders["right"], (0.032, 0.032), yoke, frame)
    figure.ellipsoid("torso", thorax + trunk @ [0, -0.012, -0.006], trunk, (0.06, 0.036, 0.035), shirt, frame)

    # Legs.
    knees = {}
    hem = u(0.35, 0.75)
    for (side, sign), leg in zip(SIDES, (pose.left_leg, pose.right_leg), strict=True):
        hip = root + pelvis @ [sign * hip_width, -0.01, 0]
        upper = pelvis @ turn_x(-leg.forward) @ turn_z(sign * leg.aside) @ turn_y(sign * leg.outward)
        lower = upper @ turn_x(leg.knee)
        knee = hip + upper @ [0, -thigh, 0]
        ankle = knee + lower @ [0, -shin, 0]
        sole = lower @ turn_x(leg.toes)
        heel, toe = ankle + sole @ [0, -0.022, -0.018], ankle + sole @ [0, -0.03, 0.085]
        keypoints.update({f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle})
        keypoints.update({f"{side}_heel": heel, f"{side}_toe": toe})
        knees[side] = (hip, knee)
        covered = legwear if legs == "trousers" else skin
        wide = 1.12 if legs == "trousers" else 1.0
        figure.capsule(f"{side}_thigh", hip, knee, (0.052 * stout * wide, 0.036 * stout * wide), covered)
        calf = knee + (ankle - knee) * 0.32 - lower @ [0, 0, 0.008]
        figure.capsule(f"{side}_shin", knee, ankle, (0.035 * stout * wide, 0.022 * wide * wide), covered)
        if legs != "trousers":
            figure.capsule(f"{side}_shin", calf, calf + (ankle - knee) * 0.45, (0.034 * stout, 0.022), covered)
        figure.capsule(f"{side}_foot", heel, toe, (0.025, 0.019), shoes)
        if detail:
            figure.capsule(f"{side}_foot", ankle, heel, (0.023, 0.026), shoes)
        if legs == "shorts":
            end = hip + (knee - hip) * hem
            figure.capsule(f"{side}_thigh", hip, end, (0.058 * stout, 0.056 * stout), legwear)
    if legs == "skirt":
        ends = [hip + (knee - hip) * (hem + 0.3) for hip, knee in knees.values()]
        apart = float(np.linalg.norm(ends[0] - ends[1])) / 2
        top, bottom = root + pelvis @ [0, 0.05, 0], (ends[0] + ends[1]) / 2
        figure.capsule("skirt", top, bottom, (0.07 * stout, apart + u(0.055, 0.09)), legwear, open_end=True)

    _add_things(figure, rng, pose, frame, hands, root, pelvis)
    return figure


def _add_head(figure: Figure, rng, centre, head, size, skin: Cloth, hair: Cloth, detail: bool) -> None:
    """Skull, face, hair and sometimes a hat; the face is on the front only."""

    def at(x: float, y: float, z: float) -> np.ndarray:
        return centre + head @ (np.array([x, y, z]) * size)

    def ball(part: str, place: tuple, half_axes: tuple, cloth: Cloth, **options) -> None:
        figure.ellipsoid(part, at(*place), head, np.array(half_axes) * size, cloth, **options)

    keypoints = figure.keypoints
    ball("head", (0, 0, 0), (0.047, 0.066, 0.058), skin)
    ball("head", (0, -0.03, 0.012), (0.037, 0.042, 0.042), skin)
    shadow = plain_cloth(skin.colours[0] * 0.82)
    ball("head", (0, -0.014, 0.056), (0.009, 0.016, 0.012), shadow if rng.random() < 0.6 else skin)
    keypoints["nose"] = at(0, -0.016, 0.065)
    iris = plain_cloth(np.clip(varied(rng, HAIR, 25) * 0.5, 0, 255))
    white = plain_cloth(np.array([235.0, 232.0, 228.0]))
    glasses = rng.random() < 0.12
    for side, sign in SIDES:
        if detail:
            ball("head", (sign * 0.019, 0.01, 0.0495), (0.0105, 0.0065, 0.006), white)
            ball("head", (sign * 0.019, 0.01, 0.053), (0.0055, 0.006, 0.004), iris)
            brow = (at(sign * 0.01, 0.022, 0.053), at(sign * 0.028, 0.022, 0.048))
            figure.capsule("head", *brow, (0.0032 * size,) * 2, hair)
        else:
            ball("head", (sign * 0.019, 0.01, 0.05), (0.0085, 0.0085, 0.007), iris)
        if glasses:
            ball("head", (sign * 0.021, 0.009, 0.056), (0.0165, 0.012, 0.003), iris)
        keypoints[f"{side}_eye"] = at(sign * 0.019, 0.01, 0.055)
        ball("head", (sign * 0.049, -0.002, -0.006), (0.007, 0.018, 0.012), skin)
        keypoints[f"{side}_ear"] = at(sign * 0.053, -0.002, -0.004)
    if detail:
        lips = plain_cloth(np.clip(skin.colours[0] * np.array([0.8, 0.52, 0.52]), 0, 255))
        ball("head", (0, -0.037, 0.049), (0.016, 0.0048, 0.007), lips)
    if rng.random() < 0.12:  # beard
        ball("head", (0, -0.04, 0.016), (0.041, 0.034, 0.041), hair)

    style = rng.random()
    if style > 0.06:
        full = rng.uniform(0.98, 1.06)
        ball("hair", (0, 0.015, -0.014), (0.051 * full, 0.061 * full, 0.058 * full), hair)
    if style > 0.88:
        ball("hair", (0, 0.033, -0.035), (0.08, 0.08, 0.078), hair)
    elif style > 0.56:  # long
        length = rng.uniform(0.06, 0.12)
        ball("hair", (0, 0.02 - length * 0.6, -0.03), (0.056, length + 0.02, 0.038), hair)
    elif style > 0.44:  # tail
        end = at(rng.uniform(-0.02, 0.02), -rng.uniform(0.06, 0.13), -0.085)
        figure.capsule("hair", at(0, 0.03, -0.065), end, (0.02 * size, 0.013 * size), hair)
    elif style > 0.37:  # bun
        ball("hair", (0, 0.055, -0.055), (0.026, 0.026, 0.026), hair)

    if rng.random() < 0.2:
        hat = sample_cloth(rng, 0.8)
        kind = int(rng.integers(3))
        ball("hat", (0, 0.032, -0.006), (0.057, 0.05, 0.065), hat)
        if kind == 0:  # cap
            ball("hat", (0, 0.033, 0.06), (0.042, 0.005, 0.04), plain_cloth(hat.colours[1]))
        elif kind == 1:  # brim all round
            ball("hat", (0, 0.036, 0.0), (0.1, 0.006, 0.105), hat)


def _add_things(figure: Figure, rng, pose: BodyPose, trunk_frame, hands, root, pelvis) -> None:
    """Things that are carried or sat on; they hide the body and belong to no segment."""
    waist, trunk = trunk_frame
    cloth = sample_cloth(rng, 0.7)
    if pose.seated and rng.random() < 0.75:
        if rng.random() < 0.5:
            figure.ellipsoid("thing", root + pelvis @ [0, -0.13, 0], _IDENTITY, (0.17, 0.07, 0.16), cloth, body=False)
        else:
            for z in (-0.1, 0.0, 0.1):
                start, end = root + pelvis @ [-0.16, -0.105, z], root + pelvis @ [0.16, -0.105, z]
                figure.capsule("thing", start, end, (0.035, 0.035), cloth, body=False)
            for x in (-0.15, 0.15):
                start = root + pelvis @ [x, -0.12, 0]
                figure.capsule("thing", start, start + pelvis @ [0, -0.3, 0], (0.015, 0.015), cloth, body=False)
    chance = rng.random()
    hand, lower = hands["left" if rng.random() < 0.5 else "right"]
    if chance < 0.09:  # rucksack
        figure.ellipsoid(
            "thing", waist + trunk @ [0, 0.1, -0.1], trunk, (0.085, 0.115, 0.055), cloth, body=False
        )
        for _, sign in SIDES:
            figure.capsule(
                "thing", waist + trunk @ [sign * 0.06, 0.215, -0.03], waist + trunk @ [sign * 0.065, 0.06, 0.062],
                (0.012, 0.012), plain_cloth(cloth.colours[1]), body=False,
            )  # fmt: skip
    elif chance < 0.17:  # ball
        radius = rng.uniform(0.04, 0.1)
        figure.ellipsoid(
            "thing", hand + lower @ [0, -radius * 0.6, radius * 0.5], lower, (radius,) * 3, cloth, body=False
        )
    elif chance < 0.24:  # stick, racket or bat
        reach = rng.uniform(0.25, 0.6)
        start, end = hand - lower @ [0, 0, 0.08], hand + lower @ [0, 0, reach]
        figure.capsule("thing", start, end, (0.008, rng.uniform(0.008, 0.025)), cloth, body=False)
        if rng.random() < 0.4:
            figure.ellipsoid("thing", end, lower, (0.012, 0.055, 0.075), cloth, body=False)
    elif chance < 0.33:  # bag, hanging straight down
        width = rng.uniform(0.05, 0.1)
        middle = hand - np.array([0, rng.uniform(0.1, 0.16), 0])
        figure.ellipsoid("thing", middle, trunk, (width * 0.5, width, width), cloth, body=False)
        figure.capsule("thing", hand, middle, (0.006, 0.006), plain_cloth(cloth.colours[1]), body=False)
    elif chance < 0.36:  # umbrella
        top = hand + np.array([0, 0.32, 0])
        figure.capsule("thing", hand, top, (0.006, 0.006), plain_cloth(cloth.colours[1]), body=False)
        figure.ellipsoid("thing", top, _IDENTITY, (0.24, 0.07, 0.24), cloth, body=False)
