"""What bad input raises, and how a program says so: one line, and an exit status that is not 0."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

UNREADABLE = (OSError, ValueError, ImportError)
"""What bad input raises; the message names it. ImportError: nothing is installed that could read it."""

REFUSED = 2
"""Exit status, as argparse has it."""


def refuse(program: str, error: Exception, out: Path | None = None) -> int:
    """Says in one line what is wrong; the exit status.

    Args:
        program: as argparse calls it.
        error: its message names the file or the option.
        out: where results are written; named where the system's message names nothing, as that of a full disk.
    """
    place = f"{out}: " if out and isinstance(error, OSError) and error.errno and not error.filename else ""
    print(f"{program}: error: {place}{in_one_line(error)}", file=sys.stderr)
    return REFUSED


def in_one_line(error: Exception) -> str:
    """An error's message, without the traceback that a process which reads pictures ahead puts before it."""
    lines = str(error).strip().splitlines()
    if any(line.startswith("Original Traceback") for line in lines):
        return lines[-1].partition(": ")[2]  # after the name of the error's class
    return " ".join(line.strip() for line in lines) or type(error).__name__


def run_script(main: Callable[[], object], program: str) -> NoReturn:
    """Runs a script's ``main`` and ends this process: with status 2 where what the user gave was bad.

    FloatingPointError is what a training raises that diverged; its message names the pictures.
    """
    try:
        main()
    except (*UNREADABLE, FloatingPointError) as error:
        sys.exit(refuse(program, error))
    sys.exit(0)
