"""The journal → MLflow, from the driver alone: a projection that can be thrown away and rebuilt.

sync(study, default_uri(Path("results")))                     brings MLflow to what the study's folder says now
with Tracker(study, uri) as tracker: …; tracker.problem       the same every ten seconds, in a thread of its own

One experiment a study. Its runs: `trial 7` for each trial of the search; `finalist: trial 7` with the averages over seeds;
below each finalist `trial 7, seed 2` for each seed. The tag `lfvd.key` says which is which, and is looked for before a run
is made: so a crash at any point leaves one run for each, and nothing of MLflow is needed to go on. The study is only read.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from optuna.trial import FrozenTrial, TrialState

from lfvd.files import InputError, read_yaml
from tune.confirm import BASELINE, mean_std
from tune.journal import OBJECTIVE, Study
from tune.sampler import training_seed
from tune.search import FAILED, STOPPED

MOST_IN_A_BATCH = 1000
"""Metrics that MLflow takes at once."""


class TrackingError(InputError):
    """MLflow cannot be reached, or refuses: nothing is lost, what is missing is sent by a later sync."""


def default_uri(results: Path) -> str:
    """The database `mlflow.db` beside the studies; artifacts lie in `mlartifacts` there."""
    return f"sqlite:///{results.absolute() / 'mlflow.db'}"


def sync(study: Study, uri: str) -> None:
    """Bring MLflow to what the study says now; trials that are not finished count as interrupted. Raises TrackingError."""
    try:
        _Sender(study, uri).update(live=False)
    except _errors() as error:
        raise TrackingError(_sentence(study, uri, error)) from error


class Tracker:
    """Syncs every `every` seconds in a thread, and once more at the end, for at most `patience` seconds.

    A server that is down or slow holds up nothing: `problem` then says so in one sentence, until it works again; after the
    end it says what the user has to do.
    """

    def __init__(self, study: Study, uri: str, *, every: float = 10.0, patience: float = 30.0) -> None:
        self.study, self.uri, self.every, self.patience = study, uri, every, patience
        self.problem: str | None = None
        self._sender: _Sender | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        # A second Ctrl-C means at once.
        self._thread.join(min(self.patience, 3.0) if kind is KeyboardInterrupt else self.patience)
        if self._thread.is_alive():
            self.problem = f"{_shown(self.uri)}: MLflow is too slow to wait for: {_remedy(self.study)}"

    def _work(self) -> None:
        last = False
        while not last:
            last = self._stop.is_set()
            problem = self._attempt(live=not last)
            if not self._stop.is_set() or last:
                self.problem = problem
            self._stop.wait(self.every)

    def _attempt(self, *, live: bool) -> str | None:
        try:
            self._sender = self._sender or _Sender(self.study, self.uri)
            self._sender.update(live=live)
        except Exception as error:
            self._sender = None  # what has arrived is uncertain: ask MLflow anew
            return _sentence(self.study, self.uri, error)
        return None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as MLflow shall hold it."""

    key: str
    name: str
    parent: str | None = None
    """Key of the run above."""
    params: dict[str, Any]
    tags: dict[str, str]
    status: str
    """RUNNING only while it really runs; what was interrupted and will go on is SCHEDULED."""
    start: datetime | None = None
    """None: its training seconds ago."""
    seconds: float
    """Training time; the run's duration."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    """Metrics beside those of the epochs."""
    step: int = 0
    """The step of `figures`."""


def runs_of(study: Study, *, live: bool) -> list[Run]:
    """All runs that a study has now, parents before children; live: its driver is at work."""
    records = study.epochs()
    at_work = (records[-1]["stage"] if records else "search") if live else None
    epochs: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for record in records:
        epochs.setdefault((record["stage"], record["trial"], record["seed"]), []).append(record)
    trials = []
    for trial in study.trials:
        seed = training_seed(study.plan.sampler, trial.number, taken=study.plan.confirm.seeds)
        trials.append(_trial(study, trial, seed, epochs.get(("search", trial.number, seed), []), at_work == "search"))
    confirming = {(number, seed): found for (stage, number, seed), found in epochs.items() if stage == "confirm"}
    return trials + list(_finalists(study, confirming, at_work == "confirm"))


def _trial(study: Study, trial: FrozenTrial, seed: int, epochs: list[dict[str, Any]], at_work: bool) -> Run:
    # A stopped trial did what it should: MLflow's KILLED has the same red cross as FAILED.
    ended = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAIL: "FAILED"}
    state = trial.state.name.lower() if trial.state.is_finished() or at_work else "interrupted"
    reasons = {k: str(trial.user_attrs[k]) for k in (STOPPED, FAILED) if k in trial.user_attrs}
    return Run(
        key=f"trial{trial.number}",
        name=_name(trial.number),
        params={**trial.params, "seed": seed},
        tags={**_common(study), "stage": "search", "state": state, **reasons},
        status=ended.get(trial.state, "RUNNING" if at_work else "SCHEDULED"),
        start=trial.datetime_start,
        seconds=_seconds(epochs),
        epochs=epochs,
    )


def _finalists(study: Study, epochs: dict[tuple[int, int], list[dict[str, Any]]], at_work: bool) -> Iterator[Run]:
    """Each finalist that has begun, followed by its seeds."""
    done = {(run["trial"], run["seed"]): run for run in study.confirmed()}
    tests = _tests(study)
    for number in dict.fromkeys(number for number, _ in [*done, *epochs]):
        begun = [s for s in study.plan.confirm.seeds if (number, s) in epochs or (number, s) in done]
        seeds = [_seed(study, number, s, epochs.get((number, s), []), (number, s) in done, at_work) for s in begun]
        scores = [[done[number, s] for s in begun if (number, s) in done]]
        scores.append([tests[number, s] for s in begun if (number, s) in tests])
        yield _finalist(study, number, seeds, scores, at_work)
        for run, seed in zip(seeds, begun, strict=True):
            yield run if (number, seed) not in tests else _with(run, tests[number, seed])
