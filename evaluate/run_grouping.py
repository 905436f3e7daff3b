"""Measures how well keypoints are grouped into people, apart from how well they are found: one table, plot and JSON.

    python evaluate/run_grouping.py --data ~/coco                                  # the baselines
    python evaluate/run_grouping.py --data ~/coco --grouping runs/prn/best.safetensors
    python evaluate/run_grouping.py --data ~/coco --weights model.safetensors      # and a network's peaks and boxes
    python evaluate/run_grouping.py --data synthetic                               # drawn people, without any files

Labels stand in for the network: their keypoints are the peaks, their boxes the detections, as they are or degraded
(``evaluation.grouping_inputs`` has the degradations and their seed). With ``--weights``, which needs the pictures,
labels and that network's own peaks and boxes are crossed (the paper's four rows). Beside each input stands its ceiling,
the best that any assignment could reach on it. The segment areas that AP depends on are those of the annotation file;
where they are approximations, so are the numbers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from multiposenet import methods
from multiposenet.bad_input import UNREADABLE, refuse
from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.sources import TRAIN_SEED, open_dataset, read_labels
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.decode.assignment import ASSIGNMENTS
from multiposenet.evaluation.grouping_detections import found_by_network, owned_boxes, owned_peaks
from multiposenet.evaluation.grouping_inputs import (
    INPUTS,
    SEED,
    BoxDegradation,
    GroupingInput,
    PeakDegradation,
    best_poses,
    label_boxes,
    label_peaks,
    make_input,
    pack_input,
)
from multiposenet.evaluation.grouping_scores import (
    NUMBERS,
    Crowding,
    GroupingScores,
    crowding_classes,
    measure_ceiling,
    measure_grouping,
)
from multiposenet.groupings import GROUPINGS, with_assignment
from multiposenet.predictor import PosePredictor, load
from multiposenet.prior import GaussianPrior
from multiposenet.runs import open_run_folder
from multiposenet.skeletons import Skeleton, get_skeleton
from multiposenet.structures import PersonLabels

BASELINES = ("strongest_peak", "nearest_centre", "gaussian_prior")
CEILING = "ceiling"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the measurement; 0 when done, 2 when the data, a file or an argument is bad."""
    arguments = parse_arguments(argv)
    started = time.perf_counter()
    try:
        skeleton = get_skeleton(arguments.skeleton)
        places = {"with_keypoints": True, "label_cache": arguments.label_cache or True}
        dataset = open_dataset(arguments.data, arguments.split, skeleton, arguments.limit, **places)
        taught = open_dataset(
            arguments.data, arguments.train_split, skeleton, arguments.train_limit, synthetic_seed=TRAIN_SEED, **places
        )
        prior = fit_prior(read_labels(taught), skeleton)
        groupings = baselines(skeleton, prior)
        for file in arguments.grouping:
            name, grouping = open_grouping(file, skeleton, arguments.device)
            groupings[name if name not in groupings else f"{name} ({file})"] = grouping
        labels = read_labels(dataset)
        inputs = label_inputs(labels, dataset.image_ids, skeleton)
        if arguments.weights is not None:
            predictor = load(arguments.weights, arguments.device, box_threshold=arguments.box_threshold)
            groupings.setdefault("the network's own", predictor.method.decoder.grouping)
            inputs |= detected_inputs(predictor, dataset)
        out = open_run_folder(arguments.out, "grouping")
    except UNREADABLE as error:
        return refuse("run_grouping.py", error)

    truth = dataset.ground_truth()
    crowding = crowding_classes(labels) if arguments.crowding else []
    task = Task(inputs, dataset.image_ids, truth, skeleton, prior, crowding, arguments.device, arguments.batch_size)
    rows = []
    for row in task.rows(groupings, arguments.assignment):
        rows.append(row)
        print(line(row), flush=True)
        # Written row by row: an hour's work must not hang on the last minute.
        (out / "grouping.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    facts = {
        "data": dataset.identity(),
        "prior_fitted_on": taught.identity(),
        "areas": "as in the annotation file",
        "seed": SEED,
        "inputs": {name: [asdict(part) for part in parts] for name, parts in INPUTS.items()},
        "grouping_files": [str(file) for file in arguments.grouping],
        "weights": arguments.weights,
        "box_threshold": arguments.box_threshold,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "seconds": time.perf_counter() - started,
    }
    (out / "about.json").write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")
    table = [header(), *(line(row) for row in rows)]
    (out / "grouping.txt").write_text("\n".join(table) + "\n", encoding="utf-8")
    print("\n".join(table))
    print(plot(rows, out / "grouping.png"))
    print(f"results: {out}/grouping.json, {out}/grouping.txt, {out}/about.json")
    return 0


@dataclass(frozen=True)
class Task:
    """Everything that all rows share."""

    inputs: dict[str, GroupingInput]
    image_ids: list[int]
    truth: dict
    skeleton: Skeleton
    prior: GaussianPrior
    crowding: list[Crowding]
    device: str
    batch_size: int

    def rows(self, groupings: dict[str, Callable], assignments: Sequence[str]) -> Iterator[dict]:
        """The table's rows: each input's ceiling, then every grouping by every assignment."""
        for name, given in self.inputs.items():
            best = best_poses(given, self.prior, self.skeleton)
            ceiling = measure_ceiling(best, self.image_ids, self.truth, self.skeleton, self.crowding)
            yield as_row(CEILING, "", name, ceiling, ceiling)
            for (grouping, decide), assignment in itertools.product(groupings.items(), assignments):
                scores = measure_grouping(
                    with_assignment(decide, assignment),
                    given,
                    self.image_ids,
                    self.truth,
                    self.skeleton,
                    self.crowding,
                    self.device,
                    self.batch_size,
                )
                yield as_row(grouping, assignment, name, scores, ceiling)


def as_row(grouping: str, assignment: str, given: str, scores: GroupingScores, ceiling: GroupingScores) -> dict:
    """One entry of ``grouping.json``."""
    crowding = [{**own, "ceiling": best.get("AP")} for own, best in zip(scores.crowding, ceiling.crowding, strict=True)]
    return {
        "grouping": grouping,
        "assignment": assignment,
        "input": given,
        **scores.numbers,
        "right": scores.right,
        "ceiling": ceiling.numbers["AP"],
        "crowding": crowding,
    }


def fit_prior(pictures: Sequence[PersonLabels], skeleton: Skeleton) -> GaussianPrior:
    """Where keypoints lie in boxes, by one pass over the labels of some pictures."""
    columns = (
        np.concatenate([getattr(labels, name)[~labels.crowd] for labels in pictures])
        for name in ("keypoints", "visibility", "boxes")
    )
    return GaussianPrior(skeleton.num_keypoints).fit(*(torch.from_numpy(column) for column in columns))


def baselines(skeleton: Skeleton, prior: GaussianPrior) -> dict[str, Callable]:
    """The groupings that have nothing to train, with a fitted prior."""
    groupings = {}
    for name in BASELINES:
        network, groupings[name] = GROUPINGS[name](skeleton)
        network.load_state_dict(prior.state_dict())
    return groupings


def open_grouping(file: str, skeleton: Skeleton, device: str) -> tuple[str, Callable]:
    """The grouping in a weights file, of a grouping alone or of a whole chain, and its name.

    Raises:
        ValueError: it was made for other keypoints.
    """
    method = methods.open_grouping(file)
    if method.skeleton.keypoints != skeleton.keypoints:
        raise ValueError(
            f"{file} groups the keypoints of skeleton {method.skeleton.name!r}, the data are labelled with those of "
            f"{skeleton.name!r}; give the file's skeleton with --skeleton, and data that have it"
        )
    method.model.to(device).eval()
    return method.name, method.grouping


def label_inputs(labels: Sequence[PersonLabels], image_ids: list[int], skeleton: Skeleton) -> dict[str, GroupingInput]:
    """The four inputs that are made of labels alone."""
    return {name: make_input(labels, image_ids, skeleton.num_keypoints, *how) for name, how in INPUTS.items()}


def detected_inputs(predictor: PosePredictor, dataset: CocoKeypoints | SyntheticPeople) -> dict[str, GroupingInput]:
    """Labels crossed with what a network finds in the pictures: two halves that are the labels', two that are not."""
    labels: list[PersonLabels] = []
    halves = {part: {"label": [], "network": []} for part in ("peaks", "boxes")}
    for image_id, (picture, (peaks, detections)) in zip(
        dataset.image_ids, found_by_network(predictor, dataset), strict=True
    ):
        labels.append(picture)
        for kind, own, found in (
            ("peaks", label_peaks(picture, PeakDegradation(), _dice(image_id, 0)),
             owned_peaks(peaks, picture, dataset.skeleton, detections.valid[0].numpy())),
            ("boxes", label_boxes(picture, BoxDegradation(), _dice(image_id, 1)),
             owned_boxes(detections, picture)),
        ):  # fmt: skip
            halves[kind]["label"].append(own)
            halves[kind]["network"].append(found)
    inputs = {}
    for peaks, boxes in itertools.product(halves["peaks"], halves["boxes"]):
        seen = halves["peaks"][peaks]
        if boxes == "label":  # how the network's own boxes see the peaks is not how these do
            seen = [replace(own, seen_by=None) for own in seen]
        inputs[f"{peaks} peaks, {boxes} boxes"] = pack_input(
            labels, seen, halves["boxes"][boxes], dataset.skeleton.num_keypoints
        )
    return inputs


def _dice(image_id: int, part: int) -> np.random.Generator:
    return np.random.default_rng([SEED, image_id, part])


def header() -> str:
    """The table's first line."""
    numbers = "".join(f"{name:>7}" for name in NUMBERS)
    return f"{'input':<32}{'grouping':<34}{'assignment':<12}{numbers}{'right':>8}{'ceiling':>9}"


def line(row: dict) -> str:
    """One line of the table."""
    numbers = "".join(f"{row[name]:7.3f}" for name in NUMBERS)
    right = "" if row["right"] is None else f"{row['right']:.3f}"
    return f"{row['input']:<32}{row['grouping']:<34}{row['assignment']:<12}{numbers}{right:>8}{row['ceiling']:9.3f}"


def plot(rows: list[dict], file: Path) -> str:
    """Draws AP of every grouping, by its best assignment, and each input's ceiling; returns a line that says so."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return "no plot: matplotlib is not installed; pip install 'multiposenet[plot]'"
    inputs = list(dict.fromkeys(row["input"] for row in rows))
    names = [name for name in dict.fromkeys(row["grouping"] for row in rows) if name != CEILING]
    width = 0.8 / max(1, len(names))
    figure, axes = pyplot.subplots(figsize=(2 + 2 * len(inputs), 4.5), layout="constrained")
    for number, name in enumerate(names):
        best = [max(row["AP"] for row in rows if (row["input"], row["grouping"]) == (given, name)) for given in inputs]
        axes.bar(np.arange(len(inputs)) + (number - (len(names) - 1) / 2) * width, best, width, label=name)
    for number, given in enumerate(inputs):
        ceiling = next(row["ceiling"] for row in rows if row["input"] == given)
        axes.hlines(ceiling, number - 0.45, number + 0.45, color="black", label=CEILING if number == 0 else None)
    axes.set(xticks=np.arange(len(inputs)), xticklabels=inputs, ylabel="AP (best assignment)", ylim=(0, 1.02))
    axes.legend(loc="upper right", fontsize="small")
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
    return f"plot: {file}"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; wrong flags end the program with a message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", required=True, metavar="DIR", help="COCO's layout (labels are enough), or synthetic")
    parser.add_argument("--split", default="val2017", metavar="NAME", help="split that is measured (%(default)s)")
    parser.add_argument("--train-split", default="train2017", metavar="NAME", help="fits the prior (%(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N pictures only")
    parser.add_argument("--train-limit", type=int, metavar="N", help="the prior from the first N pictures only")
    parser.add_argument("--skeleton", default="coco_person", metavar="NAME", help="of the data (%(default)s)")
    parser.add_argument(
        "--grouping", action="append", default=[], metavar="FILE", help="weights of a grouping or a whole model; repeat"
    )
    parser.add_argument(
        "--assignment", nargs="+", default=list(ASSIGNMENTS), choices=list(ASSIGNMENTS), help="rules (all)"
    )
    parser.add_argument("--weights", metavar="FILE", help="network whose peaks and boxes are grouped too; pictures!")
    parser.add_argument("--box-threshold", type=float, metavar="S", help="of that network's boxes")
    parser.add_argument("--crowding", action=argparse.BooleanOptionalAction, default=True, help="also by crowding")
    parser.add_argument("--label-cache", metavar="DIR", help="packed labels; default beside them, if possible")
    parser.add_argument("--out", metavar="DIR", help="by default runs/grouping, then runs/grouping2, ...")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="pictures at a time (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where groupings run (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
