"""``multiposenet explain``: the command's own flags, and what it does with them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from multiposenet.decode.assignment import ASSIGNMENTS
from multiposenet.evaluation.grouping_inputs import INPUTS
from multiposenet.explanation.numbers import explain
from multiposenet.explanation.page import explanation_page
from multiposenet.explanation.sources import NETWORK, Scene, open_labels, scene_of_labels, scene_of_picture
from multiposenet.explanation.structures import Explanation
from multiposenet.explanation.words import explanation_lines, to_json
from multiposenet.groupings import GROUPINGS, GroupingMethod, with_assignment
from multiposenet.importers import read_weights
from multiposenet.inputs import find_pictures
from multiposenet.methods import grouping_of, open_grouping
from multiposenet.predictor import PosePredictor
from multiposenet.runs import open_run_folder
from multiposenet.skeletons import Skeleton
from multiposenet.whole_files import written_whole

_SAMPLE = "two_people.jpg"
_SHIPPED = "set_assignment.safetensors"
_DRAWN = 0.2  # people of a network below it are many, and not drawn by ``predict`` either


def add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``explain`` beside those that set up a predictor."""
    parser.add_argument(
        "picture", nargs="?", metavar="PICTURE",
        help="file or http(s) address; with --data an image's id; by default a sample that ships with the package",
    )  # fmt: skip
    parser.add_argument("--data", metavar="DIR", help="folder in COCO's layout, of which labels are enough")
    parser.add_argument("--split", default="val2017", metavar="NAME", help="of the data (%(default)s)")
    parser.add_argument(
        "--input", choices=[*INPUTS, NETWORK], default="ground truth",
        help="with --data, what is grouped: the labels, as they are or degraded, or what the network finds in the "
        "picture (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--grouping", metavar="FILE",
        help="weights of a grouping, or of a whole model that has one; by default the network's own, for labels "
        f"(--data) without --weights and --model the shipped {_SHIPPED}",
    )  # fmt: skip
    parser.add_argument("--assignment", choices=list(ASSIGNMENTS), help="the rule that decides, instead of its own")
    parser.add_argument(
        "--score-threshold", type=float, metavar="SCORE",
        help=f"people below it are told of by number only ({_DRAWN} for what a network finds, 0 for labels)",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="by default runs/explain, then runs/explain2, ...")


def explain_command(arguments: argparse.Namespace, load: Callable[[], PosePredictor]) -> Path:
    """Explains one picture: prints the words, writes the page, the same words, the numbers and a network's grids.

    Args:
        arguments: of :func:`add_explain_arguments` and of ``cli.add_predictor_arguments``.
        load: makes the predictor that the arguments ask for; not called when labels are enough.

    Returns:
        The folder.

    Raises:
        OSError, ValueError, ImportError: bad input; the message names it.
    """
    scene, method = _from_data(arguments, load) if arguments.data is not None else _from_picture(arguments, load)
    grouping = method.grouping
    if arguments.assignment is not None:
        grouping = with_assignment(grouping, arguments.assignment)
    explanation = explain(
        grouping, scene.peaks, scene.detections, scene.skeleton, scene.window, scene.owners
    )
    least = arguments.score_threshold
    if least is None:
        least = 0.0 if scene.window is None else _DRAWN
    out = open_run_folder(arguments.out, "explain")
    height, width = scene.image_size
    about = f"{scene.name}, {width} x {height} pixels; {scene.given}; grouped by {method.name}, rule {explanation.rule}"
    lines = [about, *explanation_lines(explanation, least)]
    print("\n".join(lines))
    (out / "explanation.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {"picture": scene.name, "image_size": scene.image_size, "input": scene.given, "grouping": method.name}
    with written_whole(out / "explanation.json") as partial:
        partial.write_text(json.dumps({**content, **to_json(explanation)}, indent=1) + "\n", encoding="utf-8")
    page = explanation_page(
        f"Who got which peak: {scene.name}", about, explanation, scene.image_size, scene.image, least
    )
    page.write(out / "explanation.html")
    _write_grids(explanation, out)
    return out


def _from_data(arguments: argparse.Namespace, load: Callable[[], PosePredictor]) -> tuple[Scene, GroupingMethod]:
    image_id = _image_id(arguments.picture)
    if arguments.input == NETWORK:
        predictor = _network(arguments, load)
        own = grouping_of(predictor.method)
        dataset, index = open_labels(arguments.data, arguments.split, image_id, predictor.skeleton)
        sample = dataset[index]
        scene = scene_of_picture(predictor, sample.image, f"image {image_id}", sample.labels)
        return scene, _chosen_grouping(arguments, own, predictor.skeleton, predictor.device)
    method = _grouping_for_labels(arguments, load)
    method.model.cpu().eval()  # one picture's labels are not worth the way to a GPU
    dataset, index = open_labels(arguments.data, arguments.split, image_id, method.skeleton)
    return scene_of_labels(dataset, index, arguments.input), method


def _grouping_for_labels(arguments: argparse.Namespace, load: Callable[[], PosePredictor]) -> GroupingMethod:
    """The grouping that the flags ask for; by default the one that ships by itself, learnt from labels alone."""
    if arguments.grouping is not None:
        return open_grouping(arguments.grouping)
    if arguments.model is not None:
        return grouping_of(load().method)
    if arguments.weights is not None:
        return open_grouping(arguments.weights)
    with resources.as_file(resources.files("multiposenet") / "assets" / _SHIPPED) as path:
        return open_grouping(path)


def _from_picture(arguments: argparse.Namespace, load: Callable[[], PosePredictor]) -> tuple[Scene, GroupingMethod]:
    if arguments.input != "ground truth":
        raise ValueError(f"--input {arguments.input!r} is about labels; give --data too, and an image's id as PICTURE")
    name, image = _read(arguments.picture)
    predictor = _network(arguments, load)
    own = grouping_of(predictor.method)
    scene = scene_of_picture(predictor, image, name)
    return scene, _chosen_grouping(arguments, own, predictor.skeleton, predictor.device)


def _network(arguments: argparse.Namespace, load: Callable[[], PosePredictor]) -> PosePredictor:
    """The predictor; a grouping's file given for a network's is an error that says where it belongs."""
    try:
        return load()
    except ValueError:
        if arguments.weights is None or read_weights(arguments.weights)[1].get("model") not in GROUPINGS:
            raise
    raise ValueError(
        f"{arguments.weights} holds a grouping, not a network that finds peaks and boxes in a picture; give it with "
        "--grouping"
    )


def _chosen_grouping(
    arguments: argparse.Namespace, own: GroupingMethod, skeleton: Skeleton, device: torch.device
) -> GroupingMethod:
    """The grouping that the flags ask for, on the device; a predictor's own by default."""
    if arguments.grouping is None:
        return own
    method = open_grouping(arguments.grouping)
    if method.skeleton.keypoints != skeleton.keypoints:
        raise ValueError(
            f"{arguments.grouping} groups the keypoints of skeleton {method.skeleton.name!r}, the network finds those "
            f"of {skeleton.name!r}; give a grouping that was trained for them"
        )
    method.model.to(device).eval()
    return method


def _read(picture: str | None) -> tuple[str, np.ndarray]:
    if picture is None:
        with resources.as_file(resources.files("multiposenet") / "assets" / "samples" / _SAMPLE) as path:
            picture = str(path)
    elif picture.isdecimal() and not Path(picture).exists():
        raise ValueError(f"there is no file {picture}; if it is an image's id, give its data set with --data DIR")
    found = find_pictures([picture])
    if len(found) != 1:
        raise ValueError(f"{picture} names {len(found)} pictures; one at a time is explained")
    return found[0].name, found[0].read()


def _image_id(picture: str | None) -> int:
    if picture is None or not picture.isdecimal():
        raise ValueError(f"with --data, PICTURE is an image's id, a number like 785, got {picture or 'nothing'!r}")
    return int(picture)


def _write_grids(explanation: Explanation, out: Path) -> None:
    """What a network on grids saw and answered, person after person."""
    grids = [person.grids for person in explanation.people if person.grids is not None]
    if grids:
        shown, answer = (np.stack([getattr(own, part) for own in grids]) for part in ("shown", "answer"))
        np.savez_compressed(out / "grids.npz", shown=shown, answer=answer)
