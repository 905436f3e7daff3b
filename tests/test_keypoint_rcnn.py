"""Keypoint R-CNN and One-Stage: the modules against plain references, and the whole network on ordinary pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import roi_align

from multiposenet.families.one_stage import build_keypoint_rcnn, build_onestage
from multiposenet.geometry import clip_boxes
from multiposenet.models.keypoint_rcnn import ExpandedBoxPool, GlobalContext, OneStageKeypointHead, reference_name
from multiposenet.models.keypoint_rcnn_heads import KeypointHead
from multiposenet.models.norms import NORMS, replace_norms
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Detections, PoseTargets

K = COCO_PERSON.num_keypoints
HAND = Skeleton("hand", ("thumb", "index", "middle"))
HEIGHT, WIDTH = 64, 96


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small_model(skeleton: Skeleton = COCO_PERSON, **options) -> nn.Module:
    """The One-Stage network with a narrow backbone and head."""
    own = {
        "backbone": "resnet16_w32",
        "pool": ExpandedBoxPool(),
        "head": OneStageKeypointHead,
        "head_width": 32,
        "expansion": 1.3,
        "norm": "group",
        "box_batch": 32,
        "proposals": (60, 40),
        "max_people": 6,
    }
    torch.manual_seed(0)
    return build_keypoint_rcnn(skeleton, **own | options)[0]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_model().eval()


def test_boxes_are_enlarged_alike_for_pooling_and_for_heatmaps():
    small = {"backbone": "resnet16_w32", "head_width": 32}
    for model, decoder in (build_onestage(COCO_PERSON, **small), build_onestage(COCO_PERSON, expansion=1.6, **small)):
        assert model.keypoint_pool.expansion == model.codec.expansion == decoder.codec.expansion
    assert decoder.codec.expansion == 1.6


@pytest.mark.parametrize(("threshold", "found"), [(0.5, 1), (0.7, 2)])
def test_how_close_two_people_s_boxes_may_be_is_an_option(threshold, found):
    detector = small_model(nms_threshold=threshold).detector
    boxes = torch.tensor([[0.0, 0, 50, 100], [10, 0, 60, 100]])  # an IoU of 2/3
    assert len(detector._suppress(boxes, torch.tensor([0.9, 0.8]), (200, 200), 0.05, 10)[0]) == found


def pictures(n: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return torch.rand(n, 3, height, width, generator=seeded())


def targets(boxes: list[list[list[float]]], ignored: bool = False, visible: int = 2) -> PoseTargets:
    """Labels of pictures with people whose keypoints lie in their boxes."""
    slots = max(1, *map(len, boxes))
    padded, valid = torch.zeros(len(boxes), slots, 4), torch.zeros(len(boxes), slots, dtype=torch.bool)
    for picture, own in enumerate(boxes):
        if own:
            padded[picture, : len(own)], valid[picture, : len(own)] = torch.tensor(own), True
    shares = torch.rand(len(boxes), slots, K, 2, generator=seeded(1))
    keypoints = padded[:, :, None, :2] + shares * (padded[:, :, None, 2:] - padded[:, :, None, :2]) - 0.5
    return PoseTargets(
        keypoints=keypoints,
        visibility=(visible * valid[..., None]).expand(-1, -1, K).to(torch.uint8),
        boxes=padded,
        valid=valid,
        person_mask=torch.zeros(len(boxes), HEIGHT // 4, WIDTH // 4),
        ignore_mask=torch.full((len(boxes), HEIGHT // 4, WIDTH // 4), ignored),
    )


ONE_PERSON = [[[20.0, 8.0, 60.0, 60.0]]]


# --- the head


def reference_attention(features: Tensor, tensors: dict[str, Tensor], heads: int) -> Tensor:
    """Attention cell by cell and head by head, written from its description."""
    channels, height, width = features.shape[1:]
    depth = channels // heads
    qk = F.conv2d(features, tensors["to_qk.weight"])
    q, k, v = qk[:, :channels], qk[:, channels:], F.conv2d(features, tensors["to_v.weight"])
    result = torch.zeros_like(features)
    for head in range(heads):
        own = slice(head * depth, (head + 1) * depth)
        for y in range(height):
            for x in range(width):
                query = q[:, own, y, x] * depth**-0.5
                logits = torch.einsum("nd,ndab->nab", query, k[:, own])
                down = torch.stack([query @ tensors["rel_height"][b - y + height - 1] for b in range(height)], dim=1)
                across = torch.stack([query @ tensors["rel_width"][b - x + width - 1] for b in range(width)], dim=1)
                weights = (logits + down[:, :, None] + across[:, None, :]).flatten(1).softmax(1)
                result[:, own, y, x] = torch.einsum("nc,ndc->nd", weights, v[:, own].flatten(2))
    return result


def test_global_context_is_two_residual_branches_with_relative_attention():
    torch.manual_seed(0)
    module = GlobalContext(channels=8, heads=2, size=5).eval()
    for norm in (module.norm1, module.norm2):
        nn.init.uniform_(norm.weight)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
    features = torch.randn(2, 8, 5, 5)
    attended = reference_attention(F.relu(module.norm1(features)), module.attention.state_dict(), heads=2)
    middle = features + attended
    wanted = middle + module.conv(F.relu(module.norm2(middle)))
    assert_close(module(features), wanted, atol=1e-5, rtol=1e-4)


def test_global_context_refuses_another_size():
    with pytest.raises(ValueError, match=r"channels, 14, 14\], got \[1, 512, 7, 7\]"):
        GlobalContext()(torch.zeros(1, 512, 7, 7))


def test_the_one_stage_head_has_its_published_size_and_shapes():
    with torch.device("meta"):
        head, plain = OneStageKeypointHead(), KeypointHead()
        logits = head.eval()(torch.zeros(2, 256, 14, 14))
    assert logits.shape == (2, K, 56, 56)
    assert count(head) == 25_459_729
    assert count(plain) == 17_838_097


def test_every_name_of_the_references_head_has_one_of_ours(published_names):
    shapes = published_names("onestage_head")
    with torch.device("meta"):
        own = OneStageKeypointHead().state_dict()
    assert {reference_name(name): list(shape) for name, shape in shapes.items()} == {
        name: list(value.shape) for name, value in own.items()
    }
    assert reference_name("backbone.conv1.weight") is None


@pytest.mark.parametrize("mode", [True, False])
def test_a_head_takes_no_boxes_too(mode):
    head = OneStageKeypointHead(width=16).train(mode)
    assert head(torch.zeros(0, 256, 14, 14)).shape == (0, K, 56, 56)


# --- pooling


def reference_pool(features: Tensor, boxes: list[Tensor]) -> Tensor:
    """The published way: zeros around the features as far as the farthest box reaches, in steps of eight cells."""
    size = features.new_tensor([features.shape[3] * 4, features.shape[2] * 4])
    larger = []
    for own in boxes:
        middle, half = (own[:, :2] + own[:, 2:]) / 2, 1.3 * (own[:, 2:] - own[:, :2]) / 2
        larger.append(torch.cat([middle - half, middle + half], dim=1))
    reach = max(float(torch.cat([-own[:, :2], own[:, 2:] - size]).max()) for own in larger)
    margin = 8 * max(0, -(-int(reach + 1) // 32))
    padded = F.pad(features, (margin,) * 4)
    return roi_align(padded, [own + 4 * margin for own in larger], 14, 0.25, sampling_ratio=0, aligned=True)


def test_boxes_that_leave_the_picture_are_pooled_as_published():
    features = torch.randn(2, 3, 16, 24, generator=seeded())
    boxes = [
        torch.tensor([[-1.0, -2.0, 50.0, 40.0], [0.0, 0.0, 96.0, 64.0], [90.0, 1.0, 96.0, 63.0]]),
        torch.tensor([[30.0, 20.0, 34.0, 23.0], [0.0, 60.0, 96.0, 64.0]]),
    ]
    pooled = ExpandedBoxPool()(features, boxes)
    assert pooled.shape == (5, 3, 14, 14)
    assert_close(pooled, reference_pool(features, boxes), atol=1e-4, rtol=0)


def test_a_plain_roi_align_would_repeat_the_border():
    features = torch.ones(1, 1, 16, 24)
    at_the_border = [torch.tensor([[0.0, 0.0, 10.0, 64.0]])]
    assert ExpandedBoxPool()(features, at_the_border).amin() < 0.1
    inside = [torch.tensor([[40.0, 20.0, 60.0, 40.0]])]
    assert_close(ExpandedBoxPool()(features, inside), torch.ones(1, 1, 14, 14))


def test_pooling_takes_the_finest_of_named_levels_and_no_boxes():
    features = torch.randn(1, 2, 16, 16, generator=seeded())
    levels = {"0": features, "1": torch.full((1, 2, 8, 8), torch.nan)}
    boxes = [torch.tensor([[5.0, 5.0, 30.0, 30.0]])]
    assert_close(ExpandedBoxPool()(levels, boxes), ExpandedBoxPool()(features, boxes))
    assert ExpandedBoxPool()(features, [torch.zeros(0, 4)]).shape == (0, 2, 14, 14)


def test_half_precision_features_keep_exact_boxes():
    features = torch.randn(1, 2, 64, 64, generator=seeded()).bfloat16()
    boxes = [torch.tensor([[200.3, 101.7, 211.9, 133.1]])]
    wanted = ExpandedBoxPool()(features.float(), boxes)
    assert_close(ExpandedBoxPool()(features, boxes), wanted.bfloat16())


# --- the network


def test_outputs_hold_a_heatmap_for_everyone_found(model):
    outputs, losses = model(pictures(3))
    assert losses == {}
    assert outputs.heatmaps.shape == (int(outputs.people.valid.sum()), K, 56, 56)
    assert len(outputs.heatmaps) > 0
    low, high = outputs.people.boxes[..., :2], outputs.people.boxes[..., 2:]
    assert bool((low >= 0).all() & (high <= torch.tensor([WIDTH, HEIGHT])).all())


@pytest.mark.parametrize("size", [(50, 75), (32, 33), (96, 64)])
def test_pictures_of_any_size_pass(model, size):
    outputs, _ = model(pictures(1, *size))
    assert outputs.image_size == size
    assert bool((outputs.people.boxes[..., 2:] <= torch.tensor([size[1], size[0]])).all())


def test_a_picture_does_not_depend_on_its_batch_mates(model):
    images = pictures(3)
    together, _ = model(images)
    first = 0
    for picture in range(3):
        alone, _ = model(images[picture : picture + 1])
        people = together.people.valid[picture].sum()
        assert len(alone.heatmaps) == people > 0
        assert_close(together.people.boxes[picture, :people], alone.people.boxes[0], atol=1e-3, rtol=1e-4)
        assert_close(together.heatmaps[first : first + people], alone.heatmaps, atol=0.05, rtol=0)
        first += people


def test_given_people_are_looked_at_instead_of_found_ones(model):
    boxes = torch.tensor([[[10.0, 5.0, 50.0, 60.0], [0.0, 0.0, 0.0, 0.0]]])
    people = Detections(boxes, torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    outputs, _ = model(pictures(1), people=people)
    assert outputs.people is people
    assert outputs.heatmaps.shape == (1, K, 56, 56)


@torch.no_grad()
def test_nobody_is_found_in_the_padding_beside_a_picture(model):
    sizes = [(HEIGHT, WIDTH), (40.0, 70.5)]
    people = model(pictures(2), picture_sizes=sizes)[0].people
    for boxes, valid, (height, width) in zip(people.boxes, people.valid, sizes, strict=True):
        assert valid.any()
        assert_close(boxes[valid], clip_boxes(boxes[valid], (height, width)), rtol=0, atol=0)
        assert bool((boxes[valid, 2:] > boxes[valid, :2]).all())


@torch.no_grad()
def test_limits_leave_the_best(model):
    images = pictures(2)
    everyone, few = model(images)[0].people, model(images, max_people=2)[0].people
    assert few.boxes.shape[1] == 2
    assert_close(few.boxes, everyone.boxes[:, :2])
    above = float(everyone.scores[everyone.valid].median())
    assert bool((model(images, score_threshold=above)[0].people.scores > above)[0, 0])
    nobody = model(images, score_threshold=1.0)[0]
    assert nobody.heatmaps.shape == (0, K, 56, 56)
    assert not nobody.people.valid.any()


LABELS = {
    "nobody": targets([[], [], []]),
    "a crowd everywhere": targets([[], [], []], ignored=True),
    "somebody of three pixels": targets([[[30.0, 30.0, 33.0, 33.0]], [], ONE_PERSON[0]]),
    "somebody without area": targets([[[30.0, 30.0, 30.0, 50.0]], [], []]),
    "many": targets([ONE_PERSON[0], [[1.0, 1.0, 40.0, 30.0], [50.0, 2.0, 95.0, 60.0]], ONE_PERSON[0]]),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_a_training_step_is_finite_and_reaches_every_weight(labels):
    model = small_model().train()
    outputs, losses = model(pictures(3), labels, find=False)
    assert outputs is None
    assert set(losses) == {"proposal_logits", "proposal_deltas", "box_logits", "box_deltas", "keypoints"}
    assert all(bool(value.isfinite()) for value in losses.values())
    sum(losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_losses_come_in_either_mode_and_outputs_with_them(model):
    outputs, losses = model(pictures(1), targets(ONE_PERSON))
    assert len(losses) == 5
    assert len(outputs.heatmaps) == outputs.people.valid.sum()


def test_people_without_labels_are_not_taught_as_background():
    model = small_model().eval()
    crowd = targets([[]], ignored=True)
    with torch.no_grad():
        of_crowd = model(pictures(1), crowd, find=False)[1]
        of_empty = model(pictures(1), targets([[]]), find=False)[1]
    for name in ("proposal_logits", "box_logits"):
        assert of_crowd[name] == 0
        assert of_empty[name] > 0


def test_a_labelled_person_in_a_crowd_is_still_taught():
    model = small_model().eval()
    with torch.no_grad():
        losses = model(pictures(1), targets(ONE_PERSON, ignored=True), find=False)[1]
    assert all(losses[name] > 0 for name in ("proposal_logits", "box_logits", "keypoints"))


def test_people_without_keypoints_teach_the_detector_alone():
    model = small_model().eval()
    with torch.no_grad():
        losses = model(pictures(1), targets(ONE_PERSON, visible=0), find=False)[1]
    assert losses["keypoints"] == 0
    assert losses["box_deltas"] > 0


def test_some_steps_on_a_picture_lower_the_losses():
    model = small_model(keypoint_boxes=4).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    images, labels, curve = pictures(1), targets(ONE_PERSON), []
    for _ in range(30):  # the box head meets more people as proposals get better, and gets worse at first
        losses = model(images, labels, find=False)[1]
        curve.append({name: value.item() for name, value in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    for name in ("proposal_logits", "box_logits", "keypoints"):
        assert sum(row[name] for row in curve[-3:]) < 0.9 * sum(row[name] for row in curve[:3]), name


def test_half_precision_gives_finite_losses_of_single_precision():
    model = small_model().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(pictures(2), targets(ONE_PERSON * 2), find=False)[1]
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert all(bool(value.isfinite()) for value in losses.values())


@torch.no_grad()
def test_anchors_in_half_precision_are_those_of_single_precision(monkeypatch):
    model = small_model().eval()
    seen = []

    def decode(deltas: Tensor, anchors: list[Tensor]) -> Tensor:
        seen.append((deltas.dtype, anchors[0]))
        return BoxCoder.decode(model.proposals.box_coder, deltas, anchors)

    monkeypatch.setattr(model.proposals.box_coder, "decode", decode)
    images = pictures(1, 320, 416)  # bfloat16 counts pixels one by one up to 256
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            people = model(images)[0].people
        assert people.boxes.dtype == torch.float32
    (of_single, wanted), (of_half, anchors) = seen
    assert of_single == of_half == torch.float32
    assert_close(anchors, wanted, rtol=0, atol=0)
    moved = wanted + torch.tensor([3.0, -2.0, 1.0, 2.0])
    with torch.autocast("cpu", torch.bfloat16):
        deltas = model.proposals.box_coder.encode([moved], [anchors])[0]
        assert_close(BoxCoder.decode(model.proposals.box_coder, deltas, [anchors])[:, 0], moved, rtol=0, atol=1e-3)


def test_any_skeleton_will_do():
    outputs, _ = small_model(HAND).eval()(pictures(1))
    assert outputs.heatmaps.shape[1] == 3


# --- normalisation


def test_fixed_statistics_change_nothing_and_are_no_parameters():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Sequential(nn.BatchNorm2d(32))).eval()
    nn.init.normal_(layers[1][0].running_mean)
    images = torch.randn(2, 3, 8, 8)
    before = layers(images)
    replace_norms(layers, NORMS["frozen"])
    assert_close(layers.train()(images), before)
    assert {name for name, _ in layers.named_parameters()} == {"0.weight", "0.bias"}


def test_backbone_weights_do_not_go_with_group_normalisation():
    with pytest.raises(ValueError, match="norm='frozen' or 'batch'"):
        small_model(backbone_weights="imagenet")
