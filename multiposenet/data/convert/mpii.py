"""Reading MPII Human Pose: the usual lists ``annot/train.json`` and ``annot/valid.json``, or the release's ``.mat``.

Both count pixels from 1, as Matlab does; here they count from 0. Neither has boxes, areas or the pictures' sizes: a
person's box encloses the keypoints with some room, and sizes come from the pictures. Centre, scale (of 200 pixels) and
the head's rectangle, which PCKh needs, stay as further fields of an annotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from multiposenet.data.convert.converted import ConvertedSplit, person_record
from multiposenet.data.mpii import FIRST_PIXEL, SIDE, MpiiPerson, read_people
from multiposenet.data.pictures import picture_size
from multiposenet.geometry import clip_boxes, xyxy_to_xywh
from multiposenet.inputs import number_pictures
from multiposenet.skeletons import MPII

SPLIT_FILES = {"train": "train.json", "val": "valid.json", "test": "test.json"}
"""The usual lists in ``annot/``."""

BOX_MARGIN = 0.1
"""Room around the keypoints on each side of a person's box, as a share of its longer side."""

def read_mpii(source: Path, splits: Sequence[str] = (), pictures: Path | None = None) -> list[ConvertedSplit]:
    """Reads MPII's annotations.

    Args:
        source: a folder with ``annot/`` and ``images/``, one of the lists, or the ``.mat`` file.
        splits: only these, of ``train``, ``val`` and ``test``; by default those that are there.
        pictures: the folder of the pictures, where it is not ``images/`` beside ``annot/`` or the file.

    Raises:
        FileNotFoundError: a file or a picture is not there.
        ValueError: a record is not what the format says; the message names it.
    """
    files = _split_files(source)
    if missing := [name for name in splits if name not in files]:
        raise FileNotFoundError(f"{source}: no split {missing[0]!r}, only {', '.join(files) or 'none'}")
    people = {name: _read_file(path) for name, path in files.items() if not splits or name in splits}
    folder = pictures or _picture_folder(source)
    names = {name: list(dict.fromkeys(person.image for person in found)) for name, found in people.items()}
    every = list(dict.fromkeys(image for found in names.values() for image in found))
    ids = dict(zip(every, number_pictures(every), strict=True))
    read, first = [], 1
    for name, found in people.items():
        read.append(_convert_split(name, found, {image: ids[image] for image in names[name]}, folder, first))
        first += len(found)
    return read


def _split_files(source: Path) -> dict[str, Path]:
    if source.is_file():
        split = next((name for name, file in SPLIT_FILES.items() if file == source.name), "train")
        return {split: source}
    for folder in (source / "annot", source / "annotations", source):
        found = {name: folder / file for name, file in SPLIT_FILES.items() if (folder / file).is_file()}
        if found:
            return found
    mats = sorted(source.glob("mpii_human_pose*.mat"))
    if not mats:
        raise FileNotFoundError(f"{source}: neither annot/train.json, annot/valid.json nor mpii_human_pose*.mat")
    return {"train": mats[0]}


def _picture_folder(source: Path) -> Path:
    roots = (source.parent, source.parent.parent) if source.is_file() else (source,)
    return next((root / "images" for root in roots if (root / "images").is_dir()), roots[0] / "images")


def _read_file(path: Path) -> list[MpiiPerson]:
    return list(_read_release(path)) if path.suffix == ".mat" else read_people(path, labelled=False)


def _read_release(path: Path) -> Iterator[MpiiPerson]:
    """People of the release's file with annotated joints; those of the test pictures have none."""
    release = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False).get("RELEASE")
    if release is None:
        raise ValueError(f"{path}: no RELEASE in it; expected mpii_human_pose_v1_u12_1.mat")
    for picture in np.atleast_1d(release.annolist):
        for rectangle in np.atleast_1d(picture.annorect):
            points = np.atleast_1d(getattr(getattr(rectangle, "annopoints", None), "point", ()))
            if not len(points):
                continue
            joints, visibility = np.zeros((MPII.num_keypoints, 2)), np.zeros(MPII.num_keypoints)
            for point in points:
                joints[int(point.id)] = point.x, point.y
                visibility[int(point.id)] = _visibility(getattr(point, "is_visible", None))
            position = getattr(rectangle, "objpos", None)
            centre = joints[visibility > 0].mean(axis=0) if not hasattr(position, "x") else (position.x, position.y)
            head = [getattr(rectangle, name, None) for name in ("x1", "y1", "x2", "y2")]
            yield MpiiPerson(
                str(picture.image.name),
                np.where(visibility[:, None] > 0, joints - FIRST_PIXEL, 0),
                visibility,
                tuple(float(value) - FIRST_PIXEL for value in centre),
                float(scale) if np.size(scale := getattr(rectangle, "scale", 0.0)) else 0.0,
                None
                if any(np.size(edge) != 1 or edge is None for edge in head)
                else tuple(e - FIRST_PIXEL for e in head),
            )


def _visibility(value: Any) -> int:
    """2 for seen, 1 for hidden; where the file does not say it (often of the head), it was seen."""
    return 2 if value is None or not np.size(value) or int(value) else 1


def _convert_split(
    name: str, people: Sequence[MpiiPerson], ids: dict[str, int], folder: Path, first_id: int
) -> ConvertedSplit:
    sizes = {}
    for image in ids:
        try:
            sizes[image] = picture_size(folder / image)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; MPII's files do not say how large pictures are") from None
    annotations = [
        person_record(
            first_id + number,
            ids[person.image],
            _box(person, sizes[person.image]),
            np.column_stack([person.keypoints, person.visibility]).tolist(),
            **_own(person),
        )
        for number, person in enumerate(people)
    ]
    images = [
        {"id": ids[image], "file_name": image, "width": width, "height": height}
        for image, (height, width) in sizes.items()
    ]
    notes = (
        "boxes enclose the keypoints with a tenth of their longer side around: MPII has none",
        "areas are 0.53 of the boxes",
        "the lists do not say which keypoints are hidden: all labelled ones count as visible; a .mat file says it",
        "MPII's skeleton has no OKS sigmas: it is measured by PCKh",
    )
    pictures = {ids[image]: folder / image for image in ids}
    return ConvertedSplit(name, MPII, images, annotations, pictures, notes)


def _own(person: MpiiPerson) -> dict:
    """What MPII knows beyond COCO's fields."""
    own: dict = {"center": [round(value, 2) for value in person.centre], "scale": person.scale}
    if person.head_box is not None:
        own["head_box"] = [float(edge) for edge in person.head_box]
    return own


def _box(person: MpiiPerson, size: tuple[int, int]) -> list[float]:
    """[x, y, width, height] around the keypoints; around the centre, as large as the scale, where there are none."""
    places = person.keypoints[person.visibility > 0] + 0.5
    if len(places):
        low, high = places.min(axis=0), places.max(axis=0)
        margin = BOX_MARGIN * (high - low).max()
    else:
        low = high = np.array(person.centre) + 0.5
        margin = person.scale * SIDE / 2
    return xyxy_to_xywh(clip_boxes(np.concatenate([low - margin, high + margin]), size)).tolist()
