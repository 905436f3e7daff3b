"""Labels and positions in one person's maps: inverse to each other, and the published code's where asked for."""

from __future__ import annotations

import numpy as np
import published_cascade as published
import pytest
import torch
from torch.testing import assert_close

from multiposenet.crop_heatmaps import KERNELS, GaussianLabels, RefinedMaximum, SecondMaximum, TapLabels
from multiposenet.crop_losses import CropCrossEntropy, CropLoss
from multiposenet.structures import CropDistributions, CropOutputs, CropTargets

SIZE = (16, 12)


def points(n: int = 3, k: int = 4, low: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return low + torch.rand(n, k, 2, generator=generator) * (torch.tensor([47.0, 63.0]) - 2 * low)


# --- labels


@pytest.mark.parametrize("reflect", [False, True])
def test_labels_of_the_published_kind_are_its_blurred_impulses(reflect):
    keypoints = torch.cat([points(), torch.tensor([[[0.0, 0.0], [5.0, 9.0], [13.0, 61.0], [47.0, 63.0]]])])
    ours = TapLabels(reflect=reflect).encode(keypoints, SIZE, 4)
    for kernel, maps in zip(KERNELS, ours, strict=True):
        for one, own in zip(keypoints.reshape(-1, 2).numpy(), maps.flatten(0, 1), strict=True):
            expected = torch.from_numpy(published.label(one, SIZE, kernel, reflect) / 255)
            assert_close(own.double(), expected, atol=1e-6, rtol=1e-5)


def test_labels_have_their_peak_where_the_keypoint_is_and_get_narrower():
    maps = GaussianLabels().encode(torch.tensor([[[21.5, 29.5]]]), SIZE, 4)  # the middle of cell (5, 7)
    assert [float(one[0, 0, 7, 5]) for one in maps] == [1.0] * 5
    widths = [float(one.sum()) for one in maps]
    assert widths == sorted(widths, reverse=True)


# --- positions


def test_positions_invert_labels_below_the_cell():
    keypoints = points(low=14.0)
    for maps in GaussianLabels().encode(keypoints, SIZE, 4)[2:]:
        xy, heights = RefinedMaximum().locate(maps, 4)
        assert_close(xy, keypoints, atol=0.05, rtol=0)
        assert bool((heights > 0.7).all())


def test_without_refinement_the_error_would_be_up_to_half_a_cell():
    keypoints = points(low=14.0)
    maps = GaussianLabels().encode(keypoints, SIZE, 4)[-1]
    cell = maps.flatten(2).argmax(-1)
    coarse = (torch.stack([cell % SIZE[1], cell // SIZE[1]], -1) + 0.5) * 4 - 0.5
    refined, _ = RefinedMaximum().locate(maps, 4)
    assert float((refined - keypoints).norm(dim=-1).mean()) < 0.05 * float((coarse - keypoints).norm(dim=-1).mean())


@pytest.mark.parametrize("kernel", [5, 9])
def test_positions_and_scores_of_the_published_kind_are_its_own(kernel):
    generator = np.random.default_rng(1)
    maps = generator.random((2, 6, *SIZE)) * 60 - 20
    maps[:, :4] += np.stack(
        [published.label(np.array([x, y]), SIZE, 9, False) for x, y in ((3, 5), (44, 60), (20, 30), (47, 0))]
    )
    ours, heights = SecondMaximum(kernel).locate(torch.from_numpy(maps / 255), 4)
    for person in range(2):
        # A region of the crop's own size about its middle: the picture's coordinates are the crop's.
        theirs = published.keypoints(maps[person], np.array([24.0, 32.0]), 48.0, (64, 48), kernel)
        assert_close(ours[person], torch.from_numpy(theirs[:, :2]), atol=1e-6, rtol=0)
        assert_close(heights[person] + 0.5, torch.from_numpy(theirs[:, 2]), atol=1e-6, rtol=0)


def test_maps_below_zero_everywhere_give_finite_positions():
    maps = -torch.rand(1, 2, *SIZE)
    for rule in (SecondMaximum(), RefinedMaximum()):
        xy, heights = rule.locate(maps, 4)
        assert bool(torch.isfinite(xy).all() & torch.isfinite(heights).all())


def test_no_crops_give_no_positions():
    for rule in (SecondMaximum(), RefinedMaximum()):
        xy, heights = rule.locate(torch.zeros(0, 2, *SIZE), 4)
        assert (xy.shape, heights.shape) == ((0, 2, 2), (0, 2))


# --- the loss


def outputs(stages: int, k: int, n: int = 2, levels: int = 4) -> CropOutputs:
    generator = torch.Generator().manual_seed(3)
    maps = [[torch.rand(n, k, *SIZE, generator=generator) * 255 for _ in range(levels)] for _ in range(stages)]
    return CropOutputs(tuple(map(tuple, maps)), (64, 48), peak_height=255.0)


@pytest.mark.parametrize("stages", [1, 2])
def test_the_published_loss_comes_out_person_by_person_and_keypoint_by_keypoint(stages):
    answer, keypoints = outputs(stages, k=10), points(2, 10)
    visibility = torch.tensor([[0, 1, 2, 2, 0, 1, 2, 2, 2, 1], [2, 2, 0, 0, 0, 0, 1, 0, 0, 0]], dtype=torch.uint8)
    ours = CropLoss(TapLabels(reflect=True), legacy=True)(answer, CropTargets(keypoints, visibility))
    maps = [[level.double().numpy() for level in levels] for levels in answer.stage_heatmaps]
    theirs = published.loss(maps, keypoints.numpy(), visibility.numpy())
    assert sum(ours.values()).item() == pytest.approx(theirs, rel=1e-5)


def test_what_is_not_labelled_teaches_nothing():
    keypoints = points(2, 10)
    visibility = torch.full((2, 10), 2, dtype=torch.uint8)
    visibility[:, 3:] = 0
    answer = outputs(2, k=10)
    blank = [[maps.clone() for maps in levels] for levels in answer.stage_heatmaps]
    for levels in blank:
        for maps in levels:
            maps[:, 3:] = 1000.0
    other = CropOutputs(tuple(map(tuple, blank)), (64, 48), 255.0)
    targets = CropTargets(keypoints, visibility)
    assert_close(CropLoss()(answer, targets), CropLoss()(other, targets))


def test_only_the_worst_keypoints_count_on_the_finest_level():
    keypoints, visibility = points(1, 4), torch.full((1, 4), 2, dtype=torch.uint8)
    maps = GaussianLabels().encode(keypoints, SIZE, 4)[-1].clone()
    maps[0, 1] += 0.5
    maps[0, 2] += 0.1
    answer = CropOutputs(((maps,),), (64, 48))
    for count, expected in ((1, 0.25), (2, 0.13), (8, 0.065)):
        loss = CropLoss(hard_keypoints=count)(answer, CropTargets(keypoints, visibility))
        assert set(loss) == {"finest"}
        assert loss["finest"].item() == pytest.approx(expected, rel=1e-4)


def test_earlier_stages_and_coarser_levels_have_wider_labels():
    keypoints, visibility = points(1, 4), torch.full((1, 4), 2, dtype=torch.uint8)
    labels = GaussianLabels().encode(keypoints, SIZE, 4)
    perfect = CropOutputs((tuple(labels[:4]), tuple(labels[1:])), (64, 48))
    losses = CropLoss()(perfect, CropTargets(keypoints, visibility))
    assert_close(losses, {"finest": torch.zeros(()), "coarser": torch.zeros(())})


def test_more_weight_on_peaks_makes_an_empty_answer_cost_more():
    targets = CropTargets(points(1, 4, low=14.0), torch.full((1, 4), 2, dtype=torch.uint8))
    (label,) = GaussianLabels((1.1,)).encode(targets.keypoints, SIZE, 4)
    empty = CropOutputs(((torch.zeros_like(label),),), (64, 48))
    for weight in (0.0, 10.0):
        expected = (label.square() * (1 + weight * label)).mean()
        assert_close(CropLoss(GaussianLabels((1.1,)), peak_weight=weight)(empty, targets)["finest"], expected)


# --- distributions


def test_a_sure_distribution_has_a_peak_of_height_one_at_the_label():
    keypoints = points(2, 4, low=14.0)
    (label,) = GaussianLabels((1.1,)).encode(keypoints, SIZE, 4)
    outputs = CropDistributions(((label.clamp(min=1e-9).log(),),), (64, 48), 1 / (2 * np.pi * 1.1**2))
    xy, heights = RefinedMaximum().locate(outputs.unit_heatmaps, 4)
    assert_close(xy, keypoints, atol=0.05, rtol=0)
    assert bool(((heights > 0.75) & (heights < 1.05)).all())


def test_the_cross_entropy_is_least_where_the_answer_is_the_label():
    targets = CropTargets(points(2, 4, low=14.0), torch.full((2, 4), 2, dtype=torch.uint8))
    (label,) = GaussianLabels((1.1,)).encode(targets.keypoints, SIZE, 4)
    right = label.clamp(min=1e-9).log()
    loss = CropCrossEntropy(GaussianLabels((1.1,)))

    def of(logits: torch.Tensor) -> float:
        return loss(CropDistributions(((logits,),), (64, 48)), targets)["finest"].item()

    entropy = np.log(2 * np.pi * np.e * 1.1**2)
    assert of(right) == pytest.approx(entropy, abs=0.05)
    assert of(torch.zeros_like(right)) == pytest.approx(np.log(label[0, 0].numel()), rel=1e-4)
    assert of(right.roll(1, dims=-1)) > of(right) + 0.1


def test_distributions_learn_nothing_from_what_is_not_labelled():
    targets = CropTargets(points(2, 4), torch.zeros(2, 4, dtype=torch.uint8))
    logits = torch.randn(2, 4, *SIZE, requires_grad=True)
    total = sum(CropCrossEntropy(GaussianLabels())(CropDistributions(((logits, logits),), (64, 48)), targets).values())
    total.backward()
    assert total.item() == 0
    assert_close(logits.grad, torch.zeros_like(logits))
