"""Poses of synthetic people: angles of the limbs within human limits, drawn from families such as walking and sitting.

Body frame: x to the person's left, y up, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def turn_x(degrees: float) -> np.ndarray:
    """Rotation about x; positive turns y towards z."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def turn_y(degrees: float) -> np.ndarray:
    """Rotation about y; positive turns z towards x (a figure facing us, to our right)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def turn_z(degrees: float) -> np.ndarray:
    """Rotation about z; positive turns x towards y."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@dataclass
class Arm:
    """Angles in degrees: raised forward, away from the body, turned inward; bend of the elbow."""

    forward: float
    aside: float
    inward: float
    elbow: float


@dataclass
class Leg:
    """Angles in degrees: raised forward, away from the body, turned outward; bend of the knee; toes down."""

    forward: float
    aside: float
    outward: float
    knee: float
    toes: float = 0.0


@dataclass
class BodyPose:
    """Joint angles of a figure in degrees, within the limits of a human body."""

    left_arm: Arm
    right_arm: Arm
    left_leg: Leg
    right_leg: Leg
    bend: float = 0.0  # trunk forward
    lean: float = 0.0  # trunk to its left
    twist: float = 0.0  # shoulders against hips, to the left
    nod: float = 0.0  # head down
    look: float = 0.0  # head to its left
    tilt: float = 0.0  # head to its right shoulder
    pitch: float = 0.0  # whole body forward
    roll: float = 0.0  # whole body in the picture plane of a viewer in front
    seated: bool = False


POSE_FAMILIES = {
    "standing": 0.30,
    "walking": 0.18,
    "running": 0.12,
    "sitting": 0.12,
    "crouching": 0.08,
    "jumping": 0.08,
    "bending": 0.06,
    "lying": 0.06,
}
"""Share of each family of poses."""

_ARM_RANGES = {  # (forward, aside, inward, elbow), weight
    "hanging": (((-15, 20), (2, 18), (0, 50), (2, 40)), 0.34),
    "on_hip": (((-35, -10), (35, 55), (60, 100), (80, 115)), 0.08),
    "forward": (((40, 100), (-5, 30), (-20, 70), (0, 100)), 0.18),
    "folded": (((15, 50), (-8, 15), (40, 85), (85, 130)), 0.10),
    "aside": (((-15, 25), (50, 110), (-40, 60), (0, 90)), 0.12),
    "overhead": (((140, 185), (0, 30), (-30, 60), (0, 80)), 0.10),
    "face": (((40, 85), (0, 30), (10, 50), (110, 145)), 0.08),
}


def _arm(rng: np.random.Generator, kind: str | None = None) -> Arm:
    if kind is None:
        names = list(_ARM_RANGES)
        kind = names[int(rng.choice(len(names), p=np.array([_ARM_RANGES[name][1] for name in names])))]
    return Arm(*(float(rng.uniform(low, high)) for low, high in _ARM_RANGES[kind][0]))


def _arms(rng: np.random.Generator) -> tuple[Arm, Arm]:
    """Both arms, alike more often than chance would have it."""
    if rng.random() < 0.35:
        kind = list(_ARM_RANGES)[int(rng.integers(len(_ARM_RANGES)))]
        return _arm(rng, kind), _arm(rng, kind)
    return _arm(rng), _arm(rng)


def sample_pose(rng: np.random.Generator) -> BodyPose:
    """A pose of a random family."""

    def u(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    family = list(POSE_FAMILIES)[int(rng.choice(len(POSE_FAMILIES), p=np.array(list(POSE_FAMILIES.values()))))]
    left_arm, right_arm = _arms(rng)
    pose = BodyPose(
        left_arm,
        right_arm,
        Leg(u(-8, 15), u(0, 12), u(-5, 25), u(0, 15)),
        Leg(u(-8, 15), u(0, 12), u(-5, 25), u(0, 15)),
        bend=u(-5, 15),
        lean=u(-7, 7),
        twist=u(-15, 15),
        nod=u(-15, 25),
        look=u(-50, 50) if rng.random() < 0.4 else u(-12, 12),
        tilt=u(-10, 10),
    )
    if family in ("walking", "running"):
        fast = family == "running"
        stride = u(35, 65) if fast else u(12, 30)
        swing = stride * u(0.7, 1.1)
        elbow = u(70, 110) if fast else u(5, 40)
        ahead = Leg(stride, u(0, 5), u(-3, 10), u(20, 90) if fast else u(0, 20), u(-15, 10))
        behind = Leg(-stride * u(0.4, 0.8), u(0, 5), u(-3, 10), u(30, 110) if fast else u(10, 45), u(0, 30))
        with_leg = Arm(-swing, u(3, 18), u(0, 30), elbow + u(-10, 15))
        against_leg = Arm(swing, u(3, 18), u(10, 45), elbow + u(-10, 15))
        free = rng.random() < 0.75
        if rng.random() < 0.5:
            pose.left_leg, pose.right_leg = ahead, behind
            pose.left_arm, pose.right_arm = (with_leg, against_leg) if free else (left_arm, right_arm)
            pose.twist = -u(0, 15)
        else:
            pose.left_leg, pose.right_leg = behind, ahead
            pose.left_arm, pose.right_arm = (against_leg, with_leg) if free else (left_arm, right_arm)
            pose.twist = u(0, 15)
        pose.bend, pose.pitch = u(0, 12), u(4, 18) if fast else u(0, 5)
    elif family == "sitting":
        pose.seated = True
        for name in ("left_leg", "right_leg"):
            setattr(pose, name, Leg(u(70, 100), u(2, 28), u(-5, 25), u(60, 110), u(-10, 15)))
        pose.bend, pose.pitch = u(-5, 30), u(-12, 5)
    elif family == "crouching":
        fold = u(80, 125)
        pose.left_leg = Leg(fold + u(-10, 10), u(5, 35), u(0, 30), fold + u(0, 25), u(-25, 0))
        pose.right_leg = Leg(fold + u(-10, 10), u(5, 35), u(0, 30), fold + u(0, 25), u(-25, 0))
        if rng.random() < 0.3:  # on one knee
            pose.right_leg = Leg(u(-5, 15), u(0, 8), 0.0, u(85, 110), u(10, 40))
            pose.left_leg = Leg(u(80, 95), u(0, 15), u(0, 10), u(80, 100))
        pose.bend, pose.pitch = u(5, 40), u(0, 20)
    elif family == "jumping":
        fold = u(0, 70)
        pose.left_leg = Leg(fold + u(-25, 25), u(3, 40), u(-5, 25), fold + u(0, 50), u(10, 45))
        pose.right_leg = Leg(fold + u(-25, 25), u(3, 40), u(-5, 25), fold + u(0, 50), u(10, 45))
        kinds = ["overhead", "aside", "forward", "hanging"]
        pose.left_arm = _arm(rng, kinds[int(rng.integers(4))])
        pose.right_arm = _arm(rng, kinds[int(rng.integers(4))])
        pose.pitch, pose.roll = u(-15, 20), u(-20, 20)
    elif family == "bending":
        pose.bend, pose.pitch = u(25, 50), u(10, 45)
        for name in ("left_leg", "right_leg"):
            setattr(pose, name, Leg(pose.pitch + u(-5, 15), u(0, 12), u(-5, 20), u(0, 35)))
    elif family == "lying":
        pose.pitch, pose.roll = (u(-100, -75), u(-15, 15)) if rng.random() < 0.5 else (u(-15, 15), u(70, 110))
        if rng.random() < 0.5:
            pose.roll = -pose.roll
        pose.left_leg = Leg(u(-5, 60), u(0, 20), u(0, 30), u(0, 90), u(0, 30))
        pose.right_leg = Leg(u(-5, 60), u(0, 20), u(0, 30), u(0, 90), u(0, 30))
    return pose
