"""Results of a study in numbers: finalists, winner against baseline, spread of runs, importance of each searched value.

All scores are W-F1 in 0..1. tune.analysis.conclusions puts them into sentences and percentage points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tune.analysis.importance import Importance, importances
from tune.search.confirmation import Confirmed, averages, candidates, final_ranking, scores_of
from tune.search.stages import comparison, overlap
from tune.statistics import (
    Difference,
    Resampled,
    chance_of,
    dialogue_bootstrap,
    paired,
    pooled_deviation,
    smallest_difference,
)
from tune.study.predictions import Predictions
from tune.study.study import BASELINE, Study

SIGNIFICANCE = 0.05
"""A difference is significant where its p value is below this."""


@dataclass(frozen=True, kw_only=True)
class RunSpread:
    """Spread of validation W-F1 over the runs that are compared: folds, or seeds."""

    deviation: float
    """Standard deviation of a run, without what a fold or seed does to all configs alike."""
    unit: str
    """`fold` or `seed`."""
    units: int
    smallest: float
    """Smallest true difference that the comparison of winner and baseline finds significant with a power of 0.8."""

    def summary(self) -> dict[str, Any]:
        """For best.yaml, in percentage points."""
        return {
            "deviation": round(100 * self.deviation, 2),
            f"{self.unit}s": self.units,
            "smallest_difference": round(100 * self.smallest, 2),
        }


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """Results of a study so far."""

    order: list[Confirmed]
    """Finalists as tune.search.confirmation.ranking has them; empty until the confirmation is finished."""
    averages: dict[int, Confirmed]
    """Averages over the plan's seeds on the official split, by trial: the winner's and the baseline's, if it has all seeds."""
    spread: RunSpread | None
    """None while too few runs are there."""
    validation: Difference | None
    """Winner − baseline over folds or seeds, adjusted for the choice among `candidates`; None where either lacks."""
    candidates: int
    """Trials beside the baseline that were ever compared."""
    test: Resampled | None
    """Winner − baseline on test, over resampled dialogues; None before test is evaluated."""
    search_score: float | None
    """The winner's best value in the search."""
    tied: tuple[int, ...]
    """Finalists not significantly worse than the winner; the baseline has `validation`."""
    importance: list[Importance]


def run_spread(study: Study) -> RunSpread | None:
    """Spread of the compared runs, and what it means for the comparison of winner and baseline."""
    stage = comparison(study)
    scores: dict[int, dict[int, float]] = {}
    for (trial, unit), score in scores_of(study, stage).items():
        scores.setdefault(trial, {})[unit] = score
    deviation, degrees = pooled_deviation(scores)
    if not degrees or len(stage.units) < 2:
        return None
    smallest = smallest_difference(
        deviation,
        len(stage.units),
        among=max(1, len(scores.keys() - {BASELINE})),
        overlap=overlap(study),
        alpha=SIGNIFICANCE,
    )
    return RunSpread(deviation=deviation, unit=stage.unit, units=len(stage.units), smallest=smallest)


def summarize(study: Study) -> StudySummary:
    """Read the results from the study's folder; nothing is trained or evaluated. Raises InputError for a damaged file."""
    order, among = final_ranking(study), candidates(study)
    winner = order[0] if order else None
    baseline = next((each for each in order if each.trial == BASELINE), None)
    validation = test = None
    if winner and winner.trial != BASELINE:
        test = _compare_on_test(study, winner.trial)
        if baseline and winner.units == baseline.units and len(baseline.units) > 1:
            validation = paired(winner.scores, baseline.scores, among=among, overlap=overlap(study))
    return StudySummary(
        order=order,
        averages=averages(study) if winner else {},
        spread=run_spread(study),
        validation=validation,
        candidates=among,
        test=test,
        search_score=max(study.trials[winner.trial].intermediate_values.values(), default=None) if winner else None,
        tied=_tied(order, overlap(study)),
        importance=importances(study),
    )


def _tied(order: list[Confirmed], overlap: float) -> tuple[int, ...]:
    """Finalists not significantly worse than the winner over the units that both ran."""
    others = [each for each in order[1:] if each.trial != BASELINE]
    deviation, degrees = pooled_deviation({each.trial: dict(enumerate(each.scores)) for each in order})
    if not others or not degrees:
        return ()
    gaps, errors = [], []
    for each in others:
        shared = min(len(order[0].scores), len(each.scores))
        gaps.append(fmean(order[0].scores[:shared]) - fmean(each.scores[:shared]))
        errors.append(deviation * math.sqrt(2 * (1 / shared + overlap)))
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
