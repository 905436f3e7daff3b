import json
import multiprocessing
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.pictures import PictureError
from multiposenet.data.transforms import Letterbox, training_transform
from multiposenet.data.whole_image import WholeImageDataset, collate
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Batch, PersonLabels, Sample

DOLL = Skeleton("doll", ("head", "left_hand", "right_hand"), flip_pairs=((1, 2),))
SIDE = 64


class Dolls:
    """Three pictures of 64x64: picture i is of brightness i and shows i people; its first 8x8 pixels are person."""

    skeleton = DOLL

    def __len__(self) -> int:
        return 3

    def image_name(self, index: int) -> str:
        return f"{index}.png"

    def __getitem__(self, index: int) -> Sample:
        person = np.zeros((SIDE, SIDE), bool)
        person[:8, :8] = True
        person[8, 8] = True  # a sixteenth of cell (2, 2)
        ignore = np.zeros((SIDE, SIDE), bool)
        ignore[16:20, 16:18] = True  # half of cell (4, 4)
        ignore[20, 16:20] = True  # a quarter of cell (5, 4)
        labels = PersonLabels(
            keypoints=np.full((index, 3, 2), 10, np.float32),
            visibility=np.full((index, 3), 2, np.uint8),
            boxes=np.tile(np.array([[2, 4, 20, 30]], np.float32), (index, 1)),
            areas=np.ones(index, np.float32),
            crowd=np.arange(index) == 1,
        )
        image = np.full((SIDE, SIDE, 3), index, np.uint8)
        return Sample(image, index, self.image_name(index), labels, person, ignore, unknown_mask=ignore)


class Broken(Dolls):
    def __getitem__(self, index: int) -> Sample:
        raise PictureError("nothing there")


def dolls() -> WholeImageDataset:
    return WholeImageDataset(Dolls(), Letterbox(SIDE, skeleton=DOLL))


def test_a_batch_has_images_and_padded_targets():
    data = dolls()
    batch = collate([data[i] for i in range(3)])
    assert isinstance(batch, Batch)
    assert batch.names == ("0.png", "1.png", "2.png")
    assert batch.images.shape == (3, 3, SIDE, SIDE)
    assert batch.images.dtype == torch.float32
    assert_close(batch.images[:, 0, 0, 0], torch.tensor([0.0, 1, 2]) / 255)
    targets = batch.targets
    assert targets.keypoints.shape == (3, 2, 3, 2)
    assert targets.valid.tolist() == [[False, False], [True, False], [True, False]]  # the last one is a crowd
    assert (targets.visibility > 0).sum(dim=(1, 2)).tolist() == [0, 3, 6]
    assert targets.visibility.dtype == torch.uint8
    box, none = [2.0, 4, 20, 30], [0.0] * 4
    assert_close(targets.boxes, torch.tensor([[none, none], [box, none], [box, box]]))
    assert targets.stride == 4


def test_masks_become_shares_and_flags_of_cells():
    targets = collate([dolls()[1]]).targets
    person = torch.zeros(1, 16, 16)
    person[0, :2, :2] = 1
    person[0, 2, 2] = 1 / 16
    assert_close(targets.person_mask, person)
    ignore = torch.zeros(1, 16, 16, dtype=torch.bool)
    ignore[0, 4, 4] = True
    assert_close(targets.ignore_mask, ignore)
    assert_close(targets.unknown_mask, ignore)


def test_a_batch_of_empty_pictures_has_one_empty_slot():
    targets = collate([dolls()[0]]).targets
    assert targets.boxes.shape == (1, 1, 4)
    assert not targets.valid.any()
    assert not targets.visibility.any()


def test_the_stride_decides_the_mask_size_and_must_divide_the_image():
    assert WholeImageDataset(Dolls(), Letterbox(SIDE, skeleton=DOLL), stride=8)[0]["person_mask"].shape == (8, 8)
    with pytest.raises(RuntimeError, match="multiples of stride 7"):
        WholeImageDataset(Dolls(), Letterbox(SIDE, skeleton=DOLL), stride=7)[0]


def test_a_broken_sample_is_an_error_that_names_the_picture():
    data = WholeImageDataset(Broken(), Letterbox(SIDE, skeleton=DOLL))
    with pytest.raises(RuntimeError, match=r"picture 2 \(2\.png\): PictureError: nothing there") as caught:
        data[2]
    assert isinstance(caught.value.__cause__, PictureError)


def test_iteration_ends_after_the_last_picture():
    assert len(list(dolls())) == len(dolls()) == 3


def test_a_transform_for_another_skeleton_is_an_error():
    for transform in (Letterbox(SIDE), v2.Compose([training_transform(SIDE)])):
        with pytest.raises(ValueError, match="skeleton 'person', the source has 'doll'"):
            WholeImageDataset(Dolls(), transform)
    assert WholeImageDataset(Dolls(), training_transform(SIDE, skeleton=DOLL)).skeleton == DOLL


def test_images_of_different_sizes_are_an_error_with_names():
    small = WholeImageDataset(Dolls(), Letterbox(32, skeleton=DOLL))
    with pytest.raises(ValueError, match=r"one shape.*\['0\.png', '1\.png'\]"):
        collate([dolls()[0], small[1]])
    with pytest.raises(ValueError, match="empty"):
        collate([])


def test_images_that_a_transform_turned_into_tensors_are_taken_too():
    chain = v2.Compose([Letterbox(SIDE, skeleton=DOLL), v2.ToImage()])
    plain, tensor = dolls()[2], WholeImageDataset(Dolls(), chain)[2]
    assert_close(tensor["image"], plain["image"])
    with pytest.raises(RuntimeError, match="must be uint8"):
        WholeImageDataset(Dolls(), v2.Compose([chain, v2.ToDtype(torch.float32)]))[2]


def write_pictures(root) -> None:
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    images = [{"id": i, "file_name": f"{i}.png", "width": 48, "height": 32} for i in range(1, 5)]
    person = {"category_id": 1, "bbox": [4, 4, 20, 20], "area": 99, "iscrowd": 0}
    people = [{**person, "id": i, "image_id": i, "keypoints": [9, 9, 2] * 17} for i in range(1, 4)]
    category = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON.keypoints)}
    for record in images:
        Image.new("RGB", (48, 32), (record["id"], 0, 0)).save(root / "train2017" / record["file_name"])
    text = json.dumps({"images": images, "annotations": people, "categories": [category]})
    (root / "annotations" / "person_keypoints_train2017.json").write_text(text)


@pytest.mark.skipif(sys.platform == "win32", reason="spawn is what this test asks for and all that Windows has")
def test_spawned_workers_load_the_same_batches(tmp_path):
    write_pictures(tmp_path)
    data = WholeImageDataset(CocoKeypoints(tmp_path), Letterbox(SIDE))
    here = list(DataLoader(data, batch_size=2, collate_fn=collate))
    context = multiprocessing.get_context("spawn")
    there = list(DataLoader(data, 2, collate_fn=collate, num_workers=1, multiprocessing_context=context))
    assert [batch.names for batch in there] == [("1.png", "2.png"), ("3.png", "4.png")]
    for one, other in zip(here, there, strict=True):
        assert_close(one.images, other.images)
        assert_close(one.targets.keypoints, other.targets.keypoints)


def test_people_without_keypoints_are_boxes_for_the_detector_and_ignored_by_the_heatmaps(coco_mini):
    source = CocoKeypoints(coco_mini, "train2017")
    data = WholeImageDataset(source, Letterbox(480))
    checked = 0
    for index in range(len(source)):
        labels = source.labels(index)
        unlabelled = ~(labels.visibility > 0).any(axis=1) & ~labels.crowd
        if not unlabelled.any():
            continue
        targets = collate([data[index]]).targets
        if targets.unknown_mask.any():  # the box of a neighbour may cover the unlabelled person
            continue
        valid = targets.valid[0]
        nameless = valid & ~(targets.visibility[0] > 0).any(dim=1)
        large = (targets.boxes[0, :, 2:] - targets.boxes[0, :, :2] > 24).all(dim=1)
        checked += int((nameless & large).sum())
        if bool((nameless & large).any()):
            assert targets.ignore_mask.any()
    assert checked > 5


def test_real_pictures_make_training_batches(coco_mini):
    torch.manual_seed(0)
    data = WholeImageDataset(CocoKeypoints(coco_mini, "val2017", limit=8), training_transform(480))
    batch = collate([data[i] for i in range(8)])
    assert batch.images.shape == (8, 3, 480, 480)
    assert 0 <= float(batch.images.min()) < float(batch.images.max()) <= 1
    targets = batch.targets
    shown = targets.keypoints[targets.visibility > 0]
    assert len(shown) > 30
    assert ((shown >= -0.5) & (shown < 479.5)).all()
    valid = targets.boxes[targets.valid]
    assert ((valid >= 0) & (valid <= 480)).all()
    assert (valid[:, 2:] - valid[:, :2] >= 2).all()
    assert ((targets.person_mask >= 0) & (targets.person_mask <= 1)).all()
