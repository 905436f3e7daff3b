#!/usr/bin/env python
"""Trains what groups keypoints into people: from labels alone, no picture is read.

    python prn_train/train.py                                    # synthetic people
    python prn_train/train.py --opt prn_train/options.toml --data COCO
    python prn_train/train.py --opt prn_train/set_assignment.toml --data COCO
    python prn_train/train.py --model multiposenet_lite --weights runs/train/best.safetensors
    python prn_train/train.py --weights MODEL --init GROUPING --learn_from network --data COCO      # needs the pictures

With a whole model the result is that model's weights file with its grouping in it, trained; the rest is that of
``--weights``, or random. With a grouping (``pose_residual``, ``set_assignment``) it is a file of the grouping alone,
which a whole model takes as its part ``prn``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset

from multiposenet.bad_input import run_script
from multiposenet.checkpoint import learnt_parts
from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.grouping_outputs import OutputSamples, check_mirroring
from multiposenet.data.grouping_samples import GroupingBatch, PictureAugmentation, PictureSamples
from multiposenet.data.prn_samples import PrnAugmentation, PrnSamples
from multiposenet.data.sources import (
    SELECTION_SEED,
    SYNTHETIC,
    TRAIN_SEED,
    joint_identity,
    open_dataset,
    read_labels,
    split_names,
)
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.distributed import is_first, process_group, world_size
from multiposenet.engine import (
    BEST,
    LAST,
    Trainer,
    cosine_schedule,
    freeze,
    seed_everything,
)
from multiposenet.evaluation.grouping_detections import network_input
from multiposenet.evaluation.grouping_inputs import INPUTS, make_input
from multiposenet.evaluation.grouping_scores import measure_grouping
from multiposenet.groupings import GROUPINGS, PART, GroupingMethod, build_grouping
from multiposenet.methods import PoseMethod, build_method, list_models_with_grouping
from multiposenet.models.prn import SOFTMAXES
from multiposenet.models.set_assignment import SetAssignment
from multiposenet.options import POSITIVE, SHARE, Range, check_numbers, option, parse_options
from multiposenet.precision import PRECISIONS
from multiposenet.predictor import PosePredictor
from multiposenet.runs import describe_run, open_run
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels, TensorFields

CELLS = (28, 18)
"""Grid cells (h, w) per unit of ``coeff``."""

FREE_ON_RESUME = (
    "resume", "exp", "number_of_epoch", "num_workers", "device", "validate_every", "label_cache", "weights", "init"
)  # fmt: skip
"""Options that may change when a run is resumed: length, place, and the weights it started from."""

SOURCES = ("labels", "network")

SET_OPTIONS = ("width", "layers", "candidates")
"""Those of the builder's options that only the set assignment has."""

GOALS = ("AP", "AP_degraded", "AP_mean")
"""Figures that can decide which weights are best: on the labels as they are, on both degraded, their mean."""


@dataclass(frozen=True)
class PrnOptions:
    """Names without a hyphen twin are those of the public implementations, so that their settings can be given."""

    model: str = option(
        "multiposenet_lite",
        "a whole model, whose grouping is trained, or a grouping by itself",
        choices=[*list_models_with_grouping(), "pose_residual", "set_assignment"],
    )
    weights: str | None = option(None, "weights file of that model to start from")
    init: str | None = option(None, "whole model: a grouping's own file that takes the place of the weights' grouping")
    skeleton: str | None = option(None, "built-in skeleton or TOML file; default: the weights', else coco_person")
    data: str = option(
        SYNTHETIC,
        "'synthetic', 'synthetic_coco' or a folder in COCO's layout, or several of them separated by commas; pictures "
        "are not needed",
    )
    split: str = option("train2017", "training split of the folder")
    limit: int | None = option(None, "only each one's first pictures with labelled keypoints")
    synthetic_count: int = option(2000, "synthetic pictures whose labels are learnt from")
    val_data: str | None = option(None, "validation data; default the first of --data")
    val_split: str = option("val2017", "validation split of the folder")
    val_limit: int | None = option(None, "only the first validation pictures with labelled keypoints")
    val_count: int = option(200, "synthetic validation pictures")
    label_cache: str | None = option(None, "folder for packed copies of the labels; default beside them, if possible")
    number_of_epoch: int = option(16, "epochs", aliases=("epochs",))
    batch_size: int = option(64, "people a step")
    lr: float = option(1e-3, "Adam's rate")
    clip: float = option(0.0, "largest gradient norm; 0 is no limit")
    precision: str = option("fp32", "arithmetic, also of a network that is learnt from", tuple(PRECISIONS))
    lr_gamma: float | None = option(None, "factor of the rate every second epoch from the third; default: cosine")
    node_count: int | None = option(None, "width of the hidden layers; default the model's")
    coeff: int | None = option(None, "grid of 28 x coeff by 18 x coeff cells; default the model's")
    softmax: str | None = option(None, "normalisation of the output; default the model's", choices=SOFTMAXES)
    threshold: float | None = option(None, "margin around the box in which peaks count; default the model's")
    num_of_keypoints: int = option(3, "pose residual: learn from people with more labelled keypoints than this")
    curriculum: int = option(0, "pose residual: epochs before the hardest people are learnt from too, easy ones first")
    window_size: int | None = option(None, "cells of the square in which a peak's score is collected; default 6 sigma")
    width: int | None = option(None, "set assignment: width of a token; default the model's")
    layers: int | None = option(None, "set assignment: rounds of attention; default the model's")
    candidates: int | None = option(None, "set assignment: candidates a keypoint; default the model's")
    flip: float = option(0.5, "probability of mirroring a person")
    box_jitter: float = option(0.04, "noise of box corners, share of the box's sides")
    peak_jitter: float = option(0.02, "noise of peaks, share of the box's longer side (set assignment: person's size)")
    dropped: float = option(0.15, "probability that a peak is missing")
    false_peaks: float = option(0.3, "mean number of false peaks a box")
    missing_boxes: float = option(0.1, "set assignment: probability that a person has no box")
    false_boxes: float = option(0.5, "set assignment: mean number of false boxes a picture")
    score_noise: float = option(0.1, "set assignment: mean shortfall of the scores of true peaks and boxes")
    zoom: float = option(0.3, "set assignment: spread of the logarithm of a picture's scale")
    learn_from: str = option(
        "labels",
        "set assignment in a whole model: degraded labels, or what that model's --weights find in the pictures",
        choices=SOURCES,
    )
    clean: float = option(0.3, "set assignment: share of pictures with clean peaks, and of those with clean boxes")
    goal: str = option("AP", "figure by which the best weights are chosen", choices=GOALS)
    validate_every: int = option(1, "epochs between validations")
    num_workers: int = option(4, "processes that draw synthetic people to label", aliases=("workers",))
    seed: int = option(0, "random seed")
    device: str | None = option(None, "default: a GPU when there is one")
    exp: str | None = option(None, "run folder; default runs/prn, numbered", aliases=("out",))
    resume: str | None = option(None, "run folder to go on with, with its options")

    def __post_init__(self) -> None:
        counts = ("number_of_epoch", "batch_size", "synthetic_count", "val_count", "limit", "val_limit")
        sizes = ("node_count", "coeff", "window_size", "width", "layers", "candidates")
        check_numbers(self, Range(1), *counts, *sizes, "validate_every")
        check_numbers(self, POSITIVE, "lr", "lr_gamma")
        check_numbers(self, SHARE, "flip", "dropped", "missing_boxes", "clean")
        noises = ("box_jitter", "peak_jitter", "false_peaks", "false_boxes", "score_noise", "zoom")
        check_numbers(self, Range(0), *noises, "clip", "threshold", "curriculum", "num_workers", "seed")


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains by command line; returns the file of the weights that came out."""
    options = parse_options(PrnOptions, argv, __doc__)
    with process_group(options.device) as device:
        return train(options, device)


def train(options: PrnOptions, device: torch.device) -> Path:
    """Trains as the options say; returns the file of the weights that came out."""
    folder = open_run(options, "prn", options.exp, FREE_ON_RESUME)
    seed_everything(options.seed)
    method, kind, grouping = open_method(options)
    model = method.model.to(device)
    others = tuple(part for part in learnt_parts(model) if part != "prn")
    freeze(model, others)

    packed = options.label_cache or True
    names = split_names(options.data)
    sources = [
        open_dataset(
            name, options.split, method.skeleton, options.limit, options.synthetic_count, TRAIN_SEED,
            with_keypoints=True, label_cache=packed,
        )
        for name in names
    ]  # fmt: skip
    data = joint_identity(sources)
    validation = open_dataset(
        options.val_data or names[0], options.val_split, method.skeleton, options.val_limit, options.val_count,
        SELECTION_SEED, with_keypoints=True, label_cache=packed,
    )  # fmt: skip
    if options.learn_from == "network":
        lessons, validate = output_lessons(method, kind, sources, validation, device, options)
    else:
        labels = [labels for source in sources for labels in read_labels(source, options.num_workers)]
        lessons = LESSONS[kind](labels, picture_names(sources), method.skeleton, grouping, device, options)
        validate = validation_figures(grouping, validation, options.num_workers, method.skeleton, device)
    optimizer = torch.optim.Adam(model.prn.parameters(), options.lr, fused=True)
    schedule = rate_schedule(optimizer, sum(map(lessons.steps, range(options.number_of_epoch))), options)
    facts = {
        **method.facts,
        **{name: method.metadata[name] for name in ("image_size",) if name in method.metadata},
        "data": data,
        "seed": options.seed,
        "task": "prn",
        "started_from": method.metadata,
    }
    describe_run(folder, options, data=data, validation=validation.identity(), people=lessons.people)
    trainer = Trainer(
        model,
        lambda model, batch: lessons.losses(model.prn, batch),
        optimizer,
        schedule,
        folder,
        facts,
        validate,
        goal=options.goal,
        precision=options.precision,
        clip=options.clip,
        frozen=others,
    )
    if options.resume:
        trainer.take_up()
    trainer.fit(
        lambda epoch, first_step: lessons.batches(epoch, options.seed * 1_000_003 + epoch, first_step),
        options.number_of_epoch,
        options.validate_every,
    )
    result = folder / (BEST if (folder / BEST).exists() else LAST)
    if is_first():
        print(f"{lessons.people} people; weights: {result}")
    return result


def open_method(options: PrnOptions) -> tuple[PoseMethod | GroupingMethod, str, Callable]:
    """What is trained, which kind of grouping it has (a key of ``LESSONS``), and the grouping."""
    given = {name: value for name, value in model_options(options).items() if value is not None}
    if options.model in GROUPINGS:
        method = build_grouping(options.model, options.weights, options.skeleton, **given)
        return method, method.name, method.grouping
    own = {name: given.pop(name) for name in SET_OPTIONS if name in given}
    chain = {f"prn_{name}": value for name, value in given.items()} | ({"grouping_options": own} if own else {})
    parts = {} if options.init is None else {PART: options.init}
    method = build_method(options.model, options.weights, options.skeleton, parts, **chain)
    return method, method.options["grouping"], method.decoder.grouping


def model_options(options: PrnOptions) -> dict:
    """The builder's options that this script's flags stand for; one that is None keeps what the model has."""
    return {
        "nodes": options.node_count,
        "crop": None if options.coeff is None else tuple(side * options.coeff for side in CELLS),
        "softmax": options.softmax,
        "margin": options.threshold,
        "window": None if options.window_size is None else options.window_size // 2,
        "width": options.width,
        "layers": options.layers,
        "candidates": options.candidates,
    }


@dataclass(frozen=True)
class Lessons:
    """How one kind of grouping is taught.

    Args:
        people: learnt from.
        steps: epoch -> optimiser steps in it.
        batches: (epoch, seed, first step) -> the epoch's batches from that step on.
        losses: (network, batch) -> dict of scalar losses.
    """

    people: int
    steps: Callable[[int], int]
    batches: Callable[[int, int, int], Iterator[TensorFields]]
    losses: Callable[[nn.Module, Any], dict[str, Tensor]]


def picture_names(sources: Sequence[CocoKeypoints | SyntheticPeople]) -> list[str]:
    """File names of all pictures, one data set's after the other's."""
    return [source.image_name(index) for source in sources for index in range(len(source))]


def grid_lessons(
    labels: list[PersonLabels],
    names: list[str],
    skeleton: Skeleton,
    grouping: Any,
    device: torch.device,
    options: PrnOptions,
) -> Lessons:
    """For the pose residual network: one person's grid a sample."""
    samples = PrnSamples.from_labels(labels, skeleton, options.num_of_keypoints + 1, names).to(device)
    augmentation = PrnAugmentation(
        options.flip, options.box_jitter, options.peak_jitter, options.dropped, options.false_peaks
    )

    def of_epoch(epoch: int) -> PrnSamples:
        return samples if epoch >= options.curriculum else samples.easiest((epoch + 1) / (options.curriculum + 1))

    return Lessons(
        people=len(samples),
        steps=lambda epoch: -(-len(of_epoch(epoch)) // options.batch_size),
        batches=lambda epoch, seed, first_step: of_epoch(epoch).batches(
            options.batch_size, grouping.grid, augmentation, seed, first_step
        ),
        losses=lambda prn, batch: {"prn": prn.loss(batch.crops, batch.labels, batch.labelled)},
    )


def picture_lessons(
    labels: list[PersonLabels],
    names: list[str],
    skeleton: Skeleton,
    grouping: Any,
    device: torch.device,
    options: PrnOptions,
) -> Lessons:
    """For the set assignment: a whole picture a sample. Its prior is fitted here, in one pass over the labels."""
    samples = PictureSamples.from_labels(labels, skeleton, names).to(device)
    augmentation = PictureAugmentation(
        flip=options.flip,
        zoom=options.zoom,
        clean=options.clean,
        box_jitter=options.box_jitter,
        peak_jitter=options.peak_jitter,
        dropped=options.dropped,
        false_peaks=options.false_peaks,
        missing_boxes=options.missing_boxes,
        false_boxes=options.false_boxes,
        score_noise=options.score_noise,
    )
    if options.weights is None:
        grouping.scorer.network.prior.fit(samples.keypoints, samples.visibility, samples.boxes)
    return Lessons(
        people=samples.people,
        steps=lambda epoch: samples.steps(options.batch_size),
        batches=lambda epoch, seed, first_step: samples.batches(options.batch_size, augmentation, seed, first_step),
        losses=losses_of_pictures,
    )


def losses_of_pictures(network: SetAssignment, batch: GroupingBatch) -> dict[str, Tensor]:
    """What the set assignment has to learn from a batch."""
    losses = network.loss(**{name: value for name, value in vars(batch).items() if name != "names"})
    if world_size() > 1:
        # Where no box is there nothing is attended to, and the other processes would wait for gradients for ever.
        losses["choice"] = losses["choice"] + 0 * sum(parameter.sum() for parameter in network.parameters())
    return losses


def output_lessons(
    method: PoseMethod | GroupingMethod,
    kind: str,
    training: Sequence[CocoKeypoints | SyntheticPeople],
    validation: CocoKeypoints | SyntheticPeople,
    device: torch.device,
    options: PrnOptions,
) -> tuple[Lessons, Callable[[nn.Module], dict[str, float]]]:
    """For the set assignment of a whole model: a whole picture a sample, with the peaks and boxes that the model finds.

    It starts from a grouping that has learnt from labels; that one's prior stays.

    Returns:
        lessons, and a function that measures the model's people on the validation pictures.

    Raises:
        ValueError: there is no trained model to find anything, or it has another kind of grouping, or one that hears
            what cannot be mirrored.
    """
    if kind != "set_assignment" or not isinstance(method, PoseMethod) or options.weights is None:
        raise ValueError(
            "learn_from = 'network' needs a whole model (--model) with trained --weights, and a set assignment to "
            f"start from (--init FILE); got model {options.model!r}, weights {options.weights}, grouping {kind!r}"
        )
    check_mirroring(options.flip, method.decoder.appearance)  # before the network's pass, which takes long
    predictor = PosePredictor(method, device, precision=options.precision)
    found = network_input(predictor, ConcatDataset(training))
    names = picture_names(training)
    samples = OutputSamples.from_outputs(**vars(found), skeleton=method.skeleton, names=names).to(device)
    measured, truth = network_input(predictor, validation), validation.ground_truth()

    def validate(weights: nn.Module) -> dict[str, float]:
        weights.eval()
        return measure_grouping(
            method.decoder.grouping, measured, validation.image_ids, truth, method.skeleton, device=device
        ).numbers

    return Lessons(
        people=samples.people,
        steps=lambda epoch: samples.steps(options.batch_size),
        batches=lambda epoch, seed, first_step: samples.batches(
            options.batch_size, options.flip, options.zoom, seed, first_step
        ),
        losses=losses_of_pictures,
    ), validate


LESSONS: dict[str, Callable[..., Lessons]] = {"pose_residual": grid_lessons, "set_assignment": picture_lessons}


def rate_schedule(
    optimizer: torch.optim.Optimizer, steps: int, options: PrnOptions
) -> torch.optim.lr_scheduler.LambdaLR:
    """Half a cosine over all steps of the run, or the published decay."""
    if options.lr_gamma is None:
        return cosine_schedule(optimizer, steps, min(100, steps // 10))
    per_epoch = steps // options.number_of_epoch
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: options.lr_gamma ** ((step // per_epoch - 1) // 2 if step >= 3 * per_epoch else 0)
    )


def validation_figures(
    grouping: Callable,
    validation: CocoKeypoints | SyntheticPeople,
    workers: int,
    skeleton: Skeleton,
    device: torch.device,
) -> Callable[[nn.Module], dict[str, float]]:
    """A function that measures the grouping on the validation labels, as they are and degraded."""
    labels, truth = read_labels(validation, workers), validation.ground_truth()
    image_ids = validation.image_ids
    clean, degraded = (
        make_input(labels, image_ids, skeleton.num_keypoints, *INPUTS[name])
        for name in ("ground truth", "both degraded")
    )

    def validate(weights: nn.Module) -> dict[str, float]:
        weights.eval()  # the grouping holds this very network: no averaged weights are kept here
        figures = measure_grouping(grouping, clean, image_ids, truth, skeleton, device=device).numbers
        low = measure_grouping(grouping, degraded, image_ids, truth, skeleton, device=device).numbers["AP"]
        return {**figures, "AP_degraded": low, "AP_mean": (figures["AP"] + low) / 2}

    return validate


if __name__ == "__main__":
    run_script(main, "train.py")
