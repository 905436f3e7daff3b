#!/usr/bin/env python
"""Evaluates a top-down checkpoint on MPII Human Pose by PCKh, everybody in the box that MPII gives.

    python evaluate/run_mpii.py --data ~/mpii --weights checkpoint.pt
    python evaluate/run_mpii.py --data ~/mpii --from-mat pred.mat

The folder has ``annot/valid.json``, ``annot/gt_valid.mat`` and ``images/``. Predictions are written as ``pred.mat``:
``preds`` [people, keypoints, 2], pixels counted from 1, in the order of the JSON file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from multiposenet.bad_input import UNREADABLE, refuse
from multiposenet.cli import add_predictor_arguments, load_predictor, positive_int, predictor_options
from multiposenet.data.mpii import MpiiKeypoints
from multiposenet.evaluation.mpii import predict_people, read_mat, score_mpii, table_lines, truth_of
from multiposenet.runs import open_run_folder
from multiposenet.skeletons import MPII


def main(argv: Sequence[str] | None = None, load: Callable | None = None) -> int:
    """Runs the evaluation; 0 when done, 2 when the data, the weights or an argument is bad."""
    arguments = parse_arguments(argv)
    try:
        dataset = MpiiKeypoints(arguments.data, arguments.split, limit=arguments.limit)
        truth = truth_of(dataset)
        facts: dict = {"data": dataset.identity()}
        if arguments.from_mat:
            keypoints = read_predictions(arguments.from_mat)
        else:
            predictor = load_predictor(arguments, load)
            if predictor.skeleton.keypoints != MPII.keypoints:
                raise ValueError(f"the model finds the keypoints of skeleton {predictor.skeleton.name!r}, not MPII's")
            keypoints = predict_people(predictor, dataset, arguments.batch_size, arguments.workers, progress=True)
            facts |= {
                "model": predictor.name,
                "weights": predictor.weights,
                "options": predictor_options(arguments),
            }
        metrics = score_mpii(keypoints, truth)
        out = open_run_folder(arguments.out, "evaluate")
    except UNREADABLE as error:
        return refuse("run_mpii.py", error)
    savemat(out / "pred.mat", {"preds": keypoints + 1})
    (out / "metrics.json").write_text(json.dumps({"metrics": metrics, **facts}, indent=1) + "\n", encoding="utf-8")
    print(f"PCKh of {len(keypoints)} people in {len(dataset)} pictures, per cent")
    print("\n".join(table_lines(metrics)))
    print(f"results: {out}/metrics.json, {out}/pred.mat")
    return 0


def read_predictions(path: str) -> np.ndarray:
    """[people, keypoints, 2] pixels counted from 0, from a file as this script writes it."""
    preds = read_mat(Path(path).expanduser(), ("preds",))["preds"]
    if preds.ndim != 3 or preds.shape[2] < 2 or preds.dtype.kind not in "biuf":
        raise ValueError(f"{path}: preds must be numbers of shape [people, keypoints, 2], got {preds.shape}")
    return preds[..., :2].astype(np.float64) - 1


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; wrong flags end the program with a message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with annot/ and images/")
    parser.add_argument("--split", default="valid", metavar="NAME", help="the split to measure on (%(default)s)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N pictures only")
    parser.add_argument("--from-mat", metavar="FILE", help="only score this pred.mat")
    parser.add_argument("--out", metavar="DIR", help="by default runs/evaluate, then runs/evaluate2, ...")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read pictures (0)")
    add_predictor_arguments(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
