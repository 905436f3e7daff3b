"""Evaluates a checkpoint on COCO keypoints (or any data in that format): the ten numbers, and pictures to look at.

python evaluate/run_coco.py --data ~/coco --weights checkpoint.pt
python evaluate/run_coco.py --data ~/coco --from-json predictions.json --report report
python evaluate/run_coco.py --data ~/coco --weights checkpoint.pt --oracle boxes,keypoints,grouping
python evaluate/run_coco.py --data ~/crowdpose --format crowdpose --from-json predictions.json
python evaluate/run_coco.py        # the weights that ship with the package, on the synthetic validation set
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy
import torch
import torchvision

from multiposenet.bad_input import UNREADABLE, refuse
from multiposenet.box_sources import DetectionFile, label_boxes
from multiposenet.cli import (
    add_predictor_arguments,
    load_predictor,
    package_version,
    positive_int,
    predictor_options,
    stage_times,
)
from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.formats import COCO_FORMAT, FORMATS
from multiposenet.data.sources import SYNTHETIC, SYNTHETIC_KINDS, open_dataset
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.evaluation.chain import evaluate_predictor, save_evaluation
from multiposenet.evaluation.coco import evaluate_coco, print_summary, sigmas_of
from multiposenet.evaluation.crowdpose import LEVELS, CrowdPoseMetrics, evaluate_crowdpose, level_lines
from multiposenet.evaluation.details import detail_lines
from multiposenet.evaluation.diagnosis import WORST
from multiposenet.evaluation.diagnosis_page import diagnosis_lines
from multiposenet.evaluation.ground_truth import check_ground_truth
from multiposenet.evaluation.oracles import (
    ORACLES,
    combinations_of,
    measure_oracles,
    oracle_lines,
    refuse_without_grouping,
)
from multiposenet.evaluation.report import ScoredPredictions, write_report
from multiposenet.evaluation.results import read_results
from multiposenet.predictor import PosePredictor
from multiposenet.runs import open_run_folder
from multiposenet.skeletons import Skeleton, get_skeleton

DETECTOR = "detector"
BOX_SOURCES = {"gt": label_boxes, DETECTOR: None}
"""What ``--boxes`` may be beside a file."""

PROGRAM = "run_coco.py"


def main(argv: Sequence[str] | None = None, load: Callable | None = None) -> int:
    """Runs the evaluation; 0 when done, 2 when the data, the weights or an argument is bad."""
    arguments = parse_arguments(argv)
    predictor, out = None, None
    try:
        if arguments.from_json:
            scored = score_file(arguments)
        else:
            predictor = load_predictor(arguments, load)
            if arguments.oracle:
                refuse_without_grouping(predictor)
            dataset = open_data(arguments, predictor.skeleton)
            # An oracle has no default: it tells parts apart by what it scores them with.
            sigmas_of(dataset.skeleton, None if arguments.oracle else arguments.default_sigma)
            if isinstance(arguments.box_source, DetectionFile):
                arguments.box_source.refuse_strangers(dataset.image_ids)
            truth = None if arguments.data in SYNTHETIC_KINDS else dataset.ground_truth()
            if truth is not None:  # before the network's pass, which takes long
                check_ground_truth(truth, dataset.skeleton)
            out = open_run_folder(arguments.out, "evaluate")
    except UNREADABLE as error:
        return refuse(PROGRAM, error)
    try:
        if predictor is not None:
            scored = run_network(arguments, predictor, dataset, truth, out)
        else:
            print_all(scored)
        if arguments.report:
            report(arguments, scored)
        if arguments.oracle:
            compare_oracles(arguments, predictor, scored, out)
    except UNREADABLE as error:
        return refuse(PROGRAM, error, out)
    return 0


def open_data(arguments: argparse.Namespace, skeleton: Skeleton) -> CocoKeypoints | SyntheticPeople:
    """The dataset that the flags name."""
    layout = FORMATS[arguments.format]
    split = arguments.split or layout.evaluation_split
    dataset = open_dataset(arguments.data, split, skeleton, arguments.limit, layout=layout)
    if len(dataset) == 0:
        raise ValueError(f"--data {arguments.data} has no pictures in split {split}; give another --split or --data")
    return dataset


def score_file(arguments: argparse.Namespace) -> ScoredPredictions:
    """Scores a result file, of the chosen pictures."""
    skeleton = get_skeleton(arguments.skeleton or FORMATS[arguments.format].skeleton)
    dataset = open_data(arguments, skeleton)
    truth, predictions = dataset.ground_truth(), read_results(arguments.from_json)
    if arguments.limit is not None:
        predictions = about_pictures(predictions, dataset.image_ids)
    metrics = evaluate_coco(truth, predictions, skeleton, default_oks_sigmas=arguments.default_sigma)
    facts = {"data": dataset.identity(), "pictures": len(dataset), "predictions": arguments.from_json}
    levels = crowd_levels(truth, predictions, skeleton, arguments.crowd_levels)
    return ScoredPredictions(dataset, truth, predictions, metrics, facts | {"versions": versions()}, levels)


def about_pictures(predictions: Sequence[Mapping], image_ids: Sequence[int]) -> list[Mapping]:
    """The predictions for some pictures; what names no picture stays, for the scoring to complain about."""
    ids = set(image_ids)

    def elsewhere(prediction: object) -> bool:
        image_id = prediction.get("image_id") if isinstance(prediction, Mapping) else None
        return isinstance(image_id, int) and image_id not in ids

    return [prediction for prediction in predictions if not elsewhere(prediction)]


def run_network(
    arguments: argparse.Namespace,
    predictor: PosePredictor,
    dataset: CocoKeypoints | SyntheticPeople,
    truth: Mapping | None,
    out: Path,
) -> ScoredPredictions:
    """Predicts, scores, prints and saves."""
    started = time.perf_counter()
    evaluation = evaluate_predictor(
        predictor,
        dataset,
        arguments.batch_size,
        ground_truth=truth,
        workers=arguments.workers,
        keep=arguments.worst,
        progress=True,
        boxes=arguments.box_source,
        default_oks_sigmas=arguments.default_sigma,
    )
    seconds = time.perf_counter() - started
    facts = {
        "data": dataset.identity(),
        "pictures": len(dataset),
        "model": predictor.name,
        "weights": None if predictor.weights is None else str(predictor.weights),
        "options": {**predictor_options(arguments), "device": str(getattr(predictor, "device", arguments.device))},
        "boxes": arguments.boxes,
        "versions": versions(),
        "pictures_per_second": len(dataset) / seconds,
        "predicted_pictures_per_second": len(dataset) / evaluation.timings["predict"],
    }
    levels = crowd_levels(truth, evaluation.predictions, dataset.skeleton, arguments.crowd_levels)
    scored = ScoredPredictions(
        dataset, evaluation.ground_truth, evaluation.predictions, evaluation.metrics, facts, levels
    )
    by_level = {} if levels is None else {"levels": levels.to_dict()}
    pictures = save_evaluation(evaluation, out, facts | {"details": evaluation.metrics.details.to_dict(), **by_level})
    print_all(scored)
    print(f"time: {stage_times(evaluation.timings)}; {facts['pictures_per_second']:.1f} pictures/s over all")
    print(f"results: {out}/metrics.json, {out}/predictions.json")
    if pictures:
        print(f"truth beside prediction: {out}/worst_*.jpg, {out}/best_*.jpg")
    return scored


def report(arguments: argparse.Namespace, scored: ScoredPredictions) -> None:
    """Diagnoses, prints the outcome and writes the report's files."""
    folder = Path(arguments.report).expanduser()
    diagnosis, page, content = write_report(folder, scored, arguments.report_pictures, arguments.default_sigma)
    print("\n".join(["diagnosis:", *diagnosis_lines(diagnosis)]))
    print(f"report: {page}, {content}")


def compare_oracles(
    arguments: argparse.Namespace, predictor: PosePredictor, scored: ScoredPredictions, out: Path
) -> None:
    """Prints the oracle table and writes ``oracles.json``; the network runs once more."""
    table = measure_oracles(
        predictor,
        scored.dataset,
        arguments.oracle,
        arguments.batch_size,
        ground_truth=scored.truth,
        workers=arguments.workers,
        progress=True,
    )
    (out / "oracles.json").write_text(json.dumps([row.to_dict() for row in table], indent=1) + "\n", encoding="utf-8")
    print("\n".join(["parts of the chain replaced by the truth:", *oracle_lines(table)]))
    print(f"table: {out}/oracles.json")


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {
        "multiposenet": package_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "pycocotools": importlib.metadata.version("pycocotools"),
    }


def crowd_levels(
    truth: Mapping | None, predictions: Sequence[Mapping], skeleton: Skeleton, levels: str
) -> CrowdPoseMetrics | None:
    """AP by crowd index, where the pictures have one."""
    if truth is None or skeleton.oks_sigmas is None or not all("crowdIndex" in image for image in truth["images"]):
        return None
    return evaluate_crowdpose(truth, predictions, skeleton, levels=LEVELS[levels])


def print_all(scored: ScoredPredictions) -> None:
    """The ten numbers in pycocotools' words, AP by crowd index where there is one, and what the numbers hide."""
    print_summary(scored.metrics, len(scored.dataset), getattr(scored.dataset, "pictures_in_file", None))
    lines = [] if scored.levels is None else level_lines(scored.levels)
    print("\n".join([*lines, "beside the official numbers:", *detail_lines(scored.metrics.details)]))


def box_source(name: str) -> Callable | None:
    """What ``--boxes`` names: a function of a sample, or None for the boxes that the predictor finds."""
    return BOX_SOURCES[name] if name in BOX_SOURCES else DetectionFile(name)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; wrong flags end the program with a message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--data",
        default=SYNTHETIC,
        metavar="DIR",
        help=f"folder in COCO's layout, or {' or '.join(SYNTHETIC_KINDS)} people (%(default)s)",
    )
    parser.add_argument("--format", default=COCO_FORMAT.name, choices=FORMATS, help="of --data (%(default)s)")
    parser.add_argument("--split", metavar="NAME", help="split of --data, by default the one that --format measures on")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N pictures only")
    parser.add_argument("--from-json", metavar="FILE", help="only score this predictions.json")
    parser.add_argument("--skeleton", metavar="NAME", help="for --from-json; by default that of --format")
    parser.add_argument(
        "--default-sigma", type=float, metavar="X", help="OKS sigma of a skeleton that has none"
    )
    parser.add_argument(
        "--crowd-levels", default="paper", choices=LEVELS, help="how CrowdPose is split into easy, medium, hard"
    )
    parser.add_argument(
        "--report", metavar="DIR", help="diagnose, and write report.html and report.json there (docs/evaluation.md)"
    )
    parser.add_argument(
        "--report-pictures", type=int, default=WORST, metavar="N", help="worst pictures in the report (%(default)s)"
    )
    parser.add_argument(
        "--oracle",
        type=lambda text: tuple(text.split(",")),
        metavar="PARTS",
        help=f"AP with these parts of the chain replaced by the truth: {','.join(ORACLES)} or some of them",
    )
    parser.add_argument("--out", metavar="DIR", help="by default runs/evaluate, then runs/evaluate2, ...")
    parser.add_argument(
        "--boxes",
        default=DETECTOR,
        metavar="SOURCE",
        help="where people are: gt (the labels), a COCO detection file, or detector (the model's own, or --detector's "
        "for a model that needs one), by default %(default)s",
    )
    parser.add_argument("--worst", type=int, default=4, metavar="N", help="worst and best pictures drawn (4)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read pictures (0)")
    add_predictor_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        arguments.box_source = box_source(arguments.boxes)
    except UNREADABLE as error:
        parser.error(f"--boxes: {error}")
    for name in ("worst", "workers", "report_pictures"):
        if getattr(arguments, name) < 0:
            parser.error(f"--{name.replace('_', '-')} must be 0 or more, got {getattr(arguments, name)}")
    if arguments.report and Path(arguments.report).expanduser().is_file():
        parser.error(f"--report {arguments.report} is a file; give a folder")
    if arguments.oracle:
        if arguments.from_json:
            parser.error("--oracle needs the network's own answers, which --from-json does not have; leave one out")
        try:
            combinations_of(arguments.oracle)
        except ValueError as error:
            parser.error(f"--oracle: {error}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
