"""The runs that MLflow must hold: calls that read only what is new find the same as one call that reads all."""

import numpy as np
import pytest
from optuna.trial import TrialState

from lfvd.files import InputError, write_yaml
from tests.helpers.mlflow_studies import (
    SEEDS,
    STATES,
    begin,
    confirm,
    evaluate_test,
    finish,
    record,
    search,
    start,
    train,
)
from tune.search.samplers import training_seed
from tune.study.jsonl import dump, parse
from tune.study.study import Study
from tune.tracking.mlflow_runs import MAX_FAULT, MlflowRun, MlflowRuns


class Busy:
    """A study to which anything may happen next."""

    def __init__(self, study: Study, seed: int) -> None:
        self.study, self.rng = study, np.random.default_rng(seed)
        self.running: dict[int, tuple] = {}
        self.confirming: dict[tuple[int, int], int] = {}

    def act(self) -> None:
        """One thing, at random."""
        acts = [self.begin, self.train, self.train, self.train, self.fault, self.finish, self.confirm, self.confirm]
        acts[self.rng.integers(len(acts))]()

    def begin(self) -> None:
        trial = begin(self.study)
        self.running[trial.number] = (trial, 0)

    def pick(self) -> int | None:
        return int(self.rng.choice(list(self.running))) if self.running else None

    def train(self) -> None:
        if (number := self.pick()) is not None:
            trial, epochs = self.running[number]
            train(self.study, trial, [0.4 + 0.01 * epochs], first=epochs + 1)
            self.running[number] = (trial, epochs + 1)

    def fault(self) -> None:
        number = self.pick()
        seed = None if number is None else training_seed(self.study.plan.sampler, number, taken=SEEDS)
        where = {} if number is None else {"stage": "search", "trial": number, "seed": seed}
        self.study.log_fault(f"worker {self.rng.integers(2)} died", "continued", **where)

    def finish(self) -> None:
        if (number := self.pick()) is not None:
            finish(self.study, self.running.pop(number)[0], STATES[self.rng.integers(3)])

    def confirm(self) -> None:
        ended = [t.number for t in self.study.trials if t.state == TrialState.COMPLETE][:2]
        if not ended:
            return
        key = (int(self.rng.choice(ended)), int(self.rng.choice(SEEDS)))
        done = self.confirming.get(key, 0)
        if done < 3:
            self.study.log_epoch("confirm", *key, record(done + 1, 0.5, 0.5))
            self.confirming[key] = done + 1
        elif done == 3:
            self.study.log_confirmed({"trial": key[0], "seed": key[1], "best_epoch": 3, "val/wf1": 0.5, "seconds": 4.5})
            self.confirming[key] = 4
        elif self.rng.integers(4) == 0:
            evaluate_test(self.study, key[0])
            write_yaml(self.study.folder / "best.yaml", {"provenance": {"trial": key[0]}})


def by_key(runs: list[MlflowRun]) -> dict[str, MlflowRun]:
    assert len({run.key for run in runs}) == len(runs), "a run is there twice"
    return {run.key: run for run in runs}


@pytest.mark.parametrize("seed", range(4))
def test_calls_now_and_then_find_what_one_call_finds(tmp_path, tiny_corpus, seed):
    """At random moments, by the driver's own study and by one that is opened anew; live and at rest."""
    busy = Busy(start(tmp_path / "study", tiny_corpus), seed)
    watching, seen = MlflowRuns(busy.study), {}
    for _ in range(120):
        busy.act()
        if busy.rng.integers(4) == 0:
            live = bool(busy.rng.integers(4))
            found = watching.runs(live=live)
            assert not {run.key for run in found} & {key for key, run in seen.items() if run.final}
            seen |= by_key(found)
            whole = by_key(MlflowRuns(Study.open(busy.study.folder)).runs(live=live))
            assert seen == whole
            assert all(run.parent is None or run.parent in list(whole)[:i] for i, run in enumerate(whole.values()))
    assert {run.status for run in seen.values() if run.final} == {"FINISHED", "FAILED"}
    assert any("faults" in run.tags for run in seen.values())
    assert {key for key in watching.epochs if key[0] == "search"} <= {
        ("search", n, training_seed(busy.study.plan.sampler, n, taken=SEEDS)) for n in busy.running
    }, "records of what has ended are not kept"


def test_finished_trials_are_left_out_once_they_have_ended(study):
    trials = [begin(study), begin(study)]
    for trial in trials:
        train(study, trial, [0.5])
    finish(study, trials[0], TrialState.COMPLETE)
    [run] = MlflowRuns(study, finished={0, 1}).runs(live=True)
    assert (run.key, len(run.epochs)) == ("trial1", 1), "a run that MLflow has ended, but not the study, is sent again"


def test_only_the_stage_at_work_runs(study):
    search(study, 1)
    begin(study)  # stays unfinished: the budget is spent
    confirm(study, 0, 0, [0.5], done=False)
    status = {run.key: run.status for run in MlflowRuns(study).runs(live=True)}
    expected = {"trial0": "FINISHED", "trial1": "SCHEDULED", "finalist0": "RUNNING", "finalist0-seed0": "RUNNING"}
    assert status == expected
    assert "RUNNING" not in {run.status for run in MlflowRuns(study).runs(live=False)}


def test_half_a_line_and_a_damaged_one(study):
    train(study, begin(study), [0.4])
    path, watching = study.folder / "epochs.jsonl", MlflowRuns(study)
    line = dump({**parse(path.read_bytes()), "epoch": 2})
    steps = []
    for piece in (line[:30], line[30:], "\n", "{]\n"):
        with path.open("a") as file:
            file.write(piece)
        if piece == "{]\n":
            with pytest.raises(InputError, match=r"epochs\.jsonl, line 3: is damaged"):
                watching.runs(live=True)
        else:
            steps.append([r["epoch"] for r in watching.runs(live=True)[0].epochs])
    assert steps == [[1], [1], [1, 2]]


def test_faults_are_tags(study):
    """Each reason once, on one line, cut short; of a trial, of a confirmed run; what belongs to none is in no run."""
    for trial in (begin(study), begin(study)):
        train(study, trial, [0.5])
    seed = training_seed(study.plan.sampler, 1, taken=SEEDS)
    for reason in ("worker\n  killed", "no room", "worker\n  killed", "x" * 999):
        study.log_fault(reason, "continued", stage="search", trial=1, seed=seed)
    finish(study, trial, TrialState.COMPLETE)
    confirm(study, 1, 0, [0.5])
    confirm(study, 1, 3, [0.5])
    study.log_fault("node lost", "continued", stage="confirm", trial=1, seed=3)
    study.log_fault("the driver died", "going on")
    tags = {run.name: run.tags.get("faults") for run in MlflowRuns(study).runs(live=False)}
    assert tags == {
        "trial 0 (baseline)": None,
        "trial 1": f"worker killed (2 times); no room; {'x' * MAX_FAULT}",
        "finalist: trial 1": None,
        "trial 1, seed 0": None,
        "trial 1, seed 3": "node lost",
    }
