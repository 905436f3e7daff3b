"""Samples decoded and resized once and kept on disk: reading one is copying its bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from multiposenet.data.transforms import warp_image, warp_masks
from multiposenet.data.whole_image import SampleSource
from multiposenet.geometry import CropWindow
from multiposenet.structures import PersonLabels, Sample
from multiposenet.whole_files import written_whole

CACHE_VERSION = 2
"""To be raised when the content of a file changes."""


class CachedSamples:
    """A source whose samples are kept in a folder after they were first asked for, no larger than needed.

    Each sample is one file, written whole or not at all, so any number of processes may fill the folder together. The
    folder's name comes from the data's identity: other annotations, keypoints, pictures, another size or another
    version of this class make a new folder and never read an old one. Each file knows the size and the time of the
    picture file it was made of, and is made anew when they are others.

    Args:
        source: gives the samples; has ``identity()``. One that reads files has ``picture_folders`` and
            ``picture_file(index)``, too, and one that reads them in several ways ``layout``.
        folder: parent of the cache's folder. A sample of 480 x 480 pixels takes 0.9 MB.
        long_side: pictures with a longer side are shrunk to it, labels and masks with them; None keeps their size.

    Raises:
        ValueError: ``long_side`` is not positive.
    """

    def __init__(self, source: SampleSource, folder: str | Path, long_side: int | None = None) -> None:
        if long_side is not None and long_side < 1:
            raise ValueError(f"long_side must be at least 1 pixel, or None, got {long_side}")
        self.source = source
        self.skeleton = source.skeleton
        self.long_side = long_side
        facts = {
            "data": source.identity(),
            # Not in the identity, whose file may hold several sets of keypoints and be beside several sets of pictures.
            "skeleton": source.skeleton.to_dict(),
            "layout": repr(getattr(source, "layout", None)),
            "picture_folders": [str(place.resolve()) for place in getattr(source, "picture_folders", ())],
            "long_side": long_side,
            "version": CACHE_VERSION,
        }
        text = json.dumps(facts, sort_keys=True, default=str)
        self.folder = Path(folder).expanduser() / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "about.json").write_text(text + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self.source)

    def image_name(self, index: int) -> str:
        """File name of picture ``index``."""
        return self.source.image_name(index)

    def identity(self) -> dict:
        """That of the data; what the cache does to them is visible in training options."""
        return self.source.identity()

    def __getitem__(self, index: int) -> Sample:
        """Picture ``index`` with its people, from the cache or, the first time, from the source.

        Raises:
            FileNotFoundError: the picture's file is not there (any more).
        """
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        path = self.folder / f"{index:08d}.safetensors"
        stamp = self._stamp(index)
        if path.exists():
            try:
                arrays = load_file(path)
                if np.array_equal(arrays.pop("stamp"), stamp):
                    return self._unpack(arrays, index)
            except SafetensorError:
                path.unlink(missing_ok=True)  # damaged from outside; made anew below
        sample = shrink(self.source[index], self.long_side)
        self._write(sample, stamp, path)
        return sample

    def _stamp(self, index: int) -> np.ndarray:
        """[2] int64, bytes of the picture's file and nanoseconds of its last change; [0] where there is no file.

        Taken before the picture is read: one that changes meanwhile does not look like the new one afterwards.
        """
        if not hasattr(self.source, "picture_file"):
            return np.zeros(0, np.int64)
        facts = self.source.picture_file(index).stat()
        return np.array([facts.st_size, facts.st_mtime_ns], np.int64)

    def _write(self, sample: Sample, stamp: np.ndarray, path: Path) -> None:
        arrays = {
            "stamp": stamp,
            "image": sample.image,
            "masks": np.stack([sample.person_mask, sample.ignore_mask, sample.unknown]),
            "image_id": np.array([sample.image_id], np.int64),
            **{field.name: getattr(sample.labels, field.name) for field in dataclasses.fields(PersonLabels)},
        }
        try:
            with written_whole(path, shared=True) as partial:
                save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
        except (OSError, SafetensorError) as error:
            raise OSError(f"{path}: the picture cache cannot be written ({error}); make room, or go without") from None

    def _unpack(self, arrays: dict[str, np.ndarray], index: int) -> Sample:
        person, ignore, unknown = arrays.pop("masks")
        image, image_id = arrays.pop("image"), int(arrays.pop("image_id")[0])
        return Sample(
            image=image,
            image_id=image_id,
            name=self.image_name(index),
            labels=PersonLabels(**arrays),
            person_mask=person,
            ignore_mask=ignore,
            unknown_mask=unknown,
        )


def shrink(sample: Sample, long_side: int | None) -> Sample:
    """A sample whose picture is at most ``long_side`` pixels long, everything scaled alike; itself when it is."""
    height, width = sample.image.shape[:2]
    if long_side is None or max(height, width) <= long_side:
        return sample
    scale = long_side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    # Sides are whole pixels: each axis has its own exact factor, so that the picture's edges stay its edges.
    factors = (size[1] / width, size[0] / height)
    window = CropWindow(np.array([[factors[0], 0, 0], [0, factors[1], 0]], np.float64), size)
    labels = sample.labels
    masks = [torch.from_numpy(mask) for mask in (sample.person_mask, sample.ignore_mask, sample.unknown)]
    person, ignore, unknown = (mask.numpy() for mask in warp_masks(masks, window))
    return dataclasses.replace(
        sample,
        image=np.array(warp_image(Image.fromarray(sample.image), window)),
        labels=dataclasses.replace(
            labels,
            keypoints=window.keypoints_to_crop(labels.keypoints),
            boxes=window.boxes_to_crop(labels.boxes),
            areas=labels.areas * np.float32(factors[0] * factors[1]),
        ),
        person_mask=person,
        ignore_mask=ignore,
        unknown_mask=unknown,
    )
