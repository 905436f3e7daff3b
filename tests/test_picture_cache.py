"""Cached samples are the source's samples, shrunk at most, and never those of other data."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from test_formats import human_art_content, write

from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.formats import HUMAN_ART_21_FORMAT, HUMAN_ART_FORMAT, CocoFormat
from multiposenet.data.mpii import MpiiKeypoints, write_mpii
from multiposenet.data.picture_cache import CachedSamples, shrink
from multiposenet.data.synthetic import SyntheticPeople
from multiposenet.data.transforms import training_transform
from multiposenet.data.whole_image import WholeImageDataset
from multiposenet.skeletons import MPII
from multiposenet.structures import PersonLabels, Sample


class Counted:
    """A source that counts how often it is asked."""

    def __init__(self, source: SyntheticPeople) -> None:
        self.source, self.skeleton, self.asked = source, source.skeleton, 0

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        self.asked += 1
        return self.source[index]

    def image_name(self, index: int) -> str:
        return self.source.image_name(index)

    def identity(self) -> dict:
        return self.source.identity()


def people(seed: int = 3) -> Counted:
    return Counted(SyntheticPeople(3, seed, (96, 128), people=(0, 3)))


def assert_same_sample(one: Sample, other: Sample) -> None:
    assert (one.image_id, one.name) == (other.image_id, other.name)
    for name in ("image", "person_mask", "ignore_mask"):
        assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    for field in dataclasses.fields(PersonLabels):
        assert_array_equal(getattr(one.labels, field.name), getattr(other.labels, field.name))


def test_a_cached_sample_is_the_source_s_and_the_source_is_asked_once(tmp_path):
    source = people()
    cache = CachedSamples(source, tmp_path)
    for index in (0, 1, 2, 0, 1, 2):
        assert_same_sample(cache[index], source.source[index])
    assert source.asked == 3


def test_another_cache_object_finds_what_the_first_one_wrote(tmp_path):
    CachedSamples(people(), tmp_path)[1]
    source = people()
    assert_same_sample(CachedSamples(source, tmp_path)[1], source.source[1])
    assert source.asked == 0


def test_other_data_and_other_sizes_have_caches_of_their_own(tmp_path):
    CachedSamples(people(seed=3), tmp_path)[0]
    for cache in (CachedSamples(people(seed=4), tmp_path), CachedSamples(people(seed=3), tmp_path, long_side=64)):
        cache[0]
        assert cache.source.asked == 1


def human_art(root: Path, layout: CocoFormat = HUMAN_ART_FORMAT) -> CocoKeypoints:
    return CocoKeypoints(root, "validation", layout=layout)


@pytest.fixture
def on_disk(tmp_path) -> Path:
    """Human-Art's layout: one file with two sets of keypoints."""
    drawn = SyntheticPeople(6, 3, (96, 128), people=(1, 2))
    root = tmp_path / "HumanArt"
    write(root, "annotations/validation_humanart.json", human_art_content(drawn.ground_truth()), tmp_path, drawn)
    return root


def test_one_file_s_two_sets_of_keypoints_have_caches_of_their_own(on_disk, tmp_path):
    assert CachedSamples(human_art(on_disk), tmp_path / "cache")[0].labels.keypoints.shape[1] == 17
    own = human_art(on_disk, HUMAN_ART_21_FORMAT)
    assert CachedSamples(own, tmp_path / "cache")[0].labels.keypoints.shape[1] == 21
    flipped = dataclasses.replace(own.skeleton, flip_pairs=())
    data = CocoKeypoints(on_disk, "validation", flipped, layout=HUMAN_ART_21_FORMAT)
    assert CachedSamples(data, tmp_path / "cache").folder != CachedSamples(own, tmp_path / "cache").folder


def test_other_pictures_of_the_same_labels_have_a_cache_of_their_own(on_disk, tmp_path):
    first = human_art(on_disk)
    CachedSamples(first, tmp_path / "cache")[0]
    other = tmp_path / "dark" / "HumanArt"
    shutil.copytree(on_disk, other)
    for index in range(len(first)):
        path = other.parent / first.image_name(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(first.image(index) // 2).save(path)
    second = human_art(other)
    assert_same_sample(CachedSamples(second, tmp_path / "cache")[0], second[0])


def test_a_picture_that_changed_is_read_anew_and_its_file_replaced(on_disk, tmp_path):
    data = human_art(on_disk)
    cache = CachedSamples(data, tmp_path / "cache")
    before = [cache[index].image for index in (0, 1)]
    Image.fromarray(255 - before[0]).save(data.picture_file(0))
    assert_same_sample(cache[0], data[0])
    assert np.abs(cache[0].image.astype(int) - before[0]).max() > 50
    assert len(list(cache.folder.glob("*.safetensors"))) == 2
    data.picture_file(0).unlink()
    with pytest.raises(FileNotFoundError, match="looked for"):
        cache[0]
    assert_array_equal(cache[1].image, before[1])


def test_a_changed_picture_of_mpii_is_noticed_too(tmp_path):
    drawn = SyntheticPeople(2, 3, (96, 128), people=(1, 1), skeleton=MPII)
    pictures = [(drawn.image_name(index), drawn[index].labels) for index in range(2)]
    write_mpii(tmp_path, "train", pictures)
    (tmp_path / "images").mkdir(exist_ok=True)
    for index, (name, _) in enumerate(pictures):
        Image.fromarray(drawn[index].image).save(tmp_path / "images" / name)
    data = MpiiKeypoints(tmp_path, "train")
    cache = CachedSamples(data, tmp_path / "cache")
    before = cache[0].image
    Image.fromarray(255 - before).save(data.picture_file(0))
    assert_same_sample(cache[0], data[0])


def test_a_damaged_file_is_made_anew(tmp_path):
    source = people()
    cache = CachedSamples(source, tmp_path)
    cache[0]
    (file,) = cache.folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    assert_same_sample(cache[0], source.source[0])
    assert_same_sample(cache[0], source.source[0])
    assert source.asked == 2


def test_shrinking_moves_labels_and_masks_with_the_picture():
    sample = next(s for s in SyntheticPeople(9, 5, (240, 320), people=(2, 2)) if len(s.labels) == 2)
    small = shrink(sample, 160)
    assert small.image.shape == (120, 160, 3)
    assert small.person_mask.shape == small.ignore_mask.shape == (120, 160)
    assert_allclose(small.labels.keypoints, (sample.labels.keypoints + 0.5) / 2 - 0.5, atol=1e-4)
    assert_allclose(small.labels.boxes, sample.labels.boxes / 2, atol=1e-4)
    assert_allclose(small.labels.areas, sample.labels.areas / 4, rtol=1e-6)
    assert abs(small.person_mask.mean() - sample.person_mask.mean()) < 0.01
    blocks = sample.image.reshape(120, 2, 160, 2, 3).mean(axis=(1, 3))
    assert np.abs(small.image - blocks).max() <= 1


def test_a_picture_that_is_small_enough_stays_as_it_is():
    sample = SyntheticPeople(1, 5, (96, 128), people=(1, 1))[0]
    assert shrink(sample, 128) is sample
    assert shrink(sample, None) is sample


def test_training_examples_come_out_of_a_cache_as_of_the_source(tmp_path):
    cache = CachedSamples(people(), tmp_path)
    examples = WholeImageDataset(cache, training_transform(64, colours=False))
    for _ in range(2):
        assert examples[0]["image"].shape == (3, 64, 64)


def test_a_size_below_one_pixel_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="long_side must be at least 1"):
        CachedSamples(people(), tmp_path, long_side=0)
