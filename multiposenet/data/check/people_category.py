"""Which of a file's categories are the people, and which skeleton they have, even where the file is unclear.

``data.annotations.choose_person_category`` decides, and refuses what it cannot. A check has to look on: here the
message becomes a finding, and the likeliest category stands in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multiposenet.data.annotations import choose_person_category
from multiposenet.data.formats import CocoFormat
from multiposenet.skeletons import SKELETONS, Skeleton


@dataclass(frozen=True)
class PeopleCategory:
    """The people's category of one annotation file.

    Args:
        id: its id, or None where no category can be meant.
        skeleton: the keypoints of its people.
        refused: what the strict reader says against it, or None.
        unnamed: the file does not name the keypoints; they are taken from the format, or numbered.
    """

    id: object
    skeleton: Skeleton
    refused: str | None = None
    unnamed: bool = False


def find_people(
    path: Path,
    categories: Sequence[dict],
    annotations: Sequence[dict],
    category_ids: Sequence,
    layout: CocoFormat,
    skeleton: Skeleton | None = None,
) -> PeopleCategory:
    """The people's category and their skeleton; never raises.

    Args:
        path: of the file, for messages.
        categories: the file's, each with an id.
        annotations: the file's.
        category_ids: that of each annotation, hashable.
        layout: names the category, and the skeleton where the file names no keypoints.
        skeleton: the keypoints that the user says it has; by default those that the category lists.
    """
    refused = None
    try:
        category = choose_person_category({"categories": list(categories)}, path, layout.category)
    except ValueError as error:
        refused, category = str(error), _most_keypoints(categories, annotations, category_ids)
    if category is None:
        return PeopleCategory(None, skeleton or layout.skeleton, refused)
    names = category.get("keypoints")
    if not isinstance(names, list) or not names:
        own = skeleton or _of_length(_usual_count(annotations, category_ids, category["id"]), layout.skeleton)
        return PeopleCategory(category["id"], own, refused, unnamed=True)
    own = skeleton or named_skeleton(names, layout, category)
    if refused is None and own.keypoints != tuple(names):
        refused = (
            f"{path}: category {category.get('name')!r} has the keypoints {names}, skeleton {own.name!r} has "
            f"{list(own.keypoints)}"
        )
    return PeopleCategory(category["id"], own, refused)


def named_skeleton(names: Sequence, layout: CocoFormat, category: dict | None = None) -> Skeleton:
    """The skeleton with these keypoint names: the format's, a built-in one, or one made of the names.

    A made one pairs ``left_...`` with ``right_...``, takes its limbs from the category's ``skeleton`` and has no OKS
    sigmas: nobody has measured them.
    """
    names = tuple(str(name) for name in names)
    for known in (layout.skeleton, *SKELETONS.values()):
        if known.keypoints == names:
            return known
    if len(set(names)) != len(names):
        return _of_length(len(names), layout.skeleton)
    place = {name.lower(): index for index, name in enumerate(names)}
    pairs = [
        (place[name], place[name.replace("left", "right", 1)])
        for name in place
        if "left" in name and name.replace("left", "right", 1) in place
    ]
    edges = (category or {}).get("skeleton")
    limbs = [
        (edge[0] - 1, edge[1] - 1)
        for edge in (edges if isinstance(edges, list) else [])
        if isinstance(edge, list) and len(edge) == 2 and all(type(end) is int for end in edge)
        and edge[0] != edge[1] and all(1 <= end <= len(names) for end in edge)
    ]  # fmt: skip
    return Skeleton(str((category or {}).get("name") or "person"), names, tuple(pairs), tuple(limbs))


def _most_keypoints(categories: Sequence[dict], annotations: Sequence[dict], category_ids: Sequence) -> dict | None:
    """The category with the most annotations that have keypoints, or else the most annotations, or else the first."""
    known = {item["id"]: item for item in reversed(categories)}
    with_keypoints = (
        identity for record, identity in zip(annotations, category_ids, strict=True) if record.get("keypoints")
    )
    for identities in (with_keypoints, category_ids):
        found = [known[identity] for identity, _ in Counter(identities).most_common() if identity in known]
        if found:
            return found[0]
    return categories[0] if categories else None


def _usual_count(annotations: Sequence[dict], category_ids: Sequence, category: object) -> int:
    """How many keypoints most annotations of a category have; 0 where they have none."""
    counts = Counter(
        len(record["keypoints"]) // 3
        for record, identity in zip(annotations, category_ids, strict=True)
        if identity == category and isinstance(record.get("keypoints"), list) and record["keypoints"]
    )
    return counts.most_common(1)[0][0] if counts else 0


def _of_length(count: int, usual: Skeleton) -> Skeleton:
    if count in (0, usual.num_keypoints):
        return usual
    return Skeleton("person", tuple(f"keypoint_{number}" for number in range(1, count + 1)))
