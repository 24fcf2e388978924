"""Importance of each searched value: how much of the scores' ranks it explains, beside what shuffled scores show.

TPE and GP turn to where scores are good: over time all values drift and scores rise, and so go together without a cause. Values
and scores are therefore compared, and scores shuffled, only among trials drawn at random and within blocks of later ones.
results/LOG.md has how often a key that matters is shown, and one that does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState, create_trial

from tune.parameter import Parameter
from tune.search.trials import ranked
from tune.sections import SamplerPlan
from tune.study.study import Study

SHUFFLES = 500
"""Random permutations of the scores from which the level of chance is estimated."""

FEWEST = 20
"""Trials below which no importance is computed."""

BLOCK = 5
"""Successive trials after the random ones that are compared with each other."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much of the variation of the scores' ranks a parameter explains, alone, in 0..1."""

    key: str
    share: float
    chance: float
    """95th percentile of the share where scores have nothing to do with values."""

    @property
    def shown(self) -> bool:
        """Whether it is more than chance."""
        return self.share > self.chance


def finished_search(study: Study) -> optuna.Study:
    """The search in memory under its own trial numbers, for Optuna's plots, which leave stopped trials out.

    Each trial that did not fail is complete with the best validation W-F1 that it reached, in percent.
    """
    search = optuna.create_study(direction="maximize")
    space = {key: parameter.distribution for key, parameter in study.plan.space.items()}
    for trial in study.trials:
        if trial.state == TrialState.FAIL or not trial.intermediate_values:
            search.add_trial(create_trial(state=TrialState.FAIL))
        else:
            best = 100 * max(trial.intermediate_values.values())
            search.add_trial(create_trial(params=trial.params, distributions=space, value=best))
    return search


def importances(study: Study, *, seed: int = 0) -> list[Importance]:
    """Of all searched keys with more than one value, greatest first; none where the trials are too few."""
    trials = sorted(ranked(study), key=lambda trial: trial.number)
    if len(trials) < FEWEST:
        return []
    scores = np.array([max(trial.intermediate_values.values()) for trial in trials])
    ranks = np.unique(scores, return_inverse=True)[1].astype(float)
    blocks = _blocks(study.plan.sampler, np.array([trial.number for trial in trials]))
    shuffled = _shuffle(ranks, blocks, np.random.default_rng(seed))
    found = []
    for key, parameter in study.plan.space.items():
        if not parameter.distribution.single():
            terms = _terms(parameter, [trial.params[key] for trial in trials])
            shares = _explained(_deviations(terms, blocks), shuffled)
            found.append(Importance(key=key, share=float(shares[0]), chance=float(np.quantile(shares[1:], 0.95))))
    return sorted(found, key=lambda each: each.share, reverse=True)


def _blocks(sampler: SamplerPlan, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each trial's block: one of all trials whose values were drawn without regard to scores, then BLOCK by BLOCK."""
    if sampler.kind in ("random", "qmc"):
        return np.zeros_like(numbers)
    return np.maximum(0, 1 + (numbers - sampler.startup_trials) // BLOCK)


def _shuffle(ranks: NDArray[np.float64], blocks: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Deviations of the ranks from their blocks' means, then SHUFFLES permutations within blocks: [trial, 1 + shuffle]."""
    own = _deviations(ranks[:, None], blocks)
    order = np.argsort(blocks[:, None] + rng.uniform(size=(len(ranks), SHUFFLES)), axis=0)
    return np.concatenate([own, own[:, 0][order]], axis=1)


def _terms(parameter: Parameter, values: Sequence[Any]) -> NDArray[np.float64]:
    """What the ranks are fitted by: a number and its square, or a column for each choice."""
    if parameter.choices:
        return np.array([[value == choice for choice in parameter.choices] for value in values], float)
    numbers = np.log(np.array(values, float)) if parameter.log else np.array(values, float)
    numbers = (numbers - numbers.mean()) / (np.ptp(numbers) or 1.0)
    return np.stack([numbers, numbers**2], axis=1)


def _explained(terms: NDArray[np.float64], ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of each column's squares that a least-squares fit by the terms takes away."""
    basis, size, _ = np.linalg.svd(terms, full_matrices=False)
    fitted = ((basis[:, size > 1e-9].T @ ranks) ** 2).sum(axis=0)
    share: NDArray[np.float64] = fitted / ((ranks[:, 0] ** 2).sum() or 1.0)
    return share


def _deviations(columns: NDArray[np.float64], blocks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Columns minus the means of their blocks, which stand in rising order."""
    _, starts, sizes = np.unique(blocks, return_index=True, return_counts=True)
    return columns - np.repeat(np.add.reduceat(columns, starts, axis=0) / sizes[:, None], sizes, axis=0)
