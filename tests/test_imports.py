"""The shape of the house, read off the source: who may know whom, and what must not be written anywhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "multiposenet").rglob("*.py"))
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}
SCRIPTS = [ROOT / "train_posenet.py"]
SCRIPTS += sorted(file for folder in ("prn_train", "evaluate", "datasets") for file in (ROOT / folder).glob("*.py"))

LAYERS = {"data", "models", "decode"}
"""Siblings that meet only as types."""

JOINTS = {"methods", "families", "inference", "groupings", "predictor", "cli", "importers"}
"""What may import from more than one of them."""


def nodes(file: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file)))


def at(file: Path, node: ast.AST) -> str:
    return f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def imports(file: Path) -> set[str]:
    """Full names of the package's modules that a file imports, anywhere in it."""
    names = set()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{at(file, node)}: imports are written in full, or this test does not see them"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(MODULES)


def layer(module: str) -> str:
    """The part of the package that a module belongs to: ``multiposenet.models.prn`` is of ``models``."""
    return [*module.split("."), ""][1]


def reached(module: str) -> set[str]:
    """Everything of the package that importing a module imports, the module itself included."""
    seen, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += imports(MODULES[current])
    return seen


def test_data_models_and_decode_never_reach_each_other():
    offenders = {
        (module, other)
        for module in MODULES
        for other in (reached(module) if layer(module) in LAYERS else ())
        if layer(other) in LAYERS - {layer(module)}
    }
    assert offenders == set()


def test_only_families_and_what_uses_them_join_the_siblings():
    joining = {module for module in MODULES if len({layer(other) for other in imports(MODULES[module])} & LAYERS) > 1}
    assert {layer(module) for module in joining} <= JOINTS
    assert "multiposenet.families.bottom_up" in joining


def test_the_engine_knows_no_method_no_model_and_no_data():
    assert not {layer(module) for module in reached("multiposenet.engine")} & (LAYERS | JOINTS | {"evaluation"})


@pytest.mark.parametrize(
    "module",
    ["skeletons", "geometry", "structures", "heatmap", "anchors", "rasterize", "losses", "prior", "candidates"],
)
def test_the_vocabulary_does_not_know_who_speaks_it(module):
    known = {layer(other) for other in reached(f"multiposenet.{module}")}
    assert not known & (LAYERS | JOINTS | {"evaluation", "engine", "checkpoint", "options"})


def test_no_two_modules_import_each_other_not_even_round_a_corner():
    circles = [
        (module, other)
        for module in MODULES
        for other in imports(MODULES[module]) - {module}
        if module in reached(other)
    ]
    assert circles == []


def test_no_file_calls_cuda_or_evaluates_text():
    offenders = [
        at(file, node)
        for file in [*FILES, *SCRIPTS]
        for node in nodes(file)
        if isinstance(node, ast.Call)
        and (getattr(node.func, "attr", "") == "cuda" or getattr(node.func, "id", "") in {"eval", "exec"})
    ]
    assert offenders == []


def test_files_are_loaded_as_plain_tensors_and_never_unpickled():
    offenders, loads = [], 0
    for file in [*FILES, *SCRIPTS]:
        for node in nodes(file):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called == "torch.load":
                loads += 1
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                offenders += [] if options.get("weights_only") == "True" else [at(file, node)]
            elif called in {"pickle.load", "pickle.loads", "pickle.Unpickler"}:
                offenders.append(at(file, node))
    assert loads > 0
    assert offenders == []


def test_only_the_skeleton_knows_how_many_keypoints_coco_has():
    offenders = [
        at(file, node)
        for file in [*FILES, *SCRIPTS]
        for node in nodes(file)
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value == 17
    ]
    assert [line for line in offenders if not line.startswith("multiposenet/skeletons.py:")] == []


def test_scripts_leave_the_import_path_and_the_working_directory_alone():
    touched = {
        at(file, node)
        for file in SCRIPTS
        for node in nodes(file)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.path", "os.chdir", "os.environ"}
    }
    assert touched == set()


def test_folders_of_scripts_are_no_packages():
    assert not [folder for folder in ("datasets", "evaluate", "prn_train") if (ROOT / folder / "__init__.py").exists()]


def test_importing_the_package_loads_no_optional_library():
    optional = ["matplotlib", "onnx", "onnxscript", "onnxruntime", "tensorboard", "gradio", "av", "h5py", "cv2"]
    optional.append("faster_coco_eval")
    program = f"import sys, multiposenet; print([name for name in {optional} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_every_paper_that_the_source_names_by_its_number_is_in_the_notice():
    number = re.compile(r"(?:arXiv[ :]|arxiv\.org/abs/)(\d{4}\.\d{5})")
    named = {paper for file in FILES for paper in number.findall(file.read_text(encoding="utf-8"))}
    assert len(named) > 3
    assert named - set(number.findall((ROOT / "NOTICE").read_text(encoding="utf-8"))) == set()
