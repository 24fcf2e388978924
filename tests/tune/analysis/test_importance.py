"""Importance of searched values, against Optuna's own figures."""

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from tests.helpers.invented import add_trial
from tune.analysis.importance import evaluator, finished_search, importances
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
    """What makes the score is told from what does not; the shares are Optuna's own; stopped trials count."""
    study = searched(make_study, 60, matters=True)
    add_trial(study, TrialState.FAIL, [0.9])
    found = {each.key: each for each in importances(study)}
    assert found.keys() == study.plan.space.keys()
    assert found[LR].shown
    assert found[LR].share > 0.7
    assert not all(each.shown for each in found.values())
    copy = finished_search(study)
    assert len(copy.get_trials(states=[TrialState.COMPLETE])) == 60
    shares = optuna.importance.get_param_importances(copy, evaluator=evaluator())
    assert {k: each.share for k, each in found.items()} == pytest.approx(shares)


def test_chance_is_what_shuffled_scores_show(make_study, monkeypatch):
    """Literally: other studies with the same values and permuted scores; the 95th percentile of Optuna's figures."""
    monkeypatch.setattr("tune.analysis.importance.SHUFFLES", 6)
    study = searched(make_study, 40, matters=True)
    found = importances(study, seed=3)
    trials, rng = finished_search(study).trials, np.random.default_rng(3)
    scores = np.array([trial.value for trial in trials])

    def figures(values: np.ndarray) -> dict[str, float]:
        other = optuna.create_study(direction="maximize")
        for trial, value in zip(trials, values, strict=True):
            other.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=float(value)))
        return evaluator().evaluate(other)

    own, others = figures(scores), [figures(rng.permutation(scores)) for _ in range(6)]
    for each in found:
        level = np.percentile([other[each.key] for other in others], 95)
        assert each.chance == pytest.approx(level / sum(own.values()), rel=1e-9)
        assert each.shown == (own[each.key] > level)


def test_importance_of_nothing(make_study):
    found = importances(searched(make_study, 60, matters=False))
    assert sum(each.shown for each in found) <= 1


def test_importance_needs_trials(make_study):
    assert importances(searched(make_study, 19, matters=True)) == []
