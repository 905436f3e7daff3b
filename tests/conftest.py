"""Real data for tests, when it is there: see ``coco_mini`` and ``coco_labels``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _data_folder(name: str) -> Path:
    root = Path(os.environ.get("MULTIPOSENET_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set MULTIPOSENET_DATA to the folder that holds {name}")
    return folder


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """A folder in COCO's layout with some real pictures of train2017 and val2017."""
    return _data_folder("coco_mini")


@pytest.fixture(scope="session")
def coco_labels() -> Path:
    """A folder in COCO's layout with the keypoint labels of all of COCO 2017, gzip, and no pictures."""
    return _data_folder("coco_labels")
