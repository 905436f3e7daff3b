"""Options of the training scripts: a frozen dataclass, a TOML file over it, flags over that.

``--opt`` alone prints the resolved options and goes on; ``--opt FILE.toml`` loads a file at that place of the command
line, so that what stands after it wins. ``--resume FOLDER`` puts the options of an earlier run (``options.toml`` in its
folder) in the place of the defaults. Unknown flags and unknown keys are errors, nothing is abbreviated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Options = TypeVar("Options")
Choice = TypeVar("Choice")

OPTIONS_FILE = "options.toml"
"""What a run was started with, in its folder."""


def choose(option: str, name: str, choices: Mapping[str, Choice]) -> Choice:
    """What the name that an option has stands for.

    Raises:
        ValueError: there is no such name; the message lists those there are.
    """
    if name not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, got {name!r}")
    return choices[name]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; ``above`` leaves out ``low`` itself."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        least = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return least if math.isinf(self.high) else f"{least} and at most {self.high:g}"


POSITIVE = Range(0, above=True)
SHARE = Range(0, 1)


def check_numbers(options: Any, allowed: Range, *names: str) -> None:
    """ValueError, with the option's name, unless each of these options has numbers in a range, or None."""
    for name in names:
        given = getattr(options, name)
        for value in given if isinstance(given, tuple) else (given,):
            if value is not None and value not in allowed:
                raise ValueError(f"{name} must be {allowed}, got {value}")


def option(default: Any, help: str, choices: Sequence[str] = (), aliases: Sequence[str] = ()) -> Any:
    """A dataclass field with what the command line shows; ``aliases`` are other names for flag and TOML key."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices), "aliases": tuple(aliases)})


@dataclass(frozen=True)
class _Kind:
    """How the text or TOML value of one field is read."""

    item: type
    many: bool
    optional: bool

    def read(self, value: Any, name: str) -> Any:
        if value is None or (self.optional and value == "none"):
            return None
        if self.many:
            parts = value.split(",") if isinstance(value, str) else value
            if not isinstance(parts, (list, tuple)):
                raise ValueError(f"{name} must be a list, got {value!r}")
            return tuple(self._one(part, name) for part in parts)
        return self._one(value, name)

    def _one(self, value: Any, name: str) -> Any:
        if self.item is bool:
            if isinstance(value, bool):
                return value
            raise ValueError(f"{name} must be true or false, got {value!r}")
        if isinstance(value, bool) or (not isinstance(value, str) and self.item is str):
            raise ValueError(f"{name} must be {self.item.__name__}, got {value!r}")
        try:
            if self.item is int and isinstance(value, float):
                raise ValueError
            return self.item(value)
        except ValueError:
            raise ValueError(f"{name} must be {self.item.__name__}, got {value!r}") from None


def _kind(annotation: Any) -> _Kind:
    optional = False
    if isinstance(annotation, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        optional = len(members) < len(typing.get_args(annotation))
        (annotation,) = members
    if typing.get_origin(annotation) is tuple:
        return _Kind(typing.get_args(annotation)[0], many=True, optional=optional)
    return _Kind(annotation, many=False, optional=optional)


def _fields(kind: type) -> dict[str, tuple[dataclasses.Field, _Kind]]:
    hints = typing.get_type_hints(kind)
    return {f.name: (f, _kind(hints[f.name])) for f in dataclasses.fields(kind)}


def read_options_file(kind: type, path: str | Path) -> dict[str, Any]:
    """Field values from a TOML file, checked against the dataclass ``kind``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not TOML, an unknown key, or a value of the wrong type; the message names file and key.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a TOML file, for it is not text in UTF-8; give options like name = 3") from None
    fields = _fields(kind)
    names = {alias: name for name, (f, _) in fields.items() for alias in (name, *f.metadata["aliases"])}
    values = {}
    for key, value in content.items():
        key = key.replace("-", "_")
        if key not in names:
            raise ValueError(f"{path}: unknown option {key!r}; known: {', '.join(sorted(names))}")
        values[names[key]] = _checked(*fields[names[key]], value, f"{path}: {key}")
    return values


def check_same_run(options: Any, folder: Path, free: Sequence[str]) -> None:
    """Refuses to resume a run with other options than it was started with (``options.toml`` in its folder).

    Args:
        free: fields that may differ.

    Raises:
        FileNotFoundError: the folder holds no ``options.toml``.
        ValueError: names the fields that differ and what to do.
    """
    path = folder / OPTIONS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; --resume takes the folder of an earlier run")
    before = type(options)(**read_options_file(type(options), path))
    changed = [
        f"{name} {getattr(before, name)!r} -> {getattr(options, name)!r}"
        for name in vars(options)
        if name not in free and getattr(before, name) != getattr(options, name)
    ]
    if changed:
        differences = "; ".join(changed)
        raise ValueError(f"--resume {folder}: options differ from that run's ({differences}); leave these out")


def _checked(f: dataclasses.Field, kind: _Kind, value: Any, name: str) -> Any:
    value = kind.read(value, name)
    choices = f.metadata["choices"]
    if choices and value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def parse_options(kind: type[Options], argv: Sequence[str] | None = None, description: str = "") -> Options:
    """Reads the options ``kind`` from a command line; every field is a flag ``--field-name``.

    Exits with status 2 and a message for anything that does not fit, as argparse does.
    """
    parser = argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )

    class LoadFile(argparse.Action):
        def __call__(self, parser, namespace, path, option_string=None):
            if path is None:
                namespace.print_options = True
                return
            try:
                values = read_options_file(kind, path)
            except (OSError, ValueError) as error:
                parser.error(str(error))
            for name, value in values.items():
                setattr(namespace, name, value)

    parser.add_argument(
        "--opt",
        nargs="?",
        action=LoadFile,
        metavar="FILE.toml",
        default=argparse.SUPPRESS,
        help="load options from a TOML file; alone: print the resolved options and go on",
    )
    for name, (f, field_kind) in _fields(kind).items():
        flags = [f"--{alias}" for other in (name, *f.metadata["aliases"]) for alias in _spellings(other)]
        shared = {"dest": name, "default": f.default, "help": f.metadata["help"]}
        if field_kind.item is bool:
            parser.add_argument(*flags, action=argparse.BooleanOptionalAction, **shared)
        else:
            reader = _reader(f, field_kind, name)
            metavar = "{" + ",".join(f.metadata["choices"]) + "}" if f.metadata["choices"] else name.upper()
            parser.add_argument(*flags, type=reader, metavar=metavar, **shared)
    try:
        parser.set_defaults(**_options_of_earlier_run(kind, argv))
    except ValueError as error:
        parser.error(str(error))
    namespace = vars(parser.parse_args(argv))
    print_options = namespace.pop("print_options", False)
    try:
        options = kind(**namespace)
    except ValueError as error:
        parser.error(str(error))
    if print_options:
        print(to_toml(options), end="")
    return options


def _spellings(name: str) -> list[str]:
    """With hyphens and with underscores, one where they are the same; always in this order, as the help shows them."""
    return list(dict.fromkeys((name.replace("_", "-"), name)))


def _options_of_earlier_run(kind: type, argv: Sequence[str] | None) -> dict[str, Any]:
    """Those of the run that ``--resume`` names anywhere on the command line; none when there is no such run."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--resume", nargs="?")
    folder = finder.parse_known_args(argv)[0].resume
    file = Path(folder or "") / OPTIONS_FILE
    return read_options_file(kind, file) if folder and file.is_file() else {}


def _reader(f: dataclasses.Field, kind: _Kind, name: str):
    def read(text: str) -> Any:
        try:
            return _checked(f, kind, text, "value")
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    read.__name__ = name
    return read


def to_toml(options: Any) -> str:
    """The options as TOML that :func:`read_options_file` reads back; fields that are None are left out."""
    lines = []
    for name, value in dataclasses.asdict(options).items():
        if value is not None:
            # JSON's numbers, strings, booleans and lists are TOML's, but for what follows.
            text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
            text = text.replace("\x7f", "\\u007f")
            if not isinstance(value, str):
                text = text.replace("Infinity", "inf").replace("NaN", "nan")
            lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"


def parse_model_options(texts: Sequence[str], flag: str = "model_options") -> dict[str, Any]:
    """``name=value`` texts as arguments of a model's builder.

    A value is read as JSON where it is that (numbers, true, false, null), as several numbers when it is like
    ``384x288`` or ``1.25x1.5``, else as text.

    Raises:
        ValueError: a text without an equals sign.
    """
    return {name: _plain_value(value) for name, value in parse_pairs(texts, flag, "prm=true").items()}


def parse_pairs(texts: Sequence[str], flag: str, example: str, form: str = "name=value") -> dict[str, str]:
    """``name=value`` texts as a mapping; ValueError, with the flag, for a text without an equals sign."""
    pairs = [text.partition("=") for text in texts]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise ValueError(f"{flag} takes {form}, e.g. {example}; got {name + equals + value!r}")
    return {name: value for name, _, value in pairs}


def _plain_value(text: str) -> Any:
    try:
        numbers = [json.loads(part) for part in text.split("x")]
    except ValueError:
        return text
    return numbers[0] if len(numbers) == 1 else tuple(numbers)
