"""The grouping table and the training of groupings by themselves, from beginning to end, on a few real labels."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from multiposenet.checkpoint import load_tensors, save_weights
from multiposenet.groupings import build_grouping
from multiposenet.options import read_options_file

ROOT = Path(__file__).resolve().parents[1]


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


train = script(ROOT / "prn_train" / "train.py")
run_grouping = script(ROOT / "evaluate" / "run_grouping.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The weights of a set assignment after one tiny epoch on synthetic people."""
    folder = tmp_path_factory.mktemp("set")
    return train.main([
        "--opt", str(ROOT / "prn_train" / "set_assignment.toml"), "--synthetic-count", "4", "--val-count", "2",
        "--batch_size", "8", "--number_of_epoch", "1", "--num_workers", "0", "--width", "16", "--layers", "2",
        "--device", "cpu", "--exp", str(folder / "run"),
    ])  # fmt: skip


@pytest.mark.parametrize("name", ["options", "corrected", "set_assignment"])
def test_published_and_own_settings_can_be_read(name):
    train.PrnOptions(**read_options_file(train.PrnOptions, ROOT / "prn_train" / f"{name}.toml"))


def test_a_set_assignment_is_trained_by_itself_and_says_what_it_is(trained):
    method = build_grouping(weights=trained)
    metadata = load_tensors(trained)[1]
    assert method.name == "set_assignment"
    assert method.options == {"width": 16, "layers": 2}
    assert {"AP", "AP_degraded", "AP_mean"} <= set(metadata["figures"])
    assert float(method.model["prn"].prior.mean.std()) > 0.1  # it was fitted


def test_a_set_assignment_s_run_can_be_resumed(trained, capsys):
    run = trained.parent
    train.main(["--number_of_epoch", "2", "--resume", str(run)])
    assert "epoch 2/2" in capsys.readouterr().out


def test_a_flag_of_another_grouping_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"set_assignment.*nodes"):
        train.main(["--model", "set_assignment", "--node_count", "4", "--exp", str(tmp_path / "run")])


def test_a_pose_residual_network_is_trained_by_itself_easy_people_first(tmp_path, capsys):
    result = train.main([
        "--opt", str(ROOT / "prn_train" / "corrected.toml"), "--synthetic-count", "4", "--val-count", "1",
        "--batch_size", "4", "--number_of_epoch", "2", "--curriculum", "1", "--num_workers", "0", "--coeff", "1",
        "--node_count", "4", "--device", "cpu", "--exp", str(tmp_path / "run"),
    ])  # fmt: skip
    assert build_grouping(weights=result).grouping.grid.size == (28, 18)
    people = int(capsys.readouterr().out.split(" people; weights")[0].splitlines()[-1])
    steps = [int(row.split(",")[1]) for row in (tmp_path / "run" / "log.csv").read_text().splitlines()[1:]]
    assert steps == [-(-round(people / 2) // 4), -(-round(people / 2) // 4) + -(-people // 4)]


@pytest.fixture(scope="module")
def table(coco_mini, trained, tmp_path_factory) -> Path:
    """The folder of a table over a few pictures."""
    out = tmp_path_factory.mktemp("table")
    status = run_grouping.main([
        "--data", str(coco_mini), "--limit", "6", "--train-limit", "40", "--grouping", str(trained),
        "--label-cache", str(out / "labels"), "--out", str(out),
    ])  # fmt: skip
    assert status == 0
    return out


def test_the_table_has_every_grouping_by_every_rule_on_every_input(table):
    rows = json.loads((table / "grouping.json").read_text())
    assert {row["input"] for row in rows} == {"ground truth", "degraded peaks", "degraded boxes", "both degraded"}
    names = {"ceiling", "strongest_peak", "nearest_centre", "gaussian_prior", "set_assignment"}
    assert {row["grouping"] for row in rows} == names
    assert len(rows) == 4 * (1 + 4 * 3)
    for row in rows:
        assert {"assignment", "AP", "AP50", "AP75", "APM", "APL", "AR", "right", "ceiling", "crowding"} <= set(row)


def test_the_table_s_ceiling_is_the_same_on_one_input_and_one_on_ground_truth(table):
    rows = json.loads((table / "grouping.json").read_text())
    for given in {row["input"] for row in rows}:
        assert len({row["ceiling"] for row in rows if row["input"] == given}) == 1
    assert {row["ceiling"] for row in rows if row["input"] == "ground truth"} == {1.0}


def test_the_table_is_written_as_text_and_says_how_it_was_made(table):
    assert (table / "grouping.txt").read_text().count("\n") == 1 + 4 * (1 + 4 * 3)
    about = json.loads((table / "about.json").read_text())
    assert about["inputs"]["degraded peaks"][0] == {"dropped": 0.15, "false": 0.3, "noise": 0.02}
    assert about["seed"] == 2017


def test_synthetic_people_are_measured_with_a_prior_of_other_ones(tmp_path):
    flags = ["--data", "synthetic", "--limit", "2", "--train-limit", "3", "--assignment", "optimal", "--no-crowding"]
    assert run_grouping.main([*flags, "--out", str(tmp_path / "table")]) == 0
    (folder,) = tmp_path.iterdir()
    rows = json.loads((folder / "grouping.json").read_text())
    assert {row["ceiling"] for row in rows if row["input"] == "ground truth"} == {1.0}
    about = json.loads((folder / "about.json").read_text())
    assert about["data"]["seed"] != about["prior_fitted_on"]["seed"]


def test_data_that_are_not_there_are_one_line_and_status_two(tmp_path, capsys):
    assert run_grouping.main(["--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_grouping_of_another_skeleton_is_refused(coco_mini, tmp_path, capsys, trained):
    metadata = load_tensors(trained)[1]
    other = dict(metadata["skeleton"], keypoints=[f"{name}_" for name in metadata["skeleton"]["keypoints"]])
    other.update(flip_pairs=[], limbs=[])
    method = build_grouping(weights=trained)
    save_weights(method.model, tmp_path / "other.safetensors", metadata | {"skeleton": other})
    flags = ["--data", str(coco_mini), "--limit", "2", "--train-limit", "5", "--label-cache", str(tmp_path)]
    assert run_grouping.main([*flags, "--grouping", str(tmp_path / "other.safetensors")]) == 2
    assert "groups the keypoints of skeleton" in capsys.readouterr().err
