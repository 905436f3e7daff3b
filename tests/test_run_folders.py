"""Numbered run folders."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from multiposenet.runs import new_run_folder, open_run_folder, refuse_run_inside


def test_the_first_run_has_no_number_and_the_next_ones_count_from_two(tmp_path):
    made = [new_run_folder(tmp_path / "runs", "predict").name for _ in range(3)]
    assert made == ["predict", "predict2", "predict3"]


def test_a_gap_in_the_numbers_is_filled_and_files_count_as_taken(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train2").write_text("a file in the way")
    assert new_run_folder(tmp_path, "train").name == "train3"


def test_runs_that_start_together_never_share_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_run_folder(tmp_path, "evaluate"), range(32)))
    assert len(set(folders)) == 32
    assert all(folder.is_dir() for folder in folders)


@pytest.mark.parametrize("name", ["", "a/b", ".."])
def test_a_name_that_is_a_path_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="plain folder name"):
        new_run_folder(tmp_path, name)


def test_a_chosen_folder_is_used_as_it_is_even_when_it_exists(tmp_path):
    chosen = tmp_path / "here" / "deep"
    assert open_run_folder(chosen, "predict") == chosen
    assert open_run_folder(chosen, "predict") == chosen
    assert chosen.is_dir()


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NotADirectoryError, match="file"):
        open_run_folder(file, "predict")


@pytest.mark.parametrize("name", ["log.csv", "last.safetensors", "state-000000008-0123456789abcdef.pt"])
def test_what_a_training_left_is_found_in_the_folder_and_in_those_of_its_phases(tmp_path, name):
    for place in (tmp_path / "run", tmp_path / "run_of_phases" / "keypoints"):
        place.mkdir(parents=True)
        (place / name).write_text("")
    with pytest.raises(
        ValueError, match=rf"run holds a run \({name}\); go on with --resume .*run or give another --out"
    ):
        refuse_run_inside(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"run_of_phases holds a run \(keypoints/{name}\)"):
        refuse_run_inside(tmp_path / "run_of_phases")


def test_a_failed_start_a_folder_of_other_runs_and_other_files_are_no_run(tmp_path):
    for name in ("options.toml", "run.json", "start.safetensors"):
        (tmp_path / name).write_text("")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("options.toml", "log.csv"):
        (other / name).write_text("")
    refuse_run_inside(tmp_path)
