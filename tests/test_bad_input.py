"""Bad input is told of in one line, and ends a script with status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from multiposenet.bad_input import in_one_line, run_script
from multiposenet.data.pictures import PictureError
from multiposenet.devices import open_device

ROOT = Path(__file__).resolve().parents[1]


class Unreadable(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        try:
            raise OSError("broken: data")
        except OSError as error:
            raise PictureError("a.jpg: the picture is damaged (broken: data)") from error


def test_what_a_process_that_reads_ahead_raises_is_told_without_its_traceback():
    with pytest.raises(PictureError) as caught:
        next(iter(DataLoader(Unreadable(), num_workers=1)))
    assert "Traceback" in str(caught.value)
    assert in_one_line(caught.value) == "a.jpg: the picture is damaged (broken: data)"


def test_a_message_of_several_lines_becomes_one():
    assert in_one_line(ValueError("a\n  b\n")) == "a b"
    assert in_one_line(OSError()) == "OSError"


def test_a_script_ends_with_status_two_for_bad_input_and_with_zero_otherwise(capsys):
    def refusing() -> None:
        raise FileNotFoundError("no folder nowhere")

    with pytest.raises(SystemExit) as ended:
        run_script(refusing, "train.py")
    assert (ended.value.code, capsys.readouterr().err) == (2, "train.py: error: no folder nowhere\n")
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: Path("weights"), "train.py")
    assert ended.value.code == 0


def test_what_is_no_fault_of_the_user_keeps_its_traceback():
    def wrong() -> None:
        raise KeyError("grouping")

    with pytest.raises(KeyError):
        run_script(wrong, "train.py")


@pytest.mark.parametrize(
    ("script", "argv", "message"),
    [
        ("train_posenet.py", ["--weights", "nowhere.pt"], "no weights file nowhere.pt"),
        ("train_posenet.py", ["--device", "gpu"], "device must be one of cpu"),
        ("prn_train/train.py", ["--data", "nowhere"], "no folder nowhere"),
        ("prn_train/train.py", ["--learn_from", "network"], "needs a whole model (--model) with trained --weights"),
        ("datasets/synthesize.py", ["--out", "a_file/deep", "--count", "1", "--seed", "1"], "a_file/deep"),
    ],
)
def test_the_scripts_refuse_in_one_line(tmp_path, script, argv, message):
    (tmp_path / "a_file").write_text("")
    command = [sys.executable, str(ROOT / script), *argv]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{Path(script).name}: error: ")
    assert message in line
    assert ended.returncode == 2


def test_a_device_that_is_not_there_is_named_with_those_that_are():
    assert open_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device must be one of cpu.*got 'gpu'"):
        open_device("gpu")
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ValueError, match=rf"device must be one of cpu.*got '{missing}'"):
        open_device(missing)
