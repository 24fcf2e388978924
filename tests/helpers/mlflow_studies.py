"""A study written record by record, and what MLflow holds of it."""

from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

from lfvd.data.corpus import Corpus
from tune.plan import SearchPlan
from tune.search.samplers import sampler_for, training_seed
from tune.search.trials import FAILURE, STOPPED
from tune.study.plan_file import DataSource
from tune.study.study import OBJECTIVE, Study

SEEDS = (0, 1, 2, 3, 4)
CLASSES = ("calm", "glad", "sad")
STATES = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]


def start(folder: Path, corpus: Corpus, **info: str) -> Study:
    """An empty study."""
    space = {
        "optim.lr": {"low": 1e-5, "high": 1e-2, "log": True},
        "loss.temperature": {"low": 0.05, "high": 1.0, "log": True},
        "model.heads": {"choices": [1, 2, 4, 8]},
    }
    source = {
        "base": "meld",
        "space": space,
        "trials": 12,
        "confirm": {"folds": 0, "finalists": 2, "seeds": list(SEEDS)},
    }
    plan = SearchPlan.from_dict(source, source="plan", folder=folder)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return Study.start(folder, plan, DataSource.of(corpus, "tiny.safetensors"), {"commit": "abc123", **info})


def record(epoch: int, score: float, best: float, classes: tuple[str, ...] = CLASSES) -> dict:
    """An epoch's record as lfvd.training.trainer makes it."""
    val = {"val/loss": 1 - score, "val/wf1": score, "val/acc": score + 0.01}
    f1 = {f"val/f1/{name}": score - 0.1 * i for i, name in enumerate(classes)}
    return {"epoch": epoch, "seconds": 1.5, OBJECTIVE: best, "train/loss": 2 / epoch, **val, **f1}


def begin(study: Study) -> optuna.Trial:
    """The next trial; the baseline first."""
    if not study.optuna.get_trials(deepcopy=False):
        study.optuna.enqueue_trial(study.plan.baseline)
    study.optuna.sampler = sampler_for(study.plan, len(study.trials))
    return study.optuna.ask({key: p.distribution for key, p in study.plan.space.items()})


def train(study: Study, trial: optuna.Trial, scores: list[float], *, first: int = 1) -> None:
    """Report epochs from `first` on."""
    seed = training_seed(study.plan.sampler, trial.number, taken=SEEDS)
    for i, score in enumerate(scores):
        study.log_epoch("search", trial.number, seed, record(first + i, score, max(scores[: i + 1])))
        trial.report(max(scores[: i + 1]), first + i)


def finish(study: Study, trial: optuna.Trial, state: TrialState, value: float = 0.5) -> None:
    """Tell how a trial ended."""
    if state == TrialState.PRUNED:
        trial.set_user_attr(STOPPED, "rung 3: 0.31 is below 0.40")
    if state == TrialState.FAIL:
        trial.set_user_attr(FAILURE, "the loss is nan in epoch 2")
    study.optuna.tell(trial, value if state == TrialState.COMPLETE else None, state=state)


def search(study: Study, trials: int) -> None:
    """Trials that end in each way in turn."""
    rng = np.random.default_rng(len(study.trials))
    for i in range(trials):
        trial = begin(study)
        state = STATES[i % 3]
        train(study, trial, list(rng.uniform(0.3, 0.6, 9 if state == TrialState.COMPLETE else 3)))
        finish(study, trial, state)


def confirm(study: Study, trial: int, seed: int, scores: list[float], *, done: bool = True) -> None:
    """A confirmation run."""
    for i, score in enumerate(scores):
        study.log_epoch("confirm", trial, seed, record(i + 1, score, max(scores[: i + 1])))
    if done:
        best = int(np.argmax(scores))
        val = {k: v for k, v in record(best + 1, scores[best], scores[best]).items() if k.startswith("val/")}
        run = {"trial": trial, "seed": seed, "best_epoch": best + 1, "epochs": len(scores), "seconds": 3.0}
        study.log_confirmed({**run, **val})


def confirm_all(study: Study, *trials: int) -> dict[tuple[int, int], float]:
    """All seeds of some finalists; returns each run's best validation W-F1."""
    rng = np.random.default_rng(7)
    best = {}
    for trial in trials:
        for seed in SEEDS:
            scores = list(rng.uniform(0.4, 0.6, 4))
            confirm(study, trial, seed, scores)
            best[trial, seed] = max(scores)
    return best


def evaluate_test(study: Study, *trials: int) -> dict[int, list[dict[str, float]]]:
    """Log a test evaluation of some finalists → their scores."""
    rng = np.random.default_rng(8)
    names = ["wf1", "acc", *(f"f1/{c}" for c in CLASSES)]
    scores = {t: [{f"test/{n}": float(rng.uniform(0.4, 0.6)) for n in names} for _ in SEEDS] for t in trials}
    study.test_log.log_evaluation({"trials": list(trials), "seeds": list(SEEDS)})
    study.test_log.log_scores(scores)
    return scores


def held(uri: str, name: str) -> dict[str, object]:
    """MLflow's runs of an experiment by name; each name once."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    runs = {run.info.run_name: run for run in found}
    assert len(runs) == len(found), "a run is there twice"
    return runs


def metric_points(uri: str, run: object) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of all metrics of a run."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return {k: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, k)] for k in run.data.metrics}
