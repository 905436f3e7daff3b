"""The skeleton as data: everything that depends on which keypoints a person has.

A dataset, a codec, the pose residual network, the evaluation and the drawing all carry a
:class:`Skeleton`; no other module knows how many keypoints there are or what they are called.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

USUAL_SIGMA = 0.07
"""About the mean of COCO's OKS sigmas; for skeletons that have none."""

_FIELDS = {"name", "keypoints", "flip_pairs", "limbs", "oks_sigmas"}


@dataclass(frozen=True)
class Skeleton:
    """Names, symmetry, drawing and scoring of one kind of annotated body.

    Args:
        name: short identifier, also the COCO category name when a dataset is written.
        keypoints: keypoint names in annotation order; K of them, all different.
        flip_pairs: index pairs (left, right) that exchange places in a mirrored picture.
        limbs: index pairs to join by a line when a pose is drawn.
        oks_sigmas: COCO's per-keypoint constant of object keypoint similarity, one a keypoint
            (https://cocodataset.org/#keypoints-eval), or None when nobody has measured them.

    Raises:
        ValueError: names repeat, an index is out of range, a keypoint is in two flip pairs,
            or the number of sigmas is not K.
    """

    name: str
    keypoints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    limbs: tuple[tuple[int, int], ...] = ()
    oks_sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.keypoints)
        if count == 0:
            raise ValueError(f"skeleton {self.name!r}: keypoints is empty; name at least one keypoint")
        if len(set(self.keypoints)) != count:
            raise ValueError(f"skeleton {self.name!r}: keypoint names must all differ, got {self.keypoints}")
        for field in ("flip_pairs", "limbs"):
            for pair in getattr(self, field):
                if len(pair) != 2 or pair[0] == pair[1] or not all(0 <= index < count for index in pair):
                    raise ValueError(
                        f"skeleton {self.name!r}: {field} entry {pair} must be two different indices in [0, {count})"
                    )
        flipped = [index for pair in self.flip_pairs for index in pair]
        if len(set(flipped)) != len(flipped):
            raise ValueError(f"skeleton {self.name!r}: a keypoint may be in one flip pair only, got {self.flip_pairs}")
        if self.oks_sigmas is not None:
            if len(self.oks_sigmas) != count:
                raise ValueError(
                    f"skeleton {self.name!r}: oks_sigmas has {len(self.oks_sigmas)} values for {count} keypoints"
                )
            if not all(sigma > 0 for sigma in self.oks_sigmas):
                raise ValueError(f"skeleton {self.name!r}: oks_sigmas must all be positive, got {self.oks_sigmas}")

    @property
    def num_keypoints(self) -> int:
        """K, the number of keypoints of one person."""
        return len(self.keypoints)

    @property
    def flip_indices(self) -> list[int]:
        """Permutation [K]: keypoint k of a mirrored person is keypoint ``flip_indices[k]`` of the original."""
        indices = list(range(self.num_keypoints))
        for left, right in self.flip_pairs:
            indices[left], indices[right] = right, left
        return indices

    @property
    def reach(self) -> tuple[float, ...]:
        """[K] how far off a keypoint may be, a share of the person's size: ``oks_sigmas``, or ``USUAL_SIGMA`` for all.

        To tell near from far; a skeleton without sigmas is not *scored* by these unless somebody says so.
        """
        return self.oks_sigmas or (USUAL_SIGMA,) * self.num_keypoints

    def index(self, keypoint: str) -> int:
        """Position of a keypoint by name; ValueError lists the names that exist."""
        if keypoint not in self.keypoints:
            raise ValueError(f"skeleton {self.name!r} has no keypoint {keypoint!r}; it has {', '.join(self.keypoints)}")
        return self.keypoints.index(keypoint)

    def to_dict(self) -> dict:
        """Plain lists and strings by keypoint *name*, the content of the TOML file and of a checkpoint's metadata."""
        content = {
            "name": self.name,
            "keypoints": list(self.keypoints),
            "flip_pairs": [[self.keypoints[a], self.keypoints[b]] for a, b in self.flip_pairs],
            "limbs": [[self.keypoints[a], self.keypoints[b]] for a, b in self.limbs],
        }
        if self.oks_sigmas is not None:
            content["oks_sigmas"] = list(self.oks_sigmas)
        return content

    @classmethod
    def from_dict(cls, content: dict, source: str = "skeleton") -> Skeleton:
        """Builds a skeleton from :meth:`to_dict`'s content; pairs may be keypoint names or indices.

        Raises:
            ValueError: a field is unknown or missing, or a pair names no keypoint; the message names ``source``.
        """
        unknown = sorted(set(content) - _FIELDS)
        if unknown:
            raise ValueError(f"{source}: unknown fields {unknown}; a skeleton has {sorted(_FIELDS)}")
        missing = [field for field in ("name", "keypoints") if field not in content]
        if missing:
            raise ValueError(f"{source}: missing fields {missing}")
        names = tuple(content["keypoints"])

        def pairs(field: str) -> tuple[tuple[int, int], ...]:
            found = []
            for pair in content.get(field, []):
                unknown_names = [end for end in pair if isinstance(end, str) and end not in names]
                if unknown_names or len(pair) != 2:
                    raise ValueError(f"{source}: {field} entry {pair} must be two of the keypoints {list(names)}")
                first, second = (names.index(end) if isinstance(end, str) else int(end) for end in pair)
                found.append((first, second))
            return tuple(found)

        sigmas = content.get("oks_sigmas")
        try:
            return cls(
                name=content["name"],
                keypoints=names,
                flip_pairs=pairs("flip_pairs"),
                limbs=pairs("limbs"),
                oks_sigmas=None if sigmas is None else tuple(float(sigma) for sigma in sigmas),
            )
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    @classmethod
    def from_toml(cls, path: str | Path) -> Skeleton:
        """Reads a skeleton from a TOML file with the fields of :meth:`to_dict`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not TOML or its content is not a skeleton; the message names the file.
        """
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: not valid TOML: {error}") from None
        return cls.from_dict(content, source=str(path))


COCO_PERSON = Skeleton.from_dict(
    {
        "name": "person",
        "keypoints": [
            "nose", "left_eye", "right_eye", "left_ear", "right_ear",
            "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
            "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
        ],
        "flip_pairs": [
            [f"left_{part}", f"right_{part}"]
            for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        ],
        "limbs": [
            ["left_ankle", "left_knee"], ["left_knee", "left_hip"],
            ["right_ankle", "right_knee"], ["right_knee", "right_hip"],
            ["left_hip", "right_hip"], ["left_shoulder", "left_hip"], ["right_shoulder", "right_hip"],
            ["left_shoulder", "right_shoulder"],
            ["left_shoulder", "left_elbow"], ["left_elbow", "left_wrist"],
            ["right_shoulder", "right_elbow"], ["right_elbow", "right_wrist"],
            ["left_eye", "right_eye"], ["nose", "left_eye"], ["nose", "right_eye"],
            ["left_eye", "left_ear"], ["right_eye", "right_ear"],
            ["left_ear", "left_shoulder"], ["right_ear", "right_shoulder"],
        ],
        "oks_sigmas": [
            0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062,
            0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
        ],
    }
)  # fmt: skip
"""The 17 keypoints of COCO 2017's person category, with COCO's own sigmas."""

CROWDPOSE = Skeleton.from_dict(
    {
        "name": "crowdpose",
        "keypoints": [
            "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
            "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck",
        ],
        "flip_pairs": [
            [f"left_{part}", f"right_{part}"] for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        ],
        "limbs": [
            ["left_ankle", "left_knee"], ["left_knee", "left_hip"],
            ["right_ankle", "right_knee"], ["right_knee", "right_hip"],
            ["left_hip", "right_hip"], ["left_shoulder", "left_hip"], ["right_shoulder", "right_hip"],
            ["left_shoulder", "right_shoulder"],
            ["left_shoulder", "left_elbow"], ["left_elbow", "left_wrist"],
            ["right_shoulder", "right_elbow"], ["right_elbow", "right_wrist"],
            ["head", "neck"], ["neck", "left_shoulder"], ["neck", "right_shoulder"],
        ],
        "oks_sigmas": [
            0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079,
        ],
    }
)  # fmt: skip
"""The 14 keypoints of CrowdPose (https://arxiv.org/abs/1812.00324), with the sigmas of its evaluation tool."""

_COCO = COCO_PERSON.to_dict()

HUMAN_ART = Skeleton.from_dict(
    {
        "name": "human_art",
        "keypoints": [*_COCO["keypoints"], "left_finger", "right_finger", "left_toe", "right_toe"],
        "flip_pairs": [*_COCO["flip_pairs"], ["left_finger", "right_finger"], ["left_toe", "right_toe"]],
        "limbs": [
            *_COCO["limbs"], ["left_wrist", "left_finger"], ["right_wrist", "right_finger"],
            ["left_ankle", "left_toe"], ["right_ankle", "right_toe"],
        ],
        "oks_sigmas": [*_COCO["oks_sigmas"], 0.089, 0.089, 0.089, 0.089],
    }
)  # fmt: skip
"""Human-Art's 21 keypoints (https://arxiv.org/abs/2303.02760): COCO's, fingers and toes.

COCO's sigmas; fingers and toes have that of the ankles, the convention of other toolboxes: nobody measured theirs.
"""

MPII = Skeleton.from_dict(
    {
        "name": "mpii",
        "keypoints": [
            "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
            "pelvis", "thorax", "upper_neck", "head_top",
            "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
        ],
        "flip_pairs": [
            [f"left_{part}", f"right_{part}"] for part in ("ankle", "knee", "hip", "wrist", "elbow", "shoulder")
        ],
        "limbs": [
            ["right_ankle", "right_knee"], ["right_knee", "right_hip"], ["right_hip", "pelvis"],
            ["left_ankle", "left_knee"], ["left_knee", "left_hip"], ["left_hip", "pelvis"],
            ["pelvis", "thorax"], ["thorax", "upper_neck"], ["upper_neck", "head_top"],
            ["thorax", "right_shoulder"], ["right_shoulder", "right_elbow"], ["right_elbow", "right_wrist"],
            ["thorax", "left_shoulder"], ["left_shoulder", "left_elbow"], ["left_elbow", "left_wrist"],
        ],
    }
)  # fmt: skip
"""The 16 keypoints of MPII Human Pose (http://human-pose.mpi-inf.mpg.de), which is scored by PCKh and has no sigmas."""

SKELETONS = {"coco_person": COCO_PERSON, "crowdpose": CROWDPOSE, "human_art": HUMAN_ART, "mpii": MPII}


def get_skeleton(source: str | Path | Skeleton) -> Skeleton:
    """A built-in skeleton by name, or one from a TOML file.

    Raises:
        ValueError: neither a built-in name nor an existing file.
    """
    if isinstance(source, Skeleton):
        return source
    if str(source) in SKELETONS:
        return SKELETONS[str(source)]
    if Path(source).is_file():
        return Skeleton.from_toml(source)
    raise ValueError(f"skeleton {str(source)!r} is neither built in ({', '.join(SKELETONS)}) nor a TOML file")
