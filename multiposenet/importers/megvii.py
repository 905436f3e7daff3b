"""Cascades under the names of Megvii's MSPN and of the RSN release: whole networks of 1 to 4 stages.

Their layers are those of our ``mspn_...`` and ``rsn...``. What differs is how a network is used, which ``OPTIONS`` name
to the builder: pictures in BGR order, peaks of height 255, crops without smoothing, and how positions are found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from multiposenet.checkpoint import match_shapes
from multiposenet.models.cascade import Cascade
from multiposenet.models.mspn import Bottleneck
from multiposenet.models.rsn import ResidualSteps
from multiposenet.skeletons import COCO_PERSON, MPII

PROJECT = "megvii-detection/MSPN or caiyuanhao1998/RSN"
LICENCE = "the file's own; MSPN's code has no licence file, RSN's is MIT"
SIGNATURE = (
    "top.conv.conv.weight",
    "stage0.downsample.layer1.0.conv_bn_relu1.conv.weight",
    "stage0.upsample.up1.u_skip.conv.weight",
    "stage0.upsample.up4.res_conv1.conv.weight",
    "stage0.upsample.up4.res_conv2.conv.weight",
)

OPTIONS = {
    "channel_order": "bgr",
    "peak_height": 255,
    "crop_rule": "legacy",
    "peak_rule": "legacy",
    "label_rule": "legacy",
    "loss_rule": "legacy",
}
"""How these networks were trained and are used."""

SKELETONS = {skeleton.num_keypoints: skeleton for skeleton in (COCO_PERSON, MPII)}
"""Whose keypoints a network finds, by their number."""

LEVELS = 4
KINDS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "rsn": ResidualSteps,
    "mspn": Bottleneck,
    "res": partial(Bottleneck, expansion=1),
}
"""Blocks that networks are made of."""
MODELS = {
    ("rsn", (2, 2, 2, 2)): ("rsn18", "2x_rsn18", "3x_rsn18", "4x_rsn18"),
    ("rsn", (3, 4, 6, 3)): ("rsn50", "2x_rsn50", "3x_rsn50", "4x_rsn50"),
    ("rsn", (3, 4, 23, 3)): ("rsn101",),
    ("mspn", (3, 4, 6, 3)): ("mspn_1stage", "mspn_2stage", "mspn_3stage", "mspn_4stage"),
    ("res", (2, 2, 2, 2)): ("res18",),
}
"""Kind and blocks of every level -> our models, by their number of stages."""

_BLOCK_PARTS = {"split": "conv_bn_relu1", "merge": "conv_bn_relu3", "shortcut": "downsample"}
_UP_PARTS = {"lateral": "u_skip", "above": "up_conv"}
_HANDED = {"down": "skip1", "up": "skip2"}


def translate(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict]:
    """A whole network.

    Raises:
        ValueError: missing or unexpected tensors or wrong shapes, or a cascade that has no name here.
    """
    return translate_cascade(tensors, source, Naming(their_name, "stage{}."), OPTIONS)


@dataclass(frozen=True)
class Naming:
    """How a project names a cascade's tensors.

    Args:
        name_of: our name -> theirs; None for what they do not have, biases before a normalisation.
        stage: how the names of a stage's tensors begin, with braces for its number.
    """

    name_of: Callable[[str], str | None]
    stage: str


def their_name(ours: str) -> str:
    """The name of one of our cascades' tensors in these projects."""
    *place, layer, kind = ours.split(".")
    layer = {"conv": "conv", "norm": "bn"}[layer]
    if place[0] == "stem":
        return f"top.conv.{layer}.{kind}"
    _, stage, part, *rest = place
    if part == "down":
        level, block, name, *step = rest
        if name == "path":
            name = f"conv_bn_relu{int(step[0]) + 1}"
        elif name == "steps":
            name = f"conv_bn_relu2_{int(step[0]) + 1}_{int(step[1]) + 1}"
        else:
            name = _BLOCK_PARTS[name]
        return f"stage{stage}.downsample.layer{int(level) + 1}.{block}.{name}.{layer}.{kind}"
    if part == "hand_over":
        level, name = (0, "cross_conv") if rest == ["cross"] else (rest[1], _HANDED[rest[0]])
    elif part == "heads":
        level, name = rest[0], f"res_conv{int(rest[1]) + 1}"
    else:
        level, name = rest[0], _UP_PARTS[part]
    # Their units are counted on the way up, our levels from the finest.
    return f"stage{stage}.upsample.up{LEVELS - int(level)}.{name}.{layer}.{kind}"


def translate_cascade(
    tensors: Mapping[str, Tensor], source: str, naming: Naming, options: dict
) -> tuple[dict[str, Tensor], dict]:
    """A cascade of any project in our names, with what it is.

    Args:
        tensors: by the project's names.
        source: for messages.
        naming: of the project.
        options: for the builder.

    Raises:
        ValueError: see :func:`translate`.
    """
    kind, blocks, stages = _describe(tensors, naming)
    known = MODELS.get((kind, blocks), ())
    if not 1 <= stages <= len(known):
        described = f"{stages} stages of {blocks} {kind} blocks"
        raise ValueError(f"{source}: {described}; known are {', '.join(map(str, MODELS))}")
    head = naming.name_of(f"stages.{stages - 1}.heads.0.1.conv.weight")
    k = len(tensors[head]) if head in tensors else COCO_PERSON.num_keypoints
    with torch.device("meta"):
        own = Cascade(KINDS[kind], k, stages, blocks).state_dict()
    names = {ours: naming.name_of(ours) for ours in own}
    match_shapes({theirs: own[ours].shape for ours, theirs in names.items() if theirs is not None}, tensors, source)
    like = tensors[head]
    translated = {}
    for ours, theirs in names.items():
        if theirs is None:
            translated[ours] = torch.zeros(own[ours].shape, dtype=like.dtype, device=like.device)
        elif theirs in tensors:
            translated[ours] = tensors[theirs]
    facts = {"model": known[stages - 1], "options": dict(options)}
    if k in SKELETONS:
        facts["skeleton"] = SKELETONS[k].to_dict()
    return translated, facts


def _describe(tensors: Mapping[str, Tensor], naming: Naming) -> tuple[str, tuple[int, ...], int]:
    """A cascade's kind, blocks of every level and number of stages; by the highest numbers, for some may be missing."""
    stages = _count(tensors, re.escape(naming.stage).replace(r"\{\}", r"(\d+)"))
    first = re.escape(naming.stage.format(0))
    blocks = tuple(_count(tensors, rf"{first}downsample\.layer{level}\.(\d+)\.") for level in range(1, LEVELS + 1))
    if naming.name_of("stages.0.down.0.0.steps.0.0.conv.weight") in tensors:
        return "rsn", blocks, stages
    last = tensors.get(naming.name_of("stages.0.down.0.0.path.2.conv.weight"))
    narrow = last is not None and last.shape[0] == last.shape[1]
    return "res" if narrow else "mspn", blocks, stages


def _count(names: Iterable[str], pattern: str) -> int:
    found = (re.match(pattern, name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)
