"""The whole chain on an annotated dataset: predictor over pictures, COCO numbers, and the pictures worth looking at."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from multiposenet.distributed import gather_lists, is_first, rank, share_from_first, world_size
from multiposenet.evaluation.coco import evaluate_coco, sigmas_of
from multiposenet.evaluation.ground_truth import person_category_id, truth_from_labels
from multiposenet.evaluation.oks import picture_oks
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonBoxes, PersonLabels, Poses, Sample
from multiposenet.visualize import draw_comparison


class Predictor(Protocol):
    """What is evaluated: pictures in, poses in their pixels out."""

    skeleton: Skeleton

    def __call__(self, images: Sequence) -> list[Poses]: ...


class AnnotatedPictures(Protocol):
    """What it is evaluated on: a map-style dataset of :class:`Sample`."""

    skeleton: Skeleton

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class ComparedPicture:
    """A picture with its labels, what was found in it, and the mean OKS of its people (a missed one counts 0)."""

    sample: Sample
    poses: Poses
    score: float


@dataclass(frozen=True)
class ChainEvaluation:
    """What came of evaluating a predictor.

    Args:
        metrics: the ten COCO numbers by name.
        predictions: COCO results, as they were scored.
        timings: wall seconds: ``data`` (waiting for pictures), ``predict`` (in the predictor), the predictor's own
            stages as ``predict/...``, ``score`` (pycocotools).
        picture_scores: by image id, mean OKS of the picture's people; pictures without labelled people are absent.
        worst: the pictures with the lowest such score, lowest first.
        best: those with the highest, highest first.
        ground_truth: the annotations that it was scored against.
    """

    metrics: dict[str, float]
    predictions: list[dict]
    timings: dict[str, float]
    picture_scores: dict[int, float] = field(default_factory=dict)
    worst: tuple[ComparedPicture, ...] = ()
    best: tuple[ComparedPicture, ...] = ()
    ground_truth: Mapping | None = None


def evaluate_predictor(
    predictor: Predictor,
    dataset: AnnotatedPictures,
    batch_size: int = 8,
    *,
    ground_truth: Mapping | None = None,
    workers: int = 0,
    keep: int = 0,
    progress: bool = False,
    boxes: Callable[[Sample], np.ndarray | PersonBoxes] | None = None,
    default_oks_sigmas: float | Sequence[float] | None = None,
) -> ChainEvaluation:
    """Runs a predictor over a dataset, each picture read once, and scores it by COCO's rules.

    In several processes (``torchrun``) each picture is predicted in one of them, and all get the whole result.

    Memory does not grow with the number of pictures, but for the predictions themselves.

    Args:
        predictor: its skeleton must have the dataset's keypoints.
        dataset: annotated pictures; all of them count, also those where nobody is found.
        batch_size: pictures handed to the predictor at a time.
        ground_truth: COCO annotations to score against, for the dataset's pictures; by default they are made of the
            samples' own labels, so that a picture that is drawn is drawn once. Pass a file's own content for numbers
            that agree with other evaluators' to the last digit: labels are kept in single precision.
        workers: processes that read pictures ahead; 0 reads in this one.
        keep: how many of the worst and of the best pictures to return for drawing.
        progress: shows a bar on a terminal.
        boxes: where the people of a picture are, instead of where the predictor finds them; e.g.
            ``box_sources.label_boxes``.
        default_oks_sigmas: see :func:`multiposenet.evaluation.coco.evaluate_coco`.

    Raises:
        ValueError: predictor and dataset have different keypoints, there are no OKS sigmas, or the dataset is empty.
    """
    if predictor.skeleton.keypoints != dataset.skeleton.keypoints:
        raise ValueError(
            f"the predictor finds the keypoints of skeleton {predictor.skeleton.name!r}, the dataset is annotated "
            f"with those of {dataset.skeleton.name!r}; evaluate on a dataset with the predictor's keypoints"
        )
    oks_sigmas, _ = sigmas_of(dataset.skeleton, default_oks_sigmas)
    if len(dataset) == 0:
        raise ValueError("the dataset has no pictures to evaluate")
    category_id = 1 if ground_truth is None else person_category_id(ground_truth, dataset.skeleton)
    stages_before = dict(getattr(predictor, "timings", {}))
    timings = {"data": 0.0, "predict": 0.0}
    labels: dict[int, PersonLabels] = {}
    predictions: list[dict] = []
    picture_scores: dict[int, float] = {}
    worst, best = _Extremes(keep, sign=-1), _Extremes(keep, sign=1)

    # Several training processes evaluate together; every picture goes to exactly one of them.
    own = Subset(dataset, range(rank(), len(dataset), world_size()))
    loader = DataLoader(own, batch_size=batch_size, collate_fn=list, num_workers=workers)
    bar = tqdm(total=len(own), unit=" pictures", disable=None if progress and is_first() else True)
    mark = time.perf_counter()
    for samples in loader:
        mark = _lap(timings, "data", mark)
        options = {} if boxes is None else {"boxes": [boxes(sample) for sample in samples]}
        found = [poses.to("cpu") for poses in predictor([sample.image for sample in samples], **options)]
        mark = _lap(timings, "predict", mark)
        for sample, poses in zip(samples, found, strict=True):
            labels[sample.image_id] = sample.labels
            predictions += poses.to_coco_results(sample.image_id, category_id)
            score = picture_oks(poses, sample.labels, oks_sigmas)
            if score is not None:
                picture_scores[sample.image_id] = score
                worst.offer(sample, poses, score)
                best.offer(sample, poses, score)
        bar.update(len(samples))
        mark = time.perf_counter()
    bar.close()

    predictions = gather_lists(predictions)
    labels, picture_scores = (dict(gather_lists(list(part.items()))) for part in (labels, picture_scores))
    worst, best = worst.of_all_processes(), best.of_all_processes()
    metrics: dict[str, float] = {}
    if is_first():
        if ground_truth is None:
            ground_truth = truth_from_labels(labels, dataset.skeleton)
        metrics = evaluate_coco(
            ground_truth, predictions, dataset.skeleton, labels, default_oks_sigmas=default_oks_sigmas
        )
    metrics = share_from_first(metrics)
    _lap(timings, "score", mark)
    for stage, seconds in getattr(predictor, "timings", {}).items():
        spent = seconds - stages_before.get(stage, 0.0)
        if spent > 0:
            timings[f"predict/{stage}"] = spent
    return ChainEvaluation(metrics, predictions, timings, picture_scores, worst.ranked(), best.ranked(), ground_truth)


def save_evaluation(evaluation: ChainEvaluation, folder: Path, facts: Mapping) -> list[Path]:
    """Writes ``predictions.json``, ``metrics.json`` and the worst and best pictures, truth beside prediction.

    Args:
        evaluation: of :func:`evaluate_predictor`.
        folder: existing folder.
        facts: what else ``metrics.json`` should say: data, weights, options, versions; JSON values.

    Returns:
        The picture files, worst first.
    """
    (folder / "predictions.json").write_text(json.dumps(evaluation.predictions), encoding="utf-8")
    content = {"metrics": evaluation.metrics, **facts, "seconds": evaluation.timings}
    content["picture_oks"] = {str(image_id): score for image_id, score in evaluation.picture_scores.items()}
    (folder / "metrics.json").write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
    files = []
    for kind, pictures in (("worst", evaluation.worst), ("best", evaluation.best)):
        for place, picture in enumerate(pictures, start=1):
            sample = picture.sample
            titles = (f"{sample.name}: ground truth", f"prediction, OKS {picture.score:.2f}")
            file = folder / f"{kind}_{place:02d}_{sample.image_id}.jpg"
            draw_comparison(sample.image, picture.poses, sample.labels, titles=titles).save(file, quality=92)
            files.append(file)
    return files


class _Extremes:
    """The few pictures with the highest ``sign * score``; equal scores keep the earlier picture."""

    def __init__(self, count: int, sign: int) -> None:
        self._count, self._sign, self._offered = count, sign, 0
        self._heap: list[tuple[float, int, ComparedPicture]] = []

    def offer(self, sample: Sample, poses: Poses, score: float) -> None:
        self._offered += 1
        if self._count:
            push = heapq.heappush if len(self._heap) < self._count else heapq.heappushpop
            push(self._heap, (self._sign * score, -self._offered, ComparedPicture(sample, poses, score)))

    def of_all_processes(self) -> _Extremes:
        """The extremes among those that every training process found."""
        merged = _Extremes(self._count, self._sign)
        for picture in gather_lists(self.ranked()):
            merged.offer(picture.sample, picture.poses, picture.score)
        return merged

    def ranked(self) -> tuple[ComparedPicture, ...]:
        return tuple(picture for *_, picture in sorted(self._heap, key=lambda entry: entry[:2], reverse=True))


def _lap(timings: dict[str, float], stage: str, since: float) -> float:
    now = time.perf_counter()
    timings[stage] = timings.get(stage, 0.0) + now - since
    return now
