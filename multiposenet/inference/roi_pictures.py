"""Whole pictures through a network that looks into people's boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from multiposenet.decode.views import View
from multiposenet.geometry import flip_boxes
from multiposenet.inference.whole_pictures import WholePictures
from multiposenet.structures import Detections, RoiOutputs


class RoiPictures(WholePictures):
    """All views of a picture look at the same people: those that are given, or those that the first view finds."""

    def look(
        self,
        images: Tensor,
        picture_sizes: Sequence[tuple[float, float]],
        zoom: float,
        mirrored: bool,
        before: Sequence[View],
        known: Detections | None,
    ) -> RoiOutputs:
        """See ``WholePictures.look``."""
        people = before[0].outputs.people if before else known
        if people is not None:
            boxes = people.boxes * zoom
            people = replace(people, boxes=flip_boxes(boxes, images.shape[-1]) if mirrored else boxes)
        limits = {"score_threshold": self.decoder.box_threshold, "max_people": self.decoder.max_people}
        # People are found in the first version, which is not mirrored: its padding is right and below.
        return self.model(images, people=people, picture_sizes=picture_sizes, **limits)[0]
