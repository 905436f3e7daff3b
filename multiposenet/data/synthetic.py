"""Pictures of synthetic people with exact labels, drawn on the fly: a dataset that is nothing but a seed.

Every picture is drawn from its own random stream, so it does not depend on the order in which, or the process where,
pictures are asked for. The labels follow COCO: visibility 2 visible, 1 hidden (by the own body, by others, by things),
0 outside the picture, or hidden so far from everything visible of the limb that an annotator could not place it;
segments are the visible pixels; boxes are tight around segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from multiposenet.data.arrangements import ARRANGEMENTS, Arrangement
from multiposenet.data.bodies import sample_figure
from multiposenet.data.body_poses import turn_x, turn_y, turn_z
from multiposenet.data.figures import KEYPOINTS, shown_by
from multiposenet.data.person_masks import LEAST_AREA, tight_box
from multiposenet.data.scenery import develop, noise_texture, sample_backdrop, sample_thing
from multiposenet.data.solids import DepthBuffer, paint, render
from multiposenet.geometry import xyxy_to_xywh
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import PersonLabels, Sample

GENERATOR_VERSION = 2
"""Goes up whenever the same seed would give other pictures or labels."""

HIDDEN = ("placeable", "all")
MAX_PEOPLE = 200
MIN_SIDE = 32
_LEAST_SHARE = 0.01
"""With a smaller visible share of the pixels that are inside the picture, or fewer than ``LEAST_AREA``, nothing of a
person is left to recognise: it gets no label, and its pixels count as background."""


@dataclass(frozen=True)
class Scene:
    """One drawn picture with everything known about its people, all keypoints of a figure included.

    Args:
        image: [H, W, 3] uint8, RGB.
        owner: [H, W] uint8; 1 + the person whose visible pixel this is, 0 for nobody.
        keypoints: [P, len(KEYPOINTS), 2] float32, pixels; 0 where visibility is 0.
        visibility: [P, len(KEYPOINTS)] uint8; 0 outside the picture, 1 hidden, 2 visible.
        placeable: [P, len(KEYPOINTS)] bool; whether an annotator could place it: it is visible, or enough near it is.
        boxes: [P, 4] float32, xyxy, tight around the visible pixels.
        areas: [P] float32, number of visible pixels.
    """

    image: np.ndarray
    owner: np.ndarray
    keypoints: np.ndarray
    visibility: np.ndarray
    placeable: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray

    def masks(self) -> np.ndarray:
        """[P, H, W] bool, the visible pixels of every person."""
        return self.owner[None] == np.arange(1, len(self.boxes) + 1, dtype=np.uint8)[:, None, None]


@dataclass
class _Drawn:
    """A figure after drawing, kept until everything before it has been drawn too."""

    buffer: DepthBuffer
    parts: list[str]
    keypoints: np.ndarray
    units: np.ndarray
    area: int


def draw_scene(
    rng: np.random.Generator, image_size: tuple[int, int], people: tuple[int, int], arrangement: Arrangement
) -> Scene:
    """Draws a picture, from the farthest thing to the nearest.

    Args:
        rng: the only source of chance.
        image_size: (height, width) in pixels.
        people: fewest and most figures, both included; those that end up wholly hidden get no label.
        arrangement: how many of these, how tall and where.
    """
    height, width = image_size
    image = sample_backdrop(rng, image_size)
    owner = np.zeros(image_size, np.uint8)
    azimuth, altitude = rng.uniform(-70, 70), rng.uniform(-10, 70)
    light = turn_y(azimuth) @ turn_x(altitude) @ np.array([0, 0, 1.0]) * np.array([1, -1, 1]) * rng.uniform(0.2, 0.42)
    light = light + np.array([0, 0, rng.uniform(0.08, 0.2)])
    ambient = float(rng.uniform(0.5, 0.72))
    tilt = turn_z(rng.uniform(-6, 6)) @ turn_x(rng.uniform(-6, 28))
    noise = noise_texture()
    shadow = float(rng.uniform(0.5, 0.85))

    def add_thing(size: float) -> None:
        solids = sample_thing(rng, tuple((rng.random(2) * (width, height)).tolist()), size)
        buffer = render(solids, image_size, light, ambient, noise, crease=size * 0.03)
        if buffer is not None:
            paint(image, buffer, solids)
            x1, y1, x2, y2 = buffer.window
            owner[y1:y2, x1:x2][buffer.code >= 0] = 0

    drawn: list[_Drawn] = []
    for _ in range(int(rng.integers(0, 5))):
        add_thing(min(image_size) * float(np.exp(rng.uniform(-2.3, 0))))
    for x, y, scale in arrangement.places(rng, image_size, people):
        yaw = rng.uniform(-55, 55) + (180 if rng.random() < 0.3 else 0) if rng.random() < 0.7 else rng.uniform(0, 360)
        figure = sample_figure(rng, detail=scale > 130)
        solids, keypoints, units = figure.place(tilt @ turn_y(yaw), scale, (x, y), float(rng.uniform(2.5, 9)))
        buffer = render(solids, image_size, light, ambient, noise, crease=scale * 0.03)
        if buffer is None:
            continue
        _cast_shadow(image, keypoints, scale, shadow)
        paint(image, buffer, solids)
        own = np.array([solid.body for solid in solids])[buffer.code >> 1]
        own &= buffer.code >= 0
        x1, y1, x2, y2 = buffer.window
        np.copyto(owner[y1:y2, x1:x2], own * np.uint8(len(drawn) + 1), where=buffer.code >= 0)
        drawn.append(_Drawn(buffer, [solid.part for solid in solids], keypoints, units, np.count_nonzero(own)))
        if rng.random() < 0.06:
            add_thing(scale * float(rng.uniform(0.3, 0.9)))
    for _ in range(int(rng.choice(3, p=np.array([0.62, 0.27, 0.11])))):
        add_thing(min(image_size) * float(np.exp(rng.uniform(-1.6, 0))))
    return _label(develop(rng, image), owner, drawn)


_FEET = [KEYPOINTS.index(f"{side}_{name}") for side in ("left", "right") for name in ("heel", "toe")]


def _cast_shadow(image: np.ndarray, keypoints: np.ndarray, scale: float, strength: float) -> None:
    """Darkens an ellipse on the ground below the lowest foot."""
    feet = keypoints[_FEET]
    x, y = float(feet[:, 0].mean()), float(feet[:, 1].max())
    half_x, half_y = float(np.ptp(feet[:, 0])) / 2 + 0.09 * scale, 0.045 * scale
    height, width = image.shape[:2]
    x1, x2 = max(int(x - half_x), 0), min(int(x + half_x) + 1, width)
    y1, y2 = max(int(y - half_y), 0), min(int(y + half_y) + 1, height)
    if x1 >= x2 or y1 >= y2:
        return
    across = (np.arange(x1, x2, dtype=np.float32) - x) / half_x
    down = (np.arange(y1, y2, dtype=np.float32) - y) / half_y
    dark = np.clip(1.3 - across[None] ** 2 - down[:, None] ** 2, 0, 1) * (1 - strength)
    patch = image[y1:y2, x1:x2]
    patch[...] = (patch * (1 - dark)[..., None]).astype(np.uint8)


def _label(image: np.ndarray, owner: np.ndarray, drawn: list[_Drawn]) -> Scene:
    height, width = owner.shape
    counts = np.bincount(owner.reshape(-1), minlength=len(drawn) + 1)[1:]
    kept = [i for i, one in enumerate(drawn) if counts[i] >= max(LEAST_AREA, _LEAST_SHARE * one.area)]
    keypoints = np.zeros((len(kept), len(KEYPOINTS), 2), np.float32)
    visibility = np.zeros((len(kept), len(KEYPOINTS)), np.uint8)
    placeable = np.zeros((len(kept), len(KEYPOINTS)), bool)
    boxes = np.zeros((len(kept), 4), np.float32)
    renumber = np.zeros(len(drawn) + 1, np.uint8)
    for row, number in enumerate(kept):
        renumber[number + 1] = row + 1
        one = drawn[number]
        x1, y1, x2, y2 = one.buffer.window
        mine = owner[y1:y2, x1:x2] == number + 1
        boxes[row] = tight_box(mine) + np.float32([x1, y1] * 2)
        for k, (x, y, _) in enumerate(one.keypoints.tolist()):
            if 0 <= x <= width - 1 and 0 <= y <= height - 1:
                keypoints[row, k] = x, y
                visible = _is_shown(one, mine, k, radius=1, extra_reach=0.0)
                visibility[row, k] = 2 if visible else 1
                placeable[row, k] = visible or _is_placeable(one, mine, k)
    areas = counts[kept].astype(np.float32)
    return Scene(image, renumber[owner], keypoints, visibility, placeable, boxes, areas)


_SHOWN_BY = [shown_by(name) for name in KEYPOINTS]
_GUESS = {"face": (0.012, 0.0), "body": (0.04, 0.03)}
"""How far beside the visible surface of its limb, and how much deeper under it than a visible one, an annotator still
places a hidden keypoint; in body heights. Chosen so that the hidden share of the labelled keypoints is near that of
COCO's val2017: 12 % in all, 4 to 7 % in the face, 9 % (ears) to 22 % (hips) elsewhere."""
_GUESS_OF = [_GUESS["face" if name.endswith(("nose", "eye", "ear")) else "body"] for name in KEYPOINTS]


def _is_placeable(one: _Drawn, mine: np.ndarray, keypoint: int) -> bool:
    """Whether enough of its limb is visible near a hidden keypoint to tell where it is."""
    radius, extra_reach = _GUESS_OF[keypoint]
    return _is_shown(one, mine, keypoint, max(1, round(radius * float(one.units[keypoint]))), extra_reach)


def _is_shown(one: _Drawn, mine: np.ndarray, keypoint: int, radius: int, extra_reach: float) -> bool:
    """Whether a visible surface within some pixels of a keypoint is one that shows it.

    Args:
        mine: [rows, columns] bool, the person's visible pixels in the window of its buffer.
        radius: half the side of the square of pixels that are looked at, minus half a pixel.
        extra_reach: how much farther than usual the surface may lie before the keypoint, in body heights.
    """
    parts, reach = _SHOWN_BY[keypoint]
    x, y, z = one.keypoints[keypoint].tolist()
    nearest = z + (reach + extra_reach) * float(one.units[keypoint])
    x1, y1, _, _ = one.buffer.window
    column, row = round(x) - x1, round(y) - y1
    rows = slice(max(row - radius, 0), max(row + radius + 1, 0))
    beside = rows, slice(max(column - radius, 0), max(column + radius + 1, 0))
    near = mine[beside] & (one.buffer.depth[beside] <= nearest)
    shown = set(np.unique(one.buffer.code[beside][near] >> 1).tolist())
    return any(one.parts[solid] in parts for solid in shown)


class SyntheticPeople:
    """A map-style dataset of drawn people: the same arguments give the same pictures and labels, bit by bit.

    Args:
        count: number of pictures.
        seed: not negative; different seeds share no scene.
        image_size: (height, width) in pixels, at least 32 each.
        people: fewest and most people drawn in a picture, both included; 0 gives pictures without anybody.
        skeleton: which keypoints are labelled, matched by name.
        hidden: which hidden keypoints are labelled: those that are ``"placeable"``, or ``"all"`` inside the picture.
        arrangement: how many people, how tall and where, a key of ``ARRANGEMENTS``.

    Raises:
        ValueError: an argument is out of range, or the skeleton has keypoints that the figures lack (all are named).
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        image_size: tuple[int, int] = (480, 480),
        people: tuple[int, int] = (1, 8),
        skeleton: Skeleton = COCO_PERSON,
        hidden: str = "placeable",
        arrangement: str = "crowded",
    ) -> None:
        if arrangement not in ARRANGEMENTS:
            raise ValueError(f"arrangement must be one of {', '.join(ARRANGEMENTS)}, got {arrangement!r}")
        if hidden not in HIDDEN:
            raise ValueError(f"hidden must be one of {', '.join(HIDDEN)}, got {hidden!r}")
        if count < 0:
            raise ValueError(f"count must not be negative, got {count}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        if len(image_size) != 2 or min(image_size) < MIN_SIDE:
            raise ValueError(f"image_size must be (height, width) of at least {MIN_SIDE} each, got {image_size}")
        if len(people) != 2 or not 0 <= people[0] <= people[1] <= MAX_PEOPLE:
            raise ValueError(f"people must be (fewest, most) with 0 <= fewest <= most <= {MAX_PEOPLE}, got {people}")
        missing = [name for name in skeleton.keypoints if name not in KEYPOINTS]
        if missing:
            raise ValueError(
                f"skeleton {skeleton.name!r} has keypoints that the synthetic figures lack: {', '.join(missing)}; "
                f"they have {', '.join(KEYPOINTS)}"
            )
        self.count = int(count)
        self.seed = int(seed)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.people = (int(people[0]), int(people[1]))
        self.skeleton = skeleton
        self.hidden = hidden
        self.arrangement = arrangement
        self._columns = [KEYPOINTS.index(name) for name in skeleton.keypoints]

    @property
    def image_ids(self) -> list[int]:
        """COCO image ids in the order of the pictures: index + 1."""
        return list(range(1, self.count + 1))

    def image_name(self, index: int) -> str:
        """The file name that the picture has, or would have, on disk."""
        return f"{self._checked(index) + 1:012d}.jpg"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """The picture and its labels.

        Raises:
            IndexError: there are not so many pictures.
        """
        return self.sample(index, self.scene(index))

    def scene(self, index: int) -> Scene:
        """Draws one picture with everything that is known about it."""
        rng = np.random.default_rng([self.seed, self._checked(index)])
        return draw_scene(rng, self.image_size, self.people, ARRANGEMENTS[self.arrangement])

    def sample(self, index: int, scene: Scene) -> Sample:
        """What of a scene the skeleton asks for."""
        keypoints, visibility = self._labelled(scene)
        labels = PersonLabels(keypoints, visibility, scene.boxes, scene.areas, np.zeros(len(scene.boxes), bool))
        unlabelled = np.concatenate([[False], ~(visibility > 0).any(1)])
        index = self._checked(index)
        return Sample(scene.image, index + 1, self.image_name(index), labels, scene.owner > 0, unlabelled[scene.owner])

    def coco_annotations(self, index: int, scene: Scene, first_id: int = 1) -> list[dict]:
        """COCO annotations of one scene, segments as compressed RLE; ids count up from ``first_id``."""
        keypoints, visibility = self._labelled(scene)
        triples = np.concatenate([keypoints, visibility[..., None]], axis=-1)
        rows = []
        for i, mask in enumerate(scene.masks()):
            segment = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
            rows.append(
                {
                    "id": first_id + i,
                    "image_id": self._checked(index) + 1,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": xyxy_to_xywh(scene.boxes[i]).tolist(),
                    "area": float(scene.areas[i]),
                    "segmentation": {"size": list(segment["size"]), "counts": segment["counts"].decode("ascii")},
                    "num_keypoints": int((visibility[i] > 0).sum()),
                    "keypoints": [
                        value for x, y, shown in triples[i].tolist() for value in (round(x, 2), round(y, 2), int(shown))
                    ],
                }
            )
        return rows

    def _labelled(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints [P, K, 2] and visibility [P, K] of a scene as labels; both 0 where there is no label."""
        large_enough = scene.areas >= ARRANGEMENTS[self.arrangement].least_area
        visibility = scene.visibility[:, self._columns] * large_enough[:, None]
        if self.hidden == "placeable":
            visibility = visibility * scene.placeable[:, self._columns]
        return scene.keypoints[:, self._columns] * (visibility > 0)[..., None], visibility

    def coco_header(self) -> dict:
        """Everything of a COCO file but its annotations."""
        height, width = self.image_size
        skeleton = self.skeleton
        return {
            "info": {"description": "synthetic people", "generator": self.identity()},
            "licenses": [],
            "categories": [
                {
                    "id": 1,
                    "name": skeleton.name,
                    "supercategory": "person",
                    "keypoints": list(skeleton.keypoints),
                    "skeleton": [[first + 1, second + 1] for first, second in skeleton.limbs],
                }
            ],
            "images": [
                {"id": index + 1, "file_name": self.image_name(index), "height": height, "width": width}
                for index in range(self.count)
            ],
        }

    def ground_truth(self, progress: bool = False) -> dict:
        """The COCO file of the whole set, ready for JSON and pycocotools; draws every picture.

        Args:
            progress: show a progress bar.
        """
        annotations: list[dict] = []
        for index in tqdm(range(self.count), desc="drawing", disable=not progress):
            annotations += self.coco_annotations(index, self.scene(index), len(annotations) + 1)
        return {**self.coco_header(), "annotations": annotations}

    def identity(self) -> dict:
        """Which data this is: equal identities mean equal pictures and labels."""
        return {
            "generator": "synthetic_people",
            "version": GENERATOR_VERSION,
            "count": self.count,
            "seed": self.seed,
            "image_size": list(self.image_size),
            "people": list(self.people),
            "skeleton": self.skeleton.name,
            "hidden": self.hidden,
            "arrangement": self.arrangement,
        }

    def _checked(self, index: int) -> int:
        if not -self.count <= index < self.count:
            raise IndexError(f"picture {index} of {self.count}")
        return int(index) % self.count
