#!/usr/bin/env python
"""Pictures a second that training data come at, beside torchvision's reference detection pipeline, in one run.

    python benchmarks/loading.py                                 # synthetic people, written to a temporary folder
    python benchmarks/loading.py --data COCO --split val2017 --out loading.json

All pipelines read the same files in the same order with one thread each, taking turns round by round; figures are
medians. Of pictures that are cropped and coloured on the device only what a loader's process does is counted. The last
lines train the small network on the loader for some steps, on a GPU where there is one, and tell how long it waited for
pictures; what the device does to them is then part of its work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe, machine_facts
from torch.utils.data import Dataset
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from multiposenet import create_model
from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.loading import EpochBatches, open_loader
from multiposenet.data.pending import PendingImage
from multiposenet.data.picture_cache import CachedSamples
from multiposenet.data.transforms import training_transform
from multiposenet.data.whole_image import WholeImageDataset, collate

ROOT = Path(__file__).resolve().parent.parent
CROP = 256
REFERENCE = 352
ROUND = 40
"""Pictures that a pipeline reads before the next one's turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder in COCO's layout; default: synthetic people, drawn for this run")
    parser.add_argument("--split", default="train2017")
    parser.add_argument("--pictures", type=int, default=200, help="how many pictures of labelled people to read")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="training steps whose waiting is measured")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = machine_facts(device)
    print(describe(facts))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = Path(arguments.data) if arguments.data else draw(folder / "people", arguments.pictures, arguments.split)
        source = CocoKeypoints(data, arguments.split, limit=arguments.pictures, with_keypoints=True)
        transform = training_transform(CROP, REFERENCE, colours=False)
        plain = WholeImageDataset(source, transform)
        cached = WholeImageDataset(CachedSamples(source, folder / "cache", round(REFERENCE * 1.2)), transform)
        for index in range(len(cached)):
            cached[index]  # filling the cache is not what is measured
        coloured = training_transform(CROP, REFERENCE)
        on_device = WholeImageDataset(source, coloured, picture=PendingImage)
        cached_on_device = WholeImageDataset(cached.source, coloured, picture=PendingImage)
        pipelines: dict[str, Dataset] = {
            "ours, crop, no colour changes": plain,
            "ours, with colour changes": WholeImageDataset(source, coloured),
            "ours, from the cache, no colour changes": cached,
            "ours, decoded only, the rest on the device": on_device,
            "ours, from the cache, the rest on the device": cached_on_device,
            "torchvision's reference detection pipeline": torchvision_reference(data, arguments.split, source),
        }
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        rates = pictures_a_second({name: reader(dataset) for name, dataset in pipelines.items()}, arguments.rounds)
        torch.set_num_threads(threads)
        theirs = rates["torchvision's reference detection pipeline"]
        for name, rate in rates.items():
            print(f"{name:45} {rate:7.1f} pictures/s a core  {rate / theirs:5.2f}x")
        waiting = {
            name: share_of_waiting(dataset, arguments.workers, arguments.steps, device)
            for name, dataset in (
                ("files", plain),
                ("cache", cached),
                ("files, with colours, augmentation on the device", on_device),
                ("the cache, with colours, augmentation on the device", cached_on_device),
            )
        }
        for name, (share, rate) in waiting.items():
            print(f"training on {name}: {rate:.1f} pictures/s, {share:.1%} of the time waiting for pictures")
    if arguments.out:
        figures = {"pictures_a_second_a_core": rates, "training": waiting, "machine": facts}
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def draw(folder: Path, count: int, split: str) -> Path:
    """Synthetic people as files."""
    options = ["--out", str(folder), "--count", str(count), "--seed", "1", "--split", split, "--people", "0-8"]
    command = [sys.executable, str(ROOT / "datasets" / "synthesize.py"), *options, "--workers", str(os.cpu_count())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def torchvision_reference(data: Path, split: str, source: CocoKeypoints) -> Dataset:
    """CocoDetection with the transforms of torchvision's detection reference (preset hflip), pictures of our size.

    It reads the pictures of ``source`` in their order. torchvision makes no mask of an empty segmentation, so the box
    takes its place: nobody is left out.
    """
    folder = next(folder for folder in source.picture_folders if folder.is_dir())
    annotations = data / "annotations" / f"person_keypoints_{split}.json"
    transforms = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(0.5),
            v2.Resize(REFERENCE - 1, max_size=REFERENCE),
            v2.ToDtype(torch.float, scale=True),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )
    dataset = CocoDetection(str(folder), str(annotations), transforms=transforms)
    for person in dataset.coco.anns.values():
        if not person.get("segmentation"):
            x, y, width, height = person["bbox"]
            person["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    wrapped = wrap_dataset_for_transforms_v2(dataset, target_keys=("boxes", "labels", "masks"))
    position = {image_id: index for index, image_id in enumerate(dataset.ids)}
    return torch.utils.data.Subset(wrapped, [position[image_id] for image_id in source.image_ids])


def reader(dataset: Dataset) -> Callable[[int], None]:
    """Reads the next pictures, round after round."""
    place = 0

    def read(count: int) -> None:
        nonlocal place
        for _ in range(count):
            dataset[place % len(dataset)]
            place += 1

    return read


def pictures_a_second(readers: dict[str, Callable[[int], None]], rounds: int) -> dict[str, float]:
    """Median rate of each reader, all taking turns; two rounds before that fill caches."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(rounds + 2):
        for name, read in readers.items():
            start = time.perf_counter()
            read(ROUND)
            if number >= 2:
                rates[name].append(ROUND / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def share_of_waiting(dataset: Dataset, workers: int, steps: int, device: torch.device) -> tuple[float, float]:
    """Share of a training's time that it waits for its loader, and its pictures a second."""
    torch.manual_seed(0)
    model = create_model("multiposenet_lite").to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    batches = EpochBatches(len(dataset), 8 * (steps + 5), 8, seed=0, epoch=0)
    waited, begin = 0.0, time.perf_counter()
    mark = begin
    pinned = device.type == "cuda"
    for step, batch in enumerate(open_loader(dataset, batches, collate, workers, pinned)):
        if step == 5:  # the workers' start is not what a long training waits for
            waited, begin = 0.0, time.perf_counter()
        elif step > 5:
            waited += time.perf_counter() - mark
        batch = batch.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            losses = model(batch.images.contiguous(memory_format=torch.channels_last), batch.targets)[1]
        optimizer.zero_grad()
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        optimizer.step()
        float(loss.detach())  # as a training does, which looks whether it is finite: or the device would lag behind
        mark = time.perf_counter()
    seconds = mark - begin
    return waited / seconds, 8 * steps / seconds


if __name__ == "__main__":
    main()
