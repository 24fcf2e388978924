"""Asynchronous successive halving (ASHA, Li et al. 2020, stopping variant) on the best value so far."""

from __future__ import annotations

import numpy as np

from tune.space import SchedulerPlan


class Rungs:
    """Who may go on. A pure function of the reports in their order, so a restart refills it by replaying epochs.jsonl.

    Rungs lie at grace_epochs · reduction^k below max_epochs. A trial that reaches one goes on when its value is not below
    the top 1/reduction quantile of those that reached the rung before it; the first always goes on.
    """

    def __init__(self, plan: SchedulerPlan) -> None:
        self.reduction = plan.reduction
        self.values: dict[int, dict[int, float]] = {}
        epoch = plan.grace_epochs
        while plan.kind == "asha" and epoch < plan.max_epochs:
            self.values[epoch] = {}
            epoch *= plan.reduction

    def report(self, trial: int, epoch: int, value: float) -> str | None:
        """Enter a trial's best value at an epoch → why it must stop, or None to go on."""
        if epoch not in self.values:
            return None
        earlier = [v for number, v in self.values[epoch].items() if number != trial]
        self.values[epoch][trial] = value
        if not earlier:
            return None
        cutoff = float(np.quantile(earlier, 1 - 1 / self.reduction))
        return f"rung {epoch}: {value:.4f} below {cutoff:.4f}" if value < cutoff else None
