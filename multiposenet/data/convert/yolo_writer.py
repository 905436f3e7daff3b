"""Writing YOLO-pose data sets, and telling what that format cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from multiposenet.data.check.picture_files import measure_picture
from multiposenet.data.convert.converted import ConvertedSplit
from multiposenet.data.convert.data_yaml import write_data_yaml
from multiposenet.data.convert.yolo_reader import SPLITS, label_file
from multiposenet.data.picture_copies import place_picture
from multiposenet.data.pictures import turn_shares
from multiposenet.geometry import clip_boxes, xywh_to_xyxy, xyxy_to_xywh

_DECIMALS = 6  # of a share: 0.0005 pixel of a picture 1000 wide


def write_yolo(splits: Sequence[ConvertedSplit], out: Path, way: str = "link") -> list[str]:
    """Writes splits as a YOLO-pose data set: ``data.yaml``, ``images/<split>/`` and ``labels/<split>/``.

    Args:
        splits: all of one skeleton.
        out: an empty folder.
        way: how the pictures come there, see ``picture_copies.WAYS``.

    Returns:
        What the format cannot hold, and what became of it.

    Raises:
        ValueError: a split's name is neither a training, a validation nor a test split's, or two splits or two pictures
            would have the same place; nothing is written.
        OSError: a file cannot be written.
    """
    notes = []
    keys = {split.name: _key(split.name) for split in splits}
    _refuse_shared_places(splits, keys)
    for split in splits:
        notes += [f"{split.name}: {note}" for note in _write_split(split, keys[split.name], out, way)]
    skeleton = splits[0].skeleton
    write_data_yaml(
        out / "data.yaml",
        {
            **{keys[split.name]: f"images/{keys[split.name]}" for split in splits},
            "kpt_shape": [skeleton.num_keypoints, 3],
            "flip_idx": skeleton.flip_indices,
            "names": {0: "person"},
            "kpt_names": {0: list(skeleton.keypoints)},
        },
    )
    lost = ["areas", "segmentations", "annotation ids", "limbs"] + (["OKS sigmas"] if skeleton.oks_sigmas else [])
    return [*notes, f"YOLO's files cannot hold {', '.join(lost)}"]


def _key(name: str) -> str:
    """``train``, ``val`` or ``test``, by the beginning of a split's name."""
    for key, split in SPLITS.items():
        if name.lower().startswith(key):
            return split
    raise ValueError(f"split {name!r}: YOLO's data.yaml knows train, val and test; rename the annotation file")


def _refuse_shared_places(splits: Sequence[ConvertedSplit], keys: dict[str, str]) -> None:
    """Raises where two splits have one key, or two pictures of a split one label file."""
    split_of: dict[str, str] = {}
    for split in splits:
        other = split_of.setdefault(keys[split.name], split.name)
        if other != split.name:
            raise ValueError(
                f"splits {other!r} and {split.name!r} would both be {keys[split.name]!r} of data.yaml; convert one of "
                "them at a time, with --split"
            )
        name_of: dict[Path, str] = {}
        for image in split.images:
            file, name = Path(image["file_name"]).with_suffix(".txt"), f"{image['file_name']!r} (image {image['id']})"
            if file in name_of:
                raise ValueError(
                    f"split {split.name}: pictures {name_of[file]} and {name} would share the label file {file}, which "
                    "YOLO names like the picture without its ending; rename one of them"
                )
            name_of[file] = name


def _write_split(split: ConvertedSplit, key: str, out: Path, way: str) -> list[str]:
    people: dict[int, list[dict]] = {image["id"]: [] for image in split.images}
    for person in split.annotations:
        people[person["image_id"]].append(person)
    crowds = unlabelled = clipped = turned = other = 0
    for image in split.images:
        single = [person for person in people[image["id"]] if not person["iscrowd"]]
        crowds += len(people[image["id"]]) - len(single)
        size = (image["height"], image["width"])
        header = measure_picture(split.pictures.get(image["id"]))
        if size == header.size != header.upright_size:
            # Labelled as the file is stored, by a tool that ignores EXIF; those that read YOLO's data turn the picture.
            single = [_turned(person, size, header.orientation) for person in single]
            size, turned = header.upright_size, turned + 1
        elif header.size != (0, 0):
            other += size != header.upright_size
        text, outside, over = _label_text(single, size)
        unlabelled, clipped = unlabelled + outside, clipped + over
        picture = out / "images" / key / image["file_name"]
        file = label_file(picture)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        if image["id"] in split.pictures:
            place_picture(split.pictures[image["id"]], picture, way)
    told = {
        f"{crowds} crowds are left out: YOLO has no such regions": crowds,
        f"{unlabelled} keypoints outside of their pictures are marked unlabelled": unlabelled,
        f"{clipped} boxes are cut at the edge of their pictures": clipped,
        f"labels of {turned} pictures are turned as EXIF asks: they were those of the stored pixels": turned,
        f"{other} pictures have another size than stated: their labels are shares of the stated one": other,
    }
    return [note for note, count in told.items() if count]


def _turned(person: dict, size: tuple[int, int], orientation: int) -> dict:
    """A person of a picture as it is stored, (height, width) ``size``, as one of the upright picture."""
    stored, upright = np.array(size[::-1], np.float64), np.array(size, np.float64)
    triples = np.array(person["keypoints"], np.float64).reshape(-1, 3)
    places = turn_shares((triples[:, :2] + 0.5) / stored, orientation) * upright - 0.5
    triples[:, :2] = np.where(triples[:, 2:] > 0, places, 0)
    corners = xywh_to_xyxy(np.array(person["bbox"], np.float64)).reshape(2, 2)
    corners = np.sort(turn_shares(corners / stored, orientation) * upright, axis=0)
    return {**person, "keypoints": triples.ravel().tolist(), "bbox": xyxy_to_xywh(corners.ravel()).tolist()}


def _label_text(people: Sequence[dict], size: tuple[int, int]) -> tuple[str, int, int]:
    """The lines of one picture, how many keypoints were outside, how many boxes were cut."""
    if not people:
        return "", 0, 0
    height, width = size
    scale = np.array([width, height], np.float64)
    triples = np.array([person["keypoints"] for person in people], np.float64).reshape(len(people), -1, 3)
    places = triples[..., :2] / scale
    visibility = triples[..., 2]
    outside = (visibility > 0) & ((places < 0) | (places > 1)).any(axis=-1)
    labelled = (visibility > 0) & ~outside
    points = np.where(labelled[..., None], np.dstack([places, visibility]), 0)
    boxes = xywh_to_xyxy(np.array([person["bbox"] for person in people], np.float64))
    cut = clip_boxes(boxes, size)
    corner, sides = np.split(xyxy_to_xywh(cut), 2, axis=1)
    rows = np.concatenate([(corner + sides / 2) / scale, sides / scale], axis=1)
    lines = []
    for box, keypoints in zip(rows.tolist(), points.tolist(), strict=True):
        texts = [f"{value:.{_DECIMALS}f}" for value in box]
        for x, y, seen in keypoints:
            texts += [f"{x:.{_DECIMALS}f}", f"{y:.{_DECIMALS}f}", str(int(seen))]
        lines.append(" ".join(["0", *texts]) + "\n")
    return "".join(lines), int(outside.sum()), int((np.abs(cut - boxes) > 0.01).any(axis=1).sum())
