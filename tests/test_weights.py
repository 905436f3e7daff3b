"""``multiposenet weights``: the list says what is in the files, damage is refused, and what is converted fits."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import published_chain as published
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from multiposenet import cli
from multiposenet.checkpoint import load_tensors, save_tensors, save_weights, sha256
from multiposenet.groupings import build_grouping, list_groupings
from multiposenet.methods import build_method, create_model, list_models
from multiposenet.skeletons import COCO_PERSON
from multiposenet.weights import WIDTH, convert_weights, describe_weights, shipped_weights, verify_weights

LITE = "multiposenet_lite"
OPTIONS = {"prn_nodes": 3}
GROUPING_OPTIONS = {"pose_residual": {"nodes": 4, "crop": (14, 9)}, "set_assignment": {"width": 8, "layers": 1}}
FACTS = {
    "model": LITE,
    "options": OPTIONS,
    "skeleton": COCO_PERSON.to_dict(),
    "licence": "Apache-2.0",
    "data": {"annotations": "people.json", "images": 12, "sha256": "0123456789abcdef"},
    "figures": {"AP": 0.1234},
    "evaluated_on": "three pictures",
}


class Bomb:
    """Unpickling it with code allowed makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model(LITE, **OPTIONS)


@pytest.fixture
def ours(model, tmp_path) -> Path:
    """A weights file of ours."""
    save_weights(model, tmp_path / "ours.safetensors", FACTS)
    return tmp_path / "ours.safetensors"


@pytest.fixture
def foreign(tmp_path) -> tuple[Path, nn.Module]:
    """A file of the authors' residual network, and the network."""
    prn = published.randomised(published.Prn(4))
    torch.save({"epoch": 16, "state_dict": prn.state_dict(), "optimizer": {}}, tmp_path / "prn.pth.tar")
    return tmp_path / "prn.pth.tar", prn


# --- list


def test_the_list_has_the_shipped_weights_and_the_given_ones_with_all_that_is_known(ours, capsys):
    assert cli.main(["weights", "list", str(ours)]) == 0
    table, data = capsys.readouterr().out.split("\n\ndata\n")
    headings, *lines = table.splitlines()
    assert headings.split() == ["name", "model", "AP", "licence", "size", "sha256"]
    assert len(lines) == len(shipped_weights()) + 1
    last = lines[-1]
    for fact in (
        "ours.safetensors", LITE, "0.123 (three pictures)", "Apache-2.0", f"{ours.stat().st_size / 1e6:.1f} MB",
        sha256(ours),
    ):  # fmt: skip
        assert fact in last
    assert data.splitlines()[-1] == "  ours.safetensors: people.json (12 pictures, sha256 01234567)"
    assert max(map(len, data.splitlines())) <= WIDTH


def test_the_shipped_weights_are_found_and_say_what_they_are():
    files = shipped_weights()
    assert files
    for file in files:
        described = describe_weights(file)
        assert described.licence == "Apache-2.0"
        assert described.model in {*list_models(), *list_groupings()}
        assert described.sha256 == sha256(file)


def test_what_a_file_does_not_say_is_a_dash(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    described = describe_weights(tmp_path / "bare.pth")
    assert {described.model, described.data, described.average_precision, described.licence} == {"-"}


def test_another_project_s_file_is_listed_with_its_part_and_its_licence(foreign, capsys):
    assert cli.main(["weights", "list", str(foreign[0])]) == 0
    line = capsys.readouterr().out.split("\n\n")[0].splitlines()[-1]
    assert line.split()[:2] == ["prn.pth.tar", "prn"]
    assert "non-commercial" in line


def test_a_file_that_cannot_be_read_does_not_keep_the_others_from_being_listed(ours, tmp_path, capsys):
    assert cli.main(["weights", "list", str(tmp_path / "gone.pth"), str(ours)]) == 1
    captured = capsys.readouterr()
    assert "gone.pth" in captured.err
    assert "ours.safetensors" in captured.out


# --- verify


def test_a_whole_file_is_verified_with_its_model_and_its_hash(ours, capsys):
    assert cli.main(["weights", "verify", str(ours)]) == 0
    assert capsys.readouterr().out == f"{ours}: whole, fits {LITE}, sha256 {sha256(ours)}\n"


@pytest.mark.parametrize("file", shipped_weights(), ids=lambda file: file.stem)
def test_every_file_that_ships_is_whole_and_fits(file, tmp_path):
    assert verify_weights(file).model == describe_weights(file).model
    half = convert_weights(file, tmp_path / "half.safetensors", half=True)
    assert verify_weights(tmp_path / "half.safetensors").model == half.model == describe_weights(file).model


@pytest.mark.parametrize("name", list_groupings())
def test_a_grouping_s_own_file_is_verified_and_converted_with_its_options(name, tmp_path):
    method = build_grouping(name, **GROUPING_OPTIONS.get(name, {}))
    save_weights(method.model, tmp_path / "own.safetensors", method.facts)
    assert verify_weights(tmp_path / "own.safetensors").model == name
    assert convert_weights(tmp_path / "own.safetensors", tmp_path / "half.safetensors", half=True).model == name
    again = build_grouping(weights=tmp_path / "half.safetensors")
    assert again.options == build_grouping(weights=tmp_path / "own.safetensors").options
    assert_close(again.model.state_dict(), method.model.state_dict(), atol=1e-3, rtol=1e-3)

    tensors = method.model.state_dict()
    gone, _ = tensors.popitem()
    save_tensors(tensors, tmp_path / "short.safetensors", method.facts)
    with pytest.raises(ValueError, match=rf"short\.safetensors .*missing keys \(1\): {gone}"):
        verify_weights(tmp_path / "short.safetensors")


def test_a_file_of_a_model_that_nobody_knows_is_named(model, tmp_path, capsys):
    save_weights(model, tmp_path / "newer.safetensors", {**FACTS, "model": "posenet"})
    assert cli.main(["weights", "verify", str(tmp_path / "newer.safetensors")]) == 1
    assert "newer.safetensors: model 'posenet' is unknown; choose one of" in capsys.readouterr().err


def test_a_grouping_s_file_is_no_whole_model_and_the_error_says_what_it_is_good_for():
    (file,) = (file for file in shipped_weights() if file.stem == "set_assignment")
    advice = r"set_assignment\.safetensors holds a grouping, not a network; give it with --init prn=/.* to a training"
    with pytest.raises(ValueError, match=f"{advice}, or with --grouping to multiposenet explain"):
        build_method(weights=file)


def test_another_project_s_file_can_be_verified(foreign, capsys):
    assert cli.main(["weights", "verify", str(foreign[0])]) == 0
    assert "fits prn, sha256" in capsys.readouterr().out


def test_a_truncated_file_ends_with_status_one_and_its_name_and_the_others_are_verified(ours, tmp_path, capsys):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(ours.read_bytes()[:-100])
    assert cli.main(["weights", "verify", str(cut), str(ours)]) == 1
    captured = capsys.readouterr()
    assert "cut.safetensors: damaged" in captured.err
    assert "ours.safetensors: whole" in captured.out


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_damage_that_is_named(model, tmp_path, number, capsys):
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    tensors["keypoint_subnet.predict.bias"][3] = number
    torch.save(tensors, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth .* wrong shapes .*prn\.residual"):
        verify_weights(tmp_path / "bad.pth", LITE)  # the width of the residual network is not the model's own
    save_tensors(tensors, tmp_path / "bad.safetensors", FACTS)
    assert cli.main(["weights", "verify", str(tmp_path / "bad.safetensors")]) == 1
    assert "not finite in keypoint_subnet.predict.bias" in capsys.readouterr().err


def test_tensors_that_are_not_the_model_s_are_named(model, tmp_path, capsys):
    tensors = dict(model.state_dict())
    del tensors["keypoint_subnet.predict.bias"]
    save_tensors(tensors, tmp_path / "short.safetensors", FACTS)
    assert cli.main(["weights", "verify", str(tmp_path / "short.safetensors")]) == 1
    assert "missing keys (1): keypoint_subnet.predict.bias" in capsys.readouterr().err


def test_a_file_that_does_not_say_its_model_needs_to_be_told(tmp_path, capsys):
    torch.save(create_model(LITE).state_dict(), tmp_path / "bare.pth")
    assert cli.main(["weights", "verify", str(tmp_path / "bare.pth")]) == 1
    assert "does not say which model it is" in capsys.readouterr().err
    assert cli.main(["weights", "verify", str(tmp_path / "bare.pth"), "--model", LITE]) == 0


@pytest.mark.parametrize("action", ["verify", "list", "convert"])
def test_pickled_code_is_refused_with_a_message_and_never_runs(tmp_path, action, capsys):
    evil, target = tmp_path / "evil.pth", tmp_path / "boom"
    evil.write_bytes(pickle.dumps({"weight": Bomb(target)}, protocol=2))
    result = [str(tmp_path / "out.safetensors")] if action == "convert" else []
    assert cli.main(["weights", action, str(evil), *result]) in (1, 2)
    assert "holds more than tensors (pickled code or objects), which is never run here" in capsys.readouterr().err
    assert not target.exists()
    assert not (tmp_path / "out.safetensors").exists()


# --- convert


def test_a_bare_state_dict_becomes_a_file_that_says_what_it_is(tmp_path, capsys):
    own = create_model(LITE)
    torch.save({"model": own.state_dict()}, tmp_path / "bare.pth")
    out = tmp_path / "out.safetensors"
    assert cli.main(["weights", "convert", str(tmp_path / "bare.pth"), str(out), "--model", LITE]) == 0
    assert f"{out}: {LITE}, " in capsys.readouterr().out
    again = build_method(weights=out)
    assert_close(again.model.state_dict(), own.state_dict(), atol=0, rtol=0)
    assert again.metadata["converted_from"] == {"file": "bare.pth", "sha256": sha256(tmp_path / "bare.pth")}


def test_a_converted_file_keeps_what_was_known_of_it(ours, tmp_path):
    convert_weights(ours, tmp_path / "half.safetensors", half=True)
    tensors, metadata = load_tensors(tmp_path / "half.safetensors")
    assert {key: metadata[key] for key in FACTS} == FACTS
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * ours.stat().st_size
    original, _ = load_tensors(ours)
    assert_close(tensors, original, atol=1e-3, rtol=1e-3)
    assert verify_weights(tmp_path / "half.safetensors").model == LITE


def test_a_file_of_one_part_becomes_a_file_of_that_part_which_any_model_takes(foreign, tmp_path):
    file, prn = foreign
    out = tmp_path / "part.safetensors"
    written = convert_weights(file, out)
    assert written.model == "prn"
    assert verify_weights(out).model == "prn"
    assert verify_weights(out, LITE).model == f"{LITE} (prn)"
    crops = (torch.rand(2, 17, 56, 36, generator=torch.Generator().manual_seed(1)) > 0.998).float()
    with torch.inference_mode():
        expected = prn(crops.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    whole = build_method(LITE, parts={"prn": out})
    with pytest.warns(UserWarning, match="holds only prn"):
        alone = build_method(LITE, out)
    for built in (whole.model, alone.model):
        with torch.inference_mode():
            assert_close(built.prn.eval()(crops), expected, atol=1e-8, rtol=1e-4)


def test_a_part_converted_as_the_grouping_that_it_is_still_goes_into_any_model(foreign, tmp_path):
    out = tmp_path / "grouping.safetensors"
    assert convert_weights(foreign[0], out, "pose_residual").model == "pose_residual (prn)"
    assert verify_weights(out).model == "pose_residual (prn)"
    alone, whole = build_grouping(weights=out), build_method(LITE, parts={"prn": out})
    assert_close(alone.model.state_dict()["prn.residual.0.weight"], whole.model.state_dict()["prn.residual.0.weight"])
    assert whole.options["prn_rule"] == "legacy"


def test_a_file_of_parts_with_anything_else_in_it_is_an_error(tmp_path):
    tensors = {"prn.residual.0.bias": torch.zeros(2), "stray.weight": torch.zeros(2)}
    save_tensors(tensors, tmp_path / "odd.safetensors", {"parts": ["prn"]})
    with pytest.raises(ValueError, match=r"odd\.safetensors: holds prn, but also stray\.weight"):
        verify_weights(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ours.safetensors", "out.pth"), "let the name end in .safetensors"),
        (("ours.safetensors", "ours.safetensors"), "is the file to convert"),
        (("ours.safetensors", "nowhere/out.safetensors"), "no folder"),
        (("gone.pth", "out.safetensors"), "no weights file"),
        (("stray.safetensors", "out.safetensors"), "does not say which model"),
    ],
)
def test_what_cannot_be_converted_ends_with_status_two_and_the_reason(ours, tmp_path, names, message, capsys):
    save_file({"stray.weight": torch.zeros(2)}, tmp_path / "stray.safetensors")
    before = ours.read_bytes()
    assert cli.main(["weights", "convert", *(str(tmp_path / name) for name in names)]) == 2
    assert message in capsys.readouterr().err
    assert ours.read_bytes() == before


def test_numbers_too_large_for_half_precision_are_an_error_and_not_infinite(model, tmp_path):
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    tensors["backbone.bn1.running_var"][0] = 1e6
    save_tensors(tensors, tmp_path / "large.safetensors", FACTS)
    with pytest.raises(ValueError, match=r"in half precision: numbers that are not finite in backbone\.bn1"):
        convert_weights(tmp_path / "large.safetensors", tmp_path / "half.safetensors", half=True)
    assert not (tmp_path / "half.safetensors").exists()
