#!/usr/bin/env python
"""Trains the shared network: keypoint subnet, person detector, or both.

    python train_posenet.py                                     # synthetic people, keypoints first, then the detector
    python train_posenet.py --data COCO --train joint           # a folder with annotations/ and train2017/
    python train_posenet.py --opt recipes/paper_resnet50.toml --data COCO

The pose residual network has its own script, ``prn_train/train.py``; until it is trained it passes peaks through.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, RandomSampler

from multiposenet.data.sources import SELECTION_SEED, SYNTHETIC, TRAIN_SEED, open_dataset
from multiposenet.data.transforms import Letterbox, training_transform
from multiposenet.data.whole_image import WholeImageDataset, collate
from multiposenet.engine import (
    BEST,
    LAST,
    PRECISIONS,
    Trainer,
    cosine_schedule,
    describe_run,
    freeze,
    load_parts,
    open_run,
    seed_everything,
    start_worker,
)
from multiposenet.evaluation.chain import evaluate_predictor
from multiposenet.methods import PoseMethod, build_method, list_models
from multiposenet.options import option, parse_options
from multiposenet.predictor import PosePredictor

PHASES = {
    "separate": ("keypoints", "detection"),
    "keypoints": ("keypoints",),
    "detection": ("detection",),
    "joint": ("joint",),
}
TASKS = {"keypoints": ("keypoints",), "detection": ("detection",), "joint": ("keypoints", "detection")}
UNTRAINED = {
    "keypoints": ("detection_pyramid", "detection_subnet", "prn"),
    "detection": ("backbone", "keypoint_pyramid", "keypoint_subnet", "prn"),
    "joint": ("prn",),
}
"""Parts that stay as they are while a task is trained (MultiPoseNet, sec. 3.5: the subnets are trained one by one)."""

FREE_ON_RESUME = (
    *("resume", "out", "epochs", "stop_epoch", "workers", "device", "validate_every"),
    *("weights", "backbone_weights", "prn"),
)
"""Options that may change when a run is resumed: length, place, and the weights it started from."""


@dataclass(frozen=True)
class TrainOptions:
    """Defaults: from scratch on synthetic people."""

    model: str = option("multiposenet_resnet18", "network to train", choices=list_models())
    train: str = option("separate", "task; separate: keypoints, then detection", tuple(PHASES))
    frozen: tuple[str, ...] = option((), "further parts of the model to freeze, by name")
    skeleton: str = option("coco_person", "built-in skeleton or TOML file")
    weights: str | None = option(None, "weights to start from: a whole model's file")
    backbone_weights: str | None = option(None, "'imagenet' or a torchvision state dict, for the backbone only")
    prn: str | None = option(None, "take the pose residual network from this model's file")
    data: str = option(SYNTHETIC, "'synthetic' or a folder in COCO's layout", aliases=("cocopath",))
    split: str = option("train2017", "training split of the folder")
    limit: int | None = option(None, "only the first pictures with labelled keypoints")
    synthetic_count: int = option(100_000, "size of the synthetic training set")
    epoch_size: int | None = option(None, "pictures an epoch, drawn at random; default all (4000 for synthetic data)")
    val_data: str | None = option(None, "validation data; default the same as --data")
    val_split: str = option("val2017", "validation split of the folder")
    val_limit: int | None = option(None, "only the first validation pictures with labelled keypoints")
    val_count: int = option(100, "size of the synthetic validation set")
    image_size: int = option(480, "long side of a picture at scale 1, and in validation")
    crop: int | None = option(None, "side of the training crop; default image_size")
    augment: bool = option(True, "random crop, scale, rotation, flip and colour; off: whole pictures, letterboxed")
    colours: bool = option(True, "random colour changes, when augmenting")
    scale: tuple[float, ...] = option((0.8, 1.2), "range of the random scale")
    rotation: float = option(40.0, "largest random rotation, degrees")
    flip: float = option(0.5, "probability of mirroring")
    epochs: int = option(30, "epochs of every phase", aliases=("number_of_epoch",))
    stop_epoch: int | None = option(None, "stop after this epoch, in the middle of the schedule")
    batch_size: int = option(8, "pictures a step")
    lr: float = option(1e-3, "Adam's rate")
    detection_lr: float | None = option(None, "rate of the detection phase; default the same")
    schedule: str = option("cosine", "how the rate falls", ("cosine", "plateau"))
    lr_gamma: float = option(0.1, "factor of the plateau schedule")
    warmup: int = option(200, "steps of linear warm-up (cosine)")
    weight_decay: float = option(0.0, "AdamW's weight decay")
    clip: float = option(10.0, "largest gradient norm; 0 for none")
    ema_decay: float = option(0.998, "decay of the averaged weights that are kept; 0 for none")
    precision: str = option("fp32", "arithmetic", tuple(PRECISIONS))
    validate_every: int = option(5, "epochs between validations")
    workers: int = option(2, "processes that prepare pictures", aliases=("num_workers",))
    seed: int = option(0, "random seed")
    device: str | None = option(None, "default: a GPU when there is one")
    out: str | None = option(None, "run folder; default runs/train, numbered", aliases=("exp",))
    resume: str | None = option(None, "run folder to go on with; give its options.toml by --opt first")

    def __post_init__(self) -> None:
        if len(self.scale) != 2:
            raise ValueError(f"scale must be two numbers, low,high; got {self.scale}")


def main(argv: Sequence[str] | None = None) -> Path:
    """Trains by command line; returns the file of the weights that came out."""
    options = parse_options(TrainOptions, argv, __doc__)
    folder = open_run(options, "train", options.out, FREE_ON_RESUME)
    seed_everything(options.seed)
    method = build_method(options.model, options.weights, options.skeleton, **backbone_option(options))
    if options.prn:
        load_parts(method.model, options.prn, ["prn"])
    phases = PHASES[options.train]
    for phase in phases:
        inside = folder / phase if len(phases) > 1 else folder
        inside.mkdir(exist_ok=True)
        result = train_phase(phase, method, options, inside)
    if len(phases) > 1:
        shutil.copyfile(result, folder / BEST)
        result = folder / BEST
    print(f"weights: {result}")
    return result


def backbone_option(options: TrainOptions) -> dict:
    return {"backbone_weights": options.backbone_weights} if options.backbone_weights else {}


def train_phase(phase: str, method: PoseMethod, options: TrainOptions, folder: Path) -> Path:
    """Trains one task; the method's model ends with the weights that the returned file holds."""
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = method.model.to(device, memory_format=torch.channels_last)
    frozen = (*UNTRAINED[phase], *options.frozen)
    model.requires_grad_(True)
    freeze(model, frozen)

    source = open_dataset(
        options.data,
        options.split,
        method.skeleton,
        options.limit,
        options.synthetic_count,
        TRAIN_SEED,
        people=(0, 8),
        with_keypoints=options.limit is not None,
    )
    transform = Letterbox(options.image_size, skeleton=method.skeleton)
    if options.augment:
        transform = training_transform(
            options.crop or options.image_size,
            options.image_size,
            options.scale,
            options.rotation,
            options.flip,
            options.colours,
            method.skeleton,
        )
    pictures = WholeImageDataset(source, transform)
    epoch_size = options.epoch_size or (4000 if options.data == SYNTHETIC else len(pictures))
    steps = options.epochs * (epoch_size // options.batch_size or 1)
    validation = open_dataset(
        options.val_data or options.data,
        options.val_split,
        method.skeleton,
        options.val_limit,
        options.val_count,
        SELECTION_SEED,
        with_keypoints=options.val_limit is not None,
    )

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate = options.detection_lr if phase == "detection" and options.detection_lr else options.lr
    optimizer = torch.optim.AdamW(trained, rate, weight_decay=options.weight_decay, fused=True)
    if options.schedule == "cosine":
        schedule = cosine_schedule(optimizer, steps, min(options.warmup, steps // 10))
    else:
        schedule = ReduceLROnPlateau(optimizer, factor=options.lr_gamma, patience=3)

    def compute_losses(batch):
        images = batch.images.contiguous(memory_format=torch.channels_last)
        return model(images, batch.targets, tasks=TASKS[phase])[1]

    def validate(weights) -> dict[str, float]:
        # Before there is a detector the keypoints are measured in the labels' own boxes.
        # The decoder's residual network is not trained here, so the averaged copy may share it.
        predictor = PosePredictor(replace(method, model=weights), device, options.image_size)
        evaluation = evaluate_predictor(predictor, validation, oracle_boxes=phase == "keypoints")
        return evaluation.metrics

    facts = {
        "model": method.name,
        "options": method.options,
        "skeleton": method.skeleton.to_dict(),
        "image_size": options.image_size,
        "data": source.identity(),
        "seed": options.seed,
        "task": phase,
    }
    describe_run(folder, options, data=source.identity(), validation=validation.identity(), frozen=frozen, steps=steps)
    trainer = Trainer(
        model, compute_losses, optimizer, schedule, folder, facts, validate,
        precision=options.precision, ema_decay=options.ema_decay, clip=options.clip, frozen=frozen,
    )  # fmt: skip
    if options.resume and (folder / LAST).exists():
        trainer.resume(folder)

    def loader(epoch: int) -> Iterator:
        order = torch.Generator().manual_seed(options.seed * 1_000_003 + epoch)
        sampler = RandomSampler(pictures, num_samples=min(epoch_size, len(pictures)), generator=order)
        return DataLoader(
            pictures,
            options.batch_size,
            sampler=sampler,
            num_workers=options.workers,
            collate_fn=collate,
            drop_last=len(sampler) > options.batch_size,
            pin_memory=device.type == "cuda",
            worker_init_fn=start_worker,
            generator=order,
        )

    trainer.fit(loader, min(options.epochs, options.stop_epoch or options.epochs), options.validate_every)
    model.load_state_dict(trainer.result.state_dict())
    return folder / (BEST if (folder / BEST).exists() else LAST)


if __name__ == "__main__":
    main()
