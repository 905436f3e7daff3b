"""Crops to learn from: each person where they should be, whatever is drawn at random, and by the dice alone."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from multiposenet.crops import CropRule
from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.person_crop import (
    PersonAugmentation,
    PersonCropDataset,
    collate_crops,
    labelled_people,
    upper_body,
)
from multiposenet.data.picture_cache import CachedSamples
from multiposenet.families.family import TrainingView
from multiposenet.families.top_down import FAMILY
from multiposenet.skeletons import COCO_PERSON, MPII, Skeleton
from multiposenet.structures import PersonLabels, Sample

ROOT = Path(__file__).resolve().parent.parent
DOLL = Skeleton("doll", ("head", "left_hand", "right_hand", "left_knee", "right_knee"), ((1, 2), (3, 4)))
RULE = CropRule((64, 48))


class Dots:
    """Pictures with a dot of its own brightness at every keypoint of their people."""

    skeleton = DOLL

    def __init__(self, people: int = 2, drawn: bool = False) -> None:
        self.people, self.drawn = people, drawn
        if not drawn:
            self.all_labels = self._all_labels

    def __len__(self) -> int:
        return 3

    def image_name(self, index: int) -> str:
        return f"dots{index}.png"

    def identity(self) -> dict:
        return {"dots": self.people}

    def __getitem__(self, index: int) -> Sample:
        labels = self.labels(index)
        image = np.zeros((200, 240, 3), np.uint8)
        rows, columns = np.mgrid[:200, :240]
        for person in range(self.people):
            for k, (x, y) in enumerate(labels.keypoints[person]):
                dot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8.0)
                image[..., k % 3] = np.maximum(image[..., k % 3], (dot * 255).astype(np.uint8))
        nothing = np.zeros(image.shape[:2], bool)
        return Sample(image, index + 1, self.image_name(index), labels, nothing, nothing)

    def labels(self, index: int) -> PersonLabels:
        centres = np.array([[60.0, 100], [170, 90]])[: self.people] + index
        offsets = np.array([[0.0, -50], [25, -10], [-25, -10], [12, 40], [-12, 40]])
        sizes = np.array([1.0, 0.8])[: self.people, None, None]
        keypoints = (centres[:, None] + sizes * offsets).astype(np.float32)
        boxes = np.concatenate([keypoints.min(1) - 6, keypoints.max(1) + 7], axis=1).astype(np.float32)
        return PersonLabels(
            keypoints,
            np.full((self.people, 5), 2, np.uint8),
            boxes,
            np.full(self.people, 900, np.float32),
            np.zeros(self.people, bool),
        )

    def _all_labels(self):
        return _Packed([self.labels(index) for index in range(3)])


class _Packed:
    def __init__(self, labels: list[PersonLabels]) -> None:
        self.visibility = np.concatenate([own.visibility for own in labels])
        self.crowd = np.concatenate([own.crowd for own in labels])
        self.image_index = np.repeat(np.arange(len(labels)), [len(own) for own in labels])


def drawn(dataset: PersonCropDataset, index: int, seed: int) -> dict:
    torch.manual_seed(seed)
    return dataset[index]


def brightest(image: torch.Tensor, channel: int, near: torch.Tensor) -> torch.Tensor:
    """The brightest pixel of a channel within 6 pixels of a point."""
    rows, columns = torch.meshgrid(torch.arange(image.shape[1]), torch.arange(image.shape[2]), indexing="ij")
    close = (columns - near[0]) ** 2 + (rows - near[1]) ** 2 < 36
    place = torch.where(close, image[channel].float(), -1.0).flatten().argmax()
    return torch.stack([place % image.shape[2], place // image.shape[2]]).float()


# --- where keypoints are


@pytest.mark.parametrize("flip", [None, 0.0, 1.0])
def test_labels_lie_on_what_they_label_in_every_crop(flip):
    augmentation = None if flip is None else PersonAugmentation(flip=flip)
    colours = [k % 3 for k in (DOLL.flip_indices if flip else range(5))]
    dataset = PersonCropDataset(Dots(), RULE, DOLL, augmentation)
    checked = 0
    for index in range(len(dataset)):
        example = drawn(dataset, index, seed=index)
        for k in range(5):
            xy = example["keypoints"][k]
            inside = ((xy > 4) & (xy < torch.tensor([43.0, 59.0]))).all()
            if bool(example["visibility"][k] > 0) and bool(inside):
                # Left and right have colours of their own, so a name on the wrong side would be found nowhere near.
                assert_close(brightest(example["image"], colours[k], xy), xy, atol=1.1, rtol=0)
                checked += 1
    assert checked > 15


def test_without_augmentation_a_crop_is_the_one_in_use():
    dataset = PersonCropDataset(Dots(), RULE, DOLL)
    example = dataset[1]
    labels = Dots().labels(0)
    windows = RULE.windows(torch.from_numpy(labels.boxes[1:2]))
    assert_close(windows.keypoints_to_image(example["keypoints"][None])[0], torch.from_numpy(labels.keypoints[1]))
    image = torch.from_numpy(Dots()[0].image).permute(2, 0, 1).float() / 255
    assert_close(example["image"] / 255, RULE.cut(image, windows)[0], atol=0.02, rtol=0)


def test_mirroring_exchanges_left_and_right():
    always = PersonAugmentation(flip=1.0, rotation_probability=0.0, half_body=0.0, scale=(1.0, 1.0))
    never = dataclasses.replace(always, flip=0.0)
    one, other = (drawn(PersonCropDataset(Dots(), RULE, DOLL, how), 0, 0) for how in (always, never))
    expected = other["keypoints"][DOLL.flip_indices]
    expected = torch.stack([47 - expected[:, 0], expected[:, 1]], -1)
    assert_close(one["keypoints"], expected, atol=1e-4, rtol=0)


def test_keypoints_outside_the_crop_count_as_not_labelled_and_stay_where_they_are():
    close = PersonAugmentation(scale=(0.4, 0.4), half_body=0.0, flip=0.0, rotation_probability=0.0)
    example = drawn(PersonCropDataset(Dots(), RULE, DOLL, close), 0, 1)
    outside = ((example["keypoints"] < -0.5) | (example["keypoints"] >= torch.tensor([47.5, 63.5]))).any(-1)
    assert bool(outside.any())
    assert_close(example["visibility"] > 0, ~outside)


def test_half_a_body_fills_the_crop_when_the_dice_say_so():
    half = PersonAugmentation(
        half_body=1.0, half_body_over=3, upper=1.0, flip=0.0, rotation_probability=0.0, scale=(1, 1)
    )
    dataset = PersonCropDataset(Dots(), RULE, DOLL, half)
    for seed in range(5):
        example = drawn(dataset, 0, seed)
        assert bool((example["visibility"][:3] > 0).all())
        # The upper half's box is 50 x 40 and grows by 0.6 and 0.8 at most.
        scale = float((example["keypoints"][1] - example["keypoints"][2]).norm()) / 50
        assert scale > min(48 / (50 * 1.6), 64 / (41 * 1.8)) - 1e-3


@pytest.mark.parametrize(
    ("upper", "lower", "wanted", "shown"),
    [
        (4, 4, "upper", "upper"),
        (4, 4, "lower", "lower"),
        (4, 3, "lower", "upper"),
        (3, 4, "upper", "lower"),
        (3, 3, "lower", "upper"),
        (2, 3, "lower", "whole"),
    ],
)
def test_a_half_needs_more_than_three_keypoints_or_else_the_upper_one_three(upper, lower, wanted, shown):
    skeleton = Skeleton("tall", ("head", "neck", "chin", "nose", "left_hip", "right_hip", "left_toe", "right_toe"))
    keypoints = np.array([[[3 * k, 20 * k] for k in range(8)]], np.float32)
    visible = [2] * upper + [0] * (4 - upper) + [2] * lower + [0] * (4 - lower)
    boxes, areas, crowd = np.array([[0, 0, 22, 141]], np.float32), np.array([900], np.float32), np.zeros(1, bool)
    person = PersonLabels(keypoints, np.array([visible], np.uint8), boxes, areas, crowd)
    how = PersonAugmentation(
        half_body=1.0, upper=float(wanted == "upper"), half_body_extension=(0.0, 0.0), rotation=0.0, scale=(1.0, 1.0),
        extension=(1.0, 1.0), further_extension=(0.0, 0.0), flip=0.0,
    )  # fmt: skip
    source = Dots()
    source.skeleton = skeleton
    window, _ = PersonCropDataset(source, RULE, skeleton, how).window(person, 0)
    middle = window.keypoints_to_image(torch.tensor([[23.5, 31.5]]))[0, 1].item()
    tops = {"upper": 0, "lower": 80, "whole": 0}
    ends = {"upper": 20 * (upper - 1), "lower": 80 + 20 * (lower - 1), "whole": 140}
    assert middle == pytest.approx((tops[shown] + ends[shown]) / 2, abs=0.51)


def test_people_with_few_keypoints_are_never_halved():
    half = PersonAugmentation(half_body=1.0, half_body_over=5, flip=0.0, rotation_probability=0.0, scale=(1.0, 1.0))
    whole = dataclasses.replace(half, half_body=0.0)
    one, other = (drawn(PersonCropDataset(Dots(), RULE, DOLL, how), 0, 3) for how in (half, whole))
    assert_close(one["keypoints"], other["keypoints"])


def test_a_training_view_says_how_a_top_down_network_s_crops_vary():
    view = TrainingView(
        image_size=64, scale=(1.0, 1.0), rotation=0.0, flip=0.0, half_body=0.0, further_extension=(0.0, 0.0)
    )
    _, decoder = FAMILY.methods["topdown_lite"](DOLL, crop=(64, 48), extension=PersonAugmentation().extension)
    views = (dataclasses.replace(view, augment=augment) for augment in (True, False))
    training, use = (FAMILY.teaching.examples(Dots(), decoder, DOLL, own) for own in views)
    for index in range(len(use)):
        one, other = drawn(training, index, index), use[index]
        assert_close(one["keypoints"], other["keypoints"], atol=1e-3, rtol=0)
    varied = FAMILY.teaching.examples(Dots(), decoder, DOLL, dataclasses.replace(view, further_extension=(0.5, 0.5)))
    assert not torch.allclose(drawn(varied, 0, 0)["keypoints"], use[0]["keypoints"], atol=1.0)


def test_the_upper_half_of_coco_has_the_hips_and_that_of_mpii_has_not():
    assert [name for name, upper in zip(COCO_PERSON.keypoints, upper_body(COCO_PERSON), strict=True) if not upper] == [
        "left_knee", "right_knee", "left_ankle", "right_ankle"
    ]  # fmt: skip
    assert upper_body(MPII) == [False] * 7 + [True] * 9


@pytest.mark.parametrize("recipe", ["mspn", "mspn_mpii"])
def test_the_published_settings_show_the_upper_half_as_often_as_the_published_dice(recipe):
    settings = tomllib.loads((ROOT / "recipes" / f"{recipe}.toml").read_text())
    below_a_half = float(torch.special.ndtr(torch.tensor(0.5)))  # of a normal number
    assert settings["upper"] == pytest.approx(below_a_half, abs=1e-3)


# --- who is an example


def test_every_single_person_with_a_label_is_an_example_once():
    dataset = PersonCropDataset(Dots(), RULE, DOLL)
    assert len(dataset) == 6
    assert labelled_people(Dots()).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    names = [dataset[index]["name"] for index in range(6)]
    assert names == ["dots0.png"] * 2 + ["dots1.png"] * 2 + ["dots2.png"] * 2


def test_of_drawn_pictures_somebody_is_taken_by_chance():
    dataset = PersonCropDataset(Dots(drawn=True), RULE, DOLL)
    assert len(dataset) == 3
    brightness = {int(drawn(dataset, 0, seed)["image"].sum()) for seed in range(12)}
    assert len(brightness) == 2


def test_a_drawn_picture_without_anybody_teaches_nothing():
    example = PersonCropDataset(Dots(people=0, drawn=True), RULE, DOLL)[0]
    assert int(example["visibility"].sum()) == 0
    assert bool(torch.isfinite(example["keypoints"]).all())


def test_cached_pictures_give_the_same_examples(tmp_path):
    plain = PersonCropDataset(Dots(), RULE, DOLL)
    cached = PersonCropDataset(CachedSamples(Dots(), tmp_path), RULE, DOLL)
    assert len(cached) == len(plain)
    assert_close(cached[3]["image"], plain[3]["image"])


def test_a_crop_depends_on_the_seed_alone():
    dataset = PersonCropDataset(Dots(), RULE, DOLL, PersonAugmentation(colours=True))
    one, other = drawn(dataset, 2, 7), drawn(dataset, 2, 7)
    assert_close(one["image"], other["image"])
    assert_close(one["keypoints"], other["keypoints"])


def test_a_batch_is_stacked_and_scaled():
    dataset = PersonCropDataset(Dots(), RULE, DOLL)
    batch = collate_crops([dataset[0], dataset[5]])
    assert batch.images.shape == (2, 3, 64, 48)
    assert float(batch.images.max()) <= 1
    assert batch.targets.keypoints.shape == (2, 5, 2)
    assert batch.names == ("dots0.png", "dots2.png")
    with pytest.raises(ValueError, match="examples is empty"):
        collate_crops([])


def test_another_skeleton_than_the_source_s_is_an_error():
    with pytest.raises(ValueError, match="skeleton 'mpii', the source has 'doll'"):
        PersonCropDataset(Dots(), RULE, MPII)


def test_a_broken_picture_is_named():
    class Broken(Dots):
        def __getitem__(self, index):
            raise OSError("disk on fire")

    with pytest.raises(RuntimeError, match=r"picture 1 \(dots1\.png\): OSError: disk on fire"):
        PersonCropDataset(Broken(), RULE, DOLL)[2]


def test_real_people_are_examples_too(coco_mini):
    source = CocoKeypoints(coco_mini, "train2017", with_keypoints=True, limit=4)
    dataset = PersonCropDataset(source, CropRule(), COCO_PERSON, PersonAugmentation())
    assert len(dataset) == int(((source.all_labels().visibility > 0).any(1) & ~source.all_labels().crowd).sum())
    assert dataset[0]["image"].shape == (3, 256, 192)
