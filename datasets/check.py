#!/usr/bin/env python
"""Finds what is wrong with a data set in COCO's format: ``multiposenet data check``, without an installed command.

    python datasets/check.py DIR --html report.html --json report.json

The exit status is 1 where something was found that is as bad as --fail-on says.
"""

from __future__ import annotations

import sys

from multiposenet.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", "check", *sys.argv[1:]]))
