"""Options: defaults, then files and flags in the order given; whatever is not understood is an error."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from multiposenet.groupings import GROUPINGS
from multiposenet.methods import list_models
from multiposenet.options import option, parse_options, read_options_file, to_toml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from train_posenet import TrainOptions  # noqa: E402

SETTINGS = sorted(file for folder in ("prn_train", "recipes") for file in (ROOT / folder).glob("*.toml"))


@dataclass(frozen=True)
class Brew:
    leaf: str = option("green", "what to brew", choices=("green", "black"))
    grams: float = option(2.5, "how much", aliases=("weight",))
    cups: int = option(1, "how many", aliases=("number_of_cups",))
    milk: bool = option(False, "with milk")
    water_temperature: int | None = option(None, "degrees; default by leaf")
    steps: tuple[float, ...] = option((1.0, 2.0), "minutes of each infusion")
    guests: tuple[str, ...] = option((), "names")
    resume: str | None = option(None, "folder of an earlier brew")

    def __post_init__(self) -> None:
        if self.cups > 9:
            raise ValueError(f"the pot holds 9 cups, got {self.cups}")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def refused(capsys, *argv: str) -> str:
    """The message with which a command line is refused."""
    with pytest.raises(SystemExit) as caught:
        parse_options(Brew, argv)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def prn_options() -> type:
    """The options of the residual network's training script."""
    spec = importlib.util.spec_from_file_location("prn_training_script", ROOT / "prn_train" / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module.PrnOptions
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *((name, 0, "at least 1") for name in ("epochs", "stop_epoch", "batch_size", "passes", "validate_every")),
        ("epochs", -3, "at least 1"),
        ("batch_size", -1, "at least 1"),
        ("workers", -1, "at least 0"),
        ("image_size", 7, "at least 32"),
        ("lr", -1.0, "above 0"),
        ("lr", math.nan, "above 0"),
        ("shares", (1.0, 0.0), "above 0"),
        ("flip", 1.5, "at least 0 and at most 1"),
    ],
)
def test_a_number_that_no_training_can_use_is_refused_by_the_option_s_name(name, value, message):
    with pytest.raises(ValueError, match=f"^{name} must be {message}, got"):
        TrainOptions(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("number_of_epoch", 0), ("batch_size", 0), ("dropped", -0.1), ("lr", 0.0)])
def test_a_number_that_no_grouping_can_be_trained_with_is_refused(prn_options, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        prn_options(**{name: value})


def test_only_models_with_a_grouping_are_offered_to_have_it_trained(prn_options, capsys):
    with pytest.raises(SystemExit):
        parse_options(prn_options, ["--model", "rsn18"])
    choices = capsys.readouterr().err.rpartition("must be one of ")[2]
    assert "multiposenet_lite, " in choices
    assert "rsn" not in choices.partition(", got")[0]


def test_without_arguments_every_option_has_its_default():
    assert parse_options(Brew, []) == Brew()


def test_flags_are_read_in_the_types_of_their_fields():
    numbers = ["--grams", "3", "--cups", "4", "--water-temperature", "95", "--steps", "0.5,1.5,3"]
    argv = ["--leaf", "black", "--milk", "--guests", "Ada,Grace", *numbers]
    assert parse_options(Brew, argv) == Brew("black", 3.0, 4, True, 95, (0.5, 1.5, 3.0), ("Ada", "Grace"))


def test_the_help_shows_flags_in_the_same_order_every_time():
    command = [sys.executable, str(ROOT / "train_posenet.py"), "--help"]
    places = (os.environ | {"PYTHONHASHSEED": seed, "COLUMNS": "200"} for seed in ("1", "2"))
    shown = {
        subprocess.run(command, env=place, capture_output=True, text=True, check=True).stdout for place in places
    }
    (text,) = shown
    assert "--save-seconds SAVE_SECONDS, --save_seconds SAVE_SECONDS" in text


def test_an_options_file_that_is_no_text_is_named(tmp_path, capsys):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    assert f"{tmp_path}/photo.jpg: not a TOML file" in refused(capsys, "--opt", str(tmp_path / "photo.jpg"))


def test_a_flag_may_be_spelt_with_hyphens_or_underscores():
    for flag in ("--water-temperature", "--water_temperature"):
        assert parse_options(Brew, [flag, "80"]).water_temperature == 80


def test_an_alias_sets_the_field_it_stands_for():
    for flag in ("--number_of_cups", "--number-of-cups", "--cups"):
        assert parse_options(Brew, [flag, "3"]).cups == 3


def test_a_switch_can_be_turned_off_again(tmp_path):
    file = write(tmp_path / "o.toml", "milk = true")
    assert parse_options(Brew, ["--opt", file]).milk is True
    assert parse_options(Brew, ["--opt", file, "--no-milk"]).milk is False


def test_none_unsets_an_optional_value(tmp_path):
    file = write(tmp_path / "o.toml", "water_temperature = 95")
    assert parse_options(Brew, ["--opt", file, "--water-temperature", "none"]).water_temperature is None


def test_opt_alone_prints_the_resolved_options_and_goes_on(capsys):
    options = parse_options(Brew, ["--opt", "--cups", "3"])
    assert options == Brew(cups=3)
    assert tomllib.loads(capsys.readouterr().out)["cups"] == 3


def test_opt_at_the_end_of_the_line_prints_too(capsys):
    parse_options(Brew, ["--cups", "3", "--opt"])
    assert "cups = 3" in capsys.readouterr().out


def test_without_opt_nothing_is_printed(capsys):
    parse_options(Brew, ["--cups", "3"])
    assert capsys.readouterr().out == ""


def test_flags_after_a_file_win_over_it_and_flags_before_it_lose(tmp_path):
    file = write(tmp_path / "o.toml", 'cups = 5\nleaf = "black"')
    assert parse_options(Brew, ["--opt", file, "--cups", "2"]) == Brew("black", cups=2)
    assert parse_options(Brew, ["--cups", "2", "--opt", file]) == Brew("black", cups=5)


def test_of_two_files_the_later_wins_where_both_speak(tmp_path):
    first = write(tmp_path / "a.toml", "cups = 5\ngrams = 7.0")
    second = write(tmp_path / "b.toml", "cups = 6")
    assert parse_options(Brew, ["--opt", first, "--opt", second]) == Brew(cups=6, grams=7.0)


def test_the_options_of_a_run_to_resume_are_the_defaults_wherever_on_the_line_it_is_named(tmp_path):
    write(tmp_path / "options.toml", "cups = 3\nmilk = true")
    other = write(tmp_path / "other.toml", "milk = false")
    expected = Brew(cups=4, milk=True, resume=str(tmp_path))
    assert parse_options(Brew, ["--resume", str(tmp_path), "--cups", "4"]) == expected
    assert parse_options(Brew, ["--cups", "4", f"--resume={tmp_path}"]) == expected
    assert parse_options(Brew, ["--opt", other, "--resume", str(tmp_path)]).cups == 3
    assert not parse_options(Brew, ["--opt", other, "--resume", str(tmp_path)]).milk
    assert parse_options(Brew, ["--resume", str(tmp_path / "nowhere")]) == Brew(resume=str(tmp_path / "nowhere"))


def test_a_run_to_resume_with_unreadable_options_is_an_error_that_names_the_file(tmp_path, capsys):
    write(tmp_path / "options.toml", "cups = [")
    assert f"{tmp_path / 'options.toml'}: not valid TOML" in refused(capsys, "--resume", str(tmp_path))


def test_a_file_may_use_aliases_and_hyphens(tmp_path):
    file = write(tmp_path / "o.toml", "number_of_cups = 3\nwater-temperature = 70\nweight = 4")
    assert parse_options(Brew, ["--opt", file]) == Brew(cups=3, water_temperature=70, grams=4.0)


def test_an_unknown_key_is_an_error_that_names_file_and_key_and_lists_the_known_ones(tmp_path, capsys):
    file = write(tmp_path / "o.toml", "sugar = 1")
    message = refused(capsys, "--opt", file)
    assert f"{file}: unknown option 'sugar'" in message
    assert "number_of_cups" in message


def test_an_unknown_flag_is_an_error(capsys):
    assert "--sugar" in refused(capsys, "--sugar", "1")


@pytest.mark.parametrize("flag", ["--water", "--cup", "--gram", "--mil"])
def test_no_flag_can_be_abbreviated(capsys, flag):
    assert flag in refused(capsys, flag, "1")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--leaf", "red"], "must be one of green, black, got 'red'"),
        (["--cups", "2.5"], "must be int, got '2.5'"),
        (["--grams", "much"], "must be float, got 'much'"),
        (["--steps", "1,x"], "must be float, got 'x'"),
        (["--cups", "10"], "the pot holds 9 cups"),
        (["--cups", "none"], "must be int, got 'none'"),
    ],
)
def test_a_wrong_value_is_an_error_that_says_what_was_expected(capsys, argv, message):
    assert message in refused(capsys, *argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('leaf = "red"', "leaf must be one of green, black, got 'red'"),
        ("cups = 2.0", "cups must be int, got 2.0"),
        ("cups = true", "cups must be int, got True"),
        ("leaf = 3", "leaf must be str, got 3"),
        ('milk = "yes"', "milk must be true or false, got 'yes'"),
        ("steps = 3.0", "steps must be a list, got 3.0"),
        ("cups = ", "not valid TOML"),
    ],
)
def test_a_wrong_value_in_a_file_is_an_error_that_names_file_and_key(tmp_path, text, message):
    file = write(tmp_path / "brew.toml", text)
    with pytest.raises(ValueError, match=r"brew\.toml: ") as caught:
        read_options_file(Brew, file)
    assert message in str(caught.value)


def test_a_missing_file_is_an_error_that_names_it(capsys):
    assert "nowhere.toml" in refused(capsys, "--opt", "nowhere.toml")


@pytest.mark.parametrize(
    "options",
    [Brew(), Brew("black", 0.1, 9, True, 95, (), ("Zoë", 'the "guest"', "back\\slash", "\U0001f4f7", "\x7f"))],
    ids=["defaults", "everything else"],
)
def test_options_survive_the_way_through_toml(tmp_path, options):
    file = write(tmp_path / "o.toml", to_toml(options))
    assert Brew(**read_options_file(Brew, file)) == options


def test_infinity_survives_the_way_through_toml(tmp_path):
    file = write(tmp_path / "o.toml", to_toml(Brew(grams=math.inf)))
    assert Brew(**read_options_file(Brew, file)).grams == math.inf


def test_a_written_file_leaves_out_what_is_none():
    assert "water_temperature" not in tomllib.loads(to_toml(Brew()))


# --- the residual network's training script


def test_the_option_names_of_the_public_implementations_are_accepted(prn_options):
    expected = {
        "lr": 0.01, "lr_gamma": 0.9, "number_of_epoch": 3, "num_workers": 1, "batch_size": 16, "node_count": 512,
        "coeff": 3, "threshold": 0.3, "num_of_keypoints": 5, "window_size": 9, "exp": "somewhere",
    }  # fmt: skip
    argv = [text for name, value in expected.items() for text in (f"--{name}", str(value))]
    options = dataclasses.asdict(parse_options(prn_options, argv))
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.stem)
def test_every_file_of_settings_can_be_read_and_names_a_model(prn_options, file):
    kind = prn_options if file.parent.name == "prn_train" or file.stem.endswith("_prn") else TrainOptions
    options = kind(**read_options_file(kind, file))
    assert options.model is None or options.model in [*list_models(), *GROUPINGS]


def test_the_published_settings_of_the_residual_network_can_be_read(prn_options):
    published = read_options_file(prn_options, ROOT / "prn_train" / "options.toml")
    expected = {"lr": 1e-3, "node_count": 1024, "coeff": 2, "threshold": 0.21, "window_size": 15}
    assert {name: published[name] for name in expected} == expected
