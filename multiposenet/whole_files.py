"""Files that are there whole or not at all: written under another name beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_whole(path: Path, shared: bool = False) -> Iterator[Path]:
    """Gives a path to write to; the file takes its place when the block ends, and is removed when the block fails.

    Args:
        path: its place; the folder must exist. What is there stays until the new file is complete.
        shared: several processes may write this file at once, as into a cache: each under a name of its own. Such a
            file can be made again, so nobody waits until it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if shared else f"{path.name}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # what the user's new files get; safetensors would let nobody else read this one
        yield partial
        partial.chmod(mode)
        if not shared:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
