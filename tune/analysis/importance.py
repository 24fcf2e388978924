"""Importance of each searched value: Optuna's PED-ANOVA, beside the level that shuffled scores reach by chance."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from tune.study.study import Study

if TYPE_CHECKING:
    from optuna.importance import PedAnovaImportanceEvaluator

SHUFFLES = 100
"""Random permutations of the scores from which the level of chance is estimated."""

FEWEST = 20
"""Trials below which no importance is computed."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """A parameter's share of the importance of all, in 0..1."""

    key: str
    share: float
    chance: float
    """95th percentile of the share where scores have nothing to do with values."""

    @property
    def shown(self) -> bool:
        """Whether it is more than chance."""
        return self.share > self.chance


def finished_search(study: Study) -> optuna.Study:
    """The search in memory under its own trial numbers, for Optuna's plots and importances, which leave stopped trials out.

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
    search = finished_search(study)
    scores = {
        trial.number: trial.value or 0.0 for trial in search.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    }
    if len(scores) < FEWEST:
        return []
    values, rng = np.array(list(scores.values()), float), np.random.default_rng(seed)
    found = _importances(search, scores)
    shuffled = [_importances(search, dict(zip(scores, rng.permutation(values), strict=True))) for _ in range(SHUFFLES)]
    total = sum(found.values()) or 1.0
    return [
        Importance(key=key, share=share / total, chance=float(np.quantile([s[key] for s in shuffled], 0.95)) / total)
        for key, share in found.items()
    ]


def _importances(search: optuna.Study, scores: dict[int, float]) -> dict[str, float]:
    """Importances, not normalized, for other scores of the trials."""
    from optuna.importance import get_param_importances  # half a second, which `status` has no use for

    with warnings.catch_warnings():
        # That `normalize` is experimental, and that a target is minimised: hence the minus.
        warnings.simplefilter("ignore")
        return get_param_importances(
            search, evaluator=evaluator(), normalize=False, target=lambda trial: -scores[trial.number]
        )


def evaluator() -> PedAnovaImportanceEvaluator:
    """Better half of the trials against the rest; Optuna's default, the best tenth, is too few trials of a search."""
    from optuna.importance import PedAnovaImportanceEvaluator

    return PedAnovaImportanceEvaluator(target_quantile=0.5)
