"""``multiposenet data check`` and ``multiposenet data convert``."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from multiposenet.bad_input import refuse
from multiposenet.data.check.corrected_copy import CHANGES_FILE, CorrectedSplit, write_corrected
from multiposenet.data.check.findings import Severity
from multiposenet.data.check.page import write_page
from multiposenet.data.check.report import check_data
from multiposenet.data.check.sources import find_splits
from multiposenet.data.convert.conversion import SOURCES, WRITERS, read_any, write_any
from multiposenet.data.formats import FORMATS
from multiposenet.data.picture_copies import WAYS
from multiposenet.skeletons import get_skeleton

FOUND = 1
"""Exit status when something as bad as ``--fail-on`` was found."""


def add_data_commands(commands: argparse._SubParsersAction) -> None:
    """Adds ``data`` with its actions to the console command."""
    data = commands.add_parser("data", allow_abbrev=False, help="check and convert data sets")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_check(actions)
    _add_convert(actions)


def _add_check(actions: argparse._SubParsersAction) -> None:
    check = actions.add_parser(
        "check",
        allow_abbrev=False,
        help="find what is wrong with a data set",
        description="Finds what is wrong with the annotations and pictures of a data set in COCO's format. Exit "
        "status: 0 nothing as bad as --fail-on, 1 something, 2 the input cannot be used.",
    )
    check.add_argument("source", metavar="DIR", help="the data set's folder, or one annotation file")
    _add_source_arguments(check)
    check.add_argument("--no-pictures", action="store_true", help="check the annotation files only")
    check.add_argument("--json", metavar="FILE", help="also write the report as JSON, with all places")
    check.add_argument("--html", metavar="FILE", help="also write the report as a page with pictures")
    check.add_argument(
        "--fix", metavar="OUT", help="write a corrected copy to a new folder, and what was changed; DIR stays as it is"
    )
    check.add_argument(
        "--fail-on", choices=[str(severity) for severity in reversed(Severity)], default="error",
        help="what makes the exit status 1 (%(default)s)",
    )  # fmt: skip
    check.add_argument("--workers", type=int, default=2, metavar="N", help="threads that read pictures (%(default)s)")
    check.set_defaults(run=_check)


def _add_convert(actions: argparse._SubParsersAction) -> None:
    convert = actions.add_parser(
        "convert",
        allow_abbrev=False,
        help="turn a data set into another format",
        description="Reads a data set and writes it in another format: YOLO-pose folders, MPII and whatever uses "
        "COCO's format, to clean COCO or to YOLO-pose. Everything that was assumed, changed or left out is printed.",
    )
    convert.add_argument("source", metavar="IN", help="folder or file; it is only read")
    convert.add_argument("out", metavar="OUT", help="a new folder")
    convert.add_argument("--from", dest="kind", required=True, choices=SOURCES, help="coco: any file in COCO's format")
    convert.add_argument("--to", required=True, choices=WRITERS)
    convert.add_argument(
        "--split", action="append", default=[], metavar="NAME", help="only this split; may be given several times"
    )
    convert.add_argument("--skeleton", metavar="NAME", help="a TOML file or a built-in one; by default the files' own")
    convert.add_argument("--category", metavar="NAME", help="the people's category or class, where there are several")
    convert.add_argument("--pictures", metavar="FOLDER", help="where the pictures lie, if not where the format says")
    convert.add_argument("--place", choices=WAYS, default="link", help="how the pictures come into OUT (%(default)s)")
    convert.set_defaults(run=_convert)


def _add_source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split", action="append", default=[], metavar="NAME", help="only this split; may be given several times"
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="where the files lie; by default the first that fits the folder"
    )
    parser.add_argument("--skeleton", metavar="NAME", help="a TOML file or a built-in one; by default the file's own")
    parser.add_argument("--pictures", metavar="FOLDER", help="where the pictures lie, if not where the format says")


def _check(arguments: argparse.Namespace, load: Callable | None = None) -> int:
    try:
        layout = FORMATS[arguments.format] if arguments.format else None
        skeleton = get_skeleton(arguments.skeleton) if arguments.skeleton else None
        sources = find_splits(arguments.source, arguments.split, layout, arguments.pictures)
        report = check_data(sources, skeleton, not arguments.no_pictures, arguments.workers)
        print("\n".join(report.lines()))
        if arguments.json:
            path = _new_file(arguments.json)
            path.write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
            print(f"JSON: {path}")
        if arguments.html:
            path = _new_file(arguments.html)
            write_page(report, path, f"Check of {arguments.source}")
            print(f"page: {path}")
        if arguments.fix:
            corrected = write_corrected(report.splits, arguments.source, arguments.fix, skeleton)
            print("\n".join(_corrected_lines(corrected, Path(arguments.fix))))
    except (OSError, ValueError) as error:
        return refuse("multiposenet data check", error)
    return FOUND if report.fails(Severity[arguments.fail_on.upper()]) else 0


def _convert(arguments: argparse.Namespace, load: Callable | None = None) -> int:
    try:
        skeleton = get_skeleton(arguments.skeleton) if arguments.skeleton else None
        pictures = Path(arguments.pictures).expanduser() if arguments.pictures else None
        source, out = Path(arguments.source).expanduser(), Path(arguments.out).expanduser()
        splits = read_any(arguments.kind, source, arguments.split, skeleton, arguments.category, pictures)
        notes = write_any(arguments.to, splits, out, arguments.place)
    except (OSError, ValueError) as error:
        return refuse("multiposenet data convert", error)
    for split in splits:
        print(f"{split.name}: {len(split.images):,} pictures, {len(split.annotations):,} people")
    print("\n".join(f"note: {note}" for note in notes))
    print(f"written: {out}")
    return 0


def _new_file(path: str) -> Path:
    file = Path(path).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _corrected_lines(corrected: Sequence[CorrectedSplit], out: Path) -> list[str]:
    lines = ["", f"corrected copy: {out}, all changes: {out / CHANGES_FILE}"]
    for split in corrected:
        counts = Counter(change.check for change in split.changes)
        changed = ", ".join(f"{check} {count:,}" for check, count in counts.items()) or "nothing"
        left = ", ".join(f"{finding.name} {finding.count:,}" for finding in split.left) or "nothing"
        lines += [f"{split.name}: changed: {changed}", f"{split.name}: left for you: {left}"]
    return lines
