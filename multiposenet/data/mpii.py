"""MPII Human Pose as a dataset of samples: the usual JSON files (``annot/*.json``) and pictures (``images/``).

The files count pixels from 1 and give a person by a centre and a scale instead of a box. Here pixels are counted from
0, and boxes are squares made of both by the rule of the published top-down code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import savemat
from torch.utils.data import Dataset

from multiposenet.data.annotations import PackedLabels
from multiposenet.data.completion import BOX_AREA_SHARE
from multiposenet.data.formats import CocoFormat
from multiposenet.data.pictures import load_picture
from multiposenet.skeletons import MPII, Skeleton
from multiposenet.structures import PersonLabels, Sample

SIDE = 200.0
"""Pixels that a scale of 1 stands for."""
DOWN = 15.0
"""Pixels by which the published code moves a centre down, times the scale, to take in the legs."""

FIRST_PIXEL = 1
"""The first pixel's number, in Matlab."""
UNKNOWN_CENTRE = -1 - FIRST_PIXEL
"""Files say -1 for a centre that nobody knows."""
FIELDS = ("image", "center", "scale", "joints", "joints_vis")
"""Of a record in a list."""

MPII_FORMAT = CocoFormat(
    name="mpii",
    skeleton=MPII,
    annotation_files=("annot/{split}.json",),
    picture_folders=("images",),
    evaluation_split="valid",
)
"""Where MPII's files lie; their content is not COCO's."""

_SHORT = "rank rkne rhip lhip lkne lank pelv thor neck head rwri relb rsho lsho lelb lwri"
NAMES = dict(zip(MPII.keypoints, _SHORT.split(), strict=True))
"""Keypoints as the ground truth's ``.mat`` file calls them."""


@dataclass(frozen=True)
class MpiiPerson:
    """One person, as MPII has it but for the pixels, which count from 0.

    Args:
        image: file name of the picture.
        keypoints: [K, 2] x, y; 0 where not labelled.
        visibility: [K] 0 not labelled, 1 hidden, 2 visible. Lists do not tell hidden ones.
        centre: rough middle of the person; -2 where nobody knows.
        scale: height in units of 200 pixels.
        head_box: x1, y1, x2, y2, or None.
    """

    image: str
    keypoints: np.ndarray
    visibility: np.ndarray
    centre: tuple[float, float]
    scale: float
    head_box: tuple[float, ...] | None = None

    def square(self) -> np.ndarray:
        """Box [x1, y1, x2, y2] by the rule of the published top-down code."""
        centre, half = np.array(self.centre), SIDE * self.scale / 2
        if centre[0] != UNKNOWN_CENTRE:
            centre = centre + np.array([0, DOWN * self.scale])
        return np.concatenate([centre - half, centre + half])


def read_people(path: Path, skeleton: Skeleton = MPII, labelled: bool = True) -> list[MpiiPerson]:
    """The people of one of the usual lists.

    Args:
        path: ``annot/<split>.json``.
        skeleton: the keypoints of the file.
        labelled: everybody must have keypoints; the list of the test split has none.

    Raises:
        ValueError: the file is no such list or a record is broken; the message names it.
    """
    try:
        records = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not a complete JSON file ({error}); fetch or export it again") from None
    if not isinstance(records, list) or not records:
        raise ValueError(f"{path}: expected a list of people, as MPII's files are; got a {type(records).__name__}")
    return [_person(record, skeleton, f"{path}: record {number}", labelled) for number, record in enumerate(records)]


class MpiiKeypoints(Dataset):
    """Pictures and people of MPII.

    A person whose keypoints nobody labelled is not in the files, so that everybody in them can be learnt from; others
    in the pictures are unknown. Areas are a share of the box (see ``data.completion``); MPII does not use them.

    Args:
        root: folder with ``annot/<split>.json`` and ``images/``.
        split: ``train``, ``valid`` or ``trainval``.
        skeleton: the keypoints of the file.
        limit: only the first pictures.
        layout: where the files lie.
        with_keypoints, label_cache: as for ``CocoKeypoints``; here everybody has keypoints, and nothing is cached.

    Raises:
        FileNotFoundError: no annotation file.
        ValueError: a record is broken; the message names it.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        skeleton: Skeleton | None = None,
        *,
        limit: int | None = None,
        layout: CocoFormat = MPII_FORMAT,
        with_keypoints: bool = False,
        label_cache: bool | str | Path = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.split = split
        self.skeleton = layout.skeleton if skeleton is None else skeleton
        self.layout = layout
        self.picture_folders = (self.root / layout.picture_folders[0],)
        path = self.root / layout.annotation_files[0].format(split=split)
        if not path.is_file():
            raise FileNotFoundError(f"no annotation file {path}; check --data and the split")
        self._digest = hashlib.sha256(path.read_bytes()).hexdigest()
        everybody = read_people(path, self.skeleton)
        names = list(dict.fromkeys(person.image for person in everybody))
        self._names = names[:limit]
        place = {name: index for index, name in enumerate(self._names)}
        rows = [number for number, person in enumerate(everybody) if person.image in place]
        rows.sort(key=lambda number: place[everybody[number].image])
        people = [everybody[number] for number in rows]
        boxes = np.stack([person.square() for person in people])
        sides = boxes[:, 2:] - boxes[:, :2]
        self._labels = PackedLabels(
            keypoints=np.stack([person.keypoints for person in people]).astype(np.float32),
            visibility=np.stack([person.visibility for person in people]),
            boxes=boxes.astype(np.float32),
            areas=(BOX_AREA_SHARE * sides.prod(1)).astype(np.float32),
            crowd=np.zeros(len(rows), bool),
            annotation_ids=np.array(rows, np.int64),
            image_index=np.array([place[person.image] for person in people], np.int64),
            image_sizes=np.zeros((len(self._names), 2), np.int64),
        )

    @property
    def image_ids(self) -> list[int]:
        """Numbers of the pictures, from 1."""
        return list(range(1, len(self) + 1))

    def __len__(self) -> int:
        return len(self._names)

    def image_name(self, index: int) -> str:
        """File name of picture ``index``."""
        return self._names[index]

    def picture_file(self, index: int) -> Path:
        """The place of picture ``index``."""
        return self.picture_folders[0] / self._names[index]

    def labels(self, index: int) -> PersonLabels:
        """The people of picture ``index``; needs no picture file."""
        return self._labels.of_image(index)

    def all_labels(self) -> PackedLabels:
        """Everybody; ``annotation_ids`` are places in the file, from 0, and picture sizes are unknown (0)."""
        return self._labels

    def __getitem__(self, index: int) -> Sample:
        """Picture ``index`` with its people.

        Raises:
            FileNotFoundError, PictureError: there is no such picture file, or it is damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        index %= len(self)
        image = load_picture(self.picture_file(index))
        nothing = np.zeros(image.shape[:2], bool)
        return Sample(
            image=image,
            image_id=index + 1,
            name=self._names[index],
            labels=self.labels(index),
            person_mask=nothing,
            ignore_mask=nothing,
            unknown_mask=np.ones_like(nothing),
        )

    def identity(self) -> dict:
        """What exactly was trained or measured on, in plain values."""
        return {
            "annotations": self.layout.annotation_files[0].format(split=self.split),
            "sha256": self._digest,
            "split": self.split,
            "images": len(self),
            "people": len(self._labels),
            "image_names_sha256": hashlib.sha256(",".join(self._names).encode()).hexdigest(),
        }


def write_mpii(root: str | Path, split: str, pictures: Sequence[tuple[str, PersonLabels]]) -> int:
    """Writes labels in MPII's layout: ``annot/<split>.json``, and ``annot/gt_<split>.mat`` to score against.

    Heads are boxes whose diagonal is the distance from upper neck to top of the head by 0.6, as PCKh reads them, so
    only people with both labelled are written.

    Args:
        root: the data set's folder.
        split: its part.
        pictures: file name below ``images/`` and people, labelled with ``MPII``'s keypoints.

    Returns:
        How many people were written.
    """
    neck, top = MPII.index("upper_neck"), MPII.index("head_top")
    records, points, missing, heads = [], [], [], []
    for name, labels in pictures:
        for keypoints, visibility, box in zip(labels.keypoints, labels.visibility, labels.boxes, strict=True):
            if not visibility[[neck, top]].all():
                continue
            sides, centre = box[2:] - box[:2], (box[2:] + box[:2]) / 2
            scale = float(max(sides)) / SIDE
            labelled = visibility > 0
            stored = np.where(labelled[:, None], keypoints + 1, -1.0)
            records.append(
                {
                    "image": name,
                    "center": [float(centre[0]) + 1, float(centre[1]) + 1 - DOWN * scale],
                    "scale": scale,
                    "joints": stored.round(4).tolist(),
                    "joints_vis": labelled.astype(int).tolist(),
                }
            )
            points.append(stored)
            missing.append(~labelled)
            middle = keypoints[[neck, top]].mean(0) + 1
            reach = np.linalg.norm(keypoints[top] - keypoints[neck]) / 0.6 / 2 / np.sqrt(2)
            heads.append(np.stack([middle - reach, middle + reach]))
    folder = Path(root) / "annot"
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "dataset_joints": np.array([list(NAMES.values())], dtype=object),
        "jnt_missing": np.array(missing, np.float64).T,
        "pos_gt_src": np.array(points, np.float64).transpose(1, 2, 0),
        "headboxes_src": np.array(heads, np.float64).transpose(1, 2, 0),
    }
    savemat(folder / f"gt_{split}.mat", columns)
    (folder / f"{split}.json").write_text(json.dumps(records), encoding="utf-8")
    return len(records)


def _person(record: object, skeleton: Skeleton, where: str, labelled: bool) -> MpiiPerson:
    if not isinstance(record, dict):
        raise ValueError(f"{where} is a {type(record).__name__}; expected an object with {', '.join(FIELDS)}")
    k = skeleton.num_keypoints
    if not (labelled or "joints" in record or "joints_vis" in record):
        record = record | {"joints": np.zeros((k, 2)), "joints_vis": np.zeros(k)}
    if missing := [name for name in FIELDS if name not in record]:
        raise ValueError(f"{where} has no {missing[0]!r}; it needs {', '.join(FIELDS)}")
    try:
        keypoints, shown, centre = (
            np.array(record[name], np.float64) for name in ("joints", "joints_vis", "center")
        )
        scale = float(record["scale"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: joints, joints_vis, center and scale must be numbers ({error})") from None
    if keypoints.shape != (k, 2) or shown.shape != (k,):
        raise ValueError(
            f"{where}: joints and joints_vis must be {k} points and {k} flags for skeleton {skeleton.name!r}, got "
            f"shapes {keypoints.shape} and {shown.shape}"
        )
    if centre.shape != (2,) or not (np.isfinite(centre).all() and np.isfinite(scale) and scale > 0):
        raise ValueError(f"{where}: expected a centre of two numbers and a positive scale")
    visibility = np.where(shown > 0, 2, 0).astype(np.uint8)
    return MpiiPerson(
        str(record["image"]),
        np.where(visibility[:, None] > 0, keypoints - FIRST_PIXEL, 0),
        visibility,
        tuple((centre - FIRST_PIXEL).tolist()),
        scale,
    )
