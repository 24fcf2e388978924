"""The runs that MLflow must hold for a study, derived from the study's folder; nothing here calls MLflow.

A run for each trial (`trial 7`); for each finalist one with its averages (`finalist: trial 7`), and below it one for each fold
(`trial 7, fold 2`) and each seed (`trial 7, seed 2`). For the paper's tables (tune.paper.grid) `row: w/o CEAR` and `w/o CEAR, seed 2` likewise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from lfvd.files import read_yaml
from tune.formatting import format_mean_std
from tune.search.confirmation import averaged_trials, failed_runs, race_state
from tune.search.samplers import training_seed
from tune.search.stages import Stage, averaging, comparison
from tune.search.trials import FAILURE, STOPPED
from tune.statistics import mean_std
from tune.study.study import BASELINE, Study

MAX_TAG = 5000
"""Characters of a tag that MLflow keeps."""

MAX_FAULT = 200
"""Characters of a fault's reason in a tag."""

RunKey = tuple[str, int, int]
"""Stage, trial and seed of a record in epochs.jsonl or faults.jsonl."""

# A pruned trial is a success: MLflow's KILLED has the red cross of FAILED.
_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAIL: "FAILED"}


@dataclass(frozen=True, kw_only=True)
class MlflowRun:
    """A run as MLflow must hold it."""

    key: str
    name: str
    parent: str | None = None
    """Key of the run above."""
    params: dict[str, Any]
    tags: dict[str, str]
    status: str
    """RUNNING only while it is trained; SCHEDULED where it was interrupted and can continue."""
    start: datetime | None = None
    """None: `seconds` before it is first sent."""
    seconds: float
    """Training time, which MLflow shows as the duration."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """Records of epochs.jsonl."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics beside those of the epochs, at `step`."""
    step: int = 0
    final: bool = False
    """Whether it cannot change any more."""
    files: tuple[str, ...] = ()
    """Glob patterns of files in the study's folder that it keeps as artifacts."""


class MlflowRuns:
    """The runs of a study that grows: each call of `runs` reads only what was added since the last.

    finished: trials whose runs MLflow has to their end; they are left out.
    """

    def __init__(self, study: Study, *, finished: Set[int] = frozenset()) -> None:
        self.study = study
        self.ended = {trial.number for trial in study.trials if trial.number in finished and trial.state in _STATUS}
        self.epoch_records, self.fault_records = study.tail("epochs.jsonl"), study.tail("faults.jsonl")
        self.stage = "search"
        self.epochs: dict[RunKey, list[dict[str, Any]]] = {}
        self.faults: dict[RunKey, list[str]] = {}

    def runs(self, *, live: bool) -> list[MlflowRun]:
        """All runs, parents before children, but for trials that had ended at an earlier call; live: the driver is at work."""
        # Trials before records: an ended trial has all of its records, since its end is written last.
        trials = [trial for trial in self.study.trials if trial.number not in self.ended]
        self._read()
        runs = [self._trial(trial, active=live and self.stage == "search") for trial in trials]
        return [*runs, *_ConfirmationRuns(self, active=live and self.stage != "search").runs()]

    def _read(self) -> None:
        for record in self.epoch_records.new():
            # Search and confirmation take turns: the last epoch tells which of them is at work.
            self.stage = record["stage"]
            if self.stage != "search" or record["trial"] not in self.ended:
                self.epochs.setdefault((self.stage, record["trial"], record["seed"]), []).append(record)
        for fault in self.fault_records.new():
            if "trial" in fault:
                self.faults.setdefault((fault["stage"], fault["trial"], fault["seed"]), []).append(fault["reason"])

    def tags(self, stage: str, state: str, key: RunKey | None = None) -> dict[str, str]:
        """Tags of a run; key: of its records, whose faults are listed, each reason once."""
        tags = {**_origin(self.study), "stage": stage, "state": state}
        counts = Counter(" ".join(reason.split())[:MAX_FAULT] for reason in self.faults.get(key, [])) if key else {}
        if counts:
            texts = [reason if count == 1 else f"{reason} ({count} times)" for reason, count in counts.items()]
            tags["faults"] = "; ".join(texts)[:MAX_TAG]
        return tags

    def _trial(self, trial: FrozenTrial, *, active: bool) -> MlflowRun:
        plan, ended = self.study.plan, trial.state in _STATUS
        state, status = (trial.state.name.lower(), _STATUS[trial.state]) if ended else _unfinished(active)
        seed = training_seed(plan.sampler, trial.number, taken=plan.confirm.seeds)
        key = ("search", trial.number, seed)
        epochs, tags = self.epochs.get(key, []), self.tags("search", state, key)
        tags |= {k: str(trial.user_attrs[k])[:MAX_TAG] for k in (STOPPED, FAILURE) if k in trial.user_attrs}
        if ended:  # its records are not kept: in a long search they are most of the memory
            self.ended.add(trial.number)
            self.epochs.pop(key, None)
        return MlflowRun(
            key=f"trial{trial.number}",
            name=self.study.name_of(trial.number),
            params={**trial.params, "seed": seed},
            tags=tags,
            status=status,
            start=trial.datetime_start,
            seconds=sum(record["seconds"] for record in epochs),
            epochs=epochs,
            final=ended,
        )


class _ConfirmationRuns:
    """The runs of finalists, or of rows of the paper's tables, and of their folds and seeds."""

    def __init__(self, all_runs: MlflowRuns, *, active: bool) -> None:
        self.study, self.active, self.tags = all_runs.study, active, all_runs.tags
        study = self.study
        self.stages = {stage.name: stage for stage in (comparison(study), averaging(study))}
        self.epochs = {key: each for key, each in all_runs.epochs.items() if key[0] in self.stages}
        self.done = {(name, run["trial"], run["seed"]): run for name in self.stages for run in study.confirmed(name)}
        race = race_state(study)
        self.drops = {drop.trial: drop for drop in race.dropped}
        self.averaged = averaged_trials(study, race)
        self.failed = {(name, *run) for name in self.stages for run in failed_runs(study, name)}
        self.tests: dict[RunKey, dict[str, float]] = {}
        for test in study.test_log.evaluations():
            for trial, rows in test["scores"].items():
                scored = zip(test["seeds"], rows, strict=True)
                self.tests |= {(study.stage, int(trial), seed): row for seed, row in scored}
        best = study.folder / "best.yaml"
        self.winner = (read_yaml(best).get("provenance") or {}).get("trial") if best.is_file() else None

    def runs(self) -> Iterator[MlflowRun]:
        """Each finalist that has begun, then its folds and seeds."""
        for trial in dict.fromkeys(trial for _, trial, _ in [*self.done, *self.epochs]):
            keys = [(s.name, trial, unit) for s in self.stages.values() for unit in s.units]
            runs = [self._run(key) for key in keys if key in self.epochs or key in self.done]
            yield self._finalist(trial, sum(run.seconds for run in runs))
            yield from runs

    def _run(self, key: RunKey) -> MlflowRun:
        """One run: its epochs and, after test evaluations, its test scores."""
        study, (_, trial, number), unit = self.study, key, self.stages[key[0]].unit
        epochs = self.epochs.get(key, [])
        state, status = ("complete", "FINISHED") if key in self.done else self._not_done({key})
        return MlflowRun(
            key=f"{study.kind}{trial}-{unit}{number}",
            name=f"{study.name_of(trial)}, {unit} {number}",
            parent=f"{study.kind}{trial}",
            params={**study.params_of(trial), "seed": number},
            tags=self.tags(unit, state, key),
            status=status,
            seconds=sum(record["seconds"] for record in epochs),
            epochs=epochs,
            metrics=self.tests.get(key, {}),
            step=self.done[key]["best_epoch"] if key in self.done else 0,
        )

    def _finalist(self, trial: int, seconds: float) -> MlflowRun:
        """The averages over those of the plan's seeds that are done so far, and over those of the folds."""
        study = self.study
        stage, over_folds = averaging(study), comparison(study)
        planned = [(stage.name, trial, seed) for seed in stage.units]
        done = [key for key in planned if key in self.done]
        # Of finalists beside winner and baseline, only folds are trained.
        expected = (
            planned
            if done or trial in self.averaged or not study.folds
            else [(over_folds.name, trial, unit) for unit in over_folds.units]
        )
        drop = self.drops.get(trial) if any(key not in self.done for key in expected) else None
        state, status = "complete", "FINISHED"
        if drop:
            state = "dropped"
        elif any(key not in self.done for key in expected):
            state, status = self._not_done(set(expected))
        metrics = _averages([self.done[k] for k in done]) | _averages([self.tests[k] for k in done if k in self.tests])
        metrics |= self._fold_averages(trial, over_folds) if study.folds else {}
        tags = self.tags(study.kind, state)
        tags["mlflow.note.content"] = (
            f"**W-F1 {_wf1(metrics)}**: mean ± standard deviation; validation and test over {len(done)} of {len(planned)} seeds"
        )
        if drop:
            tags["dropped"] = drop.reason(over_folds.unit)
        if self.winner is not None:
            tags["winner"] = str(trial == self.winner).lower()
        keeps_files = trial == (self.winner if study.kind == "finalist" else BASELINE)
        return MlflowRun(
            key=f"{study.kind}{trial}",
            name=f"{study.kind}: {study.name_of(trial)}" + (", winner" if trial == self.winner else ""),
            params=study.params_of(trial),
            tags=tags,
            status=status,
            seconds=seconds,
            metrics={**metrics, "seeds": len(done)},
            step=len(done),
            files=study.artifacts if keeps_files else (),
        )

    def _fold_averages(self, trial: int, stage: Stage) -> dict[str, float]:
        """`folds/wf1_mean` and so on, and their number `folds`."""
        done = [(stage.name, trial, unit) for unit in stage.units if (stage.name, trial, unit) in self.done]
        named = {
            name.replace("val/", "folds/"): value for name, value in _averages([self.done[k] for k in done]).items()
        }
        return {**named, "folds": len(done)}

    def _not_done(self, runs: set[RunKey]) -> tuple[str, str]:
        """State and MLflow's status of runs that are not all done."""
        return _unfinished(self.active) if self.active or not runs & self.failed else ("failed", "FAILED")


def experiment_note(study: Study, runs: list[MlflowRun]) -> str:
    """MLflow's description of the experiment: the result in the first line, then a table, then where to find what."""
    averages = [run for run in runs if run.tags["stage"] == study.kind]
    averages.sort(key=lambda run: run.metrics.get("folds/wf1_mean", run.metrics.get("val/wf1_mean", 0.0)), reverse=True)
    rows = [f"| {run.name} | &emsp;{run.metrics['seeds']} | &emsp;{_wf1(run.metrics)} |" for run in averages]
    table = ["| | &emsp;seeds | &emsp;W-F1, mean ± standard deviation |", "|---|---|---|", *rows]
    winner = [run for run in averages if run.tags.get("winner") == "true"]
    baseline = [run for run in averages if run.key == f"{study.kind}{BASELINE}" and run not in winner]
    result = "There is no winner yet"
    if winner or study.kind == "row":
        result = "; ".join(f"{run.name.partition(': ')[2]}: W-F1 {_wf1(run.metrics)}" for run in winner + baseline)
    return "\n".join([f"**{result}**", "", *table, "", _GUIDES[study.kind].format(**_origin(study))])


def _averages(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Averages over seeds of `val/…` or `test/…`: `val/wf1_mean`, `val/wf1_std`, `val/acc_mean`, `val/f1/<class>_mean`."""
    scores = [{k: v for k, v in row.items() if re.match(r"(val|test)/(wf1$|acc$|f1/)", k)} for row in rows]
    mean, std = mean_std(scores) if scores else ({}, {})
    return {f"{k}_mean": v for k, v in mean.items()} | {f"{k}_std": v for k, v in std.items() if k.endswith("/wf1")}


def _wf1(metrics: dict[str, float]) -> str:
    cells = [
        f"{format_mean_std(metrics[f'{split}/wf1_mean'], metrics[f'{split}/wf1_std'])} % on {name}"
        for split, name in (("folds", "folds"), ("val", "validation"), ("test", "test"))
        if f"{split}/wf1_mean" in metrics
    ]
    return ", ".join(cells) or "–"


def _unfinished(active: bool) -> tuple[str, str]:
    """State and MLflow's status of a run that has begun and not ended."""
    return ("running", "RUNNING") if active else ("interrupted", "SCHEDULED")


def _origin(study: Study) -> dict[str, str]:
    return {
        "data": study.data.name,
        "simulated": ", ".join(study.data.simulated) or "none",
        "fingerprint": study.data.fingerprint,
        "commit": str(study.info.get("commit", "none")),
    }


_GUIDES = {
    "finalist": """Hyperparameter search on {data} (simulated modalities: {simulated}). The runs: *Model training* (top left), *Runs*.
Averages: the runs `finalist: …`, or the filter `tags.stage = "finalist"`, with `folds/wf1_mean` over folds, and of winner and
baseline `val/wf1_mean`, `test/wf1_mean` and so on over seeds; below each, a run for each fold and seed. The winner's run holds best.yaml.
Trials of the search, one seed each: `tags.stage = "search"`; `tags.state` is complete, pruned (stopped at a rung: see
`tags.stopped`), fail (see `tags.failure`), running or interrupted.""",
    "row": """Rows of the paper's tables on {data} (simulated modalities: {simulated}). The runs: *Model training* (top left), *Runs*.
Averages over seeds: the runs `row: …`, or the filter `tags.stage = "row"`, with `val/wf1_mean`, `test/wf1_mean` and so on; below
each, a run for each seed. The run of the unchanged config holds the tables and figures.""",
}
