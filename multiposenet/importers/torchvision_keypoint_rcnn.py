"""torchvision's ``keypointrcnn_resnet50_fpn``, with its published COCO weights (keypoint AP 65.0, box AP 54.6).

Every layer has its place in our Keypoint R-CNN, and all but one of them in the One-Stage network. What is different:

* keypoints are indices taken for continuous coordinates (``pixel_rule``);
* batch normalisation is frozen, and the published weights were trained with an epsilon of 0 in it;
* the published figures are of pictures with a short side of 800 pixels and a long side of at most 1333; here the long
  side is what is given.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights

from multiposenet.checkpoint import load_tensors, match_shapes
from multiposenet.importers.torchvision_resnet import find_resnet, with_epsilon
from multiposenet.models.backbones import Backbone
from multiposenet.models.keypoint_rcnn import KeypointHead, KeypointRCNN, OneStageKeypointHead
from multiposenet.models.keypoint_rcnn_heads import CONVS
from multiposenet.roi_heatmaps import RoiCodec
from multiposenet.skeletons import COCO_PERSON

PROJECT = "torchvision keypointrcnn_resnet50_fpn"
LICENCE = "the file's own; torchvision is BSD-3-Clause"
SIGNATURE = (
    "backbone.body.conv1.weight",
    "roi_heads.box_head.fc6.weight",
    "roi_heads.keypoint_head.0.weight",
    "roi_heads.keypoint_predictor.kps_score_lowres.weight",
)

PUBLISHED = "torchvision"
"""What the published weights are called where a file's name could stand."""

MODEL = "keypoint_rcnn_resnet50"
DECONVOLUTION = "roi_heads.keypoint_predictor.kps_score_lowres.weight"

PLACES = {
    "backbone.body.": "backbone.",
    "backbone.fpn.": "pyramid.",
    "rpn.head.": "proposals.head.",
    "roi_heads.box_head.": "detector.box_head.",
    "roi_heads.box_predictor.": "detector.box_predictor.",
    **{f"roi_heads.keypoint_head.{2 * i}.": f"keypoint_head.convs.{i}.0." for i in range(CONVS)},
    "roi_heads.keypoint_predictor.": "keypoint_head.predict.",
}
"""How the names of a part begin there -> here."""

LAST_LAYER = "keypoint_head.predict.kps_score_lowres."
"""The only one whose shape depends on the number of keypoints."""

ONESTAGE_CONVS = {
    f"keypoint_head.convs.{i}.0.": f"keypoint_head.layers.{i + 1 + (i >= CONVS // 2)}.0." for i in range(1, CONVS)
}
"""Convolutions of the plain head -> those at the same place of the One-Stage head. The first has 256 inputs there, and
none here has."""


def current_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under today's names: files of 2020 have older ones for the pyramid's and the proposals' layers."""
    conv = re.compile(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+|rpn\.head\.conv)\.(weight|bias)")

    def renamed(key: str) -> str:
        if old := conv.fullmatch(key):
            return f"{old[1]}.0.{old[2]}" if old[1].startswith("backbone") else f"{old[1]}.0.0.{old[2]}"
        return key

    return {renamed(key): value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}


def layout(num_keypoints: int) -> dict[str, torch.Size]:
    """Names and shapes of the network's tensors."""
    with torch.device("meta"):
        model = KeypointRCNN(Backbone("resnet50"), nn.Identity(), KeypointHead(num_keypoints), RoiCodec())
    shapes = {}
    for key, value in model.state_dict().items():
        theirs = next((there for there, here in PLACES.items() if key.startswith(here)), None)
        if not key.endswith("num_batches_tracked"):
            shapes[theirs + key.removeprefix(PLACES[theirs])] = value.shape
    return shapes


def translate(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict]:
    """A whole Keypoint R-CNN.

    Raises:
        ValueError: missing or unexpected tensors or wrong shapes, or another backbone.
    """
    # Frozen batch normalisation counts no batches.
    frozen = not any(key.endswith("num_batches_tracked") for key in tensors)
    tensors = current_names(tensors)
    backbone = find_resnet(tensors, source, prefix="backbone.body.")
    if backbone != "resnet50":
        raise ValueError(f"{source}: its backbone is {backbone}; the only such network here is on resnet50")
    shape = tensors[DECONVOLUTION].shape if DECONVOLUTION in tensors else ()
    num_keypoints = shape[1] if len(shape) == 4 else COCO_PERSON.num_keypoints
    match_shapes(layout(num_keypoints), tensors, source)
    if frozen:
        tensors = with_epsilon(tensors)
    ours = {}
    for key, value in tensors.items():
        place = next(place for place in PLACES if key.startswith(place))
        ours[PLACES[place] + key.removeprefix(place)] = value
    facts = {"model": MODEL, "options": {"pixel_rule": "legacy"}}
    if num_keypoints == COCO_PERSON.num_keypoints:
        facts["skeleton"] = COCO_PERSON.to_dict()
    return ours, facts


def fetch_published() -> Path:
    """The file of the published weights; it is downloaded once by torchvision, hash checked.

    Raises:
        ConnectionError: the download failed; the message says where to put the file.
    """
    published = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1
    file = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
    try:
        published.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(
            f"could not download {published.url} ({error}). Without a network, fetch that file elsewhere and put it at "
            f"{file}, or give its path instead of {PUBLISHED!r}"
        ) from error
    return file


def seed(model: KeypointRCNN, weights: str | Path) -> list[str]:
    """Starts a network with a Keypoint R-CNN's weights, wherever a layer has the same place in both.

    Of the One-Stage head these are the transposed convolution and, by position, the second to eighth 3x3 convolution;
    the Global Context Modules and the first layers keep their weights. So does the transposed convolution of a model
    for another number of keypoints than the file's; a warning says so.

    Args:
        model: on a ResNet-50 with fixed or usual batch normalisation.
        weights: a file in torchvision's layout, or ``PUBLISHED``.

    Returns:
        Names of the tensors that were taken over.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: no such file, another layout, or no network to fetch it.
    """
    file = fetch_published() if str(weights) == PUBLISHED else Path(weights)
    tensors, _ = translate(load_tensors(file)[0], str(file))
    if isinstance(model.keypoint_head, OneStageKeypointHead):
        tensors = {name: value for key, value in tensors.items() if (name := _onestage_name(key)) is not None}
    own = model.state_dict()
    bias = f"{LAST_LAYER}bias"
    if bias in own and own[bias].shape != tensors[bias].shape:
        warnings.warn(
            f"{file} is for {len(tensors[bias])} keypoints and this model for {len(own[bias])}: its last layer, "
            f"{LAST_LAYER}*, starts new",
            stacklevel=2,
        )
        tensors = {key: value for key, value in tensors.items() if not key.startswith(LAST_LAYER)}
    wanted = {key: own[key].shape for key in tensors if key in own}
    match_shapes(wanted, tensors, f"{file}, as a start for this model")
    model.load_state_dict(tensors, strict=False)
    return list(tensors)


def _onestage_name(key: str) -> str | None:
    """Our name of one of the plain network's tensors in the One-Stage network; None where it has no place."""
    if not key.startswith("keypoint_head.convs."):
        return key
    place = next((place for place in ONESTAGE_CONVS if key.startswith(place)), None)
    return None if place is None else ONESTAGE_CONVS[place] + key.removeprefix(place)
