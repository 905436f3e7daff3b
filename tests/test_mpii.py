"""MPII: its files, its measure, and both with a predictor in between."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from multiposenet.data.mpii import NAMES, MpiiKeypoints, write_mpii
from multiposenet.data.sources import LAYOUTS, open_dataset
from multiposenet.evaluation.mpii import (
    GROUPS,
    MpiiTruth,
    in_order,
    pckh,
    read_mat,
    read_truth,
    score_mpii,
    truth_of,
)
from multiposenet.skeletons import MPII
from multiposenet.structures import PersonBoxes, PersonLabels, Poses

ROOT = Path(__file__).resolve().parents[1]
K = MPII.num_keypoints


def record(image: str = "a.jpg", centre=(101.0, 51.0), scale: float = 1.0, **changes: object) -> dict:
    joints = [[10.0 * k + 1, 5.0 * k + 1] for k in range(K)]
    shown = [1] * (K - 1) + [0]
    return {"image": image, "center": list(centre), "scale": scale, "joints": joints, "joints_vis": shown} | changes


def write(folder: Path, records: list[dict], split: str = "train") -> Path:
    (folder / "annot").mkdir(exist_ok=True)
    (folder / "annot" / f"{split}.json").write_text(json.dumps(records))
    (folder / "images").mkdir(exist_ok=True)
    for name in {one["image"] for one in records if "image" in one}:
        Image.fromarray(np.zeros((120, 240, 3), np.uint8)).save(folder / "images" / name)
    return folder


def people(n: int, seed: int = 0) -> PersonLabels:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(20, 60, (n, 2))
    keypoints = (corners[:, None] + rng.uniform(0, 80, (n, K, 2))).astype(np.float32)
    visibility = rng.choice([0, 1, 2], (n, K), p=[0.1, 0.2, 0.7]).astype(np.uint8)
    visibility[:, [MPII.index("upper_neck"), MPII.index("head_top")]] = 2
    boxes = np.concatenate([keypoints.min(1), keypoints.max(1)], axis=1)
    return PersonLabels(keypoints, visibility, boxes, np.ones(n, np.float32), np.zeros(n, bool))


class Knowing:
    """A predictor that answers with the truth, moved by some pixels, best first by box width."""

    def __init__(self, dataset: MpiiKeypoints, offset: float = 0.0) -> None:
        self.skeleton, self.offset = MPII, offset
        self.name, self.weights = "knowing", "none"
        labels = dataset.all_labels()
        self.people = {tuple(box): points for box, points in zip(labels.boxes.tolist(), labels.keypoints, strict=True)}

    def __call__(self, images: list, boxes: list) -> list[Poses]:
        found = []
        for own in boxes:
            order = np.argsort(-own[:, 2])
            keypoints = torch.from_numpy(np.stack([self.people[tuple(own[row].tolist())] for row in order]))
            n = len(own)
            scores = torch.linspace(1, 0, n)
            found.append(
                Poses(keypoints + self.offset, torch.ones(n, K), torch.from_numpy(own[order]), scores, MPII, (9, 9))
            )
        return found


# --- the files


def test_pixels_count_from_zero_and_boxes_are_squares_around_the_moved_centre(tmp_path):
    dataset = MpiiKeypoints(write(tmp_path, [record()]))
    labels = dataset.labels(0)
    assert len(dataset) == 1
    np.testing.assert_allclose(labels.keypoints[0, :3], [[0, 0], [10, 5], [20, 10]])
    assert labels.visibility[0].tolist() == [2] * (K - 1) + [0]
    np.testing.assert_allclose(labels.boxes, [[0, -35, 200, 165]])  # 15 pixels down, 200 wide


def test_an_unknown_centre_is_not_moved(tmp_path):
    labels = MpiiKeypoints(write(tmp_path, [record(centre=(-1, -1))])).labels(0)
    np.testing.assert_allclose(labels.boxes, [[-102, -102, 98, 98]])


def test_people_of_a_picture_are_together_and_know_their_place_in_the_file(tmp_path):
    records = [record("a.jpg", (50, 50)), record("b.jpg", (60, 60)), record("a.jpg", (70, 70))]
    dataset = MpiiKeypoints(write(tmp_path, records))
    assert [dataset.image_name(index) for index in range(2)] == ["a.jpg", "b.jpg"]
    assert dataset.all_labels().annotation_ids.tolist() == [0, 2, 1]
    assert [len(dataset[index].labels) for index in range(2)] == [2, 1]
    assert dataset[0].image.shape == (120, 240, 3)
    assert MpiiKeypoints(tmp_path, limit=1).image_ids == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": [[1, 2]]}, r"record 0: joints and joints_vis must be 16 points"),
        ({"scale": -1.0}, "record 0: expected a centre of two numbers and a positive scale"),
        ({"center": [1, float("nan")]}, "record 0: expected a centre"),
    ],
)
def test_a_broken_record_is_an_error_that_names_it(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        MpiiKeypoints(write(tmp_path, [record(**changes)]))


def test_a_missing_field_and_a_missing_file_are_named(tmp_path):
    broken = record()
    del broken["scale"]
    with pytest.raises(ValueError, match=r"train\.json: record 0 has no 'scale'"):
        MpiiKeypoints(write(tmp_path, [broken]))
    with pytest.raises(FileNotFoundError, match=r"annot/valid\.json"):
        MpiiKeypoints(tmp_path, "valid")


def test_a_folder_is_opened_by_the_format_s_name(tmp_path):
    write(tmp_path, [record()])
    dataset = open_dataset(str(tmp_path), "train", MPII, layout=LAYOUTS["mpii"], with_keypoints=True)
    assert isinstance(dataset, MpiiKeypoints)


def test_what_is_written_is_read_back(tmp_path):
    labels = people(3)
    labels.visibility[1, MPII.index("head_top")] = 0  # has no head to be measured in
    (tmp_path / "images").mkdir()
    assert write_mpii(tmp_path, "valid", [("a.jpg", labels), ("b.jpg", people(2, 1))]) == 4
    dataset = MpiiKeypoints(tmp_path, "valid")
    read = dataset.labels(0)
    kept = [0, 2]
    shown = labels.visibility[kept] > 0
    np.testing.assert_allclose(read.keypoints[shown], labels.keypoints[kept][shown], atol=1e-3)
    np.testing.assert_array_equal(read.visibility > 0, shown)
    centre = (labels.boxes[kept, 2:] + labels.boxes[kept, :2]) / 2
    np.testing.assert_allclose((read.boxes[:, 2:] + read.boxes[:, :2]) / 2, centre, atol=1e-3)
    truth = truth_of(dataset)
    head = labels.keypoints[kept][:, [MPII.index("upper_neck"), MPII.index("head_top")]]
    np.testing.assert_allclose(truth.head_sizes[:2], np.linalg.norm(head[:, 1] - head[:, 0], axis=1), rtol=1e-4)
    np.testing.assert_allclose(truth.keypoints[:2][shown], labels.keypoints[kept][shown], atol=1e-3)


# --- the measure


def truth_with(n: int = 4) -> MpiiTruth:
    rng = np.random.default_rng(3)
    labelled = rng.random((n, K)) > 0.2
    return MpiiTruth(rng.uniform(0, 200, (n, K, 2)), labelled, rng.uniform(10, 30, n))


def plain_pckh(keypoints: np.ndarray, truth: MpiiTruth, threshold: float) -> tuple[np.ndarray, float]:
    """Keypoint by keypoint: shares, and the mean that leaves out pelvis and thorax."""
    shares, hits, count = [], 0, 0
    for k in range(K):
        rows = [row for row in range(len(keypoints)) if truth.labelled[row, k]]
        near = [
            np.hypot(*(keypoints[row, k] - truth.keypoints[row, k])) / truth.head_sizes[row] <= threshold
            for row in rows
        ]
        shares.append(np.mean(near))
        if k not in (6, 7):
            hits, count = hits + sum(near), count + len(near)
    return np.array(shares), hits / count


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_shares_are_those_of_a_plain_count(threshold):
    truth = truth_with(30)
    rng = np.random.default_rng(4)
    keypoints = truth.keypoints + rng.normal(0, 8, truth.keypoints.shape)
    shares, mean = plain_pckh(keypoints, truth, threshold)
    table = pckh(keypoints, truth, threshold)
    assert table["Mean"] == pytest.approx(mean)
    assert table["Head"] == pytest.approx(shares[9])
    assert table["Wrist"] == pytest.approx((shares[10] + shares[15]) / 2)
    assert set(table) == {*GROUPS, "Mean"}


def test_what_the_published_code_calls_a_tenth_is_eleven_hundredths():
    truth = truth_with()
    keypoints = truth.keypoints + truth.head_sizes[:, None, None] * 0.105 / np.sqrt(2)
    metrics = score_mpii(keypoints, truth)
    assert (metrics["PCKh"], metrics["mean_01"], metrics["mean_011"]) == (1.0, 0.0, 1.0)


def test_predictions_that_are_not_finite_or_too_few_are_errors():
    truth = truth_with()
    with pytest.raises(ValueError, match="must be finite"):
        pckh(np.full_like(truth.keypoints, np.nan), truth)
    with pytest.raises(ValueError, match=r"shape \(3, 16, 2\), the ground truth \(4, 16, 2\)"):
        pckh(truth.keypoints[:3], truth)


def test_the_ground_truth_is_read_whatever_order_its_keypoints_have(tmp_path):
    rng = np.random.default_rng(5)
    order = rng.permutation(K)
    names = np.array(list(NAMES.values()), dtype=object)[order]
    points, missing = rng.uniform(1, 100, (K, 2, 3)), rng.integers(0, 2, (K, 3))
    heads = np.array([[10.0, 20, 30], [10, 20, 30]]), np.array([[16.0, 26, 36], [18, 28, 38]])
    content = {
        "dataset_joints": names[None],
        "jnt_missing": missing[order],
        "pos_gt_src": points[order],
        "headboxes_src": np.stack(heads),
    }
    savemat(tmp_path / "gt.mat", content)
    truth = read_truth(tmp_path / "gt.mat")
    np.testing.assert_allclose(truth.keypoints, points.transpose(2, 0, 1) - 1)
    np.testing.assert_array_equal(truth.labelled, missing.T == 0)
    np.testing.assert_allclose(truth.head_sizes, [6.0, 6.0, 6.0])
    savemat(tmp_path / "odd.mat", {"jnt_missing": missing})
    with pytest.raises(ValueError, match=r"odd\.mat lacks dataset_joints, pos_gt_src, headboxes_src; it has jnt_miss"):
        read_truth(tmp_path / "odd.mat")
    savemat(tmp_path / "odd.mat", content | {"jnt_missing": missing[:, :2]})
    with pytest.raises(ValueError, match=r"odd\.mat: jnt_missing must be numbers of shape \(16, 3\), got \(16, 2\)"):
        read_truth(tmp_path / "odd.mat")


@pytest.mark.parametrize("kept", [0, 100, 700])
def test_a_damaged_matlab_file_is_an_error_that_names_it(tmp_path, kept):
    savemat(tmp_path / "whole.mat", {"preds": np.ones((4, K, 2))})
    (tmp_path / "cut.mat").write_bytes((tmp_path / "whole.mat").read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cut\.mat is no MATLAB file, or damaged"):
        read_mat(tmp_path / "cut.mat", ("preds",))


def test_a_matlab_file_of_the_newest_kind_is_refused_with_advice(tmp_path):
    start = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "new.mat").write_bytes(start + bytes(512))
    with pytest.raises(ValueError, match=r"new\.mat is a MATLAB 7\.3 \(HDF5\) file; save it again with -v7"):
        read_mat(tmp_path / "new.mat", ("preds",))


def test_poses_are_put_in_the_order_of_their_boxes():
    boxes = PersonBoxes(np.array([[0.0, 0, 10, 10], [5, 5, 30, 30]], np.float32), np.ones(2, np.float32))
    keypoints = torch.arange(2.0)[:, None, None].expand(2, K, 2)
    poses = Poses(keypoints, torch.ones(2, K), torch.from_numpy(boxes.boxes[::-1].copy()), torch.ones(2), MPII)
    assert in_order(poses, boxes.boxes)[:, 0, 0].tolist() == [1.0, 0.0]


# --- the script


@pytest.fixture
def run_mpii():
    """The evaluation script as a module."""
    specification = importlib.util.spec_from_file_location("run_mpii", ROOT / "evaluate" / "run_mpii.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["run_mpii"] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two pictures in MPII's layout; the working directory is empty."""
    data = tmp_path / "mpii"
    (data / "images").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(np.zeros((160, 160, 3), np.uint8)).save(data / "images" / name)
    write_mpii(data, "valid", [("a.jpg", people(2)), ("b.jpg", people(3, 1))])
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return data


def test_the_script_scores_a_predictor_and_the_file_it_writes(run_mpii, folder, capsys):
    def load(*_, **__) -> Knowing:
        return Knowing(MpiiKeypoints(folder, "valid"), offset=0.01)

    assert run_mpii.main(["--data", str(folder), "--out", "one"], load) == 0
    printed = capsys.readouterr().out
    assert "100.000" in printed
    assert json.loads(Path("one/metrics.json").read_text())["metrics"]["mean_01"] == 1.0
    assert run_mpii.main(["--data", str(folder), "--from-mat", "one/pred.mat", "--out", "two"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == printed.splitlines()[:3]
    savemat("flat.mat", {"preds": np.ones((4, K))})
    assert run_mpii.main(["--data", str(folder), "--from-mat", "flat.mat"]) == 2
    assert "flat.mat: preds must be numbers of shape [people, keypoints, 2]" in capsys.readouterr().err


def test_the_script_names_what_is_missing(run_mpii, folder, capsys):
    (folder / "annot" / "gt_valid.mat").unlink()
    assert run_mpii.main(["--data", str(folder)]) == 2
    assert "gt_valid.mat" in capsys.readouterr().err
    assert run_mpii.main(["--data", str(folder / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
