"""Conversions between formats: round trips, small files in each exact format, and what is said about losses."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from test_formats import crowdpose_content

from multiposenet import cli
from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.convert.data_yaml import read_data_yaml, write_data_yaml
from multiposenet.data.convert.yolo_reader import label_file, read_yolo
from multiposenet.data.pictures import load_picture
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.evaluation.crowdpose import evaluate_crowdpose
from multiposenet.skeletons import COCO_PERSON, CROWDPOSE, MPII, Skeleton

HEIGHT, WIDTH = 160, 200


@pytest.fixture(scope="module")
def people() -> SyntheticPeople:
    return SyntheticPeople(4, seed=3, image_size=(HEIGHT, WIDTH), people=(1, 3))


@pytest.fixture(scope="module")
def pictures(people, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(len(people)):
        Image.fromarray(people[index].image).save(folder / people.image_name(index))
    return folder


@pytest.fixture
def coco(people, pictures, tmp_path) -> Path:
    """A data set in COCO's layout: single people, one of them without keypoints, and a crowd."""
    content = people.ground_truth()
    first = content["annotations"][0]
    content["annotations"] += [
        first | {"id": 500, "keypoints": [0] * 51, "num_keypoints": 0, "bbox": [3.5, 4.25, 20.5, 30.75]},
        first | {"id": 501, "iscrowd": 1, "keypoints": [0] * 51, "num_keypoints": 0},
    ]
    root = tmp_path / "coco"
    write_json(root / "annotations" / "person_keypoints_train2017.json", content)
    shutil.copytree(pictures, root / "train2017")
    return root


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def read_json(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"person_keypoints_{split}.json").read_text())


def convert(kind: str, to: str, source: Path, out: Path, *more: str) -> Path:
    assert cli.main(["data", "convert", "--from", kind, "--to", to, str(source), str(out), *more]) == 0
    return out


def refused(capsys, *arguments: object) -> str:
    """The message of a conversion that cannot be done."""
    assert cli.main(["data", "convert", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_coco_to_yolo_and_back_is_what_it_was_but_for_what_yolo_cannot_hold(coco, tmp_path, capsys):
    yolo = convert("coco", "yolo", coco, tmp_path / "yolo")
    told = capsys.readouterr().out
    assert "1 crowds are left out" in told
    assert "cannot hold areas, segmentations, annotation ids, limbs, OKS sigmas" in told
    back = convert("yolo", "coco", yolo, tmp_path / "back")
    before, after = read_json(coco, "train2017"), read_json(back, "train")
    pictures = [{field: i[field] for field in ("id", "file_name", "width", "height")} for i in before["images"]]
    assert after["images"] == pictures
    assert after["categories"][0]["keypoints"] == list(COCO_PERSON.keypoints)
    single = [person for person in before["annotations"] if not person["iscrowd"]]
    single.sort(key=lambda person: person["image_id"])
    assert [p["image_id"] for p in after["annotations"]] == [p["image_id"] for p in single]
    assert [p["num_keypoints"] for p in after["annotations"]] == [p["num_keypoints"] for p in single]
    for field in ("keypoints", "bbox"):
        # Six decimals of a share, then COCO's 0.01 pixel.
        values = [np.array([person[field] for person in records], float) for records in (after["annotations"], single)]
        np.testing.assert_allclose(*values, rtol=0, atol=0.0101)
    data = CocoKeypoints(back, "train")
    np.testing.assert_array_equal(data[0].image, CocoKeypoints(coco)[0].image)


def test_yolo_to_coco_and_back_gives_the_same_files(coco, tmp_path):
    yolo = convert("coco", "yolo", coco, tmp_path / "yolo")
    again = convert("coco", "yolo", convert("yolo", "coco", yolo, tmp_path / "back"), tmp_path / "again")
    files = sorted(path.relative_to(yolo) for path in yolo.rglob("*.txt"))
    assert len(files) == 4
    assert (again / "data.yaml").read_text() == (yolo / "data.yaml").read_text()
    for file in files:
        before, after = (np.loadtxt(root / file, ndmin=2) for root in (yolo, again))
        np.testing.assert_allclose(after, before, rtol=0, atol=0.011 / HEIGHT)


def test_real_labels_survive_the_way_to_yolo_and_back(coco_mini, tmp_path):
    yolo = convert("coco", "yolo", coco_mini, tmp_path / "yolo", "--split", "val2017")
    back = convert("yolo", "coco", yolo, tmp_path / "back", "--place", "none")
    before, after = read_json(coco_mini, "val2017"), read_json(back, "val")
    order = {image["id"]: place for place, image in enumerate(after["images"])}
    single = [person for person in before["annotations"] if not person["iscrowd"]]
    single.sort(key=lambda person: order[person["image_id"]])
    # COCO's keypoints are whole pixels, so they come back without an error.
    assert [p["keypoints"] for p in after["annotations"]] == [p["keypoints"] for p in single]
    boxes = [np.array([person["bbox"] for person in records]) for records in (after["annotations"], single)]
    np.testing.assert_allclose(*boxes, rtol=0, atol=0.0101)


def test_what_lies_outside_of_a_picture_is_cut_and_told(coco, tmp_path, capsys):
    content = read_json(coco, "train2017")
    person = content["annotations"][0]
    labelled = next(k for k in range(17) if person["keypoints"][3 * k + 2])
    person["keypoints"][3 * labelled] = -0.5
    person["bbox"] = [-0.5, 10, 40, 50]
    write_json(coco / "annotations" / "person_keypoints_train2017.json", content)
    yolo = convert("coco", "yolo", coco, tmp_path / "yolo")
    told = capsys.readouterr().out
    assert "1 keypoints outside of their pictures" in told
    assert "1 boxes are cut" in told
    first = np.loadtxt(yolo / "labels" / "train" / "000000000001.txt", ndmin=2)[0]
    assert first[5 + 3 * labelled : 8 + 3 * labelled].tolist() == [0, 0, 0]
    np.testing.assert_allclose(first[1:5], [39.5 / 2 / WIDTH, 35 / HEIGHT, 39.5 / WIDTH, 50 / HEIGHT], atol=1e-6)


@pytest.mark.parametrize("exchanged", [False, True])
def test_width_and_height_are_exchanged_only_where_the_picture_is_so(coco, tmp_path, capsys, exchanged):
    content = read_json(coco, "train2017")
    content["annotations"][0]["bbox"] = [20, 10, 60, HEIGHT + 4 - 10]  # drawn a little over the lower edge
    if exchanged:
        content["annotations"][0]["bbox"] = [20, 10, WIDTH - 24, 100]
        content["images"][0] |= {"width": HEIGHT, "height": WIDTH}
    write_json(coco / "annotations" / "person_keypoints_train2017.json", content)
    converted = read_json(convert("coco", "coco", coco, tmp_path / "out"), "train2017")
    assert ("width-height-exchanged" in capsys.readouterr().out) == exchanged
    image, person = converted["images"][0], converted["annotations"][0]
    assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
    assert person["keypoints"] == content["annotations"][0]["keypoints"]


def test_a_size_that_is_missing_is_the_picture_s(coco, tmp_path):
    content = read_json(coco, "train2017")
    del content["images"][1]["width"]
    write_json(coco / "annotations" / "person_keypoints_train2017.json", content)
    image = read_json(convert("coco", "coco", coco, tmp_path / "out"), "train2017")["images"][1]
    assert (image["width"], image["height"]) == (WIDTH, HEIGHT)


def test_pictures_in_a_folder_named_images_keep_their_people(coco, tmp_path):
    content = read_json(coco, "train2017")
    for image in content["images"]:
        image["file_name"] = f"images/{image['file_name']}"
    write_json(coco / "annotations" / "person_keypoints_train2017.json", content)
    (coco / "train2017").rename(coco / "images")
    (coco / "train2017").mkdir()
    (coco / "images").rename(coco / "train2017" / "images")
    yolo = convert("coco", "yolo", coco, tmp_path / "yolo")
    back = read_json(convert("yolo", "coco", yolo, tmp_path / "back"), "train")
    assert len(back["annotations"]) == sum(not person["iscrowd"] for person in content["annotations"])


def test_two_pictures_or_splits_that_would_share_a_place_are_refused(coco, tmp_path, capsys):
    content = read_json(coco, "train2017")
    write_json(coco / "annotations" / "person_keypoints_train_more.json", content)
    message = refused(capsys, "--from", "coco", "--to", "yolo", coco, tmp_path / "one")
    assert "splits 'train2017' and 'train_more' would both be 'train'" in message
    content["images"][1]["file_name"] = Path(content["images"][0]["file_name"]).with_suffix(".png").name
    write_json(coco / "annotations" / "person_keypoints_train2017.json", content)
    message = refused(capsys, "--from", "coco", "--to", "yolo", coco, tmp_path / "two", "--split", "train2017")
    assert "'000000000001.jpg' (image 1) and '000000000001.png' (image 2) would share" in message
    assert list((tmp_path / "two").iterdir()) == []


@pytest.mark.parametrize("orientation", range(2, 9))
def test_labels_of_stored_pixels_are_turned_with_the_picture(coco, tmp_path, capsys, orientation):
    content = read_json(coco, "train2017")
    image = content["images"][0]
    person = next(p for p in content["annotations"] if p["image_id"] == image["id"])
    # The picture is black but for one pixel, where the nose is.
    person |= {"keypoints": [30, 20, 2] + [0] * 48, "bbox": [20, 10, 40, 60]}
    content |= {"images": [image], "annotations": [person]}
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[20, 30] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(coco / "train2017" / "a.png", exif=exif)
    image["file_name"] = "a.png"
    if orientation < 5:  # turned and of the same size: the labels are the upright picture's
        y, x = np.argwhere(load_picture(coco / "train2017" / "a.png")[..., 0])[0].tolist()
        person |= {"keypoints": [x, y, 2] + [0] * 48}
    write_json(coco / "annotations" / "person_keypoints_train2017.json", content)
    yolo = convert("coco", "yolo", coco, tmp_path / "yolo")
    assert ("labels of 1 pictures are turned" in capsys.readouterr().out) == (orientation >= 5)
    data = CocoKeypoints(convert("yolo", "coco", yolo, tmp_path / "back"), "train")
    x, y = data.labels(0).keypoints[0, 0].round().astype(int)
    assert data.image(0)[y, x].tolist() == [255, 255, 255]
    assert (data.image(0) > 0).sum() == 3
    box = data.labels(0).boxes[0]
    assert sorted((box[2:] - box[:2]).tolist()) == [40, 60]
    if orientation >= 5:  # the nose is a quarter across the box and a sixth down it, whichever way it lies
        inside = np.abs((data.labels(0).keypoints[0, 0] + 0.5 - box[:2]) / (box[2:] - box[:2]) - 0.5)
        np.testing.assert_allclose(sorted(inside), [0.5 - 10.5 / 40, 0.5 - 10.5 / 60], atol=1e-3)


def yolo_folder(root: Path, pictures: Path, description: str, lines: str, folder: str = "images/train") -> Path:
    """A YOLO data set with one picture, 200 x 160, and the given people in it."""
    picture = root / folder / "a.png"
    picture.parent.mkdir(parents=True)
    shutil.copy(pictures / "000000000001.jpg", picture.with_suffix(".jpg"))
    label_file(picture).parent.mkdir(parents=True, exist_ok=True)
    label_file(picture).write_text(lines)
    (root / "data.yaml").write_text(description)
    return root


ROBOFLOW = """
train: ../train/images
val: ../valid/images

kpt_shape: [3, 2]
flip_idx: [0, 2, 1]

nc: 2
names: ['dog', 'person']

roboflow:
  workspace: mine
  url: https://universe.example.org
"""


def test_a_yolo_export_with_other_classes_and_without_visibility_is_read(tmp_path, pictures, capsys):
    lines = "1 0.5 0.5 0.2 0.5 0.1 0.2 0.3 0.4 0 0\n0 0.5 0.5 0.1 0.1 0 0 0 0 0 0\n"
    root = yolo_folder(tmp_path / "yolo", pictures, ROBOFLOW, lines, "train/images")
    back = convert("yolo", "coco", root, tmp_path / "coco", "--split", "train")
    told = capsys.readouterr().out
    assert "1 objects of other classes are left out" in told
    assert "called keypoint_1 to keypoint_3" in told
    (person,) = read_json(back, "train")["annotations"]
    assert person["keypoints"] == [20, 32, 2, 60, 64, 2, 0, 0, 0]
    assert person["bbox"] == [80, 40, 40, 80]
    assert person["area"] == pytest.approx(0.53 * 40 * 80)
    assert person["num_keypoints"] == 2
    skeleton = Skeleton.from_toml(back / "skeleton.toml")
    assert skeleton.flip_indices == [0, 2, 1]
    assert "--skeleton" in told
    assert len(CocoKeypoints(back, "train", skeleton)[0].labels) == 1


COCO_YAML = """# a comment
path: .  # dataset root
train: images/train
val:
kpt_shape: [17, 3]
flip_idx: [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
names:
  0: person
download: |
  from somewhere import anything
  anything("[")
"""


def test_seventeen_keypoints_that_flip_like_coco_s_are_coco_s(tmp_path, pictures, capsys):
    root = yolo_folder(tmp_path / "yolo", pictures, COCO_YAML, "0 .5 .5 .5 .5 " + "0.25 0.75 1.0 " * 17)
    back = convert("yolo", "coco", root, tmp_path / "coco")
    assert "taken to be COCO's" in capsys.readouterr().out
    assert not (back / "skeleton.toml").exists()
    labels = CocoKeypoints(back, "train").labels(0)
    np.testing.assert_array_equal(labels.keypoints[0], [[50, 120]] * 17)
    np.testing.assert_array_equal(labels.visibility[0], [1] * 17)


def test_a_list_of_pictures_and_pictures_without_labels_are_read(tmp_path, pictures):
    root = yolo_folder(tmp_path / "yolo", pictures, COCO_YAML.replace("images/train", "train.txt"), "")
    shutil.copy(pictures / "000000000002.jpg", root / "images" / "train" / "b.jpg")
    (root / "train.txt").write_text("./images/train/a.jpg\n./images/train/b.jpg\n")
    (split,) = read_yolo(root)
    assert [image["file_name"] for image in split.images] == ["a.jpg", "b.jpg"]
    assert split.annotations == []
    assert "1 pictures have no label file: nobody is taken to be there" in split.notes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 .5 .5 .5", "line 2: expected 56 numbers .* got 4"),
        ("0 .5 .5 .5 .5 " + "0.2 x 2 " * 17, "line 2: expected numbers"),
        ("0 .5 .5 .5 .5 " + "0.2 0.2 3 " * 17, "line 2: visibility must be 0, 1 or 2"),
        ("0 .5 .5 .5 .5 " + "120 80 2 " * 17, "line 2: 120 is not in 0 to 1: pixels"),
        ("0 .5 nan .5 .5 " + "0.2 0.2 2 " * 17, "line 2: nan is not in 0 to 1"),
        ("4 .5 .5 .5 .5 " + "0.2 0.2 2 " * 17, "line 2: class 4 is not among"),
    ],
)
def test_a_wrong_label_line_is_an_error_with_file_and_line(tmp_path, pictures, line, message):
    good = "0 .5 .5 .5 .5 " + "0.2 0.2 2 " * 17
    root = yolo_folder(tmp_path / "yolo", pictures, COCO_YAML, f"{good}\n{line}\n")
    with pytest.raises(ValueError, match=f"a.txt, {message}"):
        read_yolo(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("kpt_shape: [17, 3]", "kpt_shape: 17"), "kpt_shape must be a list of whole numbers"),
        (("kpt_shape: [17, 3]\n", ""), "kpt_shape must be .* for data with poses"),
        (("[0, 2, 1, 4", "[0, 2, 3, 4"), "flip_idx must exchange pairs"),
        (("train: images/train", "train: nowhere"), "there is no .*nowhere"),
        (("train: images/train\n", ""), "neither train, val nor test"),
        (("0: person", "0: cat\n  1: dog"), "say which one are people"),
    ],
)
def test_a_wrong_description_is_an_error_that_names_the_key(tmp_path, pictures, change, message):
    root = yolo_folder(tmp_path / "yolo", pictures, COCO_YAML.replace(*change), "")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_yolo(root)


def test_the_skeleton_that_a_user_gives_must_flip_like_the_files(tmp_path, pictures):
    root = yolo_folder(tmp_path / "yolo", pictures, COCO_YAML, "")
    other = Skeleton("other", tuple(f"k{n}" for n in range(17)))
    with pytest.raises(ValueError, match=r"flip_idx is .* that of skeleton 'other'"):
        read_yolo(root, skeleton=other)
    with pytest.raises(ValueError, match=r"kpt_shape says 17 keypoints, skeleton 'crowdpose' has 14"):
        read_yolo(root, skeleton=CROWDPOSE)


YAML = """---
plain: images/train   # and a comment
quoted: "a # no comment"
single: 'it''s'
number: 17
empty:
flow: [1, 2,
  3]  # over two lines
block:
- one
- 'two'
deeper:
  0: person
  names:
    - nose
    - left_eye
"""


def test_yaml_is_read_as_it_is_meant_and_written_so_that_it_is_read_again(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text(YAML)
    keys = ["plain", "quoted", "single", "number", "empty", "flow", "block", "deeper", "not there"]
    assert read_data_yaml(path, keys) == {
        "plain": "images/train", "quoted": "a # no comment", "single": "it's", "number": "17", "empty": None,
        "flow": ["1", "2", "3"], "block": ["one", "two"], "deeper": {"0": "person", "names": ["nose", "left_eye"]},
    }  # fmt: skip
    values = {"train": "images/a: b's", "shape": [3, 2], "names": {"0": "person"}, "points": {"0": ["left eye", "#x"]}}
    write_data_yaml(path, values)
    assert read_data_yaml(path, list(values)) == values | {"shape": ["3", "2"]}


@pytest.mark.parametrize(
    "text",
    [
        "names: {0: person}", "names: &anchor x", "names: [[1, 2], [3]]", "names: [1, 2", "names:\n  - a: b",
        "names: |\n  x", "names: a\n  b",
    ],
)  # fmt: skip
def test_a_form_of_yaml_that_is_not_known_is_an_error_with_its_line(tmp_path, text):
    path = tmp_path / "data.yaml"
    path.write_text(f"train: x\n{text}\n")
    assert read_data_yaml(path, ["train"]) == {"train": "x"}
    with pytest.raises(ValueError, match=r"data.yaml, line [23]: cannot read the value of 'names'"):
        read_data_yaml(path, ["names"])


def mpii_person(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Joints [16, 2] counted from 1, and visibility 0, 1, 2."""
    joints = (rng.random((16, 2)) * (WIDTH - 60, HEIGHT - 60) + 30).round(1)
    visibility = rng.integers(0, 3, 16)
    visibility[:3] = [2, 1, 0]
    return joints, visibility


@pytest.fixture
def mpii(tmp_path, pictures) -> tuple[Path, list]:
    """The same people as lists in ``annot/`` and as a release's file; two in the first picture, one in the second."""
    root = tmp_path / "mpii"
    (root / "images").mkdir(parents=True)
    for number in (1, 2):
        shutil.copy(pictures / f"00000000000{number}.jpg", root / "images" / f"01560186{number}.jpg")
    rng = np.random.default_rng(2)
    people = [(number, *mpii_person(rng)) for number in (1, 1, 2)]
    write_json(root / "annot" / "train.json", [mpii_entry(*person) for person in people])
    pictures_of_release = [
        {
            "image": {"name": f"01560186{number}.jpg"},
            "annorect": np.array([release_entry(*person[1:]) for person in people if person[0] == number], object),
        }
        for number in (1, 2)
    ]
    test_picture = {"image": {"name": "no_labels.jpg"}, "annorect": {"scale": 1.0}}
    release = {"annolist": np.array([*pictures_of_release, test_picture], object), "img_train": [1, 1, 0]}
    scipy.io.savemat(tmp_path / "mpii_human_pose_v1_u12_1.mat", {"RELEASE": release})
    return root, people


def mpii_entry(number: int, joints: np.ndarray, visibility: np.ndarray) -> dict:
    return {
        "image": f"01560186{number}.jpg",
        "joints": np.where(visibility[:, None] > 0, joints, -1).tolist(),
        "joints_vis": (visibility > 0).astype(int).tolist(),
        "center": [101.0, 81.0],
        "scale": 0.5,
    }


def release_entry(joints: np.ndarray, visibility: np.ndarray) -> dict:
    points = [
        {"id": k, "x": x, "y": y, "is_visible": np.zeros((0, 0)) if k in (8, 9) else int(seen == 2)}
        for k, ((x, y), seen) in enumerate(zip(joints.tolist(), visibility.tolist(), strict=True))
        if seen
    ]
    return {
        "x1": 40.0, "y1": 30.0, "x2": 60.0, "y2": 50.0, "scale": 0.5, "objpos": {"x": 101.0, "y": 81.0},
        "annopoints": {"point": np.array(points, object)},
    }  # fmt: skip


def test_mpii_lists_become_people_whose_pixels_count_from_zero(mpii, tmp_path, capsys):
    root, people = mpii
    out = convert("mpii", "coco", root, tmp_path / "coco")
    told = capsys.readouterr().out
    assert "no OKS sigmas" in told
    assert "0.53 of the boxes" in told
    data = CocoKeypoints(out, "train", MPII)
    assert data.image_ids == [15601861, 15601862]
    assert [len(data.labels(index)) for index in (0, 1)] == [2, 1]
    for labels, (_, joints, visibility) in zip(
        [data.labels(0).keypoints[0], data.labels(0).keypoints[1], data.labels(1).keypoints[0]], people, strict=True
    ):
        np.testing.assert_allclose(labels, np.where(visibility[:, None] > 0, joints - 1, 0), atol=1e-4)
    np.testing.assert_array_equal(data.labels(0).visibility[0] > 0, people[0][2] > 0)
    labels = data.labels(1)
    points = labels.keypoints[0][labels.visibility[0] > 0] + 0.5
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.1 * (high - low).max()
    np.testing.assert_allclose(labels.boxes[0], [*(low - margin), *(high + margin)], atol=0.011)
    person = read_json(out, "train")["annotations"][0]
    assert (person["center"], person["scale"]) == ([100.0, 80.0], 0.5)


def test_mpii_s_release_says_the_same_and_what_is_hidden(mpii, tmp_path):
    root, people = mpii
    lists = read_json(convert("mpii", "coco", root, tmp_path / "one"), "train")["annotations"]
    release = tmp_path / "mpii_human_pose_v1_u12_1.mat"
    out = convert("mpii", "coco", release, tmp_path / "two", "--pictures", str(root / "images"))
    for one, other, (_, _, visibility) in zip(lists, read_json(out, "train")["annotations"], people, strict=True):
        visibility = visibility.copy()
        visibility[8:10] = 2 * (visibility[8:10] > 0)  # of the head the file does not say it
        assert other["keypoints"][2::3] == visibility.tolist()
        assert other["keypoints"][0::3] == one["keypoints"][0::3]
        assert (other["bbox"], other["center"], other["scale"]) == (one["bbox"], one["center"], one["scale"])
        assert other["head_box"] == [39.0, 29.0, 59.0, 49.0]


def test_mpii_to_coco_to_yolo_and_back_keeps_the_keypoints(mpii, tmp_path):
    root, _ = mpii
    first = convert("mpii", "coco", root, tmp_path / "first")
    yolo = convert("coco", "yolo", first, tmp_path / "yolo")
    back = convert("yolo", "coco", yolo, tmp_path / "back")
    before, after = (read_json(folder, "train")["annotations"] for folder in (first, back))
    keypoints = [np.array([person["keypoints"] for person in people]) for people in (before, after)]
    np.testing.assert_allclose(*keypoints, rtol=0, atol=0.011)
    assert read_json(back, "train")["categories"][0]["keypoints"] == list(MPII.keypoints)


def test_mpii_without_pictures_has_no_sizes_and_says_so(mpii, tmp_path, capsys):
    root, _ = mpii
    shutil.rmtree(root / "images")
    message = refused(capsys, "--from", "mpii", "--to", "coco", root, tmp_path / "x")
    assert "do not say how large pictures are" in message


def test_crowdpose_becomes_coco_with_areas_by_the_rule_and_the_same_people_scored(tmp_path, capsys, recwarn):
    drawn = SyntheticPeople(6, seed=3, image_size=(HEIGHT, WIDTH), people=(1, 4), skeleton=CROWDPOSE)
    content = crowdpose_content(drawn.ground_truth())
    last, uncounted = content["annotations"][-1], content["annotations"][-2]
    last |= {"keypoints": [*[0] * 36, 50, 40, 2, 50, 50, 2], "num_keypoints": 0}  # head and neck alone
    del uncounted["num_keypoints"]
    write_json(tmp_path / "crowdpose" / "json" / "crowdpose_test.json", content)
    out = convert("crowdpose", "coco", tmp_path / "crowdpose", tmp_path / "coco")
    assert "num_keypoints leaves out head and neck" in capsys.readouterr().out
    assert not recwarn.list
    after = read_json(out, "test")
    assert [image["crowdIndex"] for image in after["images"]] == [image["crowdIndex"] for image in content["images"]]
    for person, before in zip(after["annotations"], content["annotations"], strict=True):
        assert person["keypoints"] == before["keypoints"]
        assert person["num_keypoints"] == sum(visibility > 0 for visibility in before["keypoints"][2:36:3])
        assert person["area"] == pytest.approx(0.53 * before["bbox"][2] * before["bbox"][3], abs=0.01)
    found = [
        {"image_id": p["image_id"], "category_id": 1, "keypoints": p["keypoints"], "score": 0.9}
        for p in content["annotations"] if p is not last
    ]  # fmt: skip
    assert evaluate_crowdpose(after, found).overall["AP"] == pytest.approx(1.0)
    with pytest.warns(UserWarning, match="num_keypoints"):
        assert CocoKeypoints(out, "test", CROWDPOSE).labels(0).keypoints.shape[1] == 14


def tool_export(people: SyntheticPeople, tool: str) -> tuple[str, dict]:
    """The place and content of a file that an annotation tool writes, of the people's keypoints and boxes."""
    truth = people.ground_truth()
    named = {"name": "person", "keypoints": list(COCO_PERSON.keypoints), "skeleton": [[16, 14], [14, 12]]}
    placeholder = {"id": 0, "name": "people", "supercategory": "none"}
    images, annotations = truth["images"], truth["annotations"]
    if tool == "roboflow":
        categories = [placeholder, {"id": 1, "supercategory": "people", **named}]
        images = [{**i, "id": i["id"] - 1, "license": 1, "extra": {"name": "x"}} for i in images]
        annotations = [
            {"id": p["id"] - 1, "image_id": p["image_id"] - 1, "category_id": 1, "bbox": p["bbox"], "segmentation": [],
             "area": p["bbox"][2] * p["bbox"][3], "iscrowd": 0, "keypoints": p["keypoints"]} for p in annotations
        ]  # fmt: skip
        return "train/_annotations.coco.json", {"images": images, "annotations": annotations, "categories": categories}
    if tool == "cvat":
        categories = [
            {"id": 1, "name": "car", "supercategory": "", "keypoints": [], "skeleton": []},
            {"id": 2, **named},
        ]
        annotations = [
            {**p, "category_id": 2, "attributes": {"occluded": False}, "segmentation": []} for p in annotations
        ]
        return "annotations/person_keypoints_train.json", {
            "licenses": [{"name": "", "id": 0, "url": ""}], "info": {}, "images": images, "annotations": annotations,
            "categories": categories,
        }  # fmt: skip
    # Label Studio, from a project with a second class of boxes
    images = [{**i, "id": i["id"] - 1, "file_name": f"images\\{i['file_name']}"} for i in images]
    annotations = [
        {"id": str(p["id"]), "image_id": p["image_id"] - 1, "category_id": 0, "bbox": p["bbox"], "ignore": 0,
         "keypoints": p["keypoints"], "num_keypoints": p["num_keypoints"]} for p in annotations
    ]  # fmt: skip
    annotations.append({"id": "900", "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0})
    return "result.json", {
        "images": images, "annotations": annotations,
        "categories": [{"id": 0, **named}, {"id": 1, "name": "bag"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tool", "folder", "split"),
    [("roboflow", "train", "train"), ("cvat", "images/train", "train"), ("label studio", "images", "result")],
)
def test_what_an_annotation_tool_exports_becomes_clean_coco(tmp_path, people, pictures, tool, folder, split, capsys):
    place, content = tool_export(people, tool)
    root = tmp_path / "export"
    shutil.copytree(pictures, root / folder)
    path = write_json(root / place, content)
    raw = path.read_bytes()
    out = convert("coco", "coco", root, tmp_path / "coco", "--place", "copy")
    assert path.read_bytes() == raw
    after = read_json(out, split)
    assert [category["name"] for category in after["categories"]] == ["person"]
    fields = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "num_keypoints", "keypoints"}
    assert all(fields <= set(person) and isinstance(person["id"], int) for person in after["annotations"])
    data = CocoKeypoints(out, split)
    assert len(data) == len(people)
    for index in range(len(people)):
        sample, drawn = data[index], people[index]
        assert sample.image.shape == drawn.image.shape
        np.testing.assert_array_equal(sample.labels.visibility, drawn.labels.visibility)
        np.testing.assert_allclose(sample.labels.boxes, drawn.labels.boxes, atol=0.01)
    told = capsys.readouterr().out
    assert ("1 annotations of the category 'bag' are left out" in told) == (tool == "label studio")
    assert ("corrected: no-area" in told) == (tool == "label studio")


def test_people_with_a_box_alone_are_unlabelled_people(coco, tmp_path, capsys):
    content = read_json(coco, "train2017")
    del content["annotations"][0]["keypoints"], content["annotations"][0]["num_keypoints"]
    write_json(coco / "annotations" / "person_keypoints_train2017.json", content)
    out = convert("coco", "coco", coco, tmp_path / "out")
    assert "1 people have a box and no keypoints" in capsys.readouterr().out
    assert not CocoKeypoints(out).labels(0).visibility[0].any()


def test_several_kinds_of_people_must_be_told_apart(coco, tmp_path, capsys):
    content = read_json(coco, "train2017")
    content["categories"] = [content["categories"][0] | {"id": i, "name": f"team {i}"} for i in (1, 2)]
    content["annotations"][0]["category_id"] = 2
    write_json(coco / "annotations" / "person_keypoints_train2017.json", content)
    message = refused(capsys, "--from", "coco", "--to", "coco", coco, tmp_path / "out")
    assert "['team 1', 'team 2']" in message
    assert "--category" in message
    out = convert("coco", "coco", coco, tmp_path / "out", "--category", "team 2")
    assert len(read_json(out, "train2017")["annotations"]) == 1


def test_a_record_that_nobody_can_correct_is_named(coco, tmp_path, capsys):
    content = read_json(coco, "train2017")
    content["annotations"][1]["keypoints"][2] = 3
    write_json(coco / "annotations" / "person_keypoints_train2017.json", content)
    message = refused(capsys, "--from", "coco", "--to", "coco", coco, tmp_path / "out")
    assert f"annotation {content['annotations'][1]['id']}: keypoints" in message


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_what_no_repair_can_correct_is_named_before_anything_is_written(coco, tmp_path, capsys, to):
    untouched = read_json(coco, "train2017")
    for change, message in (
        (lambda c: c["annotations"][0].update(keypoints=[5, 5, "seen"]), "annotation 1: keypoints: expected 51"),
        (lambda c: c["annotations"][0]["keypoints"].pop(), "annotation 1: keypoints: expected 51"),
        (lambda c: c["annotations"][0].update(bbox=None), "annotation 1: bbox: expected four"),
        (lambda c: c["images"][2].pop("id"), "images[2] (id None): id must be a whole number"),
    ):
        content = copy.deepcopy(untouched)
        change(content)
        file = write_json(coco / "annotations" / "person_keypoints_train2017.json", content)
        told = refused(capsys, "--from", "coco", "--to", to, coco, tmp_path / "out")
        assert message in told
        assert str(file) in told
        assert not (tmp_path / "out").exists()


def test_numbers_that_are_too_long_for_ids_are_given_anew(coco, tmp_path):
    content = read_json(coco, "train2017")
    long = 20210315142233123456
    content["images"][0]["id"] = content["annotations"][0]["id"] = long
    for person in content["annotations"]:
        if person["image_id"] == 1:
            person["image_id"] = long
    write_json(coco / "annotations" / "person_keypoints_train2017.json", content)
    out = convert("coco", "coco", coco, tmp_path / "out")
    assert CocoKeypoints(out, "train2017").image_ids == [2, 3, 4, 5]
    assert len(CocoKeypoints(out, "train2017").all_labels()) == len(content["annotations"])


def test_nothing_is_written_over_and_what_is_not_there_is_named(coco, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not empty" in refused(capsys, "--from", "coco", "--to", "yolo", coco, tmp_path / "full")
    assert "nowhere" in refused(capsys, "--from", "yolo", "--to", "coco", tmp_path / "nowhere", tmp_path / "x")
    assert "no annotation file of split night" in refused(
        capsys, "--from", "coco", "--to", "coco", coco, tmp_path / "x", "--split", "night"
    )
    assert "neither annot/train.json" in refused(capsys, "--from", "mpii", "--to", "coco", coco, tmp_path / "x")
