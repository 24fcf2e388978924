"""How many epochs a search needs, from the recorded curves: `python tests/benchmarks/efficiency.py` (trains nothing).

1. Three searches by the shipped plan against three random searches at full length: what each confirms to over five seeds.
2. The same recorded random curves, replayed under other settings of ASHA, and of the value that it and the sampler see.
3. The recorded configs as a pool, from which TPE chooses the nearest to its suggestion: its startup trials.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from curves import CONFIGS, EPOCHS, REPETITIONS, SHARE, group, incumbent, plan

from tune.search.asha import Rungs
from tune.search.samplers import sampler_for
from tune.sections import SchedulerPlan

BUDGET = CONFIGS * EPOCHS
ORDERS = 300
"""Random searches that are drawn from the recorded configs."""
SLOTS = 2

Curve = np.ndarray  # [epochs] validation W-F1

VALUES: dict[str, Callable[[Curve], Curve]] = {
    "best so far": np.maximum.accumulate,
    "last": lambda wf1: wf1,
    "best mean of three": lambda wf1: np.maximum.accumulate(_mean_of_three(wf1)),
}
"""What the rungs may see of a curve."""


def _mean_of_three(wf1: Curve) -> Curve:
    """The mean of each epoch and up to two before."""
    padded = np.concatenate([[0.0], np.cumsum(wf1)])
    first = np.maximum(np.arange(len(wf1)) - 2, 0)
    return (padded[1:] - padded[first]) / (np.arange(len(wf1)) + 1 - first)


def worth(wf1: Curve) -> float:
    """What a whole curve says of its config: its best mean of three epochs, which luck moves less than its best epoch."""
    return float(_mean_of_three(wf1).max())


def asha(
    curves: Iterable[Curve], scheduler: SchedulerPlan, value: Callable[[Curve], Curve], epochs: int
) -> tuple[int, int]:
    """Two slots train the curves in their order, for so many epochs in all → epochs that were run, whose value was best."""
    rungs, waiting, ran = Rungs(scheduler), list(enumerate(curves)), 0
    seen: dict[int, float] = {}
    at_work: list[tuple[int, Curve, int]] = []
    while ran < epochs and (waiting or at_work):
        while waiting and len(at_work) < SLOTS:
            trial, curve = waiting.pop(0)
            at_work.append((trial, value(curve), 0))
        going = []
        for trial, values, done in at_work:
            ran += 1
            seen[trial] = max(seen.get(trial, 0.0), float(values[done]))
            stopped = rungs.report(trial, done + 1, float(values[done]))
            if not stopped and done + 1 < len(values):
                going.append((trial, values, done + 1))
        at_work = going
    return ran, max(seen, key=lambda trial: seen[trial])


def schedulers() -> list[dict[str, Any]]:
    """Random configs under other rungs: worth, in points, of what is held after each share of random search's epochs.

    error: standard error over orders of one and the same pool; another pool would differ by more.
    """
    curves = [np.array(run["wf1"]) for repetition in REPETITIONS for run in group(f"random {repetition}")]
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(curves)) for _ in range(ORDERS)]
    settings = [("none", EPOCHS, 3)] + [
        ("asha", grace, reduction) for grace in (1, 2, 3, 4, 6) for reduction in (2, 3, 4)
    ]
    found = []
    for kind, grace, reduction in settings:
        scheduler = SchedulerPlan(kind=kind, grace_epochs=grace, reduction=reduction, max_epochs=EPOCHS)
        for name, value in VALUES.items():
            row: dict[str, Any] = {"scheduler": kind, "grace": grace, "reduction": reduction, "value": name}
            for share in (SHARE, 2 * SHARE):
                worths = []
                for order in orders:
                    _, held = asha((curves[i] for i in order), scheduler, value, int(share * BUDGET))
                    worths.append(100 * worth(curves[order[held]]))
                epochs = f"{int(share * BUDGET)} epochs"
                row[epochs] = round(statistics.mean(worths), 2)
                row[f"{epochs}, error"] = round(statistics.stdev(worths) / len(worths) ** 0.5, 2)
            found.append(row)
    return found


def tpe(startup: int, seed: int, *, kind: str = "tpe", epochs: int = int(SHARE * BUDGET)) -> float:
    """A search of so many epochs over the pool, under the shipped rungs → worth of what it holds, in points."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chosen = plan(kind=kind, seed=seed, startup_trials=startup)
    pool = [run for repetition in REPETITIONS for run in group(f"random {repetition}")]
    place = np.array([[_place(p, run["values"][key]) for key, p in chosen.space.items()] for run in pool])
    study, rungs, left = optuna.create_study(direction="maximize"), Rungs(chosen.scheduler), list(range(len(pool)))
    best, held = 0.0, 0
    number = 0
    while epochs > 0 and left:
        study.sampler = sampler_for(chosen, number)
        trial = study.ask({key: p.distribution for key, p in chosen.space.items()})
        wanted = np.array([_place(p, trial.params[key]) for key, p in chosen.space.items()])
        nearest = min(left, key=lambda i: float(((place[i] - wanted) ** 2).sum()))
        left.remove(nearest)
        # Optuna is told the config that was run.
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        values, reason, reached = np.maximum.accumulate(pool[nearest]["wf1"]), None, 0
        for epoch, value in enumerate(values, start=1):
            epochs, reached = epochs - 1, epoch
            reason = rungs.report(number, epoch, float(value))
            if value > best:
                best, held = float(value), nearest
            if reason or epochs <= 0:
                break
        ended = optuna.trial.TrialState.PRUNED if reason or reached < len(values) else optuna.trial.TrialState.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(
                state=ended,
                params=pool[nearest]["values"],
                distributions={key: p.distribution for key, p in chosen.space.items()},
                value=float(values[reached - 1]),
                intermediate_values={i: float(v) for i, v in enumerate(values[:reached], start=1)},
            )
        )
        number += 1
    return 100 * worth(np.array(pool[held]["wf1"]))


def _place(parameter: Any, value: Any) -> float:
    """A value's place in its range, 0..1."""
    distribution = parameter.distribution
    if hasattr(distribution, "choices"):
        return distribution.choices.index(value) / max(1, len(distribution.choices) - 1)
    low, high = distribution.low, distribution.high
    if distribution.log:
        low, high, value = np.log(low), np.log(high), np.log(value)
    return float((value - low) / (high - low))


def startups(repetitions: int = 20) -> list[dict[str, Any]]:
    """Random and TPE with several startups over the pool, a quarter of the budget each."""
    found = []
    for kind, startup in (("random", 10), ("tpe", 4), ("tpe", 6), ("tpe", 10), ("tpe", 16)):
        worths = [tpe(startup, seed, kind=kind) for seed in range(repetitions)]
        error = statistics.stdev(worths) / len(worths) ** 0.5
        found.append(
            {"sampler": kind, "startup": startup, "worth": round(statistics.mean(worths), 2), "error": round(error, 2)}
        )
    return found


def confirmed(name: str) -> dict[str, float]:
    """Mean and deviation of a config's best epochs over the five seeds, in points."""
    best = [100 * max(run["wf1"]) for run in group(name)]
    return {"mean": round(statistics.mean(best), 2), "std": round(statistics.stdev(best), 2)}


def against_random() -> list[dict[str, Any]]:
    """Each repetition: what random search confirms to with all its epochs, and the search with a share of them."""
    found = []
    for repetition in REPETITIONS:
        random, runs = group(f"random {repetition}"), group(f"search {repetition}")
        held = incumbent(runs)["number"]
        seconds = sum(run["seconds"] for run in random)
        found.append(
            {
                "repetition": repetition,
                "random": {"epochs": BUDGET, "seconds": round(seconds), **confirmed(f"random {repetition} best")},
                "search": {
                    "epochs": sum(len(run["wf1"]) for run in runs),
                    "trials": len(runs),
                    "trial": held,
                    **confirmed(f"search {repetition} trial {held}"),
                },
            }
        )
    return found


def measure() -> dict[str, Any]:
    """The part `search` of results/benchmarks.json."""
    return {"against random search": against_random(), "schedulers": schedulers(), "startup trials": startups()}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
