"""Losses: unlabelled people are not background, a perfect answer costs nothing, and torchvision agrees."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from multiposenet.anchors import AnchorGrid
from multiposenet.heatmap import HeatmapCodec
from multiposenet.losses import MAP_ANSWERS, DetectionLoss, KeypointLoss, soft_focal_error
from multiposenet.methods import build_method
from multiposenet.structures import PoseTargets

SIZE = (64, 96)
CELLS = (16, 24)
CODEC, GRID = HeatmapCodec(), AnchorGrid()
ANCHORS = GRID.anchors(SIZE)


def targets_for(
    boxes: list[list[list[float]]], keypoints: list[list[list[float]]] | None = None, labelled: bool = True
) -> PoseTargets:
    """Targets of pictures with these boxes; every person has one keypoint, at the box's middle unless given."""
    slots = max([1, *(len(people) for people in boxes)])
    n = len(boxes)
    packed, points = torch.zeros(n, slots, 4), torch.zeros(n, slots, 1, 2)
    valid = torch.zeros(n, slots, dtype=torch.bool)
    for row, people in enumerate(boxes):
        for slot, box in enumerate(people):
            packed[row, slot] = torch.tensor(box)
            points[row, slot, 0] = torch.tensor([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]) - 0.5
            if keypoints is not None:
                points[row, slot, 0] = torch.tensor(keypoints[row][slot])
            valid[row, slot] = True
    return PoseTargets(
        keypoints=points,
        visibility=(valid[..., None] * 2 * labelled).to(torch.uint8),
        boxes=packed,
        valid=valid,
        person_mask=torch.zeros(n, *CELLS),
        ignore_mask=torch.zeros(n, *CELLS, dtype=torch.bool),
    )


ONE = targets_for([[[20.0, 8.0, 60.0, 56.0]]])
NOBODY = targets_for([[], []])


def random_maps(maps: int, pictures: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(pictures, maps, *CELLS, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def perfect_maps(targets: PoseTargets) -> Tensor:
    """Keypoint map, person mask and background map that the targets ask for."""
    heatmaps = CODEC.encode(targets.keypoints, targets.visibility, SIZE)
    return torch.cat([heatmaps, targets.person_mask[:, None], 1 - heatmaps.amax(1, keepdim=True)], dim=1)


def mask_of(*cells: tuple[slice, slice]) -> Tensor:
    mask = torch.zeros(1, *CELLS, dtype=torch.bool)
    for rows, columns in cells:
        mask[:, rows, columns] = True
    return mask


# --- keypoint maps and person mask


def test_perfect_maps_cost_nothing():
    perfect = perfect_maps(ONE)
    losses = KeypointLoss(CODEC)(perfect[:, :2], [perfect, perfect], ONE, SIZE)
    assert set(losses) == {"heatmaps", "person_mask", "intermediate"}
    assert_close(losses, {name: torch.tensor(0.0) for name in losses})


def test_the_heatmap_loss_is_the_squared_error_per_labelled_keypoint():
    two = targets_for([[[20.0, 8.0, 60.0, 56.0], [50.0, 8.0, 90.0, 56.0]]])
    maps = random_maps(2)
    expected = (maps[:, :1] - perfect_maps(two)[:, :1]).square().sum() / 2
    assert_close(KeypointLoss(CODEC)(maps, [], two, SIZE)["heatmaps"], expected)


def test_the_mask_loss_is_the_weighted_mean_squared_error():
    person = dataclasses.replace(ONE, person_mask=mask_of((slice(2, 14), slice(5, 15))).float())
    maps = random_maps(2)
    expected = 3 * (maps[:, 1] - person.person_mask).square().mean()
    assert_close(KeypointLoss(CODEC, mask_weight=3.0)(maps, [], person, SIZE)["person_mask"], expected)


def test_ignored_cells_give_keypoint_maps_exactly_no_gradient_and_all_others_give_some():
    ignore = mask_of((slice(0, 5), slice(3, 9)))
    maps = random_maps(2)
    KeypointLoss(CODEC)(maps, [], dataclasses.replace(ONE, ignore_mask=ignore), SIZE)["heatmaps"].backward()
    assert_close(maps.grad[:, 0] == 0, ignore)


def test_ignored_cells_give_intermediate_keypoint_and_background_maps_exactly_no_gradient():
    ignore = mask_of((slice(0, 5), slice(3, 9)))
    level = random_maps(3)
    loss = KeypointLoss(CODEC)(random_maps(2), [level], dataclasses.replace(ONE, ignore_mask=ignore), SIZE)
    loss["intermediate"].backward()
    assert_close(level.grad[:, 0] == 0, ignore)
    assert_close(level.grad[:, 2] == 0, ignore)


def test_people_without_labelled_keypoints_still_teach_the_person_mask():
    maps = random_maps(2)
    ignored = dataclasses.replace(ONE, ignore_mask=torch.ones(1, *CELLS, dtype=torch.bool))
    KeypointLoss(CODEC)(maps, [], ignored, SIZE)["person_mask"].backward()
    assert bool((maps.grad[:, 1] != 0).all())


def test_unknown_cells_give_the_person_mask_exactly_no_gradient_and_the_keypoint_maps_their_own():
    unknown = mask_of((slice(4, 9), slice(0, 6)))
    maps = random_maps(2)
    losses = KeypointLoss(CODEC)(maps, [], dataclasses.replace(ONE, unknown_mask=unknown), SIZE)
    (losses["heatmaps"] + losses["person_mask"]).backward()
    assert_close(maps.grad[:, 1] == 0, unknown)
    assert bool((maps.grad[:, 0] != 0).all())


def test_unknown_cells_do_not_thin_out_the_mask_loss_of_the_others():
    unknown = mask_of((slice(0, 8), slice(0, 24)))
    maps = torch.full((1, 2, *CELLS), 0.5)
    loss = KeypointLoss(CODEC)(maps, [], dataclasses.replace(ONE, unknown_mask=unknown), SIZE)
    assert_close(loss["person_mask"], torch.tensor(0.25))


def test_the_background_map_is_taught_one_minus_the_largest_keypoint_map():
    perfect = perfect_maps(ONE)
    wrong = perfect.clone()
    wrong[:, 2] = 0
    losses = KeypointLoss(CODEC, intermediate_weight=1.0)(perfect[:, :2], [wrong], ONE, SIZE)
    assert_close(losses["intermediate"], perfect[:, 2].square().mean())


def test_intermediate_maps_without_a_background_map_are_taught_keypoints_and_mask():
    perfect = perfect_maps(ONE)[:, :2]
    level = random_maps(2)
    losses = KeypointLoss(CODEC, intermediate_weight=0.25)(level, [level, perfect], ONE, SIZE)
    assert_close(losses["intermediate"], 0.25 * (losses["heatmaps"] + losses["person_mask"]))


def test_without_intermediate_maps_there_is_no_intermediate_loss():
    assert set(KeypointLoss(CODEC)(random_maps(2), [], ONE, SIZE)) == {"heatmaps", "person_mask"}


def test_intermediate_maps_that_weigh_nothing_take_part_and_learn_nothing():
    maps, level = random_maps(2), random_maps(3)
    losses = KeypointLoss(CODEC, intermediate_weight=0.0)(maps, [level], ONE, SIZE)
    assert_close(losses["intermediate"], torch.tensor(0.0))
    losses["intermediate"].backward()
    assert_close(level.grad, torch.zeros_like(level))


def test_the_keypoint_losses_do_not_grow_with_the_batch():
    twice = targets_for([[[20.0, 8.0, 60.0, 56.0]]] * 2)
    one, maps = KeypointLoss(CODEC), random_maps(3)
    single = one(maps[:, :2], [maps], ONE, SIZE)
    double = one(maps[:, :2].repeat(2, 1, 1, 1), [maps.repeat(2, 1, 1, 1)], twice, SIZE)
    assert_close(double, single)


def test_nobody_in_the_batch_teaches_empty_maps():
    maps, level = random_maps(2, pictures=2), random_maps(3, pictures=2, seed=1)
    losses = KeypointLoss(CODEC)(maps, [level], NOBODY, SIZE)
    assert_close(losses["heatmaps"], maps[:, 0].square().sum())
    torch.stack(list(losses.values())).sum().backward()
    assert bool(torch.isfinite(maps.grad).all())
    assert bool(torch.isfinite(level.grad).all())


def test_half_precision_maps_are_compared_in_single_precision():
    maps = random_maps(2).detach()
    losses = KeypointLoss(CODEC)(maps.bfloat16(), [], ONE, SIZE)
    assert losses["heatmaps"].dtype == torch.float32


# --- detector


def random_boxes(people: int, seed: int) -> list[list[float]]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(people, 2, generator=generator) * torch.tensor([60.0, 35.0])
    return torch.cat([corner, corner + 3 + torch.rand(people, 2, generator=generator) * 30], 1).tolist()


def random_answers(pictures: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(pictures, len(ANCHORS), generator=generator).requires_grad_()
    return logits, torch.randn(pictures, len(ANCHORS), 4, generator=generator).requires_grad_()


def perfect_answers(targets: PoseTargets) -> tuple[Tensor, Tensor]:
    matched, is_person, _ = DetectionLoss(GRID).assign(ANCHORS, targets)
    deltas = torch.zeros(*is_person.shape, 4)
    for row in range(len(deltas)):
        chosen = is_person[row]
        deltas[row, chosen] = GRID.encode(targets.boxes[row, matched[row, chosen]], ANCHORS[chosen])
    return torch.where(is_person, 30.0, -30.0), deltas


def torchvision_matches(boxes: Tensor) -> Tensor:
    """Row of ``boxes`` for each anchor, -1 for background, -2 for neither."""
    return Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes, ANCHORS))


def test_a_perfect_detector_costs_nothing():
    people = targets_for([random_boxes(3, seed=1), random_boxes(1, seed=2)])
    losses = DetectionLoss(GRID)(*perfect_answers(people), people, SIZE)
    assert_close(losses, {name: torch.tensor(0.0) for name in ("box_logits", "box_deltas")}, atol=1e-6, rtol=0)


def test_a_weight_multiplies_both_of_the_detector_s_losses():
    people, answers = targets_for([random_boxes(3, seed=1)]), random_answers()
    whole, less = (DetectionLoss(GRID, weight=weight)(*answers, people, SIZE) for weight in (1.0, 0.3))
    assert_close(less, {name: 0.3 * value for name, value in whole.items()})


def test_anchors_are_matched_as_by_torchvision():
    for seed in range(5):
        people = targets_for([random_boxes(3, seed)])
        _, is_person, counts = DetectionLoss(GRID).assign(ANCHORS, people)
        theirs = torchvision_matches(people.boxes[0])
        assert_close(is_person[0], theirs >= 0)
        assert_close(counts[0], theirs != Matcher.BETWEEN_THRESHOLDS)


def test_focal_loss_and_smooth_l1_are_those_of_torchvision_s_retinanet():
    boxes = torch.tensor([[20.0, 8.0, 60.0, 56.0], [64.0, 10.0, 90.0, 50.0]])
    logits, deltas = random_answers()
    head = RetinaNetHead(8, GRID.per_cell, num_classes=1)
    head.regression_head._loss_type = "smooth_l1"  # beta is 1
    head.regression_head.box_coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    theirs = head.compute_loss(
        [{"boxes": boxes, "labels": torch.zeros(2, dtype=torch.long)}],
        {"cls_logits": logits[..., None], "bbox_regression": deltas},
        [ANCHORS],
        [torchvision_matches(boxes)],
    )
    ours = DetectionLoss(GRID, beta=1.0)(logits, deltas, targets_for([boxes.tolist()]), SIZE)
    assert_close(ours["box_logits"], theirs["classification"])
    assert_close(ours["box_deltas"], theirs["bbox_regression"])


@pytest.mark.parametrize(
    "box",
    [[30.0, 20.0, 32.0, 23.0], [0.0, 0.0, 1.0, 64.0], [10.0, 40.0, 90.0, 42.0], [0.0, 0.0, 96.0, 64.0]],
    ids=["tiny", "thin and tall", "thin and wide", "the whole picture"],
)
def test_every_box_has_at_least_one_anchor(box):
    matched, is_person, _ = DetectionLoss(GRID).assign(ANCHORS, targets_for([[[50.0, 2.0, 80.0, 30.0], box]]))
    assert bool((is_person & (matched == 1)).any())


def test_the_anchor_that_a_small_box_claims_fits_it_best():
    box = [30.0, 20.0, 36.0, 29.0]
    _, is_person, _ = DetectionLoss(GRID).assign(ANCHORS, targets_for([[box]]))
    overlap = box_iou(ANCHORS, torch.tensor([box]))[:, 0]
    assert float(overlap.max()) < 0.4
    assert_close(is_person[0], overlap == overlap.max())


def test_an_anchor_that_a_small_box_claims_is_taught_that_box_and_not_a_large_one_beside_it():
    large, small = [24.0, 12.0, 56.0, 44.0], [23.0, 23.0, 33.0, 33.0]
    anchor = (torch.tensor([12.0, 12.0, 44.0, 44.0]) == ANCHORS).all(1)
    overlap = box_iou(ANCHORS[anchor], torch.tensor([large, small]))[0]
    assert overlap[1] < overlap[0] < 0.5  # it fits the large box better, but not well
    matched, is_person, _ = DetectionLoss(GRID).assign(ANCHORS, targets_for([[large, small]]))
    assert is_person[0, anchor].item()
    assert matched[0, anchor].item() == 1


def test_anchors_on_a_crowd_get_no_loss_as_background():
    crowd = dataclasses.replace(NOBODY, ignore_mask=torch.ones(2, *CELLS, dtype=torch.bool))
    logits, deltas = random_answers(pictures=2)
    losses = DetectionLoss(GRID)(logits, deltas, crowd, SIZE)
    losses["box_logits"].backward()
    assert_close(losses["box_logits"], torch.tensor(0.0))
    assert_close(logits.grad, torch.zeros_like(logits), atol=0, rtol=0)


def test_an_anchor_gets_no_loss_exactly_when_half_of_what_is_inside_the_picture_lies_on_a_crowd():
    crowd = dataclasses.replace(targets_for([[]]), ignore_mask=mask_of((slice(0, 16), slice(0, 9))))  # x < 36
    _, _, counts = DetectionLoss(GRID).assign(ANCHORS, crowd)
    left, right = ANCHORS[:, 0].clamp(0, 96), ANCHORS[:, 2].clamp(0, 96)
    share = (36 - left).clamp(min=0).minimum(right - left) / (right - left)
    clear = (share - 0.5).abs() > 0.1  # the mask is looked up in whole cells
    assert clear.float().mean() > 0.8
    assert_close(counts[0, clear], share[clear] < 0.5)


def test_a_labelled_person_in_a_crowd_is_still_taught():
    crowd = torch.ones(1, *CELLS, dtype=torch.bool)
    _, is_person, counts = DetectionLoss(GRID).assign(ANCHORS, dataclasses.replace(ONE, ignore_mask=crowd))
    assert is_person.sum() > 0
    assert_close(counts, is_person)


@pytest.mark.parametrize("box", [[30.0, 10.0, 30.0, 50.0], [0.0, 0.0, 0.0, 0.0]], ids=["flat", "padding"])
def test_a_box_without_area_claims_no_anchor_and_breaks_nothing(box):
    logits, deltas = random_answers()
    losses = DetectionLoss(GRID)(logits, deltas, targets_for([[box]]), SIZE)
    assert_close(losses["box_deltas"], torch.tensor(0.0))
    losses["box_logits"].backward()
    assert bool(torch.isfinite(logits.grad).all())


def test_a_person_who_is_not_to_be_detected_claims_no_anchor():
    _, is_person, _ = DetectionLoss(GRID).assign(ANCHORS, dataclasses.replace(ONE, valid=torch.zeros_like(ONE.valid)))
    assert not is_person.any()


def test_nobody_in_the_batch_is_all_background():
    logits, deltas = random_answers(pictures=2)
    losses = DetectionLoss(GRID)(logits, deltas, NOBODY, SIZE)
    assert_close(losses["box_deltas"], torch.tensor(0.0))
    sum(losses.values()).backward()
    assert bool((logits.grad > 0).all())
    assert_close(deltas.grad, torch.zeros_like(deltas))


def test_padding_people_do_not_change_the_losses():
    both = targets_for([[[20.0, 8.0, 60.0, 56.0]], random_boxes(4, seed=3)])
    names = ("keypoints", "visibility", "boxes", "valid", "person_mask", "ignore_mask")
    padded = dataclasses.replace(both, **{name: getattr(both, name)[:1] for name in names})
    answers = random_answers()
    assert padded.boxes.shape == (1, 4, 4)
    assert_close(DetectionLoss(GRID)(*answers, padded, SIZE), DetectionLoss(GRID)(*answers, ONE, SIZE))


def test_the_detector_losses_do_not_grow_with_the_batch():
    logits, deltas = random_answers()
    twice = targets_for([[[20.0, 8.0, 60.0, 56.0]]] * 2)
    double = DetectionLoss(GRID)(logits.repeat(2, 1), deltas.repeat(2, 1, 1), twice, SIZE)
    assert_close(double, DetectionLoss(GRID)(logits, deltas, ONE, SIZE))


def test_the_soft_focal_error_is_cross_entropy_weighed_by_the_square_of_the_mistake():
    logits, wanted = torch.tensor([-2.0, 0.3, 4.0]), torch.tensor([0.0, 0.25, 1.0])
    chance = 1 / (1 + torch.exp(-logits))
    entropy = -(wanted * chance.log() + (1 - wanted) * (1 - chance).log())
    expected = (chance - wanted) ** 2 * entropy
    assert_close(soft_focal_error(logits, wanted), expected)
    assert soft_focal_error(torch.logit(wanted[1:2]), wanted[1:2]) == pytest.approx(0, abs=1e-12)


def test_a_network_of_chances_says_heights_and_learns_from_logits():
    torch.manual_seed(0)
    model = build_method("multiposenet_lite", map_answer="chances").model.eval()
    outputs, _ = model(torch.rand(1, 3, *SIZE))
    # Nothing learnt: every map says one percent.
    assert outputs.heatmaps.sub(0.01).abs().max() < 0.005
    person = dataclasses.replace(ONE, person_mask=mask_of((slice(2, 14), slice(5, 15))).float())
    loss = KeypointLoss(HeatmapCodec(), answer=MAP_ANSWERS["chances"])
    drawn = HeatmapCodec().encode(person.keypoints, person.visibility, SIZE)
    perfect = torch.cat([drawn, person.person_mask[:, None]], dim=1).clamp(1e-6, 1 - 1e-6).logit()
    assert loss(perfect, [], person, SIZE)["heatmaps"] < 1e-6
    worse = loss(torch.zeros_like(perfect), [], person, SIZE)
    assert worse["heatmaps"] > 1e-3
    assert worse["person_mask"] > 1e-3
