"""COCO keypoint data, and any data in its format, as a dataset of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from multiposenet.data.annotations import PackedLabels, read_annotations, read_json
from multiposenet.data.completion import complete_annotations
from multiposenet.data.formats import COCO_FORMAT, CocoFormat
from multiposenet.data.label_cache import read_packed
from multiposenet.data.person_masks import person_masks, segment_mask
from multiposenet.data.pictures import load_picture
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels, Sample


class CocoKeypoints(Dataset):
    """Pictures and people of a COCO keypoint file.

    Reads ``root/annotations/person_keypoints_<split>.json`` (or ``.json.gz``) and the pictures in ``root/<split>/`` or
    ``root/images/<split>/``; ``layout`` says where other data sets have them. Labels can be used without any picture:
    see :meth:`labels` and :meth:`all_labels`.

    Every annotated person is in the labels, crowds and people without keypoints included. Their pixels make the
    sample's ``ignore_mask``: they are unlabelled, not background. Where a segmentation is missing, a box stands in for
    it in ``ignore_mask`` but never in ``person_mask``: it marks ``unknown_mask`` instead.

    Args:
        root: folder with annotations and pictures.
        split: the part of the file and folder names that tells the splits apart.
        skeleton: the keypoints that the file is labelled with; by default those of ``layout``.
        annotations: the annotation file, where it has another name or place.
        pictures: the folder of the pictures, where it has another name or place.
        image_ids: only these pictures, in this order; by default all, in the order of their ids.
        with_keypoints: only pictures with at least one single person (no crowd) who has a labelled keypoint.
        limit: of the pictures that remain, only the first ones.
        layout: how the data set uses COCO's format, e.g. ``CROWDPOSE_FORMAT`` of :mod:`multiposenet.data.formats`.
        label_cache: keep a packed copy of the labels, beside the file (True) or in this folder, so that they are
            parsed once (see :func:`multiposenet.data.label_cache.read_packed`).

    Raises:
        FileNotFoundError: no annotation file; the message lists the places.
        ValueError: a record is broken (see :func:`multiposenet.data.annotations.read_annotations`), or ``image_ids``
            names an unknown picture or one twice.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        skeleton: Skeleton | None = None,
        *,
        annotations: str | Path | None = None,
        pictures: str | Path | None = None,
        image_ids: Sequence[int] | None = None,
        with_keypoints: bool = False,
        limit: int | None = None,
        layout: CocoFormat = COCO_FORMAT,
        label_cache: bool | str | Path = False,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, or None for all pictures, got {limit}")
        self.root = Path(root).expanduser()
        self.split = split
        self.skeleton = layout.skeleton if skeleton is None else skeleton
        self.layout = layout
        self.limit = limit
        self.with_keypoints = with_keypoints
        self.picture_folders = (
            tuple(self.root / folder.format(split=split) for folder in layout.picture_folders)
            if pictures is None
            else (Path(pictures).expanduser(),)
        )
        file = _find_annotations(self.root, split, annotations, layout)
        if label_cache:
            content = read_packed(file, self.skeleton, layout, None if label_cache is True else label_cache)
        else:
            content = read_annotations(file, self.skeleton, layout)
        self.pictures_in_file = len(content.image_ids)
        selected = np.arange(len(content.image_ids))
        if image_ids is not None:
            selected = _positions(content.image_ids, image_ids, content.path)
        if with_keypoints:
            labels = content.labels
            labelled = (labels.visibility > 0).any(axis=1) & ~labels.crowd
            selected = selected[np.isin(selected, labels.image_index[labelled])]
        self._content = content.select(selected[:limit])

    @property
    def image_ids(self) -> list[int]:
        """COCO ids of the pictures, in the dataset's order."""
        return self._content.image_ids.tolist()

    def __len__(self) -> int:
        return len(self._content.image_ids)

    def image_name(self, index: int) -> str:
        """File name of picture ``index``."""
        return self._content.file_names[self._position(index)]

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) of picture ``index`` as the annotation file states it."""
        height, width = self._content.labels.image_sizes[self._position(index)].tolist()
        return height, width

    def labels(self, index: int) -> PersonLabels:
        """The people of picture ``index``; needs no picture file."""
        return self._content.labels.of_image(self._position(index))

    def all_labels(self) -> PackedLabels:
        """The people of all pictures in one set of arrays (not to be written to); needs no picture file."""
        return self._content.labels

    def __getitem__(self, index: int) -> Sample:
        """Picture ``index`` with its people.

        Raises:
            FileNotFoundError: there is no such picture file.
            PictureError: the file is damaged.
            ValueError: the picture has another size than the annotation file says, or a segmentation is unreadable.
        """
        index = self._position(index)
        image = self.image(index)
        labels = self.labels(index)
        rows = self._content.labels.people_of(index)
        segmentations = [self._content.segmentation(row) for row in range(rows.start, rows.stop)]
        try:
            masks = person_masks(segmentations, labels, self.image_size(index))
        except ValueError as error:
            raise self._unreadable(index, str(error)) from error
        return Sample(
            image=image,
            image_id=int(self._content.image_ids[index]),
            name=self._content.file_names[index],
            labels=labels,
            person_mask=masks.person,
            ignore_mask=masks.ignore,
            unknown_mask=masks.unknown,
        )

    def image(self, index: int) -> np.ndarray:
        """Picture ``index`` by itself, [H, W, 3] uint8; errors as for an item, except that of a segmentation."""
        path = self.picture_file(index)
        expected = self.image_size(index)
        image = load_picture(path)
        if image.shape[:2] != expected:
            # An EXIF rotation that the annotators' tool did not apply: labels refer to the stored pixels.
            stored = load_picture(path, upright=False)
            if stored.shape[:2] != expected:
                raise ValueError(
                    f"{path}: the picture is {image.shape[0]}x{image.shape[1]} (height x width), "
                    f"{self._content.path.name} says {expected[0]}x{expected[1]}; the labels belong to another version "
                    "of this picture: fetch the original or correct the record"
                )
            image = stored
        return image

    def picture_file(self, index: int) -> Path:
        """The file of picture ``index``, in the first of the folders that has it.

        Raises:
            FileNotFoundError: none has it; the message lists the places.
        """
        name = self.image_name(index)
        paths = [folder / name for folder in self.picture_folders]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"picture {name} (image {self.image_ids[index]}) is not there, looked for "
                f"{' and '.join(map(str, paths))}; fetch them; in Python, pictures names another folder"
            )
        return path

    def has_segment(self, index: int, person: int) -> bool:
        """Whether somebody drew the shape of a picture's person, who counts as in :meth:`labels`.

        Raises:
            IndexError: there is no such person or picture.
        """
        return bool(self._segmentation(index, person))

    def segment(self, index: int, person: int) -> np.ndarray:
        """[H, W] bool, the pixels of a picture's person; none where nobody drew the shape.

        Raises:
            IndexError: there is no such person or picture.
            ValueError: the segmentation is unreadable.
        """
        try:
            return segment_mask(self._segmentation(index, person), self.image_size(index))
        except ValueError as error:
            raise self._unreadable(index, f"{person}: segmentation cannot be read: {error}") from error

    def ground_truth(self) -> dict:
        """The annotation file's content for the selected pictures and the person category, in COCO's own fields.

        Records are untouched but for a missing ``area``, ``iscrowd`` or ``num_keypoints``, filled in by the rule of
        :func:`multiposenet.data.completion.complete_annotations`. Read from the file at every call, so nobody can
        change the dataset through it; crowds are kept, since the evaluation needs them.

        Raises:
            ValueError: the file has changed since the dataset was made.
        """
        content, digest = read_json(self._content.path)
        if digest != self._content.sha256:
            raise ValueError(f"{self._content.path} has changed since the dataset was made; make the dataset anew")
        content = self.layout.as_coco(content, self.skeleton)
        images = {record["id"]: record for record in content["images"]}
        selected = set(self.image_ids)
        category_id = self._content.category_id
        content["images"] = [images[image_id] for image_id in self.image_ids]
        content["annotations"] = [
            record
            for record in content["annotations"]
            if record["category_id"] == category_id and record["image_id"] in selected
        ]
        content["categories"] = [record for record in content["categories"] if record["id"] == category_id]
        return complete_annotations(content)

    def identity(self) -> dict:
        """What exactly was trained or measured on, in plain values: goes into checkpoints and result files."""
        made_by = self._content.made_by
        return {
            **({} if made_by is None else {"made_by": made_by}),
            "annotations": self._content.path.name,
            "sha256": self._content.sha256,
            "split": self.split,
            "images": len(self),
            "people": len(self._content.labels),
            "limit": self.limit,
            "with_keypoints": self.with_keypoints,
            "image_ids_sha256": hashlib.sha256(",".join(map(str, self.image_ids)).encode()).hexdigest(),
        }

    def _segmentation(self, index: int, person: int) -> object:
        rows = self._content.labels.people_of(self._position(index))
        if not 0 <= person < rows.stop - rows.start:
            raise IndexError(f"person {person} of {rows.stop - rows.start} in picture {self.image_name(index)}")
        return self._content.segmentation(rows.start + person)

    def _unreadable(self, index: int, problem: str) -> ValueError:
        """The error of a segmentation; the problem begins with the person's number in the picture."""
        labels, index = self._content.labels, self._position(index)
        ids = labels.annotation_ids[labels.people_of(index)].tolist()
        return ValueError(
            f"{self._content.path}: image {self.image_ids[index]}, annotations {ids}: person {problem}; "
            "correct the segmentation or leave it out"
        )

    def _position(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        return int(index) % len(self)


def _find_annotations(root: Path, split: str, annotations: str | Path | None, layout: CocoFormat) -> Path:
    if annotations is not None:
        return Path(annotations).expanduser()
    plain = [root / place.format(split=split) for place in layout.annotation_files]
    for path in plain:
        for candidate in (path, path.with_name(path.name + ".gz")):
            if candidate.is_file():
                return candidate
    raise FileNotFoundError(
        f"no annotation file, looked for {', '.join(map(str, plain))} and the same with .json.gz; "
        "check --data and --split; in Python, annotations names another file"
    )


def _positions(known: np.ndarray, wanted: Sequence[int], path: Path) -> np.ndarray:
    wanted_ids = np.array(wanted, np.int64).reshape(-1)
    unknown = wanted_ids[~np.isin(wanted_ids, known)]
    if len(unknown):
        raise ValueError(f"{path}: no image has the id {unknown[0]} ({len(unknown)} of image_ids are unknown)")
    if len(np.unique(wanted_ids)) != len(wanted_ids):
        raise ValueError("image_ids names a picture twice; give every id once")
    return np.searchsorted(known, wanted_ids)
