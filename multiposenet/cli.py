"""The console command: ``predict`` from pictures to poses, ``explain`` why, ``models``, ``weights``, ``data``."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from multiposenet.bad_input import UNREADABLE, refuse
from multiposenet.data_commands import add_data_commands
from multiposenet.explanation.command import add_explain_arguments, explain_command
from multiposenet.geometry import xywh_to_xyxy
from multiposenet.inputs import InputPicture, find_pictures, number_pictures, sample_pictures
from multiposenet.options import parse_model_options
from multiposenet.precision import PRECISIONS
from multiposenet.predictor import SMALLEST_IMAGE, PosePredictor
from multiposenet.result_files import ResultFiles
from multiposenet.runs import open_run_folder
from multiposenet.visualize import draw_poses


def main(argv: Sequence[str] | None = None, load: Callable | None = None) -> int:
    """Runs the command and returns its exit status.

    Args:
        argv: arguments without the program's name; the process's own by default.
        load: makes the predictor, :func:`multiposenet.load` by default.

    Returns:
        0 when all went well, 1 when some pictures or weights could not be processed, 2 when the input or an argument
        is bad.
    """
    arguments = _parser().parse_args(_with_negative_boxes(sys.argv[1:] if argv is None else argv))
    return arguments.run(arguments, load)


def package_version() -> str:
    """Version of the installed package."""
    try:
        return importlib.metadata.version("multiposenet")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def add_predictor_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that choose and set up a predictor, the same in every command."""
    parser.add_argument("--model", metavar="NAME", help="architecture; by default what the weights say")
    parser.add_argument(
        "--weights", metavar="FILE", help="checkpoint, or several with commas between them, averaged; by default the "
        "one that ships with the package"
    )  # fmt: skip
    parser.add_argument(
        "--detector", metavar="FILE", help="weights that find the people for a model that looks at them one by one; by "
        "default those that ship with the package"
    )  # fmt: skip
    parser.add_argument(
        "--model-options", type=_model_options, metavar="NAME=VALUE,...", help="arguments of the model's builder that "
        "win over those of the weights, e.g. refined=true"
    )  # fmt: skip
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; by default the GPU when there is one")
    parser.add_argument("--batch-size", type=positive_int, default=8, metavar="N", help="pictures at once (8)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="what networks calculate in (fp32); bf16 and fp16 are quicker "
        "where the machine knows them"
    )  # fmt: skip
    parser.add_argument("--image-size", type=_image_size, metavar="PIXELS", help="longer side that the network sees")
    parser.add_argument("--flip", action="store_true", help="also look at the mirrored picture and average")
    parser.add_argument("--scales", type=_scales, metavar="0.5,1,2", help="look at several sizes and average")
    parser.add_argument("--box-threshold", type=_share, metavar="SCORE", help="people below this score are dropped")
    parser.add_argument("--max-people", type=positive_int, metavar="N", help="most people in one picture")


def load_predictor(arguments: argparse.Namespace, load: Callable | None = None):
    """The predictor that the flags of :func:`add_predictor_arguments` ask for."""
    if load is None:
        from multiposenet import load
    weights = arguments.weights
    if weights is not None and "," in weights:
        weights = weights.split(",")
    predictor = load(weights, device=arguments.device, model=arguments.model, **predictor_options(arguments))
    if predictor.weights is None:
        print(f"warning: {predictor.name} has random weights, its poses mean nothing; give --weights", file=sys.stderr)
    return predictor


def predictor_options(arguments: argparse.Namespace) -> dict:
    """The options given on the command line; those left out keep the predictor's own defaults."""
    names = (
        *("batch_size", "precision", "image_size", "flip", "scales", "box_threshold", "max_people"),
        *("detector", "model_options"),
    )
    return {name: value for name in names if (value := getattr(arguments, name)) not in (None, False)}


def stage_times(timings: dict[str, float]) -> str:
    """One line of seconds a stage."""
    return ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in timings.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="multiposenet", description="Multi-person pose estimation.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"multiposenet {package_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    predict = commands.add_parser(
        "predict",
        allow_abbrev=False,
        help="find the people in pictures",
        description="Finds the people in pictures; writes annotated copies, predictions.json (COCO results) and "
        "poses.json. Without INPUT it runs on sample pictures that ship with the package.",
    )
    predict.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="file, folder (with subfolders), quoted pattern or http(s) address"
    )
    add_predictor_arguments(predict)
    predict.add_argument(
        "--score-threshold", type=_share, default=0.2, metavar="SCORE",
        help="people below it are neither drawn nor counted; the JSON files have them all (%(default)s)",
    )  # fmt: skip
    predict.add_argument(
        "--keypoint-threshold", type=_share, default=0.1, metavar="SCORE",
        help="keypoints below it are not drawn; the JSON files have them all (%(default)s)",
    )  # fmt: skip
    predict.add_argument(
        "--boxes", type=_box, action="append", metavar="X,Y,W,H",
        help="where a person is in every picture, instead of finding out; once for each",
    )  # fmt: skip
    predict.add_argument("--no-pictures", action="store_true", help="write the JSON files only")
    predict.add_argument("--out", metavar="DIR", help="by default runs/predict, then runs/predict2, ...")
    predict.set_defaults(run=_predict)

    models = commands.add_parser("models", allow_abbrev=False, help="list the model names")
    models.set_defaults(run=_list_models)
    explain = commands.add_parser(
        "explain",
        allow_abbrev=False,
        help="show why every keypoint of a picture went to whom it went",
        description="Draws for each person of one picture the box, the peaks that could be this person's, their "
        "scores, what was chosen and why; for a grouping by the pose residual network also its input and output. "
        "Writes explanation.html, .json and .txt.",
    )
    add_explain_arguments(explain)
    add_predictor_arguments(explain)
    explain.set_defaults(run=_explain)
    _add_weights_commands(commands)
    add_data_commands(commands)
    return parser


def _add_weights_commands(commands: argparse._SubParsersAction) -> None:
    weights = commands.add_parser("weights", allow_abbrev=False, help="list, verify and convert weights files")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser(
        "list", allow_abbrev=False, help="what the weights are, of the package and in the given files"
    )
    listing.add_argument("files", nargs="*", metavar="FILE", help="further weights files")
    listing.set_defaults(run=_list_weights)

    verify = actions.add_parser("verify", allow_abbrev=False, help="check that weights files are whole and can be used")
    verify.add_argument("files", nargs="+", metavar="FILE")
    verify.set_defaults(run=_verify_weights)

    convert = actions.add_parser(
        "convert",
        allow_abbrev=False,
        help="write any weights that can be read as a .safetensors file of ours",
        description="Writes weights as a .safetensors file of ours: PyTorch state dicts, and files of the projects in "
        "multiposenet/importers. Pickled code in a file is never run; such a file is refused.",
    )
    convert.add_argument("file", metavar="IN")
    convert.add_argument("out", metavar="OUT.safetensors")
    convert.add_argument("--half", action="store_true", help="store in half precision")
    convert.set_defaults(run=_convert_weights)
    for action in (verify, convert):
        action.add_argument("--model", metavar="NAME", help="the model, for files that do not say it")


def _list_weights(arguments: argparse.Namespace, load: Callable | None) -> int:
    from multiposenet.weights import describe_weights, shipped_weights, weights_table

    found, failed = [], 0
    for file in [*shipped_weights(), *arguments.files]:
        try:
            found.append(describe_weights(file))
        except UNREADABLE as error:
            failed += 1
            print(f"failed: {error}", file=sys.stderr)  # the message names the file
    print(weights_table(found))
    return 1 if failed else 0


def _verify_weights(arguments: argparse.Namespace, load: Callable | None) -> int:
    from multiposenet.weights import verify_weights

    failed = 0
    for file in arguments.files:
        try:
            verified = verify_weights(file, arguments.model)
            print(f"{file}: whole, fits {verified.model}, sha256 {verified.sha256}", flush=True)
        except UNREADABLE as error:
            failed += 1
            print(f"failed: {error}", file=sys.stderr)
    return 1 if failed else 0


def _convert_weights(arguments: argparse.Namespace, load: Callable | None) -> int:
    from multiposenet.weights import convert_weights

    try:
        written = convert_weights(arguments.file, arguments.out, arguments.model, arguments.half)
    except UNREADABLE as error:
        return refuse("multiposenet weights convert", error)
    print(f"{arguments.out}: {written.model}, {written.size / 1e6:.1f} MB, sha256 {written.sha256}")
    return 0


def _explain(arguments: argparse.Namespace, load: Callable | None) -> int:
    try:
        out = explain_command(arguments, lambda: load_predictor(arguments, load))
    except UNREADABLE as error:
        return refuse("multiposenet explain", error)
    print(f"page: {out / 'explanation.html'}")
    return 0


def _list_models(arguments: argparse.Namespace, load: Callable | None) -> int:
    from multiposenet import list_models

    print("\n".join(list_models()))
    return 0


def _predict(arguments: argparse.Namespace, load: Callable | None) -> int:
    try:
        sources = find_pictures(arguments.inputs) if arguments.inputs else sample_pictures()
        output_names = unique_names([source.name for source in sources])
        if arguments.out and not arguments.no_pictures:
            _refuse_overwriting(sources, Path(arguments.out), output_names)
        predictor = load_predictor(arguments, load)
        out = open_run_folder(arguments.out, "predict")
    except UNREADABLE as error:
        return refuse("multiposenet predict", error)

    header = {
        "multiposenet": package_version(),
        "model": predictor.name,
        "weights": None if predictor.weights is None else str(predictor.weights),
        "options": {**predictor_options(arguments), "device": arguments.device},
        "skeleton": predictor.skeleton.to_dict(),
    }
    try:
        done, failed, people = _write_poses(arguments, predictor, sources, output_names, ResultFiles(out, header))
    except UNREADABLE as error:
        print(f"results so far: {out}")
        return refuse("multiposenet predict", error, out)
    print(f"{_count(people, 'person', 'people')} in {_count(done, 'picture', 'pictures')}", end="")
    print(f"; {failed} could not be read, see above" if failed else "")
    if timings := getattr(predictor, "timings", None):
        print(f"time: {stage_times(timings)}")
    print(f"results: {out}")
    if done == 0:
        return 2
    return 1 if failed else 0


def _write_poses(
    arguments: argparse.Namespace,
    predictor: PosePredictor,
    sources: Sequence[InputPicture],
    output_names: Sequence[str],
    results: ResultFiles,
) -> tuple[int, int, int]:
    """Takes all pictures through the predictor; how many were done, could not be read, and have how many people.

    Raises:
        OSError, ValueError: something cannot be written, or the pictures not be processed; what was done is in the
            files.
    """
    image_ids = number_pictures([source.name for source in sources])
    done = failed = people = 0
    with results:
        for start in range(0, len(sources), arguments.batch_size):
            batch = range(start, min(start + arguments.batch_size, len(sources)))
            images = {}
            for index in batch:
                try:
                    images[index] = sources[index].read()
                except (OSError, ValueError) as error:
                    failed += 1
                    print(f"failed: {error}", file=sys.stderr)  # the message names the picture
                    results.add_failure(
                        file=sources[index].location, image_id=image_ids[index], error=str(error)
                    )
            for index, image in images.items():
                for box in _boxes_outside(arguments.boxes or (), image.shape[:2]):
                    height, width = image.shape[:2]
                    print(
                        f"warning: {sources[index].name} is {width} x {height} pixels, --boxes {box} lies outside",
                        file=sys.stderr,
                    )
            if not images:
                continue
            started = time.perf_counter()
            found = predictor(list(images.values()), **_given_boxes(arguments.boxes, len(images)))
            milliseconds = 1000 * (time.perf_counter() - started) / len(images)
            for (index, image), poses in zip(images.items(), found, strict=True):
                poses = poses.to("cpu")
                picture = None
                if not arguments.no_pictures:
                    picture = output_names[index]
                    drawing = draw_poses(
                        image,
                        poses,
                        score_threshold=arguments.score_threshold,
                        keypoint_threshold=arguments.keypoint_threshold,
                    )
                    drawing.save(results.folder / picture, quality=92)
                results.add(
                    poses, image_ids[index], image.shape[:2], file=sources[index].location, picture=picture
                )
                done += 1
                shown = int((poses.scores >= arguments.score_threshold).sum())
                people += shown
                number = _count(shown, "person", "people")
                print(f"{sources[index].name}: {number}, {milliseconds:.0f} ms", flush=True)
    return done, failed, people


def unique_names(names: Sequence[str]) -> list[str]:
    """JPEG file names after the given ones, different from each other whatever the case: a.jpg, a-2.jpg, ..."""
    taken: set[str] = set()
    unique = []
    for name in names:
        stem = candidate = Path(name).stem or "picture"
        number = 1
        while candidate.lower() in taken:
            number += 1
            candidate = f"{stem}-{number}"
        taken.add(candidate.lower())
        unique.append(f"{candidate}.jpg")
    return unique


def _refuse_overwriting(sources: Sequence[InputPicture], out: Path, output_names: Sequence[str]) -> None:
    written = {(out / name).resolve() for name in output_names}
    for source in sources:
        if Path(source.location).resolve() in written:
            raise ValueError(f"--out {out} would overwrite the input {source.location}; choose another folder")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def _image_size(text: str) -> int:
    number = positive_int(text)
    if number < SMALLEST_IMAGE:
        raise argparse.ArgumentTypeError(f"expected at least {SMALLEST_IMAGE}, got {number}")
    return number


def _boxes_outside(boxes_xywh: Sequence[tuple[float, ...]], size: tuple[int, int]) -> list[str]:
    """Those of the command line's boxes that have nothing in common with a picture of (height, width), as given."""
    height, width = size
    return [
        ",".join(f"{number:g}" for number in (x, y, w, h))
        for x, y, w, h in boxes_xywh
        if x >= width or y >= height or x + w <= 0 or y + h <= 0
    ]


def _given_boxes(boxes_xywh: Sequence[tuple[float, ...]] | None, pictures: int) -> dict:
    """The boxes of the command line as the predictor's argument, the same for every picture; empty without any."""
    if not boxes_xywh:
        return {}
    return {"boxes": [xywh_to_xyxy(np.array(boxes_xywh, np.float32))] * pictures}


def _with_negative_boxes(argv: Sequence[str]) -> list[str]:
    """The arguments with ``--boxes -5,10,80,200`` as one: argparse would take a box that begins outside for a flag."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] == "--boxes" and re.match(r"-[\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
        raise argparse.ArgumentTypeError(f"expected x,y,width,height in pixels like 10,20,80,200, got {text!r}")
    return box


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return number


def _model_options(text: str) -> dict[str, object]:
    try:
        return parse_model_options(text.split(","), "--model-options")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise argparse.ArgumentTypeError(f"expected positive numbers between commas like 0.5,1,2, got {text!r}")
    return scales


if __name__ == "__main__":
    sys.exit(main())
