"""The set assignment and the baselines beside it: candidates and answers."""

from __future__ import annotations

import dataclasses
import math
import runpy
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from multiposenet.candidates import collect_candidates
from multiposenet.checkpoint import load_tensors, save_weights
from multiposenet.decode.grouping import Grouping
from multiposenet.decode.scorers import SetAssignmentScorer
from multiposenet.groupings import GROUPINGS, build_grouping, list_groupings, make_grouping, with_assignment
from multiposenet.methods import build_method
from multiposenet.models.set_assignment import SetAssignment
from multiposenet.prior import GaussianPrior
from multiposenet.skeletons import COCO_PERSON, Skeleton
from multiposenet.structures import Detections, Peaks

ROOT = Path(__file__).resolve().parents[1]
FIVE = Skeleton("five", ("head", "left_hand", "right_hand", "left_foot", "right_foot"), ((1, 2), (3, 4)))
SMALL = {"pose_residual": {"nodes": 8, "crop": (14, 9)}, "set_assignment": {"width": 16, "layers": 2}}


def scene(pictures: int = 2, people: int = 4, peaks: int = 5, skeleton: Skeleton = FIVE) -> tuple[Peaks, Detections]:
    """Overlapping boxes, random peaks, some slots empty."""
    generator = torch.Generator().manual_seed(pictures + 10 * people + 100 * peaks)
    corner = torch.rand(pictures, people, 2, generator=generator) * 80
    sides = 40 + torch.rand(pictures, people, 2, generator=generator) * 60
    there = torch.rand(pictures, people, generator=generator) < 0.8
    found = torch.rand(pictures, skeleton.num_keypoints, peaks, generator=generator) < 0.8
    xy = torch.rand(pictures, skeleton.num_keypoints, peaks, 2, generator=generator) * 160
    peak_scores = torch.rand(found.shape, generator=generator).clamp(min=0.1) * found
    box_scores = torch.rand(there.shape, generator=generator) * there
    boxes = torch.cat([corner, corner + sides], -1)
    return Peaks(xy, peak_scores, found), Detections(boxes, box_scores, there)


def trained(skeleton: Skeleton = FIVE, **options) -> SetAssignment:
    """A network with random weights of a size that makes it differ from its prior."""
    torch.manual_seed(0)
    network = SetAssignment(skeleton.num_keypoints, **{"width": 16, "layers": 3} | options).eval()
    for parameter in network.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return network


def grouping_of(name: str, skeleton: Skeleton = FIVE):
    torch.manual_seed(0)
    network, grouping = make_grouping(name, skeleton, **SMALL.get(name, {}))
    network.eval()
    return grouping


@torch.no_grad()
def group(grouping, peaks: Peaks, detections: Detections):
    return grouping(peaks, detections)


# --- the prior


def test_a_prior_learns_where_keypoints_lie_in_their_boxes():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[10.0, 20.0, 60.0, 220.0]]).repeat(4000, 1)
    spread = torch.tensor([[0.02, 0.0], [0.03, 0.04]])
    shares = torch.tensor([0.5, 0.1]) + torch.randn(4000, 1, 2, generator=generator) @ spread.T
    points = shares * torch.tensor([50.0, 200.0]) + torch.tensor([10.0, 20.0]) - 0.5
    prior = GaussianPrior(1).fit(points, torch.ones(4000, 1), boxes)
    assert_close(prior.mean[0], torch.tensor([0.5, 0.1]), atol=5e-3, rtol=0)
    assert_close(prior.covariance[0] - 0.02**2 * torch.eye(2), spread @ spread.T, atol=2e-4, rtol=0)
    standard = prior.standardise(shares.view(1, 4000, 2))
    assert standard.square().sum(-1).mean() < 2.01


def test_a_keypoint_that_nobody_labelled_keeps_a_broad_prior():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(5, 1)
    prior = GaussianPrior(2).fit(torch.full((5, 2, 2), 2.0), torch.tensor([[1, 0]]).repeat(5, 1), boxes)
    assert_close(prior.mean[1], torch.tensor([0.5, 0.5]))
    assert_close(prior.mean[0], torch.tensor([0.25, 0.25]))


# --- candidates


def test_candidates_are_the_likeliest_peaks_of_each_keypoint_inside_the_window():
    peaks = Peaks(
        torch.tensor([[[[49.5, 49.5], [149.0, 49.5], [151.0, 49.5], [60.0, 60.0]]]]), torch.ones(1, 1, 4),
        torch.tensor([[[True, True, True, False]]]),
    )  # fmt: skip
    box = Detections(torch.tensor([[[0.0, 0.0, 100.0, 100.0]]]), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))
    found = collect_candidates(peaks, box, GaussianPrior(1), margin=0.5, most=5)
    assert found.peak[found.allowed].tolist() == [0, 1]
    assert collect_candidates(peaks, box, GaussianPrior(1), margin=0.5, most=1).peak.tolist() == [[[0]]]


def test_rivals_are_the_same_peak_s_tokens_in_other_boxes():
    peaks, detections = scene()
    found = collect_candidates(peaks, detections, GaussianPrior(FIVE.num_keypoints))
    number = found.peak_number.flatten(1)[found.row, found.place]
    token, which = (found.rivals >= 0).nonzero(as_tuple=True)
    rival = found.rivals[token, which]
    assert len(token) > 20
    assert_close(number[rival], number[token])
    assert bool((found.row[rival] != found.row[token]).all())


def test_a_peak_in_one_window_only_has_no_rivals():
    peaks, detections = scene(pictures=1, people=1)
    detections = dataclasses.replace(detections, valid=torch.ones(1, 1, dtype=torch.bool))
    found = collect_candidates(peaks, detections, GaussianPrior(FIVE.num_keypoints))
    assert len(found.row) > 0
    assert (found.rivals == -1).all()


# --- the network


def test_an_untrained_network_ranks_pairs_as_its_prior_does():
    peaks, detections = scene(peaks=3)
    network = SetAssignment(FIVE.num_keypoints, width=16)
    answer = network(peaks, detections)
    ranked = answer.log_scores[..., :-1]
    order = answer.candidates.fit
    both = answer.candidates.allowed[..., 1:] & answer.candidates.allowed[..., :-1]
    assert_close((ranked[..., 1:] - ranked[..., :-1])[both], (order[..., 1:] - order[..., :-1])[both])


def test_scores_are_probabilities_from_both_sides():
    answer = trained()(*scene())
    assert_close(answer.log_scores.exp().sum(-1), torch.ones(answer.log_scores.shape[:2]))
    found = answer.candidates
    claims = answer.log_nobody.exp().flatten().clone()
    claims.index_add_(0, found.peak_number[found.allowed], answer.log_claims.exp()[found.allowed])
    assert_close(claims, torch.ones_like(claims))


def test_shapes_that_depend_on_shapes_alone_give_the_same_answers():
    network, (peaks, detections) = trained(), scene(pictures=3)
    packed, whole = network(peaks, detections), network(peaks, detections, pack=False)
    rows = detections.valid.flatten().nonzero()[:, 0]
    for name in ("log_scores", "positions"):
        assert_close(getattr(packed, name), getattr(whole, name)[rows], atol=1e-4, rtol=1e-4)
    assert_close(packed.log_nobody, whole.log_nobody, atol=1e-4, rtol=1e-4)
    assert len(whole.candidates.row) == detections.valid.numel() * packed.candidates.allowed[0].numel()


def test_boxes_of_many_lengths_in_several_tables_are_the_same_as_alone():
    network = trained()
    peaks, detections = scene(pictures=30, people=4)  # more boxes than one table holds
    together = network(peaks, detections)
    for picture in (0, 17, 29):
        one = slice(picture, picture + 1)
        alone = network(
            Peaks(peaks.xy[one], peaks.scores[one], peaks.valid[one]),
            Detections(detections.boxes[one], detections.scores[one], detections.valid[one]),
        )
        rows = together.candidates.picture == picture
        assert_close(together.log_scores[rows], alone.log_scores, atol=1e-4, rtol=1e-4)
        assert_close(together.log_claims[rows], alone.log_claims, atol=1e-4, rtol=1e-4)


def test_the_order_of_boxes_and_peaks_does_not_matter():
    network, (peaks, detections) = trained(candidates=8), scene()
    turned = network(
        Peaks(peaks.xy.flip(2), peaks.scores.flip(2), peaks.valid.flip(2)),
        Detections(detections.boxes.flip(1), detections.scores.flip(1), detections.valid.flip(1)),
    )
    answer = network(peaks, detections)
    back = {(p, 3 - s): row for row, (p, s) in enumerate(zip(*_whose(turned), strict=True))}
    rows = [back[p, s] for p, s in zip(*_whose(answer), strict=True)]
    assert_close(turned.log_scores[rows], answer.log_scores, atol=1e-4, rtol=1e-4)


def _whose(answer) -> tuple[list[int], list[int]]:
    return answer.candidates.picture.tolist(), answer.candidates.slot.tolist()


def test_a_pair_is_left_out_when_both_its_sides_have_much_better_ones():
    # Two people side by side, each with a peak in the middle of the box; both peaks lie in both windows.
    boxes = torch.tensor([[[0.0, 0.0, 100.0, 100.0], [60.0, 0.0, 160.0, 100.0]]])
    detections = Detections(boxes, torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool))
    peaks = Peaks(torch.tensor([[[[49.5, 49.5], [109.5, 49.5]]]]), torch.ones(1, 1, 2), torch.ones(1, 1, 2).bool())
    prior = GaussianPrior(1)
    everything = collect_candidates(peaks, detections, prior)
    assert everything.allowed.all()
    worst = everything.fit.amin() - everything.fit.amax()
    kept = collect_candidates(peaks, detections, prior, hopeless=-float(worst) - 0.1)
    assert kept.allowed.sum(-1).tolist() == [[1], [1]]
    assert kept.peak[..., 0].tolist() == [[0], [1]]
    assert collect_candidates(peaks, detections, prior, hopeless=-float(worst) + 0.1).allowed.all()
    # Whoever is alone keeps even an unusual peak, and a peak that nobody else wants stays with whom it is near.
    alone = dataclasses.replace(detections, valid=torch.tensor([[True, False]]))
    assert collect_candidates(peaks, alone, prior, hopeless=0.1).allowed.all()


def test_of_peaks_that_lie_alike_the_higher_are_candidates():
    detections = Detections(torch.tensor([[[0.0, 0.0, 99.0, 99.0]]]), torch.ones(1, 1), torch.ones(1, 1).bool())
    xy = torch.tensor([[[[40.0, 49.0], [58.0, 49.0], [49.0, 40.0]]]])
    peaks = Peaks(xy, torch.tensor([[[0.2, 0.9, 0.6]]]), torch.ones(1, 1, 3, dtype=torch.bool))
    assert collect_candidates(peaks, detections, GaussianPrior(1), most=2).peak.tolist() == [[[1, 2]]]


def assert_heard(network: SetAssignment, told: Peaks, untold: Peaks, detections: Detections) -> None:
    """What only ``told`` tells of the same peaks changes the answer, and in the form with fixed shapes as much."""
    with torch.no_grad():
        answer, without = network(told, detections), network(untold, detections)
        static = network(told, detections, pack=False)
    assert (answer.chances - without.chances)[answer.candidates.allowed].abs().max() > 0.01
    rows = static.candidates.allowed.flatten(1).any(1) | detections.valid.flatten()
    assert_close(static.log_scores[rows], answer.log_scores, atol=1e-4, rtol=1e-4)


def test_evidence_changes_nothing_until_it_is_learnt_and_something_then():
    torch.manual_seed(0)
    without, (peaks, detections) = trained(), scene()
    heard = trained(evidence=True)
    heard.load_state_dict(without.state_dict(), strict=False)
    torch.nn.init.zeros_(heard.embed_evidence[-1].weight)
    k = FIVE.num_keypoints
    told = dataclasses.replace(peaks, evidence=torch.rand(*peaks.scores.shape, k) * peaks.valid[..., None])
    with torch.no_grad():
        assert_close(heard(told, detections).log_scores, without(peaks, detections).log_scores)
    torch.nn.init.normal_(heard.embed_evidence[-1].weight)
    assert_heard(heard, told, peaks, detections)


def test_an_appearance_is_heard_and_must_have_as_many_features_as_the_network():
    torch.manual_seed(0)
    heard, (peaks, detections) = trained(appearance=6), scene()
    torch.nn.init.normal_(heard.embed_evidence[-1].weight)
    told = dataclasses.replace(peaks, appearance=torch.rand(*peaks.scores.shape, 6) * peaks.valid[..., None])
    assert_heard(heard, told, peaks, detections)
    with pytest.raises(ValueError, match="5 features, this network was made for 6"):
        heard(dataclasses.replace(told, appearance=told.appearance[..., :5]), detections)


def test_what_the_boxes_own_maps_hold_at_a_peak_is_heard_by_the_tokens_of_those_boxes():
    heard, (peaks, detections) = trained(looks=True), scene()
    torch.nn.init.normal_(heard.embed_look[-1].weight)
    seen_by = torch.rand(*peaks.scores.shape, detections.valid.shape[1]) * peaks.valid[..., None]
    told = dataclasses.replace(peaks, seen_by=seen_by)
    found = heard.collect(told, detections)
    number = found.peak_number.flatten(1)[found.row, found.place]
    assert_close(found.seen, seen_by.flatten(0, 2)[number, found.slot[found.row]])
    assert not heard.collect(peaks, detections).seen.any()
    assert_heard(heard, told, peaks, detections)


def test_a_larger_network_goes_on_from_what_a_smaller_one_has_learnt():
    """The recipe's way to grow: the same answers at first, and all that is new can learn."""
    grow = runpy.run_path(str(ROOT / "recipes" / "train_default.py"))["grow"]
    small, large = trained(appearance=6), trained(appearance=6, layers=4, hearing=3, looks=True)
    for new in (large.embed_evidence, large.embed_look):
        torch.nn.init.zeros_(new[-1].weight)  # as in a network that is new
    tensors = {f"prn.{name}": tensor for name, tensor in small.state_dict().items()}
    grow(torch.nn.ModuleDict({"prn": large}), tensors)
    large.load_state_dict({name.removeprefix("prn."): tensor for name, tensor in tensors.items()})
    peaks, detections = scene()
    told = dataclasses.replace(peaks, appearance=torch.rand(*peaks.scores.shape, 6) * peaks.valid[..., None])
    before, after = small(told, detections), large(told, detections)
    assert_close(after.log_scores, before.log_scores)
    assert_close(after.person_logits, before.person_logits)
    (after.chances.sum() + after.person_logits.sum()).backward()
    new_columns = {
        large.embed_evidence[-1].weight: slice(small.embed_evidence[-1].in_features, None),
        large.embed_look[-1].weight: slice(None),
        large.among_tokens[3].answer.weight: slice(None),
        large.among_tokens[3].perceptron[-1].weight: slice(None),
        large.among_boxes[2].answer.weight: slice(None),
    }
    for weight, new in new_columns.items():
        assert weight[:, new].abs().max() == 0
        assert weight.grad[:, new].abs().max() > 0
    with pytest.raises(ValueError, match=r"no place for prn\.among_boxes\.2"):
        grow(torch.nn.ModuleDict({"prn": small}), {f"prn.{name}": t for name, t in large.state_dict().items()})


def test_another_box_that_claims_a_peak_is_heard():
    network, (peaks, detections) = trained(), scene(pictures=1)
    detections = dataclasses.replace(detections, valid=torch.tensor([[True, True, True, True]]))
    fewer = dataclasses.replace(detections, valid=torch.tensor([[True, False, False, False]]))
    assert not torch.allclose(network(peaks, detections).log_scores[0], network(peaks, fewer).log_scores[0])


def test_the_loss_teaches_who_is_whose():
    torch.manual_seed(0)
    peaks, detections = scene(pictures=1, people=3, peaks=3)
    peaks = dataclasses.replace(peaks, valid=torch.ones_like(peaks.valid), scores=torch.ones_like(peaks.scores))
    detections = dataclasses.replace(detections, valid=torch.ones(1, 3, dtype=torch.bool))
    network = SetAssignment(FIVE.num_keypoints, width=16, margin=5.0, hopeless=math.inf)  # anybody can have anything
    answer = torch.tensor([[[0], [1], [2]]]).expand(-1, -1, FIVE.num_keypoints)
    truth = peaks.xy.transpose(1, 2)
    labelled = torch.ones(answer.shape, dtype=torch.bool)
    spread, somebody = torch.full(answer.shape, 100.0), detections.valid
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        losses = network.loss(peaks, detections, answer, truth, labelled, labelled.float(), spread, somebody)
        sum(losses.values()).backward()
        optimizer.step()
    people = group(Grouping(SetAssignmentScorer(network)), peaks, detections)
    assert set(losses) == {"choice", "claim", "position", "judgement"}
    assert (people.peak_index == answer).float().mean() > 0.9


def test_people_are_ranked_by_the_similarity_that_the_network_expects_of_them():
    torch.manual_seed(0)
    peaks, detections = scene(pictures=1, people=3, peaks=3)
    peaks = dataclasses.replace(peaks, valid=torch.ones_like(peaks.valid), scores=torch.ones_like(peaks.scores))
    detections = dataclasses.replace(detections, valid=torch.ones(1, 3, dtype=torch.bool))
    network = SetAssignment(FIVE.num_keypoints, width=16, margin=5.0, hopeless=math.inf)
    answer = torch.tensor([[[0], [1], [-1]]]).expand(-1, -1, FIVE.num_keypoints)
    truth = peaks.xy.transpose(1, 2)
    somebody = torch.tensor([[True, True, False]])
    labelled = somebody[..., None].expand(answer.shape)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        spread, weight = torch.full(answer.shape, 100.0), torch.ones(answer.shape)
        sum(network.loss(peaks, detections, answer, truth, labelled, weight, spread, somebody).values()).backward()
        optimizer.step()
    scores = group(Grouping(SetAssignmentScorer(network)), peaks, detections).scores[0]
    assert scores[:2].min() > 0.7
    assert scores[2] < 0.3


@pytest.mark.parametrize("pictures", [2, 0])
def test_a_loss_of_nothing_is_zero_and_has_a_gradient(pictures):
    network = SetAssignment(FIVE.num_keypoints, width=16)
    peaks, detections = scene(pictures)
    nobody = dataclasses.replace(detections, valid=torch.zeros_like(detections.valid))
    shape = (*nobody.valid.shape, FIVE.num_keypoints)
    labels = (torch.full(shape, -1), torch.zeros(*shape, 2), torch.zeros(shape, dtype=torch.bool), torch.zeros(shape))
    losses = network.loss(peaks, nobody, *labels, torch.ones(shape), torch.zeros(shape[:2], dtype=torch.bool))
    sum(losses.values()).backward()
    assert [float(loss.detach()) for loss in losses.values()] == [0.0, 0.0, 0.0, 0.0]


def test_the_default_network_is_small():
    network, _ = make_grouping("set_assignment", COCO_PERSON)
    assert sum(parameter.numel() for parameter in network.parameters()) < 300_000


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of heads"):
        SetAssignment(5, width=30)


def test_peaks_of_another_skeleton_are_refused():
    with pytest.raises(ValueError, match=r"peaks have 17 keypoints.* made for 5"):
        trained()(*scene(skeleton=COCO_PERSON))


def test_what_lies_in_empty_slots_does_not_matter():
    peaks, detections = scene()
    grouping = grouping_of("set_assignment")
    before = group(grouping, peaks, detections)
    xy = torch.where(peaks.valid[..., None], peaks.xy, torch.nan)
    after = group(grouping, dataclasses.replace(peaks, xy=xy), detections)
    assert_close(after.keypoints, before.keypoints)


# --- baselines


def with_boxes(*boxes: tuple[float, float, float, float]) -> Detections:
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    return Detections(torch.tensor(boxes).view(1, -1, 4), valid.float(), valid)



def test_the_strongest_peak_in_the_box_wins_wherever_it_lies():
    peaks = Peaks(
        torch.tensor([[[[40.0, 40.0], [75.0, 5.0], [90.0, 40.0]]]]), torch.tensor([[[0.5, 0.6, 0.9]]]),
        torch.ones(1, 1, 3, dtype=torch.bool),
    )  # fmt: skip
    _, grouping = make_grouping("strongest_peak", Skeleton("dot", ("dot",)))
    assert grouping(peaks, with_boxes((0.0, 0.0, 80.0, 80.0))).peak_index.item() == 1


def test_a_peak_goes_to_the_box_with_the_nearest_centre():
    peaks = Peaks(torch.tensor([[[[52.0, 40.0]]]]), torch.ones(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool))
    _, grouping = make_grouping("nearest_centre", Skeleton("dot", ("dot",)))
    boxes = with_boxes((0.0, 0.0, 60.0, 80.0), (20.0, 0.0, 180.0, 80.0))  # centres at 30 and at 100
    assert grouping(peaks, boxes).peak_index.flatten().tolist() == [0, -1]


def test_the_prior_prefers_a_usual_place_to_one_near_the_centre():
    peaks = Peaks(torch.tensor([[[[40.0, 40.0], [40.0, 8.0]]]]), torch.ones(1, 1, 2), torch.ones(1, 1, 2).bool())
    prior, grouping = make_grouping("gaussian_prior", Skeleton("dot", ("dot",)))
    prior.mean[:] = torch.tensor([0.5, 0.1])
    assert grouping(peaks, with_boxes((0.0, 0.0, 80.0, 80.0))).peak_index.item() == 1
    nothing = dataclasses.replace(peaks, valid=torch.zeros(1, 1, 2, dtype=torch.bool))
    assert_close(
        grouping(nothing, with_boxes((0.0, 0.0, 80.0, 80.0))).keypoints[0, 0, 0], torch.tensor([39.5, 7.5])
    )


# --- building, saving, chains


def test_groupings_are_found_by_name_and_wrong_names_are_listed():
    assert list_groupings() == sorted(GROUPINGS)
    with pytest.raises(ValueError, match="choose one of gaussian_prior, nearest_centre"):
        build_grouping("nearest_center")
    with pytest.raises(ValueError, match=r"grouping 'set_assignment': .*nodes"):
        build_grouping("set_assignment", nodes=3)
    with pytest.raises(ValueError, match="assignment 'best' is unknown; choose one of one_to_one"):
        with_assignment(grouping_of("gaussian_prior"), "best")


@pytest.mark.parametrize("name", ["pose_residual", "set_assignment"])
def test_a_saved_grouping_builds_itself_again(name, tmp_path):
    method = build_grouping(name, skeleton=FIVE, **SMALL[name])
    save_weights(method.model, tmp_path / "grouping.safetensors", method.facts)
    again = build_grouping(weights=tmp_path / "grouping.safetensors")
    assert (again.name, again.skeleton) == (name, FIVE)
    assert again.options.keys() == method.options.keys()
    assert_close(dict(again.model.state_dict()), dict(method.model.state_dict()))
    with pytest.raises(ValueError, match=f"holds '{name}', not 'gaussian_prior'"):
        build_grouping("gaussian_prior", tmp_path / "grouping.safetensors")


def test_a_chain_takes_a_trained_set_assignment_as_its_part(tmp_path):
    options = SMALL["set_assignment"]
    own = build_grouping("set_assignment", skeleton=FIVE, **options)
    own.model["prn"].prior.mean.fill_(0.25)
    save_weights(own.model, tmp_path / "set.safetensors", {"model": "set_assignment", "options": options})
    chain = build_method("multiposenet_lite", skeleton=FIVE, parts={"prn": tmp_path / "set.safetensors"})
    assert_close(chain.decoder.grouping.scorer.network.prior.mean, torch.full((5, 2), 0.25))
    chain.model.eval()
    with torch.no_grad():
        outputs, _ = chain.model(torch.rand(1, 3, 64, 64))
        assert len(chain.decoder(outputs)) == 1

    save_weights(chain.model, tmp_path / "chain.safetensors", chain.facts)
    assert build_method(weights=tmp_path / "chain.safetensors").options["grouping"] == "set_assignment"
    assert any(key.startswith("prn.among_tokens") for key in load_tensors(tmp_path / "chain.safetensors")[0])


def test_a_chain_with_an_unknown_grouping_is_refused():
    with pytest.raises(ValueError, match="grouping 'voronoi' is unknown"):
        build_method("multiposenet_lite", grouping="voronoi")


def test_a_chain_tells_its_grouping_as_many_features_as_it_has():
    chain = build_method(
        "multiposenet_lite", skeleton=FIVE, grouping_options=SMALL["set_assignment"] | {"appearance": 32}
    )
    chain.model.eval()
    with torch.no_grad():
        outputs, _ = chain.model(torch.rand(1, 3, 64, 64))
        outputs = dataclasses.replace(outputs, heatmaps=outputs.features[:, :6].contiguous())
        peaks, _ = chain.decoder.detect(outputs)
        assert peaks.appearance.shape[-1] == 32
        assert len(chain.decoder(outputs)) == 1
    with pytest.raises(ValueError, match="appearance must be 0 or merged_width"):
        build_method("multiposenet_lite", grouping_options={"appearance": 5})


def test_a_chain_takes_its_grouping_from_a_file_of_the_grouping_alone(tmp_path):
    own = build_grouping("set_assignment", skeleton=FIVE, **SMALL["set_assignment"])
    save_weights(own.model, tmp_path / "set.safetensors", own.facts)
    chain = build_method("multiposenet_lite", skeleton=FIVE, parts={"prn": tmp_path / "set.safetensors"})
    assert isinstance(chain.model.prn, SetAssignment)
    assert chain.decoder.grouping.scorer.network is chain.model.prn
    assert_close(dict(chain.model.prn.state_dict()), dict(own.model["prn"].state_dict()))
