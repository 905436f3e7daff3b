"""How many synthetic people a picture has, how tall they are and where they stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LARGEST = 450.0
"""Body height of the tallest of evenly spread figures, in pixels of a picture of 480 x 480."""


@dataclass(frozen=True)
class Arrangement:
    """How many figures a picture has, how tall they are and where they stand.

    Args:
        counts: how likely 0, 1, 2, ... figures are; None: all numbers alike.
        beside: share of the figures that stand beside another one.
        smallest: body height of the smallest figures, in pixels of a picture of 480 x 480.
        median: median of the heights where a figure is alone; None: heights are spread evenly on a logarithmic scale.
        spread: standard deviation of the logarithm of the heights, with ``median``.
        crowding: with ``median``, heights fall with this power of the number of figures.
        least_area: people with fewer visible pixels are labelled with a box alone, without keypoints.
    """

    counts: tuple[float, ...] | None = None
    beside: float = 0.4
    smallest: float = 60.0
    median: float | None = None
    spread: float = 0.0
    crowding: float = 0.0
    least_area: int = 0

    @property
    def people(self) -> tuple[int, int]:
        """Fewest and most figures of a picture with people, where nothing else is said."""
        return 1, 8 if self.counts is None else len(self.counts) - 1

    def sample_count(self, rng: np.random.Generator, people: tuple[int, int]) -> int:
        """How many figures, at least ``people[0]`` and at most ``people[1]``."""
        fewest, most = people
        if self.counts is None:
            return int(rng.integers(fewest, most + 1))
        chances = np.array(self.counts[fewest : most + 1])
        if not chances.size:
            return fewest
        return fewest + int(rng.choice(len(chances), p=chances / chances.sum()))

    def sample_height(self, rng: np.random.Generator, count: int, unit: float) -> float:
        """Height in pixels of one of ``count`` figures in a picture whose shorter side has ``unit`` times 480."""
        if self.median is None:
            largest = LARGEST * unit * min(1.0, (5 / max(count, 1)) ** 0.35)
            return float(np.exp(rng.uniform(np.log(self.smallest * unit), np.log(largest))))
        height = float(self.median * count**-self.crowding * np.exp(rng.normal() * self.spread))
        return max(self.smallest, height) * unit

    def places(
        self, rng: np.random.Generator, image_size: tuple[int, int], people: tuple[int, int]
    ) -> list[tuple[float, float, float]]:
        """Where figures stand, farthest first: pixel (x, y) of the pelvis and pixels a body height.

        Args:
            rng: the only source of chance.
            image_size: (height, width) in pixels.
            people: fewest and most figures, both included.
        """
        height, width = image_size
        unit = min(image_size) / 480
        count = self.sample_count(rng, people)
        horizon = rng.uniform(0.1, 0.45) * height
        found: list[tuple[float, float, float]] = []
        for _ in range(count):
            if found and rng.random() < self.beside:
                x, y, scale = found[int(rng.integers(len(found)))]
                step = rng.uniform(0.1, 0.55) * (1 if rng.random() < 0.5 else -1)
                scale *= rng.uniform(0.85, 1.15)
                found.append((x + step * scale, y + rng.uniform(-0.08, 0.08) * scale, scale))
                continue
            scale = self.sample_height(rng, count, unit)
            x = rng.uniform(0.03, 0.97) * width
            if scale > LARGEST * unit:  # too near to be seen whole: it is the head that is shown
                x = rng.uniform(0.2, 0.8) * width
                y = 0.5 * scale + rng.uniform(-0.05, 0.3) * height
            elif rng.random() < 0.65:  # on a ground in perspective
                feet = (
                    horizon
                    + (height * 1.0 - horizon) * (scale / (LARGEST * unit)) ** 0.7
                    + rng.normal() * 0.06 * height
                )
                y = feet - 0.53 * scale
            else:
                y = rng.uniform(0.1, 0.9) * height
                if scale < height:
                    y = min(max(y, 0.38 * scale), height - 0.36 * scale)
            if rng.random() < 0.12:  # near the border
                x = rng.uniform(-0.06, 0.06) * width + (0 if rng.random() < 0.5 else width)
            found.append((float(x), float(y), scale))
        return sorted(found, key=lambda place: place[2])


ARRANGEMENTS = {
    "crowded": Arrangement(),
    "coco": Arrangement(
        (0.1, 0.42, 0.19, 0.11, 0.07, 0.05, 0.035, 0.026, 0.021, 0.018, 0.016, 0.014, 0.012, 0.01),
        beside=0.1, smallest=85.0, median=390.0, spread=0.75, crowding=0.45, least_area=32 * 32,
    ),
}  # fmt: skip
"""``crowded`` has more small people, and more who hide each other, than photographs have: there is much to learn from a
picture. ``coco`` is like the labelled people of COCO's val2017 (``datasets/README.md`` compares them), where nobody
smaller than 32 x 32 pixels has keypoints."""
