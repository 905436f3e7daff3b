"""Synthetic people: the same everywhere, labelled exactly, and readable by COCO's own tools."""

import contextlib
import importlib.util
import io
import json
import pickle
import random
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from multiposenet.data.arrangements import ARRANGEMENTS
from multiposenet.data.bodies import sample_figure
from multiposenet.data.body_poses import Arm, BodyPose, Leg, turn_x, turn_y
from multiposenet.data.figures import KEYPOINTS, shown_by
from multiposenet.data.solids import Solid, render
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Sample

SCRIPT = Path(__file__).parents[1] / "datasets" / "synthesize.py"


@pytest.fixture(scope="module")
def dataset() -> SyntheticPeople:
    return SyntheticPeople(24, seed=5)


@pytest.fixture(scope="module")
def scenes(dataset):
    return [dataset.scene(index) for index in range(len(dataset))]


@pytest.fixture(scope="module")
def samples(dataset, scenes) -> list[Sample]:
    return [dataset.sample(index, scene) for index, scene in enumerate(scenes)]


def assert_same_sample(first: Sample, second: Sample) -> None:
    for field in fields(Sample):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name == "labels":
            for label in fields(a):
                np.testing.assert_array_equal(getattr(a, label.name), getattr(b, label.name), strict=True)
        else:
            np.testing.assert_array_equal(a, b)


# --- the same everywhere ----------------------------------------------------------------------------------------------


def test_a_picture_is_the_same_in_any_order_and_in_a_longer_set(samples):
    longer = SyntheticPeople(1000, seed=5)
    for index in (7, 2, 7):
        assert_same_sample(longer[index], samples[index])


def test_a_picture_is_the_same_in_another_process(dataset, samples):
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(dataset, [3, 0]), batch_size=None, num_workers=2, collate_fn=lambda sample: sample
    )
    for index, sample in zip((3, 0), loader, strict=True):
        assert_same_sample(sample, samples[index])


def test_a_dataset_survives_pickling(dataset, samples):
    assert_same_sample(pickle.loads(pickle.dumps(dataset))[1], samples[1])


def test_another_seed_gives_other_scenes(samples):
    other = SyntheticPeople(3, seed=6)
    for sample in other:
        assert not any(np.array_equal(sample.image, known.image) for known in samples)


def test_the_global_random_state_is_untouched(dataset):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    dataset[0]
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    torch.testing.assert_close(torch.get_rng_state(), before[2])


def test_iteration_ends_after_the_last_picture(dataset):
    short = SyntheticPeople(2, seed=5)
    assert [sample.image_id for sample in short] == short.image_ids == [1, 2]
    assert_same_sample(short[-1], dataset[1])
    for index in (2, -3):
        with pytest.raises(IndexError, match="of 2"):
            short[index]


def test_identity_tells_different_data_apart():
    reference = SyntheticPeople(4).identity()
    assert json.loads(json.dumps(reference)) == reference == SyntheticPeople(4).identity()
    for options in ({"seed": 1}, {"image_size": (64, 96)}, {"people": (0, 3)}, {"arrangement": "coco"}):
        assert SyntheticPeople(4, **options).identity() != reference


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labelled_keypoints_lie_inside_the_picture_and_others_are_zero(samples):
    for sample in samples:
        height, width = sample.image.shape[:2]
        keypoints, labelled = sample.labels.keypoints, sample.labels.visibility > 0
        assert (keypoints[labelled] >= 0).all()
        assert (keypoints[labelled] <= (width - 1, height - 1)).all()
        assert (keypoints[~labelled] == 0).all()


def test_boxes_are_tight_around_segments_and_areas_count_their_pixels(samples, scenes):
    for sample, scene in zip(samples, scenes, strict=True):
        masks = scene.masks()
        assert len(masks) == len(sample.labels)
        np.testing.assert_array_equal(masks.sum((1, 2)), sample.labels.areas)
        for mask, box in zip(masks, sample.labels.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_segments_are_disjoint_and_make_up_the_person_mask(samples, scenes):
    for sample, scene in zip(samples, scenes, strict=True):
        covered = scene.masks().sum(0)
        assert covered.max(initial=0) <= 1
        np.testing.assert_array_equal(covered > 0, sample.person_mask)


def test_only_people_without_any_labelled_keypoint_are_ignored(scenes, samples):
    ears = SyntheticPeople(24, seed=5, skeleton=Skeleton("ears", ("left_ear", "right_ear")))
    ignored = 0
    for index, (scene, whole) in enumerate(zip(scenes, samples, strict=True)):
        for sample in (whole, ears.sample(index, scene)):
            unlabelled = (sample.labels.visibility == 0).all(1)
            np.testing.assert_array_equal(sample.ignore_mask, scene.masks()[unlabelled].any(0))
            ignored += int(unlabelled.sum())
    assert ignored > 0


def test_visible_keypoints_lie_on_the_persons_own_segment(samples, scenes):
    for sample, scene in zip(samples, scenes, strict=True):
        for i, (mask, visibility) in enumerate(zip(scene.masks(), sample.labels.visibility, strict=True)):
            near = np.pad(mask, 1)
            for x, y in np.rint(sample.labels.keypoints[i][visibility == 2]).astype(int):
                assert near[y : y + 3, x : x + 3].any()


def test_every_keypoint_is_sometimes_visible_hidden_and_outside(samples):
    visibility = np.concatenate([sample.labels.visibility for sample in samples])
    for value in (0, 1, 2):
        assert (visibility == value).any(0).all()
    assert (visibility == 2).mean() > 0.4


def test_people_overlap_and_come_in_many_sizes(samples):
    heights = np.concatenate([np.diff(sample.labels.boxes[:, 1::2])[:, 0] for sample in samples])
    assert heights.min() < 60
    assert heights.max() > 300


STRAIGHT = BodyPose(*(Arm(0, 8, 0, 0),) * 2, *(Leg(0, 3, 0, 0),) * 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("yaw", "order"), [(0, 1), (180, -1)])
def test_a_figure_that_faces_us_has_its_left_to_our_right_and_the_other_way_round_from_behind(yaw, order, seed):
    figure = sample_figure(np.random.default_rng(seed), STRAIGHT)
    _, keypoints, _ = figure.place(turn_x(5) @ turn_y(yaw), 300, (200, 200), 6)
    at = dict(zip(KEYPOINTS, keypoints, strict=True))
    for name in ("shoulder", "hip", "knee", "ankle", "ear", "eye", "wrist"):
        assert order * (at[f"left_{name}"][0] - at[f"right_{name}"][0]) > 0
    assert order * (at["nose"][2] - at["head"][2]) > 0
    assert at["head_top"][1] < at["left_shoulder"][1] < at["left_hip"][1] < at["left_knee"][1] < at["left_ankle"][1]


def shown(seed: int, yaw: float, keypoint: str) -> bool:
    """Whether the surface at a keypoint of a straight figure shows it."""
    figure = sample_figure(np.random.default_rng(seed), STRAIGHT)
    solids, keypoints, units = figure.place(turn_y(yaw), 300, (200, 200), 6)
    buffer = render(solids, (480, 480), np.array([0, 0, 0.3]), 0.6, np.zeros((8, 8), np.float32))
    index = KEYPOINTS.index(keypoint)
    x, y, z = keypoints[index]
    row, column = round(y) - buffer.window[1], round(x) - buffer.window[0]
    parts, reach = shown_by(keypoint)
    surface = solids[buffer.code[row, column] >> 1].part
    return surface in parts and buffer.depth[row, column] <= z + reach * units[index]


def test_the_face_shows_from_the_front_only():
    for keypoint in ("nose", "left_eye", "right_eye"):
        assert np.mean([shown(seed, 0, keypoint) for seed in range(12)]) > 0.7
        assert not any(shown(seed, 180, keypoint) for seed in range(12))


def test_from_the_side_the_near_arm_shows_and_the_far_one_does_not():
    # Turned to our right, its right side is towards us.
    assert np.mean([shown(seed, 90, "right_elbow") for seed in range(12)]) > 0.7
    assert not any(shown(seed, 90, "left_elbow") for seed in range(12))


# --- solids -----------------------------------------------------------------------------------------------------------


def depth_of(solid: Solid) -> np.ndarray:
    depth = np.full((64, 64), -np.inf, np.float32)
    buffer = render([solid], (64, 64), np.array([0, 0, 0.3]), 0.6, np.zeros((8, 8), np.float32))
    x1, y1, x2, y2 = buffer.window
    depth[y1:y2, x1:x2] = buffer.depth
    return depth


def test_a_ball_is_the_same_as_an_ellipsoid_as_a_short_capsule_and_by_formula():
    centre, colours = np.array([30.3, 31.7, 4.0]), np.zeros((2, 3))
    y, x = np.mgrid[:64, :64]
    rest = 12.0**2 - (x - centre[0]) ** 2 - (y - centre[1]) ** 2
    expected = np.where(rest > 0, centre[2] + np.sqrt(np.maximum(rest, 0)), -np.inf)
    ellipsoid = Solid("ball", colours, centre, axes=12.0 * np.eye(3))
    capsule = Solid("ball", colours, centre, centre + np.array([0, 1e-4, 0]), (12.0, 12.0))
    for solid in (ellipsoid, capsule):
        np.testing.assert_allclose(depth_of(solid), expected, atol=0.02)


def test_a_slanted_capsule_has_every_surface_point_one_radius_from_its_axis():
    start, end, radius = np.array([15.0, 20, -10]), np.array([45.0, 40, 25]), 7.0
    depth = depth_of(Solid("limb", np.zeros((2, 3)), start, end, (radius, radius)))
    y, x = np.nonzero(np.isfinite(depth))
    points = np.stack([x, y, depth[y, x]], axis=1)
    axis = (end - start) / np.linalg.norm(end - start)
    along = np.clip((points - start) @ axis, 0, np.linalg.norm(end - start))
    distance = np.linalg.norm(points - start - along[:, None] * axis, axis=1)
    np.testing.assert_allclose(distance, radius, atol=0.02)


# --- sizes, crowds, skeletons, mistakes ------------------------------------------------------------------------------


def test_a_picture_with_nobody_is_a_normal_picture():
    dataset = SyntheticPeople(2, people=(0, 0))
    for sample in dataset:
        assert len(sample.labels) == 0
        assert sample.labels.keypoints.shape == (0, 17, 2)
        assert not sample.person_mask.any()
        assert not sample.ignore_mask.any()
    assert dataset.ground_truth()["annotations"] == []


def test_thirty_people_fit_into_a_picture():
    sample = SyntheticPeople(1, people=(30, 30))[0]
    assert 15 < len(sample.labels) <= 30


def test_arranged_like_coco_s_people_there_are_fewer_and_larger_ones_and_no_small_one_has_keypoints():
    crowded, coco = (SyntheticPeople(60, 7, people=(1, 8), arrangement=name) for name in ("crowded", "coco"))
    labels = {dataset.arrangement: [sample.labels for sample in dataset] for dataset in (crowded, coco)}
    labelled = {name: [(own.visibility > 0).any(1) for own in pictures] for name, pictures in labels.items()}
    areas = {
        name: np.concatenate([own.areas[rows] for own, rows in zip(pictures, labelled[name], strict=True)])
        for name, pictures in labels.items()
    }
    assert len(areas["coco"]) < 0.7 * len(areas["crowded"])
    assert np.median(areas["coco"]) > 1.5 * np.median(areas["crowded"])
    assert areas["coco"].min() >= 32 * 32 > areas["crowded"].min()
    small = [own.areas < 32 * 32 for own in labels["coco"]]
    assert any(rows.any() for rows in small)
    assert not any(own.visibility[rows].any() for own, rows in zip(labels["coco"], small, strict=True))


def test_the_number_of_people_stays_in_its_range_in_every_arrangement():
    arrangement, rng = ARRANGEMENTS["coco"], np.random.default_rng(0)
    counts = [arrangement.sample_count(rng, (2, 4)) for _ in range(200)]
    assert set(counts) == {2, 3, 4}
    assert counts.count(2) > counts.count(3) > counts.count(4)
    assert arrangement.sample_count(rng, (0, 0)) == 0
    assert arrangement.sample_count(rng, (30, 40)) == 30  # more than it knows chances of


@pytest.mark.parametrize("image_size", [(32, 32), (96, 160), (1100, 300)])
def test_pictures_have_the_size_that_was_asked_for(image_size):
    sample = SyntheticPeople(1, seed=2, image_size=image_size, people=(3, 3))[0]
    assert sample.image.shape == (*image_size, 3)
    assert sample.image.dtype == np.uint8


def test_other_skeletons_are_labelled_by_name(samples):
    skeleton = Skeleton("some", ("head_top", "neck", "right_ankle", "left_ankle", "pelvis", "thorax"))
    sample = SyntheticPeople(24, seed=5, skeleton=skeleton)[4]
    np.testing.assert_array_equal(sample.image, samples[4].image)
    for mine, theirs in ((2, "right_ankle"), (3, "left_ankle")):
        theirs = COCO_PERSON.index(theirs)
        np.testing.assert_array_equal(sample.labels.keypoints[:, mine], samples[4].labels.keypoints[:, theirs])
    standing = sample.labels.visibility[:, :2].all(1)
    assert standing.any()


def test_a_skeleton_with_unknown_keypoints_is_refused_by_their_names():
    with pytest.raises(ValueError, match="lack: tail, left_wing;"):
        SyntheticPeople(1, skeleton=Skeleton("bird", ("nose", "tail", "left_wing")))


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"count": -1}, "count"),
        ({"seed": -1}, "seed"),
        ({"image_size": (16, 480)}, "image_size"),
        ({"people": (3, 2)}, "people"),
        ({"people": (-1, 2)}, "people"),
        ({"people": (0, 1000)}, "people"),
        ({"arrangement": "queue"}, "arrangement"),
    ],
)
def test_arguments_out_of_range_are_named(options, argument):
    with pytest.raises(ValueError, match=argument):
        SyntheticPeople(**{"count": 1, **options})


# --- COCO -------------------------------------------------------------------------------------------------------------


def load_coco(content: dict) -> COCO:
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


@pytest.fixture(scope="module")
def ground_truth() -> dict:
    return json.loads(json.dumps(SyntheticPeople(12, seed=5).ground_truth()))


def test_the_ground_truth_says_what_the_samples_say(ground_truth, samples, scenes):
    coco = load_coco(ground_truth)
    assert ground_truth["categories"][0]["keypoints"] == list(COCO_PERSON.keypoints)
    ids = [row["id"] for row in ground_truth["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    for index in range(12):
        rows = coco.loadAnns(coco.getAnnIds(imgIds=[index + 1]))
        labels, masks = samples[index].labels, scenes[index].masks()
        assert len(rows) == len(labels)
        for i, row in enumerate(rows):
            x, y, width, height = row["bbox"]
            assert [x, y, x + width, y + height] == labels.boxes[i].tolist()
            np.testing.assert_array_equal(coco.annToMask(row).astype(bool), masks[i])
            assert row["area"] == labels.areas[i] == coco_mask.area(coco.annToRLE(row))
            triples = np.array(row["keypoints"]).reshape(-1, 3)
            np.testing.assert_allclose(triples[:, :2], labels.keypoints[i], atol=0.006)
            np.testing.assert_array_equal(triples[:, 2], labels.visibility[i])
            assert row["num_keypoints"] == (labels.visibility[i] > 0).sum()
            assert row["iscrowd"] == 0


def test_the_ground_truth_given_as_predictions_has_an_average_precision_of_one(ground_truth):
    coco = load_coco(ground_truth)
    results = [
        {**{key: row[key] for key in ("image_id", "category_id", "keypoints")}, "score": 1.0}
        for row in ground_truth["annotations"]
        if row["num_keypoints"] > 0
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


# --- datasets/synthesize.py -------------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch):
    """The script as a module that leaves no trace."""
    spec = importlib.util.spec_from_file_location("synthesize", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "synthesize", module)
    spec.loader.exec_module(module)
    return module


def annotations_in(folder: Path) -> dict:
    return json.loads((folder / "annotations" / "person_keypoints_val2017.json").read_text())


def test_the_script_writes_what_the_dataset_draws(tmp_path):
    arguments = ["--count", "3", "--seed", "5", "--size", "120x160", "--quality", "png", "--workers", "2"]
    run = subprocess.run(
        [sys.executable, SCRIPT, "--out", tmp_path, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == 1
    assert "3 pictures" in run.stdout
    content, dataset = annotations_in(tmp_path), SyntheticPeople(3, seed=5, image_size=(120, 160))
    assert content["annotations"] == dataset.ground_truth()["annotations"]
    for index, image in enumerate(content["images"]):
        assert image["file_name"] == f"{index + 1:012d}.png"
        with Image.open(tmp_path / "val2017" / image["file_name"]) as picture:
            np.testing.assert_array_equal(np.asarray(picture), dataset[index].image)


def test_the_script_replaces_a_split_only_when_told_to(script, tmp_path):
    def main(*more: str) -> None:
        script.main(["--out", str(tmp_path), "--size", "64", *more])

    main("--count", "3", "--seed", "5")
    with pytest.raises(FileExistsError, match="--overwrite"):
        main("--count", "2", "--seed", "6")
    main("--count", "2", "--seed", "6", "--overwrite", "--people", "0-2")
    assert sorted(path.name for path in (tmp_path / "val2017").iterdir()) == ["000000000001.jpg", "000000000002.jpg"]
    expected = SyntheticPeople(2, seed=6, image_size=(64, 64), people=(0, 2)).ground_truth()
    assert annotations_in(tmp_path) == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--people", "eight"), "FEWEST-MOST"),
        (("--people", "8-1"), "people"),
        (("--size", "480x"), "HEIGHTxWIDTH"),
        (("--size", "8x8"), "image_size"),
        (("--quality", "101"), "quality"),
        (("--count", "0"), "at least 1"),
        (("--split", "../elsewhere"), "--split"),
    ],
)
def test_the_script_explains_bad_arguments(script, arguments, message, tmp_path, capsys):
    given = {"--out": str(tmp_path), "--count": "1", "--seed": "1", **dict([arguments])}
    flat = [text for item in given.items() for text in item]
    with pytest.raises(SystemExit):
        script.parse_arguments(flat)
    assert message in capsys.readouterr().err
