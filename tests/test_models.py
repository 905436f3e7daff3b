"""The shared network: its published size, torchvision's backbone inside it, and pictures of any shape."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close
from torchvision.models.feature_extraction import create_feature_extractor

from multiposenet import create_model, list_models
from multiposenet.anchors import AnchorGrid
from multiposenet.checkpoint import learnt_parts, save_weights
from multiposenet.engine import freeze
from multiposenet.families.bottom_up import DETECTION, JOINT, KEYPOINTS
from multiposenet.methods import build_method
from multiposenet.models.backbones import BACKBONES, Backbone
from multiposenet.models.detection_subnet import DetectionSubnet
from multiposenet.models.fusion import fuse_batch_norm
from multiposenet.models.input_normalization import IMAGENET_MEAN, IMAGENET_STD, InputNormalization
from multiposenet.models.multiposenet import Pyramid
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Batch, MultiPoseNetOutputs, PoseTargets

HAND = Skeleton("hand", ("thumb", "index", "middle", "ring", "little"))
QUICK = "multiposenet_resnet18"


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def without_memory(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """The quick network with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return create_model(QUICK, prn_nodes=4).eval()


def pictures(n: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def targets(n: int, height: int, width: int) -> PoseTargets:
    boxes = torch.tensor([[8.0, 8.0, 50.0, 60.0]]).repeat(n, 1, 1)
    return PoseTargets(
        keypoints=torch.full((n, 1, COCO_PERSON.num_keypoints, 2), 30.0),
        visibility=torch.full((n, 1, COCO_PERSON.num_keypoints), 2, dtype=torch.uint8),
        boxes=boxes,
        valid=torch.ones(n, 1, dtype=torch.bool),
        person_mask=torch.zeros(n, height // 4, width // 4),
        ignore_mask=torch.zeros(n, height // 4, width // 4, dtype=torch.bool),
    )


# --- size


def test_the_reference_layout_on_resnet_50_has_exactly_the_published_parts():
    reference = without_memory("multiposenet_resnet50")
    subnet = reference.keypoint_subnet
    assert {part: count(reference.get_submodule(part)) for part in learnt_parts(reference)} == {
        "backbone": 23_508_032,
        "keypoint_pyramid": 2_754_304,
        "keypoint_subnet": 2_955_026 + 19_532,
        "detection_pyramid": 7_997_440,
        "detection_subnet": 4_824_365,
        "prn": 71_273_952,
    }
    assert count(subnet.supervise) == 19_532
    assert count(reference) == 113_332_651


def test_the_reference_layout_on_resnet_101_has_132_million_parameters():
    assert round(count(without_memory("multiposenet_resnet101")) / 1e6, 3) == 132.325


def test_the_quick_network_has_about_14_million_parameters():
    assert 13.5e6 < count(without_memory(QUICK)) < 14.5e6


# --- backbone


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_torchvision_state_dict_gives_torchvision_s_features_bit_for_bit(name, tmp_path):
    torch.manual_seed(1)
    theirs = getattr(torchvision.models, name)()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics as after training
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    ours = Backbone(name, tmp_path / "resnet.pth").eval()
    images = pictures(1, 65, 97)
    with torch.inference_mode():
        expected = create_feature_extractor(theirs.eval(), [f"layer{i}" for i in (1, 2, 3, 4)])(images)
        assert_close(ours(images), list(expected.values()), atol=0, rtol=0)


def test_the_backbone_says_how_many_channels_its_stages_have():
    with torch.device("meta"):
        backbone = Backbone("resnet50")
        assert [stage.shape[1] for stage in backbone(torch.zeros(1, 3, 64, 64))] == backbone.channels


def test_weights_of_another_backbone_are_an_error_that_names_file_and_keys(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=r"resnet18\.pth does not fit this model\. missing keys .*layer1\.2\.conv1"):
        Backbone("resnet34", tmp_path / "resnet18.pth")


def test_an_unknown_backbone_is_an_error_that_lists_those_there_are():
    with pytest.raises(ValueError, match=r"'vgg' is unknown; choose one of .*resnet50"):
        Backbone("vgg")


def test_the_network_normalises_its_own_input_with_imagenet_s_statistics(model):
    seen = []
    handle = model.backbone.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    grey = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    bright = grey + torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    with torch.inference_mode():
        model(torch.cat([grey, bright]))
    handle.remove()
    assert_close(seen[0], torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(2, 3, 5, 7), (1, 3, 4, 1), (3, 3, 1, 6)])
def test_pictures_are_normalised_alike_in_either_memory_layout_and_keep_it(layout, size):
    mean, std = (0.1, 0.2, 0.4), (0.5, 0.25, 2.0)
    images = torch.rand(size)
    expected = torchvision.transforms.functional.normalize(images, mean, std)
    given = images.contiguous(memory_format=layout)
    found = InputNormalization(mean, std)(given)
    assert_close(found, expected)
    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(given, images)


# --- pyramid and detector


def test_the_reference_layout_takes_k5_unsmoothed_and_the_paper_s_smooths_it():
    torch.manual_seed(0)
    features = [torch.randn(1, c, s, s) for c, s in ((4, 16), (8, 8))]
    rough, smooth = (Pyramid((0, 1), (4, 8), 6, smooth_top=flag) for flag in (False, True))
    for pyramid, is_lateral in ((rough, True), (smooth, False)):
        top, lateral = pyramid(features)[-1], pyramid.fpn.inner_blocks[-1](features[-1])
        assert torch.equal(top, lateral) == is_lateral


def test_p6_and_p7_come_from_c5_at_strides_64_and_128():
    pyramid = Pyramid((0,), (6,), 6, extra_levels=True)
    with torch.no_grad():
        levels = pyramid([torch.randn(1, 6, 13, 10)])
        assert [tuple(level.shape[-2:]) for level in levels] == [(13, 10), (7, 5), (4, 3)]
        for parameter in pyramid.fpn.inner_blocks.parameters():
            parameter.zero_()  # P5 becomes empty, C5 does not
        p5, p6, _ = pyramid([torch.randn(1, 6, 13, 10)])
    assert_close(p5, p5.mean((-2, -1), keepdim=True).expand_as(p5))
    assert float(p6.std()) > 0.05


def test_every_anchor_starts_with_a_person_probability_of_one_percent():
    torch.manual_seed(0)
    logits, deltas = DetectionSubnet(64, 9)([torch.randn(1, 64, 8, 8)])
    assert_close(logits.sigmoid().mean(), torch.tensor(0.01), atol=0.005, rtol=0)
    assert float(deltas.detach().abs().mean()) < 0.5


def test_the_detector_answers_in_the_order_of_the_anchors():
    torch.manual_seed(0)
    grid, size = AnchorGrid(strides=(8, 16), sizes=(8, 16)), (128, 224)
    subnet = DetectionSubnet(32, grid.per_cell)
    pyramid = [torch.zeros(1, 32, 16, 28), torch.zeros(1, 32, 8, 14)]
    with torch.no_grad():
        silence = subnet(pyramid)
        pyramid[0][..., 4, 19] = 10  # row 4, column 19 of the finer level
        spoken = subnet(pyramid)
    centres = grid.anchors(size).view(-1, 2, 2).mean(1)
    # Five 3x3 convolutions reach five cells; what is farther away must not have heard of it.
    cells = centres / 8 - 0.5
    within = ((cells - torch.tensor([19.0, 4.0])).abs() <= 5).all(1)
    within[16 * 28 * 9 :] = False
    for before, after in zip(silence, spoken, strict=True):
        changed = (before != after)[0].view(len(centres), -1)
        assert_close(changed.any(1), within)


def test_the_nine_anchors_of_a_cell_are_the_innermost_order():
    subnet = DetectionSubnet(8, 9)
    logits = subnet.heads.classification_head.cls_logits
    nn.init.zeros_(logits.weight)
    logits.bias.data = torch.arange(9.0)
    assert_close(subnet([torch.randn(1, 8, 2, 3)])[0], torch.arange(9.0).repeat(6)[None])


# --- the whole network


@pytest.mark.parametrize("size", [(97, 131), (64, 200), (33, 1), (1, 1)])
def test_pictures_of_any_size_give_maps_and_anchors_to_match(model, size):
    height, width = size
    with torch.inference_mode():
        outputs, _ = model(pictures(1, height, width))
    k = COCO_PERSON.num_keypoints
    assert outputs.heatmaps.shape == (1, k + 1, -(-height // 4), -(-width // 4))
    assert outputs.box_logits.shape == (1, len(AnchorGrid().anchors(size)))
    assert outputs.box_deltas.shape == (*outputs.box_logits.shape, 4)
    assert outputs.image_size == size


def test_a_skeleton_of_five_keypoints_gives_six_maps_and_a_network_for_five():
    with torch.device("meta"):
        hand = create_model(QUICK, skeleton=HAND)
        outputs, _ = hand(torch.zeros(2, 3, 64, 64))
        assert outputs.heatmaps.shape == (2, 6, 16, 16)
        assert hand.prn(torch.zeros(3, 5, 28, 18)).shape == (3, 5, 28, 18)


def test_only_the_tasks_asked_for_are_run(model):
    with torch.inference_mode():
        keypoints, _ = model(pictures(1, 64, 64), tasks=("keypoints",))
        boxes, _ = model(pictures(1, 64, 64), tasks=("detection",))
        both, _ = model(pictures(1, 64, 64))
    assert (keypoints.box_logits, keypoints.box_deltas, boxes.heatmaps) == (None, None, None)
    assert_close(keypoints.heatmaps, both.heatmaps)
    assert_close(boxes.box_logits, both.box_logits)


def test_without_targets_there_are_no_losses(model):
    with torch.inference_mode():
        outputs, losses = model(pictures(1, 64, 64))
    assert isinstance(outputs, MultiPoseNetOutputs)
    assert losses == {}


@pytest.mark.parametrize(
    ("tasks", "names"),
    [
        (("keypoints",), {"heatmaps", "person_mask", "intermediate"}),
        (("detection",), {"box_logits", "box_deltas"}),
        (("keypoints", "detection"), {"heatmaps", "person_mask", "intermediate", "box_logits", "box_deltas"}),
    ],
)
def test_with_targets_there_are_the_losses_of_the_tasks_also_in_evaluation_mode(model, tasks, names):
    with torch.inference_mode():
        _, losses = model(pictures(1, 64, 64), targets(1, 64, 64), tasks=tasks)
    assert set(losses) == names
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_every_parameter_but_the_residual_network_s_learns_from_the_losses():
    torch.manual_seed(0)
    fresh = create_model(QUICK, prn_nodes=4).train()
    sum(fresh(pictures(2, 64, 64), targets(2, 64, 64))[1].values()).backward()
    untaught = {name for name, p in fresh.named_parameters() if p.grad is None or not bool(p.grad.any())}
    assert untaught == {name for name, _ in fresh.named_parameters() if name.startswith("prn.")}


@pytest.mark.parametrize("task", [KEYPOINTS, DETECTION, JOINT], ids=lambda task: task.name)
@pytest.mark.parametrize(
    "options",
    [
        {"intermediate_weight": 0.0},
        {"detection_weight": 0.0},
        {"refiner": True, "refiner_weight": 0.0},
        {"refiner": True, "person_mask": False, "smooth_top": False, "p6_from": "P5"},
    ],
    ids=lambda options: ",".join(options),
)
def test_every_part_that_a_task_trains_has_a_gradient_though_its_loss_weigh_nothing(task, options):
    # Processes that train together wait for the gradients of all of them.
    torch.manual_seed(0)
    model = create_model("multiposenet_lite", **options).train()
    freeze(model, [part for part, _ in model.named_children() if part in task.untrained])
    sum(task.losses(model, Batch(pictures(2, 64, 64), targets(2, 64, 64), ("a", "b"))).values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_answer_to_a_picture_does_not_depend_on_its_batch_mates(model):
    images = pictures(3, 96, 64)
    with torch.inference_mode():
        together, _ = model(images)
        alone, _ = model(images[1:2])
    for name in ("heatmaps", "box_logits", "box_deltas"):
        assert_close(getattr(together, name)[1:2], getattr(alone, name), atol=1e-4, rtol=1e-4)


# --- building by name


def test_every_listed_model_can_be_built():
    for name in list_models():
        assert count(without_memory(name)) > 0


def test_an_unknown_model_is_an_error_that_lists_those_there_are():
    with pytest.raises(ValueError, match=r"'posenet' is unknown; choose one of .*multiposenet_resnet50"):
        create_model("posenet")


def test_an_unknown_option_is_an_error_that_names_model_and_option():
    with pytest.raises(ValueError, match=f"'{QUICK}': .*depth"):
        create_model(QUICK, depth=50)


def test_weights_bring_their_options_and_their_skeleton_with_them(tmp_path):
    torch.manual_seed(0)
    hand = create_model(QUICK, skeleton=HAND, prn_nodes=4, channels=32)
    facts = {"model": QUICK, "options": {"prn_nodes": 4, "channels": 32}, "skeleton": HAND.to_dict()}
    save_weights(hand, tmp_path / "hand.safetensors", facts)
    again = create_model(QUICK, weights=tmp_path / "hand.safetensors")
    assert_close(again.state_dict(), hand.state_dict(), atol=0, rtol=0)


def test_weights_of_another_model_are_an_error_that_names_both(tmp_path):
    save_weights(nn.Linear(2, 2), tmp_path / "other.safetensors", {"model": "multiposenet_resnet50"})
    with pytest.raises(ValueError, match=f"holds 'multiposenet_resnet50', not '{QUICK}'"):
        create_model(QUICK, weights=tmp_path / "other.safetensors")


# --- batch normalisation folded for inference


@pytest.mark.parametrize("name", ["resnet16_w32", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5"])
def test_a_network_with_folded_batch_normalisation_computes_the_same_without_any(name):
    torch.manual_seed(0)
    model = create_model("multiposenet_lite", backbone=name)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    images = torch.rand(1, 3, 64, 96)
    model.eval()
    with torch.inference_mode():
        before = model(images)[0]
        after = fuse_batch_norm(model)(images)[0]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert_close(after.heatmaps, before.heatmaps, atol=1e-5, rtol=1e-4)
    assert_close(after.box_logits, before.box_logits, atol=1e-5, rtol=1e-4)


def test_folding_batch_normalisation_of_a_model_in_training_is_an_error():
    with pytest.raises(ValueError, match=r"evaluation mode only; call \.eval\(\)"):
        fuse_batch_norm(create_model("multiposenet_lite"))


# --- the network for real time


def test_the_lite_network_has_at_most_four_million_parameters_with_its_grouping():
    assert sum(p.numel() for p in create_model("multiposenet_lite").parameters()) == 3_210_766


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_gives_four_stages_of_which_each_halves_the_one_before(name):
    backbone = Backbone(name).eval()
    with torch.no_grad():
        stages = backbone(torch.zeros(1, 3, 65, 96))
    assert [tuple(stage.shape[2:]) for stage in stages] == [(17, 24), (9, 12), (5, 6), (3, 3)]
    assert [stage.shape[1] for stage in stages] == backbone.channels


@pytest.mark.parametrize("name", [name for name, spec in BACKBONES.items() if spec.published is not None])
def test_every_backbone_with_published_weights_takes_torchvision_s_whole_file(name, tmp_path):
    torch.manual_seed(0)
    theirs = BACKBONES[name].build()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = Backbone(name, tmp_path / "w.pth").state_dict()
    assert_close(ours, {key: value for key, value in theirs.state_dict().items() if key in ours}, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["resnet16_w32", "mobilenet_v3_small"])
def test_recomputing_activations_changes_neither_gradients_nor_statistics(name):
    def gradients(recompute: bool) -> tuple[list[torch.Tensor], dict]:
        torch.manual_seed(0)
        backbone = Backbone(name)
        backbone.recompute = recompute
        sum(stage.square().mean() for stage in backbone(torch.rand(2, 3, 64, 64))).backward()
        return [p.grad for p in backbone.parameters()], backbone.state_dict()

    for ours, plain in zip(gradients(True), gradients(False), strict=True):
        assert_close(ours, plain)


@pytest.mark.parametrize("name", ["multiposenet_lite", "rsn18", "onestage_resnet50"])
def test_an_option_that_a_model_does_not_have_is_named_with_those_that_it_has(name):
    with pytest.raises(ValueError, match=rf"'{name}': there is no option 'nonsense'; there are .*backbone_weights"):
        build_method(name, nonsense=1)


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [("peak_threshold", "abc", "float"), ("refiner", "yes", "bool"), ("peak_threshold", (1, 2), "float")],
)
def test_text_where_a_number_is_wanted_is_refused_before_anything_is_decoded(option, value, kind):
    with pytest.raises(ValueError, match=f"option {option} must be {kind}.*got "):
        build_method("multiposenet_lite", **{option: value})
