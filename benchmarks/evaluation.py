"""Time of scoring predictions beside pycocotools itself, and of a diagnosis: annotations and results in, numbers out.

    python benchmarks/evaluation.py --out evaluation_times.json
    python benchmarks/evaluation.py --pictures 500 --predictions 2000 --repeats 3

Everything is in memory, and nothing is shared between calls. The candidates take turns, one call each a round, so that
what disturbs the machine disturbs all of them. Ratios are of medians of processor time, which other programs disturb
least; all candidates keep one core busy. Annotated people are made up at COCO's rates, predictions are people and
strays with errors in them.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from machine import describe, machine_facts
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from multiposenet.evaluation.backends import BACKENDS, installed_backends
from multiposenet.evaluation.coco import METRICS, evaluate_coco
from multiposenet.evaluation.diagnosis import diagnose
from multiposenet.skeletons import COCO_PERSON

REFERENCE = "pycocotools alone"
BUDGETS = {"pycocotools": 1.3, "faster-coco-eval": 1.0}
"""Times of the reference that the project aims at, by backend."""

PEOPLE_A_PICTURE = 2.2
K = COCO_PERSON.num_keypoints


def made_up_people(pictures: int, rng: np.random.Generator) -> dict:
    """COCO annotations: a geometric number of people a picture, of all sizes, with hidden and unlabelled keypoints."""
    annotations = []
    for image_id in range(1, pictures + 1):
        for _ in range(min(14, rng.geometric(1 / PEOPLE_A_PICTURE))):
            size = np.exp(rng.uniform(np.log(25), np.log(350), 2))
            corner = rng.uniform(0, 640, 2) * 0.7
            visibility = rng.integers(0, 3, K) * (rng.random() > 0.4)
            xy = (corner + size * rng.random((K, 2))).round() * (visibility > 0)[:, None]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [*corner.tolist(), *size.tolist()],
                    "area": float(0.53 * size.prod()),
                    "iscrowd": int(rng.random() < 0.02),
                    "num_keypoints": int((visibility > 0).sum()),
                    "keypoints": np.column_stack([xy, visibility]).ravel().astype(int).tolist(),
                }
            )
    images = [{"id": image_id, "width": 640, "height": 480} for image_id in range(1, pictures + 1)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def made_up_predictions(truth: dict, count: int, rng: np.random.Generator) -> list[dict]:
    """Poses of annotated people with errors, some of them twice, one in four far from everybody."""
    people = rng.integers(0, len(truth["annotations"]), count)
    predictions = []
    for person in (truth["annotations"][place] for place in people):
        triples = np.reshape(person["keypoints"], (K, 3)).astype(float)
        triples[:, :2] += rng.normal(size=(K, 2)) * np.sqrt(person["area"]) * 0.06 * rng.exponential()
        triples[:, :2] += 400 * (rng.random() < 0.25)
        result = {"image_id": person["image_id"], "category_id": 1, "score": float(rng.random())}
        predictions.append(result | {"keypoints": triples.ravel().tolist()})
    return predictions


def plain(truth: dict, predictions: list[dict]) -> dict[str, float]:
    """What a user of pycocotools writes; it writes to both arguments."""
    with redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = truth
        annotated.createIndex()
        evaluation = COCOeval(annotated, annotated.loadRes(predictions), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))


def measure(
    candidates: dict[str, Callable[[dict, list[dict]], object]], truth: dict, predictions: list[dict], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, object]]:
    """Seconds of processor and of wall time of every call, and what each candidate gave."""
    busy: dict[str, list[float]] = {name: [] for name in candidates}
    wall: dict[str, list[float]] = {name: [] for name in candidates}
    given = {}
    for turn in range(repeats + 1):
        for name, call in candidates.items():
            arguments = copy.deepcopy((truth, predictions))
            started = time.process_time(), time.perf_counter()
            given[name] = call(*arguments)
            if turn:  # the first round also pays for memory that is touched for the first time
                busy[name].append(time.process_time() - started[0])
                wall[name].append(time.perf_counter() - started[1])
    return busy, wall, given


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; 0 when done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--pictures", type=int, default=5000, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--predictions", type=int, default=20_000, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds after the first (%(default)s)")
    parser.add_argument("--diagnosis", action="store_true", help="time the diagnosis too, as long as all else together")
    parser.add_argument("--out", metavar="FILE", help="JSON with every time and the machine")
    arguments = parser.parse_args(argv)
    facts = machine_facts(torch.device("cpu"))
    print(describe(facts))
    rng = np.random.default_rng(0)
    truth = made_up_people(arguments.pictures, rng)
    predictions = made_up_predictions(truth, arguments.predictions, rng)
    print(f"{arguments.pictures} pictures, {len(truth['annotations'])} people, {len(predictions)} predictions")

    def with_backend(backend: str) -> Callable[[dict, list[dict]], dict[str, float]]:
        return lambda people, found: evaluate_coco(people, found, backend=backend)

    installed = installed_backends()
    for name in BACKENDS.keys() - set(installed):
        print(f"{name} is not installed and is left out; pip install -e '.[fast]' for it")
    candidates: dict[str, Callable] = {REFERENCE: plain} | {name: with_backend(name) for name in installed}
    if arguments.diagnosis:
        candidates["diagnosis"] = diagnose
    busy, wall, given = measure(candidates, truth, predictions, arguments.repeats)
    reference = statistics.median(busy[REFERENCE])
    for name in candidates:
        ratio = statistics.median(busy[name]) / reference
        budget = f", aim {BUDGETS[name]}x" if name in BUDGETS else ""
        same = "" if name not in BACKENDS else f", AP off by {abs(given[name]['AP'] - given[REFERENCE]['AP']):.0e}"
        print(f"{name:<20} {statistics.median(busy[name]):7.2f} s processor time, {ratio:.2f}x{budget}{same}")
    if arguments.out:
        content = {"machine": facts, "arguments": vars(arguments), "processor_seconds": busy, "wall_seconds": wall}
        Path(arguments.out).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
