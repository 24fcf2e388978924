"""A study's results in numbers, against statsmodels, scipy and literal computations."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from optuna.trial import TrialState
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from lfvd.files import InputError
from tests.helpers.invented import add_run, add_trial, confirmed_with, made_up_predictions
from tune.analysis.summary import run_spread, summarize
from tune.study.predictions import Predictions

BASELINE = np.array([0.480, 0.492, 0.486, 0.489, 0.483])
"""Validation W-F1 of a baseline over five seeds."""


@pytest.mark.parametrize("others", [1, 3])
def test_run_spread(make_study, others):
    """The spread of a run, and the gap that the comparison of winner and baseline finds, as statsmodels has it."""
    rng = np.random.default_rng(others)
    tables = [BASELINE + 0.01 * k + rng.normal(0, 0.003, 5) for k in range(1 + others)]
    found = run_spread(confirmed_with(make_study, *tables))
    scores = np.array(tables)
    residual = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    assert found.deviation == pytest.approx(math.sqrt((residual**2).sum() / (4 * others)), rel=1e-9)
    assert (found.unit, found.units) == ("seed", 5)
    effect = TTestPower().solve_power(nobs=5, alpha=0.05 / others, power=0.8)
    assert found.smallest == pytest.approx(effect * math.sqrt(2) * found.deviation, rel=1e-6)


def test_run_spread_needs_repeated_runs(make_study):
    study = make_study(confirm={"folds": 0, "finalists": 2, "seeds": list(range(5))})
    add_trial(study, TrialState.COMPLETE, [0.5])
    assert run_spread(study) is None
    add_run(study, 0, 0, 0.5)
    assert run_spread(study) is None
    add_run(study, 0, 1, 0.52)
    assert run_spread(study).deviation == pytest.approx(0.02 / math.sqrt(2))


def test_over_folds(make_study):
    """Finalists are compared over folds by the corrected t test, all that were ever compared counted; averages are over seeds."""
    confirm = {"folds": 5, "finalists": 2, "seeds": [0, 1]}
    study = make_study(confirm=confirm)
    for trial in range(4):
        add_trial(
            study, TrialState.COMPLETE, [0.55 - trial / 100], **({"optim.lr": 3e-3 * 1.5**trial} if trial else {})
        )
    lead = np.array([0.031, 0.035, 0.032, 0.036, 0.031])
    for trial, table in ((0, BASELINE), (1, BASELINE + lead), (2, BASELINE + 0.03)):
        for fold in range(5):
            add_run(study, trial, fold, float(table[fold]), "folds")
    add_run(study, 3, 0, 0.4, "folds")  # compared before the search was extended
    assert summarize(study).order == [], "the winner's averages are missing"
    add_run(study, 1, 0, 0.60)
    assert summarize(study).order == []
    add_run(study, 1, 1, 0.62)
    summary = summarize(study)
    assert [each.trial for each in summary.order] == [1, 2, 0]
    assert (summary.averages.keys(), summary.averages[1].wf1) == ({1}, pytest.approx(0.61))
    t = lead.mean() / math.sqrt((1 / 5 + 1 / 4) * lead.var(ddof=1))
    assert (summary.candidates, summary.validation.p) == (3, pytest.approx(3 * 2 * stats.t.sf(t, 4)))
    assert (summary.spread.unit, summary.spread.units) == ("fold", 5)


@pytest.mark.parametrize("others", [1, 3])
def test_winner_against_baseline(make_study, others):
    """scipy's paired test; with several candidates, p and interval are adjusted for the choice among them."""
    lead = np.array([0.011, 0.015, 0.012, 0.016, 0.011])
    study = confirmed_with(make_study, BASELINE, BASELINE + lead, *(BASELINE + 0.001 * n for n in range(1, others)))
    summary = summarize(study)
    assert (summary.order[0].trial, summary.search_score) == (1, pytest.approx(0.54))
    test = stats.ttest_rel(BASELINE + lead, BASELINE)
    interval = test.confidence_interval(1 - 0.05 / others)
    found = summary.validation
    assert (found.n, found.mean) == (5, pytest.approx(lead.mean()))
    assert (found.p, found.exact) == (pytest.approx(others * test.pvalue), pytest.approx(others * 2 / 32))
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_no_comparison_where_the_baseline_wins(make_study):
    assert summarize(confirmed_with(make_study, BASELINE + 0.02, BASELINE)).validation is None


def test_test_is_compared_only_where_the_log_names_both(make_study):
    study = confirmed_with(make_study, BASELINE, BASELINE + 0.02)
    for trial, right in ((0, 0.4), (1, 0.7)):
        made_up_predictions(study, trial, right)
    assert summarize(study).test is None, "files without a line in the log were seen by nobody"
    study.test_log.log_evaluation({"time": "now", "trials": [1, 0], "seeds": list(range(5))})
    assert summarize(study).test is None, "the evaluation was cut short"
    study.test_log.log_scores({1: [], 0: []})
    assert summarize(study).test.mean > 0.1


def test_ties_are_what_holm_leaves(make_study):
    """One-sided t tests of the additive model's residual (statsmodels), Holm's step down, at the level of 0.05."""
    rng = np.random.default_rng(4)
    for trial in range(8):
        seeds = rng.normal(0, 0.004, 5)
        tables = [0.50 - 0.004 * k * rng.random() + seeds + rng.normal(0, 0.002, 5) for k in range(5)]
        summary = summarize(confirmed_with(make_study, BASELINE - 0.1, *tables, name=f"study{trial}"))
        scores = np.array([BASELINE - 0.1, *tables])
        rows, columns = (place.ravel() for place in np.indices(scores.shape))
        design = np.hstack([np.equal.outer(rows, range(6)), np.equal.outer(columns, range(1, 5))]).astype(float)
        fit = sm.OLS(scores.ravel(), design).fit()
        best = summary.order[0].trial
        others = [k for k in range(1, 6) if k != best]
        gaps = [scores[best].mean() - scores[k].mean() for k in others]
        p = stats.t.sf(np.array(gaps) / math.sqrt(fit.mse_resid * 2 / 5), fit.df_resid)
        rejected = multipletests(p, alpha=0.05, method="holm")[0]
        assert set(summary.tied) == {k for k, gone in zip(others, rejected, strict=True) if not gone}


def test_predictions_are_read_back(make_study):
    study = make_study()
    found = made_up_predictions(study, 0, 0.5)
    again = Predictions.load(study.paths.predictions(0, "test"))
    for name, value in vars(found).items():
        assert np.array_equal(getattr(again, name), value), name
    slow = np.zeros((3, 3), int)
    for row in found.prediction:
        for label, guess in zip(found.label, row, strict=True):
            if label >= 0:
                slow[label, guess] += 1
    assert np.array_equal(again.confusion(), slow)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 torn"])
def test_broken_predictions(make_study, content):
    path = make_study().paths.predictions(0, "test")
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no readable predictions"):
        Predictions.load(path)
