"""PCKh, MPII's measure: the share of keypoints closer to the truth than a part of the head's size (Andriluka et al.).

As the published evaluation does it, with two of its oddities taken out and named: it compares positions counted from 1,
and what it prints as ``Mean@0.1`` is read at the threshold 0.11 (``mean_011`` here).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from torch.utils.data import DataLoader
from tqdm import tqdm

from multiposenet.data.mpii import NAMES, MpiiKeypoints
from multiposenet.evaluation.chain import Predictor
from multiposenet.skeletons import MPII
from multiposenet.structures import Poses

HEAD_SHARE = 0.6
"""The head's size is this share of its box's diagonal."""
NOT_IN_MEAN = ("pelvis", "thorax")
GROUPS = {"Head": ("head_top",)} | {
    name.capitalize(): (f"left_{name}", f"right_{name}")
    for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
}
"""The table's columns: keypoints whose shares are averaged."""


@dataclass(frozen=True)
class MpiiTruth:
    """What predictions are scored against (NumPy; picture pixels, counted from 0).

    Args:
        keypoints: [T, K, 2].
        labelled: [T, K] bool.
        head_sizes: [T].
    """

    keypoints: np.ndarray
    labelled: np.ndarray
    head_sizes: np.ndarray


def read_truth(path: str | Path) -> MpiiTruth:
    """The ground truth of a split, ``annot/gt_valid.mat``, people in the order of the split's JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, a field is missing or has another shape than the others say, or a keypoint is.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no ground truth {path}; MPII's validation people come with annot/gt_valid.mat")
    content = read_mat(path, ("dataset_joints", "jnt_missing", "pos_gt_src", "headboxes_src"))
    names = [str(np.asarray(cell).item()) for cell in content["dataset_joints"].reshape(-1)]
    if absent := [name for name in NAMES.values() if name not in names]:
        raise ValueError(f"{path}: dataset_joints lacks {', '.join(absent)}")
    order = [names.index(NAMES[keypoint]) for keypoint in MPII.keypoints]
    joints, people = len(names), content["pos_gt_src"].shape[-1]
    shapes = {"pos_gt_src": (joints, 2, people), "jnt_missing": (joints, people), "headboxes_src": (2, 2, people)}
    for field, shape in shapes.items():
        if content[field].shape != shape or content[field].dtype.kind not in "biuf":
            raise ValueError(f"{path}: {field} must be numbers of shape {shape}, got {content[field].shape}")
    heads = content["headboxes_src"].astype(np.float64)
    return MpiiTruth(
        keypoints=content["pos_gt_src"].transpose(2, 0, 1)[:, order].astype(np.float64) - 1,
        labelled=content["jnt_missing"].T[:, order] == 0,
        head_sizes=HEAD_SHARE * np.linalg.norm(heads[1] - heads[0], axis=0),
    )


def read_mat(path: Path, fields: Sequence[str]) -> dict[str, np.ndarray]:
    """A MATLAB file's variables.

    Raises:
        OSError: there is none.
        ValueError: it cannot be read, or has not all ``fields``.
    """
    with path.open("rb") as file:
        try:
            content = loadmat(file)
        except NotImplementedError:
            raise ValueError(f"{path} is a MATLAB 7.3 (HDF5) file; save it again with -v7") from None
        except Exception as error:  # the reader raises whatever foreign bytes lead it to: MatReadError, IndexError, ...
            raise ValueError(f"{path} is no MATLAB file, or damaged ({error}); fetch or write it again") from None
    if missing := [field for field in fields if field not in content]:
        there = ", ".join(name for name in content if not name.startswith("__"))
        raise ValueError(f"{path} lacks {', '.join(missing)}; it has {there or 'nothing'}")
    return content


def pckh(keypoints: np.ndarray, truth: MpiiTruth, threshold: float = 0.5) -> dict[str, float]:
    """Shares of keypoints within ``threshold`` head sizes of the truth, in [0, 1].

    Args:
        keypoints: [T, K, 2] picture pixels, counted from 0; one pose a person, in the truth's order.
        truth: of T people.
        threshold: head sizes.

    Returns:
        By the names of ``GROUPS``; ``Mean`` of all keypoints but pelvis and thorax, each counted as often as it is
        labelled. NaN where nothing is labelled.

    Raises:
        ValueError: another number of people or keypoints than the truth, or numbers that are not finite.
    """
    if keypoints.shape != truth.keypoints.shape:
        raise ValueError(f"predictions have shape {keypoints.shape}, the ground truth {truth.keypoints.shape}")
    if not np.isfinite(keypoints).all():
        raise ValueError("predictions must be finite; a diverged model, or people without a pose?")
    distances = np.linalg.norm(keypoints - truth.keypoints, axis=-1) / truth.head_sizes[:, None]
    hits = ((distances <= threshold) & truth.labelled).sum(0)
    counts = truth.labelled.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = hits / counts
        table = {name: float(shares[[MPII.index(part) for part in parts]].mean()) for name, parts in GROUPS.items()}
        counted = np.array([name not in NOT_IN_MEAN for name in MPII.keypoints])
        table["Mean"] = float(hits[counted].sum() / counts[counted].sum())
    return table


def score_mpii(keypoints: np.ndarray, truth: MpiiTruth) -> dict[str, float]:
    """PCKh@0.5 of every group, its mean (``PCKh``), the mean at 0.1, and what the published code prints as that."""
    halves = pckh(keypoints, truth, 0.5)
    return {
        **{name: share for name, share in halves.items() if name != "Mean"},
        "PCKh": halves["Mean"],
        "mean_01": pckh(keypoints, truth, 0.1)["Mean"],
        "mean_011": pckh(keypoints, truth, 0.11)["Mean"],
    }


def predict_people(
    predictor: Predictor, dataset: MpiiKeypoints, batch_size: int = 8, workers: int = 0, progress: bool = False
) -> np.ndarray:
    """One pose [T, K, 2] for everybody in the file, in the file's order, each in the box that the file gives."""
    labels = dataset.all_labels()
    answers = np.full((len(labels), labels.keypoints.shape[1], 2), np.nan)
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=list, num_workers=workers)
    picture = 0
    for samples in tqdm(loader, disable=None if progress else True):
        boxes = [sample.labels.boxes for sample in samples]
        for own, poses in zip(boxes, predictor([sample.image for sample in samples], boxes=boxes), strict=True):
            answers[labels.people_of(picture)] = in_order(poses, own)
            picture += 1
    order = np.argsort(labels.annotation_ids)
    return answers[order]


def in_order(poses: Poses, boxes: np.ndarray) -> np.ndarray:
    """Keypoints [P, K, 2] of the poses in the order of the boxes [P, 4] that they were sought in."""
    gaps = np.abs(poses.boxes.numpy()[None] - boxes[:, None]).max(-1)
    return poses.keypoints.numpy()[gaps.argmin(1)]


def truth_of(dataset: MpiiKeypoints) -> MpiiTruth:
    """The ground truth of a data set's people, from ``annot/gt_<split>.mat``.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_truth`; or the file has fewer people than the labels.
    """
    path = dataset.root / "annot" / f"gt_{dataset.split}.mat"
    truth, rows = read_truth(path), np.sort(dataset.all_labels().annotation_ids)
    if len(rows) and rows[-1] >= len(truth.head_sizes):
        raise ValueError(f"{path} has {len(truth.head_sizes)} people, the labels have one of number {rows[-1]}")
    return MpiiTruth(truth.keypoints[rows], truth.labelled[rows], truth.head_sizes[rows])


def table_lines(metrics: dict[str, float]) -> Sequence[str]:
    """PCKh in per cent, headings above numbers."""
    names = [*GROUPS, "Mean@0.5", "Mean@0.1"]
    values = [*(metrics[name] for name in GROUPS), metrics["PCKh"], metrics["mean_01"]]
    return [
        "  ".join(f"{name:>8}" for name in names),
        "  ".join(f"{100 * value:8.3f}" for value in values),
        f"the published code prints {100 * metrics['mean_011']:.3f} as Mean@0.1, and means 0.11",
    ]
