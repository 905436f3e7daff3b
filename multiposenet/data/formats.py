"""Data sets in COCO's format and how they differ from COCO: where the files lie, which keypoints, which fields.

``datasets/README.md`` says where each set comes from and what to know before a number is made with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from multiposenet.skeletons import COCO_PERSON, CROWDPOSE, HUMAN_ART, Skeleton


@dataclass(frozen=True)
class CocoFormat:
    """One data set's way of using COCO's format.

    Args:
        name: what a command line calls it.
        skeleton: the keypoints of its labels.
        annotation_files: places of the annotation file below the root; the first that exists is read. ``{split}`` is
            the split's name. Each file may also be zipped, with ``.gz`` behind its name.
        picture_folders: places of the pictures below the root, tried in this order for every picture: ``""`` is the
            root itself, ``".."`` the folder around it, for file names that begin with the data set's own folder.
        evaluation_split: the split that is measured where nobody names one.
        category: name of the people's category; without such a category, the only one that has keypoints is taken.
        keypoints_field: the annotation's field with [x, y, visibility] x K; its count is in ``num_<keypoints_field>``.
        uncounted: keypoints that the file's ``num_keypoints`` leaves out.
    """

    name: str
    skeleton: Skeleton
    annotation_files: tuple[str, ...]
    picture_folders: tuple[str, ...]
    evaluation_split: str
    category: str = "person"
    keypoints_field: str = "keypoints"
    uncounted: tuple[str, ...] = ()

    def as_coco(self, content: dict, skeleton: Skeleton) -> dict:
        """A file's content with its keypoints in COCO's own fields; what needs no change is not copied.

        Args:
            content: the file's content; ``annotations`` and ``categories`` are lists of dicts.
            skeleton: the keypoints that ``keypoints_field`` holds.
        """
        if self.keypoints_field == "keypoints":
            return content
        moved = {self.keypoints_field: "keypoints", f"num_{self.keypoints_field}": "num_keypoints"}
        annotations = []
        for record in content["annotations"]:
            others = {field: value for field, value in record.items() if field not in moved.values()}
            annotations.append({moved.get(field, field): value for field, value in others.items()})
        # The category lists the keypoints of the plain field only.
        categories = [
            {**category, "keypoints": list(skeleton.keypoints)} if category.get("keypoints") else category
            for category in content.get("categories") or []
        ]
        return {**content, "annotations": annotations, "categories": categories}


COCO_FORMAT = CocoFormat(
    name="coco",
    skeleton=COCO_PERSON,
    annotation_files=("annotations/person_keypoints_{split}.json",),
    picture_folders=("{split}", "images/{split}"),
    evaluation_split="val2017",
)
"""COCO itself, and any data set laid out like it."""

CROWDPOSE_FORMAT = CocoFormat(
    name="crowdpose",
    skeleton=CROWDPOSE,
    annotation_files=(
        "annotations/crowdpose_{split}.json",
        "json/crowdpose_{split}.json",
        "annotations/mmpose_crowdpose_{split}.json",
    ),
    picture_folders=("images",),
    evaluation_split="test",
    uncounted=("head", "neck"),
)
"""CrowdPose: 14 keypoints, ``crowdIndex`` with every picture, no ``area``."""

OCHUMAN_FORMAT = CocoFormat(
    name="ochuman",
    skeleton=COCO_PERSON,
    annotation_files=(
        "annotations/ochuman_coco_format_{split}_maxIoU_0.50_1.00.json",
        "annotations/ochuman_coco_format_{split}_range_0.00_1.00.json",
        "ochuman_coco_format_{split}_maxIoU_0.50_1.00.json",
        "ochuman_coco_format_{split}_range_0.00_1.00.json",
    ),
    picture_folders=("images",),
    evaluation_split="val",
)
"""OCHuman, the files in COCO's format that its authors hand out; COCO's keypoints."""

HUMAN_ART_FORMAT = CocoFormat(
    name="human_art",
    skeleton=COCO_PERSON,
    annotation_files=("annotations/{split}_humanart.json", "annotations/{split}.json"),
    picture_folders=("", "..", "images"),
    evaluation_split="validation",
)
"""Human-Art with COCO's keypoints. The split may name a scenario's file: ``validation_humanart_cartoon``."""

HUMAN_ART_21_FORMAT = CocoFormat(
    name="human_art_21",
    skeleton=HUMAN_ART,
    annotation_files=HUMAN_ART_FORMAT.annotation_files,
    picture_folders=HUMAN_ART_FORMAT.picture_folders,
    evaluation_split=HUMAN_ART_FORMAT.evaluation_split,
    keypoints_field="keypoints_21",
)
"""Human-Art with its own 21 keypoints."""

ROBOFLOW_FORMAT = CocoFormat(
    name="roboflow",
    skeleton=COCO_PERSON,
    annotation_files=("{split}/_annotations.coco.json",),
    picture_folders=("{split}",),
    evaluation_split="valid",
)
"""Exports of Roboflow as COCO: annotations beside the pictures of each split."""

LABEL_STUDIO_FORMAT = CocoFormat(
    name="label_studio",
    skeleton=COCO_PERSON,
    annotation_files=("result.json", "result_coco.json"),
    picture_folders=("", "images"),
    evaluation_split="result",
)
"""Exports of Label Studio as COCO: one file without splits, pictures beside it."""

FORMATS = {
    item.name: item
    for item in (
        COCO_FORMAT,
        CROWDPOSE_FORMAT,
        OCHUMAN_FORMAT,
        ROBOFLOW_FORMAT,
        LABEL_STUDIO_FORMAT,
        HUMAN_ART_FORMAT,
        HUMAN_ART_21_FORMAT,
    )
}
