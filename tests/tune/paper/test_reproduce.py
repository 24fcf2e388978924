"""A session on the paper's tables: one evaluation of test, failures, MLflow, the terminal and the command."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lfvd.files import read_yaml
from lfvd.training.trainer import NonFiniteLoss, train
from tests.helpers import workers
from tests.helpers.grids import SEEDS, begin, rows_of, work
from tests.helpers.invented import never
from tests.helpers.mlflow_studies import held
from tune.paper import reproduce
from tune.paper.grid import Grid
from tune.paper.rows import ROWS
from tune.search.confirmation import ConfirmJobs
from tune.terminal.live import ConfirmView
from tune.tracking.mlflow_runs import MlflowRuns
from tune.tracking.mlflow_writer import default_uri


def test_test_was_opened_once_for_all_rows(whole, corpus):
    [look] = whole.test_log.evaluations()
    assert look["trials"] == list(whole.numbers)
    before = (whole.folder / "tables.md").read_text()
    reproduce.write(whole, corpus)
    assert len(whole.test_log.evaluations()) == 1
    assert (whole.folder / "tables.md").read_text() == before


def test_a_row_that_broke_is_left_out_with_the_reason_until_it_comes_through(tmp_path, plan, corpus, monkeypatch):
    grid = begin(tmp_path / "paper", plan, corpus, "table6")
    broken = grid.config_of(1)

    def breaks(config, *args, **options):
        if config == broken:
            raise NonFiniteLoss("epoch 1, batch 2")
        return train(config, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(workers, "train", breaks)
        jobs = work(grid, corpus)
    assert jobs.errors == ["w/o L_self, seed 0: NonFiniteLoss: epoch 1, batch 2"]
    reproduce.write(grid, corpus)
    left = "- Table 6, w/o L_self: is not trained on all seeds (NonFiniteLoss: epoch 1, batch 2)"
    assert left in (grid.folder / "tables.md").read_text()
    assert len(rows_of(grid.folder / "table6.csv")) == 4
    work(grid, corpus)
    reproduce.write(grid, corpus)
    assert "Left out" not in (grid.folder / "tables.md").read_text()
    assert [look["trials"] for look in grid.test_log.evaluations()] == [[0, 2, 3, 4], [1]]
    console = Console(file=io.StringIO(), width=1000)
    reproduce.print_tables(grid, console)
    assert (
        "warning: the test split of these data was evaluated 2 times, by paper (2 times): " in console.file.getvalue()
    )


def test_mlflow_gets_a_run_a_row_with_averages_and_a_run_a_seed(whole):
    runs = {run.key: run for run in MlflowRuns(whole).runs(live=False)}
    assert len(runs) == 20 * (1 + len(SEEDS))
    parent, child = runs["row5"], runs["row5-seed1"]
    [look] = whole.test_log.evaluations()
    assert parent.name == f"row: {whole.name_of(5)}"
    assert parent.metrics["test/wf1_mean"] == pytest.approx(np.mean([s["test/wf1"] for s in look["scores"]["5"]]))
    assert (parent.status, parent.metrics["seeds"], parent.params) == ("FINISHED", 2, whole.params_of(5))
    assert (child.parent, child.name) == ("row5", f"{whole.name_of(5)}, seed 1")
    assert child.metrics["test/wf1"] == look["scores"]["5"][1]["test/wf1"]
    assert {key for key, run in runs.items() if run.files} == {"row0"}
    live = {run.status for run in MlflowRuns(whole).runs(live=True)}
    assert live == {"FINISHED"}


def test_terminal(whole):
    """Live view and tables fit 80 columns and name all rows."""
    jobs = ConfirmJobs(whole, never, whole.numbers)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(ConfirmView(jobs).view())
    assert ConfirmView(jobs).line().startswith("rows of tables over seeds: 40 runs done, 0 pending")
    reproduce.print_tables(whole, console)
    shown = console.export_text()
    assert re.search(r"row +seed 0 +seed 1", shown)
    assert max(len(line) for line in shown.splitlines() if "/" not in line or "w/" in line) <= 80
    for name in ROWS["table5"]:
        assert re.search(rf"^ {re.escape(name)} +\d\d\.\d\d", shown, re.MULTILINE), name
    assert f"{whole.folder}/tables.md" in shown
    assert "SIMULATED: language, audio, visual" in shown


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # MLflow's own
def test_the_command_on_ray_resumed_and_extended(tmp_path, plan, corpus):
    data, results = tmp_path / "small.safetensors", tmp_path / "results"
    corpus.save(data)

    def run(*argv: object) -> subprocess.CompletedProcess:
        command = [str(Path(sys.executable).with_name("lfvd-tune")), *map(str, argv), "--results", str(results)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    command = ["reproduce", plan, "--data", data, "--name", "paper"]
    for argv in ([*command, "--tables", "6", "--figures", ""], ["resume", "paper"]):
        done = run(*argv)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert "w/o L_self" in done.stdout
    runs = [(n, s) for n in range(5) for s in SEEDS]
    assert sorted((r["trial"], r["seed"]) for r in Grid.open(results / "paper").confirmed()) == runs
    more = run(*command, "--tables", "4", "--figures", "3")
    assert (more.returncode, more.stderr) == (0, ""), more.stderr
    assert {path.name for path in (results / "paper").glob("*.csv")} == {"table4.csv", "table6.csv", "figure3.csv"}
    assert "rows of tables: 22 of 22 runs" in run("status", "paper").stdout
    refused = run("best", "paper")
    assert (refused.returncode, "holds rows of the paper's tables" in refused.stderr) == (2, True)
    assert run("sync", "paper").returncode == 0
    logged = held(default_uri(results), "paper")
    assert len(logged) == 11 * (1 + len(SEEDS))
    assert {run.info.status for run in logged.values()} == {"FINISHED"}
    assert logged["row: ours"].data.metrics["seeds"] == 2
    assert read_yaml(results / "paper" / "plan.yaml")["plan"]["parts"] == ["table4", "table6", "figure3"]
