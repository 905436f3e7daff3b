"""Person boxes out of raw outputs: each picture for itself, only real boxes, never more than asked for."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import box_iou, nms

from multiposenet.anchors import AnchorGrid
from multiposenet.decode.boxes import BoxDecoder
from multiposenet.structures import Detections

SIZE = (96, 128)
DECODER = BoxDecoder(AnchorGrid())
ANCHORS = DECODER.grid.anchors(SIZE)


def random_outputs(pictures: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, A] and deltas [N, A, 4] with many boxes over the threshold."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(pictures, len(ANCHORS), generator=generator) * 1.5 - 3.5
    return logits, torch.randn(pictures, len(ANCHORS), 4, generator=generator)


def outputs_for(boxes: list[list[float]], logits: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw outputs [1, A] and [1, A, 4] of a detector that answers exactly these boxes."""
    wanted = torch.tensor(boxes)
    chosen = torch.arange(len(boxes)) * 7  # any anchors will do
    all_logits, deltas = torch.full((1, len(ANCHORS)), -20.0), torch.zeros(1, len(ANCHORS), 4)
    all_logits[0, chosen] = torch.tensor(logits)
    deltas[0, chosen] = DECODER.grid.encode(wanted, ANCHORS[chosen])
    return all_logits, deltas


def real(detections: Detections, picture: int = 0) -> torch.Tensor:
    return detections.boxes[picture][detections.valid[picture]]


def test_a_box_that_the_outputs_describe_comes_back():
    found = DECODER(*outputs_for([[20.0, 10.0, 60.0, 90.0]], [2.0]), SIZE)
    assert_close(real(found), torch.tensor([[20.0, 10.0, 60.0, 90.0]]), atol=1e-3, rtol=0)
    assert_close(found.scores[found.valid], torch.tensor([2.0]).sigmoid())


def test_a_batch_of_four_equals_four_single_pictures():
    logits, deltas = random_outputs()
    together = DECODER(logits, deltas, SIZE)
    counts = set()
    for picture in range(4):
        alone = DECODER(logits[picture : picture + 1], deltas[picture : picture + 1], SIZE)
        counts.add(int(alone.valid.sum()))
        assert_close(together.boxes[picture], alone.boxes[0])
        assert_close(together.scores[picture], alone.scores[0])
        assert_close(together.valid[picture], alone.valid[0])
    assert min(counts) > 0


def test_a_picture_full_of_people_does_not_crowd_out_its_neighbour():
    crowd, single = random_outputs(1), outputs_for([[20.0, 10.0, 60.0, 90.0]], [-1.0])
    logits, deltas = (torch.cat(pair) for pair in zip(crowd, single, strict=True))
    logits[0] += 3
    found = DECODER(logits, deltas, SIZE)
    assert_close(real(found, 1), torch.tensor([[20.0, 10.0, 60.0, 90.0]]), atol=1e-3, rtol=0)


def test_suppression_is_torchvision_s_picture_by_picture():
    decoder = dataclasses.replace(DECODER, max_people=100)
    proposals = decoder.propose(*random_outputs(), SIZE)
    kept = decoder.suppress(proposals)
    for picture in range(4):
        valid = proposals.valid[picture]
        boxes, scores = proposals.boxes[picture][valid], proposals.scores[picture][valid]
        expected = nms(boxes, scores, decoder.nms_threshold)[:100]
        assert len(expected) < len(boxes)
        assert_close(real(kept, picture), boxes[expected])
        assert_close(kept.scores[picture][kept.valid[picture]], scores[expected])


def test_boxes_of_different_pictures_do_not_suppress_each_other():
    outputs = outputs_for([[20.0, 10.0, 60.0, 90.0]], [2.0])
    found = DECODER(*(torch.cat([tensor, tensor]) for tensor in outputs), SIZE)
    assert found.valid.sum(1).tolist() == [1, 1]


def test_of_two_boxes_that_overlap_too_much_the_better_stays():
    found = DECODER(*outputs_for([[20.0, 10.0, 60.0, 90.0], [22.0, 12.0, 62.0, 92.0]], [1.0, 2.0]), SIZE)
    assert_close(real(found), torch.tensor([[22.0, 12.0, 62.0, 92.0]]), atol=1e-3, rtol=0)


def test_the_remaining_boxes_overlap_no_more_than_allowed():
    found = DECODER(*random_outputs(), SIZE)
    for picture in range(4):
        overlap = box_iou(real(found, picture), real(found, picture)).fill_diagonal_(0)
        assert float(overlap.max()) <= DECODER.nms_threshold


def test_every_box_lies_in_the_picture_and_has_area():
    logits, deltas = random_outputs()
    found = DECODER(logits + 3, deltas * 10, SIZE)  # wild boxes, many of them far outside
    boxes = found.boxes[found.valid]
    assert len(boxes) > 0
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())
    assert bool((boxes >= 0).all())
    assert bool((boxes <= torch.tensor([128.0, 96.0, 128.0, 96.0])).all())


@pytest.mark.parametrize("box", [[140.0, 10.0, 180.0, 50.0], [10.0, -60.0, 50.0, -1.0], [-80.0, -80.0, 0.0, 0.0]])
def test_a_box_beyond_the_border_is_nobody(box):
    assert not DECODER(*outputs_for([box], [5.0]), SIZE).valid.any()


def test_a_box_that_sticks_out_is_cut_at_the_border():
    found = DECODER(*outputs_for([[100.0, -20.0, 180.0, 50.0]], [5.0]), SIZE)
    assert_close(real(found), torch.tensor([[100.0, 0.0, 128.0, 50.0]]), atol=1e-3, rtol=0)


def test_pictures_without_people_have_no_boxes_and_zeros_in_their_slots():
    found = DECODER(torch.full((3, len(ANCHORS)), -20.0), torch.zeros(3, len(ANCHORS), 4), SIZE)
    assert not found.valid.any()
    assert_close(found.boxes, torch.zeros_like(found.boxes))
    assert_close(found.scores, torch.zeros_like(found.scores))


def test_a_box_below_the_threshold_is_dropped():
    decoder = dataclasses.replace(DECODER, score_threshold=0.5)
    boxes = [[20.0, 10.0, 40.0, 60.0], [70.0, 10.0, 90.0, 60.0]]
    found = decoder(*outputs_for(boxes, [0.1, -0.1]), SIZE)
    assert_close(real(found), torch.tensor(boxes[:1]), atol=1e-3, rtol=0)


def test_boxes_come_best_first_and_at_most_as_many_as_asked_for():
    decoder = dataclasses.replace(DECODER, max_people=2)
    boxes = [[0.0, 10.0, 20.0, 60.0], [40.0, 10.0, 60.0, 60.0], [80.0, 10.0, 99.0, 60.0]]
    found = decoder(*outputs_for(boxes, [0.5, 2.0, 1.0]), SIZE)
    assert found.boxes.shape == (1, 2, 4)
    assert_close(real(found), torch.tensor([boxes[1], boxes[2]]), atol=1e-3, rtol=0)


def test_only_the_best_candidates_enter_the_suppression():
    proposals = dataclasses.replace(DECODER, candidates=5).propose(*random_outputs(), SIZE)
    assert_close(proposals.scores, random_outputs()[0].sigmoid().sort(dim=1, descending=True).values[:, :5])


def test_a_picture_with_fewer_anchors_than_candidates_is_decoded():
    decoder = BoxDecoder(AnchorGrid(strides=(64,), sizes=(64,)), candidates=512)
    assert decoder(torch.zeros(1, 9), torch.zeros(1, 9, 4), (64, 64)).valid.any()
