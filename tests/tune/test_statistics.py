"""Statistics against other people's (statsmodels, scipy) and against literal loops."""

import itertools
import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from lfvd.data import UNLABELLED
from lfvd.training.metrics import confusion_matrix, weighted_f1
from tune.statistics import (
    dialogue_bootstrap,
    expected_best,
    holm,
    mean_interval,
    paired,
    pooled_deviation,
    smallest_difference,
)

A, B = [0.539, 0.541, 0.534, 0.542, 0.538], [0.531, 0.536, 0.537, 0.529, 0.530]


def test_mean_interval_is_the_t_interval():
    found = mean_interval(A, level=0.9)
    low, high = stats.t.interval(0.9, 4, np.mean(A), stats.sem(A))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(A), low, high), rel=1e-12)
    alone = mean_interval([0.5])
    assert (alone.mean, math.isnan(alone.low), math.isnan(alone.high)) == (0.5, True, True)


def test_paired_is_the_paired_t_test():
    found, reference = paired(A, B), stats.ttest_rel(A, B)
    interval = reference.confidence_interval(0.95)
    assert found.n == 5
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, reference.pvalue), rel=1e-12)
    assert found.mean == pytest.approx(np.mean(A) - np.mean(B), rel=1e-12)


def test_a_chosen_one_must_lead_by_more():
    """Bonferroni: p and exact times the number of candidates, the interval at a level as much higher."""
    once, among, reference = paired(A, B), paired(A, B, among=4), stats.ttest_rel(A, B)
    interval = reference.confidence_interval(1 - 0.05 / 4)
    assert (among.low, among.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert (among.p, among.exact) == pytest.approx((4 * once.p, 4 * once.exact), rel=1e-12)
    assert paired(A, B, among=1000).p == paired(A, B, among=1000).exact == 1


@pytest.mark.parametrize("n", [2, 5, 9])
def test_exact_tries_all_signs(n):
    """Also among differences that tie: thousandths, whose sums floats round."""
    rng = np.random.default_rng(n)
    for b, lead in zip(rng.integers(100, 900, (10, n)), rng.integers(-9, 10, (10, n)), strict=True):
        flips = np.array([abs(np.dot(signs, lead)) for signs in itertools.product([1, -1], repeat=n)])
        assert paired((b + lead) / 1000, b / 1000).exact == np.mean(flips >= abs(lead.sum()))


def test_exact_of_twenty_pairs_and_beyond():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 20), rng.normal(0, 1, 20)
    found = paired(a, b)
    assert found.exact == pytest.approx(found.p, abs=0.02)
    assert math.isnan(paired(np.append(a, 1), np.append(b, 2)).exact)


@pytest.mark.parametrize(("gap", "p"), [(0.0, 1.0), (0.25, 0.0)])
def test_differences_without_spread(gap, p):
    found = paired([0.5 + gap, 0.25 + gap, 0.75 + gap], [0.5, 0.25, 0.75])
    assert (found.low, found.high, found.p) == (gap, gap, p)
    assert found.exact == (0.25 if gap else 1)


def test_one_pair_is_no_comparison():
    with pytest.raises(ValueError, match="needs at least 2 runs of each, not 1"):
        paired([0.5], [0.4])


def true_power(effect, n, alpha):
    """statsmodels'; one-sided where a wrong sign is so unlikely that scipy gives nan for it."""
    found = TTestPower().power(effect, n, alpha)
    return TTestPower().power(effect, n, alpha / 2, alternative="larger") if math.isnan(found) else found


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
@pytest.mark.parametrize(("power", "alpha"), [(0.8, 0.05), (0.5, 0.1), (0.95, 0.01)])
def test_smallest_difference_has_the_power_asked_for(n, power, alpha):
    gap = smallest_difference(0.45, n, power=power, alpha=alpha)
    effect = gap / (math.sqrt(2) * 0.45)
    assert true_power(effect, n, alpha) == pytest.approx(power, abs=1e-7)


def test_smallest_difference_among_several_and_over_folds():
    assert smallest_difference(0.45, 1) == math.inf
    one = smallest_difference(0.45, 5)
    assert smallest_difference(0.45, 5, among=8) == smallest_difference(0.45, 5, alpha=0.05 / 8) > 1.5 * one
    assert smallest_difference(0.45, 5, overlap=0.25) == pytest.approx(one * math.sqrt(0.45 / 0.2), rel=1e-9)


def test_corrected_t_test_is_the_literal_one():
    """Nadeau and Bengio 2003, eq. 17: t = mean / sqrt((1/J + n2/n1) s²) with J - 1 degrees of freedom."""
    a, b = np.array([0.56, 0.57, 0.55, 0.58, 0.56]), np.array([0.52, 0.55, 0.53, 0.53, 0.54])
    d = a - b
    t = d.mean() / math.sqrt((1 / 5 + 1 / 4) * d.var(ddof=1))
    found = paired(a, b, among=3, overlap=1 / 4)
    assert found.p == pytest.approx(3 * 2 * stats.t.sf(t, 4), rel=1e-9)
    half = stats.t.ppf(1 - 0.05 / 3 / 2, 4) * math.sqrt(0.45 * d.var(ddof=1))
    assert (found.low, found.high) == (pytest.approx(d.mean() - half), pytest.approx(d.mean() + half))
    assert math.isnan(found.exact)
    assert paired(a, b).p < found.p / 3


@pytest.mark.parametrize("candidates", [1, 12])
def test_a_search_without_a_better_config_beats_the_baseline_in_one_of_twenty_at_most(candidates):
    """2,000 searches over five folds whose training parts overlap: runs of a config correlate by the share of a fold, 1/5
    (Nadeau and Bengio 2003, sec. 3), so that all its folds may be lucky together."""
    rng, beats, uncorrected = np.random.default_rng(candidates), 0, 0
    for _ in range(2000):
        luck = math.sqrt(1 / 5) * rng.standard_normal((candidates + 1, 1))
        runs = luck + math.sqrt(4 / 5) * rng.standard_normal((candidates + 1, 5))
        winner = 1 + int(runs[1:].mean(1).argmax())
        found = paired(runs[winner], runs[0], among=candidates, overlap=1 / 4)
        beats += found.p < 0.05 and found.mean > 0
        uncorrected += paired(runs[winner], runs[0]).p < 0.05
    assert beats <= 0.05 * 2000
    assert uncorrected > 0.1 * 2000, "or the correction would be for nothing"


@pytest.mark.parametrize("p", [[0.01, 0.04, 0.03, 0.005], [0.5, 0.9, 0.02], [0.2, 0.2], [0.3], []])
def test_holm(p):
    reference = multipletests(p, method="holm")[1] if p else []
    assert holm(p) == pytest.approx(list(reference), rel=1e-12)


def design(scores, *, by_seed):
    """Dummy variables of each run, and its score."""
    runs = [(trial, seed) for trial in scores for seed in scores[trial]]
    trials, seeds = sorted(scores), sorted({seed for _, seed in runs})
    rows = [[float(t == k) for k in trials] + [float(s == k) for k in seeds[1:] if by_seed] for t, s in runs]
    return np.array([scores[t][s] for t, s in runs]), np.array(rows)


@pytest.mark.parametrize("share", [1.0, 0.8, 0.6])
def test_pooled_deviation_is_the_additive_models(share):
    rng = np.random.default_rng(1)
    seed_effect = rng.normal(0, 2, 6)
    scores = {
        t: {s: t + seed_effect[s] + rng.normal(0, 0.5) for s in range(6) if rng.random() < share} for t in range(5)
    }
    fit = sm.OLS(*design(scores, by_seed=True)).fit()
    deviation, degrees = pooled_deviation(scores)
    assert degrees == fit.df_resid >= 4
    assert deviation == pytest.approx(math.sqrt(fit.mse_resid), rel=1e-9)
    backwards = {t: dict(reversed(row.items())) for t, row in reversed(scores.items())}
    assert pooled_deviation(backwards) == (deviation, degrees)


def test_pooled_deviation_with_too_few_runs_for_the_seeds_effects():
    """As in a race's first round: the baseline on all seeds, the others on one. Then two by four: 3 degrees for the sum model."""
    rng = np.random.default_rng(2)
    first = {0: dict(enumerate(rng.normal(size=5))), 1: {0: 0.3}, 2: {0: 0.4}}
    square = {trial: dict(enumerate(rng.normal(size=4))) for trial in range(2)}
    for scores, degrees in ((first, 4), (square, 6)):
        fit = sm.OLS(*design(scores, by_seed=False)).fit()
        assert fit.df_resid == degrees
        assert pooled_deviation(scores) == (pytest.approx(math.sqrt(fit.mse_resid), rel=1e-9), degrees)
    assert pooled_deviation(first)[0] == pytest.approx(np.std(list(first[0].values()), ddof=1), rel=1e-9)


@pytest.mark.parametrize("scores", [{}, {1: {}}, {1: {0: 0.5}, 2: {0: 0.4}}])
def test_pooled_deviation_of_nothing_repeated(scores):
    deviation, degrees = pooled_deviation(scores)
    assert math.isnan(deviation)
    assert degrees == 0


def test_expected_best_is_the_mean_over_all_draws():
    values = [0.31, 0.52, 0.52, 0.47, 0.25]
    mean, low, high = expected_best(values)
    for k in range(1, 6):
        best = [max(draw) for draw in itertools.product(values, repeat=k)]
        assert mean[k - 1] == pytest.approx(np.mean(best), rel=1e-12)
        assert low[k - 1] == pytest.approx(max(np.mean(best) - np.std(best), 0.25), rel=1e-12)
        assert high[k - 1] == pytest.approx(min(np.mean(best) + np.std(best), 0.52), rel=1e-12)
    assert high[-1] == 0.52 > mean[-1] + 1e-3, "clipped"


@pytest.fixture
def predicted():
    """label, dialogue [N]; predictions of two configs by three and two seeds."""
    rng = np.random.default_rng(3)
    dialogue = np.repeat(np.array([17, 3, 99, 4, 5, 60, 7]), [1, 4, 6, 2, 9, 5, 3])
    label = rng.integers(UNLABELLED, 4, len(dialogue))
    label[dialogue == 4] = UNLABELLED
    a, b = (
        np.where(rng.random((n, len(label))) < right, label, rng.integers(0, 4, len(label)))
        for n, right in ((3, 0.7), (2, 0.5))
    )
    return label, dialogue, a.clip(0), b.clip(0)


def literal_bootstrap(label, dialogue, a, b, draws, seed):
    """The drawn dialogues' utterances one after the other, scored draw by draw."""
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero((dialogue == d) & (label >= 0)) for d in np.unique(dialogue[label >= 0])]

    def score(row, where):
        return weighted_f1(confusion_matrix(label[where], row[where], 4))

    found = []
    for _ in range(draws):
        where = np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))])
        found.append(np.mean([score(row, where) for row in a]) - np.mean([score(row, where) for row in b]))
    everything = np.flatnonzero(label >= 0)
    return np.array(found), np.mean([score(r, everything) for r in a]) - np.mean([score(r, everything) for r in b])


def test_dialogue_bootstrap_is_the_literal_one(predicted, monkeypatch):
    monkeypatch.setattr("tune.statistics.CHUNK", 64)  # some whole ones and a rest
    found = dialogue_bootstrap(*predicted, classes=4, draws=200, seed=5, level=0.9)
    drawn, mean = literal_bootstrap(*predicted, 200, 5)
    low, high = np.quantile(drawn, [0.05, 0.95])
    assert (found.mean, found.low, found.high) == pytest.approx((mean, low, high), abs=1e-12)
    share = min((drawn <= 0).sum(), (drawn >= 0).sum())
    assert 0 < share < 100
    assert found.p == pytest.approx(min(1, 2 * (share + 1) / 201), rel=1e-12)


def test_dialogue_bootstrap_of_equal_predictions_and_of_opposites(predicted):
    label, dialogue, a, _ = predicted
    same = dialogue_bootstrap(label, dialogue, a, a, classes=4, draws=100)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    right = np.maximum(label, 0)[None]
    better = dialogue_bootstrap(label, dialogue, right, (right + 1) % 4, classes=4, draws=100)
    assert (better.mean, better.low, better.high) == (1, 1, 1)
    assert better.p == pytest.approx(2 / 101)
