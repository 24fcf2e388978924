"""The study's folder: begun once, gone on with by the same plan and data alone, and read while it is written."""

import dataclasses
import json
import multiprocessing
import re
from pathlib import Path

import pytest
from conftest import PLAN, make_plan
from optuna.trial import TrialState

from lfvd.files import read_yaml
from tune.journal import DataSource, Study, StudyError

DATA = DataSource(path="d.safetensors", name="X", fingerprint="f" * 64, simulated=("audio",))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def start(folder: Path, data: DataSource = DATA, **changes) -> Study:
    return Study.start(folder, make_plan(**changes), data, {"commit": "abc"})


@pytest.fixture
def begun(tmp_path) -> Study:
    """A study with one finished trial."""
    study = start(tmp_path / "study")
    study.optuna.enqueue_trial(study.plan.baseline)
    trial = study.optuna.ask({key: p.distribution for key, p in study.plan.space.items()})
    study.optuna.tell(trial, 0.5)
    return study


def test_start_open_and_go_on(begun):
    opened, again = Study.open(begun.folder), start(begun.folder)
    for study in (opened, again):
        assert study.plan == begun.plan
        assert (study.data, study.info, study.name) == (DATA, {"commit": "abc"}, "study")
        assert [(t.number, t.state, t.value, t.params) for t in study.trials] == [
            (0, TrialState.COMPLETE, 0.5, begun.plan.baseline)
        ]
    assert again.config_of(0) == begun.plan.config
    assert read_yaml(begun.folder / "plan.yaml")["plan"] == {**PLAN}


def test_waiting_trials_have_no_number_yet(begun):
    begun.optuna.enqueue_trial(begun.plan.baseline)
    assert [t.number for t in begun.trials] == [0]


DIFFERENT = {
    "a range": (
        {"space": {**PLAN["space"], "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}}},
        "`space.optim.lr` (FloatDistribution(high=0.03, log=True, low=0.0001, step=None) there, "
        "FloatDistribution(high=0.01, log=True, low=0.0001, step=None) here)",
    ),
    "one key less": (
        {"space": {k: v for k, v in PLAN["space"].items() if k != "loss.gamma2"}},
        "`space.loss.gamma2` (FloatDistribution(high=0.1, log=True, low=0.0001, step=None) there, None here)",
    ),
    "a choice": (
        {"space": {**PLAN["space"], "model.heads": {"choices": [1, 4]}}},
        "`space.model.heads` (CategoricalDistribution(choices=(1, 2, 4)) there, "
        "CategoricalDistribution(choices=(1, 4)) here)",
    ),
    "a set value": (
        {"set": {**PLAN["set"], "model.latent": 3}},
        "`model.latent` (2 there, 3 here)",
    ),
    "the base": (
        {"base": "iemocap"},
        "`loss.gamma1` (0.00135 there, 0.035 here), `optim.lr` (0.00025 there, 6.2e-05 here)",
    ),
    "the sampler's seed": (
        {"sampler": {**PLAN["sampler"], "seed": 1}},
        "`sampler.seed` (0 there, 1 here)",
    ),
    "the length": (
        {"scheduler": {**PLAN["scheduler"], "max_epochs": 8}},
        "`run.epochs` (4 there, 8 here), `scheduler.max_epochs` (4 there, 8 here)",
    ),
    "cores": ({"resources": {"cpu": 2}}, "`run.threads` (1 there, 2 here), `resources.cpu` (1 there, 2 here)"),
    "seeds": (
        {"confirm": {"finalists": 2, "seeds": [0, 2]}},
        "`confirm.seeds` ((0, 1) there, (0, 2) here)",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_plan_is_refused(begun, name):
    changes, text = DIFFERENT[name]
    if name == "the base":  # its rate lies below the range, which would be another problem
        changes = {**changes, "space": {**PLAN["space"], "optim.lr": {"low": 1e-5, "high": 3e-2, "log": True}}}
        text += (
            ", `space.optim.lr` (FloatDistribution(high=0.03, log=True, low=0.0001, step=None) there, "
            "FloatDistribution(high=0.03, log=True, low=1e-05, step=None) here)"
        )
    before = content(begun.folder)
    with pytest.raises(StudyError) as error:
        start(begun.folder, **changes)
    assert str(error.value) == (
        f"{begun.folder}: holds a study of another plan, which differs in {text}: choose another --name, "
        "or go on with the old plan"
    )
    assert content(begun.folder) == before


def test_other_data_are_refused(begun):
    before = content(begun.folder)
    with pytest.raises(StudyError, match=re.escape("differs in the data (ffffffffffff there, 000000000000 here): ")):
        start(begun.folder, dataclasses.replace(DATA, fingerprint="0" * 64))
    assert content(begun.folder) == before


def test_data_may_move(begun):
    start(begun.folder, dataclasses.replace(DATA, path="elsewhere.safetensors"))
    assert Study.open(begun.folder).data.path == "elsewhere.safetensors"


@pytest.mark.parametrize("changes", [{"trials": 60}, {"budget": {"wall": "9h"}}, {"resources": {"max_concurrent": 3}}])
def test_how_much_may_change(begun, changes):
    start(begun.folder, **changes)
    opened = Study.open(begun.folder)
    assert opened.plan == make_plan(**changes)
    assert len(opened.trials) == 1


def test_a_plan_of_which_nothing_ran_may_change(tmp_path):
    """The remedy for resources that no node has is to change them."""
    start(tmp_path / "study", resources={"cpu": 64})
    start(tmp_path / "study", resources={"cpu": 1})
    assert Study.open(tmp_path / "study").plan.resources.cpu == 1


def test_foreign_content_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(StudyError) as error:
        start(tmp_path)
    assert str(error.value) == f"{tmp_path}: is not empty and holds no plan.yaml: choose another --name"
    assert content(tmp_path) == {"thesis.tex": b"all of it"}


def test_no_such_study(tmp_path):
    with pytest.raises(StudyError) as error:
        Study.open(tmp_path / "demo")
    assert str(error.value) == (
        f"{tmp_path}/demo: there is no such study: there is none yet: start one with `lfvd-tune search`"
    )
    start(tmp_path / "b")
    start(tmp_path / "a")
    with pytest.raises(StudyError, match=r"demo: there is no such study: there are a, b$"):
        Study.open(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("text", ["plan: {}\n", "plan: 3\nconfig: {}\ndata: {}\n", "config: {optim: {lr: -1}}\n"])
def test_damaged_plan(tmp_path, text):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(StudyError, match=r"plan\.yaml: is damaged \(.*\): restore it, or start another study"):
        Study.open(tmp_path)


def test_a_preset_that_changes_later_does_not_change_the_study(tmp_path):
    """The base is frozen with the plan: a study opens without the file that it began with."""
    base = tmp_path / "own.yaml"
    make_plan().config.to_yaml(base)
    study = Study.start(tmp_path / "study", make_plan(base=str(base)), DATA, {})
    base.unlink()
    assert Study.open(study.folder).plan.config == study.plan.config


def test_check_data(make_study, tiny_corpus):
    study = make_study()
    study.check_data(tiny_corpus)
    with pytest.raises(StudyError) as error:
        study.check_data(dataclasses.replace(tiny_corpus, fingerprint="0" * 64))
    assert str(error.value) == (
        f"{study.folder}: belongs to TINY {tiny_corpus.fingerprint[:12]}, but the data given are TINY 000000000000: "
        "give the study's own data"
    )


def test_opening_writes_nothing(begun):
    before = content(begun.folder)
    assert Study.open(begun.folder).trials[0].value == 0.5
    assert content(begun.folder) == before


def test_a_renamed_folder_keeps_its_trials(begun):
    moved = begun.folder.rename(begun.folder.parent / "renamed")
    study = start(moved)
    assert (study.name, len(study.trials)) == ("renamed", 1)


RECORD = {"epoch": 1, "seconds": 0.1 + 0.2, "val/wf1": 1 / 3, "val/f1/größe\u2028\x85": 5e-324, "val/wf1_best": 1 / 3}


def test_records_come_back_as_they_were(begun):
    assert (begun.epochs(), begun.confirmed(), begun.looks()) == ([], [], [])
    begun.append_epoch("search", 3, 77, RECORD)
    begun.append_epoch("confirm", 4, 0, {**RECORD, "epoch": 2})
    begun.append_confirmed({"trial": 4, "seed": 0, **RECORD})
    begun.append_look({"trials": [4, 0], "scores": {4: [RECORD]}})
    study = Study.open(begun.folder)
    search = {"stage": "search", "trial": 3, "seed": 77, **RECORD}
    confirm = {"stage": "confirm", "trial": 4, "seed": 0, **RECORD, "epoch": 2}
    assert study.epochs() == [search, confirm]
    assert study.epochs("search") == [search]
    assert study.epochs("confirm") == [confirm]
    assert study.confirmed() == [{"trial": 4, "seed": 0, **RECORD}]
    assert study.looks() == [{"trials": [4, 0], "scores": {"4": [RECORD]}}]


@pytest.mark.parametrize("keep", [0, 1, 30, -1])
def test_half_a_line_at_the_end_is_no_record(begun, keep):
    """A full disk or a power cut: what was whole stays, and the next record begins a line of its own."""
    begun.append_epoch("search", 0, 7, RECORD)
    path = begun.folder / "epochs.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:keep])
    assert begun.epochs() == [{"stage": "search", "trial": 0, "seed": 7, **RECORD}]
    begun.append_epoch("search", 0, 7, {**RECORD, "epoch": 2})
    assert [r["epoch"] for r in begun.epochs()] == [1, 2]
    assert path.read_bytes().count(b"\n") == 2


def test_half_a_first_line(begun):
    path = begun.folder / "epochs.jsonl"
    path.write_bytes(b'{"stage": "sea')
    assert begun.epochs() == []
    begun.append_epoch("search", 0, 7, RECORD)
    assert len(begun.epochs()) == 1


def _write(folder: Path, trials: int) -> None:
    study = Study.open(folder)
    for _ in range(trials):
        trial = study.optuna.ask({key: p.distribution for key, p in study.plan.space.items()})
        study.append_epoch("search", trial.number, 1, RECORD)
        trial.report(0.5, 1)
        study.optuna.tell(trial, 0.5)


def test_a_second_reader_while_writing(begun):
    """`lfvd-tune status` beside a search: it never fails, sees more and more, and disturbs nothing."""
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=_write, args=(begun.folder, 30))
    writer.start()
    counts = []
    try:
        while writer.is_alive():
            study = Study.open(begun.folder)
            counts.append((len(study.epochs()), len(study.trials)))
            assert all(json.loads(json.dumps(r)) == r and r["epoch"] == 1 for r in study.epochs())
    finally:
        writer.join(60)
    assert writer.exitcode == 0
    assert counts == sorted(counts)
    assert len(set(counts)) > 3, "the reader saw the study grow"
    assert (len(begun.epochs()), len(begun.trials)) == (30, 31)
