"""The console command and the evaluation script, run with a predictor that needs no weights."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import multiposenet
from multiposenet import cli, inputs
from multiposenet.skeletons import COCO_PERSON
from multiposenet.structures import Poses

REPOSITORY = Path(__file__).parents[1]


class FakePredictor:
    """Finds one person in every picture that is not black."""

    skeleton = COCO_PERSON

    def __init__(self, source, device, model, options) -> None:
        self.weights, self.device, self.name, self.options = source, device, model or "fake", options
        self.timings = {"network": 0.0}
        self.batches: list[int] = []

    def __call__(self, images) -> list[Poses]:
        self.batches.append(len(images))
        self.timings["network"] += 0.5
        return [self.find(image) for image in images]

    def find(self, image: np.ndarray) -> Poses:
        height, width = image.shape[:2]
        if not image.any():
            return Poses.empty(COCO_PERSON, (height, width))
        keypoints = torch.stack([torch.linspace(0, width - 1, 17), torch.linspace(0, height - 1, 17)], -1)[None]
        box = torch.tensor([[0.0, 0.0, width, height]])
        return Poses(keypoints, torch.linspace(0, 1, 17)[None], box, torch.tensor([0.75]), COCO_PERSON, (height, width))


class Load:
    """Stands for ``multiposenet.load`` and remembers the predictor it made."""

    predictor: FakePredictor | None = None

    def __call__(self, source=None, device=None, model=None, **options) -> FakePredictor:
        if source == "missing.pt":
            raise FileNotFoundError("missing.pt: no such checkpoint")
        self.predictor = FakePredictor(source, device, model, options)
        return self.predictor


@pytest.fixture
def load() -> Load:
    return Load()


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def write_picture(path: Path, value: int = 200, size: tuple[int, int] = (40, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    return path


def read(out: Path | str) -> tuple[list, dict]:
    out = Path(out)
    return json.loads((out / "predictions.json").read_text()), json.loads((out / "poses.json").read_text())


def test_a_picture_becomes_a_drawing_and_two_json_files(tmp_path, load, capsys):
    picture = write_picture(tmp_path / "in" / "people.png")
    assert cli.main(["predict", str(picture)], load) == 0
    predictions, poses = read("runs/predict")
    assert set(predictions[0]) == {"image_id", "category_id", "keypoints", "score"}
    assert len(predictions[0]["keypoints"]) == 51
    (entry,) = poses["pictures"]
    assert entry["file"] == str(picture)
    assert entry["image_id"] == 1
    assert entry["image_size"] == [40, 60]
    assert entry["people"][0]["keypoints"]["right_ankle"] == [59.0, 39.0, 1.0]
    assert poses["failed"] == []
    assert poses["model"] == "fake"
    assert poses["skeleton"] == COCO_PERSON.to_dict()
    assert Image.open(Path("runs/predict") / entry["picture"]).size == (60, 40)
    printed = capsys.readouterr().out
    assert "people.png: 1 person" in printed
    assert "network 0.50 s" in printed
    assert str(Path("runs/predict")) in printed


def test_every_run_gets_its_own_folder_unless_one_is_chosen(tmp_path, load):
    picture = str(write_picture(tmp_path / "a.png"))
    for _ in range(2):
        assert cli.main(["predict", picture], load) == 0
    assert cli.main(["predict", picture, "--out", "mine/deep"], load) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["predict", "predict2"]
    assert read("mine/deep")[0]


def test_folders_patterns_and_files_are_expanded_in_order(tmp_path, load):
    write_picture(tmp_path / "folder" / "deep" / "b.jpg")
    write_picture(tmp_path / "folder" / "a.PNG")
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    write_picture(tmp_path / "other" / "c1.bmp")
    write_picture(tmp_path / "other" / "c2.bmp")
    arguments = [str(tmp_path / "other" / "c?.bmp"), str(tmp_path / "folder")]
    assert cli.main(["predict", *arguments, "--no-pictures"], load) == 0
    _, poses = read("runs/predict")
    assert [Path(entry["file"]).name for entry in poses["pictures"]] == ["c1.bmp", "c2.bmp", "a.PNG", "b.jpg"]
    assert [entry["image_id"] for entry in poses["pictures"]] == [1, 2, 3, 4]
    assert sorted(path.name for path in Path("runs/predict").iterdir()) == ["poses.json", "predictions.json"]


def test_inputs_of_the_same_name_do_not_overwrite_each_other(tmp_path, load):
    files = [write_picture(tmp_path / name) for name in ("x/a.png", "y/a.png", "z/A.jpg", "z/a-2.png")]
    assert cli.main(["predict", *map(str, files)], load) == 0
    _, poses = read("runs/predict")
    names = [entry["picture"] for entry in poses["pictures"]]
    assert len({name.lower() for name in names}) == 4
    assert all((Path("runs/predict") / name).is_file() for name in names)


def test_image_ids_are_the_file_names_when_these_are_different_numbers():
    assert cli.number_pictures(["000000000036.jpg", "49.png"]) == [36, 49]
    assert cli.number_pictures(["36.jpg", "0036.png"]) == [1, 2]
    assert cli.number_pictures(["36.jpg", "a.png"]) == [1, 2]
    assert cli.number_pictures([f"{2**63 - 1}.jpg", "1.jpg"]) == [2**63 - 1, 1]
    assert cli.number_pictures([f"{2**63}.jpg", "1.jpg"]) == [1, 2]


def test_a_damaged_picture_is_reported_and_the_others_are_processed(tmp_path, load, capsys):
    folder = tmp_path / "folder"
    for name in ("a.jpg", "c.jpg"):
        write_picture(folder / name)
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    assert cli.main(["predict", str(folder)], load) == 1
    predictions, poses = read("runs/predict")
    assert [entry["image_id"] for entry in poses["pictures"]] == [1, 3]
    (failure,) = poses["failed"]
    assert failure["file"].endswith("b.jpg")
    assert failure["image_id"] == 2
    captured = capsys.readouterr()
    assert "b.jpg" in captured.err
    assert "1 could not be read" in captured.out
    assert len(predictions) == 2


def test_when_no_picture_can_be_read_the_input_is_bad(tmp_path, load, capsys):
    (tmp_path / "broken.jpg").write_text("not a picture")
    assert cli.main(["predict", str(tmp_path / "broken.jpg")], load) == 2
    assert "broken.jpg" in capsys.readouterr().err
    assert read("runs/predict")[1]["failed"]


@pytest.mark.parametrize("kind", ["nowhere.jpg", "empty", "*.nothing"])
def test_an_input_that_names_nothing_ends_with_status_two_and_its_name(tmp_path, load, kind, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["predict", str(tmp_path / kind)], load) == 2
    assert kind in capsys.readouterr().err
    assert load.predictor is None
    assert not Path("runs").exists()


def test_weights_that_do_not_load_end_with_status_two_and_leave_no_folder(tmp_path, load, capsys):
    picture = write_picture(tmp_path / "a.png")
    assert cli.main(["predict", str(picture), "--weights", "missing.pt"], load) == 2
    assert "missing.pt" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_an_original_is_never_overwritten_by_its_drawing(tmp_path, load, capsys):
    picture = write_picture(tmp_path / "a.jpg")
    before = picture.read_bytes()
    assert cli.main(["predict", str(picture), "--out", str(tmp_path)], load) == 2
    assert "overwrite" in capsys.readouterr().err
    assert picture.read_bytes() == before


def test_pictures_go_through_in_batches_and_nobody_is_a_normal_picture(tmp_path, load):
    for number in range(5):
        write_picture(tmp_path / "in" / f"{number}.png", value=0 if number == 3 else 90)
    assert cli.main(["predict", str(tmp_path / "in"), "--batch-size", "2"], load) == 0
    assert load.predictor.batches == [2, 2, 1]
    predictions, poses = read("runs/predict")
    assert [len(entry["people"]) for entry in poses["pictures"]] == [1, 1, 1, 0, 1]
    assert [prediction["image_id"] for prediction in predictions] == [0, 1, 2, 4]


def test_flags_reach_the_predictor_and_those_left_out_keep_its_defaults(tmp_path, load):
    picture = str(write_picture(tmp_path / "a.png"))
    flags = ["--model", "m", "--weights", "w.pt", "--device", "cpu", "--batch-size", "3"]
    flags += ["--image-size", "320", "--flip", "--scales", "0.5,1,2", "--box-threshold", "0.3"]
    flags += ["--model-options", "refined=true,crop=64x48"]
    assert cli.main(["predict", picture, *flags], load) == 0
    predictor = load.predictor
    assert (predictor.name, predictor.weights, predictor.device) == ("m", "w.pt", "cpu")
    scales = (0.5, 1.0, 2.0)
    assert predictor.options == {
        "batch_size": 3, "image_size": 320, "flip": True, "scales": scales, "box_threshold": 0.3,
        "model_options": {"refined": True, "crop": (64, 48)},
    }  # fmt: skip
    assert cli.main(["predict", picture], load) == 0
    assert load.predictor.options == {"batch_size": 8}


def test_several_weights_and_a_detector_reach_the_predictor(tmp_path, load):
    picture = str(write_picture(tmp_path / "a.png"))
    assert cli.main(["predict", picture, "--weights", "a.pt,b.pt", "--detector", "d.pt"], load) == 0
    assert load.predictor.weights == ["a.pt", "b.pt"]
    assert load.predictor.options["detector"] == "d.pt"


def test_boxes_of_the_command_line_are_those_of_every_picture(tmp_path, load, monkeypatch):
    pictures = [str(write_picture(tmp_path / name)) for name in ("a.png", "b.png")]
    seen = []

    def call(self, images, boxes=None):
        seen.append(boxes)
        return [self.find(image) for image in images]

    monkeypatch.setattr(FakePredictor, "__call__", call)
    assert cli.main(["predict", *pictures, "--boxes", "10,20,30,40", "--boxes", "-1,-.5,3,4"], load) == 0
    expected = [[10, 20, 40, 60], [-1, -0.5, 2, 3.5]]
    assert [own.tolist() for own in seen[0]] == [expected, expected]


@pytest.mark.parametrize("flag", ["--keypoint-threshold", "--score-threshold"])
def test_the_thresholds_are_for_the_drawing_only(flag, tmp_path, load):
    picture = str(write_picture(tmp_path / "a.png"))
    assert cli.main(["predict", picture, "--out", "low", flag, "0"], load) == 0
    assert cli.main(["predict", picture, "--out", "high", flag, "1"], load) == 0
    assert read("low")[0] == read("high")[0]
    low, high = (np.asarray(Image.open(f"{folder}/a.jpg")) for folder in ("low", "high"))
    assert (low != high).any()


def test_a_box_outside_a_picture_is_warned_of(tmp_path, load, monkeypatch, capsys):
    monkeypatch.setattr(FakePredictor, "__call__", lambda self, images, boxes: [self.find(image) for image in images])
    picture = str(write_picture(tmp_path / "a.png"))  # 40 x 60
    cli.main(["predict", picture, "--boxes", "0,0,5,5", "--boxes", "60,0,5,5", "--boxes", "-9,0,5,5"], load)
    warned = [line for line in capsys.readouterr().err.splitlines() if "--boxes" in line]
    assert warned == [
        f"warning: a.png is 60 x 40 pixels, --boxes {box} lies outside" for box in ("60,0,5,5", "-9,0,5,5")
    ]


def test_an_empty_input_is_not_the_current_folder(load, capsys):
    write_picture(Path("a.png"))
    assert cli.main(["predict", ""], load) == 2
    assert "an INPUT is empty, perhaps a shell variable that is not set" in capsys.readouterr().err
    assert cli.main(["predict", "."], load) == 0


def test_a_size_that_is_too_small_is_refused_with_the_smallest(load, capsys):
    with pytest.raises(SystemExit):
        cli.main(["predict", "--image-size", "7"], load)
    assert "--image-size: expected at least 32, got 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        *("--scales 0", "--scales one", "--batch-size 0", "--box-threshold 7", "--image-size x", "--batch 3"),
        *("--nonsense", "--boxes 1,2,3", "--boxes 1,2,3,0", "--model-options refined"),
    ],
)
def test_a_bad_flag_ends_with_status_two(flags, load, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", *flags.split()], load)
    assert ended.value.code == 2
    assert flags.split()[0] in capsys.readouterr().err


def test_without_inputs_the_sample_pictures_are_used(load):
    assert cli.main(["predict", "--no-pictures"], load) == 0
    _, poses = read("runs/predict")
    assert poses["pictures"][-1]["file"] == "sample astronaut.png"
    assert poses["pictures"][-1]["image_size"] == [512, 512]


def test_random_weights_are_said_to_be_random(tmp_path, load, capsys):
    picture = str(write_picture(tmp_path / "a.png"))
    assert cli.main(["predict", picture, "--weights", "w.pt"], load) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(["predict", picture, "--model", "m"], load) == 0
    assert "m has random weights" in capsys.readouterr().err


def test_the_models_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(multiposenet, "list_models", lambda: ["first", "second"], raising=False)
    assert cli.main(["models"]) == 0
    assert capsys.readouterr().out.split() == ["first", "second"]


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == f"multiposenet {cli.package_version()}"


@pytest.fixture
def server(tmp_path):
    """An http server on this machine; gives its address and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", folder
        running.shutdown()


def test_a_picture_is_fetched_from_its_address(server, load):
    address, folder = server
    write_picture(folder / "far away.png", size=(20, 30))
    url = f"{address}/far%20away.png?size=large"
    assert cli.main(["predict", url], load) == 0
    _, poses = read("runs/predict")
    assert poses["pictures"][0]["file"] == url
    assert poses["pictures"][0]["picture"] == "far away.jpg"
    assert poses["pictures"][0]["image_size"] == [20, 30]


def test_an_address_that_fails_is_named_with_the_reason(server, load, capsys):
    address, folder = server
    (folder / "page.jpg").write_text("<html>")
    write_picture(folder / "good.png")
    urls = [f"{address}/gone.jpg", f"{address}/page.jpg", f"{address}/good.png"]
    assert cli.main(["predict", *urls], load) == 1
    error = capsys.readouterr().err
    assert f"{address}/gone.jpg: the server answers 404" in error
    assert f"{address}/page.jpg: not a readable picture" in error


def test_an_unreachable_address_asks_whether_the_machine_is_online(load, capsys):
    assert cli.main(["predict", "http://127.0.0.1:9/picture.jpg"], load) == 2
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9/picture.jpg: cannot be reached" in error
    assert "online" in error


def test_a_malformed_address_costs_only_itself_and_spaces_are_fetched_as_browsers_do(server, load, capsys):
    address, folder = server
    write_picture(folder / "my pictüre.png")
    bad = "http://127.0.0.1:abc/a.jpg"
    assert cli.main(["predict", bad, f"{address}/my pictüre.png", f"{address}/my%20pict%C3%BCre.png"], load) == 1
    captured = capsys.readouterr()
    assert f"failed: {bad}: no address that can be asked" in captured.err
    assert "2 pictures; 1 could not be read" in captured.out


def test_a_download_beyond_the_limit_is_refused(server):
    address, folder = server
    (folder / "huge.jpg").write_bytes(b"0" * 5000)
    with pytest.raises(ValueError, match=r"huge\.jpg: longer than"):
        inputs.fetch_picture(f"{address}/huge.jpg", max_bytes=4000)


def test_only_web_addresses_are_fetched(tmp_path):
    with pytest.raises(ValueError, match="only http"):
        inputs.fetch_picture(write_picture(tmp_path / "a.png").as_uri())


def test_result_files_are_complete_json_even_when_the_run_breaks(tmp_path, load):
    write_picture(tmp_path / "in" / "1.png")
    write_picture(tmp_path / "in" / "2.png")

    def load_and_break(*arguments, **options):
        predictor = load(*arguments, **options)
        find, seen = predictor.find, []

        def find_once(image):
            if seen:
                raise RuntimeError("out of memory")
            seen.append(image)
            return find(image)

        predictor.find = find_once
        return predictor

    with pytest.raises(RuntimeError, match="out of memory"):
        cli.main(["predict", str(tmp_path / "in"), "--batch-size", "1"], load_and_break)
    predictions, poses = read("runs/predict")
    assert len(predictions) == len(poses["pictures"]) == 1


@pytest.mark.parametrize("blocked", ["b.jpg", "predictions.json"])
def test_what_cannot_be_written_ends_with_status_two_and_keeps_what_was_done(tmp_path, load, capsys, blocked):
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / "in" / name)
    (Path("out") / blocked).mkdir(parents=True)
    assert cli.main(["predict", str(tmp_path / "in"), "--batch-size", "1", "--out", "out"], load) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("multiposenet predict: error: ")
    assert f"out/{blocked}" in line
    if blocked == "b.jpg":
        predictions, poses = read("out")
        assert len(predictions) == len(poses["pictures"]) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the device that is always full")
@pytest.mark.parametrize(("full", "whole"), [("predictions.json", "poses.json"), ("poses.json", "predictions.json")])
def test_a_full_disk_is_told_of_with_the_folder_and_leaves_the_other_file_whole(tmp_path, load, capsys, full, whole):
    Path("out").mkdir()
    Path("out", full).symlink_to("/dev/full")
    assert cli.main(["predict", str(write_picture(tmp_path / "a.png")), "--out", "out"], load) == 2
    assert "multiposenet predict: error: out: [Errno 28] No space left" in capsys.readouterr().err
    assert json.loads(Path("out", whole).read_text())


@pytest.fixture
def run_coco():
    """The evaluation script as a module."""
    specification = importlib.util.spec_from_file_location("run_coco", REPOSITORY / "evaluate" / "run_coco.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_evaluation_script_measures_on_synthetic_people_when_no_data_are_named(run_coco, load, capsys):
    assert run_coco.main(["--limit", "3", "--worst", "1"], load) == 0
    out = Path("runs/evaluate")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["pictures"] == 3
    assert set(metrics["versions"]) >= {"multiposenet", "torch"}
    assert 0 <= metrics["metrics"]["AP"] <= 1
    assert sorted(path.name.split("_")[0] for path in out.glob("*.jpg")) == ["best", "worst"]
    printed = capsys.readouterr().out
    assert "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets= 20 ]" in printed
    assert "predict/network" in printed

    assert run_coco.main(["--limit", "3", "--from-json", str(out / "predictions.json")], load) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[1:11] == printed.splitlines()[1:11]


def test_the_evaluation_script_reads_coco_folders(run_coco, load, coco_mini, capsys):
    assert run_coco.main(["--data", str(coco_mini), "--limit", "4", "--out", "here"], load) == 0
    assert json.loads(Path("here/metrics.json").read_text())["data"]["images"] == 4


@pytest.fixture
def people(tmp_path) -> Path:
    """A folder in COCO's layout with three pictures of synthetic people."""
    place = REPOSITORY / "datasets" / "synthesize.py"
    specification = importlib.util.spec_from_file_location("synthesize", place)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    folder = tmp_path / "people"
    module.main(["--out", str(folder), "--count", "3", "--seed", "1", "--size", "96", "--people", "1-1"])
    return folder


def change_labels(people: Path, change) -> None:
    file = people / "annotations" / "person_keypoints_val2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_picture_of_another_size_than_its_record_ends_the_evaluation_in_one_line(run_coco, load, people, capsys):
    Image.new("RGB", (50, 60)).save(people / "val2017" / "000000000002.jpg")
    capsys.readouterr()
    for workers in ("0", "1"):
        assert run_coco.main(["--data", str(people), "--workers", workers], load) == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith("run_coco.py: error: ")
        assert "000000000002.jpg: the picture is 60x50" in line


@pytest.mark.parametrize("fault", ["images", "num_keypoints"])
def test_labels_that_cannot_be_scored_against_are_refused_before_the_network_runs(
    run_coco, load, people, capsys, fault
):
    def change(content: dict) -> None:
        if fault == "images":
            content["images"], content["annotations"] = [], []
        else:
            content["annotations"][0] |= {"num_keypoints": 17, "keypoints": [0] * 51}

    change_labels(people, change)
    assert run_coco.main(["--data", str(people)], load) == 2
    assert {"images": "has no pictures", "num_keypoints": "num_keypoints is above 0"}[fault] in capsys.readouterr().err
    assert load.predictor.batches == []
    assert not Path("runs").exists()


def test_a_report_in_the_place_of_a_file_is_refused_before_the_network_runs(run_coco, load, tmp_path, capsys):
    (tmp_path / "report").write_text("")
    with pytest.raises(SystemExit, match="2"):
        run_coco.main(["--report", str(tmp_path / "report")], load)
    assert "--report" in capsys.readouterr().err
    assert load.predictor is None


def test_with_a_limit_a_result_file_is_scored_by_its_chosen_pictures_alone(run_coco, load, people, capsys):
    assert run_coco.main(["--data", str(people), "--out", "all"], load) == 0
    assert run_coco.main(["--data", str(people), "--limit", "1", "--out", "one"], load) == 0
    capsys.readouterr()
    for name in ("all", "one"):
        assert run_coco.main(["--data", str(people), "--limit", "1", "--from-json", f"{name}/predictions.json"]) == 0
    printed = capsys.readouterr().out
    assert printed[: len(printed) // 2] == printed[len(printed) // 2 :]
    assert run_coco.main(["--data", str(people), "--from-json", "all/predictions.json"]) == 0


def test_the_evaluation_script_names_data_that_are_not_there(run_coco, load, tmp_path, capsys):
    assert run_coco.main(["--data", str(tmp_path / "nowhere")], load) == 2
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "nowhere").mkdir()
    assert run_coco.main(["--data", str(tmp_path / "nowhere")], load) == 2
    assert "check --data and --split" in capsys.readouterr().err
