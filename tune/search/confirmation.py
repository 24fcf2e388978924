"""Confirmation: finalists and baseline train again on fresh seeds at full length; the ranking is by mean validation W-F1.

The corpus that search and confirmation get holds no test split: `tune.best` evaluates it once the ranking is final.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lfvd.files import write_bytes
from tune.plan import ConfirmPlan
from tune.search.job import Job, Result
from tune.search.racing import Drop, Race, run_race
from tune.search.trials import ranked
from tune.statistics import mean_std
from tune.study.checkpoints import delete
from tune.study.study import BASELINE, Study


def finalists(study: Study) -> list[int]:
    """Trial numbers to confirm: the best of the search with different values, none the baseline's own, and the baseline.

    In a search that was extended also those that were confirmed on all seeds before, which nothing may overtake unseen.
    """
    chosen: list[int] = []
    seen: list[dict[str, Any]] = []
    for trial in ranked(study):
        same = trial.params in seen or (trial.params == study.plan.baseline and trial.number != BASELINE)
        if not same and len(chosen) < study.plan.confirm.finalists:
            chosen.append(trial.number)
            seen.append(trial.params)
    done = {(run["trial"], run["seed"]) for run in study.confirmed()}
    before = [n for n in sorted({n for n, _ in done}) if all((n, s) in done for s in study.plan.confirm.seeds)]
    return list(dict.fromkeys([*chosen, *before, BASELINE])) if chosen else []


def _scores(study: Study) -> dict[tuple[int, int], float]:
    """(trial, seed) → validation W-F1 of the confirmed runs."""
    return {(run["trial"], run["seed"]): float(run["val/wf1"]) for run in study.confirmed()}


def _race(study: Study, numbers: Sequence[int], scores: dict[tuple[int, int], float], out: Collection[int]) -> Race:
    plan = study.plan.confirm
    return run_race(scores, numbers, seeds=plan.seeds, baseline=BASELINE, racing=plan.race, out=out)


class ConfirmJobs:
    """The source of a confirmation's jobs (tune.execution.retries.JobSource): the pending runs of the race.

    numbers: the trials that take part; the finalists unless named.
    """

    def __init__(self, study: Study, interrupted: Callable[[], bool], numbers: Sequence[int] | None = None) -> None:
        self.study, self.interrupted = study, interrupted
        self.numbers = finalists(study) if numbers is None else list(numbers)
        self.scores = _scores(study)
        self.running: dict[str, tuple[int, int]] = {}
        self.history: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for record in study.epochs(study.stage):
            self.history.setdefault((record["trial"], record["seed"]), []).append(record)
        self.errors: list[str] = []
        self.out: set[int] = set()  # trials with a run that failed in this session
        self._update_race()

    def _update_race(self) -> None:
        """After a result."""
        self.race = _race(self.study, self.numbers, self.scores, self.out)

    def next(self) -> Job | None:
        """The next missing run; None also while the race waits for those that run."""
        at_work = set(self.running.values())
        waiting = [run for run in self.race.pending_runs if run not in at_work]
        if self.interrupted() or not waiting:
            return None
        number, seed = waiting[0]
        name = f"{self.study.stage}-trial{number}-seed{seed}"
        self.running[name] = (number, seed)
        return Job(
            name=name,
            config=self.study.config_of(number),
            seed=seed,
            checkpoint=self.study.paths.checkpoint(name),
            gpu=self.study.plan.resources.gpu,
            keep=True,
        )

    def exhausted(self) -> bool:
        """The race is over."""
        return self.interrupted() or not self.race.pending_runs

    def stopping(self) -> bool:
        """Interrupted."""
        return self.interrupted()

    def report(self, job: Job, record: dict[str, Any]) -> str | None:
        """Write an epoch down; no run is stopped early here."""
        key = self.running[job.name]
        history = self.history.setdefault(key, [])
        if record["epoch"] > len(history):
            history.append(record)
            self.study.log_epoch(self.study.stage, *key, {**record, "gpu": job.gpu} if job.gpu else record)
        return None

    def finished(self, job: Job, result: Result) -> None:
        """Keep the best epoch's weights, then write the run down."""
        trial, seed = self.running.pop(job.name)
        self.study.retry_on_full_disk(lambda: write_bytes(self.study.paths.weights(trial, seed), result.weights))
        best = {k: v for k, v in result.best.items() if k.startswith("val/")}
        run = {"trial": trial, "seed": seed, "best_epoch": result.best_epoch, "epochs": result.epochs}
        self.study.fsync()
        values = {"params_hash": self.study.params_hash(trial)}
        self.study.log_confirmed({**run, **values, "seconds": result.seconds, **best})
        self.scores[trial, seed] = result.best["val/wf1"]
        self._update_race()
        delete(job.checkpoint)

    def fault(self, job: Job, reason: str, then: str) -> None:
        """Enter what happened to the run."""
        trial, seed = self.running[job.name]
        self.study.log_fault(reason, then, stage=self.study.stage, trial=trial, seed=seed)

    def failed(self, job: Job, reason: str) -> None:
        """Remember the reason; the finalist is out of the race until another session tries it again."""
        self.fault(job, reason, FAILED)
        trial, seed = self.running.pop(job.name)
        self.errors.append(f"{self.study.name_of(trial)}, seed {seed}: {reason}")
        self.out.add(trial)
        self._update_race()


FAILED = "failed"
"""What faults.jsonl says was done about a run that nothing more is done about."""


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A finalist's validation: `mean` and `std` (sample, 0 for one seed) of each `val/…` metric in 0..1, over `seeds`.

    Those are all of the plan's seeds, fewer where it was dropped.
    """

    trial: int
    seeds: tuple[int, ...]
    mean: dict[str, float]
    std: dict[str, float]
    scores: tuple[float, ...]
    """W-F1 at each of `seeds`."""
    drop: Drop | None = None
    """When and why the race went on without it; None also where it ran all seeds nonetheless."""

    @property
    def wf1(self) -> float:
        """Mean validation W-F1."""
        return self.mean["val/wf1"]


def ranking(study: Study) -> list[Confirmed]:
    """The finalists: first the best of those with all seeds of the plan, by its mean; then all others by theirs.

    Also one that the race dropped is among the former if it has all seeds, as the baseline and former finalists do.
    """
    plan = study.plan.confirm
    runs = {(run["trial"], run["seed"]): run for run in study.confirmed()}
    race = race_state(study)
    drops = {drop.trial: drop for drop in race.dropped}
    taking_part = [*race.alive, *reversed(drops)]
    whole = [n for n in taking_part if all((n, s) in runs for s in plan.seeds)]
    found = {n: _confirmed(plan, n, runs, drops.get(n)) for n in taking_part if n in whole or n in drops}
    order = sorted(found, key=lambda n: found[n].wf1, reverse=True)
    first = next((n for n in order if n in whole), None)
    return [found[n] for n in sorted(order, key=lambda n: n != first)]


def _confirmed(
    plan: ConfirmPlan, number: int, runs: Mapping[tuple[int, int], dict[str, Any]], drop: Drop | None
) -> Confirmed:
    seeds = tuple(s for s in plan.seeds if (number, s) in runs)
    mean, std = mean_std([{k: v for k, v in runs[number, s].items() if k.startswith("val/")} for s in seeds])
    cut = drop if drop and (len(seeds) < len(plan.seeds) or drop.seeds >= len(plan.seeds)) else None
    scores = tuple(runs[number, s]["val/wf1"] for s in seeds)
    return Confirmed(trial=number, seeds=seeds, mean=mean, std=std, scores=scores, drop=cut)


def final_ranking(study: Study) -> list[Confirmed]:
    """The ranking once the race is over; whoever is ahead in one that goes on is no winner: empty until then."""
    return [] if race_state(study).pending_runs else ranking(study)


def race_state(study: Study) -> Race:
    """How the finalists' race stands, without those of which it wants a run that failed for good."""
    numbers, failed, out = finalists(study), failed_runs(study), set[int]()
    scores = _scores(study)
    while True:
        race = _race(study, numbers, scores, out)
        lost = {trial for trial, seed in race.pending_runs if (trial, seed) in failed}
        if not lost:
            return race
        out |= lost


def failed_runs(study: Study) -> set[tuple[int, int]]:
    """Trial and seed of runs that failed for good, and were not made up for."""
    done = {(run["trial"], run["seed"]) for run in study.confirmed()}
    ended = {(f["trial"], f["seed"]) for f in study.faults() if f.get("stage") == study.stage and f["then"] == FAILED}
    return ended - done
