"""The installed package, away from the checkout: presets and search spaces come along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CHECK = """
import lfvd.config, tune.paper.rows, tune.cluster.slurm, tune.plan
assert tune.cluster.slurm.TEMPLATE.is_file()
assert set(tune.published.published()) == {"iemocap", "meld"}
print(lfvd.__file__)
for name in ("meld", "iemocap"):
    lfvd.config.Config.from_yaml(name)
for name in ("demo", "meld", "meld_text", "iemocap"):
    tune.plan.SearchPlan.from_yaml(name)
"""


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
    assert run.stdout.strip() == str(site / "lfvd" / "__init__.py")
