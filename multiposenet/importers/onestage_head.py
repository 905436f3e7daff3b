"""The One-Stage keypoint head (arXiv 2301.04842) under the names of its published code, a fork of detectron2.

A file of the head alone, or a whole detectron2 checkpoint, of which only the head is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from multiposenet.importers.detectron2_head import translate_head
from multiposenet.models.keypoint_rcnn_heads import OneStageKeypointHead, reference_name

PROJECT = "lingl-space/maskrcnn_keypoint_refined"
LICENCE = "the file's own; the project is Apache-2.0"
SIGNATURE = ("conv_channel.weight", "MHSA_1.MHSA.to_qk.weight", "MHSA_5.MHSA.to_qk.weight")


def translate(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict]:
    """The part ``keypoint_head`` of a One-Stage network.

    Raises:
        ValueError: missing or unexpected tensors or wrong shapes.
    """
    return translate_head(tensors, source, OneStageKeypointHead, reference_name)
