"""The pose residual network of the paper's authors in PyTorch (salihkaragoz/pose-residual-network-pytorch), .pth.tar.

Three layers, ``dens1``, ``bneck`` and ``dens2``, over a grid flattened as (row, column, keypoint). It was trained on
whole cells and blurred impulses, ends in a ReLU and has one softmax over everything; ``OPTIONS`` say so to the builder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from multiposenet.checkpoint import match_shapes
from multiposenet.skeletons import COCO_PERSON

PROJECT = "salihkaragoz/pose-residual-network-pytorch"
LICENCE = "the file's own; the project's is for non-commercial research only and forbids redistribution"
SIGNATURE = ("dens1.weight", "bneck.weight", "dens2.weight")

LAYERS = {"dens1": "prn.residual.0", "bneck": "prn.residual.3", "dens2": "prn.residual.6"}
CELLS = (28, 18)
"""Grid cells (h, w) per unit of the project's ``coeff``, which is 2 unless told."""
NODES, COEFF = 1024, 2

OPTIONS = {
    "grouping": "pose_residual",
    "prn_softmax": "all",
    "prn_residual_activation": True,
    "prn_dropout": 0.5,
    "prn_sigma": 1.0,
    "prn_label_sigma": 2.0,
    "prn_margin": 0.21,
    "prn_window": 7,
    "prn_placement": "legacy",
    "prn_blur": "legacy",
    "prn_rule": "legacy",
}
"""How these weights were trained and are used there."""


def translate(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict]:
    """The part ``prn``, which every model can be built with.

    Raises:
        ValueError: missing or unexpected tensors or wrong shapes.
    """
    match_shapes(prn_layout(tensors), tensors, source)
    ours, options = translate_prn(tensors, COCO_PERSON.keypoints)
    return ours, {"parts": ["prn"], "skeleton": COCO_PERSON.to_dict(), "options": options}


def prn_layout(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, torch.Size]:
    """Names and shapes of the network whose width and grid these tensors have; names begin with ``prefix``."""
    nodes, (height, width) = _size(tensors, prefix)
    cells = height * width * COCO_PERSON.num_keypoints
    sides = {"dens1": (nodes, cells), "bneck": (nodes, nodes), "dens2": (cells, nodes)}
    shapes = {f"{prefix}{name}.weight": torch.Size(shape) for name, shape in sides.items()}
    return shapes | {f"{prefix}{name}.bias": torch.Size(shape[:1]) for name, shape in sides.items()}


def translate_prn(
    tensors: Mapping[str, Tensor], keypoints: Sequence[str], prefix: str = ""
) -> tuple[dict[str, Tensor], dict]:
    """Our tensors of a pose residual network, and the builder's options that go with them.

    Args:
        tensors: complete, see :func:`prn_layout`; may hold other tensors, which are left out.
        keypoints: names of COCO's keypoints in the order of the weights' grids.
        prefix: what the names begin with.
    """
    nodes, crop = _size(tensors, prefix)
    order = [list(keypoints).index(name) for name in COCO_PERSON.keypoints]

    def reordered(cells: Tensor) -> Tensor:
        """[..., h * w * K] in their order of keypoints -> [..., K * h * w] in ours."""
        return cells.unflatten(-1, (*crop, len(order)))[..., order].movedim(-1, -3).flatten(-3)

    ours = {
        f"{LAYERS[name]}.{kind}": tensors[f"{prefix}{name}.{kind}"] for name in LAYERS for kind in ("weight", "bias")
    }
    first, last = LAYERS["dens1"], LAYERS["dens2"]
    ours[f"{first}.weight"] = reordered(ours[f"{first}.weight"])
    ours[f"{last}.weight"] = reordered(ours[f"{last}.weight"].T).T.contiguous()
    ours[f"{last}.bias"] = reordered(ours[f"{last}.bias"])
    return ours, OPTIONS | {"prn_nodes": nodes, "prn_crop": list(crop)}


def _size(tensors: Mapping[str, Tensor], prefix: str) -> tuple[int, tuple[int, int]]:
    """Width of the hidden layers and (h, w) of the grid; the published ones where the tensors make no sense."""
    first = tensors.get(f"{prefix}dens1.weight")
    if first is None or first.ndim != 2:
        return NODES, (CELLS[0] * COEFF, CELLS[1] * COEFF)
    units = first.shape[1] / (CELLS[0] * CELLS[1] * COCO_PERSON.num_keypoints)
    coeff = math.isqrt(round(units))
    if coeff < 1 or coeff**2 != units:
        coeff = COEFF
    return first.shape[0], (CELLS[0] * coeff, CELLS[1] * coeff)
