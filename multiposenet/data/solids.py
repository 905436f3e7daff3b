"""Solids of synthetic scenes: ellipsoids and tapered capsules, ray cast exactly into a small depth buffer.

Frame of reference: x right and y down in picture pixels (pixel indices, as keypoints are), z in the same unit towards
the viewer. Rays are parallel to z; perspective is applied to the solids before they come here. With a depth for every
pixel, one part of a body hides another as in life, and what hides a keypoint can be asked of the buffer afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class Pattern:
    """A two-coloured print, a function of linear coordinates ``axes @ (x, y, z) + offsets``.

    Args:
        kind: "stripes" and "checks" (period 2 pi), "panel" (first coordinate in [-1, 1], second positive),
            "badge" (first two inside the unit circle, third positive) or "speckle" (needs no coordinates).
        axes: [C, 3], one row a coordinate.
        offsets: [C].
    """

    kind: str
    axes: np.ndarray
    offsets: np.ndarray


@dataclass(slots=True)
class Solid:
    """An ellipsoid, or a capsule whose radius changes linearly from one end to the other.

    Args:
        part: what it is a part of, e.g. "left_forearm"; visibility of keypoints is decided by it.
        colours: [2, 3] in 0..255: the base, and the print of ``pattern``.
        start: [3], centre of the ellipsoid or first end of the capsule.
        end: [3], second end of the capsule; None makes an ellipsoid.
        radii: the capsule's radius at both ends.
        axes: [3, 3] of the ellipsoid; column j is its j-th half axis (the columns are orthogonal).
        pattern: the print, if any.
        body: False for things that a person only carries: they hide, but are no part of the segment.
        open_end: the capsule ends flat and empty at ``end``, as a skirt does.
    """

    part: str
    colours: np.ndarray
    start: np.ndarray
    end: np.ndarray | None = None
    radii: tuple[float, float] = (0.0, 0.0)
    axes: np.ndarray | None = None
    pattern: Pattern | None = None
    body: bool = True
    open_end: bool = False

    def extent(self) -> tuple[float, float, float, float]:
        """Enclosing box (x1, y1, x2, y2) in the picture."""
        if self.axes is not None:
            across, down, _ = self.axes.tolist()
            half_x, half_y = math.hypot(*across), math.hypot(*down)
            x, y, _ = self.start.tolist()
            return x - half_x, y - half_y, x + half_x, y + half_y
        (x1, y1), (x2, y2) = self.start[:2].tolist(), self.end[:2].tolist()
        r1, r2 = self.radii
        return min(x1 - r1, x2 - r2), min(y1 - r1, y2 - r2), max(x1 + r1, x2 + r2), max(y1 + r1, y2 + r2)


class DepthBuffer:
    """The visible surface of a group of solids over a window of the picture.

    Args:
        window: (x1, y1, x2, y2) whole pixels, the last ones exclusive.
        light: [3], direction to the light; its length is the strength of the shading.
        ambient: brightness of a surface at right angles to the light.
        noise: [S, S] float32 texture for "speckle", repeated over the picture.

    Attributes:
        depth: [h, w] float32, z of the surface, -inf where there is none.
        code: [h, w] int16, 2 x solid + (1 where its pattern prints), -1 where there is none.
        shade: [h, w] float32, brightness.
    """

    def __init__(self, window: tuple[int, int, int, int], light: np.ndarray, ambient: float, noise: np.ndarray):
        self.window = window
        x1, y1, x2, y2 = window
        self.depth = np.full((y2 - y1, x2 - x1), -np.inf, np.float32)
        self.code = np.full((y2 - y1, x2 - x1), -1, np.int16)
        self.shade = np.zeros((y2 - y1, x2 - x1), np.float32)
        self.light = [float(value) for value in light]
        self.ambient = ambient
        self.noise = noise

    def draw(self, solid: Solid, index: int, extent: tuple[float, float, float, float]) -> None:
        """Draws one solid, whose extent is known, where it is nearer than what is there already."""
        left, top, right, bottom = extent
        x1, y1, x2, y2 = self.window
        left, top = max(math.ceil(left), x1), max(math.ceil(top), y1)
        right, bottom = min(int(right) + 1, x2), min(int(bottom) + 1, y2)
        if left >= right or top >= bottom:
            return
        x = np.arange(left, right, dtype=np.float32)[None] - np.float32(solid.start[0])
        y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(solid.start[1])
        surface = self._ellipsoid(solid, x, y) if solid.axes is not None else self._capsule(solid, x, y)
        z, shade, hit = surface
        z += np.float32(solid.start[2])
        here = np.s_[top - y1 : bottom - y1, left - x1 : right - x1]
        depth = self.depth[here]
        hit &= z > depth
        code = np.int16(2 * index)
        if solid.pattern is not None:
            code = self._print(solid.pattern, left, top, right, bottom, z) + code
        np.copyto(depth, z, where=hit)
        np.copyto(self.shade[here], shade, where=hit)
        np.copyto(self.code[here], code, where=hit)

    def _ellipsoid(self, solid: Solid, x: np.ndarray, y: np.ndarray):
        axes = solid.axes
        inverse = axes.T / (axes**2).sum(0)[:, None]
        form = inverse.T @ inverse
        (xx, xy, xz), (_, yy, yz), (_, _, zz) = form.tolist()
        # z solves zz z^2 + 2 (xz x + yz y) z + (xx x^2 + 2 xy x y + yy y^2 - 1) = 0; the nearer root is the larger.
        root = (2 * (xz * yz - zz * xy) * y) * x
        root += (xz * xz - zz * xx) * x * x
        root += (yz * yz - zz * yy) * y * y + zz
        hit = root > 0
        np.maximum(root, 0, out=root)
        np.sqrt(root, out=root)
        root -= xz * x
        root -= yz * y
        root /= zz
        # Shaded as the sphere that the ellipsoid is the image of: linear in (x, y, z), close enough to the eye.
        lx, ly, lz = self.light
        lit = inverse @ np.array([lx, ly, lz])
        toward = inverse.T @ lit
        gx, gy, gz = (toward * (math.hypot(lx, ly, lz) / (math.hypot(*lit.tolist()) + 1e-9))).tolist()
        shade = root * gz
        shade += gx * x
        shade += gy * y + self.ambient
        return root, shade, hit

    def _capsule(self, solid: Solid, x: np.ndarray, y: np.ndarray):
        axis = solid.end - solid.start
        length = max(math.sqrt(axis @ axis), 1e-6)
        ux, uy, uz = (axis / length).tolist()
        r1, r2 = solid.radii
        taper = (r2 - r1) / length
        across = ux * x + uy * y
        slope = 1 + taper * taper
        flat = 1 - slope * uz * uz
        xx, yy = x * x, y * y
        hit = None
        if flat > 0.03:
            # Where along the axis does a ray touch the infinite cone |w|^2 - (w.u)^2 = (r1 + taper w.u)^2?
            # With w = (x, y, z) that is quadratic in z; its discriminant over ``flat`` is the root below.
            along = slope * across
            along += 2 * taper * r1
            along *= across
            along -= flat * xx
            along -= flat * yy - r1 * r1 * (flat + (uz * taper) ** 2)
            if solid.open_end:
                hit = along > 0
            np.maximum(along, 0, out=along)
            np.sqrt(along, out=along)
            along *= uz / flat
            along += (across + uz * uz * taper * r1) / flat
            if solid.open_end:
                hit &= along <= length
            np.clip(along, 0, length, out=along)
        else:  # seen end on: the nearer end covers the rest
            along = np.full_like(across, length if uz > 0 else 0.0)
        # There the capsule is a ball of radius r1 + taper along.
        z = along * (taper * taper - 1 + uz * uz)
        z += 2 * (across + taper * r1)
        z *= along
        z -= xx
        z -= yy - r1 * r1
        hit = z > 0 if hit is None else hit & (z > 0)
        np.maximum(z, 0, out=z)
        np.sqrt(z, out=z)
        lx, ly, lz = self.light
        shade = along * -(ux * lx + uy * ly)
        shade += lx * x
        shade += ly * y
        shade += lz * z
        shade /= along * taper + max(r1, 1e-3)
        shade += self.ambient
        along *= uz
        z += along
        return z, shade, hit

    def _print(self, pattern: Pattern, left: int, top: int, right: int, bottom: int, z: np.ndarray) -> np.ndarray:
        if pattern.kind == "speckle":
            side = len(self.noise)
            rows, columns = np.arange(top, bottom) % side, np.arange(left, right) % side
            return self.noise[rows[:, None], columns[None]] > 0.6
        x = np.arange(left, right, dtype=np.float32)[None]
        y = np.arange(top, bottom, dtype=np.float32)[:, None]
        values = []
        for (ax, ay, az), offset in zip(pattern.axes.tolist(), pattern.offsets.tolist(), strict=True):
            value = z * az
            value += ax * x
            value += ay * y + offset
            values.append(value)
        if pattern.kind == "stripes":
            return np.sin(values[0]) > 0
        if pattern.kind == "checks":
            return (np.sin(values[0]) > 0) ^ (np.sin(values[1]) > 0)
        if pattern.kind == "panel":
            return (np.abs(values[0]) < 1) & (values[1] > 0)
        if pattern.kind == "badge":
            return (values[0] ** 2 + values[1] ** 2 < 1) & (values[2] > 0)
        raise ValueError(f"pattern kind {pattern.kind!r} is not one of stripes, checks, panel, badge, speckle")


def render(
    solids: list[Solid],
    image_size: tuple[int, int],
    light: np.ndarray,
    ambient: float,
    noise: np.ndarray,
    crease: float = 0.0,
) -> DepthBuffer | None:
    """Draws solids into a buffer just large enough for what lies inside the picture.

    Args:
        solids: any number; their order does not matter.
        image_size: (height, width) of the picture.
        light, ambient, noise: as for :class:`DepthBuffer`.
        crease: depth steps beyond this many pixels are drawn as a darker line; 0 draws none.

    Returns:
        The buffer, or None if no solid reaches into the picture.
    """
    height, width = image_size
    extents = [solid.extent() for solid in solids]
    lefts, tops, rights, bottoms = zip(*extents, strict=True)
    x1, y1 = max(math.floor(min(lefts)), 0), max(math.floor(min(tops)), 0)
    x2, y2 = min(math.floor(max(rights)) + 1, width), min(math.floor(max(bottoms)) + 1, height)
    if x1 >= x2 or y1 >= y2:
        return None
    buffer = DepthBuffer((x1, y1, x2, y2), light, ambient, noise)
    for index, (solid, extent) in enumerate(zip(solids, extents, strict=True)):
        buffer.draw(solid, index, extent)
    if crease > 0:
        depth, shade = np.maximum(buffer.depth, -1e6), buffer.shade
        for step, near, far in (
            (np.diff(depth, axis=1), shade[:, 1:], shade[:, :-1]),
            (np.diff(depth, axis=0), shade[1:], shade[:-1]),
        ):
            np.multiply(far, 0.78, out=far, where=step > crease)
            np.multiply(near, 0.78, out=near, where=step < -crease)
    return buffer


def paint(image: np.ndarray, buffer: DepthBuffer, solids: list[Solid]) -> None:
    """Lays what a buffer shows over a picture [H, W, 3] uint8, in place."""
    x1, y1, x2, y2 = buffer.window
    shown = buffer.code >= 0
    palette = np.concatenate([solid.colours for solid in solids]).astype(np.float32)
    colours = palette[buffer.code[shown]]
    colours *= buffer.shade[shown][:, None]
    np.clip(colours, 0, 255, out=colours)
    image[y1:y2, x1:x2][shown] = colours.astype(np.uint8)
