"""A COCO keypoint file packed once: reading it again is reading arrays, not parsing and checking text.

The packed file lies beside the labels, under their name, and holds the SHA-256 of the bytes that it was made of: change
the labels, and it is made anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from multiposenet.data.annotations import AnnotationFile, PackedLabels, read_annotations
from multiposenet.data.formats import COCO_FORMAT, CocoFormat
from multiposenet.skeletons import Skeleton
from multiposenet.whole_files import written_whole

LABEL_CACHE_VERSION = 2
"""To be raised when the content of a packed file changes."""

_NAMES = "surrogatepass"  # names of files in other encodings than UTF-8 come in JSON as lone surrogates


def read_packed(
    path: str | Path, skeleton: Skeleton, layout: CocoFormat = COCO_FORMAT, folder: str | Path | None = None
) -> AnnotationFile:
    """``data.annotations.read_annotations`` through a packed copy.

    Args:
        path: the annotation file, plain or gzip.
        skeleton, layout: see ``read_annotations``; each of them has a copy of its own.
        folder: where the copy lies; default: beside the file. Where it cannot be written the labels are read without.

    Raises:
        FileNotFoundError, ValueError: as ``read_annotations``, whose warnings come only when the labels are parsed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        return read_annotations(path, skeleton, layout)  # whose error says what to do
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kind = {"skeleton": skeleton.to_dict(), "layout": repr(layout), "version": LABEL_CACHE_VERSION}
    about = json.dumps({"sha256": digest, **kind}, sort_keys=True)
    label = hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:8]
    packed = (path.parent if folder is None else Path(folder).expanduser()) / f"{path.name}.{label}.packed"
    content = _load(packed, about, path, digest)
    if content is None:
        content = read_annotations(path, skeleton, layout)
        _save(content, packed, about)
    return content


def _load(packed: Path, about: str, path: Path, digest: str) -> AnnotationFile | None:
    if not packed.is_file():
        return None
    try:
        with safe_open(packed, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("about") != about:
                return None
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError):
        return None
    names = arrays.pop("file_names").tobytes().decode("utf-8", _NAMES).split("\n")
    own = {key: arrays.pop(key) for key in ("image_ids", "segments", "segment_ends")}
    return AnnotationFile(
        path=path,
        sha256=digest,
        category_id=int(arrays.pop("category_id")[0]),
        file_names=tuple(names) if len(own["image_ids"]) else (),
        made_by=json.loads(arrays.pop("made_by").tobytes()),
        labels=PackedLabels(**arrays),
        **own,
    )


def _save(content: AnnotationFile, packed: Path, about: str) -> None:
    """Writes the copy whole or not at all, so that any number of processes may do it together."""
    if any("\n" in name for name in content.file_names):
        return  # names are kept as lines
    labels = {field.name: getattr(content.labels, field.name) for field in dataclasses.fields(PackedLabels)}
    arrays = {
        **labels,
        "image_ids": content.image_ids,
        "segments": content.segments,
        "segment_ends": content.segment_ends,
        "category_id": np.array([content.category_id], np.int64),
        "made_by": np.frombuffer(json.dumps(content.made_by).encode(), np.uint8),
        "file_names": np.frombuffer("\n".join(content.file_names).encode("utf-8", _NAMES), np.uint8),
    }
    # Labels on a read-only disk are normal: they are parsed every time.
    with contextlib.suppress(OSError, SafetensorError):
        packed.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(packed, shared=True) as partial:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial, {"about": about})
