#!/usr/bin/env python
"""Trains the pose residual network: from labels alone, no picture is read.

    python prn_train/train.py                                    # synthetic people
    python prn_train/train.py --opt prn_train/options.toml --data COCO
    python prn_train/train.py --model multiposenet_lite --weights runs/train/best.safetensors

The result is a whole model's weights file with the pose residual network in it, trained; the rest is that of
``--weights``, or random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from progress.bar import Bar

from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.prn_samples import PrnAugmentation, PrnSamples
from multiposenet.data.sources import SELECTION_SEED, SYNTHETIC, TRAIN_SEED, open_dataset
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.distributed import is_first, process_group
from multiposenet.engine import BEST, LAST, Trainer, cosine_schedule, freeze, seed_everything
from multiposenet.evaluation.coco import evaluate_coco
from multiposenet.evaluation.grouping import group_labels
from multiposenet.methods import build_method, list_models
from multiposenet.models.prn import SOFTMAXES
from multiposenet.options import option, parse_options
from multiposenet.runs import describe_run, open_run
from multiposenet.structures import PersonLabels

CELLS = (28, 18)
"""Grid cells (h, w) per unit of ``coeff``."""

FREE_ON_RESUME = ("resume", "exp", "number_of_epoch", "num_workers", "device", "validate_every", "weights")
"""Options that may change when a run is resumed: length, place, and the weights it started from."""


@dataclass(frozen=True)
class PrnOptions:
    """Names without a hyphen twin are those of the public implementations, so that their settings can be given."""

    model: str = option("multiposenet_lite", "whose pose residual network", choices=list_models())
    weights: str | None = option(None, "whole model's weights file to start from")
    skeleton: str | None = option(None, "built-in skeleton or TOML file; default: the weights', else coco_person")
    data: str = option(SYNTHETIC, "'synthetic' or a folder in COCO's layout; pictures are not needed")
    split: str = option("train2017", "training split of the folder")
    limit: int | None = option(None, "only the first pictures with labelled keypoints")
    synthetic_count: int = option(2000, "synthetic pictures whose labels are learnt from")
    val_data: str | None = option(None, "validation data; default the same as --data")
    val_split: str = option("val2017", "validation split of the folder")
    val_limit: int | None = option(None, "only the first validation pictures with labelled keypoints")
    val_count: int = option(200, "synthetic validation pictures")
    number_of_epoch: int = option(16, "epochs", aliases=("epochs",))
    batch_size: int = option(64, "people a step")
    lr: float = option(1e-3, "Adam's rate")
    lr_gamma: float | None = option(None, "factor of the rate every second epoch from the third; default: cosine")
    node_count: int | None = option(None, "width of the hidden layers; default the model's")
    coeff: int | None = option(None, "grid of 28 x coeff by 18 x coeff cells; default the model's")
    softmax: str | None = option(None, "normalisation of the output; default the model's", choices=SOFTMAXES)
    threshold: float | None = option(None, "margin around the box in which peaks count; default the model's")
    num_of_keypoints: int = option(3, "learn from people with more labelled keypoints than this")
    window_size: int | None = option(None, "cells of the square in which a peak's score is collected; default 6 sigma")
    flip: float = option(0.5, "probability of mirroring a person")
    box_jitter: float = option(0.04, "noise of box corners, share of the box's sides")
    peak_jitter: float = option(0.02, "noise of peaks, share of the box's longer side")
    dropped: float = option(0.15, "probability that a peak is missing")
    false_peaks: float = option(0.3, "mean number of false peaks a box")
    validate_every: int = option(1, "epochs between validations")
    num_workers: int = option(4, "processes that draw synthetic people to label", aliases=("workers",))
    seed: int = option(0, "random seed")
    device: str | None = option(None, "default: a GPU when there is one")
    exp: str | None = option(None, "run folder; default runs/prn, numbered", aliases=("out",))
    resume: str | None = option(None, "run folder to go on with; give its options.toml by --opt first")


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains by command line; returns the file of the weights that came out."""
    options = parse_options(PrnOptions, argv, __doc__)
    with process_group(options.device) as device:
        return train(options, device)


def train(options: PrnOptions, device: torch.device) -> Path:
    """Trains as the options say; returns the file of the weights that came out."""
    folder = open_run(options, "prn", options.exp, FREE_ON_RESUME)
    seed_everything(options.seed)
    method = build_method(options.model, options.weights, options.skeleton, **model_options(options))
    grouping = method.decoder.grouping
    grid = grouping.grid
    model = method.model.to(device)
    freeze(model, [name for name, _ in model.named_children() if name != "prn"])

    training = open_dataset(
        options.data, options.split, method.skeleton, options.limit, options.synthetic_count, TRAIN_SEED,
        with_keypoints=True,
    )  # fmt: skip
    validation = open_dataset(
        options.val_data or options.data, options.val_split, method.skeleton, options.val_limit, options.val_count,
        SELECTION_SEED, with_keypoints=True,
    )  # fmt: skip
    samples = PrnSamples.from_labels(
        read_labels(training, options.num_workers), method.skeleton, options.num_of_keypoints + 1
    ).to(device)
    val_labels, truth = read_labels(validation, options.num_workers), validation.ground_truth()
    augmentation = PrnAugmentation(
        options.flip, options.box_jitter, options.peak_jitter, options.dropped, options.false_peaks
    )
    steps = options.number_of_epoch * -(-len(samples) // options.batch_size)
    optimizer = torch.optim.Adam(model.prn.parameters(), options.lr, fused=True)
    if options.lr_gamma is None:
        schedule = cosine_schedule(optimizer, steps, min(100, steps // 10))
    else:
        per_epoch = steps // options.number_of_epoch
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: options.lr_gamma ** ((step // per_epoch - 1) // 2 if step >= 3 * per_epoch else 0)
        )

    def validate(weights) -> dict[str, float]:
        weights.eval()
        group = replace(grouping, prn=weights.prn)
        results = group_labels(group, val_labels, validation.image_ids, method.skeleton, device)
        return evaluate_coco(truth, results, method.skeleton)

    facts = {
        "model": method.name,
        "options": method.options,
        "skeleton": method.skeleton.to_dict(),
        **{name: method.metadata[name] for name in ("image_size",) if name in method.metadata},
        "data": training.identity(),
        "seed": options.seed,
        "task": "prn",
        "started_from": method.metadata,
    }
    describe_run(folder, options, data=training.identity(), validation=validation.identity(), people=len(samples))
    trainer = Trainer(
        model,
        lambda model, batch: {"prn": model.prn.loss(batch.crops, batch.labels, batch.labelled)},
        optimizer,
        schedule,
        folder,
        facts,
        validate,
        frozen=tuple(name for name, _ in model.named_children() if name != "prn"),
    )
    if options.resume:
        trainer.resume(folder)
    trainer.fit(
        lambda epoch, first_step: samples.batches(
            options.batch_size, grid, augmentation, options.seed * 1_000_003 + epoch, first_step
        ),
        options.number_of_epoch,
        options.validate_every,
    )
    result = folder / (BEST if (folder / BEST).exists() else LAST)
    if is_first():
        print(f"{len(samples)} people; weights: {result}")
    return result


def model_options(options: PrnOptions) -> dict:
    """The builder's options that this script's flags stand for; a flag not given keeps what the model has."""
    wanted = {
        "prn_nodes": options.node_count,
        "prn_crop": None if options.coeff is None else tuple(side * options.coeff for side in CELLS),
        "prn_softmax": options.softmax,
        "prn_margin": options.threshold,
        "prn_window": None if options.window_size is None else options.window_size // 2,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def read_labels(dataset: CocoKeypoints | SyntheticPeople, workers: int) -> list[PersonLabels]:
    """The labels of every picture; synthetic people have to be drawn to know who hides whom."""
    if isinstance(dataset, CocoKeypoints):
        return [dataset.labels(index) for index in range(len(dataset))]
    loader = torch.utils.data.DataLoader(LabelsOnly(dataset), batch_size=8, num_workers=workers, collate_fn=list)
    with Bar("drawing people", max=len(dataset), check_tty=True) as bar:
        labels = []
        for batch in loader:
            labels += batch
            bar.next(len(batch))
    return labels


class LabelsOnly(torch.utils.data.Dataset):
    """A dataset's labels without its pictures, so that workers send little."""

    def __init__(self, dataset: SyntheticPeople) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> PersonLabels:
        return self.dataset[index].labels


if __name__ == "__main__":
    main()
