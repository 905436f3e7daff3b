"""The training loop on a toy: what is frozen stays, what is resumed goes on, what is left behind can be used."""

from __future__ import annotations

import csv
import json
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.testing import assert_close

from multiposenet.checkpoint import load_tensors, load_training_state, save_training_state, training_states
from multiposenet.engine import (
    BEST,
    LAST,
    LOG,
    NOT_FINITE,
    Trainer,
    cosine_schedule,
    freeze,
    set_training,
)
from multiposenet.runs import append_row, describe_run, drop_rows
from multiposenet.structures import TensorFields


@dataclass(frozen=True)
class ToyBatch(TensorFields):
    inputs: Tensor
    answers: Tensor
    names: tuple[str, ...]


class Toy(nn.Module):
    """A part with batch normalisation and dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))[:, 0]


def batches(epoch: int, first_step: int = 0, count: int = 3) -> Iterator[ToyBatch]:
    for i in range(first_step, count):
        inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(100 * epoch + i))
        yield ToyBatch(inputs, inputs.sum(1), tuple(f"{epoch}-{i}-{row}.png" for row in range(6)))


def trainer(folder: Path, seed: int = 0, plateau: bool = False, epochs: int = 4, **options) -> Trainer:
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    model = Toy()
    freeze(model, options.get("frozen", ()))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.05)
    schedule = (
        ReduceLROnPlateau(optimizer, factor=0.5, patience=0) if plateau else cosine_schedule(optimizer, 3 * epochs, 2)
    )

    def compute_losses(model: nn.Module, batch: ToyBatch) -> dict[str, Tensor]:
        error = model(batch.inputs) - batch.answers
        return {"square": error.square().mean(), "absolute": error.abs().mean()}

    return Trainer(model, compute_losses, optimizer, schedule, folder, {"model": "toy"}, **options)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / LOG).open(newline="") as file:
        return list(csv.DictReader(file))


def scores(*values: float) -> Callable[[nn.Module], dict[str, float]]:
    """A validation that gives these figures, one after the other."""
    remaining = iter(values)
    return lambda _: {"AP": next(remaining)}


def test_training_lowers_the_loss(tmp_path):
    run = trainer(tmp_path, epochs=20)
    run.model.body[3].p = 0.0
    run.fit(batches, 20)
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]


# --- freezing


def test_a_frozen_part_keeps_weights_and_batch_statistics_bit_for_bit(tmp_path):
    run = trainer(tmp_path, frozen=("body",))
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    run.fit(batches, 2)
    after = run.model.state_dict()
    for key in before:
        assert torch.equal(after[key], before[key]) == key.startswith("body."), key


def test_a_frozen_part_keeps_its_averaged_weights_and_statistics_too(tmp_path):
    run = trainer(tmp_path, frozen=("body",), ema_decay=0.9)
    before = {key: value.clone() for key, value in run.model.body.state_dict().items()}
    run.fit(batches, 2)
    assert_close(run.result.body.state_dict(), before, atol=0, rtol=0)


def test_frozen_parts_are_in_evaluation_mode_while_the_others_train():
    model = Toy()
    set_training(model, ("body",))
    assert model.training
    assert model.head.training
    assert not any(layer.training for layer in model.body.modules())


def test_an_unknown_part_cannot_be_frozen_and_the_error_lists_the_parts():
    with pytest.raises(ValueError, match=r"\['neck'\].*body, head"):
        freeze(Toy(), ("neck",))


# --- resuming


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"plateau": True}], ids=["plain", "averaged", "plateau"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, options):
    straight = trainer(tmp_path / "straight", **options)
    straight.fit(batches, 4)

    trainer(tmp_path / "broken", **options).fit(batches, 2)
    resumed = trainer(tmp_path / "broken", seed=123, **options)
    resumed.resume(tmp_path / "broken")
    resumed.fit(batches, 4)

    assert_close(resumed.model.state_dict(), straight.model.state_dict(), atol=0, rtol=0)
    assert_close(resumed.result.state_dict(), straight.result.state_dict(), atol=0, rtol=0)
    assert (resumed.epoch, resumed.step) == (straight.epoch, straight.step) == (4, 12)
    for ours, theirs in zip(rows(tmp_path / "broken"), rows(tmp_path / "straight"), strict=True):
        assert [ours[name] for name in ("epoch", "step", "lr", "loss")] == [
            theirs[name] for name in ("epoch", "step", "lr", "loss")
        ]


def test_a_resumed_run_does_not_forget_how_good_it_was(tmp_path):
    trainer(tmp_path, validate=scores(0.9)).fit(batches, 1)
    resumed = trainer(tmp_path, validate=scores(0.5))
    resumed.resume(tmp_path)
    resumed.fit(batches, 2)
    assert load_tensors(tmp_path / BEST)[1]["epoch"] == 1
    assert load_tensors(tmp_path / LAST)[1]["epoch"] == 2


def test_epochs_that_an_interruption_lost_are_not_logged_twice(tmp_path):
    def interrupted(epoch: int, first_step: int) -> Iterator[ToyBatch]:
        if epoch == 3:
            raise KeyboardInterrupt
        return batches(epoch, first_step)

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, validate=scores(0.1, 0.2)).fit(interrupted, 4, validate_every=2)
    resumed = trainer(tmp_path, validate=scores(0.2))
    resumed.resume(tmp_path)
    assert resumed.epoch == 2
    resumed.fit(batches, 4, validate_every=2)
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2", "3", "4"]


def test_a_run_that_ended_between_its_log_and_its_first_state_is_begun_again_with_a_fresh_log(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_weights", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path).fit(batches, 2)
    assert len(rows(tmp_path)) == 2
    assert not training_states(tmp_path)
    for epochs in (2, 3):  # from the start, then from where that ended
        run = trainer(tmp_path)
        run.take_up()
        run.fit(batches, epochs)
        assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2", "3"][:epochs]


def test_resuming_a_finished_run_trains_nothing_more(tmp_path):
    trainer(tmp_path).fit(batches, 2)
    resumed = trainer(tmp_path)
    resumed.resume(tmp_path)
    resumed.fit(batches, 2)
    assert len(rows(tmp_path)) == 2


def test_resuming_from_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no training state"):
        trainer(tmp_path).resume(tmp_path)


def test_resuming_with_another_model_is_an_error_that_names_the_keys(tmp_path):
    trainer(tmp_path).fit(batches, 1)
    other = trainer(tmp_path)
    other.model.head = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"wrong shapes .*head\.weight"):
        other.resume(tmp_path)


def test_a_run_stopped_by_a_signal_in_the_middle_of_an_epoch_goes_on_bit_for_bit(tmp_path):
    def stopped(epoch: int, first_step: int) -> Iterator[ToyBatch]:
        for i, batch in enumerate(batches(epoch, first_step), start=first_step):
            if (epoch, i) == (2, 1):
                signal.raise_signal(signal.SIGTERM)
            yield batch

    straight = trainer(tmp_path / "straight", ema_decay=0.9)
    straight.fit(batches, 4)
    with pytest.raises(SystemExit) as stop:
        trainer(tmp_path / "broken", ema_decay=0.9).fit(stopped, 4)
    assert stop.value.code == 143
    resumed = trainer(tmp_path / "broken", seed=9, ema_decay=0.9)
    resumed.resume(tmp_path / "broken")
    assert (resumed.epoch, resumed.step, resumed.steps_done) == (2, 8, 2)
    resumed.fit(batches, 4)
    assert_close(resumed.model.state_dict(), straight.model.state_dict(), atol=0, rtol=0)
    assert_close(resumed.result.state_dict(), straight.result.state_dict(), atol=0, rtol=0)
    for ours, theirs in zip(rows(tmp_path / "broken"), rows(tmp_path / "straight"), strict=True):
        assert {k: v for k, v in ours.items() if "seconds" not in k} == {
            k: v for k, v in theirs.items() if "seconds" not in k
        }


@pytest.mark.parametrize("validate_every", [1, 2])
def test_a_signal_during_the_last_validation_is_not_forgotten(tmp_path, validate_every):
    def validate(_: nn.Module) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return {"AP": 0.5}

    with pytest.raises(SystemExit) as stop:
        trainer(tmp_path, validate=validate).fit(batches, 2, validate_every)
    assert stop.value.code == 143
    resumed = trainer(tmp_path)
    resumed.resume(tmp_path)
    assert (resumed.epoch, resumed.steps_done, resumed.best) == (validate_every, 0, 0.5)


def test_a_signal_at_the_end_of_an_epoch_that_is_not_saved_for_itself_saves_it(tmp_path):
    def watch(*_) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        trainer(tmp_path, watch=watch).fit(batches, 2)
    resumed = trainer(tmp_path)
    resumed.resume(tmp_path)
    assert (resumed.epoch, resumed.step, resumed.steps_done) == (1, 3, 0)


def test_what_is_random_on_a_gpu_goes_on_too_where_the_state_knows_it(tmp_path, monkeypatch):
    numbers = {torch.device("cuda:1"): torch.tensor([3, 1, 4], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: numbers[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: numbers.update({device: state}))

    def on_the_gpu(run: Trainer) -> Trainer:
        run.device = torch.device("cuda:1")
        return run

    begun = trainer(tmp_path, validate=lambda _: on_the_gpu(begun) and {"AP": 0.5})  # from there on it only saves
    begun.fit(batches, 1)
    kept = numbers.pop(begun.device)
    on_the_gpu(trainer(tmp_path)).resume(tmp_path)
    assert_close(numbers.pop(begun.device), kept)
    trainer(tmp_path).resume(tmp_path)
    assert not numbers

    trainer(tmp_path / "cpu").fit(batches, 1)
    state = load_training_state(tmp_path / "cpu")
    for older in (state, {name: value for name, value in state.items() if name != "cuda_rng"}):
        save_training_state(older, tmp_path / "cpu", state["step"])
        on_the_gpu(trainer(tmp_path / "cpu")).resume(tmp_path / "cpu")
        assert not numbers


def test_outside_a_training_a_signal_does_what_it_did_before(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    trainer(tmp_path).fit(batches, 1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_damaged_state_makes_a_run_go_on_from_the_one_before(tmp_path):
    straight = trainer(tmp_path / "straight")
    straight.fit(batches, 4)
    run = trainer(tmp_path / "broken", save_seconds=0.0)
    run.fit(batches, 2)
    newest, older = training_states(tmp_path / "broken")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    resumed = trainer(tmp_path / "broken", seed=5)
    with pytest.warns(UserWarning, match=f"{newest.name}: the file is damaged.*the one before"):
        resumed.resume(tmp_path / "broken")
    assert f"{resumed.step:09d}" in older.name
    resumed.fit(batches, 4)
    assert_close(resumed.model.state_dict(), straight.model.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_state_takes_no_place_of_those_that_are_kept(tmp_path, keep):
    def interrupted(epoch: int, first_step: int) -> Iterator[ToyBatch]:
        yield next(batches(epoch, first_step))
        raise KeyboardInterrupt

    trainer(tmp_path, save_seconds=0.0, keep=3).fit(batches, 2)
    for damaged in training_states(tmp_path)[:2]:
        damaged.write_bytes(b"nothing")
    resumed = trainer(tmp_path, save_seconds=0.0, keep=keep)
    with pytest.warns(UserWarning, match="the file is damaged"):
        resumed.resume(tmp_path)
    assert resumed.step == 4
    with pytest.raises(KeyboardInterrupt):
        resumed.fit(interrupted, 2)
    assert [int(file.name.split("-")[1]) for file in training_states(tmp_path)] == [5, 4][:keep]
    again = trainer(tmp_path)
    again.resume(tmp_path)
    assert again.step == 5


def test_only_the_newest_states_are_kept(tmp_path):
    trainer(tmp_path, save_seconds=0.0, keep=3).fit(batches, 3)
    assert len(training_states(tmp_path)) == 3


# --- several batches a step, early stopping


def test_two_passes_a_step_are_one_step_on_both_their_pictures(tmp_path):
    def halves(epoch: int, first_step: int) -> Iterator[ToyBatch]:
        for batch in batches(epoch, first_step):
            for part in (slice(0, 3), slice(3, 6)):
                yield ToyBatch(batch.inputs[part], batch.answers[part], batch.names[part])

    def without_dice(folder: Path, **options) -> Trainer:
        run = trainer(folder, **options)
        run.model.body[1].eval()  # batch statistics and dropout see single passes
        run.model.body[3].p = 0.0
        freeze(run.model, ("body",))
        run.frozen = ("body",)
        return run

    whole = without_dice(tmp_path / "whole")
    whole.fit(batches, 2)
    split = without_dice(tmp_path / "split", passes=2)
    split.fit(halves, 2)
    assert split.step == whole.step == 6
    assert_close(split.model.state_dict(), whole.model.state_dict())
    assert_close([float(row["loss"]) for row in rows(tmp_path / "split")],
                 [float(row["loss"]) for row in rows(tmp_path / "whole")])  # fmt: skip


def test_every_pass_is_divided_by_its_own_count_and_counts_like_any_other(tmp_path):
    labelled = {0: 1, 1: 6}

    def errors(model: nn.Module, batch: ToyBatch) -> Tensor:
        return (model.head.bias - batch.answers).square()[: labelled[int(batch.names[0].split("-")[1])]]

    run = trainer(tmp_path, passes=2)
    run.losses.compute = lambda model, batch: {"square": errors(model, batch).sum() / len(errors(model, batch))}
    one, other = (errors(run.model, batch).detach() for batch in batches(0, count=2))
    run.fit(lambda epoch, first_step: batches(epoch, first_step, count=2), 1)
    (row,) = rows(tmp_path)
    assert_close(float(row["loss"]), float(one.mean() + other.mean()) / 2)
    assert abs(float(row["loss"]) - float(torch.cat([one, other]).mean())) > 0.1


def test_a_run_stops_when_its_figure_has_not_risen_for_long_enough(tmp_path, capsys):
    run = trainer(tmp_path, validate=scores(0.5, 0.4, 0.6, 0.6, 0.1, 0.9), patience=2)
    run.fit(batches, 6)
    assert run.epoch == 5
    assert "2 validations without a better AP than 0.6" in capsys.readouterr().out
    assert load_tensors(tmp_path / BEST)[1]["epoch"] == 3
    assert load_tensors(tmp_path / LAST)[1]["epoch"] == 5


def test_figures_can_be_watched_as_they_come(tmp_path):
    seen = []
    trainer(tmp_path, watch=lambda step, figures: seen.append((step, figures["loss"]))).fit(batches, 2)
    assert_close([loss for _, loss in seen], [float(row["loss"]) for row in rows(tmp_path)])
    assert [step for step, _ in seen] == [3, 6]


# --- what a run leaves behind


def test_the_best_file_holds_the_weights_of_the_best_validation_and_the_last_file_the_last(tmp_path):
    weights = []

    def validate(model: nn.Module) -> dict[str, float]:
        weights.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"AP": (0.1, 0.7, 0.3)[len(weights) - 1]}

    trainer(tmp_path, validate=validate).fit(batches, 3)
    for file, epoch, figure in ((BEST, 2, 0.7), (LAST, 3, 0.3)):
        tensors, facts = load_tensors(tmp_path / file)
        assert_close(tensors, weights[epoch - 1], atol=0, rtol=0)
        assert (facts["model"], facts["epoch"], facts["figures"]["AP"]) == ("toy", epoch, figure)


def test_without_validation_there_is_a_last_file_but_no_best(tmp_path):
    trainer(tmp_path).fit(batches, 1)
    (state,) = training_states(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([LAST, state.name, LOG])


def test_the_epochs_asked_for_and_the_last_one_are_validated(tmp_path):
    trainer(tmp_path, validate=scores(0.1, 0.2, 0.3)).fit(batches, 5, validate_every=2)
    assert [row["AP"] for row in rows(tmp_path)] == ["", "0.1", "", "0.2", "0.3"]


def test_the_log_has_a_row_an_epoch_with_losses_and_their_sum(tmp_path):
    trainer(tmp_path).fit(batches, 2)
    log = rows(tmp_path)
    assert [(row["epoch"], row["step"]) for row in log] == [("1", "3"), ("2", "6")]
    for row in log:
        assert_close(float(row["loss"]), float(row["square"]) + float(row["absolute"]), atol=1e-5, rtol=0)


def test_a_new_column_in_the_log_leaves_the_old_rows_in_place(tmp_path):
    append_row(tmp_path / "log.csv", {"epoch": 1, "loss": 0.5})
    append_row(tmp_path / "log.csv", {"epoch": 2, "AP": 0.1})
    append_row(tmp_path / "log.csv", {"AP": 0.2, "loss": 0.25, "epoch": 3})
    assert rows(tmp_path) == [
        {"epoch": "1", "loss": "0.5", "AP": ""},
        {"epoch": "2", "loss": "", "AP": "0.1"},
        {"epoch": "3", "loss": "0.25", "AP": "0.2"},
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the device that is always full")
@pytest.mark.parametrize(
    "write", [lambda log: append_row(log, {"epoch": 3, "AP": 0.1}), lambda log: drop_rows(log, after=1)]
)
def test_a_full_disk_leaves_the_log_as_it_was(tmp_path, write):
    log = tmp_path / LOG
    for epoch in (1, 2):
        append_row(log, {"epoch": epoch, "loss": 0.5})
    before = log.read_bytes()
    (tmp_path / f"{LOG}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write(log)
    assert log.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [LOG]


def test_the_description_of_a_run_says_what_it_was_asked_and_with_which_versions(tmp_path):
    @dataclass(frozen=True)
    class Asked:
        lr: float = 0.1

    describe_run(tmp_path, Asked(), data={"split": "train"}, file=Path("a"))
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["options"] == {"lr": 0.1}
    assert content["versions"]["torch"] == torch.__version__
    assert (content["data"], content["file"]) == ({"split": "train"}, "a")


# --- trouble


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_losses_and_pictures(tmp_path):
    def poisoned(epoch: int, first_step: int) -> Iterator[ToyBatch]:
        for i, batch in enumerate(batches(epoch, first_step)):
            yield ToyBatch(batch.inputs * (math.nan if (epoch, i) == (1, 1) else 1), batch.answers, batch.names)

    run = trainer(tmp_path, save_seconds=0.0)
    with pytest.raises(FloatingPointError, match=r"step 4: .*'square': nan.*1-1-0\.png, 1-1-1\.png"):
        run.fit(poisoned, 2)
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())
    written = json.loads((tmp_path / NOT_FINITE).read_text())
    assert (written["epoch"], written["step"]) == (1, 4)
    assert written["pictures"] == [f"1-1-{row}.png" for row in range(6)]
    # What the step before left behind is still there to go on from.
    again = trainer(tmp_path)
    again.resume(tmp_path)
    assert (again.epoch, again.step) == (1, 4)


def endless_slope(run: Trainer, picture: str) -> Trainer:
    """Gives the batch that begins with this picture a loss of 0 more, whose gradient is no number."""
    compute = run.losses.compute

    def with_a_root(model: nn.Module, batch: ToyBatch) -> dict[str, Tensor]:
        root = (0 * model.head.weight.sum()).abs().sqrt()
        return compute(model, batch) | {"root": root if batch.names[0] == picture else root.detach()}

    run.losses.compute = with_a_root
    return run


@pytest.mark.parametrize("clip", [0.0, 10.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_stops_the_run_before_its_step_and_names_that_step_s_pictures(
    tmp_path, clip, precision
):
    def run() -> Trainer:
        return endless_slope(trainer(tmp_path, save_seconds=0.0, clip=clip, precision=precision), "1-1-0.png")

    first = run()
    with pytest.raises(FloatingPointError, match=r"gradient is not finite at step 4: .*norm nan; .*1-1-0\.png, 1-1-1"):
        first.fit(batches, 2)
    assert all(bool(torch.isfinite(p).all()) for p in first.model.parameters())
    written = json.loads((tmp_path / NOT_FINITE).read_text())
    assert (written["step"], math.isnan(written["gradient_norm"])) == (4, True)
    assert math.isfinite(written["losses"]["loss"])
    assert written["pictures"] == [f"1-1-{row}.png" for row in range(6)]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_tensors(tmp_path / LAST)[0].values())
    again = run()
    again.resume(tmp_path)
    assert all(bool(torch.isfinite(p).all()) for p in again.model.parameters())
    with pytest.raises(FloatingPointError, match="gradient is not finite at step 4: "):
        again.fit(batches, 2)


def test_of_a_step_of_several_passes_the_one_with_the_loss_is_named_but_a_gradient_is_of_all(tmp_path):
    def poisoned(epoch: int, first_step: int) -> Iterator[ToyBatch]:
        for i, batch in enumerate(batches(epoch, first_step, count=4)):
            yield ToyBatch(batch.inputs * (math.inf if i == 3 else 1), batch.answers, batch.names)

    with pytest.raises(FloatingPointError, match="loss is not finite at step 1"):
        trainer(tmp_path / "loss", passes=2).fit(poisoned, 1)
    written = json.loads((tmp_path / "loss" / NOT_FINITE).read_text())
    assert written["pictures"] == [f"0-3-{row}.png" for row in range(6)]
    with pytest.raises(FloatingPointError, match="gradient is not finite at step 1"):
        endless_slope(trainer(tmp_path / "slope", passes=2), "0-3-0.png").fit(
            lambda epoch, first_step: batches(epoch, first_step, count=4), 1
        )
    written = json.loads((tmp_path / "slope" / NOT_FINITE).read_text())
    assert written["pictures"] == [f"0-{i}-{row}.png" for i in (2, 3) for row in range(6)]


def test_scaled_gradients_that_overflow_cost_a_step_and_not_the_run(tmp_path):
    run = endless_slope(trainer(tmp_path, precision="fp16", clip=10.0), "0-1-0.png")
    run.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)  # the usual one is too much for a first step
    taken = []
    run.optimizer.register_step_post_hook(lambda *_: taken.append(run.step))
    run.fit(batches, 1)
    assert (run.step, taken) == (3, [0, 2])
    assert run.scaler.get_scale() == 4.0
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())


def test_data_that_gives_no_batch_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="gave no batch"):
        trainer(tmp_path).fit(lambda *_: iter(()), 1)


# --- averaging, schedule, clipping


def test_the_averaged_weights_follow_the_moving_average(tmp_path):
    run = trainer(tmp_path, ema_decay=0.5)
    history = []
    run.optimizer.register_step_post_hook(lambda *_: history.append(run.model.head.weight.detach().clone()))
    run.fit(batches, 2)
    average = history[0]  # the first update takes the weights over
    for number, weight in enumerate(history[1:], start=2):
        decay = min(0.5, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weight
    assert_close(run.result.head.weight.detach(), average)


def test_with_averaging_the_averaged_weights_are_validated_and_saved(tmp_path):
    seen = []
    run = trainer(tmp_path, ema_decay=0.9, validate=lambda model: seen.append(model) or {"AP": 0.5})
    run.fit(batches, 1)
    assert seen == [run.result]
    assert run.result is not run.model
    assert_close(load_tensors(tmp_path / LAST)[0], dict(run.result.state_dict()), atol=0, rtol=0)


def test_the_cosine_schedule_warms_up_and_falls_to_a_hundredth():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = cosine_schedule(optimizer, total_steps=10, warmup_steps=4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert_close(rates[:5], [0.5, 1.0, 1.5, 2.0, 2.0])
    assert_close(rates[7], 2 * (0.01 + 0.99 / 2))
    assert_close(rates[10:], [0.02, 0.02])


def test_a_plateau_schedule_is_told_the_loss_once_an_epoch(tmp_path):
    run = trainer(tmp_path, plateau=True)
    told = []
    run.schedule.step = told.append
    run.fit(batches, 2)
    assert_close(told, [float(row["loss"]) for row in rows(tmp_path)])


def test_gradients_are_clipped_to_the_norm_asked_for(tmp_path):
    def gradient_norm(clip: float) -> Tensor:
        run = trainer(tmp_path / str(clip), clip=clip)
        norms = []
        run.optimizer.register_step_pre_hook(
            lambda *_: norms.append(torch.stack([p.grad.norm() for p in run.model.parameters()]).norm())
        )
        run.fit(lambda epoch, _: batches(epoch, count=1), 1)
        return norms[0]

    assert_close(gradient_norm(0.01), torch.tensor(0.01), rtol=1e-3, atol=0)
    assert float(gradient_norm(0.0)) > 0.1


def test_half_precision_arithmetic_keeps_weights_and_losses_in_single_precision(tmp_path):
    run = trainer(tmp_path, precision="bf16")
    seen = []
    run.model.head.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    run.fit(batches, 1)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    full = trainer(tmp_path / "full")
    full.fit(batches, 1)
    assert_close(float(rows(tmp_path)[0]["loss"]), float(rows(tmp_path / "full")[0]["loss"]), rtol=0.05, atol=0)
