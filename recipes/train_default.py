#!/usr/bin/env python
"""Makes the weights that ship with the package, from seeds, COCO's keypoint labels and a few of its photographs.

    python recipes/train_default.py --work DIR --labels COCO --photos COCO_MINI

Draws synthetic people to disk; trains the set assignment on COCO's labels and the shared network on the drawn pictures
in several parts (small crops, then people of all sizes; heights first, then chances); lets the set assignment hear
what all maps and the features below them hold at a peak, and teaches it that network's own peaks and boxes; trains the
network on, at last with a refiner, and teaches a grown set assignment now and then; three times trains a branch of it
that sees photographs beside one that does not, and takes the mean of both; measures the chain on held-out people;
writes the weights with all of this in their metadata. Steps whose result lies in DIR already are not repeated. Without
--photos the branches that need them are left out.
Where two processes train (``torchrun``), each has one thread: on two cores a third more pictures a second than one
process with two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from multiposenet import checkpoint
from multiposenet.data.arrangements import ARRANGEMENTS
from multiposenet.data.sources import SYNTHETIC_KINDS, TRAIN_SEED, VALIDATION_SEED
from multiposenet.engine import seed_everything
from multiposenet.groupings import PART
from multiposenet.methods import PoseMethod, build_method
from multiposenet.options import OPTIONS_FILE
from multiposenet.predictor import DEFAULT_WEIGHTS

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Drawn:
    """Synthetic people on disk.

    Args:
        arrangement: of the people.
        count: pictures.
        seed: other pictures for another one.
    """

    arrangement: str
    count: int
    seed: int = TRAIN_SEED


DRAWN = {
    "people": Drawn("crowded", 16_000),
    "people_like_coco": Drawn("coco", 12_000),
    "more_people": Drawn("crowded", 4_000, TRAIN_SEED + 1),
    "more_people_like_coco": Drawn("coco", 12_000, TRAIN_SEED + 1),
    "still_more_people": Drawn("crowded", 4_000, TRAIN_SEED + 2),
    "still_more_people_like_coco": Drawn("coco", 12_000, TRAIN_SEED + 2),
}
"""By the name of their folder."""

NAMES = {arrangement: name for name, arrangement in SYNTHETIC_KINDS.items()}
"""By arrangement, the name of the same data when they are drawn on the fly."""


@dataclass(frozen=True)
class Lesson:
    """What a network finds in the training pictures, learnt by its set assignment after one of the parts.

    Args:
        passes: over the pictures.
        thresholds: of peaks and boxes, options of the network.
        grouping: options of the set assignment beyond those it has.
        image_size: longest side of the pictures.
        data: the pictures, keys of ``DRAWN``. Whether the lesson helped is seen on people arranged as in the first.
        pictures: so many of each of them.
    """

    passes: int
    thresholds: Mapping[str, float] = field(default_factory=lambda: {"peak_threshold": 0.15, "box_threshold": 0.25})
    grouping: Mapping[str, int | bool] = field(default_factory=dict)
    image_size: int = 576
    data: tuple[str, ...] = ("people_like_coco",)
    pictures: int = 12_000


@dataclass(frozen=True)
class Part:
    """One training of the shared network, with ``recipes/default_NAME.toml``.

    Args:
        processes: that train.
        data: what it learns from, keys of ``DRAWN`` or ``PHOTOS``.
        pasted: whether people of the photographs are pasted into all pictures.
        after: the part that it goes on from; by default the one before.
    """

    processes: int = 1
    data: tuple[str, ...] = ("people",)
    pasted: bool = False
    after: str | None = None


@dataclass(frozen=True)
class Mean:
    """Weights on the line between those of two parts that began with the same ones.

    Args:
        first, second: the parts.
        share: of the second one. Without photographs, which only the second sees, the first alone is taken.
    """

    first: str
    second: str
    share: float


PHOTOS = "photos"
BOTH = ("people", "people_like_coco")
OTHERS = ("more_people_like_coco", "more_people")
THIRD = ("still_more_people_like_coco", "still_more_people")
STEPS: dict[str, Part | Mean] = {
    "a": Part(), "b": Part(2), "c": Part(2), "d": Part(2), "e": Part(), "f": Part(2), "g": Part(2),
    "h": Part(data=BOTH), "i": Part(data=BOTH), "j": Part(data=BOTH), "k": Part(data=BOTH), "l": Part(2, BOTH),
    "m": Part(data=BOTH), "n": Part(data=BOTH),
    "o": Part(data=(*BOTH, PHOTOS), after="m"), "p": Part(data=(*BOTH, PHOTOS), pasted=True),
    "first_mean": Mean("n", "p", 0.3),
    "q": Part(data=OTHERS), "r": Part(data=(*OTHERS, PHOTOS), pasted=True, after="first_mean"),
    "second_mean": Mean("q", "r", 0.4),
    "s": Part(data=THIRD), "t": Part(data=(*THIRD, PHOTOS), pasted=True, after="second_mean"),
    "third_mean": Mean("s", "t", 0.6),
}  # fmt: skip
"""What is done to the shared network, in this order, each with what the step before or ``after`` gave.

AP on 200 drawn pictures for choosing and on 52 photographs of val2017, before the lessons, by the share of the first
mean: 0.3: 0.645, 0.061; 0.4: 0.635, 0.072; 0.5: 0.626, 0.086; of the second: 0.3: 0.667, 0.067; 0.4: 0.668, 0.081; 0.5:
0.662, 0.097; 0.6: 0.657, 0.110; of the third: 0.4: 0.681; 0.5: 0.678, 0.106; 0.6: 0.674, 0.120; on half of the drawn
pictures 0: 0.667; 0.3: 0.666, 0.077; 0.5: 0.658; 0.7: 0.646, 0.138."""

FIRST_WITH_CHANCES = "e"

LESSONS = {
    "f": Lesson(
        4,
        {"peak_threshold": 0.08, "box_threshold": 0.1},
        {"evidence": True, "appearance": 32, "candidates": 6},
        data=("people",),
    ),
    "g": Lesson(
        8,
        grouping={"candidates": 8, "layers": 4, "hearing": 4},
        image_size=640,
        data=("people",),
    ),
    "h": Lesson(6),
    "i": Lesson(8),
    "l": Lesson(8, grouping={"looks": True}),
    "m": Lesson(4),
    "first_mean": Lesson(4),
    "second_mean": Lesson(4, image_size=640, data=("more_people_like_coco",)),
    "third_mean": Lesson(5, image_size=640, data=THIRD, pictures=4_000),
}
"""After which steps there is a lesson. The second has higher thresholds: the first one's let through twice as many
tokens, and AP was no higher for them (0.381 with its own, 0.385 with these, on the pictures for choosing). What the
first had learnt held for other pictures as much as for its own (AP 0.373 and 0.385), so the second has more to learn
with."""

CHANCES = {"map_answer": "chances", "peak_weight": 0.0, "peak_sigma": 1.25, "peak_threshold": 0.15}
"""Options of the network from ``FIRST_WITH_CHANCES`` on."""

ONLY_TRAINING = ("peak_weight", "intermediate_weight", "detection_weight", "refiner_weight")
"""Weights of losses: they were this recipe's and are nobody's default."""

STEEPNESS = 9.2
"""logit(0.99) - logit(0.01): a height of 0 becomes a chance of 1 %, a height of 1 one of 99 %."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs, about 5.5 GB")
    parser.add_argument(
        "--labels", type=Path, required=True, help="folder with COCO's annotations/; no pictures"
    )
    parser.add_argument(
        "--photos", type=Path, help="folder in COCO's layout whose train2017 pictures are learnt from too"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "multiposenet" / "assets" / DEFAULT_WEIGHTS)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)

    folders = {name: draw_people(work, name) for name in DRAWN} | {PHOTOS: arguments.photos}
    grouping = work / "grouping"
    step(
        grouping / "finished",
        "prn_train/train.py", "--opt", ROOT / "prn_train" / "set_assignment.toml", "--data", arguments.labels,
        "--layers", 3, "--number_of_epoch", 6, "--label_cache", work / "labels", "--exp", grouping,
    )  # fmt: skip
    learnt = grouping / "last.safetensors"
    results: dict[str, Path] = {}
    trainings: list[Path] = []
    weights, start = learnt, "--init"
    for name, done in STEPS.items():
        if isinstance(done, Mean):
            weights = results[done.first]
            if done.second in results:
                weights = mean_of(weights, results[done.second], done.share, work / f"{name}.safetensors")
        elif PHOTOS in done.data and arguments.photos is None:
            continue
        else:
            weights = weights if done.after is None else results[done.after]
            if name == FIRST_WITH_CHANCES:
                weights = as_chances(weights, work / "chances.safetensors")
            run = work / f"shared_{name}"
            step(
                run / "finished",
                "train_posenet.py", "--opt", ROOT / "recipes" / f"default_{name}.toml",
                "--data", ",".join(str(folders[data]) for data in done.data), "--out", run,
                start, f"prn={weights}" if start == "--init" else weights,
                *(("--paste", arguments.photos) if done.pasted else ()),
                processes=done.processes,
            )  # fmt: skip
            weights, start = run / "last.safetensors", "--weights"
            trainings.append(weights)
        if name in LESSONS:
            learnt = weights = teach_grouping(weights, learnt, LESSONS[name], work / f"own_outputs_{name}")
        results[name] = weights
    figures = {arrangement: measure(weights, arrangement, work, "evaluation") for arrangement in NAMES}
    export(weights, trainings, grouping / "last.safetensors", figures, arguments.out)


def draw_people(work: Path, name: str) -> Path:
    """The folder of training pictures with synthetic people, a key of ``DRAWN``; it is drawn unless it is there."""
    drawn = DRAWN[name]
    most = ARRANGEMENTS[drawn.arrangement].people[1]
    step(
        work / name / "annotations" / "person_keypoints_train2017.json",
        "datasets/synthesize.py", "--out", work / name, "--count", drawn.count, "--seed", drawn.seed,
        "--split", "train2017", "--arrangement", drawn.arrangement, "--people", f"0-{most}", "--workers", 2,
    )  # fmt: skip
    return work / name


def teach_grouping(weights: Path, learnt: Path, lesson: Lesson, out: Path) -> Path:
    """Weights of the network whose set assignment, ``learnt`` so far, knows what the network finds."""
    start = as_used(weights, learnt, lesson, out.with_name(f"{out.name}_start.safetensors"))
    step(
        out / "finished",
        "prn_train/train.py", "--opt", ROOT / "prn_train" / "own_outputs.toml", "--weights", start,
        "--data", ",".join(str(draw_people(out.parent, name)) for name in lesson.data), "--limit", lesson.pictures,
        "--val_data", NAMES[DRAWN[lesson.data[0]].arrangement], "--flip", 0, "--precision", "bf16",
        "--number_of_epoch", lesson.passes, "--exp", out,
        processes=2,
    )  # fmt: skip
    return out / "last.safetensors"


def mean_of(first: Path, second: Path, share: float, out: Path) -> Path:
    """Weights on the line between those of two trainings that began with the same ones.

    Such a mean can be better than either (Wortsman et al., *Model soups*, ICML 2022), and keeps of each what it alone
    has learnt.

    Args:
        first, second: the two.
        share: of the second one.
        out: the file.
    """
    one, other = (build_method(weights=weights) for weights in (first, second))
    tensors = one.model.state_dict()
    for name, tensor in other.model.state_dict().items():
        if tensor.is_floating_point():
            tensors[name] = torch.lerp(tensors[name], tensor, share)
    other.model.load_state_dict(tensors)
    return save(other, other.metadata["image_size"], out)


def as_chances(weights: Path, out: Path) -> Path:
    """The same network with maps that are logits of chances: the last layers' heights, scaled and moved."""
    heights = build_method(weights=weights)
    chances = build_method(heights.name, skeleton=heights.skeleton, **heights.options | CHANCES)
    tensors = heights.model.state_dict()
    for name in tensors:
        if name.startswith(("keypoint_subnet.predict.", "keypoint_subnet.supervise.")):
            tensors[name] = tensors[name] * STEEPNESS - (STEEPNESS / 2 if name.endswith("bias") else 0)
    chances.model.load_state_dict(tensors)
    return save(chances, heights.metadata["image_size"], out)


def as_used(weights: Path, grouping: Path, lesson: Lesson, out: Path) -> Path:
    """The network as it will be used, with the set assignment of the file ``grouping``, by itself or in a chain.

    Where the lesson asks for a larger one it is grown: more hidden numbers of which nothing is heard yet, more layers
    that add nothing yet (Chen et al., Net2Net, ICLR 2016), so that it answers as before.
    """
    learnt = build_method(weights=weights, parts={PART: grouping})
    options = {name: value for name, value in learnt.options.items() if name not in ONLY_TRAINING}
    options |= lesson.thresholds | {"grouping_options": options["grouping_options"] | lesson.grouping}
    seed_everything(0)  # what is new in a set assignment that has grown
    used = build_method(learnt.name, skeleton=learnt.skeleton, **options)
    tensors = learnt.model.state_dict()
    grow(used.model, tensors)
    used.model.load_state_dict(tensors)
    return save(used, lesson.image_size, out)


def save(method: PoseMethod, image_size: int, out: Path) -> Path:
    """Writes weights that can be trained on or used by themselves."""
    checkpoint.save_weights(method.model, out, method.facts | {"image_size": image_size})
    return out


def grow(model: nn.Module, learnt: dict[str, Tensor]) -> None:
    """Makes what a model with a smaller set assignment has learnt fit one whose larger one is new, in place.

    Args:
        model: with the new set assignment as its part ``prn``.
        learnt: tensors of the other model, under the same names.

    Raises:
        ValueError: the other one has what this one lacks.
    """
    own = model.state_dict()
    if not learnt.keys() <= own.keys():
        raise ValueError(f"there is no place for {', '.join(sorted(learnt.keys() - own.keys()))}")
    adds_to_tokens = (".answer.", f".perceptron.{len(model.prn.among_tokens[0].perceptron) - 1}.")
    for name, new in own.items():
        if name in learnt:
            old = learnt[name]
            grown = new.clone()
            grown[tuple(map(slice, old.shape))] = old
        else:
            grown = torch.zeros_like(new) if any(part in name for part in adds_to_tokens) else new.clone()
        learnt[name] = grown


def step(result: Path, script: str, *arguments: object, processes: int = 1) -> None:
    """Runs one of the project's scripts, in one or more processes with one thread each, unless its result is there.

    A training that was interrupted goes on.
    """
    if result.exists():
        print(f"{script}: {result} is there")
        return
    if (result.parent / OPTIONS_FILE).exists():  # of a training that was interrupted
        arguments = (*arguments, "--resume", result.parent)
    launcher, environment = [], dict(os.environ)
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, *launcher, str(ROOT / script), *map(str, arguments)]
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True, env=environment)
    if result.name == "finished":
        result.touch()


def measure(weights: Path, arrangement: str, work: Path, name: str, *flags: object) -> dict[str, float]:
    """COCO's ten numbers on held-out people of an arrangement."""
    out = work / f"{name}_{arrangement}"
    step(
        out / "metrics.json",
        "evaluate/run_coco.py", "--data", NAMES[arrangement], "--weights", weights, "--out", out, *flags,
    )  # fmt: skip
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))["metrics"]


def evaluated(figures: dict[str, dict[str, float]], where: str = "") -> dict:
    """What weights say about :func:`measure`'s figures of both arrangements."""
    return {
        "evaluated_on": f"200 crowded synthetic pictures, seed {VALIDATION_SEED}{where}",
        "figures": figures["crowded"],
        "figures_like_coco": figures["coco"],
    }


def all_data(trainings: Sequence[Mapping]) -> list[dict]:
    """What trainings of these metadata have learnt from, each data set once, as the last training that saw it says.

    Of people who were pasted into it in an earlier training, that one's word stays.
    """
    found: dict[str, dict] = {}
    for facts in trainings:
        for source in facts["data"] if isinstance(facts["data"], list) else [facts["data"]]:
            found[source["sha256"]] = found.pop(source["sha256"], {}) | source
    return list(found.values())


def export(
    weights: Path, trainings: Sequence[Path], grouping: Path, figures: dict[str, dict[str, float]], out: Path
) -> None:
    """Writes the weights in half precision, with where they come from and what they reach.

    Args:
        weights: after the last lesson.
        trainings: weights of all trainings of the shared network.
        grouping: weights of the set assignment's training on labels.
        figures: by arrangement, see :func:`measure`.
        out: the file.
    """
    method = build_method(weights=weights)
    *shared, labels, own = (checkpoint.load_tensors(file)[1] for file in (*trainings, grouping, weights))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    metadata = {
        **method.facts,
        "image_size": own["image_size"],
        "licence": "Apache-2.0",
        "data": all_data(shared),
        "grouping_data": {"labels": labels["data"], "own_outputs": own["data"]},
        "seed": shared[-1]["seed"],
        "commit": commit.stdout.strip() or "unknown",
        "recipe": "recipes/train_default.py",
        **evaluated(figures),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_weights(method.model, out, metadata, dtype=torch.float16)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, sha256 {checkpoint.sha256(out)}")


if __name__ == "__main__":
    main()
