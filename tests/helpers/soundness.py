"""Whether a finished study is sound, whatever happened while it ran: `assert_sound(folder)` after a fault.

Everything is read from disk: the study's folder, and the MLflow database beside it.
"""

import itertools
import json
import warnings
from collections import Counter, defaultdict
from pathlib import Path

from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState

from tune.search.asha import Rungs
from tune.search.confirmation import final_ranking, finalists, race_state
from tune.search.samplers import training_seed
from tune.search.trials import BY_HAND, STOPPED
from tune.study.study import OBJECTIVE, Study
from tune.tracking.mlflow_writer import default_uri

ENDED = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAIL: "FAILED"}
"""States in which a trial is over, and MLflow's word for them."""

Histories = dict[tuple[str, int, int], list[dict]]
"""(stage, trial, seed) → records of epochs.jsonl in their order."""


def assert_sound(folder: Path) -> Study:
    """Nothing twice, nothing lost, nothing left open, and every decision as epochs.jsonl alone would have it."""
    study = Study.open(folder)
    histories: Histories = defaultdict(list)
    for record in study.epochs():
        histories[record["stage"], record["trial"], record["seed"]].append(record)
    _check_trials(study)
    _check_epochs(study, histories)
    _check_verdicts(study)
    _check_confirmation(study, histories)
    _check_mlflow(study, histories)
    return study


def _check_trials(study: Study) -> None:
    """As many as planned, numbered without a gap, each ended exactly once."""
    assert [t.number for t in study.trials] == list(range(study.plan.trials))
    assert {t.state for t in study.trials} <= ENDED.keys(), [(t.number, t.state) for t in study.trials]
    entries = [json.loads(line) for line in (study.folder / "journal.log").read_text().splitlines()]
    moves = [e for e in entries if e["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES]
    ends = Counter(e["trial_id"] for e in moves if e["state"] in ENDED)
    assert ends == {t._trial_id: 1 for t in study.trials}


def _check_epochs(study: Study, histories: Histories) -> None:
    """Each run's epochs are 1, 2, … to its end; a trial has one seed; Optuna holds the same values."""
    for key, records in histories.items():
        assert [r["epoch"] for r in records] == list(range(1, len(records) + 1)), key
        best = itertools.accumulate((r["val/wf1"] for r in records), max)
        assert [r[OBJECTIVE] for r in records] == list(best), key
    assert {key[1:] for key in histories if key[0] == "search"} <= {_identity(study, t.number) for t in study.trials}
    for trial in study.trials:
        records = histories["search", *_identity(study, trial.number)]
        values = {r["epoch"]: r[OBJECTIVE] for r in records}
        assert trial.intermediate_values == values, trial.number
        if trial.state == TrialState.COMPLETE:
            assert trial.value == records[-1][OBJECTIVE], trial.number
            assert _whole(study, trial.number, records), trial.number


def _identity(study: Study, trial: int) -> tuple[int, int]:
    return trial, training_seed(study.plan.sampler, trial, taken=study.plan.confirm.seeds)


def _whole(study: Study, trial: int, records: list[dict]) -> bool:
    """Whether a run has all its epochs, or as many without a new best as its patience allows."""
    run = study.config_of(trial).run
    stale = sum(r[OBJECTIVE] == records[-1][OBJECTIVE] for r in records) - 1
    return len(records) == run.epochs or 0 < run.patience <= stale


def _check_verdicts(study: Study) -> None:
    """The rungs refilled from epochs.jsonl stop the trials that were stopped, there and for that reason, and no other."""
    rungs, verdicts = Rungs(study.plan.scheduler), defaultdict(list)
    for record in study.epochs("search"):
        verdicts[record["trial"]].append(rungs.report(record["trial"], record["epoch"], record[OBJECTIVE]))
    for trial in study.trials:
        *before, last = verdicts[trial.number] or [None]
        assert set(before) <= {None}, f"trial {trial.number} went on after {before}"
        assert trial.user_attrs.get(STOPPED) in ((last,) if last else (None, BY_HAND)), trial.number
        assert (trial.state == TrialState.PRUNED) == (STOPPED in trial.user_attrs), trial.number


def _check_confirmation(study: Study, histories: Histories) -> None:
    """What the race wanted, each run once, with all its epochs and its weights; all seeds for winner and baseline."""
    runs = {(run["trial"], run["seed"]): run for run in study.confirmed()}
    assert len(runs) == len(study.confirmed()), "a run is recorded twice"
    race, seeds = race_state(study), study.plan.confirm.seeds
    assert not race.pending_runs
    assert runs.keys() <= set(itertools.product(finalists(study), seeds))
    assert runs.keys() >= set(itertools.product({final_ranking(study)[0].trial, 0}, seeds))
    if not study.plan.confirm.race:
        assert runs.keys() == set(itertools.product(finalists(study), seeds))
    assert {key[1:] for key in histories if key[0] == "confirm"} == runs.keys()
    for key, run in runs.items():
        records = histories["confirm", *key]
        assert run["epochs"] == len(records), key
        assert run["val/wf1"] == records[-1][OBJECTIVE], key
        assert _whole(study, key[0], records), key
        assert study.paths.weights(*key).is_file(), key
    assert (study.folder / "best.yaml").is_file()


def _check_mlflow(study: Study, histories: Histories) -> None:
    """One run for each trial, finalist and seed, all ended, with each epoch once."""
    held = _mlflow_runs(study)
    chosen = finalists(study)
    expected = {f"trial{t.number}": ENDED[t.state] for t in study.trials}
    expected |= {f"finalist{n}": "FINISHED" for n in chosen}
    expected |= {f"finalist{run['trial']}-seed{run['seed']}": "FINISHED" for run in study.confirmed()}
    assert Counter(key for key, _, _ in held) == dict.fromkeys(expected, 1)
    assert {key: status for key, status, _ in held} == expected
    steps = {key: steps for key, _, steps in held}
    for (stage, trial, seed), records in histories.items():
        key = f"trial{trial}" if stage == "search" else f"finalist{trial}-seed{seed}"
        assert steps[key] == [r["epoch"] for r in records], key


def _mlflow_runs(study: Study) -> list[tuple[str, str, list[int]]]:
    """Key, status and steps of every run of the study's experiment."""
    with warnings.catch_warnings():
        # SQLAlchemy 2.1 deprecates a loader that MLflow 3.17 uses.
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
        from mlflow import MlflowClient

        client = MlflowClient(default_uri(study.folder.parent))
        experiment = client.get_experiment_by_name(study.name)
        assert experiment is not None, f"MLflow knows no {study.name}"
        found = client.search_runs([experiment.experiment_id], run_view_type=3, max_results=10_000)
        runs = [(r.data.tags["lfvd.key"], r.info.status, r.info.run_id) for r in found]
        steps = {run: sorted(p.step for p in client.get_metric_history(run, OBJECTIVE)) for _, _, run in runs}
    return [(key, status, steps[run]) for key, status, run in runs]
