"""Pictures of labels to learn grouping from, and the packed labels that they come from."""

from __future__ import annotations

import dataclasses
import gzip
import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from multiposenet.data import label_cache
from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.grouping_samples import GroupingBatch, PictureAugmentation, PictureSamples
from multiposenet.data.label_cache import read_packed
from multiposenet.skeletons import Skeleton
from multiposenet.structures import PersonLabels

ARMS = Skeleton("arms", ("nose", "left", "right"), ((1, 2),), oks_sigmas=(0.05, 0.05, 0.05))
ALL = PictureAugmentation(0.5, 0.3, 0.0, 0.05, 0.05, 0.3, 1.0, 0.3, 1.0, 0.2)


def picture(people: int, seed: int, crowd: int = 0) -> PersonLabels:
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, 200, (people, 2)), rng.uniform(40, 90, (people, 2))
    keypoints = corners[:, None] + rng.uniform(0, 1, (people, 3, 2)) * sides[:, None]
    return PersonLabels(
        keypoints.astype(np.float32),
        rng.integers(0, 3, (people, 3)).astype(np.uint8),
        np.concatenate([corners, corners + sides], 1).astype(np.float32),
        (0.5 * sides.prod(1)).astype(np.float32),
        np.arange(people) >= people - crowd,
    )


SAMPLES = PictureSamples.from_labels([picture(count % 5, count) for count in range(60)], ARMS)


def drawn(augmentation: PictureAugmentation | None = None, seed: int = 0) -> GroupingBatch:
    generator = torch.Generator().manual_seed(seed)
    return SAMPLES.draw(torch.arange(len(SAMPLES)), augmentation, generator)


def points_of(batch: GroupingBatch) -> torch.Tensor:
    """[N, P, K, 2], the peaks that are said to be right."""
    n, people, k = batch.answer.shape
    at = batch.answer.clamp(min=0).transpose(1, 2)[..., None].expand(n, k, people, 2)
    return batch.peaks.xy.gather(2, at).transpose(1, 2)


def test_without_augmentation_every_labelled_keypoint_is_a_peak_of_score_one_in_its_place():
    batch = drawn()
    assert_close(batch.answer >= 0, batch.labelled)
    assert_close(points_of(batch)[batch.labelled], batch.truth[batch.labelled])
    assert_close(batch.peaks.scores, batch.peaks.valid.float())
    assert int(batch.peaks.valid.sum()) == int(batch.labelled.sum())


def test_the_place_of_a_peak_does_not_tell_whose_it_is():
    first = drawn().answer[:, 0, 0]
    crowded = SAMPLES.count > 2
    assert int((first[crowded] > 0).sum()) > 0


def test_keypoints_that_nobody_labelled_weigh_less_and_empty_slots_nothing():
    batch = drawn()
    there = batch.detections.valid
    assert_close(batch.weight[batch.labelled], torch.ones(int(batch.labelled.sum())))
    assert set(batch.weight[there].unique().tolist()) == {0.5, 1.0}
    assert float(batch.weight[~there].abs().sum()) == 0


def test_a_mirrored_picture_has_left_and_right_exchanged():
    plain, mirrored = drawn(), drawn(PictureAugmentation(flip=1.0))
    swapped = plain.truth[:, :, [0, 2, 1]]
    here = mirrored.labelled
    assert_close(mirrored.labelled, plain.labelled[:, :, [0, 2, 1]])
    assert_close(mirrored.truth[here][:, 0], -1 - swapped[here][:, 0])
    assert_close(mirrored.detections.boxes[..., [0, 2]], -plain.detections.boxes[..., [2, 0]])


def test_degraded_pictures_lack_peaks_and_boxes_and_have_false_ones():
    batch = drawn(ALL)
    own = batch.answer >= 0
    assert bool((batch.labelled & ~own).any())
    assert int(batch.peaks.valid.sum()) > int(own.sum())
    people = int(SAMPLES.count.max())
    assert bool(batch.detections.valid[:, people:].any())
    assert bool((batch.answer[:, people:] == -1).all())
    assert not bool(batch.detections.valid[:, :people].sum() == SAMPLES.count.sum())
    off = (points_of(batch)[own] - batch.truth[own]).norm(dim=-1)
    assert 0.2 < float(off.median()) < 20
    assert bool((batch.peaks.scores[batch.peaks.valid] >= 0.05).all())
    assert float(batch.peaks.scores.max()) <= 1


def test_clean_pictures_stay_among_the_degraded_ones():
    batch = drawn(dataclasses.replace(ALL, clean=1.0, flip=0.0, zoom=0.0))
    plain = drawn()
    assert_close(batch.detections.boxes[:, : plain.answer.shape[1]], plain.detections.boxes)
    assert_close(batch.answer >= 0, torch.nn.functional.pad(plain.answer, (0, 0, 0, 3), value=-1) >= 0)


def test_crowds_have_no_box_but_their_peaks_stay():
    samples = PictureSamples.from_labels([picture(3, 1, crowd=1)], ARMS)
    batch = samples.draw(torch.tensor([0]))
    assert batch.detections.valid.tolist() == [[True, True, False]]
    assert int(batch.peaks.valid.sum()) == int((samples.visibility > 0).sum())


def test_a_pass_shows_every_picture_once_and_depends_on_its_seed_alone():
    def boxes(seed: int, first_step: int = 0) -> list[torch.Tensor]:
        return [batch.detections.boxes for batch in SAMPLES.batches(20, ALL, seed, first_step)]

    again, late = boxes(5), boxes(5, first_step=2)
    assert_close(boxes(5), again)
    assert_close(late, again[2:])
    plain = [batch for batch in SAMPLES.batches(20, PictureAugmentation(), 5)]
    assert sum(len(batch.answer) for batch in plain) == len(SAMPLES)
    assert sum(int(batch.detections.valid.sum()) for batch in plain) == SAMPLES.people
    assert abs(len(plain) - SAMPLES.steps(20)) <= 1


def test_labels_of_nobody_are_an_error():
    with pytest.raises(ValueError, match="nobody in 2 pictures"):
        PictureSamples.from_labels([PersonLabels.empty(3)] * 2, ARMS)


# --- the packed labels


@pytest.fixture
def labels(tmp_path):
    """A folder with an annotation file of three pictures and three people."""
    file = tmp_path / "annotations" / "person_keypoints_val.json.gz"
    file.parent.mkdir()
    people = [
        {"id": n, "image_id": 1 + n % 2, "category_id": 1, "iscrowd": 0, "area": 50.0, "bbox": [0, 0, 10 + n, 10],
         "num_keypoints": 1, "keypoints": [n, 2, 2] + [0] * 6, "segmentation": [[0, 0, 5, 0, 5, 5]]}
        for n in range(1, 4)
    ]  # fmt: skip
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 20, "height": 30} for n in (1, 2, 3)]
    content = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    content["info"] = {"generator": {"generator": "by hand", "seed": 3}}
    file.write_bytes(gzip.compress(json.dumps(content).encode()))
    return tmp_path


def test_packed_labels_are_the_labels(labels):
    plain = CocoKeypoints(labels, "val", ARMS)
    for _ in range(2):  # packs, then reads the packed file
        packed = CocoKeypoints(labels, "val", ARMS, label_cache=True)
        assert packed.identity() == plain.identity()
        assert packed.identity()["made_by"] == {"generator": "by hand", "seed": 3}
        assert [packed.image_name(index) for index in range(3)] == ["1.jpg", "2.jpg", "3.jpg"]
        for field in dataclasses.fields(plain.all_labels()):
            np.testing.assert_array_equal(
                getattr(packed.all_labels(), field.name), getattr(plain.all_labels(), field.name)
            )
        assert packed._content.segmentation(2) == plain._content.segmentation(2)
    assert len(list((labels / "annotations").glob("*.packed"))) == 1


def test_names_in_no_encoding_are_packed_too(labels):
    file = labels / "annotations" / "person_keypoints_val.json.gz"
    content = json.loads(gzip.decompress(file.read_bytes()))
    content["images"][1]["file_name"] = "caf\udce9.jpg"  # Latin-1's é, as Python reads it from a folder
    file.write_bytes(gzip.compress(json.dumps(content).encode()))
    for _ in range(2):
        assert read_packed(file, ARMS).file_names == ("1.jpg", "caf\udce9.jpg", "3.jpg")
    assert len(list(file.parent.glob("*.packed"))) == 1


def test_packed_labels_are_not_parsed_again(labels, monkeypatch):
    file = labels / "annotations" / "person_keypoints_val.json.gz"
    read_packed(file, ARMS)
    monkeypatch.setattr(label_cache, "read_annotations", lambda *_: pytest.fail("parsed again"))
    assert len(read_packed(file, ARMS).image_ids) == 3


def test_labels_that_changed_are_packed_anew(labels):
    file = labels / "annotations" / "person_keypoints_val.json.gz"
    read_packed(file, ARMS)
    content = json.loads(gzip.decompress(file.read_bytes()))
    content["annotations"].pop()
    file.write_bytes(gzip.compress(json.dumps(content).encode()))
    assert len(read_packed(file, ARMS).labels) == 2


def test_a_damaged_packed_file_is_made_anew(labels):
    file = labels / "annotations" / "person_keypoints_val.json.gz"
    read_packed(file, ARMS, folder=labels / "elsewhere")
    (packed,) = (labels / "elsewhere").iterdir()
    packed.write_bytes(packed.read_bytes()[:40])
    assert len(read_packed(file, ARMS, folder=labels / "elsewhere").labels) == 3


def test_a_folder_that_cannot_be_written_costs_only_time(labels):
    (labels / "file").write_text("in the way")
    file = labels / "annotations" / "person_keypoints_val.json.gz"
    assert len(read_packed(file, ARMS, folder=labels / "file" / "below").labels) == 3
