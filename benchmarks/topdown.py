#!/usr/bin/env python
"""Times a top-down method on a picture full of people: everybody at once, and one person at a time.

    python benchmarks/topdown.py --out topdown.json                   # MSPN, 20 people, 2 CPU threads
    python benchmarks/topdown.py --model topdown_lite --people 5

One person at a time is what published top-down code does: it cuts a crop, normalises it, and later blurs each
keypoint's map and looks for its two largest values, keypoint by keypoint. Here that is done with Pillow and NumPy, the
blur as two products of small matrices. Variants are called once a round, in an order shuffled anew each round; figures
are medians over the rounds. Weights are random, which costs the same time.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import describe, machine_facts
from PIL import Image
from timing import Times, take_turns
from torch import Tensor, nn

from multiposenet.crop_heatmaps import TAPS
from multiposenet.data.transforms import warp_image
from multiposenet.decode.crops import CropDecoder
from multiposenet.methods import build_method, family_of, list_models
from multiposenet.models.fusion import fuse_batch_norm, prepare_for_inference
from multiposenet.models.input_normalization import IMAGENET_MEAN, IMAGENET_STD
from multiposenet.structures import PersonBoxes, Poses

LIMITS = {"everything but the network, one by one / batched": 2.0, "network, published layers / ours": 1.0}
"""The least ratios that we ask of ourselves."""
PICTURE = (480, 640)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    work = Work(arguments.model, arguments.people)
    facts = machine_facts(torch.device("cpu"))
    print(describe(facts))
    check = work.check()
    times = take_turns(work.variants(), arguments.rounds, warm_up=1, shuffled=True)
    report = summary(times) | {"check": check}
    print("\n".join(lines(report, arguments)))
    if arguments.out:
        content = {"machine": facts, "arguments": vars(arguments) | {"out": str(arguments.out)}, **report}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class Work:
    """A picture, its people's boxes, and every way to deal with them."""

    def __init__(self, model: str, people: int) -> None:
        generator = np.random.default_rng(0)
        self.picture = generator.integers(0, 256, (*PICTURE, 3), dtype=np.uint8)
        corners = generator.uniform((0, 0), (PICTURE[1] - 120, PICTURE[0] - 200), (people, 2))
        sides = generator.uniform((40, 100), (120, 200), (people, 2))
        boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
        self.boxes = PersonBoxes(boxes, np.linspace(1, 0.1, people, dtype=np.float32))
        method = build_method(model, peak_rule="legacy")
        self.decoder: CropDecoder = method.decoder
        self.published = build_method(model).model.eval()
        self.published.load_state_dict(method.model.state_dict())
        self.folded = fuse_batch_norm(copy.deepcopy(self.published)).to(memory_format=torch.channels_last)
        self.model = prepare_for_inference(method.model.eval()).to(memory_format=torch.channels_last)
        self.crops = self.cut()
        self.heatmaps = peaked_maps(people, method.skeleton.num_keypoints, self.decoder.rule.size, generator)

    def cut(self) -> Tensor:
        """Everybody's crop in one call."""
        pixels = torch.from_numpy(self.picture).permute(2, 0, 1).float().div_(255)
        rule = self.decoder.rule
        return rule.cut(pixels, rule.windows(torch.from_numpy(self.boxes.boxes)))

    def decode(self) -> Poses:
        """Everybody's pose in one call."""
        windows = self.decoder.rule.windows(torch.from_numpy(self.boxes.boxes))
        return self.decoder(self.heatmaps, windows, [self.boxes], [PICTURE])[0]

    def cut_one_by_one(self) -> list[np.ndarray]:
        """Crop by crop, normalised, channels first."""
        image, rule = Image.fromarray(self.picture), self.decoder.rule
        mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
        crops = []
        for x1, y1, x2, y2 in self.boxes.boxes.tolist():
            sides = torch.tensor([(x2 - x1) * rule.extension[0], (y2 - y1) * rule.extension[1]])
            window = rule.window(((x1 + x2) / 2, (y1 + y2) / 2), float(rule.region_widths(sides)))
            pixels = np.asarray(warp_image(image, window, rule.border, rule.smooth), np.float32)
            crops.append(((pixels / 255 - mean) / std).transpose(2, 0, 1))
        return crops

    def decode_one_by_one(self) -> list[np.ndarray]:
        """Person by person and keypoint by keypoint: [K, 2] pixels of the picture each."""
        rule, poses = self.decoder.rule, []
        blur_rows, blur_columns = (blur_matrix(side // 4 + 20) for side in rule.size)
        for maps, (x1, y1, x2, y2) in zip(self.heatmaps.numpy(), self.boxes.boxes.tolist(), strict=True):
            sides = torch.tensor([(x2 - x1) * rule.extension[0], (y2 - y1) * rule.extension[1]])
            width = float(rule.region_widths(sides))
            corner = np.array([(x1 + x2) / 2 - width / 2, (y1 + y2) / 2 - width * rule.size[0] / rule.size[1] / 2])
            points = np.zeros((len(maps), 2))
            for k, one in enumerate(maps):
                points[k] = two_maxima(one, blur_rows, blur_columns)
            poses.append((4 * points + 2) * (width / rule.size[1]) + corner)
        return poses

    def check(self) -> dict[str, float]:
        """How far the ways' answers are apart: positions in pixels, maps as a share of the largest value."""
        poses = self.decode()
        order = [int((torch.from_numpy(self.boxes.boxes) - box).abs().sum(1).argmin()) for box in poses.boxes]
        plain = np.stack([self.decode_one_by_one()[row] for row in order])
        # The published code's pixels are indices where ours are continuous: half a pixel of the picture apart.
        scale = 1 / self.decoder.rule.windows(poses.boxes).scales.numpy()[:, None, None]
        apart = np.abs(poses.keypoints.numpy() - (plain - 0.5 + 0.5 * scale)).max()
        with torch.inference_mode():
            ours, theirs = (network(self.crops)[0].heatmaps for network in (self.model, self.published))
        return {
            "positions, pixels": float(apart),
            "maps, share of the largest": float((ours - theirs).abs().max() / theirs.abs().max()),
        }

    def variants(self) -> dict[str, Callable[[], object]]:
        """What is timed."""
        channels_last = self.crops.contiguous(memory_format=torch.channels_last)
        return {
            "crops, batched": self.cut,
            "crops, one by one": self.cut_one_by_one,
            "decoding, batched": self.decode,
            "decoding, one by one": self.decode_one_by_one,
            "network, ours": lambda: self.run(self.model, channels_last),
            "network, folded only": lambda: self.run(self.folded, channels_last),
            "network, published layers": lambda: self.run(self.published, self.crops),
        }

    @staticmethod
    def run(network: nn.Module, crops: Tensor) -> None:
        """All crops through a network, eight at a time."""
        with torch.inference_mode():
            for part in crops.split(8):
                network(part)


def peaked_maps(people: int, k: int, size: tuple[int, int], generator: np.random.Generator) -> Tensor:
    """Maps [P, K, h, w] with a Gaussian each, and noise."""
    height, width = size[0] // 4, size[1] // 4
    x, y = generator.uniform(4, width - 5, (people, k, 1, 1)), generator.uniform(4, height - 5, (people, k, 1, 1))
    rows, columns = np.mgrid[:height, :width]
    maps = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 4) + generator.uniform(0, 0.02, (people, k, height, width))
    return torch.from_numpy(maps.astype(np.float32))


def blur_matrix(side: int) -> np.ndarray:
    """[side, side], what blurs a line when it is multiplied with it."""
    taps = np.array(TAPS[5], np.float32)
    matrix = sum(np.eye(side, k=step, dtype=np.float32) * taps[abs(step)] for step in range(-2, 3))
    return matrix / (2 * taps.sum() - taps[0])


def two_maxima(one: np.ndarray, blur_rows: np.ndarray, blur_columns: np.ndarray) -> np.ndarray:
    """One map's position in cells: a quarter of the way from the largest value of the blurred map to the second."""
    padded = blur_rows @ np.pad(one, 10) @ blur_columns
    first = padded.argmax()
    padded.flat[first] = 0
    second = padded.argmax()
    columns = padded.shape[1]
    point, other = (np.array([cell % columns - 10, cell // columns - 10], np.float64) for cell in (first, second))
    step = other - point
    point += 0.25 * step / max(np.hypot(*step), 1e-6)
    return point.clip(0, (one.shape[1] - 1, one.shape[0] - 1))


def summary(times: dict[str, Times]) -> dict:
    """Medians, and the ratios that we ask of ourselves."""
    median = {name: own.median for name, own in times.items()}
    batched, single = (median[f"crops, {way}"] + median[f"decoding, {way}"] for way in ("batched", "one by one"))
    network = median["network, ours"]
    ratios = {
        "everything but the network, one by one / batched": single / batched,
        "network, published layers / ours": median["network, published layers"] / network,
        "network, published layers / folded only": median["network, published layers"] / median["network, folded only"],
        "network's share of the batched way": network / (network + batched),
    }
    return {"median_ms": median, "ratios": ratios}


def lines(report: dict, arguments: argparse.Namespace) -> list[str]:
    """The table."""
    table = [f"{arguments.model}, {arguments.people} people, medians of {arguments.rounds} rounds, milliseconds"]
    table += [f"  {name:<28} {value:9.1f}" for name, value in sorted(report["median_ms"].items())]
    for name, ratio in report["ratios"].items():
        limit = f"  (at least {LIMITS[name]})" if name in LIMITS else ""
        table.append(f"  {name:<50} {ratio:6.2f}{limit}")
    return table + [f"  apart: {name} {value:.2g}" for name, value in report["check"].items()]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    names = [name for name in list_models() if family_of(name).needs_boxes]
    parser.add_argument("--model", default="mspn_1stage", choices=names)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
