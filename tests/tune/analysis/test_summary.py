"""What a study may claim, in figures and in words: against independent computations and made-up studies."""

import itertools
import math

import numpy as np
import optuna
import pytest
import statsmodels.api as sm
from optuna.trial import TrialState, create_trial
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from lfvd.files import InputError
from tests.helpers.plans import PLAN
from tests.tune.search.test_confirmation import LR, add, enter
from tune.analysis.conclusions import comparison, noise_sentence, statement_of
from tune.analysis.importance import Importance, evaluator, importances, whole
from tune.analysis.summary import Answer, answer_of, audit_of, noise_of
from tune.formatting import format_p_value
from tune.search.asha import Rungs
from tune.search.trials import AUDITED
from tune.study.predictions import Predictions
from tune.study.study import Study

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL

SEEDS = (0, 1, 2, 3, 4)

CONFIRM = {"finalists": 2, "seeds": list(SEEDS)}

LOW = np.array([0.480, 0.492, 0.486, 0.489, 0.483])
"""A baseline's validation W-F1 over five seeds."""


def confirmed(make_study, *tables: np.ndarray, name: str = "study", **confirm) -> Study:
    """A study whose trials 0, 1, … were confirmed with these scores; each searched to 0.55 and no better."""
    study = make_study(name, confirm={**CONFIRM, "race": False, "finalists": len(tables), **confirm})
    for trial in range(len(tables)):
        add(study, COMPLETE, [0.4, 0.55 - trial / 100], **({LR: 3e-3 * 1.5**trial} if trial else {}))
    for trial, table in enumerate(tables):
        for seed, score in zip(SEEDS, table, strict=True):
            enter(study, trial, seed, float(score))
    return study


def say(study: Study, answer: Answer | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = statement_of(study, answer or answer_of(study))
    return found.sentences, found.warnings


def test_noise(make_study):
    """The baseline's spread, and what it takes to see a gap, as statsmodels has them."""
    study = confirmed(make_study, LOW, LOW + 0.008)
    noise = noise_of(study)
    assert noise.deviation == pytest.approx(np.std(LOW, ddof=1), rel=1e-12)
    assert noise.seeds == 5
    power = TTestPower()
    effect = power.solve_power(nobs=5, alpha=0.05, power=0.8)
    assert noise.smallest == pytest.approx(effect * math.sqrt(2) * noise.deviation, rel=1e-6)
    assert noise.gap == pytest.approx(0.008, rel=1e-9)
    needed = power.solve_power(effect_size=0.008 / (math.sqrt(2) * noise.deviation), alpha=0.05, power=0.8)
    assert noise.needed == math.ceil(needed)
    text = noise_sentence(noise)
    assert text == (
        "seeds alone spread W-F1 by 0.47 points (standard deviation of the baseline over 5 seeds); 5 seeds show "
        f"differences from about {100 * noise.smallest:.2f} points on; the gap of 0.80 points at hand needs "
        f"{noise.needed} seeds"
    )


def test_noise_needs_the_whole_baseline(make_study):
    study = make_study(confirm=CONFIRM)
    add(study, COMPLETE, [0.5])
    for seed in SEEDS[:4]:
        enter(study, 0, seed, 0.5 + seed / 100)
    assert noise_of(study) is None
    enter(study, 0, 4, 0.5)
    assert noise_of(study).gap is None, "no winner yet but the baseline"


@pytest.mark.parametrize("others", [1, 3])
def test_winner_against_baseline(make_study, others):
    """scipy's paired test; with several candidates, p and interval allow for the choice among them."""
    lead = np.array([0.011, 0.015, 0.012, 0.016, 0.011])
    study = confirmed(make_study, LOW, LOW + lead, *(LOW + 0.001 * n for n in range(1, others)))
    answer = answer_of(study)
    assert answer.order[0].trial == 1
    test = stats.ttest_rel(LOW + lead, LOW)
    interval = test.confidence_interval(1 - 0.05 / others)
    found = answer.validation
    assert (found.n, found.mean) == (5, pytest.approx(lead.mean()))
    assert found.p == pytest.approx(others * test.pvalue)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.exact == pytest.approx(others * 2 / 32)
    allowing = f", allowing for the choice among {others} finalists" * (others > 1)
    assert say(study)[0] == (
        "The tuned config beats the paper's settings (with this plan's `set`, for 4 of their 80 epochs) by 1.30 ± "
        f"{100 * (interval.high - interval.low) / 2:.2f} W-F1 points on validation (5 seeds, {format_p_value(found.p)}{allowing}).",
    )


def test_comparison(make_study):
    """All of it in one line, for the report."""
    lead = np.array([0.011, 0.015, 0.012, 0.016, 0.011])
    found = answer_of(confirmed(make_study, LOW, LOW + lead)).validation
    assert comparison(found, 1) == (
        f"winner − baseline, seed by seed: 1.30 points, 95 % interval {100 * found.low:.2f} to {100 * found.high:.2f}, paired t "
        "test p below 0.001, exact test by sign flips p = 0.06 (with 5 seeds it cannot go below 0.0625)"
    )
    assert comparison(found, 3).endswith("go below 0.188), all allowing for the choice among 3 finalists")


def test_no_difference(make_study):
    study = confirmed(make_study, LOW, LOW[::-1] + 0.002)
    [sentence] = say(study)[0]
    assert sentence.startswith(
        "No difference could be shown between the tuned config and the paper's settings (with this plan's `set`, for 4 of their 80 epochs): it is "
        "ahead by 0.20 ± "
    )


def test_baseline_wins(make_study):
    study = confirmed(make_study, LOW + 0.02, LOW)
    assert answer_of(study).validation is None
    assert say(study)[0] == (
        "The search found nothing better than the paper's settings (with this plan's `set`, for 4 of their 80 epochs): the baseline itself came "
        "out first.",
    )


def test_no_winner_yet(make_study):
    study = make_study(confirm=CONFIRM)
    assert say(study) == (("There is no winner yet: the confirmation is not finished.",), ())


def keep(study: Study, trial: int, right: float, rng: np.random.Generator, runs: int = 5) -> Predictions:
    """Predictions for 60 dialogues, `right` of them right."""
    dialogue = np.repeat(np.arange(60), 4)
    label = np.random.default_rng(7).integers(-1, 3, len(dialogue))
    hit = rng.uniform(size=(runs, len(label))) < right
    found = Predictions(
        seeds=np.arange(runs),
        classes=np.array(["calm", "glad", "sad"]),
        modalities=np.array(["l"]),
        length_bins=np.array([2, 4]),
        label=label,
        dialogue=dialogue,
        length=np.full(len(label), 4),
        prediction=np.where(hit, np.maximum(label, 0), rng.integers(0, 3, hit.shape)).astype(np.int16),
        weight=np.ones((runs, len(label), 1), np.float32),
    )
    found.save(study.predictions(trial, "test"))
    return found


def test_on_test(make_study):
    """Only of what the ledger names; a second look warns."""
    study = confirmed(make_study, LOW, LOW + 0.02)
    rng = np.random.default_rng(0)
    for trial, right in ((0, 0.4), (1, 0.7)):
        keep(study, trial, right, rng)
    assert answer_of(study).test is None, "files without a line in the ledger were seen by nobody"
    study.append_look({"time": "now", "trials": [1, 0], "seeds": list(SEEDS)})
    assert answer_of(study).test is None, "the look was cut short"
    study.append_test_scores({1: [], 0: []})
    answer = answer_of(study)
    assert answer.test.mean > 0.1
    sentences, warnings = say(study, answer)
    assert sentences[1] == (
        f"On test the tuned config is ahead by {100 * answer.test.mean:.2f} points (95 % interval "
        f"{100 * answer.test.low:.2f} to {100 * answer.test.high:.2f} over resampled dialogues, p below 0.001): that is a "
        "difference to the paper's settings (with this plan's `set`, for 4 of their 80 epochs)."
    )
    assert not any("looked at" in warning for warning in warnings)
    study.append_look({"time": "now", "trials": [2], "seeds": list(SEEDS)})
    assert say(study)[1][0].startswith("the test split was looked at 2 times: its scores have begun to steer")


def test_winners_curse(make_study):
    """Only beyond what a fresh run of the winner would reach in 39 of 40 cases."""
    for top, told in ((0.53, False), (0.60, True)):
        study = make_study(f"s{told}", confirm={**CONFIRM, "race": False})
        add(study, COMPLETE, [0.48])
        add(study, COMPLETE, [top], **{LR: 1e-3})
        for seed, score in zip(SEEDS, LOW, strict=True):
            enter(study, 0, seed, float(score))
            enter(study, 1, seed, float(score) + 0.04)
        warnings = [w for w in say(study)[1] if "search score" in w]
        assert bool(warnings) is told, warnings
    assert warnings == [
        "the winner's search score 60.00 is 7.40 points above its confirmed mean 52.60: the luck of the best of 2 trials; "
        "quote the confirmed mean"
    ]


def test_the_curse_is_judged_by_a_fresh_runs_prediction_interval(make_study):
    """A t interval of the pooled spread within configs, for one run against the mean of five: told just beyond."""
    other, winner = LOW, LOW[::-1] * 1.5 - 0.2
    pooled = math.sqrt((other.var(ddof=1) + winner.var(ddof=1)) / 2)
    half = stats.t(8).ppf(0.975) * math.hypot(pooled, pooled / math.sqrt(5))
    for share, told in ((0.98, False), (1.02, True)):
        study = make_study(f"s{told}", confirm={**CONFIRM, "race": False})
        add(study, COMPLETE, [0.40])
        add(study, COMPLETE, [float(winner.mean() + share * half)], **{LR: 1e-3})
        for seed in SEEDS:
            enter(study, 0, seed, float(other[seed]))
            enter(study, 1, seed, float(winner[seed]))
        assert answer_of(study).order[0].trial == 1
        assert any("search score" in w for w in say(study)[1]) is told


def test_ties_are_what_holm_leaves(make_study):
    """One-sided t tests of the additive model's residual (statsmodels), Holm's step down, at five in a hundred."""
    rng = np.random.default_rng(4)
    for trial in range(8):
        seeds = rng.normal(0, 0.004, 5)
        tables = [0.50 - 0.004 * k * rng.random() + seeds + rng.normal(0, 0.002, 5) for k in range(5)]
        study = confirmed(make_study, LOW - 0.1, *tables, name=f"study{trial}")
        answer = answer_of(study)
        scores = np.array([LOW - 0.1, *tables])
        rows, columns = (place.ravel() for place in np.indices(scores.shape))
        design = np.hstack([np.equal.outer(rows, range(6)), np.equal.outer(columns, range(1, 5))]).astype(float)
        fit = sm.OLS(scores.ravel(), design).fit()
        best = answer.order[0].trial
        others = [k for k in range(1, 6) if k != best]
        gaps = [scores[best].mean() - scores[k].mean() for k in others]
        p = stats.t.sf(np.array(gaps) / math.sqrt(fit.mse_resid * 2 / 5), fit.df_resid)
        rejected = multipletests(p, alpha=0.05, method="holm")[0]
        assert set(answer.tied) == {k for k, gone in zip(others, rejected, strict=True) if not gone}


def test_ties(make_study):
    study = confirmed(make_study, LOW, LOW[::-1] + 0.02, LOW[[2, 0, 1, 4, 3]] + 0.021, race=True)
    answer = answer_of(study)
    assert answer.tied == (1,), "the winner is 2, and the baseline is not near"
    [warning] = [w for w in say(study, answer)[1] if "told apart" in w]
    assert warning.startswith(f"trial {answer.tied[0]} cannot be told apart from the winner by the seeds that they ran")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            2.9e-2,
            "the winner's `optim.lr` 0.029 lies at the upper edge of its range: search again with {low: 0.0001, high: 0.52}",
        ),
        (
            1.05e-4,
            "the winner's `optim.lr` 0.000105 lies at the lower edge of its range: search again with {low: 5.7e-06, high: 0.03}",
        ),
        (1e-3, None),
    ],
)
def test_edges(make_study, value, text):
    """Half as wide again on that side, on the range's own scale: √300 of a range of 300."""
    study = confirmed(make_study, LOW)
    add(study, COMPLETE, [0.6], **{LR: value})
    for seed, score in zip(SEEDS, LOW + 0.02, strict=True):
        enter(study, 1, seed, float(score))
    assert [w for w in say(study)[1] if "edge" in w] == ([text] if text else [])


@pytest.mark.parametrize(
    ("choices", "value", "text"),
    [
        ([1, 2, 4, 8], 8, "8 is the largest of its choices: search again with 16 among them"),
        ([8, 2, 4], 2, "2 is the smallest of its choices: search again with 1 among them"),
        ([1, 2, 4], 2, None),
        ([1, 2, 4], 1, None),  # there is no half a head
        ([2, 4], 4, None),  # one of two is always at an end
    ],
)
def test_ends_of_a_list(choices, value, text):
    from tune.analysis.conclusions import _edge
    from tune.plan import Parameter

    parameter = Parameter(key="model.heads", choices=tuple(choices))
    assert list(_edge(parameter, value)) == ([f"the winner's `model.heads` {text}"] if text else [])


def test_edge_of_whole_numbers(make_study):
    """A whole number further on, not two and a half layers."""
    space = {"model.dag_layers": {"low": 1, "high": 2}, "model.latent": {"low": 2, "high": 40, "log": True}}
    held = {k: v for k, v in PLAN["set"].items() if k not in space}
    study = make_study(set=held, space=space, confirm={**CONFIRM, "race": False})
    add(study, COMPLETE, [0.5])
    add(study, COMPLETE, [0.6], **{"model.dag_layers": 2, "model.latent": 40})
    for seed in SEEDS:
        enter(study, 0, seed, 0.5 + seed / 1000)
        enter(study, 1, seed, 0.6 + seed / 1000)
    assert [w for w in say(study)[1] if "edge" in w] == [
        "the winner's `model.dag_layers` 2 lies at the upper edge of its range: search again with {low: 1, high: 3}",
        "the winner's `model.latent` 40 lies at the upper edge of its range: search again with {low: 2, high: 180}",
    ]


def test_no_edge_where_config_itself_ends(make_study):
    space = {"model.dropout": {"low": 0.0, "high": 0.95}}
    study = make_study(space=space, confirm={**CONFIRM, "race": False})
    add(study, COMPLETE, [0.5])
    add(study, COMPLETE, [0.6], **{"model.dropout": 0.0})
    for seed in SEEDS:
        enter(study, 0, seed, 0.5 + seed / 1000)
        enter(study, 1, seed, 0.6 + seed / 1000)
    assert not [w for w in say(study)[1] if "edge" in w]


def searched(make_study, count: int, matters: bool) -> Study:
    """Trials whose score is all the learning rate's, or nothing's."""
    study = make_study(trials=count, sampler={"kind": "random", "seed": 0})
    rng = np.random.default_rng(0)
    for _ in range(count):
        lr, gamma = np.exp(rng.uniform(np.log(1e-4), np.log(3e-2))), np.exp(rng.uniform(np.log(1e-4), np.log(1e-1)))
        score = 0.5 - 0.03 * abs(np.log(lr / 2e-3)) if matters else rng.uniform(0.3, 0.5)
        state = PRUNED if rng.uniform() < 0.7 else COMPLETE
        add(
            study,
            state,
            [float(score)],
            **{LR: float(lr), "loss.gamma2": float(gamma), "model.heads": int(rng.choice([1, 2, 4]))},
        )
    return study


def test_importance(make_study):
    """What makes the score is told from what does not; the shares are Optuna's own."""
    study = searched(make_study, 60, matters=True)
    found = {each.key: each for each in importances(study)}
    assert found.keys() == study.plan.space.keys()
    assert found[LR].shown
    assert found[LR].share > 0.7
    lucky = [key for key, each in found.items() if not each.shown]
    assert lucky, "of two that do nothing, one in ten draws shows more than chance"
    copy = whole(study)
    assert len(copy.trials) == 60, "stopped trials count: with them gone, so is most of what was bad"
    shares = optuna.importance.get_param_importances(copy, evaluator=evaluator())
    assert {k: each.share for k, each in found.items()} == pytest.approx(shares)
    [warning] = [w for w in say(study)[1] if "chance" in w]
    assert warning == (
        f"the importance of {', '.join(f'`{key}`' for key in lucky)} is within what chance alone would show in 60 trials: "
        "nothing can be said about their values"
    )


def test_chance_is_what_shuffled_scores_show(make_study, monkeypatch):
    """Literally: other studies with the same values and the scores dealt anew; the 95th percentile of Optuna's figures."""
    monkeypatch.setattr("tune.analysis.importance.SHUFFLES", 6)
    study = searched(make_study, 40, matters=True)
    found = importances(study, seed=3)
    trials, rng = whole(study).trials, np.random.default_rng(3)
    scores = np.array([trial.value for trial in trials])

    def dealt(values: np.ndarray) -> dict[str, float]:
        other = optuna.create_study(direction="maximize")
        for trial, value in zip(trials, values, strict=True):
            other.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=float(value)))
        return evaluator().evaluate(other)

    own, others = dealt(scores), [dealt(rng.permutation(scores)) for _ in range(6)]
    for each in found:
        level = np.percentile([other[each.key] for other in others], 95)
        assert each.chance == pytest.approx(level / sum(own.values()), rel=1e-9)
        assert each.shown == (own[each.key] > level)


def test_importance_of_nothing(make_study):
    """Where scores are drawn from a hat, hardly anything seems to matter."""
    found = importances(searched(make_study, 60, matters=False))
    assert sum(each.shown for each in found) <= 1
    assert all(isinstance(each, Importance) and each.chance > 0 for each in found)


def test_importance_needs_trials(make_study):
    assert importances(searched(make_study, 19, matters=True)) == []


def audited(make_study, early: list[float], final: list[float], run_on: set[int]) -> Study:
    """Trials with a value at the first rung and one at the end, some of them run on after a rung had stopped them."""
    study = make_study(trials=len(early), scheduler={**PLAN["scheduler"], "audit": 0.5})
    for number, (first, last) in enumerate(zip(early, final, strict=True)):
        trial = study.optuna.ask({key: p.distribution for key, p in study.plan.space.items()})
        for epoch, value in enumerate((first, first, first, last), start=1):
            trial.report(value, epoch)
        if number in run_on:
            trial.set_user_attr(AUDITED, "rung 1: told")
        study.optuna.tell(trial, last)
    add(study, PRUNED, [0.1])
    return study


def order_kept(early: list[float], final: list[float], run_on: set[int]) -> float:
    """The rank correlation, literally; an audited trial of a plan that audits half stands for two."""
    weight = [2 if n in run_on else 1 for n in range(len(early))]
    pairs = list(itertools.combinations(range(len(early)), 2))
    signs = [weight[i] * weight[j] * np.sign((early[i] - early[j]) * (final[i] - final[j])) for i, j in pairs]
    return sum(signs) / sum(map(abs, signs))


def test_audit_of_good_rungs(make_study):
    early, final = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.61, 0.62, 0.65, 0.64, 0.70, 0.71]
    study = audited(make_study, early, final, {0, 1, 2})
    found = audit_of(study)
    assert (found.rung, found.trials, found.audited) == (min(Rungs(study.plan.scheduler).values), 6, (0, 1, 2))
    assert found.overtook == ()
    assert found.correlation == pytest.approx(order_kept(early, final, {0, 1, 2}))
    assert not [w for w in say(study)[1] if "rung" in w]


def test_no_verdict_without_audits(make_study):
    """Those that the rung let through were chosen by it: their order at the end says little of it."""
    study = audited(make_study, [0.1, 0.2, 0.3, 0.4, 0.5], [0.75, 0.72, 0.65, 0.71, 0.70], set())
    assert math.isnan(audit_of(study).correlation)
    assert not [w for w in say(study)[1] if "rung" in w]


def test_audit_of_bad_rungs(make_study):
    early, final = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.75, 0.72, 0.65, 0.71, 0.70, 0.62]
    study = audited(make_study, early, final, {0, 1, 2})
    assert audit_of(study).overtook == (0, 1)
    first, second = [w for w in say(study)[1] if "rung" in w]
    assert first.startswith("trial 0, trial 1, stopped at a rung and run on as an audit, ended above the median")
    assert second == (
        "the order at the first rung (epoch 1) hardly foretells the order at the end: rank correlation "
        f"{order_kept(early, final, {0, 1, 2}):.2f}, by 3 stopped trials that were run on; raise `scheduler.grace_epochs`"
    )


def test_winner_by_audit(make_study):
    """It would have been lost."""
    study = audited(make_study, [0.5, 0.2], [0.6, 0.7], {1})
    for seed in study.plan.confirm.seeds:
        enter(study, 0, seed, 0.5 + seed / 1000)
        enter(study, 1, seed, 0.6 - seed / 1000)
    [warning] = [w for w in say(study)[1] if "rung" in w]
    assert warning == (
        "the winner, trial 1, would have been lost at a rung (rung 1: told): it was run on only as an audit; raise "
        "`scheduler.grace_epochs`"
    )


def test_audited_trial_overtakes(make_study):
    early, final = [0.1, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6], [0.69, 0.60, 0.62, 0.65, 0.66, 0.70, 0.71]
    study = audited(make_study, early, final, {0})
    [warning] = [w for w in say(study)[1] if "rung" in w]
    assert warning.startswith("trial 0, stopped at a rung and run on as an audit, ended above the median")


def test_predictions_come_back(tmp_path, make_study):
    study = make_study()
    found = keep(study, 0, 0.5, np.random.default_rng(0))
    again = Predictions.load(study.predictions(0, "test"))
    for name, value in vars(found).items():
        assert np.array_equal(getattr(again, name), value), name
    assert again.confusion().sum() == 5 * int((found.label >= 0).sum())
    slow = np.zeros((3, 3), int)
    for row in found.prediction:
        for label, guess in zip(found.label, row, strict=True):
            if label >= 0:
                slow[label, guess] += 1
    assert np.array_equal(again.confusion(), slow)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 torn"])
def test_broken_predictions(make_study, content):
    path = make_study().predictions(0, "test")
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no readable predictions"):
        Predictions.load(path)
