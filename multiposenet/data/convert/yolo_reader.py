"""Reading YOLO-pose data sets: ``data.yaml``, and one text file of people for every picture.

A line is ``class cx cy w h`` and x, y[, visibility] of every keypoint, lengths as shares of the picture
(https://docs.ultralytics.com/datasets/pose/). A keypoint's share is its COCO coordinate by the picture's width or
height, as the tools of that format write it, without half a pixel between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multiposenet.data.convert.converted import ConvertedSplit, person_record
from multiposenet.data.convert.data_yaml import Value, read_data_yaml
from multiposenet.data.pictures import picture_size
from multiposenet.inputs import PICTURE_SUFFIXES, number_pictures
from multiposenet.skeletons import COCO_PERSON, SKELETONS, Skeleton

SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
"""Keys of ``data.yaml`` that name pictures, and the splits they are."""

_KEYS = (*SPLITS, "path", "names", "nc", "kpt_shape", "flip_idx", "kpt_names")
_SLACK = 1e-5  # beyond 0 and 1, for what is rounded to six decimals


@dataclass(frozen=True)
class YoloData:
    """What ``data.yaml`` says.

    Args:
        path: the file.
        folder: against which the places of pictures are meant.
        places: folders or lists of pictures, by split.
        person: the class whose objects are people.
        classes: names by number.
        skeleton: of the people.
        dims: numbers a keypoint, 2 or 3.
        assumed: what the file does not say; sentences.
    """

    path: Path
    folder: Path
    places: dict[str, list[str]]
    person: int
    classes: dict[int, str]
    skeleton: Skeleton
    dims: int
    assumed: tuple[str, ...]


def read_yolo(
    source: Path, splits: Sequence[str] = (), skeleton: Skeleton | None = None, category: str = "person"
) -> list[ConvertedSplit]:
    """Reads a YOLO-pose data set.

    Args:
        source: ``data.yaml``, or a folder with that file (or a single other ``.yaml``) in it.
        splits: only these, of ``train``, ``val`` and ``test``; by default all that have pictures.
        skeleton: the keypoints; by default those in ``kpt_names``, or a built-in skeleton with the same ``flip_idx``.
        category: name of the class of people, where there are several classes.

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: a file is not what the format says; the message names it and the line.
    """
    data = read_description(source, skeleton, category)
    chosen = {name: places for name, places in data.places.items() if not splits or name in splits}
    if missing := [name for name in splits if name not in chosen]:
        raise ValueError(f"{data.path}: no split {missing[0]!r}, only {', '.join(data.places)}")
    pictures = {name: [p for place in places for p in _pictures(data, place)] for name, places in chosen.items()}
    every = [path for paths in pictures.values() for path in paths]
    ids = iter(number_pictures([path.name for path in every]))
    read, first = [], 1
    for name, paths in pictures.items():
        split = _read_split(data, name, paths, [next(ids) for _ in paths], first)
        first += len(split.annotations)
        read.append(split)
    return read


def read_description(source: Path, skeleton: Skeleton | None = None, category: str = "person") -> YoloData:
    """Reads ``data.yaml``; arguments and errors as in :func:`read_yolo`."""
    path = _description_file(source)
    values = read_data_yaml(path, _KEYS)
    places = {
        SPLITS[key]: value if isinstance(value, list) else [value]
        for key in SPLITS
        if (value := values.get(key)) and not isinstance(value, dict)
    }
    if not places:
        raise ValueError(f"{path}: neither train, val nor test names any pictures")
    count, dims = _shape(path, values.get("kpt_shape"))
    flip = _numbers(path, "flip_idx", values.get("flip_idx"))
    own, assumed = (skeleton, ()) if skeleton else _skeleton(path, values.get("kpt_names"), count, flip)
    if own.num_keypoints != count:
        raise ValueError(f"{path}: kpt_shape says {count} keypoints, skeleton {own.name!r} has {own.num_keypoints}")
    if flip and flip != own.flip_indices:
        raise ValueError(
            f"{path}: flip_idx is {flip}, that of skeleton {own.name!r} {own.flip_indices}; the keypoints are others, "
            "or in another order: give their skeleton"
        )
    classes = _classes(values)
    people = [number for number, name in classes.items() if name == category] or list(classes)
    if len(people) != 1:
        raise ValueError(f"{path}: classes are {list(classes.values())}; say which one are people with --category")
    folder = path.parent
    if isinstance(values.get("path"), str) and (folder / values["path"]).is_dir():
        folder = folder / values["path"]
    return YoloData(path, folder, places, people[0], classes, own, dims, assumed)


def _description_file(source: Path) -> Path:
    if source.is_file():
        return source
    files = [source / "data.yaml"] if (source / "data.yaml").is_file() else sorted(source.glob("*.y*ml"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise FileNotFoundError(f"{source}: expected data.yaml, or one other .yaml file, found {found}")
    return files[0]


def _shape(path: Path, value: Value) -> tuple[int, int]:
    numbers = _numbers(path, "kpt_shape", value)
    if len(numbers) != 2 or numbers[0] < 1 or numbers[1] not in (2, 3):
        raise ValueError(f"{path}: kpt_shape must be [keypoints, 2 or 3] for data with poses, got {value!r}")
    return numbers[0], numbers[1]


def _numbers(path: Path, key: str, value: Value) -> list[int]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(item.isdecimal() for item in value):
        raise ValueError(f"{path}: {key} must be a list of whole numbers, got {value!r}")
    return [int(item) for item in value]


def _classes(values: dict[str, Value]) -> dict[int, str]:
    names = values.get("names")
    if isinstance(names, dict):
        return {int(number): str(name) for number, name in names.items()}
    if isinstance(names, list):
        return dict(enumerate(names))
    count = values.get("nc")
    return {number: f"class {number}" for number in range(int(count) if isinstance(count, str) else 1)}


def _skeleton(path: Path, names: Value, count: int, flip: list[int]) -> tuple[Skeleton, tuple[str, ...]]:
    """The skeleton that the file describes, and what had to be assumed."""
    listed = next(iter(names.values()), None) if isinstance(names, dict) else names
    if isinstance(listed, list):
        known = [skeleton for skeleton in SKELETONS.values() if skeleton.keypoints == tuple(listed)]
        if known:
            return known[0], ()
        return Skeleton("person", tuple(listed), _flip_pairs(path, flip, count)), ()
    if count == COCO_PERSON.num_keypoints and flip in ([], COCO_PERSON.flip_indices):
        return COCO_PERSON, (f"{path.name} names no keypoints: {count} of them are taken to be COCO's",)
    made = Skeleton("person", tuple(f"keypoint_{n}" for n in range(1, count + 1)), _flip_pairs(path, flip, count))
    return made, (f"{path.name} names no keypoints: they are called keypoint_1 to keypoint_{count}",)


def _flip_pairs(path: Path, flip: list[int], count: int) -> tuple[tuple[int, int], ...]:
    if flip and (sorted(flip) != list(range(count)) or any(flip[other] != index for index, other in enumerate(flip))):
        raise ValueError(f"{path}: flip_idx must exchange pairs among {count} keypoints, got {flip}")
    return tuple((index, other) for index, other in enumerate(flip) if index < other)


def _pictures(data: YoloData, place: str) -> list[Path]:
    """The pictures of a folder (with subfolders), or of a text file that lists them."""
    candidates = [data.folder / place, data.folder / place.removeprefix("../")]  # Roboflow writes ../train/images
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    if path is None:
        raise FileNotFoundError(f"{data.path}: there is no {candidates[0]}; correct the path")
    if path.is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return [path.parent / line for line in lines if line]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file())


def _read_split(data: YoloData, name: str, paths: list[Path], ids: list[int], first_id: int) -> ConvertedSplit:
    images, annotations = [], []
    others = unlabelled = 0
    for path, image_id in zip(paths, ids, strict=True):
        height, width = picture_size(path)
        images.append({"id": image_id, "file_name": path.name, "width": width, "height": height})
        file = label_file(path)
        unlabelled += not file.is_file()
        for number, line in enumerate(_lines(file), start=1):
            numbers = _read_line(data, file, number, line)
            if numbers[0] != data.person:
                others += 1
                continue
            box, triples = _to_pixels(numbers[1:], data.dims, (height, width))
            annotations.append(person_record(first_id + len(annotations), image_id, box, triples))
    notes = [*data.assumed, "areas are 0.53 of the boxes: YOLO's files have none"] if annotations else [*data.assumed]
    if others:
        notes.append(f"{others} objects of other classes are left out")
    if unlabelled:
        notes.append(f"{unlabelled} pictures have no label file: nobody is taken to be there")
    if len({image["file_name"] for image in images}) != len(images):
        raise ValueError(f"{data.path}: pictures of split {name} in different folders have the same file name")
    return ConvertedSplit(name, data.skeleton, images, annotations, dict(zip(ids, paths, strict=True)), tuple(notes))


def label_file(picture: Path) -> Path:
    """The label file of a picture: the last folder ``images`` becomes ``labels``, the ending ``.txt``."""
    parts = list(picture.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def _read_line(data: YoloData, file: Path, number: int, line: str) -> np.ndarray:
    """[5 + K dims] the line's numbers, checked."""
    where = f"{file}, line {number}"
    try:
        numbers = np.array(line.split(), np.float64)
    except ValueError:
        raise ValueError(f"{where}: expected numbers, got {line!r}") from None
    width = 5 + data.skeleton.num_keypoints * data.dims
    if len(numbers) != width:
        raise ValueError(f"{where}: expected {width} numbers (class, box, {data.dims} a keypoint), got {len(numbers)}")
    if numbers[0] not in data.classes:
        raise ValueError(f"{where}: class {numbers[0]:g} is not among {list(data.classes)} of {data.path.name}")
    visibility = numbers[7::3] if data.dims == 3 else np.zeros(0)
    shares = np.delete(numbers, [0, *range(7, width, 3)] if data.dims == 3 else [0])
    if not np.isin(visibility, (0, 1, 2)).all():
        raise ValueError(f"{where}: visibility must be 0, 1 or 2, got {sorted(set(visibility.tolist()))}")
    if not ((shares >= -_SLACK) & (shares <= 1 + _SLACK)).all():
        bad = next(value for value in shares.tolist() if not -_SLACK <= value <= 1 + _SLACK)
        hint = " or a missing number" if math.isnan(bad) else ": pixels where shares of the picture should be?"
        raise ValueError(f"{where}: {bad:g} is not in 0 to 1{hint}")
    return numbers


def _to_pixels(numbers: np.ndarray, dims: int, size: tuple[int, int]) -> tuple[list[float], list[list[float]]]:
    """Box xywh, and x, y, visibility of every keypoint."""
    height, width = size
    scale = np.array([width, height])
    centre, sides = numbers[:2] * scale, numbers[2:4] * scale
    points = numbers[4:].reshape(-1, dims)
    places = points[:, :2] * scale
    # Without visibility, a keypoint in the very corner is one that nobody labelled.
    visibility = points[:, 2] if dims == 3 else 2.0 * (points > 0).any(axis=1)
    triples = np.where(visibility[:, None] > 0, np.column_stack([places, visibility]), 0)
    return [*(centre - sides / 2).tolist(), *sides.tolist()], triples.tolist()
