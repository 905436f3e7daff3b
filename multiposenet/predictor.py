"""Picture in, poses out: the only place that knows how pictures become network input and poses come back."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from multiposenet.data.pictures import load_picture
from multiposenet.data.transforms import warp_image
from multiposenet.decode.chain import View
from multiposenet.geometry import CropWindow
from multiposenet.inputs import fetch_picture, is_url
from multiposenet.methods import METHODS, PoseMethod, build_method, with_decoding
from multiposenet.models.fusion import fuse_batch_norm
from multiposenet.structures import Detections, Poses

DEFAULT_WEIGHTS = "multiposenet_lite.safetensors"
"""The weights that ship with the package, in ``multiposenet/assets``."""

DEFAULT_IMAGE_SIZE = 480

Picture = str | Path | Image.Image | np.ndarray | Tensor


class PosePredictor:
    """Predicts the people of pictures of any size.

    Args:
        method: what to run.
        device: where; default: a GPU when there is one.
        image_size: the long side of a picture is scaled to this many pixels; default: what the weights were trained
            for, as their metadata says, else ``DEFAULT_IMAGE_SIZE``.
        flip: average with the mirrored picture (twice the time).
        scales: run at these multiples of ``image_size`` and average; the first is the frame of reference.
        box_threshold, max_people: decoding limits; None keeps the method's.
        batch_size: pictures per forward.

    ``timings`` accumulates seconds per stage (``prepare``, ``network``, ``decode``).
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
    ) -> None:
        if image_size is None:
            image_size = method.metadata.get("image_size", DEFAULT_IMAGE_SIZE)
        if image_size < 32 or not scales or min(scales) <= 0:
            raise ValueError(f"image_size must be >= 32 and scales positive, got {image_size} and {tuple(scales)}")
        self.method = with_decoding(method, box_threshold, max_people)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = method.model.to(self.device, memory_format=torch.channels_last).eval()
        self.image_size, self.flip, self.scales, self.batch_size = image_size, flip, tuple(scales), batch_size
        self.skeleton = method.skeleton
        self.name = method.name
        self.weights: str | None = None
        self.timings: dict[str, float] = defaultdict(float)

    def __call__(self, images: Picture | Iterable[Picture], boxes: Iterable[np.ndarray] | None = None) -> list[Poses]:
        """Poses of one or many pictures, one entry a picture, in each picture's own pixels.

        Args:
            images: a path, URL, PIL image, [H, W, 3] uint8 RGB array or [3, H, W] tensor (uint8, or float in
                [0, 1]), or any number of these.
            boxes: for every picture the people's boxes [P, 4], where they are known; they replace the detector's.

        Raises:
            FileNotFoundError, ValueError: a picture cannot be read; the message names it.
        """
        return list(self.stream([images] if isinstance(images, Picture) else images, boxes))

    def stream(self, images: Iterable[Picture], boxes: Iterable[np.ndarray] | None = None) -> Iterator[Poses]:
        """Poses of any number of pictures, in order; holds one batch of pictures at a time."""
        batch: list[tuple[np.ndarray, np.ndarray | None]] = []
        pairs = zip(images, repeat(None)) if boxes is None else zip(images, boxes, strict=True)
        for image, known in pairs:
            with self._timed("prepare"):
                batch.append((to_array(image), known))
            if len(batch) == self.batch_size:
                yield from self._predict(*zip(*batch, strict=True))
                batch = []
        if batch:
            yield from self._predict(*zip(*batch, strict=True))

    def _predict(self, pictures: Sequence[np.ndarray], boxes: Sequence[np.ndarray | None]) -> list[Poses]:
        """Runs pictures together whose canvases agree at every scale: no result depends on its neighbours' shapes."""
        canvases = [[CropWindow.letterbox(picture.shape[:2], size) for size in self._sizes] for picture in pictures]
        windows = [own[0] for own in canvases]
        groups: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        for index, own in enumerate(canvases):
            groups[tuple(window.size for window in own)].append(index)
        results: dict[int, Poses] = {}
        for indices in groups.values():
            known = None
            if boxes[indices[0]] is not None:
                known = [windows[i].boxes_to_crop(np.asarray(boxes[i], np.float32).reshape(-1, 4)) for i in indices]
            found = self._predict_canvas([pictures[i] for i in indices], known)
            for index, poses in zip(indices, found, strict=True):
                results[index] = _to_picture(poses, windows[index], pictures[index].shape[:2])
        return [results[index] for index in range(len(pictures))]

    @property
    def _sizes(self) -> list[int]:
        """Long side of a picture at each scale."""
        return [round(self.image_size * scale) for scale in self.scales]

    @torch.inference_mode()
    def _predict_canvas(self, pictures: list[np.ndarray], boxes: list[np.ndarray] | None) -> list[Poses]:
        decoder = self.method.decoder
        views = []
        for size in self._sizes:
            zoom = size / self._sizes[0]
            with self._timed("prepare"):
                images = torch.stack([letterbox_image(picture, size) for picture in pictures])
                images = images.to(self.device).float().div_(255).contiguous(memory_format=torch.channels_last)
            for mirrored in (False, True) if self.flip else (False,):
                with self._timed("network"):
                    outputs, _ = self.model(images.flip(-1) if mirrored else images)
                views.append(View(outputs, zoom, mirrored))
        with self._timed("decode"):
            peaks, detections = decoder.detect(views[0].outputs) if len(views) == 1 else decoder.merge(views)
            if boxes is not None:
                detections = _known_detections(boxes, self.device)
            return [poses.to("cpu") for poses in decoder.poses(peaks, detections, views[0].outputs.image_size)]

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
        if image.is_floating_point():
            image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
        return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"a picture array must be [H, W, 3] uint8 RGB, got {list(image.shape)} {image.dtype}")
        return image
    if is_url(image):
        return fetch_picture(str(image))
    return load_picture(image)


def letterbox_image(picture: np.ndarray, size: int) -> Tensor:
    """[H, W, 3] uint8 -> [3, h, w] uint8 on ``CropWindow.letterbox``'s canvas, resampled and padded as in training."""
    window = CropWindow.letterbox(picture.shape[:2], size)
    return torch.from_numpy(np.array(warp_image(Image.fromarray(picture), window))).permute(2, 0, 1)


def _known_detections(boxes: list[np.ndarray], device: torch.device) -> Detections:
    """Given boxes as detections of score 1, padded to the picture with most."""
    most = max([1, *(len(own) for own in boxes)])
    padded = torch.zeros(len(boxes), most, 4)
    valid = torch.zeros(len(boxes), most, dtype=torch.bool)
    for row, own in enumerate(boxes):
        padded[row, : len(own)] = torch.from_numpy(own)
        valid[row, : len(own)] = True
    return Detections(padded, valid.float(), valid).to(device)


def _to_picture(poses: Poses, window: CropWindow, image_size: tuple[int, int]) -> Poses:
    return Poses(
        keypoints=window.keypoints_to_image(poses.keypoints),
        keypoint_scores=poses.keypoint_scores,
        boxes=window.boxes_to_image(poses.boxes),
        scores=poses.scores,
        skeleton=poses.skeleton,
        image_size=image_size,
    )


def load(
    source: str | Path | None = None,
    device: torch.device | str | None = None,
    model: str | None = None,
    **options,
) -> PosePredictor:
    """A ready predictor. Its model is made for inference: batch normalisation is folded into the convolutions.

    Args:
        source: a weights file, or a model's name (then with random weights, of use only for measuring);
            None gives the weights that ship with the package.
        device: where to run; default: a GPU when there is one.
        model: the model's name, for weights files that do not say it.
        options: arguments of :class:`PosePredictor`, e.g. ``image_size``, ``flip``, ``scales``.

    Raises:
        FileNotFoundError, ValueError: see ``methods.build_method``.
    """
    if source is None and model is None:
        with resources.as_file(resources.files("multiposenet") / "assets" / DEFAULT_WEIGHTS) as path:
            method = build_method(weights=path)
            source = path.name
    elif source is None or str(source) in METHODS:
        method, source = build_method(str(source or model)), None
    else:
        method = build_method(model, weights=source)
    fuse_batch_norm(method.model.eval())  # this model is nobody else's
    predictor = PosePredictor(method, device, **options)
    predictor.weights = None if source is None else str(source)
    return predictor
