"""Picture in, poses out: any kind of picture, and whatever it takes to find the people in it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import resources
from itertools import repeat
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from multiposenet.data.pictures import load_picture
from multiposenet.devices import open_device
from multiposenet.inference.settings import RunnerSettings
from multiposenet.inputs import fetch_picture, is_url
from multiposenet.methods import METHODS, PoseMethod, build_method, ensemble, with_decoding
from multiposenet.models.fusion import prepare_for_inference
from multiposenet.structures import PersonBoxes, Poses

DEFAULT_WEIGHTS = "multiposenet_lite.safetensors"
"""The weights of the default model; all that ship with the package are in ``multiposenet/assets``, by model."""

SMALLEST_IMAGE = 32
"""Pixels of the long side that a network must see at least."""

Picture = str | Path | Image.Image | np.ndarray | Tensor
Boxes = np.ndarray | PersonBoxes


class BoxFinder(Protocol):
    """Finds people for methods that look at them one by one; every :class:`PosePredictor` is one."""

    def find_boxes(self, pictures: Sequence[np.ndarray]) -> list[PersonBoxes]:
        """Boxes of pictures [H, W, 3] uint8 RGB, each in its own pixels."""


class PosePredictor:
    """Predicts the people of pictures of any size.

    Args:
        method: what to run.
        device: where; default: a GPU when there is one.
        image_size: the long side of what the network sees, a picture or a person's crop, is scaled to this many
            pixels; default: what the weights were trained for, as their metadata says, else the family's own.
        flip: average with the mirrored picture (twice the time).
        scales: run at these multiples of ``image_size`` and average; the first is the frame of reference.
        box_threshold, max_people: decoding limits; None keeps the method's.
        batch_size: pictures, or crops, per forward.
        precision: what the network calculates in: ``fp32``, or ``bf16`` or ``fp16`` (autocast), which GPUs and newer
            CPUs do in a fraction of the time. What comes after the network stays in single precision.
        detector: who finds people where boxes are needed and not given.

    ``timings`` accumulates seconds per stage (``prepare``, ``network``, ``decode``; ``detect`` for the detector).
    ``runner`` takes the pictures through the model.
    """

    def __init__(
        self,
        method: PoseMethod,
        device: torch.device | str | None = None,
        image_size: int | None = None,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        box_threshold: float | None = None,
        max_people: int | None = None,
        batch_size: int = 8,
        precision: str = "fp32",
        detector: BoxFinder | None = None,
    ) -> None:
        if image_size is None:
            image_size = method.metadata.get("image_size", method.family.default_image_size(method.decoder))
        if image_size < SMALLEST_IMAGE:
            raise ValueError(f"image_size must be at least {SMALLEST_IMAGE}, got {image_size}")
        if not scales or round(image_size * min(scales)) < SMALLEST_IMAGE:
            raise ValueError(
                f"scales must be some, none of which makes image_size, {image_size} pixels, less than "
                f"{SMALLEST_IMAGE}; got {tuple(scales)}"
            )
        self.method = with_decoding(method, box_threshold, max_people)
        self.device = open_device(device)
        self.model = method.model.to(self.device, memory_format=torch.channels_last).eval()
        self.image_size, self.batch_size = image_size, batch_size
        self.skeleton = method.skeleton
        self.name = method.name
        self.weights: str | None = None
        self.timings: dict[str, float] = defaultdict(float)
        self.detector = detector
        settings = RunnerSettings(self.device, image_size, flip, tuple(scales), batch_size, precision, self._timed)
        self.runner = method.family.runner(self.model, self.method.decoder, settings)

    def __call__(self, images: Picture | Iterable[Picture], boxes: Iterable[Boxes] | None = None) -> list[Poses]:
        """Poses of one or many pictures, one entry a picture, in each picture's own pixels.

        Args:
            images: a path, URL, PIL image, [H, W, 3] uint8 RGB array or [3, H, W] tensor (uint8, or float in
                [0, 1]), or any number of these.
            boxes: for every picture the people's boxes [P, 4], or ``PersonBoxes`` with scores, where they are known;
                they replace the detector's.

        Raises:
            FileNotFoundError, ValueError: a picture cannot be read; the message names it. Or the method needs boxes,
                and there are none and nobody to find them.
        """
        return list(self.stream([images] if isinstance(images, Picture) else images, boxes))

    def stream(self, images: Iterable[Picture], boxes: Iterable[Boxes] | None = None) -> Iterator[Poses]:
        """Poses of any number of pictures, in order; holds one batch of pictures at a time."""
        batch: list[tuple[np.ndarray, Boxes | None]] = []
        pairs = zip(images, repeat(None)) if boxes is None else zip(images, boxes, strict=True)
        for image, known in pairs:
            with self._timed("prepare"):
                batch.append((to_array(image), known))
            if len(batch) == self.batch_size:
                yield from self._predict(*zip(*batch, strict=True))
                batch = []
        if batch:
            yield from self._predict(*zip(*batch, strict=True))

    def find_boxes(self, pictures: Sequence[np.ndarray]) -> list[PersonBoxes]:
        """The people's boxes alone, of pictures [H, W, 3] uint8 RGB, each in its own pixels, best first."""
        found: list[PersonBoxes] = []
        for start in range(0, len(pictures), self.batch_size):
            found += self.runner.boxes(pictures[start : start + self.batch_size])
        return found

    def _predict(self, pictures: Sequence[np.ndarray], boxes: Sequence[Boxes | None]) -> list[Poses]:
        known = None if boxes[0] is None else [PersonBoxes.given(own) for own in boxes]
        if known is None and self.method.family.needs_boxes:
            if self.detector is None:
                raise ValueError(
                    f"{self.name} looks at people one by one and does not find them: give boxes for every picture, or "
                    "a detector, e.g. detector=multiposenet.load()"
                )
            with self._timed("detect"):
                known = self.detector.find_boxes(pictures)
        return self.runner.poses(pictures, known)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.timings[stage] += time.perf_counter() - start


def to_array(image: Picture) -> np.ndarray:
    """Any accepted kind of picture as [H, W, 3] uint8 RGB.

    Raises:
        ValueError: an array or tensor of another shape or type.
    """
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"a picture tensor must be [3, H, W], got {list(image.shape)}")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"a picture tensor must be uint8, or floating point in [0, 1], got {image.dtype}")
        if image.is_floating_point():
            image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
        return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"a picture array must be [H, W, 3] uint8 RGB, got {list(image.shape)} {image.dtype}")
        return np.ascontiguousarray(image)  # what is mirrored by a view, or BGR turned round, is no tensor
    if is_url(image):
        return fetch_picture(str(image))
    return load_picture(image)


class ShippedDetector:
    """The detector that ships with the package, loaded when it is first needed.

    Args:
        device: see :func:`load`.
        precision: see :class:`PosePredictor`.
    """

    def __init__(self, device: torch.device | str | None = None, precision: str = "fp32") -> None:
        self.device, self.precision = device, precision

    @cached_property
    def predictor(self) -> PosePredictor:
        """The detector itself."""
        return load(None, self.device, precision=self.precision)

    def find_boxes(self, pictures: Sequence[np.ndarray]) -> list[PersonBoxes]:
        """See :class:`BoxFinder`."""
        return self.predictor.find_boxes(pictures)


def load(
    source: str | Path | Sequence[str | Path] | None = None,
    device: torch.device | str | None = None,
    model: str | None = None,
    detector: BoxFinder | str | Path | None = None,
    model_options: Mapping[str, object] | None = None,
    precision: str = "fp32",
    **options,
) -> PosePredictor:
    """A ready predictor. Its model is made for inference: batch normalisation is folded into the convolutions.

    Args:
        source: a weights file, or a model's name: with the weights that ship with the package, or where there are
            none with random ones, of use only for measuring. None is the default model. Several files are averaged.
        device: where to run; default: a GPU when there is one.
        model: the model's name, for weights files that do not say it.
        detector: who finds the people for a model that does not: a predictor, or what :func:`load` makes one of; by
            default the weights that ship with the package, loaded when they are first needed.
        model_options: arguments of the model's builder, e.g. how it decodes; they win over those of a weights file.
        precision: what the networks calculate in, the detector's too; see :class:`PosePredictor`.
        options: other arguments of :class:`PosePredictor`, e.g. ``image_size``, ``flip``, ``scales``.

    Raises:
        FileNotFoundError, ValueError: see ``methods.build_method`` and ``methods.ensemble``; or a detector that finds
            nobody, or for a model that needs none.
    """
    sources = [source] if source is None or isinstance(source, (str, Path)) else list(source)
    methods, files = zip(*(_open(one, model, model_options or {}) for one in sources), strict=True)
    method = ensemble(methods)
    prepare_for_inference(method.model.eval())  # this model is nobody else's
    if detector is not None and not method.family.needs_boxes:
        raise ValueError(f"{method.name} finds people itself; leave the detector out")
    if detector is None:
        detector = ShippedDetector(device, precision)
    elif isinstance(detector, (str, Path)):
        finder = load(detector, device, precision=precision)
        if finder.method.family.needs_boxes:
            raise ValueError(
                f"the detector {detector} is a {finder.name}, which looks at people one by one and finds none itself; "
                "give weights of a network that does, e.g. multiposenet_lite"
            )
        detector = finder
    predictor = PosePredictor(method, device, precision=precision, detector=detector, **options)
    predictor.weights = ",".join(files) if all(files) else None
    return predictor


def _open(
    source: str | Path | None, model: str | None, options: Mapping[str, object]
) -> tuple[PoseMethod, str | None]:
    """A method, and the file its weights came from if there was one."""
    if source is not None and str(source) not in METHODS:
        return build_method(model, weights=source, **options), str(source)
    name = str(source or model or Path(DEFAULT_WEIGHTS).stem)
    shipped = resources.files("multiposenet") / "assets" / f"{name}.safetensors"
    if not shipped.is_file():
        return build_method(name, **options), None
    with resources.as_file(shipped) as path:
        return build_method(weights=path, **options), path.name
