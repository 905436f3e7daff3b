"""Data and published names for tests, when they are there: ``coco_mini``, ``coco_labels``, ``published_names``."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def _shared_folder(kind: str, name: str) -> Path:
    """Folder ``name`` of the data or the spec: where the environment says, or beside the checkout."""
    variable = f"MULTIPOSENET_{kind.upper()}"
    root = Path(os.environ.get(variable) or Path(__file__).resolve().parents[2] / "shared" / kind)
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set {variable} to the folder that holds {name}")
    return folder


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """A folder in COCO's layout with some real pictures of train2017 and val2017."""
    return _shared_folder("data", "coco_mini")


@pytest.fixture(scope="session")
def coco_labels() -> Path:
    """A folder in COCO's layout with the keypoint labels of all of COCO 2017, gzip, and no pictures."""
    return _shared_folder("data", "coco_labels")


@pytest.fixture(scope="session")
def published_names() -> Callable[[str], dict[str, list[int]]]:
    """Reads the names and shapes of the tensors of a published checkpoint, by the short name of its file."""
    folder = _shared_folder("spec", "checkpoint_keys")
    return lambda name: json.loads(gzip.decompress((folder / f"{name}.json.gz").read_bytes()))
