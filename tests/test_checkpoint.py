"""Weights on disk: what is written comes back, nothing is half written, and no file runs code."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
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
    set_damaged_aside,
    sha256,
    training_states,
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


def test_weights_that_cannot_be_written_leave_the_old_file_whole_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "file"
    save_weights(toy(), file, FACTS)
    before = file.read_bytes()

    def full_disk(tensors: dict, target: Path, **_):
        target.write_bytes(b"half a file")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match=r"could not be written .no space left.*earlier file is intact"):
        save_weights(toy(), file, FACTS)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_writing_leaves_no_other_file_behind(tmp_path):
    save_weights(toy(), tmp_path / "w.safetensors", FACTS)
    state = save_training_state({"epoch": 1}, tmp_path, step=7)
    assert state.name.startswith("state-000000007-")
    assert sorted(file.name for file in tmp_path.iterdir()) == [state.name, "w.safetensors"]


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


@pytest.mark.parametrize("kind", ["zip", "bare pickle", "beside tensors", "in an array"])
def test_pickled_code_is_refused_and_never_runs(tmp_path, kind):
    file, target = tmp_path / "evil.pth", tmp_path / "boom"
    bomb = Bomb(target)
    contents = {
        "zip": bomb,
        "beside tensors": {"weight": torch.zeros(2), "extra": bomb},
        "in an array": {"weight": torch.zeros(2), "meta": np.array([bomb], object)},
    }
    if kind == "bare pickle":
        file.write_bytes(pickle.dumps(bomb, protocol=2))
    else:
        torch.save(contents[kind], file)
    with pytest.raises(ValueError, match=r"evil\.pth"):
        load_tensors(file)
    assert not target.exists()


def test_a_whole_pickled_module_is_refused_with_advice(tmp_path):
    torch.save(toy(), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"more than tensors .* torch\.save\(model\.state_dict\(\)"):
        load_tensors(tmp_path / "module.pth")


def test_a_photograph_is_no_weights_file_and_nobody_is_told_to_let_it_run(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    with pytest.raises(ValueError, match=r"photo\.jpg: not a weights file; give a \.safetensors, \.pth or \.h5 file$"):
        load_tensors(tmp_path / "photo.jpg")


def test_what_a_pickle_asks_for_is_named_without_advice_to_allow_it(tmp_path):
    torch.save(toy(), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"it asks for torch\.nn\.modules") as caught:
        load_tensors(tmp_path / "module.pth")
    assert "weights_only" not in str(caught.value)


BROKEN = {
    "picture": b"\xff\xd8\xff\xe0",
    "empty": b"",
    "text": b"not weights",
    "number": b"0",
    "zip": b"PK\x03\x04 cut",
    "safetensors": b"\x10" + b"\0" * 7 + b"{cut",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ["damaged.pth", "damaged.safetensors"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load_tensors(tmp_path / name)


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
        load_training_state(tmp_path)


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
    save_training_state(state, tmp_path, step=3)
    assert_close(load_training_state(tmp_path), state, atol=0, rtol=0)


def test_of_several_training_states_the_newest_is_read_and_old_ones_are_removed(tmp_path):
    for step in (9, 10, 100):
        save_training_state({"step": step}, tmp_path, step, keep=2)
    assert [path.name[:15] for path in training_states(tmp_path)] == ["state-000000100", "state-000000010"]
    assert load_training_state(tmp_path) == {"step": 100}


@pytest.mark.parametrize("keep", [1, 2])
def test_a_state_just_written_stays_whatever_else_is_there(tmp_path, keep):
    for step in (7, 8, 9):
        save_training_state({"step": step}, tmp_path, step, keep=3)
    written = save_training_state({"step": 3}, tmp_path, 3, keep=keep)
    assert written.exists()
    assert [path.name[:15] for path in training_states(tmp_path)] == ["state-000000009", "state-000000003"][2 - keep :]


def test_damaged_states_newer_than_a_good_one_are_set_aside_and_count_no_more(tmp_path):
    files = [save_training_state({"step": step}, tmp_path, step, keep=4) for step in (1, 2, 3, 4)]
    for damaged in (files[0], files[2], files[3]):
        damaged.write_bytes(b"nothing")
    set_damaged_aside(tmp_path)
    assert training_states(tmp_path) == [files[1], files[0]]
    aside = sorted(path.name for path in tmp_path.glob("*.damaged"))
    assert aside == [f"{path.name}.damaged" for path in files[2:]]
    assert load_training_state(tmp_path) == {"step": 2}


def test_a_step_saved_again_is_the_state_that_counts(tmp_path):
    for number in range(8):  # checksums come in any order
        save_training_state({"number": number}, tmp_path, step=5)
        assert load_training_state(tmp_path) == {"number": number}
    assert len(training_states(tmp_path)) == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:50] + b"x" + data[51:], lambda _: b""])
def test_a_damaged_training_state_gives_way_to_the_one_before_and_is_named(tmp_path, damage):
    save_training_state({"step": 1}, tmp_path, 1)
    newest = save_training_state({"step": 2}, tmp_path, 2)
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match=f"{newest.name}: the file is damaged"):
        assert load_training_state(tmp_path) == {"step": 1}


def test_when_every_training_state_is_damaged_that_is_an_error(tmp_path):
    save_training_state({"step": 1}, tmp_path, 1).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="none of the 1 training states"):
        load_training_state(tmp_path)


def test_code_in_a_training_state_with_a_right_checksum_is_refused_and_never_runs(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"call": Bomb(tmp_path / "boom")}, path)
    path.rename(tmp_path / f"state-000000001-{sha256(path)[:16]}.pt")
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_training_state(tmp_path)
    assert not (tmp_path / "boom").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the device that is always full")
def test_a_full_disk_leaves_the_states_before_it_and_says_how_to_go_on(tmp_path):
    before = save_training_state({"step": 1}, tmp_path, 1)
    (tmp_path / "state.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"step 2 could not be written .*{before.name} is intact.*--resume"):
        save_training_state({"step": 2, "much": torch.zeros(10_000)}, tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == [before.name]
    assert load_training_state(tmp_path) == {"step": 1}


def test_the_hash_is_that_of_the_file_s_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"some bytes")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"some bytes").hexdigest()
