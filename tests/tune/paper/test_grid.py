"""A grid trains each row once on each seed, goes on after an interrupt, and takes more tables."""

import dataclasses

import pytest

from lfvd.config import Config
from lfvd.files import InputError, write_yaml
from lfvd.training.trainer import train
from tests.helpers.grids import PLAN, SEEDS, begin, work
from tests.helpers.invented import never
from tune.paper import reproduce
from tune.paper.grid import Grid, is_grid, read_base
from tune.paper.outcomes import Outcomes
from tune.paper.rows import ROWS
from tune.search.confirmation import ConfirmJobs
from tune.study.plan_file import StudyError
from tune.study.study import Study


def test_each_config_is_trained_once_on_each_seed(whole):
    assert len(whole.numbers) == 20
    assert [whole.name_of(n) for n in whole.numbers[:3]] == ["ours", "T", "V"]
    runs = [(run["trial"], run["seed"]) for run in whole.confirmed()]
    assert sorted(runs) == [(n, s) for n in whole.numbers for s in SEEDS]
    assert {record["stage"] for record in whole.epochs()} == {"experiment"}
    rows = {(row.part, row.name): whole.number(row) for row in whole.selected()[0]}
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
        ({"confirm": {"folds": 0, "seeds": [0, 1, 2]}}, r"`confirm.seeds` \(\(0, 1\) there, \(0, 1, 2\) here\)"),
        ({"scheduler": {"kind": "none", "max_epochs": 2}}, r"`run.epochs` \(1 there, 2 here\)"),
        ({}, r"the data \(.* there, another here\)"),
    ],
)
def test_another_base_and_other_data_are_refused(whole, tmp_path, corpus, change, told):
    path = tmp_path / "other.yaml"
    write_yaml(path, {**PLAN, **change})
    other = corpus if change else dataclasses.replace(corpus, fingerprint="another")
    with pytest.raises(StudyError, match=told):
        begin(whole.folder, path, other, "table4")


def test_searches_and_grids_are_not_taken_for_each_other(whole, make_study, plan, corpus):
    study = make_study("search")
    assert is_grid(whole.folder)
    assert not is_grid(study.folder)
    with pytest.raises(StudyError, match="holds rows of the paper's tables, no search"):
        Study.open(whole.folder)
    with pytest.raises(StudyError, match="search: holds a search, no rows of tables: choose another --name"):
        begin(study.folder, plan, corpus, "table4")


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
