"""The search: a plan and its journal → jobs, and their reports → the journal. Starting, resuming and extending are one.

`SearchJobs` refills what the journal knows (the sampler from its trials, the rungs from epochs.jsonl), continues trials that
were running under their own number, then asks the sampler for new ones until the plan's trials or its budget are used.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tune.search.asha import Rungs
from tune.search.job import Job, Result
from tune.search.samplers import sampler_for, training_seed
from tune.search.stages import division
from tune.study.checkpoints import delete
from tune.study.lock import Requests
from tune.study.plan_file import StudyError
from tune.study.study import OBJECTIVE, Study

STOPPED, FAILURE = "stopped", "failure"
"""Trial attributes: why a trial was stopped at a rung, why it failed."""

BY_HAND = "pruned by hand"
"""Why a trial was stopped that a person ended."""

WALL = "wall_seconds"
"""Study attribute: seconds that the search took so far, noted whenever a trial ends."""


WORDS = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


def tally(states: Iterable[str]) -> dict[str, int]:
    """How many trials are running, finished, stopped at a rung, failed."""
    found = Counter(states)
    return {word: found[word] for word in WORDS.values()}


@dataclass(kw_only=True)
class Running:
    """A trial at work."""

    trial: optuna.Trial
    seed: int
    epochs: int = 0
    best: float = -math.inf
    told: int = 0
    """Epochs that Optuna knows."""


@dataclass(kw_only=True)
class Spent:
    """What the search has used, in this and earlier sessions."""

    epochs: int = 0
    gpu_hours: float = 0.0
    """Training time of each epoch times the share of a GPU that it had."""
    earlier: float = 0.0
    """Seconds of earlier sessions."""
    started: float = field(default_factory=time.monotonic)

    @property
    def here(self) -> float:
        """Seconds of this session."""
        return time.monotonic() - self.started

    @property
    def wall(self) -> float:
        """Seconds of all sessions."""
        return self.earlier + self.here


class SearchJobs:
    """The source of a search's jobs (tune.execution.retries.JobSource)."""

    def __init__(self, study: Study, interrupted: Callable[[], bool]) -> None:
        self.study, self.plan, self.interrupted = study, study.plan, interrupted
        self.rungs, self.requests = Rungs(study.plan.scheduler), Requests(study.folder)
        self.running: dict[str, Running] = {}
        self.spent = Spent(earlier=study.optuna.user_attrs.get(WALL, 0.0))
        self.best: dict[int, float] = {}  # trial → best value so far
        self.states = {t.number: WORDS[t.state] for t in study.trials}
        self.params = {t.number: dict(t.params) for t in study.trials}
        self.ended_here = 0  # trials that ended in this session
        if not study.optuna.get_trials(deepcopy=False):
            study.optuna.enqueue_trial(self.plan.baseline)
        unfinished = [t for t in study.trials if t.state == TrialState.RUNNING]
        known: dict[int, list[dict[str, Any]]] = {t.number: [] for t in unfinished}
        verdict: dict[int, str] = {}
        for record in study.tail("epochs.jsonl").new():  # not all at once: they may be many
            if record["stage"] == "search":
                if reason := self.rungs.report(record["trial"], record["epoch"], record[OBJECTIVE]):
                    verdict[record["trial"]] = reason
                if record["trial"] in known:
                    known[record["trial"]].append(record)
                self._count(record["trial"], record)
        self.resumable: list[Running] = []
        for frozen in unfinished:
            self._catch_up(frozen, known[frozen.number], verdict.get(frozen.number))

    def _catch_up(self, frozen: FrozenTrial, records: list[dict[str, Any]], reason: str | None) -> None:
        """Put an unfinished trial among those to go on with. A session may have died between an epoch's line and Optuna."""
        if frozen.params.keys() != self.plan.space.keys():  # it died while the sampler was asked
            self.study.optuna.sampler = sampler_for(self.plan, frozen.number)
        running = self._running(optuna.Trial(self.study.optuna, frozen._trial_id))
        running.told = max(frozen.intermediate_values, default=0)
        for key, parameter in self.plan.space.items():
            running.trial._suggest(key, parameter.distribution)  # a value that it has stays
        for record in records:
            running.epochs, running.best = record["epoch"], record[OBJECTIVE]
            self._tell_epoch(running)
        if reason:
            self.running[_name(running.trial)] = running
            self._stop(_name(running.trial), reason)
        else:
            self.resumable.append(running)

    def next(self) -> Job | None:
        """An unfinished trial to go on with, else a new one."""
        if self.stopping():
            return None
        while self.resumable:
            running = self.resumable.pop(0)
            if not self._pruned_by_hand(running):
                return self._job(running)
        number = len(self.states)
        if number >= self.plan.trials:
            return None
        self.study.optuna.sampler = sampler_for(self.plan, number)
        trial = self.study.optuna.ask({key: p.distribution for key, p in self.plan.space.items()})
        return self._job(self._running(trial))

    def _running(self, trial: optuna.Trial) -> Running:
        seed = training_seed(self.plan.sampler, trial.number, taken=self.plan.confirm.seeds)
        return Running(trial=trial, seed=seed)

    def _job(self, running: Running) -> Job:
        trial, name = running.trial, _name(running.trial)
        self.states[trial.number], self.params[trial.number] = "running", dict(trial.params)
        self.running[name] = running
        self.study.fsync("journal.log")  # its values, before a worker acts on them
        return Job(
            name=name,
            config=self.plan.config_of(trial.params),
            seed=running.seed,
            checkpoint=self.study.paths.checkpoint(name),
            gpu=self.plan.resources.gpu,
            division=division(self.study, "search"),
        )

    def _over_budget(self) -> bool:
        budget = self.plan.budget
        return self.spent.wall >= budget.wall_seconds or 0 < budget.gpu_hours <= self.spent.gpu_hours

    def exhausted(self) -> bool:
        """No trial is left to start."""
        used_up = not self.resumable and len(self.states) >= self.plan.trials
        return used_up or self.stopping()

    def stopping(self) -> bool:
        """Interrupted, or out of budget: running trials stay as they are and can be continued."""
        return self.interrupted() or self._over_budget()

    def report(self, job: Job, record: dict[str, Any]) -> str | None:
        """Write an epoch down, then ask the rungs."""
        running = self.running[job.name]
        epoch, value = int(record["epoch"]), float(record[OBJECTIVE])
        if epoch <= running.epochs:  # brought back by a checkpoint
            return None
        trial = running.trial
        running.epochs, running.best = epoch, value
        record = {**record, "gpu": job.gpu} if job.gpu else record
        self.study.log_epoch("search", trial.number, running.seed, record)
        self._count(trial.number, record)
        self._tell_epoch(running)
        reason = self.rungs.report(trial.number, epoch, value)
        if reason:
            self._stop(job.name, reason)
            return reason
        return self._pruned_by_hand(running)

    def _tell_epoch(self, running: Running) -> None:
        # After a power cut, Optuna's file may hold an epoch more than epochs.jsonl.
        if running.epochs > running.told:
            running.trial.report(running.best, running.epochs)
            running.told = running.epochs

    def _pruned_by_hand(self, running: Running) -> str | None:
        """Stop a trial that `lfvd-tune prune` names → the reason, or None."""
        request = prune_request(running.trial.number)
        if request not in self.requests:
            return None
        self.running[_name(running.trial)] = running
        self._stop(_name(running.trial), BY_HAND)
        self.requests.remove(request)
        return BY_HAND

    def _stop(self, name: str, reason: str) -> None:
        self.running[name].trial.set_user_attr(STOPPED, reason)
        self._tell(name, TrialState.PRUNED)

    def _count(self, trial: int, record: dict[str, Any]) -> None:
        self.spent.epochs += 1
        self.spent.gpu_hours += record["seconds"] * record.get("gpu", 0.0) / 3600
        self.best[trial] = record[OBJECTIVE]

    def finished(self, job: Job, result: Result) -> None:
        """The trial ran to its end: its value is the best validation W-F1; its weights are of no more use."""
        best = self.running[job.name].best
        self._tell(job.name, TrialState.COMPLETE, best)

    def fault(self, job: Job, reason: str, then: str) -> None:
        """Enter what happened to the trial."""
        running = self.running[job.name]
        self.study.log_fault(reason, then, stage="search", trial=running.trial.number, seed=running.seed)

    def failed(self, job: Job, reason: str) -> None:
        """The trial broke: FAIL, so that the sampler learns nothing from it."""
        self.fault(job, reason, "failed")
        self.running[job.name].trial.set_user_attr(FAILURE, reason)
        self._tell(job.name, TrialState.FAIL)

    def _tell(self, name: str, state: TrialState, value: float | None = None) -> None:
        running = self.running.pop(name)
        self.study.fsync()
        self.study.optuna.set_user_attr(WALL, self.spent.wall)
        self.study.optuna.tell(running.trial, value, state=state)
        self.states[running.trial.number] = WORDS[state]
        self.ended_here += 1
        delete(self.study.paths.checkpoint(name))


def check_unfinished(study: Study, number: int) -> None:
    """Raises StudyError where a trial has ended, or is none."""
    states = {t.number: WORDS[t.state] for t in study.trials}
    if states.get(number) != "running":
        there = f"is {states[number]}" if number in states else f"is none of the {len(states)} trials"
        unfinished = ", ".join(str(n) for n, state in states.items() if state == "running") or "none"
        raise StudyError(f"{study.folder}: trial {number} {there}: name an unfinished one ({unfinished})")


def prune(study: Study, number: int) -> None:
    """End an unfinished trial by hand where no driver is at work."""
    [frozen] = [t for t in study.trials if t.number == number]
    study.optuna._storage.set_trial_user_attr(frozen._trial_id, STOPPED, BY_HAND)
    study.optuna.tell(number, state=TrialState.PRUNED)
    delete(study.paths.checkpoint(f"trial{number}"))


def prune_request(number: int) -> str:
    """What other shells ask of the driver to end a trial (tune.study.lock)."""
    return f"prune-{number}"


def _name(trial: optuna.Trial) -> str:
    return f"trial{trial.number}"


def ranked(study: Study) -> list[FrozenTrial]:
    """Trials that did not fail, best validation W-F1 first; stopped and unfinished ones by what they had reached.

    The best value so far only rises, so a stopped trial's place is what it would have at least.
    """
    usable = [t for t in study.trials if t.state != TrialState.FAIL and t.intermediate_values]
    return sorted(usable, key=lambda t: max(t.intermediate_values.values()), reverse=True)
