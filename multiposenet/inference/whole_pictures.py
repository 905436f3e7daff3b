"""Whole pictures through a network that finds everybody in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from multiposenet.data.transforms import letterbox_image
from multiposenet.decode.views import View
from multiposenet.geometry import CropWindow, clip_boxes
from multiposenet.inference.settings import RunnerSettings
from multiposenet.structures import Detections, PersonBoxes, Poses, TensorFields


class PictureDecoder(Protocol):
    """What decodes the answers to whole pictures."""

    def from_views(self, views: Sequence[View], boxes: Detections | None) -> list[Poses]:
        """People of each picture in pixels of the first view; ``boxes`` replace those that would be found."""


@dataclass(frozen=True)
class Canvas:
    """Pictures that the network saw together.

    Args:
        indices: their places among all pictures.
        windows: of each, from its pixels to those of the first view.
        views: the network's answers.
    """

    indices: list[int]
    windows: list[CropWindow]
    views: list[View]


class WholePictures:
    """Letterboxes pictures and runs those of one canvas together.

    Args:
        model: on its device, in evaluation mode.
        decoder: see :class:`PictureDecoder`.
        settings: how to run.
        detect: (model, decoder, images) -> boxes in pixels of the images; None takes them from the poses.
    """

    def __init__(
        self,
        model: nn.Module,
        decoder: PictureDecoder,
        settings: RunnerSettings,
        detect: Callable[[nn.Module, PictureDecoder, Tensor], Detections] | None = None,
    ) -> None:
        self.model, self.decoder, self.settings, self.detect = model, decoder, settings, detect

    def poses(self, pictures: Sequence[np.ndarray], boxes: Sequence[PersonBoxes] | None) -> list[Poses]:
        """Runs pictures together whose canvases agree at every scale: no result depends on its neighbours' shapes."""
        results: list[Poses | None] = [None] * len(pictures)
        for indices, windows in self._groups(pictures):
            known = None
            if boxes is not None:
                known = _as_detections([_into_crop(boxes[i], windows[i]) for i in indices], self.settings.device)
            views = self._views([pictures[i] for i in indices], known)
            for index, poses in zip(indices, self._decode(views, known), strict=True):
                size = pictures[index].shape[:2]
                poses = to_picture(poses, windows[index], size)
                # A canvas is larger than its picture; boxes that were given stay as they are.
                results[index] = poses if known is not None else replace(poses, boxes=clip_boxes(poses.boxes, size))
        return results

    def canvases(self, pictures: Sequence[np.ndarray]) -> Iterator[Canvas]:
        """What the network answers to pictures [H, W, 3] uint8 RGB, before anything is decoded."""
        for indices, windows in self._groups(pictures):
            views = self._views([pictures[index] for index in indices])
            yield Canvas(indices, [windows[index] for index in indices], views)

    def look(
        self,
        images: Tensor,
        picture_sizes: Sequence[tuple[float, float]],
        zoom: float,
        mirrored: bool,
        before: Sequence[View],
        known: Detections | None,
    ) -> TensorFields:
        """What the network answers to one version of a canvas.

        Args:
            images: [N, 3, H, W], in this version's size, mirrored already.
            picture_sizes: (height, width) of every picture on them; the rest of an image is padding.
            zoom, mirrored: see ``View``.
            before: the answers to the versions before this one.
            known: the people's boxes in pixels of the first version, where they are given.
        """
        return self.model(images)[0]

    def boxes(self, pictures: Sequence[np.ndarray]) -> list[PersonBoxes]:
        """Boxes of the first scale, not mirrored; see ``Runner.boxes``."""
        if self.detect is None:
            found = self.poses(pictures, None)
            return [PersonBoxes(poses.boxes.numpy(), poses.scores.numpy()) for poses in found]
        results: list[PersonBoxes | None] = [None] * len(pictures)
        for indices, windows in self._groups(pictures):
            found = self._boxes_of_canvas([pictures[i] for i in indices])
            for row, index in enumerate(indices):
                valid = found.valid[row]
                boxes = windows[index].boxes_to_image(found.boxes[row, valid])
                boxes = clip_boxes(boxes, pictures[index].shape[:2])
                results[index] = PersonBoxes(boxes.numpy(), found.scores[row, valid].numpy())
        return results

    def _groups(self, pictures: Sequence[np.ndarray]) -> list[tuple[list[int], dict[int, CropWindow]]]:
        """Pictures that share their canvases at all scales, with the windows of the first scale."""
        groups: dict[tuple, list[int]] = defaultdict(list)
        windows: dict[int, CropWindow] = {}
        for index, picture in enumerate(pictures):
            own = [CropWindow.letterbox(picture.shape[:2], size) for size in self.settings.sizes]
            groups[tuple(window.size for window in own)].append(index)
            windows[index] = own[0]
        return [(indices, windows) for indices in groups.values()]

    @torch.inference_mode()
    def _views(self, pictures: list[np.ndarray], known: Detections | None = None) -> list[View]:
        views: list[View] = []
        for size in self.settings.sizes:
            zoom = size / self.settings.sizes[0]
            images = self._images(pictures, size)
            shown = [_size_on_canvas(picture.shape[:2], size) for picture in pictures]
            for mirrored in self.settings.mirrorings:
                with self.settings.network():
                    outputs = self.look(images.flip(-1) if mirrored else images, shown, zoom, mirrored, views, known)
                views.append(View(outputs, zoom, mirrored))
        return views

    @torch.inference_mode()
    def _decode(self, views: list[View], known: Detections | None) -> list[Poses]:
        with self.settings.timed("decode"):
            return [poses.to("cpu") for poses in self.decoder.from_views(views, known)]

    @torch.inference_mode()
    def _boxes_of_canvas(self, pictures: list[np.ndarray]) -> Detections:
        images = self._images(pictures, self.settings.sizes[0])
        with self.settings.network():
            return self.detect(self.model, self.decoder, images).to("cpu")

    def _images(self, pictures: list[np.ndarray], size: int) -> Tensor:
        with self.settings.timed("prepare"):
            images = torch.stack([letterbox_image(picture, size) for picture in pictures]).to(self.settings.device)
            # Rearranged while they are bytes.
            return images.contiguous(memory_format=torch.channels_last).float().div_(255)


def _size_on_canvas(image_size: tuple[int, int], size: int) -> tuple[float, float]:
    scale = CropWindow.letterbox(image_size, size).scale
    height, width = image_size
    return height * scale, width * scale


def _into_crop(boxes: PersonBoxes, window: CropWindow) -> PersonBoxes:
    return PersonBoxes(window.boxes_to_crop(boxes.boxes), boxes.scores)


def _as_detections(boxes: list[PersonBoxes], device: torch.device) -> Detections:
    """The pictures' boxes in one tensor, padded to the picture with most."""
    most = max([1, *map(len, boxes)])
    padded, scores = torch.zeros(len(boxes), most, 4), torch.zeros(len(boxes), most)
    valid = torch.zeros(len(boxes), most, dtype=torch.bool)
    for row, own in enumerate(boxes):
        padded[row, : len(own)] = torch.from_numpy(own.boxes)
        scores[row, : len(own)] = torch.from_numpy(own.scores)
        valid[row, : len(own)] = True
    return Detections(padded, scores, valid).to(device)


def to_picture(poses: Poses, window: CropWindow, image_size: tuple[int, int]) -> Poses:
    """Poses of a canvas in the pixels of the picture, of (height, width) ``image_size``, that the window shows."""
    return Poses(
        keypoints=window.keypoints_to_image(poses.keypoints),
        keypoint_scores=poses.keypoint_scores,
        boxes=window.boxes_to_image(poses.boxes),
        scores=poses.scores,
        skeleton=poses.skeleton,
        image_size=image_size,
    )
