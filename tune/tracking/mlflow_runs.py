"""What MLflow shall hold of a study: its runs, derived from the journal; nothing here knows MLflow's API.

One run for each trial (`trial 7`); for each finalist one with the averages over seeds (`finalist: trial 7`); below it one for
each seed (`trial 7, seed 2`). For tables of the paper (tune.paper.grid), `row: w/o CEAR` and `w/o CEAR, seed 2` likewise. `runs_of` gives
all; a `Projection` what may have changed since it was last asked.
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
from tune.search.confirmation import failed_runs, mean_std, standing
from tune.search.samplers import training_seed
from tune.search.trials import FAILURE, STOPPED
from tune.study.study import BASELINE, Study

LONGEST = 5000
"""Characters of a tag that MLflow keeps."""

SHORT = 200
"""Characters of a fault's reason in a tag."""

Epochs = list[dict[str, Any]]
"""Records of epochs.jsonl."""

Key = tuple[str, int, int]
"""Stage, trial and seed: what a record of epochs.jsonl or faults.jsonl belongs to."""


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
    """RUNNING only while it really runs; SCHEDULED where it was interrupted and can go on."""
    start: datetime | None = None
    """None: `seconds` before it is first sent."""
    seconds: float
    """Training time, which MLflow shows as the duration."""
    epochs: Epochs = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    """Metrics beside those of the epochs, with `step`."""
    step: int = 0
    final: bool = False
    """Nothing about it will change."""
    files: tuple[str, ...] = ()
    """Patterns of files in the study's folder that it keeps as artifacts."""


def runs_of(study: Study, *, live: bool) -> list[Run]:
    """All runs that a study has now, parents before children; live: its driver is at work."""
    return Projection(study).runs(live=live)


class Projection:
    """The runs of a study that grows: each look reads what was added since the last, and makes only what that may change.

    known: trials whose runs are told to their end, and of no interest any more.
    """

    def __init__(self, study: Study, *, known: Set[int] = frozenset()) -> None:
        self.study = study
        self.told = {trial.number for trial in study.trials if trial.number in known and trial.state.is_finished()}
        self.records, self.troubles = study.tail("epochs.jsonl"), study.tail("faults.jsonl")
        self.stage = "search"
        self.epochs: dict[Key, Epochs] = {}
        self.faults: dict[Key, list[str]] = {}

    def runs(self, *, live: bool) -> list[Run]:
        """All runs but those of trials that had ended at an earlier look."""
        # Trials before their records, which are written before an end is told: one that has ended has all of its own.
        trials = [trial for trial in self.study.trials if trial.number not in self.told]
        self._read()
        runs = [self._trial(trial, live and self.stage == "search") for trial in trials]
        return [*runs, *_Confirmation(self, live and self.stage == self.study.stage).runs()]

    def _read(self) -> None:
        for record in self.records.new():
            # Search and confirmation take turns: the last epoch tells which of them is at work.
            self.stage = record["stage"]
            if self.stage != "search" or record["trial"] not in self.told:
                self.epochs.setdefault((self.stage, record["trial"], record["seed"]), []).append(record)
        for fault in self.troubles.new():
            if "trial" in fault:
                self.faults.setdefault((fault["stage"], fault["trial"], fault["seed"]), []).append(fault["reason"])

    def fault_tags(self, key: Key) -> dict[str, str]:
        """What went wrong in a run, each reason once; empty where nothing did."""
        times = Counter(" ".join(reason.split())[:SHORT] for reason in self.faults.get(key, []))
        said = [reason if count == 1 else f"{reason} ({count} times)" for reason, count in times.items()]
        return {"faults": "; ".join(said)[:LONGEST]} if said else {}

    def _trial(self, trial: FrozenTrial, at_work: bool) -> Run:
        # A stopped trial did what it should: MLflow's KILLED has the red cross of FAILED.
        ended = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAIL: "FAILED"}
        reasons = {k: str(trial.user_attrs[k])[:LONGEST] for k in (STOPPED, FAILURE) if k in trial.user_attrs}
        state = trial.state.name.lower() if trial.state in ended else _unfinished(at_work)[0]
        plan = self.study.plan
        seed = training_seed(plan.sampler, trial.number, taken=plan.confirm.seeds)
        key = ("search", trial.number, seed)
        epochs, faults = self.epochs.get(key, []), self.fault_tags(key)
        if trial.state in ended:  # not kept: in a long search they are most of the memory
            self.told.add(trial.number)
            self.epochs.pop(key, None)
        return Run(
            key=f"trial{trial.number}",
            name=self.study.name_of(trial.number),
            params={**trial.params, "seed": seed},
            tags={**_origin(self.study), "stage": "search", "state": state, **reasons, **faults},
            status=ended.get(trial.state, _unfinished(at_work)[1]),
            start=trial.datetime_start,
            seconds=sum(r["seconds"] for r in epochs),
            epochs=epochs,
            final=trial.state in ended,
        )


class _Confirmation:
    """The runs of the finalists, or of a table's rows, and of their seeds."""

    def __init__(self, projection: Projection, at_work: bool) -> None:
        self.study, self.at_work, self.fault_tags = projection.study, at_work, projection.fault_tags
        study, epochs = projection.study, projection.epochs
        self.epochs = {(trial, seed): found for (stage, trial, seed), found in epochs.items() if stage == study.stage}
        self.done = {(run["trial"], run["seed"]): run for run in study.confirmed()}
        self.drops = {drop.trial: drop for drop in standing(study).dropped}
        self.failed = failed_runs(study)
        self.tests: dict[tuple[int, int], dict[str, float]] = {}
        for look in study.looks():
            for trial, rows in look["scores"].items():
                self.tests |= {(int(trial), seed): row for seed, row in zip(look["seeds"], rows, strict=True)}
        best = study.folder / "best.yaml"
        self.winner = (read_yaml(best).get("provenance") or {}).get("trial") if best.is_file() else None
        self.holder = self.winner if study.kind == "finalist" else BASELINE
        """Whose run keeps the study's files."""

    def runs(self) -> Iterator[Run]:
        """Each finalist that has begun, then its seeds."""
        for trial in dict.fromkeys(trial for trial, _ in [*self.done, *self.epochs]):
            possible = self.study.plan.confirm.seeds
            seeds = [s for s in possible if (trial, s) in self.epochs or (trial, s) in self.done]
            runs = [self.seed(trial, s) for s in seeds]
            yield self.finalist(trial, runs, sum(run.seconds for run in runs))
            yield from runs

    def seed(self, trial: int, seed: int) -> Run:
        """One confirmed run: its epochs and, once opened, its test scores."""
        run, epochs = self.done.get((trial, seed)), self.epochs.get((trial, seed), [])
        state, status = ("complete", "FINISHED") if run else self._not_done({(trial, seed)})
        faults = self.fault_tags((self.study.stage, trial, seed))
        return Run(
            key=f"{self.study.kind}{trial}-seed{seed}",
            name=f"{self.study.name_of(trial)}, seed {seed}",
            parent=f"{self.study.kind}{trial}",
            params={**self.study.params_of(trial), "seed": seed},
            tags={**_origin(self.study), "stage": "seed", "state": state, **faults},
            status=status,
            seconds=sum(r["seconds"] for r in epochs),
            epochs=epochs,
            figures=self.tests.get((trial, seed), {}),
            step=run["best_epoch"] if run else 0,
        )

    def _not_done(self, runs: set[tuple[int, int]]) -> tuple[str, str]:
        """State and MLflow's status of runs that are not all done."""
        return _unfinished(self.at_work) if self.at_work or not runs & self.failed else ("failed", "FAILED")

    def finalist(self, trial: int, seeds: list[Run], seconds: float) -> Run:
        """The averages over those of the plan's seeds that are done so far."""
        planned = self.study.plan.confirm.seeds
        keys = [(trial, seed) for run in seeds if run.status == "FINISHED" and (seed := run.params["seed"]) in planned]
        whole = len(keys) == len(planned)
        drop = None if whole else self.drops.get(trial)
        done = ("complete" if whole else "dropped", "FINISHED") if whole or drop else None
        state, status = done or self._not_done({(trial, seed) for seed in planned})
        figures = _averages([self.done[k] for k in keys]) | _averages([self.tests[k] for k in keys if k in self.tests])
        note = f"**W-F1 {_wf1(figures)}**: mean ± standard deviation over {len(keys)} of {len(planned)} seeds"
        tags = {"stage": self.study.kind, "state": state, "mlflow.note.content": note}
        if drop:
            tags["dropped"] = drop.reason()
        if self.winner is not None:
            tags["winner"] = str(trial == self.winner).lower()
        return Run(
            key=f"{self.study.kind}{trial}",
            name=f"{self.study.kind}: {self.study.name_of(trial)}" + (", winner" if trial == self.winner else ""),
            params=self.study.params_of(trial),
            tags={**_origin(self.study), **tags},
            status=status,
            seconds=seconds,
            figures={**figures, "seeds": len(keys)},
            step=len(keys),
            files=self.study.artifacts if trial == self.holder else (),
        )


def _averages(rows: list[dict[str, Any]]) -> dict[str, float]:
    """`val/wf1_mean`, `val/wf1_std`, `val/acc_mean`, `val/f1/<class>_mean` over seeds, or of test; none without rows."""
    scores = [{k: v for k, v in row.items() if re.match(r"(val|test)/(wf1$|acc$|f1/)", k)} for row in rows]
    mean, std = mean_std(scores) if scores else ({}, {})
    spread = {f"{k}_std": v for k, v in std.items() if k.endswith("/wf1")}
    return {f"{k}_mean": v for k, v in mean.items()} | spread


def head_note(study: Study, runs: list[Run]) -> str:
    """What MLflow shows at the head of the experiment: the answer in the first line, then where to find what."""
    averages = [run for run in runs if run.tags["stage"] == study.kind]
    averages.sort(key=lambda run: run.figures.get("val/wf1_mean", 0.0), reverse=True)
    cells = {run.key: _wf1(run.figures) for run in averages}
    rows = [f"| {run.name} | &emsp;{run.figures['seeds']} | &emsp;{cells[run.key]} |" for run in averages]
    table = ["| | &emsp;seeds | &emsp;W-F1, mean ± standard deviation over seeds |", "|---|---|---|", *rows]
    winner = [run for run in averages if run.tags.get("winner") == "true"]
    baseline = [run for run in averages if run.key == f"{study.kind}{BASELINE}" and run not in winner]
    said = "; ".join(f"{run.name.partition(': ')[2]}: W-F1 {cells[run.key]}" for run in winner + baseline)
    answered = bool(winner) or study.kind == "row"
    guide = _GUIDES[study.kind].format(**_origin(study))
    return "\n".join([f"**{said if answered else 'There is no winner yet'}**", "", *table, "", guide])


def _wf1(figures: dict[str, float]) -> str:
    cells = [
        f"{format_mean_std(figures[f'{split}/wf1_mean'], figures[f'{split}/wf1_std'])} % on {name}"
        for split, name in (("val", "validation"), ("test", "test"))
        if f"{split}/wf1_mean" in figures
    ]
    return ", ".join(cells) or "–"


def _unfinished(at_work: bool) -> tuple[str, str]:
    """State and MLflow's status of what has begun and not ended."""
    return ("running", "RUNNING") if at_work else ("interrupted", "SCHEDULED")


def _origin(study: Study) -> dict[str, str]:
    simulated = ", ".join(study.data.simulated) or "none"
    return {
        "data": study.data.name,
        "simulated": simulated,
        "fingerprint": study.data.fingerprint,
        "commit": str(study.info.get("commit", "none")),
    }


_GUIDES = {
    "finalist": """Hyperparameter search on {data} (simulated modalities: {simulated}). The runs: *Model training* (top left), *Runs*.
Averages over fresh seeds: the runs `finalist: …`, or the filter `tags.stage = "finalist"`, with `val/wf1_mean`,
`test/wf1_mean` and so on; below each, a run for each seed. The winner's run holds best.yaml.
Trials of the search, one seed each: `tags.stage = "search"`; `tags.state` is complete, pruned (stopped at a rung: see
`tags.stopped`), fail (see `tags.failure`), running or interrupted.""",
    "row": """Rows of the paper's tables on {data} (simulated modalities: {simulated}). The runs: *Model training* (top left), *Runs*.
Averages over seeds: the runs `row: …`, or the filter `tags.stage = "row"`, with `val/wf1_mean`, `test/wf1_mean` and so on; below
each, a run for each seed. The run of the unchanged config holds the tables and figures.""",
}
