"""Optuna's samplers, made so that each suggestion is a function of the journal alone."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from tune.plan import MAX_SEED, SamplerPlan, SearchPlan


class _TPE(optuna.samplers.TPESampler):
    """TPE over the plan's space, which Optuna would look for in all trials so far, at each new one."""

    def __init__(self, search: SearchPlan, **arguments: Any) -> None:
        super().__init__(**arguments)
        found = {key: search.space[key].distribution for key in sorted(search.space)}  # in Optuna's order
        self.space = {key: distribution for key, distribution in found.items() if not distribution.single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space


def sampler_for(search: SearchPlan, trial: int) -> optuna.samplers.BaseSampler:
    """The sampler for a trial by its number, seeded from (seed, number): a restart suggests what it would have anyway."""
    plan = search.sampler
    seed = int(np.random.SeedSequence([plan.seed, trial]).generate_state(1)[0])
    if plan.kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if plan.kind == "qmc":
        with warnings.catch_warnings():  # Optuna calls it experimental, at each trial
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # The sequence as a whole is seeded, and its position comes from the study.
            return optuna.samplers.QMCSampler(seed=plan.seed, scramble=True, warn_independent_sampling=False)
    if plan.kind == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=plan.startup_trials, deterministic_objective=False)
    return _TPE(search, seed=seed, n_startup_trials=plan.startup_trials)


def training_seed(plan: SamplerPlan, trial: int, *, taken: tuple[int, ...]) -> int:
    """The seed a trial trains with, from (sampler seed, trial number); never one of the confirmation's."""
    for attempt in range(len(taken) + 1):
        seed = int(np.random.SeedSequence([plan.seed, trial, 1 + attempt]).generate_state(1)[0]) % MAX_SEED
        if seed not in taken:
            return seed
    raise AssertionError("one of len(taken) + 1 draws is free unless two collide")
