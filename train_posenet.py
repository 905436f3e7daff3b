#!/usr/bin/env python
"""Trains the network of a method: MultiPoseNet's keypoint subnet, person detector, or both; MSPN, RSN and others.

    python train_posenet.py                                     # synthetic people, keypoints first, then the detector
    python train_posenet.py --data COCO --train joint           # a folder with annotations/ and train2017/
    python train_posenet.py --model mspn_2stage --opt recipes/mspn.toml --data COCO
    python train_posenet.py --opt runs/train/options.toml --data COCO
    torchrun --nproc_per_node 4 train_posenet.py ...            # the same training on four GPUs (or processes)

The pose residual network has its own script, ``prn_train/train.py``; until it is trained it passes peaks through.
"""

from __future__ import annotations

import copy
import math
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import ConcatDataset, Dataset

from multiposenet.bad_input import run_script
from multiposenet.box_sources import label_boxes
from multiposenet.checkpoint import load_weights
from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.loading import EpochBatches, open_loader
from multiposenet.data.mpii import MPII_FORMAT, MpiiKeypoints
from multiposenet.data.pasting import CutOuts, PastedPeople
from multiposenet.data.pending import PICTURES
from multiposenet.data.picture_cache import CachedSamples
from multiposenet.data.sources import (
    LAYOUTS,
    SELECTION_SEED,
    SYNTHETIC,
    SYNTHETIC_KINDS,
    TRAIN_SEED,
    joint_identity,
    open_dataset,
    split_names,
)
from multiposenet.data.whole_image import SampleSource
from multiposenet.distributed import is_first, process_group, share_from_first, synchronise_batch_norm, wait_for_all
from multiposenet.engine import (
    BEST,
    LAST,
    SCHEDULES,
    Trainer,
    freeze,
    seed_everything,
)
from multiposenet.evaluation.chain import evaluate_predictor
from multiposenet.evaluation.mpii import predict_people, score_mpii, truth_of
from multiposenet.families.family import Task, Teaching, TrainingView
from multiposenet.methods import PoseMethod, build_method, list_models
from multiposenet.optimizers import MuonAdamW
from multiposenet.options import (
    POSITIVE,
    SHARE,
    Range,
    check_numbers,
    choose,
    option,
    parse_model_options,
    parse_options,
    parse_pairs,
)
from multiposenet.precision import PRECISIONS
from multiposenet.predictor import SMALLEST_IMAGE, PosePredictor
from multiposenet.runs import describe_run, open_run, watch_in_tensorboard
from multiposenet.skeletons import USUAL_SIGMA

OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "muon": MuonAdamW,
}

FREE_ON_RESUME = (
    *("resume", "out", "epochs", "stop_epoch", "workers", "device", "validate_every", "keep", "save_seconds"),
    *("tensorboard", "cache", "augment_on"),
    *("weights", "backbone_weights", "init"),
)
"""Options that may change when a run is resumed: length, place, and the weights it started from."""


@dataclass(frozen=True)
class TrainOptions:
    """Defaults: from scratch on synthetic people."""

    model: str = option("multiposenet_lite", "network to train", choices=list_models())
    train: str | None = option(
        None, "task of the model, by default its first; MultiPoseNet's: separate (keypoints, then detection), "
        "keypoints, detection, joint"
    )  # fmt: skip
    model_options: tuple[str, ...] = option((), "options of the model's builder, e.g. prm=true,crop=384x288")
    frozen: tuple[str, ...] = option((), "further parts of the model to freeze, by name")
    skeleton: str = option("coco_person", "built-in skeleton or TOML file")
    weights: str | None = option(None, "weights to start from: a whole model's file")
    backbone_weights: str | None = option(None, "'imagenet' or a torchvision state dict, for the backbone only")
    init: tuple[str, ...] = option((), "parts to take from other files, e.g. prn=runs/prn/best.safetensors")
    data: str = option(
        SYNTHETIC,
        "'synthetic', 'synthetic_coco', a folder in COCO's layout, or several with commas",
        aliases=("cocopath",),
    )
    format: str = option("coco", "how the folders' files are laid out", tuple(LAYOUTS))
    split: str = option("train2017", "training split of the folder")
    limit: int | None = option(None, "only the first pictures with labelled keypoints")
    synthetic_count: int = option(100_000, "size of the synthetic training set")
    epoch_size: int | None = option(None, "pictures an epoch, drawn at random; default all (4000 for synthetic data)")
    shares: tuple[float, ...] | None = option(
        None, "how much of an epoch comes from each of several --data, e.g. 3,1; default what their sizes say"
    )  # fmt: skip
    paste: str | None = option(
        None, "folder in COCO's layout whose people are cut out and pasted into the training pictures"
    )  # fmt: skip
    pasted: float = option(0.5, "share of the pictures that people are pasted into, with --paste")
    cache: str | None = option(
        None, "folder to keep decoded training pictures in, no larger than the model looks at them"
    )  # fmt: skip
    val_data: str | None = option(None, "validation data; default the first of --data")
    val_split: str = option("val2017", "validation split of the folder")
    val_limit: int | None = option(None, "only the first validation pictures with labelled keypoints")
    val_count: int = option(100, "size of the synthetic validation set")
    image_size: int | None = option(
        None, "long side of what the network sees, a picture (at scale 1) or a person's crop; default the model's"
    )  # fmt: skip
    crop: int | None = option(None, "side of the training crop of a whole picture; default image_size")
    augment: bool = option(True, "random crop, scale, rotation, flip and colour; off: as in use, nothing random")
    augment_on: str = option(
        "loader", "where pictures are cropped, turned and coloured: by the loader's processes, or where the network is",
        tuple(PICTURES),
    )  # fmt: skip
    colours: bool | None = option(None, "random colour changes, when augmenting; default the model's")
    scale: tuple[float, ...] | None = option(None, "range of the random scale; default the model's")
    rotation: float | None = option(None, "largest random rotation, degrees; default the model's")
    flip: float | None = option(None, "probability of mirroring; default the model's")
    half_body: float | None = option(None, "probability of half a person in a person's crop; default the model's")
    upper: float | None = option(None, "probability that half a person is the upper half; default the model's")
    further_extension: tuple[float, ...] | None = option(
        None, "largest random growth (x, y) of the box of a person's crop, a share; default the model's"
    )  # fmt: skip
    epochs: int = option(30, "epochs of every phase", aliases=("number_of_epoch",))
    stop_epoch: int | None = option(None, "stop after this epoch, in the middle of the schedule")
    batch_size: int = option(8, "pictures a step, over all processes and passes")
    passes: int = option(1, "batches that a step is the mean of, computed one after the other to save memory")
    optimizer: str = option("adamw", "how steps are taken; adam, sgd: decay joins the gradient", tuple(OPTIMIZERS))
    lr: float = option(1e-3, "the optimiser's rate")
    detection_lr: float | None = option(None, "rate of the detection phase; default the same")
    schedule: str = option("cosine", "how the rate falls", (*SCHEDULES, "plateau"))
    lr_gamma: float = option(0.1, "factor of the plateau schedule")
    warmup: int = option(200, "steps of linear warm-up (cosine, linear, steps)")
    weight_decay: float = option(0.0, "weight decay")
    clip: float = option(10.0, "largest gradient norm; 0 for none")
    ema_decay: float = option(0.998, "decay of the averaged weights that are kept; 0 for none")
    precision: str = option("fp32", "arithmetic", tuple(PRECISIONS))
    sync_batch_norm: bool = option(True, "batch statistics over all processes")
    recompute: bool = option(False, "compute activations twice instead of keeping them, to save memory")
    validate_every: int = option(5, "epochs between validations")
    patience: int = option(0, "stop after this many validations without a better AP; 0 never")
    keep: int = option(2, "training states to keep")
    save_seconds: float = option(60.0, "seconds between training states; 0 saves after every step")
    tensorboard: bool = option(False, "write TensorBoard's files into the run folder (needs the extra [tensorboard])")
    workers: int = option(2, "processes that prepare pictures", aliases=("num_workers",))
    seed: int = option(0, "random seed")
    device: str | None = option(None, "default: a GPU when there is one")
    out: str | None = option(None, "run folder; default runs/train, numbered", aliases=("exp",))
    resume: str | None = option(None, "run folder to go on with, with its options")

    def __post_init__(self) -> None:
        for name, meaning in (("scale", "low,high"), ("further_extension", "x,y")):
            given = getattr(self, name)
            if given is not None and len(given) != 2:
                raise ValueError(f"{name} must be two numbers, {meaning}; got {given}")
        counts = ("epochs", "stop_epoch", "batch_size", "passes", "epoch_size", "synthetic_count", "val_count", "keep")
        check_numbers(self, Range(1), *counts, "limit", "val_limit", "validate_every")
        check_numbers(self, Range(SMALLEST_IMAGE), "image_size", "crop")
        check_numbers(self, POSITIVE, "lr", "detection_lr", "lr_gamma", "scale", "shares")
        check_numbers(self, SHARE, "pasted", "flip", "half_body", "upper", "ema_decay")
        amounts = ("warmup", "weight_decay", "clip", "patience", "save_seconds", "workers", "seed", "rotation")
        check_numbers(self, Range(0), *amounts, "further_extension")

    @property
    def data_sets(self) -> list[str]:
        """What ``data`` names, one after the other."""
        return split_names(self.data)


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains by command line; returns the file of the weights that came out."""
    options = parse_options(TrainOptions, argv, __doc__)
    with process_group(options.device) as device:
        seed_everything(options.seed)
        given = parse_model_options(options.model_options)
        if options.backbone_weights:
            given["backbone_weights"] = options.backbone_weights
        parts = parse_pairs(options.init, "init", "prn=runs/prn/best.safetensors", "part=FILE")
        method = build_method(options.model, options.weights, options.skeleton, parts, **given)
        options = with_defaults(options, method)
        folder = open_run(options, "train", options.out, FREE_ON_RESUME)
        method.model.to(device, memory_format=torch.channels_last)
        if options.sync_batch_norm:
            synchronise_batch_norm(method.model, device)
        for part in method.model.modules():
            if hasattr(part, "recompute"):
                part.recompute = options.recompute
        phases = choose("train", options.train, method.family.teaching.tasks)
        for task in phases:
            inside = folder / task.name if len(phases) > 1 else folder
            inside.mkdir(exist_ok=True)
            result = train_phase(task, method, options, inside, device)
        if len(phases) > 1:
            if is_first():
                shutil.copyfile(result, folder / BEST)
            wait_for_all()
            result = folder / BEST
        if is_first():
            print(f"weights: {result}")
    return result


def with_defaults(options: TrainOptions, method: PoseMethod) -> TrainOptions:
    """The options with what the method's family says where nothing was said.

    Raises:
        ValueError: an option was given that means nothing to this family.
    """
    teaching = method.family.teaching
    if useless := [name for name in teaching.unused if getattr(options, name) is not None]:
        flags = ", ".join(f"--{name}" for name in useless)
        raise ValueError(f"{options.model} is trained without {flags}; leave it out (family {method.family.name})")
    own = {"train": next(iter(teaching.tasks)), **vars(teaching.view(method.decoder))}
    return replace(options, **{name: value for name, value in own.items() if getattr(options, name) is None})


def measure_ap(predictor: PosePredictor, validation: Dataset, task: Task) -> dict[str, float]:
    """COCO's ten numbers, of the whole chain or in the labels' boxes."""
    boxes = label_boxes if task.known_boxes else None
    skeleton = validation.skeleton
    if skeleton.oks_sigmas is None:
        warnings.warn(
            f"skeleton {skeleton.name!r} has no oks_sigmas; AP is measured with {USUAL_SIGMA} for every keypoint, and "
            "compares with nothing that is measured otherwise",
            stacklevel=2,
        )
    return evaluate_predictor(predictor, validation, boxes=boxes, default_oks_sigmas=USUAL_SIGMA).metrics


def measure_pckh(predictor: PosePredictor, validation: MpiiKeypoints, task: Task) -> dict[str, float]:
    """MPII's shares of keypoints, in the labels' boxes."""
    return score_mpii(predict_people(predictor, validation), truth_of(validation))


MEASURES = {MPII_FORMAT.name: ("PCKh", measure_pckh)}
"""By the data's format, which figure decides about the best weights, and how the figures are made."""


def cached_on_request(
    sources: Sequence[SampleSource], options: TrainOptions, teaching: Teaching
) -> Sequence[SampleSource]:
    """The sources, or decoded copies of them in the cache, which keeps different data apart."""
    if not options.cache:
        return sources
    size = None
    if teaching.whole_pictures:  # as large as augmentation can ask for, and no larger
        largest = max(options.scale) if options.augment else 1.0
        size = math.ceil(options.image_size * largest)
    return [CachedSamples(source, options.cache, size) for source in sources]


def with_pasted_people(sources: Sequence[SampleSource], options: TrainOptions) -> Sequence[SampleSource]:
    """The sources, or what they are with other people pasted into them."""
    if not options.paste:
        return sources
    people = CutOuts(CocoKeypoints(options.paste, options.split, sources[0].skeleton, layout=LAYOUTS[options.format]))
    return [PastedPeople(source, people, options.pasted) for source in sources]


def train_phase(task: Task, method: PoseMethod, options: TrainOptions, folder: Path, device: torch.device) -> Path:
    """Trains one task; the method's model ends with the weights that the returned file holds."""
    model, teaching = method.model, method.family.teaching
    there = dict(model.named_children())  # not every model has all that its family's can have
    frozen = (*(part for part in task.untrained if part in there), *options.frozen)
    model.requires_grad_(True)
    freeze(model, frozen)

    sources = [
        open_dataset(
            name,
            options.split,
            method.skeleton,
            options.limit,
            options.synthetic_count,
            TRAIN_SEED,
            fewest_people=teaching.fewest_people,
            with_keypoints=options.limit is not None,
            layout=LAYOUTS[options.format],
        )
        for name in options.data_sets
    ]
    sources = with_pasted_people(cached_on_request(sources, options, teaching), options)
    view = TrainingView(**{f.name: getattr(options, f.name) for f in fields(TrainingView)})
    pictures = ConcatDataset([teaching.examples(samples, method.decoder, method.skeleton, view) for samples in sources])
    drawn = any(name in SYNTHETIC_KINDS for name in options.data_sets)
    epoch_size = options.epoch_size or (4000 if drawn else len(pictures))

    def batches(epoch: int, first_step: int = 0) -> EpochBatches:
        return EpochBatches(
            [len(part) for part in pictures.datasets], epoch_size, options.batch_size, options.seed, epoch,
            options.passes, first_step, options.shares,
        )  # fmt: skip

    steps = options.epochs * batches(0).steps
    validation = open_dataset(
        options.val_data or options.data_sets[0],
        options.val_split,
        method.skeleton,
        options.val_limit,
        options.val_count,
        SELECTION_SEED,
        with_keypoints=options.val_limit is not None,
        layout=LAYOUTS[options.format],
    )
    goal, measure = MEASURES.get(options.format, ("AP", measure_ap))

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate = getattr(options, task.rate) or options.lr
    optimizer = OPTIMIZERS[options.optimizer](trained, rate, weight_decay=options.weight_decay, fused=True)
    if options.schedule in SCHEDULES:
        schedule = SCHEDULES[options.schedule](optimizer, steps, min(options.warmup, steps // 10))
    else:
        schedule = ReduceLROnPlateau(optimizer, factor=options.lr_gamma, patience=3)

    def compute_losses(model, batch):
        images = batch.images.contiguous(memory_format=torch.channels_last)
        return task.losses(model, replace(batch, images=images))

    def validate(weights) -> dict[str, float]:
        # A decoder may call parts of its model: in a copy of both they stay one.
        averaged = copy.deepcopy(method)
        averaged.model.load_state_dict(weights.state_dict())
        predictor = PosePredictor(averaged, device, options.image_size)
        return measure(predictor, validation, task)

    data = joint_identity(sources)
    facts = {
        **method.facts,
        "image_size": options.image_size,
        "data": data,
        "seed": options.seed,
        "task": task.name,
    }
    describe_run(folder, options, data=data, validation=validation.identity(), frozen=frozen, steps=steps)
    trainer = Trainer(
        model, compute_losses, optimizer, schedule, folder, facts, validate, goal,
        precision=options.precision, ema_decay=options.ema_decay, clip=options.clip, frozen=frozen,
        passes=options.passes, patience=options.patience, keep=options.keep, save_seconds=options.save_seconds,
        watch=watch_in_tensorboard(folder) if options.tensorboard and is_first() else None,
    )  # fmt: skip
    if options.resume:
        trainer.take_up()

    def loader(epoch: int, first_step: int) -> Iterator:
        pin_memory = device.type == "cuda"
        return open_loader(pictures, batches(epoch, first_step), teaching.collate, options.workers, pin_memory)

    trainer.fit(loader, min(options.epochs, options.stop_epoch or options.epochs), options.validate_every)
    # Another phase goes on from what this one gives, not from where it happened to end.
    result = share_from_first(folder / (BEST if (folder / BEST).exists() else LAST))
    load_weights(model, result)
    return result


if __name__ == "__main__":
    run_script(main, "train_posenet.py")
