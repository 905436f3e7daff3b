"""``data.yaml`` of YOLO data sets: the few keys that say where pictures are and what the keypoints are.

No YAML library is among the dependencies, and none is needed: the files hold flat keys with a text, a number, a list or
one level of keys below. What has another form is an error with its line, unless it stands under a key that nobody
asks for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_KEY = re.compile(r"([A-Za-z_][\w-]*|\d+|'[^']*'|\"[^\"]*\")\s*:(?:\s+(.*))?$")

Value = str | list | dict | None


def read_data_yaml(path: Path, keys: Sequence[str]) -> dict[str, Value]:
    """The values of some keys: a text, a list of texts, or a dict of those; numbers are texts too.

    Args:
        path: the file.
        keys: those that are wanted; others may have any content. A missing one is left out.

    Raises:
        ValueError: a wanted key's value has a form that is not known here; names file and line.
    """
    blocks: dict[str, list[tuple[int, str]]] = {}
    current: list[tuple[int, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        match = _KEY.match(line)
        if match:
            current = blocks[_unquoted(match[1])] = [(number, match[2] or "")]
        elif line.strip() and not line.lstrip().startswith("#") and line.strip() not in ("---", "..."):
            current.append((number, line))
    read = {}
    for key in keys:
        if key in blocks:
            try:
                read[key] = _value([(number, _uncommented(text)) for number, text in blocks[key]])
            except _FormError as error:
                raise ValueError(
                    f"{path}, line {error.line}: cannot read the value of {key!r}; write it as text, as a list in one "
                    "of YAML's two forms, or as keys with such values"
                ) from None
    return read


def write_data_yaml(path: Path, values: dict[str, str | list | dict]) -> None:
    """Writes texts, lists (of numbers or texts), and dicts of those, as YAML."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines.append(f"{key}:")
            for name, inner in value.items():
                lines.append(f"  {name}:" if isinstance(inner, list) else f"  {name}: {_quoted(inner)}")
                lines += [f"    - {_quoted(item)}" for item in (inner if isinstance(inner, list) else [])]
        elif isinstance(value, list):
            lines.append(f"{key}: [{', '.join(_quoted(item) for item in value)}]")
        else:
            lines.append(f"{key}: {_quoted(value)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class _FormError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(f"line {line}")
        self.line = line


def _value(lines: Sequence[tuple[int, str]]) -> Value:
    """The value of a key: what stands behind it, or else in the lines below."""
    (number, first), below = lines[0], lines[1:]
    if first.startswith("["):
        return _flow_list(number, " ".join([first, *(text.strip() for _, text in below)]))
    if first.startswith(("{", "|", ">", "&", "*", "!")):
        raise _FormError(number)
    if first:
        if below:
            raise _FormError(below[0][0])
        return _unquoted(first)
    if not below:
        return None
    if below[0][1].lstrip().startswith("-"):
        return [_list_item(*line) for line in below]
    return _keys_below(below)


def _keys_below(lines: Sequence[tuple[int, str]]) -> dict[str, Value]:
    indent = _indent(lines[0][1])
    blocks: dict[str, list[tuple[int, str]]] = {}
    current: list[tuple[int, str]] | None = None
    for number, text in lines:
        match = _KEY.match(text.strip())
        if _indent(text) == indent and match:
            current = blocks[_unquoted(match[1])] = [(number, match[2] or "")]
        elif current is None or _indent(text) < indent:
            raise _FormError(number)
        else:
            current.append((number, text))
    return {key: _value(block) for key, block in blocks.items()}


def _flow_list(number: int, text: str) -> list[str]:
    if not text.endswith("]") or "[" in text[1:] or "{" in text:
        raise _FormError(number)
    items = [item.strip() for item in text[1:-1].split(",")]
    return [_unquoted(item) for item in items if item]


def _list_item(number: int, text: str) -> str:
    mark, _, item = text.strip().partition(" ")
    if mark != "-" or not item or _KEY.match(item) or item.startswith(("[", "{")):
        raise _FormError(number)
    return _unquoted(item.strip())


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _uncommented(text: str) -> str:
    """Without a comment: a # behind a space, or at the start, that is not inside quotes."""
    quote = ""
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and (index == 0 or text[index - 1].isspace()):
            return text[:index].rstrip()
    return text.rstrip()


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    return text[1:-1].replace("''", "'") if text[0] == "'" else text[1:-1]


def _quoted(value: object) -> str:
    text = str(value)
    plain = not isinstance(value, str) or re.fullmatch(r"[A-Za-z_./][\w./ -]*", text)
    return text if plain else "'" + text.replace("'", "''") + "'"
