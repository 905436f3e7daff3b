"""Where grouping networks and scorers meet: one small builder a grouping, in a plain dict.

A chain has one of these (``methods.build_multiposenet(grouping=...)``), and each can be trained, saved and measured by
itself. In both cases the network's weights have the name ``prn``, the part of the chain that it is, so that
``build_method(..., parts={"prn": file})`` takes it from either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from multiposenet.checkpoint import Rebuildable, match_tensors
from multiposenet.decode.assignment import ASSIGNMENTS, assign_publicly
from multiposenet.decode.grouping import Grouping, PoseResidualGrouping
from multiposenet.decode.scorers import NearestCentre, PriorScorer, SetAssignmentScorer, StrongestPeak
from multiposenet.importers import read_weights
from multiposenet.models.prn import PoseResidualNetwork
from multiposenet.models.set_assignment import SetAssignment
from multiposenet.prior import GaussianPrior
from multiposenet.rasterize import PersonGrid
from multiposenet.skeletons import COCO_PERSON, Skeleton, get_skeleton

PART = "prn"
"""Name of the grouping's network in a chain and in weights files."""

PRN_RULES = {
    "usual": {},
    "legacy": {
        "assign": assign_publicly,
        "weigh_peaks": False,
        "one_peak_a_cell": True,
        "missing": "legacy",
        "min_score": 0.0,
        "fallback_weight": 0.0,
    },
}
"""How the pose residual network's scores decide; ``legacy`` is how the published PyTorch code uses them."""


def pose_residual(
    skeleton: Skeleton,
    nodes: int = 1024,
    crop: tuple[int, int] = (56, 36),
    softmax: str = "keypoint",
    dropout: float = 0.5,
    residual_activation: bool = False,
    sigma: float = 1.0,
    margin: float = 0.21,
    window: int | None = None,
    label_sigma: float | None = None,
    placement: str = "subcell",
    blur: str = "unit",
    rule: str = "usual",
) -> tuple[PoseResidualNetwork, PoseResidualGrouping]:
    """The paper's: a perceptron over a grid. See ``models.prn`` and ``rasterize.PersonGrid``.

    Args:
        nodes, crop, softmax, dropout, residual_activation: the network.
        sigma, margin, window, label_sigma, placement, blur: its grid; ``label_sigma`` is ``sigma`` unless told.
        rule: a key of ``PRN_RULES``.

    Raises:
        ValueError: an option has a value that it does not know.
    """
    if rule not in PRN_RULES:
        raise ValueError(f"prn_rule must be one of {', '.join(PRN_RULES)}, got {rule!r}")
    network = PoseResidualNetwork(
        skeleton.num_keypoints, nodes, softmax, tuple(crop), dropout, residual_activation
    )
    grid = PersonGrid(
        tuple(crop),
        margin,
        sigma=sigma,
        label_sigma=sigma if label_sigma is None else label_sigma,
        window=window,
        placement=placement,
        blur=blur,
    )
    # One softmax over all maps leaves each of them a K-th part.
    full_score = 1 / skeleton.num_keypoints if softmax == "all" else 1.0
    return network, PoseResidualGrouping(network, grid, full_score=full_score, **PRN_RULES[rule])


def set_assignment(
    skeleton: Skeleton,
    width: int = 64,
    layers: int = 3,
    heads: int = 4,
    expansion: int = 2,
    margin: float = 0.5,
    candidates: int = 4,
    rivals: int = 2,
    hopeless: float = 3.0,
    evidence: bool = False,
    appearance: int = 0,
    hearing: int = 1,
    looks: bool = False,
    min_score: float = 1e-4,
) -> tuple[SetAssignment, Grouping]:
    """Attention over the peaks around a box; about 0.15 M parameters. See ``models.set_assignment``."""
    network = SetAssignment(
        skeleton.num_keypoints, width, layers, heads, expansion, margin, candidates, rivals, hopeless, evidence,
        appearance, hearing, looks,
    )  # fmt: skip
    return network, Grouping(SetAssignmentScorer(network, min_score))


def gaussian_prior(skeleton: Skeleton, margin: float = 0.5) -> tuple[GaussianPrior, Grouping]:
    """Baseline: how usual a place in the box is for a keypoint."""
    prior = GaussianPrior(skeleton.num_keypoints)
    return prior, Grouping(PriorScorer(prior, margin))


def nearest_centre(skeleton: Skeleton, margin: float = 0.5) -> tuple[GaussianPrior, Grouping]:
    """Baseline: a peak belongs to the box whose centre is nearest."""
    prior = GaussianPrior(skeleton.num_keypoints)
    return prior, Grouping(NearestCentre(prior, margin))


def strongest_peak(skeleton: Skeleton) -> tuple[GaussianPrior, Grouping]:
    """Baseline: the strongest peak in the box."""
    prior = GaussianPrior(skeleton.num_keypoints)
    return prior, Grouping(StrongestPeak(prior))


GROUPINGS: dict[str, Callable[..., tuple[nn.Module, Grouping | PoseResidualGrouping]]] = {
    "pose_residual": pose_residual,
    "set_assignment": set_assignment,
    "gaussian_prior": gaussian_prior,
    "nearest_centre": nearest_centre,
    "strongest_peak": strongest_peak,
}


LEARNED = {"pose_residual": "residual.0.weight", "set_assignment": "nobody"}
"""By which tensor one knows the network of a grouping that is learnt."""


@dataclass(frozen=True)
class GroupingMethod(Rebuildable):
    """A grouping by itself, without a network that finds peaks and boxes.

    Args:
        name: key in ``GROUPINGS``.
        model: holds the grouping's network as its only part, ``prn``.
        grouping: (peaks, detections) -> people, by that network.
        skeleton: whose keypoints it groups.
        options: what the builder was called with, as plain values; enough to build it again.
        metadata: what the weights file said about itself; empty without a file.
    """

    name: str
    model: nn.ModuleDict
    grouping: Grouping | PoseResidualGrouping
    skeleton: Skeleton
    options: dict
    metadata: dict = field(default_factory=dict)


def grouping_in(tensors: Iterable[str]) -> str | None:
    """Which learned grouping a model's tensors of these names have in its part ``prn``; None for none."""
    for name, sign in LEARNED.items():
        if f"{PART}.{sign}" in tensors:
            return name
    return None


def list_groupings() -> list[str]:
    """Names that :func:`build_grouping` knows."""
    return sorted(GROUPINGS)


def make_grouping(
    name: str, skeleton: Skeleton, **options
) -> tuple[nn.Module, Grouping | PoseResidualGrouping]:
    """A grouping's network, untrained, and the grouping by it.

    Raises:
        ValueError: unknown name or option.
    """
    if name not in GROUPINGS:
        raise ValueError(f"grouping {name!r} is unknown; choose one of {', '.join(list_groupings())}")
    try:
        return GROUPINGS[name](skeleton, **options)
    except TypeError as error:
        raise ValueError(f"grouping {name!r}: {error}") from None


def build_grouping(
    name: str | None = None,
    weights: str | Path | None = None,
    skeleton: Skeleton | str | Path | None = None,
    **options,
) -> GroupingMethod:
    """Builds a grouping by itself, untrained or from its weights file.

    Args:
        name: one of :func:`list_groupings`; may be None when the weights file says what it is.
        weights: a file of ``prn_train/train.py --model <grouping>``, or of the authors' pose residual network; its
            metadata gives skeleton and options.
        skeleton: a built-in name, a TOML file or a ``Skeleton``; default: the weights', else COCO's person.
        options: arguments of the builder.

    Raises:
        ValueError: unknown name or option, a file of something else, or tensors that do not fit.
        FileNotFoundError: no such file.
    """
    tensors, metadata = read_weights(weights) if weights is not None else ({}, {})
    method = _assemble(name, skeleton, options, metadata, source=str(weights))
    if weights is not None:
        match_tensors(method.model, tensors, source=str(weights))
        method.model.load_state_dict(tensors)
    return method


def match_grouping(tensors: Mapping[str, Tensor], metadata: dict, source: str, name: str | None = None) -> str:
    """Checks that what ``importers.read_weights`` gave fits its grouping, without memory for its network.

    Returns:
        The grouping's name.

    Raises:
        ValueError: see :func:`build_grouping`.
    """
    with torch.device("meta"):
        method = _assemble(name, None, {}, metadata, source)
    match_tensors(method.model, tensors, source)
    return method.name


def _assemble(
    name: str | None, skeleton: Skeleton | str | Path | None, options: dict, metadata: dict, source: str
) -> GroupingMethod:
    """The untrained grouping that options and a file's metadata describe."""
    name = name or metadata.get("model")
    if name is None:
        raise ValueError(f"{source}: the file does not say which grouping it is; give the grouping's name")
    if metadata.get("model", name) != name:
        raise ValueError(f"{source} holds {metadata['model']!r}, not {name!r}")
    if skeleton is None and "skeleton" in metadata:
        skeleton = Skeleton.from_dict(metadata["skeleton"], source=f"{source} (metadata)")
    skeleton = get_skeleton(skeleton if skeleton is not None else COCO_PERSON)
    found, prefix = metadata.get("options", {}), f"{PART}_"
    if "parts" in metadata:  # options of a chain, under the chain's names
        found = {option.removeprefix(prefix): value for option, value in found.items() if option.startswith(prefix)}
    options = {**found, **options}
    network, grouping = make_grouping(name, skeleton, **options)
    return GroupingMethod(name, nn.ModuleDict({PART: network}), grouping, skeleton, options, metadata)


def with_assignment(
    grouping: Grouping | PoseResidualGrouping, name: str
) -> Grouping | PoseResidualGrouping:
    """The same scores, decided by another rule of ``decode.assignment.ASSIGNMENTS``.

    Raises:
        ValueError: unknown name.
    """
    if name not in ASSIGNMENTS:
        raise ValueError(f"assignment {name!r} is unknown; choose one of {', '.join(ASSIGNMENTS)}")
    return replace(grouping, assign=ASSIGNMENTS[name])
