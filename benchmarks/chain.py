#!/usr/bin/env python
"""Times the whole chain and its parts beside torchvision's Keypoint R-CNN, all in one run.

    python benchmarks/chain.py --out chain.json                      # ResNet-50, 480x480, 2 CPU threads
    python benchmarks/chain.py --model multiposenet_lite --image-size 320
    python benchmarks/chain.py --weights multiposenet/assets/multiposenet_lite.safetensors --precision bf16

Every variant is called once a round, in an order shuffled anew each round, so that a slow moment of the machine hits
all alike; figures are medians over the rounds. Weights are random unless a file is given, and matter to no time; people
come in as ``known_people.py`` says. Keypoint R-CNN and the plain layout calculate in single precision always.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import torch
from known_people import ScriptedKeypointRCNN, ScriptedNetwork, check_found, draw_people, found_keypoints, raw_outputs
from machine import describe, machine_facts
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import keypointrcnn_resnet50_fpn

from multiposenet import list_models
from multiposenet.data.transforms import letterbox_image
from multiposenet.decode import grouping as grouping_module
from multiposenet.decode.chain import ChainDecoder
from multiposenet.methods import build_method
from multiposenet.models.fusion import prepare_for_inference
from multiposenet.options import parse_model_options
from multiposenet.precision import PRECISIONS, in_precision
from multiposenet.predictor import PosePredictor
from multiposenet.rasterize import PersonGrid
from multiposenet.structures import MultiPoseNetOutputs, Peaks, PersonLabels, Poses

CROWDS = (1, 5, 20, 30)
RCNN_CROWDS = (1, 5, 20)
LIMITS: dict[tuple[str, int], dict[str, float]] = {
    ("multiposenet_resnet50", 480): {
        "after the network, 20 people / network": 0.15,
        "chain, 30 people / 1 person": 1.25,
        "network / the same arithmetic in plain layout": 1.0,
        "chain / Keypoint R-CNN, 5 people": 1.0,
        "chain / Keypoint R-CNN, 20 people": 1.0,
    },
    # Real time: 30 ms for the network and 40 ms for the chain where Keypoint R-CNN takes 561 ms with one person.
    ("multiposenet_lite", 480): {
        "network / Keypoint R-CNN, 1 person": 30 / 561,
        "chain, 5 people / Keypoint R-CNN, 1 person": 40 / 561,
    },
}
"""The largest ratios that we allow ourselves, by model and picture size, on a CPU."""
STAGES = ("boxes", "peaks", "refiner", "rasterise", "PRN", "assignment", "rest of grouping")


@dataclass
class StageClock:
    """Wall seconds by stage; waits for the device before it reads the clock."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self.now()
        yield
        self.seconds[name] += self.now() - start

    def timed(self, name: str, function: Callable) -> Callable:
        """The same function, clocked."""

        def call(*args):
            with self.stage(name):
                return function(*args)

        return call

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class ClockedGrid(PersonGrid):
    """A person grid whose drawing is clocked."""

    clock: StageClock | None = None

    def draw(self, *args) -> Tensor:
        with self.clock.stage("rasterise"):
            return super().draw(*args)


def decode_by_stage(decoder: ChainDecoder, outputs: MultiPoseNetOutputs, clock: StageClock) -> Poses:
    """The decoder's own steps on one picture, each clocked; a grouping that is not the PRN's only as a whole."""
    grouping = decoder.grouping
    if isinstance(grouping, grouping_module.PoseResidualGrouping):
        grouping = replace(
            grouping,
            prn=clock.timed("PRN", grouping.prn),
            grid=ClockedGrid(**vars(grouping.grid), clock=clock),
        )
    refinement = decoder.refinement
    if refinement is not None:
        refinement = replace(refinement, network=clock.timed("refiner", refinement.network))
    decoder = replace(
        decoder,
        codec=_ClockedCodec(decoder.codec, clock),
        boxes=clock.timed("boxes", decoder.boxes),
        refinement=refinement,
        grouping=grouping,
    )
    assign = clock.timed("assignment", grouping_module.assign_one_to_one)
    with mock.patch.object(grouping_module, "assign_one_to_one", assign), clock.stage("all"):
        return decoder(outputs)[0].to("cpu")


@dataclass(frozen=True)
class _ClockedCodec:
    codec: object
    clock: StageClock

    def decode(self, *maps: Tensor | None) -> Peaks:
        with self.clock.stage("peaks"):
            return self.codec.decode(*maps)


class Bench:
    """The variants of one run, by name; each is called without arguments and may return seconds by stage."""

    def __init__(
        self,
        model: str | None,
        device: torch.device,
        image_size: int,
        options: dict | None = None,
        weights: str | None = None,
        precision: str = "fp32",
    ) -> None:
        torch.manual_seed(0)
        self.device = device
        self.image_size = image_size
        self.precision = precision
        self.plain = build_method(model, weights, **options or {}).model.to(device).eval()
        method = build_method(model, weights, **options or {})
        prepare_for_inference(method.model.eval())  # as multiposenet.load() does
        self.name = method.name
        self.predictor = PosePredictor(method, device, image_size, precision=precision)
        self.decoder = method.decoder
        picture, people = draw_people(max(CROWDS), (image_size, image_size), method.skeleton)
        self.picture = picture
        self.crowds = {p: _first(people, p) for p in CROWDS}
        self.images = letterbox_image(picture, image_size)[None].to(device).float().div(255)
        self.images_last = self.images.contiguous(memory_format=torch.channels_last)
        with in_precision(precision, device):
            own = self.predictor.model(self.images_last)[0]
        self.outputs = {p: raw_outputs(crowd, self.decoder, own) for p, crowd in self.crowds.items()}
        self.facts: dict = {"parameters": sum(p.numel() for p in method.model.parameters())}
        self.variants: dict[str, Callable[[], dict[str, float] | None]] = {
            "network": lambda: self._network(self.predictor.model, self.images_last, precision),
            "network, plain layout": lambda: self._network(self.plain, self.images, "fp32"),
        }
        for p in CROWDS:
            self._add_decode(p)
            self._add_chain(p)
        for layout in ("plain layout", "channels last"):
            self._add_rcnn(layout)

    def _network(self, model: nn.Module, images: Tensor, precision: str) -> None:
        with in_precision(precision, self.device):
            model(images)

    def _add_decode(self, people: int) -> None:
        def decode() -> dict[str, float]:
            clock = StageClock(self.device)
            decode_by_stage(self.decoder, self.outputs[people], clock)
            seconds = dict(clock.seconds)
            seconds["rest of grouping"] = seconds.pop("all") - sum(seconds.values())
            return seconds

        poses = self.decoder(self.outputs[people])[0].to("cpu")
        check_found(self.crowds[people], poses.boxes, "the decoder")
        self.facts[f"share of keypoints found, {people} people"] = found_keypoints(self.crowds[people], poses)
        self.variants[f"after the network, {people} people"] = decode

    def _add_chain(self, people: int) -> None:
        scripted = ScriptedNetwork(self.predictor.model, self.outputs[people])
        method = replace(self.predictor.method, model=scripted)
        predictor = PosePredictor(method, self.device, self.image_size, precision=self.precision)

        def chain() -> dict[str, float]:
            predictor.timings.clear()
            predictor(self.picture)
            return dict(predictor.timings)

        check_found(self.crowds[people], predictor(self.picture)[0].boxes, "the chain")
        self.variants[f"chain, {people} people"] = chain

    def _add_rcnn(self, layout: str) -> None:
        torch.manual_seed(0)
        model = keypointrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, min_size=self.image_size, max_size=self.image_size
        ).to(self.device)
        if layout == "channels last":
            model = model.to(memory_format=torch.channels_last)
        rcnn = ScriptedKeypointRCNN(model.eval())
        for p in RCNN_CROWDS:
            boxes = torch.from_numpy(self.crowds[p].boxes).to(self.device)
            found = rcnn(self.images[0], boxes)
            check_found(self.crowds[p], found["boxes"], "Keypoint R-CNN")
            if found["keypoints"].shape[:2] != (p, self.decoder.skeleton.num_keypoints):
                raise RuntimeError(f"Keypoint R-CNN gave keypoints of shape {list(found['keypoints'].shape)}")
            self.variants[f"Keypoint R-CNN, {p} people, {layout}"] = _discard(rcnn, self.images[0], boxes)
        self.facts[f"Keypoint R-CNN proposals, {layout}"] = len(rcnn.proposals)

    def gigaflops(self) -> float:
        """Arithmetic of one forward of the network, a multiplication and an addition counted as two."""
        counter = FlopCounterMode(display=False)
        with counter:
            self.plain(self.images)
        return counter.get_total_flops() / 1e9

    def run(self, repeats: int, warmup: int) -> dict[str, dict[str, list[float]]]:
        """Milliseconds of every round: variant -> stage ("all" is the whole call) -> [repeats]."""
        clock = StageClock(self.device)
        shuffler = random.Random(0)
        results: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in self.variants}
        for round_ in range(warmup + repeats):
            for name in shuffler.sample(list(self.variants), len(self.variants)):
                start = clock.now()
                stages = self.variants[name]() or {}
                seconds = {**stages, "all": clock.now() - start}
                if round_ >= warmup:
                    for stage, value in seconds.items():
                        results[name][stage].append(1000 * value)
        return results


def _discard(function: Callable, *args) -> Callable[[], None]:
    def call() -> None:
        function(*args)

    return call


def _first(people: PersonLabels, count: int) -> PersonLabels:
    return PersonLabels(**{name: value[:count] for name, value in vars(people).items()})


def summarize(results: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Median, lowest and highest of every list of figures."""
    return {
        name: {
            stage: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
            for stage, values in stages.items()
        }
        for name, stages in results.items()
    }


def ratios(medians: dict[str, dict[str, float]]) -> dict[str, float]:
    """What is compared with what."""

    def whole(name: str) -> float:
        return medians[name]["all"]

    def rcnn(people: int) -> float:
        return min(whole(f"Keypoint R-CNN, {people} people, {layout}") for layout in ("plain layout", "channels last"))

    return {
        "after the network, 20 people / network": whole("after the network, 20 people") / whole("network"),
        "chain, 30 people / 1 person": whole("chain, 30 people") / whole("chain, 1 people"),
        "network / the same arithmetic in plain layout": whole("network") / whole("network, plain layout"),
        "network / Keypoint R-CNN, 1 person": whole("network") / rcnn(1),
        "chain, 5 people / Keypoint R-CNN, 1 person": whole("chain, 5 people") / rcnn(1),
        "chain / Keypoint R-CNN, 5 people": whole("chain, 5 people") / rcnn(5),
        "chain / Keypoint R-CNN, 20 people": whole("chain, 20 people") / rcnn(20),
    }


def print_table(medians: dict[str, dict[str, float]]) -> None:
    """Milliseconds by number of people."""
    print(f"\n{'ms':42}" + "".join(f"{p:>9}" for p in CROWDS) + "  people")

    def row(title: str, prefix: str, suffix: str = "", stage: str = "all") -> None:
        names = [f"{prefix}{p} people{suffix}" for p in CROWDS]
        found = (medians.get(name, {}).get(stage) for name in names)
        cells = (f"{'':9}" if value is None else f"{value:9.1f}" for value in found)
        print(f"{title:42}" + "".join(cells))

    print(f"{'network':42}{medians['network']['all']:9.1f}")
    print(f"{'network, plain layout':42}{medians['network, plain layout']['all']:9.1f}")
    row("after the network", "after the network, ")
    for stage in STAGES:
        row(f"  {stage}", "after the network, ", stage=stage)
    row("chain, picture to poses", "chain, ")
    for stage in ("prepare", "network", "decode"):
        row(f"  {stage}", "chain, ", stage=stage)
    for layout in ("plain layout", "channels last"):
        row(f"torchvision Keypoint R-CNN, {layout}", "Keypoint R-CNN, ", f", {layout}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--model", choices=list_models(), help="by default what the weights say, or multiposenet_resnet50"
    )
    parser.add_argument("--weights", metavar="FILE", help="take the options of the model's builder from these")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="of the network (%(default)s)")
    parser.add_argument(
        "--model-options",
        default=(),
        type=lambda text: tuple(text.split(",")),
        metavar="NAME=VALUE,...",
        help="of the model's builder",
    )
    parser.add_argument("--image-size", type=int, default=480, metavar="N", help="side of the picture (%(default)s)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda, ... (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (%(default)s)")
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="rounds that count (%(default)s)")
    parser.add_argument("--warmup", type=int, default=2, metavar="N", help="rounds before them (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures as JSON")
    options = parser.parse_args()
    if options.threads < 1 or options.repeats < 1 or options.warmup < 0:
        parser.error("--threads and --repeats must be at least 1, --warmup at least 0")
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    facts = machine_facts(device)
    print(describe(facts), flush=True)
    with torch.inference_mode():
        given = parse_model_options(options.model_options, "model-options")
        model = options.model or (None if options.weights else "multiposenet_resnet50")
        bench = Bench(model, device, options.image_size, given, options.weights, options.precision)
        bench.facts["network GFLOP"] = bench.gigaflops()
        print(
            f"{bench.name}, {bench.facts['parameters'] / 1e6:.1f} M parameters, {bench.facts['network GFLOP']:.1f} "
            f"GFLOP a forward at {options.image_size}x{options.image_size}, {options.precision}; median of "
            f"{options.repeats} interleaved rounds",
            flush=True,
        )
        results = bench.run(options.repeats, options.warmup)
    summary = summarize(results)
    medians = {name: {stage: s["median"] for stage, s in stages.items()} for name, stages in summary.items()}
    print_table(medians)
    print()
    compared = ratios(medians)
    limits = LIMITS.get((bench.name, options.image_size), {}) if device.type == "cpu" else {}
    for what, ratio in compared.items():
        limit = limits.get(what)
        verdict = "" if limit is None else f"   at most {limit:.3f}: {'holds' if ratio <= limit else 'MISSED'}"
        print(f"{what:48}{ratio:8.3f}{verdict}")
    if options.out:
        content = {
            "machine": facts,
            "options": {name: str(value) for name, value in vars(options).items()},
            "facts": bench.facts,
            "milliseconds": summary,
            "ratios": {what: {"ratio": ratio, "limit": limits.get(what)} for what, ratio in compared.items()},
        }
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"figures: {options.out}")


if __name__ == "__main__":
    main()
