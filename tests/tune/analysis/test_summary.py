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
from tune.analysis.summary import seed_variance, summarize
from tune.study.predictions import Predictions

BASELINE = np.array([0.480, 0.492, 0.486, 0.489, 0.483])
"""Validation W-F1 of a baseline over five seeds."""


def test_seed_variance(make_study):
    """The baseline's spread, and what it takes to see a gap, as statsmodels has them."""
    found = seed_variance(confirmed_with(make_study, BASELINE, BASELINE + 0.008))
    assert (found.deviation, found.seeds) == (pytest.approx(np.std(BASELINE, ddof=1), rel=1e-12), 5)
    power = TTestPower()
    effect = power.solve_power(nobs=5, alpha=0.05, power=0.8)
    assert found.smallest == pytest.approx(effect * math.sqrt(2) * found.deviation, rel=1e-6)
    assert found.gap == pytest.approx(0.008, rel=1e-9)
    needed = power.solve_power(effect_size=0.008 / (math.sqrt(2) * found.deviation), alpha=0.05, power=0.8)
    assert found.needed == math.ceil(needed)


def test_seed_variance_needs_the_whole_baseline(make_study):
    study = make_study(confirm={"finalists": 2, "seeds": list(range(5))})
    add_trial(study, TrialState.COMPLETE, [0.5])
    for seed in range(4):
        add_run(study, 0, seed, 0.5 + seed / 100)
    assert seed_variance(study) is None
    add_run(study, 0, 4, 0.5)
    assert seed_variance(study).gap is None, "no winner yet but the baseline"


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
