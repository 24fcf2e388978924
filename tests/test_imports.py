"""The import direction: lfvd knows nothing of tune and its libraries, modules import downwards only, the command starts fast."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lfvd

ROOT = Path(lfvd.__file__).parent
FORBIDDEN = {"tune", "ray", "optuna", "mlflow"}

LAYERS = ({"files"}, {"config"}, {"data"}, {"models"}, {"training", "extract"}, {"cli"})
"""Packages and modules of lfvd from the bottom up."""


def imports(file: Path) -> set[str]:
    """Every module named in an import of a file, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} has a relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def graph() -> dict[str, set[str]]:
    """Module of lfvd → modules of lfvd that it imports; a package counts as one module."""
    edges: dict[str, set[str]] = {}
    for file in ROOT.rglob("*.py"):
        name = file.relative_to(ROOT).parts[0].removesuffix(".py")
        parts = [i.split(".") for i in imports(file)]
        edges.setdefault(name, set()).update(p[1] for p in parts if p[0] == "lfvd" and len(p) > 1 and p[1] != name)
    return edges


def test_no_cycle():
    list(TopologicalSorter(graph()).static_order())


def test_no_cycle_in_tune():
    """Module by module; imports inside functions and for type checkers count too."""
    folder = ROOT.parent / "tune"
    files = {
        ".".join(f.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): f
        for f in folder.rglob("*.py")
    }
    edges = {
        name: {part for named in imports(file) for part in (named, named.rpartition(".")[0]) if part in files} - {name}
        for name, file in files.items()
    }
    packages = {name.rpartition(".")[0] for name in files}  # a package's own file imports nothing
    list(TopologicalSorter({name: used - packages for name, used in edges.items()}).static_order())


def test_direction():
    layer = {name: i for i, names in enumerate(LAYERS) for name in names}
    edges = {k: v for k, v in graph().items() if k not in ("__init__", "__main__", "presets")}
    assert edges.keys() == layer.keys(), "a new module needs a place in LAYERS"
    upwards = [(name, used) for name, uses in edges.items() for used in uses if layer[used] > layer[name]]
    assert not upwards


def test_parts_of_the_model_know_torch_and_numpy_only():
    """Modules take plain arguments; only the builder, models/lfvd.py, reads the config and batches."""
    for file in (ROOT / "models").glob("*.py"):
        if file.name != "lfvd.py":
            used = {name for name in imports(file) if not name.startswith("lfvd.models.")}
            tops = {name.split(".")[0] for name in used}
            assert tops <= {"__future__", "collections", "dataclasses", "math", "numpy", "torch", "typing"}, file.name


def test_source_names_nothing_of_tune():
    for file in ROOT.rglob("*.py"):
        assert not {i.split(".")[0] for i in imports(file)} & FORBIDDEN, file.name


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stderr.split())


def test_running_lfvd_loads_nothing_of_tune():
    files = [f for f in ROOT.rglob("*.py") if f.stem != "__main__" and f.parent.name != "extract"]
    modules = [".".join(f.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__") for f in files]
    loaded = loaded_by("".join(f"import {module}\n" for module in modules))
    assert "torch" in loaded
    assert not loaded & FORBIDDEN


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"]])
def test_help_loads_nothing_slow(argv):
    code = f"from lfvd.cli import main\ntry:\n    main({argv})\nexcept SystemExit as end:\n    assert end.code == 0"
    slow = {"torch", "numpy", "matplotlib", "pandas", "sklearn", "safetensors"}
    assert not loaded_by(code) & (slow | FORBIDDEN)
