"""Plants errors of known kinds at known rates in a data set's labels, and prints what the diagnosis finds again.

    python benchmarks/diagnosis.py --data COCO --split val2017

Labels are enough; no picture is opened. The last line says how far AP as it is and the gains of all repairs, one after
the other, are from the AP of a perfect set.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from multiposenet.data.coco import CocoKeypoints
from multiposenet.evaluation.diagnosis import Diagnosis, KeypointCounts, diagnose_columns
from multiposenet.evaluation.ground_truth import check_ground_truth
from multiposenet.evaluation.planted_errors import ErrorRates, PlantedErrors, plant_errors

RATES = ErrorRates(inversion=0.05, swap=0.05, miss=0.10, jitter=0.10, missed_people=0.05, false_people=0.05)


def table(planted: PlantedErrors, found: Diagnosis, people: int) -> list[tuple[str, float, float]]:
    """(kind, planted rate, found rate): of labelled keypoints, and of the people to be found."""
    meant, judged = KeypointCounts.of(planted.verdicts).shares(), found.everybody.keypoints.shares()
    rows = [(kind, meant[kind], judged[kind]) for kind in ("inversion", "swap", "miss", "jitter", "good")]
    present = planted.person >= 0
    rows.append(("missed people", 1 - present.sum() / people, found.everybody.missed / people))
    rows.append(("false people", (~present).sum() / people, found.false_people / people))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Plants, diagnoses and prints; 0 when done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder in COCO's layout; labels are enough")
    parser.add_argument("--split", default="val2017", metavar="NAME", help="of --data (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the errors (%(default)s)")
    arguments = parser.parse_args(argv)
    dataset = CocoKeypoints(arguments.data, arguments.split)
    skeleton = dataset.skeleton
    truth = check_ground_truth(dataset.ground_truth(), skeleton)
    planted = plant_errors(truth, skeleton, skeleton.oks_sigmas, RATES, arguments.seed)
    pictures = np.arange(len(truth.image_ids))
    found = diagnose_columns(truth, planted.results, pictures, skeleton, skeleton.oks_sigmas)
    print(
        f"{len(pictures)} pictures, {found.everybody.people} people, {found.everybody.keypoints.total} keypoints judged"
    )
    print(f"{'':<16}{'planted':>9}{'found':>9}")
    for kind, meant, judged in table(planted, found, found.everybody.people):
        print(f"{kind:<16}{meant:>9.2%}{judged:>9.2%}")
    print(f"AP {found.ap:.4f}; gains {', '.join(f'{gain.name} {gain.gain:+.4f}' for gain in found.repairs)}")
    rest = found.ap + sum(gain.gain for gain in found.repairs) - found.perfect_ap
    print(f"sum {found.perfect_ap + rest:.6f}, AP of a perfect set {found.perfect_ap:.6f}, difference {rest:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
