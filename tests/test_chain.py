"""The whole way from raw outputs to people: known people in, the same people out, also from several views."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.testing import assert_close

from multiposenet.anchors import AnchorGrid
from multiposenet.decode.boxes import BoxDecoder
from multiposenet.decode.chain import ChainDecoder
from multiposenet.decode.grouping import PoseResidualGrouping
from multiposenet.decode.views import View
from multiposenet.heatmap import HeatmapCodec
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, MultiPoseNetOutputs

DOLL = Skeleton("doll", ("head", "left_hand", "right_hand", "feet"), flip_pairs=((1, 2),))
SIZE = (192, 256)
# Left hands are on the right of the picture: these people look at the viewer.
BOXES = torch.tensor([[20.0, 30.0, 80.0, 170.0], [70.0, 20.0, 140.0, 180.0], [180.0, 60.0, 230.0, 150.0]])
KEYPOINTS = torch.tensor(
    [
        [[51.3, 42.8], [72.1, 95.4], [28.7, 90.2], [49.6, 160.9]],
        [[104.2, 33.7], [131.5, 110.3], [84.9, 102.6], [103.3, 168.8]],
        [[203.7, 70.1], [222.4, 100.5], [188.2, 104.4], [204.6, 141.7]],
    ]
)


def believe(crops: Tensor) -> Tensor:
    """A network that believes what it is shown, most of all near the middle of the box."""
    rows, columns = torch.linspace(-1, 1, crops.shape[-2]), torch.linspace(-1, 1, crops.shape[-1])
    middle = torch.exp(-(columns[None, :] ** 2) - 0.3 * rows[:, None] ** 2)
    return (60 * crops * middle).flatten(2).softmax(-1).view_as(crops)


def decoder(codec: HeatmapCodec | None = None) -> ChainDecoder:
    return ChainDecoder(codec or HeatmapCodec(), BoxDecoder(AnchorGrid()), PoseResidualGrouping(believe), DOLL)


def outputs_of(
    pictures: list[tuple[Tensor, Tensor]], image_size: tuple[int, int] = SIZE, logit: float = 3.0
) -> MultiPoseNetOutputs:
    """Raw outputs of a perfect network for pictures of (keypoints [P, 4, 2], boxes [P, 4])."""
    grid = AnchorGrid()
    anchors = grid.anchors(image_size)
    heatmaps = []
    logits, deltas = torch.full((len(pictures), len(anchors)), -20.0), torch.zeros(len(pictures), len(anchors), 4)
    for row, (keypoints, boxes) in enumerate(pictures):
        heatmaps.append(HeatmapCodec().encode(keypoints[None], torch.full((1, len(boxes), 4), 2), image_size))
        for person, box in enumerate(boxes):
            chosen = 11 * person + 5
            logits[row, chosen] = logit - 0.1 * person
            deltas[row, chosen] = grid.encode(box, anchors[chosen])
    mask = torch.rand(len(pictures), 1, *heatmaps[0].shape[-2:])  # the person mask must not be taken for a keypoint
    return MultiPoseNetOutputs(torch.cat([torch.cat(heatmaps), mask], 1), logits, deltas, image_size)


def mirrored(picture: tuple[Tensor, Tensor], width: int = SIZE[1]) -> tuple[Tensor, Tensor]:
    keypoints, boxes = picture
    keypoints = torch.stack([width - 1 - keypoints[..., 0], keypoints[..., 1]], -1)[:, [0, 2, 1, 3]]
    return keypoints, torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], -1)


def zoomed(picture: tuple[Tensor, Tensor], zoom: float) -> tuple[Tensor, Tensor]:
    return (picture[0] + 0.5) * zoom - 0.5, picture[1] * zoom


def assert_same_people(poses, atol: float, keypoints: Tensor = KEYPOINTS, boxes: Tensor = BOXES) -> None:
    order = poses.boxes[:, 0].argsort()
    assert_close(poses.boxes[order], boxes, atol=atol, rtol=0)
    assert_close(poses.keypoints[order], keypoints, atol=atol, rtol=0)


def merged(*views: View) -> list:
    chain = decoder()
    return chain.poses(*chain.merge(views), views)


def test_known_people_come_back_from_a_perfect_network_s_outputs():
    (poses,) = decoder()(outputs_of([(KEYPOINTS, BOXES)]))
    assert_same_people(poses, atol=0.1)


def test_people_come_best_first_with_scores_near_those_of_their_boxes():
    (poses,) = decoder()(outputs_of([(KEYPOINTS, BOXES)]))
    assert bool((poses.scores[:-1] >= poses.scores[1:]).all())
    assert 0.7 < float(poses.scores.min()) < float(poses.scores.max()) < 1 / (1 + 2.71828**-3)


def test_the_person_mask_is_no_keypoint():
    (poses,) = decoder()(outputs_of([(KEYPOINTS, BOXES)]))
    assert poses.keypoints.shape == (3, 4, 2)


def test_an_empty_picture_between_full_ones_has_nobody():
    nobody = (torch.zeros(0, 4, 2), torch.zeros(0, 4))
    found = decoder()(outputs_of([(KEYPOINTS, BOXES), nobody, (KEYPOINTS[:1], BOXES[:1])]))
    assert [len(poses) for poses in found] == [3, 0, 1]
    assert_same_people(found[2], 0.1, KEYPOINTS[:1], BOXES[:1])


def test_a_crowd_that_is_asked_for_or_given_has_a_peak_for_everybody():
    size = (480, 480)
    places = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="xy"), -1).reshape(-1, 1, 2) * 60.0
    keypoints = places + torch.tensor([[20.3, 10.8], [30.1, 25.4], [10.7, 25.2], [20.6, 48.9]])
    boxes = torch.cat([places[:, 0] + 4, places[:, 0] + 56], dim=1)
    outputs = outputs_of([(keypoints, boxes)], size)
    asked = decoder().limited(max_people=64)
    assert int(asked.find([View(outputs)])[0].valid.sum()) == 4 * 64
    assert int(decoder().find([View(outputs)])[0].valid.sum()) == 4 * 32
    given = Detections(boxes[None], torch.ones(1, 64), torch.ones(1, 64, dtype=torch.bool))
    (poses,) = decoder().from_views([View(outputs)], given)
    order = (poses.boxes[:, 1] * 1000 + poses.boxes[:, 0]).argsort()
    assert_close(poses.keypoints[order], keypoints, atol=0.3, rtol=0)


def test_poses_know_their_skeleton_and_the_size_of_the_image():
    (poses,) = decoder()(outputs_of([(KEYPOINTS, BOXES)]))
    assert poses.skeleton is DOLL
    assert poses.image_size == SIZE


def test_a_single_view_merged_is_the_view_itself():
    outputs = outputs_of([(KEYPOINTS, BOXES)])
    (alone,), (poses,) = decoder()(outputs), merged(View(outputs))
    assert_close(poses.keypoints, alone.keypoints)
    assert_close(poses.scores, alone.scores)


def test_the_mirrored_view_alone_gives_the_people_in_the_original_frame_and_names():
    (poses,) = merged(View(outputs_of([mirrored((KEYPOINTS, BOXES))]), mirrored=True))
    assert_same_people(poses, atol=0.1)


def test_averaging_with_the_mirrored_view_leaves_everybody_in_place():
    scene = (KEYPOINTS, BOXES)
    (poses,) = merged(View(outputs_of([scene])), View(outputs_of([mirrored(scene)]), mirrored=True))
    assert_same_people(poses, atol=0.1)


def test_averaging_over_scales_leaves_everybody_in_place():
    scene = (KEYPOINTS, BOXES)
    views = [View(outputs_of([zoomed(scene, z)], (int(192 * z), int(256 * z))), zoom=z) for z in (1.0, 0.5, 1.5, 2.0)]
    (poses,) = merged(*views)
    assert_same_people(poses, atol=0.4)  # a tenth of a cell


def test_averaging_over_a_scale_whose_maps_do_not_divide_evenly_leaves_everybody_in_place():
    scene, zoom = (KEYPOINTS, BOXES), 0.75 * 1.1
    size = (160, 224)  # the canvas of the zoomed picture is rounded up to a multiple, its content is not stretched
    views = [View(outputs_of([scene])), View(outputs_of([zoomed(scene, zoom)], size), zoom=zoom)]
    (poses,) = merged(*views)
    assert_same_people(poses, atol=0.4)


def test_a_grouping_that_asks_is_told_the_features_of_the_first_view():
    outputs = outputs_of([(KEYPOINTS, BOXES)])
    first = replace(outputs, features=torch.rand(1, 3, *outputs.heatmaps.shape[-2:]))
    second = replace(outputs, features=torch.zeros_like(first.features))
    asking = replace(decoder(), appearance=True)
    (alone, _), (together, _) = asking.detect(first), asking.merge([View(first), View(second)])
    assert alone.appearance[alone.valid].min() > 0
    assert_close(together.appearance, alone.appearance)
    assert decoder().detect(first)[0].appearance is None


def test_boxes_that_several_views_agree_on_are_one_person():
    scene = (KEYPOINTS, BOXES)
    views = [View(outputs_of([scene], logit=1.0)), View(outputs_of([mirrored(scene)], logit=2.0), mirrored=True)]
    _, detections = decoder().merge(views)
    assert detections.valid.sum() == 3
    assert_close(detections.scores[0, 0], torch.tensor(2.0).sigmoid())


def test_a_person_whom_only_the_mirrored_view_detects_is_found():
    scene = (KEYPOINTS, BOXES)
    views = [View(outputs_of([scene], logit=-20.0)), View(outputs_of([mirrored(scene)]), mirrored=True)]
    (poses,) = merged(*views)
    assert_same_people(poses, atol=0.1)


def test_merging_keeps_the_pictures_of_a_batch_apart():
    scenes = [(KEYPOINTS[:1], BOXES[:1]), (KEYPOINTS[1:], BOXES[1:])]
    found = merged(View(outputs_of(scenes)), View(outputs_of([mirrored(s) for s in scenes]), mirrored=True))
    for poses, (keypoints, boxes) in zip(found, scenes, strict=True):
        assert_same_people(poses, 0.1, keypoints, boxes)
