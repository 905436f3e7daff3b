import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms import v2

from multiposenet.data.coco import CocoKeypoints
from multiposenet.data.transforms import (
    PADDING_COLOUR,
    Letterbox,
    RandomColours,
    RandomPersonCrop,
    example_from_sample,
    letterbox_image,
    training_transform,
    warp_boxes,
    warp_example,
    warp_image,
)
from multiposenet.geometry import CropWindow
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import PersonLabels, Sample

DOLL = Skeleton("doll", ("head", "left_hand", "right_hand"), flip_pairs=((1, 2),))


def make_sample(keypoints=(), boxes=(), size=(120, 160), visibility=None, crowd=None, image=None, **masks) -> Sample:
    """A sample of P people with 3 keypoints each; by default a black picture, all keypoints visible, empty masks."""
    points = np.array(keypoints, np.float32).reshape(-1, 3, 2)
    count = len(points)
    labels = PersonLabels(
        keypoints=points,
        visibility=np.full((count, 3), 2, np.uint8) if visibility is None else np.array(visibility, np.uint8),
        boxes=np.array(boxes, np.float32).reshape(count, 4),
        areas=np.full(count, 100, np.float32),
        crowd=np.zeros(count, bool) if crowd is None else np.array(crowd, bool),
    )
    empty = np.zeros(size, bool)
    return Sample(
        image=np.zeros((*size, 3), np.uint8) if image is None else image,
        image_id=1,
        name="a.png",
        labels=labels,
        person_mask=masks.get("person_mask", empty),
        ignore_mask=masks.get("ignore_mask", empty),
        unknown_mask=masks.get("unknown_mask"),
    )


def make_example(*args, **options) -> dict:
    return example_from_sample(make_sample(*args, **options))


def blobs(points: np.ndarray, size: tuple[int, int], sigma: float = 2.5) -> np.ndarray:
    """Bright Gaussian dots centred on the pixel indices ``points`` [T, 2], in as many pictures [T, H, W, 3]."""
    y, x = np.mgrid[: size[0], : size[1]]
    distances = (x - points[:, 0, None, None]) ** 2 + (y - points[:, 1, None, None]) ** 2
    pictures = np.round(255 * np.exp(-distances / (2 * sigma**2))).astype(np.uint8)
    return np.repeat(pictures[..., None], 3, axis=-1)


def centroid(image) -> np.ndarray:
    weights = np.asarray(image)[..., 0].astype(np.float64)
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]]
    return np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()


# The window carries the picture and its keypoints alike


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("angle", [0.0, 30.0, -40.0, 90.0, 180.0])
@pytest.mark.parametrize("scale", [0.3, 0.5, 0.8, 1.0, 1.7])
def test_a_keypoint_stays_on_its_image_feature(scale, angle, mirror):
    points = np.array([[60, 50], [70.5, 40.25], [85, 66]])
    window = CropWindow.around((73.3, 52.1), scale, (96, 112), angle=angle, mirror=mirror)
    for point, picture in zip(points, blobs(points, (120, 160)), strict=True):
        example = make_example([[point] * 3], [[50, 30, 100, 80]], image=picture)
        warped = warp_example(example, window, DOLL)
        # The fill colour would pull the centroid, so the picture is warped once more on black.
        black = warp_image(example["image"], window, fill=(0, 0, 0))
        found = centroid(black)
        assert np.abs(found - warped["keypoints"][0, 0].numpy()).max() < 0.1
        inside = np.asarray(warped["image"])
        outside = (inside == PADDING_COLOUR).all(axis=-1)
        assert_array_equal(inside[~outside], np.asarray(black)[~outside])


def test_turning_by_90_degrees_moves_known_points_clockwise():
    # In a 4x4 picture turned about its middle, pixel (x, y) goes to (3 - y, x).
    window = CropWindow.around((2, 2), 1.0, (4, 4), angle=90)
    example = make_example([[[0, 0], [3, 0], [1, 3]]], [[0, 0, 4, 1]], size=(4, 4))
    warped = warp_example(example, window, DOLL)
    assert_close(warped["keypoints"][0], torch.tensor([[3.0, 0], [3, 3], [0, 1]]), atol=1e-5, rtol=0)
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    image = make_example(image=pixels, size=(4, 4))["image"]
    turned = np.asarray(warp_image(image, window)).astype(int)
    assert np.abs(turned - np.rot90(pixels, k=-1)).max() <= 1  # Pillow rounds down


def test_an_identity_window_changes_nothing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (120, 160, 3), np.uint8)
    masks = {key: rng.random((120, 160)) > 0.5 for key in ("person_mask", "ignore_mask", "unknown_mask")}
    example = make_example([[[3, 4], [50, 60], [7, 8]]], [[1, 2, 60, 70]], image=image, **masks)
    warped = warp_example(example, CropWindow.around((80, 60), 1.0, (120, 160)), DOLL)
    assert_array_equal(np.asarray(warped["image"]), image)
    for key in (*masks, "keypoints", "visibility", "boxes", "areas", "valid", "crowd"):
        assert_close(warped[key], example[key])


@pytest.mark.parametrize("seed", range(5))
def test_keypoints_return_to_the_picture(seed):
    torch.manual_seed(seed)
    points = [[[30, 40], [75.5, 60], [90, 20]]]
    example = make_example(points, [[20, 10, 100, 80]])
    crop = RandomPersonCrop(96, scale=(0.5, 2), flip=0, skeleton=DOLL)
    window = crop.window(example)
    warped = warp_example(example, window, DOLL)
    assert_close(window.keypoints_to_image(warped["keypoints"]), torch.tensor(points), atol=1e-3, rtol=0)


def test_masks_move_with_the_picture():
    rng = np.random.default_rng(1)
    mask = np.zeros((120, 160), bool)
    mask[30:90, 40:70] = True
    mask[50:60, 70:120] = True
    image = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    for _ in range(10):
        window = CropWindow.around(
            (80, 60), rng.uniform(0.4, 2), (128, 128), angle=rng.uniform(-180, 180), mirror=rng.random() < 0.5
        )
        example = make_example(image=image, person_mask=mask, ignore_mask=mask, unknown_mask=~mask)
        warped = warp_example(example, window, DOLL)
        bright = np.asarray(warp_image(example["image"], window, fill=(0, 0, 0)))[..., 0] > 127
        edge = bright.size * 0.01
        assert (warped["person_mask"].numpy() ^ bright).sum() < edge
        assert_close(warped["ignore_mask"], warped["person_mask"])
        covered = warped["person_mask"] | warped["unknown_mask"]
        outside = (np.asarray(warped["image"]) == PADDING_COLOUR).all(axis=-1)
        assert (covered.numpy() ^ ~outside).sum() < edge
        assert not (warped["person_mask"] & warped["unknown_mask"]).any()


def test_shrinking_averages_where_plain_sampling_would_alias():
    stripes = np.zeros((120, 160, 3), np.uint8)
    stripes[:, ::4] = 255  # a quarter of the columns
    window = CropWindow.around((80, 60), 0.25, (30, 40))
    small = np.asarray(warp_image(make_example(image=stripes)["image"], window))
    assert_array_equal(np.abs(small.astype(int) - 64) <= 1, True)


# Mirroring


def test_mirroring_exchanges_left_and_right_keypoints():
    example = make_example([[[10, 20], [30, 40], [50, 60]]], [[5, 10, 60, 70]], visibility=[[2, 1, 0]])
    warped = warp_example(example, CropWindow.around((80, 60), 1.0, (120, 160), mirror=True), DOLL)
    # x goes to 159 - x; the left hand of the mirrored person is the right hand of the original.
    assert_close(warped["keypoints"][0], torch.tensor([[149.0, 20], [109, 60], [129, 40]]))
    assert warped["visibility"][0].tolist() == [2, 0, 1]
    assert_close(warped["boxes"][0], torch.tensor([100.0, 10, 155, 70]))


def test_coco_keypoints_swap_by_name():
    labels = PersonLabels(
        keypoints=np.stack([np.arange(17), np.full(17, 5)], axis=1)[None].astype(np.float32) * 2 + 20,
        visibility=np.full((1, 17), 2, np.uint8),
        boxes=np.array([[0, 0, 100, 100]], np.float32),
        areas=np.ones(1, np.float32),
        crowd=np.zeros(1, bool),
    )
    empty = np.zeros((100, 100), bool)
    sample = Sample(np.zeros((100, 100, 3), np.uint8), 1, "a", labels, empty, empty)
    window = CropWindow.around((50, 50), 1.0, (100, 100), mirror=True)
    warped = warp_example(example_from_sample(sample), window, COCO_PERSON)["keypoints"][0]
    before = torch.from_numpy(labels.keypoints[0])
    for name in COCO_PERSON.keypoints:
        other = name.replace("left", "?").replace("right", "left").replace("?", "right")
        expected = 99 - before[COCO_PERSON.index(other), 0]
        assert_close(warped[COCO_PERSON.index(name), 0], expected)


# Keypoints and boxes at the border


def test_keypoints_outside_the_crop_become_unlabelled_and_are_not_moved_to_the_border():
    points = [[[-0.5, 10], [-0.51, 10], [9.49, 10]], [[9.5, 10], [5, 19.49], [5, 19.5]]]
    example = make_example(points, [[0, 0, 10, 20]] * 2, size=(20, 10))
    warped = warp_example(example, CropWindow.around((5, 10), 1.0, (20, 10)), DOLL)
    assert warped["visibility"].tolist() == [[2, 0, 2], [0, 2, 0]]
    assert_close(warped["keypoints"], torch.tensor(points))


def test_boxes_scale_and_clip():
    example = make_example(np.full((2, 3, 2), 15), [[10, 10, 30, 50], [-4, 100, 40, 130]])
    warped = warp_example(example, CropWindow.around((0, 60), (2.0, 0.5), (60, 80)), DOLL)
    # x goes to 2 x + 40, y to y / 2 + 0
    assert_close(warped["boxes"], torch.tensor([[60.0, 5, 80, 25], [32, 50, 80, 60]]))
    assert_close(warped["areas"], torch.tensor([100.0, 100]))  # 2 x 0.5


def test_a_turned_box_encloses_the_turned_ellipse():
    box = torch.tensor([[40.0, 20, 80, 100]])  # half axes 20 and 40 about (60, 60)
    quarter = warp_boxes(box, CropWindow.around((60, 60), 1.0, (120, 120), angle=90))
    assert_close(quarter, torch.tensor([[20.0, 40, 100, 80]]), atol=1e-4, rtol=0)
    eighth = warp_boxes(box, CropWindow.around((60, 60), 1.0, (120, 120), angle=45))
    half = math.sqrt((20**2 + 40**2) / 2)
    assert_close(eighth, torch.tensor([[60 - half, 60 - half, 60 + half, 60 + half]]), atol=1e-4, rtol=0)
    turned_points = torch.tensor(
        [[60 + 20 * math.cos(a), 60 + 40 * math.sin(a)] for a in np.linspace(0, 2 * math.pi, 720)]
    )
    window = CropWindow.around((50, 66), 1.3, (120, 120), angle=33, mirror=True)
    points = window.keypoints_to_crop(turned_points - 0.5) + 0.5
    enclosing = torch.cat([points.amin(dim=0), points.amax(dim=0)])
    assert_close(warp_boxes(box, window)[0], enclosing, atol=0.05, rtol=0)


def test_a_turned_box_grows_to_hold_its_labelled_keypoints():
    corners = [[[40, 20], [79, 99], [60, 60]]]
    window = CropWindow.around((60, 60), 1.0, (120, 160), angle=30)
    for shown, grows in (([2, 1, 2], True), ([0, 0, 2], False)):
        example = make_example(corners, [[40, 20, 80, 100]], visibility=[shown])
        warped = warp_example(example, window, DOLL)
        points, box = warped["keypoints"][0] + 0.5, warped["boxes"][0]
        holds = bool(((points >= box[:2] - 1e-4) & (points <= box[2:] + 1e-4)).all())
        assert holds == grows


def test_people_outside_the_crop_are_removed_and_slivers_are_not_valid():
    boxes = [[0, 0, 40, 40], [45, 0, 95, 40], [46.1, 0, 86, 40], [60, 0, 90, 40], [30, 39, 50, 80]]
    example = make_example(np.full((5, 3, 2), 1000), boxes)
    warped = warp_example(example, CropWindow.around((25, 20), 1.0, (40, 50)), DOLL)
    assert_close(
        warped["boxes"], torch.tensor([[0.0, 0, 40, 40], [45, 0, 50, 40], [46.1, 0, 50, 40], [30, 39, 50, 40]])
    )
    # 5 of 50 columns are enough, 3.9 of 39.9 are not, one row is less than two pixels
    assert warped["valid"].tolist() == [True, True, False, False]


def test_what_is_left_of_a_sliver_is_ignored_except_beside_labelled_people():
    boxes = [[0, 0, 30, 20], [0, 18, 40, 80], [10, 0, 20, 20]]
    keypoints = np.array([[[5, 5]] * 3, [[20, 70]] * 3, [[15, 5]] * 3])
    window = CropWindow.around((20, 10), 1.0, (20, 40))
    warped = warp_example(make_example(keypoints, boxes), window, DOLL)
    assert warped["valid"].tolist() == [True, False, True]
    expected = torch.zeros(20, 40, dtype=torch.bool)
    expected[18:, 30:] = True  # of the second person's two rows; the first one's box is spared
    assert_close(warped["ignore_mask"].as_subclass(torch.Tensor), expected)
    keypoints[1] = [20, 19]  # now the sliver shows a keypoint, which is taught
    warped = warp_example(make_example(keypoints, boxes), window, DOLL)
    assert warped["valid"].tolist() == [True, False, True]
    assert warped["visibility"][1].tolist() == [2, 2, 2]
    assert not warped["ignore_mask"].any()


def test_crowds_are_kept_but_never_valid():
    example = make_example(np.zeros((2, 3, 2)), [[0, 0, 50, 50]] * 2, crowd=[True, False], visibility=[[0] * 3] * 2)
    warped = warp_example(example, CropWindow.around((80, 60), 1.0, (120, 160)), DOLL)
    assert warped["valid"].tolist() == [False, True]
    assert warped["crowd"].tolist() == [True, False]


def test_another_skeleton_is_an_error():
    example = make_example([[[1, 1]] * 3], [[0, 0, 9, 9]])
    with pytest.raises(ValueError, match="3 keypoints, skeleton 'person' has 17"):
        Letterbox(64)(example)


# RandomPersonCrop


def test_scale_is_relative_to_the_reference_length_of_the_long_side():
    example = make_example(size=(300, 640))
    for reference, expected in ((None, 0.75), (960, 1.5)):
        crop = RandomPersonCrop(480, reference, scale=(1, 1), skeleton=DOLL)
        assert crop.window(example).scale == pytest.approx(expected)
    torch.manual_seed(0)
    crop = RandomPersonCrop(480, skeleton=DOLL)
    scales = [crop.window(example).scale / 0.75 for _ in range(500)]
    assert 0.8 <= min(scales) < 0.81
    assert 1.19 < max(scales) <= 1.2
    assert np.mean(np.log(scales)) == pytest.approx((math.log(0.8) + math.log(1.2)) / 2, abs=0.02)


def test_angles_and_mirroring_are_drawn_as_asked():
    torch.manual_seed(0)
    example = make_example()
    windows = [RandomPersonCrop(64, skeleton=DOLL).window(example) for _ in range(500)]
    mirrored = [np.linalg.det(window.matrix[:, :2]) < 0 for window in windows]
    assert 0.4 < np.mean(mirrored) < 0.6
    angles = [math.degrees(math.atan2(window.matrix[1, 0], window.matrix[1, 1])) for window in windows]
    assert max(np.abs(angles)) <= 40
    assert min(angles) < -35
    assert max(angles) > 35
    still = RandomPersonCrop(64, rotation=0, flip=0, skeleton=DOLL).window(example).matrix
    assert still[0, 1] == still[1, 0] == 0
    assert still[0, 0] > 0


def test_the_crop_is_centred_on_somebody_with_keypoints_before_anybody_else():
    torch.manual_seed(0)
    boxes = [[100, 100, 120, 120], [500, 300, 520, 320], [300, 200, 320, 220]]
    options = {"size": (480, 640)}
    crop = RandomPersonCrop(64, 640, scale=(1, 1), jitter=0, skeleton=DOLL)

    def centres(**more) -> set:
        example = make_example(np.zeros((3, 3, 2)), boxes, **options, **more)
        matrices = [crop.window(example).inverse_matrix() for _ in range(30)]
        return {tuple(np.round(matrix @ [32, 32, 1], 6)) for matrix in matrices}

    everybody = {(110, 110), (510, 310), (310, 210)}
    assert centres() == everybody
    assert centres(visibility=[[0, 0, 0], [0, 0, 1], [0, 0, 0]]) == {(510, 310)}
    assert centres(visibility=[[0] * 3] * 3) == everybody
    assert centres(crowd=[True, False, True]) == {(510, 310)}
    middle = crop.window(make_example(**options)).inverse_matrix() @ [32, 32, 1]
    assert_close(middle, np.array([320.0, 240]))


def test_jitter_moves_the_centre_by_at_most_its_share_of_the_crop():
    torch.manual_seed(0)
    example = make_example(size=(480, 640))
    crop = RandomPersonCrop(100, 1280, scale=(1, 1), jitter=0.2, skeleton=DOLL)
    offsets = [crop.window(example).matrix @ [320, 240, 1] - 50 for _ in range(200)]
    assert 15 < np.abs(offsets).max() <= 20 * math.sqrt(2) + 1e-9


def test_the_crop_stays_over_the_picture_as_far_as_it_can():
    torch.manual_seed(0)
    example = make_example([[[2, 2]] * 3], [[0, 0, 4, 4]], size=(480, 640))
    crop = RandomPersonCrop(320, 640, scale=(1, 1), rotation=0, flip=0, jitter=0, skeleton=DOLL)
    assert_close(crop.window(example).matrix, np.array([[1.0, 0, 0], [0, 1, 0]]))
    small = RandomPersonCrop(600, 600, scale=(0.5, 0.5), rotation=0, flip=0, jitter=0, skeleton=DOLL)
    corners = small.window(example).boxes_to_crop(np.array([0.0, 0, 640, 480]))
    assert (corners >= 0).all()
    assert (corners <= 600).all()


def test_the_torch_seed_decides_everything():
    rng = np.random.default_rng(0)
    example = make_example(
        [[[60, 50]] * 3], [[40, 30, 90, 80]], image=rng.integers(0, 255, (120, 160, 3), np.uint8)
    )
    transform = training_transform(96, skeleton=DOLL)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(transform(example))
    assert_array_equal(np.asarray(results[0]["image"]), np.asarray(results[1]["image"]))
    assert_close(results[0]["keypoints"], results[1]["keypoints"])
    assert (results[0]["keypoints"] != results[2]["keypoints"]).any()


def test_the_sample_is_left_as_it_was():
    sample = make_sample([[[60, 50]] * 3], [[40, 30, 90, 80]])
    before = sample.labels.keypoints.copy()
    torch.manual_seed(0)
    for _ in range(5):
        training_transform(96, skeleton=DOLL)(example_from_sample(sample))
    assert_array_equal(sample.labels.keypoints, before)
    assert not sample.image.any()
    assert not sample.ignore_mask.any()


@pytest.mark.parametrize("transform", [RandomPersonCrop(96, skeleton=DOLL), Letterbox(96, skeleton=DOLL)])
def test_nobody_in_the_picture_is_fine(transform):
    warped = transform(make_example())
    assert warped["keypoints"].shape == (0, 3, 2)
    assert warped["boxes"].shape == (0, 4)
    assert warped["image"].size == (96, 96)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 0}, "size"), ({"scale": (1.2, 0.8)}, "scale"), ({"scale": (0, 1)}, "scale"), ({"flip": 1.5}, "flip")],
)
def test_senseless_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        RandomPersonCrop(**options)
    with pytest.raises(ValueError, match="multiple"):
        Letterbox(64, multiple=0)


# Letterbox and colours


def test_letterbox_fits_the_picture_into_a_padded_square():
    example = make_example([[[159, 119]] * 3], [[0, 0, 160, 120]], image=np.full((120, 160, 3), 255, np.uint8))
    warped = Letterbox(80, multiple=32, skeleton=DOLL)(example)
    image = np.asarray(warped["image"])
    assert image.shape == (96, 96, 3)
    assert_array_equal(image[:60, :80], 255)
    assert_array_equal(image[60:] == PADDING_COLOUR, True)
    assert_array_equal(image[:, 80:] == PADDING_COLOUR, True)
    assert_close(warped["boxes"], torch.tensor([[0.0, 0, 80, 60]]))
    assert_close(warped["keypoints"][0, 0], torch.tensor([79.25, 59.25]))
    window = CropWindow.letterbox((120, 160), 80)
    assert_close(Letterbox(80, skeleton=DOLL).window(example).matrix, window.matrix)


def test_colours_change_the_picture_and_nothing_else():
    example = make_example(
        [[[60, 50]] * 3],
        [[40, 30, 90, 80]],
        image=np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8),
        person_mask=np.ones((120, 160), bool),
    )
    torch.manual_seed(0)
    changed = RandomColours()(example)
    assert (np.asarray(changed["image"]) != np.asarray(example["image"])).any()
    for key, value in example.items():
        if key != "image":
            assert_close(changed[key], value) if torch.is_tensor(value) else None


def test_other_colour_transforms_of_torchvision_can_follow():
    example = make_example([[[60, 50]] * 3], [[40, 30, 90, 80]])
    chain = v2.Compose([Letterbox(64, skeleton=DOLL), v2.RandomInvert(p=1.0), v2.ToImage()])
    changed = chain(example)
    assert changed["image"].shape == (3, 64, 64)
    assert (changed["image"][:, :48] == 255).all()


def test_transforms_print_their_options():
    assert "size=480, reference=480" in repr(RandomPersonCrop())
    assert "multiple=32" in repr(Letterbox())


def test_visible_keypoints_of_real_people_stay_on_their_drawn_shapes(coco_mini):
    torch.manual_seed(0)
    crop = RandomPersonCrop(480)
    hits = []
    for sample in CocoKeypoints(coco_mini, "train2017"):
        if not sample.person_mask.any() or sample.unknown_mask.any():
            continue
        for _ in range(3):
            warped = crop(example_from_sample(sample))
            points = warped["keypoints"][warped["visibility"] == 2].round().long().clamp(0, 479)
            hits.append(warped["person_mask"][points[:, 1], points[:, 0]].float())
    hits = torch.cat(hits)
    assert len(hits) > 1000
    assert float(hits.mean()) > 0.9


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((48, 64), 64),  # as it is
        ((48, 64), 48),
        ((45, 67), 50),
        ((30, 41), 200),  # larger
        ((160, 237), 238),  # hardly larger
        ((210, 150), 40),  # by blocks
        ((3, 97), 31),  # with a part of a block left
        ((1, 1), 9),
    ],
)
def test_a_letterboxed_picture_is_the_warped_one_to_two_grey_levels(shape: tuple[int, int], size: int):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    canvas = letterbox_image(picture, size).permute(1, 2, 0).numpy()
    warped = np.asarray(warp_image(Image.fromarray(picture), CropWindow.letterbox(shape, size)))
    assert canvas.shape == warped.shape
    assert np.abs(canvas.astype(int) - warped).max() <= 2


def test_a_picture_of_the_canvas_s_own_size_is_left_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)[:, ::-1]
    assert_array_equal(letterbox_image(picture, 96).permute(1, 2, 0).numpy(), picture)
