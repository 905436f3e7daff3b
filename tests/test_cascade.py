"""MSPN and RSN: as large as published, the published networks' answers, any input, any number of keypoints."""

from __future__ import annotations

import copy
from collections.abc import Callable

import published_cascade as published
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from multiposenet.checkpoint import save_tensors, save_weights
from multiposenet.methods import build_method, create_model
from multiposenet.models.cascade import Cascade, ConvNorm
from multiposenet.models.ensemble import Ensemble
from multiposenet.models.fusion import prepare_for_inference
from multiposenet.models.mspn import Bottleneck
from multiposenet.models.rsn import PoseRefineMachine, ResidualSteps
from multiposenet.skeletons import MPII, Skeleton
from multiposenet.structures import CropOutputs, CropTargets

FIVE = Skeleton("five", ("nose", "left_wrist", "right_wrist", "left_ankle", "right_ankle"), ((1, 2), (3, 4)))


def small(block: Callable = ResidualSteps, **options) -> Cascade:
    """A cascade of two stages with the published layers, but narrow and quick."""
    torch.manual_seed(0)
    narrow = {"num_stages": 2, "blocks": (1, 1, 1, 1), "planes": (16, 16, 32, 32), "width": 16, "stem_width": 16}
    return Cascade(block, 5, **narrow | options)


def crops(n: int, height: int = 64, width: int = 48) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def targets(n: int, k: int = 5, height: int = 64, width: int = 48) -> CropTargets:
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(n, k, 2, generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    return CropTargets(points, torch.randint(1, 3, (n, k), generator=generator).to(torch.uint8))


# --- sizes

PUBLISHED = {
    "mspn_1stage": (25.141708, 5.073),
    "mspn_2stage": (56.867032, 11.263),
    "mspn_3stage": (88.592, 17.453),
    "mspn_4stage": (120.318, 23.643),
    "res18": (8.558924, 2.065),
    "rsn18": (9.159072, 2.245),
    "4x_rsn18": (38.456256, 9.220),
    "rsn50": (19.355, 4.068),
    "rsn18_wide": (13.419, 2.712),
    "rsn50_wide": (38.394, 6.960),
}
"""10^6 parameters and 10^9 multiply-adds at 256 x 192, of the published code; as many digits as are known."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_codes(name):
    parameters, giga = PUBLISHED[name]
    with torch.device("meta"):
        model, images = create_model(name), torch.zeros(1, 3, 256, 192)
    counted = round(sum(value.numel() for value in model.parameters()) / 1e6, len(str(parameters).split(".")[1]))
    assert counted == parameters
    assert multiply_adds(model, images) / 1e9 == pytest.approx(giga, rel=1e-3)


def multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Of all convolutions; normalisation, rectification and resizing do not count."""
    total = 0

    def count(layer: nn.Conv2d, _: tuple, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    for layer in list(model.modules()):
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
        elif isinstance(layer, ConvNorm):
            layer.norm = nn.Identity()  # slow where tensors have no memory, and not counted
    model(images)
    return total


def test_a_network_for_mpii_is_that_much_smaller():
    with torch.device("meta"):
        model = create_model("mspn_2stage", skeleton=MPII)
    assert sum(value.numel() for value in model.parameters()) == 56_848_576


def test_the_pose_refine_machine_has_the_published_number_of_parameters():
    assert sum(value.numel() for value in PoseRefineMachine(17).parameters()) == 5_100


# --- answers


def test_every_stage_and_level_gives_maps_of_a_quarter_of_the_crop_and_the_last_is_the_answer():
    outputs, losses = small()(crops(2))
    assert losses == {}
    assert [len(levels) for levels in outputs.stage_heatmaps] == [4, 4]
    assert {tuple(maps.shape) for levels in outputs.stage_heatmaps for maps in levels} == {(2, 5, 16, 12)}
    assert outputs.heatmaps is outputs.stage_heatmaps[1][3]
    assert outputs.image_size == (64, 48)


@pytest.mark.parametrize(("size", "cells"), [((64, 48), (16, 12)), ((70, 51), (18, 13)), ((33, 100), (9, 25))])
@pytest.mark.parametrize("block", [Bottleneck, ResidualSteps])
def test_any_size_of_crop_works(block, size, cells):
    outputs, _ = small(block).eval()(crops(1, *size))
    assert outputs.heatmaps.shape[-2:] == cells


def test_a_crop_s_answer_does_not_depend_on_its_batch():
    model = small().eval()
    with torch.inference_mode():
        together, alone = model(crops(3))[0].heatmaps[1:2], model(crops(3)[1:2])[0].heatmaps
    assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("people", [1, 2])
@pytest.mark.parametrize("prm", [False, True])
def test_a_training_step_changes_every_parameter_with_one_person_and_with_two(people, prm):
    method = build_method("rsn18", skeleton=FIVE, planes=(16, 16, 32, 32), width=16, stem_width=16, prm=prm)
    model = method.model.train()
    _, losses = model(crops(people, 64, 64), targets(people, 5, 64, 64))
    sum(losses.values()).backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None]
    assert silent == []
    assert all(torch.isfinite(value.grad).all() for value in model.parameters())


def test_a_batch_with_nobody_in_it_has_no_loss_and_no_gradient():
    model = build_method("rsn18", skeleton=FIVE, planes=(16, 16, 32, 32), width=16, stem_width=16).model.train()
    labels = targets(2)
    nobody = CropTargets(labels.keypoints, torch.zeros_like(labels.visibility))
    _, losses = model(crops(2), nobody)
    total = sum(losses.values())
    total.backward()
    assert total.item() == 0
    assert all(float(value.grad.abs().sum()) == 0 for value in model.parameters() if value.grad is not None)


def test_recomputed_activations_change_neither_losses_nor_gradients_nor_statistics():
    plain, thrifty = (
        small(loss=lambda outputs, _: {"all": outputs.heatmaps.square().mean()}).train() for _ in range(2)
    )
    thrifty.recompute = True
    for model in (plain, thrifty):
        model(crops(2), targets(2))[1]["all"].backward()
    assert_close([p.grad for p in plain.parameters()], [p.grad for p in thrifty.parameters()])
    assert_close(plain.state_dict(), thrifty.state_dict())


@pytest.mark.parametrize("block", [Bottleneck, ResidualSteps])
def test_made_for_inference_the_answer_stays_the_same(block):
    network = published.randomised(small(block))
    fast = prepare_for_inference(copy.deepcopy(network))
    with torch.inference_mode():
        slow_maps, fast_outputs = network(crops(2))[0].heatmaps, fast(crops(2))[0]
    assert_close(fast_outputs.heatmaps, slow_maps, atol=1e-4, rtol=1e-4)
    assert [len(levels) for levels in fast_outputs.stage_heatmaps] == [1, 1]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fast.modules())


def test_pictures_of_another_channel_order_give_the_same_answer_to_a_network_that_was_told():
    rgb = small().eval()
    bgr = small(channel_order="bgr").eval()
    bgr.load_state_dict(rgb.state_dict())
    with torch.no_grad():
        bgr.stem.conv.conv.weight.copy_(rgb.stem.conv.conv.weight.flip(1))
        assert_close(bgr(crops(1))[0].heatmaps, rgb(crops(1))[0].heatmaps, atol=1e-5, rtol=1e-4)


def test_an_ensemble_answers_with_the_mean_in_units_of_each_models_peaks():
    one, other = small(peak_height=1.0).eval(), small(Bottleneck).eval()
    with torch.inference_mode():
        mean = Ensemble([one, other])(crops(1))[0]
        expected = (one(crops(1))[0].heatmaps + other(crops(1))[0].heatmaps / 255) / 2
    assert isinstance(mean, CropOutputs)
    assert mean.peak_height == 1
    assert_close(mean.heatmaps, expected)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_imagenet_weights_start_the_stem_and_every_stage(tmp_path, order):
    import torchvision

    torch.manual_seed(0)
    resnet = torchvision.models.resnet50()
    published.randomised(nn.ModuleList([layer for layer in resnet.modules() if isinstance(layer, nn.BatchNorm2d)]))
    torch.save(resnet.state_dict(), tmp_path / "resnet50.pth")
    method = build_method("mspn_2stage", backbone_weights=str(tmp_path / "resnet50.pth"), channel_order=order)
    assert "backbone_weights" not in method.options
    model, resnet = method.model.eval(), resnet.eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        theirs = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
        levels = [model.stem(images if order == "rgb" else images.flip(1))]
        assert_close(levels[0], theirs, atol=1e-4, rtol=1e-4)
        for number, level in enumerate(model.stages[1].down, start=1):
            theirs = getattr(resnet, f"layer{number}")(theirs)
            levels.append(level(levels[-1]))
            assert_close(levels[-1], theirs, atol=1e-3, rtol=1e-3)


def test_the_small_network_starts_from_the_backbone_of_a_whole_model(tmp_path):
    torch.manual_seed(0)
    bottom_up = build_method("multiposenet_lite")
    save_weights(bottom_up.model, tmp_path / "w.safetensors", bottom_up.facts)
    model = build_method("topdown_lite", backbone_weights=str(tmp_path / "w.safetensors")).model.eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = bottom_up.model.eval().backbone(images)
        level = model.stem(images)
        for down, theirs in zip(model.stages[0].down, wanted, strict=True):
            level = down(level)
            assert_close(level, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("align_corners", "off"), [(False, 0.0), (True, 2.9)])
def test_a_finer_level_takes_features_from_where_its_cells_are_or_as_published(align_corners, off):
    stage = small(num_stages=1, align_corners=align_corners).stages[0]
    middles = {cells: (torch.arange(cells) + 0.5) * 48 / cells for cells in (6, 48)}  # in pixels of a crop 48 wide
    stage.climb = lambda down: [torch.zeros(1, 1, 8, 48), middles[6].expand(1, 1, 8, 6)]
    stage.heads = nn.ModuleList([nn.Identity(), nn.Identity()])
    (coarse, _), *_ = stage(torch.zeros(1, 16, 16, 12))
    inner = slice(4, -4)  # nothing lies further out than the outermost middles
    assert_close((coarse[0, 0, 0] - middles[48])[inner].abs().amax(), torch.tensor(off), atol=0.1, rtol=0)


def test_a_file_without_a_level_s_first_block_starts_no_network(tmp_path):
    bottom_up = build_method("multiposenet_lite")
    tensors = {name: value for name, value in bottom_up.model.state_dict().items() if ".layer3.0." not in name}
    assert len(tensors) < len(bottom_up.model.state_dict())
    save_tensors(tensors, tmp_path / "w.safetensors", bottom_up.facts)
    with pytest.raises(ValueError, match=r"missing keys .*layer3\.0"):
        build_method("topdown_lite", backbone_weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_stages": 0}, "num_stages must be at least 1"), ({"channel_order": "hsv"}, "channel_order must be one of")],
)
def test_impossible_cascades_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
