"""The study's folder: begun once, gone on with by the same plan and data alone, and read while it is written."""

import contextlib
import dataclasses
import errno
import json
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from lfvd.files import read_yaml
from tests.helpers.plans import PLAN, make_plan
from tune.study.checksums import Checksums, DamagedError
from tune.study.paths import RECORDS
from tune.study.plan_file import DataSource, StudyError
from tune.study.study import OBJECTIVE, Study, study_lock

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
    frozen = read_yaml(begun.folder / "plan.yaml")["plan"]
    assert {k: v if k not in ("confirm", "scheduler", "sampler") else {**frozen[k], **v} for k, v in PLAN.items()} == {
        k: frozen[k] for k in PLAN
    }
    written_out = (frozen["confirm"]["race"], frozen["resources"]["epoch_timeout"], frozen["budget"])
    assert written_out == (False, "30m", {"gpu_hours": 0.0}), "another version's defaults change nothing"


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
        {"confirm": {"folds": 0, "finalists": 2, "seeds": [0, 2], "race": False}},
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
        f"{begun.folder}: holds a study that differs from what is asked in {text}: choose another --name, "
        "or go on with what it began with"
    )
    assert content(begun.folder) == before


def test_other_data_are_refused(begun):
    before = content(begun.folder)
    with pytest.raises(
        StudyError, match=re.escape("differs from what is asked in the data (ffffffffffff there, 000000000000 here): ")
    ):
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


def test_fewer_trials_than_there_are(begun):
    for _ in range(2):
        begun.optuna.ask({key: p.distribution for key, p in begun.plan.space.items()})
    before = content(begun.folder)
    with pytest.raises(StudyError) as error:
        start(begun.folder, trials=2)
    assert str(error.value) == (
        f"{begun.folder}: holds 3 trials, more than the 2 asked for: a study keeps its trials: ask for 3 or more"
    )
    assert content(begun.folder) == before
    start(begun.folder, trials=3)


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
    assert (begun.epochs(), begun.confirmed(), begun.test_log.evaluations()) == ([], [], [])
    for _ in range(4):
        begun.optuna.ask({key: p.distribution for key, p in begun.plan.space.items()})
    begun.log_epoch("search", 3, 77, RECORD)
    begun.log_epoch("confirm", 4, 0, {**RECORD, "epoch": 2})
    begun.log_confirmed({"trial": 4, "seed": 0, **RECORD})
    begun.test_log.log_evaluation({"trials": [4, 0], "seeds": [0, 1]})
    begun.test_log.log_scores({4: [RECORD]})
    begun.test_log.log_evaluation({"trials": [2], "seeds": [0, 1]})
    study = Study.open(begun.folder)
    search = {"stage": "search", "trial": 3, "seed": 77, **RECORD}
    confirm = {"stage": "confirm", "trial": 4, "seed": 0, **RECORD, "epoch": 2}
    assert study.epochs() == [search, confirm]
    assert study.epochs("search") == [search]
    assert study.epochs("confirm") == [confirm]
    assert study.confirmed() == [{"trial": 4, "seed": 0, **RECORD}]
    assert study.test_log.evaluations() == [
        {"trials": [4, 0], "seeds": [0, 1], "scores": {"4": [RECORD]}},
        {"trials": [2], "seeds": [0, 1], "scores": {}},
    ]
    assert study.test_scores() == {4: [RECORD]}


@pytest.mark.parametrize("keep", [0, 1, 30, -1])
def test_half_a_line_at_the_end_is_no_record(begun, keep):
    """A full disk or a power cut: what was whole stays, and the next record begins a line of its own."""
    begun.log_epoch("search", 0, 7, RECORD)
    path = begun.folder / "epochs.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:keep])
    assert begun.epochs() == [{"stage": "search", "trial": 0, "seed": 7, **RECORD}]
    begun.log_epoch("search", 0, 7, {**RECORD, "epoch": 2})
    assert [r["epoch"] for r in begun.epochs()] == [1, 2]
    assert path.read_bytes().count(b"\n") == 2


def test_half_a_first_line(begun):
    path = begun.folder / "epochs.jsonl"
    path.write_bytes(b'{"stage": "sea')
    assert begun.epochs() == []
    begun.log_epoch("search", 0, 7, RECORD)
    assert len(begun.epochs()) == 1


def _write(folder: Path, enough: Any) -> None:
    while not enough.is_set():
        with study_lock(folder):
            study = Study.open(folder)
            for _ in range(3):
                trial = study.optuna.ask({key: p.distribution for key, p in study.plan.space.items()})
                study.log_epoch("search", trial.number, 1, RECORD)
                trial.report(0.5, 1)
                study.optuna.tell(trial, 0.5)


def test_a_second_reader_while_writing(begun):
    """`lfvd-tune status` beside a search: it never fails, sees more and more, and disturbs nothing."""
    context = multiprocessing.get_context("spawn")
    enough = context.Event()
    writer = context.Process(target=_write, args=(begun.folder, enough))
    writer.start()
    counts = []
    try:
        while writer.is_alive():
            study = Study.open(begun.folder)
            counts.append((len(study.epochs()), len(study.trials)))
            assert all(json.loads(json.dumps(r)) == r and r["epoch"] == 1 for r in study.epochs())
            if len(set(counts)) > 3:
                enough.set()
    finally:
        enough.set()
        writer.join(60)
    assert writer.exitcode == 0
    assert counts == sorted(counts)
    assert len(set(counts)) > 3, "the reader saw the study grow"
    assert len(begun.trials) == len(begun.epochs()) + 1 >= counts[-1][1]


def test_checksums_that_a_crash_left_behind(begun, monkeypatch):
    """Files are forced to disk before their checksums: any earlier checksums fit what the files hold."""
    earlier, write = [], Checksums.write
    monkeypatch.setattr(Checksums, "write", lambda self, folder: earlier.append(self) or write(self, folder))
    for number in (1, 2, 3):
        trial = begun.optuna.ask({key: p.distribution for key, p in begun.plan.space.items()})
        begun.log_epoch("search", number, 1, RECORD)
        begun.fsync()
        begun.optuna.tell(trial, 0.5)
        begun.log_confirmed({"trial": number, "seed": 0, "params_hash": begun.params_hash(number)})
    assert len(earlier) > 5
    for each in earlier:
        write(each, begun.folder)
        assert len(Study.open(begun.folder).epochs()) == 3


def _lines_of(study: Study) -> dict[str, bytes]:
    return {name: (study.folder / name).read_bytes() for name in RECORDS if (study.folder / name).is_file()}


@pytest.mark.parametrize("name", ["journal.log", "epochs.jsonl", "confirm.jsonl"])
@pytest.mark.parametrize("tail", [b'{"op_code"', b"{", b"\0" * 512, b"\0" * 512 + b"\n", b'{"a": 1', b"7\n"])
def test_a_torn_end_is_mended(begun, name, tail):
    """What a power cut left is cut off with a warning, entered as a fault; nothing before it is lost."""
    begun.log_epoch("search", 0, 1, RECORD)
    begun.log_confirmed({"trial": 0, "seed": 0})
    before = _lines_of(begun)
    trials = [t.number for t in begun.trials]
    with (begun.folder / name).open("ab") as file:
        file.write(tail)
    with study_lock(begun.folder) as found:
        assert found == [
            f"{begun.folder / name}: its last line was cut off ({len(tail)} bytes): removed, nothing before it is lost"
        ]
        reopened = Study.open(begun.folder)
        assert {k: v for k, v in _lines_of(reopened).items() if k != "faults.jsonl"} == before
        assert [t.number for t in reopened.trials] == trials
        assert [fault["reason"] for fault in reopened.faults()] == found
        reopened.optuna.ask()
        reopened.log_epoch("search", 0, 1, {**RECORD, "epoch": 2})
    with study_lock(begun.folder) as found:
        assert found == []
        assert [r["epoch"] for r in Study.open(begun.folder).epochs()] == [1, 2]


@pytest.mark.parametrize("name", ["journal.log", "epochs.jsonl"])
def test_damage_in_the_middle_is_an_error(begun, name):
    """No end that was cut off: nothing is guessed."""
    begun.log_epoch("search", 0, 1, RECORD)
    path = begun.folder / name
    path.write_bytes(b"{torn\n" + path.read_bytes())
    before = content(begun.folder)
    with pytest.raises(DamagedError, match=re.escape(f"{path}, line 1: ")), study_lock(begun.folder):
        pass
    with pytest.raises(DamagedError, match=re.escape(f"{path}, line 1: ")):
        Study.open(begun.folder)
    assert content(begun.folder) == {**before, "driver.lock": b""}


def test_a_disk_that_is_full_for_a_while(begun, monkeypatch):
    """The line is written once there is room, whole and once; the wait is entered as a fault."""
    real, calls, waited = os.fsync, [], []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) <= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    begun.wait_for_disk_space = lambda error: waited.append(error.errno) or True
    begun.log_confirmed({"trial": 0, "seed": 0})
    assert waited == [errno.ENOSPC, errno.ENOSPC]
    [fault] = begun.faults()
    assert (fault["reason"].endswith("No space left on device"), fault["then"]) == (True, "waited for room")


def test_a_disk_that_stays_full(begun, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        begun.log_confirmed({"trial": 0, "seed": 0})


@pytest.mark.parametrize("seed", range(40))
def test_a_power_cut_anywhere(make_study, seed):
    """Whatever the files lost since they were last forced to disk, the study goes on, each file by itself cut off."""
    from tests.helpers.fake_workers import Workers, never
    from tune.search.trials import SearchJobs

    rng = np.random.default_rng(seed)
    study, workers = make_study("cut"), Workers()
    forced: dict[str, int] = {}
    fsync = os.fsync

    def note(handle: int) -> None:
        fsync(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        forced[path.name] = path.stat().st_size

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", note)
        with contextlib.suppress(BaseException):
            workers.run(SearchJobs(study, never), slots=2, most=int(rng.integers(1, 20)))
    for name in ("journal.log", "epochs.jsonl"):
        path = study.folder / name
        if path.is_file():
            os.truncate(path, int(rng.integers(forced.get(name, 0), path.stat().st_size + 1)))
    with study_lock(study.folder):
        reopened = make_study("cut")
        workers.run(SearchJobs(reopened, never), slots=2)
    assert [t.number for t in reopened.trials] == list(range(reopened.plan.trials))
    keys = [(r["trial"], r["epoch"]) for r in reopened.epochs()]
    assert len(set(keys)) == len(keys)
    for trial in reopened.trials:
        assert trial.state.is_finished()
        values = {r["epoch"]: r[OBJECTIVE] for r in reopened.epochs() if r["trial"] == trial.number}
        assert trial.intermediate_values == values
