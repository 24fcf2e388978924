"""The installed package, away from the checkout: presets and search spaces come along."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CHECK = """
from pathlib import Path
import lfvd.config, tune.cluster.slurm, tune.plan, tune.published
assert tune.cluster.slurm.TEMPLATE.is_file()
assert set(tune.published.published()) == {"iemocap", "meld"}
print(lfvd.__file__)
for name in ("meld", "iemocap"):
    lfvd.config.Config.from_yaml(name)
for name in ("demo", "meld", "meld_text", "iemocap"):
    tune.plan.SearchPlan.from_yaml(name)
assert (tune.plan.SHIPPED / "plan.schema.json").is_file()
assert all(Path(m.__file__).with_name("py.typed").is_file() for m in (lfvd, tune))
"""


def test_every_package_is_named():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {file.parent for house in ("lfvd", "tune") for file in (ROOT / house).rglob("*.py")}
    there = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert there == set(settings["packages"]) - settings["package-dir"].keys()


@pytest.mark.slow
def test_installed_package_finds_presets_and_search_spaces(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    site = tmp_path / "site"
    # Dependencies come from the environment of the tests; what is tested is what the project's own wheel holds.
    source = tmp_path / "source"
    copied = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True).stdout.split(b"\0")
    for name in (Path(n.decode()) for n in copied if n and (ROOT / n.decode()).is_file()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", site, source], check=True)
    run = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=tmp_path, env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert {path.name for path in site.iterdir()} - {"bin"} == {"lfvd", "tune", "lfvd-0.1.0.dist-info"}
    assert run.stdout.strip() == str(site / "lfvd" / "__init__.py")
