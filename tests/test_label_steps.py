"""Steps that are drawn whole and shared: all processes' parts together are what one process alone would have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from test_grouping_outputs import FOUND, LABELS
from test_grouping_outputs import SAMPLES as OUTPUTS
from test_grouping_samples import ALL, ARMS, SAMPLES, picture
from test_prn_samples import DOLL, EVERYTHING, GRID, random_pictures, samples
from torch import Tensor
from torch.testing import assert_close

from multiposenet.data import label_steps
from multiposenet.data.grouping_outputs import OutputSamples
from multiposenet.data.grouping_samples import PictureSamples
from multiposenet.data.prn_samples import PrnBatch, PrnSamples
from multiposenet.structures import TensorFields

PASSES = {
    "people": lambda first_step=0: samples().batches(4, GRID, EVERYTHING, 5, first_step),  # steps of 4, 4 and 1
    "pictures": lambda first_step=0: SAMPLES.batches(20, ALL, 5, first_step),
    "outputs": lambda first_step=0: OUTPUTS.batches(8, 0.5, 0.2, 5, first_step),
}


def tensors_of(batch: TensorFields) -> Iterator[Tensor]:
    for value in vars(batch).values():
        if isinstance(value, TensorFields):
            yield from tensors_of(value)
        elif isinstance(value, Tensor):
            yield value


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("kind", PASSES)
def test_the_parts_of_all_processes_are_the_steps_of_one(kind, processes, monkeypatch):
    alone = list(PASSES[kind]())
    monkeypatch.setattr(label_steps, "world_size", lambda: processes)
    parts = []
    for rank in range(processes):
        monkeypatch.setattr(label_steps, "rank", lambda rank=rank: rank)
        parts.append(list(PASSES[kind]()))
    assert {len(steps) for steps in parts} == {len(alone)}
    for whole, *own in zip(alone, *parts, strict=True):
        lengths = [len(next(tensors_of(part))) for part in own]
        assert max(lengths) - min(lengths) <= 1
        for expected, *shares in zip(tensors_of(whole), *map(tensors_of, own), strict=True):
            assert_close(torch.cat(shares), expected, atol=0, rtol=0)


@pytest.mark.parametrize("kind", PASSES)
def test_a_pass_can_be_entered_at_any_step(kind):
    for late, whole in zip(PASSES[kind](2), list(PASSES[kind]())[2:], strict=True):
        for ours, expected in zip(tensors_of(late), tensors_of(whole), strict=True):
            assert_close(ours, expected, atol=0, rtol=0)


def test_names_go_with_their_samples_to_the_process_that_has_them(monkeypatch):
    steps = [torch.tensor([2, 0, 3]), torch.tensor([1])]

    def names(processes: int, rank: int, known: tuple[str, ...] = ("a", "b", "c", "d")) -> list[tuple[str, ...]]:
        monkeypatch.setattr(label_steps, "world_size", lambda: processes)
        monkeypatch.setattr(label_steps, "rank", lambda: rank)
        drawn = label_steps.draw_steps(steps, lambda rows, _: PrnBatch(rows, rows, rows), known, torch.Generator())
        return [batch.names for batch in drawn]

    assert names(1, 0) == [("c", "a", "d"), ("b",)]
    assert names(2, 0) == [("c", "a"), ("b",)]
    assert names(2, 1) == [("d",), ()]
    assert names(1, 0, known=()) == [(), ()]


def test_samples_know_the_names_of_their_pictures():
    pictures = random_pictures()
    names = [f"{number}.jpg" for number in range(len(pictures))]
    people = PrnSamples.from_labels(pictures, DOLL, 1, names)
    assert people.names == tuple(name for name, own in zip(names, pictures, strict=True) for _ in range(len(own)))
    whole = PictureSamples.from_labels([picture(0, 0), picture(3, 1), picture(4, 2, crowd=4)], ARMS, names[:3])
    assert whole.names == ("1.jpg",)  # nobody can be learnt from in the others
    outputs = OutputSamples.from_outputs(**vars(FOUND), skeleton=ARMS, names=list(map(str, range(len(LABELS)))))
    met = [name for batch in outputs.batches(8, 0.5, 0.2, 5) for name in batch.names]
    assert sorted(met, key=int) == list(map(str, range(len(LABELS))))
