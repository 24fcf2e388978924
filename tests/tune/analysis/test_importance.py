"""Importance of searched values, against least squares written out, and in invented searches where one key matters."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import rankdata

from tests.helpers import invented
from tests.helpers.invented import add_trial
from tune.analysis.importance import importances
from tune.plan import SearchPlan
from tune.search.samplers import sampler_for
from tune.study.study import Study

LR = "optim.lr"


def searched(make_study, count: int, *, matters: bool) -> Study:
    """Trials whose score depends on the learning rate alone, or on nothing."""
    study = make_study(trials=count, sampler={"kind": "random", "seed": 0})
    rng = np.random.default_rng(0)
    for _ in range(count):
        lr, gamma = np.exp(rng.uniform(np.log(1e-4), np.log(3e-2))), np.exp(rng.uniform(np.log(1e-4), np.log(1e-1)))
        score = 0.5 - 0.03 * abs(np.log(lr / 2e-3)) if matters else rng.uniform(0.3, 0.5)
        state = TrialState.PRUNED if rng.uniform() < 0.7 else TrialState.COMPLETE
        values = {LR: float(lr), "loss.gamma2": float(gamma), "model.heads": int(rng.choice([1, 2, 4]))}
        add_trial(study, state, [float(score)], **values)
    return study


def test_importance(make_study):
    """What makes the score is told from what does not; stopped trials count, failed ones do not."""
    study = searched(make_study, 60, matters=True)
    found = importances(study)
    add_trial(study, TrialState.FAIL, [0.9])
    assert importances(study) == found
    assert {each.key for each in found} == study.plan.space.keys()
    assert [each.key for each in found if each.shown] == [LR]
    assert found[0].share > 0.7


def fit(terms: np.ndarray, ranks: np.ndarray, blocks: np.ndarray) -> float:
    """Explained share of the squares within blocks: with a constant of its own for each block."""
    constants = (blocks[:, None] == np.unique(blocks)).astype(float)
    left = [ranks - a @ np.linalg.lstsq(a, ranks)[0] for a in (constants, np.hstack([constants, terms]))]
    return 1 - float((left[1] ** 2).sum() / (left[0] ** 2).sum())


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_against_least_squares(make_study, monkeypatch, kind):
    """The share literally; the level of chance by other permutations within blocks."""
    monkeypatch.setattr("tune.analysis.importance.SHUFFLES", 5000)
    study = searched(make_study, 43, matters=True)
    sampler = SimpleNamespace(kind=kind, startup_trials=8)
    found = importances(
        SimpleNamespace(plan=SimpleNamespace(space=study.plan.space, sampler=sampler), trials=study.trials)
    )
    ranks = rankdata([max(trial.intermediate_values.values()) for trial in study.trials])
    blocks = np.repeat([0, 1], [43, 0]) if kind == "random" else np.repeat(range(8), [8, *[5] * 7])
    lr, gamma = (np.log([trial.params[key] for trial in study.trials]) for key in (LR, "loss.gamma2"))
    heads = np.array([[trial.params["model.heads"] == n for n in (1, 2, 4)] for trial in study.trials], float)
    rng = np.random.default_rng(9)
    order = [np.lexsort((rng.uniform(size=43), blocks)) for _ in range(1000)]
    terms = {LR: np.stack([lr, lr**2], 1), "loss.gamma2": np.stack([gamma, gamma**2], 1), "model.heads": heads}
    for each in found:
        assert each.share == pytest.approx(fit(terms[each.key], ranks, blocks), rel=1e-6)
        level = np.percentile([fit(terms[each.key], ranks[o], blocks) for o in order], 95)
        assert each.chance == pytest.approx(level, rel=0.2)


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_the_one_key_that_matters(kind):
    """In 20 searches of 44 trials: it is shown in most, also where TPE turns to its good values, each other in few."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shown = dict.fromkeys(invented.PLAN["space"], 0)
    for seed in range(20):
        sampler = {"kind": kind, "startup_trials": 10, "seed": seed}
        plan = SearchPlan.from_dict({**invented.PLAN, "sampler": sampler}, source="plan", folder=Path())
        study, rng = optuna.create_study(direction="maximize"), np.random.default_rng(seed)
        study.enqueue_trial(plan.baseline)
        for number in range(44):
            study.sampler = sampler_for(plan, number)
            trial = study.ask({key: parameter.distribution for key, parameter in plan.space.items()})
            value = 0.6 - 0.05 * np.log10(trial.params[LR] / 8e-4) ** 2 + 0.008 * rng.standard_normal()
            trial.report(value, 1)
            study.tell(trial, value)
        for each in importances(SimpleNamespace(plan=plan, trials=study.trials)):
            shown[each.key] += each.shown
    assert shown.pop(LR) >= 15
    assert sum(shown.values()) <= 12, "5 are expected of 5 keys in 20 searches"


def test_importance_of_nothing(make_study):
    found = importances(searched(make_study, 60, matters=False))
    assert sum(each.shown for each in found) <= 1


def test_importance_needs_trials(make_study):
    assert importances(searched(make_study, 19, matters=True)) == []
