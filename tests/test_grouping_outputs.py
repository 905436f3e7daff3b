"""A network's own peaks and boxes as samples: who is whose, mirrored and rescaled consistently."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from multiposenet.data.grouping_outputs import NOBODY_WEIGHT, UNLABELLED_WEIGHT, OutputSamples
from multiposenet.data.grouping_samples import GroupingBatch, oks_spread
from multiposenet.evaluation.grouping_inputs import BoxDegradation, PeakDegradation, make_input
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels

ARMS = Skeleton("arms", ("nose", "left", "right"), ((1, 2),), oks_sigmas=(0.05, 0.1, 0.1))


def picture(people: int, seed: int) -> PersonLabels:
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, 200, (people, 2)), rng.uniform(40, 90, (people, 2))
    keypoints = corners[:, None] + rng.uniform(0, 1, (people, 3, 2)) * sides[:, None]
    return PersonLabels(
        keypoints.astype(np.float32),
        rng.integers(0, 3, (people, 3)).astype(np.uint8),
        np.concatenate([corners, corners + sides], 1).astype(np.float32),
        (0.5 * sides.prod(1)).astype(np.float32),
        np.zeros(people, bool),
    )


LABELS = [picture(count % 4, count) for count in range(1, 30)]
FOUND = make_input(
    LABELS, range(len(LABELS)), 3, PeakDegradation(0.2, 0.5, 0.0), BoxDegradation(missing=0.3, false=1.0, noise=0.0)
)
EVIDENCE = torch.rand(*FOUND.peaks.scores.shape, 3, generator=torch.Generator().manual_seed(0))
FOUND = dataclasses.replace(FOUND, peaks=dataclasses.replace(FOUND.peaks, evidence=EVIDENCE))
SAMPLES = OutputSamples.from_outputs(**vars(FOUND), skeleton=ARMS)


def everything(mirrored: bool = False, scale: float = 1.0) -> GroupingBatch:
    n = len(SAMPLES)
    return SAMPLES.draw(torch.arange(n), torch.full((n,), mirrored), torch.full((n,), scale))


def points_of(batch: GroupingBatch) -> torch.Tensor:
    """[N, P, K, 2], the peaks that are said to be right."""
    n, people, k = batch.answer.shape
    at = batch.answer.clamp(min=0).transpose(1, 2)[..., None].expand(n, k, people, 2)
    return batch.peaks.xy.gather(2, at).transpose(1, 2)


def test_every_box_has_the_answers_of_the_person_whose_box_it_is():
    batch = everything()
    assert_close(int(batch.somebody.sum()), int((FOUND.box_of >= 0).sum()))
    for row, labels in enumerate(LABELS):
        for person in range(len(labels)):
            box = int(FOUND.box_of[row, person])
            if box < 0:
                continue
            assert_close(batch.answer[row, box], FOUND.peak_of[row, person])
            assert_close(batch.labelled[row, box].numpy(), labels.visibility[person] > 0)
            assert_close(batch.truth[row, box].numpy(), labels.keypoints[person])
            area = torch.tensor(float(labels.areas[person]))
            assert_close(batch.spread[row, box], oks_spread(area, ARMS))


def test_nobodys_boxes_teach_that_no_peak_is_theirs_and_empty_slots_teach_nothing():
    batch = everything()
    false = batch.detections.valid & ~batch.somebody
    assert false.any()
    assert (batch.answer[false] == -1).all()
    assert not batch.labelled[false].any()
    assert_close(batch.weight[false], torch.full_like(batch.weight[false], NOBODY_WEIGHT))
    assert (batch.weight[~batch.detections.valid] == 0).all()
    unknown = batch.somebody[..., None] & ~batch.labelled
    assert_close(batch.weight[unknown], torch.full_like(batch.weight[unknown], UNLABELLED_WEIGHT))


def test_peaks_that_are_right_lie_on_the_labels_whichever_way_a_picture_is_turned():
    for mirrored in (False, True):
        batch = everything(mirrored, 1.7)
        owned = batch.answer >= 0
        assert owned.any()
        assert_close(points_of(batch)[owned], batch.truth[owned], rtol=0, atol=1e-3)


def test_a_mirrored_picture_has_left_and_right_exchanged_and_twice_mirrored_is_the_picture():
    plain, mirrored = everything(), everything(mirrored=True)
    assert_close(mirrored.labelled, plain.labelled[..., [0, 2, 1]])
    assert_close(mirrored.truth[..., 0], (-1 - plain.truth[..., 0])[:, :, [0, 2, 1]])
    assert_close(mirrored.detections.boxes[..., 0], -plain.detections.boxes[..., 2])
    again = OutputSamples(mirrored, ARMS).draw(
        torch.arange(len(SAMPLES)), torch.ones(len(SAMPLES), dtype=torch.bool), torch.ones(len(SAMPLES))
    )
    assert_close(again.truth, plain.truth)
    assert_close(again.answer, plain.answer)
    # The left peak of a mirrored picture was the right one, and what the right map held there the left one holds now.
    held = mirrored.peaks.evidence
    assert_close(held[:, 1, :, 1], plain.peaks.evidence[:, 2, :, 2])
    assert_close(held[:, 1, :, 2], plain.peaks.evidence[:, 2, :, 1])
    assert_close(held[:, 0, :, 0], plain.peaks.evidence[:, 0, :, 0])
    assert_close(again.peaks.evidence, plain.peaks.evidence)


def test_an_appearance_goes_with_its_peak_and_is_not_mirrored():
    seen = dataclasses.replace(FOUND.peaks, appearance=FOUND.peaks.xy.repeat(1, 1, 1, 2))
    samples = OutputSamples.from_outputs(**vars(dataclasses.replace(FOUND, peaks=seen)), skeleton=ARMS)
    for batch in samples.batches(8, flip=0.0, zoom=0.0, seed=0):
        assert_close(batch.peaks.appearance[..., :2], batch.peaks.xy, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="flip must be 0"):
        next(samples.batches(8, flip=0.5, zoom=0.0, seed=0))


def test_what_boxes_see_goes_with_peak_and_box_and_changes_sides_in_the_mirror():
    slots = FOUND.detections.valid.shape[1]
    names = torch.arange(FOUND.peaks.scores.numel() * slots).view(*FOUND.peaks.scores.shape, slots)
    seen = dataclasses.replace(FOUND.peaks, seen_by=names.float())
    samples = OutputSamples.from_outputs(**vars(dataclasses.replace(FOUND, peaks=seen)), skeleton=ARMS)
    rows = torch.tensor([5, 0, 11])
    for mirrored in (False, True):
        drawn = samples.draw(rows, torch.full((3,), mirrored), torch.ones(3))
        sides = [0, 2, 1] if mirrored else [0, 1, 2]
        wanted = names[rows][:, sides, : drawn.peaks.scores.shape[2], : drawn.detections.valid.shape[1]]
        assert_close(drawn.peaks.seen_by, wanted.float())


def test_rescaling_keeps_places_in_the_box_and_grows_the_spread_with_the_area():
    plain, large = everything(), everything(scale=2.0)
    assert_close(large.detections.boxes, 2 * plain.detections.boxes)
    assert_close(large.truth + 0.5, 2 * (plain.truth + 0.5))
    assert_close(large.spread, 4 * plain.spread)


def test_a_pass_has_every_picture_once_and_depends_on_its_seed_alone():
    def numbers(seed: int) -> list[float]:
        return [float(batch.truth.sum()) for batch in SAMPLES.batches(8, 0.5, 0.2, seed)]

    assert sum(len(batch.somebody) for batch in SAMPLES.batches(8, 0.5, 0.2, 3)) == len(SAMPLES)
    assert numbers(3) == numbers(3) != numbers(4)
    assert [float(b.truth.sum()) for b in SAMPLES.batches(8, 0.5, 0.2, 3, first_step=1)] == numbers(3)[1:]
