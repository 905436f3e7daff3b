"""The network's answers to several versions of the same pictures."""

from __future__ import annotations

from dataclasses import dataclass

from multiposenet.structures import MultiPoseNetOutputs


@dataclass(frozen=True)
class View:
    """The network's answer to one version of a batch, for testing with flips and several scales.

    Args:
        outputs: raw outputs for that version.
        zoom: size of that version relative to the first view.
        mirrored: whether it was mirrored left-right.
    """

    outputs: MultiPoseNetOutputs
    zoom: float = 1.0
    mirrored: bool = False
