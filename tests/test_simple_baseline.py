"""SimpleBaseline: its published size, and that it is one more top-down method."""

from __future__ import annotations

import numpy as np
import torch
from torch.testing import assert_close

from multiposenet import create_model
from multiposenet.methods import build_method
from multiposenet.models.backbones import Backbone
from multiposenet.models.simple_baseline import SimpleBaseline
from multiposenet.predictor import PosePredictor
from multiposenet.structures import CropTargets


def test_it_has_its_published_size():
    with torch.device("meta"):
        models = [create_model(f"simplebaseline_resnet{depth}") for depth in (50, 101)]
        outputs, _ = models[0].eval()(torch.zeros(2, 3, 256, 192))
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert [round(count / 1e6, 1) for count in counts] == [34.0, 53.0]
    assert outputs.heatmaps.shape == (2, 17, 64, 48)


def test_labels_and_boxes_are_the_published_ones():
    with torch.device("meta"):
        method = build_method("simplebaseline_resnet50")
    assert method.model.loss.labels.sigmas == (2.0,)
    assert method.model.loss.hard_keypoints == 17
    assert method.decoder.rule.extension == (1.25, 1.25)


def test_the_first_answer_is_an_empty_map_and_learning_fills_it():
    torch.manual_seed(0)
    method = build_method("simplebaseline_resnet50", backbone="resnet16_w32", crop=(64, 64))
    model = method.model.train()
    crops = torch.rand(2, 3, 64, 64)
    targets = CropTargets(torch.full((2, 17, 2), 30.0), torch.full((2, 17), 2, dtype=torch.uint8))
    outputs, losses = model(crops, targets)
    assert outputs.heatmaps.abs().max() < 0.1
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    before = losses["finest"].item()
    for _ in range(12):
        optimizer.zero_grad()
        sum(model(crops, targets)[1].values()).backward()
        optimizer.step()
    assert model(crops, targets)[1]["finest"].item() < 0.5 * before


def test_given_boxes_become_poses():
    method = build_method("simplebaseline_resnet50", backbone="resnet16_w32")
    picture = np.full((80, 100, 3), 128, np.uint8)
    (poses,) = PosePredictor(method)(picture, boxes=[np.array([[10, 10, 60, 70]], np.float32)])
    assert len(poses) == 1
    assert_close(poses.boxes, torch.tensor([[10.0, 10.0, 60.0, 70.0]]))


def test_a_network_without_a_loss_answers():
    model = SimpleBaseline(Backbone("resnet16_w32"), num_keypoints=3).eval()
    outputs, losses = model(torch.zeros(1, 3, 64, 32))
    assert outputs.heatmaps.shape == (1, 3, 16, 8)
    assert losses == {}
