"""detectron2's keypoint head (``KRCNNConvDeconvUpsampleHead``): eight convolutions and a transposed one.

A file of the head alone, or a whole checkpoint, of which only the head is taken: its detector counts pixels, strides
and anchors in its own way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from multiposenet.checkpoint import match_shapes
from multiposenet.models.keypoint_rcnn_heads import CONVS, KeypointHead
from multiposenet.skeletons import COCO_PERSON

PROJECT = "facebookresearch/detectron2 (keypoint head)"
LICENCE = "the file's own; detectron2 is Apache-2.0"
SIGNATURE = (*(f"conv_fcn{number}.weight" for number in range(1, CONVS + 1)), "score_lowres.weight")

PREFIX = "roi_heads.keypoint_head."
"""How the head's names begin in a whole checkpoint."""

PART = "keypoint_head"


def head_alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a detectron2 checkpoint the keypoint head's tensors under their own names; other files as they are."""
    if f"{PREFIX}score_lowres.weight" not in tensors:
        return dict(tensors)
    return {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}


def our_name(name: str) -> str | None:
    """Our name of a parameter of detectron2's head; None for a name that it does not have."""
    if conv := re.fullmatch(r"conv_fcn([1-8])\.(weight|bias)", name):
        return f"convs.{int(conv[1]) - 1}.0.{conv[2]}"
    if deconvolution := re.fullmatch(r"score_lowres\.(weight|bias)", name):
        return f"predict.kps_score_lowres.{deconvolution[1]}"
    return None


def translate(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict]:
    """The part ``keypoint_head`` of a Keypoint R-CNN.

    Raises:
        ValueError: missing or unexpected tensors or wrong shapes.
    """
    return translate_head(tensors, source, KeypointHead, our_name)


def translate_head(
    tensors: Mapping[str, Tensor], source: str, head: Callable[[int], nn.Module], our_name: Callable[[str], str | None]
) -> tuple[dict[str, Tensor], dict]:
    """A keypoint head and what is known of it; it finds as many keypoints as its last layer has maps.

    Raises:
        ValueError: missing or unexpected tensors or wrong shapes.
    """
    last = tensors.get("score_lowres.weight")
    num_keypoints = COCO_PERSON.num_keypoints if last is None or last.ndim != 4 else last.shape[1]
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in head(num_keypoints).state_dict().items()}
    match_shapes(shapes, {our_name(key) or key: value for key, value in tensors.items()}, source)
    facts: dict = {"parts": [PART]}
    if num_keypoints == COCO_PERSON.num_keypoints:
        facts["skeleton"] = COCO_PERSON.to_dict()
    return {f"{PART}.{our_name(key)}": value for key, value in tensors.items()}, facts
