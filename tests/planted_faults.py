"""Faults to plant in a copy of a data set in COCO's layout, each with the finding that must name it.

A fault takes a :class:`Damage`, damages one picture or person that no other fault touches, and returns what has to be
found: (name of the check, split, annotation id or file name). Faults of a whole file are planted in the other split.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from multiposenet.skeletons import COCO_PERSON

TRAIN, VAL = "train2017", "val2017"

Expected = tuple[str, str, object]


class Damage:
    """A data set on disk whose files are about to be damaged.

    Args:
        root: folder with ``annotations/person_keypoints_<split>.json`` and ``<split>/``; both are written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content = {split: json.loads(self.file(split).read_text()) for split in (TRAIN, VAL)}
        self._untouched = {split: [image["id"] for image in self.content[split]["images"]] for split in (TRAIN, VAL)}
        self._fresh = 7_000_000
        self.touched: set[str] = set()  # file names of the pictures that have a fault

    def file(self, split: str) -> Path:
        return self.root / "annotations" / f"person_keypoints_{split}.json"

    def picture(self, image: dict, split: str = TRAIN) -> Path:
        return self.root / split / image["file_name"]

    def fresh_id(self) -> int:
        self._fresh += 1
        return self._fresh

    def image(self, fits: Callable[[dict], bool] = lambda image: True, split: str = TRAIN) -> dict:
        """A picture that no fault has touched yet."""
        images = {image["id"]: image for image in self.content[split]["images"]}
        chosen = next(i for i in self._untouched[split] if fits(images[i]))
        self._untouched[split].remove(chosen)
        self.touched.add(images[chosen]["file_name"])
        return images[chosen]

    def people(self, image: dict, split: str = TRAIN) -> list[dict]:
        return [person for person in self.content[split]["annotations"] if person["image_id"] == image["id"]]

    def person(self, fits: Callable[[dict], bool] = lambda person: True) -> dict:
        """A single person with keypoints in a picture that no fault has touched yet."""

        def fitting(image: dict) -> list[dict]:
            return [p for p in self.people(image) if p["num_keypoints"] >= 6 and not p["iscrowd"] and fits(p)]

        return fitting(self.image(lambda image: bool(fitting(image))))[0]

    def size(self, person: dict) -> tuple[int, int]:
        image = next(i for i in self.content[TRAIN]["images"] if i["id"] == person["image_id"])
        return image["width"], image["height"]

    def write(self) -> None:
        for split, content in self.content.items():
            self.file(split).write_text(json.dumps(content))


def labelled(person: dict) -> list[int]:
    """Positions of the labelled keypoints."""
    return [k for k, visibility in enumerate(person["keypoints"][2::3]) if visibility]


def faces_us(person: dict) -> bool:
    """Nose and eyes are visible and large, the nose below the eyes: left and right can be judged."""
    triples = np.reshape(person["keypoints"], (-1, 3)).astype(float)
    nose, left, right = (triples[COCO_PERSON.index(name)] for name in ("nose", "left_eye", "right_eye"))
    apart = np.linalg.norm(left[:2] - right[:2])
    return bool(min(nose[2], left[2], right[2]) == 2 and apart > 9 and nose[1] - (left[1] + right[1]) / 2 > 0.5 * apart)


def missing_picture(damage: Damage) -> Expected:
    image = damage.image()
    damage.picture(image).unlink()
    return "missing-picture", TRAIN, image["file_name"]


def truncated_picture(damage: Damage) -> Expected:
    image = damage.image()
    path = damage.picture(image)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "unreadable-picture", TRAIN, image["file_name"]


def no_picture_at_all(damage: Damage) -> Expected:
    image = damage.image()
    damage.picture(image).write_text("<html>404 Not Found</html>")
    return "unreadable-picture", TRAIN, image["file_name"]


def turned_by_exif(damage: Damage) -> Expected:
    image = damage.image()
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(damage.picture(image)) as picture:
        picture.load()
        picture.save(damage.picture(image), exif=exif)
    return "exif-rotated", TRAIN, image["file_name"]


def shrunken_picture(damage: Damage) -> Expected:
    image = damage.image()
    with Image.open(damage.picture(image)) as picture:
        picture.reduce(2).save(damage.picture(image))
    return "picture-size", TRAIN, image["file_name"]


def width_and_height_exchanged(damage: Damage) -> Expected:
    def reaches_out(image: dict) -> bool:
        ends = [person["bbox"][0] + person["bbox"][2] for person in damage.people(image)]
        low = [person["bbox"][1] + person["bbox"][3] for person in damage.people(image)]
        return bool(ends) and (max(ends) > image["height"] + 2 or max(low) > image["width"] + 2)

    image = damage.image(reaches_out)
    image["width"], image["height"] = image["height"], image["width"]
    return "width-height-exchanged", TRAIN, image["file_name"]


def same_picture_twice(damage: Damage) -> Expected:
    image = damage.image()
    extra = dict(image, id=damage.fresh_id(), file_name="second_" + image["file_name"])
    damage.content[TRAIN]["images"].append(extra)
    (damage.root / TRAIN / extra["file_name"]).write_bytes(damage.picture(image).read_bytes())
    return "repeated-picture", TRAIN, extra["file_name"]


def leaked_picture(damage: Damage) -> Expected:
    image = damage.image()
    extra = dict(image, id=damage.fresh_id(), file_name="also_in_val.jpg")
    damage.content[VAL]["images"].append(extra)
    (damage.root / VAL / extra["file_name"]).write_bytes(damage.picture(image).read_bytes())
    return "leak", VAL, extra["file_name"]


def forgotten_picture(damage: Damage) -> Expected:
    path = damage.root / TRAIN / "nobody_lists_me.png"
    Image.new("RGB", (80, 80), "green").save(path)
    return "unmentioned-picture", "", str(path)


def one_picture_under_two_ids(damage: Damage) -> Expected:
    image = damage.image()
    damage.content[TRAIN]["images"].append(dict(image, id=damage.fresh_id()))
    return "repeated-file-name", TRAIN, image["file_name"]


def id_as_text(damage: Damage) -> Expected:
    image = damage.image(lambda image: bool(damage.people(image)))
    for person in damage.people(image):
        person["image_id"] = str(image["id"])
    image["id"] = str(image["id"])
    return "image-id-not-whole", TRAIN, image["file_name"]


def unknown_image(damage: Damage) -> Expected:
    person = damage.person()
    person["image_id"] = 31_415_926
    return "unknown-image", TRAIN, person["id"]


def unknown_category(damage: Damage) -> Expected:
    person = damage.person()
    person["category_id"] = 77
    return "unknown-category", TRAIN, person["id"]


def one_id_for_two(damage: Damage) -> Expected:
    person, other = damage.person(), damage.person()
    other["id"] = person["id"]
    return "repeated-annotation-id", TRAIN, person["id"]


def person_annotated_twice(damage: Damage) -> Expected:
    person = damage.person()
    extra = copy.deepcopy(person) | {"id": damage.fresh_id()}
    extra["bbox"][2] += 1
    damage.content[TRAIN]["annotations"].append(extra)
    return "repeated-person", TRAIN, extra["id"]


def placeholder_category(damage: Damage) -> Expected:
    damage.content[TRAIN]["categories"].insert(0, {"id": 0, "name": "people-and-more", "supercategory": "none"})
    return "empty-category", TRAIN, "people-and-more"


def keypoint_outside_the_picture(damage: Damage) -> Expected:
    person = damage.person()
    person["keypoints"][3 * labelled(person)[0]] = damage.size(person)[0] + 30
    return "keypoint-outside-picture", TRAIN, person["id"]


def keypoint_outside_the_box(damage: Damage) -> Expected:
    def has_room(person: dict) -> bool:
        x, _, width, height = person["bbox"]
        return x - 0.4 * max(width, height) > 2 and person["keypoints"][3 * labelled(person)[0] + 2] == 2

    person = damage.person(has_room)
    person["keypoints"][3 * labelled(person)[0]] = round(person["bbox"][0] - 0.35 * max(person["bbox"][2:]))
    return "keypoint-outside-box", TRAIN, person["id"]


def wrong_num_keypoints(damage: Damage) -> Expected:
    person = damage.person()
    person["num_keypoints"] -= 3
    return "num-keypoints", TRAIN, person["id"]


def visibility_of_three(damage: Damage) -> Expected:
    person = damage.person()
    person["keypoints"][3 * labelled(person)[0] + 2] = 3
    return "visibility-value", TRAIN, person["id"]


def unlabelled_keypoint_with_a_place(damage: Damage) -> Expected:
    person = damage.person()
    person["keypoints"][3 * labelled(person)[0] + 2] = 0
    person["num_keypoints"] -= 1
    return "unlabelled-with-place", TRAIN, person["id"]


def labelled_in_the_corner(damage: Damage) -> Expected:
    person = damage.person()
    first = 3 * labelled(person)[0]
    person["keypoints"][first : first + 2] = [0, 0]
    return "labelled-at-origin", TRAIN, person["id"]


def not_a_number(damage: Damage) -> Expected:
    person = damage.person()
    person["keypoints"][3 * labelled(person)[0]] = float("nan")
    return "not-a-number", TRAIN, person["id"]


def infinite_area(damage: Damage) -> Expected:
    person = damage.person()
    person["area"] = float("inf")
    return "not-a-number", TRAIN, person["id"]


def keypoints_of_another_skeleton(damage: Damage) -> Expected:
    person = damage.person()
    person["keypoints"] = person["keypoints"][:42]
    return "keypoint-count", TRAIN, person["id"]


def area_of_the_box(damage: Damage) -> Expected:
    person = damage.person()
    person["area"] = person["bbox"][2] * person["bbox"][3]
    return "area-is-box", TRAIN, person["id"]


def no_area(damage: Damage) -> Expected:
    person = damage.person()
    del person["area"]
    return "no-area", TRAIN, person["id"]


def box_of_negative_size(damage: Damage) -> Expected:
    person = damage.person()
    x, y, width, height = person["bbox"]
    person["bbox"] = [x + width, y + height, -width, -height]
    return "negative-box", TRAIN, person["id"]


def empty_box(damage: Damage) -> Expected:
    person = damage.person()
    person["bbox"][2] = 0
    return "empty-box", TRAIN, person["id"]


def box_of_corners(damage: Damage) -> Expected:
    def is_told_by_the_edge(person: dict) -> bool:
        x, y, width, height = person["bbox"]
        across, down = damage.size(person)
        points = np.reshape(person["keypoints"], (-1, 3)).astype(float)
        points = points[points[:, 2] > 0, :2]
        inside = (points >= (x, y)).all() and (points <= (x + width - 1, y + height - 1)).all()
        # As a size, the far corner reaches out by a quarter, and what is inside is twice as large as the person.
        far = 2 * x + width - across > 0.25 * (x + width) or 2 * y + height - down > 0.25 * (y + height)
        loose = min(across - x, x + width) > 2 * width or min(down - y, y + height) > 2 * height
        return bool(inside) and far and loose

    person = damage.person(is_told_by_the_edge)
    x, y, width, height = person["bbox"]
    person["bbox"] = [x, y, x + width, y + height]
    return "box-of-corners", TRAIN, person["id"]


def crowd_of_two(damage: Damage) -> Expected:
    person = damage.person()
    person["iscrowd"] = 2
    return "crowd-value", TRAIN, person["id"]


def torn_segmentation(damage: Damage) -> Expected:
    person = damage.person()
    person["segmentation"] = [[10.0, 10.0, 20.0, 10.0, 20.0]]
    return "broken-segmentation", TRAIN, person["id"]


def x_and_y_exchanged(damage: Damage) -> Expected:
    def is_off_the_diagonal(person: dict) -> bool:
        x, y, width, height = person["bbox"]
        return abs((x + width / 2) - (y + height / 2)) > 0.8 * max(width, height)

    person = damage.person(is_off_the_diagonal)
    person["keypoints"][0::3], person["keypoints"][1::3] = person["keypoints"][1::3], person["keypoints"][0::3]
    return "x-y-exchanged", TRAIN, person["id"]


def left_and_right_of_a_person_exchanged(damage: Damage) -> Expected:
    person = damage.person(faces_us)
    person["keypoints"] = exchanged(person["keypoints"])
    return "left-right-of-person", TRAIN, person["id"]


def left_and_right_of_a_file_exchanged(damage: Damage) -> Expected:
    for person in damage.content[VAL]["annotations"]:
        person["keypoints"] = exchanged(person["keypoints"])
    return "left-right-exchanged", VAL, "the left one is on the left on eye 0.0 %"


def keypoint_that_is_never_labelled(damage: Damage) -> Expected:
    first = 3 * COCO_PERSON.index("left_ankle")
    for person in damage.content[VAL]["annotations"]:
        person["num_keypoints"] -= person["keypoints"][first + 2] > 0
        person["keypoints"][first : first + 3] = [0, 0, 0]
    return "keypoint-never-labelled", VAL, "left_ankle"


def exchanged(keypoints: list) -> list:
    """Left and right under each other's name."""
    triples = np.reshape(np.array(keypoints, object), (-1, 3))[COCO_PERSON.flip_indices]
    return triples.ravel().tolist()


FAULTS: tuple[Callable[[Damage], Expected], ...] = (
    # The picky ones come first, while there are pictures to choose from.
    left_and_right_of_a_person_exchanged, width_and_height_exchanged, x_and_y_exchanged, box_of_corners,
    keypoint_outside_the_box,
    missing_picture, truncated_picture, no_picture_at_all, turned_by_exif, shrunken_picture, same_picture_twice,
    leaked_picture, forgotten_picture, one_picture_under_two_ids, id_as_text, unknown_image, unknown_category,
    one_id_for_two, person_annotated_twice, placeholder_category, keypoint_outside_the_picture, wrong_num_keypoints,
    visibility_of_three, unlabelled_keypoint_with_a_place, labelled_in_the_corner, not_a_number, infinite_area,
    keypoints_of_another_skeleton, area_of_the_box, no_area, box_of_negative_size, empty_box, crowd_of_two,
    torn_segmentation, left_and_right_of_a_file_exchanged, keypoint_that_is_never_labelled,
)  # fmt: skip
