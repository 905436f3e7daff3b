"""The report says what the diagnosis found, opens in a browser without a network, and comes from the script."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import open_page
from coco_scenes import answers, guesses, moved, scene
from PIL import Image

from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.evaluation.coco import evaluate_coco
from multiposenet.evaluation.diagnosis import diagnose
from multiposenet.evaluation.diagnosis_page import REPAIR_WORDS, diagnosis_lines
from multiposenet.evaluation.repairs import REPAIRS
from multiposenet.evaluation.report import ScoredPredictions, write_report
from multiposenet.evaluation.worst_pictures import poses_from_results, worst_figures
from multiposenet.skeletons import COCO_PERSON

REPOSITORY = Path(__file__).parents[1]
CHARTS = 6  # gains, keypoints, four curves


@pytest.fixture
def run_coco(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    specification = importlib.util.spec_from_file_location("run_coco", REPOSITORY / "evaluate" / "run_coco.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path) -> Path:
    """Data in COCO's layout; of three pictures one has no file."""
    truth = scene(pictures=3, people=2, side=60)
    for image in truth["images"]:
        image.update(width=420, height=700)
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    (root / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(truth))
    for name in ("1.jpg", "2.jpg"):
        Image.new("RGB", (420, 700), "olive").save(root / "val2017" / name)
    (root / "predictions.json").write_text(json.dumps(guesses(truth)))
    return root


def test_the_report_of_a_result_file_opens_in_a_browser_and_holds_every_figure(run_coco, folder, tmp_path, capsys):
    arguments = ["--data", str(folder), "--from-json", str(folder / "predictions.json"), "--report", "out/report"]
    assert run_coco.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "keypoints of people found:" in printed
    page = open_page(tmp_path / "out" / "report" / "report.html")
    counts = {name: page.facts[name] for name in ("figures", "charts", "pictures", "broken", "unnamed")}
    assert counts == {"figures": CHARTS + 3, "charts": CHARTS, "pictures": 3, "broken": 0, "unnamed": 0}
    assert page.complaints == []
    assert page.requests == []
    assert page.facts["text"].count("the picture itself is not there") == 1
    phone = open_page(tmp_path / "out" / "report" / "report.html", width=360, dark=True)
    assert phone.facts["overflow"] == 0

    content = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    expected = diagnose(CocoKeypoints(folder, "val2017").ground_truth(), folder / "predictions.json")
    assert content["diagnosis"] == json.loads(json.dumps(expected.to_dict()))
    assert content["metrics"]["AP"] == content["diagnosis"]["ap"]
    assert content["details"]["people"] == 6
    gain = expected.repairs[0]
    words = f"{REPAIR_WORDS[gain.name]}\t{gain.alone:.3f}\t{gain.gain_alone:.3f}\t{gain.so_far:.3f}\t{gain.gain:.3f}"
    assert words in page.facts["text"]


def test_a_report_without_pictures_has_none(run_coco, folder, tmp_path):
    arguments = ["--data", str(folder), "--from-json", str(folder / "predictions.json"), "--report", "plain"]
    assert run_coco.main([*arguments, "--report-pictures", "0"]) == 0
    page = (tmp_path / "plain" / "report.html").read_text()
    assert "<img" not in page
    assert "The worst" not in page


def test_hints_are_printed_without_a_report_and_stand_first_in_one(run_coco, folder, capsys):
    truth = CocoKeypoints(folder, "val2017").ground_truth()
    swapped = folder / "swapped.json"
    swapped.write_text(json.dumps(moved(answers(truth), lambda triples: triples[:, [1, 0, 2]])))
    arguments = ["--data", str(folder), "--from-json", str(swapped)]
    with pytest.warns(UserWarning, match="AP is 0.000, but"):
        assert run_coco.main(arguments) == 0
    assert "the predictions fit after exchanging x and y" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="AP is 0.000, but"):
        assert run_coco.main([*arguments, "--report", "hints", "--report-pictures", "1"]) == 0
    page = Path("hints/report.html").read_text()
    assert re.search(r'<h2>Numbers</h2>\s*<p class="note bad">the predictions fit after exchanging x and y', page)


def test_the_script_predicts_diagnoses_and_compares_with_the_truth(run_coco, capsys):
    arguments = ["--limit", "2", "--out", "run", "--worst", "0", "--report", "run/report", "--report-pictures", "2"]
    assert run_coco.main([*arguments, "--oracle", "grouping,boxes", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    table = json.loads(Path("run/oracles.json").read_text())
    assert [row["parts"] for row in table] == [[], ["boxes"], ["grouping"], ["boxes", "grouping"]]
    metrics = json.loads(Path("run/metrics.json").read_text())["metrics"]
    assert table[0]["numbers"]["AP"] == metrics["AP"]
    assert re.search(r" boxes \+ grouping +\d\.\d{3}", printed)
    report = json.loads(Path("run/report/report.json").read_text())
    assert report["model"] == "multiposenet_lite"
    assert report["metrics"] == metrics
    assert Path("run/report/report.html").read_text().count("<img") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--oracle", "boxes,feet"], "--oracle: oracles must be of boxes, keypoints, grouping; unknown: feet"),
        (["--oracle", "boxes", "--from-json", "x.json"], "--oracle needs the network's own answers"),
        (["--report-pictures", "-1"], "--report-pictures must be 0 or more, got -1"),
    ],
)
def test_wrong_flags_are_explained(run_coco, flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_coco.main(flags)
    assert message in capsys.readouterr().err


def test_a_report_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    truth = scene(pictures=1)
    scored = ScoredPredictions(SyntheticPeople(1), truth, answers(truth), evaluate_coco(truth, answers(truth)), {})
    place = tmp_path / "report"
    write_report(place, scored, 0)
    before = (place / "report.json").read_text()
    monkeypatch.setattr("multiposenet.evaluation.report.json.dumps", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(place, scored, 0)
    assert (place / "report.json").read_text() == before
    assert sorted(path.name for path in place.iterdir()) == ["report.html", "report.json"]


def test_figures_show_the_pictures_worst_first_with_what_is_wrong():
    dataset = SyntheticPeople(2, seed=3, image_size=(128, 160), people=(1, 2))
    truth = dataset.ground_truth()
    predictions = moved(answers(truth), lambda triples: np.add(triples, (900, 0, 0)))
    diagnosis = diagnose(truth, predictions)
    first, second = worst_figures(diagnosis.worst, dataset, predictions)
    assert first.image.width == 2 * 160 + 4
    for figure, picture in ((first, diagnosis.worst[0]), (second, diagnosis.worst[1])):
        assert (
            f"id {picture.image_id}): mean OKS 0.00; of {picture.people} people {picture.people} missed"
            in figure.caption
        )


def test_results_of_a_picture_become_poses_best_first():
    truth = scene(pictures=1)
    shuffled = answers(truth)[::-1]
    poses = poses_from_results(shuffled, COCO_PERSON)
    assert poses.scores.tolist() == pytest.approx(sorted((p["score"] for p in shuffled), reverse=True))
    best = np.reshape(shuffled[-1]["keypoints"], (-1, 3))
    np.testing.assert_allclose(poses.keypoints[0].numpy(), best[:, :2])
    np.testing.assert_allclose(poses.boxes[0].numpy(), [*best[:, :2].min(0), *(best[:, :2].max(0) + 1)])
    assert len(poses_from_results([], COCO_PERSON)) == 0


def test_every_repair_has_words_and_a_line():
    assert list(REPAIR_WORDS) == list(REPAIRS)
    truth = scene(pictures=2)
    lines = diagnosis_lines(diagnose(truth, guesses(truth)))
    assert all(any(words in line for line in lines) for words in REPAIR_WORDS.values())
