"""Weights on disk: what is written comes back, nothing is half written, and no file runs code."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from multiposenet import checkpoint
from multiposenet.checkpoint import (
    load_tensors,
    load_training_state,
    load_weights,
    match_tensors,
    save_training_state,
    save_weights,
    sha256,
)

FACTS = {"model": "toy", "options": {"width": 4, "crop": [56, 36]}, "figures": {"AP": 0.5}, "weights": None}


class Bomb:
    """Unpickling it with code allowed makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def toy(seed: int = 0, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 2))
    model[1].running_mean.normal_()
    return model


def test_weights_and_facts_come_back_as_they_were(tmp_path):
    model, other = toy(0), toy(1)
    save_weights(model, tmp_path / "w.safetensors", FACTS)
    assert load_weights(other, tmp_path / "w.safetensors") == FACTS
    assert_close(other.state_dict(), model.state_dict(), atol=0, rtol=0)


def test_half_precision_takes_half_the_space_and_comes_back_in_single_precision(tmp_path):
    model = nn.Linear(200, 200)
    save_weights(model, tmp_path / "full.safetensors", {})
    save_weights(model, tmp_path / "half.safetensors", {}, dtype=torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.51 * (tmp_path / "full.safetensors").stat().st_size
    tensors, _ = load_tensors(tmp_path / "half.safetensors")
    assert tensors["weight"].dtype == torch.float32
    assert_close(tensors["weight"], model.weight.detach(), atol=1e-4, rtol=1e-3)


def test_half_precision_leaves_counters_as_they_are(tmp_path):
    model = toy()
    model[1].num_batches_tracked.fill_(70_001)  # more than a half-precision number can count
    save_weights(model, tmp_path / "half.safetensors", {}, dtype=torch.float16)
    assert load_tensors(tmp_path / "half.safetensors")[0]["1.num_batches_tracked"].item() == 70_001


def test_tied_weights_can_be_written(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    save_weights(model, tmp_path / "tied.safetensors", {})
    tensors, _ = load_tensors(tmp_path / "tied.safetensors")
    assert_close(tensors["a.weight"], tensors["b.weight"])


@pytest.mark.parametrize("save", ["weights", "state"])
def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch, save):
    file = tmp_path / "file"
    write = {
        "weights": lambda: save_weights(toy(), file, FACTS),
        "state": lambda: save_training_state({"epoch": 1}, file),
    }[save]
    write()
    before = file.read_bytes()

    def full_disk(*arguments, **_):
        target = next(a for a in arguments if isinstance(a, (str, Path)))
        Path(target).write_bytes(b"half a file")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write()
    assert file.read_bytes() == before


def test_writing_leaves_no_other_file_behind(tmp_path):
    save_weights(toy(), tmp_path / "w.safetensors", FACTS)
    save_training_state({"epoch": 1}, tmp_path / "state.pt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.pt", "w.safetensors"]


def test_whoever_may_read_the_user_s_files_may_read_the_weights(tmp_path):
    (tmp_path / "other").write_text("any other file")
    save_weights(toy(), tmp_path / "w.safetensors", FACTS)
    assert oct((tmp_path / "w.safetensors").stat().st_mode) == oct((tmp_path / "other").stat().st_mode)


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_a_pytorch_state_dict_loads_bare_or_under_a_usual_key(tmp_path, key):
    content = toy().state_dict()
    torch.save(content if key is None else {key: content, "epoch": 3}, tmp_path / "w.pth")
    other = toy(1)
    assert load_weights(other, tmp_path / "w.pth") == {}
    assert_close(other.state_dict(), content, atol=0, rtol=0)


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path):
    save_weights(toy(), tmp_path / "w.pth", FACTS)
    torch.save(toy().state_dict(), tmp_path / "w.safetensors")
    assert load_tensors(tmp_path / "w.pth")[1] == FACTS
    assert_close(load_tensors(tmp_path / "w.safetensors")[0], toy().state_dict())


def test_a_safetensors_file_of_somebody_else_has_no_facts(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert load_tensors(tmp_path / "w.safetensors")[1] == {}


def test_the_bomb_of_these_tests_goes_off_when_code_is_allowed(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "boom")))
    assert (tmp_path / "boom").exists()


@pytest.mark.parametrize("read", [load_tensors, load_training_state])
@pytest.mark.parametrize("kind", ["zip", "bare pickle", "beside tensors"])
def test_pickled_code_is_refused_and_never_runs(tmp_path, read, kind):
    file, target = tmp_path / "evil.pth", tmp_path / "boom"
    bomb = Bomb(target)
    if kind == "bare pickle":
        file.write_bytes(pickle.dumps(bomb, protocol=2))
    else:
        torch.save({"weight": torch.zeros(2), "extra": bomb} if kind == "beside tensors" else bomb, file)
    with pytest.raises(ValueError, match=r"evil\.pth"):
        read(file)
    assert not target.exists()


def test_a_whole_pickled_module_is_refused_with_advice(tmp_path):
    torch.save(toy(), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"more than tensors .* torch\.save\(model\.state_dict\(\)"):
        load_tensors(tmp_path / "module.pth")


BROKEN = {
    "empty": b"",
    "text": b"not weights",
    "number": b"0",
    "zip": b"PK\x03\x04 cut",
    "safetensors": b"\x10" + b"\0" * 7 + b"{cut",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ["damaged.pth", "damaged.safetensors"])
@pytest.mark.parametrize("read", [load_tensors, load_training_state])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, content, name, read):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read(tmp_path / name)


def test_a_truncated_file_of_ours_is_an_error_that_names_it(tmp_path):
    save_weights(toy(), tmp_path / "w.safetensors", FACTS)
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"w\.safetensors: damaged"):
        load_tensors(tmp_path / "w.safetensors")


def test_numbers_that_are_no_tensors_are_not_weights(tmp_path):
    torch.save({"weight": torch.zeros(2), "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="expected a dict of tensors"):
        load_tensors(tmp_path / "w.pth")


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file .*nowhere\.pth"):
        load_tensors(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"no training state .*--resume"):
        load_training_state(tmp_path / "state.pt")


def test_missing_and_unexpected_keys_and_wrong_shapes_are_all_named():
    tensors = toy().state_dict()
    del tensors["0.bias"]
    tensors["extra.weight"] = torch.zeros(1)
    tensors["2.weight"] = torch.zeros(7, 7)
    with pytest.raises(ValueError, match="some file does not fit") as caught:
        match_tensors(toy(), tensors, source="some file")
    message = str(caught.value)
    assert "missing keys (1): 0.bias" in message
    assert "unexpected keys (1): extra.weight" in message
    assert "wrong shapes (1): 2.weight: file [7, 7], model [2, 4]" in message


def test_of_many_wrong_keys_the_first_five_are_named_and_all_are_counted():
    with pytest.raises(ValueError, match=r"unexpected keys \(8\): 0; 1; 2; 3; 4 \.\.\."):
        match_tensors(nn.Identity(), {str(i): torch.zeros(1) for i in range(8)}, source="file")


def test_batch_counters_may_be_missing():
    tensors = {key: value for key, value in toy().state_dict().items() if "num_batches" not in key}
    match_tensors(toy(), tensors, source="file")


def test_weights_that_do_not_fit_change_nothing(tmp_path):
    tensors = toy(1).state_dict()
    del tensors["2.bias"]
    torch.save(tensors, tmp_path / "w.pth")
    model = toy(0)
    with pytest.raises(ValueError, match=r"w\.pth does not fit"):
        load_weights(model, tmp_path / "w.pth")
    assert_close(model.state_dict(), toy(0).state_dict(), atol=0, rtol=0)


def test_a_training_state_comes_back_as_it_was(tmp_path):
    model = toy()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model[2](torch.ones(1, 4)).sum().backward()
    optimizer.step()
    state = {"epoch": 3, "best": -float("inf"), "optimizer": optimizer.state_dict(), "none": None}
    save_training_state(state, tmp_path / "state.pt")
    assert_close(load_training_state(tmp_path / "state.pt"), state, atol=0, rtol=0)


def test_the_hash_is_that_of_the_file_s_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"some bytes")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"some bytes").hexdigest()
