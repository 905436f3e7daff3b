"""Looking at people once more: the maps' geometry, the network, its loss, and what becomes of keypoints that differ."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from multiposenet.checkpoint import save_weights
from multiposenet.decode.grouping import GroupedPeople
from multiposenet.decode.refinement import Refinement
from multiposenet.decode.views import View
from multiposenet.geometry import flip_boxes, flip_keypoints
from multiposenet.losses import RefinerLoss
from multiposenet.methods import PoseMethod, build_method
from multiposenet.models.fusion import fuse_batch_norm
from multiposenet.models.pose_refiner import STRIDES, PoseRefiner
from multiposenet.person_maps import PersonMapCodec
from multiposenet.predictor import PosePredictor
from multiposenet.skeletons import Skeleton
from multiposenet.structures import Detections, MultiPoseNetOutputs, Peaks, PoseTargets

DOLL = Skeleton("doll", ("head", "left_hand", "right_hand"), flip_pairs=((1, 2),))
CODEC = PersonMapCodec()
HEIGHT, WIDTH = CODEC.size
STAGES = (3, 5, 6, 7)
SIZE = (192, 256)
BOXES = torch.tensor([[20.0, 30.0, 80.0, 170.0], [100.0, 90.0, 220.0, 150.0]])
KEYPOINTS = torch.tensor([[[51.3, 42.8], [72.1, 95.4], [28.7, 90.2]], [[110.2, 110.7], [161.5, 100.3], [204.9, 132.6]]])


def logits_of(keypoints: Tensor, frames: Tensor, codec: PersonMapCodec = CODEC) -> Tensor:
    """What a perfect network answers for keypoints [R, K, 2] of the pictures' pixels."""
    return codec.encode(keypoints, frames)[0].clamp(min=1e-12).log()


def outputs_of(channels: int = 4, merged: int = 5, num_maps: int = 4, pictures: int = 2) -> MultiPoseNetOutputs:
    generator = torch.Generator().manual_seed(0)

    def maps(count: int, stride: int) -> Tensor:
        return torch.rand(pictures, count, SIZE[0] // stride, SIZE[1] // stride, generator=generator)

    stages = tuple(maps(width, stride) for width, stride in zip(STAGES, STRIDES, strict=True))
    pyramid = tuple(maps(channels, stride) for stride in STRIDES)
    return MultiPoseNetOutputs(maps(num_maps, 4), None, None, SIZE, maps(merged, 4), stages, pyramid)


def network(**options) -> PoseRefiner:
    torch.manual_seed(0)
    return PoseRefiner(3, STAGES, 4, 5, 4, **options).eval()


# --- geometry


def test_a_frame_holds_the_box_with_its_margin_and_has_square_cells():
    frames = CODEC.frames(BOXES)
    sides = frames[:, 2:] - frames[:, :2]
    assert_close(sides[:, 0] / WIDTH, sides[:, 1] / HEIGHT)
    assert_close((frames[:, 2:] + frames[:, :2]) / 2, (BOXES[:, 2:] + BOXES[:, :2]) / 2)
    # The upright person's height decides, the lying one's width.
    assert_close(torch.stack([sides[0, 1], sides[1, 0]]), torch.tensor([1.25 * 140, 1.25 * 120]))


def test_a_box_without_area_has_a_frame_that_numbers_survive():
    frames = CODEC.frames(torch.tensor([[7.0, 7.0, 7.0, 7.0]]))
    keypoints, chances = CODEC.decode(CODEC.chances(torch.zeros(1, 3, *CODEC.size)), frames)
    assert keypoints.isfinite().all()
    assert chances.isfinite().all()


def test_what_is_encoded_is_decoded_to_a_twentieth_of_a_cell():
    generator = torch.Generator().manual_seed(0)
    frames = CODEC.frames(BOXES)
    shares = 0.05 + 0.9 * torch.rand(2, 100, 2, generator=generator)
    keypoints = shares * (frames[:, 2:] - frames[:, :2])[:, None] + frames[:, None, :2] - 0.5
    labels, inside = CODEC.encode(keypoints, frames)
    found, chances = CODEC.decode(CODEC.chances(labels.clamp(min=1e-12).log()), frames)
    cell = ((frames[:, 2] - frames[:, 0]) / WIDTH)[:, None, None]
    assert inside.all()
    assert_close(labels.sum((-2, -1)), torch.ones(2, 100))
    assert float(((found - keypoints) / cell).abs().max()) < 0.05
    assert float(chances.min()) > 0.9


def test_keypoints_outside_their_map_are_told():
    frames = CODEC.frames(BOXES[:1])
    _, inside = CODEC.encode(torch.tensor([[[50.0, 100.0], [50.0, 250.0], [-40.0, 100.0]]]), frames)
    assert inside.tolist() == [[True, False, False]]


def test_nobody_has_no_maps():
    nobody = torch.zeros(0, 4)
    keypoints, chances = CODEC.decode(CODEC.chances(torch.zeros(0, 3, *CODEC.size)), CODEC.frames(nobody))
    assert keypoints.shape == (0, 3, 2)
    assert chances.shape == (0, 3)


# --- network


@pytest.mark.parametrize(("level", "shrink"), [(0, 2), (1, 4), (2, 4), (3, 8)])
def test_features_are_read_where_the_person_is(level: int, shrink: int):
    """Features that say where they are: in the middle of every cell of the frame they must say that cell's middle."""
    stride = STRIDES[level]
    y, x = (torch.arange(side // stride) * stride + stride / 2 for side in (768, 1024))
    where = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]
    frames = CODEC.frames(torch.tensor([[300.0, 250.0, 400.0, 500.0]]))
    (read,) = network()._pool([where], (torch.zeros(1, dtype=torch.long), frames), level, shrink)[0]
    height, width = HEIGHT // shrink, WIDTH // shrink
    sides = frames[0, 2:] - frames[0, :2]
    assert read.shape == (2, height, width)
    assert_close(read[0, 0], frames[0, 0] + (torch.arange(width) + 0.5) / width * sides[0], atol=0.01, rtol=0)
    assert_close(read[1, :, 0], frames[0, 1] + (torch.arange(height) + 0.5) / height * sides[1], atol=0.01, rtol=0)


def test_an_answer_depends_on_nobody_else_and_on_the_person_s_own_picture():
    refiner, outputs, frames = network(), outputs_of(), CODEC.frames(BOXES)
    both = refiner(outputs, torch.tensor([1, 0]), frames)
    assert both.shape == (2, 3, *CODEC.size)
    assert_close(refiner(outputs, torch.tensor([0]), frames[1:])[0], both[1])
    assert not torch.allclose(refiner(outputs, torch.tensor([1]), frames[1:])[0], both[1])


@pytest.mark.parametrize("level", [0, 1])
def test_a_stage_of_the_backbone_is_heard_once_that_is_learnt(level: int):
    refiner, outputs, frames = network(), outputs_of(), CODEC.frames(BOXES)
    stages = [1 - stage if number == 2 + level else stage for number, stage in enumerate(outputs.stages)]
    pair = (outputs, dataclasses.replace(outputs, stages=tuple(stages)))
    before, other = (refiner(shown, torch.tensor([0, 1]), frames) for shown in pair)
    assert torch.equal(before, other)
    torch.nn.init.normal_(refiner.context[level].weight)
    heard, other = (refiner(shown, torch.tensor([0, 1]), frames) for shown in pair)
    assert not torch.allclose(heard, other)
    assert not torch.allclose(heard, before)


def test_nobody_is_no_answer():
    assert network()(outputs_of(), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4)).shape == (0, 3, *CODEC.size)


def test_folded_batch_normalisation_changes_nothing():
    refiner, outputs, frames = network(), outputs_of(), CODEC.frames(BOXES)
    before = refiner(outputs, torch.tensor([0, 1]), frames)
    folded = fuse_batch_norm(refiner)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    assert_close(folded(outputs, torch.tensor([0, 1]), frames), before, atol=1e-5, rtol=1e-5)


def test_a_size_that_its_levels_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"multiples of 8, got \(60, 40\)"):
        network(size=(60, 40))


# --- loss


def targets_of(valid: bool = True, visibility: int = 2) -> PoseTargets:
    return PoseTargets(
        keypoints=KEYPOINTS[None].clone(),
        visibility=torch.full((1, 2, 3), visibility, dtype=torch.uint8),
        boxes=BOXES[None],
        valid=torch.full((1, 2), valid),
        person_mask=torch.zeros(1, 48, 64),
        ignore_mask=torch.zeros(1, 48, 64, dtype=torch.bool),
    )


def test_the_perfect_answer_costs_what_the_labels_leave_open():
    loss = RefinerLoss(CODEC, weight=1.0, box_noise=0.0)
    frames = CODEC.frames(BOXES)
    labels = CODEC.encode(KEYPOINTS, frames)[0]
    entropy = -(labels * labels.clamp(min=1e-12).log()).sum((-2, -1)).mean()
    assert_close(loss(lambda *asked: logits_of(KEYPOINTS, frames), None, targets_of())["refiner"], entropy)
    worse = loss(lambda *asked: logits_of(KEYPOINTS + 5, frames), None, targets_of())["refiner"]
    assert float(worse) > float(entropy) + 1


def test_only_labelled_keypoints_in_their_maps_teach():
    targets = targets_of()
    targets.visibility[0, 0, 1] = 0
    targets.keypoints[0, 1, 2] = 1000.0
    asked = logits_of(KEYPOINTS, CODEC.frames(BOXES)).requires_grad_()
    RefinerLoss(CODEC, box_noise=0.0)(lambda *_: asked, None, targets)["refiner"].backward()
    taught = asked.grad.abs().sum((-2, -1)) > 0
    assert taught.tolist() == [[True, False, True], [True, True, False]]


@pytest.mark.parametrize("targets", [targets_of(valid=False), targets_of(visibility=0)], ids=["crowds", "unlabelled"])
def test_a_batch_without_anybody_to_learn_from_teaches_nothing_but_reaches_every_weight(targets):
    refiner = network().train()
    loss = RefinerLoss(CODEC)(refiner, outputs_of(pictures=1), targets)["refiner"]
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in refiner.parameters())


# --- decoding


def people_of(keypoints: Tensor, seen: Tensor) -> tuple[GroupedPeople, Detections]:
    """One picture with two people, in slots 0 and 2 of 3."""
    at = torch.tensor([0, 2])
    places, index, boxes = torch.zeros(1, 3, 3, 2), torch.full((1, 3, 3), -1), torch.zeros(1, 3, 4)
    scores, valid = torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.bool)
    places[0, at], boxes[0, at], valid[0, at] = keypoints, BOXES, True
    index[0, at] = torch.where(seen, 0, -1)
    scores[0, at] = torch.where(seen, 0.5, 0.05)
    return GroupedPeople(places, scores, index, valid * 0.7), Detections(boxes, valid * 0.8, valid)


def perfect(keypoints: Tensor) -> Refinement:
    """Knows the keypoints of both people, in the first view's pixels, whichever view it is shown."""

    def look(outputs: MultiPoseNetOutputs, picture: Tensor, frames: Tensor) -> Tensor:
        height, width = outputs.image_size
        assert picture.tolist() == [0, 0]
        shown = (keypoints + 0.5) * (height / SIZE[0]) - 0.5
        if outputs.heatmaps is not None:  # stands for "mirrored"
            shown = flip_keypoints(shown, width)[:, DOLL.flip_indices]
        return logits_of(shown, frames)

    return Refinement(look, CODEC, DOLL)


def refine(keypoints: Tensor, people: GroupedPeople, detections: Detections, *views: View) -> GroupedPeople:
    refinement = perfect(keypoints)
    return refinement.join(people, refinement.look(detections, views))


def view_of(zoom: float = 1.0, mirrored: bool = False) -> View:
    size = tuple(int(side * zoom) for side in SIZE)
    heatmaps = torch.zeros(1, 4, 2, 2) if mirrored else None
    return View(MultiPoseNetOutputs(heatmaps, None, None, size), zoom, mirrored)


def test_places_that_agree_meet_on_the_way_and_what_nobody_else_believes_gives_way():
    given = KEYPOINTS.clone()
    given[0, 0] += 2.0  # less than a cell
    given[0, 1] += 40.0  # a peak that the maps do not know
    given[1, 2] += 40.0  # a guess
    seen = torch.tensor([[True, True, True], [True, True, False]])
    people, detections = people_of(given, seen)
    refined = refine(KEYPOINTS, people, detections, view_of())
    wanted = KEYPOINTS.clone()
    wanted[0, 0] += 2.0 * (1 - Refinement.pull)
    assert_close(refined.keypoints[0, [0, 2]], wanted, atol=0.1, rtol=0)
    moved = ~seen
    moved[0, 1] = True
    assert_close(refined.keypoint_scores[0, [0, 2]][~moved], torch.full((4,), 0.5))
    assert refined.keypoint_scores[0, [0, 2]][moved].min() > 0.9
    assert not refined.keypoints[0, 1].any()  # an empty slot
    assert_close(refined.scores, people.scores)


def test_peaks_that_are_known_to_be_right_are_left_where_they_are_and_guesses_still_give_way():
    seen = torch.tensor([[True, True, True], [True, True, False]])
    people, detections = people_of(KEYPOINTS + 3, seen)
    refinement = perfect(KEYPOINTS).leaving_peaks()
    refined = refinement.join(people, refinement.look(detections, [view_of()])).keypoints[0, [0, 2]]
    assert_close(refined[seen], KEYPOINTS[seen] + 3)
    assert_close(refined[~seen], KEYPOINTS[~seen], atol=0.1, rtol=0)


@pytest.mark.parametrize(("share", "stays"), [(0.5, True), (0.3, False)])
def test_a_peak_elsewhere_stays_when_the_maps_find_it_possible(share: float, stays: bool):
    """Maps with two spots: the peak is at the one that holds ``share`` times as much as the other."""
    people, detections = people_of(KEYPOINTS, torch.ones(2, 3, dtype=torch.bool))
    frames = CODEC.frames(BOXES)
    other = torch.lerp(KEYPOINTS, (frames[:, None, :2] + frames[:, None, 2:]) / 2, 0.5) + torch.tensor([0.0, 25.0])
    labels = CODEC.encode(other, frames)[0] + share * CODEC.encode(KEYPOINTS, frames)[0]
    refinement = Refinement(lambda *asked: labels.clamp(min=1e-12).log(), CODEC, DOLL)
    refined = refinement.join(people, refinement.look(detections, [view_of()]))
    assert_close(refined.keypoints[0, [0, 2]], KEYPOINTS if stays else other, atol=0.2, rtol=0)


@pytest.mark.parametrize(
    "views",
    [
        [view_of(mirrored=True)],
        [view_of(), view_of(mirrored=True)],
        [view_of(), view_of(0.5), view_of(0.5, mirrored=True), view_of(2.0)],
    ],
    ids=["mirrored", "both", "scales"],
)
def test_every_view_is_asked_about_the_same_people(views):
    people, detections = people_of(KEYPOINTS + 30, torch.zeros(2, 3, dtype=torch.bool))
    refined = refine(KEYPOINTS, people, detections, *views)
    assert_close(refined.keypoints[0, [0, 2]], KEYPOINTS, atol=0.4, rtol=0)  # a tenth of a cell


def test_a_mirrored_frame_is_the_frame_of_the_mirrored_box():
    assert_close(CODEC.frames(flip_boxes(BOXES, 256)), flip_boxes(CODEC.frames(BOXES), 256))


def test_a_picture_without_people_stays_as_it_is():
    nobody = Detections(torch.zeros(1, 3, 4), torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool))
    people, _ = people_of(KEYPOINTS, torch.ones(2, 3, dtype=torch.bool))
    refinement = Refinement(network(), CODEC, DOLL)
    looks = refinement.look(nobody, [View(outputs_of(pictures=1))])
    assert looks.chances.cells.shape == (0, 3, *CODEC.size)
    assert_close(refinement.join(people, looks).keypoints, people.keypoints)


def test_every_peak_is_seen_by_the_boxes_whose_own_maps_hold_something_there():
    """Peaks at both people's keypoints: each person sees the own ones, and nobody sees through an empty slot."""
    _, detections = people_of(KEYPOINTS, torch.ones(2, 3, dtype=torch.bool))
    xy = torch.stack([KEYPOINTS[0], KEYPOINTS[1], torch.full((3, 2), 1e4)], dim=1)[None]  # [1, K, M, 2]
    valid = torch.tensor([[[True, True, True], [True, True, True], [True, False, True]]])
    refinement = perfect(KEYPOINTS)
    looks = refinement.look(detections, [view_of()])
    seen_by = refinement.chances_at(Peaks(xy, valid.float(), valid), looks, detections)
    wanted = torch.zeros(1, 3, 3, 3)
    wanted[0, :, 0, 0] = wanted[0, :, 1, 2] = 1
    wanted[0, 2, 1, 2] = 0  # no peak there
    assert_close(seen_by, wanted, atol=0.1, rtol=0)


# --- method


@pytest.fixture(scope="module")
def refined() -> PoseMethod:
    torch.manual_seed(0)
    return build_method("multiposenet_lite", refiner=True)


def test_the_lite_network_has_at_most_four_million_parameters_with_its_refiner(refined):
    count = sum(parameter.numel() for parameter in refined.model.parameters())
    assert sum(parameter.numel() for parameter in refined.model.refiner.parameters()) == 577_396
    assert count <= 4_000_000


def test_the_refiner_s_own_loss_reaches_it_and_the_features_below_but_not_the_last_maps(refined):
    model = refined.model.train()
    targets = PoseTargets(
        keypoints=torch.full((1, 1, 17, 2), 40.0),
        visibility=torch.full((1, 1, 17), 2, dtype=torch.uint8),
        boxes=torch.tensor([[[8.0, 8.0, 60.0, 90.0]]]),
        valid=torch.ones(1, 1, dtype=torch.bool),
        person_mask=torch.zeros(1, 24, 24),
        ignore_mask=torch.zeros(1, 24, 24, dtype=torch.bool),
    )
    model.zero_grad()
    model(torch.rand(1, 3, 96, 96), targets)[1]["refiner"].backward()
    reached = {name.split(".")[0] for name, weights in model.named_parameters() if weights.grad is not None}
    assert reached == {"backbone", "keypoint_pyramid", "keypoint_subnet", "refiner"}
    assert model.keypoint_subnet.predict.weight.grad is None


def test_weights_bring_the_refiner_with_them_and_weights_without_one_can_be_given_it(refined, tmp_path):
    file, plain = tmp_path / "refined.safetensors", tmp_path / "plain.safetensors"
    save_weights(refined.model, file, refined.facts)
    again = build_method(weights=file)
    assert again.options["refiner"]
    assert again.decoder.refinement.network is again.model.refiner
    assert_close(again.model.state_dict(), refined.model.state_dict())

    without = build_method("multiposenet_lite", refiner=False)
    save_weights(without.model, plain, without.facts)
    assert build_method(weights=plain).model.refiner is None
    with pytest.warns(UserWarning, match="random weights in refiner"):
        given = build_method(weights=plain, refiner=True)
    assert_close(given.model.backbone.state_dict(), without.model.backbone.state_dict())
    taken = build_method(weights=plain, parts={"refiner": file})
    assert_close(taken.model.refiner.state_dict(), refined.model.refiner.state_dict())


def test_weights_that_lack_the_refiner_they_speak_of_are_refused(refined, tmp_path):
    file = tmp_path / "torn.safetensors"
    facts = refined.facts
    save_weights(build_method("multiposenet_lite", refiner=False).model, file, facts)
    with pytest.raises(ValueError, match=r"torn.safetensors does not fit this model. missing keys .*refiner"):
        build_method(weights=file)


def test_pictures_go_through_the_whole_chain_alone_and_together(refined):
    predictor = PosePredictor(refined, "cpu", 96, box_threshold=0.0, max_people=3)
    generator = torch.Generator().manual_seed(0)
    pictures = [
        torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy()
        for height, width in ((96, 64), (60, 90))
    ]
    together = predictor(pictures)
    for picture, poses in zip(pictures, together, strict=True):
        (alone,) = predictor([picture])
        assert len(alone) == 3
        assert_close(alone.keypoints, poses.keypoints, atol=1e-2, rtol=1e-3)
    boxes = torch.tensor([[10.0, 10.0, 50.0, 90.0]])
    (given,) = predictor([pictures[0]], boxes=[boxes.numpy()])
    assert_close(given.boxes, boxes, atol=1e-3, rtol=0)
