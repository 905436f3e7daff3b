"""Pictures of what was found: the person cut out of the picture with the labels drawn on, or the whole picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from multiposenet.data.check.findings import Finding
from multiposenet.data.check.label_table import LabelTable
from multiposenet.data.check.picture_files import PictureFile
from multiposenet.data.pictures import load_picture
from multiposenet.geometry import CropWindow
from multiposenet.structures import Poses
from multiposenet.visualize import draw_poses

_SIDE = 360  # pixels of the longer side of an example
_MARGIN = 0.15
_BLANK = (120, 120, 120)


def draw_example(table: LabelTable, row: int, file: PictureFile | None) -> Image.Image | None:
    """A person of a table, cut out with some room around box and keypoints.

    Args:
        table: the labels.
        row: the person.
        file: the person's picture; where it cannot be read, a blank one stands in.

    Returns:
        RGB, 360 pixels on its longer side, or None for a person without a box and keypoints in sensible places.
    """
    labelled = table.labelled[row]
    points = table.keypoints[row, :, :2]
    box = table.boxes[row]
    corners = np.concatenate([points[labelled] + 0.5, box[: 4 * np.isfinite(box).all()].reshape(-1, 2)])
    height, width = np.nan_to_num(table.person_image_sizes[row], nan=_SIDE)
    # Labels far outside are cut off: the example shows the picture, once more of it on each side at most.
    corners = corners.clip((-width, -height), (2 * width, 2 * height))
    if not len(corners):
        return None
    low, high = corners.min(axis=0), corners.max(axis=0)
    low, high = low - _MARGIN * (high - low) - 4, high + _MARGIN * (high - low) + 4
    scale = _SIDE / (high - low).max()
    size = tuple(max(1, round(float(side))) for side in ((high - low) * scale)[::-1])
    window = CropWindow.around(tuple(((low + high) / 2).tolist()), float(scale), size)
    canvas = _cut(file, (int(height), int(width)), low, high, size)
    keypoints = window.keypoints_to_crop(np.where(labelled[:, None], points, 0).astype(np.float64))
    shown = np.where(labelled, table.keypoints[row, :, 2].clip(0, 2) / 2, 0)
    drawn_box = window.boxes_to_crop(np.nan_to_num(box)[None])
    poses = Poses(
        keypoints=torch.from_numpy(keypoints[None]).float(),
        keypoint_scores=torch.from_numpy(shown[None]).float(),
        boxes=torch.from_numpy(drawn_box).float(),
        scores=torch.ones(1),
        skeleton=table.skeleton,
    )
    return draw_poses(canvas, poses, keypoint_threshold=0.01, captions=[""])


def finding_examples(
    finding: Finding, tables: dict[str, LabelTable], files: dict[str, Sequence[PictureFile]], most: int = 6
) -> list[tuple[Image.Image, str]]:
    """Pictures of the first places of a finding, each with a line about it.

    Args:
        finding: of people or pictures; others have no picture.
        tables, files: of every split by name.
        most: how many.
    """
    shown: list[tuple[Image.Image, str]] = []
    for place in finding.places[: 3 * most]:
        if len(shown) == most:
            break
        table, own = tables.get(place.split), files.get(place.split, ())
        if table is None:
            continue
        if place.row >= 0:
            image = int(table.image_index[place.row])
            picture = draw_example(table, place.row, own[image] if own and image >= 0 else None)
        elif finding.unit == "pictures" and own:
            picture = _whole(table, own, place.file_name)
        else:
            picture = None
        if picture is not None:
            shown.append((picture, str(place)))
    return shown


def _whole(table: LabelTable, files: Sequence[PictureFile], name: str) -> Image.Image | None:
    if name not in table.file_names:
        return None
    return _open(files[table.file_names.index(name)], upright=False)


def _cut(
    file: PictureFile | None, stated: tuple[int, int], low: np.ndarray, high: np.ndarray, size: tuple[int, int]
) -> Image.Image:
    """The region between two corners as a picture of (height, width) ``size``."""
    picture = None if file is None else _open(file, upright=file.size != stated)
    if picture is None:
        return Image.new("RGB", size[::-1], _BLANK)
    region = [*low.tolist(), *high.tolist()]
    return picture.transform(size[::-1], Image.Transform.EXTENT, region, Image.Resampling.BILINEAR)


def _open(file: PictureFile, upright: bool) -> Image.Image | None:
    """The picture, or None for one that cannot be read."""
    return None if file.size == (0, 0) else Image.fromarray(load_picture(file.path, upright))
