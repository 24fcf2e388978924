"""Suggestions are a function of the journal; training seeds keep away from the confirmation's."""

import dataclasses
import json
import math
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState

from tests.helpers import ROOT
from tests.helpers.fake_workers import suggest
from tests.helpers.plans import PLAN, make_plan
from tune.search.samplers import sampler_for, training_seed
from tune.sections import MAX_SEED, SamplerPlan
from tune.study.study import Study


def grow(study: Study, upto: int) -> None:
    """Trials whose value depends on their parameters; every third is stopped early, every fifth fails."""
    while len(study.trials) < upto:
        trial = suggest(study)
        value = 1 - abs(trial.params["optim.lr"] - 1e-3)
        trial.report(value, 1)
        if trial.number % 5 == 4:
            study.optuna.tell(trial, state=TrialState.FAIL)
        elif trial.number % 3 == 2:
            study.optuna.tell(trial, state=TrialState.PRUNED)
        else:
            study.optuna.tell(trial, value)


def values(study: Study) -> list[dict]:
    return [trial.params for trial in study.trials]


KINDS = ["tpe", "random", "qmc", pytest.param("gp", marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", KINDS)
def test_suggestions_are_a_function_of_the_journal(make_study, kind):
    """One sitting of 8 trials, and one for each trial; with another seed they differ."""
    plan = {"trials": 8, "sampler": {"kind": kind, "startup_trials": 3, "seed": 5}}
    whole = make_study("whole", **plan)
    grow(whole, 8)
    for upto in range(1, 9):
        grow(make_study("pieces", **plan), upto)
    assert values(whole) == values(make_study("pieces", **plan))
    assert len({json.dumps(v) for v in values(whole)}) >= (4 if kind == "gp" else 8), "gp may look at a place twice"
    other = make_study("other", sampler={"kind": kind, "startup_trials": 3, "seed": 6})
    grow(other, 4)
    assert all(a != b for a, b in zip(values(whole), values(other), strict=False))


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.helpers.fake_workers import suggest
from tune.study.study import Study
import json
print(json.dumps(suggest(Study.open(Path(sys.argv[2]))).params))
"""


def test_another_process_suggests_the_same(make_study, request):
    first, second = make_study("first"), make_study("second")
    grow(first, 7)
    grow(second, 7)
    argv = [sys.executable, "-c", SCRIPT, str(ROOT), str(second.folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == suggest(first).params


def test_learners_use_what_they_are_told(make_study):
    """TPE after its random trials: half of the values of both studies, then another history, then another suggestion."""
    first, second = make_study("first"), make_study("second")
    for study, sign in ((first, 1), (second, -1)):
        for _ in range(PLAN["sampler"]["startup_trials"] + 2):
            trial = suggest(study)
            study.optuna.tell(trial, sign * trial.params["optim.lr"])
    start = PLAN["sampler"]["startup_trials"]
    assert values(first)[:start] == values(second)[:start]
    assert values(first)[start:] != values(second)[start:]


def test_tpe_suggests_what_optunas_own_does(make_study, monkeypatch):
    """The space comes from the plan instead of from a look at all trials, with the same suggestions."""
    dropout = make_plan().config.model.dropout
    space = {**PLAN["space"], "model.dropout": {"choices": [dropout]}, "loss.temperature": {"low": 0.05, "high": 1.0}}
    ours, optunas = make_study("ours", space=space), make_study("optunas", space=space)
    grow(ours, 16)
    monkeypatch.delattr("tune.search.samplers._PlanSpace.infer_relative_search_space")
    grow(optunas, 16)
    assert values(ours) == values(optunas)
    assert {v["model.dropout"] for v in values(ours)} == {dropout}
    assert len({v["optim.lr"] for v in values(ours)}) == 16


def test_tpes_settings_are_optunas_defaults():
    """They are written out, so that another version of Optuna does not change a study; today they change nothing."""
    ours, optunas = vars(sampler_for(make_plan(), 7)), vars(optuna.samplers.TPESampler(n_startup_trials=4))
    names = ("_n_startup_trials", "_n_ei_candidates", "_group", "_constant_liar", "_parzen_estimator_parameters")
    assert [ours[name] for name in names] == [optunas[name] for name in names]
    assert optuna.samplers.TPESampler()._is_multivariate(optuna.create_study()) is ours["_multivariate"] is True


def test_qmc_gives_each_trial_its_own_point(make_study):
    """Also while every trial fails, which Optuna's own counts as none; one after the other the points are Optuna's."""
    plan = {"sampler": {"kind": "qmc", "startup_trials": 3, "seed": 5}}
    failing, ending, at_once = (make_study(name, **plan) for name in ("failing", "ending", "at_once"))
    for study in (failing, ending, at_once):
        study.optuna.enqueue_trial(study.plan.baseline)
    for _ in range(9):
        failing.optuna.tell(suggest(failing), state=TrialState.FAIL)
        ending.optuna.tell(suggest(ending), 0.5)
        suggest(at_once)
    assert values(failing) == values(ending) == values(at_once)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        sampler = optuna.samplers.QMCSampler(seed=5, scramble=True, warn_independent_sampling=False)
    own = optuna.create_study(sampler=sampler)
    own.enqueue_trial(ending.plan.baseline)
    for _ in range(9):
        own.tell(own.ask({key: each.distribution for key, each in ending.plan.space.items()}), 0.5)
    assert values(ending) == [trial.params for trial in own.trials]
    assert len({json.dumps(v) for v in values(failing)}) == 9


def test_gp_learns_from_stopped_trials(make_study):
    """All trials stopped: its model, not chance, chooses near the best of them; by the best value, not the last."""
    study = make_study(trials=40, sampler={"kind": "gp", "startup_trials": 6, "seed": 1})
    for _ in range(14):
        trial = suggest(study)
        value = 0.6 - 0.1 * abs(math.log10(trial.params["optim.lr"] / 1e-2))
        for epoch, reached in enumerate((value, value / 2), start=1):
            trial.report(reached, epoch)
        study.optuna.tell(trial, state=TrialState.PRUNED)
    chosen = [abs(math.log10(each["optim.lr"] / 1e-2)) for each in values(study)]
    assert sum(distance < 0.3 for distance in chosen[7:]) >= 5
    assert all("gp:relative_params:0" in trial.system_attrs for trial in study.optuna.trials[7:])


def test_training_seeds():
    """Repeatable, all different, another for another sampler seed, and never one that the confirmation uses."""
    plan = SamplerPlan(seed=3)
    free = [training_seed(plan, n, taken=()) for n in range(300)]
    assert free == [training_seed(plan, n, taken=()) for n in range(300)]
    assert len(set(free)) == 300
    assert all(0 <= seed < MAX_SEED for seed in free)
    assert not set(free) & {training_seed(dataclasses.replace(plan, seed=4), n, taken=()) for n in range(300)}
    taken = tuple(free[:40])
    dodged = [training_seed(plan, n, taken=taken) for n in range(300)]
    assert not set(dodged) & set(taken)
    assert dodged[40:] == free[40:]
