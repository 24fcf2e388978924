"""A study's results in sentences, and the warnings about them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState
from scipy import stats

from tests.helpers.invented import add_run, add_trial, confirmed_with, made_up_predictions
from tests.helpers.plans import make_plan
from tune.analysis.conclusions import baseline_name, comparison_text, draw_conclusions, edge_warning, spread_sentence
from tune.analysis.importance import Importance
from tune.analysis.summary import RunSpread, summarize
from tune.formatting import format_p_value
from tune.parameter import Parameter
from tune.statistics import Difference

LR = "optim.lr"

BASELINE = np.array([0.480, 0.492, 0.486, 0.489, 0.483])
"""Validation W-F1 of a baseline over five seeds."""

NAME = "the base config (meld with this plan's `set`, 4 epochs of 80)"
"""What sentences call the baseline of PLAN."""


def sentences(study) -> tuple[str, ...]:
    return draw_conclusions(study, summarize(study)).sentences


def warnings(study, word: str) -> list[str]:
    return [each for each in draw_conclusions(study, summarize(study)).warnings if word in each]


def test_spread_sentence():
    assert spread_sentence(RunSpread(deviation=0.0047, unit="fold", units=5, smallest=0.0123)) == (
        "runs of one config spread W-F1 by 0.47 points (standard deviation over 5 folds); the comparison finds differences from "
        "about 1.23 points on (with a power of 80 %)"
    )


@pytest.mark.parametrize("others", [1, 3])
def test_the_winner_beats_the_baseline(make_study, others):
    lead = np.array([0.011, 0.015, 0.012, 0.016, 0.011])
    study = confirmed_with(make_study, BASELINE, BASELINE + lead, *(BASELINE + 0.001 * n for n in range(1, others)))
    found = summarize(study).validation
    allowing = f", allowing for the choice among {others} candidates" * (others > 1)
    assert sentences(study) == (
        f"The tuned config beats {NAME} by 1.30 ± {100 * (found.high - found.low) / 2:.2f} W-F1 points on validation "
        f"over 5 seeds ({format_p_value(found.p)}{allowing}).",
    )


def test_comparison_text(make_study):
    study = confirmed_with(make_study, BASELINE, BASELINE + np.array([0.011, 0.015, 0.012, 0.016, 0.011]))
    summary = summarize(study)
    found = Difference(n=5, mean=0.013, low=0.0084, high=0.0176, p=0.0003, exact=0.0625)
    assert comparison_text(found, summary) == (
        "winner − baseline, seed by seed: 1.30 points, 95 % interval 0.84 to 1.76, paired t test p below 0.001, exact test "
        "by sign flips p = 0.06 (with 5 seeds it cannot go below 0.0625)"
    )
    several = replace(summary, candidates=3)
    assert comparison_text(found, several).endswith("go below 0.188), all allowing for the choice among 3 candidates")
    folds = replace(several, spread=replace(summary.spread, unit="fold"))
    assert comparison_text(replace(found, exact=math.nan), folds) == (
        "winner − baseline, fold by fold: 1.30 points, 95 % interval 0.84 to 1.76, t test corrected for overlapping folds p below "
        "0.001, all allowing for the choice among 3 candidates"
    )


def test_the_baseline_is_named_by_what_it_is(tmp_path):
    full = {"set": {}, "scheduler": {"max_epochs": 9}, "confirm": {"baseline_epochs": "full"}}
    assert baseline_name(make_plan(**full)) == "the paper's settings"
    assert baseline_name(make_plan(**{**full, "confirm": {}})) == "the base config (meld, 9 epochs of 80)"


def test_other_outcomes(make_study):
    [sentence] = sentences(confirmed_with(make_study, BASELINE, BASELINE[::-1] + 0.002, name="close"))
    assert sentence.startswith(
        f"No difference could be shown between the tuned config and {NAME}: it is ahead by 0.20 ± "
    )
    assert sentences(confirmed_with(make_study, BASELINE + 0.02, BASELINE, name="worse")) == (
        f"The search found nothing better than {NAME}: the baseline itself came out first.",
    )
    study = make_study("new", confirm={"folds": 0, "finalists": 2, "seeds": [0, 1]})
    found = draw_conclusions(study, summarize(study))
    assert (found.sentences, found.warnings) == (
        ("There is no winner yet: the confirmation is not finished.",),
        (),
    )


def test_on_test(make_study):
    study = confirmed_with(make_study, BASELINE, BASELINE + 0.02)
    for trial, right in ((0, 0.4), (1, 0.7)):
        made_up_predictions(study, trial, right)
    study.test_log.log_evaluation(
        {"data": study.data.fingerprint, "time": "now", "trials": [1, 0], "seeds": list(range(5))}
    )
    study.test_log.log_scores({1: [], 0: []})
    found = summarize(study).test
    assert sentences(study)[1] == (
        f"On test the tuned config is ahead by {100 * found.mean:.2f} points (95 % interval {100 * found.low:.2f} to "
        f"{100 * found.high:.2f} over resampled dialogues, p below 0.001): that is a difference to {NAME}."
    )
    assert not warnings(study, "was evaluated")
    study.test_log.log_evaluation(
        {"data": study.data.fingerprint, "time": "now", "trials": [2], "seeds": list(range(5))}
    )
    [warning] = warnings(study, "was evaluated")
    assert warning.startswith("the test split of these data was evaluated 2 times, by study (2 times): ")


@pytest.mark.parametrize(("share", "told"), [(0.98, False), (1.02, True)])
def test_winners_curse(make_study, share, told):
    """Beyond a fresh run's prediction interval: t of the pooled spread within configs, for one run against the mean of five."""
    winner = BASELINE[::-1] * 1.5 - 0.2
    pooled = math.sqrt((BASELINE.var(ddof=1) + winner.var(ddof=1)) / 2)
    half = stats.t(8).ppf(0.975) * math.hypot(pooled, pooled / math.sqrt(5))
    score = float(winner.mean() + share * half)
    study = confirmed_with(make_study, BASELINE, winner, search_scores=(0.40, score))
    assert warnings(study, "search score") == told * [
        f"the winner's search score {100 * score:.2f} is {100 * share * half:.2f} points above its confirmed mean "
        f"{100 * winner.mean():.2f}: the luck of the best of 2 trials; quote the confirmed mean"
    ]


def test_ties(make_study):
    """The winner is trial 2; the baseline is far behind."""
    tables = (BASELINE, BASELINE[::-1] + 0.02, BASELINE[[2, 0, 1, 4, 3]] + 0.021)
    [warning] = warnings(confirmed_with(make_study, *tables, race=True), "told apart")
    assert warning.startswith("trial 1 cannot be told apart from the winner by the runs that were compared")


LOG = {"low": 1e-4, "high": 3e-2, "log": True}


@pytest.mark.parametrize(
    ("key", "searched", "value", "text"),
    [
        (LR, LOG, 2.9e-2, "0.029 lies at the upper edge of its range: search again with {low: 0.0001, high: 0.52}"),
        (LR, LOG, 1.05e-4, "0.000105 lies at the lower edge of its range: search again with {low: 5.7e-06, high: 0.03}"),
        (LR, LOG, 1e-3, None),
        # whole numbers stay whole
        ("model.dag_layers", {"low": 1, "high": 2}, 2, "2 lies at the upper edge of its range: search again with {low: 1, high: 3}"),
        ("model.latent", {"low": 2, "high": 40, "log": True}, 40, "40 lies at the upper edge of its range: search again with {low: 2, high: 180}"),
        # Config ends where the range does
        ("model.dropout", {"low": 0.0, "high": 0.95}, 0.0, None),
        ("model.heads", {"choices": (1, 2, 4, 8)}, 8, "8 is the largest of its choices: search again with 16 among them"),
        ("model.heads", {"choices": (8, 2, 4)}, 2, "2 is the smallest of its choices: search again with 1 among them"),
        ("model.heads", {"choices": (1, 2, 4)}, 2, None),
        ("model.heads", {"choices": (1, 2, 4)}, 1, None),
        ("model.heads", {"choices": (2, 4)}, 4, None),
    ],
)  # fmt: skip
def test_edges(key, searched, value, text):
    """A range goes on by half of it on that side, on its own scale: √300 of a range of 300; a list by its last step."""
    whole = {"whole": True} if key in ("model.dag_layers", "model.latent") else {}
    found = list(edge_warning(Parameter(key=key, **searched, **whole), value))
    assert found == ([f"the winner's `{key}` {text}"] if text else [])


def test_the_edge_of_the_winners_value_is_told(make_study):
    study = make_study(confirm={"folds": 0, "finalists": 2, "seeds": list(range(5)), "race": False})
    add_trial(study, TrialState.COMPLETE, [0.5])
    add_trial(study, TrialState.COMPLETE, [0.6], **{LR: 2.9e-2})
    for seed in range(5):
        add_run(study, 0, seed, float(BASELINE[seed]))
        add_run(study, 1, seed, float(BASELINE[seed]) + 0.02)
    [warning] = warnings(study, "edge")
    assert warning.startswith(f"the winner's `{LR}` 0.029 lies at the upper edge")


def test_importance_within_chance(make_study):
    study = make_study()
    for score in (0.4, 0.5):
        add_trial(study, TrialState.COMPLETE, [score])
    found = [Importance(key="a.b", share=0.7, chance=0.3), Importance(key="c.d", share=0.3, chance=0.4)]
    summary = summarize(study)
    summary.importance.extend(found)
    assert draw_conclusions(study, summary).warnings == (
        "the importance of `c.d` is within what chance alone would show in 2 trials: nothing can be said about their values",
    )
