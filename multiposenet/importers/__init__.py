"""Weights of other projects in our names, one file a project.

A file is recognised by the names of its tensors, never by its own name. Every importer has a few names that tell its
project's files from others (``SIGNATURE``), and a function (``translate``) that checks their tensors for completeness
and turns them into ours. What such weights need to be understood as they were trained, they get as options of the
builder in the metadata: there is no other code to run them.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from multiposenet.checkpoint import load_tensors
from multiposenet.importers import (
    detectron2_head,
    limeng,
    megvii,
    mmpose_cascades,
    onestage_head,
    prn_author,
    torchvision_keypoint_rcnn,
    torchvision_resnet,
    torchvision_retinanet,
)

IMPORTERS = (
    limeng,
    megvii,
    mmpose_cascades,
    onestage_head,
    detectron2_head,
    prn_author,
    torchvision_keypoint_rcnn,
    torchvision_retinanet,
    torchvision_resnet,
)


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and metadata of a weights file, ours or another project's, in our names.

    Metadata of another project's file: ``options`` for the builder, ``model`` and ``skeleton`` where the file settles
    them, ``parts`` when it holds only parts of a model, ``source`` and ``licence``. Files of nobody known come as they
    are, with no metadata.

    Raises:
        FileNotFoundError, ValueError, ImportError: see ``checkpoint.load_tensors``.
        ValueError: a known project's file with missing or unexpected tensors or wrong shapes, under its own names.
    """
    tensors, metadata = load_tensors(path)
    if metadata:
        return tensors, metadata
    return translate(tensors, source=str(path))


def translate(tensors: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict]:
    """Any known project's tensors in our names, with metadata; see :func:`read_weights`."""
    if tensors and all(key.startswith("module.") for key in tensors):  # saved from a DataParallel wrapper
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    tensors = detectron2_head.head_alone(tensors)
    for importer in IMPORTERS:
        # Most, not all: of an incomplete file the importer can tell what is missing.
        if 2 * sum(key in tensors for key in importer.SIGNATURE) > len(importer.SIGNATURE):
            ours, facts = importer.translate(tensors, f"{source} (layout of {importer.PROJECT})")
            return ours, {"source": importer.PROJECT, "licence": importer.LICENCE} | facts
    return tensors, {}
