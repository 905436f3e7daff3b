"""Keypoints to the cells of their boxes' heatmaps and back, against torchvision and against each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import keypointrcnn_inference, keypoints_to_heatmap

from multiposenet.geometry import expand_boxes
from multiposenet.roi_heatmaps import RoiCodec

SIZE = 56


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    corners = 100 * torch.rand(count, 2, generator=generator)
    sides = 5 + 200 * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + sides], dim=1)


def points_in(boxes: Tensor, k: int, generator: torch.Generator, margin: float = 0.0) -> Tensor:
    """[R, K, 2] pixels, anywhere in boxes enlarged by ``margin`` on every side."""
    shares = torch.rand(len(boxes), k, 2, generator=generator) * (1 + 2 * margin) - margin
    return boxes[:, None, :2] + shares * (boxes[:, None, 2:] - boxes[:, None, :2])


def one_hot_logits(cells: Tensor) -> Tensor:
    """Maps [R, K, 56, 56] of a network that is sure of a cell and thinks less of those farther away."""
    places = torch.arange(SIZE)
    down = (places - (cells // SIZE)[..., None]).square()[..., :, None]
    across = (places - (cells % SIZE)[..., None]).square()[..., None, :]
    return -(down + across) / 4.0


def test_decoding_is_torchvisions():
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(12, generator)
    logits = torch.randn(12, 17, SIZE, SIZE, generator=generator)
    (wanted,), _ = keypointrcnn_inference(logits, [boxes])
    keypoints, _ = RoiCodec(centre=0.0).decode(logits, boxes)
    assert_close(keypoints, wanted[..., :2], atol=0.01, rtol=0)


def test_our_pixel_indices_are_half_a_pixel_left_of_torchvisions_edges():
    generator = torch.Generator().manual_seed(1)
    boxes, logits = random_boxes(3, generator), torch.randn(3, 4, SIZE, SIZE, generator=generator)
    ours, theirs = (RoiCodec(centre=centre).decode(logits, boxes)[0] for centre in (0.5, 0.0))
    assert_close(ours, theirs - 0.5)


def test_encoding_is_torchvisions():
    generator = torch.Generator().manual_seed(2)
    boxes = random_boxes(40, generator)
    keypoints = points_in(boxes, 17, generator, margin=0.2)
    keypoints[0, 0], keypoints[1, 0] = boxes[0, 2:], boxes[1, :2]  # the far edges belong to the box
    labelled = torch.cat([keypoints, torch.ones(40, 17, 1)], dim=-1)
    wanted, valid = keypoints_to_heatmap(labelled, boxes, SIZE)
    cells, inside = RoiCodec(centre=0.0).encode(keypoints, boxes, SIZE)
    assert_close(inside.long(), valid)
    assert 0.2 < inside.float().mean() < 0.9
    assert_close(cells[inside], wanted[valid.bool()])


def test_decoding_inverts_encoding_to_half_a_cell_and_a_pixel():
    generator = torch.Generator().manual_seed(3)
    boxes = random_boxes(30, generator)
    for codec in (RoiCodec(), RoiCodec(expansion=1.3), RoiCodec(centre=0.0), RoiCodec(expansion=1.3, refined=True)):
        keypoints = points_in(boxes, 6, generator)
        cells, inside = codec.encode(keypoints, boxes, SIZE)
        found, _ = codec.decode(one_hot_logits(cells), boxes)
        frames = expand_boxes(boxes, codec.expansion)
        reach = (frames[:, 2:] - frames[:, :2]) / SIZE / 2 + 0.51  # half a cell, half a pixel
        wrong = (found - keypoints).abs()
        assert bool((wrong <= reach[:, None])[inside].all())
        assert inside.float().mean() > 0.9


def test_enlarged_boxes_hold_keypoints_that_lie_outside():
    boxes = torch.tensor([[100.0, 100.0, 200.0, 200.0]])
    outside = torch.tensor([[[90.0, 150.0], [210.0, 150.0], [150.0, 212.0], [80.0, 150.0]]])
    assert not RoiCodec().encode(outside, boxes, SIZE)[1].any()
    assert RoiCodec(expansion=1.3).encode(outside, boxes, SIZE)[1].tolist() == [[True, True, True, False]]


def test_scores_are_the_softmax_at_the_maximum():
    logits = torch.zeros(1, 2, SIZE, SIZE)
    logits[0, 0, 20, 30] = 8.0
    boxes = torch.tensor([[0.0, 0.0, 560.0, 560.0]])
    _, scores = RoiCodec().decode(logits, boxes)
    # Ten pixels a cell, so that none lies on the node: the highest is a twentieth of a cell off, on both axes.
    assert scores[0, 0] < logits[0, 0].flatten().softmax(0).max()
    assert_close(scores[0, 0], logits[0, 0].flatten().softmax(0).max(), rtol=0.1, atol=0)
    assert_close(scores[0, 1], torch.tensor(1 / SIZE**2))
    extreme = RoiCodec().decode(1e4 * logits, boxes)[1]
    assert bool(((extreme >= 0) & (extreme <= 1)).all())


def test_refinement_finds_what_lies_between_cells():
    """Cells of ten pixels; maps as of a network that is unsure by 0.7 cells around the true place."""
    generator = torch.Generator().manual_seed(4)
    boxes = torch.tensor([[0.0, 0.0, 560.0, 560.0]])
    truth = 2.5 + (SIZE - 5) * torch.rand(1, 50, 2, generator=generator)  # in cells
    edges = torch.special.ndtr((torch.arange(SIZE + 1) - truth[..., None]) / 0.7)
    mass = (edges[..., 1:] - edges[..., :-1]).clamp(min=1e-12).log()
    logits = mass[:, :, 1, :, None] + mass[:, :, 0, None, :]
    plain, refined = (RoiCodec(refined=refined).decode(logits, boxes)[0] for refined in (False, True))
    wrong, less_wrong = ((found - (10 * truth - 0.5)).norm(dim=-1).mean() for found in (plain, refined))
    assert less_wrong < 0.6 * wrong
    assert less_wrong < 0.5  # pixels


def test_refinement_at_the_border_stays_in_the_box():
    logits = torch.full((1, 1, SIZE, SIZE), -5.0)
    logits[0, 0, 0, SIZE - 1] = 5.0
    keypoints, _ = RoiCodec(refined=True).decode(logits, torch.tensor([[10.0, 20.0, 66.0, 76.0]]))
    assert_close(keypoints, torch.tensor([[[65.0, 20.0]]]), atol=0.02, rtol=0)


def test_boxes_without_area_give_finite_keypoints():
    boxes = torch.tensor([[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.2, 90.0]])
    cells, inside = RoiCodec(expansion=1.3).encode(torch.full((2, 3, 2), 5.0), boxes, SIZE)
    keypoints, scores = RoiCodec(expansion=1.3).decode(torch.randn(2, 3, SIZE, SIZE), boxes)
    assert bool(((cells >= 0) & (cells < SIZE**2)).all())
    assert inside.dtype == torch.bool
    assert bool(keypoints.isfinite().all() & scores.isfinite().all())


def test_nobody_decodes_to_nobody():
    keypoints, scores = RoiCodec().decode(torch.zeros(0, 17, SIZE, SIZE), torch.zeros(0, 4))
    assert keypoints.shape == (0, 17, 2)
    assert scores.shape == (0, 17)
