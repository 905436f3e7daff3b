"""Why a keypoint went to whom it went: the numbers are the grouping's own, the words fit them, the page opens."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from browser import open_page
from torch.testing import assert_close

import multiposenet
from multiposenet import cli
from multiposenet.checkpoint import save_weights
from multiposenet.decode.assignment import ASSIGNMENTS
from multiposenet.decode.grouping import Grouping, PairScores, PoseResidualGrouping
from multiposenet.decode.refinement import Refinement
from multiposenet.decode.scorers import SetAssignmentScorer
from multiposenet.evaluation.grouping_inputs import INPUTS, make_input
from multiposenet.evaluation.grouping_scores import right_keypoints
from multiposenet.explanation.numbers import explain
from multiposenet.explanation.page import explanation_page
from multiposenet.explanation.sources import input_owners
from multiposenet.explanation.structures import BOXLESS, NOBODY, Explanation, Owners
from multiposenet.explanation.words import explanation_lines, grids_line, keypoint_story, summary, to_json
from multiposenet.geometry import CropWindow
from multiposenet.groupings import build_grouping, with_assignment
from multiposenet.models.set_assignment import SetAssignment
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Detections, Peaks, PersonLabels

NOSE = Skeleton("noses", ("nose",))
ASSETS = Path(multiposenet.__file__).parent / "assets"


# --- scenes


def told(
    table: Sequence[Sequence[float]],
    rule: str = "one_to_one",
    heights: Sequence[float] | None = None,
    box_scores: Sequence[float] | None = None,
    owners: Owners | None = None,
    deciding: Sequence[Sequence[float]] | None = None,
) -> Explanation:
    """Noses in a row and boxes around them, with these scores of the pairs [P][M]; people keep this order."""
    scores = torch.tensor(table).reshape(len(table), 1, -1)
    people, count = scores.shape[0], scores.shape[2]
    xy = torch.stack([10.0 * torch.arange(count), torch.full((count,), 20.0)], -1)
    heights = torch.ones(count) if heights is None else torch.tensor(heights)
    peaks = Peaks(xy[None, None], heights[None, None], torch.ones(1, 1, count, dtype=torch.bool))
    box_scores = torch.ones(people) if box_scores is None else torch.tensor(box_scores)
    boxes = torch.tensor([[0.0, 0.0, 100.0, 50.0]]).repeat(people, 1)
    detections = Detections(boxes[None], box_scores[None], torch.ones(1, people, dtype=torch.bool))
    rank = torch.linspace(1, 0.5, people)
    pairs = PairScores(
        torch.zeros(people, dtype=torch.long), torch.arange(people), scores, torch.full((people, 1, 2), 7.0),
        torch.full((people, 1), 0.05), None if deciding is None else torch.tensor(deciding).view_as(scores), rank,
    )  # fmt: skip
    return explain(Grouping(lambda *given: pairs, ASSIGNMENTS[rule]), peaks, detections, NOSE, owners=owners)


def owners_of(boxes: list[int], peaks: list[int], labelled: list[bool]) -> Owners:
    return Owners(np.array(boxes), np.array([peaks]), np.array(labelled)[:, None])


def crowd(seed: int = 0, people: int = 5) -> PersonLabels:
    """People of random poses whose boxes overlap; each misses some keypoints."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 80, (people, 1, 2))
    keypoints = (corner + rng.uniform(0, 1, (people, 17, 2)) * [60, 120]).astype(np.float32)
    boxes = np.concatenate([keypoints.min(1), keypoints.max(1) + 1], -1)
    visibility = (2 * (rng.random((people, 17)) < 0.8)).astype(np.uint8)
    return PersonLabels(keypoints, visibility, boxes, np.full(people, 3000.0, np.float32), np.zeros(people, bool))


def random_prn() -> PoseResidualGrouping:
    torch.manual_seed(3)
    method = build_grouping("pose_residual", nodes=12, crop=(14, 9))
    for parameter in method.model.eval().parameters():
        parameter.data.mul_(3)
    return method.grouping


def random_set() -> Grouping:
    torch.manual_seed(4)
    method = build_grouping("set_assignment", width=16, layers=2)
    for parameter in method.model.eval().parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return method.grouping


# --- numbers


@pytest.mark.parametrize("rule", ASSIGNMENTS)
@pytest.mark.parametrize("make", [random_prn, random_set])
@torch.no_grad()
def test_what_is_explained_is_what_the_grouping_does(make: Callable, rule):
    given = make_input([crowd()], [1], 17, *INPUTS["both degraded"])
    grouping = with_assignment(make(), rule)
    people = grouping(given.peaks, given.detections)
    explanation = explain(grouping, given.peaks, given.detections, COCO_PERSON)
    (poses,) = people.to_poses(given.detections, COCO_PERSON)
    assert explanation.rule == rule
    assert len(explanation.people) == len(poses) > 1
    for person, scores, keypoints, box in zip(
        explanation.people, poses.keypoint_scores, poses.keypoints, poses.boxes, strict=True
    ):
        assert_close(torch.tensor([own.score for own in person.keypoints]), scores)
        assert_close(torch.tensor([own.xy for own in person.keypoints]), keypoints)
        assert_close(torch.tensor(person.box), box)
        for number, own in enumerate(person.keypoints):
            assert [pair.weight for pair in own.pairs] == sorted((pair.weight for pair in own.pairs), reverse=True)
            assert (own.given is None) == (own.peak is None)
            if own.given is not None:
                assert own.given.score == pytest.approx(own.score)
                assert person.person in explanation.peaks[number][own.peak - 1].people
    given_away = sum(len(peak.people) for own in explanation.peaks for peak in own)
    assert given_away == int((people.peak_index[given.detections.valid] >= 0).sum()) > 20


@torch.no_grad()
def test_the_parts_of_a_set_assignment_s_score_make_the_score():
    given = make_input([crowd()], [1], 17)
    explanation = explain(random_set(), given.peaks, given.detections, COCO_PERSON)
    pairs = [pair for person in explanation.people for own in person.keypoints for pair in own.pairs]
    assert len(pairs) > 100
    for pair in pairs:
        assert set(pair.parts) == {"choice", "claim"}
        assert pair.suits == pytest.approx((pair.parts["choice"] * pair.parts["claim"]) ** 0.5, rel=1e-4)
    assert max(abs(pair.parts["choice"] - pair.parts["claim"]) for pair in pairs) > 0.05


def test_parts_are_zero_where_a_peak_is_no_candidate():
    given = make_input([crowd()], [1], 17)
    scorer = SetAssignmentScorer(SetAssignment(17, width=16, candidates=2).eval())
    with torch.no_grad():
        scores = scorer(given.peaks, given.detections).scores
        parts = scorer.parts(given.peaks, given.detections)
    assert (scores == 0).any()
    for part in parts.values():
        assert_close((part > 0)[scores > 0].float().mean(), torch.tensor(1.0))
        assert int((part > 0).sum(-1).max()) == 2


def test_the_network_on_grids_is_shown_with_the_neighbours_peaks_and_no_labels():
    given = make_input([crowd()], [1], 17)
    owners = input_owners(given)
    with_labels = explain(random_prn(), given.peaks, given.detections, COCO_PERSON, owners=owners)
    without = explain(random_prn(), given.peaks, given.detections, COCO_PERSON)
    foreign = 0
    for person, same in zip(with_labels.people, without.people, strict=True):
        assert_close(person.grids.shown, same.grids.shown, atol=0, rtol=0)
        assert_close(person.grids.answer.sum((1, 2)), np.ones(17, np.float32))
        for maps, places, peaks in zip(person.grids.shown, person.grids.places, with_labels.peaks, strict=True):
            for number, x, y in places:
                assert maps[round(y), round(x)] > 0.5
                foreign += peaks[number - 1].owner != person.person
            assert (maps.max() > 0) == bool(places)
    assert foreign > 20
    assert sum(len(places) for places in person.grids.places) == int(grids_line(person).split()[4])


def test_places_are_told_in_the_picture_s_pixels():
    given = make_input([crowd()], [1], 17)
    window = CropWindow.letterbox((300, 300), 150)
    explanation = explain(random_set(), given.peaks, given.detections, COCO_PERSON, window)
    plain = explain(random_set(), given.peaks, given.detections, COCO_PERSON)
    for own, same in zip(explanation.people[0].keypoints, plain.people[0].keypoints, strict=True):
        assert own.xy == pytest.approx([2 * value + 0.5 for value in same.xy], abs=1e-3)
    assert explanation.people[0].box == pytest.approx([2 * value for value in plain.people[0].box], abs=1e-3)
    assert explanation.peaks[0][0].xy == pytest.approx([2 * value + 0.5 for value in plain.peaks[0][0].xy], abs=1e-3)


@pytest.mark.parametrize("name", INPUTS)
def test_right_is_what_the_measurement_of_groupings_calls_right(name):
    given = make_input([crowd(2, 6)], [5], 17, *INPUTS[name])
    grouping = random_set()
    with torch.no_grad():
        hits, chances = right_keypoints(grouping(given.peaks, given.detections).peak_index, given)
    explanation = explain(grouping, given.peaks, given.detections, COCO_PERSON, owners=input_owners(given))
    own = [keypoint for person in explanation.people for keypoint in person.keypoints if keypoint.own is not None]
    assert len(own) == int(chances.sum()) > 30
    assert sum(keypoint.right for keypoint in own) == int(hits.sum()) < len(own)


def test_two_pictures_another_skeleton_and_numbers_that_are_none_are_refused():
    given = make_input([crowd(), crowd(1)], [1, 2], 17)
    with pytest.raises(ValueError, match="one picture is explained at a time, got 2"):
        explain(random_set(), given.peaks, given.detections, COCO_PERSON)
    one = given[:1]
    with pytest.raises(ValueError, match="17 keypoints, skeleton 'noses' has 1"):
        explain(random_set(), one.peaks, one.detections, NOSE)
    broken = dataclasses.replace(one.peaks, scores=torch.full_like(one.peaks.scores, torch.nan))
    with pytest.raises(ValueError, match=r"peaks\.scores"):
        explain(random_set(), broken, one.detections, COCO_PERSON)


def test_peaks_and_rivals_come_best_first_whatever_the_peaks_heights():
    explanation = told([[0.1, 0.4], [0.2, 0.0], [0.3, 0.0]], heights=[0.5, 0.8])
    first, _, third = (person.keypoints[0] for person in explanation.people)
    assert [(pair.peak, pair.given) for pair in first.pairs] == [(2, True), (1, False)]
    assert [pair.suits for pair in first.pairs] == pytest.approx([0.5, 0.2])
    assert [rival.person for rival in third.rivals] == [2, 1]


# --- verdicts


def test_labels_tell_what_is_right_and_what_is_wrong():
    owners = owners_of([0, 1, 2], [1, 0, -1], [True, True, True])  # the third person's own peak is missing
    people = told([[0.9, 0.1, 0.0], [0.1, 0.8, 0.0], [0.0, 0.0, 0.7]], owners=owners).people
    assert [person.keypoints[0].own for person in people] == [2, 1, None]
    assert [person.keypoints[0].right for person in people] == [False, False, False]
    assert [person.labelled for person in people] == [True, True, True]


def test_labels_do_not_tell_about_a_keypoint_that_nobody_labelled():
    owners = owners_of([0, -1], [-1, -1], [False])  # the second box is nobody's, neither is any peak
    explanation = told([[0.9, 0.0], [0.0, 0.9]], owners=owners)
    assert [person.keypoints[0].right for person in explanation.people] == [None, None]
    assert [peak.owner for peak in explanation.peaks[0]] == [NOBODY, NOBODY]


def test_somebody_else_s_peak_is_wrong_even_where_nothing_was_labelled():
    owners = owners_of([0, -1], [1, 2], [False, True, True])
    explanation = told([[0.9, 0.0], [0.0, 0.9]], owners=owners)
    assert [person.keypoints[0].right for person in explanation.people] == [False, False]
    assert [peak.owner for peak in explanation.peaks[0]] == [BOXLESS, BOXLESS]
    assert keypoint_story(explanation, 1, 0).endswith("this one is that of somebody without a box")


def test_without_labels_there_are_no_verdicts():
    explanation = told([[0.9]])
    assert explanation.people[0].labelled is None
    assert explanation.people[0].keypoints[0].right is None
    assert not any("labels" in line or "right" in line for line in explanation_lines(explanation))


# --- words


def test_a_keypoint_that_was_no_question_is_told_in_one_piece():
    assert keypoint_story(told([[0.8, 0.001]]), 1, 0) == "peak 1 (height 1.00) with 0.80"


def test_the_runner_up_is_named_with_who_got_it():
    story = keypoint_story(told([[0.8, 0.3], [0.1, 0.7]]), 1, 0)
    assert "runner-up: peak 2 with 0.30, which person 2 got with 0.70" in story
    assert "person 2 could have had it (0.10) and got peak 2 (0.70)" in story
    assert "nobody got" in keypoint_story(told([[0.8, 0.3]]), 1, 0)


def test_who_had_to_step_back_is_told_what_it_wanted():
    explanation = told([[0.9, 0.3], [0.8, 0.5]])
    assert "person 2 wanted it most of all (0.80) and got peak 2 (0.50)" in keypoint_story(explanation, 1, 0)
    rather = "it would rather have had peak 1 with 0.80, which person 1 got with 0.90"
    assert rather in keypoint_story(explanation, 2, 0)


def test_a_person_left_without_a_peak_is_told_which_one_it_wanted():
    story = keypoint_story(told([[0.9], [0.6]]), 2, 0)
    assert story.startswith("no peak left, a guess stands in (score 0.05); it wanted peak 1 with 0.60, which person 1")
    assert keypoint_story(told([[0.9], [0.0]]), 2, 0).startswith("no peak of the picture suits this box, a guess")


def test_the_box_s_score_is_named_where_it_turned_the_scale():
    story = keypoint_story(told([[0.6], [0.7]], box_scores=[1.0, 0.5]), 1, 0)
    assert "(0.70) and got none, pair score x box score being 0.35 against 0.60" in story
    story = keypoint_story(told([[0.6], [0.7]], deciding=[[0.9], [0.8]]), 1, 0)
    assert "the network's score alone being 0.80 against 0.90" in story


def test_the_sum_is_named_as_the_reason_of_the_rule_that_goes_by_it():
    table = [[0.5, 0.1], [0.8, 0.7]]
    optimal = told(table, "optimal")
    because = "person 2 wanted it most of all (0.80) and got peak 2 (0.70), for the sake of the largest sum"
    assert because in keypoint_story(optimal, 1, 0)
    assert "it would rather have had peak 1 with 0.80, which person 1 got with 0.50" in keypoint_story(optimal, 2, 0)
    assert keypoint_story(told(table), 1, 0).startswith("peak 2")


def test_a_peak_that_two_people_got_is_told_of():
    shared = told([[0.6], [0.5]], "public")
    assert shared.peaks[0][0].people == (1, 2)
    assert "person 2 wanted it most of all (0.50) and got it as well" in keypoint_story(shared, 1, 0)
    assert "1 given to several people" in summary(shared)[0]


def test_wrong_says_whose_it_is_and_where_the_own_one_went():
    explanation = told([[0.9, 0.1], [0.2, 0.8]], owners=owners_of([0, 1], [1, 0], [True, True]))
    assert keypoint_story(explanation, 1, 0).endswith("WRONG: its own is peak 2, which person 2 got")
    assert "By the labels 0 of 2 peaks went to the person whose they are." in summary(explanation)
    right = told([[0.9, 0.1], [0.2, 0.8]], owners=owners_of([0, 1], [0, 1], [True, True]))
    assert keypoint_story(right, 1, 0).endswith("; right")
    stolen = told([[0.9]], owners=owners_of([0], [1], [True, True]))
    assert keypoint_story(stolen, 1, 0).endswith("this one is that of somebody without a box")


def test_nobody_is_a_normal_picture():
    given = make_input([PersonLabels.empty(17)], [3], 17)
    for grouping in (random_set(), random_prn()):
        explanation = explain(grouping, given.peaks, given.detections, COCO_PERSON, owners=input_owners(given))
        assert explanation.people == ()
        assert next(explanation_lines(explanation)).startswith("Nobody in this picture")
        assert "Nobody in this picture" in explanation_page("x", "", explanation, (40, 60)).html()


def test_people_below_the_threshold_are_counted_and_not_told_of():
    lines = list(explanation_lines(told([[0.9, 0.0], [0.0, 0.9]]), least_score=0.7))
    assert any(line.startswith("person 1, score 1.00") for line in lines)
    assert not any(line.startswith("person 2,") for line in lines)
    assert lines[-1] == "1 person with a score below 0.7 not told of"


def test_the_json_has_every_pair_and_the_same_words():
    explanation = told([[0.8, 0.3], [0.001, 0.7]])
    content = json.loads(json.dumps(to_json(explanation)))
    nose = content["people"][0]["keypoints"]["nose"]
    assert [pair["score"] for pair in nose["pairs"]] == pytest.approx([0.8, 0.3])
    assert [rival["score"] for rival in nose["rivals"]] == pytest.approx([0.001])
    assert nose["why"] == keypoint_story(explanation, 1, 0)
    assert content["peaks"]["nose"][1]["people"] == [2]


def test_grids_of_a_grouping_without_any_are_an_error():
    with pytest.raises(ValueError, match="person 1 has no grids"):
        grids_line(told([[0.9]]).people[0])


# --- the page


@pytest.mark.parametrize("with_picture", [False, True])
def test_the_page_opens_and_shows_every_person_and_what_the_network_saw(tmp_path, with_picture):
    given = make_input([crowd()], [1], 17, *INPUTS["both degraded"])
    explanation = explain(random_prn(), given.peaks, given.detections, COCO_PERSON, owners=input_owners(given))
    image = np.full((220, 180, 3), 90, np.uint8) if with_picture else None
    explanation_page("Who <b>", "lead", explanation, (220, 180), image).write(tmp_path / "page.html")
    people = len(explanation.people)
    screen = open_page(tmp_path / "page.html", width=420)
    assert screen.complaints == []
    assert screen.requests == []
    assert screen.facts["charts"] == people + 1
    assert screen.facts["pictures"] == people  # the grids
    assert screen.facts["broken"] == screen.facts["unnamed"] == 0
    assert screen.facts["overflow"] <= 0
    assert "WRONG" in screen.facts["text"]
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") == (people + 1) * with_picture


def test_odd_boxes_many_peaks_and_another_skeleton_are_drawn():
    hand = Skeleton("hand", ("thumb", "index", "middle", "ring", "little"), limbs=((0, 1),))
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(1, 5, 400, 2, generator=generator) * 150
    peaks = Peaks(xy, torch.rand(1, 5, 400, generator=generator), torch.ones(1, 5, 400, dtype=torch.bool))
    boxes = [[20, 20, 90, 120], [50, 50, 50, 50], [-80, -90, -20, -30], [10, 60, 400, 70], [30, 90, 20, 10]]
    detections = Detections(torch.tensor([boxes]).float(), torch.ones(1, 5), torch.ones(1, 5, dtype=torch.bool))
    image = np.zeros((150, 150, 3), np.uint8)
    for name, options in (("pose_residual", {"nodes": 4, "crop": (8, 8)}), ("set_assignment", {"width": 16})):
        method = build_grouping(name, skeleton=hand, **options)
        method.model.eval()
        explanation = explain(method.grouping, peaks, detections, hand)
        html = explanation_page("hands", "", explanation, (150, 150), image).html()
        assert html.count("<section") == 1 + 5 + 1
        assert re.search(r'[" ML]-?(?:nan|inf)[" ]', html) is None
        assert max(map(float, re.findall(r'viewBox="0 0 \d+ (\d+)"', html))) < 1000
        assert "thumb" in html


# --- the command


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)


def write_labels(root: Path, labels: PersonLabels, image_id: int = 785) -> Path:
    """Three pictures' labels in COCO's layout, no pictures: these people, nobody (id 7), and one of them (id 9)."""
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 240, "width": 200} for number in (image_id, 7, 9)]
    annotations = []
    for picture, rows in ((image_id, range(len(labels))), (9, range(1))):
        for row in rows:
            x1, y1, x2, y2 = labels.boxes[row].tolist()
            points = np.concatenate([labels.keypoints[row], labels.visibility[row][:, None]], -1)
            annotations.append({
                "id": len(annotations) + 1, "image_id": picture, "category_id": 1, "iscrowd": 0, "area": 3000.0,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "keypoints": points.flatten().tolist(),
                "num_keypoints": int((labels.visibility[row] > 0).sum()), "segmentation": [],
            })  # fmt: skip
    category = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON.keypoints), "skeleton": []}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(content))
    return root


def never(*arguments, **options):
    raise AssertionError("labels need no network")


def test_labels_alone_are_explained_without_a_network(tmp_path, capsys):
    data = write_labels(tmp_path / "data", crowd())
    before = sorted(data.rglob("*"))
    assert cli.main(["explain", "785", "--data", str(data)], never) == 0
    assert sorted(data.rglob("*")) == before  # who only reads writes nothing beside the labels
    printed = capsys.readouterr().out
    assert "image 785, 200 x 240 pixels; labels as peaks and boxes: ground truth; grouped by set_assignment" in printed
    assert "By the labels" in printed
    folder = Path("runs/explain")
    assert {path.name for path in folder.iterdir()} == {"explanation.html", "explanation.json", "explanation.txt"}
    assert (folder / "explanation.txt").read_text().splitlines()[0] in printed
    content = json.loads((folder / "explanation.json").read_text())
    assert content["grouping"] == "set_assignment"
    assert len(content["people"]) == 5


def test_degraded_input_is_that_of_the_measurement(tmp_path):
    labels = crowd()
    data = write_labels(tmp_path / "data", labels)
    arguments = ["explain", "785", "--data", str(data), "--input", "both degraded", "--assignment", "optimal"]
    assert cli.main([*arguments, "--out", "mine"], never) == 0
    content = json.loads(Path("mine/explanation.json").read_text())
    given = make_input([labels], [785], 17, *INPUTS["both degraded"])
    found = sorted(tuple(peak["xy"]) for peak in content["peaks"]["left_hip"])
    hip = COCO_PERSON.index("left_hip")
    expected = sorted(map(tuple, given.peaks.xy[0, hip][given.peaks.valid[0, hip]].tolist()))
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-3)
    assert len(content["people"]) == int(given.detections.valid.sum())
    assert content["assignment"] == "optimal"


def test_a_pose_residual_network_s_file_shows_its_grids(tmp_path, capsys):
    torch.manual_seed(0)
    method = build_grouping("pose_residual", nodes=8, crop=(14, 9))
    save_weights(method.model, tmp_path / "prn.safetensors", method.facts)
    data = write_labels(tmp_path / "data", crowd())
    assert cli.main(["explain", "785", "--data", str(data), "--grouping", str(tmp_path / "prn.safetensors")]) == 0
    assert "grouped by pose_residual" in capsys.readouterr().out
    grids = np.load("runs/explain/grids.npz")
    assert grids["shown"].shape == grids["answer"].shape == (5, 17, 14, 9)
    assert "what the network was shown" in Path("runs/explain/explanation.html").read_text()


def test_a_picture_without_people_says_so(tmp_path, capsys):
    data = write_labels(tmp_path / "data", crowd())
    assert cli.main(["explain", "7", "--data", str(data)], never) == 0
    assert "Nobody in this picture" in capsys.readouterr().out
    assert json.loads(Path("runs/explain/explanation.json").read_text())["people"] == []


@pytest.mark.parametrize(("arguments", "message"), [
    (["12", "--data", "DATA"], "no image has the id 12 in val2017 .3 ids from 7 to 785."),
    (["785", "--data", "DATA", "--split", "train2017"], "no annotation file"),
    (["785", "--data", "nowhere"], "no folder nowhere"),
    (["picture.jpg", "--data", "DATA"], "an image's id, a number like 785, got 'picture.jpg'"),
    (["785"], "no file 785; if it is an image's id"),
    (["nowhere.jpg"], "nowhere.jpg: no such file"),
    (["--input", "both degraded"], "give --data too"),
    (["785", "--data", "DATA", "--grouping", "missing.safetensors"], "missing.safetensors"),
])  # fmt: skip
def test_bad_input_is_one_line_and_status_two(tmp_path, capsys, arguments, message):
    data = write_labels(tmp_path / "data", crowd())
    filled = [str(data) if argument == "DATA" else argument for argument in arguments]
    assert cli.main(["explain", *filled], never) == 2
    error = capsys.readouterr().err
    assert error.startswith("multiposenet explain: error: ")
    assert re.search(message, error)
    assert not Path("runs").exists()


def test_a_model_that_groups_nothing_is_a_clear_error(tmp_path, capsys):
    data = write_labels(tmp_path / "data", crowd())

    def load(*arguments, **options):
        method = SimpleNamespace(name="mspn", decoder=object())
        return SimpleNamespace(method=method, name="mspn", weights="w", skeleton=COCO_PERSON)

    for arguments in ([], ["785", "--data", str(data)]):
        assert cli.main(["explain", *arguments, "--model", "mspn"], load) == 2
        assert "mspn has no grouping" in capsys.readouterr().err


def test_a_grouping_s_file_in_place_of_a_network_s_is_told_where_it_belongs(capsys):
    assert cli.main(["explain", "--weights", str(ASSETS / "set_assignment.safetensors")]) == 2
    assert "give it with --grouping" in capsys.readouterr().err
    assert cli.main(["explain", "--grouping", str(ASSETS / "set_assignment.safetensors")]) == 0
    said = "multiposenet_lite, before its refiner moves keypoints; grouped by set_assignment, rule"
    assert said in capsys.readouterr().out


def test_a_sample_picture_is_explained_as_it_is_grouped(capsys, monkeypatch):
    assert cli.main(["explain", "--box-threshold", "0.3", "--score-threshold", "0.3"]) == 0
    assert "peaks and boxes of multiposenet_lite, before its refiner moves keypoints" in capsys.readouterr().out
    content = json.loads(Path("runs/explain/explanation.json").read_text())
    monkeypatch.setattr(Refinement, "join", lambda self, people, looks: people)
    (poses,) = multiposenet.load(box_threshold=0.3)(str(ASSETS / "samples" / "two_people.jpg"))
    assert len(content["people"]) == len(poses) >= 2
    assert [person["score"] for person in content["people"]] == pytest.approx(poses.scores.tolist(), abs=1e-5)
    for person, keypoints in zip(content["people"], poses.keypoints.tolist(), strict=True):
        told_xy = [keypoint["xy"] for keypoint in person["keypoints"].values()]
        assert np.array(told_xy) == pytest.approx(np.array(keypoints), abs=1e-2)


def test_a_network_s_own_mistakes_on_a_labelled_picture_are_told(coco_mini, capsys):
    arguments = ["--data", str(coco_mini), "--split", "train2017", "--input", "network", "--score-threshold", "0"]
    assert cli.main(["explain", "36", *arguments, "--box-threshold", "0.2"]) == 0
    content = json.loads(Path("runs/explain/explanation.json").read_text())
    assert any(line.startswith("By the labels") for line in content["summary"])
    assert 'href="data:image/jpeg' in Path("runs/explain/explanation.html").read_text()


def test_most_of_a_crowd_s_labels_go_where_they_belong(coco_labels, capsys):
    assert cli.main(["explain", "433103", "--data", str(coco_labels)], never) == 0
    people = json.loads(Path("runs/explain/explanation.json").read_text())["people"]
    own = [keypoint for person in people for keypoint in person["keypoints"].values() if keypoint["own"]]
    assert len(people) == 10
    assert len(own) == 127
    assert sum(keypoint["right"] for keypoint in own) > 0.75 * len(own)
