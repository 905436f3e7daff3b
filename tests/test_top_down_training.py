"""Top-down networks through the training script, on a handful of small pictures."""

from __future__ import annotations

import csv
import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from multiposenet.checkpoint import load_tensors
from multiposenet.data.mpii import write_mpii
from multiposenet.data.pending import PICTURES
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.engine import linear_schedule
from multiposenet.options import parse_model_options
from multiposenet.predictor import load
from multiposenet.skeletons import COCO_PERSON, MPII

ROOT = Path(__file__).resolve().parents[1]


def script(path: Path):
    spec = importlib.util.spec_from_file_location(f"top_down_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


train_posenet = script(ROOT / "train_posenet.py")
SMALL = "planes=16x16x32x32,width=16,stem_width=16,crop=64x48"
QUICK = [
    "--model", "rsn18", "--model-options", SMALL, "--epochs", "1", "--batch-size", "2", "--workers", "0",
    "--device", "cpu",
]  # fmt: skip
DRAWN = ["--synthetic-count", "4", "--epoch-size", "4", "--val-count", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The run folder of one epoch on synthetic people."""
    folder = tmp_path_factory.mktemp("top_down") / "run"
    train_posenet.main([*QUICK, *DRAWN, "--optimizer", "adam", "--schedule", "linear", "--out", str(folder)])
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_cascade_trains_by_the_same_script_and_is_measured_in_the_labels_boxes(trained):
    (row,) = rows(trained)
    assert {"finest", "coarser", "AP", "AR"} <= set(row)
    assert row["step"] == "2"


def test_what_the_family_decides_is_in_the_options_of_the_run(trained):
    content = tomllib.loads((trained / "options.toml").read_text())
    assert (content["train"], content["image_size"], content["scale"]) == ("pose", 64, [0.6, 1.0])
    assert (content["rotation"], content["colours"]) == (45.0, False)


def test_the_weights_say_what_they_are_and_load_by_themselves(trained):
    predictor = load(trained / "last.safetensors", device="cpu")
    assert (predictor.name, predictor.skeleton, predictor.image_size) == ("rsn18", COCO_PERSON, 64)
    assert predictor.method.decoder.rule.size == (64, 48)
    metadata = load_tensors(trained / "last.safetensors")[1]
    assert (metadata["task"], metadata["options"]["planes"]) == ("pose", [16, 16, 32, 32])


def test_training_goes_on_where_it_was(trained, tmp_path):
    train_posenet.main(["--epochs", "2", "--resume", str(trained)])
    assert [row["step"] for row in rows(trained)] == ["2", "4"]


def test_people_are_cut_from_cached_pictures_of_full_size(tmp_path):
    cache = tmp_path / "cache"
    train_posenet.main([*QUICK, *DRAWN, "--cache", str(cache), "--out", str(tmp_path / "run")])
    sizes = {load_file(file)["image"].shape for file in cache.glob("*/*.safetensors")}
    assert sizes == {(480, 480, 3)}


def test_crops_cut_on_the_device_teach_what_the_loader_s_teach(tmp_path):
    losses = []
    for where in PICTURES:
        run = tmp_path / where
        train_posenet.main([*QUICK, *DRAWN, "--colours", "--augment_on", where, "--out", str(run)])
        (row,) = rows(run)
        losses.append([float(row["finest"]), float(row["coarser"])])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_mpii_is_validated_by_its_own_measure(tmp_path):
    dataset = SyntheticPeople(3, seed=5, image_size=(160, 160), people=(1, 2), skeleton=MPII)
    (tmp_path / "images").mkdir()
    for split in ("train", "valid"):
        pictures = []
        for index in range(len(dataset)):
            from PIL import Image

            name = f"{split}{index}.png"
            sample = dataset[index]
            Image.fromarray(sample.image).save(tmp_path / "images" / name)
            pictures.append((name, sample.labels))
        assert write_mpii(tmp_path, split, pictures) >= 2
    options = ["--format", "mpii", "--skeleton", "mpii", "--data", str(tmp_path), "--split", "train"]
    result = train_posenet.main([*QUICK, *options, "--val-split", "valid", "--out", str(tmp_path / "run")])
    (row,) = rows(tmp_path / "run")
    assert 0 <= float(row["PCKh"]) <= 1
    assert result.name == "best.safetensors"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=true", True),
        ("a=2", 2),
        ("a=0.5", 0.5),
        ("a=384x288", (384, 288)),
        ("a=1.5x2", (1.5, 2)),
        ("a=legacy", "legacy"),
        ("a=box", "box"),
        ("a=null", None),
    ],
)
def test_options_of_a_model_are_read_as_what_they_look_like(text, value):
    assert parse_model_options([text]) == {"a": value}


def test_an_option_of_a_model_without_a_value_is_an_error_that_shows_the_form():
    with pytest.raises(ValueError, match=r"model_options takes name=value, e\.g\. prm=true; got 'prm'"):
        parse_model_options(["prm"])


def test_the_linear_schedule_warms_up_from_a_tenth_and_ends_at_nothing():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 1.0)
    schedule, rates = linear_schedule(optimizer, total_steps=20, warmup_steps=10), []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[15] == pytest.approx(0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
