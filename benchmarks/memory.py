#!/usr/bin/env python
"""Predicts many pictures and watches the resident size of the process: it must not grow.

    python benchmarks/memory.py                        # the shipped weights, 1,000 synthetic pictures, two ways
    python benchmarks/memory.py --weights FILE --count 5000 --out memory.json

``calls`` calls the predictor picture by picture; ``stream`` feeds it a generator. Each way has a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from machine import describe, machine_facts

import multiposenet
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.predictor import DEFAULT_WEIGHTS, PosePredictor

SIZES = ((480, 480), (480, 640), (640, 480), (360, 500), (427, 640), (720, 480), (240, 320), (300, 300))
"""(height, width) of the pictures, in turn: sizes that vary are what a careless cache or allocator grows on."""
PICTURES_SEED = 31_000
STEP = 100
RANDOM_WEIGHTS = "multiposenet_lite"
ALLOWED_GROWTH = 0.05
WAYS = ("calls", "stream")


def resident_mib() -> float:
    """Resident size of this process in MiB; where the system does not tell (no Linux), its highest value so far."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest / 2**20 if sys.platform == "darwin" else highest / 1024


def draw_pool(count: int) -> list[np.ndarray]:
    """Some synthetic pictures of different sizes."""
    each = -(-count // len(SIZES))
    sets = [SyntheticPeople(each, PICTURES_SEED + i, size, people=(0, 8)) for i, size in enumerate(SIZES)]
    return [sets[i % len(sets)][i // len(sets)].image for i in range(count)]


def load_predictor(weights: str | None, device: str | None) -> PosePredictor:
    """The predictor of a weights file or model name. Random weights see nobody, so there every box is a person."""
    if weights in multiposenet.list_models():
        torch.manual_seed(0)
        return multiposenet.load(weights, device=device, box_threshold=0.0)
    return multiposenet.load(weights, device=device)


def watch(way: str, weights: str | None, device: str | None, count: int, pool_size: int, threads: int) -> dict:
    """Predicts ``count`` pictures one way; resident MiB every ``STEP`` pictures, and people found."""
    torch.set_num_threads(threads)
    pool = draw_pool(pool_size)
    predictor = load_predictor(weights, device)
    pictures = itertools.islice(itertools.cycle(pool), count)
    found = predictor.stream(pictures) if way == "stream" else _one_by_one(predictor, pictures)
    people, sizes = 0, {0: resident_mib()}
    print(f"{way}: {predictor.name}, {predictor.weights or 'random weights'}", flush=True)
    for done, poses in enumerate(found, start=1):
        people += len(poses)
        if done % STEP == 0:
            sizes[done] = resident_mib()
            print(f"{done:6d} pictures {sizes[done]:9.1f} MiB", flush=True)
    later = [size for done, size in sizes.items() if done > STEP]
    growth = max(later) / sizes[STEP] - 1
    print(f"{people} people; largest growth after the first {STEP} pictures {100 * growth:+.2f} %", flush=True)
    return {
        "model": predictor.name,
        "weights": predictor.weights,
        "people": people,
        "resident_mib": sizes,
        "growth": growth,
    }


def _one_by_one(predictor: PosePredictor, pictures: Iterator[np.ndarray]) -> Iterator[multiposenet.Poses]:
    for picture in pictures:
        yield predictor(picture)[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--weights", metavar="FILE", help="a weights file, or a model's name for random weights; by "
                        f"default the shipped weights, or {RANDOM_WEIGHTS} where there are none")  # fmt: skip
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="pictures to predict (%(default)s)")
    parser.add_argument("--pool", type=int, default=48, metavar="N", help="different pictures (%(default)s)")
    parser.add_argument("--way", choices=(*WAYS, "both"), default="both", help="(%(default)s)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda, ... (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures as JSON")
    options = parser.parse_args()
    if options.count < 2 * STEP or options.pool < 1 or options.threads < 1:
        parser.error(f"--count must be at least {2 * STEP}, --pool and --threads at least 1")
    torch.set_num_threads(options.threads)
    facts = machine_facts(torch.device(options.device))
    print(describe(facts), flush=True)
    shipped = Path(multiposenet.__file__).parent / "assets" / DEFAULT_WEIGHTS
    weights = options.weights or (None if shipped.exists() else RANDOM_WEIGHTS)
    results = {}
    for way in WAYS if options.way == "both" else (options.way,):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            arguments = (way, weights, options.device, options.count, options.pool, options.threads)
            results[way] = pool.submit(watch, *arguments).result()
    worst = max(result["growth"] for result in results.values())
    verdict = "holds" if worst <= ALLOWED_GROWTH else "MISSED"
    print(f"growth at most {100 * ALLOWED_GROWTH:.0f} %: {verdict} ({100 * worst:+.2f} %)")
    if options.out:
        content = {
            "machine": facts,
            "options": {name: str(value) for name, value in vars(options).items()},
            "results": results,
            "growth": worst,
            "limit": ALLOWED_GROWTH,
        }
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"figures: {options.out}")
    return 0 if worst <= ALLOWED_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
