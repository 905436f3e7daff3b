"""The recipes of the shipped weights: what they write beside the weights is true."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from multiposenet.checkpoint import load_tensors
from multiposenet.weights import describe_weights

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
ASSETS = ROOT / "multiposenet" / "assets"


@pytest.fixture
def train_topdown(monkeypatch) -> dict:
    monkeypatch.syspath_prepend(RECIPES)
    return runpy.run_path(str(RECIPES / "train_topdown.py"))


def test_a_data_set_is_named_once_with_the_people_who_were_ever_pasted_into_it():
    all_data = runpy.run_path(str(RECIPES / "train_default.py"))["all_data"]
    drawn = {"sha256": "a", "images": 10}
    pasted = drawn | {"pasted": {"sha256": "c"}, "pasted_share": 0.4}
    more = pasted | {"pasted_share": 0.3}
    photographs = {"sha256": "b", "images": 2}
    assert all_data([{"data": pasted}, {"data": [photographs, more]}, {"data": drawn}]) == [photographs, more]
    assert all_data([{"data": [drawn]}, {"data": pasted}]) == [pasted]
    assert all_data([{"data": [drawn]}, {"data": drawn}]) == [drawn]


def test_a_step_is_done_once_and_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    step = runpy.run_path(str(RECIPES / "train_default.py"))["step"]
    commands = []
    monkeypatch.setattr("subprocess.run", lambda command, **_: commands.append(command[2:]))
    run, interrupted = tmp_path / "run", tmp_path / "interrupted"
    for folder in (run, interrupted):
        folder.mkdir()
    (interrupted / "options.toml").touch()
    for folder in (run, interrupted, run):
        step(folder / "finished", "train_posenet.py", "--out", folder)
    assert commands == [["--out", str(run)], ["--out", str(interrupted), "--resume", str(interrupted)]]


def test_top_down_weights_say_what_their_backbone_had_seen(train_topdown, tmp_path):
    weights, backbone = (load_tensors(ASSETS / f"{name}_lite.safetensors")[1] for name in ("topdown", "multiposenet"))
    out = tmp_path / "new" / "topdown.safetensors"
    figures = {"crowded": {"AP": 0.5}, "coco": {"AP": 0.6}}
    train_topdown["export"](ASSETS / "topdown_lite.safetensors", [backbone, weights], figures, out)
    written = load_tensors(out)[1]
    hashes = [source["sha256"] for source in written["data"]]
    assert set(hashes) == {source["sha256"] for source in backbone["data"] + weights["data"]}
    assert len(hashes) == len(set(hashes))
    photographs = backbone["data"][-1]
    assert photographs in written["data"]
    assert all(source["pasted"]["sha256"] == photographs["sha256"] for source in written["data"] if "pasted" in source)
    assert written["figures"] == {"AP": 0.5}
    in_words = describe_weights(out).data
    assert "(90 pictures" in in_words
    assert "pasted in" in in_words


def test_a_backbone_of_unknown_data_is_refused_before_anything_is_trained(train_topdown, tmp_path, monkeypatch, capsys):
    foreign = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, foreign)
    monkeypatch.setattr("sys.argv", ["train_topdown.py", "--work", str(tmp_path), "--backbone", str(foreign)])
    with pytest.raises(SystemExit):
        train_topdown["main"]()
    assert "does not say what it has learnt from" in capsys.readouterr().err
