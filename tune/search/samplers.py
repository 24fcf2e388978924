"""Optuna's samplers, made so that each suggestion is a function of the journal alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Container
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from tune.plan import SearchPlan
from tune.sections import MAX_SEED, SamplerPlan


class _PlanSpace(optuna.samplers.BaseSampler):
    """A sampler over the plan's space, which Optuna would look for in all trials so far, at each new one."""

    space: dict[str, BaseDistribution]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space


class _TPE(_PlanSpace, optuna.samplers.TPESampler):
    """TPE, which learns from stopped trials too."""


class _GP(_PlanSpace, optuna.samplers.GPSampler):
    """A Gaussian process that learns from stopped trials too, by the best value that each had reached at its rung."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(cast(optuna.Study, _StoppedAsComplete(study)), trial, search_space)


class _StoppedAsComplete:
    """A study whose PRUNED trials appear COMPLETE, with their best value."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self.study, name)

    def _get_trials(self, deepcopy: bool, states: Container[TrialState], use_cache: bool) -> list[FrozenTrial]:
        trials = [_as_complete(trial) for trial in self.study._get_trials(deepcopy=False, use_cache=use_cache)]
        return [trial for trial in trials if trial.state in states]


def _as_complete(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.PRUNED or not trial.intermediate_values:
        return trial
    found = copy.copy(trial)
    found.state, found.values = TrialState.COMPLETE, [max(trial.intermediate_values.values())]
    return found


class _QMC(_PlanSpace, optuna.samplers.QMCSampler):
    """A scrambled Sobol sequence whose point is the trial's number, whatever became of other trials; 0 is the baseline."""

    number: int

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self.number - 1


def sampler_for(search: SearchPlan, trial: int) -> optuna.samplers.BaseSampler:
    """The sampler for a trial by its number, seeded from (seed, number): a restart suggests what it would have anyway."""
    plan = search.sampler
    seed = int(np.random.SeedSequence([plan.seed, trial]).generate_state(1)[0])
    if plan.kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    space = {key: parameter.distribution for key, parameter in search.space.items()}
    if plan.kind == "qmc":
        with warnings.catch_warnings():  # Optuna calls it experimental, at each trial
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # The sequence as a whole is seeded.
            qmc = _QMC(qmc_type="sobol", seed=plan.seed, scramble=True, warn_independent_sampling=False)
        qmc.space, qmc.number = space if trial else {}, trial
        return qmc
    sampler: _GP | _TPE
    if plan.kind == "gp":
        sampler = _GP(seed=seed, n_startup_trials=plan.startup_trials, deterministic_objective=False)
    else:
        sampler = _TPE(
            seed=seed,
            n_startup_trials=plan.startup_trials,
            n_ei_candidates=24,
            multivariate=True,  # values are drawn together, not key by key
            group=False,
            constant_liar=True,  # trials at work count as bad, so that others keep away from them
        )
    sampler.space = {key: space[key] for key in sorted(space) if not space[key].single()}  # in Optuna's order
    return sampler


def training_seed(plan: SamplerPlan, trial: int, *, taken: tuple[int, ...]) -> int:
    """The seed a trial trains with, from (sampler seed, trial number); never one of the confirmation's."""
    for attempt in range(len(taken) + 1):
        seed = int(np.random.SeedSequence([plan.seed, trial, 1 + attempt]).generate_state(1)[0]) % MAX_SEED
        if seed not in taken:
            return seed
    raise AssertionError("one of len(taken) + 1 draws is free unless two collide")
