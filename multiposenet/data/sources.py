"""Which data a script means by the text of ``--data``: synthetic people by default, else a folder in COCO's layout."""

from __future__ import annotations

from pathlib import Path

from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.skeletons import Skeleton

SYNTHETIC = "synthetic"
TRAIN_SEED, SELECTION_SEED, VALIDATION_SEED = 1, 10_000, 20_000
"""Seeds of the synthetic pictures to train on, to choose a checkpoint by, and to report on. They share no picture."""


def open_dataset(
    data: str,
    split: str,
    skeleton: Skeleton,
    limit: int | None = None,
    synthetic_count: int = 200,
    synthetic_seed: int = VALIDATION_SEED,
    people: tuple[int, int] = (1, 8),
    with_keypoints: bool = False,
) -> CocoKeypoints | SyntheticPeople:
    """The dataset that ``data`` names.

    Args:
        data: ``"synthetic"``, or a folder with ``annotations/`` and pictures.
        split: for a folder, e.g. ``train2017``.
        limit: only the first pictures.
        synthetic_count, synthetic_seed, people: for synthetic pictures.
        with_keypoints: for a folder, only pictures in which somebody has labelled keypoints.

    Raises:
        FileNotFoundError: no such folder, or no annotations in it.
    """
    if data == SYNTHETIC:
        count = synthetic_count if limit is None else min(limit, synthetic_count)
        return SyntheticPeople(count, seed=synthetic_seed, people=people, skeleton=skeleton)
    if not Path(data).expanduser().is_dir():
        raise FileNotFoundError(f"no folder {data}; give {SYNTHETIC!r} or a folder with annotations/ and {split}/")
    return CocoKeypoints(data, split, skeleton, limit=limit, with_keypoints=with_keypoints)
