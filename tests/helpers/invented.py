"""A study as a search of some days leaves it, made in seconds: the real bookkeeping of invented curves and predictions."""

import json
import math
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

from lfvd.training.metrics import scores
from tune.plan import SearchPlan
from tune.search.confirmation import ConfirmJobs, ranking
from tune.search.job import Result
from tune.search.trials import SearchJobs, prune_request
from tune.study.lock import request
from tune.study.plan_file import DataSource
from tune.study.predictions import Predictions
from tune.study.records import RecordFiles
from tune.study.study import BASELINE, OBJECTIVE, Study

CLASSES = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SHARES = np.array([0.47, 0.11, 0.02, 0.08, 0.17, 0.03, 0.12])

PLAN = {
    "base": "meld",
    "space": {
        "optim.lr": {"low": 1e-5, "high": 1e-2, "log": True},
        "optim.weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
        "loss.gamma2": {"low": 1e-4, "high": 1e-1, "log": True},
        "loss.temperature": {"low": 0.05, "high": 1.0, "log": True},
        "model.dropout": {"low": 0.0, "high": 0.6},
        "model.heads": {"choices": [1, 2, 4, 8]},
    },
    "sampler": {"kind": "tpe", "startup_trials": 8, "seed": 1},
    "scheduler": {"kind": "asha", "grace_epochs": 2, "reduction": 3, "max_epochs": 40},
    "trials": 40,
    "confirm": {"finalists": 12, "folds": 0, "seeds": [0, 1, 2, 3, 4]},
}


def never() -> bool:
    return False


DATA = {"name": "MELD (simulated)", "fingerprint": "5e" * 32, "simulated": ("audio", "visual")}


def begin(folder: Path, *, data=None, **changes) -> Study:
    """A study without trials; data: what differs from DATA, changes: from PLAN."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = SearchPlan.from_dict({**PLAN, **changes}, source="plan", folder=folder)
    source = DataSource(path=str(folder.parent / "demo.safetensors"), **{**DATA, **(data or {})})
    info = {
        "commit": "0123456789ab",
        "device": "cpu (2 cores)",
        "command": f"lfvd-tune search demo.yaml --name {folder.name}",
    }
    return Study.start(folder, plan, source, {**info, "versions": {"python": "3.11.9", "optuna": "5.0.0"}})


def quality(config) -> float:
    """W-F1 that a config comes to, 0..1."""
    lr = math.log10(config.optim.lr / 8e-4)
    return (
        0.63 - 0.05 * lr**2 - 0.12 * (config.model.dropout - 0.25) ** 2 - 0.003 * abs(math.log2(config.model.heads / 4))
    )


def records(config, seed: int, *, classes=CLASSES):
    """The epochs of a run."""
    rng = np.random.default_rng(seed)
    top, speed = quality(config) + 0.006 * rng.standard_normal(), 2 + 8 * rng.uniform()
    best = 0.0
    for epoch in range(1, config.run.epochs + 1):
        wf1 = float(top * (1 - 0.5 * math.exp(-epoch / speed)) + 0.004 * rng.standard_normal())
        best = max(best, wf1)
        f1 = {f"val/f1/{name}": max(0.0, wf1 - 0.07 * i) for i, name in enumerate(classes)}
        record = {
            "epoch": epoch,
            "seconds": 20.0 + rng.uniform(),
            "val/loss": 1.0,
            "val/wf1": wf1,
            "val/acc": wf1 + 0.02,
        }
        yield {**record, **f1, OBJECTIVE: best}


def search(
    study: Study, *, classes=CLASSES, epochs: int | None = None, failing=(7, 23), by_hand: int | None = 11
) -> None:
    """Run the plan's trials; epochs: of all, after which the search is left where it is."""
    if by_hand is not None:
        request(study.folder, prune_request(by_hand))
    jobs = SearchJobs(study, never)
    left = math.inf if epochs is None else epochs
    while job := jobs.next():
        number = jobs.running[job.name].trial.number
        for record in records(job.config, job.seed, classes=classes):
            if left <= 0:
                return
            left -= 1
            if number in failing and record["epoch"] == 2:
                jobs.failed(job, "NonFiniteLoss: epoch 2, batch 17: loss_supervised is nan")
                break
            if jobs.report(job, json.loads(json.dumps(record))):
                break
        else:
            jobs.finished(job, Result(best_epoch=0, epochs=0, seconds=0.0, best={}, weights=b""))


def confirm(study: Study, *, classes=CLASSES, runs: int | None = None) -> None:
    """Run the race; runs: after which it is left where it is."""
    jobs = ConfirmJobs(study, never)
    left = math.inf if runs is None else runs
    while left > 0 and (job := jobs.next()):
        left -= 1
        history = list(records(job.config, 1000 * job.seed + int(1e6 * job.config.optim.lr), classes=classes))
        for record in history:
            jobs.report(job, record)
        best = max(history, key=lambda record: record["val/wf1"])
        seconds = sum(record["seconds"] for record in history)
        jobs.finished(
            job, Result(best_epoch=best["epoch"], epochs=len(history), seconds=seconds, best=best, weights=b"")
        )


def predict(study: Study, *, classes=CLASSES, splits=("valid", "test"), bins=(5, 13)) -> None:
    """Predictions of winner and baseline, and the look at test that goes with them."""
    order = ranking(study)
    looked = {}
    for number in dict.fromkeys([order[0].trial, BASELINE]):
        for split in splits:
            found = predictions(study, number, split, classes=classes, bins=bins)
            found.save(study.paths.predictions(number, split))
            if split == "test":
                rows = [scores(found.label, row, classes) for row in found.prediction]
                looked[number] = [{f"test/{k}": v for k, v in row.items()} for row in rows]
    if looked:
        who = {"time": "2026-11-20T08:30:00+0000", "host": "node1", "user": "ada", "command": "lfvd-tune search"}
        study.test_log.log_evaluation(
            {
                **who,
                "data": study.data.fingerprint,
                "trials": list(looked),
                "seeds": list(study.plan.confirm.seeds),
            }
        )
        study.test_log.log_scores(looked)


def predictions(study: Study, number: int, split: str, *, classes=CLASSES, bins=(5, 13)) -> Predictions:
    """Right as often as the config is good, the rarer classes less often."""
    rng = np.random.default_rng([number, len(split)])
    length = np.random.default_rng(len(split)).integers(1, 25, 120)
    shares = SHARES[: len(classes)] / SHARES[: len(classes)].sum()
    label = np.random.default_rng(7).choice(len(classes), length.sum(), p=shares)
    seeds = study.plan.confirm.seeds
    right = np.clip(quality(study.config_of(number)) + 0.9 * (shares[label] - 0.2), 0.05, 0.9)
    guess = rng.choice(len(classes), (len(seeds), len(label)), p=shares)
    prediction = np.where(rng.uniform(size=guess.shape) < right, label, guess)
    weight = np.stack(
        [np.ones(guess.shape), *(0.5 + 0.5 * rng.beta(2 + label * 0.4, 6 - k, guess.shape) for k in (0, 3))], -1
    )
    return Predictions(
        seeds=np.array(seeds),
        classes=np.array(classes),
        modalities=np.array(["l", "a", "v"]),
        length_bins=np.array(bins, int),
        label=label,
        dialogue=np.repeat(np.arange(len(length)), length),
        length=np.repeat(length, length),
        prediction=prediction.astype(np.int16),
        weight=weight.astype(np.float32),
    )


def whole(folder: Path, *, classes=CLASSES, bins=(5, 13), **changes) -> Study:
    """Searched, confirmed, and test opened."""
    study = begin(folder, **changes)
    search(study, classes=classes)
    confirm(study, classes=classes)
    predict(study, classes=classes, bins=bins)
    study.config_of(ranking(study)[0].trial).to_yaml(folder / "best.yaml", {"study": study.name})
    return study


def add_trial(study: Study, state: TrialState, values: list[float], **params) -> int:
    """A trial of the search with its best value after each epoch → its number; params: what differs from the baseline."""
    study.optuna.enqueue_trial({**study.plan.baseline, **params})
    trial = study.optuna.ask({key: parameter.distribution for key, parameter in study.plan.space.items()})
    for epoch, value in enumerate(values, start=1):
        trial.report(value, epoch)
    study.optuna.tell(trial, values[-1] if state == TrialState.COMPLETE else None, state=state)
    return trial.number


def add_run(study: Study, trial: int, seed: int, wf1: float, stage: str | None = None) -> None:
    """A finished run of a stage, the one over the plan's seeds unless named."""
    values = {"val/wf1": wf1, "val/acc": wf1 / 2, "val/f1/sad": 0.5, "val/loss": 1.0, OBJECTIVE: wf1}
    study.log_confirmed({"trial": trial, "seed": seed, "best_epoch": 1, "epochs": 4, "seconds": 1.0, **values}, stage)


def forget(study: Study, *names: str) -> None:
    """Remove files of lines from a study, as if they had never been written."""
    for name in (*names, "checksums.json"):
        (study.folder / name).unlink()
    study.records = RecordFiles(study.folder)


def confirmed_with(make_study, *tables: np.ndarray, name="study", search_scores=(), **confirm) -> Study:
    """A study of PLAN in tests.helpers.plans whose trials 0, 1, … were confirmed with these W-F1 [seeds]."""
    seeds = range(len(tables[0]))
    study = make_study(
        name, confirm={"folds": 0, "finalists": len(tables), "seeds": list(seeds), "race": False, **confirm}
    )
    for trial, score in enumerate(search_scores or [0.55 - trial / 100 for trial in range(len(tables))]):
        add_trial(study, TrialState.COMPLETE, [0.4, score], **({"optim.lr": 3e-3 * 1.5**trial} if trial else {}))
    for trial, table in enumerate(tables):
        for seed in seeds:
            add_run(study, trial, seed, float(table[seed]))
    return study


def made_up_predictions(study: Study, trial: int, right: float) -> Predictions:
    """Test predictions of five seeds for 60 dialogues of 4 utterances, some unlabelled; saved; right: share of hits."""
    label = np.random.default_rng(7).integers(-1, 3, 240)
    rng = np.random.default_rng(trial)
    hit = rng.uniform(size=(5, 240)) < right
    found = Predictions(
        seeds=np.arange(5),
        classes=np.array(["calm", "glad", "sad"]),
        modalities=np.array(["l"]),
        length_bins=np.array([2, 4]),
        label=label,
        dialogue=np.repeat(np.arange(60), 4),
        length=np.full(240, 4),
        prediction=np.where(hit, np.maximum(label, 0), rng.integers(0, 3, hit.shape)).astype(np.int16),
        weight=np.ones((5, 240, 1), np.float32),
    )
    found.save(study.paths.predictions(trial, "test"))
    return found
