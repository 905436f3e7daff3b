"""Times of grouping by itself, every rival in one run: peaks and boxes in, people out.

    python benchmarks/grouping.py --out grouping_times.json
    python benchmarks/grouping.py --threads 2 --repeats 30

Weights play no part in the time that the arithmetic takes, so the networks are untrained; peaks and boxes are made up:
people of about one size in a square picture, standing so close that most boxes overlap. The candidates take turns, one
call each a round, so that what disturbs the machine disturbs all of them; ratios are of medians of one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from machine import describe, machine_facts

from multiposenet.groupings import GROUPINGS
from multiposenet.skeletons import COCO_PERSON
from multiposenet.structures import Detections, Peaks

BUDGETS = {
    ("20 people", "set_assignment"): 5.0,
    ("20 people", "pose_residual"): 60.0,
    ("100 people", "set_assignment"): 25.0,
}
"""Milliseconds on two cores that the project aims at."""

BATCH = 16


def crowd(people: int, pictures: int = 1, seed: int = 0) -> tuple[Peaks, Detections]:
    """Pictures of ``people`` upright people each, every keypoint with its peak, in random order.

    Boxes of about 60 x 120 pixels on a square of 100 pixels a person, anywhere: they cover three quarters of the
    picture, most overlap with a neighbour, and a window enlarged by half sees four people.
    """
    generator = torch.Generator().manual_seed(seed)
    k = COCO_PERSON.num_keypoints
    side = 100.0 * people**0.5

    def even(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    corners = even(pictures, people, 2) * side
    sides = torch.tensor([60.0, 120.0]) * (0.8 + 0.4 * even(pictures, people, 1))
    shares = 0.1 + 0.8 * even(1, 1, k, 2) + 0.05 * torch.randn(pictures, people, k, 2, generator=generator)
    xy = (corners[:, :, None] + shares * sides[:, :, None]).transpose(1, 2)  # [N, K, P, 2]
    order = even(pictures, k, people).argsort(-1)
    peaks = xy.gather(2, order[..., None].expand(-1, -1, -1, 2))
    found = torch.ones(pictures, k, people, dtype=torch.bool)
    there = torch.ones(pictures, people, dtype=torch.bool)
    return (
        Peaks(peaks, 0.5 + 0.5 * even(pictures, k, people), found),
        Detections(torch.cat([corners, corners + sides], -1), there.float(), there),
    )


def one_picture(peaks: Peaks, detections: Detections, row: int) -> tuple[Peaks, Detections]:
    """Picture ``row`` of a batch."""
    rows = slice(row, row + 1)
    return (
        Peaks(peaks.xy[rows], peaks.scores[rows], peaks.valid[rows]),
        Detections(detections.boxes[rows], detections.scores[rows], detections.valid[rows]),
    )


def measure(candidates: dict[str, Callable[[], object]], repeats: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Milliseconds of every call; the candidates take turns."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warm_up + repeats):
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm_up:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; 0 when done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--groupings", nargs="+", default=list(GROUPINGS), choices=list(GROUPINGS), help="which (all)")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="rounds (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch; default its own choice")
    parser.add_argument("--device", default="cpu", help="where (%(default)s)")
    parser.add_argument("--out", metavar="FILE", help="JSON with every time and the machine")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    facts = machine_facts(device)
    print(describe(facts))

    groupings = {}
    for name in arguments.groupings:
        network, groupings[name] = GROUPINGS[name](COCO_PERSON)
        network.to(device).eval()
    rows, calls = [], {}
    for scene, people in (("20 people", 20), ("100 people", 100)):
        given = [part.to(device) for part in crowd(people)]
        calls |= {(scene, name): _call(grouping, given) for name, grouping in groupings.items()}
    batch = [part.to(device) for part in crowd(6, BATCH)]
    singles = [one_picture(*batch, row) for row in range(BATCH)]
    for name, grouping in groupings.items():
        calls[f"{BATCH} pictures at once", name] = _call(grouping, batch)
        calls[f"{BATCH} pictures one by one", name] = _calls(grouping, singles)

    times = measure(calls, arguments.repeats)
    medians = {key: statistics.median(own) for key, own in times.items()}
    for (scene, name), own in times.items():
        budget = BUDGETS.get((scene, name))
        rows.append({"scene": scene, "grouping": name, "median_ms": medians[scene, name], "times_ms": own,
                     "budget_ms": budget})  # fmt: skip
        aim = "" if budget is None else f"   aim {budget:.0f} ms"
        print(f"{scene:<24}{name:<18}{medians[scene, name]:9.2f} ms   (least {min(own):.2f}){aim}")
    ratios = {
        name: medians[f"{BATCH} pictures one by one", name] / medians[f"{BATCH} pictures at once", name]
        for name in groupings
    }
    for name, ratio in ratios.items():
        print(f"{BATCH} pictures at once are {ratio:.1f} times as fast as one by one: {name}")
    if arguments.out:
        content = {"machine": facts, "rows": rows, "one_by_one_over_at_once": ratios, "command": sys.argv}
        Path(arguments.out).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def _call(grouping: Callable, given: Sequence) -> Callable[[], object]:
    return lambda: grouping(*given)


def _calls(grouping: Callable, pictures: Sequence[Sequence]) -> Callable[[], object]:
    return lambda: [grouping(*given) for given in pictures]


if __name__ == "__main__":
    sys.exit(main())
