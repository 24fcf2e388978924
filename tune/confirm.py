"""Confirmation: the answer, not the luckiest trial. Finalists race over fresh seeds at full length, the baseline among them.

The ranking is by mean validation W-F1. The corpus that search and confirmation get holds no test split: `tune.best` opens it
once the ranking stands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfvd.files import write_bytes
from tune.journal import BASELINE, Study
from tune.race import Drop, Race, run_race
from tune.search import ranked
from tune.storage import delete
from tune.trial import Job, Result


def finalists(study: Study) -> list[int]:
    """Trial numbers to confirm: the best of the search with different values, and the baseline.

    In a search that was extended also those that were confirmed on all seeds before, which nothing may overtake unseen.
    """
    chosen: list[int] = []
    seen: list[dict[str, Any]] = []
    for trial in ranked(study):
        if trial.params not in seen and len(chosen) < study.plan.confirm.finalists:
            chosen.append(trial.number)
            seen.append(trial.params)
    done = {(run["trial"], run["seed"]) for run in study.confirmed()}
    before = [n for n in sorted({n for n, _ in done}) if all((n, s) in done for s in study.plan.confirm.seeds)]
    return list(dict.fromkeys([*chosen, *before, BASELINE])) if chosen else []


def race_of(study: Study, numbers: Sequence[int], *, out: Collection[int] = ()) -> Race:
    """How the race of these trials stands by what is confirmed; out: those that take no part any more."""
    scores = {(run["trial"], run["seed"]): float(run["val/wf1"]) for run in study.confirmed()}
    return _race(study, numbers, scores, out)


def _race(study: Study, numbers: Sequence[int], scores: dict[tuple[int, int], float], out: Collection[int]) -> Race:
    plan = study.plan.confirm
    return run_race(
        scores, numbers, seeds=plan.seeds, extra=plan.extra_seeds, baseline=BASELINE, racing=plan.race, out=out
    )


class ConfirmJobs:
    """The source of a confirmation's jobs (tune.desk.Source): the runs that the race still wants.

    numbers: the trials that take part; the finalists unless named.
    """

    def __init__(self, study: Study, interrupted: Callable[[], bool], numbers: Sequence[int] | None = None) -> None:
        self.study, self.interrupted = study, interrupted
        self.numbers = finalists(study) if numbers is None else list(numbers)
        self.scores = {(run["trial"], run["seed"]): float(run["val/wf1"]) for run in study.confirmed()}
        self.running: dict[str, tuple[int, int]] = {}
        self.history: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for record in study.epochs(study.stage):
            self.history.setdefault((record["trial"], record["seed"]), []).append(record)
        self.errors: list[str] = []
        self.out: set[int] = set()  # trials with a run that failed in this sitting
        self._settle()

    def _settle(self) -> None:
        """Ask the race anew, after a result."""
        self.race = _race(self.study, self.numbers, self.scores, self.out)

    def next(self) -> Job | None:
        """The next missing run; None also while the race waits for those that run."""
        at_work = set(self.running.values())
        waiting = [run for run in self.race.wanted if run not in at_work]
        if self.interrupted() or not waiting:
            return None
        number, seed = waiting[0]
        name = f"{self.study.stage}-trial{number}-seed{seed}"
        self.running[name] = (number, seed)
        return Job(
            name=name,
            config=self.study.config_of(number),
            seed=seed,
            checkpoint=self.study.checkpoint(name),
            gpu=self.study.plan.resources.gpu,
            keep=True,
        )

    def exhausted(self) -> bool:
        """The race is over."""
        return self.interrupted() or not self.race.wanted

    def stopping(self) -> bool:
        """Interrupted."""
        return self.interrupted()

    def report(self, job: Job, record: dict[str, Any]) -> str | None:
        """Write an epoch down; no run is stopped early here."""
        key = self.running[job.name]
        history = self.history.setdefault(key, [])
        if record["epoch"] > len(history):
            history.append(record)
            self.study.append_epoch(self.study.stage, *key, {**record, "gpu": job.gpu} if job.gpu else record)
        return None

    def finished(self, job: Job, result: Result) -> None:
        """Keep the best epoch's weights, then write the run down."""
        trial, seed = self.running.pop(job.name)
        self.study.patiently(lambda: write_bytes(self.study.weights(trial, seed), result.weights))
        best = {k: v for k, v in result.best.items() if k.startswith("val/")}
        run = {"trial": trial, "seed": seed, "best_epoch": result.best_epoch, "epochs": result.epochs}
        self.study.settle()
        self.study.append_confirmed({**run, "seconds": result.seconds, **best})
        self.scores[trial, seed] = result.best["val/wf1"]
        self._settle()
        delete(job.checkpoint)

    def fault(self, job: Job, reason: str, then: str) -> None:
        """Enter what happened to the run."""
        trial, seed = self.running[job.name]
        self.study.append_fault(reason, then, stage=self.study.stage, trial=trial, seed=seed)

    def failed(self, job: Job, reason: str) -> None:
        """Remember the reason; the finalist is out of the race until another sitting tries it again."""
        self.fault(job, reason, FAILED)
        trial, seed = self.running.pop(job.name)
        self.errors.append(f"{self.study.name_of(trial)}, seed {seed}: {reason}")
        self.out.add(trial)
        self._settle()


FAILED = "failed"
"""What faults.jsonl says was done about a run that nothing more is done about."""


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A finalist's validation: `mean` and `std` (sample, 0 for one seed) of each `val/…` metric in 0..1, over `seeds`.

    Those are all of the plan's seeds, fewer where it was dropped; what a tie took beyond them is not among them.
    """

    trial: int
    seeds: tuple[int, ...]
    mean: dict[str, float]
    std: dict[str, float]
    scores: tuple[float, ...]
    """W-F1 at each of `seeds`."""
    drop: Drop | None = None
    """When and why the race went on without it; None where it ran all seeds."""

    @property
    def wf1(self) -> float:
        """Mean validation W-F1."""
        return self.mean["val/wf1"]


def ranking(study: Study) -> list[Confirmed]:
    """The finalists in the order of the race, best first: those with all seeds of the plan, then those dropped."""
    runs = {(run["trial"], run["seed"]): run for run in study.confirmed()}
    race = standing(study)
    drops = {drop.trial: drop for drop in race.dropped}
    found = []
    for number in [*race.alive, *reversed(drops)]:
        seeds = tuple(s for s in study.plan.confirm.seeds if (number, s) in runs)
        if number in drops or seeds == study.plan.confirm.seeds:
            mean, std = mean_std([{k: v for k, v in runs[number, s].items() if k.startswith("val/")} for s in seeds])
            scores = tuple(runs[number, s]["val/wf1"] for s in seeds)
            drop = drops.get(number) if len(seeds) < len(study.plan.confirm.seeds) else None
            found.append(Confirmed(trial=number, seeds=seeds, mean=mean, std=std, scores=scores, drop=drop))
    return found


def standing(study: Study) -> Race:
    """How the finalists' race stands, without those that have a run that failed for good."""
    return race_of(study, finalists(study), out=_failed(study, [(r["trial"], r["seed"]) for r in study.confirmed()]))


def _failed(study: Study, runs: Collection[tuple[int, int]]) -> set[int]:
    """Trials with a run that failed for good, and was not made up for."""
    ended = [f for f in study.faults() if f.get("stage") == study.stage and f["then"] == FAILED]
    return {fault["trial"] for fault in ended if (fault["trial"], fault["seed"]) not in runs}


def mean_std(rows: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and sample standard deviation (0 for one row) of each key."""
    table = {k: np.array([row[k] for row in rows]) for k in rows[0]}
    spread = {k: float(v.std(ddof=1)) if len(v) > 1 else 0.0 for k, v in table.items()}
    return {k: float(v.mean()) for k, v in table.items()}, spread
