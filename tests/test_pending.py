"""Augmentation on the device: the same decisions as in the loader's processes, and about the same pixels."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torch.utils.data import Dataset
from torchvision.transforms import v2

from multiposenet.crops import CropRule
from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.loading import DrawnPictures, EpochBatches, open_loader
from multiposenet.data.pending import PendingCrops, PendingImage, PendingTargets
from multiposenet.data.person_crop import PersonAugmentation, PersonCropDataset, collate_crops
from multiposenet.data.picture_cache import CachedSamples
from multiposenet.data.transforms import (
    Letterbox,
    RandomPersonCrop,
    example_from_sample,
    training_transform,
    warp_example,
    warp_image,
)
from multiposenet.data.whole_image import WholeImageDataset, collate
from multiposenet.geometry import CropWindow
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Batch, PersonLabels, PoseTargets, Sample

DOLL = Skeleton("doll", ("head", "left_hand", "right_hand"), flip_pairs=((1, 2),))
EXACT = ("keypoints", "visibility", "boxes", "valid")
MASKS = ("person_mask", "ignore_mask", "unknown_mask")


class Scenes:
    """Pictures of different sizes, all noise, and 0, 2, 4 and 6 people in them: every second one is not labelled."""

    skeleton = DOLL
    sizes = ((90, 130), (201, 150), (64, 64), (151, 333))

    def __len__(self) -> int:
        return len(self.sizes)

    def image_name(self, index: int) -> str:
        return f"scene{index}.png"

    def identity(self) -> dict:
        return {"scenes": len(self)}

    def image(self, index: int) -> np.ndarray:
        return self[index].image

    def labels(self, index: int) -> PersonLabels:
        return self[index].labels

    def __getitem__(self, index: int) -> Sample:
        size = height, width = self.sizes[index]
        rng = np.random.default_rng(index)
        low = rng.uniform(0, (width - 30, height - 30), (2 * index, 2))
        boxes = np.concatenate([low, low + rng.uniform(15, 40, low.shape)], axis=1).clip(0, (width, height) * 2)
        inside = rng.random((2 * index, 3, 2))
        keypoints = boxes[:, None, :2] + inside * (boxes[:, 2:] - boxes[:, :2])[:, None] - 0.5
        labels = PersonLabels(
            keypoints=keypoints.astype(np.float32),
            visibility=(rng.integers(0, 3, (2 * index, 3)) * (np.arange(2 * index) % 2)[:, None]).astype(np.uint8),
            boxes=boxes.astype(np.float32),
            areas=np.full(2 * index, 500, np.float32),
            crowd=np.arange(2 * index) % 3 == 2,
        )
        return Sample(
            image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            image_id=index,
            name=self.image_name(index),
            labels=labels,
            person_mask=blob(size, rng),
            ignore_mask=blob(size, rng),
            unknown_mask=blob(size, rng) if index % 2 else None,
        )


def blob(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """[H, W] bool, an ellipse somewhere."""
    y, x = np.mgrid[: size[0], : size[1]]
    (cx, cy), (rx, ry) = np.array(size[::-1]) / 2 + rng.uniform(-20, 20, 2), rng.uniform(15, 40, 2)
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1


def both_ways(make, gather, draws) -> tuple[Batch, Batch]:
    """A batch made by the loader's processes, and the same one made on the device; (picture=...) -> dataset."""
    ways = []
    for picture in (Image.fromarray, PendingImage):
        dataset, examples = make(picture=picture), []
        for index, seed in draws:
            torch.manual_seed(seed)
            examples.append(dataset[index])
        ways.append(gather(examples).to("cpu"))
    return tuple(ways)


def check_images(ours: Batch, theirs: Batch, off: float = 1e-4, mean: float = 0.6, most: float = 1.1) -> None:
    """Grey levels: Pillow cuts off what is behind the point, which makes half a level on average.

    Single pixels whose centre lies on the picture's edge may be inside for one and outside for the other.
    """
    assert ours.images.dtype == theirs.images.dtype == torch.float32
    assert ours.images.shape == theirs.images.shape
    error = (ours.images - theirs.images).abs() * 255
    assert float((error > most).float().mean()) < off
    assert float(error.mean()) < mean
    assert float(ours.images.min()) >= 0
    assert float(ours.images.max()) <= 1


def check_targets(ours: PoseTargets, theirs: PoseTargets, other_cells: float = 0.001) -> None:
    assert isinstance(ours, PoseTargets)
    for name in EXACT:
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    for name in MASKS:
        one, other = getattr(ours, name), getattr(theirs, name)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert float((one != other).float().mean()) <= other_cells, name
    assert ours.stride == theirs.stride


# --- one window


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("angle", [0.0, 33.0, -40.0, 90.0])
@pytest.mark.parametrize("scale", [0.21, 0.45, 0.8, 1.0, 1.7])
def test_a_picture_in_a_window_is_pillow_s_to_a_grey_level(scale, angle, mirror):
    window = CropWindow.around((171.3, 62.1), scale, (96, 112), angle, mirror)

    def make(picture):
        def cut(example: dict) -> dict:
            return warp_example(example, window, DOLL)

        dataset = WholeImageDataset(Scenes(), RandomPersonCrop(skeleton=DOLL), picture=picture)
        dataset.transform = cut
        return dataset

    theirs, ours = both_ways(make, collate, [(3, 0)])
    check_images(ours, theirs)
    check_targets(ours.targets, theirs.targets)
    assert all(getattr(theirs.targets, name).any() for name in MASKS)


def test_a_window_beside_the_picture_shows_the_fill_alone():
    for centre, scale in itertools.product([(-300, 40), (900, 40), (60, -300), (60, 900)], [0.3, 1.0]):
        window = CropWindow.around(centre, scale, (32, 48), angle=10)
        crop = PendingImage(Scenes().image(0)).warped(window, (9, 8, 7))
        images = PendingCrops.of([crop]).to("cpu") * 255
        assert_close(images, torch.tensor([9.0, 8, 7])[:, None, None].expand(1, 3, 32, 48))


def test_only_what_the_window_shows_leaves_the_loader_s_process_and_no_finer_than_needed():
    picture = PendingImage(np.zeros((1000, 1500, 3), np.uint8))
    one = warp_image(picture, CropWindow.around((700, 500), 1.0, (64, 48)))
    assert one.patch.pixels.shape == (64 + 2, 48 + 2, 3)  # bilinear sampling looks half a pixel beyond
    shrunk = warp_image(picture, CropWindow.around((702, 498), 1 / 6, (64, 48)))
    assert max(shrunk.patch.pixels.shape) <= 64 + 4
    whole = warp_image(picture, CropWindow.letterbox((1000, 1500), 250))
    assert whole.patch.pixels.shape == (167, 250, 3)


# --- batches


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize(("size", "reference", "scale"), [(96, 96, (0.4, 1.2)), (64, 300, (0.8, 2.0))])
def test_a_batch_made_on_the_device_is_the_loader_s(size, reference, scale, colours):
    transform = training_transform(size, reference, scale, colours=colours, skeleton=DOLL)
    draws = [(index, 10 * index + seed) for seed in range(4) for index in range(4)]
    theirs, ours = both_ways(lambda **own: WholeImageDataset(Scenes(), transform, **own), collate, draws)
    check_targets(ours.targets, theirs.targets)
    assert theirs.names == ours.names
    if colours:  # each change of Pillow's cuts off too
        check_images(ours, theirs, off=1e-3, mean=2.5, most=9.0)
    else:
        check_images(ours, theirs)


def test_people_of_whom_too_little_is_left_are_ignored_there_too():
    # Somebody without keypoints, and somebody with some before them; hardly anything of the first is in the window.
    labels = PersonLabels(
        keypoints=np.full((2, 3, 2), 55, np.float32),
        visibility=np.array([[0] * 3, [2] * 3], np.uint8),
        boxes=np.array([[40, 10, 200, 100], [50, 50, 58, 90]], np.float32),
        areas=np.ones(2, np.float32),
        crowd=np.zeros(2, bool),
    )
    window = CropWindow.around((32, 32), 1.0, (64, 64), angle=5)
    nothing = np.zeros((128, 256), bool)
    sample = Sample(np.zeros((128, 256, 3), np.uint8), 1, "a.png", labels, nothing, nothing)
    crops = []
    for picture in (Image.fromarray, PendingImage):
        example = warp_example(example_from_sample(sample, picture), window, DOLL, min_visible=0.5)
        crops.append(example)
    ignored = crops[0]["ignore_mask"]
    pending = crops[1]["masks"]
    assert ignored.any()
    assert (len(pending.ignored), len(pending.spared)) == (1, 1)
    people = {"keypoints": torch.zeros(1, 1, 3, 2), "visibility": torch.zeros(1, 1, 3), "boxes": torch.zeros(1, 1, 4)}
    targets = PendingTargets.of([pending], 1, **people, valid=torch.zeros(1, 1)).to("cpu")
    assert torch.equal(targets.ignore_mask[0], ignored)


def test_nobody_in_any_picture_is_a_batch_too():
    transform = training_transform(64, colours=False, skeleton=DOLL)
    theirs, ours = both_ways(lambda **own: WholeImageDataset(Scenes(), transform, **own), collate, [(0, 1), (0, 2)])
    assert ours.targets.boxes.shape == (2, 1, 4)
    check_images(ours, theirs)
    check_targets(ours.targets, theirs.targets)


@pytest.mark.parametrize("size", [40, 96, 400])
def test_letterboxed_pictures_are_the_loader_s_too(size):
    transform = Letterbox(size, skeleton=DOLL)
    draws = [(index, 0) for index in range(4)]
    theirs, ours = both_ways(lambda **own: WholeImageDataset(Scenes(), transform, **own), collate, draws)
    check_images(ours, theirs)
    # A side of 64 pixels becomes 96 or 400: centres lie on edges between pixels, and Pillow rounds them either way.
    check_targets(ours.targets, theirs.targets, other_cells=0.01)


def test_cached_pictures_are_the_loader_s_too(tmp_path):
    cached = CachedSamples(Scenes(), tmp_path, 120)
    transform = training_transform(96, colours=False, skeleton=DOLL)
    draws = [(index, index) for index in range(4)]
    for _ in range(2):  # the second time from the cache
        theirs, ours = both_ways(lambda **own: WholeImageDataset(cached, transform, **own), collate, draws)
        check_images(ours, theirs)
        check_targets(ours.targets, theirs.targets)


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("legacy", [{}, {"border": (0, 0, 0), "smooth": False, "half_pixel": True}])
def test_crops_of_single_people_are_the_loader_s_too(legacy, augmented):
    rule = CropRule((64, 48), **legacy)
    how = PersonAugmentation(half_body_over=2, colours=False) if augmented else None
    draws = [(index, 10 * index + seed) for seed in range(4) for index in range(4)]
    theirs, ours = both_ways(lambda **own: PersonCropDataset(Scenes(), rule, DOLL, how, **own), collate_crops, draws)
    check_images(ours, theirs)
    assert torch.equal(ours.targets.keypoints, theirs.targets.keypoints)
    assert torch.equal(ours.targets.visibility, theirs.targets.visibility)
    assert ours.names == theirs.names


def test_a_picture_does_not_depend_on_its_batch_mates():
    dataset = WholeImageDataset(Scenes(), training_transform(96, skeleton=DOLL), picture=PendingImage)
    examples = []
    for index in range(4):
        torch.manual_seed(index)
        examples.append(dataset[index])
    together = collate(examples).to("cpu")
    for row, example in enumerate(examples):
        alone = collate([example]).to("cpu")
        assert_close(alone.images[0], together.images[row], atol=2e-4, rtol=0)
        assert_close(alone.targets.person_mask[0], together.targets.person_mask[row])


def test_the_number_of_processes_changes_nothing():
    dataset = WholeImageDataset(Scenes(), training_transform(64, skeleton=DOLL), picture=PendingImage)

    def batches(workers: int) -> list[Batch]:
        drawn = EpochBatches(len(dataset), 8, 4, seed=1, epoch=0)
        return [batch.to("cpu") for batch in open_loader(dataset, drawn, collate, workers)]

    for one, other in zip(batches(0), batches(2), strict=True):
        assert one.names == other.names
        assert torch.equal(one.images, other.images)
        assert_close(dataclasses.asdict(one.targets), dataclasses.asdict(other.targets), atol=0, rtol=0)


def test_a_batch_takes_fewer_bytes_than_the_loader_s():
    def size(batch) -> int:
        return sum(t.numel() * t.element_size() for t in tensors(batch))

    def tensors(value) -> list[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return [value]
        return [t for own in vars(value).values() for t in tensors(own)] if dataclasses.is_dataclass(value) else []

    transform = training_transform(96, skeleton=DOLL)
    pending, done = (
        collate([WholeImageDataset(Scenes(), transform, **own)[index] for index in range(4)])
        for own in ({"picture": PendingImage}, {})
    )
    assert 0 < size(pending) < size(done)


def test_transforms_that_would_change_pixels_at_once_are_refused():
    chain = v2.Compose([training_transform(64, skeleton=DOLL), v2.RandomInvert()])
    assert WholeImageDataset(Scenes(), chain)[0]["image"].shape == (3, 64, 64)
    with pytest.raises(ValueError, match=r"RandomInvert.* would change pixels that are to be changed on the device"):
        WholeImageDataset(Scenes(), chain, picture=PendingImage)


def test_an_example_that_is_pending_has_no_masks_that_were_left_behind():
    example = Letterbox(64, skeleton=DOLL)(example_from_sample(Scenes()[1], PendingImage))
    assert not set(MASKS) & set(example)


# --- real pictures, and a real device


def real(folder, colours: bool, **own) -> Dataset:
    source = CocoKeypoints(folder, "train2017", limit=24)
    return WholeImageDataset(source, training_transform(256, 352, colours=colours), **own)


@pytest.mark.parametrize(("colours", "mean", "most"), [(False, 0.6, 1.1), (True, 2.5, 9.0)])
def test_photographs_are_the_loader_s_too(coco_mini, colours, mean, most):
    draws = [(index, index) for index in range(24)]
    theirs, ours = both_ways(lambda **own: real(coco_mini, colours, **own), collate, draws)
    check_images(ours, theirs, 1e-3 if colours else 1e-4, mean, most)
    check_targets(ours.targets, theirs.targets)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("colours", [False, True])
def test_a_gpu_makes_the_batch_of_the_cpu_from_pinned_memory(colours):
    dataset = DrawnPictures(
        WholeImageDataset(Scenes(), training_transform(96, colours=colours, skeleton=DOLL), picture=PendingImage)
    )
    batches = EpochBatches(4, 32, 16, seed=0, epoch=0)
    here = [batch.to("cpu") for batch in open_loader(dataset.dataset, batches, collate, workers=0)]
    pinned = list(open_loader(dataset.dataset, batches, collate, workers=0, pin_memory=True))
    assert pinned[0].images.patches.canvas.is_pinned()
    for expected, batch in zip(here, pinned, strict=True):
        found = batch.to("cuda", non_blocking=True)
        assert found.images.device.type == found.targets.person_mask.device.type == "cuda"
        back = found.to("cpu")
        check_images(back, expected, off=1e-4, mean=0.05, most=0.1)
        check_targets(back.targets, expected.targets)


def test_people_of_photographs_are_cut_out_there_too(coco_mini):
    source = CocoKeypoints(coco_mini, "train2017", limit=12)
    how = PersonAugmentation(colours=True)
    draws = [(index, index) for index in range(12)]

    def make(**own) -> Dataset:
        return PersonCropDataset(source, CropRule(), COCO_PERSON, how, **own)

    theirs, ours = both_ways(make, collate_crops, draws)
    check_images(ours, theirs, off=1e-3, mean=2.5, most=9.0)
    assert torch.equal(ours.targets.keypoints, theirs.targets.keypoints)
