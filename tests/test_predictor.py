"""Picture in, poses out: any kind of picture, any shape, always in that picture's own pixels.

Most tests run a network made by hand: it finds a red, a green and a blue spot, and the blue rectangle they lie in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from multiposenet.anchors import AnchorGrid
from multiposenet.checkpoint import save_weights
from multiposenet.decode.boxes import BoxDecoder
from multiposenet.decode.chain import ChainDecoder
from multiposenet.decode.grouping import PoseResidualGrouping
from multiposenet.heatmap import HeatmapCodec
from multiposenet.methods import PoseMethod, build_method
from multiposenet.predictor import PosePredictor, load, to_array
from multiposenet.skeletons import Skeleton
from multiposenet.structures import MultiPoseNetOutputs, Poses

SPOTS = Skeleton("spots", ("red", "green", "blue"))
QUICK = "multiposenet_resnet18"


class SpotFinder(nn.Module):
    """Answers with perfect heatmaps and boxes of what it measures in the pixels."""

    def forward(self, images: Tensor) -> tuple[MultiPoseNetOutputs, dict]:
        size = tuple(images.shape[-2:])
        rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
        weight = (images - 0.6).clamp(min=0)  # above the colour of the padding
        mass = weight.sum((-2, -1)).clamp(min=1e-6)
        keypoints = torch.stack([(weight * axis).sum((-2, -1)) / mass for axis in (columns, rows)], -1)
        heatmaps = HeatmapCodec().encode(keypoints[:, None], (mass > 1e-3)[:, None], size)
        heatmaps = torch.cat([heatmaps, torch.zeros_like(heatmaps[:, :1])], dim=1)

        anchors = AnchorGrid().anchors(size)
        logits, deltas = torch.full((len(images), len(anchors)), -20.0), torch.zeros(len(images), len(anchors), 4)
        for row, bluish in enumerate(images[:, 2] - images[:, 0] > 0.15):
            if bluish.any():
                x, y = bluish.any(0).nonzero()[:, 0], bluish.any(1).nonzero()[:, 0]
                box = torch.stack([x[0], y[0], x[-1] + 1, y[-1] + 1]).float()
                logits[row, 0] = 3.0
                deltas[row, 0] = AnchorGrid().encode(box, anchors[0])
        return MultiPoseNetOutputs(heatmaps, logits, deltas, size), {}


def believe(crops: Tensor) -> Tensor:
    return crops / crops.sum((-2, -1), keepdim=True).clamp(min=1e-6)


def spot_predictor(**options) -> PosePredictor:
    decoder = ChainDecoder(HeatmapCodec(), BoxDecoder(AnchorGrid()), PoseResidualGrouping(believe), SPOTS)
    return PosePredictor(PoseMethod("spots", SpotFinder(), decoder, SPOTS, {}), "cpu", **{"image_size": 128} | options)


def spots_at(height: int, width: int) -> Tensor:
    """Where a picture of this size has its spots, [3, 2] pixels."""
    return torch.tensor([[0.4, 0.35], [0.55, 0.5], [0.45, 0.7]]) * torch.tensor([width, height]) + 0.3


def box_at(height: int, width: int) -> Tensor:
    """The rectangle of a picture of this size, [1, 4] pixels."""
    return torch.tensor([[width // 4, height // 8, width * 3 // 4, height * 7 // 8]]).float()


def picture(height: int, width: int) -> np.ndarray:
    """A black picture with a blue rectangle and three spots, [H, W, 3] uint8."""
    pixels = np.zeros((height, width, 3), np.float32)
    x1, y1, x2, y2 = (int(edge) for edge in box_at(height, width)[0])
    pixels[y1:y2, x1:x2, 2] = 0.3
    rows, columns = np.mgrid[:height, :width]
    for channel, (x, y) in enumerate(spots_at(height, width).tolist()):
        spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (0.05 * max(height, width)) ** 2))
        pixels[..., channel] = np.maximum(pixels[..., channel], spot)
    return (pixels * 255).round().astype(np.uint8)


BLACK = np.zeros((100, 150, 3), np.uint8)


def assert_same(ours: Poses, theirs: Poses, atol: float = 1e-3) -> None:
    for name in ("keypoints", "boxes"):
        assert_close(getattr(ours, name), getattr(theirs, name), atol=atol, rtol=1e-4)
    for name in ("keypoint_scores", "scores"):
        assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-4, rtol=1e-3)
    assert ours.image_size == theirs.image_size


@pytest.fixture(scope="module")
def random_method() -> PoseMethod:
    """The quick network with random weights that are large enough for it to see people everywhere."""
    torch.manual_seed(0)
    method = build_method(QUICK, prn_nodes=4)
    heads = method.model.detection_subnet.heads
    nn.init.normal_(method.model.keypoint_subnet.predict.weight, std=0.1)
    nn.init.normal_(heads.classification_head.cls_logits.weight, std=0.05)
    return method


# --- where the poses are


SIZES = [(256, 256), (300, 420), (420, 300), (64, 96), (40, 33), (128, 128), (97, 700)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_keypoints_are_where_they_are_in_the_original_picture(size):
    (poses,) = spot_predictor()(picture(*size))
    assert poses.image_size == size
    assert_close(poses.keypoints, spots_at(*size)[None], atol=0.004 * max(size), rtol=0)  # half a pixel of 128


def test_boxes_are_where_they_are_in_the_original_picture():
    (poses,) = spot_predictor()(picture(256, 256))
    assert_close(poses.boxes, box_at(256, 256), atol=1e-3, rtol=0)


def test_averaging_with_the_mirrored_picture_leaves_everything_in_place():
    (poses,) = spot_predictor(flip=True)(picture(300, 420))
    assert_close(poses.keypoints, spots_at(300, 420)[None], atol=0.004 * 420, rtol=0)


@pytest.mark.parametrize("scales", [(1.0, 0.5, 1.5), (0.75, 1.0)])
def test_averaging_over_scales_leaves_everything_in_place(scales):
    (poses,) = spot_predictor(scales=scales)(picture(300, 420))
    assert_close(poses.keypoints, spots_at(300, 420)[None], atol=0.006 * 420, rtol=0)
    assert_close(poses.boxes, box_at(300, 420), atol=420 / 64, rtol=0)  # the boxes of the smallest scale are coarse


def test_the_network_sees_the_picture_at_every_scale_and_mirrored_and_nothing_else():
    predictor, seen = spot_predictor(scales=(1.0, 0.5), flip=True), []
    predictor.model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    predictor(picture(300, 400))
    assert [tuple(images.shape) for images in seen] == [(1, 3, 96, 128)] * 2 + [(1, 3, 64, 64)] * 2
    for plain, mirrored in (seen[:2], seen[2:]):
        assert_close(mirrored, plain.flip(-1))


def test_a_larger_working_size_changes_nothing_but_precision():
    (poses,) = spot_predictor(image_size=320)(picture(300, 420))
    assert_close(poses.keypoints, spots_at(300, 420)[None], atol=0.002 * 420, rtol=0)


# --- what a picture may be


def test_every_kind_of_picture_gives_the_same_poses(tmp_path):
    pixels = picture(90, 130)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [tmp_path / "p.png", str(tmp_path / "p.png"), Image.fromarray(pixels), pixels, planes, planes / 255]
    predictor = spot_predictor()
    expected = predictor(pixels)[0]
    for kind in kinds:
        assert_same(predictor(kind)[0], expected)
    for alone, among in zip(kinds, predictor(kinds), strict=True):
        assert_same(among, predictor(alone)[0])


def test_one_picture_gives_a_list_of_one_and_no_picture_an_empty_list():
    assert len(spot_predictor()(BLACK)) == 1
    assert spot_predictor()([]) == []


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_pictures_of_every_mode_are_read_as_rgb(tmp_path, mode):
    grey = Image.fromarray(np.arange(48 * 64, dtype=np.uint8).reshape(48, 64))
    image = Image.fromarray(np.zeros((48, 64), np.uint16)) if mode == "I;16" else grey.convert(mode)
    file = tmp_path / ("p.tiff" if mode in ("CMYK", "I;16") else "p.png")
    image.save(file)
    assert to_array(file).shape == (48, 64, 3)
    assert spot_predictor()(image)[0].image_size == (48, 64)


def test_a_photo_taken_sideways_is_turned_upright_first(tmp_path):
    stored = Image.fromarray(np.rot90(picture(90, 130), 1).copy())
    exif = stored.getexif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    stored.save(tmp_path / "p.png", exif=exif)
    assert_same(spot_predictor()(tmp_path / "p.png")[0], spot_predictor()(picture(90, 130))[0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((48, 64), np.uint8), r"\[H, W, 3\] uint8 RGB, got \[48, 64\] uint8"),
        (np.zeros((48, 64, 3), np.float32), r"\[H, W, 3\] uint8 RGB, got .* float32"),
        (torch.zeros(48, 64, 3), r"\[3, H, W\], got \[48, 64, 3\]"),
        (torch.zeros(2, 3, 48, 64), r"\[3, H, W\], got \[2, 3, 48, 64\]"),
        (torch.zeros(3, 48, 64, dtype=torch.int64), r"uint8, or floating point in \[0, 1\], got torch\.int64"),
        (torch.zeros(3, 48, 64, dtype=torch.bool), r"uint8, or floating point in \[0, 1\], got torch\.bool"),
    ],
)
def test_an_array_that_is_no_picture_is_an_error_that_says_what_was_expected(image, message):
    with pytest.raises(ValueError, match=message):
        spot_predictor()([image])


@pytest.mark.parametrize("turned", [np.s_[..., ::-1], np.s_[:, ::-1], np.s_[::2, ::2]])
def test_an_array_may_be_a_view_of_another(turned):
    array = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)[turned]
    np.testing.assert_array_equal(torch.from_numpy(to_array(array)).numpy(), array)


def test_a_missing_file_is_an_error_that_names_it():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        spot_predictor()("nowhere.jpg")


def test_a_picture_is_left_as_it_was():
    pixels = picture(90, 130)
    spot_predictor(flip=True)(pixels)
    np.testing.assert_array_equal(pixels, picture(90, 130))


# --- nobody, and company


def test_nobody_in_the_picture_is_a_result_without_people():
    (poses,) = spot_predictor()(BLACK)
    assert len(poses) == 0
    assert poses.image_size == (100, 150)


def test_pictures_of_different_shapes_come_back_in_their_order():
    sizes = [(90, 130), (130, 90), (90, 130), (200, 60), (130, 90)]
    found = spot_predictor(batch_size=4)([picture(*size) for size in sizes])
    assert [poses.image_size for poses in found] == sizes
    for poses, size in zip(found, sizes, strict=True):
        assert_close(poses.keypoints, spots_at(*size)[None], atol=0.004 * max(size), rtol=0)


def test_pictures_that_share_a_canvas_at_one_scale_only_are_told_apart():
    sizes = [(100, 128), (128, 128)]
    found = spot_predictor(scales=(1.0, 1.5))([picture(*size) for size in sizes])
    for poses, size in zip(found, sizes, strict=True):
        assert_close(poses.keypoints, spots_at(*size)[None], atol=0.6, rtol=0)


def test_a_batch_of_four_shapes_equals_four_single_pictures_for_a_real_network(random_method):
    generator = np.random.default_rng(0)
    sizes = [(64, 96), (60, 90), (96, 64), (50, 50)]  # the first two on one canvas
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    predictor = PosePredictor(random_method, "cpu", image_size=96)
    together = predictor(images)
    assert all(len(poses) > 1 for poses in together)
    for poses, image in zip(together, images, strict=True):
        assert_same(poses, predictor(image)[0], atol=0.01)


def test_a_stream_holds_one_batch_of_pictures_at_a_time():
    taken = 0

    def camera() -> Iterator[np.ndarray]:
        nonlocal taken
        for _ in range(7):
            taken += 1
            yield BLACK

    stream = spot_predictor(batch_size=2).stream(camera())
    for number in range(1, 8):
        next(stream)
        assert taken <= number + 1
    assert next(stream, None) is None


# --- given boxes


def test_given_boxes_replace_the_detector_s():
    size = (300, 420)
    wide = torch.tensor([[60.0, 20.0, 400.0, 290.0]])
    (poses,) = spot_predictor()(picture(*size), boxes=[wide.numpy()])
    assert_close(poses.boxes, wide, atol=1e-3, rtol=0)
    assert_close(poses.keypoints, spots_at(*size)[None], atol=0.004 * 420, rtol=0)


@pytest.mark.parametrize("edge", [float("nan"), float("inf")])
def test_boxes_that_are_not_finite_are_refused_before_anything_looks_into_them(edge):
    with pytest.raises(ValueError, match=r"boxes must be finite numbers, got \[0\.0, 0\.0, (nan|inf), 10\.0\]"):
        spot_predictor()(BLACK, boxes=[np.array([[1, 2, 3, 4], [0, 0, edge, 10]])])


def test_a_given_box_stays_as_it_is_also_beyond_the_picture():
    (poses,) = spot_predictor()(picture(100, 150), boxes=[np.array([[-10.0, -5, 170, 120]])])
    assert_close(poses.boxes, torch.tensor([[-10.0, -5, 170, 120]]), atol=1e-3, rtol=0)


def test_no_given_boxes_are_nobody_and_others_have_as_many_people_as_boxes():
    boxes = [np.zeros((0, 4)), box_at(90, 130).numpy(), np.concatenate([box_at(90, 130).numpy()] * 2)]
    found = spot_predictor()([picture(90, 130)] * 3, boxes=boxes)
    assert [len(poses) for poses in found] == [0, 1, 2]


def test_given_boxes_stay_with_their_pictures_when_shapes_differ():
    sizes = [(90, 130), (130, 90), (90, 130)]
    boxes = [np.array([[10.0 * i, 5, 10.0 * i + 60, 80]]) for i in range(3)]
    found = spot_predictor()([picture(*size) for size in sizes], boxes=boxes)
    for poses, given in zip(found, boxes, strict=True):
        assert_close(poses.boxes, torch.from_numpy(given).float(), atol=1e-3, rtol=0)


def test_boxes_for_too_few_pictures_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        spot_predictor()([BLACK, BLACK], boxes=[np.zeros((0, 4))])


# --- settings


def test_the_threshold_and_the_largest_number_of_people_are_obeyed(random_method):
    image = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    everybody = PosePredictor(random_method, "cpu", image_size=96)(image)[0]
    three = PosePredictor(random_method, "cpu", image_size=96, max_people=3)(image)[0]
    nobody = PosePredictor(random_method, "cpu", image_size=96, box_threshold=1.0)(image)[0]
    assert len(everybody) > 3
    assert (len(three), len(nobody)) == (3, 0)


def test_the_limits_of_one_predictor_do_not_change_another_s(random_method):
    PosePredictor(random_method, "cpu", max_people=1)
    assert random_method.decoder.boxes.max_people > 1


def test_a_model_in_training_mode_is_put_into_evaluation_mode(random_method):
    random_method.model.train()
    assert not any(module.training for module in PosePredictor(random_method, "cpu").model.modules())


def test_pictures_are_scaled_to_what_the_weights_were_trained_for_unless_told(random_method):
    trained = dataclasses.replace(random_method, metadata={"image_size": 96})
    assert PosePredictor(trained, "cpu").image_size == 96
    assert PosePredictor(trained, "cpu", image_size=64).image_size == 64
    assert PosePredictor(random_method, "cpu").image_size == 480


def test_a_size_below_the_smallest_is_refused():
    with pytest.raises(ValueError, match="image_size must be at least 32, got 16"):
        spot_predictor(image_size=16)


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (1e-7, 1.0), (1.0, -1.0)])
def test_scales_that_leave_less_than_the_smallest_size_are_refused(scales):
    with pytest.raises(ValueError, match="scales must be some, none of which makes image_size"):
        spot_predictor(scales=scales)


def test_the_time_spent_is_added_up_by_stage():
    predictor = spot_predictor()
    predictor(BLACK)
    first = dict(predictor.timings)
    predictor(BLACK)
    assert set(first) == {"prepare", "network", "decode"}
    assert all(predictor.timings[stage] > seconds > 0 for stage, seconds in first.items())


# --- loading


def test_a_weights_file_gives_a_predictor_of_its_model_and_skeleton(tmp_path):
    torch.manual_seed(0)
    made = build_method(QUICK, skeleton=SPOTS, prn_nodes=4)
    save_weights(made.model, tmp_path / "spots.safetensors", made.facts)
    predictor = load(tmp_path / "spots.safetensors", device="cpu", image_size=64)
    assert (predictor.name, predictor.skeleton, predictor.image_size) == (QUICK, SPOTS, 64)
    assert predictor.weights == str(tmp_path / "spots.safetensors")
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        ours, theirs = (model(images)[0].heatmaps for model in (predictor.model, made.model.eval()))
    assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_weights_file_that_does_not_say_its_model_needs_the_name(tmp_path):
    save_weights(nn.Linear(1, 1), tmp_path / "anonymous.safetensors", {})
    with pytest.raises(ValueError, match=r"anonymous\.safetensors: .*give the model's name"):
        load(tmp_path / "anonymous.safetensors")


def test_a_missing_weights_file_is_an_error_that_names_it():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        load(Path("nowhere.safetensors"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_what_the_cpu_finds(random_method):
    image = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    (there,), (here,) = (PosePredictor(random_method, device, image_size=96)(image) for device in ("cuda", "cpu"))
    assert_same(there, here, atol=0.5)


def test_options_of_the_model_win_over_those_of_its_weights(tmp_path):
    method = build_method(QUICK, peak_threshold=0.4)
    save_weights(method.model, tmp_path / "w.safetensors", method.facts)
    assert load(tmp_path / "w.safetensors").method.decoder.codec.threshold == 0.4
    changed = load(tmp_path / "w.safetensors", model_options={"peak_threshold": 0.2, "box_threshold": 0.3})
    assert changed.method.decoder.codec.threshold == 0.2
    assert changed.method.decoder.boxes.score_threshold == 0.3
