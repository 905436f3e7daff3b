"""What a user may name as input pictures: files, folders, patterns, addresses, and the samples that ship with us."""

from __future__ import annotations

import glob
import http.client
import importlib.resources
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multiposenet.data.pictures import load_picture

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
"""File name endings by which folders and patterns recognise pictures; a file named on its own may have any."""

_TIMEOUT_S = 20.0
_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class InputPicture:
    """One picture to process, not read yet.

    Args:
        name: file name, for output names and messages.
        location: path or address as the user would recognise it.
        read: gives the picture, [H, W, 3] uint8 RGB; raises OSError or ValueError with a message that names it.
    """

    name: str
    location: str
    read: Callable[[], np.ndarray]


def is_url(location: object) -> bool:
    """Whether a location is an http or https address."""
    return isinstance(location, str) and location.lower().startswith(("http://", "https://"))


def find_pictures(inputs: Iterable[str | Path]) -> list[InputPicture]:
    """Expands paths, folders (with subfolders), quoted patterns and http(s) addresses, in the order given.

    Raises:
        FileNotFoundError: a path does not exist, a folder holds no picture or a pattern matches none; names it.
        ValueError: an input is empty text, which as a path would be the current folder.
    """
    sources: list[InputPicture] = []
    for entry in inputs:
        if is_url(entry):
            sources.append(_url_source(str(entry)))
            continue
        if not str(entry):
            raise ValueError("an INPUT is empty, perhaps a shell variable that is not set; give . for this folder")
        path = Path(entry)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if _looks_like_picture(file))
            if not files:
                raise FileNotFoundError(f"folder {entry} has no pictures in it ({', '.join(sorted(PICTURE_SUFFIXES))})")
        elif path.exists():
            files = [path]
        elif glob.has_magic(str(entry)):
            files = [Path(match) for match in sorted(glob.glob(str(entry), recursive=True))]
            files = [file for file in files if _looks_like_picture(file)]
            if not files:
                raise FileNotFoundError(f"pattern {entry} matches no pictures")
        else:
            raise FileNotFoundError(f"{entry}: no such file or folder")
        sources += [InputPicture(file.name, str(file), lambda file=file: load_picture(file)) for file in files]
    return sources


def number_pictures(names: Sequence[str]) -> list[int]:
    """COCO image ids: the file stems when all are different numbers, as COCO's own are, otherwise 1, 2, 3, ...

    Numbers of more than 63 bits, such as times with many digits, are no ids: no reader of annotations could hold them.
    """
    stems = [Path(name).stem for name in names]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers) and max(numbers, default=0) < 2**63:
            return numbers
    return list(range(1, len(names) + 1))


def sample_pictures() -> list[InputPicture]:
    """Pictures that need no download: the samples in this package and the astronaut photograph in scikit-image."""

    def astronaut() -> np.ndarray:
        import skimage.data

        return skimage.data.astronaut()

    folder = importlib.resources.files("multiposenet") / "assets" / "samples"
    files = sorted(folder.iterdir(), key=lambda file: file.name) if folder.is_dir() else []
    sources = [
        InputPicture(file.name, f"sample {file.name}", lambda file=file: load_picture(file.read_bytes()))
        for file in files
        if Path(file.name).suffix.lower() in PICTURE_SUFFIXES
    ]
    return [*sources, InputPicture("astronaut.png", "sample astronaut.png", astronaut)]


def fetch_picture(url: str, timeout_s: float = _TIMEOUT_S, max_bytes: int = _MAX_BYTES) -> np.ndarray:
    """Downloads and decodes a picture: [H, W, 3] uint8 RGB.

    Args:
        url: http or https address.
        timeout_s: seconds without an answer after which to give up.
        max_bytes: a longer answer is refused.

    Raises:
        ConnectionError: the address cannot be reached or answers with an error; names it.
        ValueError: the answer is too long, or is no picture; names it.
    """
    if not is_url(url):
        raise ValueError(f"{url}: only http and https addresses are fetched")
    try:
        request = urllib.request.Request(_plain_address(url), headers={"User-Agent": "multiposenet"})
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            content = answer.read(max_bytes + 1)
    except urllib.error.HTTPError as error:
        raise ConnectionError(f"{url}: the server answers {error.code} {error.reason}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(f"{url}: cannot be reached ({reason}); is this machine online?") from None
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"{url}: no address that can be asked, or no answer that can be read ({error})") from None
    if len(content) > max_bytes:
        raise ValueError(f"{url}: longer than {max_bytes / 2**20:.0f} MiB; download it yourself and pass the file")
    try:
        return load_picture(content)
    except (OSError, ValueError) as error:
        raise ValueError(f"{url}: not a readable picture ({error})") from None


def _plain_address(url: str) -> str:
    """An address in ASCII without spaces, as browsers make it of what people type."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    path, query = (urllib.parse.quote(part, safe="%/:=&?~+!$,;'@()*[]") for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


def _url_source(url: str) -> InputPicture:
    parts = urllib.parse.urlsplit(url)
    name = Path(urllib.parse.unquote(parts.path)).name or parts.hostname or "picture"
    return InputPicture(name, url, lambda: fetch_picture(url))


def _looks_like_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURE_SUFFIXES and file.is_file()
