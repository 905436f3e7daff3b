"""torchvision's Keypoint R-CNN through our contract, what a One-Stage network takes from it, and detectron2's heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.detection import KeypointRCNN, keypointrcnn_resnet50_fpn

from multiposenet import create_model
from multiposenet.importers import torchvision_keypoint_rcnn
from multiposenet.importers import translate as translate_any
from multiposenet.importers.torchvision_keypoint_rcnn import current_names, fetch_published, seed, translate
from multiposenet.methods import PoseMethod, build_method
from multiposenet.models.keypoint_rcnn_heads import KeypointHead, OneStageKeypointHead, reference_name
from multiposenet.predictor import PosePredictor
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import PoseTargets

K = COCO_PERSON.num_keypoints
SIZE = (96, 128)
SIZES = [SIZE, (100, 130), (90, 93), (33, 70)]
"""Multiples of the coarsest stride, and others: those are padded."""

EVERYTHING, PROPOSALS, PEOPLE = 10**6, 30, 3


@pytest.fixture(scope="module")
def theirs() -> KeypointRCNN:
    """torchvision's model with random weights and statistics, which samples all anchors and proposals."""
    torch.manual_seed(0)
    model = keypointrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=SIZE[0], max_size=SIZE[1], box_detections_per_img=PEOPLE,
        rpn_pre_nms_top_n_train=PROPOSALS, rpn_post_nms_top_n_train=PROPOSALS,
        rpn_batch_size_per_image=EVERYTHING, box_batch_size_per_image=EVERYTHING,
    )  # fmt: skip
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            nn.init.normal_(layer.running_mean, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory) -> Path:
    """The same as a file in torchvision's layout."""
    path = tmp_path_factory.mktemp("weights") / "keypointrcnn.pth"
    torch.save(theirs.state_dict(), path)
    return path


def read_by_us(file: Path) -> PoseMethod:
    sampling = {"anchor_batch": EVERYTHING, "box_batch": EVERYTHING, "proposals": (PROPOSALS, 1000)}
    method = build_method(weights=file, max_people=PEOPLE, **sampling)
    method.model.eval()
    return method


@pytest.fixture(scope="module")
def ours(file) -> PoseMethod:
    """The file read by us."""
    return read_by_us(file)


def pictures(n: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
    """Noise in which nothing is as good as something else but for rounding, as it is with some other seeds."""
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def size(request, theirs, monkeypatch) -> tuple[int, int]:
    """Of pictures, which torchvision then takes as they are."""
    monkeypatch.setattr(theirs.transform, "min_size", (min(request.param),))
    monkeypatch.setattr(theirs.transform, "max_size", max(request.param))
    return request.param


@torch.inference_mode()
def assert_same_people(ours: PoseMethod, theirs: KeypointRCNN, images: Tensor) -> None:
    outputs, _ = ours.model(images)
    for mine, wanted in zip(ours.decoder(outputs), theirs(list(images)), strict=True):
        assert len(mine) == PEOPLE
        assert_close(mine.boxes, wanted["boxes"], atol=0.01, rtol=0)
        assert_close(mine.scores, wanted["scores"], atol=1e-4, rtol=0)
        assert_close(mine.keypoints, wanted["keypoints"][..., :2], atol=0.01, rtol=0)


def test_the_file_is_recognised(ours):
    assert ours.name == "keypoint_rcnn_resnet50"
    assert ours.skeleton == COCO_PERSON


@pytest.mark.parametrize("size", SIZES, indirect=True, ids=str)
def test_people_and_keypoints_are_torchvisions(theirs, ours, size):
    assert_same_people(ours, theirs, pictures(size=size))


def test_a_tiny_picture_before_changes_nothing(theirs, file):
    ours = read_by_us(file)
    ours.model(pictures(1, (20, 20)))
    assert_same_people(ours, theirs, pictures())


@pytest.mark.parametrize("size", [(100, 128), (128, 90)], indirect=True, ids=str)
@torch.inference_mode()
def test_people_of_a_picture_with_padding_beside_it_are_torchvisions(theirs, ours, size, monkeypatch):
    # Boxes that reach beyond the picture on the side of the padding.
    for layer in (theirs.roi_heads.box_predictor.bbox_pred, ours.model.detector.box_predictor.bbox_pred):
        monkeypatch.setattr(layer.bias, "data", layer.bias.data + torch.tensor([0, 0, 0, 0, 5.0, 5.0, 5.0, 5.0]))
    picture = torch.randint(256, (*size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    (mine,) = PosePredictor(ours, "cpu", image_size=max(size))(picture.numpy())
    (wanted,) = theirs([picture.permute(2, 0, 1) / 255])
    assert len(mine) == PEOPLE
    assert_close(mine.boxes[:, 2:].amax(0), torch.tensor([float(size[1]), float(size[0])]))
    # The padding has the mean colour in whole grey levels here, and is exactly 0 after normalisation there.
    assert_close(mine.scores, wanted["scores"], atol=1e-3, rtol=0)
    assert_close(mine.boxes, wanted["boxes"], atol=0.5, rtol=0)
    assert_close(mine.keypoints, wanted["keypoints"][..., :2], atol=1.0, rtol=0)


@pytest.mark.parametrize("size", SIZES, indirect=True, ids=str)
@torch.no_grad()
def test_losses_are_torchvisions(theirs, ours, size):
    generator = torch.Generator().manual_seed(1)
    height, width = size
    shares = torch.tensor([[[0.1, 0.1, 0.5, 0.8], [0.55, 0.2, 0.95, 0.9]]])
    boxes = (shares * torch.tensor([width, height, width, height])).repeat(2, 1, 1)
    shares = torch.rand(2, 2, K, 2, generator=generator)
    keypoints = boxes[:, :, None, :2] + shares * (boxes[:, :, None, 2:] - boxes[:, :, None, :2])
    visibility = torch.randint(0, 3, (2, 2, K), generator=generator).to(torch.uint8)
    cells = torch.zeros(2, -(-height // 4), -(-width // 4))
    valid = torch.ones(2, 2, dtype=torch.bool)
    targets = PoseTargets(keypoints, visibility, boxes, valid, cells, cells.bool())
    labels = [
        {
            "boxes": boxes[i],
            "labels": torch.ones(2, dtype=torch.long),
            "keypoints": torch.cat([keypoints[i], visibility[i, ..., None].float()], dim=-1),
        }
        for i in range(2)
    ]
    # Their losses come in training mode only, where batch statistics would move.
    theirs.train()
    for layer in theirs.modules():
        layer.train(not isinstance(layer, nn.BatchNorm2d))
    wanted = theirs(list(pictures(size=size)), labels)
    theirs.eval()
    losses = ours.model.train()(pictures(size=size), targets, find=False)[1]
    ours.model.eval()
    names = {
        "proposal_logits": "loss_objectness",
        "proposal_deltas": "loss_rpn_box_reg",
        "box_logits": "loss_classifier",
        "box_deltas": "loss_box_reg",
        "keypoints": "loss_keypoint",
    }
    assert set(losses) == set(names)
    for mine, name in names.items():
        assert_close(losses[mine], wanted[name], rtol=1e-3, atol=1e-4)


def test_the_model_has_torchvisions_number_of_parameters(ours):
    assert sum(parameter.numel() for parameter in ours.model.parameters()) == 59_137_258


def test_the_published_file_of_2020_has_older_names():
    old = {"backbone.fpn.inner_blocks.2.bias": 1, "rpn.head.conv.weight": 2, "rpn.head.cls_logits.weight": 3}
    new = {"backbone.fpn.inner_blocks.2.0.bias": 1, "rpn.head.conv.0.0.weight": 2, "rpn.head.cls_logits.weight": 3}
    assert current_names(old) == new
    assert current_names(new) == new


def test_frozen_files_were_trained_without_epsilon(theirs):
    frozen = {key: value.clone() for key, value in theirs.state_dict().items() if not key.endswith("tracked")}
    frozen["backbone.body.bn1.running_var"][:2] = torch.tensor([1e-13, 1e-6])
    weight, variance = frozen["backbone.body.bn1.weight"], frozen["backbone.body.bn1.running_var"]
    for dtype in (torch.float32, torch.float16):
        mine = {key: value.to(dtype) for key, value in translate(frozen, "file")[0].items()}
        scale = mine["backbone.bn1.weight"].float() * (mine["backbone.bn1.running_var"].float() + 1e-5).rsqrt()
        assert_close(scale, weight * variance.rsqrt(), rtol=1e-5 if dtype == torch.float32 else 2e-3, atol=0)
    counted, _ = translate(theirs.state_dict(), "file")
    assert_close(counted["backbone.bn1.weight"], theirs.state_dict()["backbone.body.bn1.weight"], rtol=0, atol=0)


def test_an_incomplete_file_is_refused_by_its_own_names(theirs):
    tensors = theirs.state_dict()
    del tensors["roi_heads.keypoint_head.4.weight"]
    with pytest.raises(ValueError, match=r"missing keys \(1\): roi_heads.keypoint_head.4.weight"):
        translate_any(tensors, "file")


def test_a_network_for_other_keypoints_says_no_skeleton(theirs):
    tensors = theirs.state_dict()
    for kind in ("weight", "bias"):
        key = f"roi_heads.keypoint_predictor.kps_score_lowres.{kind}"
        tensors[key] = tensors[key][:, :3] if kind == "weight" else tensors[key][:3]
    assert "skeleton" not in translate(tensors, "file")[1]


def test_a_one_stage_network_starts_with_what_has_the_same_place(theirs, file):
    method = build_method("onestage_resnet50", warm_start=str(file))
    assert "warm_start" not in method.options
    taken = seed(method.model, file)
    after, source = method.model.state_dict(), theirs.state_dict()
    statistics = sum(after[name].numel() for name in taken if "running_" in name)
    outside = sum(after[name].numel() for name in taken if not name.startswith("keypoint_head."))
    assert round((outside - statistics) / 1e6, 2) == 41.35
    assert_close(after["detector.box_head.fc6.weight"], source["roi_heads.box_head.fc6.weight"])
    assert_close(
        after["keypoint_head.predict.kps_score_lowres.weight"], source[torchvision_keypoint_rcnn.DECONVOLUTION]
    )
    # The reference counts its 3x3 convolutions from 1, torchvision its layers, with a ReLU after each, from 0.
    for number in range(2, 9):
        name = f"keypoint_head.{reference_name(f'conv_fcn{number}.weight')}"
        assert_close(after[name], source[f"roi_heads.keypoint_head.{2 * (number - 1)}.weight"])
    kept = set(after) - set(taken)
    assert all(name.startswith("keypoint_head.") for name in kept)
    assert {f"keypoint_head.{reference_name(f'{layer}.weight')}" for layer in ("conv_channel", "conv_fcn1")} <= kept


@pytest.mark.parametrize("model", ["keypoint_rcnn_resnet50", "onestage_resnet50"])
def test_a_network_for_other_keypoints_starts_with_all_but_the_last_layer(theirs, file, model):
    hand = Skeleton("hand", ("thumb", "index", "middle"))
    with pytest.warns(UserWarning, match=r"for 17 keypoints and this model for 3: its last layer, .* starts new"):
        method = build_method(model, skeleton=hand, warm_start=str(file))
    after, source = method.model.state_dict(), theirs.state_dict()
    assert after["keypoint_head.predict.kps_score_lowres.weight"].shape[1] == 3
    last = reference_name("conv_fcn8.weight") if model.startswith("onestage") else "convs.7.0.weight"
    assert_close(after[f"keypoint_head.{last}"], source["roi_heads.keypoint_head.14.weight"])
    assert_close(after["detector.box_head.fc6.weight"], source["roi_heads.box_head.fc6.weight"])


def test_another_layout_is_no_start(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with torch.device("meta"), pytest.raises(ValueError, match=r"other\.pth"):
        create_model("onestage_resnet50", warm_start=tmp_path / "other.pth")


def test_published_weights_that_cannot_be_fetched_have_a_place_to_be_put(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torchvision_keypoint_rcnn.KeypointRCNN_ResNet50_FPN_Weights, "get_state_dict", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConnectionError, match=r"checkpoints/keypointrcnn_resnet50_fpn_coco-fc266e95\.pth, or give its"):
        create_model("keypoint_rcnn_resnet50", weights="torchvision")


def test_published_weights_are_where_torchvision_puts_them_and_checked(tmp_path, monkeypatch):
    checked = []

    def fetch(weights, *, progress: bool, check_hash: bool):
        checked.append(check_hash)

    published = torchvision_keypoint_rcnn.KeypointRCNN_ResNet50_FPN_Weights
    monkeypatch.setattr(published, "get_state_dict", fetch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert fetch_published() == tmp_path / "checkpoints" / "keypointrcnn_resnet50_fpn_coco-fc266e95.pth"
    assert checked == [True]


# --- detectron2's heads


def as_theirs(head: Callable[[], nn.Module], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of a head's shapes under other names, each filled with a number of its own."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in head().state_dict().items()}
    return {names[name]: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}


def one_stage_names() -> dict[str, str]:
    """Our names of the head's tensors -> the reference's."""
    layers = ["conv_channel", "score_lowres", *(f"conv_fcn{i}" for i in range(1, 9))]
    for context in ("MHSA_1", "MHSA_5"):
        layers += [f"{context}.{name}" for name in ("norm1", "norm2", "conv_fc", "MHSA.to_qk", "MHSA.to_v")]
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = [f"{layer}.{kind}" for layer in layers for kind in kinds]
    names += [f"{context}.MHSA.pos_emb.rel_{side}" for context in ("MHSA_1", "MHSA_5") for side in ("height", "width")]
    return {reference_name(name): name for name in names}


PLAIN_NAMES = {f"convs.{i}.0.{kind}": f"conv_fcn{i + 1}.{kind}" for i in range(8) for kind in ("weight", "bias")}
PLAIN_NAMES |= {f"predict.kps_score_lowres.{kind}": f"score_lowres.{kind}" for kind in ("weight", "bias")}


@pytest.mark.parametrize("prefix", ["", "roi_heads.keypoint_head."])
@pytest.mark.parametrize(
    ("head", "names"),
    [(OneStageKeypointHead, one_stage_names()), (KeypointHead, PLAIN_NAMES)],
    ids=["context", "plain"],
)
def test_a_head_becomes_a_part_tensor_by_tensor(head, names, prefix):
    tensors = as_theirs(head, names)
    file = {f"{prefix}{name}": value for name, value in tensors.items()}
    if prefix:  # a whole checkpoint
        file["backbone.fpn_lateral2.weight"] = torch.zeros(1)
    mine, facts = translate_any(file, "head.pth")
    assert facts["parts"] == ["keypoint_head"]
    assert Skeleton.from_dict(facts["skeleton"], "head.pth") == COCO_PERSON
    for name, there in names.items():
        if there in tensors:
            assert_close(mine.pop(f"keypoint_head.{name}"), tensors[there])
    assert mine == {}


def test_a_damaged_head_is_refused():
    tensors = as_theirs(OneStageKeypointHead, one_stage_names())
    tensors["score_highres.weight"] = tensors.pop("conv_fcn3.bias")
    with pytest.raises(ValueError, match=r"missing keys \(1\).*unexpected keys \(1\): score_highres.weight"):
        translate_any(tensors, "head.pth")


def test_a_head_for_other_keypoints_says_no_skeleton():
    mine, facts = translate_any(as_theirs(partial(KeypointHead, 3), PLAIN_NAMES), "head.pth")
    assert mine["keypoint_head.predict.kps_score_lowres.bias"].shape == (3,)
    assert "skeleton" not in facts
