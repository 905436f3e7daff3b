"""The check of a data set: planted faults are found where they are, and nothing else is."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from browser import open_page
from PIL import Image
from planted_faults import FAULTS, TRAIN, VAL, Damage, exchanged
from test_formats import human_art_content, write

from multiposenet import cli
from multiposenet.data.annotations import read_annotations
from multiposenet.data.check.findings import EXAMPLES, Severity, run_check
from multiposenet.data.check.label_table import build_table
from multiposenet.data.check.repairs import repair_content
from multiposenet.data.check.report import LABEL_CHECKS, CheckReport, check_data
from multiposenet.data.check.sources import find_splits
from multiposenet.data.check.statistics import describe_split
from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.formats import CROWDPOSE_FORMAT, HUMAN_ART_21_FORMAT, HUMAN_ART_FORMAT
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.skeletons import COCO_PERSON, CROWDPOSE, Skeleton

PATH = Path("labels.json")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Two splits of synthetic people on disk, without a fault; not to be written to."""
    root = tmp_path_factory.mktemp("drawn")
    write_split(root, TRAIN, SyntheticPeople(40, seed=3, image_size=(240, 360), people=(1, 2)))
    write_split(root, VAL, SyntheticPeople(14, seed=4, image_size=(240, 360), people=(3, 4)), first_id=1000)
    return root


def write_split(root: Path, split: str, people: SyntheticPeople, first_id: int = 0) -> None:
    (root / split).mkdir(parents=True)
    content, annotations = people.coco_header(), []
    for index, image in enumerate(content["images"]):
        scene = people.scene(index)
        Image.fromarray(scene.image).save(root / split / image["file_name"], quality=90)
        for person in people.coco_annotations(index, scene, first_id + len(annotations) + 1):
            annotations.append(person | {"image_id": first_id + person["image_id"]})
        image["id"] += first_id
    (root / "annotations").mkdir(exist_ok=True)
    path = root / "annotations" / f"person_keypoints_{split}.json"
    path.write_text(json.dumps(content | {"annotations": annotations}))


@pytest.fixture(scope="session", params=["synthetic people", "coco_mini"])
def damaged(request, tmp_path_factory) -> tuple[CheckReport, CheckReport, Damage, list]:
    """Reports of a data set and of its copy with all faults, the damage, and what has to be found in the copy."""
    name = "drawn" if request.param == "synthetic people" else "coco_mini"
    original = request.getfixturevalue(name)
    root = tmp_path_factory.mktemp("damaged") / "data"
    copy_data(original, root)
    damage = Damage(root)
    expected = [fault(damage) for fault in FAULTS]
    damage.write()
    return check_data(find_splits(original)), check_data(find_splits(root)), damage, expected


def copy_data(source: Path, target: Path) -> None:
    """A copy that can be written to, whatever the permissions of the original."""
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.relative_to(source))


def places(report: CheckReport) -> Counter:
    """(check, split, annotation id or file name or sentence) of everything that was found."""
    found = Counter()
    for finding in report.findings:
        for place in finding.places:
            where = place.annotation_id if place.annotation_id is not None else place.file_name or place.detail
            found[finding.name, place.split, where] += 1
    return found


def is_found(expected: tuple, found: Counter) -> bool:
    name, split, where = expected
    return any(
        (name, split) == key[:2] and (key[2] == where or (isinstance(key[2], str) and str(where) in key[2]))
        for key in found
    )


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=[fault.__name__ for fault in FAULTS])
def test_a_planted_fault_is_found_where_it_is(damaged, number):
    before, after, _, expected = damaged
    assert is_found(expected[number], places(after) - places(before)), expected[number]


def test_nothing_is_found_in_a_damaged_copy_that_is_not_of_a_planted_fault(damaged):
    before, after, damage, expected = damaged
    assert len(FAULTS) >= 25
    damage.touched |= {Path(where).name for _, _, where in expected if isinstance(where, str)}
    known = {
        (finding.name, place.split, place.file_name, place.annotation_id)
        for finding in before.findings
        for place in finding.places
    }
    news = [
        (finding.name, place)
        for finding in after.findings
        for place in finding.places
        if (finding.name, place.split, place.file_name, place.annotation_id) not in known
    ]
    in_train = [(name, place) for name, place in news if place.split != VAL]
    for name, place in in_train:
        if place.file_name:
            assert Path(place.file_name).name in damage.touched, (name, place)
    nowhere = Counter(name for name, place in in_train if not place.file_name)
    assert nowhere == {"unknown-image": 1, "empty-category": 1}
    # In the other split everybody has been damaged; hardly a finding but those of the file may come of it.
    assert {name for name, place in news if place.split == VAL} <= {
        "left-right-exchanged", "left-right-of-person", "keypoint-never-labelled", "leak", "nobody-in-picture",
    }  # fmt: skip


def test_real_pictures_have_only_the_findings_that_are_really_there(coco_mini):
    report = check_data(find_splits(coco_mini))
    # Looked at one by one: a surfer whose hips are crossed against the shoulders, and hidden keypoints that COCO's
    # annotators placed behind tables, bags and other people.
    assert Counter((finding.name, finding.split, finding.count) for finding in report.findings) == Counter(
        {
            ("left-right-of-person", VAL, 1): 1,
            ("hidden-keypoint-outside-box", TRAIN, 17): 1,
            ("hidden-keypoint-outside-box", VAL, 6): 1,
        }
    )
    assert report.findings[0].places[0].annotation_id == 920000000339
    assert not report.fails(Severity.ERROR)


def test_synthetic_people_have_no_fault(drawn):
    report = check_data(find_splits(drawn))
    assert [finding for finding in report.findings if finding.severity > Severity.NOTE] == []


JUNK = (None, "", "abc", "12", -3, 0, 1e400, float("nan"), 2**70, True, [], {}, [1, 2], [[]], {"size": 3}, [None] * 51)


def test_whatever_a_record_holds_the_check_goes_on_and_the_repair_too(drawn):
    content = json.loads((drawn / "annotations" / f"person_keypoints_{TRAIN}.json").read_text())
    rng = np.random.default_rng(5)
    for _ in range(25):
        broken = copy.deepcopy(content)
        for section in ("images", "annotations", "categories"):
            for record in broken[section]:
                for field in rng.choice(list(record), 2):
                    if rng.random() < 0.3:
                        record[field] = copy.deepcopy(JUNK[rng.integers(len(JUNK))])
            if rng.random() < 0.3:
                broken[section].append(copy.deepcopy(JUNK[rng.integers(len(JUNK))]))
        if rng.random() < 0.1:
            broken["categories"] = copy.deepcopy(JUNK[rng.integers(len(JUNK))])
        before = copy.deepcopy(broken)
        found = run_all(broken)
        assert all(len(finding["examples"]) >= 1 for finding in found)
        repair_content(broken, PATH)
        assert repr(broken) == repr(before)  # NaN is not equal to itself


def test_people_are_counted_by_size_and_by_how_much_they_overlap(drawn):
    content = json.loads((drawn / "annotations" / f"person_keypoints_{TRAIN}.json").read_text())
    person = content["annotations"][0]
    boxes = {0: [[0, 0, 40, 160], [10, 0, 40, 160], [100, 0, 50, 50]], 1: [[0, 0, 80, 80], [60, 60, 80, 80]]}
    images = [content["images"][number] | {"height": 200, "width": 300} for number in boxes]
    annotations = [
        person | {"id": len(boxes[number]) * number + row, "image_id": images[number]["id"], "bbox": box, "area": area}
        for number in boxes
        for row, (box, area) in enumerate(zip(boxes[number], (900.0, 1500.0, 10_000.0), strict=False))
    ]
    nobody = annotations[0] | {"id": 99, "bbox": [0, 0, 40, 160], "keypoints": [0] * 51, "num_keypoints": 0}
    content |= {"images": images, "annotations": [*annotations, nobody]}
    figures = describe_split(build_table(content, PATH))
    assert figures.sizes == {"small": 2, "medium": 2, "large": 1, "unknown": 0}
    # IoU 0.6 of the first two, 1 / 31 of the last two; without keypoints nobody counts.
    assert figures.overlapping == {"0.1": 0.4, "0.3": 0.4, "0.5": 0.4}
    assert figures.labelled_keypoints == person["num_keypoints"]
    sides = [80.0, 80.0, 50.0, 80.0, 80.0]
    assert figures.box_sides == pytest.approx({f"{q} %": np.percentile(sides, q) / 200 for q in (10, 50, 90)})


def run_all(content: dict, **options) -> list[dict]:
    """What all checks of labels find, as it goes into JSON, by name."""
    table = build_table(content, PATH, **options)
    return [
        json.loads(json.dumps(found.to_dict()))
        for check in LABEL_CHECKS
        if (found := run_check(check, table)) is not None
    ]


def labels(drawn: Path, split: str = TRAIN) -> dict:
    return json.loads((drawn / "annotations" / f"person_keypoints_{split}.json").read_text())


def named(content: dict, **options) -> dict[str, dict]:
    return {found["check"]: found for found in run_all(content, **options)}


def test_a_report_tells_every_place_and_describes_the_first_ones(drawn):
    content = labels(drawn)
    for person in content["annotations"]:
        person["num_keypoints"] += 1
    found = named(content)["num-keypoints"]
    assert found["count"] == found["of"] == len(content["annotations"])
    assert found["annotation_ids"] == [person["id"] for person in content["annotations"]]
    assert len(found["examples"]) == EXAMPLES
    first = content["annotations"][0]
    assert found["examples"][0]["detail"] == (
        f"num_keypoints {first['num_keypoints']}, labelled {first['num_keypoints'] - 1}"
    )


def test_people_whose_skeleton_has_no_sigmas_are_found_and_their_keypoints_are_the_files_own(drawn):
    content = labels(drawn)
    content["categories"][0] |= {"name": "dancer", "keypoints": [f"my_{name}" for name in COCO_PERSON.keypoints]}
    found = named(content)
    assert "17 keypoints" in found["no-sigmas"]["examples"][0]["detail"]
    assert "people-category" not in found
    table = build_table(content, PATH)
    assert table.skeleton.flip_pairs == COCO_PERSON.flip_pairs
    assert table.skeleton.limbs == COCO_PERSON.limbs


def test_known_keypoints_in_another_order_are_an_error(drawn):
    content = labels(drawn)
    content["categories"][0]["keypoints"] = list(reversed(COCO_PERSON.keypoints))
    assert "skeleton 'person' has nose, " in named(content)["keypoint-order"]["examples"][0]["detail"]


def test_keypoints_without_names_are_those_of_the_format_or_numbered(drawn):
    content = labels(drawn)
    del content["categories"][0]["keypoints"]
    assert named(content)["unnamed-keypoints"]["severity"] == "warning"
    assert build_table(content, PATH).skeleton is COCO_PERSON
    for person in content["annotations"]:
        person["keypoints"] = person["keypoints"][:15]
    assert build_table(content, PATH).skeleton.keypoints == tuple(f"keypoint_{n}" for n in range(1, 6))
    assert "keypoint-count" not in named(content)


def test_the_skeleton_that_a_user_names_is_held_against_the_file(drawn):
    doll = Skeleton("doll", ("head", "hand"))
    found = named(labels(drawn), skeleton=doll)
    assert "skeleton 'doll'" in found["people-category"]["examples"][0]["detail"]
    assert found["keypoint-count"]["count"] == found["keypoint-count"]["of"]


def test_an_export_without_anybody_gets_the_hint_about_its_tool(drawn):
    content = labels(drawn) | {"annotations": []}
    found = named(content)["no-people"]
    assert "CVAT" in found["meaning"]
    assert named(content)["nobody-in-picture"]["count"] == len(content["images"])


def test_several_categories_of_people_are_an_error_and_the_fullest_is_looked_at(drawn):
    content = labels(drawn)
    person = content["categories"][0]
    content["categories"] = [person | {"id": 5, "name": "statue"}, person | {"name": "dancer"}]
    found = named(content)
    assert "['statue', 'dancer']" in found["people-category"]["examples"][0]["detail"]
    assert "'statue'" in found["empty-category"]["examples"][0]["detail"]
    assert len(build_table(content, PATH)) == len(content["annotations"])


def test_a_mirrored_part_of_a_file_is_doubtful(drawn):
    content = labels(drawn, VAL)
    for person in content["annotations"][::3]:
        person["keypoints"] = exchanged(person["keypoints"])
    assert "eye: on the left on" in named(content)["left-right-doubtful"]["examples"][0]["detail"]


def test_one_exchanged_pair_is_told_by_its_name(drawn):
    content = labels(drawn, VAL)
    left, right = (3 * COCO_PERSON.index(f"{side}_hip") for side in ("left", "right"))
    for person in content["annotations"]:
        k = person["keypoints"]
        k[left : left + 3], k[right : right + 3] = k[right : right + 3], k[left : left + 3]
    detail = named(content)["left-right-exchanged"]["examples"][0]["detail"]
    assert detail.startswith("these pairs: the left one is on the left on hip ")
    assert "eye" not in detail


def test_a_skeleton_without_a_face_is_judged_by_its_trunk(tmp_path):
    people = SyntheticPeople(16, seed=4, image_size=(160, 200), people=(3, 4), skeleton=CROWDPOSE)
    content = people.ground_truth()
    right = named(content, layout=CROWDPOSE_FORMAT)
    assert not {"left-right-exchanged", "left-right-doubtful"} & set(right)
    ankles = [3 * CROWDPOSE.index(f"{side}_knee") for side in ("left", "right")]
    for person in content["annotations"]:
        k = person["keypoints"]
        a, b = (slice(first, first + 3) for first in ankles)
        k[a], k[b] = k[b], k[a]
    assert "knee" in named(content, layout=CROWDPOSE_FORMAT)["left-right-exchanged"]["examples"][0]["detail"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda x, y, w, h: (y, x), "x and y seem to be exchanged"),
        (lambda x, y, w, h: (x, h - 1 - y), "y seems to be counted from below"),
    ],
)
def test_a_file_with_other_axes_is_found_by_the_people_who_do_not_stand(drawn, change, cause):
    content = labels(drawn, VAL)
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for person in content["annotations"]:
        k = person["keypoints"]
        pairs = zip(k[0::3], k[1::3], strict=True)
        moved = [change(x, y, *sizes[person["image_id"]]) for x, y in pairs]
        k[0::3], k[1::3] = ([p[axis] for p in moved] for axis in (0, 1))
    assert cause in named(content)["axes-of-file"]["examples"][0]["detail"]


def test_shares_in_place_of_pixels_are_found(drawn):
    content = labels(drawn)
    for person in content["annotations"]:
        person["keypoints"] = [v if i % 3 == 2 else v / 400 for i, v in enumerate(person["keypoints"])]
        person["bbox"] = [v / 400 for v in person["bbox"]]
    details = [example["detail"] for example in named(content)["shares-not-pixels"]["examples"]]
    assert [detail.split(":")[0] for detail in details] == ["keypoints", "bbox"]


def test_pictures_of_one_name_in_two_splits_are_told_where_nobody_compared_them(tmp_path, drawn):
    copy_data(drawn, tmp_path)
    train, val = labels(drawn), labels(drawn, VAL)
    val["images"][2]["file_name"] = train["images"][4]["file_name"]
    for split, number in ((train, 0), (val, 1)):
        split["images"][number]["file_name"] = f"dance_jpg.rf.{number}abc.jpg"
    val["images"][3]["id"] = train["images"][6]["id"]
    write_labels(tmp_path, train, val)
    report = check_data(find_splits(tmp_path), pictures=False)
    found = {(finding.name, place.file_name) for finding in report.findings for place in finding.places}
    assert ("leak-by-name", val["images"][2]["file_name"]) in found
    assert ("leak-of-source", "dance_jpg.rf.1abc.jpg") in found
    assert ("shared-image-id", val["images"][3]["file_name"]) in found


def write_labels(root: Path, train: dict, val: dict) -> None:
    for split, content in ((TRAIN, train), (VAL, val)):
        (root / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(content))


def test_splits_are_found_in_every_layout_zipped_or_not(tmp_path, drawn):
    content = json.dumps(labels(drawn)).encode()
    for place in ("a/annotations/person_keypoints_default.json", "b/json/crowdpose_test.json",
                  "c/valid/_annotations.coco.json", "d/annotations/anything.json"):  # fmt: skip
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(content)
    (tmp_path / "a/annotations/person_keypoints_more.json.gz").write_bytes(gzip.compress(content))
    splits = {name: find_splits(tmp_path / name) for name in "abcd"}
    assert [[split.name for split in found] for found in splits.values()] == [
        ["default", "more"], ["test"], ["valid"], ["anything"],
    ]  # fmt: skip
    assert [found[0].layout.name for found in splits.values()] == ["coco", "crowdpose", "roboflow", "human_art"]
    assert splits["c"][0].picture_folders == (tmp_path / "c" / "valid",)
    assert [split.name for split in find_splits(tmp_path / "a", ["more"])] == ["more"]
    single = find_splits(tmp_path / "a/annotations/person_keypoints_more.json.gz")[0]
    assert single.name == "more"
    assert tmp_path / "a" / "images" / "more" in single.picture_folders
    with pytest.raises(FileNotFoundError, match=r"split nothing.*there are the splits default, more"):
        find_splits(tmp_path / "a", ["nothing"])


def test_a_file_that_fits_two_places_of_a_layout_is_one_split(tmp_path, drawn):
    (tmp_path / "annotations").mkdir()
    for name in ("training_humanart", "validation_humanart", "validation_humanart_cartoon"):
        (tmp_path / "annotations" / f"{name}.json").write_text(json.dumps(labels(drawn)))
    splits = find_splits(tmp_path)
    assert [split.name for split in splits] == ["training", "validation", "validation_humanart_cartoon"]
    report = check_data(splits[:2], pictures=False)
    assert {split.table.split for split in report.splits} == {"training", "validation"}


def test_what_can_be_corrected_safely_is_and_the_rest_is_left(tmp_path, drawn):
    root, out = tmp_path / "data", tmp_path / "corrected"
    copy_data(drawn, root)
    damage = Damage(root)
    expected = {fault.__name__: fault(damage) for fault in FAULTS}
    damage.write()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert cli.main(["data", "check", str(root), "--fix", str(out), "--fail-on", "error"]) == 1
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    changes = json.loads((out / "changes.json").read_text())
    assert changes[VAL] == []
    corrected = {change["check"] for change in changes[TRAIN]}
    safe = {
        "width-height-exchanged", "x-y-exchanged", "box-of-corners",
        "image-id-not-whole", "annotation-id-not-whole", "unknown-image", "repeated-annotation-id", "empty-category",
        "keypoint-outside-picture", "num-keypoints", "unlabelled-with-place", "labelled-at-origin", "not-a-number",
        "no-area", "broken-segmentation",
    }  # fmt: skip
    assert corrected == safe
    left = {
        found["check"]
        for found in run_all(json.loads((out / "annotations" / f"person_keypoints_{TRAIN}.json").read_text()))
    }
    assert not left & safe
    assert {"visibility-value", "keypoint-count", "negative-box", "crowd-value", "left-right-of-person"} <= left
    by_id = {}
    for change in changes[TRAIN]:
        by_id.setdefault((change["check"], change["where"]), []).append(change)
    name, _, identity = expected["no_area"]
    (change,) = by_id[name, f"annotation {identity}"]
    assert (change["field"], change["before"]) == ("area", None)
    assert change["after"] > 0
    name, _, identity = expected["x_and_y_exchanged"]
    (change,) = by_id[name, f"annotation {identity}"]
    assert change["before"][0::3] == change["after"][1::3]


def overhanging(drawn: Path, root: Path) -> dict:
    """A copy of a data set in which one box reaches four pixels over the picture's lower edge; its content."""
    copy_data(drawn, root)
    content = labels(drawn)
    person = next(p for p in content["annotations"] if p["bbox"][0] + p["bbox"][2] < 240)
    content["annotations"] = [p for p in content["annotations"] if p["image_id"] != person["image_id"] or p is person]
    x, y, width, _ = person["bbox"]
    person["bbox"] = [x, y, width, 240 + 4 - y]
    (root / "annotations" / f"person_keypoints_{TRAIN}.json").write_text(json.dumps(content))
    return content


@pytest.mark.parametrize("pictures", [True, False])
def test_a_box_over_the_edge_does_not_turn_a_picture_whose_size_is_right(tmp_path, drawn, pictures):
    content = overhanging(drawn, tmp_path / "data")
    sources = find_splits(tmp_path / "data", [TRAIN])
    report = check_data(sources, pictures=pictures)
    found = {finding.name for finding in report.findings}
    assert "box-beyond-picture" in found
    assert ("width-height-exchanged" in found) != pictures  # without the file it is a doubt, and only that
    more = [] if pictures else ["--no-pictures"]
    cli.main(["data", "check", str(tmp_path / "data"), "--split", TRAIN, "--fix", str(tmp_path / "out"), *more])
    corrected = json.loads((tmp_path / "out" / "annotations" / f"person_keypoints_{TRAIN}.json").read_text())
    assert corrected["images"] == content["images"]
    left = json.loads((tmp_path / "out" / "changes.json").read_text())[TRAIN]
    assert {change["check"] for change in left} == {"box-beyond-picture"}


@pytest.mark.parametrize("labelled", [True, False])
def test_a_box_a_little_over_the_edge_is_no_box_of_corners(drawn, labelled):
    content = labels(drawn)
    content["images"][0] |= {"width": 640, "height": 480}
    person = next(p for p in content["annotations"] if p["image_id"] == content["images"][0]["id"])
    person |= {"bbox": [300, 200, 345, 285], "keypoints": [0] * 51, "num_keypoints": 0}
    if labelled:  # a head alone, which lies in what the numbers would be as two corners
        person |= {"keypoints": [v for _ in range(5) for v in (320, 230, 2)] + [0] * 36, "num_keypoints": 5}
    content["annotations"] = [person]
    found = named(content)
    assert "box-beyond-picture" in found
    assert "box-of-corners" not in found


def test_a_corrected_copy_is_read_by_the_strict_reader(tmp_path, drawn):
    content = labels(drawn)
    content["annotations"] += [dict(content["annotations"][0], id="x"), "no record", dict(content["annotations"][1])]
    content["annotations"][3]["keypoints"][0] = float("nan")
    content["annotations"][4]["segmentation"] = {"size": 3}
    content["categories"].insert(0, {"id": 0, "name": "placeholder", "supercategory": "none"})
    for image in content["images"]:
        image["id"] = f"picture {image['id']}"
    for person in content["annotations"]:
        if isinstance(person, dict):
            del person["iscrowd"]
            person["image_id"] = f"picture {person['image_id']}"
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError):
        read_annotations(path, COCO_PERSON)
    corrected, changes = repair_content(content, path)
    path.write_text(json.dumps(corrected))
    read = read_annotations(path, COCO_PERSON)
    # The record and the copy of another one are gone; both copies were equal to the last number.
    assert len(read.labels) == len(labels(drawn)["annotations"])
    assert sorted(read.image_ids) == list(range(1, 41))
    assert sum(change.check == "repeated-person" for change in changes) == 2


def test_a_corrected_copy_has_the_layout_and_the_pictures_of_the_original(tmp_path, drawn):
    content = labels(drawn)
    content["annotations"][0]["num_keypoints"] = 0
    root, out = tmp_path / "data", tmp_path / "corrected"
    copy_data(drawn, root)
    zipped = root / "annotations" / f"person_keypoints_{TRAIN}.json.gz"
    zipped.write_bytes(gzip.compress(json.dumps(content).encode()))
    zipped.with_suffix("").unlink()
    assert cli.main(["data", "check", str(root), "--fix", str(out), "--no-pictures"]) == 0
    data = CocoKeypoints(out, TRAIN)
    np.testing.assert_array_equal(data[0].image, CocoKeypoints(drawn, TRAIN)[0].image)
    assert (out / "annotations" / zipped.name).is_file()
    assert cli.main(["data", "check", str(root), "--fix", str(out), "--no-pictures"]) == 2


@pytest.mark.parametrize("place", ["beside", "far/away"])
def test_a_copy_of_names_that_begin_with_the_own_folder_stays_in_its_folder_and_is_read(tmp_path, place):
    drawn_people = SyntheticPeople(6, 3, (96, 128), people=(1, 2))
    root, out = tmp_path / "HumanArt", tmp_path / place
    content = human_art_content(drawn_people.ground_truth())
    write(root, "annotations/validation_humanart.json", content, tmp_path, drawn_people)
    before = set(tmp_path.rglob("*"))
    assert cli.main(["data", "check", str(root), "--fix", str(out), "--no-pictures"]) == 0
    written = set(tmp_path.rglob("*")) - before - set(out.parents)
    assert all(path.is_relative_to(out) for path in written)
    copied = CocoKeypoints(out, "validation", layout=HUMAN_ART_FORMAT)
    original = CocoKeypoints(root, "validation", layout=HUMAN_ART_FORMAT)
    for index in range(len(copied)):
        assert out / original.image_name(index) in written
        assert copied.picture_file(index) == out / original.image_name(index)
        np.testing.assert_array_equal(copied.image(index), original.image(index))


def test_names_that_lead_out_of_the_data_set_lead_nowhere_in_the_copy(tmp_path, drawn, monkeypatch):
    root, out = tmp_path / "data", tmp_path / "far" / "away" / "out"
    copy_data(drawn, root)
    content = labels(drawn)
    secret = tmp_path / "outside" / "secret.png"
    secret.parent.mkdir()
    Image.new("RGB", (360, 240)).save(secret)
    content["images"][0]["file_name"] = "../../outside/secret.png"
    inside = content["images"][1]["file_name"]
    content["images"][1]["file_name"] = f"../{VAL}/../{TRAIN}/{inside}"
    (root / "annotations" / f"person_keypoints_{TRAIN}.json").write_text(json.dumps(content))
    monkeypatch.chdir(root)
    before = set(tmp_path.rglob("*"))
    cli.main(["data", "check", ".", "--fix", str(out), "--no-pictures"])
    written = set(tmp_path.rglob("*")) - before - set(out.parents)
    assert all(path.is_relative_to(out) and path.name != "secret.png" for path in written)
    assert CocoKeypoints(out, TRAIN).image(1).shape == (240, 360, 3)


def test_the_own_fields_of_a_format_are_checked_and_corrected(drawn):
    content = labels(drawn)
    for person in content["annotations"]:
        person["keypoints_21"] = person["keypoints"] + [0] * 12
        person["num_keypoints_21"] = person["num_keypoints"]
    first = content["annotations"][0]
    first["num_keypoints_21"] -= 2
    first["keypoints_21"][-3] = 40
    found = named(content, layout=HUMAN_ART_21_FORMAT)
    assert found["num-keypoints"]["annotation_ids"] == found["unlabelled-with-place"]["annotation_ids"] == [first["id"]]
    assert found["keypoint-never-labelled"]["count"] == 4
    corrected, changes = repair_content(content, PATH, HUMAN_ART_21_FORMAT)
    assert {change.field for change in changes} == {"keypoints_21", "num_keypoints_21"}
    assert corrected["annotations"][0]["num_keypoints_21"] == first["num_keypoints"]
    assert corrected["annotations"][0]["keypoints"] is first["keypoints"]
    assert "num-keypoints" not in named(corrected, layout=HUMAN_ART_21_FORMAT)


def test_a_folder_of_another_format_is_told_how_to_come_here(tmp_path, capsys):
    (tmp_path / "data.yaml").touch()
    assert cli.main(["data", "check", str(tmp_path)]) == 2
    assert "--from yolo --to coco" in capsys.readouterr().err


@pytest.mark.parametrize(("fail_on", "status"), [("error", 0), ("warning", 1), ("note", 1)])
def test_the_exit_status_says_whether_something_as_bad_as_that_was_found(tmp_path, drawn, fail_on, status, capsys):
    content = labels(drawn)
    content["annotations"][0]["num_keypoints"] -= 1
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    report = tmp_path / "made" / "report.json"
    arguments = ["data", "check", str(path), "--no-pictures", "--fail-on", fail_on, "--json", str(report)]
    assert cli.main(arguments) == status
    assert "num-keypoints: 1 of" in capsys.readouterr().out
    read = json.loads(report.read_text())
    assert read["counts"]["warning"] == 1
    assert read["splits"]["labels"]["people"] == len(content["annotations"])


@pytest.mark.parametrize("text", ["not JSON", "[]", '{"images": [], "annotations": {}}'])
def test_input_that_is_no_coco_file_ends_with_status_two(tmp_path, text, capsys):
    path = tmp_path / "labels.json"
    path.write_text(text)
    assert cli.main(["data", "check", str(path)]) == 2
    assert "labels.json" in capsys.readouterr().err
    assert cli.main(["data", "check", str(tmp_path / "nowhere")]) == 2


def test_nobody_and_nothing_is_a_report_too(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    assert cli.main(["data", "check", str(path), "--html", str(tmp_path / "page.html")]) == 1
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize("width", [1000, 360])
def test_the_page_opens_without_a_network_and_shows_what_was_found(tmp_path, drawn, width):
    root, page = tmp_path / "data", tmp_path / "page.html"
    copy_data(drawn, root)
    damage = Damage(root)
    for fault in FAULTS:
        fault(damage)
    damage.write()
    assert cli.main(["data", "check", str(root), "--html", str(page)]) == 1
    opened = open_page(page, width)
    assert opened.complaints == []
    assert opened.requests == []
    heat_pictures = 2 * COCO_PERSON.num_keypoints
    charts = 2 * 2
    assert opened.facts["charts"] >= charts
    assert opened.facts["pictures"] >= heat_pictures + 30
    assert opened.facts["broken"] == opened.facts["unnamed"] == opened.facts["overflow"] == 0
    for fault in ("unreadable-picture", "left-right-exchanged", "x-y-exchanged"):
        assert fault in opened.facts["text"]
