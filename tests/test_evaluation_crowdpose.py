"""CrowdPose's evaluation: COCO's rules on boxes' areas, and AP by crowd index."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from coco_scenes import guesses, plain, scene

from multiposenet.evaluation.coco import evaluate_coco
from multiposenet.evaluation.crowdpose import (
    PAPER_LEVELS,
    TOOL_LEVELS,
    CrowdLevels,
    evaluate_crowdpose,
    level_lines,
)
from multiposenet.skeletons import CROWDPOSE, Skeleton

REPOSITORY = Path(__file__).resolve().parents[1]
CROWD_INDICES = [0.0, 0.05, 0.1, 0.15, 0.2, 0.5, 0.79, 0.8, 0.95, 1.0]


def crowded() -> dict:
    """People in CrowdPose's format: a crowd index for every picture, no areas."""
    truth = scene(pictures=len(CROWD_INDICES), people=5, side=60, skeleton=CROWDPOSE)
    for person in truth["annotations"]:
        del person["area"]
        person["num_keypoints"] -= 2  # head and neck, which CrowdPose's files do not count
    for person in truth["annotations"][3::11]:
        person.update(num_keypoints=0, keypoints=[0] * (3 * CROWDPOSE.num_keypoints))
    for image, index in zip(truth["images"], CROWD_INDICES, strict=True):
        image["crowdIndex"] = index
    truth["categories"][0]["name"] = "person"
    return truth


def with_areas(truth: dict) -> dict:
    annotations = [a | {"area": 0.53 * a["bbox"][2] * a["bbox"][3]} for a in truth["annotations"]]
    return dict(truth, annotations=annotations)


def test_pictures_are_split_as_the_paper_and_as_the_tool_split_them():
    indices = np.array(CROWD_INDICES)
    paper = {name: indices[rows].tolist() for name, rows in PAPER_LEVELS.split(indices).items()}
    assert paper == {"easy": [0.0, 0.05, 0.1], "medium": [0.15, 0.2, 0.5, 0.79, 0.8], "hard": [0.95, 1.0]}
    tool = {name: indices[rows].tolist() for name, rows in TOOL_LEVELS.split(indices).items()}
    assert tool == {"easy": [0.0, 0.05, 0.1, 0.15], "medium": [0.2, 0.5, 0.79], "hard": [0.8, 0.95, 1.0]}


def test_every_level_is_scored_as_if_its_pictures_were_all_there_is():
    truth = crowded()
    predictions = guesses(truth)
    measured = evaluate_crowdpose(truth, predictions)
    completed = with_areas(truth)
    assert measured.overall == evaluate_coco(completed, predictions, CROWDPOSE)
    groups = {"easy": [1, 2, 3], "medium": [4, 5, 6, 7, 8], "hard": [9, 10]}
    for name, image_ids in groups.items():
        assert measured.levels[name] == evaluate_coco(completed, predictions, CROWDPOSE, image_ids)
        assert measured.levels[name].details.pictures == len(image_ids)
    assert measured.to_dict()["AP_hard"] == measured.levels["hard"]["AP"]
    json.dumps(measured.to_dict())
    assert "type=  easy | maxDets= 20 ] = " in level_lines(measured)[0]
    part = evaluate_crowdpose(truth, predictions, image_ids=[1, 2, 4])
    assert part.levels["hard"]["AP"] == -1
    assert part.levels["easy"].details.pictures == 2


def test_areas_that_a_file_has_all_the_same_are_not_used_as_in_the_tool():
    truth = crowded()
    predictions = guesses(truth)
    wrong = dict(truth, annotations=[a | {"area": 5.0} for a in truth["annotations"]])
    assert evaluate_crowdpose(wrong, predictions).overall == evaluate_crowdpose(truth, predictions).overall


def test_an_independent_copy_of_the_tool_gives_the_same_numbers(tmp_path):
    faster = pytest.importorskip("faster_coco_eval", reason="the [fast] extra is not installed")
    truth = crowded()
    predictions = guesses(truth)
    file = tmp_path / "crowdpose_test.json"
    file.write_text(json.dumps(truth))
    annotated = faster.COCO(str(file))
    tool = faster.COCOeval_faster(
        annotated,
        annotated.loadRes([dict(p) for p in predictions]),
        "keypoints_crowd",
        kpt_oks_sigmas=list(CROWDPOSE.oks_sigmas),
        use_area=False,
    )
    tool.run()
    measured = evaluate_crowdpose(file, predictions, levels=TOOL_LEVELS, backend="pycocotools")
    assert 0.05 < measured.overall["AP"] < 0.95
    ours = [measured.overall[name] for name in ("AP", "AP50", "AP75", "AR", "AR50", "AR75")]
    np.testing.assert_allclose(ours, tool.all_stats[:6], rtol=0, atol=1e-9)
    levels = [measured.levels[name]["AP"] for name in ("easy", "medium", "hard")]
    np.testing.assert_allclose(levels, tool.all_stats[6:9], rtol=0, atol=5.1e-5)  # the tool rounds to 4 places


def test_the_numbers_are_pycocotools_where_the_areas_are_written_into_the_file():
    truth = crowded()
    predictions = guesses(truth)
    for person in truth["annotations"]:
        person["area"] = 0.53 * person["bbox"][2] * person["bbox"][3]
    with pytest.raises(ValueError, match="could not be broadcast"):  # COCO's sigmas are 17
        plain(truth, [dict(p) for p in predictions])
    assert evaluate_crowdpose(truth, predictions).overall == evaluate_coco(truth, predictions, CROWDPOSE)


@pytest.mark.parametrize("index", [None, "0.5", 1.5, float("nan")])
def test_a_picture_without_a_crowd_index_is_named(index):
    truth = crowded()
    truth["images"][3]["crowdIndex"] = index
    with pytest.raises(ValueError, match="picture 4: crowdIndex must be a number in"):
        evaluate_crowdpose(truth, [])


def test_levels_of_ones_own_and_skeletons_without_sigmas():
    truth = crowded()
    measured = evaluate_crowdpose(truth, guesses(truth), levels=CrowdLevels(0.5, 0.9))
    assert [level.details.pictures for level in measured.levels.values()] == [6, 2, 2]
    with pytest.raises(ValueError, match="has no oks_sigmas"):
        evaluate_crowdpose(truth, [], Skeleton("bare", CROWDPOSE.keypoints))


@pytest.mark.filterwarnings("ignore:.*neither area nor segmentation")
def test_the_evaluation_script_scores_a_crowdpose_result_file_by_level(tmp_path, capsys):
    specification = importlib.util.spec_from_file_location("run_coco", REPOSITORY / "evaluate" / "run_coco.py")
    run_coco = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(run_coco)
    truth = crowded()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "crowdpose_test.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(guesses(truth)))
    arguments = ["--data", str(tmp_path), "--format", "crowdpose", "--from-json", str(tmp_path / "results.json")]
    assert run_coco.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "COCO keypoint evaluation of 10 pictures"
    assert [line.split("=")[-1].split()[1:] for line in lines[11:14]] == [
        ["(3", "pictures)"], ["(5", "pictures)"], ["(2", "pictures)"],
    ]  # fmt: skip
    assert lines[15].startswith(" pictures: 10 of 10 scored")
    (tmp_path / "results.json").write_text("[]")
    with pytest.warns(UserWarning, match="no predictions at all"):
        assert run_coco.main([*arguments, "--crowd-levels", "tool"]) == 0
    assert capsys.readouterr().out.splitlines()[11].endswith("= 0.000  (4 pictures)")
