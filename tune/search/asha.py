"""Asynchronous successive halving (ASHA, Li et al. 2020, stopping variant) on the best value so far."""

from __future__ import annotations

from bisect import bisect_left, insort

from tune.sections import SchedulerPlan


class Rungs:
    """Which trials continue: a pure function of the reports in their order, so a restart replays epochs.jsonl.

    Rungs lie at grace_epochs · reduction^k below max_epochs. A trial that reaches one continues when its value is not below
    the top 1/reduction quantile of those that reached the rung before it; the first always continues. A stopped trial
    counts at no later rung (studies of version 0.1 hold some that ran on as an audit).
    """

    def __init__(self, plan: SchedulerPlan) -> None:
        self.reduction = plan.reduction
        self.values: dict[int, dict[int, float]] = {}
        self.stopped: set[int] = set()
        epoch = plan.grace_epochs
        while plan.kind == "asha" and epoch < plan.max_epochs:
            self.values[epoch] = {}
            epoch *= plan.reduction
        self._ordered: dict[int, list[float]] = {epoch: [] for epoch in self.values}

    def report(self, trial: int, epoch: int, value: float) -> str | None:
        """Enter a trial's best value at an epoch → why it must stop, or None to go on."""
        if epoch not in self.values or trial in self.stopped:
            return None
        values, ordered = self.values[epoch], self._ordered[epoch]
        if trial in values:
            del ordered[bisect_left(ordered, values[trial])]
        cutoff = quantile(ordered, 1 - 1 / self.reduction) if ordered else value
        values[trial] = value
        insort(ordered, value)
        if value >= cutoff:
            return None
        self.stopped.add(trial)
        return f"rung {epoch}: {value:.4f} below {cutoff:.4f}"


def quantile(ordered: list[float], share: float) -> float:
    """`numpy.quantile`, to the last bit, of values in rising order, none of them NaN, without a look at all of them."""
    place = share * (len(ordered) - 1)
    low = int(place)
    rest, below, above = place - low, ordered[low], ordered[min(low + 1, len(ordered) - 1)]
    step = above - below
    return below + step * rest if rest < 0.5 else above - step * (1 - rest)
