"""The One-Stage network through the training script, and out of its weights file into a predictor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from multiposenet import load
from multiposenet.engine import STEPS, step_schedule
from multiposenet.families.one_stage import build_onestage
from multiposenet.options import parse_model_options, read_options_file
from multiposenet.skeletons import COCO_PERSON

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import train_posenet  # noqa: E402

SMALL = [
    *("--model", "onestage_resnet50", "--image_size", "64", "--device", "cpu", "--workers", "0"),
    *("--synthetic_count", "4", "--epoch_size", "4", "--val_count", "2", "--batch_size", "2", "--validate_every", "2"),
    "--model_options",
    "backbone=resnet16_w32,norm=group,head_width=16,box_batch=16,proposals=30x20,max_people=2,keypoint_boxes=2",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two epochs of two steps, in half precision, with averaged weights and the published optimiser."""
    folder = tmp_path_factory.mktemp("run")
    more = ["--epochs", "2", "--precision", "bf16", "--optimizer", "sgd", "--lr", "0.01", "--schedule", "steps"]
    train_posenet.main([*SMALL, *more, "--frozen", "backbone.conv1,backbone.layer1", "--out", str(folder)])
    return folder


def test_a_training_leaves_weights_that_predict(run):
    predictor = load(run / "best.safetensors", device="cpu")
    assert predictor.name == "onestage_resnet50"
    assert predictor.image_size == 64
    (poses,) = predictor(torch.zeros(3, 64, 48, dtype=torch.uint8))
    assert len(poses) <= 2
    assert poses.keypoints.shape[1] == 17


def test_the_curve_holds_every_loss(run):
    header = (run / "log.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"proposal_logits", "proposal_deltas", "box_logits", "box_deltas", "keypoints", "AP"} <= set(header)


def test_frozen_layers_stay(run):
    tensors = load(run / "last.safetensors").model.state_dict()
    torch.manual_seed(0)  # what the script started from
    first = train_posenet.build_method("onestage_resnet50", backbone="resnet16_w32", norm="group").model.backbone
    assert torch.equal(tensors["backbone.conv1.weight"], first.conv1.weight)
    assert not torch.equal(tensors["backbone.layer4.0.conv1.weight"], first.layer4[0].conv1.weight)


def test_the_rate_falls_by_a_tenth_twice():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    schedule, rates = step_schedule(optimizer, total_steps=270, warmup_steps=10), []
    for _ in range(270):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0.001
    assert rates[10] == rates[209] == 1.0
    assert rates[210] == pytest.approx(0.1)
    assert rates[249] == pytest.approx(0.1)
    assert rates[250] == pytest.approx(0.01)
    assert STEPS == (210 / 270, 250 / 270)


def test_the_published_recipe_takes_the_published_number_of_steps():
    values = read_options_file(train_posenet.TrainOptions, ROOT / "recipes" / "onestage.toml")
    assert values["epochs"] * values["epoch_size"] // values["batch_size"] == 2_160_000


def test_the_published_recipe_learns_from_the_published_number_of_proposals():
    values = read_options_file(train_posenet.TrainOptions, ROOT / "recipes" / "onestage.toml")
    options = parse_model_options(values["model_options"])
    proposals = build_onestage(COCO_PERSON, backbone="resnet16_w32", head_width=16, **options)[0].proposals
    assert proposals.train().post_nms_top_n() == 1500
    assert proposals.eval().post_nms_top_n() == 1000
