"""The benchmarks run, at their smallest: a change of the package that breaks one is seen. Times are not tested."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.testing import assert_close

from multiposenet.data.coco import CocoKeypoints

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
PROGRAMS = [file for file in sorted(BENCHMARKS.glob("*.py")) if "__main__" in file.read_text(encoding="utf-8")]

SMALLEST = {
    "chain": [
        f"--weights={ROOT / 'multiposenet/assets/multiposenet_lite.safetensors'}", "--precision=bf16",
        "--image-size=96", "--repeats=1", "--warmup=0", "--threads=1",
    ],
    "evaluation": ["--pictures", "20", "--predictions", "60", "--repeats", "1"],
    "grouping": ["--groupings", "gaussian_prior", "set_assignment", "--repeats", "1"],
    "onestage": ["--people", "2", "--repeats", "1"],
    "topdown": ["--model", "topdown_lite", "--people", "2", "--rounds", "1"],
}  # fmt: skip


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_measures_something_and_says_on_which_machine(name, tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *SMALLEST[name], "--out", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["machine"]["processor"]
    assert len(figures) > 1


@pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: file.stem)
def test_every_benchmark_says_what_it_takes(file):
    command = [sys.executable, str(file), "--help"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-2000:]


def test_both_sides_of_the_loading_benchmark_read_the_same_pictures_and_people(tmp_path, monkeypatch):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").mkdir()
    greys = {7: 70, 3: 30, 5: 50, 9: 90, 4: 40}  # by id; in 5 is nobody, and 9 is one too many
    for image_id, grey in greys.items():
        Image.fromarray(np.full((40, 60, 3), grey, np.uint8)).save(tmp_path / "train2017" / f"{image_id}.png")
    person = {"category_id": 1, "iscrowd": 0, "bbox": [10.0, 8.0, 30.0, 20.0], "area": 600.0}
    labelled = person | {"keypoints": [20, 15, 2] * 17, "num_keypoints": 17, "segmentation": [[10, 8, 40, 8, 40, 28]]}
    unlabelled = person | {"keypoints": [0, 0, 0] * 17, "num_keypoints": 0, "segmentation": []}
    people = [{"image_id": image_id} | one for image_id in greys if image_id != 5 for one in (labelled, unlabelled)]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in greys],
        "annotations": [{"id": number} | one for number, one in enumerate(people, 1)],
        "categories": [{"id": 1, "name": "person"}],
    }
    annotations = tmp_path / "annotations" / "person_keypoints_train2017.json"
    annotations.write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.syspath_prepend(BENCHMARKS)
    torchvision_reference = runpy.run_path(str(BENCHMARKS / "loading.py"))["torchvision_reference"]
    ours = CocoKeypoints(tmp_path, "train2017", limit=3, with_keypoints=True)
    theirs = torchvision_reference(tmp_path, "train2017", ours)
    assert [round(float(255 * image.mean())) for image, _ in theirs] == [int(ours[i].image.mean()) for i in range(3)]
    assert ours.image_ids == [3, 4, 7]
    for _, target in theirs:
        triangle, box = target["masks"].float().mean(dim=(1, 2))  # the second has no segmentation
        assert_close(triangle.item(), 300 / 2400, atol=0.01, rtol=0)
        assert_close(box.item(), 600 / 2400, atol=0.01, rtol=0)
