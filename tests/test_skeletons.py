"""The skeleton as data, and its way through TOML."""

from __future__ import annotations

import json

import pytest
from pycocotools.cocoeval import Params
from torch.testing import assert_close

from multiposenet.skeletons import COCO_PERSON, CROWDPOSE, HUMAN_ART, SKELETONS, Skeleton, get_skeleton

# The person category of COCO's own person_keypoints files; its limbs count from 1.
COCO_NAMES = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
]  # fmt: skip
COCO_LIMBS = [
    [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9],
    [8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
]  # fmt: skip


def dog(**changes) -> dict:
    return {
        "name": "dog",
        "keypoints": ["nose", "left_paw", "right_paw", "tail"],
        "flip_pairs": [["left_paw", "right_paw"]],
        "limbs": [["nose", "tail"]],
        "oks_sigmas": [0.02, 0.1, 0.1, 0.05],
    } | changes


def test_the_coco_person_has_coco_s_names_in_coco_s_order():
    assert list(COCO_PERSON.keypoints) == COCO_NAMES


def test_the_coco_person_has_coco_s_limbs():
    limbs = [frozenset((a + 1, b + 1)) for a, b in COCO_PERSON.limbs]
    assert len(limbs) == len(COCO_LIMBS)
    assert set(limbs) == {frozenset(limb) for limb in COCO_LIMBS}


def test_the_coco_person_has_the_sigmas_of_coco_s_evaluation():
    assert_close(list(COCO_PERSON.oks_sigmas), Params(iouType="keypoints").kpt_oks_sigmas.tolist())


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_mirroring_a_built_in_skeleton_exchanges_left_and_right_names_and_keeps_the_middle(skeleton):
    other = {"left": "right", "right": "left"}
    for name, mirrored in zip(skeleton.keypoints, skeleton.flip_indices, strict=True):
        side, _, part = name.partition("_")
        assert skeleton.keypoints[mirrored] == (f"{other[side]}_{part}" if side in other else name)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_the_limbs_of_a_built_in_skeleton_reach_every_keypoint(skeleton):
    assert {end for limb in skeleton.limbs for end in limb} == set(range(skeleton.num_keypoints))


def test_crowdpose_has_the_keypoints_and_sigmas_of_its_files_and_tool():
    parts = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    names = [f"{side}_{part}" for part in parts for side in ("left", "right")]
    assert list(CROWDPOSE.keypoints) == [*names, "head", "neck"]
    of_coco = dict(zip(COCO_PERSON.keypoints, COCO_PERSON.oks_sigmas, strict=True))
    assert_close(list(CROWDPOSE.oks_sigmas), [*(of_coco[name] for name in names), 0.079, 0.079])


def test_human_art_is_the_coco_person_with_fingers_and_toes():
    k = COCO_PERSON.num_keypoints
    assert HUMAN_ART.keypoints[:k] == COCO_PERSON.keypoints
    assert HUMAN_ART.oks_sigmas[:k] == COCO_PERSON.oks_sigmas
    assert HUMAN_ART.keypoints[k:] == ("left_finger", "right_finger", "left_toe", "right_toe")


def test_mirroring_twice_is_the_identity():
    flip = COCO_PERSON.flip_indices
    assert [flip[i] for i in flip] == list(range(COCO_PERSON.num_keypoints))


def test_a_keypoint_outside_every_pair_mirrors_to_itself():
    assert Skeleton.from_dict(dog()).flip_indices == [0, 2, 1, 3]


def test_a_keypoint_is_found_by_name():
    assert COCO_PERSON.index("left_wrist") == COCO_NAMES.index("left_wrist")


def test_an_unknown_keypoint_name_is_an_error_that_lists_the_names_there_are():
    with pytest.raises(ValueError, match=r"'dog' has no keypoint 'wing'; it has nose, left_paw, right_paw, tail"):
        Skeleton.from_dict(dog()).index("wing")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keypoints": ()}, "keypoints is empty"),
        ({"keypoints": ("a", "b", "a")}, "names must all differ"),
        ({"flip_pairs": ((0, 3),)}, r"flip_pairs entry \(0, 3\)"),
        ({"flip_pairs": ((1, 1),)}, r"flip_pairs entry \(1, 1\)"),
        ({"limbs": ((-1, 0),)}, r"limbs entry \(-1, 0\)"),
        ({"flip_pairs": ((0, 1), (1, 2))}, "in one flip pair only"),
        ({"oks_sigmas": (0.1, 0.1)}, "2 values for 3 keypoints"),
        ({"oks_sigmas": (0.1, 0.0, 0.1)}, "must all be positive"),
    ],
)
def test_a_skeleton_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"skeleton 'toy': .*{message}"):
        Skeleton(**{"name": "toy", "keypoints": ("a", "b", "c")} | fields)


@pytest.mark.parametrize("skeleton", [COCO_PERSON, Skeleton("point", ("centre",))], ids=lambda s: s.name)
def test_a_skeleton_survives_the_way_through_json(skeleton):
    assert Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton


def test_pairs_may_be_given_by_name_or_by_index():
    by_index = dog(flip_pairs=[[1, 2]], limbs=[[0, 3]])
    assert Skeleton.from_dict(by_index) == Skeleton.from_dict(dog())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dog(joints=[]), r"unknown fields \['joints'\]"),
        ({"name": "dog"}, r"missing fields \['keypoints'\]"),
        (dog(limbs=[["nose", "wing"]]), r"limbs entry \['nose', 'wing'\]"),
        (dog(flip_pairs=[["left_paw"]]), r"flip_pairs entry \['left_paw'\]"),
        (dog(oks_sigmas=[0.1]), "1 values for 4 keypoints"),
    ],
)
def test_wrong_content_is_an_error_that_names_its_source(content, message):
    with pytest.raises(ValueError, match=f"zoo/dog.toml: .*{message}"):
        Skeleton.from_dict(content, source="zoo/dog.toml")


def test_a_toml_file_gives_the_skeleton_it_describes(tmp_path):
    file = tmp_path / "dog.toml"
    file.write_text(
        'name = "dog"\n'
        'keypoints = ["nose", "left_paw", "right_paw", "tail"]\n'
        'flip_pairs = [["left_paw", "right_paw"]]\n'
        'limbs = [["nose", "tail"]]\n'
        "oks_sigmas = [0.02, 0.1, 0.1, 0.05]\n"
    )
    assert Skeleton.from_toml(file) == Skeleton.from_dict(dog())


def test_a_file_that_is_not_toml_is_named(tmp_path):
    file = tmp_path / "broken.toml"
    file.write_text("name = ")
    with pytest.raises(ValueError, match=r"broken\.toml: not valid TOML"):
        Skeleton.from_toml(file)


def test_a_skeleton_is_got_by_built_in_name_by_file_or_as_itself(tmp_path):
    file = tmp_path / "point.toml"
    file.write_text('name = "point"\nkeypoints = ["centre"]\n')
    point = Skeleton("point", ("centre",))
    assert get_skeleton("coco_person") is SKELETONS["coco_person"] is COCO_PERSON
    assert get_skeleton(file) == get_skeleton(str(file)) == point
    assert get_skeleton(point) is point


def test_a_name_that_is_neither_built_in_nor_a_file_is_an_error_that_lists_what_is_built_in():
    with pytest.raises(ValueError, match=r"'octopus' is neither built in .*coco_person.* nor a TOML file"):
        get_skeleton("octopus")
