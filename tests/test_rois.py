"""From the heatmaps of people's boxes to poses: ranking, options, several views, and who is looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from multiposenet.decode.rois import RoiDecoder
from multiposenet.decode.views import View
from multiposenet.geometry import flip_boxes, flip_keypoints
from multiposenet.inference.roi_pictures import RoiPictures
from multiposenet.inference.settings import RunnerSettings
from multiposenet.roi_heatmaps import RoiCodec
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Detections, PersonBoxes, RoiOutputs

K, SIZE = COCO_PERSON.num_keypoints, 56
CODEC = RoiCodec(expansion=1.3)
IMAGE = (100, 160)


def logits_for(keypoints: Tensor, boxes: Tensor, sureness: float = 10.0) -> Tensor:
    """Maps that are highest at the keypoints [R, K, 2]."""
    cells, _ = CODEC.encode(keypoints, boxes, SIZE)
    places = torch.arange(SIZE)
    far = (places - (cells // SIZE)[..., None]).square()[..., :, None]
    far = far + (places - (cells % SIZE)[..., None]).square()[..., None, :]
    return sureness * torch.exp(-far / 4.0)


def scene() -> tuple[RoiOutputs, Tensor]:
    """Two pictures with two people and one, and their keypoints [R, K, 2]."""
    boxes = torch.tensor(
        [[[10.0, 10.0, 60.0, 90.0], [80.0, 5.0, 150.0, 95.0]], [[30.0, 20.0, 70.0, 80.0], [0.0, 0.0, 0.0, 0.0]]]
    )
    valid = torch.tensor([[True, True], [True, False]])
    people = Detections(boxes, torch.tensor([[0.9, 0.8], [0.7, 0.0]]), valid)
    own = boxes[valid]
    shares = torch.rand(3, K, 2, generator=torch.Generator().manual_seed(0))
    keypoints = own[:, None, :2] + shares * (own[:, None, 2:] - own[:, None, :2])
    return RoiOutputs(logits_for(keypoints, own), people, IMAGE), keypoints


def test_every_picture_gets_its_people_and_their_keypoints():
    outputs, keypoints = scene()
    first, second = RoiDecoder(COCO_PERSON, CODEC)(outputs)
    assert_close(first.keypoints, keypoints[:2], atol=2.0, rtol=0)
    assert_close(second.keypoints, keypoints[2:], atol=2.0, rtol=0)
    assert_close(first.scores, torch.tensor([0.9, 0.8]))
    assert_close(second.boxes, outputs.people.boxes[1, :1])
    assert first.image_size == IMAGE


def test_pictures_with_nobody_are_empty():
    people = Detections(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool))
    poses = RoiDecoder(COCO_PERSON, CODEC)(RoiOutputs(torch.zeros(0, K, SIZE, SIZE), people, IMAGE))
    assert [len(own) for own in poses] == [0, 0]


def test_rescoring_puts_sure_keypoints_first():
    outputs, _ = scene()
    sureness = torch.tensor([2.0, 12.0, 5.0])[:, None, None, None]
    heatmaps = outputs.heatmaps / 10 * sureness
    plain, rescored = (
        RoiDecoder(COCO_PERSON, CODEC, rescored=rescored).poses(heatmaps, outputs.people, IMAGE)[0]
        for rescored in (False, True)
    )
    assert_close(rescored.keypoints, plain.keypoints.flip(0))
    assert_close(rescored.scores, (plain.scores * plain.keypoint_scores.mean(1)).flip(0))


def test_doubles_are_dropped_by_their_keypoints():
    boxes = torch.tensor([[[10.0, 10.0, 60.0, 90.0], [20.0, 10.0, 90.0, 90.0], [100.0, 10.0, 150.0, 90.0]]])
    people = Detections(boxes, torch.tensor([[0.9, 0.8, 0.7]]), torch.ones(1, 3, dtype=torch.bool))
    shares = torch.rand(1, K, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([30.0, 70.0])
    keypoints = torch.cat([shares + 25, shares + 25, shares + 110])  # the first two are one person
    heatmaps = logits_for(keypoints, boxes[0])
    assert len(RoiDecoder(COCO_PERSON, CODEC).poses(heatmaps, people, IMAGE)[0]) == 3
    distinct = RoiDecoder(COCO_PERSON, CODEC, oks_nms=0.7).poses(heatmaps, people, IMAGE)[0]
    assert_close(distinct.scores, torch.tensor([0.9, 0.7]))


def test_doubles_need_sigmas():
    with pytest.raises(ValueError, match="skeleton 'hand' does not have"):
        RoiDecoder(Skeleton("hand", ("thumb", "index")), CODEC, oks_nms=0.9)


def test_a_mirrored_view_says_the_same():
    """The mirrored picture's people, left and right exchanged, have mirrored maps; the mean changes nothing."""
    outputs, keypoints = scene()
    decoder = RoiDecoder(COCO_PERSON, CODEC)
    people, width = outputs.people, IMAGE[1]
    boxes = flip_boxes(people.boxes, width) * people.valid[..., None]
    mirrored_keypoints = flip_keypoints(keypoints, width)[:, COCO_PERSON.flip_indices]
    heatmaps = logits_for(mirrored_keypoints, boxes[people.valid])
    views = [
        View(outputs),
        View(RoiOutputs(heatmaps, Detections(boxes, people.scores, people.valid), IMAGE), 1.0, True),
    ]
    for alone, both in zip(decoder(outputs), decoder.from_views(views), strict=True):
        assert_close(both.keypoints, alone.keypoints, atol=0.51, rtol=0)
        assert_close(both.boxes, alone.boxes)


class Recorder:
    """Stands in for a network: remembers what it was asked, and finds one person in each picture."""

    def __init__(self) -> None:
        self.asked: list[dict] = []

    def __call__(self, images: Tensor, **options) -> tuple[RoiOutputs, dict]:
        self.asked.append({"size": tuple(images.shape[-2:]), "first column": float(images[..., 0].mean()), **options})
        people = options["people"]
        if people is None:
            box = torch.tensor([[8.0, 10.0, 40.0, 50.0]])
            people = Detections(
                box.expand(len(images), 1, 4), torch.ones(len(images), 1), torch.ones(len(images), 1) > 0
            )
        return RoiOutputs(torch.zeros(int(people.valid.sum()), K, SIZE, SIZE), people, tuple(images.shape[-2:])), {}


def run(boxes: list[PersonBoxes] | None = None, decoder: RoiDecoder | None = None, **settings) -> Recorder:
    network = Recorder()
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :48] = 255
    decoder = RoiDecoder(COCO_PERSON, CODEC) if decoder is None else decoder
    runner = RoiPictures(network, decoder, RunnerSettings(torch.device("cpu"), 96, **settings))
    assert len(runner.poses([picture], boxes)) == 1
    return network


def test_all_views_look_at_the_people_of_the_first():
    plain, mirrored, larger, both = run(flip=True, scales=(1.0, 2.0)).asked
    assert plain["people"] is None
    assert_close(mirrored["people"].boxes, torch.tensor([[[56.0, 10.0, 88.0, 50.0]]]))
    assert mirrored["first column"] < 0.1 < plain["first column"]
    assert_close(larger["people"].boxes, torch.tensor([[[16.0, 20.0, 80.0, 100.0]]]))
    assert larger["size"] == (128, 192)
    assert_close(both["people"].boxes, torch.tensor([[[112.0, 20.0, 176.0, 100.0]]]))


def test_given_boxes_reach_the_network():
    given = PersonBoxes.given(np.array([[1.0, 2.0, 30.0, 40.0]], np.float32))
    (asked,) = run([given]).asked
    assert_close(asked["people"].boxes, torch.tensor([[[1.0, 2.0, 30.0, 40.0]]]))


def test_limits_reach_the_network():
    decoder = RoiDecoder(COCO_PERSON, CODEC, box_threshold=0.1).limited(box_threshold=0.3, max_people=7).limited()
    (asked,) = run(decoder=decoder).asked
    assert (asked["score_threshold"], asked["max_people"]) == (0.3, 7)
