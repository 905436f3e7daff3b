"""Picture files: whatever is on disk becomes upright [H, W, 3] uint8 RGB, or an error that names the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

PictureSource = str | Path | bytes | BinaryIO | Image.Image
"""A file's path, its content, an open binary file, or a PIL image."""

_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = {5, 6, 7, 8}  # orientations that exchange width and height


class PictureError(ValueError):
    """A file that is not a picture, or a damaged one; the message names it and says what to do."""


def load_picture(source: PictureSource, upright: bool = True) -> np.ndarray:
    """Loads a picture of any Pillow format and mode as 8-bit RGB.

    Greyscale is repeated in the three channels. Transparent pixels show white, as on a web page. 16-bit values keep
    their high byte (value // 256), so nothing is clipped. Of an animation the first frame is taken.

    Args:
        source: path, bytes, open binary file or PIL image (which is left as it is).
        upright: turn the picture as its EXIF orientation asks; False gives the pixels as they are stored.

    Returns:
        [H, W, 3] uint8, RGB, writable.

    Raises:
        FileNotFoundError: there is no such file.
        PictureError: the file is no picture, is truncated, or holds floating-point numbers of unknown range.
    """
    name = _name(source)
    with _open(source, name) as image:
        try:
            image.load()
            if upright and _orientation(image) != 1:
                image = ImageOps.exif_transpose(image)
            return np.array(_to_rgb(image, name))
        except (PictureError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ... for bad bytes
            raise PictureError(
                f"{name}: the picture is damaged ({error}); fetch or export the file again, or remove it from the data"
            ) from error


def picture_size(source: PictureSource) -> tuple[int, int]:
    """(height, width) of the upright picture, from the file's header alone.

    Raises:
        FileNotFoundError: there is no such file.
        PictureError: the file is no picture.
    """
    with _open(source, _name(source)) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _TURNED else (height, width)


def picture_orientation(source: PictureSource) -> int:
    """The EXIF orientation, 1 to 8, from the file's header alone; 1 for stored upright, or where nothing is said.

    Raises:
        FileNotFoundError: there is no such file.
        PictureError: the file is no picture.
    """
    with _open(source, _name(source)) as image:
        orientation = _orientation(image)
        return orientation if 1 <= orientation <= 8 else 1


def turn_shares(shares: np.ndarray, orientation: int) -> np.ndarray:
    """Places in a picture as it is stored to places in the upright one, both as shares of its width and height.

    Args:
        shares: [..., 2] x, y; 0 and 1 are the edges.
        orientation: EXIF's, 1 to 8, as :func:`picture_orientation` gives it.
    """
    x, y = shares[..., 0], shares[..., 1]
    turned = {
        1: (x, y), 2: (1 - x, y), 3: (1 - x, 1 - y), 4: (x, 1 - y),
        5: (y, x), 6: (1 - y, x), 7: (1 - y, 1 - x), 8: (y, 1 - x),
    }  # fmt: skip
    return np.stack(turned[orientation], axis=-1)


class _Borrowed:
    """Lets a caller's PIL image stand in a ``with`` statement without being closed."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    def __enter__(self) -> Image.Image:
        return self.image

    def __exit__(self, *_: object) -> None:
        pass


def _name(source: PictureSource) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "")) or "PIL image"
    return str(getattr(source, "name", "")) or f"{type(source).__name__} of a picture"


def _open(source: PictureSource, name: str) -> Image.Image | _Borrowed:
    if isinstance(source, Image.Image):
        return _Borrowed(source)
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such picture file; check the path")
        if path.is_dir():
            raise PictureError(f"{path} is a folder; give the path of one picture file")
        source = path
    elif isinstance(source, (bytes, bytearray, memoryview)):
        source = io.BytesIO(source)
    elif not hasattr(source, "read"):
        raise TypeError(f"source must be a path, bytes, a binary file or a PIL image, got {type(source).__name__}")
    try:
        return Image.open(source)
    except Exception as error:  # not only UnidentifiedImageError: bomb guard, broken headers, files without permission
        if isinstance(error, (MemoryError, PermissionError)):
            raise
        raise PictureError(
            f"{name}: not a picture that Pillow can read ({error}); check that the file is complete and is a picture"
        ) from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a malformed EXIF block does not make the pixels unusable
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise PictureError(f"{name}: floating-point pixels have no agreed range; save the picture with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit greyscale: I;16 and kin, or I where Pillow widened it to 32 bits
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535) // 256
        image = Image.fromarray(values.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
