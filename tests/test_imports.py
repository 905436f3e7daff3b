"""The shape of the house, read off the source: who may know whom, and what must not be written anywhere."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "multiposenet"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}
SCRIPTS = [ROOT / "train_posenet.py"]
SCRIPTS += sorted(file for folder in ("prn_train", "evaluate", "datasets") for file in (ROOT / folder).glob("*.py"))

LAYERS = {"data", "models", "decode"}
"""Siblings that meet only as types."""

JOINTS = {"methods", "predictor", "cli", "importers"}
"""What may know more than one of them (``__init__`` re-exports, ``evaluation`` runs a whole predictor)."""


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports(file: Path) -> set[str]:
    """Full names of the package's modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: line {node.lineno}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names & set(MODULES)


def layer(module: str) -> str:
    """The part of the package that a module belongs to: ``multiposenet.models.prn`` is of ``models``."""
    return (module.split(".") + [""])[1]


def reached(module: str) -> set[str]:
    """Everything that importing a module imports from the package, the module itself included."""
    seen, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += imports(MODULES[current])
    return seen


def calls(file: Path) -> list[ast.Call]:
    return [node for node in ast.walk(tree(file)) if isinstance(node, ast.Call)]


def named(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name) in LAYERS])
def test_data_models_and_decode_never_reach_each_other(module):
    others = LAYERS - {layer(module)}
    assert not {name for name in reached(module) if layer(name) in others}


def test_only_methods_and_what_uses_it_joins_the_siblings():
    joining = {
        layer(name)
        for name in MODULES
        if len({layer(other) for other in imports(MODULES[name])} & LAYERS) > 1 and layer(name) != ""
    }
    assert joining <= JOINTS


def test_the_engine_knows_no_method_no_model_and_no_data():
    assert not {layer(name) for name in reached("multiposenet.engine")} & (LAYERS | JOINTS | {"evaluation"})


@pytest.mark.parametrize("module", ["skeletons", "geometry", "structures", "heatmap", "anchors", "rasterize", "losses"])
def test_the_vocabulary_knows_nothing_of_those_who_speak_it(module):
    known = {layer(name) for name in reached(f"multiposenet.{module}")}
    assert not known & (LAYERS | JOINTS | {"evaluation", "engine", "checkpoint", "options"})


def test_no_module_imports_itself_in_a_circle():
    direct = {name: imports(file) - {name} for name, file in MODULES.items()}
    for module, targets in direct.items():
        for target in targets:
            assert module not in reached(target), f"{module} and {target} import each other"


@pytest.mark.parametrize("file", [*FILES, *SCRIPTS], ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_calls_cuda_directly_or_evaluates_text(file):
    forbidden = {"cuda", "eval_str", "exec", "set_default_device"}
    bare = {call.func.id for call in calls(file) if isinstance(call.func, ast.Name)}
    assert not {named(call) for call in calls(file)} & forbidden
    assert "eval" not in bare


@pytest.mark.parametrize("file", [*FILES, *SCRIPTS], ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_loaded_as_plain_tensors_and_never_unpickled(file):
    for call in calls(file):
        owner = getattr(getattr(call.func, "value", None), "id", None)
        assert (owner, named(call)) not in {("pickle", "load"), ("pickle", "loads")}
        if (owner, named(call)) == ("torch", "load"):
            only = [keyword.value for keyword in call.keywords if keyword.arg == "weights_only"]
            assert [ast.literal_eval(value) for value in only] == [True], f"line {call.lineno}"


NO_SKELETONS = [file for file in [*FILES, *SCRIPTS] if file.name != "skeletons.py"]


@pytest.mark.parametrize("file", NO_SKELETONS, ids=lambda file: str(file.relative_to(ROOT)))
def test_only_the_skeleton_knows_how_many_keypoints_coco_has(file):
    lines = [
        node.lineno for node in ast.walk(tree(file)) if isinstance(node, ast.Constant) and type(node.value) is int
        and node.value == 17
    ]  # fmt: skip
    assert lines == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_scripts_leave_the_import_path_and_the_working_directory_alone(script):
    touched = {ast.unparse(node) for node in ast.walk(tree(script)) if isinstance(node, ast.Attribute)}
    assert not touched & {"sys.path", "os.chdir", "os.environ"}


def test_folders_of_scripts_are_no_packages():
    assert not [folder for folder in ("datasets", "evaluate", "prn_train") if (ROOT / folder / "__init__.py").exists()]


def test_importing_the_package_loads_no_optional_library():
    optional = ["matplotlib", "onnx", "onnxscript", "onnxruntime", "tensorboard", "gradio", "av", "h5py", "cv2"]
    program = f"import sys, multiposenet; print([name for name in {optional} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
