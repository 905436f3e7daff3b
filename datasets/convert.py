#!/usr/bin/env python
"""Turns a data set into another format: ``multiposenet data convert``, without an installed command.

    python datasets/convert.py --from yolo --to coco IN OUT

Everything that was assumed, changed or left out is printed.
"""

from __future__ import annotations

import sys

from multiposenet.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", "convert", *sys.argv[1:]]))
