"""Weights files as things to look after: what is in them, whether they are whole, and other projects' as ours."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from multiposenet.checkpoint import save_tensors, sha256
from multiposenet.importers import read_weights
from multiposenet.methods import match_weights

UNKNOWN = "-"
"""Stands for what a file does not say."""
NAMED = 5
"""Tensors that an error names, of many."""
WIDTH = 120
"""Characters a line of what is told about data."""


@dataclass(frozen=True)
class WeightsFile:
    """What is known of a weights file, in words.

    Args:
        name: the file's name.
        model: the model (or the grouping) it is for; for a file of only some parts of a model, these.
        data: what it was trained on.
        average_precision: as its maker measured it, and on what.
        licence: the licence it comes under.
        size: bytes.
        sha256: hex digest of its bytes.
    """

    name: str
    model: str
    data: str
    average_precision: str
    licence: str
    size: int
    sha256: str


def shipped_weights() -> list[Path]:
    """The weights files that come with the package."""
    folder = resources.files("multiposenet") / "assets"
    return sorted(Path(str(file)) for file in folder.iterdir() if file.name.endswith(".safetensors"))


def describe_weights(path: str | Path) -> WeightsFile:
    """What a weights file says about itself.

    Raises:
        FileNotFoundError, ValueError, ImportError: see ``importers.read_weights``.
    """
    return _describe(Path(path), read_weights(path)[1])


def verify_weights(path: str | Path, model: str | None = None) -> WeightsFile:
    """Reads a weights file to the last byte and checks that it can be used.

    Args:
        path: ours, or one that ``importers`` knows.
        model: the name of the model or grouping, for files that do not say it.

    Raises:
        FileNotFoundError, ImportError: see ``importers.read_weights``.
        ValueError: damaged, with numbers that are not finite, of no known model or grouping, or not what it needs.
    """
    tensors, metadata = read_weights(path)
    _check(tensors, metadata, str(path), model)
    return _describe(Path(path), metadata, model)


def convert_weights(
    source: str | Path, target: str | Path, model: str | None = None, half: bool = False
) -> WeightsFile:
    """Writes a weights file that we can read as one of ours, with all that was known or assumed about it as metadata.

    A file of only some parts of a model becomes a file of these parts.

    Args:
        source: ours, or one that ``importers`` knows.
        target: the .safetensors file to write; one that is there is replaced.
        model: the name of the model or grouping, for files that do not say it.
        half: store in half precision, for half the size.

    Raises:
        FileNotFoundError, ImportError, ValueError: see :func:`verify_weights`; or ``target`` is ``source``, or has
            another ending, or a number is too large for half precision.
        OSError: ``target`` cannot be written.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: weights are written as safetensors; let the name end in .safetensors")
    tensors, metadata = read_weights(source)
    if target.resolve() == source.resolve():
        raise ValueError(f"{target} is the file to convert; choose another name for the result")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} into; make it first")
    name = _check(tensors, metadata, str(source), model)
    if half:
        _check_finite({key: value.half() for key, value in tensors.items()}, f"{source} in half precision")
    facts = metadata | {"converted_from": {"file": source.name, "sha256": sha256(source)}}
    if name is not None:
        facts["model"] = name
    save_tensors(tensors, target, facts, torch.float16 if half else None)
    return _describe(target, facts)


def weights_table(files: Sequence[WeightsFile]) -> str:
    """The files one a line, under a line of headings; below it what each was trained on."""
    rows = [("name", "model", "AP", "licence", "size", "sha256")]
    rows += [(f.name, f.model, f.average_precision, f.licence, f"{f.size / 1e6:.1f} MB", f.sha256) for f in files]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    data = [_indented(f"{f.name}: {f.data}") for f in files]
    return "\n".join([*table, "", "data", *data])


def _indented(text: str) -> str:
    """A paragraph whose first line sticks out."""
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)


def _check(tensors: Mapping[str, Tensor], metadata: dict, source: str, model: str | None) -> str | None:
    """Raises ValueError unless the tensors are usable; returns the model's or grouping's name, None
    when they fit several."""
    parts = metadata.get("parts")
    name = model or metadata.get("model")
    if name is None and parts is not None:
        if strangers := [key for key in tensors if key.partition(".")[0] not in parts]:
            raise ValueError(f"{source}: holds {', '.join(parts)}, but also {', '.join(strangers[:NAMED])}")
    else:
        match_weights(tensors, metadata, source, name)
    _check_finite(tensors, source)
    return name


def _check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    bad = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if bad:
        more = " ..." if len(bad) > NAMED else ""
        raise ValueError(f"{source}: numbers that are not finite in {', '.join(bad[:NAMED])}{more}")


def _describe(path: Path, metadata: dict, model: str | None = None) -> WeightsFile:
    name, parts = model or metadata.get("model"), metadata.get("parts")
    held = UNKNOWN if parts is None else ", ".join(parts)
    return WeightsFile(
        name=path.name,
        model=held if name is None else name if parts is None else f"{name} ({held})",
        data=_data_in_words(metadata.get("data")),
        average_precision=_ap_in_words(metadata),
        licence=str(metadata.get("licence", UNKNOWN)),
        size=path.stat().st_size,
        sha256=sha256(path),
    )


def _data_in_words(data: list | dict | str | None) -> str:
    parts = data if isinstance(data, list) else [data]
    # People are pasted into all of several data sets or into none.
    return " and ".join(map(_pictures_in_words, parts)) + "".join(map(_pasted_in_words, parts[-1:]))


def _pictures_in_words(data: dict | str | None) -> str:
    if not isinstance(data, dict):
        return UNKNOWN if data is None else str(data)
    drawn = data.get("made_by", data)
    name = " ".join(str(drawn[field]) for field in ("generator", "arrangement") if field in drawn)
    name = name or data.get("annotations")
    pictures = data.get("images", data.get("count", "?"))
    # Data sets in COCO's layout share their files' names; the hash tells them apart.
    which = f", sha256 {data['sha256'][:8]}" if "sha256" in data else ""
    return f"{name or UNKNOWN} ({pictures} pictures{which})"


def _pasted_in_words(data: dict | str | None) -> str:
    if not isinstance(data, dict) or "pasted" not in data:
        return ""
    return f", with people of {_data_in_words(data['pasted'])} pasted in"


def _ap_in_words(metadata: dict) -> str:
    ap = metadata.get("figures", {}).get("AP")
    if ap is None:
        return UNKNOWN
    where = metadata.get("evaluated_on")
    return f"{ap:.3f}" if where is None else f"{ap:.3f} ({where})"
