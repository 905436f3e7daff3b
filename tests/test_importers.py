"""Weights of other projects: their networks' answers come out of ours, and what differs is said, not hidden."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import published_chain as published
import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from multiposenet import importers
from multiposenet.checkpoint import load_tensors
from multiposenet.decode.assignment import assign_publicly
from multiposenet.groupings import build_grouping
from multiposenet.heatmap import HeatmapCodec
from multiposenet.importers.torchvision_resnet import with_epsilon
from multiposenet.methods import PoseMethod, build_method, create_model, match_weights
from multiposenet.models.input_normalization import IMAGENET_MEAN, IMAGENET_STD
from multiposenet.skeletons import COCO_PERSON
from multiposenet.structures import Detections, MultiPoseNetOutputs, Peaks
from multiposenet.weights import convert_weights

NODES = 6
LITE = "multiposenet_lite"
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))


def images(height: int, width: int, n: int = 1) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(5))


def sparse_crops(people: int) -> torch.Tensor:
    """[P, 17, 56, 36] with a few impulses in every map."""
    return (torch.rand(people, 17, 56, 36, generator=torch.Generator().manual_seed(6)) > 0.998).float()


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-5) -> None:
    """Equal to within ``atol`` of the largest value; which must not be next to nothing."""
    largest = theirs.abs().max()
    assert float(largest) > 0.01
    assert_close(ours / largest, theirs / largest, atol=atol, rtol=0)


def meta_tensors(names: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in names.items()}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """The published network's layout on ResNet-50 with a narrow PRN and random weights."""
    return published.randomised(published.Network(50, NODES))


@pytest.fixture(scope="module")
def prn() -> nn.Module:
    """The published PRN with random weights that make its answers differ from its input."""
    wild = published.randomised(published.Prn(NODES), seed=3)
    for parameter in wild.parameters():
        parameter.data.mul_(4)
    return wild


@pytest.fixture(scope="module")
def legacy(prn, tmp_path_factory) -> PoseMethod:
    """A small network that decodes as the published code does, with the published PRN in it."""
    file = tmp_path_factory.mktemp("prn") / "prn.pth.tar"
    torch.save({"epoch": 16, "state_dict": prn.state_dict(), "optimizer": {"state": {}}}, file)
    with pytest.warns(UserWarning, match=r"prn\.pth\.tar holds only prn; random weights in backbone, "):
        method = build_method(
            LITE, file, person_mask=False, box_rule="legacy", peak_rule="legacy", peak_threshold=0.1
        )
    method.model.eval()
    return method


# --- whole networks of LiMeng95


def write_h5(tensors: dict[str, torch.Tensor], path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(path, "w") as file:
        for key, value in tensors.items():
            file.create_dataset(key, data=value.numpy())
        file.attrs["epoch"] = 80


@pytest.mark.parametrize("ending", ["pth", "h5"])
def test_the_published_networks_answers_come_out_of_a_file_of_its_weights(network, ending, tmp_path):
    file = tmp_path / f"reference.{ending}"
    if ending == "h5":
        write_h5(network.state_dict(), file)
    else:
        torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, file)
    ours = create_model("multiposenet_resnet50", weights=file).eval()
    pictures = images(64, 96, n=2)
    with torch.inference_mode():
        outputs, losses = ours(pictures)
        heatmaps, probabilities, deltas = network((pictures - MEAN) / STD)
    assert losses == {}
    assert_same(outputs.heatmaps, heatmaps[:, published.HEATMAP_OF_COCO])
    assert_close(outputs.box_logits.sigmoid(), probabilities, atol=1e-5, rtol=0)
    assert float(probabilities.std()) > 0.02
    assert_same(outputs.box_deltas, deltas)
    if ending == "pth":
        with torch.inference_mode():
            levels = ours.keypoint_subnet.supervised(ours.keypoint_pyramid(ours.backbone((pictures - MEAN) / STD)))
            for level, theirs in zip(levels, network.level_maps((pictures - MEAN) / STD), strict=True):
                assert_same(level, theirs[:, published.HEATMAP_OF_COCO])
            crops = sparse_crops(3)
            theirs = network.prn(crops[:, published.FROM_COCO].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            # One softmax over everything: an undecided answer is 1 in this unit.
            assert_same(ours.prn(crops) * crops[0].numel(), theirs[:, published.TO_COCO] * crops[0].numel())


@pytest.mark.parametrize("depth", [50, 101])
def test_a_file_with_the_published_names_and_shapes_fits_the_model_of_its_depth(depth, published_names):
    tensors, facts = importers.translate(meta_tensors(published_names(f"limeng95_r{depth}")), "file")
    assert match_weights(tensors, facts, "file") == f"multiposenet_resnet{depth}"
    assert facts["options"]["prn_nodes"] == 1024
    assert facts["options"]["prn_crop"] == [56, 36]
    assert facts["source"] == "LiMeng95/MultiPoseNet.pytorch"
    json.dumps(facts)


def test_the_stand_in_of_these_tests_has_the_published_names_and_shapes(published_names):
    with torch.device("meta"):
        stand_in = published.Network(101).state_dict()
    assert {key: list(value.shape) for key, value in stand_in.items()} == published_names("limeng95_r101")


@pytest.fixture(scope="module")
def names() -> dict[str, torch.Tensor]:
    """Tensors without memory, with all names and shapes of a published network."""
    with torch.device("meta"):
        return published.Network(50, NODES).state_dict()


def test_the_wrapper_s_prefix_and_missing_batch_counters_make_no_difference(names):
    wrapped = {f"module.{key}": value for key, value in names.items() if "num_batches" not in key}
    tensors, facts = importers.translate(wrapped, "file")
    assert match_weights(tensors, facts, "file") == "multiposenet_resnet50"
    assert facts["options"]["prn_nodes"] == NODES


def test_missing_unexpected_and_misshapen_tensors_are_named_as_in_the_file(names):
    broken = dict(names)
    del broken["convfin.bias"], broken["fpn.layer1.0.conv3.weight"]
    broken["convfin_k6.bias"] = torch.zeros(19)
    broken["conv2.weight"] = torch.zeros(256, 512, 1, 1)
    with pytest.raises(ValueError, match=r"some\.h5 \(layout of LiMeng95/MultiPoseNet\.pytorch\)") as caught:
        importers.translate(broken, "some.h5")
    message = str(caught.value)
    assert "missing keys (2): fpn.layer1.0.conv3.weight; convfin.bias" in message
    assert "unexpected keys (1): convfin_k6.bias" in message
    assert "conv2.weight: file [256, 512, 1, 1], model [256, 512, 3, 3]" in message


def test_a_network_without_its_residual_network_is_an_error_that_names_it(names):
    without = {key: value for key, value in names.items() if not key.startswith("prn.")}
    with pytest.raises(ValueError, match=r"missing keys \(6\): prn\.dens1\.weight"):
        importers.translate(without, "file")


def test_a_network_on_another_resnet_is_an_error(names):
    with torch.device("meta"):
        small = torchvision.models.resnet18().state_dict()
    kept = {key: value for key, value in names.items() if not key.startswith("fpn.layer")}
    deeper = kept | {f"fpn.{key}": value for key, value in small.items() if key.startswith("layer")}
    with pytest.raises(ValueError, match="its backbone is resnet18; there are such networks on resnet50 and resnet101"):
        importers.translate(deeper, "file")


def test_a_file_of_another_depth_than_asked_for_is_an_error_that_names_both(tmp_path):
    # The check of names comes first, so the tensors may be empty but for their shapes.
    with torch.device("meta"):
        tensors, facts = importers.translate(published.Network(101, NODES).state_dict(), "deep.pth")
    with pytest.raises(ValueError, match=r"deep\.pth holds 'multiposenet_resnet101', not 'multiposenet_resnet50'"):
        match_weights(tensors, facts, "deep.pth", "multiposenet_resnet50")


def test_what_the_published_networks_lack_and_how_they_decode_is_in_the_options(names):
    options = importers.translate(names, "file")[1]["options"]
    assert options["person_mask"] is False
    with torch.device("meta"):
        method = build_method("multiposenet_resnet50", **options)
        outputs, _ = method.model(torch.zeros(1, 3, 64, 64))
    assert outputs.heatmaps.shape == (1, COCO_PERSON.num_keypoints, 16, 16)
    decoder = method.decoder
    assert (decoder.boxes.score_threshold, decoder.boxes.overlap_edge, decoder.boxes.candidates) == (0.5, 1.0, None)
    assert decoder.boxes.grid.max_log_scale == float("inf")
    assert decoder.grouping.assign is assign_publicly
    assert (decoder.grouping.grid.reach, decoder.grouping.grid.margin) == (7, 0.21)


def test_a_network_without_a_person_mask_learns_its_keypoints():
    from test_models import targets

    model = create_model(LITE, prn_nodes=2, person_mask=False)
    outputs, losses = model(images(64, 64), targets(1, 64, 64))
    assert outputs.heatmaps.shape[1] == COCO_PERSON.num_keypoints
    assert float(losses["person_mask"].detach()) == 0
    sum(losses.values()).backward()
    assert bool(model.keypoint_subnet.supervise[0].weight.grad.any())


# --- the authors' pose residual network


def test_the_authors_residual_network_answers_as_before_in_any_model(prn, legacy):
    crops = sparse_crops(3)
    with torch.inference_mode():
        ours, theirs = legacy.model.prn(crops), prn(crops.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert_same(ours, theirs)
    assert legacy.metadata["source"] == "salihkaragoz/pose-residual-network-pytorch"


def test_the_authors_residual_network_can_be_had_by_itself(prn, tmp_path):
    torch.save(prn.state_dict(), tmp_path / "prn.pth")
    alone = build_grouping("pose_residual", tmp_path / "prn.pth")
    crops = sparse_crops(2)
    with torch.inference_mode():
        assert_same(alone.model.prn.eval()(crops), prn(crops.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert alone.grouping.grid.blur == "legacy"


def test_the_published_names_and_shapes_are_those_of_the_authors_file(published_names):
    tensors, facts = importers.translate(meta_tensors(published_names("prn")), "file")
    assert facts["parts"] == ["prn"]
    assert match_weights(tensors, facts, "file", "multiposenet_resnet101") == "multiposenet_resnet101"


@pytest.mark.parametrize(("coeff", "crop"), [(1, [28, 18]), (3, [84, 54])])
def test_the_grid_is_read_off_the_shapes(coeff, crop):
    cells = 17 * 28 * 18 * coeff**2
    shapes = {"dens1.weight": [5, cells], "bneck.weight": [5, 5], "dens2.weight": [cells, 5]}
    shapes |= {"dens1.bias": [5], "bneck.bias": [5], "dens2.bias": [cells]}
    tensors, facts = importers.translate(meta_tensors(shapes), "file")
    assert facts["options"]["prn_crop"] == crop
    assert match_weights(tensors, facts, "file", LITE) == LITE


def test_a_residual_network_of_other_keypoints_is_an_error_that_names_the_shape():
    cells = 14 * 56 * 36
    shapes = {"dens1.weight": [5, cells], "bneck.weight": [5, 5], "dens2.weight": [cells, 5]}
    shapes |= {"dens1.bias": [5], "bneck.bias": [5], "dens2.bias": [cells]}
    with pytest.raises(ValueError, match=r"dens1\.weight: file \[5, 28224\], model \[5, 34272\]"):
        importers.translate(meta_tensors(shapes), "file")


def test_a_part_can_be_taken_from_another_file_and_brings_the_options_it_needs(prn, tmp_path):
    torch.save(prn.state_dict(), tmp_path / "prn.pth")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        own = create_model(LITE, prn_nodes=3)
    torch.save(own.state_dict(), tmp_path / "own.pth")
    method = build_method(LITE, tmp_path / "own.pth", parts={"prn": tmp_path / "prn.pth"})
    crops = sparse_crops(2)
    with torch.inference_mode():
        assert_same(method.model.prn.eval()(crops), prn(crops.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert_close(method.model.backbone.state_dict(), own.backbone.state_dict(), atol=0, rtol=0)
    assert method.options["prn_blur"] == "legacy"
    with pytest.raises(ValueError, match=r"prn\.pth.* missing keys .*backbone\.conv1\.weight"):
        build_method(LITE, parts={"backbone": tmp_path / "prn.pth"})
    with pytest.raises(ValueError, match=r"no part torso; its parts are backbone, "):
        build_method(LITE, parts={"torso": tmp_path / "prn.pth"})


# --- decoding as published


def random_people(seed: int, count: int) -> tuple[list[list[tuple[int, int]]], list[tuple[float, ...]]]:
    """Overlapping boxes (x, y, w, h) and integer peaks of every keypoint, in and around them."""
    generator = np.random.default_rng(seed)
    boxes = []
    for _ in range(count):
        x, y, width, height = generator.uniform((0, 0, 40, 60), (120, 80, 150, 220)).astype(np.float32).tolist()
        boxes.append((x, y, width, height))
    peaks = []
    for _ in range(COCO_PERSON.num_keypoints):
        points = generator.integers((-10, -10), (300, 320), size=(generator.integers(1, 3 * count + 1), 2)).tolist()
        peaks.append([tuple(point) for point in points])
    return peaks, boxes


def as_peaks(peaks: list[list[tuple[int, int]]]) -> Peaks:
    most = max(1, *map(len, peaks))
    xy, valid = torch.zeros(1, len(peaks), most, 2), torch.zeros(1, len(peaks), most, dtype=torch.bool)
    for keypoint, points in enumerate(peaks):
        for slot, point in enumerate(points):
            xy[0, keypoint, slot], valid[0, keypoint, slot] = torch.tensor(point, dtype=torch.float32), True
    return Peaks(xy, valid.float() * 0.5, valid)


def as_detections(boxes: list[tuple[float, ...]]) -> Detections:
    corners = torch.tensor([[x, y, x + width, y + height] for x, y, width, height in boxes])[None]
    return Detections(corners, torch.full(corners.shape[:2], 0.9), torch.ones(corners.shape[:2], dtype=torch.bool))


def test_what_the_residual_network_sees_is_what_it_was_trained_on(legacy):
    grid = legacy.decoder.grouping.grid
    for seed in range(3):
        peaks, boxes = random_people(seed, 4)
        # Beyond two edges at a corner, in one cell, at the very border, and just too far away.
        x, y, width, height = boxes[0]
        peaks[0] += [(int(x + 1.1 * width), int(y - 0.1 * height)), (int(x - 0.1 * width), int(y + 1.1 * height))]
        peaks[1] += [(int(x + 9), int(y + 9)), (int(x + 9), int(y + 9)), (int(x), int(y)), (int(x - 0.3 * width), 0)]
        theirs = np.stack([published.draw_crop(peaks, box)[0] for box in boxes])
        points, corners = as_peaks(peaks), as_detections(boxes).boxes[0]
        near = points.valid & grid.near(points.xy, corners[:, None, None])
        cells = grid.cells(points.xy, corners[:, None, None])
        row, keypoint, _ = near.nonzero(as_tuple=True)
        ours = grid.draw(cells[near], row, keypoint, len(boxes), len(peaks))
        assert_close(ours, torch.from_numpy(theirs).permute(0, 3, 1, 2).float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("nobodys", [None, 5], ids=["every keypoint seen", "a keypoint of nobody"])
def test_people_are_made_of_the_same_keypoints_as_by_the_published_code(legacy, prn, nobodys):
    shared = 0
    for seed in range(4):
        peaks, boxes = random_people(10 + seed, 5)
        for keypoint, (x, y, *_) in enumerate(boxes[:5] * 4):
            if keypoint < len(peaks):
                peaks[keypoint].append((int(x) + 5 + keypoint, int(y) + 9))
        peaks[3] += [(int(boxes[1][0]) + 20, int(boxes[1][1]) + 30)] * 2  # two peaks in one cell
        if nobodys is not None:
            peaks[nobodys] = [(5000, 5000)]
        theirs = torch.from_numpy(published.find_people(peaks, boxes, prn))
        with torch.inference_mode():
            people = legacy.decoder.grouping(as_peaks(peaks), as_detections(boxes))
        found = people.peak_index[0] >= 0
        assert_close(found, theirs[..., 2] > 0)
        assert_close(people.keypoints[0], theirs[..., :2].float(), atol=1e-3, rtol=0)
        assert_close(people.keypoint_scores[0] > 0, found)
        placed = (theirs[..., :2] != 0).any(-1)
        assert bool((placed & ~found).any()) == (nobodys is not None)
        for keypoint in people.peak_index[0].T:
            given = keypoint[keypoint >= 0]
            shared += len(given) - len(given.unique())
    assert shared > 0  # the rule that lets people share a peak was at work


def test_the_last_of_several_peaks_in_a_cell_is_the_one_that_is_given(legacy):
    peaks = as_peaks([[(30, 40), (30, 40), (30, 41)], *([] for _ in range(16))])
    with torch.inference_mode():
        people = legacy.decoder.grouping(peaks, as_detections([(10.0, 10.0, 360.0, 560.0)]))
    assert people.peak_index[0, 0, 0] == 2


def test_boxes_are_those_of_the_published_code(legacy):
    size = (96, 128)
    generator = torch.Generator().manual_seed(0)
    anchors = legacy.decoder.boxes.grid.anchors(size)
    logits = torch.randn(1, len(anchors), generator=generator) * 1.5
    deltas = torch.randn(1, len(anchors), 4, generator=generator) * 3
    deltas[0, :40, 2:] += 25  # far beyond the usual limit of growth
    theirs = published.find_boxes(
        logits[0].sigmoid().numpy(), deltas[0].numpy(), anchors.numpy(), size, threshold=0.5
    )
    theirs = theirs[((theirs[:, 2:] - theirs[:, :2]) > 0).all(1)]  # boxes beyond the picture are nobody here
    found = legacy.decoder.boxes(logits, deltas, size)
    assert len(theirs) > 40
    assert_close(found.boxes[found.valid], torch.from_numpy(theirs), atol=1e-3, rtol=1e-5)


def test_peaks_are_whole_pixels_in_reading_order_as_in_the_published_code(legacy):
    generator = torch.Generator().manual_seed(2)
    heatmaps = torch.rand(2, 17, 12, 16, generator=generator) * 0.5 - 0.1
    heatmaps[0, 3] = -1
    found = legacy.decoder.codec.decode(heatmaps)
    for picture, maps in enumerate(heatmaps):
        for keypoint, points in enumerate(published.find_peaks(maps.numpy())):
            ours = found.xy[picture, keypoint][found.valid[picture, keypoint]]
            assert ours.long().tolist() == [list(point) for point in points]
    assert not found.valid[0, 3].any()


def test_a_map_without_any_peak_and_a_picture_without_boxes_are_normal(legacy):
    anchors = len(legacy.decoder.boxes.grid.anchors((64, 64)))
    nothing = MultiPoseNetOutputs(
        torch.zeros(2, 17, 16, 16), torch.full((2, anchors), -9.0), torch.zeros(2, anchors, 4), (64, 64)
    )
    assert [len(poses) for poses in legacy.decoder(nothing)] == [0, 0]
    somebody = MultiPoseNetOutputs(
        nothing.heatmaps, torch.where(torch.arange(anchors) == 4, 3.0, nothing.box_logits), nothing.box_deltas, (64, 64)
    )
    with torch.inference_mode():
        assert [len(poses) for poses in legacy.decoder(somebody)] == [1, 1]


def test_the_whole_decoding_finds_the_people_that_the_published_code_finds(legacy, prn):
    size = (160, 192)
    generator = torch.Generator().manual_seed(4)
    keypoints = torch.rand(1, 4, 17, 2, generator=generator) * torch.tensor([190.0, 158.0])
    heatmaps = HeatmapCodec().encode(keypoints, torch.ones(1, 4, 17), size)
    heatmaps += 0.01 * torch.randn(heatmaps.shape, generator=generator)
    grid = legacy.decoder.boxes.grid
    anchors = grid.anchors(size)
    logits, deltas = torch.full((1, len(anchors)), -4.0), torch.zeros(1, len(anchors), 4)
    for person, box in enumerate([[5, 8, 90.5, 150], [60, 3, 150.2, 155.7], [100, 20, 190, 159], [9, 10, 92, 148]]):
        chosen = 31 * person + 7
        logits[0, chosen] = 2.0 - 0.3 * person
        deltas[0, chosen] = grid.encode(torch.tensor(box, dtype=torch.float32), anchors[chosen])
    with torch.inference_mode():
        (poses,) = legacy.decoder(MultiPoseNetOutputs(heatmaps, logits, deltas, size))

    boxes = published.find_boxes(logits[0].sigmoid().numpy(), deltas[0].numpy(), anchors.numpy(), size, threshold=0.5)
    sides = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes.astype(np.float64).tolist()]
    theirs = published.find_people(published.find_peaks(heatmaps[0].numpy()), sides, prn)
    assert len(poses) == len(boxes) == 3
    order, their_order = poses.boxes[:, 0].argsort(), boxes[:, 0].argsort()
    assert_close(poses.boxes[order], torch.from_numpy(boxes[their_order]), atol=1e-3, rtol=0)
    assert_close(poses.keypoints[order], torch.from_numpy(theirs[their_order, :, :2]).float(), atol=1e-3, rtol=0)
    assert theirs[..., 2].sum() > 20


def test_scores_are_relative_to_what_a_softmax_over_everything_can_give():
    usual, all_together = (build_method(LITE, prn_nodes=2, prn_softmax=s).decoder.grouping for s in ("keypoint", "all"))
    assert usual.full_score == 1.0
    assert all_together.full_score == pytest.approx(1 / 17)


@pytest.mark.parametrize("option", ["anchors", "box_rule", "peak_rule", "prn_rule", "prn_blur", "prn_placement"])
def test_an_unknown_rule_is_an_error_that_lists_those_there_are(option):
    with pytest.raises(ValueError, match=r"must be one of .*legacy|must be one of centred, torchvision"):
        build_method(LITE, prn_nodes=2, **{option: "newest"})


# --- torchvision


@pytest.fixture(scope="module")
def retinanet() -> nn.Module:
    built = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    return published.randomised(built, seed=1)


def test_torchvision_s_retinanet_answers_as_before_for_people(retinanet, tmp_path):
    torch.save(retinanet.state_dict(), tmp_path / "retinanet.pth")
    with pytest.warns(UserWarning, match="random weights in keypoint_pyramid, keypoint_subnet, prn"):
        method = build_method("multiposenet_resnet50", tmp_path / "retinanet.pth", prn_nodes=2, channels=256)
    pictures = images(160, 224)  # strides of the upper levels are uneven here
    with torch.inference_mode():
        outputs, _ = method.model.eval()(pictures, tasks=("detection",))
        features = list(retinanet.backbone((pictures - MEAN) / STD).values())
        answers = retinanet.head(features)
        anchors = retinanet.anchor_generator(ImageList(pictures, [(160, 224)]), features)[0]
    assert_same(outputs.box_logits, answers["cls_logits"][..., 1])
    grid = method.decoder.boxes.grid
    assert_close(grid.anchors((160, 224)), anchors)
    theirs = retinanet.box_coder.decode_single(answers["bbox_regression"][0], anchors)
    assert_close(grid.decode(outputs.box_deltas[0], grid.anchors((160, 224))), theirs, atol=1e-2, rtol=1e-4)


def test_the_old_names_of_torchvision_s_published_file_are_understood(retinanet):
    old = {}
    for key, value in retinanet.state_dict().items():
        words = key.split(".")
        if "conv" in words and words[0] == "head":
            words[3:5] = [str(2 * int(words[3]))]
        elif words[1] == "fpn" and words[2] in ("inner_blocks", "layer_blocks"):
            del words[4]
        old[".".join(words)] = value
    assert "head.regression_head.conv.6.bias" in old
    assert "backbone.fpn.inner_blocks.2.weight" in old
    tensors, _ = importers.translate(old, "file")
    assert_close(tensors, importers.translate(retinanet.state_dict(), "file")[0], atol=0, rtol=0)


def normalised(tensors: dict[str, torch.Tensor], name: str, features: torch.Tensor) -> torch.Tensor:
    """What our batch normalisation with these weights makes of features [N, C, h, w]."""
    layer = nn.BatchNorm2d(features.shape[1]).eval()
    kinds = ("weight", "bias", "running_mean", "running_var")
    layer.load_state_dict({kind: tensors[f"{name}.{kind}"].float() for kind in kinds}, strict=False)
    return layer(features).detach()


@pytest.mark.parametrize("variance", [2.0, 1e-4, 1e-6, 1e-8, 1e-13])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["single", "half"])
def test_frozen_batch_normalisation_counts_without_epsilon_as_torchvision_s_published_weights_do(variance, dtype):
    generator = torch.Generator().manual_seed(0)
    theirs = FrozenBatchNorm2d(8, eps=0.0)
    theirs.weight.uniform_(0.5, 1, generator=generator)
    theirs.bias.normal_(generator=generator)
    theirs.running_var.fill_(variance)
    tensors = with_epsilon({f"bn1.{kind}": value for kind, value in theirs.state_dict().items()})
    stored = {name: value.to(dtype) for name, value in tensors.items()}
    features = torch.randn(2, 8, 4, 4, generator=generator) * variance**0.5
    accuracy = 1e-5 if dtype == torch.float32 else 5e-3
    assert_close(normalised(stored, "bn1", features), theirs(features), atol=accuracy, rtol=accuracy)


def test_channels_of_a_detector_that_have_died_answer_their_bias_in_single_and_in_half_precision(retinanet, tmp_path):
    counted = retinanet.state_dict()
    frozen = {key: value.clone() for key, value in counted.items() if not key.endswith("num_batches_tracked")}
    theirs, ours = "backbone.body.layer2.0.bn1", "backbone.layer2.0.bn1"
    frozen[f"{theirs}.running_var"][:4] = torch.tensor([1e-8, 1e-13, 5.6e-45, 0.0])  # the third as in published files
    frozen[f"{theirs}.running_mean"][:4] = 0.0
    torch.save(frozen, tmp_path / "dead.pth")
    convert_weights(tmp_path / "dead.pth", tmp_path / "half.safetensors", half=True)
    for file in ("dead.pth", "half.safetensors"):
        tensors, _ = importers.read_weights(tmp_path / file)
        answers = normalised(tensors, ours, torch.zeros(1, 128, 1, 1))[0, :, 0, 0]
        assert_close(answers[:4], tensors[f"{ours}.bias"][:4])
        assert bool(answers.isfinite().all())
    unchanged, _ = importers.translate(counted, "file")
    for kind in ("weight", "running_var"):
        assert_close(unchanged[f"{ours}.{kind}"], counted[f"{theirs}.{kind}"], atol=0, rtol=0)


def test_a_retinanet_of_other_categories_is_an_error_that_names_the_classifier(retinanet):
    tensors = dict(retinanet.state_dict())
    tensors["head.classification_head.cls_logits.weight"] = torch.zeros(9 * 5, 256, 3, 3)
    with pytest.raises(ValueError, match=r"cls_logits\.weight: file \[45, 256, 3, 3\], model \[819, 256, 3, 3\]"):
        importers.translate(tensors, "file")


def test_an_imagenet_resnet_is_the_backbone_of_a_model_on_it(tmp_path):
    resnet = torchvision.models.resnet18()
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    with pytest.warns(UserWarning, match="holds only backbone"):
        ours = create_model("multiposenet_resnet18", weights=tmp_path / "resnet18.pth", prn_nodes=2)
    assert_close(ours.backbone.layer3[1].conv2.weight, resnet.layer3[1].conv2.weight, atol=0, rtol=0)
    with pytest.raises(ValueError, match=r"resnet18\.pth does not fit this model\. missing keys .*backbone\.layer"):
        create_model("multiposenet_resnet50", weights=tmp_path / "resnet18.pth", prn_nodes=2)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_every_resnet_that_is_a_backbone_is_recognised_by_its_blocks(name):
    with torch.device("meta"):
        tensors, facts = importers.translate(getattr(torchvision.models, name)().state_dict(), "file")
    assert facts["parts"] == ["backbone"]
    assert "backbone.layer4.1.bn2.bias" in tensors


def test_a_deeper_resnet_is_an_error_that_lists_the_known_ones():
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match="36 bottleneck blocks in its third stage; known are resnet18"),
    ):
        importers.translate(torchvision.models.resnet152().state_dict(), "file")


# --- files


def test_tensors_of_nobody_known_come_as_they_are():
    tensors = {"some.weight": torch.ones(2)}
    assert importers.translate(tensors, "file") == (tensors, {})
    assert list(importers.translate({"module.some.weight": torch.ones(2)}, "file")[0]) == ["some.weight"]


def test_a_state_dict_of_ours_with_the_wrapper_s_prefix_loads(tmp_path):
    own = create_model(LITE, prn_nodes=2)
    torch.save({f"module.{key}": value for key, value in own.state_dict().items()}, tmp_path / "own.pth")
    again = create_model(LITE, weights=tmp_path / "own.pth", prn_nodes=2)
    assert_close(again.state_dict(), own.state_dict(), atol=0, rtol=0)


def test_an_hdf5_file_comes_back_as_the_tensors_that_went_in(tmp_path):
    tensors = {"a.weight": torch.randn(3, 4), "half": torch.ones(2).half(), "count": torch.tensor(70_001)}
    write_h5(tensors, tmp_path / "weights.bin")
    read, metadata = load_tensors(tmp_path / "weights.bin")
    assert metadata == {}
    assert_close(read, tensors | {"half": torch.ones(2)}, atol=0, rtol=0)


def test_an_hdf5_file_of_anything_else_is_an_error_that_names_what_is_in_it(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        file.create_dataset("layers/first/kernel", data=np.zeros(2))
    with pytest.raises(ValueError, match=r"groups\.h5: expected tensors only, got 'layers'"):
        load_tensors(tmp_path / "groups.h5")
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file.create_dataset("note", data="words")
    with pytest.raises(ValueError, match=r"text\.h5: expected tensors only, got 'note'"):
        load_tensors(tmp_path / "text.h5")


def test_a_damaged_hdf5_file_is_an_error_that_names_it(tmp_path):
    write_h5({"a.weight": torch.randn(300, 40)}, tmp_path / "cut.h5")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "cut.h5").read_bytes()[:900])
    with pytest.raises(ValueError, match=r"cut\.h5: damaged HDF5"):
        load_tensors(tmp_path / "cut.h5")


def test_without_h5py_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n rest")
    with pytest.raises(ImportError, match=r"weights\.h5 is an HDF5 file, .* pip install 'multiposenet\[h5\]'"):
        load_tensors(tmp_path / "weights.h5")
