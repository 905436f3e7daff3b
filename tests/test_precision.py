"""Networks that calculate in half precision find the same people."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import multiposenet
from multiposenet.cli import main
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.methods import build_method
from multiposenet.precision import as_precise_as, in_precision
from multiposenet.predictor import PosePredictor, ShippedDetector
from multiposenet.structures import Poses

PICTURES = SyntheticPeople(4, seed=40_000, people=(2, 4), arrangement="coco")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [sample.image for sample in PICTURES]


def assert_the_same_people(found: list[Poses], expected: list[Poses], pixels: float) -> None:
    """Sure people and their sure keypoints, half within so many pixels, nine of ten within thrice as many."""
    distances = []
    for ours, theirs in zip(found, expected, strict=True):
        sure = theirs.scores > 0.5
        for box, keypoints, scores in zip(
            theirs.boxes[sure], theirs.keypoints[sure], theirs.keypoint_scores[sure], strict=True
        ):
            nearest = (ours.boxes - box).abs().sum(1).argmin()
            distances.append((ours.keypoints[nearest] - keypoints).norm(dim=-1)[scores > 0.5])
    distance = torch.cat(distances)
    assert len(distance) > 50
    assert distance.median() < pixels
    assert distance.quantile(0.9) < 3 * pixels


def convolution_dtypes(model: nn.Module) -> set[torch.dtype]:
    """Filled with the types that the model's convolutions answer in, from now on."""
    seen: set[torch.dtype] = set()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, given, answer: seen.add(answer.dtype))
    return seen


@pytest.mark.parametrize("name", ["multiposenet_lite", "topdown_lite"])
def test_half_precision_finds_the_same_people(name: str, pictures: list[np.ndarray]) -> None:
    boxes = None if name == "multiposenet_lite" else [sample.labels.boxes for sample in PICTURES]
    single, half = (multiposenet.load(name, "cpu", precision=precision) for precision in ("fp32", "bf16"))
    seen = {predictor: convolution_dtypes(predictor.model) for predictor in (single, half)}
    found, expected = half(pictures, boxes), single(pictures, boxes)
    assert seen == {single: {torch.float32}, half: {torch.bfloat16}}  # the refiner's too, which runs in decoding
    assert all(poses.keypoints.dtype == torch.float32 for poses in found)
    assert_the_same_people(found, expected, pixels=0.5)
    assert any((ours.keypoints != theirs.keypoints).any() for ours, theirs in zip(found, expected, strict=True))


def test_all_views_are_averaged_in_single_precision(pictures: list[np.ndarray]) -> None:
    single, half = (
        multiposenet.load("multiposenet_lite", "cpu", precision=precision, flip=True, scales=(1.0, 0.75))
        for precision in ("fp32", "bf16")
    )
    assert_the_same_people(half(pictures), single(pictures), pixels=0.5)


def test_keypoint_rcnn_runs_in_half_precision(pictures: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    method = build_method("onestage_resnet50")
    predictor = PosePredictor(method, "cpu", image_size=96, max_people=3, box_threshold=0.0, precision="bf16")
    (poses,) = predictor(pictures[0])
    assert len(poses) == 3
    assert poses.keypoints.isfinite().all()
    assert poses.boxes.isfinite().all()


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16, got 'half'"):
        multiposenet.load("multiposenet_lite", "cpu", precision="half")


def test_a_detector_has_the_precision_of_who_asks_it() -> None:
    predictor = multiposenet.load("topdown_lite", "cpu", precision="bf16")
    assert isinstance(predictor.detector, ShippedDetector)
    assert predictor.detector.predictor.runner.settings.precision == "bf16"


def test_a_network_goes_on_as_the_one_before() -> None:
    layer, picture = nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2)
    with as_precise_as(picture.bfloat16()):
        assert layer(picture).dtype == torch.bfloat16
    with in_precision("bf16", CPU), as_precise_as(picture):  # a training's own precision is left as it is
        assert layer(picture).dtype == torch.bfloat16
    with as_precise_as(picture):
        assert layer(picture).dtype == torch.float32


def test_the_command_line_offers_precisions(tmp_path, capsys: pytest.CaptureFixture) -> None:
    assert main(["predict", "--precision", "bf16", "--no-pictures", "--out", str(tmp_path / "out")]) == 0
    assert '"precision": "bf16"' in (tmp_path / "out" / "poses.json").read_text()
    with pytest.raises(SystemExit):
        main(["predict", "--precision", "int8"])
    assert "invalid choice: 'int8'" in capsys.readouterr().err
