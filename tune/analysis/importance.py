"""Which searched values mattered, beside what chance alone would show: Optuna's PED-ANOVA, and the same with shuffled scores."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import optuna
from optuna.trial import create_trial

from tune.search.trials import ranked
from tune.study.study import Study

SHUFFLES = 100
"""How often the scores are dealt to other trials."""

FEWEST = 20
"""Trials by which anything can be told."""

if TYPE_CHECKING:
    from optuna.importance import PedAnovaImportanceEvaluator


@dataclass(frozen=True, kw_only=True)
class Importance:
    """A parameter's share of the importance of all, in 0..1."""

    key: str
    share: float
    chance: float
    """What it would stay below in 95 of 100 searches whose scores have nothing to do with the values."""

    @property
    def shown(self) -> bool:
        """Whether it is more than chance."""
        return self.share > self.chance


def whole(study: Study) -> optuna.Study:
    """The search in memory, each usable trial complete with the best value that it reached.

    Optuna's plots and importances leave stopped trials out: most of a search with ASHA, and all that was bad in it.
    """
    search = optuna.create_study(direction="maximize")
    space = {key: parameter.distribution for key, parameter in study.plan.space.items()}
    for trial in sorted(ranked(study), key=lambda trial: trial.number):
        best = max(trial.intermediate_values.values())
        search.add_trial(create_trial(params=trial.params, distributions=space, value=best))
    return search


def importances(study: Study, *, seed: int = 0) -> list[Importance]:
    """Of all searched keys that took more than one value, greatest first; none where the trials are too few to tell."""
    search = whole(study)
    scores = np.array([trial.value for trial in search.get_trials(deepcopy=False)])
    if len(scores) < FEWEST:
        return []
    rng, found = np.random.default_rng(seed), _raw(search, scores)
    shuffled = [_raw(search, rng.permutation(scores)) for _ in range(SHUFFLES)]
    total = sum(found.values()) or 1.0
    return [
        Importance(key=key, share=share / total, chance=float(np.quantile([s[key] for s in shuffled], 0.95)) / total)
        for key, share in found.items()
    ]


def _raw(search: optuna.Study, scores: np.ndarray) -> dict[str, float]:
    """The importances, not yet shares, where the trials had these scores."""
    from optuna.importance import get_param_importances  # half a second, which `status` has no use for

    with warnings.catch_warnings():
        # That `normalize` is experimental, and that the target is minimised: hence the minus.
        warnings.simplefilter("ignore")
        return get_param_importances(
            search, evaluator=evaluator(), normalize=False, target=lambda trial: -float(scores[trial.number])
        )


def evaluator() -> PedAnovaImportanceEvaluator:
    """What tells the better half of the trials from the rest: of Optuna's default, the best tenth, a search has too few."""
    from optuna.importance import PedAnovaImportanceEvaluator

    return PedAnovaImportanceEvaluator(target_quantile=0.5)
