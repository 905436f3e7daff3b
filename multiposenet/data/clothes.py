"""What synthetic people wear: colours and two-coloured prints, and the colours of skin and hair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multiposenet.data.solids import Pattern

SKIN = np.array(
    [[255, 224, 200], [245, 205, 175], [228, 184, 148], [205, 155, 115], [170, 118, 82], [132, 88, 60], [92, 60, 42]]
)
HAIR = np.array(
    [[28, 22, 20], [52, 36, 26], [92, 60, 36], [140, 96, 52], [205, 170, 105], [160, 70, 36], [170, 168, 165]]
)


def sample_colour(rng: np.random.Generator) -> np.ndarray:
    """Any colour; greys, blacks and whites as often as in a wardrobe."""
    value = rng.uniform(30, 245)
    if rng.random() < 0.35:
        return np.clip(value + rng.uniform(-10, 10, 3), 0, 255)
    colour = rng.uniform(0, 1, 3)
    colour = (colour - colour.min()) / max(float(np.ptp(colour)), 0.2)
    return np.clip((colour * rng.uniform(0.4, 1) + (1 - colour.max()) + rng.uniform(0, 0.35)) * value, 0, 255)


def varied(rng: np.random.Generator, colours: np.ndarray, spread: float) -> np.ndarray:
    """A colour somewhere between two of the given ones [C, 3]."""
    first, second = colours[rng.integers(len(colours), size=2)]
    mix = rng.random()
    return np.clip(first * mix + second * (1 - mix) + rng.uniform(-spread, spread, 3), 5, 255)


@dataclass
class Cloth:
    """Two colours and a print.

    Args:
        colours: [2, 3] in 0..255.
        kind: of :class:`multiposenet.data.solids.Pattern`, or None.
        rows: [C, 4], weights of (x, y, z) and offset of the print's coordinates, in body heights.
    """

    colours: np.ndarray
    kind: str | None = None
    rows: np.ndarray | None = None

    def pattern(self, origin: np.ndarray, rotation: np.ndarray) -> Pattern | None:
        """The print as it lies on a solid whose frame has this origin [3] and rotation [3, 3]."""
        if self.kind is None:
            return None
        axes = self.rows[:, :3] @ rotation.T
        return Pattern(self.kind, axes, self.rows[:, 3] - axes @ origin)


def sample_cloth(rng: np.random.Generator, plain_share: float, front: bool = False) -> Cloth:
    """A cloth of random colours and print.

    Args:
        rng: the only source of chance.
        plain_share: how often there is no print.
        front: its print may lie on the chest or the back only (an open jacket, a badge, a number).
    """
    base, second = sample_colour(rng), sample_colour(rng)
    if rng.random() < 0.3:
        second = base * rng.uniform(0.55, 0.8)
    colours = np.stack([base, second])
    if rng.random() < plain_share:
        return Cloth(colours)
    kind = ("stripes", "checks", "speckle", "panel", "badge")[int(rng.integers(5 if front else 3))]
    if kind == "speckle":
        return Cloth(colours, kind, np.zeros((0, 4)))
    if kind == "panel":  # an open jacket, a tie or a zip
        width = rng.uniform(0.006, 0.03)
        return Cloth(colours, kind, np.array([[1 / width, 0, 0, 0], [0, 0, 1, -0.01]]))
    if kind == "badge":
        size, height, facing = rng.uniform(0.02, 0.055), rng.uniform(0.08, 0.13), 1 if rng.random() < 0.6 else -1
        middle = rng.uniform(-0.03, 0.03)
        rows = [[1 / size, 0, 0, -middle / size], [0, 1 / size, 0, -height / size], [0, 0, facing, -0.01]]
        return Cloth(colours, kind, np.array(rows))
    pitch = 2 * np.pi / rng.uniform(0.025, 0.07)
    rows = np.array([[0, pitch, 0, 0], [pitch, 0, 0, 0]], float)
    if kind == "stripes":
        rows = rows[int(rng.random() < 0.3) :][:1]
    return Cloth(colours, kind, rows)


def plain_cloth(colour: np.ndarray) -> Cloth:
    """One colour, no print."""
    return Cloth(np.stack([colour, colour]))


@dataclass
class Outfit:
    """What one person looks like: cloths, how long they are, skin and hair.

    Args:
        sleeves: "long", "short" or "none".
        legs: "trousers", "shorts" or "skirt".
    """

    skin: Cloth
    hair: Cloth
    shirt: Cloth
    sleeve: Cloth
    legwear: Cloth
    shoes: Cloth
    sleeves: str
    legs: str


def sample_outfit(rng: np.random.Generator) -> Outfit:
    """Everything that a random person wears, the hat apart."""
    skin = plain_cloth(varied(rng, SKIN, 8))
    hair = plain_cloth(varied(rng, HAIR, 8))
    shirt = sleeve = sample_cloth(rng, 0.4, front=True)
    if shirt.kind in ("panel", "badge"):
        sleeve = plain_cloth(shirt.colours[0 if rng.random() < 0.85 else 1])
    legwear = sample_cloth(rng, 0.75)
    shoes = plain_cloth(sample_colour(rng))
    sleeves = ("long", "short", "none")[int(rng.choice(3, p=np.array([0.42, 0.46, 0.12])))]
    legs = ("trousers", "shorts", "skirt")[int(rng.choice(3, p=np.array([0.58, 0.26, 0.16])))]
    if legs == "skirt" and rng.random() < 0.4:  # a dress
        legwear = shirt
    return Outfit(skin, hair, shirt, sleeve, legwear, shoes, sleeves, legs)
