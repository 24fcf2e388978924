"""Studies that version 0.1.0 wrote are read, drawn and resumed (tests/fixtures)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lfvd.files import read_yaml, write_yaml
from tests.helpers import ROOT

FIXTURES = ROOT / "tests" / "fixtures"


def tune(folder: Path, *argv: str) -> str:
    """`lfvd-tune …` in a folder → what it printed; it must end well."""
    code = "from tune.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Copies of both, in `results`."""
    for name in ("study_v1", "study_v1_unfinished"):
        shutil.copytree(FIXTURES / name, tmp_path / "results" / name)
    return tmp_path


def test_a_finished_study_is_read(studies):
    best = tune(studies, "best", "study_v1")
    assert "42.40" in best or "42.4" in best, "mean validation W-F1 of the winner, trial 1"
    assert "16.69" in best, "of the baseline"
    assert "25.71" in best, "the difference"
    assert "6 of 6 trials" in tune(studies, "status", "study_v1")


def test_its_report_is_drawn(studies):
    tune(studies, "report", "study_v1")
    page = (studies / "results" / "study_v1" / "report.html").read_text(encoding="utf-8")
    assert "25.71" in page
    assert "16.69" in page


@pytest.mark.slow
def test_an_unfinished_study_is_resumed(studies):
    folder = studies / "results" / "study_v1_unfinished"
    data = studies / "small.safetensors"
    argv = [
        sys.executable,
        "-m",
        "lfvd",
        "simulate",
        "--like",
        "meld",
        "--dialogues",
        "40",
        "--seed",
        "0",
        "--out",
        data,
    ]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    from lfvd.data.corpus import Corpus

    plan = read_yaml(folder / "plan.yaml")
    # The last bits of simulated features are those of the processor that draws them.
    plan["data"] |= {"path": str(data), "fingerprint": Corpus.load(data).fingerprint}
    write_yaml(folder / "plan.yaml", plan)
    before = (folder / "epochs.jsonl").read_bytes()
    tune(studies, "resume", "study_v1_unfinished")
    after = (folder / "epochs.jsonl").read_bytes()
    assert after.startswith(before), "what was done is kept"
    epochs = [json.loads(line) for line in after.splitlines()]
    searched = [(e["trial"], e["epoch"]) for e in epochs if e["stage"] == "search"]
    assert len(set(searched)) == len(searched), "no epoch is entered twice"
    assert {trial for trial, _ in searched} == set(range(6))
    confirmed = [json.loads(line) for line in (folder / "confirm.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {run["seed"] for run in confirmed if run["trial"] == 0} >= {0, 1, 2}
    assert (folder / "report.html").is_file()
    assert read_yaml(folder / "best.yaml")["provenance"]["seeds"] == [0, 1, 2]
