"""People in boxes: crops through a network, poses in the picture's own pixels, whoever found the boxes.

Most tests run a network made by hand: it finds the middle of what is red, green and blue in a crop.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from multiposenet.box_sources import DetectionFile, label_boxes
from multiposenet.checkpoint import save_weights
from multiposenet.crop_heatmaps import GaussianLabels, RefinedMaximum, SecondMaximum, TapLabels
from multiposenet.crop_losses import STRIDE
from multiposenet.crops import CropRule
from multiposenet.decode.crops import CropDecoder, distinct
from multiposenet.families import top_down
from multiposenet.methods import PoseMethod, build_method, ensemble
from multiposenet.predictor import PosePredictor, ShippedDetector, load
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import CropOutputs, PersonBoxes, PersonLabels, Poses, Sample

SPOTS = Skeleton("spots", ("red", "green", "blue"), oks_sigmas=(0.05, 0.05, 0.05))
NARROW = {"planes": (16, 16, 32, 32), "width": 16, "stem_width": 16, "crop": (64, 48)}
"""Options that make a published cascade small and quick."""


class SpotFinder(nn.Module):
    """Answers with maps of Gaussians around the middle of each colour."""

    def __init__(self, peak_height: float = 1.0) -> None:
        super().__init__()
        self.peak_height = peak_height
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> tuple[CropOutputs, dict]:
        self.seen.append(tuple(images.shape))
        height, width = images.shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        weight = (images - 0.6).clamp(min=0)
        mass = weight.sum((-2, -1)).clamp(min=1e-6)
        points = torch.stack([(weight * axis).sum((-2, -1)) / mass for axis in (columns, rows)], -1)
        maps = GaussianLabels((1.5,)).encode(points, (height // 4, width // 4), 4)[0]
        maps = maps * self.peak_height * (mass > 1e-3)[..., None, None]
        return CropOutputs(((maps,),), (height, width), self.peak_height), {}


def spot_predictor(model: nn.Module | None = None, decoder: dict | None = None, **options) -> PosePredictor:
    how = {"rule": CropRule((128, 96)), "positions": RefinedMaximum()} | (decoder or {})
    method = PoseMethod("spots", model or SpotFinder(), CropDecoder(SPOTS, **how), SPOTS, {}, family=top_down.FAMILY)
    return PosePredictor(method, "cpu", **options)


def picture(people: list[tuple[float, float]], size: tuple[int, int] = (200, 300)) -> np.ndarray:
    """Grey, with a red, a green and a blue spot for everybody, 12 pixels above, at and below a point."""
    pixels = np.full((*size, 3), 100.0)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for x, y in people:
        for channel, down in enumerate((-12, 0, 12)):
            spot = np.exp(-((columns - x) ** 2 + (rows - y - down) ** 2) / 18)
            pixels[..., channel] = np.maximum(pixels[..., channel], 255 * spot)
    return pixels.astype(np.uint8)


def spots_of(x: float, y: float) -> Tensor:
    return torch.tensor([[x, y - 12], [x, y], [x, y + 12]])


def box_around(x: float, y: float) -> list[float]:
    return [x - 15, y - 25, x + 15, y + 25]


TWO = [(70.0, 90.0), (220.0, 120.0)]
BOXES = np.array([box_around(*place) for place in TWO], np.float32)


# --- where the poses are


@pytest.mark.parametrize(
    "options", [{}, {"flip": True}, {"scales": (1.0, 0.5)}, {"image_size": 256}, {"batch_size": 1}]
)
def test_everybody_is_found_in_the_picture_s_own_pixels(options):
    (poses,) = spot_predictor(**options)([picture(TWO)], boxes=[BOXES])
    assert len(poses) == 2
    assert poses.image_size == (200, 300)
    for place, keypoints in zip(TWO, poses.keypoints[poses.boxes[:, 0].argsort()], strict=True):
        assert_close(keypoints, spots_of(*place), atol=0.6, rtol=0)


def test_the_published_positions_are_within_half_a_cell():
    decoder = {"positions": SecondMaximum(), "score_offset": 0.5}
    (poses,) = spot_predictor(decoder=decoder)([picture(TWO[:1])], boxes=[BOXES[:1]])
    assert_close(poses.keypoints[0], spots_of(*TWO[0]), atol=2.0, rtol=0)
    assert_close(poses.scores, (poses.keypoint_scores.mean(1) + 0.5) / 1.5, atol=0.05, rtol=0)


def test_boxes_may_leave_the_picture():
    place = (5.0, 100.0)
    (poses,) = spot_predictor()([picture([place])], boxes=[np.array([box_around(*place)])])
    assert_close(poses.keypoints[0], spots_of(*place), atol=0.6, rtol=0)


def test_pictures_of_different_sizes_and_numbers_of_people_stay_apart():
    sizes = [(200, 300), (150, 100), (300, 200)]
    people = [TWO, [], [(90.0, 200.0)]]
    boxes = [np.array([box_around(*place) for place in own], np.float32).reshape(-1, 4) for own in people]
    images = [picture(own, size) for own, size in zip(people, sizes, strict=True)]
    together = spot_predictor()(images, boxes=boxes)
    assert [len(poses) for poses in together] == [2, 0, 1]
    for poses, image, own in zip(together, images, boxes, strict=True):
        (alone,) = spot_predictor()([image], boxes=[own])
        assert_close(poses.keypoints, alone.keypoints, atol=1e-4, rtol=0)
        assert poses.image_size == image.shape[:2]


def test_all_people_of_all_pictures_pass_through_the_network_together():
    model = SpotFinder()
    spot_predictor(model)([picture(TWO)] * 3, boxes=[BOXES] * 3)
    assert model.seen == [(6, 3, 128, 96)]


def test_nobody_costs_no_forward_and_gives_nobody():
    model = SpotFinder()
    (poses,) = spot_predictor(model)([picture([])], boxes=[np.zeros((0, 4))])
    assert (len(poses), poses.image_size, model.seen) == (0, (200, 300), [])


def test_peaks_of_another_height_are_the_same_peaks():
    one, other = (spot_predictor(SpotFinder(height))([picture(TWO)], boxes=[BOXES])[0] for height in (1.0, 255.0))
    assert_close(one.keypoint_scores, other.keypoint_scores, atol=1e-5, rtol=1e-4)
    assert_close(one.keypoints, other.keypoints, atol=1e-3, rtol=0)


# --- scores, limits, doubles


def test_a_person_scores_box_times_mean_of_keypoints_and_the_best_comes_first():
    boxes = PersonBoxes(BOXES, np.array([0.3, 0.9], np.float32))
    (poses,) = spot_predictor()([picture(TWO)], boxes=[boxes])
    assert_close(poses.boxes, torch.from_numpy(BOXES[::-1].copy()))
    assert_close(poses.scores, torch.tensor([0.9, 0.3]) * poses.keypoint_scores.mean(1), atol=1e-5, rtol=1e-4)


def test_the_weakest_boxes_are_not_looked_into():
    boxes = PersonBoxes(BOXES, np.array([0.3, 0.9], np.float32))
    for options, count in (({"box_threshold": 0.5}, 1), ({"max_people": 1}, 1), ({"box_threshold": 0.95}, 0)):
        (poses,) = spot_predictor(**options)([picture(TWO)], boxes=[boxes])
        assert len(poses) == count
        assert all(box[0] > 100 for box in poses.boxes)


def test_doubles_are_dropped_only_when_asked():
    boxes = PersonBoxes(np.concatenate([BOXES, BOXES[:1] + 1]), np.array([0.9, 0.8, 0.7], np.float32))
    counts = [
        len(spot_predictor(decoder={"oks_nms": limit})([picture(TWO)], boxes=[boxes])[0]) for limit in (None, 0.9)
    ]
    assert counts == [3, 2]


def test_of_a_chain_of_doubles_the_best_and_those_unlike_it_stay():
    keypoints = torch.zeros(3, 3, 2)
    keypoints[1] += 2.0
    keypoints[2] += 4.0  # like the second, which is not there any more, but not like the first
    poses = Poses(
        keypoints, torch.ones(3, 3), torch.tensor([[0.0, 0, 30, 30]] * 3), torch.tensor([0.9, 0.8, 0.7]), SPOTS
    )
    similarity = np.exp(-8 / (2 * 900 * 0.1**2))
    assert distinct(poses, similarity - 0.05).tolist() == [True, False, True]


def test_dropping_doubles_needs_sigmas():
    nameless = Skeleton("nameless", ("a",))
    with pytest.raises(ValueError, match="oks_nms needs oks_sigmas, which skeleton 'nameless'"):
        CropDecoder(nameless, CropRule(), RefinedMaximum(), oks_nms=0.9)


# --- who finds the people


class Finder:
    """A detector that knows where people are."""

    def __init__(self) -> None:
        self.asked = 0

    def find_boxes(self, pictures: list[np.ndarray]) -> list[PersonBoxes]:
        self.asked += len(pictures)
        return [PersonBoxes(BOXES, np.array([0.9, 0.8], np.float32)) for _ in pictures]


def test_a_detector_is_asked_where_no_boxes_are_given():
    finder = Finder()
    predictor = spot_predictor(detector=finder)
    (poses,) = predictor([picture(TWO)])
    assert (len(poses), finder.asked) == (2, 1)
    predictor([picture(TWO)], boxes=[BOXES])
    assert finder.asked == 1
    assert "detect" in predictor.timings


def test_without_boxes_and_detector_the_error_says_what_to_do():
    with pytest.raises(ValueError, match=r"spots looks at people one by one.*give boxes.*or a detector"):
        spot_predictor()([picture(TWO)])
    with pytest.raises(ValueError, match="use another one as detector"):
        spot_predictor().find_boxes([picture(TWO)])


def test_another_method_s_predictor_is_a_detector_whose_boxes_are_those_of_its_own_people():
    torch.manual_seed(0)
    method = build_method("multiposenet_lite")
    logits = method.model.detection_subnet.heads.classification_head.cls_logits
    nn.init.normal_(logits.weight, std=0.05)
    nn.init.zeros_(logits.bias)
    detector = PosePredictor(method, "cpu", image_size=96, max_people=5)
    images = [picture(TWO), picture(TWO, (150, 100))]
    found = detector.find_boxes(images)
    for poses, own in zip(detector(images), found, strict=True):
        assert len(own) == len(poses) == 5
        expected = poses.boxes[poses.boxes[:, 0].argsort()]
        assert_close(torch.from_numpy(own.boxes[own.boxes[:, 0].argsort()]), expected, atol=1e-2, rtol=0)
        assert (np.diff(own.scores) <= 0).all()


@pytest.mark.parametrize("options", [{"scales": (0.5, 1.0)}, {"image_size": 64}])
def test_a_detector_s_boxes_are_those_of_its_first_scale_and_end_with_the_picture(options):
    torch.manual_seed(0)
    method = build_method("multiposenet_lite")
    logits = method.model.detection_subnet.heads.classification_head.cls_logits
    nn.init.normal_(logits.weight, std=0.05)
    nn.init.zeros_(logits.bias)
    images = [np.random.default_rng(3).integers(0, 256, size, dtype=np.uint8) for size in ((70, 150, 3), (150, 101, 3))]
    found = PosePredictor(method, "cpu", **{"image_size": 128} | options).find_boxes(images)
    small = PosePredictor(method, "cpu", image_size=64)
    for image, own, alone, poses in zip(images, found, small.find_boxes(images), small(images), strict=True):
        np.testing.assert_allclose(own.boxes, alone.boxes, atol=1e-3)
        for boxes in (own.boxes, poses.boxes.numpy()):
            assert boxes[:, 3].max() == image.shape[0]  # the network saw more rows, as canvases are whole cells
            assert boxes[:, 2].max() == image.shape[1]


def test_a_detector_is_loaded_only_when_it_is_needed(monkeypatch):
    loaded = []

    def load_finder(source, device, **options):
        loaded.append((source, device, options))
        return Finder()

    monkeypatch.setattr("multiposenet.predictor.load", load_finder)
    detector = ShippedDetector("cpu")
    assert loaded == []
    for _ in range(2):
        detector.find_boxes([picture(TWO)])
    assert loaded == [(None, "cpu", {"precision": "fp32"})]


def test_a_model_by_name_has_the_shipped_weights_as_its_detector():
    predictor = load("rsn18", device="cpu")
    assert isinstance(predictor.detector, ShippedDetector)


def test_a_detector_that_finds_nobody_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="the detector rsn18 is a rsn18, which looks at people one by one"):
        load("rsn18", device="cpu", detector="rsn18")
    with pytest.raises(FileNotFoundError, match=r"no weights file .*missing\.pth"):
        load("rsn18", device="cpu", detector=tmp_path / "missing.pth")
    with pytest.raises(ValueError, match="multiposenet_lite finds people itself; leave the detector out"):
        load(device="cpu", detector="multiposenet_lite")


# --- boxes of annotated pictures


def sample_with(image_id: int = 7) -> Sample:
    labels = PersonLabels(
        np.zeros((2, 3, 2), np.float32),
        np.zeros((2, 3), np.uint8),
        BOXES,
        np.ones(2, np.float32),
        np.array([False, True]),
    )
    nothing = np.zeros((200, 300), bool)
    return Sample(picture(TWO), image_id, "a.png", labels, nothing, nothing)


def test_the_labels_boxes_are_without_crowds():
    np.testing.assert_array_equal(label_boxes(sample_with()), BOXES[:1])


def test_a_detection_file_gives_each_picture_its_people(tmp_path):
    rows = [
        {"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.5},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 5, 5], "score": 0.9},
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 0, 4], "score": 0.8},
        {"image_id": 8, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1.5},
    ]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    boxes = DetectionFile(tmp_path / "d.json")
    np.testing.assert_allclose(boxes(sample_with(7)).boxes, [[10, 20, 40, 60]])
    np.testing.assert_allclose(boxes(sample_with(8)).scores, [1.0])
    assert len(boxes(sample_with(9))) == 0


def test_a_row_that_a_detection_file_repeats_is_one_person(tmp_path):
    one = {"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.5}
    rows = [one, one | {"score": 0.9}, one, one | {"image_id": 8}]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    boxes = DetectionFile(tmp_path / "d.json")
    np.testing.assert_allclose(boxes(sample_with(7)).scores, [0.5, 0.9])
    np.testing.assert_allclose(boxes(sample_with(8)).scores, [0.5])


FOUND = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "must be a list of COCO result dicts, got a dict"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]}], "detection 0 needs image_id"),
        ([FOUND, 7], "detection 1 needs image_id"),
        ([FOUND | {"bbox": [1, 2, 3, float("nan")]}], r"detection 0 .*: bbox\[3\] is nan; every number must be finite"),
        ([FOUND | {"category_id": 2}, FOUND | {"bbox": ["a", 2, 3, 4]}], "detection 1 .*: bbox must be a flat list"),
        ([FOUND | {"bbox": [[1, 2, 3, 4]]}], "detection 0 .*: bbox has 1 numbers, expected 4"),
        ([FOUND | {"score": "high"}], "detection 0 .*: score must be a number, got 'high'"),
        ([FOUND | {"category_id": 0}, FOUND | {"category_id": "1"}], "no detection has category_id 1.* '1', 0"),
    ],
)
def test_a_broken_detection_file_is_an_error_that_says_where(tmp_path, content, message):
    (tmp_path / "d.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        DetectionFile(tmp_path / "d.json")


def test_detections_of_other_pictures_are_refused_where_they_are_used(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps([FOUND]))
    boxes = DetectionFile(tmp_path / "d.json")
    boxes.refuse_strangers([3, 1])
    with pytest.raises(ValueError, match=r"d\.json: its detections are of other pictures, image_id 1"):
        boxes.refuse_strangers([3, 4])
    (tmp_path / "d.json").write_text("[]")
    DetectionFile(tmp_path / "d.json").refuse_strangers([3, 4])  # nobody anywhere


# --- several models, and files


def saved(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    method = build_method("rsn18", **NARROW)
    save_weights(method.model, folder / f"{seed}.safetensors", method.facts | {"image_size": 64})
    return folder / f"{seed}.safetensors"


def test_several_weights_answer_with_the_mean_of_their_maps(tmp_path):
    files = [saved(tmp_path, seed) for seed in (1, 2)]
    both = load(files, device="cpu")
    assert both.weights == ",".join(map(str, files))
    assert both.skeleton == COCO_PERSON
    images = torch.rand(1, 3, 64, 48)
    with torch.inference_mode():
        one, other = (load(file, device="cpu").model(images)[0].heatmaps for file in files)
        mean = both.model(images)[0]
    assert_close(mean.heatmaps * 255, (one + other) / 2, atol=1e-3, rtol=1e-4)
    (poses,) = both([picture(TWO)], boxes=[BOXES])
    assert len(poses) == 2


def test_whole_picture_networks_cannot_be_averaged():
    torch.manual_seed(0)
    methods = [build_method("multiposenet_lite")] * 2
    with pytest.raises(ValueError, match="cannot average multiposenet_lite, multiposenet_lite"):
        ensemble(methods)


def test_networks_for_other_keypoints_cannot_be_averaged():
    with pytest.raises(ValueError, match="they find different keypoints"):
        ensemble([build_method("rsn18", **NARROW), build_method("rsn18", skeleton="mpii", **NARROW)])


def test_weights_say_what_size_their_crops_are_and_how_they_were_trained(tmp_path):
    predictor = load(saved(tmp_path, 1), device="cpu")
    assert (predictor.name, predictor.image_size) == ("rsn18", 64)
    assert predictor.method.decoder.rule.size == (64, 48)


@pytest.mark.parametrize("option", ["crop_rule", "peak_rule", "label_rule", "loss_rule"])
def test_an_unknown_rule_is_refused_with_those_there_are(option):
    with pytest.raises(ValueError, match=f"{option} must be one of usual, legacy, got 'odd'"):
        build_method("rsn18", **NARROW, **{option: "odd"})


@pytest.mark.parametrize(
    ("name", "crop"), [("rsn18", (250, 190)), ("rsn18", (0, 64)), ("simplebaseline_resnet50", (100, 80))]
)
def test_a_crop_that_is_not_whole_cells_is_refused(name, crop):
    with pytest.raises(ValueError, match=r"crop must be height x width, multiples of \d+ pixels"):
        build_method(name, crop=crop)


@pytest.mark.parametrize("crop", [(64, 48), (132, 100), (36, 52)])
def test_maps_of_any_crop_that_is_taken_say_where_their_labels_are(crop):
    method = build_method("rsn18", **NARROW | {"crop": crop})
    torch.manual_seed(0)
    keypoints = torch.rand(1, 17, 2) * torch.tensor([crop[1] - 12.0, crop[0] - 12]) + 6
    size = tuple(method.model.eval()(torch.zeros(1, 3, *crop))[0].heatmaps.shape[-2:])
    maps = GaussianLabels().encode(keypoints, size, STRIDE)[-1]
    windows = method.decoder.rule.windows(torch.tensor([[10.0, 20, 80, 120]]))
    boxes = PersonBoxes(np.array([[10, 20, 80, 120]], np.float32), np.ones(1, np.float32))
    (poses,) = method.decoder(maps, windows, [boxes], [(200, 200)])
    assert_close(poses.keypoints, windows.keypoints_to_image(keypoints), atol=1.5, rtol=0)


def test_the_legacy_labels_are_those_of_the_published_code_at_the_border_too():
    with torch.device("meta"):
        assert build_method("rsn18", label_rule="legacy").model.loss.labels == TapLabels(reflect=True)


def test_mpii_has_square_crops_and_a_wider_blur():
    decoder = build_method("rsn18", skeleton="mpii", peak_rule="legacy", planes=(16, 16, 32, 32), width=16).decoder
    assert (decoder.rule.size, decoder.rule.extension) == ((256, 256), (1.25, 1.25))
    assert (decoder.positions, decoder.score_offset) == (SecondMaximum(9), 0.5)
