"""Imports: packages import lower floors only, modules have no cycle, lfvd knows nothing of tune, the commands start fast."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lfvd

ROOT = Path(lfvd.__file__).parents[1]
TESTS = Path(__file__).parent
FORBIDDEN = {"tune", "ray", "optuna", "mlflow"}

FLOORS = {
    "lfvd": (
        "files terminal",
        "schema",
        "config presets",
        "data",
        "models",
        "training",
        "extract",
        "api",
        "cli",
        "__init__ __main__",
    ),
    "tune": (
        "parameter statistics published formatting sections",
        "plan",
        "study",
        "search",
        "analysis tracking execution",
        "preflight report terminal best cluster",
        "session",
        "paper",
        "api commands",
        "cli",
        "__init__ __main__",
    ),
}
"""Packages and modules from the bottom up. One may import lower floors and itself; not its neighbours on its own floor."""

FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for house in FLOORS
    for file in sorted((ROOT / house).rglob("*.py"))
}


def imports(file: Path) -> set[str]:
    """Every module named in an import of a file, those inside functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} has a relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def edges() -> dict[str, set[str]]:
    """Module → modules of ours that it imports; a name imported from a module counts as that module."""

    def module(named: str) -> str:
        return named if named in FILES else named.rpartition(".")[0]

    return {name: {module(i) for i in imports(file)} & FILES.keys() - {name} for name, file in FILES.items()}


def test_no_cycle_between_modules():
    list(TopologicalSorter(edges()).static_order())


@pytest.mark.parametrize("house", FLOORS)
def test_packages_import_lower_floors_only(house):
    floor = {f"{house}.{name}": i for i, names in enumerate(FLOORS[house]) for name in names.split()}

    def package(module: str) -> str:
        return ".".join([*module.split("."), "__init__"][:2])

    ours = {name: used for name, used in edges().items() if name.split(".")[0] == house}
    assert {package(name) for name in ours} <= floor.keys(), "a new package needs a place in FLOORS"
    breaches = [
        f"{name} imports {used}"
        for name, uses in ours.items()
        for used in uses & ours.keys()
        if package(used) != package(name) and floor[package(used)] >= floor[package(name)]
    ]
    assert not breaches, "packages import lower floors only: move what both need to a lower floor"


def test_no_test_imports_another_test():
    files = {f"tests.{'.'.join(f.relative_to(TESTS).with_suffix('').parts)}": f for f in TESTS.rglob("test_*.py")}
    breaches = {
        name
        for name, f in files.items()
        if any({i, i.rpartition(".")[0]} & (files.keys() - {name}) for i in imports(f))
    }
    assert not breaches, "move what two tests share to tests/helpers/"


def test_parts_of_the_model_know_torch_and_numpy_only():
    """Modules take plain arguments; only models/build.py reads the config, and only models/lfvd.py reads batches."""
    for file in (ROOT / "lfvd" / "models").glob("*.py"):
        if file.name not in ("build.py", "lfvd.py"):
            used = {name for name in imports(file) if not name.startswith("lfvd.models.")}
            tops = {name.split(".")[0] for name in used}
            assert tops <= {"__future__", "collections", "dataclasses", "math", "numpy", "torch", "typing"}, file.name


def test_source_of_lfvd_names_nothing_of_tune():
    for name, file in FILES.items():
        assert name.startswith("tune") or not {i.split(".")[0] for i in imports(file)} & FORBIDDEN, name


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stderr.split())


def test_running_lfvd_loads_nothing_of_tune():
    modules = [m for m in FILES if m.startswith("lfvd") and not m.startswith(("lfvd.extract", "lfvd.__main__"))]
    loaded = loaded_by("".join(f"import {module}\n" for module in modules))
    assert "torch" in loaded
    assert not loaded & FORBIDDEN


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"]])
def test_help_loads_nothing_slow(argv):
    code = f"from lfvd.cli import main\ntry:\n    main({argv})\nexcept SystemExit as end:\n    assert end.code == 0"
    slow = {"torch", "numpy", "matplotlib", "pandas", "sklearn", "safetensors"}
    assert not loaded_by(code) & (slow | FORBIDDEN)
