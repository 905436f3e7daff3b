"""Where a chain loses its AP: parts of it replaced by the truth, one at a time and together.

The ablation of the paper (MultiPoseNet, sec. 4: what the residual network makes of true and of detected inputs), for
anybody's own network. An oracle is an object that stands in for a part of the chain: true boxes for the detector, true
keypoints for the heatmaps' peaks, a scorer that knows whose each peak is for the grouping.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from multiposenet.decode.chain import ChainDecoder
from multiposenet.decode.grouping import GroupedPeople, Grouping, PairScores, Scorer
from multiposenet.decode.refinement import Refinement
from multiposenet.evaluation.chain import AnnotatedPictures
from multiposenet.evaluation.coco import evaluate_coco, person_category_id
from multiposenet.evaluation.details import score_text
from multiposenet.evaluation.ground_truth import truth_from_labels
from multiposenet.evaluation.grouping_detections import box_owners, peak_owners
from multiposenet.evaluation.grouping_inputs import GroupingInput, make_input
from multiposenet.geometry import CropWindow
from multiposenet.inference.whole_pictures import Canvas, to_picture
from multiposenet.predictor import PosePredictor
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, Peaks, PersonLabels, Sample

NUMBERS = ("AP", "AP50", "AP75", "APM", "APL", "AR")
"""What a row of the table tells."""


@dataclass(frozen=True)
class CanvasTruth:
    """The people of a canvas's pictures, in the canvas's pixels.

    Args:
        labels: of each picture; image_ids: its id, which seeds the order of its peaks and boxes.
        skeleton: whose keypoints.
    """

    labels: Sequence[PersonLabels]
    image_ids: Sequence[int]
    skeleton: Skeleton


@dataclass(frozen=True)
class ChainState:
    """What a chain has before it groups: found, or put there by oracles."""

    peaks: Peaks
    detections: Detections
    grouping: Callable[[Peaks, Detections], GroupedPeople]
    refinement: Refinement | None
    truth: CanvasTruth


def true_boxes(state: ChainState) -> ChainState:
    """The labels' boxes instead of the detector's, crowds excepted; scores of 1."""
    device = state.detections.boxes.device
    return dataclasses.replace(state, detections=_true_inputs(state.truth).detections.to(device))


def true_keypoints(state: ChainState) -> ChainState:
    """The labelled keypoints instead of the heatmaps' peaks; scores of 1. Who has which is not told."""
    device = state.peaks.xy.device
    return dataclasses.replace(state, peaks=_true_inputs(state.truth).peaks.to(device))


def true_grouping(state: ChainState) -> ChainState:
    """Every person's box gets the peaks that belong to that person; the rest is as the chain guesses."""
    grouping = Grouping(TrueScorer(state.grouping.scorer, state.truth))
    refinement = None if state.refinement is None else state.refinement.leaving_peaks()
    return dataclasses.replace(state, grouping=grouping, refinement=refinement)


Oracle = Callable[[ChainState], ChainState]
ORACLES: dict[str, Oracle] = {"boxes": true_boxes, "keypoints": true_keypoints, "grouping": true_grouping}
"""What can be replaced by the truth, by name."""


@dataclass(frozen=True)
class TrueScorer:
    """Scores a pair of a box and a peak by whether they are the same person's.

    Boxes and peaks are people's one to one, boxes by overlap and peaks by similarity, so that the sum is largest.

    Args:
        guesses: the chain's own scorer, for keypoints without a peak and for boxes that are nobody's.
        truth: the people, in the pixels of the peaks and boxes.
    """

    guesses: Scorer
    truth: CanvasTruth

    def __call__(self, peaks: Peaks, detections: Detections) -> PairScores:
        """Pairs of the same person have the peak's score, all others 0."""
        pairs = self.guesses(peaks, detections)
        pictures = range(len(self.truth.labels))
        of_peak = np.stack([peak_owners(_only(peaks, n), self.truth.labels[n], self.truth.skeleton) for n in pictures])
        of_box = np.stack([box_owners(_only(detections, n), self.truth.labels[n]) for n in pictures])
        device = peaks.xy.device
        peak_person = torch.from_numpy(of_peak).to(device)[pairs.picture]  # [B, K, M]
        box_person = torch.from_numpy(of_box).to(device)[pairs.picture, pairs.slot]  # [B]
        own = (box_person[:, None, None] == peak_person) & (peak_person >= 0)
        scores = torch.where(own, peaks.scores[pairs.picture].clamp(min=1e-6), 0.0)
        return dataclasses.replace(pairs, scores=scores, deciding=None, person_scores=None)


@dataclass(frozen=True)
class OracleRow:
    """One row of the table.

    Args:
        parts: which parts were replaced; none for the chain as it is.
        numbers: COCO's, by name (:data:`NUMBERS`).
        gain: each of them less that of the chain as it is.
    """

    parts: tuple[str, ...]
    numbers: dict[str, float]
    gain: dict[str, float]

    def to_dict(self) -> dict:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)


def combinations_of(parts: Sequence[str]) -> list[tuple[str, ...]]:
    """Nothing, each part alone, and all of them together in every way; fewest first.

    Raises:
        ValueError: a part is unknown, or none is given.
    """
    if not parts or (unknown := [part for part in parts if part not in ORACLES]):
        wrong = f"unknown: {', '.join(unknown)}" if parts else "none was given"
        raise ValueError(f"oracles must be of {', '.join(ORACLES)}; {wrong}")
    parts = [part for part in ORACLES if part in parts]
    return [chosen for size in range(len(parts) + 1) for chosen in itertools.combinations(parts, size)]


def refuse_without_grouping(predictor: PosePredictor) -> None:
    """ValueError for a predictor whose method has no parts that an oracle could replace."""
    if not isinstance(predictor.method.decoder, ChainDecoder):
        raise ValueError(
            f"{predictor.name} does not group keypoints around boxes, so no part of it can be replaced by the truth; "
            "the oracle table is for the multiposenet models"
        )


def measure_oracles(
    predictor: PosePredictor,
    dataset: AnnotatedPictures,
    parts: Sequence[str] = tuple(ORACLES),
    batch_size: int = 8,
    *,
    ground_truth: Mapping | None = None,
    workers: int = 0,
    progress: bool = False,
) -> list[OracleRow]:
    """Runs the network once over a dataset and decodes its answers once a row of the table.

    Args:
        predictor: of a method that groups keypoints.
        dataset: annotated pictures.
        parts: keys of :data:`ORACLES`.
        batch_size: pictures at a time.
        ground_truth: COCO annotations to score against; by default made of the samples' own labels.
        workers: processes that read pictures ahead; 0 reads in this one.
        progress: shows a bar on a terminal.

    Raises:
        ValueError: a part is unknown, the predictor's method has no grouping, or the dataset is empty.
    """
    refuse_without_grouping(predictor)
    rows = combinations_of(parts)
    predictions: dict[tuple[str, ...], list[dict]] = {chosen: [] for chosen in rows}
    labels: dict[int, PersonLabels] = {}
    category_id = 1 if ground_truth is None else person_category_id(ground_truth, dataset.skeleton)
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=list, num_workers=workers)
    for samples in tqdm(loader, unit=" batches", disable=None if progress else True):
        labels |= {sample.image_id: sample.labels for sample in samples}
        for canvas in predictor.runner.canvases([sample.image for sample in samples]):
            shown = [samples[index] for index in canvas.indices]
            for chosen in rows:
                predictions[chosen] += _predict(predictor.method.decoder, canvas, shown, chosen, category_id)
    if ground_truth is None:
        ground_truth = truth_from_labels(labels, dataset.skeleton)
    table = []
    for chosen in rows:
        metrics = evaluate_coco(ground_truth, predictions[chosen], dataset.skeleton, labels)
        numbers = {name: metrics[name] for name in NUMBERS}
        before = table[0].numbers if table else numbers
        table.append(OracleRow(chosen, numbers, {name: numbers[name] - before[name] for name in NUMBERS}))
    return table


def oracle_lines(table: Sequence[OracleRow]) -> list[str]:
    """The table as text, with the difference in AP to the chain as it is."""
    width = max(len(_name(row)) for row in table)
    lines = [f" {'true parts':<{width}}" + "".join(f"{name:>8}" for name in NUMBERS) + "    AP gain"]
    for row in table:
        numbers = "".join(f"{score_text(row.numbers[name]):>8}" for name in NUMBERS)
        lines.append(f" {_name(row):<{width}}{numbers}{row.gain['AP']:>+11.3f}")
    return lines


@torch.inference_mode()
def _predict(
    decoder: ChainDecoder, canvas: Canvas, samples: Sequence[Sample], parts: Sequence[str], category_id: int
) -> list[dict]:
    """COCO results of a canvas's pictures, with parts of the chain replaced."""
    found = decoder.find(canvas.views)
    labels = [labels_on_canvas(sample.labels, window) for sample, window in zip(samples, canvas.windows, strict=True)]
    truth = CanvasTruth(labels, [sample.image_id for sample in samples], decoder.skeleton)
    state = ChainState(*found, decoder.grouping, decoder.refinement, truth)
    for part in parts:
        state = ORACLES[part](state)
    grouped = dataclasses.replace(decoder, grouping=state.grouping, refinement=state.refinement)
    people = grouped.poses(state.peaks, state.detections, canvas.views)
    results = []
    for poses, sample, window in zip(people, samples, canvas.windows, strict=True):
        poses = to_picture(poses.to("cpu"), window, sample.image.shape[:2])
        results += poses.to_coco_results(sample.image_id, category_id)
    return results


def labels_on_canvas(labels: PersonLabels, window: CropWindow) -> PersonLabels:
    """Labels in the pixels of what the window shows."""
    return dataclasses.replace(
        labels,
        keypoints=window.keypoints_to_crop(labels.keypoints),
        boxes=window.boxes_to_crop(labels.boxes),
        areas=labels.areas * np.float32(window.scale**2),
    )


def _true_inputs(truth: CanvasTruth) -> GroupingInput:
    """Labels as peaks and boxes, in an order that tells nothing."""
    return make_input(truth.labels, truth.image_ids, truth.skeleton.num_keypoints)


def _only(part: Peaks | Detections, picture: int) -> Peaks | Detections:
    """One picture of a batch."""
    return part.pictures(slice(picture, picture + 1))


def _name(row: OracleRow) -> str:
    return " + ".join(row.parts) or "none"
