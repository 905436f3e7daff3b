"""The training scripts from beginning to end, on a handful of small synthetic pictures."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from multiposenet.checkpoint import load_tensors, load_training_state, save_weights, training_states
from multiposenet.data.arrangements import ARRANGEMENTS
from multiposenet.data.pending import PICTURES
from multiposenet.data.sources import SYNTHETIC_KINDS, TRAIN_SEED, open_dataset, read_labels
from multiposenet.methods import PoseMethod, build_method
from multiposenet.options import read_options_file
from multiposenet.predictor import load
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.weights import describe_weights

ROOT = Path(__file__).resolve().parents[1]
RUN_FILES = {"best.safetensors", "last.safetensors", "log.csv", "options.toml", "run.json"}
QUICK = [
    "--synthetic-count", "6", "--epoch-size", "4", "--val-count", "1", "--image-size", "96", "--batch-size", "2",
    "--epochs", "1", "--workers", "0", "--device", "cpu",
]  # fmt: skip
QUICK_PRN = [
    "--synthetic-count", "4", "--val-count", "1", "--batch_size", "8", "--number_of_epoch", "1", "--num_workers", "0",
    "--device", "cpu",
]  # fmt: skip


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


train_posenet = script(ROOT / "train_posenet.py")
prn_train = script(ROOT / "prn_train" / "train.py")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for runs; removed afterwards, for they hold whole models."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def save_method(method: PoseMethod, image_size: int, file: Path) -> None:
    """Writes weights with what it takes to load them by themselves."""
    save_weights(method.model, file, method.facts | {"image_size": image_size})


def from_elsewhere(folder: Path, *argv: str) -> str:
    """Runs a script as a user would, from a folder that is not the checkout; returns what it printed."""
    command = [sys.executable, *argv]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def joint(folder: Path) -> Path:
    """The run folder of one epoch of joint training, started by relative paths from another folder."""
    printed = from_elsewhere(folder, str(ROOT / "train_posenet.py"), "--train", "joint", "--out", "joint", *QUICK)
    assert printed.splitlines()[-1] == "weights: joint/best.safetensors"
    return folder / "joint"


@pytest.fixture(scope="module")
def separate(folder: Path) -> Path:
    """The run folder of one epoch of keypoints and one of the detector."""
    train_posenet.main(["--out", str(folder / "separate"), *QUICK])
    return folder / "separate"


@pytest.fixture(scope="module")
def residual(folder: Path, joint: Path) -> Path:
    """The run folder of one epoch of the residual network, started by relative paths from another folder."""
    argv = ["--weights", "joint/best.safetensors", "--exp", "residual", *QUICK_PRN]
    printed = from_elsewhere(folder, str(ROOT / "prn_train" / "train.py"), *argv)
    assert printed.splitlines()[-1].endswith("weights: residual/best.safetensors")
    return folder / "residual"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> set[str]:
    """What lies in a run folder, but for its one training state, whose name holds a checksum."""
    assert len(training_states(folder)) == 1
    return {file.name for file in folder.iterdir()} - {file.name for file in training_states(folder)}


def parts_that_differ(one: Path, other: Path) -> set[str]:
    a, b = load_tensors(one)[0], load_tensors(other)[0]
    assert set(a) == set(b)
    return {key.split(".")[0] for key in a if not torch.equal(a[key], b[key])}


# --- what a run leaves


def test_a_run_leaves_weights_state_log_and_what_it_was_asked(joint):
    assert files(joint) == RUN_FILES


def test_the_log_has_losses_of_both_tasks_and_figures(joint):
    (row,) = rows(joint)
    assert {"heatmaps", "person_mask", "intermediate", "box_logits", "box_deltas", "AP", "lr"} <= set(row)
    assert (row["epoch"], row["step"]) == ("1", "2")


def test_the_run_describes_its_data_and_its_options(joint):
    content = json.loads((joint / "run.json").read_text())
    assert content["options"]["image_size"] == 96
    assert content["data"] != content["validation"]
    assert content["versions"]["torch"] == torch.__version__


def test_the_options_that_are_written_start_the_same_run_again(joint):
    content = tomllib.loads((joint / "options.toml").read_text())
    assert (content["train"], content["epochs"], content["batch_size"]) == ("joint", 1, 2)
    assert "resume" not in content


def test_the_weights_say_what_they_are_and_load_by_themselves(joint):
    predictor = load(joint / "best.safetensors", device="cpu", image_size=64)
    assert (predictor.name, predictor.skeleton) == ("multiposenet_lite", COCO_PERSON)
    metadata = load_tensors(joint / "best.safetensors")[1]
    assert (metadata["task"], metadata["epoch"], metadata["seed"]) == ("joint", 1, 0)
    assert "AP" in metadata["figures"]


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda file: file.stem)
def test_every_recipe_can_be_read_by_its_training_script(recipe):
    kind = prn_train.PrnOptions if recipe.stem.endswith("_prn") else train_posenet.TrainOptions
    kind(**read_options_file(kind, recipe))


# --- which parts a task trains


def start(folder: Path) -> Path:
    """The weights with which a run of seed 0 starts."""
    torch.manual_seed(0)
    save_weights(build_method("multiposenet_lite").model, folder / "start.safetensors", {})
    return folder / "start.safetensors"


def test_joint_training_changes_everything_but_the_residual_network(folder, joint):
    changed = parts_that_differ(start(folder), joint / "last.safetensors")
    parts = {"backbone", "keypoint_pyramid", "keypoint_subnet", "detection_pyramid", "detection_subnet"}
    assert changed == parts


def test_separate_training_trains_keypoints_first_and_leaves_them_bit_for_bit_to_the_detector(folder, separate):
    keypoints, detection = separate / "keypoints", separate / "detection"
    after_keypoints = parts_that_differ(start(folder), keypoints / "last.safetensors")
    assert after_keypoints == {"backbone", "keypoint_pyramid", "keypoint_subnet"}
    after_detection = parts_that_differ(keypoints / "best.safetensors", detection / "last.safetensors")
    assert after_detection == {"detection_pyramid", "detection_subnet"}


def test_the_detector_is_trained_on_the_best_keypoints_not_on_the_last(folder, monkeypatch):
    figures = iter([0.5, 0.1, 0.3, 0.2])
    monkeypatch.setattr(train_posenet, "measure_ap", lambda *_: {"AP": next(figures)})
    run = folder / "best_first"
    argv = [*QUICK, "--epochs", "2", "--validate_every", "1", "--ema_decay", "0"]
    result = train_posenet.main([*argv, "--out", str(run)])
    best, last = run / "keypoints" / "best.safetensors", run / "keypoints" / "last.safetensors"
    taught = {"backbone", "keypoint_pyramid", "keypoint_subnet"}
    assert parts_that_differ(best, last) == taught
    assert parts_that_differ(best, result) == {"detection_pyramid", "detection_subnet"}
    assert parts_that_differ(run / "detection" / "best.safetensors", result) == set()


def test_separate_training_keeps_a_folder_a_phase_and_the_result_above_them(separate):
    assert {file.name for file in separate.iterdir()} == {"keypoints", "detection", "best.safetensors", "options.toml"}
    assert (separate / "best.safetensors").read_bytes() == (separate / "detection" / "best.safetensors").read_bytes()
    for phase in ("keypoints", "detection"):
        assert files(separate / phase) == RUN_FILES - {"options.toml"}


def test_validation_measures_the_averaged_weights_also_of_parts_that_the_decoder_calls(folder, joint, monkeypatch):
    measured = []

    def measure(predictor, *_) -> dict[str, float]:
        model = predictor.method.model
        assert predictor.method.decoder.refinement.network is model.refiner
        measured.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"AP": 0.0}

    monkeypatch.setattr(train_posenet, "measure_ap", measure)
    argv = ["--train", "joint", "--weights", str(joint / "best.safetensors"), "--model_options", "refiner=true"]
    with pytest.warns(UserWarning, match="random weights in refiner"):
        result = train_posenet.main([*argv, "--out", str(folder / "refined"), *QUICK])
    assert float(rows(folder / "refined")[0]["refiner"]) > 0
    saved = load_tensors(result)[0]
    assert_close(measured[0], saved)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("multiposenet_lite", ["--half_body", "0"]),
        ("onestage_resnet50", ["--further_extension", "0.1,0.1"]),
        ("topdown_lite", ["--crop", "64"]),
    ],
)
def test_an_option_that_means_nothing_to_the_model_is_refused(folder, model, given):
    out = folder / "useless"
    with pytest.raises(ValueError, match=f"{model} is trained without {given[0]}; leave it out"):
        train_posenet.main(["--model", model, *given, "--out", str(out), *QUICK])
    assert not out.exists()


def test_parts_named_frozen_stay_as_they_were(folder, joint):
    argv = ["--train", "keypoints", "--weights", str(joint / "best.safetensors"), "--frozen", "backbone"]
    result = train_posenet.main([*argv, "--out", str(folder / "frozen"), *QUICK])
    assert parts_that_differ(joint / "best.safetensors", result) == {"keypoint_pyramid", "keypoint_subnet"}


def test_a_folder_with_a_comma_in_its_name_is_one_set(tmp_path):
    folder = tmp_path / "people, many"
    folder.mkdir()
    options = train_posenet.TrainOptions
    assert options(data=str(folder)).data_sets == [str(folder)]
    assert options(data=f"{tmp_path},synthetic").data_sets == [str(tmp_path), "synthetic"]


def test_pictures_drawn_to_learn_from_have_as_many_people_as_their_arrangement():
    crowded, like_coco = (
        open_dataset(kind, "train2017", COCO_PERSON, synthetic_count=2, fewest_people=0) for kind in SYNTHETIC_KINDS
    )
    assert crowded.people == (0, 8)
    assert like_coco.people == (0, ARRANGEMENTS["coco"].people[1])


def test_several_data_sets_are_learnt_from_together_and_named_in_the_weights(folder):
    data = ["--data", "synthetic,synthetic_coco", "--synthetic-count", "2", "--val_data", "synthetic_coco"]
    run = folder / "several"
    result = train_posenet.main(["--train", "keypoints", *QUICK, *data, "--out", str(run)])
    facts = json.loads((run / "run.json").read_text())
    assert [own["arrangement"] for own in facts["data"]] == ["crowded", "coco"]
    assert facts["validation"]["arrangement"] == "coco"
    assert facts["steps"] == 2  # four pictures, two a step: both sets are there
    assert build_method(weights=result).metadata["data"] == facts["data"]
    words = describe_weights(result).data
    assert words == "synthetic_people crowded (2 pictures) and synthetic_people coco (2 pictures)"


def test_people_of_a_folder_are_pasted_and_data_sets_mixed_as_asked(folder):
    cut_from = folder / "cut_from"
    script(ROOT / "datasets" / "synthesize.py").main(
        ["--out", str(cut_from), "--count", "2", "--seed", "4", "--size", "96", "--split", "train2017"]
    )
    data = ["--data", f"synthetic,{cut_from}", "--shares", "1,3", "--paste", str(cut_from), "--pasted", "1"]
    run = folder / "pasted"
    result = train_posenet.main(["--train", "keypoints", *QUICK, *data, "--out", str(run), "--val_data", "synthetic"])
    facts = json.loads((run / "run.json").read_text())
    assert facts["options"]["shares"] == [1, 3]
    assert [own["pasted"]["images"] for own in facts["data"]] == [2, 2]
    words = describe_weights(result).data
    assert words.count(", with people of synthetic_people crowded (2 pictures") == 1
    assert words.startswith("synthetic_people crowded (6 pictures) and synthetic_people crowded (2 pictures")
    assert words.endswith("pasted in")
    with pytest.raises(ValueError, match="topdown_lite is trained without --paste"):
        train_posenet.main(["--model", "topdown_lite", *QUICK, *data, "--out", str(folder / "refused")])


def losses_of(run: Path) -> dict[str, float]:
    names = ("loss", "heatmaps", "person_mask", "intermediate", "box_logits", "box_deltas")
    return {name: float(rows(run)[0][name]) for name in names}


def test_augmentation_on_the_device_teaches_what_that_of_the_loader_teaches(folder, joint):
    run = folder / "on_device"
    train_posenet.main(["--train", "joint", *QUICK, "--augment_on", "device", "--out", str(run)])
    ours, theirs = losses_of(run), losses_of(joint)
    assert ours["heatmaps"] != theirs["heatmaps"]
    # The detector's errors jump where an anchor is just taken for somebody's; the labels are the same to the bit.
    assert ours == pytest.approx(theirs, rel=0.02)
    assert tomllib.loads((run / "options.toml").read_text())["augment_on"] == "device"


def test_augmentation_on_the_device_goes_with_all_that_data_come_from(folder):
    cut_from = folder / "cut_from_too"
    script(ROOT / "datasets" / "synthesize.py").main(
        ["--out", str(cut_from), "--count", "2", "--seed", "5", "--size", "96", "--split", "train2017"]
    )
    data = ["--data", f"synthetic,{cut_from}", "--shares", "1,1", "--paste", str(cut_from), "--pasted", "1"]
    more = ["--cache", str(folder / "cache"), "--workers", "1", "--passes", "2", "--val_data", "synthetic"]
    found = []
    for augment in ("--augment", "--no-augment"):
        for where in PICTURES:
            run = folder / f"all{augment}_{where}"
            argv = ["--train", "joint", *QUICK, *data, *more, augment, "--augment_on", where]
            train_posenet.main([*argv, "--out", str(run)])
            found.append(losses_of(run))
    assert found[0] == pytest.approx(found[1], rel=0.02)
    assert found[2] == pytest.approx(found[3], rel=0.02)
    assert found[0] != pytest.approx(found[2], rel=0.02)


def test_a_run_with_augmentation_on_the_device_is_resumed_in_the_middle_of_an_epoch_bit_for_bit(folder):
    whole, interrupted = folder / "device_whole", folder / "device_interrupted"
    argv = ["--train", "joint", *QUICK, "--augment_on", "device", "--epochs", "2", "--save_seconds", "0", "--keep", "9"]
    train_posenet.main([*argv, "--out", str(whole)])
    shutil.copytree(whole, interrupted)
    states = training_states(interrupted)
    later = [file for file in states if not file.name.startswith("state-000000001-")]
    assert 0 < len(later) < len(states)
    for file in later:
        file.unlink()
    train_posenet.main(["--resume", str(interrupted)])
    expected, found = (load_tensors(run / "last.safetensors")[0] for run in (whole, interrupted))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert losses_of(whole) == losses_of(interrupted)


def test_a_skeleton_from_a_file_trains_a_network_for_its_keypoints(folder):
    arms = folder / "arms.toml"
    arms.write_text(
        'name = "arms"\n'
        'keypoints = ["nose", "left_wrist", "right_wrist"]\n'
        'flip_pairs = [["left_wrist", "right_wrist"]]\n'
        "oks_sigmas = [0.026, 0.062, 0.062]\n"
    )
    result = train_posenet.main(
        ["--train", "keypoints", "--skeleton", str(arms), "--out", str(folder / "arms"), *QUICK]
    )
    method = build_method(weights=result)
    assert method.skeleton == Skeleton.from_toml(arms)
    assert method.model.keypoint_subnet.predict.out_channels == 4


# --- going on


def test_a_resumed_run_trains_only_what_is_left(folder, capsys):
    run = folder / "again"
    train_posenet.main(["--train", "joint", *QUICK, "--out", str(run)])
    (first,) = rows(run)
    train_posenet.main(["--epochs", "2", "--resume", str(run)])
    assert "epoch 1/2" not in capsys.readouterr().out
    assert rows(run)[0] == first
    assert [(row["epoch"], row["step"]) for row in rows(run)] == [("1", "2"), ("2", "4")]


def test_a_resumed_run_has_the_layout_of_the_weights_it_started_from(folder):
    start = folder / "wide_start.safetensors"
    save_method(build_method("multiposenet_lite", grouping_options={"width": 16}), 96, start)
    run = folder / "from_weights"
    train_posenet.main(["--train", "joint", *QUICK, "--weights", str(start), "--out", str(run)])
    train_posenet.main(["--resume", str(run), "--epochs", "2"])
    assert [row["epoch"] for row in rows(run)] == ["1", "2"]
    assert tomllib.loads((run / "options.toml").read_text())["weights"] == str(start)


def test_resuming_a_run_whose_options_are_damaged_names_the_file(folder, capsys):
    run = folder / "damaged"
    run.mkdir()
    (run / "options.toml").write_text("epochs = [")
    with pytest.raises(SystemExit):
        train_posenet.main(["--resume", str(run)])
    assert "damaged/options.toml: not valid TOML" in capsys.readouterr().err


def test_resuming_with_other_options_is_refused_and_says_which(joint):
    with pytest.raises(ValueError, match=r"batch_size 2 -> 3.*leave these out"):
        train_posenet.main(["--train", "joint", *QUICK, "--batch-size", "3", "--resume", str(joint)])


@pytest.mark.parametrize(
    ("place", "found"), [("joint", "state-"), ("separate", "best.safetensors"), ("residual", "state-")]
)
def test_a_second_training_into_a_folder_that_holds_one_is_refused_and_changes_nothing(place, found, request):
    run = request.getfixturevalue(place)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    again, flags = (prn_train, QUICK_PRN) if place == "residual" else (train_posenet, QUICK)
    with pytest.raises(ValueError, match=rf"holds a run \({found}.*go on with --resume {run} or give another --out"):
        again.main([*flags, "--seed", "5", "--out", str(run)])
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_start_that_failed_does_not_stand_in_the_way_of_the_next(folder):
    run = folder / "second_try"
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        train_posenet.main(["--train", "keypoints", *QUICK, "--data", "nowhere", "--out", str(run)])
    assert (run / "options.toml").exists()
    train_posenet.main(["--train", "keypoints", *QUICK, "--out", str(run)])
    assert len(rows(run)) == 1


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="workers cannot tell who stops them")
def test_a_run_whose_workers_are_told_to_stop_with_it_saves_and_can_be_resumed(folder):
    run = folder / "stopped"
    argv = ["--train", "keypoints", *QUICK, "--epoch-size", "2000", "--workers", "2", "--save_seconds", "0"]
    command = [sys.executable, str(ROOT / "train_posenet.py"), *argv, "--out", str(run)]
    training = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while training.poll() is None and not training_states(run):
            time.sleep(0.1)
        os.killpg(training.pid, signal.SIGTERM)
        printed = training.communicate(timeout=120)[0].decode()
    finally:
        training.kill()
    assert training.returncode == 143, printed
    step = int(re.search(r"stopped by a signal at step (\d+); go on with --resume", printed).group(1))
    assert load_training_state(run)["step"] == step


def test_resuming_between_the_phases_goes_on_with_the_second(folder, separate, capsys):
    interrupted = folder / "interrupted"
    train_posenet.main(["--out", str(interrupted), "--train", "keypoints", *QUICK])
    inside = interrupted / "keypoints"
    inside.mkdir()
    for file in [file for file in interrupted.iterdir() if file.is_file() and file.name != "options.toml"]:
        file.rename(inside / file.name)
    text = (interrupted / "options.toml").read_text().replace('train = "keypoints"', 'train = "separate"')
    (interrupted / "options.toml").write_text(text)
    capsys.readouterr()
    train_posenet.main(["--resume", str(interrupted)])
    assert capsys.readouterr().out.count("epoch 1/1") == 1
    resumed, _ = load_tensors(interrupted / "best.safetensors")
    assert_close(resumed, load_tensors(separate / "best.safetensors")[0])


# --- the residual network


def test_the_residual_network_s_run_leaves_the_same_files(residual):
    assert files(residual) == RUN_FILES


def test_the_residual_network_s_training_changes_nothing_else(joint, residual):
    assert parts_that_differ(joint / "best.safetensors", residual / "last.safetensors") == {"prn"}


def test_the_residual_network_s_weights_say_where_they_come_from(joint, residual):
    metadata = load_tensors(residual / "best.safetensors")[1]
    assert metadata["task"] == "prn"
    assert metadata["started_from"]["task"] == "joint"
    assert load(residual / "best.safetensors", device="cpu").name == "multiposenet_lite"


def test_the_residual_network_s_run_can_be_resumed(folder, joint, residual):
    # The run named its weights from where it was started, which is another folder than this one.
    prn_train.main(["--number_of_epoch", "2", "--resume", str(residual), "--weights", str(joint / "best.safetensors")])
    assert [row["epoch"] for row in rows(residual)] == ["1", "2"]


def test_a_run_that_ended_before_its_first_training_state_is_resumed_from_the_beginning(folder, monkeypatch):
    run = folder / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(prn_train.Trainer, "fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prn_train.main(["--node_count", "4", "--exp", str(run), *QUICK_PRN])
    assert not training_states(run)
    prn_train.main(["--resume", str(run)])
    whole = folder / "not_killed"
    prn_train.main(["--node_count", "4", "--exp", str(whole), *QUICK_PRN])
    assert [row["loss"] for row in rows(run)] == [row["loss"] for row in rows(whole)]


@pytest.mark.parametrize("kind", ["pose_residual", "set_assignment"])
def test_a_loss_of_people_that_is_not_finite_names_their_pictures(folder, kind):
    run = folder / f"not_finite_{kind}"
    argv = [*QUICK_PRN, "--model", kind, "--lr", "1e38", "--number_of_epoch", "9", "--batch_size", "4"]
    with pytest.raises(FloatingPointError, match=r"pictures: 00000000000\d\.jpg"):
        prn_train.main([*argv, "--exp", str(run)])
    pictures = json.loads((run / "not_finite.json").read_text())["pictures"]
    assert pictures
    assert set(pictures) <= {f"{number:012d}.jpg" for number in range(1, 5)}


def test_the_residual_network_learns_in_half_precision(folder):
    losses = []
    for precision in ("fp32", "bf16"):
        run = folder / f"residual_{precision}"
        prn_train.main(["--node_count", "16", "--precision", precision, "--exp", str(run), *QUICK_PRN])
        losses.append(float(rows(run)[-1]["loss"]))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_grouping_that_hears_features_learns_what_its_network_finds_but_nothing_mirrored(folder, monkeypatch):
    hearing = {"evidence": True, "appearance": 32, "width": 8, "layers": 1}
    chain = build_method("multiposenet_lite", grouping_options=hearing, peak_threshold=0.0, box_threshold=0.0)
    save_method(chain, 64, folder / "hearing.safetensors")
    argv = ["--weights", str(folder / "hearing.safetensors"), "--learn_from", "network", "--precision", "bf16"]
    argv += ["--synthetic_count", "4", "--val_count", "2", "--number_of_epoch", "1", "--batch_size", "4"]

    result = prn_train.main([*argv, "--flip", "0", "--exp", str(folder / "hearing")])
    learnt = build_method(weights=result).model.state_dict()
    changed = {name for name, tensor in chain.model.state_dict().items() if not torch.equal(tensor, learnt[name])}
    assert "prn.embed_evidence.2.weight" in changed
    assert all(name.startswith("prn.") for name in changed)

    monkeypatch.setattr(prn_train, "network_input", lambda *_: pytest.fail("the network ran"))
    with pytest.raises(ValueError, match="flip must be 0"):
        prn_train.main([*argv, "--flip", "0.5", "--exp", str(folder / "mirrored")])


@pytest.mark.parametrize("source", ["labels", "network"])
def test_a_grouping_learns_from_several_data_sets_together(folder, source):
    chain = build_method("multiposenet_lite", peak_threshold=0.0, box_threshold=0.0)
    save_method(chain, 64, folder / "untrained.safetensors")
    run = folder / f"several_{source}"
    result = prn_train.main([
        *("--weights", str(folder / "untrained.safetensors"), "--data", "synthetic,synthetic_coco"),
        *("--synthetic_count", "3", "--val_count", "2", "--num_workers", "0", "--number_of_epoch", "1"),
        *("--learn_from", source, "--flip", "0", "--exp", str(run)),
    ])  # fmt: skip
    facts = json.loads((run / "run.json").read_text())
    assert [own["arrangement"] for own in facts["data"]] == ["crowded", "coco"]
    assert facts["validation"]["arrangement"] == "crowded"
    assert load_tensors(result)[1]["data"] == facts["data"]
    if source == "labels":  # of both sets, and of nobody twice
        drawn = [
            open_dataset(kind, "train2017", COCO_PERSON, synthetic_count=3, synthetic_seed=TRAIN_SEED)
            for kind in SYNTHETIC_KINDS
        ]
        assert facts["people"] == sum(int((~labels.crowd).sum()) for each in drawn for labels in read_labels(each))


def test_the_grid_and_width_of_the_residual_network_follow_the_published_option_names(folder):
    argv = ["--node_count", "16", "--coeff", "1", "--threshold", "0.3", "--window_size", "9"]
    method = build_method(weights=prn_train.main([*argv, "--exp", str(folder / "small"), *QUICK_PRN]))
    grid = method.decoder.grouping.grid
    assert (grid.size, grid.margin, grid.window) == ((28, 18), 0.3, 4)
    assert method.model.prn.residual[0].out_features == 16


def test_the_published_schedule_lowers_the_rate_every_second_epoch_from_the_third(folder):
    argv = ["--lr", "1", "--lr_gamma", "0.9", "--node_count", "4", "--exp", str(folder / "rates"), *QUICK_PRN]
    prn_train.main([*argv, "--number_of_epoch", "6", "--validate_every", "6"])
    # The log tells the rate that the next epoch starts with; the first epoch is number 0.
    assert_close([float(row["lr"]) for row in rows(folder / "rates")], [1.0, 1.0, 0.9, 0.9, 0.81, 0.81])


def test_a_network_takes_its_residual_network_from_another_file(folder, residual):
    argv = ["--train", "detection", "--init", f"prn={residual / 'best.safetensors'}", "--out", str(folder / "with_prn")]
    result = train_posenet.main([*argv, *QUICK])
    assert "prn" not in parts_that_differ(result, residual / "best.safetensors")


def test_a_part_to_start_from_without_a_file_is_an_error_that_shows_the_form(folder):
    with pytest.raises(ValueError, match=r"part=FILE.*got 'prn'"):
        train_posenet.main(["--init", "prn", "--out", str(folder / "wrong"), *QUICK])
