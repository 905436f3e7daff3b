"""Synthetic people of random build, pose, clothes and hair, with things in their hands: the solids of a figure.

Lengths are in body heights, in the body frame of :mod:`multiposenet.data.figures`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multiposenet.data.body_poses import Arm, BodyPose, Leg, sample_pose, turn_x, turn_y, turn_z
from multiposenet.data.clothes import HAIR, Cloth, Outfit, plain_cloth, sample_cloth, sample_outfit, varied
from multiposenet.data.figures import Figure

SIDES = (("left", 1.0), ("right", -1.0))


@dataclass(frozen=True)
class Build:
    """Proportions: lengths from keypoint to keypoint in body heights, and factors on the usual head and girth."""

    head_size: float
    stout: float
    hip_width: float
    shoulder_width: float
    thigh: float
    shin: float
    upper_arm: float
    forearm: float
    loins: float
    chest: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Build:
        """A random person's; about one in seven is a child, with a larger head."""
        child = rng.random() < 0.15
        head_size = rng.uniform(1.02, 1.12) * (rng.uniform(1.15, 1.4) if child else 1.0)
        stout = rng.uniform(0.88, 1.2) * (rng.uniform(1.0, 1.25) if rng.random() < 0.2 else 1.0)
        lengths = {
            "hip_width": (0.052, 0.064),
            "shoulder_width": (0.092, 0.112),
            "thigh": (0.225, 0.255),
            "shin": (0.215, 0.245),
            "upper_arm": (0.155, 0.18),
            "forearm": (0.135, 0.155),
            "loins": (0.085, 0.1),
            "chest": (0.185, 0.21),
        }
        sampled = {name: float(rng.uniform(low, high)) for name, (low, high) in lengths.items()}
        return cls(float(head_size), float(stout), **sampled)


@dataclass(frozen=True)
class Spine:
    """Orientation of pelvis and trunk [3, 3], and the points [3] where the trunk begins and the neck begins."""

    pelvis: np.ndarray
    trunk: np.ndarray
    waist: np.ndarray
    thorax: np.ndarray

    @classmethod
    def of(cls, pose: BodyPose, build: Build) -> Spine:
        """The spine of a posed body, from the pelvis in the origin upwards."""
        pelvis = turn_z(pose.roll) @ turn_x(pose.pitch)
        trunk = pelvis @ turn_x(pose.bend) @ turn_z(-pose.lean) @ turn_y(pose.twist)
        waist = pelvis @ [0, build.loins, 0]
        return cls(pelvis, trunk, waist, waist + trunk @ [0, build.chest, 0])


def sample_figure(rng: np.random.Generator, pose: BodyPose | None = None, detail: bool = True) -> Figure:
    """A random person: build, pose, clothes, hair, things.

    Args:
        rng: the only source of chance.
        pose: angles of the limbs; None samples some.
        detail: False leaves out what nobody sees on a small figure (lips, whites of the eyes, thumbs).
    """
    pose = sample_pose(rng) if pose is None else pose
    build = Build.sample(rng)
    outfit = sample_outfit(rng)
    spine = Spine.of(pose, build)
    figure = Figure()
    _add_trunk(figure, rng, build, outfit, spine, detail)
    _add_neck_and_head(figure, rng, pose, build, outfit, spine, detail)
    hands = [
        _add_arm(figure, rng, side, sign, arm, build, outfit, spine, detail)
        for (side, sign), arm in zip(SIDES, (pose.left_arm, pose.right_arm), strict=True)
    ]
    _add_shoulders(figure, rng, outfit, spine)
    hem = float(rng.uniform(0.35, 0.75))
    for (side, sign), leg in zip(SIDES, (pose.left_leg, pose.right_leg), strict=True):
        _add_leg(figure, side, sign, leg, build, outfit, spine, hem, detail)
    if outfit.legs == "skirt":
        _add_skirt(figure, rng, build, outfit, spine, hem)
    _add_things(figure, rng, pose, spine, hands)
    return figure


def _add_trunk(
    figure: Figure, rng: np.random.Generator, build: Build, outfit: Outfit, spine: Spine, detail: bool
) -> None:
    pelvis, trunk, waist, stout, shirt = spine.pelvis, spine.trunk, spine.waist, build.stout, outfit.shirt
    frame = (waist, trunk)
    figure.keypoints["thorax"], figure.keypoints["pelvis"] = spine.thorax, np.zeros(3)
    ribs = (build.shoulder_width * rng.uniform(0.9, 1.0), 0.13, 0.062 * stout)
    figure.ellipsoid("torso", waist + trunk @ [0, build.chest * 0.48, 0], trunk, ribs, shirt, frame)
    figure.ellipsoid("torso", waist + trunk @ [0, -0.02, 0], trunk, (0.078 * stout, 0.12, 0.058 * stout), shirt, frame)
    hips = (build.hip_width + 0.034 * stout, 0.075, 0.064 * stout)
    figure.ellipsoid("torso", pelvis @ [0, 0.012, -0.004], pelvis, hips, outfit.legwear)
    if rng.random() < 0.4:  # the shirt hangs over the belt
        hem = (hips[0] + 0.004, rng.uniform(0.05, 0.07), hips[2] + 0.006)
        figure.ellipsoid("torso", pelvis @ [0, 0.04, -0.004], pelvis, hem, shirt, frame)
    for _, sign in SIDES if detail else ():
        seat = pelvis @ [sign * 0.038, -0.02, -0.03]
        figure.ellipsoid("torso", seat, pelvis, (0.046, 0.05, 0.044 * stout), outfit.legwear)
    if rng.random() < 0.4:
        for _, sign in SIDES:
            breast = waist + trunk @ [sign * 0.042, build.chest * 0.5, 0.042]
            figure.ellipsoid("torso", breast, trunk, (0.04, 0.044, 0.03), shirt, frame)


def _add_neck_and_head(
    figure: Figure,
    rng: np.random.Generator,
    pose: BodyPose,
    build: Build,
    outfit: Outfit,
    spine: Spine,
    detail: bool,
) -> None:
    trunk, thorax, size = spine.trunk, spine.thorax, build.head_size
    head = trunk @ turn_y(pose.look) @ turn_x(pose.nod) @ turn_z(pose.tilt)
    neck = thorax + trunk @ [0, 0.028, 0.004]
    centre = neck + head @ np.array([0, 0.083, 0.012]) * size
    figure.capsule("neck", thorax + trunk @ [0, -0.03, 0], neck + head @ [0, 0.03, 0.004], (0.03, 0.027), outfit.skin)
    keypoints = figure.keypoints
    keypoints["neck"] = keypoints["upper_neck"] = neck
    keypoints["head"] = centre
    keypoints["head_top"] = keypoints["top_head"] = centre + head @ [0, 0.066 * size, 0]
    _add_head(figure, rng, centre, head, size, outfit, detail)


def _add_arm(
    figure: Figure,
    rng: np.random.Generator,
    side: str,
    sign: float,
    arm: Arm,
    build: Build,
    outfit: Outfit,
    spine: Spine,
    detail: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Adds an arm and returns what can be held in its hand: the place [3] and the orientation [3, 3]."""
    stout, trunk = build.stout, spine.trunk
    # The collar bone follows an arm that goes up.
    lift = max(0.0, max(arm.forward, arm.aside) - 80) / 100
    shoulder = spine.thorax + trunk @ [sign * build.shoulder_width * (1 - 0.12 * lift), -0.025 + 0.035 * lift, 0]
    upper = trunk @ turn_x(-arm.forward) @ turn_z(sign * arm.aside) @ turn_y(-sign * arm.inward)
    lower = upper @ turn_x(-arm.elbow)
    elbow = shoulder + upper @ [0, -build.upper_arm, 0]
    wrist = elbow + lower @ [0, -build.forearm, 0]
    hand = wrist + lower @ [0, -0.05, 0]
    for name, place in (("shoulder", shoulder), ("elbow", elbow), ("wrist", wrist), ("hand", hand)):
        figure.keypoints[f"{side}_{name}"] = place
    covered, wide = (outfit.sleeve, 1.12) if outfit.sleeves == "long" else (outfit.skin, 1.0)
    figure.capsule(f"{side}_upper_arm", shoulder, elbow, (0.03 * stout * wide, 0.024 * stout * wide), covered)
    figure.capsule(f"{side}_forearm", elbow, wrist, (0.025 * stout * wide, 0.017 * wide), covered)
    figure.capsule(f"{side}_hand", wrist, hand, (0.016, 0.019), outfit.skin)
    if detail:
        thumb = wrist + lower @ [-sign * 0.018, -0.035, 0.016]
        figure.capsule(f"{side}_hand", wrist, thumb, (0.012, 0.007), outfit.skin)
    if outfit.sleeves == "short":
        end = shoulder + (elbow - shoulder) * rng.uniform(0.35, 0.75)
        figure.capsule(f"{side}_upper_arm", shoulder, end, (0.036 * stout, 0.034 * stout), outfit.sleeve)
    return hand, lower


def _add_shoulders(figure: Figure, rng: np.random.Generator, outfit: Outfit, spine: Spine) -> None:
    frame = (spine.waist, spine.trunk)
    yoke = outfit.skin if outfit.sleeves == "none" and rng.random() < 0.5 else outfit.shirt
    left, right = figure.keypoints["left_shoulder"], figure.keypoints["right_shoulder"]
    figure.capsule("torso", left, right, (0.032, 0.032), yoke, frame)
    collar = spine.thorax + spine.trunk @ [0, -0.012, -0.006]
    figure.ellipsoid("torso", collar, spine.trunk, (0.06, 0.036, 0.035), outfit.shirt, frame)


def _add_leg(
    figure: Figure,
    side: str,
    sign: float,
    leg: Leg,
    build: Build,
    outfit: Outfit,
    spine: Spine,
    hem: float,
    detail: bool,
) -> None:
    """Adds a leg; ``hem`` is the share of the thigh that shorts cover."""
    stout = build.stout
    upper = spine.pelvis @ turn_x(-leg.forward) @ turn_z(sign * leg.aside) @ turn_y(sign * leg.outward)
    lower = upper @ turn_x(leg.knee)
    sole = lower @ turn_x(leg.toes)
    hip = spine.pelvis @ [sign * build.hip_width, -0.01, 0]
    knee = hip + upper @ [0, -build.thigh, 0]
    ankle = knee + lower @ [0, -build.shin, 0]
    heel, toe = ankle + sole @ [0, -0.022, -0.018], ankle + sole @ [0, -0.03, 0.085]
    for name, place in (("hip", hip), ("knee", knee), ("ankle", ankle), ("heel", heel), ("toe", toe)):
        figure.keypoints[f"{side}_{name}"] = place
    covered, wide = (outfit.legwear, 1.12) if outfit.legs == "trousers" else (outfit.skin, 1.0)
    figure.capsule(f"{side}_thigh", hip, knee, (0.052 * stout * wide, 0.036 * stout * wide), covered)
    figure.capsule(f"{side}_shin", knee, ankle, (0.035 * stout * wide, 0.022 * wide * wide), covered)
    if outfit.legs != "trousers":
        calf = knee + (ankle - knee) * 0.32 - lower @ [0, 0, 0.008]
        figure.capsule(f"{side}_shin", calf, calf + (ankle - knee) * 0.45, (0.034 * stout, 0.022), covered)
    figure.capsule(f"{side}_foot", heel, toe, (0.025, 0.019), outfit.shoes)
    if detail:
        figure.capsule(f"{side}_foot", ankle, heel, (0.023, 0.026), outfit.shoes)
    if outfit.legs == "shorts":
        figure.capsule(f"{side}_thigh", hip, hip + (knee - hip) * hem, (0.058 * stout, 0.056 * stout), outfit.legwear)


def _add_skirt(
    figure: Figure, rng: np.random.Generator, build: Build, outfit: Outfit, spine: Spine, hem: float
) -> None:
    """Adds a skirt that ends between thigh and knee and is wide enough for both legs."""
    at = figure.keypoints
    left, right = (at[f"{side}_hip"] + (at[f"{side}_knee"] - at[f"{side}_hip"]) * (hem + 0.3) for side, _ in SIDES)
    width = float(np.linalg.norm(left - right)) / 2 + rng.uniform(0.055, 0.09)
    top = spine.pelvis @ [0, 0.05, 0]
    figure.capsule("skirt", top, (left + right) / 2, (0.07 * build.stout, width), outfit.legwear, open_end=True)


def _add_head(
    figure: Figure,
    rng: np.random.Generator,
    centre: np.ndarray,
    head: np.ndarray,
    size: float,
    outfit: Outfit,
    detail: bool,
) -> None:
    """Skull, face, hair and sometimes a hat, around ``centre`` in the frame ``head``; the face is on the front only."""
    skin, hair = outfit.skin, outfit.hair

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


def _add_things(
    figure: Figure, rng: np.random.Generator, pose: BodyPose, spine: Spine, hands: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Things that are carried or sat on; they hide the body and belong to no segment."""
    waist, trunk, pelvis = spine.waist, spine.trunk, spine.pelvis
    cloth = sample_cloth(rng, 0.7)
    if pose.seated and rng.random() < 0.75:
        if rng.random() < 0.5:
            figure.ellipsoid("thing", pelvis @ [0, -0.13, 0], np.eye(3), (0.17, 0.07, 0.16), cloth, body=False)
        else:
            for z in (-0.1, 0.0, 0.1):
                start, end = pelvis @ [-0.16, -0.105, z], pelvis @ [0.16, -0.105, z]
                figure.capsule("thing", start, end, (0.035, 0.035), cloth, body=False)
            for x in (-0.15, 0.15):
                start = pelvis @ [x, -0.12, 0]
                figure.capsule("thing", start, start + pelvis @ [0, -0.3, 0], (0.015, 0.015), cloth, body=False)
    chance = rng.random()
    hand, lower = hands[0 if rng.random() < 0.5 else 1]
    if chance < 0.09:  # rucksack
        figure.ellipsoid("thing", waist + trunk @ [0, 0.1, -0.1], trunk, (0.085, 0.115, 0.055), cloth, body=False)
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
        figure.ellipsoid("thing", top, np.eye(3), (0.24, 0.07, 0.24), cloth, body=False)
