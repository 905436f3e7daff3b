"""Weights of the published cascades: their networks' answers come out of ours, under every project's names."""

from __future__ import annotations

import json
import re

import numpy as np
import published_cascade as published
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from multiposenet import importers
from multiposenet.importers import megvii, mmpose_cascades
from multiposenet.methods import build_method, create_model, match_weights
from multiposenet.predictor import load
from multiposenet.skeletons import MPII

NETWORKS = {
    "mspn_2stage": (published.Bottleneck, (3, 4, 6, 3), 4, 2),
    "res18": (published.Bottleneck, (2, 2, 2, 2), 1, 1),
    "rsn18": (published.StepsBlock, (2, 2, 2, 2), 1, 1),
    "2x_rsn18": (published.StepsBlock, (2, 2, 2, 2), 1, 2),
}
FILES = {
    "mspn1": "mspn_1stage",
    "mspn2": "mspn_2stage",
    "mspn4": "mspn_4stage",
    "mspn2_mpii": "mspn_2stage",
    "res18": "res18",
    "rsn18": "rsn18",
    "4xrsn18": "4x_rsn18",
    "rsn18_mpii": "rsn18",
    "mmpose_mspn_1stage": "mspn_1stage",
    "mmpose_mspn_2stage": "mspn_2stage",
    "mmpose_rsn18_1stage": "rsn18",
    "mmpose_rsn50_2stage": "2x_rsn50",
}


def images(n: int = 1, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(5))


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to within a ten thousandth of the largest value; which must not be next to nothing."""
    largest = theirs.abs().max()
    assert float(largest) > 0.1
    assert_close(ours / largest, theirs / largest, atol=1e-4, rtol=0)


def network(name: str, k: int = 17) -> nn.Module:
    block, blocks, expansion, stages = NETWORKS[name]
    return published.randomised(published.Network(block, blocks, expansion, stages, k))


def as_mmpose(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """Official names to mmpose's, by their table; convolutions lose their biases."""
    renamed = {}
    for key, value in tensors.items():
        if key.endswith("conv.bias"):
            continue
        key = re.sub(r"^top\.conv\.", "backbone.top.top.0.", key)
        head = re.match(r"stage(\d+)\.upsample\.up(\d)\.res_conv(\d)\.(.*)", key)
        if head:
            stage, unit, conv, rest = head.groups()
            key = f"head.predict_layers.{4 * int(stage) + int(unit) - 1}.conv_layers.{int(conv) - 1}.{rest}"
        key = re.sub(r"^stage(\d+)\.", rf"backbone.multi_stage_{kind}.\1.", key)
        for theirs, other in (("u_skip", "in_skip"), ("skip1", "out_skip1"), ("skip2", "out_skip2")):
            key = re.sub(rf"\.{theirs}\.", f".{other}.", key)
        if kind == "mspn":
            key = re.sub(r"\.conv_bn_relu(\d)\.(conv|bn)\.", r".\2\1.", key)
        key = key.replace("conv_bn_relu3", "conv_bn3")
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("name", NETWORKS)
def test_every_stage_and_level_of_a_published_network_comes_out_of_a_file_of_its_weights(name, tmp_path):
    theirs = network(name)
    checkpoint = {"model": {f"module.{key}": value for key, value in theirs.state_dict().items()}, "iteration": 96000}
    torch.save(checkpoint | {"optimizer": {"state": {}}, "scheduler": {"last_epoch": 1}}, tmp_path / "iter-96000.pth")
    ours = create_model(name, weights=tmp_path / "iter-96000.pth").eval()
    with torch.inference_mode():
        outputs, losses = ours(images())
        expected = theirs(published.normalised(images()))
    assert losses == {}
    assert outputs.peak_height == 255
    assert len(outputs.stage_heatmaps) == len(expected)
    for own, levels in zip(outputs.stage_heatmaps, expected, strict=True):
        for maps, other in zip(own, levels, strict=True):
            assert_same(maps, other)


@pytest.mark.parametrize(
    ("name", "kind", "prefix"), [("mspn_2stage", "mspn", "keypoint_head."), ("2x_rsn18", "rsn", "head.")]
)
def test_a_file_of_mmpose_gives_the_same_network_without_biases_on_rgb(name, kind, prefix, tmp_path):
    theirs = network(name)
    for layer in theirs.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.bias)
    tensors = {re.sub(r"^head\.", prefix, key): value for key, value in as_mmpose(theirs.state_dict(), kind).items()}
    facts = {"sigmas": np.full(17, 0.05, np.float32), "links": np.arange(4), "best": np.float64(0.7)}
    torch.save({"meta": {"epoch": 210, "dataset_meta": facts}, "state_dict": tensors}, tmp_path / "mmpose.pth")
    method = build_method(weights=tmp_path / "mmpose.pth")
    assert method.name == name
    assert method.options["channel_order"] == "rgb"
    assert method.decoder.rule.extension == (1.25, 1.25)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    with torch.inference_mode():
        ours = method.model.eval()(images())[0].stage_heatmaps[-1]
        expected = theirs((images() * 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1))[-1]
    for maps, other in zip(ours, expected, strict=True):
        assert_same(maps, other)


@pytest.mark.parametrize("file", FILES)
def test_a_file_with_the_published_names_and_shapes_fits_its_model(file, published_names):
    names = published_names(file)
    tensors = {name: torch.empty(shape, device="meta") for name, shape in names.items()}
    ours, facts = importers.translate(tensors, file)
    assert match_weights(ours, facts, file) == FILES[file]
    assert facts["skeleton"]["name"] == ("mpii" if file.endswith("mpii") else "person")
    name_of = megvii.their_name
    if file.startswith("mmpose"):
        kind = "rsn" if "rsn" in file else "mspn"
        name_of = lambda name: mmpose_cascades.their_name(name, kind)  # noqa: E731
        assert all(value.eq(0).all() for name, value in ours.items() if value.device.type == "cpu")
    assert {name_of(name) for name in ours} - {None} == set(names)
    json.dumps(facts)


def test_the_stand_in_of_these_tests_has_the_published_names_and_shapes(published_names):
    with torch.device("meta"):
        own = {
            key: list(value.shape) for key, value in published.Network(*NETWORKS["mspn_2stage"]).state_dict().items()
        }
    assert own == published_names("mspn2")


def test_a_whole_picture_comes_out_as_by_the_published_code(tmp_path):
    theirs = network("rsn18")
    last = theirs.stage0.upsample.up4.res_conv2.bn
    with torch.no_grad():  # maps between 0 and 255, as if it had been trained
        spread, mean = torch.std_mean(theirs(published.normalised(images(1, 256, 192)))[-1][-1], dim=(0, 2, 3))
        last.bias.copy_((last.bias - mean) * 20 / spread + 120)
        last.weight.mul_(20 / spread)
    torch.save(theirs.state_dict(), tmp_path / "rsn18.pth")
    predictor = load(tmp_path / "rsn18.pth", device="cpu")
    rows, columns = np.mgrid[:120, :160]
    picture = np.stack([128 + 90 * np.sin(columns / 11 + c) * np.cos(rows / (9 + c)) for c in range(3)], -1)
    picture = picture.astype(np.uint8)
    box_xywh = np.array([30.0, 20, 60, 90])
    (poses,) = predictor([picture], boxes=[[[30.0, 20, 90, 110]]])
    centre, width = published.region(box_xywh, (1.09, 1.135), (256, 192))
    crop = published.crop(picture[..., ::-1] / 255.0, centre, width, (256, 192))
    crop = (crop - np.array(published.MEAN_BGR)) / np.array(published.STD_BGR)
    with torch.inference_mode():
        maps = theirs(torch.from_numpy(crop).permute(2, 0, 1)[None].float())[-1][-1][0]
    expected = published.keypoints(maps.double().numpy(), centre, width, (256, 192))
    # Random maps have equal maxima now and then, which rounding decides.
    agree = np.abs(poses.keypoints[0].numpy() - expected[:, :2]).max(1) < 0.05
    assert agree.mean() > 0.8
    assert float(poses.scores) == pytest.approx(expected[:, 2].mean() / 1.5, abs=2e-2)


def test_missing_and_misshapen_tensors_are_named_as_in_the_file():
    with torch.device("meta"):
        tensors = published.Network(*NETWORKS["rsn18"]).state_dict()
    del tensors["stage0.upsample.up2.up_conv.conv.weight"]
    tensors["top.conv.bn.bias"] = torch.zeros(32)
    with pytest.raises(ValueError, match=r"iter\.pth \(layout of megvii-detection/MSPN") as caught:
        importers.translate(tensors, "iter.pth")
    assert "missing keys (1): stage0.upsample.up2.up_conv.conv.weight" in str(caught.value)
    assert "top.conv.bn.bias: file [32], model [64]" in str(caught.value)


def test_a_cascade_that_has_no_name_here_is_an_error_with_those_that_have():
    with torch.device("meta"):
        tensors = published.Network(published.Bottleneck, (1, 1, 1, 1), 4, 1).state_dict()
    with pytest.raises(ValueError, match=r"1 stages of \(1, 1, 1, 1\) mspn blocks; known are"):
        importers.translate(tensors, "odd.pth")


def test_sixteen_keypoints_are_mpii_s():
    with torch.device("meta"):
        tensors = published.Network(*NETWORKS["rsn18"], k=16).state_dict()
    _, facts = importers.translate(tensors, "mpii.pth")
    assert facts["skeleton"] == MPII.to_dict()
