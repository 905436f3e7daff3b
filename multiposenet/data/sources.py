"""Which data a script means by the text of ``--data``: synthetic people by default, else a folder in COCO's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from progress.bar import Bar

from multiposenet.data.arrangements import ARRANGEMENTS
from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.formats import COCO_FORMAT, FORMATS, CocoFormat
from multiposenet.data.mpii import MPII_FORMAT, MpiiKeypoints
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels

SYNTHETIC = "synthetic"
SYNTHETIC_KINDS = {SYNTHETIC: "crowded", "synthetic_coco": "coco"}
"""Names of data that are drawn, and how their people are arranged, a key of ``ARRANGEMENTS``."""
TRAIN_SEED, SELECTION_SEED, VALIDATION_SEED = 1, 10_000, 20_000
"""Seeds of the synthetic pictures to train on, to choose a checkpoint by, and to report on. They share no picture."""


LAYOUTS = FORMATS | {MPII_FORMAT.name: MPII_FORMAT}
"""What a folder's files can be, by name: COCO's format, as data sets use it, and MPII's own."""
_READERS = {MPII_FORMAT.name: MpiiKeypoints}


def open_dataset(
    data: str,
    split: str,
    skeleton: Skeleton,
    limit: int | None = None,
    synthetic_count: int = 200,
    synthetic_seed: int = VALIDATION_SEED,
    fewest_people: int | None = None,
    with_keypoints: bool = False,
    layout: CocoFormat = COCO_FORMAT,
    label_cache: bool | str | Path = False,
) -> CocoKeypoints | MpiiKeypoints | SyntheticPeople:
    """The dataset that ``data`` names.

    Args:
        data: a key of ``SYNTHETIC_KINDS``, or a folder with ``annotations/`` and pictures.
        split: for a folder, e.g. ``train2017``.
        limit: only the first pictures.
        synthetic_count, synthetic_seed: for synthetic pictures, which have as many people as their arrangement says.
        fewest_people: the least of those, if others.
        with_keypoints: for a folder, only pictures in which somebody has labelled keypoints.
        layout: for a folder, how its files are laid out, one of ``LAYOUTS`` or like them.
        label_cache: for a folder, see ``CocoKeypoints``.

    Raises:
        FileNotFoundError: no such folder, or no annotations in it.
    """
    if data in SYNTHETIC_KINDS:
        count = synthetic_count if limit is None else min(limit, synthetic_count)
        arrangement = SYNTHETIC_KINDS[data]
        fewest, most = ARRANGEMENTS[arrangement].people
        people = (fewest if fewest_people is None else fewest_people, most)
        return SyntheticPeople(count, seed=synthetic_seed, people=people, skeleton=skeleton, arrangement=arrangement)
    if not Path(data).expanduser().is_dir():
        names = ", ".join(SYNTHETIC_KINDS)
        raise FileNotFoundError(f"no folder {data}; give {names} or a folder with annotations/ and {split}/")
    reader = _READERS.get(layout.name, CocoKeypoints)
    return reader(
        data, split, skeleton, limit=limit, with_keypoints=with_keypoints, layout=layout, label_cache=label_cache
    )


def split_names(data: str) -> list[str]:
    """The data sets that a text names, separated by commas; a folder whose name has a comma is one."""
    return [data] if Path(data).expanduser().is_dir() else data.split(",")


def joint_identity(datasets: Sequence[CocoKeypoints | MpiiKeypoints | SyntheticPeople]) -> dict | list[dict]:
    """Which data is learnt from: one data set's identity, or a list of them."""
    identities = [dataset.identity() for dataset in datasets]
    return identities[0] if len(identities) == 1 else identities


def read_labels(dataset: CocoKeypoints | SyntheticPeople, workers: int = 0) -> list[PersonLabels]:
    """The labels of every picture; synthetic people have to be drawn to know who hides whom.

    Args:
        dataset: no picture file of it is opened.
        workers: processes that draw synthetic people.
    """
    if isinstance(dataset, CocoKeypoints):
        return [dataset.labels(index) for index in range(len(dataset))]
    loader = torch.utils.data.DataLoader(_LabelsOnly(dataset), batch_size=8, num_workers=workers, collate_fn=list)
    with Bar("drawing people", max=len(dataset), check_tty=True) as bar:
        labels = []
        for batch in loader:
            labels += batch
            bar.next(len(batch))
    return labels


class _LabelsOnly(torch.utils.data.Dataset):
    """A dataset's labels without its pictures, so that workers send little."""

    def __init__(self, dataset: SyntheticPeople) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> PersonLabels:
        return self.dataset[index].labels
