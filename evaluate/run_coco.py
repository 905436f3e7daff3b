"""Evaluates a checkpoint on COCO keypoints (or any data in that format): the ten numbers, and pictures to look at.

    python evaluate/run_coco.py --data ~/coco --weights checkpoint.pt
    python evaluate/run_coco.py --data ~/coco --from-json predictions.json
    python evaluate/run_coco.py --data ~/crowdpose --format crowdpose --from-json predictions.json
    python evaluate/run_coco.py        # the weights that ship with the package, on the synthetic validation set
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy
import torch
import torchvision
from torch.utils.data import Dataset

from multiposenet.cli import (
    UNREADABLE,
    add_predictor_arguments,
    load_predictor,
    package_version,
    positive_int,
    predictor_options,
    stage_times,
)
from multiposenet.data.formats import COCO_FORMAT, FORMATS
from multiposenet.data.pictures import PictureError
from multiposenet.data.sources import SYNTHETIC, open_dataset
from multiposenet.evaluation.chain import evaluate_predictor, save_evaluation
from multiposenet.evaluation.coco import CocoMetrics, evaluate_coco, print_summary
from multiposenet.evaluation.crowdpose import LEVELS, CrowdPoseMetrics, evaluate_crowdpose, level_lines
from multiposenet.evaluation.details import detail_lines
from multiposenet.runs import open_run_folder
from multiposenet.skeletons import Skeleton, get_skeleton


def main(argv: Sequence[str] | None = None, load: Callable | None = None) -> int:
    """Runs the evaluation; 0 when done, 2 when the data, the weights or an argument is bad."""
    arguments = parse_arguments(argv)
    layout = FORMATS[arguments.format]
    split = arguments.split or layout.evaluation_split
    try:
        if arguments.from_json:
            skeleton = get_skeleton(arguments.skeleton or layout.skeleton)
            dataset = open_dataset(arguments.data, split, skeleton, arguments.limit, layout=layout)
            truth = dataset.ground_truth()
            metrics = evaluate_coco(truth, arguments.from_json, skeleton, default_oks_sigmas=arguments.default_sigma)
            print_all(metrics, dataset, crowd_levels(truth, arguments.from_json, skeleton, arguments.crowd_levels))
            return 0
        predictor = load_predictor(arguments, load)
        dataset = open_dataset(arguments.data, split, predictor.skeleton, arguments.limit, layout=layout)
        truth = None if arguments.data == SYNTHETIC else dataset.ground_truth()
        out = open_run_folder(arguments.out, "evaluate")
    except UNREADABLE as error:
        print(f"run_coco.py: error: {error}", file=sys.stderr)
        return 2

    started = time.perf_counter()
    try:
        evaluation = evaluate_predictor(
            predictor,
            dataset,
            arguments.batch_size,
            ground_truth=truth,
            workers=arguments.workers,
            keep=arguments.worst,
            progress=True,
        )
    except (FileNotFoundError, PictureError) as error:
        print(f"run_coco.py: error: {error}", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - started
    facts = {
        "data": dataset.identity(),
        "pictures": len(dataset),
        "model": predictor.name,
        "weights": None if predictor.weights is None else str(predictor.weights),
        "options": {**predictor_options(arguments), "device": str(getattr(predictor, "device", arguments.device))},
        "versions": {
            "multiposenet": package_version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": numpy.__version__,
            "pycocotools": importlib.metadata.version("pycocotools"),
        },
        "pictures_per_second": len(dataset) / seconds,
        "predicted_pictures_per_second": len(dataset) / evaluation.timings["predict"],
    }
    levels = crowd_levels(truth, evaluation.predictions, dataset.skeleton, arguments.crowd_levels)
    facts["details"] = evaluation.metrics.details.to_dict()
    if levels is not None:
        facts["levels"] = levels.to_dict()
    pictures = save_evaluation(evaluation, out, facts)
    print_all(evaluation.metrics, dataset, levels)
    print(f"time: {stage_times(evaluation.timings)}; {facts['pictures_per_second']:.1f} pictures/s over all")
    print(f"results: {out}/metrics.json, {out}/predictions.json")
    if pictures:
        print(f"truth beside prediction: {out}/worst_*.jpg, {out}/best_*.jpg")
    return 0


def crowd_levels(
    truth: Mapping | None, predictions: str | Sequence[Mapping], skeleton: Skeleton, levels: str
) -> CrowdPoseMetrics | None:
    """AP by crowd index, where the pictures have one."""
    if truth is None or skeleton.oks_sigmas is None or not all("crowdIndex" in image for image in truth["images"]):
        return None
    return evaluate_crowdpose(truth, predictions, skeleton, levels=LEVELS[levels])


def print_all(metrics: CocoMetrics, dataset: Dataset, levels: CrowdPoseMetrics | None) -> None:
    """The ten numbers in pycocotools' words, AP by crowd index where there is one, and what the numbers hide."""
    print_summary(metrics, len(dataset), getattr(dataset, "pictures_in_file", None))
    lines = [] if levels is None else level_lines(levels)
    print("\n".join([*lines, "beside the official numbers:", *detail_lines(metrics.details)]))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; wrong flags end the program with a message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", default=SYNTHETIC, metavar="DIR", help="folder in COCO's layout (%(default)s)")
    parser.add_argument("--format", default=COCO_FORMAT.name, choices=FORMATS, help="of --data (%(default)s)")
    parser.add_argument("--split", metavar="NAME", help="split of --data, by default the one that --format measures on")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N pictures only")
    parser.add_argument("--from-json", metavar="FILE", help="only score this predictions.json")
    parser.add_argument("--skeleton", metavar="NAME", help="for --from-json; by default that of --format")
    parser.add_argument(
        "--default-sigma", type=float, metavar="X", help="for --from-json: OKS sigma of a skeleton that has none"
    )
    parser.add_argument(
        "--crowd-levels", default="paper", choices=LEVELS, help="how CrowdPose is split into easy, medium, hard"
    )
    parser.add_argument("--out", metavar="DIR", help="by default runs/evaluate, then runs/evaluate2, ...")
    parser.add_argument("--worst", type=int, default=4, metavar="N", help="worst and best pictures drawn (4)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read pictures (0)")
    add_predictor_arguments(parser)
    arguments = parser.parse_args(argv)
    for name in ("worst", "workers"):
        if getattr(arguments, name) < 0:
            parser.error(f"--{name} must be 0 or more, got {getattr(arguments, name)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
