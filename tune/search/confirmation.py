"""Confirmation: finalists and baseline train again on fresh seeds at full length; the ranking is by mean validation W-F1.

The corpus that search and confirmation get holds no test split: `tune.best` evaluates it once the ranking is final.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lfvd.files import write_bytes
from tune.search.job import Job, Result
from tune.search.racing import Drop, Race, run_race
from tune.search.stages import Stage, averaging, comparison, division
from tune.search.trials import ranked
from tune.statistics import mean_std
from tune.study.checkpoints import delete
from tune.study.study import BASELINE, Study


def finalists(study: Study) -> list[int]:
    """Trial numbers to compare: the best of the search with different values, none the baseline's own, and the baseline.

    In a search that was extended also those that were compared over all units before, which nothing may overtake unseen.
    Empty where there is no candidate beside the baseline.
    """
    chosen: list[int] = []
    seen = [study.plan.baseline]
    for trial in ranked(study):
        if trial.params not in seen and trial.number != BASELINE and len(chosen) < study.plan.confirm.finalists:
            chosen.append(trial.number)
            seen.append(trial.params)
    stage = comparison(study)
    done = scores_of(study, stage)
    before = [n for n in sorted({n for n, _ in done}) if all((n, unit) in done for unit in stage.units)]
    return list(dict.fromkeys([*chosen, *before, BASELINE])) if chosen else []


def scores_of(study: Study, stage: Stage) -> dict[tuple[int, int], float]:
    """(trial, unit) → validation W-F1 of a stage's runs."""
    return {(run["trial"], run["seed"]): float(run["val/wf1"]) for run in study.confirmed(stage.name)}


def _race(stage: Stage, numbers: Sequence[int], scores: dict[tuple[int, int], float], out: Collection[int]) -> Race:
    return run_race(scores, numbers, units=stage.units, baseline=BASELINE, racing=stage.racing, out=out)


class ConfirmJobs:
    """The source of a stage's jobs (tune.execution.retries.JobSource): the pending runs of its race.

    stage: the comparison of the finalists unless named; numbers: the trials that take part, the finalists unless named.
    """

    def __init__(
        self,
        study: Study,
        interrupted: Callable[[], bool],
        numbers: Sequence[int] | None = None,
        stage: Stage | None = None,
    ) -> None:
        self.study, self.interrupted, self.stage = study, interrupted, stage or comparison(study)
        self.numbers = finalists(study) if numbers is None else list(numbers)
        self.scores = scores_of(study, self.stage)
        self.running: dict[str, tuple[int, int]] = {}
        self.history: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for record in study.epochs(self.stage.name):
            self.history.setdefault((record["trial"], record["seed"]), []).append(record)
        self.errors: list[str] = []
        self.out: set[int] = set()  # trials with a run that failed in this session
        self._update_race()

    def _update_race(self) -> None:
        """After a result."""
        self.race = _race(self.stage, self.numbers, self.scores, self.out)

    def next(self) -> Job | None:
        """The next missing run; None also while the race waits for those that run."""
        at_work = set(self.running.values())
        waiting = [run for run in self.race.pending_runs if run not in at_work]
        if self.interrupted() or not waiting:
            return None
        number, unit = waiting[0]
        name = f"{self.stage.name}-trial{number}-seed{unit}"
        self.running[name] = (number, unit)
        return Job(
            name=name,
            config=self.study.config_of(number),
            seed=unit,
            checkpoint=self.study.paths.checkpoint(name),
            gpu=self.study.plan.resources.gpu,
            division=division(self.study, self.stage.name, unit),
            keep=self.stage.name == self.study.stage,
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
            self.study.log_epoch(self.stage.name, *key, {**record, "gpu": job.gpu} if job.gpu else record)
        return None

    def finished(self, job: Job, result: Result) -> None:
        """Keep the best epoch's weights where they are evaluated later, then write the run down."""
        trial, seed = self.running.pop(job.name)
        if job.keep:
            self.study.retry_on_full_disk(lambda: write_bytes(self.study.paths.weights(trial, seed), result.weights))
        best = {k: v for k, v in result.best.items() if k.startswith("val/")}
        run = {"trial": trial, "seed": seed, "best_epoch": result.best_epoch, "epochs": result.epochs}
        self.study.fsync()
        values = {"params_hash": self.study.params_hash(trial)}
        self.study.log_confirmed({**run, **values, "seconds": result.seconds, **best}, self.stage.name)
        self.scores[trial, seed] = result.best["val/wf1"]
        self._update_race()
        delete(job.checkpoint)

    def fault(self, job: Job, reason: str, then: str) -> None:
        """Enter what happened to the run."""
        trial, seed = self.running[job.name]
        self.study.log_fault(reason, then, stage=self.stage.name, trial=trial, seed=seed)

    def failed(self, job: Job, reason: str) -> None:
        """Remember the reason; the finalist is out of the race until another session tries it again."""
        self.fault(job, reason, FAILED)
        trial, seed = self.running.pop(job.name)
        self.errors.append(f"{self.study.name_of(trial)}, {self.stage.unit} {seed}: {reason}")
        self.out.add(trial)
        self._update_race()


FAILED = "failed"
"""What faults.jsonl says was done about a run that nothing more is done about."""


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A finalist's validation: `mean` and `std` (sample, 0 for one run) of each `val/…` metric in 0..1, over `units`.

    Those are all units of a stage, fewer where it was dropped.
    """

    trial: int
    units: tuple[int, ...]
    """Folds or seeds."""
    mean: dict[str, float]
    std: dict[str, float]
    scores: tuple[float, ...]
    """W-F1 at each of `units`."""
    drop: Drop | None = None
    """When and why the race went on without it; None also where it ran all units nonetheless."""

    @property
    def wf1(self) -> float:
        """Mean validation W-F1."""
        return self.mean["val/wf1"]


def ranking(study: Study) -> list[Confirmed]:
    """The finalists by the comparison: first the best of those with all units, by its mean; then all others by theirs.

    Also one that the race dropped is among the former if it has all units, as former finalists do.
    """
    return _ranked(study, race_state(study), set())


def _ranked(study: Study, race: Race, without: set[int]) -> list[Confirmed]:
    stage, drops = comparison(study), {drop.trial: drop for drop in race.dropped}
    taking_part = [number for number in (*race.alive, *reversed(drops)) if number not in without]
    found = _confirmed(study, stage, taking_part, drops)
    whole = [each for each in found.values() if each.units == stage.units or each.drop]
    order = sorted(whole, key=lambda each: each.wf1, reverse=True)
    first = next((each for each in order if each.units == stage.units), None)
    return sorted(order, key=lambda each: each is not first)


def averages(study: Study) -> dict[int, Confirmed]:
    """Trial → its averages over the plan's seeds on the official split, of those that have all of them."""
    stage = averaging(study)
    trials = sorted({trial for trial, _ in scores_of(study, stage)})
    return {n: each for n, each in _confirmed(study, stage, trials, {}).items() if each.units == stage.units}


def _confirmed(study: Study, stage: Stage, trials: Sequence[int], drops: Mapping[int, Drop]) -> dict[int, Confirmed]:
    runs = {(run["trial"], run["seed"]): run for run in study.confirmed(stage.name)}
    found = {}
    for number in trials:
        units = tuple(unit for unit in stage.units if (number, unit) in runs)
        if not units:
            continue
        rows = [{k: v for k, v in runs[number, unit].items() if k.startswith("val/")} for unit in units]
        mean, std = mean_std(rows)
        found[number] = Confirmed(
            trial=number,
            units=units,
            mean=mean,
            std=std,
            scores=tuple(row["val/wf1"] for row in rows),
            drop=drops.get(number) if units != stage.units else None,
        )
    return found


def compared(study: Study, race: Race | None = None) -> list[Confirmed]:
    """The ranking once the comparison is over and a candidate beside the baseline has all units; empty until then.

    Without candidates whose averages over seeds failed for good. race: where the caller has it.
    """
    race, units = race or race_state(study), comparison(study).units
    if race.pending_runs:
        return []
    failed = {trial for trial, _ in failed_runs(study, study.stage)} - {BASELINE} if study.folds else set[int]()
    order = _ranked(study, race, failed)
    return order if any(each.trial != BASELINE and each.units == units for each in order) else []


def averaged_trials(study: Study, race: Race | None = None) -> list[int]:
    """Winner and baseline once the comparison over folds is over: they are averaged over seeds next."""
    order = compared(study, race) if study.folds else []
    return list(dict.fromkeys([order[0].trial, BASELINE])) if order else []


def final_ranking(study: Study) -> list[Confirmed]:
    """The ranking once its first has its averages over the plan's seeds; empty until then: nothing is a winner before."""
    order = compared(study)
    return order if order and order[0].trial in averages(study) else []


def candidates(study: Study) -> int:
    """Trials beside the baseline that were ever compared, in earlier sessions too: among so many the winner was chosen."""
    return len({trial for trial, _ in scores_of(study, comparison(study))} - {BASELINE})


def race_state(study: Study) -> Race:
    """How the finalists' comparison stands, without those of which it wants a run that failed for good."""
    stage, numbers, out = comparison(study), finalists(study), set[int]()
    scores, failed = scores_of(study, stage), failed_runs(study, stage.name)
    while True:
        race = _race(stage, numbers, scores, out)
        lost = {trial for trial, unit in race.pending_runs if (trial, unit) in failed}
        if not lost:
            return race
        out |= lost


def failed_runs(study: Study, stage: str) -> set[tuple[int, int]]:
    """Trial and unit of a stage's runs that failed for good, and were not made up for."""
    done = {(run["trial"], run["seed"]) for run in study.confirmed(stage)}
    ended = {(f["trial"], f["seed"]) for f in study.faults() if f.get("stage") == stage and f["then"] == FAILED}
    return ended - done
