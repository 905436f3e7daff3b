"""Which picture comes when: fixed by seed, epoch and place, however many processes share the work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import Dataset

from multiposenet.bad_input import in_one_line
from multiposenet.data import loading
from multiposenet.data.loading import DrawnPictures, EpochBatches, open_loader
from multiposenet.data.pictures import PictureError


class Dice(Dataset):
    """Examples that are their index and a random number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index), float(torch.rand(()))])


def indices(batches: EpochBatches) -> list[list[int]]:
    return [[draw.index for draw in batch] for batch in batches]


def test_an_epoch_takes_every_picture_once_in_an_order_of_its_own():
    first, second = (indices(EpochBatches(12, 12, 4, seed=0, epoch=epoch)) for epoch in (0, 1))
    for epoch in (first, second):
        assert sorted(index for batch in epoch for index in batch) == list(range(12))
    assert first != second
    assert first == indices(EpochBatches(12, 12, 4, seed=0, epoch=0))


def test_an_epoch_longer_than_the_data_takes_nothing_a_third_time_before_all_came_twice():
    (batch,) = indices(EpochBatches(3, 6, 6, seed=0, epoch=0))
    assert sorted(batch) == [0, 0, 1, 1, 2, 2]


def test_several_data_sets_give_what_their_sizes_say_or_the_shares_asked_for():
    by_size = indices(EpochBatches([30, 10], 40, 8, seed=0, epoch=0))
    assert by_size == indices(EpochBatches(40, 40, 8, seed=0, epoch=0))
    batches = EpochBatches([100, 4], 40, 8, seed=0, epoch=0, shares=(3, 1))
    asked = [index for batch in indices(batches) for index in batch]
    few = [index for index in asked if index >= 100]
    assert len(few) == 10
    assert set(few) == {100, 101, 102, 103}
    assert len(set(asked) - set(few)) == 30
    assert asked != sorted(asked, key=lambda index: index >= 100)
    with pytest.raises(ValueError, match=r"shares must be 2 positive numbers, one a dataset, got \[1\]"):
        EpochBatches([100, 4], 40, 8, seed=0, epoch=0, shares=[1])


def test_an_epoch_entered_in_the_middle_is_the_rest_of_the_whole_one():
    whole = list(EpochBatches(50, 40, 8, seed=3, epoch=2))
    rest = EpochBatches(50, 40, 8, seed=3, epoch=2, first_step=3)
    assert list(rest) == whole[3:]
    assert len(rest) == 2


def test_training_processes_share_every_step_without_a_picture_twice(monkeypatch):
    alone = list(EpochBatches(40, 40, 8, seed=0, epoch=0))
    monkeypatch.setattr(loading, "world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(loading, "rank", lambda rank=rank: rank)
        shares.append(list(EpochBatches(40, 40, 8, seed=0, epoch=0)))
    for step, parts in zip(alone, zip(*shares, strict=True), strict=True):
        assert [draw for part in parts for draw in part] == step


def test_passes_divide_a_step_in_turn():
    alone = list(EpochBatches(40, 40, 8, seed=0, epoch=0))
    split = list(EpochBatches(40, 40, 8, seed=0, epoch=0, passes=2))
    assert [a + b for a, b in zip(split[::2], split[1::2], strict=True)] == alone


def test_a_step_that_cannot_be_divided_is_an_error_that_says_what_can():
    with pytest.raises(ValueError, match=r"batch of 8 pictures.*3\s+passes.*multiple of 3"):
        EpochBatches(40, 40, 8, seed=0, epoch=0, passes=3)


def test_data_without_pictures_are_an_error():
    with pytest.raises(ValueError, match="0 pictures"):
        EpochBatches(0, 4, 2, seed=0, epoch=0)


def test_what_is_random_about_a_picture_does_not_depend_on_who_loads_it():
    def numbers(workers: int, first_step: int = 0) -> list[torch.Tensor]:
        batches = EpochBatches(10, 10, 2, seed=1, epoch=4, first_step=first_step)
        return list(open_loader(Dice(), batches, torch.stack, workers))

    alone = numbers(0)
    assert len({float(value) for batch in alone for value in batch[:, 1]}) == 10
    assert_close(numbers(2), alone, atol=0, rtol=0)
    assert_close(numbers(1, first_step=2), alone[2:], atol=0, rtol=0)


def test_loading_leaves_the_training_s_own_dice_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loader = open_loader(Dice(), EpochBatches(10, 10, 2, seed=1, epoch=0), torch.stack, workers=0)
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(loader.dataset, DrawnPictures)


# --- workers and who may stop them


class OneUnreadable(Dataset):
    """What the training data sets do where a picture cannot be read."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        try:
            raise FileNotFoundError("a.jpg is not there")
        except FileNotFoundError as error:
            raise RuntimeError("picture 0 (a.jpg): FileNotFoundError: a.jpg is not there") from error


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_no_fault_of_the_program_whoever_reads_it(workers):
    loader = open_loader(OneUnreadable(), EpochBatches(1, 1, 1, seed=0, epoch=0), list, workers)
    with pytest.raises(PictureError) as caught:
        next(iter(loader))
    assert in_one_line(caught.value) == "picture 0 (a.jpg): FileNotFoundError: a.jpg is not there"


class ProcessNumbers(Dataset):
    """Examples that are the numbers of the processes that made them."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(os.getpid())


LEAVES_WITH_BATCHES_LEFT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_loading import EpochBatches, ProcessNumbers, open_loader, torch

if __name__ == "__main__":
    rest = iter(open_loader(ProcessNumbers(), EpochBatches(24, 24, 2, 0, 0), torch.stack, 2))
    print(*{int(number) for _ in range(2) for number in next(rest)}, flush=True)
    if sys.argv[2] == "wait":
        input()
    if sys.argv[2] == "read":
        input()
        print(*{int(number) for batch in rest for number in batch})
    sys.exit(143)
"""
signals_tell_their_sender = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="no sigwaitinfo here")


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def start_a_reader(what: str) -> tuple[subprocess.Popen, list[int]]:
    """A process with a loader that it has not emptied, and its workers."""
    command = [sys.executable, "-c", LEAVES_WITH_BATCHES_LEFT, str(Path(__file__).parent), what]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return reader, [int(number) for number in reader.stdout.readline().split()]


@signals_tell_their_sender
def test_workers_that_somebody_else_tells_to_stop_go_on():
    reader, workers = start_a_reader("read")  # by itself: a worker that another test left would be complained of here
    assert len(workers) == 2
    for worker in workers:
        masks = [status.read_text() for status in Path(f"/proc/{worker}/task").glob("*/status")]
        blocked = [int(re.search(r"SigBlk:\s*(\w+)", mask)[1], 16) >> (signal.SIGTERM - 1) & 1 for mask in masks]
        assert blocked.count(0) == 1  # the thread that waits for it; to any other the kernel might give it
        os.kill(worker, signal.SIGTERM)
    answer, _ = reader.communicate("go on\n", timeout=60)
    assert set(map(int, answer.split())) == set(workers)


@pytest.mark.skipif(not Path("/proc").exists(), reason="no /proc to look for processes in")
@pytest.mark.parametrize("what", ["leave", "wait"], ids=["leaves", "is killed"])
def test_workers_end_with_the_process_that_they_work_for(what):
    reader, workers = start_a_reader(what)
    assert len(workers) == 2
    if what == "wait":
        reader.kill()
    assert reader.wait(60) == (-signal.SIGKILL if what == "wait" else 143)
    end = time.monotonic() + 30  # they look every few seconds
    while any(map(is_running, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(is_running, workers))
