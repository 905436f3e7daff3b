#!/usr/bin/env python
"""Draws the sample pictures that ship with the package.

    python recipes/make_samples.py                          # writes multiposenet/assets/samples/
    python recipes/make_samples.py --contact-sheet FILE     # the pictures to choose from, numbered

The seed is that of no training or validation pictures. The pictures were chosen by eye, for clear and varied people.
Choose again when the generator's version changes: the same numbers then show other people.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from multiposenet.data.synthetic import GENERATOR_VERSION, SyntheticPeople

SEED = 50_000
CANDIDATES = 48
CHOSEN = {"one_person": 26, "two_people": 37, "dancers": 42, "a_group": 7}
"""File name -> picture number."""
CHOSEN_WITH_VERSION = 1
QUALITY = 90
LARGEST_BYTES = 80_000
SAMPLES = Path(__file__).resolve().parent.parent / "multiposenet" / "assets" / "samples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=SAMPLES, metavar="DIR", help="(%(default)s)")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE", help="draw this instead, to choose from")
    options = parser.parse_args()
    pictures = SyntheticPeople(CANDIDATES, SEED, (480, 480), people=(1, 6))
    if options.contact_sheet:
        contact_sheet(pictures).save(options.contact_sheet)
        return
    if GENERATOR_VERSION != CHOSEN_WITH_VERSION:
        raise SystemExit(
            f"error: the generator is version {GENERATOR_VERSION}, pictures were chosen with {CHOSEN_WITH_VERSION}; "
            "draw a --contact-sheet, choose again, and set CHOSEN and CHOSEN_WITH_VERSION"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    for name, index in CHOSEN.items():
        path = options.out / f"{name}.jpg"
        comment = f"synthetic people {GENERATOR_VERSION}, seed {SEED}, picture {index}"
        Image.fromarray(pictures[index].image).save(path, quality=QUALITY, optimize=True, comment=comment)
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise SystemExit(f"error: {path} has {size} bytes, at most {LARGEST_BYTES} are meant; choose another")
        print(f"{path}: picture {index}, {len(pictures[index].labels)} people, {size / 1000:.0f} kB")


def contact_sheet(pictures: SyntheticPeople, columns: int = 6, side: int = 240) -> Image.Image:
    """All pictures, small, with their numbers."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side))
    draw = ImageDraw.Draw(sheet)
    for index in range(len(pictures)):
        place = (index % columns * side, index // columns * side)
        sheet.paste(Image.fromarray(pictures[index].image).resize((side, side)), place)
        draw.text((place[0] + 4, place[1] + 4), str(index), "white", stroke_width=2, stroke_fill="black")
    return sheet


if __name__ == "__main__":
    main()
