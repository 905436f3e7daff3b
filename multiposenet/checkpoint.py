"""Reading and writing weights. Ours are safetensors with JSON metadata; pickles load only as plain tensors."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from multiposenet.skeletons import Skeleton
from multiposenet.whole_files import written_whole

FORMAT = "multiposenet/1"
HDF5_START = b"\x89HDF\r\n\x1a\n"
PICKLE_START, ZIP_START = b"\x80", b"PK"
CHECKSUM_DIGITS = 16
"""Hex digits of a training state's SHA-256 that its name carries."""
_NUMPY_VALUES = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdgSU"},
    (codecs.encode, "_codecs.encode"),
    *(
        (getattr(multiarray, name), f"{module}.multiarray.{name}")
        for module in ("numpy.core", "numpy._core")  # as NumPy 1 and NumPy 2 write it
        for name in ("_reconstruct", "scalar")
    ),
]
"""What arrays and numbers of NumPy are rebuilt by: no code, so that PyTorch's restricted unpickler may read over them.
mmengine keeps facts about the data in such, beside a state dict."""


class Rebuildable:
    """Something that its name, its builder's options and its skeleton are enough to build again."""

    name: str
    options: dict
    skeleton: Skeleton

    @property
    def facts(self) -> dict:
        """What a weights file says of it in its metadata, so that the file alone is enough to build it again."""
        return {"model": self.name, "options": self.options, "skeleton": self.skeleton.to_dict()}


def save_weights(model: nn.Module, path: str | Path, metadata: dict, dtype: torch.dtype | None = None) -> None:
    """Writes a model's whole state dict and JSON metadata to one file, see :func:`save_tensors`."""
    save_tensors(model.state_dict(), path, metadata, dtype)


def save_tensors(
    content: Mapping[str, Tensor], path: str | Path, metadata: dict, dtype: torch.dtype | None = None
) -> None:
    """Writes tensors and JSON metadata to one safetensors file, atomically.

    Args:
        content: tensors by name.
        path: the file; its folder must exist.
        metadata: JSON-able facts: model name and options, data, seed, figures, licence.
        dtype: floating-point type to store in, e.g. ``torch.float16`` for half the size; None keeps each tensor's own.
    """
    tensors = {}
    for key, value in content.items():
        value = value.detach().cpu()
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        tensors[key] = value.contiguous().clone()
    path = Path(path)
    facts = {"format": FORMAT, "multiposenet": json.dumps(metadata, sort_keys=True)}
    try:
        with written_whole(path) as partial:
            save_file(tensors, partial, metadata=facts)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path}: the weights could not be written ({error}); an earlier file is intact") from error


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and metadata of a weights file, told apart by content: safetensors, HDF5, or a PyTorch state dict.

    Half-precision tensors come back in float32. Metadata is empty for files that are not ours.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file, damaged, or a pickle that holds more than tensors.
        ImportError: an HDF5 file, and h5py is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}; give the path of a .safetensors, .pth or .h5 file")
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file starts with its header's length (8 bytes) and a brace; a PyTorch file is a zip or a pickle.
    if start[8:9] == b"{":
        tensors, metadata = _load_safetensors(path)
    elif start.startswith(HDF5_START):
        tensors, metadata = _load_hdf5(path), {}
    else:
        tensors, metadata = _load_state_dict(path, start), {}
    halves = (torch.float16, torch.bfloat16)
    return {key: value.float() if value.dtype in halves else value for key, value in tensors.items()}, metadata


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged safetensors file ({error}); fetch or write it again") from None
    return tensors, json.loads(metadata.get("multiposenet", "{}"))


def _load_hdf5(path: Path) -> dict[str, Tensor]:
    """The datasets of a file without groups, as older PyTorch projects wrote their state dicts."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"{path} is an HDF5 file, and h5py, which reads it, is not installed ({error}); "
            "pip install 'multiposenet[h5]'"
        ) from None
    tensors = {}
    try:
        with h5py.File(path, "r") as file:
            for key, value in file.items():
                if not isinstance(value, h5py.Dataset) or value.dtype.kind not in "fiub":
                    raise ValueError(f"{path}: expected tensors only, got {key!r}, which is {value}")
                array = np.asarray(value[()])  # of a scalar too
                tensors[key] = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged HDF5 file ({error}); fetch or write it again") from None
    return tensors


def _asked_for(error: pickle.UnpicklingError) -> str:
    """What a pickle wanted to be run; PyTorch's own words advise to let it."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    return "" if wanted is None else f" (it asks for {wanted[1]})"


def _load_state_dict(path: Path, start: bytes) -> dict[str, Tensor]:
    try:
        # Given a path, torch would go by the ending of its name.
        with path.open("rb") as file, torch.serialization.safe_globals(_NUMPY_VALUES):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error) and not start.startswith((PICKLE_START, ZIP_START)):
            raise ValueError(f"{path}: not a weights file; give a .safetensors, .pth or .h5 file") from None
        raise ValueError(
            f"{path}: holds more than tensors (pickled code or objects), which is never run here. Save its state dict "
            f"alone: torch.save(model.state_dict(), ...){_asked_for(error)}"
        ) from None
    except Exception as error:  # the unpickler raises whatever foreign bytes lead it to: IndexError, KeyError, ...
        raise ValueError(f"{path}: not a weights file, or damaged ({error})") from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: expected a dict of tensors, optionally under 'state_dict' or 'model'")
    return dict(content)


def learnt_parts(model: nn.Module) -> list[str]:
    """Names of a model's parts: its named children, but for those in which there is nothing to learn."""
    return [part for part, module in model.named_children() if next(module.parameters(), None) is not None]


def match_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, parts: Sequence[str] | None = None
) -> None:
    """Checks that tensors fit a model exactly, or only some of its parts, without loading them.

    Raises:
        ValueError: names missing and unexpected keys and wrong shapes (the first five of each), or unknown parts.
    """
    known = learnt_parts(model)
    if unknown := [part for part in parts or () if part not in known]:
        raise ValueError(f"{source}: the model has no part {', '.join(unknown)}; its parts are {', '.join(known)}")
    own = {key: value.shape for key, value in model.state_dict().items()}
    if parts is not None:
        own = {key: shape for key, shape in own.items() if key.partition(".")[0] in parts}
    match_shapes(own, tensors, source)


def match_shapes(own: Mapping[str, torch.Size], tensors: Mapping[str, Tensor], source: str) -> None:
    """Checks that tensors have exactly these names and shapes.

    Raises:
        ValueError: names missing and unexpected keys and wrong shapes (the first five of each).
    """
    # Batch counters are bookkeeping that files of other projects often lack.
    missing = [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in tensors if key not in own]
    shapes = [
        f"{key}: file {list(tensors[key].shape)}, model {list(shape)}"
        for key, shape in own.items()
        if key in tensors and tensors[key].shape != shape
    ]
    problems = [
        f"{what} ({len(keys)}): {'; '.join(keys[:5])}{' ...' if len(keys) > 5 else ''}"
        for what, keys in (("missing keys", missing), ("unexpected keys", unexpected), ("wrong shapes", shapes))
        if keys
    ]
    if problems:
        raise ValueError(f"{source} does not fit this model. " + ". ".join(problems))


def load_weights(model: nn.Module, path: str | Path) -> dict:
    """Loads a weights file into a model, all or nothing; returns the file's metadata.

    Raises:
        FileNotFoundError, ValueError: see :func:`load_tensors` and :func:`match_tensors`.
    """
    tensors, metadata = load_tensors(path)
    match_tensors(model, tensors, source=str(path))
    model.load_state_dict(tensors, strict=False)
    return metadata


def save_training_state(state: dict, folder: str | Path, step: int, keep: int = 2) -> Path:
    """Writes everything that a training needs to go on, atomically, and removes older files.

    Of all files there stay this one and the newest others, together ``keep``.

    The file is named ``state-<step>-<checksum>.pt``: a PyTorch file of plain values and tensors whose name tells what
    its bytes must be. It gets that name only when all of it is on disk.

    Raises:
        OSError: the disk is full, or the folder cannot be written to; what was there before is untouched.
    """
    folder = Path(folder)
    partial = folder / "state.partial"
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"state-{step:09d}-{sha256(partial)[:CHECKSUM_DIGITS]}.pt"
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        kept = training_states(folder)
        raise OSError(
            f"{folder}: the training state of step {step} could not be written ({error}). "
            + (f"{kept[0].name} is intact: make room, then go on with --resume {folder}" if kept else "Make room")
        ) from error
    # A step can be saved twice, before and after its epoch is evaluated; then the second is the whole story.
    for old in folder.glob(f"state-{step:09d}-*.pt"):
        if old != path:
            old.unlink()
    others = [old for old in training_states(folder) if old != path]
    for old in others[max(1, keep) - 1 :]:
        old.unlink()
    return path


def training_states(folder: str | Path) -> list[Path]:
    """The training states in a run folder, newest first."""
    return sorted(Path(folder).glob("state-*-*.pt"), key=lambda path: path.name, reverse=True)


def load_training_state(folder: str | Path) -> dict:
    """The newest intact training state of a run folder, loaded with ``weights_only=True``.

    A file whose bytes do not have the checksum in its name is left out, with a warning that names it.

    Raises:
        FileNotFoundError: there is none, with the advice what ``--resume`` expects.
        ValueError: there are some, but none is intact, or one holds code.
    """
    folder = Path(folder)
    files = training_states(folder)
    if not files:
        raise FileNotFoundError(f"no training state in {folder}; --resume takes the folder of an earlier run")
    for path in files:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest().startswith(_checksum(path)):
            try:
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                raise ValueError(
                    f"{path}: holds more than tensors and plain values, which is never run here; this is no training "
                    f"state of ours{_asked_for(error)}"
                ) from None
        warnings.warn(
            f"{path}: the file is damaged (its bytes do not have the checksum in its name); going back to the one "
            "before it",
            stacklevel=2,
        )
    raise ValueError(f"{folder}: none of the {len(files)} training states is intact; start from weights instead")


def set_damaged_aside(folder: str | Path) -> None:
    """Renames the training states that :func:`load_training_state` passes over to ``<name>.damaged``.

    As the newest of all they would stay, and good ones be removed instead.
    """
    for path in training_states(folder):
        if sha256(path).startswith(_checksum(path)):
            return
        path.rename(path.with_name(f"{path.name}.damaged"))


def _checksum(state: Path) -> str:
    """What its name says that its bytes must have."""
    return state.stem.rpartition("-")[2]


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
