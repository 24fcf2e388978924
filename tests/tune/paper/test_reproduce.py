"""Rows of the paper's tables as a study: trained once each, gone on with, extended, and set beside the published numbers."""

import csv
import dataclasses
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lfvd.config import Config
from lfvd.data.corpus import Corpus
from lfvd.data.simulate import simulate
from lfvd.files import InputError, read_yaml, write_yaml
from lfvd.training.trainer import NonFiniteLoss, train
from tests.helpers import workers
from tests.helpers.mlflow_studies import held
from tests.helpers.workers import run_here
from tune.paper import reproduce
from tune.paper.grid import Grid, is_grid, read_base, start_grid
from tune.paper.outcomes import UNDECIDED, Line, Outcomes
from tune.paper.rows import ROWS, Row
from tune.paper.tables import number, summary
from tune.published import published
from tune.search.confirmation import ConfirmJobs
from tune.statistics import Difference, paired
from tune.study.plan_file import StudyError
from tune.study.study import Study
from tune.terminal.live import ConfirmView
from tune.tracking.mlflow_runs import MlflowRuns
from tune.tracking.mlflow_writer import default_uri

COMMAND = str(Path(sys.executable).with_name("lfvd-tune"))

SEEDS = (0, 1)

PLAN = {
    "base": "meld",
    "set": {"model.width": 8, "model.latent": 2, "model.heads": 2, "model.dag_layers": 1, "optim.lr": 0.02},
    "space": {"loss.temperature": {"low": 0.05, "high": 1.0}},
    "scheduler": {"kind": "none", "max_epochs": 1},
    "trials": 1,
    "confirm": {"seeds": list(SEEDS)},
}


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Real classes, few dialogues, narrow features."""
    path = tmp_path_factory.mktemp("corpus") / "small.safetensors"
    return simulate("meld", seed=0, dialogues=20, widths={"l": 6, "a": 5, "v": 4}).save(path)


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "small.yaml"
    write_yaml(path, PLAN)
    return path


def begin(folder: Path, plan: Path, corpus: Corpus, *parts: str) -> Grid:
    return start_grid(folder, read_base(str(plan)), parts, corpus=corpus, data="small.safetensors", storage=None)


def work(grid: Grid, corpus: Corpus, interrupted=never) -> ConfirmJobs:
    jobs = ConfirmJobs(grid, interrupted, grid.numbers)
    run_here(jobs, corpus.restricted("train", "valid"))
    return jobs


@pytest.fixture(scope="module")
def whole(tmp_path_factory, plan, corpus) -> Grid:
    """All parts, all rows, written."""
    grid = begin(tmp_path_factory.mktemp("results") / "paper", plan, corpus, *ROWS)
    work(grid, corpus)
    reproduce.write(grid, corpus)
    return grid


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_config_is_trained_once_on_each_seed(whole):
    assert len(whole.numbers) == 20
    assert [whole.name_of(n) for n in whole.numbers[:3]] == ["ours", "T", "V"]
    runs = [(run["trial"], run["seed"]) for run in whole.confirmed()]
    assert sorted(runs) == [(n, s) for n in whole.numbers for s in SEEDS]
    assert {record["stage"] for record in whole.epochs()} == {"experiment"}
    rows = {(row.part, row.name): whole.number(row) for row in whole.arranged()[0]}
    assert {rows[part, name] for part, name in (("table3", "LFVD"), ("table4", "T+A+V"), ("table5", "ours"))} == {0}
    assert rows["table5", "w/o CMVD-Distillation"] == rows["table6", "w/o L_distillation"]
    assert rows["table5", "w/o CMVD-Fusion"] == rows["figure2", "add"]
    for (part, name), n in rows.items():
        assert whole.config_of(n) == whole.plan.config.with_values(ROWS[part][name]), (part, name)


def test_a_row_is_what_train_makes_of_its_config(whole, corpus):
    config = Config.from_yaml("meld").with_values({**PLAN["set"], "run.epochs": 1, "run.device": "cpu"})
    alone = train(config.with_values({"model.anchor": "v"}), corpus, 1)
    [n] = [n for n in whole.numbers if whole.name_of(n) == "w/ ours(V)"]
    [run] = [run for run in whole.confirmed() if (run["trial"], run["seed"]) == (n, 1)]
    assert run["val/wf1"] == alone.best["val/wf1"]


def test_test_was_opened_once_for_all_rows(whole, corpus):
    [look] = whole.test_log.evaluations()
    assert look["trials"] == list(whole.numbers)
    before = (whole.folder / "tables.md").read_text()
    reproduce.write(whole, corpus)
    assert len(whole.test_log.evaluations()) == 1
    assert (whole.folder / "tables.md").read_text() == before


def test_ablation_csv_against_the_files(whole):
    """Every figure of table5.csv again, from confirm.jsonl, the ledger and the published numbers."""
    rows = {row["row"]: row for row in rows_of(whole.folder / "table5.csv")}
    assert list(rows) == list(ROWS["table5"])
    [look] = whole.test_log.evaluations()
    test = {int(n): [100 * s["test/wf1"] for s in each] for n, each in look["scores"].items()}
    val = {n: [100 * r["val/wf1"] for r in whole.confirmed() if r["trial"] == n] for n in whole.numbers}
    paper = published()["meld"]["table5"]
    for name, row in rows.items():
        n = int(row["trial"])
        assert whole.name_of(n) in (name, "add", "w/o L_distillation")
        assert row["seeds"] == "2"
        assert [float(row["paper acc"]), float(row["paper W-F1"])] == paper[name]
        assert float(row["val W-F1"]) == pytest.approx(np.mean(val[n]), abs=1e-4)
        assert float(row["test W-F1"]) == pytest.approx(np.mean(test[n]), abs=1e-4)
        assert float(row["test W-F1 std"]) == pytest.approx(np.std(test[n], ddof=1), abs=1e-4)
        assert float(row["test W-F1 - paper"]) == pytest.approx(np.mean(test[n]) - paper[name][1], abs=1e-4)
        if name == "ours":
            assert {row[k] for k in ("paper: W-F1 - ours", "ours: W-F1 - ours", "low", "high", "p", "same sign")} == {
                ""
            }
            continue
        gaps = np.subtract(test[n], test[0])
        half = 12.7062 * gaps.std(ddof=1) / np.sqrt(2)  # t of one degree of freedom, 97.5 %
        assert float(row["paper: W-F1 - ours"]) == pytest.approx(paper[name][1] - paper["ours"][1], abs=1e-4)
        assert float(row["ours: W-F1 - ours"]) == pytest.approx(gaps.mean(), abs=1e-4)
        assert float(row["low"]) == pytest.approx(gaps.mean() - half, abs=1e-3)
        assert float(row["high"]) == pytest.approx(gaps.mean() + half, abs=1e-3)
        assert row["same sign"] in ("yes", "no", UNDECIDED)


def test_class_csv_against_the_ledger(whole):
    rows = {row["row"]: row for row in rows_of(whole.folder / "table3.csv")}
    assert rows["MultiDAG"] == {
        "row": "MultiDAG",
        **dict.fromkeys(published()["meld"]["classes"], ""),
        "acc": "64.41",
        "W-F1": "64.00",
    }
    [look] = whole.test_log.evaluations()
    for name in ("neutral", "anger"):
        each = [100 * scores[f"test/f1/{name}"] for scores in look["scores"]["0"]]
        assert float(rows["LFVD (ours, T+A+V)"][name]) == pytest.approx(np.mean(each), abs=0.006)
        assert float(rows["± over seeds"][name]) == pytest.approx(np.std(each, ddof=1), abs=0.006)
        gap = np.mean(each) - float(rows["LFVD (paper)"][name])
        assert float(rows["ours - paper"][name]) == pytest.approx(gap, abs=0.006)
    assert not (whole.folder / "table2.csv").exists()


def test_markdown_says_what_it_is_and_holds_the_csv(whole):
    text = (whole.folder / "tables.md").read_text()
    head = text[: text.index("## Table 3")]
    assert "# The paper's tables on MELD (simulated)" in head
    assert "**SIMULATED: LANGUAGE, AUDIO, VISUAL.**" in head
    assert "Seeds: 0, 1;" in head
    assert "most public code of this field chooses the epoch by test score" in head
    assert "- Table 2: is of IEMOCAP, the data are MELD" in text[text.index("## Left out") :]
    table = [
        line for line in text[text.index("## Table 6") : text.index("## Figures")].splitlines() if line.startswith("|")
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert all(len(row) == len(cells[0]) for row in cells)
    for row, source in zip(cells[2:], rows_of(whole.folder / "table6.csv"), strict=True):
        assert row[0] == source["row"]
        assert row[5] == f"{float(source['test W-F1']):.2f} ± {float(source['test W-F1 std']):.2f}"
        assert row[-1] == (source["same sign"] or "–")


def test_summary_counts_signs_and_says_how_well_the_changes_are_known(whole):
    rows = rows_of(whole.folder / "table5.csv")[1:]
    count = Counter(row["same sign"] for row in rows)
    widths = sorted((float(row["high"]) - float(row["low"])) / 2 for row in rows)
    said = summary(Outcomes(whole), "table5")
    assert f"{count['yes']} of 8 changes have the paper's sign, {count['no']} the opposite one" in said
    assert f"{count[UNDECIDED]} cannot be told from no change" in said
    shown = re.search(r"Ours are known to ± (\d+\.\d\d) to ± (\d+\.\d\d) points", said)
    assert [float(x) for x in shown.groups()] == pytest.approx([widths[0], widths[-1]], abs=0.006)
    assert "the paper's are 0.16 to 0.81 in size." in said
    assert summary(Outcomes(whole), "table3").startswith("Table 3: test W-F1 ")
    assert said in (whole.folder / "tables.md").read_text()


def test_live_view(tmp_path, plan, corpus):
    jobs = ConfirmJobs(begin(tmp_path / "paper", plan, corpus, "table6"), never, range(5))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(ConfirmView(jobs).view())
    shown = console.export_text()
    assert ConfirmView(jobs).line() == "rows of tables: 0 runs done, 10 pending, 0:00"
    assert re.search(r"row +seed 0 +seed 1", shown)
    assert "w/o L_self" in shown


def test_figures(whole, corpus):
    for name in ("figure2", "figure3", "figure4"):
        assert (whole.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({name}.png)" in (whole.folder / "tables.md").read_text()
    fusions = rows_of(whole.folder / "figure2.csv")
    assert [row[""] for row in fusions] == ["variational", "add", "concat", "gate"]
    [look] = whole.test_log.evaluations()
    assert [float(fusions[0][f"seed {s}"]) for s in SEEDS] == pytest.approx(
        [100 * scores["test/wf1"] for scores in look["scores"]["0"]], abs=1e-4
    )
    counts = np.array([[int(x) for x in list(row.values())[1:]] for row in rows_of(whole.folder / "figure3.csv")])
    labelled = corpus.label[np.repeat(corpus.split == 2, np.diff(corpus.offset))] >= 0
    assert counts.sum() == len(SEEDS) * labelled.sum()
    assert counts.trace() / counts.sum() == pytest.approx(np.mean([s["test/acc"] for s in look["scores"]["0"]]))
    assert [row[""] for row in rows_of(whole.folder / "figure4.csv")] == _bins(corpus)


def _bins(corpus: Corpus) -> list[str]:
    length = np.diff(corpus.offset)[corpus.split == 2]
    names = {"≤5": length <= 5, "6-13": (length > 5) & (length <= 13), ">13": length > 13}
    return [name for name, inside in names.items() if inside.any()]


def test_what_the_command_shows_fits_a_terminal(whole):
    console = Console(width=80, record=True, file=io.StringIO())
    reproduce.show(whole, console)
    shown = console.export_text()
    assert max(len(line) for line in shown.splitlines() if "/" not in line or "w/" in line) <= 80
    for name in ROWS["table5"]:
        assert re.search(rf"^ {re.escape(name)} +\d\d\.\d\d", shown, re.MULTILINE), name
    assert f"{whole.folder}/tables.md" in shown
    assert "SIMULATED: language, audio, visual" in shown


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


def test_interrupted_and_gone_on_with(tmp_path, plan, corpus, whole):
    """Stopped after some runs and in the middle of one: the same results as in one go, nothing trained twice."""
    grid = begin(tmp_path / "paper", plan, corpus, "table6")
    asked = iter(range(100))
    work(grid, corpus, interrupted=lambda: next(asked) > 8)
    some = len(grid.confirmed())
    assert 0 < some < len(grid.numbers) * len(SEEDS)
    assert "is not trained on all seeds (it waits for its turn)" in Outcomes(grid).left_out[-1]
    again = begin(tmp_path / "paper", plan, corpus, "table6")
    work(again, corpus)
    keys = [(r["trial"], r["seed"]) for r in again.confirmed()]
    assert len(keys) == len(set(keys)) == 5 * len(SEEDS)
    named = {(whole.name_of(r["trial"]), r["seed"]): r["val/wf1"] for r in whole.confirmed()}
    named |= {("w/o L_distillation", s): named["w/o CMVD-Distillation", s] for s in SEEDS}
    assert {(again.name_of(r["trial"]), r["seed"]): r["val/wf1"] for r in again.confirmed()}.items() <= named.items()


def test_more_tables_add_only_the_rows_that_are_missing(tmp_path, plan, corpus):
    folder = tmp_path / "paper"
    grid = begin(folder, plan, corpus, "table6")
    work(grid, corpus)
    reproduce.write(grid, corpus)
    before = {n: grid.name_of(n) for n in grid.numbers}
    more = begin(folder, plan, corpus, "figure2", "table5")
    assert {n: more.name_of(n) for n in before} == before
    new = [more.name_of(n) for n in more.numbers if n not in before]
    assert "w/o CMVD-Fusion" in new
    assert "add" not in new
    assert "w/o CMVD-Distillation" not in new, "it is table 6's w/o L_distillation"
    started = []
    jobs = ConfirmJobs(more, never, more.numbers)
    while job := jobs.next():
        started.append(job.name)
    assert len(started) == len(new) * len(SEEDS)
    work(more, corpus)
    reproduce.write(more, corpus)
    assert [len(look["trials"]) for look in more.test_log.evaluations()] == [len(before), len(new)]
    assert more.parts == ["table5", "table6", "figure2"]
    text = (folder / "tables.md").read_text()
    assert text.index("## Table 5") < text.index("## Table 6")
    assert Grid.open(folder).parts == more.parts
    assert begin(folder, plan, corpus, "table6").parts == more.parts, "asking for less takes nothing away"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"set": {**PLAN["set"], "model.dropout": 0.5}}, r"`model.dropout` \(0.3 there, 0.5 here\)"),
        ({"confirm": {"seeds": [0, 1, 2]}}, r"`confirm.seeds` \(\(0, 1\) there, \(0, 1, 2\) here\)"),
        ({"scheduler": {"kind": "none", "max_epochs": 2}}, r"`run.epochs` \(1 there, 2 here\)"),
    ],
)
def test_another_base_is_refused(whole, tmp_path, corpus, change, told):
    path = tmp_path / "other.yaml"
    write_yaml(path, {**PLAN, **change})
    with pytest.raises(StudyError, match=told):
        begin(whole.folder, path, corpus, "table4")


def test_other_data_are_refused(whole, plan, corpus):
    other = dataclasses.replace(corpus, fingerprint="another")
    with pytest.raises(StudyError, match=r"the data \(.* there, another here\)"):
        begin(whole.folder, plan, other, "table4")


def test_searches_and_grids_are_not_taken_for_each_other(whole, make_study, plan, corpus):
    study = make_study("search")
    assert is_grid(whole.folder)
    assert not is_grid(study.folder)
    with pytest.raises(StudyError, match="holds rows of the paper's tables, no search"):
        Study.open(whole.folder)
    with pytest.raises(StudyError, match="search: holds a search, no rows of tables: choose another --name"):
        begin(study.folder, plan, corpus, "table4")


def test_text_only_data(tmp_path, plan, corpus):
    text = dataclasses.replace(
        corpus,
        features={"l": corpus.features["l"]},
        info=dataclasses.replace(corpus.info, name="MELD", simulated=()),
    )
    grid = begin(tmp_path / "paper", plan, text, "table3", "table4", "table6", "figure2", "figure4")
    assert [grid.name_of(n) for n in grid.numbers] == ["ours", "w/o L_full", "w/o L_distillation", "w/o L_all"]
    work(grid, text)
    reproduce.write(grid, text)
    said = (grid.folder / "tables.md").read_text()
    assert "SIMULATED" not in said
    assert 'The data have T alone: "ours" is the model on T' in said
    assert "- Table 4, V: the data hold no visual features" in said
    assert "Table 4: nothing to compare." in said
    assert "- Figure 2: there is nothing to compare" in said
    assert [path.name for path in sorted(grid.folder.glob("*.png"))] == ["figure4.png"]
    [row] = rows_of(grid.folder / "table4.csv")
    assert (row["row"], row["trial"], row["ours: W-F1 - T+A+V"], row["same sign"]) == ("T", "0", "", "")
    assert row["paper: W-F1 - T+A+V"] == "-0.5800"
    assert any(row["row"] == "LFVD (ours, T)" for row in rows_of(grid.folder / "table3.csv"))


def test_without_a_test_split(tmp_path, plan, corpus):
    """Validation alone is compared, and said."""
    sealed = dataclasses.replace(corpus, split=np.minimum(corpus.split, 1))
    grid = begin(tmp_path / "paper", plan, sealed, "table3", "table6", "figure2", "figure3")
    work(grid, sealed)
    reproduce.write(grid, sealed)
    assert grid.test_log.evaluations() == []
    said = (grid.folder / "tables.md").read_text()
    assert "change of validation W-F1" in said
    assert "- Figure 3: the data have no test split" in said
    assert rows_of(grid.folder / "table3.csv")[-1]["row"] == "LFVD (paper)"
    row = rows_of(grid.folder / "table6.csv")[1]
    assert row["test W-F1"] == ""
    assert row["ours: W-F1 - ours"] != ""


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


def difference(low: float, high: float) -> Difference:
    return Difference(n=5, mean=(low + high) / 2, low=low, high=high, p=0.5, exact=0.5)


@pytest.mark.parametrize(
    ("paper_change", "interval", "agrees"),
    [
        (-1.0, (-3.0, -0.1), "yes"),
        (-1.0, (0.1, 3.0), "no"),
        (0.4, (0.1, 3.0), "yes"),
        (0.4, (-3.0, -0.1), "no"),
        (-1.0, (-3.0, 0.1), UNDECIDED),
        (0.4, (0.0, 3.0), UNDECIDED),
        (None, (0.1, 3.0), ""),
        (0.0, (0.1, 3.0), ""),
        (-1.0, None, ""),
    ],
)
def test_agreement_of_signs(paper_change, interval, agrees):
    line = Line(
        row=Row(part="table5", name="w/o DL", values={}),
        trial=1,
        mean={},
        std={},
        paper={"acc": 50.0, "wf1": 50.0},
        paper_change=paper_change,
        change=difference(*interval) if interval else None,
    )
    assert line.agrees == agrees


def test_the_change_is_paired_over_seeds(whole):
    """A row one point below on each seed, whatever the seeds make of both, is told apart; as independent runs it is not."""
    outcomes = Outcomes(whole)
    base, row = [0.3, 0.5], next(row for row in outcomes.rows if (row.part, row.name) == ("table6", "w/o L_all"))
    outcomes.scores[0] = [{"val/wf1": x, "val/acc": x, "test/wf1": x, "test/acc": x} for x in base]
    lower = [0.29, 0.4899]
    outcomes.scores[whole.number(row)] = [{"val/wf1": x, "val/acc": x, "test/wf1": x, "test/acc": x} for x in lower]
    [line] = [line for line in outcomes.lines("table6") if line.row == row]
    assert vars(line.change) == pytest.approx(vars(paired([29.0, 48.99], [30.0, 50.0])), rel=1e-6)
    assert line.agrees == "yes"


def test_one_seed_compares_nothing(tmp_path, corpus):
    path = tmp_path / "one.yaml"
    write_yaml(path, {**PLAN, "confirm": {"seeds": [3]}})
    grid = begin(tmp_path / "paper", path, corpus, "table6")
    work(grid, corpus)
    reproduce.write(grid, corpus)
    assert [row["same sign"] for row in rows_of(grid.folder / "table6.csv")] == [""] * 5


def test_numbers():
    assert [number(x) for x in (None, -0.001, 0.0, -1.005, 53.1)] == ["", "0.00", "0.00", "-1.00", "53.10"]


def test_what_a_base_can_be(tmp_path, plan):
    """A plan brings length, resources and seeds; a Config its own length and threads."""
    of_plan = read_base(str(plan))
    assert (of_plan.config.run.epochs, of_plan.confirm.seeds, of_plan.confirm.race) == (1, SEEDS, False)
    config = Config().with_values({"run.epochs": 7, "run.threads": 2, "run.device": "cpu"})
    config.to_yaml(tmp_path / "best.yaml", {"study": "demo"})
    of_config = read_base(str(tmp_path / "best.yaml"))
    assert (of_config.config, of_config.confirm.seeds) == (config, (0, 1, 2, 3, 4))
    assert (of_config.resources.cpu, of_config.resources.gpu, of_config.auto_gpu) == (2, 0, False)
    assert read_base("meld").config == Config.from_yaml("meld"), "a preset, though a plan has that name too"
    assert read_base("meld").auto_gpu
    assert read_base("meld_text").config.model.width == 64, "a shipped plan"
    with pytest.raises(InputError, match="there is no such file or preset"):
        read_base("nothing")


def run(*argv: object, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(
        [COMMAND, *map(str, argv)], capture_output=True, text=True, timeout=300, env=environment, **options
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # MLflow's own
def test_the_command_on_ray_interrupted_resumed_and_extended(tmp_path, corpus):
    plan = tmp_path / "long.yaml"
    write_yaml(plan, {**PLAN, "scheduler": {"kind": "none", "max_epochs": 12}})
    data, results = tmp_path / "small.safetensors", tmp_path / "results"
    corpus.save(data)
    asked = ["reproduce", plan, "--data", data, "--name", "paper", "--results", results]
    first = subprocess.Popen(
        [COMMAND, *map(str, asked), "--tables", "6", "--figures", ""],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (results / "paper" / "epochs.jsonl").is_file():
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert (first.returncode, err) == (130, ""), err
    assert f"lfvd-tune resume paper --results {results}" in out
    done = run("resume", "paper", "--results", results)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    grid = Grid.open(results / "paper")
    keys = [(r["trial"], r["seed"]) for r in grid.confirmed()]
    assert sorted(keys) == [(n, s) for n in range(5) for s in SEEDS]
    assert re.search(r"^rows of tables: 10 runs done, 0 pending", done.stdout, re.MULTILINE)
    assert "w/o L_self" in done.stdout
    more = run(*asked, "--tables", "4", "--figures", "3")
    assert (more.returncode, more.stderr) == (0, ""), more.stderr
    assert {path.name for path in (results / "paper").glob("*.csv")} == {"table4.csv", "table6.csv", "figure3.csv"}
    assert len(Grid.open(results / "paper").confirmed()) == 11 * len(SEEDS)
    status = run("status", "paper", "--results", results)
    assert "rows of tables: 22 of 22 runs" in status.stdout
    refused = run("best", "paper", "--results", results)
    assert (refused.returncode, "holds rows of the paper's tables" in refused.stderr) == (2, True)
    synced = run("sync", "paper", "--results", results)
    assert synced.returncode == 0, synced.stderr
    runs = held(default_uri(results), "paper")
    assert len(runs) == 11 * (1 + len(SEEDS))
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["row: ours"].data.metrics["seeds"] == 2
    assert 0 < runs["row: w/o L_all"].data.metrics["test/wf1_mean"] < 1
    assert read_yaml(results / "paper" / "plan.yaml")["plan"]["parts"] == ["table4", "table6", "figure3"]
