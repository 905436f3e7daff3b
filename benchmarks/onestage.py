"""Keypoints out of the heatmaps of people's boxes: ours against torchvision's, on the same maps, in one run.

    python benchmarks/onestage.py --out onestage_times.json
    python benchmarks/onestage.py --threads 2 --repeats 20

Both find the highest pixel of every map enlarged bicubically to its box; torchvision enlarges it, person by person. The
boxes are those of synthetic people. Their maps are of three kinds: one clear maximum, as a trained network gives them;
upsampled noise, as an untrained one does; and noise in every cell, the worst case. Both take turns, one call each a
round, so that what disturbs the machine disturbs both; beside wall time stands the processors' time, in which other
programs have no part. The answers are compared in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from known_people import draw_people
from machine import describe, machine_facts
from timing import take_turns
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import keypointrcnn_inference

from multiposenet.geometry import xyxy_to_xywh
from multiposenet.roi_heatmaps import RoiCodec
from multiposenet.skeletons import COCO_PERSON

IMAGE_SIZE = (800, 1056)
SIZE = 56
AIM = 5.0
"""How many times as fast as torchvision's the project wants to be with 20 people on two cores."""


def upsampled(maps: Tensor) -> Tensor:
    """As the last layer of a keypoint head does it."""
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


def clear_maps(people: int, k: int, generator: torch.Generator) -> Tensor:
    """Logits [P, K, 56, 56] with one maximum each, a few cells wide, in mild noise."""
    places = torch.arange(SIZE // 2)
    centres = torch.rand(people, k, 2, generator=generator) * (SIZE // 2 - 1)
    far = (places - centres[..., 1:, None]).square().mT + (places - centres[..., :1, None]).square()
    return upsampled(12 * torch.exp(-far / 8) + 0.5 * torch.randn(far.shape, generator=generator))


def coarse_noise(people: int, k: int, generator: torch.Generator) -> Tensor:
    """Logits without a clear maximum."""
    return upsampled(4 * torch.randn(people, k, SIZE // 2, SIZE // 2, generator=generator))


def fine_noise(people: int, k: int, generator: torch.Generator) -> Tensor:
    """Logits that differ from cell to cell, as no network's do."""
    return torch.randn(people, k, SIZE, SIZE, generator=generator)


KINDS: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "clear maxima": clear_maps,
    "coarse noise": coarse_noise,
    "fine noise": fine_noise,
}


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; 0 when both answer alike, 1 when they do not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--people", nargs="+", type=int, default=[1, 20], metavar="N", help="how many (1 20)")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="rounds (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch; default its own choice")
    parser.add_argument("--device", default="cpu", help="where (%(default)s)")
    parser.add_argument("--out", metavar="FILE", help="JSON with every time and the machine")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    facts = machine_facts(device)
    print(describe(facts))

    codec, rows = RoiCodec(centre=0.0), []
    for people in arguments.people:
        boxes = torch.from_numpy(draw_people(people, IMAGE_SIZE, COCO_PERSON)[1].boxes).to(device)
        sides = xyxy_to_xywh(boxes)[:, 2:].mean(0).tolist()
        print(f"{people} people, boxes of {sides[0]:.0f} x {sides[1]:.0f} pixels in the mean")
        for kind, make in KINDS.items():
            logits = make(people, COCO_PERSON.num_keypoints, torch.Generator().manual_seed(0)).to(device)
            row = compare(codec, logits, boxes, arguments.repeats)
            rows.append({"people": people, "maps": kind, "mean_box": sides, **row})
            print(f"  {kind:<14}{row_text(row)}")
    if arguments.out:
        content = {"machine": facts, "image_size": IMAGE_SIZE, "rows": rows, "aim": AIM, "command": sys.argv}
        Path(arguments.out).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["largest_difference"] <= 0.01 for row in rows) else 1


def compare(codec: RoiCodec, logits: Tensor, boxes: Tensor, repeats: int) -> dict:
    """Times of both, their ratios, and by how many pixels their answers differ at most."""
    (wanted,), _ = keypointrcnn_inference(logits, [boxes])
    difference = (codec.decode(logits, boxes)[0] - wanted[..., :2]).abs().max()
    calls = take_turns(
        {"ours": lambda: codec.decode(logits, boxes), "torchvision": lambda: keypointrcnn_inference(logits, [boxes])},
        repeats,
    )
    times = {name: vars(own) for name, own in calls.items()}
    medians = {name: {clock: statistics.median(own) for clock, own in clocks.items()} for name, clocks in times.items()}
    ratios = {clock: medians["torchvision"][clock] / medians["ours"][clock] for clock in ("wall", "processor")}
    return {"largest_difference": float(difference), "median_ms": medians, "ratios": ratios, "times_ms": times}


def row_text(row: dict) -> str:
    """Medians and ratios in one line."""
    medians, ratios = row["median_ms"], row["ratios"]
    return (
        f"ours {medians['ours']['wall']:8.1f} ms, torchvision {medians['torchvision']['wall']:8.1f} ms: "
        f"{ratios['wall']:5.1f} times as fast, {ratios['processor']:5.1f} in processor time; "
        f"answers differ by {row['largest_difference']:.4f} pixels at most"
    )


if __name__ == "__main__":
    sys.exit(main())
