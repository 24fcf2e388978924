"""Confirmation: the answer, not the luckiest trial. Finalists × fresh seeds at full length, ranked by mean validation W-F1.

The corpus that search and confirmation get holds no test split. `open_test` looks at it once the ranking stands, and enters
the look in the study's ledger.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from lfvd.batch import UNLABELLED
from lfvd.corpus import Corpus
from lfvd.files import write_bytes
from lfvd.metrics import confusion_matrix
from lfvd.model import build_model
from lfvd.runinfo import pick_device, run_info
from lfvd.trainer import Evaluation, evaluate
from tune.journal import Study
from tune.search import ranked
from tune.storage import delete
from tune.trial import Job, Result

BASELINE = 0
"""The baseline's trial number: the base's own values are the first trial of every search."""


def finalists(study: Study) -> list[int]:
    """Trial numbers to confirm: the best of the search with different values, and the baseline."""
    chosen: list[int] = []
    seen: list[dict[str, Any]] = []
    for trial in ranked(study):
        if trial.params not in seen and len(chosen) < study.plan.confirm.finalists:
            chosen.append(trial.number)
            seen.append(trial.params)
    return chosen if BASELINE in chosen or not chosen else [*chosen, BASELINE]


class ConfirmJobs:
    """The source of a confirmation's jobs (tune.desk.Source): every finalist on every seed that is not done yet."""

    def __init__(self, study: Study, interrupted: Callable[[], bool]) -> None:
        self.study, self.interrupted = study, interrupted
        self.numbers = finalists(study)
        self.scores = {(run["trial"], run["seed"]): float(run["val/wf1"]) for run in study.confirmed()}
        # All finalists on the first seed, then on the second: an interrupted confirmation still compares like with like.
        self.waiting = [(n, s) for s in study.plan.confirm.seeds for n in self.numbers if (n, s) not in self.scores]
        self.running: dict[str, tuple[int, int]] = {}
        self.history: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for record in study.epochs("confirm"):
            self.history.setdefault((record["trial"], record["seed"]), []).append(record)
        self.errors: list[str] = []

    def next(self) -> Job | None:
        """The next missing run."""
        if self.exhausted():
            return None
        number, seed = self.waiting.pop(0)
        name = f"confirm-trial{number}-seed{seed}"
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
        """No run is left to start."""
        return self.interrupted() or not self.waiting

    def stopping(self) -> bool:
        """Interrupted."""
        return self.interrupted()

    def report(self, job: Job, record: dict[str, Any]) -> str | None:
        """Write an epoch down; nothing is stopped early here."""
        key = self.running[job.name]
        history = self.history.setdefault(key, [])
        if record["epoch"] > len(history):
            history.append(record)
            self.study.append_epoch("confirm", *key, record)
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
        delete(job.checkpoint)

    def fault(self, job: Job, reason: str, then: str) -> None:
        """Enter what happened to the run."""
        trial, seed = self.running[job.name]
        self.study.append_fault(reason, then, stage="confirm", trial=trial, seed=seed)

    def failed(self, job: Job, reason: str) -> None:
        """Remember the reason; the finalist is ranked only with all its seeds."""
        self.fault(job, reason, "failed")
        trial, seed = self.running.pop(job.name)
        self.errors.append(f"trial {trial}, seed {seed}: {reason}")


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A finalist with all its seeds: `mean` and `std` (sample, 0 for one seed) of each `val/…` metric, in 0..1."""

    trial: int
    seeds: tuple[int, ...]
    mean: dict[str, float]
    std: dict[str, float]

    @property
    def wf1(self) -> float:
        """Mean validation W-F1, by which finalists are ranked."""
        return self.mean["val/wf1"]


def ranking(study: Study) -> list[Confirmed]:
    """Trials with all seeds done, best mean validation W-F1 first."""
    runs = {(run["trial"], run["seed"]): run for run in study.confirmed()}
    seeds = study.plan.confirm.seeds
    whole = [n for n in dict.fromkeys(n for n, _ in runs) if all((n, s) in runs for s in seeds)]
    found = []
    for number in whole:
        mean, std = mean_std([{k: v for k, v in runs[number, s].items() if k.startswith("val/")} for s in seeds])
        found.append(Confirmed(trial=number, seeds=seeds, mean=mean, std=std))
    return sorted(found, key=lambda c: c.wf1, reverse=True)


def mean_std(rows: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and sample standard deviation (0 for one row) of each key."""
    table = {k: np.array([row[k] for row in rows]) for k in rows[0]}
    spread = {k: float(v.std(ddof=1)) if len(v) > 1 else 0.0 for k, v in table.items()}
    return {k: float(v.mean()) for k, v in table.items()}, spread


def open_test(study: Study, corpus: Corpus) -> dict[int, list[dict[str, float]]]:
    """Scores of winner and baseline on test, for each seed; each is looked at once and then read from the ledger.

    corpus: the whole one, with its test split. Returns trial → `test/…` metrics in the order of the plan's seeds.
    """
    order = [c.trial for c in ranking(study)]
    numbers = list(dict.fromkeys([order[0], *(n for n in order if n == BASELINE)]))
    seeds = list(study.plan.confirm.seeds)
    if missing := [n for n in numbers if n not in seen_test_scores(study)]:
        look = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": socket.gethostname(),
            "user": os.environ.get("USER", f"uid {os.getuid()}"),
            "command": run_info("cpu")["command"],
            "data": corpus.fingerprint,
            "trials": missing,
            "seeds": seeds,
        }
        study.append_look({**look, "scores": {n: [_test_scores(study, corpus, n, s) for s in seeds] for n in missing}})
    seen = seen_test_scores(study)
    return {n: seen[n] for n in numbers}


def seen_test_scores(study: Study) -> dict[int, list[dict[str, float]]]:
    """The ledger's scores: trial → `test/…` metrics in the order of the plan's seeds."""
    seeds = list(study.plan.confirm.seeds)
    return {int(n): rows for look in study.looks() if look["seeds"] == seeds for n, rows in look["scores"].items()}


def _test_scores(study: Study, corpus: Corpus, trial: int, seed: int) -> dict[str, float]:
    return {f"test/{k}": v for k, v in _evaluate(study, corpus, trial, seed, "test").scores().items()}


def _evaluate(study: Study, corpus: Corpus, trial: int, seed: int, split: str) -> Evaluation:
    """A confirmed run's predictions for a split."""
    config = study.config_of(trial)
    device = pick_device(config.run.device)
    model = build_model(config, corpus.widths(config.data.modalities), len(corpus.info.classes)).to(device)
    model.load_state_dict(load_file(study.weights(trial, seed)))
    return evaluate(model, corpus, split, device=device)


def write_best(study: Study, corpus: Corpus) -> Path:
    """The winner as `best.yaml`: the Config that `lfvd train` reads, with `provenance:`. Opens test where it has one."""
    order = ranking(study)
    winner = order[0]
    baseline = next((c for c in order if c.trial == BASELINE), None)
    tests = open_test(study, corpus) if len(corpus.indices("test")) else {}
    trial = study.trials[winner.trial]
    _draw_confusion(study, corpus, winner.trial)
    provenance = {
        "study": study.name,
        "trial": winner.trial,
        "values": dict(trial.params),
        "search_score": _percent(max(trial.intermediate_values.values())),
        "seeds": list(winner.seeds),
        "winner": _figures(winner, tests),
        "baseline": _figures(baseline, tests) if baseline else None,
        "data": {
            "name": study.data.name,
            "fingerprint": study.data.fingerprint,
            "simulated": list(study.data.simulated),
        },
        "looks_at_test": len(study.looks()),
        **run_info("cpu"),
    }
    path = study.folder / "best.yaml"
    study.config_of(winner.trial).to_yaml(path, provenance)
    return path


def _draw_confusion(study: Study, corpus: Corpus, trial: int) -> None:
    """The winner's confusion matrix on validation, over all seeds."""
    from lfvd.plots import confusion

    classes, seeds = corpus.info.classes, study.plan.confirm.seeds
    found = [_evaluate(study, corpus, trial, seed, "valid") for seed in seeds]
    known = [each.label != UNLABELLED for each in found]
    counts = sum(
        (confusion_matrix(e.label[k], e.prediction[k], len(classes)) for e, k in zip(found, known, strict=True)),
        start=np.zeros((len(classes), len(classes)), np.int64),
    )
    simulated = f"\nSIMULATED: {', '.join(study.data.simulated)}" if study.data.simulated else ""
    title = f"{study.name}: trial {trial} on {study.data.name}, validation split, {len(seeds)} seeds{simulated}"
    confusion(study.folder / "confusion_valid.png", counts, classes=classes, title=title)


def _figures(confirmed: Confirmed, tests: dict[int, list[dict[str, float]]]) -> dict[str, Any]:
    """Percent, mean and std over seeds, of validation and, where opened, test."""
    mean, std = dict(confirmed.mean), dict(confirmed.std)
    if confirmed.trial in tests:
        test_mean, test_std = mean_std(tests[confirmed.trial])
        mean, std = {**mean, **test_mean}, {**std, **test_std}
    names = [k for k in mean if k.split("/")[1] in ("wf1", "acc", "f1")]
    return {k: {"mean": _percent(mean[k]), "std": _percent(std[k])} for k in names}


def _percent(value: float) -> float:
    return round(100 * value, 2)
