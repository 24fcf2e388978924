"""Results of a study in numbers: finalists, winner against baseline, spread over seeds, importance of each searched value.

All scores are W-F1 in 0..1. tune.analysis.conclusions puts them into sentences and percentage points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from tune.analysis.importance import Importance, importances
from tune.search.confirmation import Confirmed, final_ranking
from tune.statistics import (
    Difference,
    Resampled,
    chance_of,
    dialogue_bootstrap,
    paired,
    pooled_deviation,
    seeds_needed,
    smallest_difference,
)
from tune.study.predictions import Predictions
from tune.study.study import BASELINE, Study

SIGNIFICANCE = 0.05
"""A difference is significant where its p value is below this."""


@dataclass(frozen=True, kw_only=True)
class SeedVariance:
    """Spread of validation W-F1 over seeds, from the baseline's runs."""

    deviation: float
    """Sample standard deviation over the seeds."""
    seeds: int
    smallest: float
    """Smallest true difference that a paired t test over these seeds finds with a power of 0.8."""
    gap: float | None
    """Winner's mean − baseline's; None without a winner."""
    needed: int | None
    """Seeds that a true difference as large as the gap needs; None without a gap, or beyond 1,000."""

    def summary(self) -> dict[str, Any]:
        """For best.yaml, in percentage points."""
        return {
            "deviation": round(100 * self.deviation, 2),
            "seeds": self.seeds,
            "smallest_difference": round(100 * self.smallest, 2),
            "gap": None if self.gap is None else round(100 * self.gap, 2),
            "seeds_needed": self.needed,
        }


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """Results of a study so far."""

    order: list[Confirmed]
    """Finalists as tune.search.confirmation.ranking has them; empty until the confirmation is finished."""
    variance: SeedVariance | None
    """None until the baseline has all its seeds, and with a single seed."""
    validation: Difference | None
    """Winner − baseline over the plan's seeds, adjusted for the choice among the finalists; None where either lacks."""
    test: Resampled | None
    """Winner − baseline on test, over resampled dialogues; None before test is evaluated."""
    search_score: float | None
    """The winner's best value in the search."""
    tied: tuple[int, ...]
    """Finalists not significantly worse than the winner; the baseline has `validation`."""
    importance: list[Importance]


def seed_variance(study: Study) -> SeedVariance | None:
    """Spread of the baseline's runs on the plan's seeds, and what it means for the gap at hand."""
    seeds = study.plan.confirm.seeds
    scores = [run["val/wf1"] for run in study.confirmed() if run["trial"] == BASELINE and run["seed"] in seeds]
    if len(scores) < max(2, len(seeds)):
        return None
    order, deviation = final_ranking(study), stdev(scores)
    gap = order[0].wf1 - fmean(scores) if order and order[0].trial != BASELINE else None
    return SeedVariance(
        deviation=deviation,
        seeds=len(scores),
        smallest=smallest_difference(deviation, len(scores)),
        gap=gap,
        needed=None if gap is None else seeds_needed(gap, deviation),
    )


def summarize(study: Study) -> StudySummary:
    """Read the results from the study's folder; nothing is trained or evaluated. Raises InputError for a damaged file."""
    order = final_ranking(study)
    winner = order[0] if order else None
    baseline = next((each for each in order if each.trial == BASELINE), None)
    validation = test = None
    if winner and baseline and winner is not baseline:
        if len(baseline.scores) > 1:
            validation = paired(winner.scores, baseline.scores, among=len(order) - 1)
        test = _compare_on_test(study, winner.trial)
    return StudySummary(
        order=order,
        variance=seed_variance(study),
        validation=validation,
        test=test,
        search_score=max(study.trials[winner.trial].intermediate_values.values(), default=None) if winner else None,
        tied=_tied(order),
        importance=importances(study),
    )


def _tied(order: list[Confirmed]) -> tuple[int, ...]:
    """Finalists not significantly worse than the winner over the seeds that both ran."""
    others = [each for each in order[1:] if each.trial != BASELINE]
    deviation, degrees = pooled_deviation({each.trial: dict(enumerate(each.scores)) for each in order})
    if not others or not degrees:
        return ()
    gaps, errors = [], []
    for each in others:
        shared = min(len(order[0].scores), len(each.scores))
        gaps.append(fmean(order[0].scores[:shared]) - fmean(each.scores[:shared]))
        errors.append(deviation * math.sqrt(2 / shared))
    p_values = chance_of(gaps, errors, degrees)
    return tuple(each.trial for each, p in zip(others, p_values, strict=True) if p >= SIGNIFICANCE)


def _compare_on_test(study: Study, winner: int) -> Resampled | None:
    """Winner − baseline on test, where test_looks.jsonl has both; None also for a single dialogue."""
    files = [study.paths.predictions(n, "test") for n in (winner, BASELINE)]
    if not {winner, BASELINE} <= study.test_scores().keys() or not all(file.is_file() for file in files):
        return None
    a, b = (Predictions.load(file) for file in files)
    if len(set(a.dialogue[a.known])) < 2:
        return None
    return dialogue_bootstrap(a.label, a.dialogue, a.prediction, b.prediction, classes=len(a.classes))
