"""What surrounds synthetic people: backdrops, things that look a little like people, and the camera's imperfections."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from multiposenet.data.body_poses import turn_x, turn_y, turn_z
from multiposenet.data.solids import Pattern, Solid

_SKIN_LIKE = np.array([[236, 190, 155], [200, 150, 110], [140, 95, 65]], float)


@lru_cache(maxsize=1)
def noise_texture(side: int = 512) -> np.ndarray:
    """[side, side] float32 Gaussian texture with a little grain size, the same in every process."""
    rng = np.random.default_rng(20180707)
    fine = rng.standard_normal((side, side)).astype(np.float32)
    mixed = fine + np.roll(fine, 1, 0) + np.roll(fine, 1, 1) + np.roll(fine, (1, 1), (0, 1))
    return mixed / mixed.std()


@lru_cache(maxsize=1)
def _grain(side: int = 1024) -> np.ndarray:
    """[side, side, 3] int8, sensor noise of deviation 16."""
    rng = np.random.default_rng(20180708)
    return np.clip(rng.standard_normal((side, side, 3)) * 16, -127, 127).astype(np.int8)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    grey = rng.uniform(20, 235)
    spread = rng.uniform(0, 90)
    return tuple(int(value) for value in np.clip(grey + rng.uniform(-spread, spread, 3), 0, 255))


def _clouds(rng: np.random.Generator, image_size: tuple[int, int], cells: int) -> Image.Image:
    """Smooth random colours with about ``cells`` blobs across."""
    height, width = image_size
    rows, columns = max(2, round(cells * height / max(image_size))), max(2, round(cells * width / max(image_size)))
    base, spread = np.array(_colour(rng)), rng.uniform(10, 70)
    small = base + rng.uniform(-spread, spread, (rows, columns, 1))
    small = small + rng.uniform(-spread, spread, (rows, columns, 3)) / 2
    return Image.fromarray(np.clip(small, 0, 255).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)


def sample_backdrop(rng: np.random.Generator, image_size: tuple[int, int]) -> np.ndarray:
    """A cluttered picture without people, [H, W, 3] uint8: clouds of colour, a ground, flat shapes, poles, bars."""
    height, width = image_size
    image = _clouds(rng, image_size, int(rng.integers(2, 7)))
    if rng.random() < 0.5:
        image = Image.blend(image, _clouds(rng, image_size, int(rng.integers(12, 70))), float(rng.uniform(0.15, 0.5)))
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.7:  # a ground, perhaps in perspective
        horizon = float(rng.uniform(0.25, 0.75)) * height
        draw.rectangle((0, horizon, width, height), fill=_colour(rng))
        if rng.random() < 0.5:
            vanishing, line = float(rng.uniform(0, width)), _colour(rng)
            for x in np.linspace(-width, 2 * width, int(rng.integers(6, 24))).tolist():
                draw.line((vanishing, horizon, x, height), fill=line, width=int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(0, 34))):
        _flat_shape(rng, draw, image_size)
    return np.array(image)


def _flat_shape(rng: np.random.Generator, draw: ImageDraw.ImageDraw, image_size: tuple[int, int]) -> None:
    height, width = image_size
    colour, kind = _colour(rng), rng.random()
    x, y = (rng.random(2) * (width, height)).tolist()
    w, h = (np.exp(rng.uniform(-4, -0.9, 2)) * (width, height)).tolist()
    if kind < 0.35:
        outline = _colour(rng) if rng.random() < 0.5 else None
        draw.rectangle((x - w, y - h, x + w, y + h), fill=colour, outline=outline, width=int(rng.integers(1, 5)))
    elif kind < 0.55:
        draw.ellipse((x - w, y - h, x + w, y + h), fill=colour)
    elif kind < 0.75:
        corners = np.array([x, y]) + rng.uniform(-1, 1, (int(rng.integers(3, 7)), 2)) * (w, h) * 1.4
        draw.polygon([tuple(corner) for corner in corners.tolist()], fill=colour)
    elif kind < 0.9:
        x2, y2 = (rng.random(2) * (width, height)).tolist()
        draw.line((x, y, x2, y2), fill=colour, width=int(rng.integers(1, 9)))
    else:  # bars, windows, bricks
        step, thick = max(3.0, w * rng.uniform(0.2, 0.6)), max(1, int(w * rng.uniform(0.03, 0.2)))
        for i in range(int(rng.integers(3, 9))):
            draw.line((x + i * step, y - h, x + i * step, y + h), fill=colour, width=thick)


def sample_thing(rng: np.random.Generator, centre: tuple[float, float], size: float) -> list[Solid]:
    """A thing of shaded solids that is nobody: a lamp post, a bush, a bin, a heap of limbs, a dummy on a stick.

    Args:
        centre: pixel (x, y) of its middle.
        size: its height in pixels.
    """
    origin = np.array([centre[0], centre[1], 0.0])
    rotation = turn_z(rng.uniform(-12, 12)) @ turn_x(rng.uniform(-20, 20)) @ turn_y(rng.uniform(0, 360))

    def colours() -> np.ndarray:
        if rng.random() < 0.25:
            skin = _SKIN_LIKE[rng.integers(3)]
            return np.stack([skin, skin])
        return np.array([_colour(rng), _colour(rng)], float)

    def point(x: float, y: float, z: float = 0.0) -> np.ndarray:
        return origin + rotation @ np.array([x, y, z]) * size

    def capsule(start, end, r1, r2, paint) -> Solid:
        pattern = None
        if rng.random() < 0.3:
            wave = np.array([[0, 2 * np.pi / (size * rng.uniform(0.04, 0.2)), 0]])
            pattern = Pattern("stripes", wave, -wave @ origin)
        radii = (max(r1 * size, 0.6), max(r2 * size, 0.6))
        return Solid("clutter", paint, start, end, radii, pattern=pattern, body=False)

    def ball(place, half_axes, paint) -> Solid:
        axes = rotation * (np.maximum(np.array(half_axes) * size, 0.7))
        return Solid("clutter", paint, place, axes=axes, body=False)

    kind = int(rng.integers(5))
    paint = colours()
    if kind == 0:  # lamp post, balloon, street sign
        thick = rng.uniform(0.01, 0.05)
        head = rng.uniform(0.04, 0.12)
        return [
            capsule(point(0, 0.5), point(0, -0.4), thick, thick, paint),
            ball(point(0, -0.4), (head, head * rng.uniform(0.6, 1.5), head), colours()),
        ]
    if kind == 1:  # bush, heap, tree
        solids = [capsule(point(0, 0.5), point(0, 0), 0.05, 0.035, colours())]
        for _ in range(int(rng.integers(3, 8))):
            place = rng.uniform(-0.25, 0.25, 3) - np.array([0, 0.15, 0])
            tone = np.clip(paint * rng.uniform(0.8, 1.2), 0, 255)
            solids.append(ball(point(*place), rng.uniform(0.08, 0.22, 3), tone))
        return solids
    if kind == 2:  # bin, bottle, vase, column
        r1, r2 = rng.uniform(0.06, 0.2, 2)
        solids = [capsule(point(0, 0.4), point(0, -0.25), r1, r2, paint)]
        if rng.random() < 0.6:
            solids.append(capsule(point(0, -0.25), point(0, -0.45), r2 * 0.5, r2 * 0.4, colours()))
        return solids
    if kind == 3:  # limbs that make no body
        solids = []
        for _ in range(int(rng.integers(2, 7))):
            start, end = rng.uniform(-0.4, 0.4, (2, 3))
            r1 = rng.uniform(0.02, 0.07)
            solids.append(capsule(point(*start), point(*end), r1, r1 * rng.uniform(0.5, 1), colours()))
        return solids
    solids = [  # dummy: a clothed bust on a stick, a coat on a stand
        capsule(point(0, 0.5), point(0, 0), 0.015, 0.015, colours()),
        ball(point(0, -0.12), (0.13, 0.2, 0.08), paint),
        capsule(point(-0.1, -0.26), point(0.1, -0.26), 0.045, 0.045, paint),
    ]
    if rng.random() < 0.5:
        solids.append(capsule(point(0, -0.26), point(0, -0.36), 0.03, 0.025, paint))
    return solids


def develop(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The camera: slight blur, colour cast, contrast, sensor noise. Takes and returns [H, W, 3] uint8."""
    height, width = image.shape[:2]
    blur = 0.45 + (float(rng.uniform(0, 1.1)) if rng.random() < 0.2 else float(rng.uniform(0, 0.2)))
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3)
    gamma = rng.uniform(0.85, 1.2)
    levels = np.linspace(0, 1, 256) ** gamma * 255
    table = np.clip(gain[:, None] * levels[None] + rng.uniform(-12, 12), 0, 255).astype(np.uint8)
    picture = Image.fromarray(image).filter(ImageFilter.BoxBlur(blur)).point(table.reshape(-1).tolist())
    strength = int(rng.integers(1, 6)) if rng.random() < 0.8 else int(rng.integers(6, 14))
    noise = _window(_grain(), height, width, rng).astype(np.int16)
    noise *= strength
    noise >>= 4
    noise += np.asarray(picture)
    np.clip(noise, 0, 255, out=noise)
    return noise.astype(np.uint8)


def _window(texture: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random [height, width] piece of a square texture, repeated if it is too small."""
    repeats = [-(-size // len(texture)) for size in (height, width)]
    if max(repeats) > 1:
        texture = np.tile(texture, (*repeats, 1))
    top = int(rng.integers(texture.shape[0] - height + 1))
    left = int(rng.integers(texture.shape[1] - width + 1))
    return texture[top : top + height, left : left + width]
