import copy
import gzip
import json
import pickle
import time

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.pictures import PictureError
from multiposenet.skeletons import COCO_PERSON, Skeleton

DOLL = Skeleton("doll", ("head", "left_hand", "right_hand"), flip_pairs=((1, 2),))
HEIGHT, WIDTH = 40, 60
BOX_MASK = np.zeros((HEIGHT, WIDTH), bool)
BOX_MASK[10:30, 5:25] = True  # the box [5, 10, 20, 20]


def person(annotation_id: int, image_id: int = 1, **changes) -> dict:
    record = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [5, 10, 20, 20],
        "area": 300.0,
        "iscrowd": 0,
        "num_keypoints": 2,
        "keypoints": [12, 11, 2, 7, 20, 1, 0, 0, 0],
        "segmentation": [[5, 10, 25, 10, 25, 30, 5, 30]],
    }
    record.update(changes)
    return {key: value for key, value in record.items() if value is not ...}


def nobody_labelled(annotation_id: int, **changes) -> dict:
    return person(annotation_id, **{"keypoints": [0] * 9, "num_keypoints": 0, **changes})


def content(*annotations: dict, images: int = 1) -> dict:
    return {
        "images": [
            {"id": i, "file_name": f"{i:03}.png", "width": WIDTH, "height": HEIGHT} for i in range(1, images + 1)
        ],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "person", "keypoints": list(DOLL.keypoints)}],
    }


def write(root, labels: dict, pictures: str = "train2017") -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "person_keypoints_train2017.json").write_text(json.dumps(labels))
    (root / pictures).mkdir(parents=True, exist_ok=True)
    for record in labels["images"]:
        size = (record["width"], record["height"])
        Image.new("RGB", size, (record["id"], 0, 0)).save(root / pictures / record["file_name"])


def dataset(root, *annotations: dict, images: int = 1, **options) -> CocoKeypoints:
    write(root, content(*annotations, images=images))
    return CocoKeypoints(root, skeleton=DOLL, **options)


@pytest.mark.parametrize("pictures", ["train2017", "images/train2017"])
@pytest.mark.parametrize("zipped", [False, True])
def test_both_layouts_plain_and_zipped_give_the_same_sample(tmp_path, pictures, zipped):
    write(tmp_path, content(person(7)), pictures)
    if zipped:
        plain = tmp_path / "annotations" / "person_keypoints_train2017.json"
        plain.with_suffix(".json.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    data = CocoKeypoints(tmp_path, skeleton=DOLL)
    sample = data[0]
    assert (sample.image_id, sample.name, data.image_name(0)) == (1, "001.png", "001.png")
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert_array_equal(sample.labels.keypoints, [[[12, 11], [7, 20], [0, 0]]])
    assert_array_equal(sample.labels.visibility, [[2, 1, 0]])
    assert_array_equal(sample.labels.boxes, [[5, 10, 25, 30]])
    assert_array_equal(sample.labels.areas, [300])
    assert_array_equal(sample.labels.crowd, [False])
    assert_array_equal(sample.person_mask, BOX_MASK)
    assert not sample.ignore_mask.any()
    assert not sample.unknown_mask.any()


def test_annotation_file_and_picture_folder_can_be_named(tmp_path):
    write(tmp_path, content(person(7)), "somewhere")
    (tmp_path / "annotations" / "person_keypoints_train2017.json").rename(tmp_path / "mine.json")
    data = CocoKeypoints(tmp_path, "odd", DOLL, annotations=tmp_path / "mine.json", pictures=tmp_path / "somewhere")
    assert data[0].image[0, 0, 0] == 1


def test_a_missing_annotation_file_lists_the_places(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"person_keypoints_val2017\.json and .*\.json\.gz"):
        CocoKeypoints(tmp_path, "val2017")
    with pytest.raises(FileNotFoundError, match=r"mine\.json"):
        CocoKeypoints(tmp_path, annotations=tmp_path / "mine.json")


def test_labels_need_no_pictures_and_missing_pictures_are_named(tmp_path):
    data = dataset(tmp_path, person(7))
    (tmp_path / "train2017" / "001.png").unlink()
    assert len(data.labels(0)) == 1
    assert data.image_size(0) == (HEIGHT, WIDTH)
    with pytest.raises(FileNotFoundError, match=r"001\.png.*train2017.*images"):
        data[0]


def test_nobody_in_the_picture_is_a_normal_picture(tmp_path):
    sample = dataset(tmp_path, person(7, image_id=2), images=3)[0]
    assert len(sample.labels) == 0
    assert sample.labels.keypoints.shape == (0, 3, 2)
    assert not sample.person_mask.any()
    assert not sample.ignore_mask.any()


def test_people_stay_with_their_pictures_whatever_the_order_in_the_file(tmp_path):
    labels = content(*(person(i, image_id=image, area=i) for i, image in [(4, 3), (5, 1), (6, 3), (7, 2)]), images=3)
    labels["images"].reverse()
    write(tmp_path, labels)
    data = CocoKeypoints(tmp_path, skeleton=DOLL)
    assert data.image_ids == [1, 2, 3]
    assert [data.labels(i).areas.tolist() for i in range(3)] == [[5], [7], [4, 6]]
    everyone = data.all_labels()
    assert_array_equal(everyone.image_index, [0, 1, 2, 2])
    assert_array_equal(everyone.annotation_ids, [5, 7, 4, 6])
    assert_array_equal(everyone.image_sizes, [[HEIGHT, WIDTH]] * 3)
    assert [sample.image_id for sample in data] == [1, 2, 3]


def test_a_picture_can_be_had_by_itself(tmp_path):
    write(tmp_path, content(person(1), images=2))
    dataset = CocoKeypoints(tmp_path, "train2017", skeleton=DOLL)
    assert [int(dataset.image(index)[0, 0, 0]) for index in (0, 1)] == [1, 2]
    assert_array_equal(dataset.image(1), dataset[1].image)
    with pytest.raises(IndexError):
        dataset.image(2)


def test_selection_by_ids_keypoints_and_limit(tmp_path):
    people = [nobody_labelled(1, image_id=1), person(2, image_id=2), person(3, image_id=4, iscrowd=1)]
    people += [person(4, image_id=5), nobody_labelled(5, image_id=5, area=9), person(6, image_id=6)]
    options = {"images": 6}
    assert dataset(tmp_path, *people, **options).image_ids == [1, 2, 3, 4, 5, 6]
    assert dataset(tmp_path, *people, with_keypoints=True, **options).image_ids == [2, 5, 6]
    assert dataset(tmp_path, *people, with_keypoints=True, limit=2, **options).image_ids == [2, 5]
    assert dataset(tmp_path, *people, limit=2, **options).image_ids == [1, 2]
    chosen = dataset(tmp_path, *people, image_ids=[5, 3, 1], **options)
    assert chosen.image_ids == [5, 3, 1]
    assert chosen.labels(0).areas.tolist() == [300, 9]
    assert len(chosen.labels(1)) == 0
    assert [chosen[i].image[0, 0, 0] for i in range(3)] == [5, 3, 1]
    assert_array_equal(chosen[0].person_mask, BOX_MASK)
    with pytest.raises(ValueError, match="no image has the id 99"):
        dataset(tmp_path, *people, image_ids=[1, 99], **options)
    with pytest.raises(ValueError, match="twice"):
        dataset(tmp_path, *people, image_ids=[1, 1], **options)
    with pytest.raises(ValueError, match="limit"):
        dataset(tmp_path, *people, limit=0, **options)


def test_ground_truth_is_the_selected_part_of_the_file_untouched(tmp_path):
    people = [person(1), person(2, image_id=2, iscrowd=1, extra="kept"), person(3, image_id=3, category_id=5)]
    labels = content(*people, person(4, image_id=3), images=3)
    labels["info"] = {"year": 2017}
    labels["categories"].append({"id": 5, "name": "dog"})
    write(tmp_path, labels)
    data = CocoKeypoints(tmp_path, skeleton=DOLL, image_ids=[3, 2])
    truth = data.ground_truth()
    assert truth["annotations"] == [people[1], person(4, image_id=3)]
    assert [record["id"] for record in truth["images"]] == [3, 2]
    assert truth["categories"] == labels["categories"][:1]
    assert truth["info"] == {"year": 2017}
    truth["annotations"][0]["bbox"][0] = -1
    assert data.ground_truth()["annotations"][0]["bbox"] == [5, 10, 20, 20]
    write(tmp_path, content(person(1)))
    with pytest.raises(ValueError, match="has changed"):
        data.ground_truth()


def test_identity_tells_datasets_apart(tmp_path):
    one = dataset(tmp_path, person(1), images=2).identity()
    assert "made_by" not in one
    assert one["annotations"] == "person_keypoints_train2017.json"
    assert (one["split"], one["images"], one["people"], one["limit"]) == ("train2017", 2, 1, None)
    assert len(one["sha256"]) == 64
    assert dataset(tmp_path, person(1), images=2, image_ids=[2]).identity() != one
    other = dataset(tmp_path, person(1, area=2), images=2).identity()
    assert other["sha256"] != one["sha256"]
    json.dumps(one)


def test_a_dataset_survives_pickling(tmp_path):
    data = pickle.loads(pickle.dumps(dataset(tmp_path, person(1))))
    assert_array_equal(data[0].person_mask, BOX_MASK)


def test_labels_handed_out_can_be_changed_without_harm(tmp_path):
    data = dataset(tmp_path, person(1))
    data.labels(0).boxes[:] = 0
    assert_array_equal(data.labels(0).boxes, [[5, 10, 25, 30]])


# Masks


def compressed(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": counts}


POLYGON = [[5, 10, 25, 10, 25, 30, 5, 30]]


@pytest.mark.parametrize("segmentation", [POLYGON, compressed(BOX_MASK), uncompressed(BOX_MASK)])
@pytest.mark.parametrize("crowd", [0, 1])
def test_crowds_and_people_without_keypoints_are_person_and_ignored(tmp_path, segmentation, crowd):
    sample = dataset(tmp_path, nobody_labelled(1, segmentation=segmentation, iscrowd=crowd))[0]
    assert sample.labels.crowd.tolist() == [bool(crowd)]
    assert not sample.labels.visibility.any()
    assert_array_equal(sample.person_mask, BOX_MASK)
    assert_array_equal(sample.ignore_mask, BOX_MASK)
    assert not sample.unknown_mask.any()


def test_a_crowd_is_ignored_even_if_somebody_labelled_keypoints_of_it(tmp_path):
    assert_array_equal(dataset(tmp_path, person(1, iscrowd=1))[0].ignore_mask, BOX_MASK)


@pytest.mark.parametrize("segmentation", [..., None, [], [[5, 10, 25, 10]], compressed(np.zeros_like(BOX_MASK))])
def test_without_a_shape_the_box_is_ignored_and_unknown_but_not_person(tmp_path, segmentation):
    sample = dataset(tmp_path, nobody_labelled(1, segmentation=segmentation))[0]
    assert not sample.person_mask.any()
    assert_array_equal(sample.ignore_mask, BOX_MASK)
    assert_array_equal(sample.unknown_mask, BOX_MASK)


def test_pixels_of_people_with_keypoints_are_never_ignored(tmp_path):
    left = np.zeros_like(BOX_MASK)
    left[:, :15] = True
    everything = np.ones_like(BOX_MASK)
    labelled = person(1, segmentation=compressed(left & BOX_MASK))
    crowd = nobody_labelled(2, iscrowd=1, segmentation=uncompressed(everything), bbox=[0, 0, WIDTH, HEIGHT])
    sample = dataset(tmp_path, labelled, crowd)[0]
    assert_array_equal(sample.ignore_mask, ~(left & BOX_MASK))
    assert sample.person_mask.all()
    shapeless = dataset(tmp_path, person(1, segmentation=[]), crowd)[0]
    assert_array_equal(shapeless.ignore_mask, ~BOX_MASK)


def test_a_labelled_person_without_a_shape_is_unknown_except_where_others_are_known(tmp_path):
    left = np.zeros_like(BOX_MASK)
    left[:, :15] = True
    sample = dataset(tmp_path, person(1, segmentation=[]), person(2, segmentation=compressed(left)))[0]
    assert_array_equal(sample.person_mask, left)
    assert_array_equal(sample.unknown_mask, BOX_MASK & ~left)
    assert not sample.ignore_mask.any()


def test_parts_of_a_polygon_shape_are_joined(tmp_path):
    parts = [[5, 10, 15, 10, 15, 30, 5, 30], [15, 10, 25, 10, 25, 30, 15, 30]]
    assert_array_equal(dataset(tmp_path, person(1, segmentation=parts))[0].person_mask, BOX_MASK)


def test_a_fractional_stand_in_box_covers_every_pixel_it_touches_within_the_picture(tmp_path):
    sample = dataset(tmp_path, nobody_labelled(1, segmentation=[], bbox=[-3.5, 35.2, 6.0, 30]))[0]
    expected = np.zeros_like(BOX_MASK)
    expected[35:, :3] = True
    assert_array_equal(sample.ignore_mask, expected)


# Stand-ins for missing fields


def test_missing_optional_fields_have_stated_stand_ins(tmp_path):
    gone = {"iscrowd": ..., "num_keypoints": ...}
    labels = dataset(
        tmp_path,
        person(1, area=..., **gone),
        person(2, area=None, segmentation=[], bbox=[0, 0, 25, 4], **gone),
    ).labels(0)
    assert labels.areas.tolist() == [400, 53]  # of the segmentation; 0.53 of the box
    assert labels.crowd.tolist() == [False, False]
    assert (labels.visibility > 0).sum(axis=1).tolist() == [2, 2]


def test_a_wrong_num_keypoints_is_a_warning_and_the_keypoints_are_believed(tmp_path):
    with pytest.warns(UserWarning, match=r"1 annotations state a num_keypoints.*annotation 8"):
        data = dataset(tmp_path, person(7), person(8, num_keypoints=0), with_keypoints=True)
    assert len(data) == 1


def test_a_file_without_people_is_a_warning_with_a_hint(tmp_path):
    with pytest.warns(UserWarning, match="CVAT"):
        data = dataset(tmp_path)
    assert len(data[0].labels) == 0


def test_coordinates_of_unlabelled_keypoints_are_zeroed(tmp_path):
    data = dataset(tmp_path, person(1, keypoints=[12, 11, 2, 7, 20, 1, 50, 30, 0]))
    assert_array_equal(data.labels(0).keypoints[0, 2], [0, 0])


# Broken files and records


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (person(7, keypoints=[1, 2, 2]), r"annotation 7: keypoints: expected 9 finite numbers.*got \[1, 2, 2\]"),
        (person(7, keypoints=...), r"annotation 7: keypoints: .*the field is missing\); write 9 zeros"),
        (person(7, keypoints=[1, 2, 3] * 3), r"annotation 7: keypoints: .*visibility\) to be 0, 1 or 2"),
        (person(7, keypoints=[1, 2, 0.5] * 3), r"annotation 7: keypoints: .*to be 0, 1 or 2"),
        (person(7, keypoints=[float("nan"), 2, 2] * 3), r"annotation 7: keypoints: expected 9 finite numbers"),
        (person(7, keypoints=["a", 2, 2] * 3), r"annotation 7: keypoints: expected 9 finite numbers"),
        (person(7, bbox=[1, 2, 3]), r"annotation 7: bbox: expected four finite numbers .*got \[1, 2, 3\]"),
        (person(7, bbox=...), r"annotation 7: bbox: .*the field is missing"),
        (person(7, bbox=[1, 2, float("inf"), 3]), r"annotation 7: bbox: expected four finite numbers"),
        (person(7, bbox=[1, 2, None, 3]), r"annotation 7: bbox: expected four finite numbers"),
        (person(7, bbox=[1, 2, -3, 3]), r"annotation 7: bbox: .*no negative size"),
        (person(7, image_id=99), r"annotation 7: image_id: expected the id of one of the file's images, got 99"),
        (person(7, image_id="1"), r"annotation 7: image_id: .*got '1'"),
        (person(7, image_id=...), r"annotation 7: image_id: .*missing"),
        (person(7, category_id=2), r"annotation 7: category_id: expected one of the categories \[1\], got 2"),
        (person(7, category_id=...), r"annotation 7: category_id: .*missing"),
        (person(7, area=float("nan")), r"annotation 7: area: expected a number"),
        (person(7, area=-1), r"annotation 7: area: expected a number, at least 0, got -1"),
        (person(7, area="big"), r"annotation 7: area: expected a number"),
        (person(7, iscrowd=2), r"annotation 7: iscrowd: expected 0 or 1, got 2"),
        (person(7, segmentation=[[1, 2, 3, 4, 5]]), r"annotation 7: segmentation: .*even number"),
        (person(7, segmentation=[5, 10, 25, 10]), r"annotation 7: segmentation: expected .*list of polygons"),
        (person(7, category_id=[1]), r"annotation 7: category_id: expected one of the categories \[1\], got \[1\]"),
        (person(7, segmentation={"size": 5, "counts": "abc"}), r"annotation 7: segmentation: .*\[40, 60\], got 5"),
        (person(7, segmentation={"size": [1, 1], "counts": [1]}), r"annotation 7: segmentation: .*\[40, 60\]"),
        (person(7, segmentation={"size": [40, 60], "counts": [5]}), r"annotation 7: segmentation: .*2400 pixels"),
        (person(5), "two annotations have the id 5"),
        (person("7"), r"annotations\[1\]: id must be a whole number, got '7'"),
        (person(...), r"annotations\[1\]: id must be a whole number, got None"),
        (person(2**63), r"annotations\[1\]: id must be a whole number, got 9223372036854775808"),
    ],
)
def test_a_broken_record_is_an_error_that_names_file_annotation_and_field(tmp_path, record, message):
    with pytest.raises(ValueError, match=r"person_keypoints_train2017\.json: .*" + message):
        dataset(tmp_path, person(5), record)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[float("nan"), 2, 3, 4, 5, 6]], "not a finite number"),
        ({"size": [HEIGHT, WIDTH], "counts": "ä"}, "cannot be read"),
        ({"size": [HEIGHT, WIDTH], "counts": "garbage!!!"}, "cannot be read"),
        ({"size": [HEIGHT, WIDTH], "counts": ":::::"}, "must add up to 2400 pixels, got 70"),
        ({"size": [HEIGHT, WIDTH], "counts": "`k2"}, "must add up to 2400 pixels, got 2928"),
        ({"size": [HEIGHT, WIDTH], "counts": "o"}, "middle of a number"),
    ],
)
def test_an_unreadable_shape_is_an_error_when_the_picture_is_taken(tmp_path, segmentation, message):
    data = dataset(tmp_path, person(7, segmentation=segmentation))
    with pytest.raises(ValueError, match=rf"image 1, annotations \[7\].*{message}"):
        data[0]
    with pytest.raises(ValueError, match=rf"image 1, annotations \[7\]: person 0: segmentation.*{message}"):
        data.segment(0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": ...}, "images must be a list"),
        ({"annotations": ...}, "annotations must be a list"),
        ({"annotations": [3]}, "annotations must be a list of objects"),
        ({"categories": ...}, "categories must be a list"),
        ({"categories": [{"id": 1, "name": "dog"}]}, r"one category named 'person', or one with keypoints.*\['dog'\]"),
        ({"categories": [{"id": 1, "name": "person", "keypoints": ["a"]}]}, r"keypoints \['a'\], skeleton 'doll'"),
        ({"images": [{"id": 1, "file_name": "a", "width": 5}]}, r"images\[0\] \(id 1\): height must be a whole number"),
        ({"images": [{"id": 1, "file_name": "a", "width": 0, "height": 5}]}, r"width must be .*at least 1.*got 0"),
        ({"images": [{"id": 1, "width": 5, "height": 5}]}, "file_name must be"),
        ({"images": [{"id": 2**63, "file_name": "a", "width": 5, "height": 5}]}, r"images\[0\].*: id must be a whole"),
        ({"categories": [{"id": 1, "name": "person", "keypoints": 3}]}, r"has the keypoints 3, skeleton 'doll'"),
        ({"images": [{"id": 1, "file_name": "a", "width": 5, "height": 5}] * 2}, "two images have the id 1"),
    ],
)
def test_a_broken_file_is_an_error_that_says_what_is_missing(tmp_path, change, message):
    labels = content(person(1))
    labels.update(change)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({key: value for key, value in labels.items() if value is not ...}))
    with pytest.raises(ValueError, match=r"a\.json.*" + message):
        CocoKeypoints(tmp_path, skeleton=DOLL, annotations=path)


@pytest.mark.parametrize("data", [b"", b"{", gzip.compress(b"{}" * 999)[:-9], b"\xff\xfe\x00", b"[]"])
def test_a_file_that_is_no_json_object_is_an_error_that_names_it(tmp_path, data):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.json"):
        CocoKeypoints(tmp_path, annotations=path)


def test_the_category_with_keypoints_is_taken_if_none_is_called_person(tmp_path):
    labels = content(person(1), person(2, category_id=4, keypoints=..., bbox="whatever"))
    labels["categories"] = [{"id": 4, "name": "ball"}, {"id": 1, "name": "doll", "keypoints": list(DOLL.keypoints)}]
    write(tmp_path, labels)
    assert len(CocoKeypoints(tmp_path, skeleton=DOLL).labels(0)) == 1


# The picture and its record


def test_a_picture_of_another_size_is_an_error_with_both_sizes(tmp_path):
    data = dataset(tmp_path, person(1))
    Image.new("RGB", (WIDTH // 2, HEIGHT)).save(tmp_path / "train2017" / "001.png")
    with pytest.raises(ValueError, match=r"001\.png: the picture is 40x30 .*says 40x60"):
        data[0]


@pytest.mark.parametrize("recorded", ["stored", "upright"])
def test_an_exif_rotation_is_applied_unless_the_record_describes_the_stored_pixels(tmp_path, recorded):
    exif = Image.Exif()
    exif[0x0112] = 6
    size = (WIDTH, HEIGHT) if recorded == "stored" else (HEIGHT, WIDTH)
    labels = content(person(1, segmentation=[]))
    write(tmp_path, labels)
    image = Image.new("RGB", size)
    image.putpixel((0, 0), (255, 0, 0))
    image.save(tmp_path / "train2017" / "001.png", exif=exif)
    loaded = CocoKeypoints(tmp_path, skeleton=DOLL)[0].image
    assert loaded.shape == (HEIGHT, WIDTH, 3)
    corner = (0, 0) if recorded == "stored" else (0, WIDTH - 1)
    assert loaded[corner][0] == 255


def test_a_damaged_picture_is_named(tmp_path):
    data = dataset(tmp_path, person(1))
    (tmp_path / "train2017" / "001.png").write_bytes(b"nothing")
    with pytest.raises(PictureError, match=r"001\.png"):
        data[0]


# Real data


@pytest.mark.parametrize(
    ("split", "pictures", "people", "labelled"), [("train2017", 90, 388, 267), ("val2017", 52, 220, 172)]
)
def test_real_pictures_load_with_their_people(coco_mini, split, pictures, people, labelled):
    data = CocoKeypoints(coco_mini, split)
    everyone = data.all_labels()
    assert (len(data), len(everyone)) == (pictures, people)
    assert int((everyone.visibility > 0).any(axis=1).sum()) == labelled
    for sample in data:
        height, width = sample.image.shape[:2]
        labels = sample.labels
        shown = labels.keypoints[labels.visibility > 0]
        assert ((shown >= 0) & (shown < [width, height])).all()
        assert not (sample.person_mask & sample.unknown_mask).any()


def test_labelled_keypoints_of_real_people_lie_on_their_drawn_shapes(coco_mini):
    hits = []
    for sample in CocoKeypoints(coco_mini, "train2017"):
        labels = sample.labels
        visible = labels.keypoints[(labels.visibility == 2)].astype(int)
        if sample.person_mask.any() and not sample.unknown_mask.any():
            hits.extend(sample.person_mask[visible[:, 1], visible[:, 0]])
    assert len(hits) > 500
    assert np.mean(hits) > 0.9


def test_all_labels_of_coco_load_in_good_time(coco_labels):
    start = time.perf_counter()
    data = CocoKeypoints(coco_labels, "train2017")
    assert time.perf_counter() - start < 30
    everyone = data.all_labels()
    assert (len(data), len(everyone)) == (56599, 149813)
    assert everyone.keypoints.shape == (149813, 17, 2)
    before = copy.deepcopy(data.labels(0))
    assert_array_equal(before.keypoints[0, 0], [250, 244])  # image 36
    assert data.image_size(0) == (640, 481)
    assert COCO_PERSON.keypoints[0] == "nose"
    assert len(pickle.dumps(data)) < 100e6
