"""What a study found: how noisy it is, whether the winner beats the baseline, how well the rungs chose. Read from its folder.

All scores are W-F1 as shares in 0..1; tune.analysis.conclusions says it in words and percent points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from optuna.trial import TrialState

from tune.analysis.importance import Importance, importances
from tune.search.asha import Rungs
from tune.search.confirmation import Confirmed, settled
from tune.search.trials import AUDITED
from tune.statistics import (
    Difference,
    Resampled,
    chance_of,
    dialogue_bootstrap,
    paired,
    pooled_deviation,
    rank_correlation,
    seeds_needed,
    smallest_difference,
)
from tune.study.predictions import Predictions
from tune.study.study import BASELINE, Study

ALPHA = 0.05
"""A difference is called one where chance alone would show it less often than this."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What seeds alone do to validation W-F1, by the baseline's own runs."""

    deviation: float
    """Sample standard deviation over the seeds: the noise floor."""
    seeds: int
    smallest: float
    """The smallest true difference that a paired t test over so many seeds finds in four of five cases."""
    gap: float | None
    """Winner's mean − baseline's; None without a winner."""
    needed: int | None
    """Seeds that a true difference as large as the gap would need; None without a gap, or where 1,000 do not do."""

    def summary(self) -> dict[str, Any]:
        """For best.yaml, in percent points."""
        return {
            "deviation": round(100 * self.deviation, 2),
            "seeds": self.seeds,
            "smallest_difference": round(100 * self.smallest, 2),
            "gap": None if self.gap is None else round(100 * self.gap, 2),
            "seeds_needed": self.needed,
        }


@dataclass(frozen=True, kw_only=True)
class Audit:
    """How well the first rung's order foretold the order at the end, by the trials that ran to their end."""

    rung: int
    """Its epoch."""
    trials: int
    audited: tuple[int, ...]
    """Those among them that a rung had stopped, and that were run on for this."""
    correlation: float
    """Kendall's, of the value at the rung and the final one, as of all trials: an audited one stands for those that were
    stopped as it was. nan without an audited one, since the others were chosen by that very rung."""
    overtook: tuple[int, ...]
    """Audited trials that ended above the median of those let through."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a study says, as far as it has come."""

    order: list[Confirmed]
    """Finalists as tune.search.confirmation.ranking has them; empty until their race is over."""
    noise: Noise | None
    """None until the baseline has its seeds, and with a single seed."""
    validation: Difference | None
    """Winner − baseline over the plan's seeds, counting that the winner was chosen by them; None where either lacks."""
    test: Resampled | None
    """Winner − baseline on test, over resampled dialogues; None while test is sealed."""
    search_score: float | None
    """The winner's best value in the search."""
    tied: tuple[int, ...]
    """Finalists that cannot be told apart from the winner, by the seeds that they ran; the baseline has `validation`."""
    importance: list[Importance]
    audit: Audit | None


def noise_of(study: Study) -> Noise | None:
    """The noise floor by the baseline's runs on the plan's seeds, and what it means for the gap at hand."""
    seeds = study.plan.confirm.seeds
    scores = [run["val/wf1"] for run in study.confirmed() if run["trial"] == BASELINE and run["seed"] in seeds]
    if len(scores) < max(2, len(seeds)):
        return None
    order, deviation = settled(study), stdev(scores)
    gap = order[0].wf1 - fmean(scores) if order and order[0].trial != BASELINE else None
    return Noise(
        deviation=deviation,
        seeds=len(scores),
        smallest=smallest_difference(deviation, len(scores)),
        gap=gap,
        needed=None if gap is None else seeds_needed(gap, deviation),
    )


def answer_of(study: Study) -> Answer:
    """Gather what is known now; nothing is trained, and test is not looked at."""
    order = settled(study)
    winner = order[0] if order else None
    baseline = next((c for c in order if c.trial == BASELINE), None)
    validation = test = None
    if winner and baseline and winner is not baseline:
        if len(baseline.scores) > 1:
            validation = paired(winner.scores, baseline.scores, among=len(order) - 1)
        test = _test(study, winner.trial)
    return Answer(
        order=order,
        noise=noise_of(study),
        validation=validation,
        test=test,
        search_score=max(study.trials[winner.trial].intermediate_values.values(), default=None) if winner else None,
        tied=_tied(order),
        importance=importances(study),
        audit=audit_of(study),
    )


def _tied(order: list[Confirmed]) -> tuple[int, ...]:
    """Finalists not significantly worse than the winner, each by the seeds that it ran (as tune.search.racing, at a usual level)."""
    others = [each for each in order[1:] if each.trial != BASELINE]
    runs = {each.trial: each.scores + each.beyond for each in order}
    deviation, degrees = pooled_deviation({n: dict(enumerate(scores)) for n, scores in runs.items()})
    if not others or not degrees:
        return ()
    winner, errors, ahead = runs[order[0].trial], [], []
    for each in others:
        shared = min(len(winner), len(runs[each.trial]))
        ahead.append(fmean(winner[:shared]) - fmean(runs[each.trial][:shared]))
        errors.append(deviation * math.sqrt(2 / shared))
    p = chance_of(ahead, errors, degrees)
    return tuple(each.trial for each, luck in zip(others, p, strict=True) if luck >= ALPHA)


def _test(study: Study, winner: int) -> Resampled | None:
    """The comparison on test where the ledger says that both were looked at."""
    files = [study.predictions(n, "test") for n in (winner, BASELINE)]
    if not {winner, BASELINE} <= study.test_scores().keys() or not all(file.is_file() for file in files):
        return None
    a, b = (Predictions.load(file) for file in files)
    return dialogue_bootstrap(a.label, a.dialogue, a.prediction, b.prediction, classes=len(a.classes))


def audit_of(study: Study) -> Audit | None:
    """How well the rungs foretell; None without rungs or without trials that ended."""
    epochs = Rungs(study.plan.scheduler).values
    ended = [
        t for t in study.trials if t.state == TrialState.COMPLETE and min(epochs, default=0) in t.intermediate_values
    ]
    if not epochs or not ended:
        return None
    rung, final = min(epochs), {t.number: max(t.intermediate_values.values()) for t in ended}
    audited = tuple(t.number for t in ended if AUDITED in t.user_attrs)
    early = [t.intermediate_values[rung] for t in ended]
    weights = [1 / study.plan.scheduler.audit if n in audited else 1.0 for n in final]
    through = sorted(final[n] for n in final if n not in audited)
    median = through[len(through) // 2] if through else math.inf
    return Audit(
        rung=rung,
        trials=len(ended),
        audited=audited,
        correlation=rank_correlation(early, list(final.values()), weights) if audited else math.nan,
        overtook=tuple(n for n in audited if final[n] > median),
    )
