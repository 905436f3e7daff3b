"""Two processes train what one would: the same steps, the same losses, the same figures."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from multiposenet import distributed
from multiposenet.checkpoint import save_weights
from multiposenet.distributed import SyncedBatchNorm2d, count_over_processes, gather_lists, synchronise_batch_norm
from multiposenet.groupings import build_grouping
from multiposenet.models.rsn import PoseRefineMachine

ROOT = Path(__file__).resolve().parents[1]
TRAINING = [
    *("--model", "multiposenet_lite", "--train", "joint", "--synthetic-count", "8", "--image-size", "96"),
    *("--batch-size", "4", "--epoch-size", "4", "--epochs", "20", "--validate_every", "20", "--val-count", "3"),
    *("--workers", "0", "--warmup", "0", "--lr", "1e-5", "--device", "cpu"),
]


TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
GROUPING = [
    *("--synthetic_count", "9", "--val_count", "2", "--num_workers", "0", "--number_of_epoch", "5", "--lr", "1e-5"),
    *("--validate_every", "5", "--device", "cpu"),
]


def train(
    folder: Path, *launcher: str, script: str = "train_posenet.py", options: Sequence[str] = TRAINING
) -> list[dict[str, str]]:
    """Trains by command line; the rows of the log."""
    command = [sys.executable, *launcher, str(ROOT / script), *options, "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no distributed package")
def test_two_processes_have_the_losses_and_figures_of_one_over_twenty_steps(tmp_path):
    alone = train(tmp_path / "one")
    together = train(tmp_path / "two", *TOGETHER)
    assert len(together) == len(alone) == 20
    # Adam divides by the size of gradients, so that rounding grows a little from step to step in the small parts.
    for name, tolerance in {"loss": 1e-5, "heatmaps": 1e-5, "person_mask": 1e-4, "box_logits": 1e-4}.items():
        ours, theirs = ([float(row[name]) for row in rows] for rows in (together, alone))
        assert_close(ours, theirs, rtol=tolerance, atol=0)
    assert float(alone[-1]["person_mask"]) < float(alone[0]["person_mask"])
    assert_close(float(together[-1]["AP"]), float(alone[-1]["AP"]), rtol=0, atol=1e-3)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no distributed package")
def test_two_processes_train_parts_whose_loss_weighs_nothing(tmp_path):
    short = ["--epochs", "1", "--val-count", "1", "--validate_every", "1", "--model_options"]
    weightless = [*short, "intermediate_weight=0,detection_weight=0,refiner=true,refiner_weight=0"]
    (row,) = train(tmp_path, *TOGETHER, options=[*TRAINING, *weightless])
    assert [float(row[name]) for name in ("intermediate", "box_logits", "box_deltas", "refiner")] == [0] * 4
    assert float(row["heatmaps"]) > 0


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no distributed package")
@pytest.mark.parametrize(
    ("kind", "builder", "batch_size"),
    [
        ("pose_residual", {"nodes": 16, "crop": (28, 18), "dropout": 0.0}, 7),  # uneven parts, a smaller last step
        ("set_assignment", {"width": 16, "layers": 2}, 3),  # steps of a single picture, of which one process has none
    ],
)
def test_two_processes_teach_a_grouping_with_the_losses_figures_and_steps_of_one(kind, builder, batch_size, tmp_path):
    torch.manual_seed(0)
    method = build_grouping(kind, **builder)
    save_weights(method.model, tmp_path / "start.safetensors", method.facts)
    options = [*GROUPING, "--model", kind, "--weights", str(tmp_path / "start.safetensors")]
    options += ["--batch_size", str(batch_size)]
    alone, together = (
        train(tmp_path / name, *launcher, script="prn_train/train.py", options=options)
        for name, launcher in (("one", ()), ("two", TOGETHER))
    )
    assert len(together) == len(alone) == 5
    assert [row["step"] for row in together] == [row["step"] for row in alone]
    for name in (name for name in alone[0] if not name.endswith("_seconds")):
        ours, theirs = ([float(row[name] or 0) for row in rows] for rows in (together, alone))
        assert_close(ours, theirs, rtol=1e-5, atol=1e-9)
    assert float(together[-1]["loss"]) != float(together[0]["loss"])


def test_alone_nothing_is_exchanged():
    assert (distributed.world_size(), distributed.rank(), distributed.is_first()) == (1, 0, True)
    assert gather_lists([1, 2]) == [1, 2]
    assert distributed.share_from_first("x") == "x"
    assert_close(count_over_processes(torch.tensor(0)), torch.tensor(1.0))
    assert_close(count_over_processes(torch.tensor(7)), torch.tensor(7.0))


def test_a_model_that_trains_alone_keeps_its_own_batch_normalisation():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    synchronise_batch_norm(model, torch.device("cpu"))
    assert type(model[1]) is nn.BatchNorm2d


def test_every_batch_normalisation_is_synchronised_the_pose_refine_machine_s_too(monkeypatch):
    machine = PoseRefineMachine(5)
    names = set(machine.state_dict())
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    synchronise_batch_norm(machine, torch.device("cpu"))
    norms = [layer for layer in machine.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [type(layer) for layer in norms] == [SyncedBatchNorm2d] * 5
    assert set(machine.state_dict()) == names
    monkeypatch.setattr(distributed, "sum_over_processes", lambda value: 2 * value)  # the other process has the same
    assert machine.train()(torch.randn(1, 5, 8, 6)).isfinite().all()


def test_the_synchronised_normalisation_of_one_process_is_the_usual_one_with_its_gradients(monkeypatch):
    torch.manual_seed(0)
    usual, synced = nn.BatchNorm2d(5), SyncedBatchNorm2d(5)
    nn.init.normal_(usual.weight)
    synced.load_state_dict(usual.state_dict())
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "sum_over_processes", lambda value: value)
    inputs = (torch.randn(3, 5, 4, 6) * 3 + 7).requires_grad_()
    twin = inputs.detach().clone().requires_grad_()
    weights = torch.randn(3, 5, 4, 6)
    (usual(inputs) * weights).sum().backward()
    (synced(twin) * weights).sum().backward()
    assert_close(twin.grad, inputs.grad)
    assert_close(synced.weight.grad, usual.weight.grad)
    assert_close(synced.bias.grad, usual.bias.grad)
    assert_close(synced.state_dict(), usual.state_dict())
    assert_close(synced.eval()(inputs), usual.eval()(inputs))
